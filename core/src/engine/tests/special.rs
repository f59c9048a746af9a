//! What is never forwarded: special names, ANY, other classes and types of no forwarder, NSID.

use hickory_proto::op::Message;

use super::harness::{World, blocking, query, reply, snapshot, upstream};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::metrics::Counter;
use crate::upstream::Routes;
use crate::wire::{Name, RecordType};

const NOERROR: u16 = 0;
const NXDOMAIN: u16 = 3;
const REFUSED: u16 = 5;
const CHAOS: u16 = 3;
/// Option code of NSID (RFC 5001 section 2.3).
const NSID: u8 = 3;

fn one() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Udp)])
}

pub(super) fn switched_off() -> Snapshot {
    let mut snapshot = one();
    snapshot.routing.special_names = false;
    snapshot
}

/// One upstream for everything, one for this zone.
pub(super) fn routed(zone: &str) -> Snapshot {
    let mut snapshot = snapshot(vec![
        upstream("one", UpstreamProtocol::Udp),
        upstream("two", UpstreamProtocol::Udp),
    ]);
    snapshot.routes = Routes::new(&[vec![], vec![Name::parse(zone).expect("a name")]]);
    snapshot
}

pub(super) fn typed(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = query(1, name);
    let at = message.len() - 4;
    message[at..at + 2].copy_from_slice(&record_type.0.to_be_bytes());
    message
}

fn in_class(mut message: Vec<u8>, class: u16) -> Vec<u8> {
    let at = message.len() - 2;
    message[at..].copy_from_slice(&class.to_be_bytes());
    message
}

pub(super) fn without_rd(mut message: Vec<u8>) -> Vec<u8> {
    message[2] &= !1;
    message
}

/// The same query with an OPT that has DO set, and this option without payload.
fn with_opt(mut message: Vec<u8>, option: u8) -> Vec<u8> {
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 4, 0, option, 0, 0]);
    message
}

/// What a client sees: rcode, answers, authority, as "name type data" with TTLs where they are told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) rcode: u16,
    pub(super) answers: Vec<String>,
    pub(super) authority: Vec<String>,
}

fn seen(octets: &[u8]) -> Seen {
    let message = Message::from_vec(octets).expect("a message");
    assert!(message.metadata.recursion_available && !message.metadata.authoritative);
    assert!(!message.metadata.truncation && !message.metadata.authentic_data);
    let shown = |records: &[hickory_proto::rr::Record]| {
        let shown = records.iter().map(|record| {
            let data = record.data.to_string();
            format!("{} {} {} {data}", record.name, record.ttl, record.record_type())
        });
        shown.collect()
    };
    Seen {
        rcode: message.metadata.response_code.into(),
        answers: shown(&message.answers),
        authority: shown(&message.authorities),
    }
}

/// Asks and gets the answer at once, with nothing sent upstream.
pub(super) fn kept(world: &mut World, message: &[u8]) -> Seen {
    world.ask(message);
    assert!(world.queries.is_empty(), "sent upstream");
    seen(&world.replies.pop_front().expect("an answer at once"))
}

pub(super) fn negative(rcode: u16, zone: &str) -> Seen {
    let soa = format!("{zone} 10800 SOA {zone} nobody.invalid. 1 3600 1200 604800 10800");
    Seen { rcode, answers: vec![], authority: vec![soa] }
}

pub(super) fn positive(answers: &[&str]) -> Seen {
    let answers = answers.iter().map(|&answer| answer.to_owned()).collect();
    Seen { rcode: NOERROR, answers, authority: vec![] }
}

pub(super) fn assert_forwarded(world: &mut World, message: &[u8]) {
    world.ask(message);
    assert!(world.replies.is_empty(), "answered at once");
    let (socket, sent) = world.queries.pop_front().expect("a query upstream");
    world.upstream_says(socket, &reply(&sent, 60));
    assert!(world.replies.pop_front().is_some());
}

#[test]
fn names_that_do_not_exist_are_denied_by_their_own_zone() {
    let mut world = World::new(one());
    for zone in ["test", "invalid", "onion", "alt", "local", "internal"] {
        let expected = negative(NXDOMAIN, &format!("{zone}."));
        for name in [zone.to_owned(), format!("www.{zone}"), format!("a.b.{zone}")] {
            for record_type in [RecordType::A, RecordType::SOA, RecordType::DS, RecordType::ANY] {
                assert_eq!(kept(&mut world, &typed(&name, record_type)), expected, "{name}");
            }
        }
    }
    assert_eq!(world.count(Counter::SpecialAnswers), 6 * 3 * 4);
    assert_eq!(world.count(Counter::RepliesNxDomain), 6 * 3 * 4);
    assert_eq!(world.count(Counter::AnyAnswers), 0);
}

#[test]
fn letter_case_is_no_difference_and_the_clients_own_comes_back() {
    let mut world = World::new(one());
    let asked = query(1, "Printer.LOCAL");
    world.ask(&asked);
    let answer = world.replies.pop_front().expect("an answer");
    assert_eq!(answer[12..asked.len()], asked[12..]);
    assert_eq!(seen(&answer).rcode, NXDOMAIN);
}

#[test]
fn localhost_has_the_loopback_addresses_rfc_6761_section_6_3() {
    let mut world = World::new(one());
    for name in ["localhost", "a.b.localhost"] {
        let v4 = format!("{name}. 10800 A 127.0.0.1");
        let v6 = format!("{name}. 10800 AAAA ::1");
        for (record_type, answers) in [
            (RecordType::A, &[v4.as_str()][..]),
            (RecordType::AAAA, &[v6.as_str()]),
            (RecordType::ANY, &[v4.as_str(), v6.as_str()]),
        ] {
            assert_eq!(kept(&mut world, &typed(name, record_type)), positive(answers));
        }
        for record_type in [RecordType::MX, RecordType::HTTPS, RecordType::DS] {
            let seen = kept(&mut world, &typed(name, record_type));
            assert_eq!(seen, negative(NOERROR, "localhost."), "{record_type}");
        }
    }
}

#[test]
fn loopback_addresses_are_called_localhost() {
    let mut world = World::new(one());
    let v6 = format!("1.{}ip6.arpa", "0.".repeat(31));
    for name in ["1.0.0.127.in-addr.arpa", &v6] {
        let pointer = format!("{name}. 10800 PTR localhost.");
        assert_eq!(kept(&mut world, &typed(name, RecordType::PTR)), positive(&[&pointer]));
    }
    let other = kept(&mut world, &typed("2.0.0.127.in-addr.arpa", RecordType::PTR));
    assert_eq!(other, negative(NXDOMAIN, "127.in-addr.arpa."));
    let above = kept(&mut world, &typed("0.0.127.in-addr.arpa", RecordType::PTR));
    assert_eq!(above, negative(NOERROR, "127.in-addr.arpa."));
}

#[test]
fn empty_zones_have_an_apex_rfc_6303_section_3() {
    let mut world = World::new(one());
    for zone in ["home.arpa", "10.in-addr.arpa", "31.172.in-addr.arpa", "d.f.ip6.arpa"] {
        let soa = &negative(NOERROR, &format!("{zone}.")).authority[0];
        let ns = format!("{zone}. 10800 NS {zone}.");
        assert_eq!(kept(&mut world, &typed(zone, RecordType::SOA)), positive(&[soa]));
        assert_eq!(kept(&mut world, &typed(zone, RecordType::NS)), positive(&[&ns]));
        assert_eq!(kept(&mut world, &typed(zone, RecordType::ANY)), positive(&[soa, &ns]));
        let no_data = negative(NOERROR, &format!("{zone}."));
        assert_eq!(kept(&mut world, &typed(zone, RecordType::A)), no_data);
        let below = kept(&mut world, &typed(&format!("1.2.{zone}"), RecordType::PTR));
        assert_eq!(below, negative(NXDOMAIN, &format!("{zone}.")));
    }
}

#[test]
fn no_resolver_is_designated_rfc_9462_section_6_4() {
    let mut world = World::new(one());
    for name in ["_dns.resolver.arpa", "resolver.arpa", "a.resolver.arpa"] {
        for record_type in [RecordType::SVCB, RecordType::A] {
            let seen = kept(&mut world, &typed(name, record_type));
            assert_eq!(seen, negative(NOERROR, "resolver.arpa."), "{name}");
        }
    }
}

#[test]
fn the_parent_of_an_empty_zone_is_asked_for_its_ds_rfc_8375_section_4() {
    let mut world = World::new(one());
    assert_forwarded(&mut world, &typed("home.arpa", RecordType::DS));
    let below = kept(&mut world, &typed("a.home.arpa", RecordType::DS));
    assert_eq!(below, negative(NXDOMAIN, "home.arpa."));
    let refused = kept(&mut world, &without_rd(typed("10.in-addr.arpa", RecordType::DS)));
    assert_eq!(refused.rcode, REFUSED);
}

#[test]
fn names_that_only_look_special_are_forwarded() {
    let mut world = World::new(one());
    for name in ["notlocalhost", "localhost.example", "a.test.example", "1.11.in-addr.arpa"] {
        assert_forwarded(&mut world, &query(1, name));
    }
    assert_eq!(world.count(Counter::SpecialAnswers), 0);
}

#[test]
fn a_zone_that_is_routed_is_not_special() {
    let mut world = World::new(routed("corp.internal"));
    assert_forwarded(&mut world, &query(1, "corp.internal"));
    assert_forwarded(&mut world, &query(1, "www.Corp.internal"));
    let other = kept(&mut world, &query(1, "www.xcorp.internal"));
    assert_eq!(other, negative(NXDOMAIN, "internal."));
    // Above it there is a name without records: NXDOMAIN would deny the zone (RFC 8020).
    assert_eq!(kept(&mut world, &query(1, "internal")), negative(NOERROR, "internal."));
    let mut world = World::new(routed("168.192.in-addr.arpa"));
    assert_forwarded(&mut world, &typed("1.2.168.192.in-addr.arpa", RecordType::PTR));
    let other = kept(&mut world, &typed("1.2.16.172.in-addr.arpa", RecordType::PTR));
    assert_eq!(other, negative(NXDOMAIN, "16.172.in-addr.arpa."));
    let mut world = World::new(routed("."));
    assert_eq!(kept(&mut world, &query(1, "a.test")), negative(NXDOMAIN, "test."));
}

#[test]
fn nothing_is_special_when_it_is_switched_off() {
    let mut world = World::new(switched_off());
    for name in ["localhost", "a.test", "home.arpa", "1.0.0.127.in-addr.arpa"] {
        assert_forwarded(&mut world, &query(1, name));
    }
    let any = kept(&mut world, &typed("a.test", RecordType::ANY));
    assert_eq!(any.answers, ["a.test. 3600 HINFO RFC8482 "]);
}

#[test]
fn any_gets_a_minimal_answer_rfc_8482_section_4_2() {
    let mut world = World::new(routed("corp.internal"));
    for name in ["www.example", "www.corp.internal"] {
        let expected = format!("{name}. 3600 HINFO RFC8482 ");
        let seen = kept(&mut world, &typed(name, RecordType::ANY));
        assert_eq!(seen, positive(&[&expected]));
    }
    assert_eq!(world.count(Counter::AnyAnswers), 2);
    world.ask(&typed("www.example", RecordType::ANY));
    let record = b"\xc0\x0c\0\x0d\0\x01\0\0\x0e\x10\0\x09\x07RFC8482\0";
    assert!(world.replies[0].ends_with(record), "an empty text is one octet");
}

#[test]
fn what_is_known_here_is_told_without_recursion_desired() {
    let mut world = World::new(one());
    let special = kept(&mut world, &without_rd(query(1, "a.test")));
    assert_eq!(special, negative(NXDOMAIN, "test."));
    let any = kept(&mut world, &without_rd(typed("www.example", RecordType::ANY)));
    assert_eq!(any, positive(&["www.example. 3600 HINFO RFC8482 "]));
    assert_eq!(kept(&mut world, &without_rd(query(1, "www.example"))).rcode, REFUSED);
}

#[test]
fn dnssec_flags_and_transport_make_no_difference() {
    let mut world = World::new(one());
    for (plain, expected) in [
        (query(1, "a.test"), negative(NXDOMAIN, "test.")),
        (query(1, "localhost"), positive(&["localhost. 10800 A 127.0.0.1"])),
        (typed("www.example", RecordType::ANY), positive(&["www.example. 3600 HINFO RFC8482 "])),
    ] {
        let mut flagged = with_opt(plain, NSID);
        flagged[3] |= 0x30; // AD and CD
        assert_eq!(kept(&mut world, &flagged), expected);
        let conn = world.connect_client();
        let length = u16::try_from(flagged.len()).expect("short").to_be_bytes();
        world.stream_says(conn, &[&length, &flagged[..]].concat());
        assert!(world.queries.is_empty());
        assert_eq!(seen(&world.messages(conn)[0]), expected);
    }
}

#[test]
fn earlier_stages_come_first() {
    let mut snapshot = one();
    let (hosts, _) = crate::policy::Hosts::parse("192.0.2.9 nas.local localhost", 60);
    snapshot.hosts = Some(std::sync::Arc::new(hosts));
    let mut blocklist = crate::policy::Blocklist::builder();
    blocklist.insert("*.test").expect("a pattern");
    snapshot.blocking = blocking(blocklist.build());
    let mut world = World::new(snapshot);
    for name in ["nas.local", "localhost"] {
        let expected = format!("{name}. 60 A 192.0.2.9");
        assert_eq!(kept(&mut world, &query(1, name)), positive(&[&expected]));
        assert_eq!(kept(&mut world, &typed(name, RecordType::ANY)), positive(&[&expected]));
    }
    assert_eq!(kept(&mut world, &query(1, "a.test")).rcode, REFUSED);
    assert_eq!(world.count(Counter::SpecialAnswers), 0);
}

/// The code of the one option in a reply that ends with its OPT: an extended error.
fn extended_error(reply: &[u8]) -> u16 {
    let (rest, option) = reply.split_at(reply.len() - 6);
    assert_eq!((&rest[rest.len() - 2..], &option[..4]), (&[0, 6][..], &[0, 15, 0, 2][..]));
    u16::from_be_bytes([option[4], option[5]])
}

#[test]
fn other_classes_and_meta_types_are_refused() {
    let mut world = World::new(one());
    let txt = |name| typed(name, RecordType::TXT);
    let mut asked: Vec<Vec<u8>> =
        ["version.bind", "hostname.bind", "version.server", "id.server", "a.test", "www.example"]
            .map(|name| in_class(txt(name), CHAOS))
            .into();
    asked.push(in_class(typed("version.bind", RecordType::ANY), CHAOS));
    asked.extend([0, 2, 4, 5, 254, 255, 0xffff].map(|class| in_class(txt("a.example"), class)));
    for number in [0, 41, 249, 250, 251, 252, 253, 254] {
        asked.push(typed("www.example", RecordType(number)));
    }
    for message in &asked {
        world.ask(&with_opt(message.clone(), NSID));
        let reply = world.replies.pop_front().expect("an answer at once");
        assert_eq!(seen(&reply), Seen { rcode: REFUSED, answers: vec![], authority: vec![] });
        assert_eq!(extended_error(&reply), 21, "not supported (RFC 8914 section 4.22)");
    }
    assert!(world.queries.is_empty());
}

#[test]
fn nsid_is_neither_answered_nor_forwarded_rfc_5001() {
    let mut world = World::new(one());
    let asked = with_opt(query(1, "www.example"), NSID);
    world.ask(&asked);
    let (socket, sent) = world.queries.pop_front().expect("a query upstream");
    let our_opt = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
    assert!(sent.ends_with(&our_opt), "no option");
    // One that was not asked for comes back, as it does.
    let mut answer = reply(&sent, 60);
    answer[11] = 1;
    answer
        .extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 7, 0, NSID, 0, 3, b'o', b'n', b'e']);
    world.upstream_says(socket, &answer);
    let answer = world.replies.pop_front().expect("an answer");
    assert!(answer.ends_with(&our_opt), "no option");
    world.ask(&asked);
    assert!(world.replies[0].ends_with(&our_opt), "nor from the cache");
}
