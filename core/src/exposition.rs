//! Metrics as Prometheus reads them: summed over the workers at the moment of the scrape.
//!
//! Owns names that are not in [`Counter`]'s table, and the text format.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter as CounterValue, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::metrics::{Counter, Latency, LatencyReading, WorkerMetrics};
use crate::supervisor::ComponentStatus;
use crate::time::Duration;

/// The media type of what [`text`] gives.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is read for a scrape.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// The counters of all workers there ever were.
    pub workers: Vec<Arc<WorkerMetrics>>,
    /// Entries in the cache.
    pub cache_entries: usize,
    /// Octets of keys and answers in the cache.
    pub cache_bytes: usize,
    /// Entries that had to make room.
    pub cache_evictions: u64,
    /// Clients' stream connections.
    pub open_connections: usize,
    /// When the certificate that clients are shown expires, since 1970 in UTC; if there is one.
    pub certificate_expiry: Option<Duration>,
    /// Lists that come from files and URLs, each under a name of its own.
    pub lists: Vec<ListReading>,
}

/// What is read of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListReading {
    /// Which list.
    pub list: String,
    /// What it has.
    pub entries: usize,
    /// When it was read or fetched, or confirmed by its server; since 1970 in UTC. None: never.
    pub updated: Option<Duration>,
    /// Attempts at it that failed.
    pub failures: u64,
}

/// All metrics in the text format (version 0.0.4).
#[must_use]
pub fn text(readings: &Readings, components: &[ComponentStatus]) -> String {
    let mut families = counters(&readings.workers);
    families.extend(latencies(&readings.workers));
    families.extend(sizes(readings));
    families.extend(readings.certificate_expiry.map(expiry));
    families.extend(lists(&readings.lists));
    families.extend(states(components));
    families.retain(|family| !family.get_metric().is_empty());
    let encoded = TextEncoder::new().encode_to_string(&families);
    encoded.expect("every family has a name, a known type and a sample")
}

fn counters(workers: &[Arc<WorkerMetrics>]) -> Vec<MetricFamily> {
    let mut families: Vec<MetricFamily> = Vec::new();
    for counter in Counter::ALL {
        let sum = workers.iter().map(|worker| worker.counters.value(*counter)).sum();
        let labels: Vec<_> = counter.label().into_iter().collect();
        let sample = counted(&labels, sum);
        match families.last_mut() {
            Some(family) if family.name() == counter.metric() => family.mut_metric().push(sample),
            _ => families.push(family(
                counter.metric(),
                counter.help(),
                MetricType::COUNTER,
                vec![sample],
            )),
        }
        if *counter == Counter::PluginErrors {
            // The name without a suffix is the original's; the twin is what the convention asks for.
            let twin = format!("{}_total", counter.metric());
            let sample = vec![counted(&[], sum)];
            families.push(family(&twin, counter.help(), MetricType::COUNTER, sample));
        }
    }
    families
}

fn latencies(workers: &[Arc<WorkerMetrics>]) -> Option<MetricFamily> {
    let mut upstreams: BTreeMap<String, LatencyReading> = BTreeMap::new();
    for (name, latency) in workers.iter().flat_map(|worker| worker.latencies()) {
        let reading = latency.read();
        upstreams.entry(name).and_modify(|sum| add(sum, &reading)).or_insert(reading);
    }
    let samples = upstreams.iter().map(|(name, reading)| {
        let mut metric = Metric::from_label(labels(&[("upstream", name)]));
        metric.set_histogram(histogram(reading));
        metric
    });
    let samples: Vec<Metric> = samples.collect();
    let help = "Time from a query to its upstream until the reply.";
    let name = "balancedns_upstream_latency_seconds";
    (!samples.is_empty()).then(|| family(name, help, MetricType::HISTOGRAM, samples))
}

fn add(sum: &mut LatencyReading, reading: &LatencyReading) {
    for (total, count) in sum.buckets.iter_mut().zip(reading.buckets) {
        *total += count;
    }
    sum.sum = sum.sum.saturating_add(reading.sum);
    sum.count += reading.count;
}

fn histogram(reading: &LatencyReading) -> Histogram {
    let mut below = 0;
    let bounded = Latency::BUCKETS.iter().zip(reading.buckets).map(|(bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(below);
        bucket
    });
    let bounded = bounded.collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(bounded);
    histogram.set_sample_count(reading.count);
    histogram.set_sample_sum(reading.sum.as_secs_f64());
    histogram
}

fn sizes(readings: &Readings) -> Vec<MetricFamily> {
    let gauge = |name, help, value: usize| {
        family(name, help, MetricType::GAUGE, vec![gauged(&[], value as f64)])
    };
    vec![
        gauge("balancedns_cache_entries", "Entries in the cache.", readings.cache_entries),
        gauge("balancedns_cache_bytes", "Octets of the cache's entries.", readings.cache_bytes),
        family(
            "balancedns_cache_evictions_total",
            "Entries that left the cache to make room.",
            MetricType::COUNTER,
            vec![counted(&[], readings.cache_evictions)],
        ),
        gauge(
            "balancedns_connections_open",
            "Clients' stream connections.",
            readings.open_connections,
        ),
    ]
}

fn expiry(at: Duration) -> MetricFamily {
    family(
        "balancedns_certificate_expiry_timestamp_seconds",
        "When the certificate that clients are shown expires.",
        MetricType::GAUGE,
        vec![gauged(&[], at.as_secs() as f64)],
    )
}

fn lists(lists: &[ListReading]) -> Vec<MetricFamily> {
    let entries = lists.iter().map(|list| gauged(&[("list", &list.list)], list.entries as f64));
    let updated = lists
        .iter()
        .filter_map(|list| Some(gauged(&[("list", &list.list)], list.updated?.as_secs() as f64)));
    let failures = lists.iter().map(|list| counted(&[("list", &list.list)], list.failures));
    vec![
        family(
            "balancedns_list_entries",
            "Entries of a list.",
            MetricType::GAUGE,
            entries.collect(),
        ),
        family(
            "balancedns_list_updated_timestamp_seconds",
            "When a list was read, fetched or confirmed.",
            MetricType::GAUGE,
            updated.collect(),
        ),
        family(
            "balancedns_list_failures_total",
            "Attempts to read or fetch a list that failed.",
            MetricType::COUNTER,
            failures.collect(),
        ),
    ]
}

fn states(components: &[ComponentStatus]) -> Vec<MetricFamily> {
    let label = |component: &ComponentStatus| [("component", component.name)];
    let up = components.iter().map(|c| gauged(&label(c), f64::from(u8::from(c.running))));
    let restarts = components.iter().map(|c| counted(&label(c), c.restarts));
    vec![
        family(
            "balancedns_component_up",
            "Whether all of a component runs.",
            MetricType::GAUGE,
            up.collect(),
        ),
        family(
            "balancedns_component_restarts_total",
            "Restarts of a component after failures.",
            MetricType::COUNTER,
            restarts.collect(),
        ),
    ]
}

fn family(name: &str, help: &str, kind: MetricType, samples: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(samples);
    family
}

fn counted(pairs: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = CounterValue::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_counter(counter);
    metric
}

fn gauged(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_gauge(gauge);
    metric
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::time::Duration;

    fn worker(hits: u64, upstream: &str, times: &[u64]) -> Arc<WorkerMetrics> {
        let metrics = WorkerMetrics::default();
        metrics.counters.add(Counter::CacheHits, hits);
        metrics.counters.add(Counter::PluginErrors, 1);
        let latency = metrics.latency(upstream);
        for millis in times {
            latency.record(Duration::from_millis(*millis));
        }
        Arc::new(metrics)
    }

    fn component(name: &'static str, running: bool) -> ComponentStatus {
        ComponentStatus {
            name,
            required: true,
            running,
            finishing: false,
            restarts: 3,
            consecutive_failures: 0,
            last_error: None,
            last_start_at: None,
            last_stop_at: None,
        }
    }

    fn example() -> String {
        let workers = vec![
            worker(2, "a\"b", &[1, 2, 4]),
            worker(5, "a\"b", &[4, 9_000]),
            worker(0, "c", &[700]),
        ];
        let readings = Readings {
            workers,
            cache_entries: 7,
            cache_bytes: 900,
            cache_evictions: 1,
            open_connections: 4,
            certificate_expiry: Some(Duration::from_secs(1_800_000_000)),
            lists: vec![
                ListReading {
                    list: "/etc/ads.txt".to_owned(),
                    entries: 12,
                    updated: Some(Duration::from_secs(1_700_000_000)),
                    failures: 2,
                },
                ListReading {
                    list: "https://lists.example/a".to_owned(),
                    entries: 0,
                    updated: None,
                    failures: 1,
                },
            ],
        };
        text(&readings, &[component("dns-tcp", false), component("dns-udp", true)])
    }

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|other| other == line)
    }

    #[test]
    fn workers_are_summed() {
        let text = example();
        for line in [
            "balancedns_cache_hits_total 7",
            "balancedns_plugin_execution_errors 3",
            "balancedns_plugin_execution_errors_total 3",
            "balancedns_cache_entries 7",
            "balancedns_cache_evictions_total 1",
            "balancedns_connections_open 4",
            "balancedns_certificate_expiry_timestamp_seconds 1800000000",
            "balancedns_list_entries{list=\"/etc/ads.txt\"} 12",
            "balancedns_list_updated_timestamp_seconds{list=\"/etc/ads.txt\"} 1700000000",
            "balancedns_list_failures_total{list=\"https://lists.example/a\"} 1",
            "balancedns_component_up{component=\"dns-tcp\"} 0",
            "balancedns_component_up{component=\"dns-udp\"} 1",
            "balancedns_component_restarts_total{component=\"dns-udp\"} 3",
            "balancedns_responses_total{rcode=\"NOERROR\"} 0",
        ] {
            assert!(has(&text, line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn buckets_are_cumulative_and_end_at_infinity() {
        let text = example();
        for (bound, count) in [("0.001", 1), ("0.003", 2), ("0.005", 4), ("5", 4), ("+Inf", 5)] {
            let line = format!(
                "balancedns_upstream_latency_seconds_bucket{{upstream=\"a\\\"b\",le=\"{bound}\"}} {count}"
            );
            assert!(has(&text, &line), "{line} is missing in\n{text}");
        }
        assert!(has(&text, "balancedns_upstream_latency_seconds_sum{upstream=\"a\\\"b\"} 9.011"));
        assert!(has(&text, "balancedns_upstream_latency_seconds_count{upstream=\"c\"} 1"));
    }

    /// The rules of the text format 0.0.4 that a scraper is strict about.
    #[test]
    fn the_format_is_valid() {
        let text = example();
        assert!(text.ends_with('\n'));
        let mut typed: HashSet<&str> = HashSet::new();
        let mut series: HashSet<&str> = HashSet::new();
        let mut current = ("", "");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split_once(' ').expect("a name and a type");
                assert!(typed.insert(current.0), "{} is declared twice", current.0);
                assert!(["counter", "gauge", "histogram"].contains(&current.1));
            } else if !line.starts_with("# HELP ") {
                let (key, value) = line.rsplit_once(' ').expect("a series and a value");
                value.parse::<f64>().expect("a number");
                assert!(series.insert(key), "{key} occurs twice");
                let name = key.split('{').next().expect("split gives one at least");
                let suffix = name.strip_prefix(current.0).expect("stands under its own type");
                let suffixes: &[&str] =
                    if current.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.contains(&suffix), "{name} does not belong to {}", current.0);
                assert!(
                    name.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b))
                );
            }
        }
        let expected: HashSet<&str> = Counter::ALL.iter().map(|counter| counter.metric()).collect();
        assert!(typed.is_superset(&expected));
    }

    #[test]
    fn nothing_to_tell_is_valid_too() {
        let text = text(&Readings::default(), &[]);
        assert!(!text.contains("latency"));
        assert!(!text.contains("balancedns_list"));
        assert!(has(&text, "balancedns_queries_total 0"));
    }
}
