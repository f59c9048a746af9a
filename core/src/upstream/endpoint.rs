//! What a worker knows of one endpoint, that is one address of an upstream: its sockets, its
//! connections, its health, and when to connect again.

use std::net::SocketAddr;
use std::sync::Arc;

use super::cookie::EndpointCookie;
use super::health::Health;
use super::letter_case::CaseSupport;

use crate::config::{DohTarget, UpstreamSettings};
use crate::handle::{ConnHandle, SocketHandle};
use crate::limits::{
    RECONNECT_BACKOFF, RECONNECT_BACKOFF_MAX, SOCKETS_PER_UPSTREAM, UPSTREAM_REPORTS_EVERY,
};
use crate::metrics::Latency;
use crate::planted::{Bug, is_planted};
use crate::time::{Duration, Instant};

/// One address of an upstream as one worker sees it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The upstream's settings. Another generation with the same settings keeps the state.
    pub(crate) settings: Arc<UpstreamSettings>,
    /// The address.
    pub(crate) remote: SocketAddr,
    /// What is requested of it, if it is asked over HTTP.
    uri: http::Uri,
    /// Round-trip times.
    pub(crate) latency: Arc<Latency>,
    /// No longer configured, or no longer an address of its host: takes no new queries.
    pub(crate) removed: bool,
    /// Sockets that take queries, by place.
    pub(crate) sockets: [Option<SocketHandle>; SOCKETS_PER_UPSTREAM],
    /// Sockets that only wait for replies.
    pub(crate) retired_sockets: usize,
    /// Stream connections.
    pub(crate) conns: Vec<ConnHandle>,
    /// Attempts in flight.
    pub(crate) in_flight: usize,
    /// Whether it answers.
    pub(crate) health: Health,
    /// Whether it repeats a name's letter case.
    pub(crate) case: CaseSupport,
    /// The cookies that datagrams to it carry, unless they are switched off.
    pub(crate) cookie: Option<EndpointCookie>,
    /// When the next connect may be.
    pub(crate) backoff: Backoff,
    /// What operators were told of its failures.
    pub(crate) trouble: Trouble,
}

impl Endpoint {
    pub(crate) fn new(
        settings: Arc<UpstreamSettings>,
        remote: SocketAddr,
        latency: Arc<Latency>,
        cookie: Option<EndpointCookie>,
    ) -> Self {
        let uri = settings.doh.as_deref().and_then(uri_of).unwrap_or_default();
        Self {
            settings,
            remote,
            uri,
            latency,
            removed: false,
            sockets: [None; SOCKETS_PER_UPSTREAM],
            retired_sockets: 0,
            conns: Vec::new(),
            in_flight: 0,
            health: Health::default(),
            case: CaseSupport::default(),
            cookie,
            backoff: Backoff::default(),
            trouble: Trouble::default(),
        }
    }

    /// What is requested of it over HTTP.
    pub(crate) fn request_uri(&self) -> http::Uri {
        self.uri.clone()
    }

    /// How it is called in events.
    pub(crate) fn display_name(&self) -> (String, SocketAddr) {
        (self.settings.name.clone(), self.remote)
    }

    /// A connect failed, or came to nothing.
    pub(crate) fn connect_failed(&mut self, now: Instant) {
        if is_planted(Bug::NoBackoff) {
            return;
        }
        self.backoff.failed(now, RECONNECT_BACKOFF, RECONNECT_BACKOFF_MAX);
    }

    /// Whether its place may be given to another upstream.
    pub(crate) fn is_gone(&self) -> bool {
        self.removed
            && self.in_flight == 0
            && self.retired_sockets == 0
            && self.conns.is_empty()
            && self.sockets.iter().all(Option::is_none)
    }
}

/// The URI of a target, which the configuration has checked.
fn uri_of(target: &DohTarget) -> Option<http::Uri> {
    http::Uri::builder()
        .scheme("https")
        .authority(target.authority.as_str())
        .path_and_query(target.path.as_str())
        .build()
        .ok()
}

/// Turns failures of one upstream into few reports: the first one, a count from time to time, and
/// when it is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    reported_at: Option<Instant>,
    /// Failures since the last report.
    failures: u64,
    ongoing: bool,
}

impl Trouble {
    /// An attempt failed: how many failures to report now, if any.
    pub(crate) fn failed(&mut self, now: Instant) -> Option<u64> {
        self.failures += 1;
        if self.reported_at.is_some_and(|at| now.since(at) < UPSTREAM_REPORTS_EVERY) {
            return None;
        }
        self.reported_at = Some(now);
        self.ongoing = true;
        Some(std::mem::take(&mut self.failures))
    }

    /// It answered: whether that is news.
    pub(crate) fn answered(&mut self) -> bool {
        std::mem::take(&mut self.ongoing)
    }
}

/// Waits that double from failure to failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
    until: Instant,
}

impl Backoff {
    /// The earliest instant for the next try, if that is after `now`.
    pub(crate) fn wait(&self, now: Instant) -> Option<Instant> {
        (self.until > now).then_some(self.until)
    }

    /// A try failed. The first wait is `first`, none is longer than `longest`. Failures are in a row as
    /// long as no more than that passes between a wait and the next failure.
    pub(crate) fn failed(&mut self, now: Instant, first: Duration, longest: Duration) {
        if now.since(self.until) > longest {
            self.failures = 0;
        }
        let doublings = self.failures.min(16);
        let wait = first.saturating_mul(1 << doublings);
        self.failures = self.failures.saturating_add(1);
        self.until = now + wait.min(longest);
    }

    /// A try succeeded.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The n-th failure in a row, none of them long after the wait before, waits for the first wait times two to the n, at most the longest.
        #[test]
        fn waits_are_powers_of_two(
            first in 0_u64..10_000,
            longest in 0_u64..1_000_000,
            steps in prop::collection::vec((0_u64..2_000_000, prop::bool::weighted(0.9)), 1..120),
        ) {
            let mut backoff = Backoff::default();
            let (mut failures, mut until, mut now) = (0_u32, 0, 0);
            for (passed, fails) in steps {
                now += passed;
                let instant = Instant::ZERO + Duration::from_millis(now);
                let wait = backoff.wait(instant);
                let expected = (until > now).then(|| Instant::ZERO + Duration::from_millis(until));
                prop_assert_eq!(wait, expected);
                if fails {
                    if now.saturating_sub(until) > longest {
                        failures = 0; // too long ago to be in a row
                    }
                    let millis = Duration::from_millis;
                    backoff.failed(instant, millis(first), millis(longest));
                    let doubled = u128::from(first) << failures.min(60);
                    until = now + u64::try_from(doubled.min(longest.into())).expect("bounded");
                    // Sixteen doublings make eleven minutes of ten milliseconds: nobody waits longer.
                    if failures >= 16 {
                        let most = (u128::from(first) << 16).min(longest.into());
                        until = now + u64::try_from(most).expect("bounded");
                    }
                    failures += 1;
                } else {
                    backoff.succeeded();
                    (failures, until) = (0, 0);
                }
            }
        }

        /// No failure is told twice or left out, and reports have a minute between them.
        #[test]
        fn reports_add_up(
            steps in prop::collection::vec((0_u64..40_000, prop::bool::weighted(0.8)), 1..200),
        ) {
            let mut trouble = Trouble::default();
            let (mut failures, mut told, mut now) = (0, 0, 0);
            let (mut last, mut is_ongoing): (Option<u64>, bool) = (None, false);
            for (passed, fails) in steps {
                now += passed;
                if !fails {
                    prop_assert_eq!(trouble.answered(), std::mem::take(&mut is_ongoing));
                    continue;
                }
                failures += 1;
                let report = trouble.failed(Instant::ZERO + Duration::from_millis(now));
                prop_assert_eq!(report.is_some(), last.is_none_or(|at| now - at >= 60_000));
                if let Some(count) = report {
                    told += count;
                    prop_assert_eq!(told, failures);
                    (last, is_ongoing) = (Some(now), true);
                }
            }
        }
    }

    #[test]
    fn a_dead_upstream_is_a_line_a_minute() {
        let mut trouble = Trouble::default();
        let start = Instant::ZERO;
        let reports: Vec<u64> = (0..1_200)
            .filter_map(|n| trouble.failed(start + Duration::from_millis(100 * n)))
            .collect();
        assert_eq!(reports, [1, 600]);
        assert!(trouble.answered());
        assert!(!trouble.answered(), "told once");
        assert_eq!(trouble.failed(start + Duration::from_secs(119)), None, "flapping is no news");
        assert!(!trouble.answered());
    }

    #[test]
    fn waits_double_up_to_the_maximum_and_a_success_forgets() {
        const FIRST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_secs(2);
        let mut backoff = Backoff::default();
        let now = Instant::ZERO + Duration::from_secs(1);
        assert_eq!(backoff.wait(now), None);
        let waits: Vec<u64> = (0..7)
            .map(|_| {
                backoff.failed(now, FIRST, LONGEST);
                backoff.wait(now).expect("a wait").since(now).as_millis() as u64
            })
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
        for _ in 0..100 {
            backoff.failed(now, FIRST, LONGEST); // no overflow
        }
        let soon = now + LONGEST + LONGEST;
        backoff.failed(soon, FIRST, LONGEST);
        assert_eq!(backoff.wait(soon), Some(soon + LONGEST), "still in a row");
        let later = soon + LONGEST * 2 + Duration::from_nanos(1);
        backoff.failed(later, FIRST, LONGEST);
        assert_eq!(backoff.wait(later), Some(later + FIRST), "an hour later it begins anew");
        backoff.succeeded();
        assert_eq!(backoff.wait(now), None);
    }
}
