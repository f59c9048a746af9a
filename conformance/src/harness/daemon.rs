//! The daemon itself: started from the binary that cargo built, with a configuration file in a
//! folder of its own, waited for until it is ready, killed by its id when the test is over.

use std::fmt::{self, Write as _};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use super::http::Version;
use super::octets::Door;
use super::tls::{self, Identity};
use super::{Client, Query, Reply, StreamClient, UdpClient, Upstream, Via, proxy, until};
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

/// A process and what it said so far.
pub(crate) struct Running {
    child: Child,
    stdout: Said,
    stderr: Said,
    _unread: Option<ChildStderr>,
    config: String,
    folder: TempDir,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Running {
    fn new(folder: TempDir, config: String, command: &mut Command, to: Stderr) -> Self {
        let stderr = match to {
            Stderr::Heard | Stderr::Unread => Stdio::piped(),
            Stderr::Full => {
                File::options().write(true).open("/dev/full").expect("Linux has it").into()
            }
        };
        let mut child = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the daemon's binary runs");
        let stdout = Said::listen_to(child.stdout.take().expect("stdout is piped"));
        let mut unread = child.stderr.take();
        let stderr = match unread.take_if(|_| to == Stderr::Heard) {
            Some(stderr) => Said::listen_to(stderr),
            None => Said::listen_to(io::empty()),
        };
        Self { child, stdout, stderr, _unread: unread, config, folder }
    }

    /// The binary with these arguments and variables, and no configuration of a test.
    pub(crate) fn with_arguments(
        world: &World,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(world.daemon);
        command.args(arguments).envs(variables.iter().copied());
        Self::new(folder, String::new(), &mut command, Stderr::Heard)
    }

    /// What it wrote to both streams so far.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout.text(), self.stderr.text())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours")
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let status = until("the process ends", || self.ended());
        Ended { status, stdout: self.stdout.rest(), stderr: self.stderr.rest() }
    }

    /// Who listens on the TCP port, as the kernel sees it: cases run side by side, and a port that
    /// was free a moment ago may be another daemon's by now.
    fn listener_of(&self, port: u16) -> Listener {
        const LISTEN: &str = "0A";
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
        let port = format!(":{port:04X}");
        let listeners = table.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = fields.as_slice() else {
                return None;
            };
            local.ends_with(&port).then(|| format!("socket:[{inode}]"))
        });
        let listeners: Vec<_> = listeners.collect();
        if listeners.is_empty() {
            return Listener::Nobody;
        }
        let folder = format!("/proc/{}/fd", self.pid());
        let descriptors = std::fs::read_dir(folder).into_iter().flatten();
        let ours = descriptors
            .filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok())
            .any(|target| listeners.iter().any(|socket| target.as_os_str() == socket.as_str()));
        if ours { Listener::Ours } else { Listener::Somebody }
    }

    fn wait_until_ready(
        mut self,
        world: &World,
        dns_port: u16,
        metrics_port: u16,
    ) -> Option<Daemon> {
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, metrics_port));
        let start = until("the daemon is ready", || {
            if self.ended().is_some() {
                return Some(Start::Ended);
            }
            match self.listener_of(metrics_port) {
                Listener::Nobody => None,
                Listener::Somebody => Some(Start::PortTaken),
                Listener::Ours => {
                    matches!(http_get(metrics, "/readyz"), Ok((200, _))).then_some(Start::Ready)
                }
            }
        });
        match start {
            Start::Ready => {
                let running = Some(self);
                Some(Daemon { running, port: dns_port, doors: Vec::new(), metrics, world: *world })
            }
            Start::PortTaken => None,
            Start::Ended => {
                let said = self.stderr.rest();
                assert!(
                    said.contains("in use"),
                    "the daemon did not start:\n{said}\n{}",
                    self.config
                );
                None
            }
        }
    }
}

/// What became of a start.
enum Start {
    Ready,
    PortTaken,
    Ended,
}

/// Who listens on a port.
enum Listener {
    Nobody,
    Ours,
    Somebody,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's configuration:\n{}what it said:\n{}", self.config, self.said());
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

/// The daemon, ready.
#[derive(Debug)]
pub(crate) struct Daemon {
    running: Option<Running>,
    port: u16,
    doors: Vec<(Extra, u16)>,
    metrics: SocketAddr,
    world: World,
}

impl Daemon {
    /// Where it answers.
    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it answers on IPv6, if the test had it listen there.
    pub(crate) fn addr6(&self) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where it answers by another listener.
    pub(crate) fn extra(&self, extra: Extra) -> SocketAddr {
        let door = self.doors.iter().find(|(door, _)| *door == extra);
        (Ipv4Addr::LOCALHOST, door.expect("the case has it listen there").1).into()
    }

    /// The way to its DoT listener, by every TLS version and with the protocol of DoT.
    pub(crate) fn dot_door(&self) -> Door {
        Door::tls(self.extra(Extra::Dot), tls::client_config(tls::ALL_VERSIONS, &["dot"]))
    }

    /// The way to its DoH listener, for one version of HTTP.
    pub(crate) fn doh_door(&self, version: Version) -> Door {
        let alpn = match version {
            Version::Http1 => "http/1.1",
            Version::Http2 => "h2",
        };
        Door::tls(self.extra(Extra::Doh), tls::client_config(tls::ALL_VERSIONS, &[alpn]))
    }

    /// The way to its listener for HTTP without TLS.
    pub(crate) fn plain_door(&self) -> Door {
        Door::plain(self.extra(Extra::PlainDoh))
    }

    /// The transport of this run's clients.
    pub(crate) fn transport(&self) -> Via {
        self.world.transport()
    }

    /// The way in of this run's clients.
    pub(crate) fn own_door(&self) -> Door {
        match self.transport() {
            Via::Udp | Via::Tcp => Door::plain(self.addr()),
            Via::Dot => self.dot_door(),
            Via::Get => self.doh_door(Version::Http1),
            Via::Post => self.doh_door(Version::Http2),
        }
    }

    /// A new client of this run's transport.
    pub(crate) fn client(&self) -> Client {
        Client::to(self.transport(), &self.own_door())
    }

    /// Asks by this run's transport behind a proxy, which speaks for the client at `ip`. The daemon
    /// has to take what comes from 127.0.0.1 for a proxy's.
    pub(crate) fn ask_as(&self, ip: &str, query: &Query) -> Reply {
        let client = SocketAddr::new(ip.parse().expect("an address"), 4_711);
        // Both addresses of a header are of one family.
        let server = if client.is_ipv4() { self.addr() } else { self.addr6() };
        if self.transport() == Via::Udp {
            let header = proxy::version_2_datagram(client, server);
            let socket = UdpClient::to(self.addr());
            socket.send(&[header, query.encode()].concat());
            let reply = socket.receive();
            reply.check_echo(query);
            reply.check_datagram(query);
            return reply;
        }
        let door = self.own_door().behind(&proxy::version_2(client, server));
        Client::to(self.transport(), &door).ask(query)
    }

    /// A new client of this run's transport, which is a stream.
    pub(crate) fn stream(&self) -> StreamClient {
        StreamClient::through(&self.own_door())
    }

    /// Asks by this run's transport, from a port of its own.
    pub(crate) fn ask(&self, query: &Query) -> Reply {
        self.client().ask(query)
    }

    /// Asks over UDP, from a port of its own.
    pub(crate) fn udp(&self, query: &Query) -> Reply {
        UdpClient::to(self.addr()).ask(query)
    }

    /// Asks over TCP, on a connection of its own.
    pub(crate) fn tcp(&self, query: &Query) -> Reply {
        StreamClient::to(self.addr()).ask(query)
    }

    /// Status and body of a page of the metrics listener.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        http_get(self.metrics, path).expect("the metrics listener answers")
    }

    /// The same, for a daemon that may be gone.
    pub(crate) fn try_get(&self, path: &str) -> io::Result<(u16, String)> {
        http_get(self.metrics, path)
    }

    /// The value of one line of `/metrics`, named with its labels; 0 if it is not there.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        self.metrics_sum(|name| name == series)
    }

    /// The sum over all labels of a metric.
    pub(crate) fn metric_sum(&self, metric: &str) -> f64 {
        self.metrics_sum(|name| name.split('{').next() == Some(metric))
    }

    fn metrics_sum(&self, counts: impl Fn(&str) -> bool) -> f64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(name, _)| counts(name))
            .map(|(_, value)| value.parse::<f64>().expect("a metric is a number"))
            .sum()
    }

    /// Memory in use, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most memory that was ever in use, in KiB.
    pub(crate) fn memory_peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running().pid()))
            .expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).expect("a size is a number")
    }

    /// Descriptors that are open.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.running().pid());
        std::fs::read_dir(folder).expect("the daemon runs").count()
    }

    /// What it wrote so far.
    pub(crate) fn said(&self) -> String {
        self.running.as_ref().expect("it runs until its end is waited for").said()
    }

    /// Waits until this is in its log, which is written by a thread of its own.
    pub(crate) fn wait_to_say(&self, what: &str) {
        until(what, || self.said().contains(what).then_some(()));
    }

    /// Writes a file next to the configuration anew.
    pub(crate) fn rewrite(&self, name: &str, content: &str) {
        write_file(self.running().folder.path(), name, content);
    }

    /// Removes a file next to the configuration.
    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.running().folder.path().join(name)).expect("a file of the test");
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.running().pid(), name);
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        self.running.take().expect("it runs until it is taken").end()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs until it is taken")
    }
}

/// Writes a file of a test; one that begins with `#!` may be executed.
fn write_file(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file of the test");
    if content.starts_with("#!") {
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    }
}

/// Sends a signal by the shell's own `kill`, since std has no way to.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .expect("a shell is there");
    assert!(status.success(), "kill -{name} {pid}");
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

fn http_get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an HTTP response");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    Ok((status, body.to_owned()))
}

/// Collects what a process writes, so that it never blocks on a full pipe.
struct Said {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Said {
    fn listen_to(mut stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let text = Arc::clone(&text);
            move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    text.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend_from_slice(&buffer[..count]);
                }
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Everything, once the process has ended.
    fn rest(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.text()
    }
}
