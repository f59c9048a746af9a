//! The daemon itself: started from the binary that cargo built, waited for until it is ready,
//! killed by its id when the test is over.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use super::http::Version;
use super::octets::Door;
use super::settings::{Extra, Stderr, write_file};
use super::tls;
use super::{Client, Query, Reply, StreamClient, UdpClient, Via, proxy, until};
use crate::case::World;

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
    /// Starts a process that works in the folder.
    pub(super) fn new(folder: TempDir, config: String, command: &mut Command, to: Stderr) -> Self {
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

    pub(super) fn wait_until_ready(
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
    pub(super) doors: Vec<(Extra, u16)>,
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

/// Sends a signal by the shell's own `kill`, since std has no way to.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .expect("a shell is there");
    assert!(status.success(), "kill -{name} {pid}");
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
