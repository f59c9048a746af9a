//! What the engine reports to operators: typed facts with stable names, limited in rate.

use std::fmt;
use std::net::SocketAddr;

use super::{IoFailure, Transport};
use crate::config::Level;
use crate::limits::{CASE_LOST_FOR, EVENTS_PER_KIND, EVENTS_WINDOW, PLUGIN_DISABLED};
use crate::policy::Reason;
use crate::time::{Duration, Instant};
use crate::wire::{DisplayName, Rcode, RecordType};

/// Something an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A query ended. Only with query logging on; names and addresses occur nowhere else.
    Query(Box<QueryRecord>),
    /// Attempts at an upstream failed on the network. The first one is reported at once, then a
    /// number from time to time.
    UpstreamFailed {
        /// The upstream's name.
        upstream: String,
        /// Which address of it.
        addr: SocketAddr,
        /// How, most lately.
        failure: IoFailure,
        /// How many since the last report.
        failures: u64,
    },
    /// An upstream's HTTP server answered with something else than a DNS message.
    UpstreamHttpStatus {
        /// The upstream's name.
        upstream: String,
        /// Which address of it.
        addr: SocketAddr,
        /// The status; 200 if only the media type is another one.
        status: u16,
    },
    /// An upstream whose failures were reported has answered.
    UpstreamAnswers {
        /// The upstream's name.
        upstream: String,
        /// Which address of it.
        addr: SocketAddr,
    },
    /// An upstream does not repeat the letter case of names, and is asked in lower case for a while.
    UpstreamIgnoresCase {
        /// The upstream's name.
        upstream: String,
        /// Which address of it.
        addr: SocketAddr,
    },
    /// An upstream's host name has these addresses now.
    HostFound {
        /// The upstream's name.
        upstream: String,
        /// The host name.
        host: String,
        /// Where it is asked, in the order in which they are tried.
        addresses: Vec<SocketAddr>,
    },
    /// An upstream's host name could not be looked up.
    HostNotFound {
        /// The upstream's name.
        upstream: String,
        /// The host name.
        host: String,
        /// Addresses that are known from before and are still used.
        known: Vec<SocketAddr>,
    },
    /// An upstream's port received so many replies to no query that it was given up.
    UpstreamSpoofed {
        /// The upstream's name.
        upstream: String,
    },
    /// A plugin's call failed.
    PluginFailed {
        /// The plugin's name.
        plugin: String,
        /// Why.
        error: String,
    },
    /// A plugin has failed so often that it is not asked for a while.
    PluginDisabled {
        /// The plugin's name.
        plugin: String,
        /// Failures in a row.
        failures: u32,
    },
    /// A plugin that was disabled has answered.
    PluginEnabled {
        /// The plugin's name.
        plugin: String,
    },
    /// A plugin's process that is kept running has ended.
    PluginEnded {
        /// The plugin's name.
        plugin: String,
        /// How.
        how: String,
    },
    /// A bound was reached and something was shed.
    LimitReached {
        /// Which bound of the table, by name.
        limit: &'static str,
    },
    /// Events of one kind were left out because there were too many.
    Suppressed {
        /// The name of the kind.
        event: &'static str,
        /// How many.
        count: u64,
    },
}

/// How one query ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRecord {
    /// Who asked.
    pub client: SocketAddr,
    /// Over what.
    pub transport: Transport,
    /// Name in wire form as asked, type and class left off; empty if none could be read.
    pub name: Box<[u8]>,
    /// Type asked for.
    pub record_type: RecordType,
    /// What was answered.
    pub rcode: Rcode,
    /// Why.
    pub reason: Reason,
    /// From arrival to answer.
    pub took: Duration,
}

/// How many kinds of events there are.
const KINDS: usize = 14;

impl Event {
    /// The stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Query(_) => "query",
            Self::UpstreamFailed { .. } => "upstream_failed",
            Self::UpstreamHttpStatus { .. } => "upstream_http_status",
            Self::UpstreamAnswers { .. } => "upstream_answers",
            Self::UpstreamIgnoresCase { .. } => "upstream_ignores_case",
            Self::HostFound { .. } => "host_found",
            Self::HostNotFound { .. } => "host_not_found",
            Self::UpstreamSpoofed { .. } => "upstream_spoofed",
            Self::PluginFailed { .. } => "plugin_failed",
            Self::PluginDisabled { .. } => "plugin_disabled",
            Self::PluginEnabled { .. } => "plugin_enabled",
            Self::PluginEnded { .. } => "plugin_ended",
            Self::LimitReached { .. } => "limit_reached",
            Self::Suppressed { .. } => "suppressed",
        }
    }

    /// How important it is.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self {
            Self::Query(_)
            | Self::UpstreamAnswers { .. }
            | Self::UpstreamIgnoresCase { .. }
            | Self::HostFound { .. }
            | Self::PluginEnabled { .. } => Level::Info,
            Self::UpstreamFailed { .. }
            | Self::UpstreamHttpStatus { .. }
            | Self::HostNotFound { .. }
            | Self::UpstreamSpoofed { .. }
            | Self::PluginFailed { .. }
            | Self::PluginDisabled { .. }
            | Self::PluginEnded { .. }
            | Self::LimitReached { .. }
            | Self::Suppressed { .. } => Level::Warn,
        }
    }

    const fn kind(&self) -> usize {
        match self {
            Self::Query(_) => 0,
            Self::UpstreamFailed { .. } => 1,
            Self::UpstreamSpoofed { .. } => 2,
            Self::LimitReached { .. } => 3,
            Self::Suppressed { .. } => 4,
            Self::UpstreamAnswers { .. } => 5,
            Self::UpstreamIgnoresCase { .. } => 6,
            Self::HostFound { .. } => 7,
            Self::HostNotFound { .. } => 8,
            Self::UpstreamHttpStatus { .. } => 9,
            Self::PluginFailed { .. } => 10,
            Self::PluginDisabled { .. } => 11,
            Self::PluginEnabled { .. } => 12,
            Self::PluginEnded { .. } => 13,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(query) => write!(
                f,
                "{} {} {} {} -> {} ({}) in {} us",
                query.client,
                query.transport.name(),
                DisplayName(&query.name),
                query.record_type,
                query.rcode.name(),
                query.reason.name(),
                query.took.as_micros(),
            ),
            Self::UpstreamFailed { upstream, addr, failure, failures: 1 } => {
                write!(f, "upstream {upstream} ({addr}): {}", failure.name())
            }
            Self::UpstreamFailed { upstream, addr, failure, failures } => {
                write!(f, "upstream {upstream} ({addr}): {} ({failures} failures)", failure.name())
            }
            Self::UpstreamHttpStatus { upstream, addr, status: 200 } => {
                write!(f, "upstream {upstream} ({addr}): its answers over http are no dns messages")
            }
            Self::UpstreamHttpStatus { upstream, addr, status } => {
                write!(f, "upstream {upstream} ({addr}): http status {status}")
            }
            Self::UpstreamAnswers { upstream, addr } => {
                write!(f, "upstream {upstream} ({addr}) answers again")
            }
            Self::UpstreamIgnoresCase { upstream, addr } => write!(
                f,
                "upstream {upstream} ({addr}) does not repeat the letter case of names; it is asked \
                 in lower case for {} s",
                CASE_LOST_FOR.as_secs()
            ),
            Self::HostFound { upstream, host, addresses } => {
                write!(f, "upstream {upstream}: {host} is at ")?;
                list(f, addresses)
            }
            Self::HostNotFound { upstream, host, known } if known.is_empty() => {
                write!(f, "upstream {upstream}: no address of {host} could be looked up")
            }
            Self::HostNotFound { upstream, host, known } => {
                write!(
                    f,
                    "upstream {upstream}: {host} could not be looked up again; still asked: "
                )?;
                list(f, known)
            }
            Self::PluginFailed { plugin, error } => write!(f, "plugin {plugin}: {error}"),
            Self::PluginDisabled { plugin, failures } => write!(
                f,
                "plugin {plugin} has failed {failures} times in a row; it is not asked for {} s",
                PLUGIN_DISABLED.as_secs()
            ),
            Self::PluginEnabled { plugin } => write!(f, "plugin {plugin} answers again"),
            Self::PluginEnded { plugin, how } => {
                write!(f, "plugin {plugin}: its process {how}")
            }
            Self::UpstreamSpoofed { upstream } => write!(
                f,
                "upstream {upstream}: too many replies to no query of ours; its port was changed"
            ),
            Self::LimitReached { limit } => write!(f, "limit reached: {limit}"),
            Self::Suppressed { event, count } => {
                write!(f, "{count} more events of the kind {event} were left out")
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, addresses: &[SocketAddr]) -> fmt::Result {
    for (place, addr) in addresses.iter().enumerate() {
        write!(f, "{}{addr}", if place == 0 { "" } else { ", " })?;
    }
    Ok(())
}

/// Lets a few events of each kind through per minute, and says afterwards how many it kept back.
#[derive(Debug, Default)]
pub(super) struct EventGate {
    kinds: [Window; KINDS],
}

#[derive(Debug, Default)]
struct Window {
    started: Option<Instant>,
    passed: u32,
    kept_back: u64,
}

impl EventGate {
    /// Whether this event passes, and the summary of an earlier second that is due before it.
    pub(super) fn admit(&mut self, now: Instant, event: &Event) -> (bool, Option<Event>) {
        // A line per query was asked for, and upstreams have a measure of their own.
        match event {
            Event::Query(_) | Event::UpstreamFailed { .. } | Event::UpstreamAnswers { .. } => {
                return (true, None);
            }
            Event::UpstreamSpoofed { .. }
            | Event::UpstreamHttpStatus { .. }
            | Event::UpstreamIgnoresCase { .. }
            | Event::HostFound { .. }
            | Event::HostNotFound { .. }
            | Event::PluginFailed { .. }
            | Event::PluginDisabled { .. }
            | Event::PluginEnabled { .. }
            | Event::PluginEnded { .. }
            | Event::LimitReached { .. }
            | Event::Suppressed { .. } => {}
        }
        let window = &mut self.kinds[event.kind()];
        let mut summary = None;
        let over = window.started.is_none_or(|at| now.since(at) >= EVENTS_WINDOW);
        if over {
            if window.kept_back > 0 {
                let count = window.kept_back;
                summary = Some(Event::Suppressed { event: event.name(), count });
            }
            *window = Window { started: Some(now), passed: 0, kept_back: 0 };
        }
        if window.passed == EVENTS_PER_KIND {
            window.kept_back += 1;
            return (false, summary);
        }
        window.passed += 1;
        (true, summary)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few of each kind pass in a minute, and every other one is told as part of a number.
        #[test]
        fn none_is_lost_without_being_counted(
            steps in prop::collection::vec((0_u64..6_000, any::<bool>()), 1..300),
        ) {
            let mut gate = EventGate::default();
            let kinds = [
                Event::LimitReached { limit: "fetches" },
                Event::UpstreamSpoofed { upstream: "one".to_owned() },
            ];
            let mut now = Instant::ZERO;
            // Of each kind: when its minute began, how many passed in it, how many did not.
            let mut minutes: [Option<(Instant, u32, u64)>; 2] = [None; 2];
            for (millis, which) in steps {
                now = now + Duration::from_millis(millis);
                let event = &kinds[usize::from(which)];
                let minute = &mut minutes[usize::from(which)];
                let mut told = None;
                if minute.is_none_or(|(began, ..)| now.since(began) >= Duration::from_secs(60)) {
                    told = minute.replace((now, 0, 0)).map(|(.., kept_back)| kept_back);
                }
                let (_, passed, kept_back) = minute.as_mut().expect("it has begun");
                let may_pass = *passed < EVENTS_PER_KIND;
                *passed += u32::from(may_pass);
                *kept_back += u64::from(!may_pass);
                let told = told.filter(|count| *count > 0);
                let summary = told.map(|count| Event::Suppressed { event: event.name(), count });
                prop_assert_eq!(gate.admit(now, event), (may_pass, summary));
            }
        }
    }

    #[test]
    fn a_flood_of_events_becomes_a_number() {
        let mut gate = EventGate::default();
        let event = Event::LimitReached { limit: "fetches" };
        let start = Instant::ZERO;
        let passed = (0..100).filter(|_| gate.admit(start, &event).0).count();
        assert_eq!(passed, EVENTS_PER_KIND as usize);
        let (passes, summary) = gate.admit(start + EVENTS_WINDOW, &event);
        assert!(passes);
        assert_eq!(summary, Some(Event::Suppressed { event: "limit_reached", count: 95 }));
    }

    /// What operators read, by stable names.
    #[test]
    fn each_kind_has_a_name_a_level_and_a_text() {
        let upstream = || "one".to_owned();
        let host = || "dns.example.".to_owned();
        let addr = |last: u8| SocketAddr::from(([192, 0, 2, last], 53));
        let failed = |failures| Event::UpstreamFailed {
            upstream: upstream(),
            addr: addr(1),
            failure: IoFailure::Refused,
            failures,
        };
        let not_found = |known| Event::HostNotFound { upstream: upstream(), host: host(), known };
        let found = vec![addr(1), addr(2)];
        let events = [
            (failed(1), Level::Warn, "upstream one (192.0.2.1:53): refused"),
            (failed(7), Level::Warn, "upstream one (192.0.2.1:53): refused (7 failures)"),
            (
                Event::UpstreamAnswers { upstream: upstream(), addr: addr(1) },
                Level::Info,
                "upstream one (192.0.2.1:53) answers again",
            ),
            (
                Event::UpstreamHttpStatus { upstream: upstream(), addr: addr(1), status: 503 },
                Level::Warn,
                "upstream one (192.0.2.1:53): http status 503",
            ),
            (
                Event::UpstreamHttpStatus { upstream: upstream(), addr: addr(1), status: 200 },
                Level::Warn,
                "upstream one (192.0.2.1:53): its answers over http are no dns messages",
            ),
            (
                Event::UpstreamIgnoresCase { upstream: upstream(), addr: addr(1) },
                Level::Info,
                "upstream one (192.0.2.1:53) does not repeat the letter case of names; it is asked \
                 in lower case for 3600 s",
            ),
            (
                Event::HostFound { upstream: upstream(), host: host(), addresses: found.clone() },
                Level::Info,
                "upstream one: dns.example. is at 192.0.2.1:53, 192.0.2.2:53",
            ),
            (
                not_found(Vec::new()),
                Level::Warn,
                "upstream one: no address of dns.example. could be looked up",
            ),
            (
                not_found(found),
                Level::Warn,
                "upstream one: dns.example. could not be looked up again; still asked: \
                 192.0.2.1:53, 192.0.2.2:53",
            ),
            (
                Event::UpstreamSpoofed { upstream: upstream() },
                Level::Warn,
                "upstream one: too many replies to no query of ours; its port was changed",
            ),
            (
                Event::PluginFailed { plugin: upstream(), error: "took too long".to_owned() },
                Level::Warn,
                "plugin one: took too long",
            ),
            (
                Event::PluginDisabled { plugin: upstream(), failures: 3 },
                Level::Warn,
                "plugin one has failed 3 times in a row; it is not asked for 30 s",
            ),
            (Event::PluginEnabled { plugin: upstream() }, Level::Info, "plugin one answers again"),
            (
                Event::PluginEnded { plugin: upstream(), how: "ended with code 1".to_owned() },
                Level::Warn,
                "plugin one: its process ended with code 1",
            ),
            (Event::LimitReached { limit: "fetches" }, Level::Warn, "limit reached: fetches"),
            (
                Event::Suppressed { event: "limit_reached", count: 9 },
                Level::Warn,
                "9 more events of the kind limit_reached were left out",
            ),
        ];
        let mut kinds = [""; KINDS];
        for (event, level, text) in events {
            assert_eq!((event.level(), event.to_string().as_str()), (level, text));
            kinds[event.kind()] = event.name();
        }
        let query = Event::Query(Box::new(QueryRecord {
            client: addr(9),
            transport: Transport::Tcp,
            name: (*b"\x01a\0").into(),
            record_type: RecordType::AAAA,
            rcode: Rcode::NXDOMAIN,
            reason: Reason::Cached,
            took: Duration::from_millis(2),
        }));
        assert_eq!(query.to_string(), "192.0.2.9:53 tcp a. AAAA -> NXDOMAIN (cached) in 2000 us");
        assert_eq!(query.level(), Level::Info);
        kinds[query.kind()] = query.name();
        let names: std::collections::BTreeSet<_> = kinds.iter().collect();
        assert!(names.len() == KINDS && !kinds.contains(&""), "{kinds:?}");
    }

    #[test]
    fn what_has_a_measure_of_its_own_always_passes() {
        let mut gate = EventGate::default();
        let addr = SocketAddr::from(([192, 0, 2, 1], 53));
        let event = Event::UpstreamAnswers { upstream: "one".to_owned(), addr };
        assert!((0..100).all(|_| gate.admit(Instant::ZERO, &event) == (true, None)));
    }
}
