//! The simulated world: engines, clients, servers, spoofers, an operator and a clock, from one seed.
//!
//! A run has four parts. First clients ask while things go wrong; then everything heals and questions
//! are asked until every upstream should be known to be back; then nothing may go wrong any more, but
//! that one upstream ends; then the workers are stopped, and nothing may be left. Virtual time only goes from event to event, so
//! that minutes take milliseconds. Nothing in it draws on anything but the seed.

mod admission;
mod client_exchanges;
mod clients;
mod inspection;
mod links;
mod operator;
mod processes;
mod prospects;
mod queue;
mod recovery;
mod sends;
mod server_exchanges;
mod server_streams;
mod servers;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use balancedns_core::config::{ListenSocket, Snapshot};
use balancedns_core::engine::{ListenerId, Shared, Transport};
use balancedns_core::hash::{KeyedState, Map};
use balancedns_core::metrics::Counter;
use balancedns_core::supervisor::{ComponentSpec, Supervisor, UnitId};
use balancedns_core::time::{Duration, Instant};

use self::client_exchanges::ClientExchange;
use self::clients::Client;
use self::links::Link;
use self::prospects::Suspended;
pub(crate) use self::prospects::{Inquiry, Prospects};
use self::queue::{Event, Queue};
use self::recovery::Recovering;
use self::servers::Server;
use self::worker::Worker;
use crate::draw::{Draw, Purpose};
use crate::fault::{Fault, Faults};
use crate::generation::{Generation, UPSTREAM_FAULTS};
use crate::invariant::{Broken, Checks, Invariant};
use crate::machine::Output;
use crate::model::{Excuses, Model};
use crate::options::Options;
use crate::trace::{Printer, Trace};
use crate::truth::Truth;
use crate::twin::Log;

/// What the hash key of a run's workers comes from.
#[must_use]
pub fn shared_seed(options: &Options) -> [u8; 32] {
    Draw::new(options.seed, Purpose::Host).seed()
}

/// When runs begin: not at zero, which nothing real does either.
const START: Duration = Duration::from_secs(1_000);

/// What came of a run that broke nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How often each invariant was checked.
    pub checks: Checks,
    /// How often each fault happened.
    pub fired: Vec<u64>,
    /// Queries of clients that reached an engine.
    pub queries: u64,
    /// Replies to them.
    pub replies: u64,
    /// Those of them that said SERVFAIL.
    pub servfails: u64,
    /// Look-ups in the cache that found something, and that did not.
    pub hits_and_misses: (u64, u64),
    /// Queries sent to servers.
    pub sends: u64,
    /// Inputs that engines were given.
    pub steps: u64,
    /// How long it took in virtual time.
    pub took: Duration,
    /// The hash of everything that happened.
    pub hash: u64,
}

/// One listener of each kind.
#[derive(Debug, Clone, Copy)]
struct Listeners {
    datagram: ListenerId,
    tcp: ListenerId,
    dot: ListenerId,
    doh: ListenerId,
    doh_plain: ListenerId,
}

impl Listeners {
    fn of(snapshot: &Snapshot) -> Self {
        let listener = |transport, tls| {
            let sockets = &snapshot.listen.sockets;
            let is_it = |socket: &ListenSocket| socket.transport == transport && socket.tls == tls;
            let place = sockets.iter().position(is_it).expect("there is one");
            ListenerId(u16::try_from(place).expect("few listeners"))
        };
        Self {
            datagram: listener(Transport::Udp, false),
            tcp: listener(Transport::Tcp, false),
            dot: listener(Transport::Dot, true),
            doh: listener(Transport::Doh, true),
            doh_plain: listener(Transport::Doh, false),
        }
    }
}

/// A world and all that is in it.
#[derive(Debug)]
pub struct World {
    options: Options,
    now: Instant,
    queue: Queue,
    workers: Vec<Worker>,
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    old_snapshots: Vec<Weak<Snapshot>>,
    generations: Vec<Generation>,
    supervisor: Supervisor,
    /// How often workers were started.
    starts: u64,
    listeners: Listeners,
    truth: Truth,
    model: Model,
    faults: Faults,
    checks: Checks,
    trace: Trace,
    /// Inputs and outputs, if the run is to be repeated in other ways.
    log: Option<Log>,
    clients: Vec<Client>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    /// The connection that is being offered to an engine.
    accepting: Option<u64>,
    exchanges: BTreeMap<u64, ClientExchange>,
    next_exchange: u64,
    /// The exchange that is being offered to an engine.
    opening: Option<u64>,
    servers: Vec<Server>,
    client_draw: Draw,
    latency: Draw,
    spoofers: Draw,
    /// What processes of plugins do.
    processes: Draw,
    hash: KeyedState,
    /// Outputs of one input; kept for its memory.
    outputs: Vec<Output>,
    /// Outputs of an input that was given while others were being carried out.
    late_outputs: Vec<(usize, Output)>,
    /// When an engine was last asked for a name that it has to forward, under each generation, in
    /// general and for the pool.
    asked_at: Map<(usize, usize, usize, bool), Instant>,
    /// What may wait for a plugin, whether somebody waits for it still or not.
    suspended: VecDeque<Suspended>,
    /// Names that may have been sent to servers, and so be remembered.
    passed_names: BTreeSet<usize>,
    /// Queries that clients have sent in the first part.
    asked: u64,
    /// Queries that reached an engine.
    delivered: u64,
    replies: u64,
    servfails: u64,
    sends: u64,
    steps: u64,
    /// Questions of the time after healing, by the place of their name.
    recovering: Map<usize, Recovering>,
    /// The name whose next datagram to a server gets lost.
    losing: Option<usize>,
    /// Some names that SERVFAIL was said of.
    failed_names: Vec<usize>,
    /// The operator waits for somebody who waits for a plugin.
    reload_waits: bool,
    /// Seconds since the beginning.
    ticks: u64,
    strict: bool,
    stopping: bool,
    ended: bool,
}

impl World {
    /// The world that these options describe.
    ///
    /// # Errors
    /// S24, if its first configuration is refused.
    pub fn new(
        options: Options,
        printer: Option<Printer>,
        log: Option<Log>,
    ) -> Result<Self, Broken> {
        let seed = options.seed;
        let now = Instant::ZERO + START;
        let generation = Generation::draw(&options, 0);
        let snapshot = generation.load().map_err(|errors| {
            Broken::new(Invariant::S24, format!("{errors}\n{}", generation.lua()))
        })?;
        let snapshot = Arc::new(snapshot);
        let shared = Arc::new(Shared::new(&snapshot, shared_seed(&options)));
        let listeners = Listeners::of(&snapshot);
        let units = (0..options.engines).map(UnitId).collect();
        let component = ComponentSpec { name: "dns", required: true, units };
        let mut world = Self {
            now,
            queue: Queue::default(),
            workers: (0..options.engines).map(|_| Worker::new()).collect(),
            shared,
            old_snapshots: vec![Arc::downgrade(&snapshot)],
            supervisor: Supervisor::new(snapshot.control, vec![component], now),
            snapshot,
            starts: 0,
            listeners,
            truth: Truth::new(&options),
            model: Model::new(&generation),
            generations: vec![generation],
            faults: Faults::new(seed, options.rates.clone()),
            checks: Checks::default(),
            trace: Trace::new(printer),
            log,
            clients: Vec::new(),
            links: BTreeMap::new(),
            next_link: 1,
            accepting: None,
            exchanges: BTreeMap::new(),
            next_exchange: 1,
            opening: None,
            servers: (0..options.servers).map(|_| Server::default()).collect(),
            client_draw: Draw::new(seed, Purpose::Clients),
            latency: Draw::new(seed, Purpose::Latency),
            spoofers: Draw::new(seed, Purpose::Spoofers),
            processes: Draw::new(seed, Purpose::Processes),
            hash: KeyedState::new((seed, 9)),
            outputs: Vec::new(),
            late_outputs: Vec::new(),
            asked_at: Map::with_hasher(KeyedState::new((10, 10))),
            suspended: VecDeque::new(),
            passed_names: BTreeSet::new(),
            asked: 0,
            delivered: 0,
            replies: 0,
            servfails: 0,
            sends: 0,
            steps: 0,
            recovering: Map::with_hasher(KeyedState::new((13, 13))),
            losing: None,
            failed_names: Vec::new(),
            reload_waits: false,
            ticks: 0,
            strict: false,
            stopping: false,
            ended: false,
            options,
        };
        world.clients = world.make_clients();
        world.model.excuses = world.excuses();
        world.begin()?;
        Ok(world)
    }

    fn begin(&mut self) -> Result<(), Broken> {
        self.trace.note(self.now, || self.generations[0].lua());
        let mut habits = Draw::new(self.options.seed, Purpose::Upstreams);
        for server in &mut self.servers {
            server.no_edns = self.faults.rate(Fault::NoEdns) > 0 && habits.chance(300);
            server.ignores_case = self.faults.rate(Fault::IgnoresCase) > 0 && habits.chance(300);
        }
        self.supervise()?;
        self.queue.push(self.now, Event::Tick);
        for client in 0..self.clients.len() {
            self.queue.push(self.now, Event::ClientTurn(client));
        }
        Ok(())
    }

    /// What the faults that are on excuse.
    fn excuses(&self) -> Excuses {
        let is_on = |fault: &Fault| self.options.rates.get(*fault) > 0;
        let weak = self.options.tiny_limits || self.options.is_crowded() || !self.has_time();
        let lateness = if is_on(&Fault::LateTimer) { 150_000 } else { 0 };
        Excuses {
            may_fail: weak || UPSTREAM_FAULTS.iter().any(is_on),
            odd_rcodes: is_on(&Fault::ErrorRcode),
            odd_truncation: is_on(&Fault::Truncates) || self.options.tiny_patience,
            stopping: false,
            lateness: Duration::from_micros(lateness),
        }
    }

    /// Whether upstreams can answer in the time that they are given.
    fn has_time(&self) -> bool {
        let generation = &self.generations[0];
        let needed_ms = self.needed_ms();
        generation.servers.iter().all(|server| server.timeout_ms > needed_ms)
            && generation.deadline_ms > needed_ms
            && generation.attempts_max >= 3
    }

    /// The configuration that the run began with.
    #[must_use]
    pub fn first_snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// Lets everything happen.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn run(mut self) -> Result<(Outcome, Option<Log>), Broken> {
        while !self.is_over() {
            self.step().map_err(|broken| Broken { at: Some(self.now), ..broken })?;
        }
        let value = |counter| {
            let metrics = self.shared.all_metrics();
            metrics.iter().map(|worker| worker.counters.value(counter)).sum::<u64>()
        };
        let outcome = Outcome {
            fired: self.faults.fired().to_vec(),
            queries: self.delivered,
            replies: self.replies,
            servfails: self.servfails,
            hits_and_misses: (value(Counter::CacheHits), value(Counter::CacheMisses)),
            sends: self.sends,
            steps: self.steps,
            took: self.now.since(Instant::ZERO + START),
            hash: self.trace.hash(),
            checks: self.checks,
        };
        Ok((outcome, self.log))
    }

    fn is_over(&self) -> bool {
        self.queue.next_at().is_none()
    }

    /// The next event or deadline, whichever comes first.
    fn step(&mut self) -> Result<(), Broken> {
        let event_at = self.queue.next_at().expect("the run is not over");
        let timers = self.workers.iter().enumerate();
        let due =
            timers.filter_map(|(engine, worker)| Some((worker.next_timeout()?, engine))).min();
        if let Some((at, engine)) = due.filter(|(at, _)| *at <= event_at) {
            self.pass(at)?;
            return self.timer_due(engine);
        }
        self.pass(event_at)?;
        let (_, event) = self.queue.pop().expect("just seen");
        self.happen(event)?;
        while let Some((engine, output)) = self.late_outputs.pop() {
            self.carry_out(engine, vec![output])?;
        }
        Ok(())
    }

    fn pass(&mut self, to: Instant) -> Result<(), Broken> {
        if to > self.now {
            self.now = to;
            self.model.check_overdue(to, &mut self.checks)?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::ClientTurn(client) => {
                let engine = client % self.workers.len();
                self.disturb(engine)?;
                self.client_turn(client)
            }
            Event::Query { engine, question } => self.queries_arrive(engine, *question),
            Event::Link(number, what) => self.link_event(number, what),
            Event::Exchange(number, what) => self.exchange_event(number, what),
            Event::Asked { place, life, by, message } => {
                self.server_asked(place, life, by, &message)
            }
            Event::Reply { life, socket, message, number } => {
                self.reply_arrives(life, socket, message, number)
            }
            Event::Socket { life, socket, failure } => self.socket_event(life, socket, failure),
            Event::Conn { life, conn, what } => self.conn_event(life, conn, what),
            Event::Process { life, process, what } => self.process_event(life, process, what),
            Event::Tick => self.tick(),
            Event::Reload if self.stopping || self.faults.healed() => Ok(()),
            Event::Reload => self.reload(),
            Event::Supervise => self.supervise(),
            Event::Recovery { engine, name, ask } => self.recovery_asks(engine, name, ask),
            Event::BeStrict => {
                self.be_strict();
                Ok(())
            }
            Event::Outage => {
                self.begin_outage();
                Ok(())
            }
            Event::Idle => {
                self.ask_by_stream(0, 1);
                Ok(())
            }
            Event::Stop => self.stop(),
            Event::End => self.end(),
        }
    }
}
