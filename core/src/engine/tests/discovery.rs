//! What clients are told of encrypted listeners, and Firefox of its own resolver.

use std::sync::Arc;

use super::harness::{World, query, snapshot, upstream};
use super::special::{
    Seen, assert_forwarded, kept, negative, positive, routed, switched_off, typed, without_rd,
};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::engine::Transport;
use crate::metrics::Counter;
use crate::policy::Discovery;
use crate::wire::{Name, RecordType};

const ASKED: &str = "_dns.resolver.arpa";
const NOERROR: u16 = 0;
const NXDOMAIN: u16 = 3;

fn one() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Udp)])
}

/// DoT on its port, DoH on another one.
fn announcing(mut snapshot: Snapshot) -> Snapshot {
    let name = Name::parse("dns.example").expect("a name");
    let addr = |text: &str| text.parse().expect("an address");
    let listeners = [(Transport::Dot, addr("[::]:853")), (Transport::Doh, addr("192.0.2.1:444"))];
    snapshot.listen.ddr = Some(Arc::new(Discovery::new(name, &listeners, "/q")));
    snapshot
}

fn designated() -> Seen {
    positive(&[
        "_dns.resolver.arpa. 300 SVCB 1 dns.example. alpn=dot, port=853",
        "_dns.resolver.arpa. 300 SVCB 2 dns.example. alpn=h2, port=444 ipv4hint=192.0.2.1, \
         unknown7=\"/q{?dns}\",",
    ])
}

#[test]
fn encrypted_listeners_are_designated_rfc_9462_section_4() {
    let mut world = World::new(announcing(one()));
    for name in [ASKED, "_DNS.Resolver.ARPA"] {
        let mut seen = kept(&mut world, &typed(name, RecordType::SVCB));
        seen.answers.iter_mut().for_each(|answer| *answer = answer.replace(name, ASKED));
        assert_eq!(seen, designated(), "{name}");
    }
    assert_eq!(kept(&mut world, &typed(ASKED, RecordType::ANY)), designated());
    assert_eq!(kept(&mut world, &without_rd(typed(ASKED, RecordType::SVCB))), designated());
    assert_eq!(world.count(Counter::SpecialAnswers), 4);
    assert_eq!(world.count(Counter::RepliesNoError), 4);
}

#[test]
fn the_rest_of_the_zone_stays_without_records() {
    let mut world = World::new(announcing(one()));
    for (name, record_type) in [
        (ASKED, RecordType::A),
        (ASKED, RecordType::HTTPS),
        ("resolver.arpa", RecordType::SVCB),
        ("a._dns.resolver.arpa", RecordType::SVCB),
        ("_dns2.resolver.arpa", RecordType::SVCB),
    ] {
        let seen = kept(&mut world, &typed(name, record_type));
        assert_eq!(seen, negative(NOERROR, "resolver.arpa."), "{name} {record_type}");
    }
}

/// Neither the switch of special names nor a zone that is routed sends it away: RFC 9462 section 6.1.
#[test]
fn resolver_arpa_is_never_forwarded() {
    for snapshot in [switched_off(), routed("resolver.arpa"), routed("arpa")] {
        let mut world = World::new(snapshot.clone());
        for name in [ASKED, "a.resolver.arpa"] {
            let seen = kept(&mut world, &typed(name, RecordType::SVCB));
            assert_eq!(seen, negative(NOERROR, "resolver.arpa."));
        }
        let mut world = World::new(announcing(snapshot));
        assert_eq!(kept(&mut world, &typed(ASKED, RecordType::SVCB)), designated());
    }
}

#[test]
fn firefox_is_told_to_stay_where_that_is_configured() {
    const CANARY: &str = "use-application-dns.net";
    let mut world = World::new(one());
    assert_forwarded(&mut world, &query(1, CANARY));

    let mut snapshot = switched_off();
    snapshot.routing.firefox_canary = true;
    let mut world = World::new(snapshot);
    for record_type in [RecordType::A, RecordType::AAAA, RecordType::TXT] {
        let seen = kept(&mut world, &typed("Use-Application-DNS.net", record_type));
        let soa = format!("{CANARY}. 300 SOA {CANARY}. nobody.invalid. 1 3600 1200 604800 300");
        let lowered = seen.authority.iter().map(|record| record.to_ascii_lowercase());
        assert_eq!(lowered.collect::<Vec<_>>(), [soa.to_ascii_lowercase()]);
        assert_eq!((seen.rcode, seen.answers.len()), (NXDOMAIN, 0));
    }
    for other in ["www.use-application-dns.net", "net", "use-application-dns.net.example"] {
        assert_forwarded(&mut world, &query(1, other));
    }
    assert_eq!(world.count(Counter::SpecialAnswers), 3);
}
