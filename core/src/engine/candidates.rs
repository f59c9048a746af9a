//! Candidates: whom a question may be put to, and in which order.
//!
//! The endpoints of the longest matching zone come first, as configured; within one zone those that
//! are down come last, the one that was heard of most lately before the others.

use std::cmp::Reverse;

use super::fetch::Candidate;
use super::{Engine, Target};
use crate::limits::CANDIDATES;
use crate::upstream::Route;

impl Engine {
    /// Whom to ask for a name, in order, and how many of them are of the longest matching zone.
    pub(super) fn candidates(&self, name: &[u8], route: Route) -> (Vec<Candidate>, usize) {
        let mut candidates = Vec::new();
        let mut of_best_zone = 0;
        for of_zone in self.snapshot.routes.candidates(name) {
            let start = candidates.len();
            for upstream in of_zone.iter().filter(|place| self.snapshot.serves(**place, route)) {
                match self.targets.get(*upstream).copied() {
                    None => {} // everything was closed already
                    Some(Target::Endpoint(place)) => candidates.push(Candidate::Endpoint(place)),
                    Some(Target::Host(handle)) => {
                        let host = self.hosts.get(handle).expect("a target's host is known");
                        if host.endpoints.is_empty() {
                            candidates.push(Candidate::Host(handle));
                        }
                        candidates.extend(host.endpoints.iter().copied().map(Candidate::Endpoint));
                    }
                }
            }
            self.order(&mut candidates[start..]);
            if start == 0 {
                of_best_zone = candidates.len();
            }
        }
        if candidates.len() > CANDIDATES {
            candidates.truncate(CANDIDATES);
            candidates.shrink_to_fit(); // it is kept for as long as the question is asked
        }
        (candidates, of_best_zone.min(CANDIDATES))
    }

    /// Those that are down last.
    pub(super) fn order(&self, candidates: &mut [Candidate]) {
        if candidates.iter().any(|candidate| self.is_down(*candidate)) {
            candidates.sort_by_key(|candidate| match candidate {
                Candidate::Endpoint(place) if self.is_down(*candidate) => {
                    (true, Reverse(self.endpoints[*place].health.heard_at()))
                }
                Candidate::Endpoint(_) | Candidate::Host(_) => {
                    (self.is_down(*candidate), Reverse(None))
                }
            });
        }
    }

    /// Whether this one is known to be down.
    pub(super) fn is_down(&self, candidate: Candidate) -> bool {
        match candidate {
            Candidate::Endpoint(place) => self.endpoints[place].health.is_down(),
            Candidate::Host(host) => self.hosts.get(host).is_none_or(|host| host.failed),
        }
    }
}
