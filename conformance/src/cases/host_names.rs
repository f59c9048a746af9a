//! Upstreams that are known by a host name, and name servers that the system has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{
    Answer, Asked, Daemon, Gate, Query, Settings, Upstream, address, free_port, until,
};

cases! {
    a_host_name_is_looked_up, all, "config routing.bootstrap",
        "an upstream's host name is looked up at the bootstrap servers before anybody asks";
    ipv6_is_tried_first, all, "config upstreams.addr",
        "of a host with both kinds of address the IPv6 one is asked, the other when that fails";
    all_addresses_are_tried, all, "config upstreams.addr",
        "an address that refuses is left for the next one of the same host";
    queries_wait_for_the_first_address, all, "config upstreams.addr",
        "who asks before the host name is looked up is answered as soon as it is";
    an_unknown_host_fails_soon, all, "config upstreams.addr, RFC 8914 4.24",
        "a host name that does not exist is SERVFAIL at once, not after a timeout";
    an_unknown_host_leaves_the_next_upstream, all, "config upstreams.addr",
        "the next upstream answers while a host name cannot be looked up";
    a_host_moves_with_its_address, own, "config upstreams.addr, RFC 1035 3.2.1",
        "a host name is looked up again when its TTL is over, and queries follow";
    the_system_s_name_servers_are_followed, own, "config system_resolvers",
        "when the system gets other name servers, queries go there";
}

/// A bootstrap server: what it has for the host, by type.
fn bootstrap(v6: &'static [&'static str], v4: &'static [&'static str], ttl: u32) -> Upstream {
    Upstream::start(move |asked| hosts_address(asked, v6, v4, ttl))
}

fn hosts_address(asked: &Asked, v6: &[&str], v4: &[&str], ttl: u32) -> Answer {
    if asked.name() != "up.example.org." {
        return asked.rcode(ResponseCode::Refused).into();
    }
    let ips = if asked.qtype() == RecordType::AAAA { v6 } else { v4 };
    if ips.is_empty() {
        return asked.negative(ResponseCode::NoError, 60, 60).into();
    }
    asked.answer(ips.iter().map(|ip| address(&asked.name(), ttl, ip))).into()
}

fn named(world: &World, bootstrap: &Upstream, port: u16) -> Daemon {
    settings(bootstrap, port).start(world)
}

fn settings(bootstrap: &Upstream, port: u16) -> Settings {
    Settings::new()
        .upstream_called(&format!("up.example.org:{port}"), "")
        .section(&format!("routing = {{ bootstrap = {{ \"{}\" }} }}", bootstrap.addr()))
        .section("cache = { enabled = false }")
}

fn a_host_name_is_looked_up(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let server = bootstrap(&[], &["127.0.0.1"], 300);
    let daemon = named(world, &server, upstream.addr().port());
    server.wait_for(2);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    assert_eq!(daemon.ask(&Query::a("www.example.com")).address(), "192.0.2.1");
    let types: Vec<_> = server.asked().iter().map(Asked::qtype).collect();
    assert_eq!(types.len(), 2, "once for each kind of address: {types:?}");
    daemon.wait_to_say("up.example.org");
}

fn ipv6_is_tried_first(world: &World) {
    let port = free_port();
    let six =
        Upstream::at((Ipv6Addr::LOCALHOST, port).into(), |asked| asked.address(60, "192.0.2.6"));
    let four = Upstream::at_port(port, |asked| asked.address(60, "192.0.2.4"));
    let server = bootstrap(&["::1"], &["127.0.0.1"], 300);
    let daemon = named(world, &server, port);
    until("the IPv6 address is known", || {
        (daemon.ask(&Query::a("www.example.org")).address() == "192.0.2.6").then_some(())
    });
    let before = four.count();
    drop(six);
    assert_eq!(daemon.ask(&Query::a("www.example.com")).address(), "192.0.2.4");
    assert_eq!(four.count(), before + 1);
}

fn all_addresses_are_tried(world: &World) {
    let third: IpAddr = Ipv4Addr::new(127, 0, 0, 3).into();
    let upstream = Upstream::on(third, true, |asked| asked.address(60, "192.0.2.1"));
    let server = bootstrap(&[], &["127.0.0.1", "127.0.0.2", "127.0.0.3"], 300);
    let daemon = named(world, &server, upstream.addr().port());
    for number in 0..3 {
        let name = format!("n{number}.example.org");
        assert_eq!(daemon.ask(&Query::a(&name)).address(), "192.0.2.1");
    }
}

fn queries_wait_for_the_first_address(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let gate = Gate::default();
    let held = gate.clone();
    let server = Upstream::start(move |asked| {
        Answer::When(held.clone(), Box::new(hosts_address(asked, &[], &["127.0.0.1"], 300)))
    });
    let daemon = named(world, &server, upstream.addr().port());
    let mut client = daemon.client();
    client.send(&Query::a("www.example.org").encode());
    client.expect_silence(Duration::from_millis(100));
    assert_eq!(upstream.count(), 0);
    gate.open();
    assert_eq!(client.receive().address(), "192.0.2.1");
}

fn an_unknown_host_fails_soon(world: &World) {
    let server = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 60, 60));
    let daemon = named(world, &server, free_port());
    server.wait_for(2);
    let start = Instant::now();
    let reply = daemon.ask(&Query::a("www.example.org").edns(1232));
    assert_eq!((reply.rcode(), reply.extended_errors().len()), (2, 1), "{reply:?}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    daemon.wait_to_say("no address of up.example.org");
}

fn an_unknown_host_leaves_the_next_upstream(world: &World) {
    let server = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 60, 60));
    let second = Upstream::answering("192.0.2.2");
    let daemon = settings(&server, free_port()).upstream(&second, "").start(world);
    for name in ["www.example.org", "www.example.com"] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "192.0.2.2");
    }
}

fn a_host_moves_with_its_address(world: &World) {
    let (port, moved) = (free_port(), Ipv4Addr::new(127, 0, 0, 2));
    let _first = Upstream::at_port(port, |asked| asked.address(60, "192.0.2.1"));
    let second = Upstream::at((moved, port).into(), |asked| asked.address(60, "192.0.2.2"));
    // Each kind is asked for once per round; TTLs below five seconds count as five.
    let server = Upstream::start(|asked| {
        let ip = if asked.sequence < 2 { "127.0.0.1" } else { "127.0.0.2" };
        hosts_address(asked, &[], &[ip], 1)
    });
    let daemon = named(world, &server, port);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    server.wait_for(4);
    until("queries follow", || {
        (daemon.udp(&Query::a("www.example.org")).address() == "192.0.2.2").then_some(())
    });
    assert!(second.count() >= 1);
}

fn the_system_s_name_servers_are_followed(world: &World) {
    let [first, second] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
    let port = free_port();
    let _one = Upstream::at((first, port).into(), |asked| asked.address(60, "192.0.2.1"));
    let _other = Upstream::at((second, port).into(), |asked| asked.address(60, "192.0.2.2"));
    // The system's name servers are all on port 53, which a test cannot have.
    let upstream =
        format!(r#"{{ name = "system", addr = (system_resolvers()[1]:gsub(":53$", ":{port}")) }}"#);
    let daemon = Settings::new()
        .upstream_text(&upstream)
        .section("cache = { enabled = false }")
        .file("resolv.conf", &format!("nameserver {first}\n"))
        .variable("BALANCEDNS_RESOLV_CONF", "resolv.conf")
        .start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    daemon.rewrite("resolv.conf", &format!("nameserver {second}\n"));
    until("queries go to the new one", || {
        (daemon.udp(&Query::a("www.example.org")).address() == "192.0.2.2").then_some(())
    });
    daemon.wait_to_say("name servers of the system");
}
