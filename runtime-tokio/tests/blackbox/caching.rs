//! The cache as clients and upstreams see it (RFC 2181, RFC 2308, RFC 9520).

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::NS;
use hickory_proto::rr::{Name, RData, RecordType};

use crate::harness::{Asked, Daemon, Query, Reply, Settings, Upstream, address, record, until};

/// No floor under TTLs, so that a test sees what the upstream said.
const NO_FLOOR: &str = "cache = { min_ttl_seconds = 0 }";

/// An upstream whose addresses live this long.
fn with_ttl(ttl: u32) -> Upstream {
    Upstream::start(move |asked| asked.address(ttl, "192.0.2.1"))
}

/// Asks until the upstream is asked once more, and says how long that took.
fn time_to_expire(daemon: &Daemon, upstream: &Upstream, query: &Query) -> Duration {
    daemon.udp(query);
    let (start, before) = (Instant::now(), upstream.count());
    until("the entry expires", || {
        daemon.udp(query);
        (upstream.count() > before).then(|| start.elapsed())
    })
}

fn assert_about(took: Duration, seconds: u64) {
    let low = Duration::from_millis(seconds * 1000 - 100);
    let high = Duration::from_millis(seconds * 1000 + 1500);
    assert!((low..high).contains(&took), "expired after {took:?}, not {seconds} s");
}

/// The second of two equal questions is not asked upstream.
#[test]
fn second_answer_is_a_hit() {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start();
    for _ in 0..3 {
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
        assert_eq!(daemon.tcp(&Query::a("www.example.org")).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 1);
    assert!(daemon.metric("balancedns_cache_hits_total") >= 5.0);
    assert!(daemon.metric("balancedns_cache_misses_total") >= 1.0);
}

/// `cache.enabled = false` keeps nothing.
#[test]
fn disabled_cache_keeps_nothing() {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).section("cache = { enabled = false }").start();
    daemon.udp(&Query::a("www.example.org"));
    daemon.udp(&Query::a("www.example.org"));
    assert_eq!(upstream.count(), 2);
}

/// RFC 1034 section 3.6: TTLs count down while an answer is kept, for all of its records.
#[test]
fn ttls_age() {
    let upstream = Upstream::start(|asked| {
        asked.answer([
            address(&asked.name(), 100, "192.0.2.1"),
            address(&asked.name(), 50, "192.0.2.2"),
        ])
    });
    let daemon = Settings::with(&upstream).start();
    let ttls = |reply: &Reply| reply.message.answers.iter().map(|r| r.ttl).collect::<Vec<_>>();
    let start = Instant::now();
    assert_eq!(ttls(&daemon.udp(&Query::a("www.example.org"))), [100, 50]);
    let aged = until("the TTLs are lower", || {
        let ttls = ttls(&daemon.udp(&Query::a("www.example.org")));
        (ttls[0] < 100).then_some(ttls)
    });
    let took = start.elapsed();
    assert_eq!(aged[0] - aged[1], 50, "records age together");
    assert!(took < Duration::from_millis(1500), "a second later at the latest, not {took:?}");
    assert_eq!(upstream.count(), 1);
}

/// RFC 1035 section 3.2.1: an answer is used as long as its TTL, then asked again.
#[test]
fn answers_expire() {
    let upstream = with_ttl(1);
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start();
    assert_about(time_to_expire(&daemon, &upstream, &Query::a("www.example.org")), 1);
}

/// The record that lives shortest decides for all of the answer.
#[test]
fn smallest_ttl_decides() {
    let upstream = Upstream::start(|asked| {
        asked.answer([
            address(&asked.name(), 300, "192.0.2.1"),
            address(&asked.name(), 1, "192.0.2.2"),
        ])
    });
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start();
    assert_about(time_to_expire(&daemon, &upstream, &Query::a("www.example.org")), 1);
}

/// `cache.min_ttl_seconds` lifts the TTLs that clients see, in the first answer too.
#[test]
fn floor_under_ttls() {
    let upstream = with_ttl(5);
    let daemon = Settings::with(&upstream).section("cache = { min_ttl_seconds = 30 }").start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).ttl(), 30);
    assert!((28..=30).contains(&daemon.udp(&Query::a("www.example.org")).ttl()));
    assert_eq!(upstream.count(), 1);
}

/// `cache.max_ttl_seconds` bounds them from above (RFC 8767 section 4).
#[test]
fn ceiling_over_ttls() {
    let upstream = with_ttl(86_400);
    let daemon = Settings::with(&upstream).section("cache = { max_ttl_seconds = 60 }").start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).ttl(), 60);
    assert!((58..=60).contains(&daemon.udp(&Query::a("www.example.org")).ttl()));
}

/// RFC 2181 section 8: a TTL with the top bit set means 0.
#[test]
fn ttl_with_the_top_bit_is_zero() {
    let upstream = with_ttl(0x8000_0001);
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).ttl(), 0);
    daemon.udp(&Query::a("www.example.org"));
    assert_eq!(upstream.count(), 2);
}

/// RFC 1035 section 3.2.1: TTL 0 is for this one answer.
#[test]
fn ttl_zero_is_not_kept() {
    let upstream = with_ttl(0);
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).ttl(), 0);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).ttl(), 0);
    assert_eq!(upstream.count(), 2);
}

/// RFC 2308 section 5: NXDOMAIN lives as long as the smaller of SOA's TTL and MINIMUM.
#[test]
fn nxdomain_lives_by_soa_minimum() {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 1));
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start();
    let query = Query::a("missing.example.org");
    assert_eq!(daemon.udp(&query).rcode(), 3);
    let took = time_to_expire(&daemon, &upstream, &Query::a("other.example.org"));
    assert_about(took, 1);
}

/// RFC 2308 section 5: and so does NODATA, by SOA's own TTL where that is the smaller one.
#[test]
fn nodata_lives_by_soa_ttl() {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NoError, 1, 300));
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start();
    let reply = daemon.udp(&Query::a("empty.example.org"));
    assert_eq!((reply.rcode(), reply.message.answers.len()), (0, 0));
    let took = time_to_expire(&daemon, &upstream, &Query::a("other.example.org"));
    assert_about(took, 1);
}

/// RFC 2308 sections 3 and 5: the SOA in a kept negative answer shows how long it is kept, and ages.
#[test]
fn negative_answers_are_kept_with_their_soa() {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 60));
    let daemon = Settings::with(&upstream).start();
    for _ in 0..2 {
        let reply = daemon.udp(&Query::a("missing.example.org"));
        assert_eq!(reply.rcode(), 3);
        let ttl = reply.soa().expect("SOA").ttl;
        assert!((58..=60).contains(&ttl), "{ttl}");
    }
    assert_eq!(upstream.count(), 1);
}

/// `cache.negative_max_ttl_seconds` bounds what a zone asks for.
#[test]
fn ceiling_over_negative_answers() {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 3600, 3600));
    let daemon = Settings::with(&upstream)
        .section("cache = { negative_max_ttl_seconds = 1, min_ttl_seconds = 0 }")
        .start();
    assert_about(time_to_expire(&daemon, &upstream, &Query::a("missing.example.org")), 1);
}

/// RFC 2308 section 5: a negative answer without SOA is not kept.
#[test]
fn negative_answers_without_soa_are_not_kept() {
    for rcode in [ResponseCode::NXDomain, ResponseCode::NoError] {
        let upstream = Upstream::start(move |asked| asked.rcode(rcode));
        let daemon = Settings::with(&upstream).start();
        daemon.udp(&Query::a("missing.example.org"));
        daemon.udp(&Query::a("missing.example.org"));
        assert_eq!(upstream.count(), 2, "{rcode}");
    }
}

/// RFC 4035 section 4.5, RFC 3225: answers for DO and CD are others than those without.
#[test]
fn do_and_cd_are_apart() {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start();
    let plain = Query::a("www.example.org");
    let kinds =
        [plain.clone(), plain.clone().dnssec_ok(), plain.clone().cd(), plain.dnssec_ok().cd()];
    for query in kinds.iter().chain(&kinds) {
        assert_eq!(daemon.udp(query).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 4);
}

/// EDNS without DO is no difference.
#[test]
fn edns_alone_is_not_apart() {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start();
    daemon.udp(&Query::a("www.example.org"));
    daemon.udp(&Query::a("www.example.org").edns(4096));
    assert_eq!(upstream.count(), 1);
}

/// RFC 1034 section 3.6: class and type are part of the question.
#[test]
fn class_and_type_are_apart() {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NoError, 300, 300));
    let daemon = Settings::with(&upstream).start();
    let of_type = |qtype| Query::new("www.example.org", qtype);
    let kinds =
        [of_type(RecordType::A), of_type(RecordType::MX), of_type(RecordType::Unknown(65_280))];
    for query in kinds.iter().chain(&kinds) {
        daemon.udp(query);
    }
    assert_eq!(upstream.count(), 3);
    // Chaosnet, which some daemons answer themselves: never from what was kept for IN.
    let chaos = daemon.udp(&of_type(RecordType::A).class(3));
    assert!(chaos.soa().is_none() || upstream.count() == 4, "{chaos:?}");
}

/// RFC 4343 section 3: letter case is no difference.
#[test]
fn letter_case_is_not_apart() {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start();
    for name in ["www.example.org", "WWW.Example.Org", "wWw.eXAMPLE.oRG"] {
        daemon.udp(&Query::a(name));
    }
    assert_eq!(upstream.count(), 1);
}

/// Asks twice; both answers have the rcode, and the upstream was asked twice.
fn assert_not_kept(
    script: impl Fn(&Asked) -> hickory_proto::op::Message + Send + Sync + 'static,
    rcode: u16,
) {
    let upstream = Upstream::start(script);
    let daemon = Settings::with(&upstream).start();
    for _ in 0..2 {
        assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), rcode);
    }
    assert_eq!(upstream.count(), 2);
}

/// A referral is no answer: it is not kept.
#[test]
fn referrals_are_not_kept() {
    assert_not_kept(
        |asked| {
            let mut reply = asked.reply();
            let server = Name::from_ascii("ns.example.net.").expect("a valid name");
            reply.add_authority(record("example.org.", 300, RData::NS(NS(server))));
            reply
        },
        0,
    );
}

/// RFC 9520 section 3: REFUSED speaks of the asker, not of the name.
#[test]
fn refused_is_not_kept() {
    assert_not_kept(|asked| asked.rcode(ResponseCode::Refused), 5);
}

/// NOTIMP likewise.
#[test]
fn notimp_is_not_kept() {
    assert_not_kept(|asked| asked.rcode(ResponseCode::NotImp), 4);
}

/// RFC 9520 section 3.2: a failure is kept, but briefly.
#[test]
fn servfail_is_kept_briefly() {
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::ServFail));
    let daemon = Settings::with(&upstream).section("cache = { servfail_ttl_seconds = 1 }").start();
    let query = Query::a("www.example.org");
    assert_eq!(daemon.udp(&query).rcode(), 2);
    let before = upstream.count();
    let kept = daemon.udp(&query.edns(1232));
    // RFC 8914 section 4.14: a cached error.
    assert_eq!((kept.rcode(), kept.extended_errors()), (2, vec![13]));
    assert_eq!(upstream.count(), before, "kept");
    assert_about(time_to_expire(&daemon, &upstream, &Query::a("other.example.org")), 1);
}

/// `cache.servfail_ttl_seconds = 0` keeps no failure.
#[test]
fn servfail_is_not_kept_if_told_so() {
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::ServFail));
    let daemon = Settings::with(&upstream).section("cache = { servfail_ttl_seconds = 0 }").start();
    daemon.udp(&Query::a("www.example.org"));
    let before = upstream.count();
    daemon.udp(&Query::a("www.example.org"));
    assert!(upstream.count() > before);
}

/// `cache.capacity` bounds the entries; the one not used longest goes first.
#[test]
fn capacity_is_kept() {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).section("cache = { capacity = 2 }").start();
    for name in ["one", "two", "one", "three", "one", "two"] {
        daemon.udp(&Query::a(&format!("{name}.example.org")));
    }
    let names: Vec<_> = upstream.asked().iter().map(Asked::name).collect();
    assert_eq!(
        names,
        ["one.example.org.", "two.example.org.", "three.example.org.", "two.example.org."]
    );
}

/// RFC 1035 section 4.1.1: with RD=0 a kept answer is given, but nothing is fetched; the refusal
/// says why (RFC 8914 section 4.21).
#[test]
fn without_rd_only_what_is_kept() {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).start();
    let reply = daemon.udp(&Query::a("www.example.org").without_rd().edns(1232));
    assert_eq!((reply.rcode(), reply.extended_errors()), (5, vec![20]));
    assert_eq!(daemon.udp(&Query::a("www.example.org").without_rd()).rcode(), 5);
    assert_eq!(upstream.count(), 0);
    daemon.udp(&Query::a("www.example.org"));
    let reply = daemon.udp(&Query::a("www.example.org").without_rd());
    assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.1".to_owned()));
    assert_eq!(upstream.count(), 1);
}

/// Workers share one cache.
#[test]
fn workers_share_the_cache() {
    let upstream = with_ttl(300);
    let daemon = Settings::with(&upstream).workers(2).start();
    daemon.udp(&Query::a("www.example.org"));
    for _ in 0..20 {
        // A port of its own each time: the kernel spreads them over the workers.
        daemon.udp(&Query::a("www.example.org"));
    }
    assert_eq!(upstream.count(), 1);
}
