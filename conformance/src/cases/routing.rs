//! Which upstream is asked: zones, by label, the longest first.

use crate::case::World;
use crate::harness::{Query, Settings, Upstream};

cases! {
    zones_match_by_label, all, "RFC 1034 3.1",
        "a zone is matched by whole labels: `ru.` is not the parent of `guru.`";
    zone_spelling_does_not_matter, all, "RFC 4343 3, config upstreams.zones",
        "the dot at the end of a configured zone is a matter of taste, and so is letter case";
    longest_zone_wins, all, "config upstreams.zones",
        "the longest zone that matches wins, whatever the order of the configuration";
    ties_go_in_order, all, "config upstreams",
        "among equals the first of the configuration is asked, and only that one";
    less_specific_zones_are_the_fallback, all, "config routing.zone_fallback",
        "after a zone's own upstreams those of less specific zones are asked";
    name_outside_all_zones_fails, all, "RFC 8914 4.23",
        "a name that no upstream is responsible for cannot be resolved, and the client is told why";
}

/// One server for everything, one for `zones`.
fn start_with(world: &World, zones: &str) -> (Upstream, Upstream, crate::harness::Daemon) {
    let (all, zone) = (Upstream::answering("192.0.2.1"), Upstream::answering("192.0.2.2"));
    let daemon = Settings::new()
        .upstream(&all, "")
        .upstream(&zone, &format!("zones = {{ {zones} }}"))
        .start(world);
    (all, zone, daemon)
}

fn zones_match_by_label(world: &World) {
    let (_all, _zone, daemon) = start_with(world, r#""ru.""#);
    for (name, expected) in [
        ("ru", "192.0.2.2"),
        ("example.ru", "192.0.2.2"),
        ("a.b.example.RU", "192.0.2.2"),
        ("example.guru", "192.0.2.1"),
        ("guru", "192.0.2.1"),
        ("ru.example.org", "192.0.2.1"),
    ] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), expected, "{name}");
    }
}

fn zone_spelling_does_not_matter(world: &World) {
    let (_all, _zone, daemon) = start_with(world, r#""Corp.Example.ORG""#);
    assert_eq!(daemon.ask(&Query::a("host.corp.example.org")).address(), "192.0.2.2");
    assert_eq!(daemon.ask(&Query::a("corp.example.org")).address(), "192.0.2.2");
    assert_eq!(daemon.ask(&Query::a("xcorp.example.org")).address(), "192.0.2.1");
}

fn longest_zone_wins(world: &World) {
    let servers = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(Upstream::answering);
    let daemon = Settings::new()
        .upstream(&servers[0], r#"zones = { "." }"#)
        .upstream(&servers[1], r#"zones = { "example.org" }"#)
        .upstream(&servers[2], r#"zones = { "deep.example.org", "other.example.net" }"#)
        .start(world);
    for (name, expected) in [
        ("www.example.com", "192.0.2.1"),
        ("www.example.org", "192.0.2.2"),
        ("deep.example.org", "192.0.2.3"),
        ("www.deep.example.org", "192.0.2.3"),
        ("x.other.example.net", "192.0.2.3"),
        ("example.net", "192.0.2.1"),
    ] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), expected, "{name}");
    }
    assert_eq!(servers.map(|server| server.count()), [2, 1, 3]);
}

fn ties_go_in_order(world: &World) {
    let servers = ["192.0.2.1", "192.0.2.2"].map(Upstream::answering);
    let daemon = Settings::new().upstream(&servers[0], "").upstream(&servers[1], "").start(world);
    for i in 0..10 {
        assert_eq!(daemon.ask(&Query::a(&format!("n{i}.example.org"))).address(), "192.0.2.1");
    }
    assert_eq!(servers.map(|server| server.count()), [10, 0]);
}

fn less_specific_zones_are_the_fallback(world: &World) {
    let all = Upstream::answering("192.0.2.1");
    let dead = crate::harness::free_port();
    let daemon = Settings::new()
        .upstream(&all, "")
        .upstream_at(([127, 0, 0, 1], dead).into(), r#"zones = { "example.org" }"#)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn name_outside_all_zones_fails(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::new().upstream(&upstream, r#"zones = { "example.org" }"#).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    let reply = daemon.ask(&Query::a("www.example.com").edns(1232));
    assert!([2, 5].contains(&reply.rcode()), "{reply:?}");
    assert_eq!(reply.extended_errors().len(), 1, "it says why");
    assert_eq!(upstream.count(), 1);
}
