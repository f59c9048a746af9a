//! A worker: one engine, its datagram sockets, its connections, its deadline.
//!
//! Owns the worker's state and carries out what the engine asks for. Everything of a worker lives
//! on one thread in a [`Worker`], which tasks share by `Rc`. Nothing here waits: the daemons do,
//! for sockets, timers and commands, and enter what came. The state is borrowed for the length of
//! one input and of what follows from it, never across an await.

mod exchanges;
mod streams;

use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use balancedns_core::config::Snapshot;
use balancedns_core::engine::{
    Action, Engine, EngineConfig, IoFailure, ListenerId, Security, Shared,
};
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;
use rustls::ServerConfig;

use crate::bell::Bell;
use crate::clock::{self, Clock};
use crate::conn::Conns;
use crate::datagrams::{Datagrams, Round};
use crate::http::Exchanges;
use crate::listeners::Listener;
use crate::logging;
use crate::mailbox::Receiver;
use crate::process::Processes;
use crate::pump::Octets;
use crate::tasks::Tasks;
use crate::threads::{WorkerEnd, take_last_panic};
use crate::tls::{TlsContext, UpstreamClient};

/// How long the last answers may take to leave after the engine has stopped.
pub const LAST_WRITES: Duration = Duration::from_secs(1);
/// Rounds of reading datagrams before timers and streams get their turn.
const ROUNDS: usize = 16;
/// Octets read from a stream at once.
const READ_OCTETS: usize = 65_536;

/// What a worker is made from.
#[derive(Debug)]
pub struct Setup {
    /// Its number.
    pub index: usize,
    /// The clock of the process.
    pub clock: Clock,
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// What it shares with the other workers.
    pub shared: Arc<Shared>,
    /// How connections are protected.
    pub tls: Arc<TlsContext>,
    /// Its own randomness.
    pub seed: [u8; 32],
    /// Its descriptors of the listening sockets.
    pub listeners: Vec<Listener>,
}

/// Sockets on which streams are accepted.
pub type StreamListeners = Vec<(ListenerId, TcpListener)>;

/// What the control thread asks of a worker.
#[derive(Debug, Clone)]
pub enum Command {
    /// Finish what is in flight and end.
    Stop,
    /// Go on under another configuration with the same listeners.
    Reload(Arc<Snapshot>, Arc<TlsContext>),
}

/// Commands on their way to a worker. There are as many as an operator gives.
#[derive(Debug)]
pub struct Inbox {
    commands: Receiver<Command>,
    is_closed: bool,
}

impl Inbox {
    /// What the control thread sends there.
    #[must_use]
    pub fn new(commands: Receiver<Command>) -> Self {
        Self { commands, is_closed: false }
    }

    /// Waits for the next command. Without a control thread there is nobody to go on for.
    pub async fn next(&mut self) -> Command {
        if self.is_closed {
            return std::future::pending().await;
        }
        self.commands.receive().await.unwrap_or_else(|| {
            self.is_closed = true;
            Command::Stop
        })
    }
}

/// Where a stream is to be connected to, and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// The upstream's address.
    pub remote: SocketAddr,
    /// The local address to bind to, if one is configured.
    pub source: Option<IpAddr>,
    /// Plain or TLS.
    pub security: Security,
}

/// A TLS session, and the protocol that was agreed upon for it.
pub type Session<T> = io::Result<(T, Option<Bytes>)>;

/// What a worker asks of its async runtime: tasks on the worker's own thread, streams, a timer.
pub trait Adapter: Sized + 'static {
    /// A TCP connection.
    type Stream: Octets + Unpin + 'static;
    /// A TLS session on one.
    type Tls: Octets + Unpin + 'static;

    /// Starts a task. Its panic stays in it; the worker learns of it on its own.
    fn spawn(task: impl Future<Output = ()> + 'static);

    /// Connects to another host.
    fn connect(
        remote: SocketAddr,
        source: Option<IpAddr>,
    ) -> impl Future<Output = io::Result<Self::Stream>>;

    /// Does a client's TLS handshake.
    fn accept_tls(
        stream: Self::Stream,
        config: Arc<ServerConfig>,
    ) -> impl Future<Output = Session<Self::Tls>>;

    /// Does the TLS handshake with an upstream.
    fn connect_tls(
        stream: Self::Stream,
        client: &UpstreamClient,
    ) -> impl Future<Output = Session<Self::Tls>>;

    /// Runs a future for that long at most.
    fn timeout(time: Duration, future: impl Future<Output = ()>) -> impl Future<Output = ()>;
}

/// One worker, on the async runtime `A`.
#[derive(Debug)]
pub struct Worker<A> {
    index: usize,
    clock: Clock,
    state: RefCell<State>,
    /// Octets of a read on their way to the engine.
    read_buffer: Rc<RefCell<Box<[u8]>>>,
    /// The main loop has something to look at: an earlier deadline, a task's end.
    wake: Rc<Bell>,
    tasks: Tasks,
    write_timeout: Duration,
    adapter: PhantomData<fn() -> A>,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    datagrams: Datagrams,
    conns: Conns,
    exchanges: Exchanges,
    processes: Processes,
    tls: Arc<TlsContext>,
    /// By listener: rung when its socket is to be closed.
    acceptors: Vec<Option<Rc<Bell>>>,
    /// What the timer of the main loop is set to.
    armed: Option<Instant>,
    stopped: bool,
}

impl<A: Adapter> Worker<A> {
    /// A worker, and the sockets on which it is to accept streams.
    ///
    /// # Errors
    /// The process or machine is out of descriptors or memory.
    pub fn new(setup: Setup) -> io::Result<(Rc<Self>, StreamListeners)> {
        let Setup { index, clock, snapshot, shared, tls, seed, listeners } = setup;
        let settings = &snapshot.listen;
        let (udp_size, write_timeout) = (settings.udp_size, settings.write_timeout);
        let metrics = shared.worker_metrics(index);
        let engine = Engine::new(
            EngineConfig { shared, snapshot, metrics, policy_clock: Some(clock::since_boot), seed },
            clock.now(),
        );
        let mut datagrams = Datagrams::new(clock, udp_size)?;
        let processes = Processes::new()?;
        datagrams.watch(&processes)?;
        let mut streams = Vec::new();
        for (place, listener) in listeners.into_iter().enumerate() {
            let id = ListenerId(u16::try_from(place).expect("listeners are counted in u16"));
            match listener {
                Listener::Udp(socket) => datagrams.add_listener(id, socket)?,
                Listener::Stream(socket) => streams.push((id, socket)),
            }
        }
        let state = State {
            engine,
            datagrams,
            conns: Conns::default(),
            exchanges: Exchanges::default(),
            processes,
            tls,
            acceptors: Vec::new(),
            armed: None,
            stopped: false,
        };
        let wake = Rc::new(Bell::default());
        let worker = Self {
            index,
            clock,
            state: RefCell::new(state),
            read_buffer: Rc::new(RefCell::new(vec![0; READ_OCTETS].into())),
            tasks: Tasks::new(Rc::clone(&wake)),
            wake,
            write_timeout,
            adapter: PhantomData,
        };
        let worker = Rc::new(worker);
        worker.input(|_, _| ()); // it may have things to do already: names to look up
        Ok((worker, streams))
    }

    /// A descriptor that is readable when [`read_datagrams`](Self::read_datagrams) finds some, or
    /// something of a process.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn datagrams_ready(&self) -> io::Result<OwnedFd> {
        self.state.borrow().datagrams.as_fd().try_clone_to_owned()
    }

    /// Why the worker is to end, if it is: it has stopped as it was asked to, or a task panicked.
    #[must_use]
    pub fn end(&self) -> Option<WorkerEnd> {
        if self.tasks.has_panicked() {
            return Some(Err(take_last_panic().unwrap_or_else(|| "a task panicked".to_owned())));
        }
        self.state.borrow().stopped.then_some(Ok(()))
    }

    /// Waits until connections that the engine closed have sent their last answers. The caller
    /// gives them [`LAST_WRITES`].
    pub async fn all_sent(&self) {
        while !self.tasks.all_ended() {
            self.wake.rung().await;
        }
    }

    /// Waits until there is something to look at beside commands, deadline and datagrams.
    pub async fn woken(&self) {
        self.wake.rung().await;
    }

    /// The wait to set the timer to, if it is not yet set to that or to an earlier end: firing too
    /// early is harmless, setting it for each query is not free.
    pub fn next_to_arm(&self) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        let next = state.next_earlier_deadline()?;
        state.armed = Some(next);
        Some(next.since(self.clock.now()))
    }

    /// Whether the timer is set.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.state.borrow().armed.is_some()
    }

    /// The timer has fired.
    pub fn handle_timeout(self: &Rc<Self>) {
        self.state.borrow_mut().armed = None;
        self.input(Engine::handle_timeout);
    }

    /// The control thread asks for something.
    pub fn handle_command(self: &Rc<Self>, command: Command) {
        match command {
            Command::Stop => self.input(Engine::handle_shutdown),
            Command::Reload(snapshot, tls) => {
                self.state.borrow_mut().tls = tls; // first: what follows may connect already
                self.input(|engine, now| engine.handle_reload(now, snapshot));
            }
        }
    }

    /// Reads what datagrams there are, and what processes of plugins have to say, within bounds, and
    /// carries out what follows. Where there is more, it is to be called again although nothing
    /// becomes ready, after all others had a turn.
    ///
    /// # Errors
    /// Readiness itself failed: the worker cannot go on.
    pub fn read_datagrams(self: &Rc<Self>) -> io::Result<Round> {
        for _ in 0..ROUNDS {
            let state = &mut *self.state.borrow_mut();
            let datagrams = state.datagrams.round(&mut state.engine)?;
            let processes = state.look_at_processes(self.clock.now())?;
            self.settle(state);
            match (datagrams, processes) {
                (Round::Drained, Round::Drained) => return Ok(Round::Drained),
                (Round::More, _) | (_, Round::More) => {}
            }
        }
        Ok(Round::More)
    }

    /// Starts a task that accepts connections. It is made from what rings when the socket is to be
    /// closed, after a last look at who waits to be accepted.
    pub fn spawn_acceptor<F>(self: &Rc<Self>, id: ListenerId, task: impl FnOnce(Rc<Bell>) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let closing = Rc::new(Bell::default());
        let place = usize::from(id.0);
        let mut state = self.state.borrow_mut();
        while state.acceptors.len() <= place {
            state.acceptors.push(None);
        }
        state.acceptors[place] = Some(Rc::clone(&closing));
        drop(state);
        A::spawn(self.tasks.watched(task(closing)));
    }

    /// Starts the task of a connection, which [`all_sent`](Self::all_sent) waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        A::spawn(self.tasks.counted(task));
    }

    /// Gives the engine an input, and carries out what follows.
    fn input<R>(self: &Rc<Self>, input: impl FnOnce(&mut Engine, Instant) -> R) -> R {
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
        if state.stopped || state.next_earlier_deadline().is_some() {
            self.wake.ring();
        }
    }

    fn carry_out(self: &Rc<Self>, state: &mut State, now: Instant, action: Action) {
        let State { engine, datagrams, conns, exchanges, processes, .. } = state;
        match action {
            Action::OpenSocket { socket, remote, source } => {
                datagrams.open_socket(engine, socket, remote, source);
            }
            Action::CloseSocket { socket } => datagrams.close_socket(socket),
            Action::Connect { conn, remote, source, security } => {
                let target = Target { remote, source, security };
                self.spawn(Rc::clone(self).serve_upstream(conns.enter(conn), target));
            }
            Action::Write { conn, bytes } => conns.write(conn, bytes),
            Action::PauseReading { conn } => conns.set_paused(conn, true),
            Action::ResumeReading { conn } => conns.set_paused(conn, false),
            Action::CloseConn { conn, mode } => conns.close(conn, mode),
            Action::CloseListener { listener } => {
                if !datagrams.close_listener(engine, listener) {
                    state.close_acceptor(listener);
                }
            }
            Action::Respond { exchange, response } => exchanges.respond(exchange, response),
            Action::StartExchange { exchange, conn, request } => {
                let to = conns.get(conn).and_then(|conn| Some((conn, conn.requests()?)));
                let Some((conn, requests)) = to else {
                    engine.handle_exchange_failed(now, exchange, IoFailure::Reset);
                    return;
                };
                let cancelled = exchanges.enter_upstream(exchange);
                let (worker, conn) = (Rc::clone(self), Rc::clone(conn));
                requests.start(worker, conn, exchange, cancelled, *request);
            }
            Action::CancelExchange { exchange } => exchanges.cancel(exchange),
            Action::StartProcess { process, command, input } => {
                processes.start(engine, now, process, command, input);
            }
            Action::FeedProcess { process, input } => processes.feed(now, process, input),
            Action::KillProcess { process } => processes.kill(process),
            // Nobody asks yet.
            Action::AnswerAdmin { .. } => {}
            Action::Report(event) => logging::event(self.index, &event),
            Action::Stopped => {
                processes.end();
                state.stopped = true;
            }
        }
    }
}

impl State {
    /// One look at processes, if there may be anything.
    fn look_at_processes(&mut self, now: Instant) -> io::Result<Round> {
        if !self.datagrams.take_other_ready() && !self.processes.is_unfinished() {
            return Ok(Round::Drained);
        }
        self.processes.round(&mut self.engine, now)
    }

    /// The engine's deadline, if it is earlier than what the timer is set to.
    fn next_earlier_deadline(&self) -> Option<Instant> {
        let (next, _) = self.engine.next_timeout()?;
        self.armed.is_none_or(|armed| next < armed).then_some(next)
    }

    fn close_acceptor(&mut self, listener: ListenerId) {
        let acceptor = self.acceptors.get_mut(usize::from(listener.0));
        if let Some(closing) = acceptor.and_then(Option::take) {
            closing.ring();
        }
    }
}

/// What is made of failures to accept a connection.
#[derive(Debug, Default)]
pub struct AcceptFailures {
    /// The operator has been told of those that go on.
    warned: bool,
}

impl AcceptFailures {
    /// Wait after one for want of descriptors or memory.
    const PAUSE: Duration = Duration::from_millis(50);

    /// One was accepted: the next failure is news.
    pub fn clear(&mut self) {
        self.warned = false;
    }

    /// How long to wait before accepting again, if at all.
    pub fn pause_after(&mut self, error: &io::Error) -> Option<Duration> {
        // The client has gone meanwhile.
        if IoFailure::from(error) == IoFailure::Reset {
            return None;
        }
        if !self.warned {
            tracing::warn!(event = "accept_failed", "cannot accept: {error}");
        }
        self.warned = true;
        Some(Self::PAUSE)
    }
}

#[cfg(test)]
mod tests;
