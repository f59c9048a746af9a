//! The configuration: from the text of a Lua file to a validated, immutable [`Snapshot`].
//!
//! The script runs in a VM of its own (`vm`); what it returns becomes plain data (`value`), is
//! read key by key (`schema`), and everything that is wrong with it is reported at once
//! (`error`), with the lines of the source (`lines`).
//!
//! Nothing here touches the world: variables, files, name servers and the clock come from a
//! [`Host`].

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a reader names the kinds of value it takes; whatever else there is, is the error"
)]

mod error;
mod lines;
mod reader;
mod schema;
mod snapshot;
mod value;
mod vm;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use error::{ConfigError, ConfigErrors, Warning};
pub use snapshot::{
    Alpn, CacheSettings, ControlSettings, DohTarget, Level, ListCache, ListSettings,
    ListenSettings, ListenSocket, ListenTls, LoggingSettings, RoutingSettings, Snapshot, Stage,
    SubnetPolicy, Trust, UpstreamAddress, UpstreamProtocol, UpstreamSettings, UpstreamTls,
};

use self::error::{Finding, Report};
use self::lines::Lines;
use self::vm::{Evaluation, Message};
pub use crate::cache::TtlBounds;
use crate::policy::{ListReader, ListSource, NameList};
use crate::time::Instant;

/// The configuration that is used when none is named.
pub const DEFAULT: &str = include_str!("../../../configs/default.lua");
/// How [`DEFAULT`] is called in messages.
pub const DEFAULT_NAME: &str = "default.lua (built in)";

/// The text of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// How it is called in messages: its path.
    pub name: String,
    /// Where relative paths in it start; empty for the working directory.
    pub folder: String,
    /// What is in it.
    pub text: String,
}

/// A clock for the limit on a script's running time.
pub type Clock = Box<dyn Fn() -> Instant>;

/// What the configuration may learn of the world.
pub trait Host {
    /// The value of an environment variable, if it is set.
    fn variable(&self, name: &str) -> Option<String>;

    /// The text of a file.
    ///
    /// # Errors
    /// Why it cannot be read, for the operator.
    fn read(&self, path: &str) -> Result<String, String>;

    /// Whether a file is there and may be executed. A host without files has nothing against any.
    ///
    /// # Errors
    /// Why it cannot be started, for the operator.
    fn executable(&self, _path: &str) -> Result<(), String> {
        Ok(())
    }

    /// The content of a list of names to block, or none if it has still to be fetched. Files are
    /// read as text unless a host has a better way.
    ///
    /// # Errors
    /// Why it cannot be read, for the operator.
    fn list(&self, source: &ListSource) -> Result<Option<Arc<NameList>>, String> {
        let ListSource::File(path) = source else {
            return Ok(None);
        };
        let mut reader = ListReader::new(source.clone());
        reader.read(self.read(path)?.as_bytes());
        Ok(Some(Arc::new(reader.finish())))
    }

    /// The name servers that the system is configured to use. Those that are our own listeners are
    /// left out by the caller.
    fn system_resolvers(&self) -> Vec<SocketAddr>;

    /// A clock; without one, the points at which the script can be stopped are counted.
    fn clock(&self) -> Option<Clock>;

    /// Whether an address is one of this machine's own, so that a listener on all addresses is
    /// reached there.
    fn is_own_address(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified()
    }
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration itself.
    pub snapshot: Snapshot,
    /// What an operator should know at start.
    pub warnings: Vec<Warning>,
    /// The files that were read besides the configuration file: a change of one of them is a
    /// change of the configuration.
    pub files: Vec<String>,
    /// Whether the system's name servers are a part of it: a change of theirs is a change of the
    /// configuration.
    pub uses_system_resolvers: bool,
}

/// Runs the script and validates what it returns.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(source: &Source, host: &dyn Host) -> Result<Loaded, ConfigErrors> {
    let resolvers = host.system_resolvers();
    let first = Attempt::new(source, host, &resolvers);
    // Which resolvers are our own listeners is known only now. Then the script runs again without
    // them, so that it can do something about an empty list.
    let Some(listeners) = first.listeners().filter(|_| first.evaluation.asked_resolvers) else {
        return first.finish(&resolvers);
    };
    let others: Vec<SocketAddr> =
        resolvers.iter().copied().filter(|addr| !is_listener(*addr, &listeners, host)).collect();
    if others.len() == resolvers.len() {
        return first.finish(&resolvers);
    }
    Attempt::new(source, host, &others).finish(&others)
}

/// Whether what is sent to an address arrives at one of our own listeners.
fn is_listener(addr: SocketAddr, listeners: &[ListenSocket], host: &dyn Host) -> bool {
    let ip = crate::policy::fold(addr.ip());
    listeners.iter().any(|listener| {
        let own = crate::policy::fold(listener.addr.ip());
        let reached = if own.is_unspecified() {
            own.is_ipv4() == ip.is_ipv4() && host.is_own_address(ip)
        } else {
            own == ip
        };
        reached && listener.addr.port() == addr.port()
    })
}

/// One run of the script, validated.
struct Attempt {
    evaluation: Evaluation,
    /// What the script returned, if it ran to its end; defaults stand where there were errors.
    read: Option<schema::Read>,
    report: Report,
}

impl Attempt {
    fn new(source: &Source, host: &dyn Host, resolvers: &[SocketAddr]) -> Self {
        let report = Report::default();
        let mut evaluation = vm::evaluate(source, host, resolvers, &report);
        let value = std::mem::replace(&mut evaluation.result, Ok(value::Value::Empty));
        let read = match value {
            Ok(value) => Some(schema::read(&value, &report, host, &source.folder)),
            Err(message) => {
                evaluation.result = Err(message);
                None
            }
        };
        Self { evaluation, read, report }
    }

    fn listeners(&self) -> Option<Vec<ListenSocket>> {
        Some(self.read.as_ref()?.snapshot.listen.sockets.clone())
    }

    /// Gives every finding its line.
    fn finish(self, resolvers: &[SocketAddr]) -> Result<Loaded, ConfigErrors> {
        let Self { evaluation, read, report } = self;
        let (errors, warnings) = report.into_parts();
        // Without a finding the source need not be read again; a script that failed has none.
        let found = !errors.is_empty() || !warnings.is_empty();
        let places = Places::new(&evaluation, found);
        let mut errors: Vec<ConfigError> =
            errors.into_iter().map(|finding| places.error(finding)).collect();
        if let Err(message) = &evaluation.result {
            errors.push(places.script_error(message));
        }
        let mut snapshot = None;
        let mut uses_system_resolvers = evaluation.asked_resolvers;
        let mut files: Vec<String> =
            evaluation.files.iter().skip(1).map(|file| file.name.clone()).collect();
        if let Some(read) = read {
            files.extend(read.files);
            uses_system_resolvers |= read.asks_system;
            snapshot = Some(read.snapshot);
        }
        let no_resolvers = evaluation.asked_resolvers && resolvers.is_empty();
        if no_resolvers && snapshot.as_ref().is_some_and(|read| read.upstreams.is_empty()) {
            errors.push(places.no_resolvers());
        }
        match snapshot {
            Some(snapshot) if errors.is_empty() => {
                let said = evaluation.messages.iter().map(|message| places.message(message));
                let warnings = warnings.into_iter().map(|finding| places.warning(finding));
                let warnings = said.chain(warnings).collect();
                Ok(Loaded { snapshot, warnings, files, uses_system_resolvers })
            }
            _ => {
                errors
                    .sort_by(|left, right| (&left.file, left.line).cmp(&(&right.file, right.line)));
                Err(ConfigErrors::new(errors))
            }
        }
    }
}

/// Where findings stand.
struct Places<'e> {
    evaluation: &'e Evaluation,
    lines: Lines<'e>,
}

impl<'e> Places<'e> {
    /// Knows the lines only if there are findings that have some.
    fn new(evaluation: &'e Evaluation, found: bool) -> Self {
        let files = if found { evaluation.files.as_slice() } else { &[] };
        Self { evaluation, lines: Lines::new(files) }
    }

    fn error(&self, finding: Finding) -> ConfigError {
        let (file, line) = self.place(&finding);
        ConfigError {
            path: finding.path.to_string(),
            file,
            line,
            message: finding.message,
            expected: finding.expected,
        }
    }

    fn warning(&self, finding: Finding) -> Warning {
        let (file, line) = self.place(&finding);
        Warning { path: finding.path.to_string(), file, line, message: finding.message }
    }

    fn place(&self, finding: &Finding) -> (String, Option<u32>) {
        finding.place.clone().unwrap_or_else(|| {
            let (file, line) = self.lines.find(&finding.path.segments());
            (self.file(file), line)
        })
    }

    fn script_error(&self, message: &Message) -> ConfigError {
        ConfigError {
            path: String::new(),
            file: self.file(message.place.file),
            line: message.place.line,
            message: message.message.clone(),
            expected: message.expected.to_owned(),
        }
    }

    fn message(&self, message: &Message) -> Warning {
        Warning {
            path: String::new(),
            file: self.file(message.place.file),
            line: message.place.line,
            message: message.message.clone(),
        }
    }

    fn no_resolvers(&self) -> ConfigError {
        ConfigError {
            path: "system_resolvers()".to_owned(),
            file: self.file(0),
            line: None,
            message: "the system has no name servers besides our own listeners".to_owned(),
            expected: "upstreams with addresses, or a script that handles the empty list"
                .to_owned(),
        }
    }

    fn file(&self, file: usize) -> String {
        self.evaluation.files.get(file).map(|file| file.name.clone()).unwrap_or_default()
    }
}
