//! What clients may be told: every query that reached an engine, and whether its reply is right.
//!
//! Written against the RFCs and the configuration, not against the core: replies are read with
//! hickory-proto, routes and lists are compared as texts, TTLs are worked out anew.

mod age;
mod form;
mod forwarded;
mod policy;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

use balancedns_core::handle::ListenerId;
use balancedns_core::hash::{KeyedState, Map};
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;

use self::age::Bounds;
use self::form::{check_echo, check_form};
use self::policy::{
    check_blocked, check_data, check_failed, check_record, check_wants_tcp, is_telling,
    without_rewriting,
};
use crate::generation::{Blacklist, Generation};
use crate::invariant::{Broken, Checks, Invariant};

use crate::reading::Reading;
use crate::truth::Truth;
use crate::world::{Inquiry, Prospects};

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// By datagrams, from this address.
    Datagram(SocketAddr),
    /// Over the connection of this number.
    Stream(u64),
    /// By the HTTP exchange of this number.
    Exchange(u64),
}

/// What has to come of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is sent back.
    Silence,
    /// This rcode, this extended error and no records, decided without asking anybody.
    Rcode(u8, Option<u16>),
    /// Something that is known here: this rcode and so many answers.
    Local(u8, usize),
    /// What upstreams say of the name of this place.
    Forwarded(usize),
    /// The same, but only if it is remembered; else REFUSED.
    Remembered(usize),
    /// It is blocked, in this way.
    Blocked(Blacklist),
    /// The local data that a plugin has for the name of this place, in this variant of it.
    Data(usize, u64),
    /// This address, of a record of the configuration.
    Record(u32),
    /// A plugin fails, and that is SERVFAIL.
    Failed,
    /// A plugin wants it to be asked over TCP.
    WantsTcp,
}

/// A query that reached an engine.
#[derive(Debug, Clone)]
pub struct Query {
    /// Which engine.
    pub engine: usize,
    /// Over what, and from where.
    pub channel: Channel,
    /// The listener, and our address that was asked.
    pub listener: (ListenerId, Option<IpAddr>),
    /// Its octets.
    pub message: Bytes,
    /// Where its question ends.
    pub question_end: usize,
    /// Its type.
    pub qtype: u16,
    /// The size it can take and DO, if it has EDNS.
    pub edns: Option<(u16, bool)>,
    /// What has to come of it.
    pub verdict: Verdict,
    /// What may come of it as well, since plugins may fail.
    pub others: Vec<Verdict>,
    /// The name asked for, if servers know it.
    pub asked_name: Option<usize>,
    /// Whether what aliases lead to is blocked.
    pub blocks_targets: bool,
    /// The name that the executable has to decide about, if its name says how.
    pub judged: Option<usize>,
    /// Whether it may have waited for an executable, and not for a server.
    pub may_be_suspended: bool,
    /// What decides about it.
    pub(crate) inquiry: Inquiry,
    /// The generation under which it was asked.
    pub generation: u64,
    /// The largest reply.
    pub limit: usize,
    /// Whether its connection may end before it is answered.
    pub may_be_lost: bool,
}

impl Query {
    fn id(&self) -> u16 {
        u16::from_be_bytes([self.message[0], self.message[1]])
    }

    fn flags(&self) -> u16 {
        u16::from_be_bytes([self.message[2], self.message[3]])
    }

    fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok)
    }
}

/// A query that waits, as often as it was sent.
#[derive(Debug)]
struct Waiting {
    query: Query,
    /// The deadline of each copy, in order of arrival; none where reading had stopped.
    deadlines: Vec<Option<Instant>>,
    /// When the first copy arrived, and the last one.
    asked_at: Instant,
    arrived: Instant,
}

/// What came of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Its rcode.
    pub rcode: u8,
    /// Whether it was cut off.
    pub truncated: bool,
    /// What was asked for, if servers know it.
    pub name: Option<usize>,
    /// The same, whatever policies made of it.
    pub asked_name: Option<usize>,
    /// Which verdict it is.
    pub verdict: Verdict,
    /// Which one it has to be if no plugin fails.
    pub expected: Verdict,
    /// The name that the executable has to decide about, if its name says how.
    pub judged: Option<usize>,
    /// The type asked for.
    pub qtype: u16,
    /// When the first copy of the query arrived.
    pub asked_at: Instant,
    /// Whether nothing else could look the same.
    pub is_telling: bool,
}

/// How strict the model is: faults excuse failures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Excuses {
    /// Something keeps upstreams from answering, or did until a while ago.
    pub may_fail: bool,
    /// Upstreams answer with rcodes of their own.
    pub odd_rcodes: bool,
    /// Upstreams set TC without reason.
    pub odd_truncation: bool,
    /// The process stops: who waits for a plugin is told so.
    pub stopping: bool,
    /// By how much replies may be late.
    pub lateness: Duration,
}

/// Queries that wait, and the rules for their replies.
#[derive(Debug)]
pub struct Model {
    waiting: Map<(Channel, u16), Waiting>,
    overdue: BinaryHeap<Reverse<(Instant, Channel, u16)>>,
    /// Rules that hold now.
    pub excuses: Excuses,
    /// TTL bounds of all generations.
    bounds: Bounds,
    /// What each generation says that it can take.
    udp_sizes: Vec<u16>,
}

impl Model {
    /// Nobody waits yet.
    #[must_use]
    pub fn new(generation: &Generation) -> Self {
        Self {
            waiting: Map::with_hasher(KeyedState::new((5, 5))),
            overdue: BinaryHeap::new(),
            excuses: Excuses::default(),
            bounds: Bounds::of(generation),
            udp_sizes: vec![generation.udp_size],
        }
    }

    /// From now on this generation counts as well.
    pub fn reloaded(&mut self, generation: &Generation) {
        self.udp_sizes.push(generation.udp_size);
    }

    /// A query has reached an engine; it has to be answered by the deadline, if one is known.
    pub fn asked(&mut self, now: Instant, query: Query, deadline: Option<Instant>) {
        if query.verdict == Verdict::Silence {
            return;
        }
        let key = (query.channel, query.id());
        if let Some(deadline) = deadline {
            self.overdue.push(Reverse((deadline, key.0, key.1)));
        }
        let new = || Waiting { query, deadlines: Vec::new(), asked_at: now, arrived: now };
        let waiting = self.waiting.entry(key).or_insert_with(new);
        waiting.deadlines.push(deadline);
        waiting.arrived = now;
    }

    /// The queries that wait at an engine, and what decides about each.
    pub(crate) fn waiting_at(&self, engine: usize) -> Vec<((Channel, u16), Inquiry)> {
        let own = self.waiting.iter().filter(|(_, waiting)| waiting.query.engine == engine);
        let mut own: Vec<_> = own.map(|(key, waiting)| (*key, waiting.query.inquiry)).collect();
        own.sort_unstable_by_key(|(key, _)| *key);
        own
    }

    /// The configuration has changed: who waits for a plugin begins again, and what comes of it may be
    /// what comes of it now, so much later.
    pub(crate) fn begins_again(
        &mut self,
        key: (Channel, u16),
        new: &Prospects,
        patience: Duration,
    ) {
        let Some(waiting) = self.waiting.get_mut(&key) else { return };
        let query = &mut waiting.query;
        query.others.push(new.verdict);
        query.others.extend(new.others.iter().copied());
        query.judged = None;
        query.may_be_suspended = true;
        query.blocks_targets &= new.blocks_targets;
        for deadline in waiting.deadlines.iter_mut().flatten() {
            *deadline = (*deadline).max(waiting.arrived + patience);
            self.overdue.push(Reverse((*deadline, key.0, key.1)));
        }
    }

    /// Whether a copy of a query waits that was asked under another generation: whose reply comes first
    /// could not be told.
    #[must_use]
    pub fn waits_under_another(&self, channel: Channel, id: u16, generation: u64) -> bool {
        let waiting = self.waiting.get(&(channel, id));
        waiting.is_some_and(|waiting| waiting.query.generation != generation)
    }

    /// Queries of an engine that ended cannot be answered any more.
    pub fn forget_engine(&mut self, engine: usize) {
        self.waiting.retain(|_, waiting| waiting.query.engine != engine);
    }

    /// A connection or an exchange ended. Gives how many queries of it were not answered and had to be.
    pub fn forget_channel(&mut self, ended: Channel) -> usize {
        let mut owed = 0;
        self.waiting.retain(|(channel, _), waiting| {
            let is_its = *channel == ended;
            owed += usize::from(is_its && !waiting.query.may_be_lost);
            !is_its
        });
        owed
    }

    /// A connection or an exchange is in such a state that its queries may go unanswered.
    pub fn excuse_channel(&mut self, excused: Channel) {
        for ((channel, _), waiting) in &mut self.waiting {
            if *channel == excused {
                waiting.query.may_be_lost = true;
                waiting.deadlines.iter_mut().for_each(|deadline| *deadline = None);
            }
        }
    }

    /// Checks that nobody waits beyond the deadline.
    ///
    /// # Errors
    /// S2, if somebody does.
    pub fn check_overdue(&mut self, now: Instant, checks: &mut Checks) -> Result<(), Broken> {
        while let Some(Reverse((deadline, channel, id))) = self.overdue.peek().copied() {
            if now <= deadline + self.excuses.lateness {
                return Ok(());
            }
            self.overdue.pop();
            let Some(waiting) = self.waiting.get(&(channel, id)) else { continue };
            let is_owed = waiting.deadlines.contains(&Some(deadline));
            checks.that(Invariant::S2, !is_owed, || {
                let late = now.since(deadline);
                format!("no reply to id {id:#06x} of {channel:?}, {late:?} after its deadline")
            })?;
        }
        Ok(())
    }

    /// Checks that nobody waits at all.
    ///
    /// # Errors
    /// S1, if somebody does.
    pub fn check_done(&self, checks: &mut Checks) -> Result<(), Broken> {
        let owed = self.waiting.iter().find(|(_, waiting)| !waiting.query.may_be_lost);
        checks.that(Invariant::S1, owed.is_none(), || {
            let ((channel, id), waiting) = owed.expect("one was found");
            format!("id {id:#06x} of {channel:?} was never answered: {:?}", waiting.query.verdict)
        })
    }

    /// Takes a reply of an engine.
    ///
    /// # Errors
    /// The invariant that it breaks.
    #[expect(
        clippy::too_many_arguments,
        reason = "where a reply came from is part of what is checked"
    )]
    pub fn replied(
        &mut self,
        now: Instant,
        engine: usize,
        channel: Channel,
        from: (ListenerId, Option<IpAddr>),
        message: &[u8],
        truth: &Truth,
        checks: &mut Checks,
    ) -> Result<Outcome, Broken> {
        let short = message.len() < 12;
        checks.that(Invariant::S4, !short, || format!("a reply of {} octets", message.len()))?;
        let id = u16::from_be_bytes([message[0], message[1]]);
        let found = self.waiting.get_mut(&(channel, id));
        checks.that(Invariant::S1, found.is_some(), || {
            format!("a reply that nobody waits for: id {id:#06x} to {channel:?}")
        })?;
        let waiting = found.expect("just checked");
        // Which copy was answered cannot be told: the most urgent one, to the benefit of the doubt.
        let urgency =
            |place: &usize| waiting.deadlines[*place].unwrap_or(Instant::from_nanos(u64::MAX));
        let place = (0..waiting.deadlines.len()).min_by_key(urgency).expect("one waits");
        // What comes over a stream may have waited to be read.
        let is_read_at_once = !matches!(channel, Channel::Stream(_));
        let waited = is_read_at_once
            && !waiting.query.may_be_suspended
            && waiting.deadlines.len() == 1
            && waiting.arrived < now;
        let asked_at = waiting.asked_at;
        let deadline = waiting.deadlines.remove(place);
        let query = if waiting.deadlines.is_empty() {
            self.waiting.remove(&(channel, id)).expect("just seen").query
        } else {
            waiting.query.clone()
        };
        let in_time = deadline.is_none_or(|deadline| now <= deadline + self.excuses.lateness);
        checks.that(Invariant::S2, in_time, || format!("the reply to id {id:#06x} came late"))?;
        let same_way = query.engine == engine && query.listener == from;
        checks.that(Invariant::S3, same_way, || {
            format!(
                "asked at {:?} of engine {}, answered from {from:?} of {engine}",
                query.listener, query.engine
            )
        })?;
        check_echo(&query, message, checks)?;
        let reading = check_form(&query, message, &self.udp_sizes, checks)?;
        let told = Told { query: &query, reading: &reading, octets: message.len(), waited };
        let verdict = self.check_content(now, told, truth, checks)?;
        let name = match verdict {
            Verdict::Forwarded(name) | Verdict::Remembered(name) => Some(name),
            Verdict::Silence
            | Verdict::Rcode(..)
            | Verdict::Local(..)
            | Verdict::Blocked(_)
            | Verdict::Data(..)
            | Verdict::Record(_)
            | Verdict::Failed
            | Verdict::WantsTcp => None,
        };
        Ok(Outcome {
            rcode: reading.rcode,
            truncated: reading.truncated,
            name,
            asked_name: query.asked_name,
            verdict,
            expected: query.verdict,
            judged: query.judged,
            qtype: query.qtype,
            asked_at,
            is_telling: is_telling(verdict, &query, &reading),
        })
    }

    /// Gives the verdict that it is: the one that it has to be, or another one that it may be.
    fn check_content(
        &self,
        now: Instant,
        told: Told<'_>,
        truth: &Truth,
        checks: &mut Checks,
    ) -> Result<Verdict, Broken> {
        let Query { verdict, others, .. } = told.query;
        let broken = match self.check_verdict(now, told, *verdict, truth, checks) {
            Ok(()) => return Ok(*verdict),
            Err(broken) => broken,
        };
        let is_it =
            |other: &&Verdict| self.check_verdict(now, told, **other, truth, checks).is_ok();
        let is_stopped = self.excuses.stopping && told.query.may_be_suspended;
        let at_the_end = [Verdict::Failed];
        let at_the_end = at_the_end.iter().filter(|_| is_stopped);
        others.iter().chain(at_the_end).find(is_it).copied().ok_or(broken)
    }

    fn check_verdict(
        &self,
        now: Instant,
        told: Told<'_>,
        verdict: Verdict,
        truth: &Truth,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let Told { query, reading, .. } = told;
        let empty = reading.values.is_empty() && reading.others == 0 && !reading.truncated;
        let error = reading.edns.and_then(|edns| edns.extended_error);
        match verdict {
            Verdict::Silence => unreachable!("queries without a reply are not kept"),
            Verdict::Rcode(rcode, why) => {
                let why = why.filter(|_| reading.edns.is_some());
                let right =
                    reading.rcode == rcode && empty && reading.soa.is_none() && error == why;
                checks.that(verdict_invariant(verdict), right, || {
                    format!(
                        "expected rcode {rcode}, extended error {why:?} and nothing else, under generation {}: {reading:?}",
                        query.generation
                    )
                })
            }
            Verdict::Local(rcode, answers) => {
                // Without a SOA nobody could remember that nothing is there (RFC 2308 section 3).
                let right = reading.rcode == rcode
                    && reading.others + reading.values.len() == answers
                    && reading.soa.is_some() == (answers == 0)
                    && error.is_none()
                    && !reading.truncated;
                checks.that(verdict_invariant(verdict), right, || {
                    format!("expected rcode {rcode} and {answers} answers, made here: {reading:?}")
                })
            }
            Verdict::Remembered(_) if reading.rcode == 5 && empty && error != Some(23) => {
                let said = reading.edns.is_none() || error == Some(20);
                checks.that(Invariant::S4, said, || format!("no reason is given: {reading:?}"))
            }
            Verdict::Forwarded(name) | Verdict::Remembered(name) => {
                let reading = without_rewriting(told, name, truth, checks)?;
                let was_rewritten = reading.aliases.len() < told.reading.aliases.len();
                let is_bare = reading.rcode == 0 && empty && reading.soa.is_none();
                if was_rewritten && is_bare && matches!(verdict, Verdict::Remembered(_)) {
                    return Ok(()); // no more is known here
                }
                let told = Told { reading: &reading, ..told };
                self.check_forwarded(now, told, name, truth, checks)
            }
            Verdict::Blocked(blacklist) => check_blocked(told, blacklist, checks),
            Verdict::Data(name, variant) => check_data(told, name, variant, truth, checks),
            Verdict::Record(address) => check_record(told, address, checks),
            Verdict::Failed => check_failed(told, checks),
            Verdict::WantsTcp => check_wants_tcp(told, checks),
        }
    }
}

/// A reply, and what is known of how it came.
#[derive(Debug, Clone, Copy)]
struct Told<'r> {
    query: &'r Query,
    reading: &'r Reading,
    /// Its length.
    octets: usize,
    /// The query has certainly waited for it, so that it does not come from the cache.
    waited: bool,
}

/// What is local belongs to a generation; what is malformed does not.
const fn verdict_invariant(verdict: Verdict) -> Invariant {
    match verdict {
        Verdict::Rcode(5, _)
        | Verdict::Local(..)
        | Verdict::Blocked(_)
        | Verdict::Data(..)
        | Verdict::Record(_)
        | Verdict::WantsTcp => Invariant::S7,
        Verdict::Failed => Invariant::S25,
        Verdict::Rcode(..) | Verdict::Silence | Verdict::Forwarded(_) | Verdict::Remembered(_) => {
            Invariant::S4
        }
    }
}
