//! A configuration of a test: written into a folder of its own with the files that belong to it, and
//! the daemon started with it on ports that are free.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::daemon::{Daemon, Ended, Running};
use super::tls::{self, Identity};
use super::{Upstream, Via};
use crate::case::World;

/// A configuration in the making.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    dns: &'static str,
    listen: String,
    doors: Vec<Extra>,
    identity: Option<Identity>,
    upstreams: String,
    upstream_count: usize,
    sections: String,
    files: Vec<(&'static str, String)>,
    variables: Vec<(&'static str, &'static str)>,
    stderr: Stderr,
}

/// A listener beside that of plain DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    Dot,
    Doh,
    /// DNS over HTTP without TLS.
    PlainDoh,
}

impl Extra {
    fn key(self) -> &'static str {
        match self {
            Self::Dot => "dot",
            Self::Doh => "doh",
            Self::PlainDoh => "doh_plain",
        }
    }
}

/// Where the daemon's standard error goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stderr {
    /// To the test.
    Heard,
    /// Into a pipe that nobody reads.
    Unread,
    /// To a disk that is full.
    Full,
}

impl Settings {
    /// One worker on 127.0.0.1, no upstream yet.
    pub(crate) fn new() -> Self {
        Self {
            dns: "127.0.0.1:{port}",
            listen: "workers = 1".to_owned(),
            doors: Vec::new(),
            identity: None,
            upstreams: String::new(),
            upstream_count: 0,
            sections: String::new(),
            files: Vec::new(),
            variables: Vec::new(),
            stderr: Stderr::Heard,
        }
    }

    /// The usual case: one upstream, asked by UDP.
    pub(crate) fn with(upstream: &Upstream) -> Self {
        Self::new().upstream(upstream, "")
    }

    /// Where to listen; `{port}` becomes the port chosen for the test.
    pub(crate) fn dns(mut self, dns: &'static str) -> Self {
        self.dns = dns;
        self
    }

    /// More keys of the listen section.
    pub(crate) fn listen(mut self, keys: &str) -> Self {
        if !keys.is_empty() {
            self.listen = format!("{keys}, {}", self.listen);
        }
        self
    }

    /// One more listener.
    pub(crate) fn door(mut self, extra: Extra) -> Self {
        if !self.doors.contains(&extra) {
            self.doors.push(extra);
        }
        self
    }

    /// The certificate of encrypted listeners; the usual one otherwise.
    pub(crate) fn identity(mut self, identity: &Identity) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// As many workers; one otherwise.
    pub(crate) fn workers(mut self, count: usize) -> Self {
        self.listen = self.listen.replace("workers = 1", &format!("workers = {count}"));
        self
    }

    /// One more upstream, with more keys than name and address.
    pub(crate) fn upstream(self, upstream: &Upstream, keys: &str) -> Self {
        self.upstream_at(upstream.addr(), keys)
    }

    /// One more upstream at an address where perhaps nobody listens.
    pub(crate) fn upstream_at(self, addr: SocketAddr, keys: &str) -> Self {
        self.upstream_called(&addr.to_string(), keys)
    }

    /// One more upstream at a host and port.
    pub(crate) fn upstream_called(mut self, addr: &str, keys: &str) -> Self {
        let name = self.upstream_count;
        self.upstream_count += 1;
        self.upstream_text(&format!("{{ name = \"up{name}\", addr = \"{addr}\", {keys} }}"))
    }

    /// One more upstream, asked by DoT, with more keys than what that needs. A key that is given
    /// again counts.
    pub(crate) fn dot(self, addr: SocketAddr, keys: &str) -> Self {
        let keys = format!(
            "protocol = \"dot\", tls_server_name = \"{}\", tls_ca_file = \"authority.pem\", {keys}",
            tls::SERVER_NAME
        );
        self.upstream_at(addr, &keys)
    }

    /// The same by DoH.
    pub(crate) fn doh(mut self, addr: SocketAddr, keys: &str) -> Self {
        let name = self.upstream_count;
        self.upstream_count += 1;
        self.upstream_text(&format!(
            "{{ name = \"up{name}\", protocol = \"doh\", doh_url = \"https://{addr}/dns-query\", \
             tls_server_name = \"{}\", tls_ca_file = \"authority.pem\", {keys} }}",
            tls::SERVER_NAME
        ))
    }

    /// One more upstream, as Lua text.
    pub(crate) fn upstream_text(mut self, text: &str) -> Self {
        writeln!(self.upstreams, "    {text},").expect("text takes text");
        self
    }

    /// A section of its own, as Lua text: `cache = { enabled = false }`.
    pub(crate) fn section(mut self, text: &str) -> Self {
        writeln!(self.sections, "  {text},").expect("text takes text");
        self
    }

    /// A file next to the configuration; one that begins with `#!` may be executed.
    pub(crate) fn file(mut self, name: &'static str, content: &str) -> Self {
        self.files.push((name, content.to_owned()));
        self
    }

    /// A variable of the daemon's environment.
    pub(crate) fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    /// The configuration as Lua text.
    fn text(&self, dns_port: u16, metrics_port: u16, doors: &[(Extra, u16)]) -> String {
        let dns = self.dns.replace("{port}", &dns_port.to_string());
        let mut listen = String::new();
        for (extra, port) in doors {
            write!(listen, "{} = \"127.0.0.1:{port}\", ", extra.key()).expect("text takes text");
        }
        if doors.iter().any(|(extra, _)| *extra != Extra::PlainDoh) {
            listen.push_str("tls_cert_file = \"server.pem\", tls_key_file = \"server.key\", ");
        }
        listen.push_str(&self.listen);
        format!(
            "return {{\n  listen = {{ dns = {{ \"{dns}\" }}, metrics = \"127.0.0.1:{metrics_port}\", {listen} }},\n  \
             upstreams = {{\n{}  }},\n{}}}\n",
            self.upstreams, self.sections
        )
    }

    /// Where standard error goes.
    pub(crate) fn stderr(mut self, stderr: Stderr) -> Self {
        self.stderr = stderr;
        self
    }

    /// Starts the daemon and waits until it is ready. A port that was taken between its choice and
    /// the daemon's start leads to another try.
    pub(crate) fn start(&self, world: &World) -> Daemon {
        for _ in 0..5 {
            let (dns_port, metrics_port) = (free_port(), free_port());
            let doors = self.doors(world);
            let running = self.spawn(world, dns_port, metrics_port, &doors);
            let ready = running.wait_until_ready(world, dns_port, metrics_port);
            if let Some(mut daemon) = ready {
                daemon.doors = doors;
                return daemon;
            }
        }
        panic!("no free port in five tries");
    }

    /// Starts the daemon on the port given, for a start that has to fail; waits for its end.
    pub(crate) fn fail_on(&self, world: &World, dns_port: u16) -> Ended {
        self.spawn(world, dns_port, free_port(), &self.doors(world)).end()
    }

    /// The listeners beside plain DNS and their ports: those that the case wants, and that of its
    /// clients.
    fn doors(&self, world: &World) -> Vec<(Extra, u16)> {
        let of_clients = match world.transport {
            Some(Via::Dot) => Some(Extra::Dot),
            Some(Via::Get | Via::Post) => Some(Extra::Doh),
            Some(Via::Udp | Via::Tcp) | None => None,
        };
        let mut doors = self.doors.clone();
        doors.extend(of_clients.filter(|extra| !self.doors.contains(extra)));
        doors.into_iter().map(|extra| (extra, free_port())).collect()
    }

    fn spawn(
        &self,
        world: &World,
        dns_port: u16,
        metrics_port: u16,
        doors: &[(Extra, u16)],
    ) -> Running {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, content: &str| write_file(folder.path(), name, content);
        if !doors.is_empty() || self.upstreams.contains("authority.pem") {
            let identity = self.identity.as_ref().unwrap_or_else(|| Identity::usual());
            write("server.pem", &identity.certificate);
            write("server.key", &identity.key);
            write("authority.pem", &tls::authority_pem());
        }
        // What a case brings itself comes in place of that.
        for (name, content) in &self.files {
            write(name, content);
        }
        let text = self.text(dns_port, metrics_port, doors);
        let path = folder.path().join("test.lua");
        std::fs::write(&path, &text).expect("the configuration file");
        let mut command = Command::new(world.daemon);
        command.arg("-config").arg(path).envs(self.variables.iter().copied());
        Running::new(folder, text, &mut command, self.stderr)
    }
}

/// Writes a file of a test; one that begins with `#!` may be executed.
pub(super) fn write_file(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file of the test");
    if content.starts_with("#!") {
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    }
}

/// A port that is free for UDP and TCP at this moment, and is given to nobody else in this process: below
/// those that the system picks for whoever connects, so that it stays free until it is used.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1_000 {
        let number = GIVEN.fetch_add(1, Ordering::Relaxed);
        // Two runs at once begin at different places.
        let place = std::process::id().wrapping_mul(7_919).wrapping_add(number) % COUNT;
        let port = u16::try_from(FIRST + place).expect("below 65536");
        let is_free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        if is_free {
            return port;
        }
    }
    panic!("no port that is free for both UDP and TCP");
}
