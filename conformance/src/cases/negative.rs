//! What does not exist, and how long that is remembered (RFC 2308).

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, NS};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::expiry::{assert_about, assert_not_kept, time_to_expire};
use crate::case::World;
use crate::harness::{Asked, Query, Settings, Upstream, record, soa};

cases! {
    nxdomain_lives_by_soa_minimum, all, "RFC 2308 5",
        "NXDOMAIN lives as long as SOA's MINIMUM, where that is smaller than SOA's TTL";
    nodata_lives_by_soa_ttl, all, "RFC 2308 5",
        "NODATA lives as long as SOA's own TTL, where that is smaller than MINIMUM";
    negative_answers_are_kept_with_their_soa, all, "RFC 2308 3, RFC 2308 6",
        "the SOA in a kept negative answer shows how long it is kept, and ages";
    ceiling_over_negative_answers, all, "RFC 2308 5, config cache.negative_max_ttl_seconds",
        "the ceiling bounds how long a zone has its absences kept";
    negative_answers_without_soa_are_not_kept, all, "RFC 2308 5",
        "a negative answer without SOA is not kept";
    referrals_are_not_kept, all, "RFC 2308 2.2",
        "a referral is no answer, and not kept";
    aliases_to_missing_names, all, "RFC 2308 2.1",
        "NXDOMAIN at the end of a CNAME chain comes with the chain, fresh and from the cache";
    aliases_to_no_data, all, "RFC 2308 2.2",
        "NODATA at the end of a CNAME chain comes with the chain, fresh and from the cache";
    no_data_of_one_type_hides_no_other, all, "RFC 2308 5",
        "that a name has no AAAA says nothing of its A";
    name_servers_beside_soa_make_no_referral, all, "RFC 2308 2.2.1",
        "NODATA with NS records beside its SOA is NODATA, and kept";
    minimum_zero_is_not_kept, all, "RFC 2308 5",
        "a zone with MINIMUM 0 has its absences forgotten at once";
    negative_ttl_with_the_top_bit_is_zero, all, "RFC 2181 8, RFC 2308 5",
        "a MINIMUM with the top bit set means 0";
    soa_of_an_answer_is_a_record, all, "RFC 2308 5",
        "an SOA that was asked for lives by its own TTL, not by its MINIMUM";
    floor_under_negative_answers, all, "config cache.min_ttl_seconds",
        "the floor lifts what is shown of an absence, too";
    negative_answers_are_kept_in_any_letter_case, all, "RFC 4343 3",
        "a name that is missing is missing in every spelling";
}

/// No floor under TTLs, so that a case sees what the upstream said.
const NO_FLOOR: &str = "cache = { min_ttl_seconds = 0 }";

fn nxdomain_lives_by_soa_minimum(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 1));
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start(world);
    let query = Query::a("missing.example.org");
    assert_eq!(daemon.ask(&query).rcode(), 3);
    let took = time_to_expire(&daemon, &upstream, &Query::a("other.example.org"));
    assert_about(took, 1);
}

fn nodata_lives_by_soa_ttl(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NoError, 1, 300));
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start(world);
    let reply = daemon.ask(&Query::a("empty.example.org"));
    assert_eq!((reply.rcode(), reply.message.answers.len()), (0, 0));
    let took = time_to_expire(&daemon, &upstream, &Query::a("other.example.org"));
    assert_about(took, 1);
}

fn negative_answers_are_kept_with_their_soa(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 60));
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("missing.example.org"));
        assert_eq!(reply.rcode(), 3);
        let ttl = reply.soa().expect("SOA").ttl;
        assert!((58..=60).contains(&ttl), "{ttl}");
    }
    assert_eq!(upstream.count(), 1);
}

fn ceiling_over_negative_answers(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 3600, 3600));
    let daemon = Settings::with(&upstream)
        .section("cache = { negative_max_ttl_seconds = 1, min_ttl_seconds = 0 }")
        .start(world);
    assert_about(time_to_expire(&daemon, &upstream, &Query::a("missing.example.org")), 1);
}

fn negative_answers_without_soa_are_not_kept(world: &World) {
    for rcode in [ResponseCode::NXDomain, ResponseCode::NoError] {
        let upstream = Upstream::start(move |asked| asked.rcode(rcode));
        let daemon = Settings::with(&upstream).start(world);
        daemon.ask(&Query::a("missing.example.org"));
        daemon.ask(&Query::a("missing.example.org"));
        assert_eq!(upstream.count(), 2, "{rcode}");
    }
}

fn referrals_are_not_kept(world: &World) {
    assert_not_kept(
        world,
        |asked| {
            let mut reply = asked.reply();
            let server = Name::from_ascii("ns.example.net.").expect("a valid name");
            reply.add_authority(record("example.org.", 300, RData::NS(NS(server))));
            reply
        },
        0,
    );
}

/// An alias of the name that was asked, then this rcode with SOA.
fn alias(rcode: ResponseCode) -> impl Fn(&Asked) -> Message + Send + Sync {
    move |asked| {
        let mut reply = asked.negative(rcode, 300, 300);
        let target = Name::from_ascii("gone.example.org.").expect("a valid name");
        reply.add_answer(record(&asked.name(), 300, RData::CNAME(CNAME(target))));
        reply
    }
}

fn assert_alias(world: &World, rcode: ResponseCode) {
    let upstream = Upstream::start(alias(rcode));
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org"));
        assert_eq!(reply.rcode(), u16::from(rcode));
        let types: Vec<_> = reply.message.answers.iter().map(Record::record_type).collect();
        assert_eq!(types, [RecordType::CNAME]);
        assert!(reply.soa().is_some());
    }
    assert_eq!(upstream.count(), 1);
}

fn aliases_to_missing_names(world: &World) {
    assert_alias(world, ResponseCode::NXDomain);
}

fn aliases_to_no_data(world: &World) {
    assert_alias(world, ResponseCode::NoError);
}

fn no_data_of_one_type_hides_no_other(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let six = daemon.ask(&Query::new("www.example.org", RecordType::AAAA));
        assert_eq!((six.rcode(), six.message.answers.len()), (0, 0));
        assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 2);
}

fn name_servers_beside_soa_make_no_referral(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.negative(ResponseCode::NoError, 300, 300);
        let server = Name::from_ascii("ns.example.org.").expect("a valid name");
        reply.add_authority(record("example.org.", 300, RData::NS(NS(server))));
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org"));
        assert_eq!((reply.rcode(), reply.message.authorities.len()), (0, 2));
    }
    assert_eq!(upstream.count(), 1);
}

/// An absence with this MINIMUM is shown with 0 and asked again.
fn assert_forgotten(world: &World, minimum: u32) {
    for rcode in [ResponseCode::NXDomain, ResponseCode::NoError] {
        let upstream = Upstream::start(move |asked| asked.negative(rcode, 300, minimum));
        let daemon = Settings::with(&upstream).section(NO_FLOOR).start(world);
        for _ in 0..2 {
            let reply = daemon.ask(&Query::a("missing.example.org"));
            assert_eq!(reply.soa().expect("SOA").ttl, 0, "{rcode}");
        }
        assert_eq!(upstream.count(), 2, "{rcode}");
    }
}

fn minimum_zero_is_not_kept(world: &World) {
    assert_forgotten(world, 0);
}

fn negative_ttl_with_the_top_bit_is_zero(world: &World) {
    assert_forgotten(world, 0x8000_0001);
}

fn soa_of_an_answer_is_a_record(world: &World) {
    let upstream = Upstream::start(|asked| asked.answer([soa(&asked.name(), 300, 1)]));
    let daemon = Settings::with(&upstream).section(NO_FLOOR).start(world);
    for _ in 0..2 {
        let ttl = daemon.ask(&Query::new("example.org", RecordType::SOA)).ttl();
        assert!((298..=300).contains(&ttl), "{ttl}");
    }
    assert_eq!(upstream.count(), 1);
}

fn floor_under_negative_answers(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 1));
    let daemon = Settings::with(&upstream).section("cache = { min_ttl_seconds = 30 }").start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("missing.example.org"));
        let ttl = reply.soa().expect("SOA").ttl;
        assert!((28..=30).contains(&ttl), "{ttl}");
    }
    assert_eq!(upstream.count(), 1);
}

fn negative_answers_are_kept_in_any_letter_case(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 300));
    let daemon = Settings::with(&upstream).start(world);
    for name in ["missing.example.org", "MISSING.Example.Org", "mIsSiNg.eXaMpLe.oRg"] {
        assert_eq!(daemon.ask(&Query::a(name)).rcode(), 3);
    }
    assert_eq!(upstream.count(), 1);
}
