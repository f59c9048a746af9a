//! What operators and their tools see: `/metrics`, `/healthz`, `/readyz`, `/statusz`.

use crate::case::World;
use crate::harness::{Daemon, Query, Settings, Upstream};

cases! {
    metrics_keep_their_names, own, "http /metrics",
        "the names and labels that dashboards of the original rely on are there";
    metrics_are_well_formed, own, "http /metrics",
        "every metric has its help and its type, and appears under them only";
    counters_move, own, "http /metrics",
        "counters count: queries, transports, rcodes, latency";
    queries_are_conserved, all, "http /metrics",
        "each query ends as one reply or one counted drop";
    health_pages_have_their_shape, own, "http /healthz, http /readyz, http /statusz",
        "the health pages have their fields; components come sorted by name";
    unknown_pages_are_404, own, "http /",
        "other pages do not exist";
    metrics_hold_no_names, all, "http /metrics",
        "names of clients' queries never become labels";
}

fn get_json(daemon: &Daemon, path: &str) -> (u16, serde_json::Value) {
    let (status, body) = daemon.get(path);
    let value = serde_json::from_str(&body)
        .unwrap_or_else(|error| panic!("{path} is not JSON: {error}: {body}"));
    (status, value)
}

fn metrics_keep_their_names(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    daemon.udp(&Query::a("www.example.org"));
    let (_, text) = daemon.get("/metrics");
    for series in [
        "balancedns_queries_total ",
        "balancedns_cache_hits_total ",
        "balancedns_upstream_latency_seconds_bucket{upstream=\"up0\",le=\"0.001\"} ",
        "balancedns_upstream_latency_seconds_sum{upstream=\"up0\"} ",
        "balancedns_upstream_latency_seconds_count{upstream=\"up0\"} ",
        "balancedns_plugin_execution_errors ",
        "balancedns_plugin_execution_errors_total ",
        "balancedns_component_up{component=\"dns-udp\"} 1",
        "balancedns_component_up{component=\"dns-tcp\"} 1",
        "balancedns_component_up{component=\"metrics-http\"} 1",
        "balancedns_component_restarts_total{component=\"dns-udp\"} 0",
        "balancedns_component_restarts_total{component=\"dns-tcp\"} 0",
    ] {
        assert!(text.lines().any(|line| line.starts_with(series)), "no {series}in\n{text}");
    }
    let buckets: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("balancedns_upstream_latency_seconds_bucket{"))
        .filter_map(|line| Some(line.split_once("le=\"")?.1.split_once('"')?.0))
        .collect();
    let expected = "0.001 0.003 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1 2 5 +Inf";
    assert_eq!(buckets, expected.split(' ').collect::<Vec<_>>());
}

fn metrics_are_well_formed(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let (_, text) = daemon.get("/metrics");
    let mut types = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().expect("a name");
            assert!(types.insert(name.to_owned()), "{name} twice");
        } else if !line.starts_with('#') && !line.is_empty() {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().expect("a number");
            let name = series.split('{').next().expect("a name");
            let known = |name: &str| types.contains(name);
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(known(name) || base.is_some_and(known), "{name} without a type");
        }
    }
    assert!(types.len() > 10);
}

fn counters_move(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .section(r#"blacklist = { domains = { "blocked.example.org" } }"#)
        .start(world);
    for _ in 0..3 {
        daemon.udp(&Query::a("www.example.org"));
    }
    daemon.tcp(&Query::a("www.example.org"));
    daemon.udp(&Query::a("blocked.example.org"));
    for (series, expected) in [
        ("balancedns_queries_total", 5.0),
        ("balancedns_transport_queries_total{transport=\"udp\"}", 4.0),
        ("balancedns_transport_queries_total{transport=\"tcp\"}", 1.0),
        ("balancedns_cache_hits_total", 3.0),
        ("balancedns_cache_misses_total", 1.0),
        ("balancedns_responses_total{rcode=\"NOERROR\"}", 4.0),
        ("balancedns_responses_total{rcode=\"REFUSED\"}", 1.0),
        ("balancedns_blocked_total", 1.0),
        ("balancedns_upstream_sends_total", 1.0),
        ("balancedns_upstream_latency_seconds_count{upstream=\"up0\"}", 1.0),
    ] {
        let value = daemon.metric(series);
        assert!((value - expected).abs() < 0.1, "{series} is {value}, not {expected}");
    }
}

fn queries_are_conserved(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for i in 0..20 {
        daemon.ask(&Query::a(&format!("n{i}.example.org")));
        daemon.ask(&Query::a(&format!("n{i}.example.org")));
        daemon.ask(&Query::a("www.example.org").opcode(4));
        daemon.ask(&Query::a("www.example.org").edns_version(3));
    }
    let (_, text) = daemon.get("/metrics");
    let replies: f64 = text
        .lines()
        .filter(|line| line.starts_with("balancedns_responses_total{"))
        .map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number"))
        .sum();
    let queries = daemon.metric("balancedns_queries_total");
    assert!((queries - 80.0).abs() < 0.1, "{queries} queries");
    assert!((replies - 80.0).abs() < 0.1, "{replies} replies");
}

fn health_pages_have_their_shape(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for path in ["/healthz", "/readyz", "/statusz"] {
        let (status, value) = get_json(&daemon, path);
        assert_eq!(status, 200, "{path}");
        assert_eq!(value["status"], "ok", "{path}");
        let timestamp = value["timestamp"].as_str().expect("a timestamp");
        assert!(timestamp.len() >= 20 && timestamp.as_bytes()[10] == b'T', "{timestamp}");
        let components = value["components"].as_array().expect("a list");
        let names: Vec<_> = components.iter().map(|c| c["name"].as_str().expect("text")).collect();
        assert_eq!(names, ["dns-tcp", "dns-udp", "metrics-http"], "{path}");
        for component in components {
            assert_eq!(component["running"], true, "{path}");
            assert_eq!(component["required"], component["name"] != "metrics-http");
            assert_eq!(component["restarts"], 0);
            assert_eq!(component["consecutive_failures"], 0);
            assert!(component["last_start_at"].is_string(), "{component}");
        }
    }
}

fn unknown_pages_are_404(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.get("/nothing").0, 404);
    assert_eq!(daemon.get("/").0, 404);
    assert_eq!(daemon.get("/healthz").0, 200);
}

fn metrics_hold_no_names(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    daemon.ask(&Query::a("secret-name.example.org"));
    assert!(!daemon.get("/metrics").1.contains("secret-name"));
}
