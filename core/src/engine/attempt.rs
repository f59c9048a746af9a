//! Attempts: one candidate after the other, within one deadline and one count of sends.
//!
//! A candidate that refuses, breaks or answers an rcode of `failover_on` is not asked again for
//! this question; one that was silent is asked again after the others, as long as time is left.

use super::fetch::{Attempt, AttemptVia, Candidate, Carrier};
use super::{Conn, Engine, Event, FetchHandle, IoFailure, Out};
use crate::batch::Via;
use crate::config::UpstreamProtocol;
use crate::conn::Stage;
use crate::limits::{HEADER_OCTETS, QUERY_OCTETS};
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::policy::Reason;
use crate::time::{Duration, Instant};
use crate::upstream::{Endpoint, spell};
use crate::wire::{Rcode, ResponseView, write_query};

/// Sends that finding out about a reply in another letter case may take: over TCP, and again in
/// lower case.
const SENDS_TO_CONFIRM_CASE: u32 = 2;
/// However short the time of an attempt is: looking at it more often helps nobody.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Why an attempt came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No reply in the time of one attempt.
    TimedOut,
    /// The network said no.
    Network(IoFailure),
    /// The upstream said no.
    Rcode(Rcode),
    /// The upstream's reply cannot be passed on.
    Malformed,
    /// The upstream's HTTP server said no.
    Http,
    /// A bound was reached, or the upstream is being waited for.
    Busy,
    /// Its host name has no address.
    NoAddress,
}

impl Engine {
    /// Asks the next candidate that can be asked; without one the fetch ends.
    pub(super) fn next_attempt(&mut self, now: Instant, handle: FetchHandle, out: &mut Out<'_>) {
        loop {
            let Some(fetch) = self.fetches.get_mut(handle) else {
                return;
            };
            let exhausted = fetch.is_spent();
            if fetch.candidates.is_empty() || exhausted || now >= fetch.deadline {
                return self.give_up(now, handle, out);
            }
            fetch.all_asked |= fetch.cursor >= fetch.candidates.len();
            fetch.cursor %= fetch.candidates.len();
            let tried = match fetch.candidate() {
                Candidate::Endpoint(endpoint) => self.try_endpoint(now, handle, endpoint, out),
                Candidate::Host(host) => self.try_host(now, handle, host, out),
            };
            match tried {
                Ok(()) => return,
                Err(failure) => self.note_failure(now, handle, failure),
            }
        }
    }

    pub(super) fn try_endpoint(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        endpoint: usize,
        out: &mut Out<'_>,
    ) -> Result<(), Failure> {
        let state = &self.endpoints[endpoint];
        let is_full = |state: &Endpoint| state.in_flight >= state.settings.max_in_flight;
        if state.removed || (is_full(state) && !is_planted(Bug::InFlightUnbounded)) {
            return Err(Failure::Busy);
        }
        match state.settings.protocol {
            UpstreamProtocol::Udp => self.attempt_datagram(now, handle, endpoint, out),
            UpstreamProtocol::Tcp | UpstreamProtocol::Dot | UpstreamProtocol::Doh => {
                self.attempt_stream(now, handle, endpoint)
            }
        }
    }

    fn attempt_datagram(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        endpoint: usize,
        out: &mut Out<'_>,
    ) -> Result<(), Failure> {
        self.renew_cookie(now, endpoint);
        let name = self.take_socket(now, endpoint).ok_or(Failure::Busy)?;
        let socket = self.sockets.get_mut(name).expect("a socket just taken is alive");
        let id = socket.ids.allocate(handle, &mut self.rng.ids).ok_or(Failure::Busy)?;
        socket.queries += 1;
        let open = socket.open;
        if !open {
            socket.waiting.push(handle);
        }
        let fetch = self.fetches.get(handle).expect("the caller has the fetch");
        let state = &mut self.endpoints[endpoint];
        let random = state.settings.randomize_case
            && !fetch.plain_case
            && fetch.sends + SENDS_TO_CONFIRM_CASE < fetch.sends_max
            && state.case.is_trusted(now);
        let case = random.then(|| self.rng.case.bits());
        self.begin_attempt(now, handle, endpoint, AttemptVia::Socket(name, id), case);
        if open {
            self.send_query(now, handle, out);
        }
        Ok(())
    }

    /// Takes down that an attempt is in flight, and when it has to be looked at.
    pub(super) fn begin_attempt(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        endpoint: usize,
        via: AttemptVia,
        case: Option<u64>,
    ) {
        let round_trips = self.round_trips_to_reply(endpoint, via);
        let state = &mut self.endpoints[endpoint];
        state.in_flight += 1;
        let fetch = self.fetches.get_mut(handle).expect("an attempt belongs to a live fetch");
        fetch.sends += 1;
        let deadline = fetch.deadline.min(now + state.settings.timeout);
        // However slow the endpoint usually is: a lost datagram has to be sent again in time.
        let patience = state.health.patience() * round_trips;
        let patience = patience.min(deadline.since(now) / 2);
        fetch.attempt = Attempt {
            via,
            carrier: match via {
                AttemptVia::Conn(..) => Carrier::Stream,
                AttemptVia::Socket(..) | AttemptVia::Nothing | AttemptVia::Host(_) => {
                    Carrier::Datagram
                }
            },
            deadline,
            overdue_at: Some(now + patience),
            case,
            ..Attempt::none(now)
        };
        self.metrics.counters.count(Counter::UpstreamSends);
        self.arm_fetch(handle);
    }

    /// How often something goes there and back until a reply can come: a connection that is still to
    /// be made costs one more, and one more for TLS. Who counts all of that as one takes an upstream
    /// that is far away for silent, closes the connection, and begins anew with the next question.
    fn round_trips_to_reply(&self, endpoint: usize, via: AttemptVia) -> u32 {
        let AttemptVia::Conn(conn, _) = via else { return 1 };
        let is_open =
            matches!(self.conns.get(conn), Some(Conn::Upstream(conn)) if conn.stage == Stage::Open);
        match &self.endpoints[endpoint].settings.tls {
            _ if is_open => 1,
            None => 2,
            Some(_) => 3,
        }
    }

    /// Writes the query of the attempt in flight into a datagram.
    pub(super) fn send_query(&mut self, now: Instant, handle: FetchHandle, out: &mut Out<'_>) {
        let Some(fetch) = self.fetches.get(handle) else {
            return;
        };
        let AttemptVia::Socket(socket, id) = fetch.attempt.via else {
            return;
        };
        let mut message = [0; QUERY_OCTETS];
        let len = self.write_query_of(handle, id, &mut message);
        self.send(now, Via::Socket(socket), &message[..len], out);
    }

    /// Writes a fetch's query under an id; gives its length.
    pub(super) fn write_query_of(&self, handle: FetchHandle, id: u16, buffer: &mut [u8]) -> usize {
        let fetch = self.fetches.get(handle).expect("the caller has the fetch");
        let edns = fetch.edns.then(|| self.edns_of(fetch));
        let len = write_query(buffer, id, &fetch.question, fetch.checking_disabled, edns);
        if let Some(bits) = fetch.attempt.case {
            spell(&mut buffer[HEADER_OCTETS..HEADER_OCTETS + fetch.question.len()], bits);
        }
        len
    }

    pub(super) fn arm_fetch(&mut self, handle: FetchHandle) {
        let fetch = self.fetches.get(handle).expect("the caller has the fetch");
        let next = fetch.next_deadline().min(fetch.attempt.deadline);
        let next = fetch.attempt.overdue_at.map_or(next, |at| at.min(next));
        self.timers.set(fetch.timer, next);
    }

    /// A fetch's timer: the deadline, the end of an attempt, or a reply that is overdue.
    pub(super) fn fetch_due(&mut self, now: Instant, handle: FetchHandle) {
        let out = &mut Out(None);
        let Some(fetch) = self.fetches.get_mut(handle) else {
            return;
        };
        if now >= fetch.deadline || now >= fetch.attempt.deadline {
            let failure = match fetch.attempt.via {
                AttemptVia::Host(_) => Failure::NoAddress,
                AttemptVia::Nothing | AttemptVia::Socket(..) | AttemptVia::Conn(..) => {
                    Failure::TimedOut
                }
            };
            return self.attempt_failed(now, handle, failure, out);
        }
        if now >= fetch.next_deadline() {
            // Not the one who started it: whose deadline is the fetch's own.
            self.tell_impatient(now, handle, out);
        }
        let Some(fetch) = self.fetches.get(handle) else { return };
        if fetch.attempt.overdue_at.is_some_and(|at| now >= at) {
            return self.overdue(now, handle, out);
        }
        self.arm_fetch(handle);
    }

    /// The reply is overdue. If that takes the endpoint down, or it is down already, the next
    /// candidate is asked; otherwise a datagram is sent again, since it may have been lost.
    fn overdue(&mut self, now: Instant, handle: FetchHandle, out: &mut Out<'_>) {
        let Some(fetch) = self.fetches.get_mut(handle) else { return };
        let Candidate::Endpoint(endpoint) = fetch.candidate() else { return };
        let attempt = &mut fetch.attempt;
        attempt.overdue += 1;
        // Waited once so far, then twice as long each time.
        let waited = now.since(attempt.started).max(SHORTEST_WAIT);
        attempt.overdue_at = Some(now + waited * 2);
        let Attempt { carrier, started, overdue, .. } = *attempt;
        if overdue == 1 {
            self.met_with_silence(now, endpoint, carrier, started);
        }
        if self.endpoints[endpoint].health.is_down() && self.has_better(handle) {
            return self.attempt_failed(now, handle, Failure::TimedOut, out);
        }
        if self.is_socket_open(handle) {
            self.retransmit(now, handle, out);
            if is_planted(Bug::RetransmissionUnarmed) {
                return;
            }
        }
        self.arm_fetch(handle);
    }

    /// Whether there is a candidate that is not known to be down, besides the one being asked.
    fn has_better(&self, handle: FetchHandle) -> bool {
        let Some(fetch) = self.fetches.get(handle) else { return false };
        let mut candidates = fetch.candidates.iter();
        let left = !fetch.is_spent();
        left && candidates.any(|candidate| !self.is_down(*candidate))
    }

    fn retransmit(&mut self, now: Instant, handle: FetchHandle, out: &mut Out<'_>) {
        let Some(fetch) = self.fetches.get_mut(handle) else { return };
        if fetch.sends + fetch.never_asked() >= fetch.sends_max {
            // What is left is for those who have not been asked at all.
            fetch.attempt.overdue_at = None;
            return;
        }
        fetch.sends += 1;
        fetch.attempt.retransmits += 1;
        self.metrics.counters.count(Counter::UpstreamSends);
        self.metrics.counters.count(Counter::UpstreamRetransmits);
        self.send_query(now, handle, out);
    }

    /// Ends the attempt in flight and goes on to the next candidate.
    pub(super) fn attempt_failed(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        failure: Failure,
        out: &mut Out<'_>,
    ) {
        // An ICMP error does not say which query it is about: a reply may come nevertheless.
        let late = match failure {
            Failure::TimedOut | Failure::Network(_) => true,
            Failure::Rcode(_)
            | Failure::Malformed
            | Failure::Http
            | Failure::Busy
            | Failure::NoAddress => false,
        };
        self.release_attempt(handle, late);
        if self.ask_unconfirmed_again(now, handle, out) {
            return;
        }
        self.note_failure(now, handle, failure);
        self.next_attempt(now, handle, out);
    }

    /// A reply in another letter case, or without the cookie that was expected, could not be confirmed
    /// over TCP: some servers do not have it. Asking again from another port under another id, in lower
    /// case or without expecting a cookie, confirms it nearly as well.
    fn ask_unconfirmed_again(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        out: &mut Out<'_>,
    ) -> bool {
        let cookie_missing = self.gave_up_cookie(handle);
        let Some(fetch) = self.fetches.get_mut(handle) else { return false };
        let other_case = fetch.case_differs && !fetch.plain_case;
        let spent = fetch.is_spent() || now >= fetch.deadline;
        let Candidate::Endpoint(endpoint) = fetch.candidate() else { return false };
        if !(other_case || cookie_missing) || spent {
            return false;
        }
        fetch.plain_case |= other_case;
        self.attempt_datagram(now, handle, endpoint, out).is_ok()
    }

    /// Remembers how the candidate at the cursor failed, and moves the cursor on.
    fn note_failure(&mut self, now: Instant, handle: FetchHandle, failure: Failure) {
        let Some(fetch) = self.fetches.get_mut(handle) else {
            return;
        };
        let candidate = fetch.candidate();
        let Attempt { carrier, started, .. } = fetch.attempt;
        let counter = match failure {
            Failure::TimedOut => {
                fetch.history.timed_out = true;
                fetch.cursor += 1;
                Counter::UpstreamTimeouts
            }
            Failure::Network(io) => {
                // What this machine lacks says nothing of the upstream (RFC 9520 section 2).
                let ours = io.is_local();
                fetch.history.overloaded |= ours;
                fetch.history.unreachable |= !ours;
                Counter::UpstreamRefused
            }
            Failure::Rcode(rcode) => {
                fetch.history.first_rcode.get_or_insert(rcode);
                Counter::UpstreamRcode
            }
            Failure::Malformed => {
                fetch.history.unreachable = true;
                Counter::UpstreamMalformed
            }
            Failure::Http => {
                fetch.history.unreachable = true;
                Counter::UpstreamHttp
            }
            Failure::Busy => {
                fetch.history.overloaded = true;
                Counter::UpstreamFull
            }
            Failure::NoAddress => {
                fetch.history.unreachable = true;
                Counter::UpstreamNoAddress
            }
        };
        if failure != Failure::TimedOut {
            fetch.candidates.remove(fetch.cursor);
        }
        // What was learnt of this candidate says nothing of the next one.
        fetch.edns = true;
        fetch.reconnected = false;
        fetch.case_differs = false;
        fetch.plain_case = false;
        fetch.cookie_missing = false;
        fetch.cookie_refused = false;
        self.metrics.counters.count(counter);
        if let Candidate::Endpoint(endpoint) = candidate {
            self.judge(now, endpoint, failure, carrier, started);
        }
    }

    /// Nobody is left to ask, or no time.
    fn give_up(&mut self, now: Instant, handle: FetchHandle, out: &mut Out<'_>) {
        let Some(fetch) = self.fetches.get(handle) else {
            return;
        };
        let history = fetch.history;
        let (rcode, reason) = match history.first_rcode {
            Some(rcode) if !history.timed_out && !history.unreachable && !history.overloaded => {
                (rcode, Reason::UpstreamsRefused)
            }
            _ if history.timed_out => (Rcode::SERVFAIL, Reason::TimedOut),
            _ if history.overloaded => (Rcode::SERVFAIL, Reason::Overload),
            // With no failure at all the sends were spent on asking again in other ways.
            Some(_) | None => (Rcode::SERVFAIL, Reason::UpstreamsUnreachable),
        };
        self.finish_with_failure(now, handle, rcode, reason, out);
    }

    /// Frees what the attempt in flight holds. With `late`, its reply may still come.
    pub(super) fn release_attempt(&mut self, handle: FetchHandle, late: bool) {
        let Some(fetch) = self.fetches.get_mut(handle) else {
            return;
        };
        let started = fetch.attempt.started;
        // A datagram that was sent twice may be answered twice.
        let late = late || fetch.attempt.retransmits > 0;
        let via = std::mem::replace(&mut fetch.attempt.via, AttemptVia::Nothing);
        fetch.attempt.overdue_at = None;
        match via {
            AttemptVia::Nothing => {}
            AttemptVia::Host(host) => self.leave_host(host, handle),
            AttemptVia::Socket(socket, id) => self.release_socket_id(handle, socket, id, late),
            AttemptVia::Conn(conn, id) => self.release_conn_id(conn, id, late, started),
        }
    }

    /// A reply that matches the fetch in all that counts.
    pub(super) fn reply(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        view: &ResponseView<'_>,
        carrier: Carrier,
        out: &mut Out<'_>,
    ) {
        let Some(fetch) = self.fetches.get_mut(handle) else {
            return;
        };
        let Candidate::Endpoint(endpoint) = fetch.candidate() else { return };
        let took = now.since(fetch.attempt.started);
        let sent_once = fetch.attempt.retransmits == 0;
        let case_lost = std::mem::take(&mut fetch.case_differs);
        self.heard(now, endpoint, took, sent_once);
        if case_lost && self.endpoints[endpoint].case.confirmed_lost(now) {
            let (upstream, addr) = self.endpoints[endpoint].display_name();
            self.report(now, Event::UpstreamIgnoresCase { upstream, addr });
        }
        if carrier != Carrier::Datagram {
            self.take_stream_cookie(handle, view);
        }
        let Some(fetch) = self.fetches.get_mut(handle) else { return };
        let rcode = view.rcode();
        if rcode == Rcode::BADCOOKIE {
            return self.bad_cookie(now, handle, view, carrier, out);
        }
        let old_server = matches!(rcode, Rcode::FORMERR | Rcode::BADVERS) && fetch.edns;
        if old_server {
            fetch.edns = false; // ask the same one again, without OPT (RFC 6891 section 7)
            self.release_attempt(handle, false);
            return self.next_attempt(now, handle, out);
        }
        let spent = fetch.is_spent() && !is_planted(Bug::AttemptsMaxOverStream);
        match carrier {
            Carrier::Stream if view.truncated() => {
                return self.attempt_failed(now, handle, Failure::Malformed, out);
            }
            // The datagram was too small: the same upstream again, over TCP. When no send is left,
            // the client hears that it is truncated, and may ask over TCP itself.
            Carrier::Datagram if view.truncated() && !spent => {
                self.metrics.counters.count(Counter::UpstreamTruncated);
                return self.ask_over_stream(now, handle, out);
            }
            Carrier::Datagram | Carrier::Stream => {}
        }
        if self.snapshot.routing.failover_on.contains(&rcode) {
            return self.attempt_failed(now, handle, Failure::Rcode(rcode), out);
        }
        if !self.finish_with_reply(now, handle, view, out) {
            self.attempt_failed(now, handle, Failure::Malformed, out);
        }
    }

    /// Gives up the datagram in flight and asks the same upstream over TCP.
    pub(super) fn ask_over_stream(&mut self, now: Instant, handle: FetchHandle, out: &mut Out<'_>) {
        self.release_attempt(handle, true);
        let Some(fetch) = self.fetches.get(handle) else { return };
        let Candidate::Endpoint(endpoint) = fetch.candidate() else { return };
        if fetch.is_spent() && !is_planted(Bug::AttemptsMaxOverStream) {
            return self.give_up(now, handle, out);
        }
        if let Err(failure) = self.attempt_stream(now, handle, endpoint) {
            self.attempt_failed(now, handle, failure, out);
        }
    }
}
