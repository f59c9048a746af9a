//! Fetches: questions being asked upstream, and the clients that wait for each.
//!
//! Identical questions share one fetch. Every waiter gets exactly one reply, in its own id, letter
//! case, size and transport, or its client has gone and that is counted. Fetches of our own have no
//! waiters: they look whether an endpoint is back, or look up an upstream's address.

use std::sync::Arc;

use super::blocked::{refused_as, write_refused_lead};
use super::course::Course;
use super::leads::{marks_of, question};
use super::question::{Client, Forward};
use super::waiter::Waiter;
use super::{Due, Engine, FetchHandle, Out, ReplyTo};
use crate::cache::{Cacheable, Key, Packed, TtlBounds, pack, set_marks};
use crate::config::Stage;
use crate::handle::{ConnHandle, HostHandle, SocketHandle};
use crate::limits::{LOOKUP_SENDS, WAITERS, WAITERS_PER_FETCH};
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::policy::{Reason, TtlLimits};
use crate::time::Instant;
use crate::timers::TimerId;
use crate::upstream::Family;
use crate::wire::{
    Asker, ClientSubnet, ErrorNote, Flags, Rcode, ReplySettings, ResponseView, limit_ttls,
    write_answer, write_rcode,
};

/// A question being asked upstream.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) purpose: Purpose,
    pub(super) key: Key,
    /// What is asked: the name in lower case, type and class.
    pub(super) question: Box<[u8]>,
    /// The client's network, for upstreams that are told of it.
    pub(super) subnet: Option<ClientSubnet>,
    /// How many configurations there had been when it was started.
    pub(super) generation: u64,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
    pub(super) waiters: Vec<Waiter>,
    /// What a plugin wants of the TTLs that are remembered.
    ttl: TtlLimits,
    /// Who may still be asked, in order.
    pub(super) candidates: Vec<Candidate>,
    /// Which of them is being asked.
    pub(super) cursor: usize,
    /// Each of them has been asked once.
    pub(super) all_asked: bool,
    pub(super) attempt: Attempt,
    /// Queries sent in all, of all attempts.
    pub(super) sends: u32,
    /// How many there may be.
    pub(super) sends_max: u32,
    /// Whether our queries carry an OPT: not any more after a FORMERR (RFC 6891 section 7).
    pub(super) edns: bool,
    /// A kept connection broke under this fetch once, which is no fault of the upstream.
    pub(super) reconnected: bool,
    /// A reply came in another letter case than the query: it has to be confirmed.
    pub(super) case_differs: bool,
    /// Confirmed over TCP it cannot be: the name goes out in lower case, from another port.
    pub(super) plain_case: bool,
    /// A reply came without the cookie that the endpoint always sends: it has to be confirmed.
    pub(super) cookie_missing: bool,
    /// The endpoint did not take our cookie (BADCOOKIE), and has been asked once more.
    pub(super) cookie_refused: bool,
    pub(super) history: History,
    pub(super) timer: TimerId,
    pub(super) deadline: Instant,
}

impl Fetch {
    /// Whom the attempt in flight, or the one that has just ended, is put to.
    pub(super) fn candidate(&self) -> Candidate {
        self.candidates[self.cursor]
    }

    /// When somebody who waits for it is to be told that nothing has come. Who joined it after having
    /// waited for a plugin may have less time left than who started it.
    pub(super) fn next_deadline(&self) -> Instant {
        self.waiters.iter().map(|waiter| waiter.deadline).fold(self.deadline, Instant::min)
    }

    /// How many candidates have not been asked yet.
    pub(super) fn never_asked(&self) -> u32 {
        let behind = self.candidates.len().saturating_sub(self.cursor + 1);
        if self.all_asked { 0 } else { u32::try_from(behind).unwrap_or(u32::MAX) }
    }

    /// Whether nothing may be sent for it any more.
    pub(super) fn is_spent(&self) -> bool {
        self.sends >= self.sends_max
    }
}

/// What a fetch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Clients wait for it.
    Clients,
    /// A copy of a client's question, to see whether an endpoint that was down is back.
    Probe,
    /// Addresses of an upstream's host name.
    Address(HostHandle, Family),
}

/// Whom a question may be put to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Candidate {
    /// An address of an upstream, by its place in the worker's table.
    Endpoint(usize),
    /// An upstream whose host name had no address when the question came.
    Host(HostHandle),
}

/// The attempt in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) via: AttemptVia,
    /// What carries it, or has carried it.
    pub(super) carrier: Carrier,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    /// When its reply will be overdue; again after waits that double.
    pub(super) overdue_at: Option<Instant>,
    /// How often it was.
    pub(super) overdue: u32,
    /// How often the datagram was sent again.
    pub(super) retransmits: u32,
    /// The letter case of the name sent, if it is random: see `spell`.
    pub(super) case: Option<u64>,
}

impl Attempt {
    /// Nothing in flight.
    pub(super) const fn none(now: Instant) -> Self {
        Self {
            via: AttemptVia::Nothing,
            carrier: Carrier::Datagram,
            started: now,
            deadline: now,
            overdue_at: None,
            overdue: 0,
            retransmits: 0,
            case: None,
        }
    }
}

/// What carries a query and its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Datagram,
    Stream,
}

/// What carries an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptVia {
    /// Nothing is in flight.
    Nothing,
    /// A UDP socket.
    Socket(SocketHandle, u16),
    /// A stream connection.
    Conn(ConnHandle, u16),
    /// Nothing yet: the upstream's host name is being looked up.
    Host(HostHandle),
}

/// How earlier attempts failed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct History {
    pub(super) first_rcode: Option<Rcode>,
    pub(super) timed_out: bool,
    pub(super) unreachable: bool,
    pub(super) overloaded: bool,
}

impl Engine {
    /// Joins the fetch of an identical question, or starts one.
    pub(super) fn forward(
        &mut self,
        now: Instant,
        forward: Forward<'_>,
        client: Client,
        reply_to: ReplyTo,
        arrived: Instant,
        out: &mut Out<'_>,
    ) {
        let Forward { asker, course } = forward;
        let joined = self.fetch_of(&course);
        let ttl = course.detour.ttl;
        let detour = (!course.detour.is_none()).then(|| Box::new(course.detour));
        let deadline = arrived + self.snapshot.routing.deadline;
        let waiter = Waiter::new(&asker, client, reply_to, arrived, deadline, detour);
        if self.has_stopped() {
            return self.shed(now, waiter, Reason::Stopping, out);
        }
        if self.waiters >= WAITERS {
            self.report_limit(now, Counter::LimitWaiters, "waiters");
            return self.shed(now, waiter, Reason::Overload, out);
        }
        if let Some(handle) = joined
            && let Some(fetch) = self.fetches.get_mut(handle)
            && !is_planted(Bug::CoalescingMissed)
        {
            if fetch.waiters.len() < WAITERS_PER_FETCH {
                fetch.waiters.push(waiter);
                self.waiters += 1;
                self.metrics.counters.count(Counter::Coalesced);
                if deadline < fetch.deadline {
                    self.arm_fetch(handle);
                }
            } else {
                self.report_limit(now, Counter::LimitWaiters, "waiters of one fetch");
                self.shed(now, waiter, Reason::Overload, out);
            }
            return;
        }
        let (candidates, of_best_zone) = self.candidates(course.key.name(), course.route);
        if candidates.is_empty() {
            return self.shed(now, waiter, Reason::NoRoute, out);
        }
        if self.fetches.is_full() {
            self.report_limit(now, Counter::LimitFetches, "fetches");
            return self.shed(now, waiter, Reason::Overload, out);
        }
        let asked = Asked {
            question: question(course.key.name(), course.record_type).into(),
            key: course.key,
            subnet: course.subnet,
            dnssec_ok: course.dnssec_ok,
            checking_disabled: course.checking_disabled,
        };
        self.probe_who_is_down(now, &asked, &candidates[..of_best_zone], out);
        let hash = asked.key.hash();
        let Some(handle) = self.start_fetch(now, Purpose::Clients, asked, candidates, deadline)
        else {
            return self.shed(now, waiter, Reason::Overload, out); // a probe has taken the last place
        };
        let fetch = self.fetches.get_mut(handle).expect("just started");
        fetch.waiters.push(waiter);
        fetch.ttl = ttl;
        self.waiters += 1;
        self.by_key.entry(hash).or_insert(handle);
        self.next_attempt(now, handle, out);
    }

    /// The fetch in flight that a question may join. What plugins have let through serves rewritten
    /// questions too.
    fn fetch_of(&self, course: &Course) -> Option<FetchHandle> {
        let of_key = |key: &Key| {
            let handle = self.by_key.get(&key.hash()).copied()?;
            self.fetches.get(handle).filter(|fetch| fetch.key == *key).map(|_| handle)
        };
        let let_through = || of_key(&course.key_let_through(&self.shared.hash));
        of_key(&course.key).or_else(|| course.past_policy.then(let_through).flatten())
    }

    /// Makes a fetch that nobody waits for yet; `None` if there is no room.
    pub(super) fn start_fetch(
        &mut self,
        now: Instant,
        purpose: Purpose,
        asked: Asked,
        candidates: Vec<Candidate>,
        deadline: Instant,
    ) -> Option<FetchHandle> {
        let timers = &mut self.timers;
        let made = self.fetches.insert_with(|handle| Fetch {
            purpose,
            key: asked.key,
            question: asked.question,
            subnet: asked.subnet,
            generation: self.generation,
            dnssec_ok: asked.dnssec_ok,
            checking_disabled: asked.checking_disabled,
            waiters: Vec::new(),
            ttl: TtlLimits::default(),
            candidates,
            cursor: 0,
            all_asked: false,
            attempt: Attempt::none(now),
            sends: 0,
            sends_max: match purpose {
                Purpose::Clients | Purpose::Probe => self.snapshot.routing.attempts_max,
                Purpose::Address(..) => LOOKUP_SENDS,
            },
            edns: true,
            reconnected: false,
            case_differs: false,
            plain_case: false,
            cookie_missing: false,
            cookie_refused: false,
            history: History::default(),
            timer: timers.allocate(Due::Fetch(handle)),
            deadline,
        });
        made.ok()
    }

    /// An upstream's reply ends a fetch: cache it, answer everybody.
    ///
    /// Gives `false`, and leaves the fetch as it is, if the reply cannot be passed on.
    pub(super) fn finish_with_reply(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        view: &ResponseView<'_>,
        out: &mut Out<'_>,
    ) -> bool {
        match self.fetches.get(handle).map(|fetch| fetch.purpose) {
            None => return true,
            Some(Purpose::Clients) => {}
            Some(Purpose::Probe) => return self.end_fetch(handle).is_some(),
            Some(Purpose::Address(host, family)) => {
                self.end_fetch(handle);
                self.lookup_answered(now, host, family, view, out);
                return true;
            }
        }
        let mut packed = std::mem::take(&mut self.packed);
        let bounds = self.bounds_of(handle);
        let Ok(cacheable) = pack(view, &bounds, now, &mut packed) else {
            self.packed = packed;
            return false;
        };
        if let Some(mut fetch) = self.end_fetch(handle) {
            if is_planted(Bug::WaiterForgotten) && fetch.waiters.len() > 1 {
                fetch.waiters.pop();
            }
            let marks = self.rules.check(&self.snapshot, fetch.key.name(), view);
            set_marks(&mut packed, marks);
            let rcode = view.rcode();
            if matches!(cacheable, Cacheable::For(_)) && self.may_remember(&fetch) {
                self.remember(now, &fetch.key, rcode, &packed);
            }
            for waiter in std::mem::take(&mut fetch.waiters) {
                self.deliver_answer(now, waiter, view, &packed, out);
            }
        }
        self.packed = packed;
        true
    }

    /// The bounds of the TTLs in an answer. What a plugin wants of them is remembered with the answer
    /// only where it is not asked about what was remembered.
    fn bounds_of(&self, handle: FetchHandle) -> TtlBounds {
        let configured = self.snapshot.cache.ttl;
        let limits = self.fetches.get(handle).map(|fetch| fetch.ttl).unwrap_or_default();
        let place = |wanted| self.snapshot.chain.iter().position(|stage| *stage == wanted);
        if limits.is_none() || place(Stage::Policy) < place(Stage::Cache) {
            return configured;
        }
        TtlBounds {
            min_seconds: limits.clamp(configured.min_seconds),
            max_seconds: limits.clamp(configured.max_seconds),
            negative_max_seconds: limits.clamp(configured.negative_max_seconds),
            ..configured
        }
    }

    /// Gives a waiter what an upstream has answered, as far as it may have it.
    fn deliver_answer(
        &mut self,
        now: Instant,
        waiter: Waiter,
        view: &ResponseView<'_>,
        packed: &[u8],
        out: &mut Out<'_>,
    ) {
        let answer = Packed::new(packed);
        let bits = answer.marks().bits;
        let block_set = self.snapshot.groups.of(waiter.client.address.ip()).block_set;
        if bits & marks_of(block_set) != 0 {
            let (snapshot, metrics) = (Arc::clone(&self.snapshot), Arc::clone(&self.metrics));
            let group = snapshot.groups.of(waiter.client.address.ip());
            let write = |reply: &mut [u8], asker: &Asker<'_>, _: ReplySettings| {
                write_refused_lead(
                    &snapshot,
                    group,
                    &metrics.counters,
                    bits,
                    Some(view),
                    asker,
                    reply,
                )
            };
            let (rcode, reason) = refused_as(&snapshot, group, bits);
            return self.deliver(now, waiter, rcode, reason, out, |reply, asker, settings| {
                write(reply, asker, settings).0
            });
        }
        let error = view.extended_error().map(ErrorNote::from);
        let (rcode, reason) = (view.rcode(), Reason::Forwarded);
        let is_answer = matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN);
        let detour = waiter.detour.clone().unwrap_or_default();
        if detour.is_direct() || !is_answer || is_planted(Bug::AliasLost) {
            return self.deliver(now, waiter, rcode, reason, out, |reply, asker, settings| {
                let len = write_answer(reply, asker, settings, answer, now, error);
                if !detour.ttl.is_none() {
                    limit_ttls(&mut reply[..len], asker, answer, detour.ttl);
                }
                len
            });
        }
        let Some(packed) = detour.repack(waiter.asker().question, answer, now) else {
            return self.deliver_rcode(now, waiter, Rcode::SERVFAIL, Reason::TooManyHops, out);
        };
        let answer = Packed::new(&packed);
        self.deliver(now, waiter, rcode, reason, out, |reply, asker, settings| {
            let len = write_answer(reply, asker, settings, answer, now, error);
            limit_ttls(&mut reply[..len], asker, answer, detour.ttl);
            len
        });
    }

    /// No upstream has an answer: everybody gets an rcode with the reason.
    pub(super) fn finish_with_failure(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        rcode: Rcode,
        reason: Reason,
        out: &mut Out<'_>,
    ) {
        let Some(fetch) = self.end_fetch(handle) else {
            return;
        };
        match fetch.purpose {
            Purpose::Clients => {}
            Purpose::Probe => return, // its endpoint stays down
            Purpose::Address(host, _) => return self.lookup_failed(now, host, out),
        }
        let is_resolution_failure = match reason {
            Reason::TimedOut | Reason::UpstreamsRefused | Reason::UpstreamsUnreachable => true,
            Reason::Forwarded
            | Reason::Cached
            | Reason::CachedFailure
            | Reason::Blocked
            | Reason::Hosts
            | Reason::LocalRecord
            | Reason::Policy
            | Reason::PolicyBlocked
            | Reason::PolicyTruncated
            | Reason::PolicyDropped
            | Reason::PolicyFailed
            | Reason::Rebinding
            | Reason::TooManyHops
            | Reason::SpecialName
            | Reason::MinimalAny
            | Reason::NotAllowed
            | Reason::Malformed
            | Reason::NotSupported
            | Reason::BadVersion
            | Reason::RecursionNotDesired
            | Reason::NoRoute
            | Reason::Overload
            | Reason::Stopping => false,
        };
        if is_resolution_failure && rcode == Rcode::SERVFAIL && self.may_remember(&fetch) {
            self.cache_failure(now, &fetch.key, &fetch.question);
        }
        for waiter in fetch.waiters {
            self.deliver_rcode(now, waiter, rcode, reason, out);
        }
    }

    /// Tells those whose own time is over that nothing has come; the others go on waiting.
    pub(super) fn tell_impatient(&mut self, now: Instant, handle: FetchHandle, out: &mut Out<'_>) {
        let Some(fetch) = self.fetches.get_mut(handle) else { return };
        let waiters = std::mem::take(&mut fetch.waiters);
        let (over, waiting): (Vec<_>, _) =
            waiters.into_iter().partition(|waiter| waiter.deadline <= now);
        fetch.waiters = waiting;
        self.waiters -= over.len();
        for waiter in over {
            self.deliver_rcode(now, waiter, Rcode::SERVFAIL, Reason::TimedOut, out);
        }
    }

    /// Keeps a resolution failure for a short while (RFC 9520 section 3.2).
    fn cache_failure(&mut self, now: Instant, key: &Key, question: &[u8]) {
        let mut message = [0u8; 12 + crate::limits::QUESTION_OCTETS];
        let servfail = Flags::QR | Flags::RD | Flags::RA | Rcode::SERVFAIL.0;
        message[2..4].copy_from_slice(&servfail.to_be_bytes());
        message[5] = 1; // one question
        let len = 12 + question.len();
        message[12..len].copy_from_slice(question);
        let mut packed = std::mem::take(&mut self.packed);
        if let Ok(view) = ResponseView::parse(&message[..len])
            && let Ok(Cacheable::For(_)) = pack(&view, &self.snapshot.cache.ttl, now, &mut packed)
        {
            self.remember(now, key, Rcode::SERVFAIL, &packed);
        }
        self.packed = packed;
    }

    /// Whether what a fetch brought may be given to others: not if it was asked under an earlier
    /// configuration, nor if an old server was asked without the DO bit that the key stands for.
    fn may_remember(&self, fetch: &Fetch) -> bool {
        let snapshot = &self.snapshot;
        let uses_cache = snapshot.cache.enabled && snapshot.chain.contains(&Stage::Cache);
        uses_cache && fetch.generation == self.generation && (fetch.edns || !fetch.dnssec_ok)
    }

    /// Another worker may have had more luck with the same question: its answer stays.
    fn remember(&self, now: Instant, key: &Key, rcode: Rcode, packed: &[u8]) {
        if rcode == Rcode::SERVFAIL {
            self.shared.cache.insert_failure(key, now, packed);
        } else {
            self.shared.cache.insert(key, packed);
        }
    }

    /// Takes a fetch out of all tables; its attempt must have been released or be over.
    pub(super) fn end_fetch(&mut self, handle: FetchHandle) -> Option<Fetch> {
        self.release_attempt(handle, false);
        let fetch = self.fetches.remove(handle)?;
        self.timers.release(fetch.timer);
        self.waiters -= fetch.waiters.len();
        if self.by_key.get(&fetch.key.hash()) == Some(&handle) {
            self.by_key.remove(&fetch.key.hash());
        }
        Some(fetch)
    }

    /// A query that gets no fetch.
    pub(super) fn shed(&mut self, now: Instant, waiter: Waiter, reason: Reason, out: &mut Out<'_>) {
        self.deliver_rcode(now, waiter, Rcode::SERVFAIL, reason, out);
    }

    pub(super) fn deliver_rcode(
        &mut self,
        now: Instant,
        waiter: Waiter,
        rcode: Rcode,
        reason: Reason,
        out: &mut Out<'_>,
    ) {
        self.deliver(now, waiter, rcode, reason, out, |reply, asker, settings| {
            write_rcode(reply, asker, settings, rcode, reason.note())
        });
    }
}

/// What is asked in a fetch.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) key: Key,
    /// The name in lower case, type and class.
    pub(super) question: Box<[u8]>,
    pub(super) subnet: Option<ClientSubnet>,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
}
