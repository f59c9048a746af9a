//! A host for configurations under test: variables, files and name servers from memory.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use balancedns_core::config::{Clock, Host, Loaded, Source, load};
use balancedns_core::policy::{ListReader, ListSource, NameList};
use balancedns_core::time::{Duration, Instant};

/// A world in memory.
#[derive(Debug, Default)]
pub(crate) struct FakeHost {
    pub variables: BTreeMap<String, String>,
    pub files: BTreeMap<String, String>,
    pub executables: Vec<String>,
    /// Lists by URL.
    pub fetched: BTreeMap<String, String>,
    pub resolvers: Vec<SocketAddr>,
    /// With it, each reading of the clock is a tenth of a second later.
    pub has_clock: bool,
}

impl Host for FakeHost {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn read(&self, path: &str) -> Result<String, String> {
        self.files.get(path).cloned().ok_or_else(|| "no such file".to_owned())
    }

    fn executable(&self, path: &str) -> Result<(), String> {
        let is_there = self.executables.iter().any(|known| known == path);
        if is_there { Ok(()) } else { Err("no such file".to_owned()) }
    }

    fn list(&self, source: &ListSource) -> Result<Option<Arc<NameList>>, String> {
        let text = match source {
            ListSource::File(path) => self.read(path)?,
            ListSource::Url(url) => match self.fetched.get(url) {
                None => return Ok(None),
                Some(text) => text.clone(),
            },
        };
        let mut reader = ListReader::new(source.clone());
        reader.read(text.as_bytes());
        Ok(Some(Arc::new(reader.finish())))
    }

    fn system_resolvers(&self) -> Vec<SocketAddr> {
        self.resolvers.clone()
    }

    fn clock(&self) -> Option<Clock> {
        let now = Rc::new(Cell::new(Instant::ZERO));
        self.has_clock.then(|| -> Clock {
            Box::new(move || {
                now.set(now.get() + Duration::from_millis(100));
                now.get()
            })
        })
    }
}

impl FakeHost {
    /// A host with a clock and one name server.
    pub(crate) fn new() -> Self {
        let resolvers = vec!["192.0.2.53:53".parse().expect("an address")];
        Self { resolvers, has_clock: true, ..Self::default() }
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    pub(crate) fn executable(mut self, path: &str) -> Self {
        self.executables.push(path.to_owned());
        self
    }

    pub(crate) fn fetched(mut self, url: &str, text: &str) -> Self {
        self.fetched.insert(url.to_owned(), text.to_owned());
        self
    }

    pub(crate) fn resolvers(mut self, resolvers: &[&str]) -> Self {
        self.resolvers = resolvers.iter().map(|addr| addr.parse().expect("an address")).collect();
        self
    }

    /// Loads a text as `etc/test.lua`; errors are their lines.
    pub(crate) fn load(&self, text: &str) -> Result<Loaded, Vec<String>> {
        let source = Source {
            name: "etc/test.lua".to_owned(),
            folder: "etc".to_owned(),
            text: text.to_owned(),
        };
        load(&source, self).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    /// The errors of a text that must not load.
    pub(crate) fn errors(&self, text: &str) -> Vec<String> {
        match self.load(text) {
            Err(errors) => errors,
            Ok(_) => panic!("this must not load:\n{text}"),
        }
    }
}

/// The warnings of what was loaded, as lines.
pub(crate) fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}

/// A configuration with an upstream and these keys besides.
pub(crate) fn with(keys: &str) -> String {
    format!("return {{ upstreams = {{ {{ name = \"u\", addr = \"192.0.2.1:53\" }} }},\n{keys} }}")
}

/// A configuration with one upstream that has these keys besides.
pub(crate) fn with_upstream(keys: &str) -> String {
    format!("return {{ upstreams = {{ {{ name = \"u\", addr = \"192.0.2.1:53\",\n{keys} }} }} }}")
}
