//! After the faults: everything heals, and questions look for what still does not work. Then one
//! datagram is lost here and there, and one server ends for good, and clients must not notice.

use balancedns_core::metrics::Counter;
use balancedns_core::time::{Duration, Instant};

use super::World;
use super::clients::Client;
use super::queue::Event;
use super::servers::{Outage, Server};
use crate::generation::ZONES;
use crate::invariant::{Broken, Invariant};
use crate::message::{Asked, RD, types};
use crate::model::Excuses;
use crate::truth::{Kind, Name};

/// How long after healing everything has to work again: the longest wait between probes, and time
/// for their replies.
const RECOVERY: Duration = Duration::from_secs(42);
/// Between two questions of the time after healing.
const RECOVERY_STEP: Duration = Duration::from_millis(250);
/// Between two names that nothing may go wrong with.
const STRICT_STEP: Duration = Duration::from_secs(2);
/// How long it may take until an upstream that is silent is known to be.
const NOTICED_AFTER: Duration = Duration::from_secs(10);
/// Probes of one upstream while it is gone: after waits of 1, 2, 4 and 8 seconds, and one to spare.
const PROBES_MAX: u64 = 5;
/// How late a lost datagram is sent again at most, in milliseconds.
const RETRANSMITTED_AFTER_MS: u64 = 1_500;
/// Types that names are asked for in turn.
const TYPES: [u16; 3] = [types::A, types::AAAA, types::TXT];

/// What a question of the time after healing is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Without RD, of what nobody has asked for: it is not to be forwarded.
    Unasked,
    /// For the first time.
    First,
    /// For the first time, and the first datagram to a server gets lost.
    LostOnce,
    /// A moment later.
    Again,
    /// Without RD, a moment later.
    Remembered,
    /// While one server is gone; whether that is to be known by now.
    WithoutServer {
        /// Long enough for the server to be known as down.
        noticed: bool,
    },
}

impl Ask {
    /// Whether it is asked while a server is gone.
    pub(super) const fn is_of_outage(self) -> bool {
        matches!(self, Self::WithoutServer { .. })
    }
}

/// A question of the time after healing.
#[derive(Debug)]
pub(super) struct Recovering {
    pub(super) ask: Ask,
    pub(super) sends: u64,
    pub(super) answered: bool,
    at: Instant,
    /// Whether it was answered for the first time before.
    known: bool,
    /// Hits of the worker's before it.
    hits: u64,
}

impl World {
    /// From now on nothing goes wrong; questions look for what still does.
    pub(super) fn begin_healing(&mut self) {
        if self.faults.healed() {
            return;
        }
        self.trace.note(self.now, || "everything heals".to_owned());
        self.faults.heal();
        for server in &mut self.servers {
            *server = Server::default();
        }
        let mut at = self.now + Duration::from_secs(5);
        let end = self.now + RECOVERY;
        // Names go through all zones before it is the next worker's turn.
        for (number, name) in self.truth.fresh_names().enumerate() {
            if at >= end {
                break;
            }
            let engine = number / ZONES.len() % self.workers.len();
            self.queue.push(at, Event::Recovery { engine, name, ask: Ask::First });
            at = at + RECOVERY_STEP;
        }
        self.queue.push(at, Event::BeStrict);
    }

    /// From now on nothing may go wrong.
    pub(super) fn be_strict(&mut self) {
        self.strict = self.can_be_strict();
        self.model.excuses = Excuses { may_fail: !self.strict, ..Excuses::default() };
        let mut at = self.now;
        let names: Vec<usize> = self.truth.strict_names().collect();
        let round = ZONES.len() * self.workers.len();
        for (number, name) in names.iter().copied().enumerate() {
            let engine = number / ZONES.len() % self.workers.len();
            let mut ask = |after, ask| {
                let at = at + RECOVERY_STEP * after;
                self.queue.push(at, Event::Recovery { engine, name, ask });
            };
            // The last round is for what gets lost.
            if number + round >= names.len() {
                ask(0, Ask::LostOnce);
            } else {
                ask(0, Ask::Unasked);
                ask(1, Ask::First);
                // A moment later it is remembered, if it may be.
                ask(5, Ask::Again);
                ask(6, Ask::Remembered);
            }
            at = at + STRICT_STEP;
        }
        // What failed while things went wrong does not fail any more.
        for name in self.failed_names.clone() {
            for engine in 0..self.workers.len() {
                self.queue.push(at, Event::Recovery { engine, name, ask: Ask::First });
                at = at + RECOVERY_STEP * 4;
            }
        }
        self.queue.push(at, Event::Outage);
    }

    /// Whether the configuration leaves the time and the room that upstreams need.
    fn can_be_strict(&self) -> bool {
        let generation = self.generations.last().expect("there is one");
        let needed_ms = self.needed_ms();
        let patient = generation.servers.iter().all(|server| server.timeout_ms > needed_ms);
        !self.options.tiny_limits
            && patient
            && generation.deadline_ms > needed_ms
            && generation.attempts_max >= 3
    }

    /// What a question may take: a truncated reply costs a connect and two exchanges, the address of
    /// an upstream one more. Over TLS half of a question's time has to be enough for a connect, a
    /// handshake and an exchange, since an upstream may be thought silent after that.
    pub(super) fn needed_ms(&self) -> u64 {
        let round_trips = if self.options.encrypted_per_mille > 0 { 8 } else { 6 };
        // An executable starts, thinks and ends.
        let plugins = if self.options.policies { 10 } else { 0 };
        round_trips * self.options.round_trip_us / 1_000 + 20 + plugins
    }

    /// One server ends for good, if there is another one for its names; then the workers do.
    pub(super) fn begin_outage(&mut self) {
        let mut at = self.now;
        if let Some(victim) = self.victim().filter(|_| self.strict) {
            let how = [Outage::Silent, Outage::Refusing, Outage::Failing];
            let how = how[self.options.seed as usize % how.len()];
            self.trace.note(at, || format!("server {victim} ends: {how:?}"));
            self.servers[victim].outage = Some(how);
            // Whether somebody may be told SERVFAIL is looked at here, name by name.
            self.model.excuses.may_fail = true;
            for worker in &mut self.workers {
                worker.probes_before_outage = Some(worker.value(Counter::UpstreamProbes));
            }
            let noticed_at = at + NOTICED_AFTER;
            let names: Vec<usize> = self.truth.outage_names().collect();
            let workers = self.workers.len();
            for (number, name) in names.into_iter().enumerate() {
                // All workers at the same time, one zone after the other.
                let engine = number / ZONES.len() % workers;
                let ask = Ask::WithoutServer { noticed: at >= noticed_at };
                self.queue.push(at, Event::Recovery { engine, name, ask });
                if (number + 1) % workers == 0 {
                    at = at + RECOVERY_STEP;
                }
            }
            at = at + Duration::from_secs(1);
        }
        // A connection that idles when the end comes.
        self.queue.push(at, Event::Idle);
        self.queue.push(at + Duration::from_millis(150), Event::Stop);
    }

    /// The first server of a zone that has another one.
    fn victim(&self) -> Option<usize> {
        let generation = self.generations.last().expect("there is one");
        let start = self.options.seed as usize / 3;
        (0..ZONES.len()).find_map(|number| {
            let pool = self.recovery_pool();
            let servers = generation.best_zone(ZONES[(start + number) % ZONES.len()], pool);
            (servers.len() > 1).then(|| servers[0].place)
        })
    }

    /// Whether the pool is asked for who asks after healing.
    pub(super) fn recovery_pool(&self) -> bool {
        let Client { address, .. } = self.clients[0];
        self.generations.last().expect("there is one").pool_for(address)
    }

    /// A question of the time after healing, of one worker.
    pub(super) fn recovery_asks(
        &mut self,
        engine: usize,
        name: usize,
        ask: Ask,
    ) -> Result<(), Broken> {
        let flags = match ask {
            Ask::Unasked | Ask::Remembered => 0,
            Ask::First | Ask::LostOnce | Ask::Again | Ask::WithoutServer { .. } => RD,
        };
        let mut question = self.question_for(0, name, TYPES[name % TYPES.len()], flags);
        while self.engine_of(question.peer) != engine {
            question.peer.set_port(self.next_port(0));
        }
        // With few sends, what is left after the first is for those who were not asked at all.
        let generation = self.generations.last().expect("there is one");
        if ask == Ask::LostOnce && generation.attempts_max >= 8 {
            self.losing = Some(name);
        }
        let before = self.recovering.get(&name);
        let known = before.is_some_and(|it| it.answered && (it.known || it.ask == Ask::First));
        let recovering = Recovering {
            ask,
            sends: 0,
            at: self.now,
            answered: false,
            known,
            hits: self.workers[engine].value(Counter::CacheHits),
        };
        self.recovering.insert(name, recovering);
        self.queue.push(self.now, Event::Query { engine, question: Box::new(question) });
        Ok(())
    }

    /// Whether this is the datagram that gets lost.
    pub(super) fn is_to_be_lost(&mut self, message: &[u8]) -> bool {
        let Some(losing) = self.losing else { return false };
        let name = Asked::read(message).ok().and_then(|asked| self.truth.find(asked.name(message)));
        let is_it = name == Some(losing);
        self.losing = self.losing.filter(|_| !is_it);
        is_it
    }

    /// The answer to a question of the time after healing.
    pub(super) fn recovered(
        &mut self,
        engine: usize,
        name: usize,
        rcode: u8,
    ) -> Result<(), Broken> {
        let recovering = self.recovering.get_mut(&name).filter(|it| !it.answered);
        let Some(recovering) = recovering else { return Ok(()) };
        recovering.answered = true;
        let Recovering { ask, sends, at, known, hits, .. } = *recovering;
        if !self.strict {
            return Ok(());
        }
        // What was asked for just before the end is answered while others have stopped already.
        let is_ready = self.supervisor.is_ready() || self.stopping;
        let up = self.workers[engine].machine.is_some() && is_ready;
        self.checks.that(Invariant::L1, up, || "a worker does not run after healing".to_owned())?;
        let Name { text, kind, .. } = &self.truth.names()[name];
        let fails = rcode == 2 && !matches!(kind, Kind::Broken | Kind::Denied);
        if !ask.is_of_outage() {
            self.checks
                .that(Invariant::L2, !fails, || format!("SERVFAIL for {text} after healing"))?;
        }
        let kept = known && self.is_kept(name);
        match ask {
            Ask::First => Ok(()),
            Ask::Unasked => self.checks.that(Invariant::S11, rcode == 5 && sends == 0, || {
                format!("{text} was asked without RD: rcode {rcode}, {sends} sends")
            }),
            Ask::Again if kept => {
                let now_hits = self.workers[engine].value(Counter::CacheHits);
                let is_hit = sends == 0 && now_hits == hits + 1;
                self.checks.that(Invariant::L3, is_hit, || {
                    format!("{text} was asked for a moment ago, and again upstream, {sends} times, with {hits} and then {now_hits} hits")
                })
            }
            Ask::Remembered if kept => self.checks.that(Invariant::L3, rcode != 5, || {
                format!("{text} was asked for a moment ago, and is refused without RD")
            }),
            Ask::Again | Ask::Remembered => Ok(()),
            Ask::LostOnce => self.check_lost_once(name, at),
            Ask::WithoutServer { noticed } => self.check_without_server(name, at, fails, noticed),
        }
    }

    /// Whether an answer for this name stays in the cache for a while.
    fn is_kept(&self, name: usize) -> bool {
        let generation = self.generations.last().expect("there is one");
        let roomy = generation.cache && !self.options.tiny_cache && generation.capacity >= 1_000;
        let qtype = TYPES[name % TYPES.len()];
        let asked = Asked { id: 0, flags: 0, question_end: 0, qtype, edns: Some((0, false)) };
        let content = self.truth.content(name, &asked, self.now);
        let shape = self.truth.shape(&content);
        let lasts = (0..shape.answers.max(1)).all(|record| {
            let ttl = self.truth.ttl(&content, record);
            (10..1 << 31).contains(&ttl)
        });
        roomy && lasts
    }

    /// A lost datagram is sent again, long before the upstream's time is over.
    fn check_lost_once(&mut self, name: usize, at: Instant) -> Result<(), Broken> {
        let took = self.now.since(at);
        let longest = Duration::from_millis(RETRANSMITTED_AFTER_MS + self.needed_ms());
        self.checks.that(Invariant::L4, took <= longest, || {
            format!("{} took {took:?}, since one datagram was lost", self.truth.names()[name].text)
        })
    }

    /// Whoever asks hears from another upstream; once it is known, without a wait.
    fn check_without_server(
        &mut self,
        name: usize,
        at: Instant,
        fails: bool,
        noticed: bool,
    ) -> Result<(), Broken> {
        let generation = self.generations.last().expect("there is one");
        let text = &self.truth.names()[name].text;
        let gone = |place: usize| self.servers[place].outage;
        let best = generation.best_zone(text, self.recovery_pool());
        let how = best.iter().find_map(|server| gone(server.place));
        if how.is_some() && best.len() == 1 {
            return Ok(()); // zones come before health
        }
        let took = self.now.since(at);
        let answers = !fails || (how == Some(Outage::Silent) && !noticed);
        self.checks.that(Invariant::L4, answers, || {
            format!("SERVFAIL for {text} after {took:?}, with one server gone: {how:?}")
        })?;
        let longest = Duration::from_millis(2 * self.needed_ms());
        self.checks.that(Invariant::L4, took <= longest || !noticed, || {
            format!("{text} took {took:?}, with one server gone for a while: {how:?}")
        })
    }

    /// Who is gone is looked for ever more rarely.
    pub(super) fn check_probes(&mut self, engine: usize) -> Result<(), Broken> {
        let worker = &self.workers[engine];
        let Some(before) = worker.probes_before_outage else { return Ok(()) };
        let probes = worker.value(Counter::UpstreamProbes) - before;
        self.checks.that(Invariant::L4, probes <= PROBES_MAX, || {
            format!("{probes} probes of one server that is gone")
        })
    }
}
