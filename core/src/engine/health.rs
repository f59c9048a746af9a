//! What attempts tell of the endpoints' health, and the probes that look whether one is back.
//!
//! The rules are those of `upstream::health`; here is which events count. An endpoint that is down
//! is not asked by a client's question while another one can be; a copy of such a question is.

use super::attempt::Failure;
use super::fetch::{Asked, Candidate, Carrier, Purpose};
use super::{Engine, Event, IoFailure, Out};
use crate::config::UpstreamProtocol;
use crate::metrics::Counter;
use crate::time::{Duration, Instant};
use crate::upstream::Endpoint;

impl Engine {
    /// An endpoint has replied.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        endpoint: usize,
        took: Duration,
        asked_once: bool,
    ) {
        let state = &mut self.endpoints[endpoint];
        state.latency.record(took);
        state.health.answered(now, took, asked_once);
        if state.trouble.answered() {
            let (upstream, addr) = state.display_name();
            self.report(now, Event::UpstreamAnswers { upstream, addr });
        }
    }

    /// A reply is overdue for the first time.
    pub(super) fn met_with_silence(
        &mut self,
        now: Instant,
        endpoint: usize,
        carrier: Carrier,
        started: Instant,
    ) {
        let state = &mut self.endpoints[endpoint];
        let had_time = now.since(started) >= state.health.patience();
        if had_time && is_own(carrier, state) && state.health.kept_silent(now, started) {
            self.taken_down(now, endpoint, IoFailure::TimedOut);
        }
    }

    /// What a failure says of the endpoint's health. That a server of datagrams does not do TCP says
    /// nothing.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        endpoint: usize,
        failure: Failure,
        carrier: Carrier,
        started: Instant,
    ) {
        let io = match failure {
            Failure::TimedOut => IoFailure::TimedOut,
            Failure::Network(io) => io,
            Failure::Rcode(_)
            | Failure::Malformed
            | Failure::Http
            | Failure::Busy
            | Failure::NoAddress => return,
        };
        let state = &mut self.endpoints[endpoint];
        let down = is_own(carrier, state)
            && match io {
                IoFailure::TimedOut => state.health.timed_out(now, started),
                IoFailure::Reset => state.health.broke(now, started),
                IoFailure::Refused
                | IoFailure::Unreachable
                | IoFailure::Tls(_)
                | IoFailure::Other
                // Without an address of that family there is no way to it from here.
                | IoFailure::AddressUnavailable => state.health.refused(now),
                IoFailure::NoResources
                | IoFailure::TooBig
                | IoFailure::Unsupported => false,
            };
        if down {
            self.taken_down(now, endpoint, io);
        } else {
            self.report_upstream_failure(now, endpoint, io);
        }
    }

    /// The endpoint is down from now on.
    fn taken_down(&mut self, now: Instant, endpoint: usize, failure: IoFailure) {
        self.metrics.counters.count(Counter::UpstreamsDown);
        self.report_upstream_failure(now, endpoint, failure);
    }

    fn report_upstream_failure(&mut self, now: Instant, endpoint: usize, failure: IoFailure) {
        let state = &mut self.endpoints[endpoint];
        if let Some(failures) = state.trouble.failed(now) {
            let (upstream, addr) = state.display_name();
            self.report(now, Event::UpstreamFailed { upstream, addr, failure, failures });
        }
    }

    /// Sends copies of a client's question to those of its candidates that are down, if it is time
    /// to and the question itself goes to another one. They must all be of the longest matching
    /// zone: the others have no business with this name.
    pub(super) fn probe_who_is_down(
        &mut self,
        now: Instant,
        asked: &Asked,
        candidates: &[Candidate],
        out: &mut Out<'_>,
    ) {
        let asked_first = candidates.first().copied();
        if asked_first.is_none_or(|first| self.is_down(first)) {
            return; // all are down: the question itself is the probe
        }
        for candidate in candidates {
            let Candidate::Endpoint(place) = *candidate else { continue };
            let state = &mut self.endpoints[place];
            if !state.health.take_probe(now) {
                continue;
            }
            let deadline = now + state.settings.timeout;
            let only = vec![*candidate];
            let started = self.start_fetch(now, Purpose::Probe, asked.clone(), only, deadline);
            if let Some(probe) = started {
                self.metrics.counters.count(Counter::UpstreamProbes);
                self.next_attempt(now, probe, out);
            }
        }
    }
}

/// Whether this is how the endpoint is asked in the first place.
fn is_own(carrier: Carrier, endpoint: &Endpoint) -> bool {
    match endpoint.settings.protocol {
        UpstreamProtocol::Udp => carrier == Carrier::Datagram,
        UpstreamProtocol::Tcp | UpstreamProtocol::Dot | UpstreamProtocol::Doh => {
            carrier == Carrier::Stream
        }
    }
}
