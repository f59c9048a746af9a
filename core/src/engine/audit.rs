//! What holds of an engine between any two inputs: every count agrees with what it counts, whatever
//! names something is known by it, and nothing is beyond its bound.
//!
//! Reads everything and changes nothing. What an audit finds is a defect of the engine, never of a
//! peer. The cache is shared and has an audit of its own: [`Cache::recount`](crate::cache::Cache::recount).

mod books;

use std::fmt;

use books::Books;

use super::calls::Process;
use super::client_exchanges::{Exchange, Phase};
use super::fetch::{AttemptVia, Candidate, Fetch, Purpose};
use super::upstream_streams::conns_max;
use super::{Action, Conn, Due, Engine, FetchHandle, ReplyTo, Target};
use crate::conn::{ClientConn, Stage, UpstreamConn};
use crate::handle::{ConnHandle, HostHandle, ProcessHandle, SocketHandle};
use crate::limits::{
    CALLS_PER_PROCESS, CANDIDATES, CLIENT_PIPELINE, CLIENT_UNSENT_OCTETS, CONNS, EVENTS, EXCHANGES,
    EXCHANGES_PER_CLIENT_CONN, FETCHES, GIVEN_UP_IDS_PER_CONN, IDS, MESSAGE_OCTETS,
    OUTBOX_DATAGRAMS, PIPELINE_PER_CONN, PLUGIN_CALLS, PROCESS_OUTPUT_OCTETS, PROCESSES,
    QUERIES_PER_SOCKET, SOCKETS, UNSENT_OCTETS, UPSTREAMS, WAITERS, WAITERS_PER_FETCH,
};
use crate::time::Instant;
use crate::timers::TimerId;
use crate::upstream::{HostName, IdTable, Owner, UpstreamSocket};

/// How much an audit has looked at: one of an idle engine shows little.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audit {
    /// Questions being asked upstream.
    pub fetches: usize,
    /// Clients' queries that wait for them.
    pub waiters: usize,
    /// Questions that another client may join.
    pub keys: usize,
    /// UDP sockets to upstreams.
    pub sockets: usize,
    /// Message ids on sockets and connections, those given up included.
    pub ids: usize,
    /// Stream connections from clients.
    pub client_conns: usize,
    /// Stream connections to upstreams.
    pub upstream_conns: usize,
    /// HTTP exchanges on both.
    pub exchanges: usize,
    /// Addresses of upstreams.
    pub endpoints: usize,
    /// Host names of upstreams.
    pub hosts: usize,
    /// Processes of plugins.
    pub processes: usize,
    /// Clients' queries that wait for one of them.
    pub suspended: usize,
    /// Timers, set or not.
    pub timers: usize,
}

/// Something in an engine disagrees with something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Disagreement(String);

/// What a timer is for, and its deadline.
type Armed = (Due, Option<Instant>);

/// What each check ends with.
type Checked = Result<(), Disagreement>;

fn ensure(holds: bool, otherwise: fmt::Arguments<'_>) -> Checked {
    if holds { Ok(()) } else { Err(Disagreement(otherwise.to_string())) }
}

fn agree<T: PartialEq + fmt::Debug>(noted: T, counted: T, what: fmt::Arguments<'_>) -> Checked {
    ensure(noted == counted, format_args!("{what}: {noted:?} noted, {counted:?} counted"))
}

fn within(count: usize, bound: usize, what: fmt::Arguments<'_>) -> Checked {
    ensure(count <= bound, format_args!("{what}: {count} of at most {bound}"))
}

impl Engine {
    /// Counts everything afresh and compares, between any two inputs. Slow; for tests and the
    /// simulator.
    ///
    /// # Errors
    /// The first [`Disagreement`].
    pub fn audit(&self) -> Result<Audit, Disagreement> {
        let mut auditor = Auditor { engine: self, books: Books::of(self), audit: Audit::default() };
        auditor.fetches()?;
        auditor.keys()?;
        auditor.sockets()?;
        auditor.conns()?;
        auditor.endpoints()?;
        auditor.hosts()?;
        auditor.processes()?;
        auditor.tables()?;
        auditor.end()?;
        auditor.timers()?;
        Ok(auditor.audit)
    }
}

/// An audit under way.
struct Auditor<'a> {
    engine: &'a Engine,
    books: Books,
    audit: Audit,
}

impl Auditor<'_> {
    fn fetches(&mut self) -> Checked {
        let mut waiters = 0;
        for (handle, fetch) in self.engine.fetches.iter() {
            self.audit.fetches += 1;
            waiters += fetch.waiters.len();
            self.fetch(handle, fetch)?;
        }
        self.audit.waiters = waiters;
        agree(self.engine.waiters, waiters, format_args!("waiters"))?;
        within(waiters, WAITERS, format_args!("waiters"))
    }

    fn fetch(&mut self, handle: FetchHandle, fetch: &Fetch) -> Checked {
        let (waiters, sends) = (fetch.waiters.len(), fetch.sends);
        within(waiters, WAITERS_PER_FETCH, format_args!("waiters of fetch {handle:?}"))?;
        let is_asked = fetch.purpose == Purpose::Clients;
        agree(is_asked, waiters > 0, format_args!("whether a client waits for fetch {handle:?}"))?;
        let sends_max = fetch.sends_max;
        ensure(sends <= sends_max, format_args!("{handle:?} sent {sends} of {sends_max}"))?;
        let bound = CANDIDATES.max(self.engine.bootstrap.len());
        within(fetch.candidates.len(), bound, format_args!("candidates of {handle:?}"))?;
        for candidate in &fetch.candidates {
            let known = match candidate {
                Candidate::Endpoint(place) => *place < self.engine.endpoints.len(),
                Candidate::Host(_) => true, // it may have been forgotten since
            };
            ensure(known, format_args!("{handle:?} may ask {candidate:?}, which is nowhere"))?;
        }
        self.attempt(handle, fetch)?;
        let attempt = &fetch.attempt;
        let next = fetch.next_deadline().min(attempt.deadline);
        let next = attempt.overdue_at.map_or(next, |at| at.min(next));
        let armed = self.take_timer(fetch.timer, Due::Fetch(handle))?;
        agree(armed, Some(next), format_args!("when to look at fetch {handle:?}"))
    }

    /// From the attempt to what carries it; [`Self::ids`] goes the other way.
    fn attempt(&self, handle: FetchHandle, fetch: &Fetch) -> Checked {
        let engine = self.engine;
        let (ids, endpoint) = match fetch.attempt.via {
            AttemptVia::Nothing => (None, None),
            AttemptVia::Socket(socket, id) => {
                let socket = engine.sockets.get(socket);
                (socket.map(|socket| (&socket.ids, id)), socket.map(|socket| socket.endpoint))
            }
            AttemptVia::Conn(conn, id) => match engine.conns.get(conn) {
                Some(Conn::Upstream(conn)) => (Some((&conn.ids, id)), Some(conn.endpoint)),
                Some(Conn::Client(_)) | None => (None, None),
            },
            AttemptVia::Host(host) => {
                let waits = engine
                    .hosts
                    .get(host)
                    .is_some_and(|host| host.in_flight > 0 && host.waiting.contains(&handle));
                return ensure(waits, format_args!("no address will come for {handle:?}"));
            }
        };
        let via = fetch.attempt.via;
        let owner = ids.map(|(ids, id)| ids.owner(id));
        agree(owner, Some(Owner::Live(handle)), format_args!("whose id {via:?} is"))?;
        let candidate = fetch.candidates.get(fetch.cursor).copied();
        agree(candidate, endpoint.map(Candidate::Endpoint), format_args!("whom {handle:?} asks"))
    }

    /// Questions that may be joined are those of this configuration, each once.
    fn keys(&mut self) -> Checked {
        let engine = self.engine;
        for (hash, handle) in &engine.by_key {
            let fetch = engine.fetches.get(*handle);
            let joinable = fetch.is_some_and(|fetch| {
                fetch.key.hash() == *hash
                    && fetch.purpose == Purpose::Clients
                    && fetch.generation == engine.generation
            });
            ensure(joinable, format_args!("{handle:?} must not be joined"))?;
            self.audit.keys += 1;
        }
        for (handle, fetch) in engine.fetches.iter() {
            if fetch.purpose == Purpose::Clients && fetch.generation == engine.generation {
                let of_key = engine.by_key.get(&fetch.key.hash()).copied();
                // Another one may have the place by a collision of 64 bits.
                let other = of_key.and_then(|other| engine.fetches.get(other));
                let alone = other.is_some_and(|other| other.key != fetch.key);
                ensure(
                    of_key == Some(handle) || alone,
                    format_args!("{handle:?} is asked beside {of_key:?}"),
                )?;
            }
        }
        Ok(())
    }

    fn sockets(&mut self) -> Checked {
        for (handle, socket) in self.engine.sockets.iter() {
            self.audit.sockets += 1;
            self.socket(handle, socket)?;
        }
        Ok(())
    }

    fn socket(&mut self, handle: SocketHandle, socket: &UpstreamSocket) -> Checked {
        self.ids(&socket.ids, |id| AttemptVia::Socket(handle, id))?;
        let queries = socket.queries;
        ensure(queries <= QUERIES_PER_SOCKET, format_args!("{handle:?} sent {queries} queries"))?;
        let live = socket.ids.live();
        let waiting = if socket.open { 0 } else { live };
        agree(socket.waiting.len(), waiting, format_args!("queries that wait for {handle:?}"))?;
        let of_endpoint = self.engine.endpoints.get(socket.endpoint);
        let place = of_endpoint.and_then(|endpoint| endpoint.sockets.get(socket.place)).copied();
        let taken = place == Some(Some(handle));
        agree(!socket.retired, taken, format_args!("whether {handle:?} takes queries"))?;
        let is_kept = !socket.retired && of_endpoint.is_some_and(|endpoint| !endpoint.removed);
        ensure(live > 0 || is_kept, format_args!("{handle:?} has no use any more"))?;
        let armed = self.take_timer(socket.timer, Due::Socket(handle))?;
        ensure(socket.retired || armed.is_some(), format_args!("{handle:?} does not age"))
    }

    /// From the ids in flight to the attempts.
    fn ids(&mut self, ids: &IdTable<FetchHandle>, via: impl Fn(u16) -> AttemptVia) -> Checked {
        let mut seen: Vec<u16> = ids.entries().map(|(id, _)| id).collect();
        seen.sort_unstable();
        let twice = seen.windows(2).find(|pair| pair.first() == pair.last());
        ensure(twice.is_none(), format_args!("an id is in use twice: {twice:?}"))?;
        within(seen.len(), IDS, format_args!("ids"))?;
        let mut live = 0;
        for (id, owner) in ids.entries() {
            self.audit.ids += 1;
            let Some(owner) = owner else { continue };
            live += 1;
            let attempt = self.engine.fetches.get(owner).map(|fetch| fetch.attempt.via);
            agree(attempt, Some(via(id)), format_args!("by which id {owner:?} is asked"))?;
        }
        agree(ids.live(), live, format_args!("ids in flight"))
    }

    fn conns(&mut self) -> Checked {
        let mut unsent = 0;
        let mut counted = Vec::new();
        for (handle, conn) in self.engine.conns.iter() {
            match conn {
                Conn::Client(conn) => {
                    unsent += conn.unsent_octets();
                    counted.push(conn.counted);
                    self.audit.client_conns += 1;
                    self.client_conn(handle, conn)?;
                }
                Conn::Upstream(conn) => {
                    self.audit.upstream_conns += 1;
                    self.upstream_conn(handle, conn)?;
                }
            }
        }
        agree(self.engine.unsent_octets, unsent, format_args!("unsent octets"))?;
        // One answer above its own bound each connection may have, whatever the others have.
        let each = CLIENT_UNSENT_OCTETS + 2 + MESSAGE_OCTETS;
        let bound = UNSENT_OCTETS + counted.len() * each;
        within(unsent, bound, format_args!("unsent octets"))?;
        let shared = self.engine.shared.counts_at_least(&counted);
        ensure(shared, format_args!("connections of clients that the process does not count"))
    }

    fn client_conn(&mut self, handle: ConnHandle, conn: &ClientConn) -> Checked {
        let waiting = self.books.waiters.get(&handle).copied().unwrap_or(0);
        agree(conn.in_flight, waiting, format_args!("queries of client {handle:?}"))?;
        within(conn.in_flight, CLIENT_PIPELINE, format_args!("queries of client {handle:?}"))?;
        self.dirt(handle, conn.dirty, !conn.out.is_empty())?;
        self.client_exchanges(handle, conn)?;
        let taking = conn.paused || conn.takes_queries() || conn.is_http();
        ensure(taking, format_args!("client {handle:?} is read from but takes no queries"))?;
        let armed = self.take_timer(conn.timer, Due::Conn(handle))?;
        let due = conn.due(&self.engine.snapshot.listen);
        let looked_at = due.is_none() || armed.is_some();
        ensure(looked_at, format_args!("client {handle:?} has a deadline that nobody looks at"))
    }

    /// A connection knows its exchanges, they know it, and each question among them waits once.
    fn client_exchanges(&mut self, handle: ConnHandle, conn: &ClientConn) -> Checked {
        let count = conn.exchanges.len();
        within(count, EXCHANGES_PER_CLIENT_CONN, format_args!("exchanges of {handle:?}"))?;
        for name in &conn.exchanges {
            self.audit.exchanges += 1;
            let exchange = match self.engine.exchanges.get(*name) {
                Some(Exchange::Client(exchange)) if exchange.conn == handle => exchange,
                other => {
                    return ensure(false, format_args!("{handle:?} names {name:?}: {other:?}"));
                }
            };
            let waits = self.books.exchanges.contains(name);
            let line = |line: &std::collections::VecDeque<_>| line.iter().any(|(on, _)| on == name);
            let (asked, listed) = match exchange.phase {
                Phase::Body(_) => (false, line(&conn.bodies)),
                Phase::Asked => (true, true),
                Phase::Answered(_) => (false, line(&conn.answers)),
            };
            agree(asked, waits, format_args!("whether {name:?} waits for an answer"))?;
            ensure(listed, format_args!("{name:?} has a deadline that nobody looks at"))?;
        }
        Ok(())
    }

    /// On an open HTTP connection each query is an exchange, and there are no others.
    fn upstream_exchanges(&mut self, handle: ConnHandle, conn: &UpstreamConn) -> Checked {
        let bound = if conn.is_http && conn.stage == Stage::Open { conn.ids.live() } else { 0 };
        within(conn.exchanges.len(), bound, format_args!("exchanges on {handle:?}"))?;
        for (id, name) in &conn.exchanges {
            self.audit.exchanges += 1;
            let exchange = match self.engine.exchanges.get(*name) {
                Some(Exchange::Upstream(exchange)) => Some((exchange.conn, exchange.id)),
                Some(Exchange::Client(_)) | None => None,
            };
            agree(exchange, Some((handle, *id)), format_args!("where {name:?} is"))?;
            let owned = matches!(conn.ids.owner(*id), Owner::Live(_));
            ensure(owned, format_args!("{name:?} is of no query"))?;
        }
        Ok(())
    }

    fn upstream_conn(&mut self, handle: ConnHandle, conn: &UpstreamConn) -> Checked {
        self.ids(&conn.ids, |id| AttemptVia::Conn(handle, id))?;
        self.upstream_exchanges(handle, conn)?;
        let live = conn.ids.live();
        within(live, PIPELINE_PER_CONN, format_args!("queries on {handle:?}"))?;
        let given_up = conn.ids.used() - live;
        let bound = GIVEN_UP_IDS_PER_CONN + PIPELINE_PER_CONN;
        within(given_up, bound, format_args!("ids given up on {handle:?}"))?;
        let of_endpoint = self.engine.endpoints.get(conn.endpoint);
        let is_kept = !conn.retired && of_endpoint.is_some_and(|endpoint| !endpoint.removed);
        ensure(live > 0 || is_kept, format_args!("{handle:?} has no use any more"))?;
        let is_open = conn.stage == Stage::Open;
        self.dirt(handle, conn.dirty, is_open && !conn.out.is_empty())?;
        let named = of_endpoint
            .map_or(0, |endpoint| endpoint.conns.iter().filter(|conn| **conn == handle).count());
        agree(named, 1, format_args!("times that the endpoint of {handle:?} names it"))?;
        let armed = self.take_timer(conn.timer, Due::Conn(handle))?;
        let needed = conn.stage == Stage::Waiting || (is_open && live == 0);
        ensure(armed.is_some() || !needed, format_args!("{handle:?} is left alone for ever"))
    }

    /// What a connection has to send is handed over: it stands once in the list of those that have.
    fn dirt(&self, handle: ConnHandle, is_dirty: bool, has_output: bool) -> Checked {
        let listed = self.books.dirty.get(&handle).copied().unwrap_or(0);
        agree(usize::from(is_dirty), listed, format_args!("places of {handle:?} in line"))?;
        ensure(is_dirty || !has_output, format_args!("output of {handle:?} is left behind"))
    }

    fn endpoints(&mut self) -> Checked {
        let engine = self.engine;
        for (place, endpoint) in engine.endpoints.iter().enumerate() {
            self.audit.endpoints += 1;
            let asked = self.books.asked.get(&place).copied().unwrap_or(0);
            agree(endpoint.in_flight, asked, format_args!("in flight to endpoint {place}"))?;
            let bound = endpoint.settings.max_in_flight;
            within(asked, bound, format_args!("in flight to endpoint {place}"))?;
            let retired = self.books.retired.get(&place).copied().unwrap_or(0);
            let noted = endpoint.retired_sockets;
            agree(noted, retired, format_args!("retired sockets of endpoint {place}"))?;
            for (at, socket) in endpoint.sockets.iter().enumerate() {
                let Some(handle) = socket else { continue };
                let of = engine.sockets.get(*handle).map(|socket| (socket.endpoint, socket.place));
                agree(of, Some((place, at)), format_args!("where socket {handle:?} is"))?;
            }
            let mut usable = 0;
            for handle in &endpoint.conns {
                let Some(Conn::Upstream(conn)) = engine.conns.get(*handle) else {
                    return ensure(false, format_args!("endpoint {place} names {handle:?}"));
                };
                agree(conn.endpoint, place, format_args!("where {handle:?} leads to"))?;
                usable += usize::from(!conn.retired);
            }
            within(usable, conns_max(endpoint), format_args!("connections to endpoint {place}"))?;
            if !engine.has_stopped() {
                let is_used = self.books.used.contains(&place);
                agree(endpoint.removed, !is_used, format_args!("whether {place} is removed"))?;
            }
        }
        Ok(())
    }

    fn hosts(&mut self) -> Checked {
        for (handle, host) in self.engine.hosts.iter() {
            self.audit.hosts += 1;
            self.host(handle, host)?;
        }
        Ok(())
    }

    fn host(&mut self, handle: HostHandle, host: &HostName) -> Checked {
        let engine = self.engine;
        let lookups = self.books.lookups.get(&handle).copied().unwrap_or(0);
        agree(host.in_flight, lookups, format_args!("look-ups for host {handle:?}"))?;
        let waiting = self.books.waiting.get(&handle).copied().unwrap_or(0);
        agree(host.waiting.len(), waiting, format_args!("who waits for host {handle:?}"))?;
        let armed = self.take_timer(host.timer, Due::Host(handle))?;
        let is_looked_up = host.in_flight > 0 || armed.is_some();
        ensure(is_looked_up, format_args!("host {handle:?} is never looked up again"))?;
        let is_target = engine.targets.contains(&Target::Host(handle));
        ensure(is_target, format_args!("host {handle:?} is of no upstream"))?;
        for place in &host.endpoints {
            let endpoint = engine.endpoints.get(*place);
            let is_own = endpoint.is_some_and(|endpoint| endpoint.settings == host.settings);
            ensure(is_own, format_args!("endpoint {place} is not of host {handle:?}"))?;
        }
        Ok(())
    }

    fn processes(&mut self) -> Checked {
        let mut suspended = 0;
        for (handle, process) in self.engine.processes.iter() {
            self.audit.processes += 1;
            suspended += process.waiters().count();
            self.process(handle, process)?;
        }
        self.audit.suspended = suspended;
        agree(self.engine.suspended, suspended, format_args!("queries that wait for a plugin"))?;
        within(suspended, PLUGIN_CALLS, format_args!("queries that wait for a plugin"))
    }

    fn process(&mut self, handle: ProcessHandle, process: &Process) -> Checked {
        let calls = process.calls.len();
        within(calls, CALLS_PER_PROCESS, format_args!("calls of {handle:?}"))?;
        let is_idle = !process.given_up || calls == 0;
        ensure(is_idle, format_args!("somebody waits for {handle:?}, which was given up"))?;
        for call in &process.calls {
            let waiters = call.waiters.len();
            ensure(waiters > 0, format_args!("nobody waits for a call of {handle:?}"))?;
            within(waiters, WAITERS_PER_FETCH, format_args!("who waits for a call"))?;
        }
        let output = process.output.len();
        within(output, PROCESS_OUTPUT_OCTETS, format_args!("output of {handle:?}"))?;
        let armed = self.take_timer(process.timer, Due::Process(handle))?;
        agree(armed, process.next_deadline(), format_args!("when to look at {handle:?}"))
    }

    fn tables(&self) -> Checked {
        let (engine, audit) = (self.engine, &self.audit);
        let conns = audit.client_conns + audit.upstream_conns;
        for (what, noted, counted, bound) in [
            ("questions", engine.fetches.len(), audit.fetches, FETCHES),
            ("sockets", engine.sockets.len(), audit.sockets, SOCKETS),
            ("connections", engine.conns.len(), conns, CONNS),
            ("exchanges", engine.exchanges.len(), audit.exchanges, EXCHANGES),
            ("hosts", engine.hosts.len(), audit.hosts, 2 * UPSTREAMS),
            ("processes", engine.processes.len(), audit.processes, PROCESSES),
        ] {
            agree(noted, counted, format_args!("{what}"))?;
            within(counted, bound, format_args!("{what}"))?;
        }
        within(engine.outbox.len(), OUTBOX_DATAGRAMS, format_args!("datagrams in the outbox"))?;
        let is_report = |action: &&Action| matches!(action, Action::Report(_));
        let reports = engine.actions.iter().filter(is_report).count();
        within(reports, EVENTS, format_args!("events that wait"))?;
        ensure(engine.resumed.is_empty(), format_args!("what was resumed did not go on"))
    }

    /// After the end nothing is left.
    fn end(&mut self) -> Checked {
        let Some(drain) = &self.engine.drain else { return Ok(()) };
        if !self.engine.has_stopped() {
            return self.take_timer(drain.timer, Due::Drain).map(|_| ());
        }
        let sizes = self.engine.sizes();
        agree(sizes, super::Sizes::default(), format_args!("what is left at the end"))?;
        within(self.engine.outbox.len(), 0, format_args!("datagrams left at the end"))
    }

    /// Nobody but those who were asked for their timer has one.
    fn timers(&self) -> Checked {
        let left = self.books.timers.values().next();
        ensure(left.is_none(), format_args!("a timer without an owner: {left:?}"))
    }

    /// The deadline of a timer, which is for this and for nothing else.
    fn take_timer(&mut self, timer: TimerId, due: Due) -> Result<Option<Instant>, Disagreement> {
        self.audit.timers += 1;
        let (what, at) = self.books.timers.remove(&timer).unzip();
        agree(what, Some(due), format_args!("what {timer:?} is for"))?;
        Ok(at.flatten())
    }
}
