//! Workers: feeding inputs to their engines, carrying out what these ask for, and what is checked at
//! that border.

use std::net::SocketAddr;

use balancedns_core::engine::{Established, IoFailure, Origin, ProcessExit};
use balancedns_core::handle::{ConnHandle, ExchangeHandle, ProcessHandle, SocketHandle};
use balancedns_core::hash::{KeyedState, Map};
use balancedns_core::limits;
use balancedns_core::metrics::Counter;
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;

use super::World;
use super::processes::{Calls, Process};
use super::queue::{Event, Life};
use super::sends::{Habits, SocketState};
use super::server_streams::{ConnectFailed, ServerConn};
use crate::fault::Fault;
use crate::generation::Protocol;
use crate::invariant::{Broken, Invariant};
use crate::machine::{Datagram, Input, Machine, Output};
use crate::model::Channel;
use crate::truth::Kind;

/// Handles that have ended and are kept, to be reported on nevertheless.
const GRAVES: usize = 16;
/// Names that are asked for again when nothing fails any more.
const FAILED_NAMES: usize = 8;
/// Inputs at one instant that only a loop without delay can need.
const STEPS_AT_ONCE: u64 = 200_000;

/// Rcodes that replies are counted by, the last for all others.
pub(super) const RCODES: [(Option<u8>, Counter); 7] = [
    (Some(0), Counter::RepliesNoError),
    (Some(1), Counter::RepliesFormErr),
    (Some(2), Counter::RepliesServFail),
    (Some(3), Counter::RepliesNxDomain),
    (Some(4), Counter::RepliesNotImp),
    (Some(5), Counter::RepliesRefused),
    (None, Counter::RepliesOther),
];

/// Something that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Socket(SocketHandle),
    Conn(ConnHandle),
    Exchange(ExchangeHandle),
    Process(ProcessHandle),
}

/// An HTTP exchange: the connection that carries it, and its number if it is a client's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    pub(super) conn: ConnHandle,
    pub(super) of_client: Option<u64>,
}

/// A stream connection.
#[derive(Debug)]
pub(super) enum Conn {
    Client(u64),
    Server(ServerConn),
}

/// A worker thread.
#[derive(Debug)]
pub(super) struct Worker {
    /// None while it does not run.
    pub(super) machine: Option<Machine>,
    /// How often it was started.
    pub(super) start: u64,
    pub(super) started_at: Instant,
    /// How often in a row it ended soon.
    pub(super) failures: u32,
    /// The generation that it works with.
    pub(super) generation: usize,
    /// Whether its listeners are open.
    pub(super) listens: bool,
    pub(super) stopped: bool,
    /// It does nothing about its deadlines until then.
    pub(super) late_until: Instant,
    pub(super) sockets: Map<SocketHandle, SocketState>,
    pub(super) conns: Map<ConnHandle, Conn>,
    pub(super) exchanges: Map<ExchangeHandle, Exchange>,
    pub(super) processes: Map<ProcessHandle, Process>,
    pub(super) calls: Calls,
    /// Connects to an address that came to nothing.
    pub(super) connect_failed: Map<SocketAddr, ConnectFailed>,
    pub(super) graves: Vec<End>,
    pub(super) habits: Habits,
    /// Replies by their rcode, and those that were cut off.
    pub(super) replies: [u64; RCODES.len()],
    pub(super) truncated: u64,
    /// Queries by datagram that are no garbage.
    pub(super) datagrams: u64,
    pub(super) probes_before_outage: Option<u64>,
    /// Queries that must have been looked up in the cache.
    pub(super) looked_up: u64,
    /// Queries that waited when the worker ended in a panic, in all its lives.
    pub(super) lost: u64,
    pub(super) steps: u64,
    steps_now: (Instant, u64),
}

impl Worker {
    pub(super) fn new() -> Self {
        Self {
            machine: None,
            start: 0,
            started_at: Instant::ZERO,
            failures: 0,
            generation: 0,
            listens: true,
            stopped: false,
            late_until: Instant::ZERO,
            sockets: Map::with_hasher(KeyedState::new((6, 6))),
            conns: Map::with_hasher(KeyedState::new((7, 7))),
            exchanges: Map::with_hasher(KeyedState::new((14, 14))),
            processes: Map::with_hasher(KeyedState::new((17, 17))),
            calls: Calls::new(),
            connect_failed: Map::with_hasher(KeyedState::new((8, 8))),
            graves: Vec::new(),
            habits: Habits::new(),
            replies: [0; RCODES.len()],
            truncated: 0,
            datagrams: 0,
            probes_before_outage: None,
            looked_up: 0,
            lost: 0,
            steps: 0,
            steps_now: (Instant::ZERO, 0),
        }
    }

    /// One of its counters, which outlive it; zero while it does not run.
    pub(super) fn value(&self, counter: Counter) -> u64 {
        self.machine.as_ref().map_or(0, |machine| machine.metrics().counters.value(counter))
    }

    pub(super) fn life(&self, engine: usize) -> Life {
        Life { engine, start: self.start }
    }

    /// Whether it still is in this life.
    pub(super) fn is_alive(&self, life: Life) -> bool {
        self.start == life.start && self.machine.is_some()
    }

    /// Its next deadline, as late as it is.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let (at, _) = self.machine.as_ref()?.engine().next_timeout()?;
        Some(at.max(self.late_until))
    }

    /// Remembers something that has ended.
    pub(super) fn bury(&mut self, end: End) {
        match end {
            End::Socket(socket) => drop(self.sockets.remove(&socket)),
            End::Conn(conn) => {
                self.conns.remove(&conn);
                self.exchanges.retain(|_, exchange| exchange.conn != conn);
            }
            End::Exchange(exchange) => drop(self.exchanges.remove(&exchange)),
            End::Process(process) => drop(self.processes.remove(&process)),
        }
        if self.graves.len() < GRAVES {
            self.graves.push(end);
        } else {
            let place = self.steps as usize % GRAVES;
            self.graves[place] = end;
        }
    }
}

impl World {
    /// Hands an input to an engine and carries out what follows.
    pub(super) fn feed(&mut self, engine: usize, input: Input) -> Result<(), Broken> {
        self.trace.input(self.now, engine, &input);
        if let Some(log) = &mut self.log {
            log.input(self.now, engine, &input);
        }
        let is_timeout = matches!(input, Input::Timeout);
        let worker = &mut self.workers[engine];
        let Some(machine) = worker.machine.as_mut() else { return Ok(()) };
        let mut outputs = std::mem::take(&mut self.outputs);
        machine.feed(self.now, input, &mut outputs);
        let next = machine.engine().next_timeout();
        if is_timeout {
            let ahead = next.is_none_or(|(at, _)| at > self.now);
            self.checks
                .that(Invariant::S20, ahead, || format!("due again after a timeout: {next:?}"))?;
        }
        self.count_step(engine)?;
        self.carry_out(engine, outputs)?;
        self.inspect(engine)
    }

    /// Carries out outputs, in order; gives the emptied list back for the next time.
    pub(super) fn carry_out(
        &mut self,
        engine: usize,
        mut outputs: Vec<Output>,
    ) -> Result<(), Broken> {
        for output in outputs.drain(..) {
            self.trace.output(self.now, engine, &output);
            if let Some(log) = &mut self.log {
                log.output(self.now, engine, &output);
            }
            self.perform(engine, output)?;
        }
        self.outputs = outputs;
        Ok(())
    }

    fn perform(&mut self, engine: usize, output: Output) -> Result<(), Broken> {
        match output {
            Output::Reply { listener, peer, source, message } => {
                self.client_gets(engine, Channel::Datagram(peer), (listener, source), &message)?;
                if self.faults.strike(Fault::SendFails) {
                    self.queue_send_failed(engine)?;
                }
                Ok(())
            }
            Output::Query { socket, message } => self.query_leaves(engine, socket, message),
            Output::OpenSocket { socket, remote } => self.open_socket(engine, socket, remote),
            Output::CloseSocket(socket) => {
                let known = self.workers[engine].sockets.contains_key(&socket);
                self.workers[engine].bury(End::Socket(socket));
                self.checks
                    .that(Invariant::S17, known, || format!("socket {socket:?} closed twice"))
            }
            Output::Accepted(_) | Output::NotAccepted(_) => {
                self.link_accepted(engine, &output);
                Ok(())
            }
            Output::Connect { conn, remote, security } => {
                self.connect(engine, conn, remote, &security)
            }
            Output::Opened(_) | Output::NotOpened(_) => {
                self.exchange_opened(engine, &output);
                Ok(())
            }
            Output::Respond { exchange, response } => {
                self.exchange_answered(engine, exchange, &response)
            }
            Output::Request { exchange, conn, target, request } => {
                self.request(engine, exchange, conn, &target, &request)
            }
            Output::Cancel(exchange) => self.cancel(engine, exchange),
            Output::Write { conn, octets } => self.write(engine, conn, octets),
            Output::PauseReading(conn) => self.pause(engine, conn, true),
            Output::ResumeReading(conn) => self.pause(engine, conn, false),
            Output::CloseConn(conn, _) => self.conn_closed_by_engine(engine, conn),
            Output::CloseListener(_) => {
                self.workers[engine].listens = false;
                Ok(())
            }
            Output::Start { process, command, input } => {
                self.start_process(engine, process, &command, &input)
            }
            Output::Feed { process, input } => self.feed_process(engine, process, &input),
            Output::Kill(process) => self.kill_process(engine, process),
            Output::Report(_) => Ok(()),
            Output::Stopped => self.worker_stopped(engine),
        }
    }

    /// A reply for a client, by datagram or by stream.
    pub(super) fn client_gets(
        &mut self,
        engine: usize,
        channel: Channel,
        from: (balancedns_core::engine::ListenerId, Option<std::net::IpAddr>),
        message: &Bytes,
    ) -> Result<(), Broken> {
        let Self { model, truth, checks, now, .. } = self;
        let outcome = model.replied(*now, engine, channel, from, message, truth, checks)?;
        self.check_call(engine, &outcome)?;
        self.replies += 1;
        let worker = &mut self.workers[engine];
        let place = RCODES.iter().position(|(rcode, _)| *rcode == Some(outcome.rcode));
        worker.replies[place.unwrap_or(RCODES.len() - 1)] += 1;
        worker.truncated += u64::from(outcome.truncated);
        if outcome.rcode == 2 {
            self.servfails += 1;
            if let Some(name) = outcome.name
                && !matches!(self.truth.names()[name].kind, Kind::Broken | Kind::Denied)
                && self.truth.names()[name].ruled.is_none()
                && self.failed_names.len() < FAILED_NAMES
                && !self.failed_names.contains(&name)
            {
                self.failed_names.push(name);
            }
        }
        match outcome.name {
            Some(name) => self.recovered(engine, name, outcome.rcode),
            None => {
                // Answered, if not by a server.
                let asked = outcome.asked_name.and_then(|name| self.recovering.get_mut(&name));
                if let Some(recovering) = asked {
                    recovering.answered = true;
                }
                Ok(())
            }
        }
    }

    fn queue_send_failed(&mut self, engine: usize) -> Result<(), Broken> {
        // The reply counts as sent by the engine: the datagram is lost, and that is counted.
        let Some(machine) = self.workers[engine].machine.as_mut() else { return Ok(()) };
        let before = machine.metrics().counters.value(Counter::SendFailures);
        let mut outputs = Vec::new();
        let input = Input::SendFailed(self.listeners.datagram, IoFailure::NoResources);
        if let Some(log) = &mut self.log {
            log.input(self.now, engine, &input);
        }
        machine.feed(self.now, input, &mut outputs);
        let after = machine.metrics().counters.value(Counter::SendFailures);
        self.checks.that(Invariant::S23, after == before + 1, || {
            "a datagram that could not be sent was not counted".to_owned()
        })?;
        self.late_outputs.extend(outputs.into_iter().map(|output| (engine, output)));
        Ok(())
    }

    fn open_socket(
        &mut self,
        engine: usize,
        socket: SocketHandle,
        remote: SocketAddr,
    ) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        let state = SocketState::new(remote, self.now);
        let known = worker.sockets.insert(socket, state).is_some();
        let count = worker.sockets.len();
        let life = worker.life(engine);
        self.checks.that(Invariant::S10, !known && count <= limits::SOCKETS, || {
            format!("{count} sockets, {socket:?} known before: {known}")
        })?;
        self.checks.that(Invariant::S28, remote.port() == Protocol::Udp.port(), || {
            format!("a datagram's socket towards {remote}")
        })?;
        let mut at = self.now;
        if self.faults.strike(Fault::SocketLate) {
            at =
                at + Duration::from_micros(self.faults.draw(Fault::SocketLate).between(1, 600_000));
        }
        let failures =
            [IoFailure::NoResources, IoFailure::AddressUnavailable, IoFailure::Unreachable];
        let failure = self
            .faults
            .strike(Fault::SocketFails)
            .then(|| self.faults.draw(Fault::SocketFails).pick(&failures));
        self.queue.push(at, Event::Socket { life, socket, failure });
        Ok(())
    }

    /// A socket has opened, or has not.
    pub(super) fn socket_event(
        &mut self,
        life: Life,
        socket: SocketHandle,
        failure: Option<IoFailure>,
    ) -> Result<(), Broken> {
        let worker = &mut self.workers[life.engine];
        if !worker.is_alive(life) {
            return Ok(());
        }
        let Some(state) = worker.sockets.get_mut(&socket) else { return Ok(()) };
        match failure {
            None => {
                state.opened_at = Some(self.now);
                self.feed(life.engine, Input::SocketOpened(socket))
            }
            Some(why) => self.feed(life.engine, Input::SocketFailed(socket, why)),
        }
    }

    /// A datagram arrives from a server.
    pub(super) fn reply_arrives(
        &mut self,
        life: Life,
        socket: SocketHandle,
        message: Bytes,
        number: Option<u32>,
    ) -> Result<(), Broken> {
        let mut datagrams = Vec::new();
        let mut next = Some((message, number));
        while let Some((message, number)) = next {
            let worker = &mut self.workers[life.engine];
            if !worker.is_alive(life) || !worker.sockets.contains_key(&socket) {
                return Ok(()); // its port is closed
            }
            if let Some(number) = number {
                self.truth.arrived(number, self.now);
            }
            let state = worker.sockets.get_mut(&socket).expect("just checked");
            if let Some(id) = message.first_chunk::<2>().map(|id| u16::from_be_bytes(*id)) {
                // An error may leave the question out.
                let question = (message.len() > 12).then(|| question_hash(&self.hash, &message));
                state.answered(id, question);
            }
            let peer = state.remote;
            datagrams.push(Datagram { peer, local: None, message });
            let is_its = |event: &Event| matches!(event, Event::Reply { life: other, socket: same, .. } if *other == life && *same == socket);
            next = match self.queue.pop_if(self.now, is_its) {
                Some(Event::Reply { message, number, .. }) => Some((message, number)),
                _ => None,
            };
        }
        self.feed(life.engine, Input::Datagrams(Origin::Socket(socket), datagrams))
    }

    /// Time for the engine's deadline, or not.
    pub(super) fn timer_due(&mut self, engine: usize) -> Result<(), Broken> {
        let was_late = self.workers[engine].late_until == self.now;
        if !was_late && self.faults.strike(Fault::LateTimer) {
            let late = self.faults.draw(Fault::LateTimer).between(1, 150_000);
            self.workers[engine].late_until = self.now + Duration::from_micros(late);
            return Ok(());
        }
        self.feed(engine, Input::Timeout)
    }

    /// Things that may happen to a worker at any time: a timeout that is none, news of the dead.
    pub(super) fn disturb(&mut self, engine: usize) -> Result<(), Broken> {
        let now = self.now;
        let worker = &mut self.workers[engine];
        let Some(machine) = worker.machine.as_mut() else { return Ok(()) };
        let mut outputs = Vec::new();
        let is_early = machine.engine().next_timeout().is_none_or(|(at, _)| at > now);
        if is_early && self.faults.strike(Fault::EarlyTimer) {
            machine.feed(now, Input::Timeout, &mut outputs);
            self.checks.that(Invariant::S20, outputs.is_empty(), || {
                format!("an early timeout did something: {outputs:?}")
            })?;
        }
        let grave = worker.graves.get(worker.steps as usize % GRAVES).copied();
        let Some(grave) = grave.filter(|_| self.faults.strike(Fault::DeadHandle)) else {
            return Ok(());
        };
        let draw = self.faults.draw(Fault::DeadHandle);
        let input = match grave {
            End::Socket(socket) => match draw.below(3) {
                0 => Input::SocketOpened(socket),
                1 => Input::SocketFailed(socket, IoFailure::Refused),
                _ => {
                    let peer = SocketAddr::from(([192, 0, 2, 10], 53));
                    let message = Bytes::from_static(&[0; 12]);
                    Input::Datagrams(
                        Origin::Socket(socket),
                        vec![Datagram { peer, local: None, message }],
                    )
                }
            },
            End::Conn(conn) => match draw.below(5) {
                0 => Input::Established(conn, Established::default()),
                1 => Input::Octets(conn, Bytes::from_static(&[0, 1, 2])),
                2 => Input::EndOfStream(conn),
                3 => Input::Written(conn, 7),
                _ => Input::Closed(conn, balancedns_core::engine::Closed::Cleanly),
            },
            End::Exchange(exchange) => match draw.below(5) {
                0 => Input::Body(exchange, Bytes::from_static(&[0; 12]), true),
                1 => Input::Reset(exchange),
                2 => Input::Sent(exchange),
                3 => Input::Answered(exchange, Box::default()),
                _ => Input::Failed(exchange, IoFailure::Reset),
            },
            End::Process(process) => match draw.below(2) {
                0 => Input::Wrote(process, Bytes::from_static(b"{\"action\":\"BLOCK\"}\n")),
                _ => Input::Exited(process, ProcessExit::Signal(9)),
            },
        };
        let dead = |machine: &Machine| machine.metrics().counters.value(Counter::DeadHandles);
        let before = (dead(machine), machine.engine().sizes(), machine.engine().next_timeout());
        machine.feed(now, input.clone(), &mut outputs);
        let after = (dead(machine), machine.engine().sizes(), machine.engine().next_timeout());
        let only_counted = outputs.is_empty() && after == (before.0 + 1, before.1, before.2);
        self.checks.that(Invariant::S18, only_counted, || {
            format!("{input:?} of something dead: {outputs:?}, {before:?} became {after:?}")
        })
    }

    fn count_step(&mut self, engine: usize) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        worker.steps += 1;
        self.steps += 1;
        if worker.steps_now.0 != self.now {
            worker.steps_now = (self.now, 0);
        }
        worker.steps_now.1 += 1;
        let steps = worker.steps_now.1;
        self.checks.that(Invariant::S12, steps < STEPS_AT_ONCE, || {
            format!("{steps} inputs without any time passing")
        })
    }
}

/// The hash of a message's question, whatever its letter case.
pub(super) fn question_hash(hash: &KeyedState, message: &[u8]) -> u64 {
    let rest = message.get(12..).unwrap_or_default();
    let name = rest.iter().position(|octet| *octet == 0).unwrap_or(rest.len());
    let question = &rest[..rest.len().min(name + 5)];
    hash.hash_bytes(&question.to_ascii_lowercase())
}
