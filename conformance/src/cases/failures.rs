//! Failures: which are remembered and for how long (RFC 9520), and what clients are told of them
//! (RFC 8914).

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::expiry::{assert_about, assert_not_kept, time_to_expire};
use crate::case::World;
use crate::harness::{Answer, Client, Daemon, Gate, Query, Settings, Upstream, free_port, until};

cases! {
    refused_is_not_kept, all, "architecture failures",
        "REFUSED speaks of the asker, not of the name: it is not kept";
    notimp_is_not_kept, all, "architecture failures",
        "NOTIMP speaks of the server: it is not kept";
    servfail_is_kept_briefly, all, "RFC 9520 2.1, RFC 9520 3.2, RFC 8914 4.14",
        "a failure is kept, but briefly, and the client is told that it was";
    servfail_is_not_kept_if_told_so, all, "config cache.servfail_ttl_seconds",
        "with 0 no failure is kept";
    timeouts_are_kept, all, "RFC 9520 2.3, RFC 9520 3.2",
        "that nobody answered in time is a failure, and kept";
    unreachable_upstreams_are_kept, all, "RFC 9520 2.3, RFC 9520 3.2",
        "that nobody could be reached is a failure, and kept";
    failures_are_of_one_question, all, "RFC 9520 3.2",
        "another type, DO or CD is another question, and asked";
    kept_failures_end, all, "RFC 9520 3.2",
        "after a kept failure the upstream is asked again, and its answer taken";
    failures_do_not_replace_answers, all, "RFC 9520 3.2",
        "a failure of one question leaves the kept answers of others alone";
    retries_are_bounded, all, "RFC 9520 3.1",
        "a silent server is not asked more often for many who ask the same";
    overload_is_told, all, "RFC 8914 4.1, config upstreams.max_in_flight",
        "more than an upstream may be asked at once fails at once, with a reason";
    overload_is_not_kept, all, "RFC 9520 2",
        "that we were busy is no failure of the name: it is asked when there is room";
    failing_rcodes_are_not_all_failures, all, "RFC 9520 2",
        "NXDOMAIN and NODATA are answers, and kept as such, not as failures";
}

/// Extended errors (RFC 8914 sections 4.1, 4.14, 4.23 and 4.24).
const OTHER_ERROR: u16 = 0;
const CACHED: u16 = 13;
const NO_REACHABLE_AUTHORITY: u16 = 22;
const NETWORK_ERROR: u16 = 23;

fn refused_is_not_kept(world: &World) {
    assert_not_kept(world, |asked| asked.rcode(ResponseCode::Refused), 5);
}

fn notimp_is_not_kept(world: &World) {
    assert_not_kept(world, |asked| asked.rcode(ResponseCode::NotImp), 4);
}

fn servfail_is_kept_briefly(world: &World) {
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::ServFail));
    let daemon =
        Settings::with(&upstream).section("cache = { servfail_ttl_seconds = 1 }").start(world);
    let query = Query::a("www.example.org");
    assert_eq!(daemon.ask(&query).rcode(), 2);
    let before = upstream.count();
    let kept = daemon.ask(&query.edns(1232));
    // RFC 8914 section 4.14: a cached error.
    assert_eq!((kept.rcode(), kept.extended_errors()), (2, vec![13]));
    assert_eq!(upstream.count(), before, "kept");
    assert_about(time_to_expire(&daemon, &upstream, &Query::a("other.example.org")), 1);
}

fn servfail_is_not_kept_if_told_so(world: &World) {
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::ServFail));
    let daemon =
        Settings::with(&upstream).section("cache = { servfail_ttl_seconds = 0 }").start(world);
    daemon.ask(&Query::a("www.example.org"));
    let before = upstream.count();
    daemon.ask(&Query::a("www.example.org"));
    assert!(upstream.count() > before);
}

/// Asks twice; the second failure is a kept one, for which nothing was sent.
fn assert_failure_is_kept(world: &World, settings: &Settings, reason: u16) {
    let daemon = settings.start(world);
    let query = Query::a("www.example.org").edns(1232);
    let first = daemon.ask(&query);
    assert_eq!((first.rcode(), first.extended_errors()), (2, vec![reason]));
    let sends = daemon.metric("balancedns_upstream_sends_total");
    let second = daemon.ask(&query);
    assert_eq!((second.rcode(), second.extended_errors()), (2, vec![CACHED]));
    let more = daemon.metric("balancedns_upstream_sends_total") - sends;
    assert!(more.abs() < 0.1, "{more} more sends");
}

fn timeouts_are_kept(world: &World) {
    let upstream = Upstream::silent();
    let settings = Settings::with(&upstream).section("routing = { deadline_ms = 300 }");
    assert_failure_is_kept(world, &settings, NO_REACHABLE_AUTHORITY);
}

fn unreachable_upstreams_are_kept(world: &World) {
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let settings = Settings::new().upstream_at(nobody, "");
    assert_failure_is_kept(world, &settings, NETWORK_ERROR);
}

fn failures_are_of_one_question(world: &World) {
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::ServFail));
    let daemon = Settings::with(&upstream).start(world);
    let plain = Query::a("www.example.org");
    let others = [
        plain.clone(),
        Query::new("www.example.org", RecordType::AAAA),
        plain.clone().dnssec_ok(),
        plain.cd(),
        Query::a("other.example.org"),
    ];
    for (number, query) in others.iter().enumerate() {
        assert_eq!(daemon.ask(query).rcode(), 2);
        assert_eq!(upstream.count(), number + 1, "{query:?}");
    }
}

fn kept_failures_end(world: &World) {
    let upstream = Upstream::start(|asked| match asked.sequence {
        0 => asked.rcode(ResponseCode::ServFail),
        _ => asked.address(300, "192.0.2.1"),
    });
    let daemon =
        Settings::with(&upstream).section("cache = { servfail_ttl_seconds = 1 }").start(world);
    let start = Instant::now();
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), 2);
    until("the failure ends", || {
        (daemon.ask(&Query::a("www.example.org")).rcode() == 0).then_some(())
    });
    let took = start.elapsed();
    assert!((900..2500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(upstream.count(), 2);
}

fn failures_do_not_replace_answers(world: &World) {
    let upstream = Upstream::start(|asked| match asked.name().as_str() {
        "www.example.org." => asked.address(300, "192.0.2.1"),
        _ => asked.rcode(ResponseCode::ServFail),
    });
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    for i in 0..20 {
        assert_eq!(daemon.ask(&Query::a(&format!("n{i}.example.org"))).rcode(), 2);
    }
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    assert_eq!(upstream.count(), 21);
}

fn retries_are_bounded(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream)
        .section("routing = { deadline_ms = 1000, attempts_max = 3 }")
        .start(world);
    let mut client = daemon.client();
    for id in 0..30 {
        client.send(&Query::a("www.example.org").id(id).encode());
    }
    for _ in 0..30 {
        assert_eq!(client.receive().rcode(), 2);
    }
    assert!(upstream.count() <= 3, "{} sends", upstream.count());
}

/// A daemon that may have one query on its way, and the client whose query that is.
fn busy(world: &World, gate: &Gate) -> (Upstream, Daemon, Client) {
    let held = gate.clone();
    let upstream = Upstream::start(move |asked| {
        Answer::When(held.clone(), Box::new(asked.address(300, "192.0.2.1").into()))
    });
    let daemon = Settings::new().upstream(&upstream, "max_in_flight = 1").start(world);
    let mut client = daemon.client();
    client.send(&Query::a("first.example.org").encode());
    upstream.wait_for(1);
    (upstream, daemon, client)
}

fn overload_is_told(world: &World) {
    let gate = Gate::default();
    let (upstream, daemon, mut first) = busy(world, &gate);
    let start = Instant::now();
    let reply = daemon.ask(&Query::a("second.example.org").edns(1232));
    assert_eq!((reply.rcode(), reply.extended_errors()), (2, vec![OTHER_ERROR]));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(upstream.asked().iter().all(|asked| asked.name() == "first.example.org."));
    gate.open();
    assert_eq!(first.receive().address(), "192.0.2.1");
}

fn overload_is_not_kept(world: &World) {
    let gate = Gate::default();
    let (_upstream, daemon, mut first) = busy(world, &gate);
    assert_eq!(daemon.ask(&Query::a("second.example.org")).rcode(), 2);
    gate.open();
    assert_eq!(first.receive().address(), "192.0.2.1");
    assert_eq!(daemon.ask(&Query::a("second.example.org")).address(), "192.0.2.1");
}

fn failing_rcodes_are_not_all_failures(world: &World) {
    for rcode in [ResponseCode::NXDomain, ResponseCode::NoError] {
        let upstream = Upstream::start(move |asked| asked.negative(rcode, 300, 300));
        let daemon = Settings::with(&upstream).start(world);
        for _ in 0..2 {
            let reply = daemon.ask(&Query::a("missing.example.org").edns(1232));
            assert_eq!((reply.rcode(), reply.extended_errors()), (u16::from(rcode), vec![]));
        }
        assert_eq!(upstream.count(), 1, "{rcode}");
    }
}
