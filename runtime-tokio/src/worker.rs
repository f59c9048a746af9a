//! A worker thread: one engine, its sockets, its timer, its connections.
//!
//! Everything of a worker lives on one thread in [`Worker`], which tasks share by `Rc`. The state
//! is borrowed for the length of one input and of what follows from it, never across an await.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use balancedns_core::config::Snapshot;
use balancedns_core::engine::{
    Action, CloseMode, Engine, EngineConfig, IoFailure, ListenerId, ProcessExit, Shared,
};
use balancedns_core::handle::{self, ConnHandle, Table};
use balancedns_core::time::{Duration, Instant};
use balancedns_runtime::clock::Clock;
use balancedns_runtime::datagrams::{Datagrams, Round};
use balancedns_runtime::listeners::Listener;
use balancedns_runtime::logging;
use balancedns_runtime::workers::{WorkerEnd, take_last_panic};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{self as tokio_time, sleep, timeout};

use crate::datagram::{self, Readable};
use crate::stream::{self, Acceptor, Conn};

/// How long the last answers may take to leave after the engine has stopped.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// Octets read from a stream at once.
const READ_OCTETS: usize = 65_536;

/// What a worker is made from.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Its number.
    pub(crate) index: usize,
    /// The clock of the process.
    pub(crate) clock: Clock,
    /// The configuration.
    pub(crate) snapshot: Arc<Snapshot>,
    /// What it shares with the other workers.
    pub(crate) shared: Arc<Shared>,
    /// Its own randomness.
    pub(crate) seed: [u8; 32],
    /// Its descriptors of the listening sockets.
    pub(crate) listeners: Vec<Listener>,
}

/// What the control thread asks of a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    /// Finish what is in flight and end.
    Stop,
}

/// Runs a worker on this thread until it has stopped or cannot go on.
pub(crate) fn run(
    setup: Setup,
    commands: UnboundedReceiver<Command>,
    started: impl FnOnce(),
) -> WorkerEnd {
    let failed = |error: io::Error| error.to_string();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    LocalSet::new().block_on(&runtime, async {
        let (worker, readable) = Worker::start(setup).map_err(failed)?;
        started();
        worker.serve(&readable, commands).await
    })
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    index: usize,
    clock: Clock,
    state: RefCell<State>,
    /// Octets of a read on their way to the engine.
    pub(crate) read_buffer: RefCell<Box<[u8]>>,
    /// The main loop has something to look at: an earlier deadline, a task's end.
    wake: Notify,
    /// Tasks of connections that have not ended.
    tasks: Cell<usize>,
    /// A task has panicked: the engine may be inconsistent.
    broken: Cell<bool>,
    /// How long a closed connection may take to send what it still holds.
    write_timeout: Duration,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    datagrams: Datagrams,
    conns: Table<handle::Conn, Rc<Conn>>,
    acceptors: Vec<Option<Rc<Acceptor>>>,
    /// What the timer of the main loop is set to.
    armed: Option<Instant>,
    stopped: bool,
}

impl Worker {
    fn start(setup: Setup) -> io::Result<(Rc<Self>, Readable)> {
        let Setup { index, clock, snapshot, shared, seed, listeners } = setup;
        let settings = &snapshot.listen;
        let (udp_size, write_timeout) = (settings.udp_size, settings.write_timeout);
        let metrics = shared.worker_metrics(index);
        let engine = Engine::new(EngineConfig { shared, snapshot, metrics, seed }, clock.now());
        let mut datagrams = Datagrams::new(clock, udp_size)?;
        let mut streams = Vec::new();
        for (place, listener) in listeners.into_iter().enumerate() {
            let id = ListenerId(u16::try_from(place).expect("listeners are counted in u16"));
            match listener {
                Listener::Udp(socket) => datagrams.add_listener(id, socket)?,
                Listener::Stream(socket) => streams.push((id, TcpListener::from_std(socket)?)),
            }
        }
        let readable = Readable::new(&datagrams)?;
        let state = State {
            engine,
            datagrams,
            conns: Table::default(),
            acceptors: Vec::new(),
            armed: None,
            stopped: false,
        };
        let worker = Rc::new(Self {
            index,
            clock,
            state: RefCell::new(state),
            read_buffer: RefCell::new(vec![0; READ_OCTETS].into()),
            wake: Notify::new(),
            tasks: Cell::new(0),
            broken: Cell::new(false),
            write_timeout,
        });
        for (id, listener) in streams {
            worker.accept_on(id, listener);
        }
        Ok((worker, readable))
    }

    fn accept_on(self: &Rc<Self>, id: ListenerId, listener: TcpListener) {
        let acceptor = Rc::new(Acceptor::default());
        let place = usize::from(id.0);
        let mut state = self.state.borrow_mut();
        while state.acceptors.len() <= place {
            state.acceptors.push(None);
        }
        state.acceptors[place] = Some(Rc::clone(&acceptor));
        let guard = PanicGuard(Rc::clone(self));
        let worker = Rc::clone(self);
        spawn_local(async move {
            let _guard = guard;
            stream::accept(worker, id, listener, acceptor).await;
        });
    }

    /// The main loop: commands, deadlines, datagrams. Streams have tasks of their own.
    async fn serve(
        self: Rc<Self>,
        readable: &Readable,
        mut commands: UnboundedReceiver<Command>,
    ) -> WorkerEnd {
        let mut timer = pin!(sleep(Duration::ZERO));
        let mut stopping = false;
        loop {
            if self.broken.get() {
                return Err(take_last_panic().unwrap_or_else(|| "a task panicked".to_owned()));
            }
            if self.state.borrow().stopped {
                self.last_writes().await;
                return Ok(());
            }
            if let Some(at) = self.next_to_arm() {
                timer.as_mut().reset(tokio_time::Instant::now() + at.since(self.clock.now()));
            }
            let is_armed = self.state.borrow().armed.is_some();
            tokio::select! {
                biased;
                command = commands.recv(), if !stopping => match command {
                    // Without a control thread there is nobody to go on for.
                    Some(Command::Stop) | None => {
                        stopping = true;
                        self.input(Engine::handle_shutdown);
                    }
                },
                () = self.wake.notified() => {}
                () = &mut timer, if is_armed => {
                    self.state.borrow_mut().armed = None;
                    self.input(Engine::handle_timeout);
                }
                ready = readable.ready() => {
                    let rounds = async { datagram::rounds(&self, ready?).await };
                    rounds.await.map_err(|error| format!("cannot wait for datagrams: {error}"))?;
                }
            }
        }
    }

    /// The deadline to set the timer to, if it is not yet set to that or to an earlier one: firing
    /// too early is harmless, setting it for each query is not free.
    fn next_to_arm(&self) -> Option<Instant> {
        let mut state = self.state.borrow_mut();
        let (next, _) = state.engine.next_timeout()?;
        if state.armed.is_some_and(|armed| armed <= next) {
            return None;
        }
        state.armed = Some(next);
        Some(next)
    }

    /// After the engine has stopped: connections that it closed may still hold their last answers.
    async fn last_writes(&self) {
        let all_ended = async {
            while self.tasks.get() > 0 {
                self.wake.notified().await;
            }
        };
        let _late = timeout(LAST_WRITES, all_ended).await;
    }

    /// Reads ready UDP sockets once, and carries out what follows.
    pub(crate) fn round(self: &Rc<Self>) -> io::Result<Round> {
        let state = &mut *self.state.borrow_mut();
        let round = state.datagrams.round(&mut state.engine)?;
        self.settle(state);
        Ok(round)
    }

    /// Gives the engine an input, and carries out what follows.
    pub(crate) fn input<R>(self: &Rc<Self>, input: impl FnOnce(&mut Engine, Instant) -> R) -> R {
        let state = &mut *self.state.borrow_mut();
        let result = input(&mut state.engine, self.clock.now());
        self.settle(state);
        result
    }

    /// Sends and does whatever the engine asks for, until it asks for nothing more.
    fn settle(self: &Rc<Self>, state: &mut State) {
        loop {
            state.datagrams.transmit(&mut state.engine);
            let now = self.clock.now();
            let mut acted = false;
            while let Some(action) = state.engine.poll_action(now) {
                self.carry_out(state, now, action);
                acted = true;
            }
            if !acted {
                break;
            }
        }
        let next = state.engine.next_timeout().map(|(at, _)| at);
        let is_late = |next| state.armed.is_none_or(|armed| next < armed);
        if state.stopped || next.is_some_and(is_late) {
            self.wake.notify_one();
        }
    }

    fn carry_out(self: &Rc<Self>, state: &mut State, now: Instant, action: Action) {
        let State { engine, datagrams, conns, .. } = state;
        match action {
            Action::OpenSocket { socket, remote, source } => {
                datagrams.open_socket(engine, socket, remote, source);
            }
            Action::CloseSocket { socket } => datagrams.close_socket(socket),
            Action::Connect { conn, remote, source, security } => {
                let entry = Rc::new(Conn::new(conn));
                enter(conns, conn, &entry);
                let worker = Rc::clone(self);
                self.spawn(stream::connect(worker, entry, remote, source, security));
            }
            Action::Write { conn, bytes } => with(conns, conn, |conn| conn.write(bytes)),
            Action::PauseReading { conn } => with(conns, conn, |conn| conn.set_paused(true)),
            Action::ResumeReading { conn } => with(conns, conn, |conn| conn.set_paused(false)),
            Action::CloseConn { conn, mode } => {
                if let Some(conn) = conns.remove(conn) {
                    conn.close(mode);
                }
            }
            Action::CloseListener { listener } => {
                if !datagrams.close_listener(engine, listener) {
                    let acceptor = state.acceptors.get_mut(usize::from(listener.0));
                    if let Some(acceptor) = acceptor.and_then(Option::take) {
                        acceptor.close();
                    }
                }
            }
            // This build speaks no HTTP to clients: there is no exchange to answer.
            Action::Respond { .. } | Action::CancelResponse { .. } => {}
            Action::StartExchange { exchange, .. } => {
                engine.handle_exchange_failed(now, exchange, IoFailure::Unsupported);
            }
            Action::CancelExchange { .. } => {}
            Action::StartProcess { process, .. } => {
                let exit = ProcessExit::NotStarted(IoFailure::Unsupported);
                engine.handle_process_exited(now, process, exit);
            }
            Action::FeedProcess { .. } | Action::KillProcess { .. } => {}
            // Nobody asks yet.
            Action::AnswerAdmin { .. } => {}
            Action::Report(event) => logging::event(self.index, &event),
            Action::Stopped => state.stopped = true,
        }
    }

    /// Enters a client's connection under its handle and serves it.
    pub(crate) fn serve_client<S: stream::Stream>(self: &Rc<Self>, conn: ConnHandle, stream: S) {
        let entry = Rc::new(Conn::new(conn));
        enter(&mut self.state.borrow_mut().conns, conn, &entry);
        self.spawn(stream::serve(Rc::clone(self), entry, stream));
    }

    /// A connection has ended by itself.
    pub(crate) fn forget(&self, conn: ConnHandle) {
        self.state.borrow_mut().conns.remove(conn);
    }

    /// How long a closed connection may take to send what it still holds.
    pub(crate) fn write_timeout(&self) -> Duration {
        self.write_timeout
    }

    fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.tasks.set(self.tasks.get() + 1);
        let guard = TaskGuard(PanicGuard(Rc::clone(self)));
        spawn_local(async move {
            let _guard = guard;
            task.await;
        });
    }
}

/// Enters a connection under its handle. One that still held the slot would never end.
fn enter(conns: &mut Table<handle::Conn, Rc<Conn>>, conn: ConnHandle, entry: &Rc<Conn>) {
    if let Some(forgotten) = conns.insert(conn, Rc::clone(entry)) {
        forgotten.close(CloseMode::Now);
    }
}

fn with(conns: &Table<handle::Conn, Rc<Conn>>, conn: ConnHandle, act: impl FnOnce(&Conn)) {
    // One that broke meanwhile has told the engine so.
    if let Some(conn) = conns.get(conn) {
        act(conn);
    }
}

/// Tokio catches panics of tasks, but a worker whose task panicked must not go on.
#[derive(Debug)]
struct PanicGuard(Rc<Worker>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.broken.set(true);
            self.0.wake.notify_one();
        }
    }
}

/// Counts the task of a connection out.
#[derive(Debug)]
struct TaskGuard(PanicGuard);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let worker = &self.0.0;
        worker.tasks.set(worker.tasks.get() - 1);
        if worker.tasks.get() == 0 {
            worker.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{SocketAddr, TcpStream, UdpSocket};
    use std::sync::mpsc;

    use balancedns_runtime::cli::Options;
    use balancedns_runtime::startup::Prepared;
    use balancedns_runtime::workers;
    use tokio::sync::mpsc::unbounded_channel;

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
        let (commands, received) = unbounded_channel();
        let (sender, receiver) = mpsc::channel();
        let setup = setup(prepared);
        let report = move |end| sender.send(end).expect("the test listens");
        let body = move || run(setup, received, || {});
        let thread = workers::spawn(0, body, report).expect("starts");
        let server = prepared.listeners.bound()[0].1;
        let answer = ask(server);
        let idle = TcpStream::connect(server).expect("connects");
        commands.send(Command::Stop).expect("runs");
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
        workers::install_panic_log();
        let prepared = prepared();
        let setup = setup(&prepared);
        let (_commands, received) = unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let end = LocalSet::new().block_on(&runtime.expect("builds"), async {
            let (worker, readable) = Worker::start(setup).expect("starts");
            worker.spawn(async { panic!("a defect") });
            timeout(Duration::from_secs(5), worker.serve(&readable, received)).await
        });
        let error = end.expect("does not go on").expect_err("is a failure");
        assert!(error.contains("a defect"), "{error}");
        assert_eq!(asked_and_stopped(&prepared).1, Ok(()));
    }
}
