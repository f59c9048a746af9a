//! The rebinding guard: private addresses in answers of the public DNS.

use hickory_proto::rr::rdata::HTTPS;
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::case::World;
use crate::harness::{Asked, Daemon, Query, Settings, Upstream, address, record};

cases! {
    off_unless_wanted, all, "config rebinding.enabled",
        "without the guard private addresses are answers like others";
    private_addresses_are_held_back, all, "config rebinding.enabled, RFC 8914 4.16",
        "with it a public name has none: NODATA with a SOA, fresh and from the cache, and it is said why";
    one_is_enough, all, "config rebinding.enabled",
        "one private address among public ones is enough";
    every_disguise, all, "RFC 4291 2.5.5, RFC 6052 2.1, config rebinding.enabled",
        "loopback, link-local, unspecified and unique local ones count, and IPv4 ones within IPv6";
    hints_count, all, "RFC 9460 7.3, config rebinding.enabled",
        "address hints of HTTPS records count";
    public_addresses_pass, all, "config rebinding.enabled",
        "public addresses pass";
    allowed_names_may, all, "config rebinding.allow",
        "names that are allowed, plain or by wildcard, may have private addresses";
    routed_zones_may, all, "config rebinding.enabled, config upstreams.zones",
        "names of zones that are routed to an upstream of their own may";
    own_data_may, all, "config rebinding.enabled, config hosts.file",
        "the hosts file and local records may";
    held_back_answers_are_counted, own, "http /metrics",
        "answers that are held back are counted";
}

/// Names say what they lead to: `a-10-0-0-1` and the like, else a public address.
fn addresses() -> Upstream {
    Upstream::start(|asked| {
        let name = asked.name();
        let label = name.split('.').next().unwrap_or_default().to_owned();
        match label.split_once('-') {
            Some(("a", ip)) => asked.address(300, &ip.replace('-', ".")),
            Some(("six", ip)) => asked.address(300, &ip.replace('-', ":")),
            Some(("both", _)) => {
                asked.answer([address(&name, 300, "8.8.8.8"), address(&name, 300, "192.168.1.1")])
            }
            Some(("hint", _)) => asked.answer([hinting(asked)]),
            Some(_) | None => asked.address(300, "8.8.8.8"),
        }
    })
}

fn hinting(asked: &Asked) -> hickory_proto::rr::Record {
    let hint = IpHint(vec!["192.168.1.1".parse().expect("an address")]);
    let parameters = vec![(SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint))];
    let data = RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), parameters)));
    record(&asked.name(), 300, data)
}

fn guarded(upstream: &Upstream, keys: &str) -> Settings {
    Settings::with(upstream).section(&format!("rebinding = {{ enabled = true, {keys} }}"))
}

fn assert_held_back(daemon: &Daemon, query: &Query) {
    let reply = daemon.ask(query);
    reply.check_negative(0, 60);
    let (code, text) = reply.extended_error();
    assert_eq!(code, 15);
    assert!(text.contains("private address"), "{text}");
}

fn off_unless_wanted(world: &World) {
    let upstream = addresses();
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&Query::a("a-192-168-1-1.example.org")).address(), "192.168.1.1");
}

fn private_addresses_are_held_back(world: &World) {
    let upstream = addresses();
    let daemon = guarded(&upstream, "").start(world);
    for _ in 0..2 {
        assert_held_back(&daemon, &Query::a("A-192-168-1-1.example.org").edns(1232));
    }
    assert_eq!(upstream.count(), 1, "the second time it comes from the cache");
}

fn one_is_enough(world: &World) {
    let upstream = addresses();
    let daemon = guarded(&upstream, "").start(world);
    assert_held_back(&daemon, &Query::a("both-kinds.example.org").edns(1232));
}

fn every_disguise(world: &World) {
    let upstream = addresses();
    let daemon = guarded(&upstream, "").start(world);
    for ip in ["0-0-0-0", "10-1-2-3", "100-64-0-1", "127-0-0-1", "169-254-1-1", "172-31-255-255"] {
        assert_held_back(&daemon, &Query::a(&format!("a-{ip}.example.org")).edns(1232));
    }
    for ip in ["--", "--1", "fe80--1", "fd00--1", "--ffff-a00-1", "64-ff9b--c0a8-101"] {
        let name = format!("six-{ip}.example.org");
        assert_held_back(&daemon, &Query::new(&name, RecordType::AAAA).edns(1232));
    }
}

fn hints_count(world: &World) {
    let upstream = addresses();
    let daemon = guarded(&upstream, "").start(world);
    for _ in 0..2 {
        let query = Query::new("hint-it.example.org", RecordType::HTTPS).edns(1232);
        assert_held_back(&daemon, &query);
    }
}

fn public_addresses_pass(world: &World) {
    let upstream = addresses();
    let daemon = guarded(&upstream, "").start(world);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "8.8.8.8");
        assert_eq!(daemon.ask(&Query::a("a-172-32-0-1.example.org")).address(), "172.32.0.1");
        let six = Query::new("six-2001-db8--1.example.org", RecordType::AAAA);
        assert_eq!(daemon.ask(&six).address(), "2001:db8::1");
    }
}

fn allowed_names_may(world: &World) {
    let upstream = addresses();
    let allow = r#"allow = { "a-10-0-0-1.example.org", "*.lan.example.org" }"#;
    let daemon = guarded(&upstream, allow).start(world);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a("a-10-0-0-1.example.org")).address(), "10.0.0.1");
        assert_eq!(daemon.ask(&Query::a("a-10-0-0-2.lan.example.org")).address(), "10.0.0.2");
    }
    assert_held_back(&daemon, &Query::a("a-10-0-0-2.example.org").edns(1232));
}

fn routed_zones_may(world: &World) {
    let upstream = addresses();
    let daemon = guarded(&upstream, "")
        .upstream(&upstream, r#"zones = { "corp.example.org" }"#)
        .start(world);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a("a-10-0-0-1.corp.example.org")).address(), "10.0.0.1");
    }
    assert_held_back(&daemon, &Query::a("a-10-0-0-1.example.org").edns(1232));
}

fn own_data_may(world: &World) {
    let upstream = addresses();
    let daemon = guarded(&upstream, "")
        .file("hosts", "10.0.0.7 box.example.org\n")
        .section(r#"hosts = { file = "hosts" }"#)
        .section(r#"local_records = { "nas.example.org A 192.168.1.7" }"#)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("box.example.org")).address(), "10.0.0.7");
    assert_eq!(daemon.ask(&Query::a("nas.example.org")).address(), "192.168.1.7");
    assert_eq!(upstream.count(), 0);
}

fn held_back_answers_are_counted(world: &World) {
    let upstream = addresses();
    let daemon = guarded(&upstream, "").start(world);
    for name in ["a-10-0-0-1.example.org", "a-10-0-0-1.example.org", "www.example.org"] {
        daemon.udp(&Query::a(name));
    }
    assert!((daemon.metric("balancedns_rebinding_total") - 2.0).abs() < 0.1);
}
