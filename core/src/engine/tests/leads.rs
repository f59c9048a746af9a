//! Answers are checked for what they lead to: when they come, in the cache, and after a change of lists.

use std::sync::Arc;

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::svcb::SVCB;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS};

use super::harness::{World, query, query_of, snapshot, upstream};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::metrics::Counter;
use crate::policy::{
    BlockMode, BlockSet, BlockSetId, Blocking, Blocklist, Group, Groups, NameList, Rebinding,
};
use crate::wire::RecordType;

fn list(name: &str, patterns: &[&str]) -> Arc<NameList> {
    let mut names = Blocklist::builder();
    patterns.iter().for_each(|pattern| names.insert(pattern).expect("a pattern"));
    Arc::new(NameList::new(name, names.build()))
}

fn set(patterns: &[&str], mode: BlockMode) -> BlockSet {
    BlockSet { lists: vec![list("ads", patterns)], mode, ttl: 60, ..BlockSet::default() }
}

fn configuration(sets: Vec<BlockSet>) -> Snapshot {
    let mut snapshot = snapshot(vec![upstream("one", UpstreamProtocol::Udp)]);
    snapshot.blocking = Arc::new(Blocking::new(sets, 1));
    snapshot
}

fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(target.parse().expect("a name")))
}

fn a(ip: [u8; 4]) -> RData {
    RData::A(A(ip.into()))
}

fn chain() -> Vec<(&'static str, u32, RData)> {
    vec![
        ("www.example", 300, cname("tracker.ads.test.")),
        ("tracker.ads.test", 300, cname("edge.test.")),
        ("edge.test", 300, a([192, 0, 2, 7])),
    ]
}

#[test]
fn an_alias_to_a_listed_name_is_blocked_at_once_and_from_the_cache() {
    let mut world = World::new(configuration(vec![set(&["*.ads.test"], BlockMode::NxDomain)]));
    world.ask(&query(1, "www.example"));
    world.answer_next(&chain());
    let blocked = "NXDOMAIN | authority www.example. SOA";
    assert_eq!(world.reply(), blocked);
    assert_eq!(world.reply_to(&query(2, "www.example")), blocked);
    assert_eq!(world.count(Counter::CacheHits), 1);
    assert_eq!(world.count(Counter::BlockedLeads), 2);
    // An answer that leads elsewhere is left alone.
    world.ask(&query(3, "other.example"));
    world.answer_next(&[
        ("other.example", 300, cname("edge.test.")),
        ("edge.test", 300, a([192, 0, 2, 7])),
    ]);
    assert!(world.reply().starts_with("NOERROR | other.example. 300 CNAME edge.test."));
}

#[test]
fn the_target_of_a_service_counts() {
    let mut world = World::new(configuration(vec![set(&["ads.test"], BlockMode::NoData)]));
    for (name, target, blocked) in [
        ("one.example", "ads.test.", true),
        ("two.example", "edge.test.", false),
        ("three.example", ".", false),
    ] {
        let service = SVCB::new(1, target.parse().expect("a name"), Vec::new());
        world.ask(&query_of(1, name, RecordType::HTTPS));
        world.answer_next(&[(name, 300, RData::HTTPS(HTTPS(service)))]);
        let reply = world.reply();
        assert_eq!(reply == format!("NOERROR | authority {name}. SOA"), blocked, "{reply}");
    }
}

/// The entry is looked at once more after a change, and not again.
#[test]
fn a_change_of_lists_reaches_what_is_cached() {
    let before = configuration(vec![set(&["nothing.test"], BlockMode::Refused)]);
    let mut world = World::new(before.clone());
    world.ask(&query(1, "www.example"));
    world.answer_next(&chain());
    assert!(world.reply().starts_with("NOERROR"));
    let after = configuration(vec![set(&["edge.test"], BlockMode::Refused)]);
    world.engine.handle_reload(world.now, Arc::new(after));
    for _ in 0..2 {
        assert_eq!(world.reply_to(&query(2, "www.example")), "REFUSED");
    }
    assert_eq!(world.shared.cache.recount(), (1, world.shared.cache.bytes()));
    world.engine.handle_reload(world.now, Arc::new(before));
    assert!(world.reply_to(&query(3, "www.example")).starts_with("NOERROR"));
    assert!(world.queries.is_empty(), "the answer was kept all the time");
}

/// Each set has its own mark; one that allows the name wins.
#[test]
fn groups_are_told_apart_by_their_sets() {
    let mut allowing = set(&["*.ads.test"], BlockMode::Refused);
    allowing.allow = vec![list("fine", &["tracker.ads.test"])];
    let mut snapshot = configuration(vec![allowing, set(&["*.ads.test"], BlockMode::Zero)]);
    let mut world = World::new(snapshot.clone());
    world.ask(&query(1, "www.example"));
    world.answer_next(&chain());
    assert!(world.reply().starts_with("NOERROR | www.example. 300 CNAME"));
    // The same cached answer for a client of the other set.
    snapshot.groups = Arc::new(Groups::new(Group { block_set: BlockSetId(1), ..Group::default() }));
    world.engine.handle_reload(world.now, Arc::new(snapshot));
    assert_eq!(world.reply_to(&query(2, "www.example")), "NOERROR | www.example. 60 A 0.0.0.0");
    assert!(world.queries.is_empty());
}

#[test]
fn private_addresses_in_public_answers_are_held_back() {
    let mut snapshot = configuration(Vec::new());
    let mut allow = Blocklist::builder();
    allow.insert("*.home.example").expect("a pattern");
    snapshot.rebinding = Some(Arc::new(Rebinding::new(allow.build(), [])));
    let mut world = World::new(snapshot);
    let private = [
        a([10, 0, 0, 1]),
        a([127, 0, 0, 1]),
        a([192, 168, 1, 1]),
        RData::AAAA(AAAA("fd00::1".parse().expect("an address"))),
    ];
    for (at, data) in private.into_iter().enumerate() {
        let name = format!("evil{at}.example");
        for _ in 0..2 {
            world.ask(&query(1, &name));
            if !world.queries.is_empty() {
                world.answer_next(&[(&name, 300, a([192, 0, 2, 7])), (&name, 300, data.clone())]);
            }
            assert_eq!(world.reply(), format!("NOERROR | authority {name}. SOA"));
        }
        let allowed = format!("nas{at}.home.example");
        world.ask(&query(2, &allowed));
        world.answer_next(&[(&allowed, 300, data)]);
        assert!(world.reply().starts_with(&format!("NOERROR | {allowed}. 300 A")));
    }
    assert_eq!(world.count(Counter::Rebinding), 8);
}
