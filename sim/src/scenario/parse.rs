//! The outer form of a scenario: what it shows, configurations and files, who takes part, steps.

use std::net::SocketAddr;

use balancedns_core::engine::Transport;

use super::lines::{self, Fault, Line};
use super::processes::PluginRule;
use super::rules::Rule;
use super::steps::{self, Step};

/// A scenario as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) title: String,
    pub(super) shows: String,
    pub(super) why: String,
    /// The first one is used at start.
    pub(super) configs: Vec<Config>,
    /// Virtual files: path and text.
    pub(super) files: Vec<(String, String)>,
    /// The name servers of the system.
    pub(super) resolvers: Vec<SocketAddr>,
    pub(super) cast: Cast,
    pub(super) steps: Vec<Step>,
    /// The last line of the file, for what is found in the end.
    pub(super) end: usize,
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) line: usize,
    /// Empty for the one without a name.
    name: String,
    /// Lua, behind as many empty lines as stand before it in the file.
    pub(super) text: String,
}

/// Who takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cast {
    pub(super) clients: Vec<Client>,
    pub(super) upstreams: Vec<Upstream>,
    /// Plugins that are executables, with their rules.
    pub(super) plugins: Vec<(String, Vec<PluginRule>)>,
    configs: Vec<String>,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) transport: Transport,
    pub(super) address: SocketAddr,
    /// The proxy that it is behind: whom the engine sees.
    pub(super) proxy: Option<SocketAddr>,
    /// Which address it asks, where that is not the first listener of its transport.
    pub(super) asks: Option<SocketAddr>,
}

impl Client {
    /// The address that the engine sees.
    pub(super) fn seen(&self) -> SocketAddr {
        self.proxy.unwrap_or(self.address)
    }
}

/// A scripted upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) rules: Vec<Rule>,
}

impl Cast {
    pub(super) fn client(&self, name: &str) -> Option<usize> {
        self.clients.iter().position(|client| client.name == name)
    }

    pub(super) fn upstream(&self, name: &str) -> Option<usize> {
        self.upstreams.iter().position(|upstream| upstream.name == name)
    }

    pub(super) fn plugin(&self, name: &str) -> Option<usize> {
        self.plugins.iter().position(|(plugin, _)| plugin == name)
    }

    pub(super) fn config(&self, name: &str) -> Option<usize> {
        self.configs.iter().position(|config| config == name)
    }

    pub(super) fn transport(&self, client: usize) -> Transport {
        self.clients[client].transport
    }

    /// Takes a name that nobody has.
    fn check_new(&self, name: &str) -> Result<(), String> {
        const TAKEN: [&str; 9] = [
            "wait", "repeat", "reload", "shutdown", "stopped", "running", "metric", "log", "config",
        ];
        let is_taken = self.client(name).is_some()
            || self.upstream(name).is_some()
            || self.plugin(name).is_some();
        if is_taken || TAKEN.contains(&name) {
            return Err(format!("the name \"{name}\" is taken"));
        }
        Ok(())
    }
}

/// Reads a scenario.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn parse(text: &str) -> Result<Script, Fault> {
    let lines = lines::tree(text)?;
    let end = text.lines().count().max(1);
    let mut script = Script {
        title: String::new(),
        shows: String::new(),
        why: String::new(),
        configs: Vec::new(),
        files: Vec::new(),
        resolvers: Vec::new(),
        cast: Cast::default(),
        steps: Vec::new(),
        end,
    };
    let mut has_steps = false;
    for line in &lines {
        if has_steps {
            return Err(line.fault("nothing stands behind the steps"));
        }
        has_steps = script.take(line)?;
    }
    if !has_steps || script.steps.is_empty() {
        return Err(Fault { line: end, what: "there are no steps".to_owned() });
    }
    let first = lines.first().map_or(1, |line| line.number);
    script.check_head().map_err(Fault::at(first))?;
    Ok(script)
}

impl Script {
    /// Takes one block; says whether it was that of the steps.
    fn take(&mut self, line: &Line) -> Result<bool, Fault> {
        let here = Fault::at(line.number);
        let mut words = line.words();
        match words.next().unwrap_or_default() {
            "title:" => self.title = prose(line, words.rest()),
            "shows:" => self.shows = prose(line, words.rest()),
            "why:" => self.why = prose(line, words.rest()),
            "config" => {
                let name = words.next().unwrap_or_default().to_owned();
                words.end().map_err(&here)?;
                if self.cast.config(&name).is_some() {
                    return Err(line.fault("there is another config block of this name"));
                }
                self.cast.configs.push(name.clone());
                self.configs.push(Config { line: line.number, name, text: line.verbatim.clone() });
            }
            "file" => {
                let path = words.expect("a path").map_err(&here)?.to_owned();
                words.end().map_err(here)?;
                self.files.push((path, line.verbatim.trim_start_matches('\n').to_owned()));
            }
            "resolvers" => {
                line.expect_no_children()?;
                for word in words {
                    self.resolvers.push(address(word).map_err(&here)?);
                }
            }
            "client" => self.client(line)?,
            "upstream" => self.upstream(line)?,
            "plugin" => self.plugin(line)?,
            "steps" => {
                words.end().map_err(here)?;
                self.steps = steps::parse_all(line, &self.cast)?;
                return Ok(true);
            }
            other => return Err(line.fault(format!("\"{other}\" is no block of a scenario"))),
        }
        Ok(false)
    }

    /// `client NAME udp|tcp|dot|doh ADDRESS [asks ADDRESS] [behind ADDRESS]`
    fn client(&mut self, line: &Line) -> Result<(), Fault> {
        line.expect_no_children()?;
        let client = (|| {
            let mut words = line.words();
            words.next();
            let name = words.expect("a name")?.to_owned();
            self.cast.check_new(&name)?;
            let word = words.expect("udp, tcp, dot or doh")?;
            let transport =
                transport(word).ok_or_else(|| format!("\"{word}\" is not udp, tcp, dot or doh"))?;
            let own = address(words.expect("an address")?)?;
            let mut addressed = |word| {
                let said = words.accept(word);
                said.then(|| words.expect("an address").and_then(address)).transpose()
            };
            let (asks, proxy) = (addressed("asks")?, addressed("behind")?);
            words.end()?;
            Ok(Client { line: line.number, name, transport, address: own, proxy, asks })
        })();
        self.cast.clients.push(client.map_err(Fault::at(line.number))?);
        Ok(())
    }

    /// `upstream NAME ADDRESS`, with its rules below.
    fn upstream(&mut self, line: &Line) -> Result<(), Fault> {
        let head = (|| {
            let mut words = line.words();
            words.next();
            let name = words.expect("a name")?.to_owned();
            self.cast.check_new(&name)?;
            let address = address(words.expect("an address")?)?;
            words.end()?;
            if self.cast.upstreams.iter().any(|upstream| upstream.address == address) {
                return Err(format!("another upstream is at {address}"));
            }
            Ok((name, address))
        })();
        let (name, address) = head.map_err(Fault::at(line.number))?;
        let rules: Result<_, Fault> = line.children.iter().map(Rule::parse).collect();
        self.cast.upstreams.push(Upstream { line: line.number, name, address, rules: rules? });
        Ok(())
    }

    /// `plugin NAME`, with its rules below.
    fn plugin(&mut self, line: &Line) -> Result<(), Fault> {
        let mut words = line.words();
        words.next();
        let head = words.expect("a name").and_then(|name| {
            self.cast.check_new(name)?;
            words.end().map(|()| name.to_owned())
        });
        let name = head.map_err(Fault::at(line.number))?;
        let rules: Result<_, Fault> = line.children.iter().map(PluginRule::parse).collect();
        self.cast.plugins.push((name, rules?));
        Ok(())
    }

    /// Who reads it has to know what it shows.
    fn check_head(&self) -> Result<(), String> {
        for (key, text) in [("title:", &self.title), ("shows:", &self.shows), ("why:", &self.why)] {
            if text.is_empty() {
                return Err(format!("a scenario says \"{key}\""));
            }
        }
        if !self.shows.contains("RFC ") && !self.shows.contains("docs/") {
            return Err("\"shows:\" names a section of an RFC or a page of docs/".to_owned());
        }
        if self.configs.is_empty() {
            return Err("there is no config block".to_owned());
        }
        Ok(())
    }
}

/// A text that may go on in the lines below.
fn prose(line: &Line, first: &str) -> String {
    let mut text = first.to_owned();
    for child in &line.children {
        text.push(' ');
        text.push_str(&child.text);
    }
    text.trim().to_owned()
}

/// A transport by its name.
pub(super) fn transport(word: &str) -> Option<Transport> {
    use Transport::{Doh, Dot, Tcp, Udp};
    [Udp, Tcp, Dot, Doh].into_iter().find(|transport| transport.name() == word)
}

fn address(word: &str) -> Result<SocketAddr, String> {
    word.parse().map_err(|_| format!("\"{word}\" is no address with a port"))
}
