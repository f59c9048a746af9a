//! What is kept home: special names, ANY, classes other than IN, and who we are.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

use crate::case::World;
use crate::harness::{Daemon, Query, Reply, Settings, Upstream};

cases! {
    localhost_is_the_loopback, all, "RFC 6761 6.3",
        "localhost and what is below it have the loopback addresses, and nothing else";
    special_top_level_names_do_not_exist, all, "RFC 6761 6.2, RFC 6761 6.4, RFC 6762 22.1, RFC 7686 2, RFC 9476 3",
        "test, invalid, local, onion, alt and internal are NXDOMAIN here, with a SOA of their own";
    private_reverse_zones_are_empty, all, "RFC 6303 3, RFC 6303 4.1, RFC 7793 3",
        "private addresses have no names, and nobody outside learns which were asked for";
    loopback_addresses_have_a_name, all, "RFC 6303 4.2, RFC 6303 4.3",
        "the loopback addresses are localhost's";
    home_arpa_is_an_empty_zone, all, "RFC 8375 4",
        "home.arpa exists and is empty";
    resolver_arpa_is_not_forwarded, all, "RFC 9462 6.4",
        "nobody else answers for who this resolver is";
    names_that_only_look_special_are_forwarded, all, "RFC 6761 5",
        "special names match by whole labels from the right";
    a_zone_routes_special_names, all, "config upstreams.zones",
        "a zone of an upstream takes its names out of the special ones";
    names_above_routed_zones_exist, all, "RFC 8020 2",
        "NXDOMAIN would deny what is below: a special name above a routed zone is NODATA";
    special_names_can_be_switched_off, all, "config routing.special_names",
        "switched off, they are names like any other";
    special_names_need_no_recursion, all, "RFC 6761 6.3, RFC 8482 4.2",
        "what is known without asking is answered without RD too";
    hosts_come_before_special_names, all, "config routing.chain",
        "a name of the hosts file is answered from there, special or not";
    any_is_minimal, all, "RFC 8482 4.2",
        "ANY gets one HINFO record that says why, and is not forwarded";
    any_leaves_the_other_types_alone, all, "RFC 8482 4.2",
        "the answer to ANY is none to any other question";
    chaos_names_are_refused, all, "RFC 6895 3.2",
        "version.bind and the like say nothing about us";
    other_classes_are_refused, all, "RFC 6895 3.2",
        "only class IN is resolved; nothing of another class goes upstream";
    nsid_is_not_answered, all, "RFC 5001 2.1",
        "the option that asks who we are is ignored, and not passed on";
}

fn forwarding(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream).start(world)
}

/// Of a negative answer: the owner of its SOA record.
fn zone_of(reply: &Reply) -> String {
    assert!(reply.addresses().is_empty() && reply.message.answers.is_empty(), "{reply:?}");
    reply.soa().map(|soa| soa.name.to_ascii().to_ascii_lowercase()).unwrap_or_default()
}

fn pointer_of(reply: &Reply) -> Option<String> {
    reply.message.answers.iter().find_map(|record| {
        let RData::PTR(name) = &record.data else { return None };
        Some(name.0.to_ascii())
    })
}

fn localhost_is_the_loopback(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    for name in ["localhost", "LocalHost", "www.localhost"] {
        let reply = daemon.ask(&Query::a(name));
        assert_eq!((reply.rcode(), reply.address()), (0, "127.0.0.1".to_owned()), "{name}");
        assert!(reply.recursion_available());
        assert_eq!(daemon.ask(&Query::new(name, RecordType::AAAA)).address(), "::1", "{name}");
        let other = daemon.ask(&Query::new(name, RecordType::MX));
        assert_eq!((other.rcode(), zone_of(&other).as_str()), (0, "localhost."), "{name}");
    }
    assert_eq!(upstream.count(), 0);
}

fn special_top_level_names_do_not_exist(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    for top in ["test", "invalid", "local", "onion", "alt", "internal"] {
        for name in [top.to_owned(), format!("www.{top}"), format!("a.b.{}", top.to_uppercase())] {
            let reply = daemon.ask(&Query::a(&name));
            assert_eq!((reply.rcode(), zone_of(&reply)), (3, format!("{top}.")), "{name}");
        }
    }
    assert_eq!(upstream.count(), 0);
}

fn private_reverse_zones_are_empty(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    for (name, zone) in [
        ("4.3.2.10.in-addr.arpa", "10.in-addr.arpa."),
        ("1.0.16.172.in-addr.arpa", "16.172.in-addr.arpa."),
        ("1.0.31.172.in-addr.arpa", "31.172.in-addr.arpa."),
        ("1.1.168.192.in-addr.arpa", "168.192.in-addr.arpa."),
        ("1.0.64.100.in-addr.arpa", "64.100.in-addr.arpa."),
        ("9.2.0.192.in-addr.arpa", "2.0.192.in-addr.arpa."),
        ("1.0.0.0.d.f.ip6.arpa", "d.f.ip6.arpa."),
        ("1.0.8.e.f.ip6.arpa", "8.e.f.ip6.arpa."),
    ] {
        let reply = daemon.ask(&Query::new(name, RecordType::PTR));
        assert_eq!((reply.rcode(), zone_of(&reply).as_str()), (3, zone), "{name}");
        let apex = daemon.ask(&Query::new(zone, RecordType::PTR));
        assert_eq!((apex.rcode(), zone_of(&apex).as_str()), (0, zone), "{zone}");
        let authority = daemon.ask(&Query::new(zone, RecordType::SOA));
        assert_eq!((authority.rcode(), authority.message.answers.len()), (0, 1), "{zone}");
    }
    assert_eq!(upstream.count(), 0);
    for public in ["1.0.32.172.in-addr.arpa", "1.0.169.192.in-addr.arpa", "1.0.0.2.ip6.arpa"] {
        daemon.ask(&Query::new(public, RecordType::PTR));
    }
    assert_eq!(upstream.count(), 3, "their neighbours are asked for");
}

fn loopback_addresses_have_a_name(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    let six = format!("1.{}ip6.arpa", "0.".repeat(31));
    for name in ["1.0.0.127.in-addr.arpa", &six] {
        let reply = daemon.ask(&Query::new(name, RecordType::PTR));
        assert_eq!(pointer_of(&reply).as_deref(), Some("localhost."), "{name}");
    }
    let other = daemon.ask(&Query::new("9.0.0.127.in-addr.arpa", RecordType::PTR));
    assert_eq!((other.rcode(), zone_of(&other).as_str()), (3, "127.in-addr.arpa."));
    assert_eq!(upstream.count(), 0);
}

fn home_arpa_is_an_empty_zone(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    let below = daemon.ask(&Query::a("printer.home.arpa"));
    assert_eq!((below.rcode(), zone_of(&below).as_str()), (3, "home.arpa."));
    let apex = daemon.ask(&Query::a("home.arpa"));
    assert_eq!((apex.rcode(), zone_of(&apex).as_str()), (0, "home.arpa."));
    assert_eq!(upstream.count(), 0);
    daemon.ask(&Query::new("home.arpa", RecordType::DS));
    assert_eq!(upstream.count(), 1, "the proof that it is unsigned is the parent's");
}

fn resolver_arpa_is_not_forwarded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    for (name, qtype) in [
        ("_dns.resolver.arpa", RecordType::SVCB),
        ("_dns.resolver.arpa", RecordType::A),
        ("resolver.arpa", RecordType::SVCB),
    ] {
        let reply = daemon.ask(&Query::new(name, qtype));
        assert_eq!((reply.rcode(), zone_of(&reply).as_str()), (0, "resolver.arpa."), "{name}");
    }
    assert_eq!(upstream.count(), 0);
}

fn names_that_only_look_special_are_forwarded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    let names =
        ["notlocalhost", "mytest", "localhost.example.org", "test.example", "arpa", "xhome.arpa"];
    for name in names {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
    assert_eq!(upstream.count(), names.len());
}

fn a_zone_routes_special_names(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let zones = r#"zones = { "corp.internal", "168.192.in-addr.arpa", "test" }"#;
    let daemon = Settings::new().upstream(&upstream, zones).start(world);
    for name in ["www.corp.internal", "corp.internal", "a.b.test", "test"] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
    daemon.ask(&Query::new("1.1.168.192.in-addr.arpa", RecordType::PTR));
    assert_eq!(upstream.count(), 5);
    for name in ["other.internal", "localhost.local", "1.0.0.10.in-addr.arpa"] {
        assert_eq!(daemon.ask(&Query::a(name)).rcode(), 3, "{name}");
    }
    assert_eq!(upstream.count(), 5);
}

fn names_above_routed_zones_exist(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let zones = r#"zones = { "a.corp.internal" }"#;
    let daemon = Settings::new().upstream(&upstream, zones).start(world);
    for name in ["internal", "corp.internal"] {
        let reply = daemon.ask(&Query::a(name));
        assert_eq!((reply.rcode(), zone_of(&reply).as_str()), (0, "internal."), "{name}");
    }
    assert_eq!(daemon.ask(&Query::a("b.corp.internal")).rcode(), 3);
    assert_eq!(daemon.ask(&Query::a("a.corp.internal")).address(), "192.0.2.1");
}

fn special_names_can_be_switched_off(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon =
        Settings::with(&upstream).section("routing = { special_names = false }").start(world);
    for name in ["www.test", "localhost", "1.0.0.10.in-addr.arpa"] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
}

fn special_names_need_no_recursion(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    assert_eq!(daemon.ask(&Query::a("localhost").without_rd()).address(), "127.0.0.1");
    assert_eq!(daemon.ask(&Query::a("www.invalid").without_rd()).rcode(), 3);
    let any = Query::new("www.example.org", RecordType::ANY).without_rd();
    assert_eq!(daemon.ask(&any).message.answers.len(), 1);
    assert_eq!(daemon.ask(&Query::a("www.example.org").without_rd()).rcode(), 5);
    assert_eq!(upstream.count(), 0);
}

fn hosts_come_before_special_names(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .file("hosts", "192.0.2.40 printer.local\n192.0.2.41 localhost\n")
        .section(r#"hosts = { file = "hosts" }"#)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("printer.local")).address(), "192.0.2.40");
    assert_eq!(daemon.ask(&Query::a("localhost")).address(), "192.0.2.41");
    assert_eq!(daemon.ask(&Query::a("scanner.local")).rcode(), 3);
}

fn any_is_minimal(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    let reply = daemon.ask(&Query::new("www.example.org", RecordType::ANY));
    assert_eq!((reply.rcode(), reply.message.answers.len()), (0, 1));
    let RData::HINFO(hinfo) = &reply.message.answers[0].data else { panic!("{reply:?}") };
    assert_eq!((&hinfo.cpu[..], &hinfo.os[..]), (&b"RFC8482"[..], &b""[..]));
    assert_eq!(upstream.count(), 0);
}

fn any_leaves_the_other_types_alone(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    let any = Query::new("www.example.org", RecordType::ANY);
    daemon.ask(&any);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    assert_eq!(daemon.ask(&any).message.answers.len(), 1);
    let hinfo = daemon.ask(&Query::new("www.example.org", RecordType::HINFO));
    assert!(hinfo.message.answers.is_empty(), "{hinfo:?}");
    assert_eq!(upstream.count(), 2);
}

fn chaos_names_are_refused(world: &World) {
    const CHAOS: u16 = 3;
    const NOT_SUPPORTED: u16 = 21;
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    for name in ["version.bind", "id.server", "hostname.bind", "version.server", "authors.bind"] {
        let reply = daemon.ask(&Query::new(name, RecordType::TXT).class(CHAOS).edns(1232));
        assert_eq!((reply.rcode(), reply.extended_errors()), (5, vec![NOT_SUPPORTED]), "{name}");
        assert!(reply.message.answers.is_empty());
    }
    assert_eq!(upstream.count(), 0);
}

fn other_classes_are_refused(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = forwarding(world, &upstream);
    // Unassigned, Chaos, Hesiod, unassigned, private, NONE, ANY.
    for class in [0, 2, 3, 4, 17, 65_280, 254, 255] {
        let reply = daemon.ask(&Query::a("www.example.org").class(class));
        assert_eq!(reply.rcode(), 5, "class {class}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn nsid_is_not_answered(world: &World) {
    const NSID: u16 = 3;
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NoError, 300, 300));
    let daemon = forwarding(world, &upstream);
    for name in ["www.example.org", "localhost", "www.example.org"] {
        let reply = daemon.ask(&Query::a(name).edns(1232).option(NSID, &[]));
        assert!(!reply.option_codes().contains(&NSID), "{name}");
    }
    assert!(upstream.asked().iter().all(|asked| !asked.option_codes().contains(&NSID)));
}
