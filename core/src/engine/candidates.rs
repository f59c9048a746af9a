//! Candidates: whom a question may be put to, and in which order.
//!
//! The endpoints of the longest matching zone come first, as configured; within one zone those that
//! are down come last, the one that was heard of most lately before the others. An endpoint that is
//! down is not asked by a client's question while another one can be; a copy of such a question
//! looks now and then whether it is back.

use std::cmp::Reverse;

use super::fetch::{Asked, Candidate, Purpose};
use super::{Engine, Out, Target};
use crate::metrics::Counter;
use crate::time::Instant;

impl Engine {
    /// Whom to ask for a name, in order.
    pub(super) fn candidates(&self, name: &[u8]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for of_zone in self.snapshot.routes.candidates(name) {
            let start = candidates.len();
            for upstream in of_zone {
                match self.targets[*upstream] {
                    Target::Endpoint(place) => candidates.push(Candidate::Endpoint(place)),
                    Target::Host(handle) => {
                        let host = self.hosts.get(handle).expect("a target's host is known");
                        if host.endpoints.is_empty() {
                            candidates.push(Candidate::Host(handle));
                        }
                        candidates.extend(host.endpoints.iter().copied().map(Candidate::Endpoint));
                    }
                }
            }
            self.order(&mut candidates[start..]);
        }
        candidates
    }

    /// Those that are down last.
    pub(super) fn order(&self, candidates: &mut [Candidate]) {
        if candidates.iter().any(|candidate| self.is_down(*candidate)) {
            candidates.sort_by_key(|candidate| match candidate {
                Candidate::Endpoint(place) if self.is_down(*candidate) => {
                    (true, Reverse(self.endpoints[*place].health.heard_at()))
                }
                Candidate::Endpoint(_) | Candidate::Host(_) => (false, Reverse(None)),
            });
        }
    }

    /// Whether this one is known to be down.
    pub(super) fn is_down(&self, candidate: Candidate) -> bool {
        match candidate {
            Candidate::Endpoint(place) => self.endpoints[place].health.is_down(),
            Candidate::Host(_) => false,
        }
    }

    /// Sends copies of a client's question to those of its candidates that are down, if it is time
    /// to and the question itself goes to another one.
    pub(super) fn probe_who_is_down(
        &mut self,
        now: Instant,
        asked: &Asked,
        candidates: &[Candidate],
        out: &mut Out<'_>,
    ) {
        let asked_first = candidates.first().copied();
        if asked_first.is_none_or(|first| self.is_down(first)) {
            return; // all of the best zone are down: the question itself is the probe
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
