//! What a datagram costs: the daemons beside a plain loop of recvmmsg and sendmmsg, with 1, 2 and 8
//! workers, in CPU time of the server per answer.
//!
//! `cargo run --release -p balancedns-benches --bin packets -- DAEMON...`
//!
//! Every server answers the same question with the same number of octets: the plain loop by turning
//! it round, a daemon by refusing a blocked name. Load is a closed loop over many sockets, so that
//! the kernel spreads it over the workers. Loopback only, bounded in time; rounds are interleaved and
//! medians printed. CPU time is that of `/proc/PID/stat`, a hundredth of a second fine.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use balancedns_core::batch::ReceiveBatch;
use balancedns_core::limits::{BATCH_DATAGRAMS, CLIENT_DATAGRAM_OCTETS};
use balancedns_runtime::socket::{Reuse, udp_listener};
use balancedns_runtime::udp::{DatagramSocket, UdpIo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// `blocked.example. A?`
const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07blocked\x07example\0\0\x01\0\x01";
const WORKERS: [usize; 3] = [1, 2, 8];
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);
/// Client sockets per worker, and queries in flight on each.
const SOCKETS_PER_WORKER: usize = 16;
const WINDOW: usize = 16;
/// The clock of /proc counts hundredths of seconds on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;
/// How the program calls itself for the plain loop.
const PLAIN: &str = "--plain-loop";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    let result = match first.as_deref() {
        None => Err(io::Error::other("usage: packets DAEMON...")),
        Some(PLAIN) => plain(&mut arguments),
        Some(daemon) => {
            let daemons: Vec<PathBuf> =
                std::iter::once(daemon.into()).chain(arguments.map(Into::into)).collect();
            compare(&daemons)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("packets: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The plain loop: one thread per worker, which waits in poll and else only receives and sends.
fn plain(arguments: &mut impl Iterator<Item = String>) -> io::Result<()> {
    let mut next = || arguments.next().ok_or_else(|| io::Error::other("too few arguments"));
    let addr: SocketAddr = next()?.parse().map_err(io::Error::other)?;
    let workers: usize = next()?.parse().map_err(io::Error::other)?;
    let reuse = Reuse { port: true, address: false };
    let sockets: io::Result<Vec<UdpSocket>> =
        (0..workers).map(|_| udp_listener(addr, reuse)).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            sockets?.into_iter().map(|socket| scope.spawn(|| plain_loop(socket))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("does not panic"))
    })
}

fn plain_loop(socket: UdpSocket) -> io::Result<()> {
    const REFUSED: [u8; 2] = [0x81, 0x85];
    let socket = DatagramSocket::listener(socket)?;
    let mut udp = UdpIo::default();
    let mut received = ReceiveBatch::new(BATCH_DATAGRAMS, CLIENT_DATAGRAM_OCTETS);
    loop {
        wait(&[&socket], PollTimeout::NONE)?;
        while udp.receive(&socket, &mut received)? > 0 {
            let mut answers: Vec<(SocketAddr, [u8; QUERY.len()])> =
                Vec::with_capacity(received.len());
            for (meta, message) in received.iter() {
                let mut answer: [u8; QUERY.len()] = message.try_into().map_err(io::Error::other)?;
                answer[2..4].copy_from_slice(&REFUSED);
                answers.push((meta.peer, answer));
            }
            udp.send(
                &socket,
                None,
                answers.iter().map(|(peer, answer)| (Some(*peer), &answer[..])),
            );
        }
    }
}

fn wait(sockets: &[&DatagramSocket], timeout: PollTimeout) -> io::Result<()> {
    let mut waiting: Vec<PollFd<'_>> =
        sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut waiting, timeout)?;
    Ok(())
}

/// Measures everything in turn and prints a table.
fn compare(daemons: &[PathBuf]) -> io::Result<()> {
    let servers: Vec<Option<&Path>> =
        std::iter::once(None).chain(daemons.iter().map(|daemon| Some(daemon.as_path()))).collect();
    let mut table = String::from("| workers |");
    for server in &servers {
        write!(table, " {} |", name_of(*server)).expect("text takes text");
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(servers.len()));
    for workers in WORKERS {
        let mut costs = vec![Vec::new(); servers.len()];
        for _ in 0..ROUNDS {
            for (server, costs) in servers.iter().zip(&mut costs) {
                costs.push(measure(*server, workers)?);
            }
        }
        write!(table, "\n| {workers} |").expect("text takes text");
        for costs in &mut costs {
            costs.sort_by(f64::total_cmp);
            write!(
                table,
                " {:.2} ({:.2} to {:.2}) |",
                costs[ROUNDS / 2],
                costs[0],
                costs[ROUNDS - 1]
            )
            .expect("text takes text");
        }
    }
    let heading = format!("CPU us of the server per answer, median (least to most) of {ROUNDS}");
    writeln!(io::stdout(), "{heading}\n\n{table}")
}

fn name_of(server: Option<&Path>) -> String {
    let name = server.and_then(Path::file_name);
    name.map_or_else(|| "plain loop".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// CPU microseconds of a server per answer.
fn measure(server: Option<&Path>, workers: usize) -> io::Result<f64> {
    let addr = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(server, addr, workers, folder.path())?;
    let mut load = Load::start(addr, workers * SOCKETS_PER_WORKER)?;
    load.run(WARM_UP)?;
    let before = server.cpu_seconds()?;
    let answers = load.run(MEASURED)?;
    let spent = server.cpu_seconds()? - before;
    if answers == 0 {
        return Err(io::Error::other("no answers"));
    }
    Ok(spent * 1e6 / answers as f64)
}

/// A server that is ended when it is no longer needed.
struct Server(Child);

impl Server {
    fn start(
        daemon: Option<&Path>,
        addr: SocketAddr,
        workers: usize,
        folder: &Path,
    ) -> io::Result<Self> {
        let mut command = match daemon {
            None => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([PLAIN, &addr.to_string(), &workers.to_string()]);
                command
            }
            Some(daemon) => {
                let path = folder.join("packets.lua");
                let config = format!(
                    "return {{ listen = {{ dns = \"{addr}\", metrics = false, workers = {workers} }},
                       blacklist = {{ domains = {{ \"blocked.example\" }} }},
                       upstreams = {{ {{ name = \"nobody\", addr = \"127.0.0.1:9\" }} }} }}"
                );
                std::fs::write(&path, config)?;
                let mut command = Command::new(daemon);
                command.arg("-config").arg(path);
                command
            }
        };
        let server = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        server.wait_until_it_answers(addr)?;
        Ok(server)
    }

    fn wait_until_it_answers(&self, addr: SocketAddr) -> io::Result<()> {
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.set_read_timeout(Some(Duration::from_millis(50)))?;
        for _ in 0..100 {
            let mut answer = [0; 512];
            if client.send_to(QUERY, addr).is_ok() && client.recv(&mut answer).is_ok() {
                return Ok(());
            }
        }
        Err(io::Error::other("the server does not answer"))
    }

    /// User and system time so far.
    fn cpu_seconds(&mut self) -> io::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        // Behind the name in parentheses, which may hold anything: utime and stime are the 12th and
        // the 13th field.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).flat_map(str::parse).collect();
        Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A closed loop over many sockets.
struct Load {
    sockets: Vec<DatagramSocket>,
    udp: UdpIo,
    received: ReceiveBatch,
}

impl Load {
    fn start(server: SocketAddr, sockets: usize) -> io::Result<Self> {
        let socket = |_| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(server)?;
            socket.set_nonblocking(true)?;
            Ok(DatagramSocket::connected(socket, server))
        };
        let sockets: io::Result<Vec<_>> = (0..sockets).map(socket).collect();
        let received = ReceiveBatch::new(BATCH_DATAGRAMS, 512);
        Ok(Self { sockets: sockets?, udp: UdpIo::default(), received })
    }

    /// Keeps every socket's window full for so long; says how many answers came.
    fn run(&mut self, time: Duration) -> io::Result<u64> {
        let end = Instant::now() + time;
        let mut answers = 0;
        self.fill();
        while Instant::now() < end {
            let mut idle = true;
            for socket in &self.sockets {
                let count = self.udp.receive(socket, &mut self.received)?;
                if count > 0 {
                    idle = false;
                    answers += count as u64;
                    send(&mut self.udp, socket, count);
                }
            }
            if idle {
                let all: Vec<&DatagramSocket> = self.sockets.iter().collect();
                wait(&all, PollTimeout::from(20u8))?;
            }
        }
        // What is still on its way belongs to nobody.
        wait(&[], PollTimeout::from(100u8))?;
        for socket in &self.sockets {
            while self.udp.receive(socket, &mut self.received)? > 0 {}
        }
        Ok(answers)
    }

    fn fill(&mut self) {
        for socket in &self.sockets {
            send(&mut self.udp, socket, WINDOW);
        }
    }
}

fn send(udp: &mut UdpIo, socket: &DatagramSocket, count: usize) {
    udp.send(socket, None, std::iter::repeat_n((None, QUERY), count));
}
