//! The engine: one worker's state machine. Inputs go in with the time, outputs are polled.
//!
//! It owns every decision that can be made without a socket: which question is answered from what,
//! which upstream is asked when, what is retried, what is shed, when things time out. It owns no
//! socket, reads no clock, and draws randomness from one seed: the same inputs give the same
//! outputs, byte for byte.
//!
//! * **Inputs** are the `handle_*` methods, those of HTTP in the two files of exchanges. Each takes `now`; time never goes back, an earlier
//!   `now` counts as the latest one seen. Any number of inputs may come before outputs are polled.
//! * **Immediate answers** go into the batch that the caller passes to
//!   [`handle_datagrams`](Engine::handle_datagrams).
//! * **Outputs** are [`poll_transmit`](Engine::poll_transmit) for datagrams and
//!   [`poll_action`](Engine::poll_action) for everything else; poll both until they are empty.
//! * **Time**: call [`handle_timeout`](Engine::handle_timeout) at
//!   [`next_timeout`](Engine::next_timeout). Calling it at any other time does nothing.
//! * **Peers are never an error.** What a client or an upstream does wrong becomes a reply, a
//!   counter or an event.
//!
//! Inside, the files follow a query: `question` (from octets to the chain), `chain` (the stages: `policy`
//! asks `plugins`, `local_answers` and `blocked` answer), `course` (how far it is), `leads` (what an answer
//! leads to), `detour` (answers under another name), `calls` (plugins' processes, and who waits for them),
//! `fetch` (who waits for what), `candidates` (whom to ask), `attempt` (one after the other), `health` (who
//! is down), `sockets` and `upstream_streams` (how; `upstream_exchanges` over HTTP, `upstream_edns` with
//! which options), `deliver` (the way out), `reply_options` (what OPT says there); `client_datagrams`,
//! `client_streams` and `client_exchanges` are where clients' messages come from, `host_names` looks
//! upstreams' addresses up, `lifecycle` reloads and stops, `audit` counts everything afresh.

mod attempt;
mod audit;
mod blocked;
mod calls;
mod candidates;
mod chain;
mod client_datagrams;
mod client_exchanges;
mod client_streams;
mod contract;
mod course;
mod deliver;
mod detour;
mod event;
mod fetch;
mod health;
mod host_names;
mod leads;
mod lifecycle;
mod local_answers;
mod plugins;
mod policy;
mod question;
mod reply_options;
mod shared;
mod sockets;
#[cfg(test)]
mod tests;
mod upstream_edns;
mod upstream_exchanges;
mod upstream_streams;
mod waiter;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

pub use audit::{Audit, Disagreement};
use calls::{Kept, Process};
use chain::Desk;
use client_exchanges::Exchange;
pub use contract::{
    Accepted, Action, AdminAnswer, AdminCall, CallId, CloseMode, Closed, Established, IoFailure,
    Origin, ProcessExit, Security, Sizes, TlsFailure,
};
use deliver::{Late, Out};
use event::EventGate;
pub use event::{Event, QueryRecord};
use fetch::{Candidate, Fetch};
use leads::Rules;
use lifecycle::Drain;
use plugins::Plugins;
use question::Client;
pub(crate) use shared::Counted;
pub use shared::Shared;

use crate::batch::{ReceiveBatch, TransmitBatch, Via};
use crate::config::Snapshot;
use crate::conn::{ClientConn, UpstreamConn};
pub use crate::handle::ListenerId;
use crate::handle::{
    self, ConnHandle, ExchangeHandle, FetchHandle, FetchKind, HostHandle, HostKind, ProcessHandle,
    Slab, Socket, SocketHandle,
};
use crate::hash::Prehashed;
use crate::limits;
use crate::metrics::{Counter, WorkerMetrics};
use crate::planted::{Bug, is_planted};
use crate::rng::Streams;
use crate::time::Instant;
use crate::timers::Timers;
pub use crate::transport::Transport;
use crate::upstream::{Endpoint, HostName, UpstreamSocket};

/// What an engine is made from.
#[derive(Debug)]
pub struct EngineConfig {
    /// What it shares with the other workers.
    pub shared: Arc<Shared>,
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// Its counters: see [`Shared::worker_metrics`].
    pub metrics: Arc<WorkerMetrics>,
    /// Measures how long scripts take; without it only their steps are counted, so that the same
    /// inputs give the same outputs.
    pub policy_clock: Option<fn() -> Instant>,
    /// All randomness comes from here; no two workers may get the same one.
    pub seed: [u8; 32],
}

/// Why a connection is not taken: close it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptRefused {
    /// All connections that the configuration allows are in use.
    #[error("too many connections")]
    TooManyConnections,
    /// This client has all that the configuration allows it.
    #[error("too many connections from this client")]
    TooManyFromClient,
    /// The process stops, or the listener has gone.
    #[error("no longer accepting")]
    Stopping,
}

/// What the next timeout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimerKind {
    /// A question being asked upstream.
    Fetch,
    /// The age of a UDP socket.
    Socket,
    /// A stream connection.
    Conn,
    /// The TTL of an upstream's host name.
    Host,
    /// A plugin's process.
    Process,
    /// The end of stopping.
    Drain,
}

/// Where an upstream leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// To one endpoint, by its place.
    Endpoint(usize),
    /// To those of a host.
    Host(HostHandle),
}

/// Whose deadline a timer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Fetch(FetchHandle),
    Socket(SocketHandle),
    Conn(ConnHandle),
    Host(HostHandle),
    Process(ProcessHandle),
    Drain,
}

/// Where a reply goes.
#[derive(Debug, Clone, Copy)]
enum ReplyTo {
    Datagram(Via),
    Stream(ConnHandle),
    Exchange(ExchangeHandle),
}

/// A stream connection of either direction.
#[derive(Debug)]
enum Conn {
    Client(ClientConn),
    Upstream(UpstreamConn),
}

/// One worker's state machine. See the [module](self).
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    metrics: Arc<WorkerMetrics>,
    snapshot: Arc<Snapshot>,
    /// How many snapshots there have been.
    generation: u64,
    rng: Streams,
    /// The latest time seen.
    now: Instant,
    timers: Timers<Due>,
    fetches: Slab<FetchKind, Fetch>,
    /// The fetch of each question in flight, by the hash of its key.
    by_key: std::collections::HashMap<u64, FetchHandle, Prehashed>,
    /// Clients' queries that wait, of all fetches.
    waiters: usize,
    /// Addresses of upstreams, of this and of earlier generations.
    endpoints: Vec<Endpoint>,
    /// Where each upstream of the snapshot leads to.
    targets: Vec<Target>,
    /// Upstreams that are known by a host name.
    hosts: Slab<HostKind, HostName>,
    /// Name servers that look those up.
    bootstrap: Vec<Candidate>,
    sockets: Slab<Socket, UpstreamSocket>,
    conns: Slab<handle::Conn, Conn>,
    /// HTTP exchanges on them.
    exchanges: Slab<handle::Exchange, Exchange>,
    /// Scripts, and how all plugins stand.
    plugins: Plugins,
    /// How answers are checked for what they lead to.
    rules: Rules,
    /// Processes of plugins, those that are being killed included.
    processes: Slab<handle::Process, Process>,
    /// Clients' queries that wait for one of them.
    suspended: usize,
    /// Those that are kept running, by the plugin's place.
    kept: BTreeMap<usize, Kept>,
    /// Octets of answers that clients' connections hold.
    unsent_octets: usize,
    outbox: VecDeque<Late>,
    actions: VecDeque<Action>,
    /// Connections with something to hand to the adapter.
    dirty: VecDeque<ConnHandle>,
    /// Connections that may go on with what was kept while they were paused.
    resumed: VecDeque<ConnHandle>,
    events: EventGate,
    drain: Option<Drain>,
    /// Room for one reply of any size.
    scratch: Box<[u8]>,
    /// Room for one packed answer.
    packed: Vec<u8>,
}

impl Engine {
    /// An engine without sockets or connections, at this time.
    #[must_use]
    pub fn new(config: EngineConfig, now: Instant) -> Self {
        let mut engine = Self {
            shared: config.shared,
            metrics: config.metrics,
            snapshot: Arc::clone(&config.snapshot),
            generation: 0,
            rng: Streams::new(config.seed),
            now,
            timers: Timers::default(),
            fetches: Slab::new(limits::FETCHES),
            by_key: std::collections::HashMap::with_hasher(Prehashed),
            waiters: 0,
            endpoints: Vec::new(),
            targets: Vec::new(),
            hosts: Slab::new(2 * limits::UPSTREAMS),
            bootstrap: Vec::new(),
            sockets: Slab::new(limits::SOCKETS),
            conns: Slab::new(limits::CONNS),
            exchanges: Slab::new(limits::EXCHANGES),
            plugins: Plugins::new(&config.snapshot.plugins, config.policy_clock),
            rules: Rules::new(&config.snapshot, 0),
            processes: Slab::new(limits::PROCESSES),
            suspended: 0,
            kept: BTreeMap::new(),
            unsent_octets: 0,
            outbox: VecDeque::new(),
            actions: VecDeque::new(),
            dirty: VecDeque::new(),
            resumed: VecDeque::new(),
            events: EventGate::default(),
            drain: None,
            scratch: vec![0; limits::MESSAGE_OCTETS].into(),
            packed: Vec::new(),
        };
        engine.adopt(now, config.snapshot);
        engine
    }

    /// Takes datagrams from one socket. Answers that can be given at once go into `transmit`
    /// (whose slots must hold 512 octets or more), behind what is in it already; if it is full,
    /// they wait for [`poll_transmit`](Self::poll_transmit).
    pub fn handle_datagrams(
        &mut self,
        now: Instant,
        origin: Origin,
        received: &ReceiveBatch,
        transmit: &mut TransmitBatch,
    ) {
        let now = self.advance(now);
        match origin {
            Origin::Socket(socket) => {
                self.upstream_datagrams(now, socket, received, &mut Out(Some(transmit)));
            }
            Origin::Listener(listener) => {
                for (meta, message) in received.iter() {
                    if meta.truncated {
                        self.metrics.counters.count(Counter::DroppedTooLong);
                        continue;
                    }
                    let proxies = &self.snapshot.listen.proxy_protocol_from;
                    let Some((client, message)) = Client::of_datagram(proxies, meta.peer, message)
                    else {
                        self.metrics.counters.count(Counter::DroppedProxy);
                        continue;
                    };
                    let via = Via::Listener { listener, peer: meta.peer, source: meta.local };
                    self.client_datagram(now, client, via, message, transmit);
                }
            }
        }
        self.settle(now);
    }

    /// What deciding about a question needs, and room for a reply.
    fn desk(&mut self) -> (Desk<'_>, &mut [u8]) {
        let desk = Desk {
            snapshot: &self.snapshot,
            shared: &self.shared,
            counters: &self.metrics.counters,
            plugins: &mut self.plugins,
            rules: self.rules,
        };
        (desk, &mut self.scratch)
    }

    /// A UDP socket that was asked for is open.
    pub fn handle_socket_opened(&mut self, now: Instant, socket: SocketHandle) {
        let now = self.advance(now);
        self.socket_opened(now, socket);
    }

    /// A UDP socket could not be opened, or reading or writing it failed (an ICMP error).
    pub fn handle_socket_failed(&mut self, now: Instant, socket: SocketHandle, why: IoFailure) {
        let now = self.advance(now);
        self.socket_failed(now, socket, why);
        self.settle(now);
    }

    /// A datagram to a client could not be sent: it is lost, and counted.
    pub fn handle_send_failed(&mut self, now: Instant, _listener: ListenerId, _why: IoFailure) {
        self.advance(now);
        self.metrics.counters.count(Counter::SendFailures);
    }

    /// A client connected.
    ///
    /// # Errors
    /// [`AcceptRefused`]: close the connection at once, there is no handle for it.
    pub fn handle_accepted(
        &mut self,
        now: Instant,
        listener: ListenerId,
        peer: SocketAddr,
    ) -> Result<Accepted, AcceptRefused> {
        let now = self.advance(now);
        self.accept(now, listener, peer)
    }

    /// A connection is ready for use: a client's after its handshake, one of ours after connecting.
    pub fn handle_established(&mut self, now: Instant, conn: ConnHandle, how: Established) {
        let now = self.advance(now);
        match self.conns.get(conn) {
            Some(Conn::Client(_)) => self.client_established(now, conn, &how),
            Some(Conn::Upstream(_)) => self.upstream_established(conn),
            None => self.metrics.counters.count(Counter::DeadHandles),
        }
    }

    /// Octets came in.
    pub fn handle_bytes(&mut self, now: Instant, conn: ConnHandle, bytes: &[u8]) {
        let now = self.advance(now);
        match self.conns.get(conn) {
            Some(Conn::Client(_)) => self.client_bytes(now, conn, bytes),
            Some(Conn::Upstream(_)) => self.upstream_bytes(now, conn, bytes),
            None => self.metrics.counters.count(Counter::DeadHandles),
        }
        self.settle(now);
    }

    /// The other side sends nothing more, but may still read.
    pub fn handle_end_of_stream(&mut self, now: Instant, conn: ConnHandle) {
        let now = self.advance(now);
        match self.conns.get(conn) {
            Some(Conn::Client(_)) => self.client_half_closed(now, conn),
            Some(Conn::Upstream(_)) => {
                // Without an end of ours to wait for, an upstream that stops sending has closed.
                // Closed first: what its queries do next may open another one in its slot.
                let mode = CloseMode::Now;
                self.actions.push_back(Action::CloseConn { conn, mode });
                self.upstream_closed(now, conn, Closed::Cleanly);
            }
            None => self.metrics.counters.count(Counter::DeadHandles),
        }
        self.settle(now);
    }

    /// So many octets of [`Action::Write`] were handed to the kernel.
    pub fn handle_written(&mut self, now: Instant, conn: ConnHandle, octets: usize) {
        let now = self.advance(now);
        match self.conns.get_mut(conn) {
            Some(Conn::Client(_)) => self.client_written(now, conn, octets),
            Some(Conn::Upstream(upstream)) => {
                upstream.handed = upstream.handed.saturating_sub(octets);
            }
            None => self.metrics.counters.count(Counter::DeadHandles),
        }
        self.settle(now);
    }

    /// A connection has ended, other than by [`Action::CloseConn`]; or it could not be made.
    pub fn handle_closed(&mut self, now: Instant, conn: ConnHandle, how: Closed) {
        let now = self.advance(now);
        match self.conns.get(conn) {
            Some(Conn::Client(_))
                if is_planted(Bug::ConnLeakedOnReset) && how != Closed::Cleanly => {}
            Some(Conn::Client(_)) => self.forget_client(conn),
            Some(Conn::Upstream(_)) => self.upstream_closed(now, conn, how),
            None => self.metrics.counters.count(Counter::DeadHandles),
        }
        self.settle(now);
    }

    /// A plugin's process wrote something.
    pub fn handle_process_bytes(&mut self, now: Instant, process: ProcessHandle, bytes: &[u8]) {
        let now = self.advance(now);
        self.process_bytes(now, process, bytes);
        self.settle(now);
    }

    /// A plugin's process has ended, or could not be started.
    pub fn handle_process_exited(
        &mut self,
        now: Instant,
        process: ProcessHandle,
        how: ProcessExit,
    ) {
        let now = self.advance(now);
        self.process_exited(now, process, how);
        self.settle(now);
    }

    /// An operator asks something of this worker.
    pub fn handle_admin(&mut self, now: Instant, call: CallId, what: AdminCall) {
        self.advance(now);
        let answer = match what {
            AdminCall::Sizes => AdminAnswer::Sizes(self.sizes()),
        };
        self.actions.push_back(Action::AnswerAdmin { call, answer });
    }

    /// Time has passed. Does what is due; nothing if nothing is.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut now = self.advance(now);
        if is_planted(Bug::EarlyTimeoutActs) {
            now = self.timers.next().map_or(now, |(at, _)| at.max(now));
        }
        while let Some(due) = self.timers.expire(now) {
            match due {
                Due::Fetch(fetch) => self.fetch_due(now, fetch),
                Due::Socket(socket) => self.retire_socket(socket),
                Due::Conn(conn) => match self.conns.get(conn) {
                    Some(Conn::Client(_)) => self.client_due(now, conn),
                    Some(Conn::Upstream(_)) => self.upstream_conn_due(now, conn),
                    None => {}
                },
                Due::Host(host) => self.look_up(now, host, &mut Out(None)),
                Due::Process(process) => self.process_due(now, process),
                Due::Drain => self.drain_is_over(now),
            }
        }
        self.settle(now);
    }

    /// Moves datagrams that wait into `transmit`; whether more are left than fitted.
    pub fn poll_transmit(&mut self, now: Instant, transmit: &mut TransmitBatch) -> bool {
        self.advance(now);
        self.flush_outbox(transmit)
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        let now = self.advance(now);
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        while let Some(conn) = self.dirty.pop_front() {
            if let Some(write) = self.take_writes(now, conn) {
                return Some(write);
            }
        }
        self.stopped_if_drained()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has to be called, and what for.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(Instant, TimerKind)> {
        let (at, due) = self.timers.next()?;
        let kind = match due {
            Due::Fetch(_) => TimerKind::Fetch,
            Due::Socket(_) => TimerKind::Socket,
            Due::Conn(_) => TimerKind::Conn,
            Due::Host(_) => TimerKind::Host,
            Due::Process(_) => TimerKind::Process,
            Due::Drain => TimerKind::Drain,
        };
        Some((at, kind))
    }

    /// How much of each bounded thing there is now.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let is_client = |conn: &Conn| matches!(conn, Conn::Client(_));
        let client_conns = self.conns.iter().filter(|(_, conn)| is_client(conn)).count();
        Sizes {
            fetches: self.fetches.len(),
            waiters: self.waiters,
            sockets: self.sockets.len(),
            client_conns,
            upstream_conns: self.conns.len() - client_conns,
            exchanges: self.exchanges.len(),
            processes: self.processes.len(),
            suspended: self.suspended,
            timers: self.timers.len(),
        }
    }

    /// Takes what a connection has to send, as one write.
    fn take_writes(&mut self, now: Instant, handle: ConnHandle) -> Option<Action> {
        let bytes = match self.conns.get_mut(handle)? {
            Conn::Client(conn) => {
                conn.dirty = false;
                let bytes = conn.out.split().freeze();
                if !bytes.is_empty() {
                    conn.note_handed(now, bytes.len());
                }
                bytes
            }
            Conn::Upstream(conn) => {
                conn.dirty = false;
                let bytes = conn.out.split().freeze();
                conn.handed += bytes.len();
                bytes
            }
        };
        self.update_client(now, handle);
        (!bytes.is_empty()).then_some(Action::Write { conn: handle, bytes })
    }

    /// Lets connections that may read again go on with what they had kept.
    fn settle(&mut self, now: Instant) {
        while let Some(conn) = self.resumed.pop_front() {
            self.client_resumed(now, conn);
        }
        for event in std::mem::take(&mut self.plugins.news) {
            self.report(now, event);
        }
    }

    fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    fn report_limit(&mut self, now: Instant, counter: Counter, limit: &'static str) {
        self.metrics.counters.count(counter);
        self.report(now, Event::LimitReached { limit });
    }

    fn report(&mut self, now: Instant, event: Event) {
        let (passes, summary) = self.events.admit(now, &event);
        for event in summary.into_iter().chain(passes.then_some(event)) {
            if self.actions.len() < limits::EVENTS {
                self.actions.push_back(Action::Report(event));
            } else {
                self.metrics.counters.count(Counter::LimitEvents);
            }
        }
    }
}
