//! What clients may be told: every query that reached an engine, and whether its reply is right.
//!
//! Written against the RFCs and the configuration, not against the core: replies are read with
//! hickory-proto, routes and lists are compared as texts, TTLs are worked out anew.

mod age;
mod form;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

use balancedns_core::handle::ListenerId;
use balancedns_core::hash::{KeyedState, Map};
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;

use self::age::{Bounds, check_age};
use self::form::{check_echo, check_form, extended_errors};
use crate::generation::Generation;
use crate::invariant::{Broken, Checks, Invariant};
use crate::message::{CD, types};
use crate::reading::Reading;
use crate::truth::{Content, FORGED, Kind, Truth};

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
    /// When the last copy arrived.
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
        let new = || Waiting { query, deadlines: Vec::new(), arrived: now };
        let waiting = self.waiting.entry(key).or_insert_with(new);
        waiting.deadlines.push(deadline);
        waiting.arrived = now;
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
        let waited = is_read_at_once && waiting.deadlines.len() == 1 && waiting.arrived < now;
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
        self.check_content(now, told, truth, checks)?;
        let name = match query.verdict {
            Verdict::Forwarded(name) | Verdict::Remembered(name) => Some(name),
            Verdict::Silence | Verdict::Rcode(..) | Verdict::Local(..) => None,
        };
        Ok(Outcome { rcode: reading.rcode, truncated: reading.truncated, name })
    }

    fn check_content(
        &self,
        now: Instant,
        told: Told<'_>,
        truth: &Truth,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let Told { query, reading, .. } = told;
        let empty = reading.values.is_empty() && reading.others == 0 && !reading.truncated;
        let error = reading.edns.and_then(|edns| edns.extended_error);
        match query.verdict {
            Verdict::Silence => unreachable!("queries without a reply are not kept"),
            Verdict::Rcode(rcode, why) => {
                let why = why.filter(|_| reading.edns.is_some());
                let right =
                    reading.rcode == rcode && empty && reading.soa.is_none() && error == why;
                checks.that(verdict_invariant(query), right, || {
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
                checks.that(verdict_invariant(query), right, || {
                    format!("expected rcode {rcode} and {answers} answers, made here: {reading:?}")
                })
            }
            Verdict::Remembered(_) if reading.rcode == 5 && empty && error != Some(23) => {
                let said = reading.edns.is_none() || error == Some(20);
                checks.that(Invariant::S4, said, || format!("no reason is given: {reading:?}"))
            }
            Verdict::Forwarded(name) | Verdict::Remembered(name) => {
                self.check_forwarded(now, told, name, truth, checks)
            }
        }
    }

    /// What an upstream said, or the reason why none did.
    fn check_forwarded(
        &self,
        now: Instant,
        told: Told<'_>,
        name: usize,
        truth: &Truth,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let Told { query, reading, .. } = told;
        let kind = truth.names()[name].kind;
        if reading.truncated {
            return self.check_truncated(query, kind, reading, checks);
        }
        let number =
            reading.values.first().map(|(value, _)| *value).or(reading.soa.map(|soa| soa.0));
        let Some(value) = number else {
            return self.check_bare(now, query, name, reading, truth, checks);
        };
        checks.that(Invariant::S6, value < FORGED, || format!("a forged record: {reading:?}"))?;
        let given = truth.given(value >> 6).filter(|given| !given.arrivals.is_empty());
        checks.that(Invariant::S6, given.is_some(), || format!("nobody said that: {reading:?}"))?;
        let given = given.expect("just checked");
        let content = &given.content;
        let is_asked = content.name == name && content.qtype == query.qtype;
        checks.that(Invariant::S6, is_asked, || {
            format!(
                "asked for {}, told of {}",
                truth.names()[name].text,
                truth.names()[content.name].text
            )
        })?;
        let latest = given.arrivals.last().copied().expect("just checked");
        self.check_bits(query, content, now.since(latest), checks)?;
        if kind == Kind::Large || kind == Kind::Medium {
            checks.count(Invariant::S13, 1);
        }
        check_age(&self.bounds, now, told, given, truth, checks)
    }

    /// DO and CD of the query are those that the server saw, but for a server without EDNS, whose
    /// answers to queries with DO are not remembered.
    fn check_bits(
        &self,
        query: &Query,
        content: &Content,
        age: Duration,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let dnssec_ok = query.dnssec_ok();
        let checking_disabled = query.flags() & CD != 0;
        let same_dnssec = match content.edns {
            Some(asked) => asked == dnssec_ok,
            None => !dnssec_ok || age.is_zero(),
        };
        let right = same_dnssec && content.checking_disabled == checking_disabled;
        checks.that(Invariant::S8, right, || {
            format!("asked with DO {dnssec_ok}, CD {checking_disabled}, told what was said to {content:?}")
        })
    }

    /// A reply without records.
    fn check_bare(
        &self,
        now: Instant,
        query: &Query,
        name: usize,
        reading: &Reading,
        truth: &Truth,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let content = Content {
            name,
            qtype: query.qtype,
            version: 0,
            edns: Some(query.dnssec_ok()),
            checking_disabled: query.flags() & CD != 0,
        };
        let kind = truth.names()[name].kind;
        let without_edns = Content { edns: None, ..content };
        if let (Some(edns), Some(reasons)) = (reading.edns, extended_errors(reading.rcode)) {
            let given = edns.extended_error.is_some_and(|error| reasons.contains(&error));
            checks.that(Invariant::S6, given, || format!("no reason is given: {reading:?}"))?;
        }
        match reading.rcode {
            2 => checks.that(Invariant::L2, self.excuses.may_fail || kind == Kind::Broken, || {
                format!(
                    "SERVFAIL for {} ({kind:?}), and nothing is wrong",
                    truth.names()[name].text
                )
            }),
            3 => {
                let just_said = [content, without_edns]
                    .iter()
                    .any(|content| truth.bare_arrived(content) == Some(now));
                checks
                    .that(Invariant::S6, just_said, || format!("nobody said NXDOMAIN: {reading:?}"))
            }
            5 => {
                checks.that(Invariant::S6, self.excuses.odd_rcodes || kind == Kind::Denied, || {
                    format!("nobody refused {}", truth.names()[name].text)
                })
            }
            4 => checks
                .that(Invariant::S6, self.excuses.odd_rcodes, || "nobody said NOTIMP".to_owned()),
            _ => checks.that(Invariant::S6, false, || format!("nobody said that: {reading:?}")),
        }
    }

    /// TC is for what is too long for the client, or was for us when no send was left.
    fn check_truncated(
        &self,
        query: &Query,
        kind: Kind,
        reading: &Reading,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let longest = match kind {
            Kind::Medium if query.qtype == types::TXT => 1_500,
            Kind::Large if query.qtype == types::TXT => 16_384,
            Kind::Plain
            | Kind::Extra
            | Kind::Alias
            | Kind::Medium
            | Kind::Large
            | Kind::Empty
            | Kind::Missing
            | Kind::MissingBare
            | Kind::Unstable
            | Kind::Broken
            | Kind::Denied => 512,
        };
        let by_us = query.limit < longest;
        let by_them = longest > 512 && self.excuses.may_fail || self.excuses.odd_truncation;
        checks.that(Invariant::S13, (by_us || by_them) && reading.values.is_empty(), || {
            format!("TC without a reason, or with records: {reading:?}")
        })
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
fn verdict_invariant(query: &Query) -> Invariant {
    match query.verdict {
        Verdict::Rcode(5, _) | Verdict::Local(..) => Invariant::S7,
        Verdict::Rcode(..) | Verdict::Silence | Verdict::Forwarded(_) | Verdict::Remembered(_) => {
            Invariant::S4
        }
    }
}
