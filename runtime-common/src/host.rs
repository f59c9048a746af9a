//! What the configuration may learn of this machine: environment, files, name servers, addresses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::{env, fs, io};

use balancedns_core::config::{self, Host};
use balancedns_core::policy::{ListSource, NameList};
use nix::net::if_::if_nametoindex;
use resolv_conf::{Config, ScopedIp};
use rustix::fs::{Access, access};

use crate::clock::Clock;
use crate::lists;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Names another file than [`RESOLV_CONF`], for containers and tests.
const RESOLV_CONF_VARIABLE: &str = "BALANCEDNS_RESOLV_CONF";
const DNS_PORT: u16 = 53;

/// This machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    clock: Clock,
}

impl Machine {
    /// This machine, with a clock for the limit on a script's running time.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock }
    }
}

impl Host for Machine {
    fn variable(&self, name: &str) -> Option<String> {
        // Names that the system could not hold (empty, or with `=`) are simply not set.
        env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn read(&self, path: &str) -> Result<String, String> {
        fs::read_to_string(path).map_err(|error| explained(&error))
    }

    /// As the user that this process runs as: what may be started by others only would fail later.
    fn executable(&self, path: &str) -> Result<(), String> {
        let is_file = fs::metadata(path).map_err(|error| explained(&error))?.is_file();
        if !is_file {
            return Err(String::from("not a file"));
        }
        access(path, Access::EXEC_OK).map_err(|error| explained(&error.into()))
    }

    /// What was fetched is put in its place [later](crate::lists::Lists::new): where it is kept is
    /// for the configuration to say.
    fn list(&self, source: &ListSource) -> Result<Option<Arc<NameList>>, String> {
        let list = match source {
            ListSource::File(_) => lists::read_list(source)?,
            ListSource::Url(_) => NameList::empty(source.clone()),
        };
        Ok(Some(Arc::new(list)))
    }

    fn system_resolvers(&self) -> Vec<SocketAddr> {
        let path = env::var_os(RESOLV_CONF_VARIABLE).unwrap_or_else(|| RESOLV_CONF.into());
        fs::read(path).map(|text| resolvers(&text)).unwrap_or_default()
    }

    fn clock(&self) -> Option<config::Clock> {
        let clock = self.clock;
        Some(Box::new(move || clock.now()))
    }

    /// Only one's own addresses can be bound.
    fn is_own_address(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
    }
}

/// This machine as it was when it was first asked, but for its name servers: files that were read
/// once are not read again.
#[derive(Debug)]
pub struct Remembering {
    machine: Machine,
    files: RefCell<BTreeMap<String, Result<String, String>>>,
    lists: RefCell<BTreeMap<ListSource, Arc<NameList>>>,
    /// The list that was given out last: what a configuration was made from.
    resolvers: RefCell<Vec<SocketAddr>>,
}

impl Remembering {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            files: RefCell::default(),
            lists: RefCell::default(),
            resolvers: RefCell::default(),
        }
    }

    /// Remembers of the lists only which there are, for they are large: whoever has their contents
    /// puts them in their places.
    pub(crate) fn empty_lists(&self) {
        for (source, list) in self.lists.borrow_mut().iter_mut() {
            *list = Arc::new(NameList::empty(source.clone()));
        }
    }

    /// The name servers that were given out last.
    #[must_use]
    pub fn given_resolvers(&self) -> Vec<SocketAddr> {
        self.resolvers.borrow().clone()
    }

    /// The name servers of now, given out to nobody.
    #[must_use]
    pub fn current_resolvers(&self) -> Vec<SocketAddr> {
        self.machine.system_resolvers()
    }
}

impl Host for Remembering {
    fn variable(&self, name: &str) -> Option<String> {
        self.machine.variable(name)
    }

    fn read(&self, path: &str) -> Result<String, String> {
        let mut files = self.files.borrow_mut();
        files.entry(path.to_owned()).or_insert_with(|| self.machine.read(path)).clone()
    }

    fn executable(&self, path: &str) -> Result<(), String> {
        self.machine.executable(path)
    }

    fn list(&self, source: &ListSource) -> Result<Option<Arc<NameList>>, String> {
        if let Some(known) = self.lists.borrow().get(source) {
            return Ok(Some(Arc::clone(known)));
        }
        let list = self.machine.list(source)?;
        if let Some(list) = &list {
            self.lists.borrow_mut().insert(source.clone(), Arc::clone(list));
        }
        Ok(list)
    }

    fn system_resolvers(&self) -> Vec<SocketAddr> {
        let resolvers = self.machine.system_resolvers();
        self.resolvers.borrow_mut().clone_from(&resolvers);
        resolvers
    }

    fn clock(&self) -> Option<config::Clock> {
        self.machine.clock()
    }

    fn is_own_address(&self, ip: IpAddr) -> bool {
        self.machine.is_own_address(ip)
    }
}

/// Why a file cannot be read, in words for the operator.
pub(crate) fn explained(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::NotFound, "no such file"),
        (io::ErrorKind::PermissionDenied, "permission denied"),
        (io::ErrorKind::InvalidData, "not UTF-8 text"),
        (io::ErrorKind::IsADirectory, "a folder, not a file"),
    ];
    known
        .iter()
        .find(|(kind, _)| *kind == error.kind())
        .map_or_else(|| error.to_string(), |(_, text)| (*text).to_owned())
}

/// The name servers of a resolv.conf. Lines that cannot be understood are left out, as the C
/// library does.
fn resolvers(text: &[u8]) -> Vec<SocketAddr> {
    let (config, _errors) = Config::parse_with_errors(text);
    config.nameservers.into_iter().filter_map(resolver).collect()
}

fn resolver(server: ScopedIp) -> Option<SocketAddr> {
    match server {
        ScopedIp::V4(ip) => Some(SocketAddr::from((ip, DNS_PORT))),
        ScopedIp::V6(ip, None) => Some(scoped(ip, 0)),
        ScopedIp::V6(ip, Some(scope)) => {
            let index = scope.parse().or_else(|_| if_nametoindex(scope.as_str()));
            index.ok().map(|index| scoped(ip, index))
        }
    }
}

fn scoped(ip: Ipv6Addr, scope_id: u32) -> SocketAddr {
    SocketAddrV6::new(ip, DNS_PORT, 0, scope_id).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_nonsense_is_left_out() {
        let text = b"# by hand\nsearch lan\nnameserver 192.0.2.1\nnameserver nonsense\n\
            nameserver 2001:db8::1\nnameserver fe80::1%lo\noptions edns0\n";
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"];
        let expected = expected.map(|addr| addr.parse::<SocketAddr>().expect("valid"));
        assert_eq!(resolvers(text), expected);
        assert!(resolvers(b"").is_empty());
    }

    #[test]
    fn own_addresses_are_known() {
        let machine = Machine::new(Clock::start());
        assert!(machine.is_own_address("127.0.0.1".parse().expect("valid")));
        assert!(!machine.is_own_address("192.0.2.55".parse().expect("valid")));
    }

    #[test]
    fn what_was_read_once_stays() {
        let folder = tempfile::tempdir().expect("creates");
        let path = folder.path().join("a");
        fs::write(&path, "first").expect("writes");
        let host = Remembering::new(Machine::new(Clock::start()));
        let path = path.to_str().expect("a text");
        assert_eq!(host.read(path).as_deref(), Ok("first"));
        fs::write(path, "second").expect("writes");
        assert_eq!(host.read(path).as_deref(), Ok("first"));
        fs::remove_file(path).expect("removes");
        assert_eq!(host.read(path).as_deref(), Ok("first"));
    }

    #[test]
    fn what_cannot_be_started_is_known() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("creates");
        let path = folder.path().join("filter");
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        fs::write(&path, "#!/bin/sh\n").expect("writes");
        let text = path.to_str().expect("a text");
        let machine = Machine::new(Clock::start());
        mode(0o600).expect("changes");
        assert_eq!(machine.executable(text).expect_err("no x"), "permission denied");
        mode(0o700).expect("changes");
        assert_eq!(machine.executable(text), Ok(()));
        assert_eq!(machine.executable("/nonexistent/x").expect_err("missing"), "no such file");
        assert_eq!(machine.executable("/").expect_err("a folder"), "not a file");
    }

    #[test]
    fn lists_are_read_once_and_then_left_to_others() {
        let folder = tempfile::tempdir().expect("creates");
        let path = folder.path().join("list").display().to_string();
        fs::write(&path, b"a.example\nb.example\n\xff\n").expect("writes");
        let host = Remembering::new(Machine::new(Clock::start()));
        let entries = |path: &str| {
            let list = host.list(&ListSource::File(path.to_owned()));
            list.map(|list| list.expect("a file has a list").report.entries)
        };
        assert_eq!(entries(&path), Ok(2));
        fs::remove_file(&path).expect("removes");
        assert_eq!(entries(&path), Ok(2));
        host.empty_lists();
        assert_eq!(entries(&path), Ok(0));
        assert_eq!(entries("/nonexistent/list"), Err("no such file".to_owned()));
        let url = ListSource::Url("https://lists.example/".to_owned());
        assert_eq!(host.list(&url).expect("nothing is wrong").expect("known").report.entries, 0);
    }

    #[test]
    fn an_unreadable_file_says_why() {
        let machine = Machine::new(Clock::start());
        assert_eq!(machine.read("/nonexistent/x").expect_err("missing"), "no such file");
        assert_eq!(machine.read("/").expect_err("a folder"), "a folder, not a file");
    }
}
