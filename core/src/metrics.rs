//! Counters, each set owned by one worker and summed when somebody looks.
//!
//! A worker's counters have one writer, so an increment is a load and a store without a locked
//! instruction; readers may see a value that is a moment old.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::time::Duration;

macro_rules! counters {
    ($($variant:ident $name:literal $label:expr, $help:literal;)*) => {
        /// What is counted, per worker.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter {
            $(#[doc = $help] $variant,)*
        }

        impl Counter {
            /// All of them, those of one metric next to each other.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The metric's name as exported.
            #[must_use]
            pub const fn metric(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The label and its value, if the metric has one.
            #[must_use]
            pub const fn label(self) -> Option<(&'static str, &'static str)> {
                match self { $(Self::$variant => $label,)* }
            }

            /// The help text.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

counters! {
    Queries "balancedns_queries_total" None, "Queries received and not dropped as garbage.";
    QueriesUdp "balancedns_transport_queries_total" Some(("transport", "udp")), "Queries by transport.";
    QueriesTcp "balancedns_transport_queries_total" Some(("transport", "tcp")), "Queries by transport.";
    QueriesDot "balancedns_transport_queries_total" Some(("transport", "dot")), "Queries by transport.";
    QueriesDoh "balancedns_transport_queries_total" Some(("transport", "doh")), "Queries by transport.";
    CacheHits "balancedns_cache_hits_total" None, "Queries answered from the cache.";
    CacheMisses "balancedns_cache_misses_total" None, "Cache look-ups that found nothing fresh.";
    RepliesNoError "balancedns_responses_total" Some(("rcode", "NOERROR")), "Replies by rcode.";
    RepliesFormErr "balancedns_responses_total" Some(("rcode", "FORMERR")), "Replies by rcode.";
    RepliesServFail "balancedns_responses_total" Some(("rcode", "SERVFAIL")), "Replies by rcode.";
    RepliesNxDomain "balancedns_responses_total" Some(("rcode", "NXDOMAIN")), "Replies by rcode.";
    RepliesNotImp "balancedns_responses_total" Some(("rcode", "NOTIMP")), "Replies by rcode.";
    RepliesRefused "balancedns_responses_total" Some(("rcode", "REFUSED")), "Replies by rcode.";
    RepliesOther "balancedns_responses_total" Some(("rcode", "other")), "Replies by rcode.";
    RepliesTruncated "balancedns_responses_truncated_total" None, "Replies sent with TC.";
    DroppedGarbage "balancedns_dropped_total" Some(("reason", "garbage")), "Queries dropped without a reply.";
    DroppedTooLong "balancedns_dropped_total" Some(("reason", "too_long")), "Queries dropped without a reply.";
    DroppedProxy "balancedns_dropped_total" Some(("reason", "proxy_header")), "Queries dropped without a reply.";
    DroppedClientGone "balancedns_dropped_total" Some(("reason", "client_gone")), "Queries dropped without a reply.";
    DroppedPolicy "balancedns_dropped_total" Some(("reason", "policy")), "Queries dropped without a reply.";
    CookiesValid "balancedns_cookies_total" Some(("state", "valid")), "Queries with a COOKIE option, by the server cookie in it.";
    CookiesInvalid "balancedns_cookies_total" Some(("state", "invalid")), "Queries with a COOKIE option, by the server cookie in it.";
    CookiesNone "balancedns_cookies_total" Some(("state", "none")), "Queries with a COOKIE option, by the server cookie in it.";
    AclRefused "balancedns_acl_refused_total" None, "Queries from addresses outside the ACL.";
    Blocked "balancedns_blocked_total" None, "Queries answered by the blacklist.";
    BlockedLeads "balancedns_blocked_leads_total" None, "Queries whose answer was blocked for a name that it leads to.";
    Rebinding "balancedns_rebinding_total" None, "Queries whose answer was held back for its private addresses.";
    LocalAnswers "balancedns_local_answers_total" None, "Queries answered from the records of the configuration, or led on by one.";
    PolicyForward "balancedns_policy_verdicts_total" Some(("action", "forward")), "Verdicts of plugins.";
    PolicyBlock "balancedns_policy_verdicts_total" Some(("action", "block")), "Verdicts of plugins.";
    PolicyRewrite "balancedns_policy_verdicts_total" Some(("action", "rewrite")), "Verdicts of plugins.";
    PolicyLocalData "balancedns_policy_verdicts_total" Some(("action", "local_data")), "Verdicts of plugins.";
    PolicyDrop "balancedns_policy_verdicts_total" Some(("action", "drop")), "Verdicts of plugins.";
    PolicyTruncate "balancedns_policy_verdicts_total" Some(("action", "truncate")), "Verdicts of plugins.";
    PluginTimeout "balancedns_plugin_failures_total" Some(("reason", "timeout")), "Plugin calls that failed, by reason.";
    PluginMemory "balancedns_plugin_failures_total" Some(("reason", "memory")), "Plugin calls that failed, by reason.";
    PluginScript "balancedns_plugin_failures_total" Some(("reason", "script")), "Plugin calls that failed, by reason.";
    PluginResult "balancedns_plugin_failures_total" Some(("reason", "result")), "Plugin calls that failed, by reason.";
    PluginProcess "balancedns_plugin_failures_total" Some(("reason", "process")), "Plugin calls that failed, by reason.";
    PluginOutput "balancedns_plugin_failures_total" Some(("reason", "output")), "Plugin calls that failed, by reason.";
    PluginBusy "balancedns_plugin_failures_total" Some(("reason", "busy")), "Plugin calls that failed, by reason.";
    PluginDisabled "balancedns_plugin_failures_total" Some(("reason", "disabled")), "Plugin calls that failed, by reason.";
    PluginProcesses "balancedns_plugin_processes_total" None, "Processes started for plugins.";
    PluginShared "balancedns_plugin_shared_total" None, "Queries that joined a call in flight to a plugin's process.";
    HostsAnswers "balancedns_hosts_answers_total" None, "Queries answered from the hosts file.";
    SpecialAnswers "balancedns_special_answers_total" None, "Queries for special names that were kept home.";
    AnyAnswers "balancedns_any_answers_total" None, "ANY queries given a minimal answer.";
    Coalesced "balancedns_coalesced_total" None, "Queries that joined a fetch in flight.";
    UpstreamSends "balancedns_upstream_sends_total" None, "Queries sent upstream, retransmissions included.";
    UpstreamRetransmits "balancedns_upstream_retransmits_total" None, "UDP queries sent again after silence.";
    UpstreamTruncated "balancedns_upstream_truncated_total" None, "Truncated replies that led to TCP.";
    UpstreamTimeouts "balancedns_upstream_failures_total" Some(("reason", "timeout")), "Failed attempts.";
    UpstreamRefused "balancedns_upstream_failures_total" Some(("reason", "network")), "Failed attempts.";
    UpstreamRcode "balancedns_upstream_failures_total" Some(("reason", "rcode")), "Failed attempts.";
    UpstreamMalformed "balancedns_upstream_failures_total" Some(("reason", "malformed")), "Failed attempts.";
    UpstreamHttp "balancedns_upstream_failures_total" Some(("reason", "http")), "Failed attempts.";
    UpstreamNoAddress "balancedns_upstream_failures_total" Some(("reason", "no_address")), "Failed attempts.";
    UpstreamFull "balancedns_upstream_failures_total" Some(("reason", "limit")), "Failed attempts.";
    ReplyUnknownId "balancedns_upstream_mismatches_total" Some(("what", "id")), "Upstream datagrams ignored.";
    ReplyLate "balancedns_upstream_mismatches_total" Some(("what", "late")), "Upstream datagrams ignored.";
    ReplyWrongQuestion "balancedns_upstream_mismatches_total" Some(("what", "question")), "Upstream datagrams ignored.";
    ReplyOtherCase "balancedns_upstream_mismatches_total" Some(("what", "case")), "Upstream datagrams ignored.";
    ReplyWrongCookie "balancedns_upstream_mismatches_total" Some(("what", "cookie")), "Upstream datagrams ignored.";
    ReplyWrongSubnet "balancedns_upstream_mismatches_total" Some(("what", "subnet")), "Upstream datagrams ignored.";
    ReplyGarbage "balancedns_upstream_mismatches_total" Some(("what", "garbage")), "Upstream datagrams ignored.";
    UpstreamsDown "balancedns_upstream_down_total" None, "Times that an upstream's address was found to be down.";
    UpstreamProbes "balancedns_upstream_probes_total" None, "Copies of queries sent to see whether an upstream is back.";
    LookupsFound "balancedns_host_lookups_total" Some(("outcome", "found")), "Look-ups of upstreams' host names.";
    LookupsFailed "balancedns_host_lookups_total" Some(("outcome", "failed")), "Look-ups of upstreams' host names.";
    SocketsOpened "balancedns_upstream_sockets_opened_total" None, "UDP sockets opened towards upstreams.";
    ConnsOpened "balancedns_upstream_connections_opened_total" None, "Stream connections opened to upstreams.";
    ConnsAccepted "balancedns_connections_accepted_total" None, "Stream connections accepted from clients.";
    ConnsRefused "balancedns_connections_refused_total" None, "Stream connections refused at a limit or by the ACL.";
    ConnsTimedOut "balancedns_connections_timed_out_total" None, "Clients' connections closed by a timeout.";
    DohBadRequest "balancedns_doh_refused_total" Some(("status", "400")), "Requests over HTTP that were not answered with a DNS message.";
    DohForbidden "balancedns_doh_refused_total" Some(("status", "403")), "Requests over HTTP that were not answered with a DNS message.";
    DohNotFound "balancedns_doh_refused_total" Some(("status", "404")), "Requests over HTTP that were not answered with a DNS message.";
    DohMethod "balancedns_doh_refused_total" Some(("status", "405")), "Requests over HTTP that were not answered with a DNS message.";
    DohTimeout "balancedns_doh_refused_total" Some(("status", "408")), "Requests over HTTP that were not answered with a DNS message.";
    DohTooLarge "balancedns_doh_refused_total" Some(("status", "413")), "Requests over HTTP that were not answered with a DNS message.";
    DohMediaType "balancedns_doh_refused_total" Some(("status", "415")), "Requests over HTTP that were not answered with a DNS message.";
    DohResets "balancedns_doh_resets_total" None, "Requests over HTTP that the client reset.";
    LimitFetches "balancedns_limit_reached_total" Some(("limit", "fetches")), "Times a bound shed something.";
    LimitWaiters "balancedns_limit_reached_total" Some(("limit", "waiters")), "Times a bound shed something.";
    LimitOutbox "balancedns_limit_reached_total" Some(("limit", "outbox")), "Times a bound shed something.";
    LimitSockets "balancedns_limit_reached_total" Some(("limit", "sockets")), "Times a bound shed something.";
    LimitUnsent "balancedns_limit_reached_total" Some(("limit", "unsent")), "Times a bound shed something.";
    LimitPlugins "balancedns_limit_reached_total" Some(("limit", "plugins")), "Times a bound shed something.";
    LimitEvents "balancedns_limit_reached_total" Some(("limit", "events")), "Times a bound shed something.";
    LimitExchanges "balancedns_limit_reached_total" Some(("limit", "exchanges")), "Times a bound shed something.";
    LimitResets "balancedns_limit_reached_total" Some(("limit", "resets")), "Times a bound shed something.";
    DeadHandles "balancedns_dead_handle_events_total" None, "Inputs for handles that had ended.";
    PluginErrors "balancedns_plugin_execution_errors" None, "Plugin calls that failed.";
    SendFailures "balancedns_send_failures_total" None, "Datagrams to clients that could not be sent.";
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Counts one. Only the owning worker may call this.
    #[inline]
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts several. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The current value; any thread may read it.
    #[must_use]
    pub fn value(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

/// Round-trip times of one upstream as one worker saw them: a histogram.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; Self::BUCKETS.len() + 1],
    sum_nanos: AtomicU64,
}

/// A histogram as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyReading {
    /// Counts per bucket, not cumulative; the last one is above all bounds.
    pub buckets: [u64; Latency::BUCKETS.len() + 1],
    /// Sum of all times.
    pub sum: Duration,
    /// How many times.
    pub count: u64,
}

impl Latency {
    /// Upper bounds of the buckets.
    pub const BUCKETS: [Duration; 12] = [
        Duration::from_millis(1),
        Duration::from_millis(3),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(20),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(200),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(2),
        Duration::from_secs(5),
    ];

    /// Takes one time in. Only the owning worker may call this.
    pub fn record(&self, time: Duration) {
        let bucket = Self::BUCKETS.iter().position(|bound| time <= *bound);
        let cell = &self.buckets[bucket.unwrap_or(Self::BUCKETS.len())];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let sum = self.sum_nanos.load(Ordering::Relaxed).wrapping_add(nanos);
        self.sum_nanos.store(sum, Ordering::Relaxed);
    }

    /// The current state; any thread may read it.
    #[must_use]
    pub fn read(&self) -> LatencyReading {
        let mut buckets = [0; Self::BUCKETS.len() + 1];
        for (value, cell) in buckets.iter_mut().zip(&self.buckets) {
            *value = cell.load(Ordering::Relaxed);
        }
        let sum = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed));
        LatencyReading { buckets, sum, count: buckets.iter().sum() }
    }
}

/// Everything that one worker counts.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Plain counters.
    pub counters: Counters,
    latencies: Mutex<Vec<(String, Arc<Latency>)>>,
}

impl WorkerMetrics {
    /// The histogram of an upstream by its name; made on the first call, kept over reloads.
    #[must_use]
    pub fn latency(&self, upstream: &str) -> Arc<Latency> {
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, latency)) = latencies.iter().find(|(name, _)| name == upstream) {
            return Arc::clone(latency);
        }
        let latency = Arc::new(Latency::default());
        latencies.push((upstream.to_owned(), Arc::clone(&latency)));
        latency
    }

    /// All histograms with their upstreams' names.
    #[must_use]
    pub fn latencies(&self) -> Vec<(String, Arc<Latency>)> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_bucket_it_does_not_exceed() {
        let metrics = WorkerMetrics::default();
        let latency = metrics.latency("a");
        latency.record(Duration::from_millis(1));
        latency.record(Duration::from_millis(2));
        latency.record(Duration::from_secs(9));
        let reading = metrics.latency("a").read();
        assert_eq!((reading.buckets[0], reading.buckets[1], reading.buckets[12]), (1, 1, 1));
        assert_eq!(reading.count, 3);
        assert_eq!(reading.sum, Duration::from_millis(9_003));
    }

    #[test]
    fn counters_of_one_metric_stand_together() {
        let mut seen: Vec<&str> = Vec::new();
        for counter in Counter::ALL {
            if seen.last() != Some(&counter.metric()) {
                assert!(!seen.contains(&counter.metric()), "{} is torn apart", counter.metric());
                seen.push(counter.metric());
            }
        }
    }
}
