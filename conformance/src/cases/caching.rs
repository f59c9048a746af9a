//! The cache as clients and upstreams see it (RFC 2181, RFC 2308, RFC 9520).

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::expiry::{assert_about, time_to_expire};
use crate::case::World;
use crate::harness::{Asked, Query, Reply, Settings, Upstream, address, until};

cases! {
    second_answer_is_a_hit, all, "RFC 1034 5.3.3",
        "the second of two equal questions is not asked upstream";
    transports_share_the_cache, own, "RFC 1034 5.3.3",
        "what was asked by one transport is kept for the other";
    disabled_cache_keeps_nothing, all, "config cache.enabled",
        "a cache that is switched off keeps nothing";
    ttls_age, all, "RFC 1034 3.6",
        "TTLs count down while an answer is kept, for all of its records";
    answers_expire, all, "RFC 1035 3.2.1",
        "an answer is used as long as its TTL, then asked again";
    smallest_ttl_decides, all, "RFC 2181 5.2",
        "the record that lives shortest decides for all of the answer";
    floor_under_ttls, all, "config cache.min_ttl_seconds",
        "the floor lifts the TTLs that clients see, in the first answer too";
    ceiling_over_ttls, all, "RFC 8767 4, config cache.max_ttl_seconds",
        "the ceiling bounds the TTLs that clients see";
    ttl_with_the_top_bit_is_zero, all, "RFC 2181 8",
        "a TTL with the top bit set means 0";
    ttl_zero_is_not_kept, all, "RFC 1035 3.2.1",
        "TTL 0 is for this one answer";
    do_and_cd_are_apart, all, "RFC 4035 4.5, RFC 3225 3",
        "answers for DO and CD are others than those without";
    edns_alone_is_not_apart, all, "RFC 6891 6.1.1",
        "EDNS without DO is no other question";
    class_and_type_are_apart, all, "RFC 1034 3.6",
        "class and type are part of the question";
    letter_case_is_not_apart, all, "RFC 4343 3",
        "letter case makes no other question";
    capacity_is_kept, all, "config cache.capacity",
        "entries are bounded; the one not used longest goes first";
    without_rd_only_what_is_kept, all, "RFC 1035 4.1.1, RFC 8914 4.21",
        "with RD=0 a kept answer is given, but nothing is fetched; the refusal says why";
    workers_share_the_cache, all, "architecture cache",
        "workers share one cache";
}

/// No floor under TTLs, so that a test sees what the upstream said.
const NO_FLOOR: &str = "cache = { min_ttl_seconds = 0 }";

/// An upstream whose addresses live this long.
fn with_ttl(ttl: u32) -> Upstream {
    Upstream::start(move |asked| asked.address(ttl, "192.0.2.1"))
}

fn second_answer_is_a_hit(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..6 {
        assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 1);
    assert!(daemon.metric("balancedns_cache_hits_total") >= 5.0);
    assert!(daemon.metric("balancedns_cache_misses_total") >= 1.0);
}

fn transports_share_the_cache(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..3 {
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
        assert_eq!(daemon.tcp(&Query::a("www.example.org")).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 1);
    assert!(daemon.metric("balancedns_cache_hits_total") >= 5.0);
    assert!(daemon.metric("balancedns_cache_misses_total") >= 1.0);
}

fn disabled_cache_keeps_nothing(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).section("cache = { enabled = false }").start(world);
    daemon.ask(&Query::a("www.example.org"));
    daemon.ask(&Query::a("www.example.org"));
    assert_eq!(upstream.count(), 2);
}

fn ttls_age(world: &World) {
    let upstream = Upstream::start(|asked| {
        asked.answer([
            address(&asked.name(), 100, "192.0.2.1"),
            address(&asked.name(), 50, "192.0.2.2"),
        ])
    });
    let daemon = Settings::with(&upstream).start(world);
    let ttls = |reply: &Reply| reply.message.answers.iter().map(|r| r.ttl).collect::<Vec<_>>();
    let start = Instant::now();
    assert_eq!(ttls(&daemon.ask(&Query::a("www.example.org"))), [100, 50]);
    let aged = until("the TTLs are lower", || {
        let ttls = ttls(&daemon.ask(&Query::a("www.example.org")));
        (ttls[0] < 100).then_some(ttls)
    });
    let took = start.elapsed();
    assert_eq!(aged[0] - aged[1], 50, "records age together");
    assert!(took < Duration::from_millis(1500), "a second later at the latest, not {took:?}");
    assert_eq!(upstream.count(), 1);
}

fn answers_expire(world: &World) {
    let upstream = with_ttl(1);
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start(world);
    assert_about(time_to_expire(&daemon, &upstream, &Query::a("www.example.org")), 1);
}

fn smallest_ttl_decides(world: &World) {
    let upstream = Upstream::start(|asked| {
        asked.answer([
            address(&asked.name(), 300, "192.0.2.1"),
            address(&asked.name(), 1, "192.0.2.2"),
        ])
    });
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start(world);
    assert_about(time_to_expire(&daemon, &upstream, &Query::a("www.example.org")), 1);
}

fn floor_under_ttls(world: &World) {
    let upstream = with_ttl(5);
    let daemon = Settings::with(&upstream).section("cache = { min_ttl_seconds = 30 }").start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).ttl(), 30);
    assert!((28..=30).contains(&daemon.ask(&Query::a("www.example.org")).ttl()));
    assert_eq!(upstream.count(), 1);
}

fn ceiling_over_ttls(world: &World) {
    let upstream = with_ttl(86_400);
    let daemon = Settings::with(&upstream).section("cache = { max_ttl_seconds = 60 }").start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).ttl(), 60);
    assert!((58..=60).contains(&daemon.ask(&Query::a("www.example.org")).ttl()));
}

fn ttl_with_the_top_bit_is_zero(world: &World) {
    let upstream = with_ttl(0x8000_0001);
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).ttl(), 0);
    daemon.ask(&Query::a("www.example.org"));
    assert_eq!(upstream.count(), 2);
}

fn ttl_zero_is_not_kept(world: &World) {
    let upstream = with_ttl(0);
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).ttl(), 0);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).ttl(), 0);
    assert_eq!(upstream.count(), 2);
}

fn do_and_cd_are_apart(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start(world);
    let plain = Query::a("www.example.org");
    let kinds =
        [plain.clone(), plain.clone().dnssec_ok(), plain.clone().cd(), plain.dnssec_ok().cd()];
    for query in kinds.iter().chain(&kinds) {
        assert_eq!(daemon.ask(query).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 4);
}

fn edns_alone_is_not_apart(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start(world);
    daemon.ask(&Query::a("www.example.org"));
    daemon.ask(&Query::a("www.example.org").edns(4096));
    assert_eq!(upstream.count(), 1);
}

fn class_and_type_are_apart(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NoError, 300, 300));
    let daemon = Settings::with(&upstream).start(world);
    let of_type = |qtype| Query::new("www.example.org", qtype);
    let kinds =
        [of_type(RecordType::A), of_type(RecordType::MX), of_type(RecordType::Unknown(65_280))];
    for query in kinds.iter().chain(&kinds) {
        daemon.ask(query);
    }
    assert_eq!(upstream.count(), 3);
    // Chaosnet is refused: never answered from what was kept for IN.
    assert_eq!(daemon.ask(&of_type(RecordType::A).class(3)).rcode(), 5);
}

fn letter_case_is_not_apart(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start(world);
    for name in ["www.example.org", "WWW.Example.Org", "wWw.eXAMPLE.oRG"] {
        daemon.ask(&Query::a(name));
    }
    assert_eq!(upstream.count(), 1);
}

fn capacity_is_kept(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).section("cache = { capacity = 2 }").start(world);
    for name in ["one", "two", "one", "three", "one", "two"] {
        daemon.ask(&Query::a(&format!("{name}.example.org")));
    }
    let names: Vec<_> = upstream.asked().iter().map(Asked::name).collect();
    assert_eq!(
        names,
        ["one.example.org.", "two.example.org.", "three.example.org.", "two.example.org."]
    );
}

fn without_rd_only_what_is_kept(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.ask(&Query::a("www.example.org").without_rd().edns(1232));
    assert_eq!((reply.rcode(), reply.extended_errors()), (5, vec![20]));
    assert_eq!(daemon.ask(&Query::a("www.example.org").without_rd()).rcode(), 5);
    assert_eq!(upstream.count(), 0);
    daemon.ask(&Query::a("www.example.org"));
    let reply = daemon.ask(&Query::a("www.example.org").without_rd());
    assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.1".to_owned()));
    assert_eq!(upstream.count(), 1);
}

fn workers_share_the_cache(world: &World) {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).workers(2).start(world);
    daemon.ask(&Query::a("www.example.org"));
    for _ in 0..20 {
        // A port of its own each time: the kernel spreads them over the workers.
        daemon.ask(&Query::a("www.example.org"));
    }
    assert_eq!(upstream.count(), 1);
}
