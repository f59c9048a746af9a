//! A worker thread on smol: its tasks, its timer and its main loop.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use async_io::Timer;
use balancedns_core::time::Duration;
use balancedns_runtime::threads::WorkerEnd;
use balancedns_runtime::tls::UpstreamClient;
use balancedns_runtime::worker::{self, Adapter, Command, Inbox, LAST_WRITES, Session, Setup};
use futures_rustls::TlsStream;
use futures_rustls::rustls::ServerConfig;
use smol::future::FutureExt;
use smol::net::{TcpListener, TcpStream};

use crate::datagram::{self, Readable};
use crate::local::{self, spawn_local, timeout};
use crate::stream::{self, Stream};

/// A worker on this runtime.
pub(crate) type Worker = worker::Worker<Smol>;

/// This runtime, to a worker.
#[derive(Debug)]
pub(crate) enum Smol {}

impl Adapter for Smol {
    type Stream = Stream<TcpStream>;
    type Tls = Stream<TlsStream<TcpStream>>;

    fn spawn(task: impl Future<Output = ()> + 'static) {
        spawn_local(task).detach();
    }

    fn connect(
        remote: SocketAddr,
        source: Option<IpAddr>,
    ) -> impl Future<Output = io::Result<Self::Stream>> {
        stream::connect(remote, source)
    }

    fn accept_tls(
        stream: Self::Stream,
        config: Arc<ServerConfig>,
    ) -> impl Future<Output = Session<Self::Tls>> {
        stream::accept_tls(stream, config)
    }

    fn connect_tls(
        stream: Self::Stream,
        client: &UpstreamClient,
    ) -> impl Future<Output = Session<Self::Tls>> {
        stream::connect_tls(stream, client)
    }

    async fn timeout(time: Duration, future: impl Future<Output = ()>) {
        let _late = timeout(time, future).await;
    }
}

/// Runs a worker on this thread until it has stopped or cannot go on.
pub(crate) fn run(setup: Setup, inbox: Inbox, started: &dyn Fn()) -> WorkerEnd {
    local::block_on(async {
        let (worker, readable) = start(setup).map_err(|error| error.to_string())?;
        started();
        serve(worker, readable, inbox).await
    })
}

fn start(setup: Setup) -> io::Result<(Rc<Worker>, Readable)> {
    let (worker, listeners) = Worker::new(setup)?;
    let readable = Readable::new(worker.datagrams_ready()?)?;
    for (id, listener) in listeners {
        let listener = TcpListener::try_from(listener)?;
        let accepting = Rc::clone(&worker);
        worker.spawn_acceptor(id, |closing| stream::accept(accepting, id, listener, closing));
    }
    Ok((worker, readable))
}

/// What the main loop has waited for.
enum Turn {
    Command(Command),
    Woken,
    Timeout,
    Failure(io::Error),
}

/// The main loop: commands and deadlines. Datagrams have a task of their own, as streams have.
async fn serve(worker: Rc<Worker>, readable: Readable, mut inbox: Inbox) -> WorkerEnd {
    let mut datagrams = spawn_local(datagram::serve(Rc::clone(&worker), readable));
    let mut timer = Timer::never();
    loop {
        if let Some(end) = worker.end() {
            if end.is_ok() {
                let _late = timeout(LAST_WRITES, worker.all_sent()).await;
            }
            return end;
        }
        if let Some(wait) = worker.next_to_arm() {
            timer.set_after(wait);
        }
        let command = async { Turn::Command(inbox.next().await) };
        let woken = async {
            worker.woken().await;
            Turn::Woken
        };
        let fired = async {
            if !worker.is_armed() {
                return pending().await;
            }
            (&mut timer).await;
            Turn::Timeout
        };
        let failed = async { Turn::Failure((&mut datagrams).await) };
        match command.or(woken).or(fired).or(failed).await {
            Turn::Command(command) => worker.handle_command(command),
            Turn::Woken => {}
            Turn::Timeout => worker.handle_timeout(),
            Turn::Failure(error) => return Err(format!("cannot wait for datagrams: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpStream, UdpSocket};
    use std::sync::mpsc;

    use balancedns_runtime::cli::Options;
    use balancedns_runtime::mailbox::mailbox;
    use balancedns_runtime::startup::Prepared;
    use balancedns_runtime::threads;

    use super::*;

    const CONFIG: &str = r#"return {
        listen = { dns = "127.0.0.1:0", metrics = false, workers = 1 },
        blacklist = { domains = { "blocked.example" } },
        upstreams = { { name = "nobody", addr = "127.0.0.1:9" } },
    }"#;
    /// `blocked.example. A?`, which is answered without any upstream.
    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07blocked\x07example\0\0\x01\0\x01";

    fn prepared() -> Prepared {
        let folder = tempfile::tempdir().expect("creates");
        let path = folder.path().join("test.lua");
        fs::write(&path, CONFIG).expect("writes");
        // The system chooses the port for UDP; somebody may just hold its number for TCP.
        let options = Options { config: Some(path) };
        let mut tries = (0..20).map(|_| Prepared::new(&options));
        tries.find_map(Result::ok).expect("valid and bindable")
    }

    fn setup(prepared: &Prepared) -> Setup {
        Setup {
            index: 0,
            clock: prepared.clock,
            snapshot: Arc::clone(&prepared.snapshot),
            shared: Arc::clone(&prepared.shared),
            tls: Arc::clone(&prepared.tls),
            seed: [1; 32],
            listeners: prepared.listeners.for_worker(0).expect("duplicates"),
        }
    }

    fn ask(server: SocketAddr) -> Vec<u8> {
        let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
        client.connect(server).expect("connects");
        client.send(QUERY).expect("sends");
        let mut answer = [0; 512];
        let len = client.recv(&mut answer).expect("an answer comes");
        answer[..len].to_vec()
    }

    /// Asks a new worker, stops it, and gives its end.
    fn asked_and_stopped(prepared: &Prepared) -> (Vec<u8>, WorkerEnd) {
        let (commands, received) = mailbox();
        let (sender, receiver) = mpsc::channel();
        let setup = setup(prepared);
        let report = move |end| sender.send(end).expect("the test listens");
        let body = move || run(setup, Inbox::new(received), &|| {});
        let thread = threads::spawn(0, body, report).expect("starts");
        let server = prepared.listeners.bound()[0].1;
        let answer = ask(server);
        let idle = TcpStream::connect(server).expect("connects");
        commands.send(Command::Stop);
        let end = receiver.recv_timeout(Duration::from_secs(5)).expect("ends although one is idle");
        thread.join().expect("panics are caught");
        drop(idle);
        (answer, end)
    }

    #[test]
    fn a_worker_answers_until_it_is_stopped() {
        let prepared = prepared();
        let (answer, end) = asked_and_stopped(&prepared);
        assert_eq!((&answer[..2], answer[3] & 0x0f), (&QUERY[..2], 5), "REFUSED");
        assert_eq!(end, Ok(()));
    }

    #[test]
    fn a_panicking_task_ends_its_worker_and_the_next_one_has_its_sockets() {
        threads::install_panic_log();
        let prepared = prepared();
        let setup = setup(&prepared);
        let (_commands, received) = mailbox();
        let end = local::block_on(async {
            let (worker, readable) = start(setup).expect("starts");
            worker.spawn(async { panic!("a defect") });
            let served = serve(worker, readable, Inbox::new(received));
            timeout(Duration::from_secs(5), served).await
        });
        let error = end.expect("does not go on").expect_err("is a failure");
        assert!(error.contains("a defect"), "{error}");
        assert_eq!(asked_and_stopped(&prepared).1, Ok(()));
    }
}
