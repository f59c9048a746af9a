//! Upstreams that are down are asked last, and asked again when they are back; clients hardly
//! notice.

use std::time::{Duration, Instant};

use crate::case::World;
use crate::harness::{Answer, Daemon, Query, Settings, Upstream, free_port, until};

cases! {
    who_refuses_is_asked_last, all, "robustness health",
        "after the first refusal nobody waits for, or sends to, an upstream that is not there";
    who_is_silent_is_asked_last, all, "robustness health",
        "after the first timeout the next upstream answers at once";
    who_refuses_tcp_is_asked_last, all, "robustness health",
        "the same for an upstream that is asked over TCP";
    who_is_back_is_asked_first_again, all, "robustness health",
        "an upstream that is back is found by a copy of a query, and takes its place again";
    probes_cost_no_client_anything, udp alone, "robustness health",
        "looking whether a silent upstream is back delays nobody";
    the_only_upstream_is_asked_all_the_same, all, "robustness health",
        "with nobody else to ask, who is down is asked: back again, it answers the next query";
    a_hard_question_takes_nobody_down, all, "robustness health",
        "one name that an upstream does not answer says nothing against it while it answers others";
    probes_stay_within_their_zone, all, "config upstreams.zones",
        "a name of a private zone is never shown to another zone's upstream to see whether it is back";
}

/// Far below the timeouts of these cases, far above what an answer takes.
const AT_ONCE: Duration = Duration::from_millis(250);

fn without_cache() -> Settings {
    Settings::new().section("cache = { enabled = false }")
}

fn address_of(daemon: &Daemon, name: &str) -> String {
    daemon.ask(&Query::a(name)).address()
}

/// Asks for ten new names, of which none may be slow.
fn ten_at_once(daemon: &Daemon, expected: &str) {
    for number in 0..10 {
        let start = Instant::now();
        assert_eq!(address_of(daemon, &format!("later{number}.example.org")), expected);
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }
}

fn failures(daemon: &Daemon) -> f64 {
    daemon.metric_sum("balancedns_upstream_failures_total")
}

fn who_refuses_is_asked_last(world: &World) {
    let second = Upstream::answering("192.0.2.2");
    let dead = ([127, 0, 0, 1], free_port()).into();
    let daemon = without_cache().upstream_at(dead, "").upstream(&second, "").start(world);
    assert_eq!(address_of(&daemon, "www.example.org"), "192.0.2.2");
    ten_at_once(&daemon, "192.0.2.2");
    // A probe may have been refused meanwhile.
    assert!(failures(&daemon) <= 2.0, "{}", failures(&daemon));
    assert!(daemon.metric("balancedns_upstream_down_total") >= 1.0);
}

fn who_is_silent_is_asked_last(world: &World) {
    let (first, second) = (Upstream::silent(), Upstream::answering("192.0.2.2"));
    let daemon =
        without_cache().upstream(&first, "timeout_ms = 600").upstream(&second, "").start(world);
    assert_eq!(address_of(&daemon, "www.example.org"), "192.0.2.2");
    ten_at_once(&daemon, "192.0.2.2");
}

fn who_refuses_tcp_is_asked_last(world: &World) {
    let second = Upstream::answering("192.0.2.2");
    let dead = ([127, 0, 0, 1], free_port()).into();
    let daemon = without_cache()
        .upstream_at(dead, r#"protocol = "tcp""#)
        .upstream(&second, r#"protocol = "tcp""#)
        .start(world);
    assert_eq!(address_of(&daemon, "www.example.org"), "192.0.2.2");
    ten_at_once(&daemon, "192.0.2.2");
    assert!(failures(&daemon) <= 2.0, "{}", failures(&daemon));
}

fn who_is_back_is_asked_first_again(world: &World) {
    let (port, second) = (free_port(), Upstream::answering("192.0.2.2"));
    let first = ([127, 0, 0, 1], port).into();
    let daemon = without_cache().upstream_at(first, "").upstream(&second, "").start(world);
    assert_eq!(address_of(&daemon, "www.example.org"), "192.0.2.2");
    let _back = Upstream::at_port(port, |asked| asked.address(60, "192.0.2.1"));
    let mut number = 0;
    until("the first one answers again", || {
        number += 1;
        (address_of(&daemon, &format!("n{number}.example.org")) == "192.0.2.1").then_some(())
    });
    ten_at_once(&daemon, "192.0.2.1");
    assert!(daemon.metric("balancedns_upstream_probes_total") >= 1.0);
    daemon.wait_to_say("answers again");
}

fn probes_cost_no_client_anything(world: &World) {
    let (first, second) = (Upstream::silent(), Upstream::answering("192.0.2.2"));
    let daemon =
        without_cache().upstream(&first, "timeout_ms = 600").upstream(&second, "").start(world);
    address_of(&daemon, "www.example.org");
    let mut number = 0;
    until("two probes were sent", || {
        number += 1;
        let start = Instant::now();
        address_of(&daemon, &format!("n{number}.example.org"));
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        (daemon.metric("balancedns_upstream_probes_total") >= 2.0).then_some(())
    });
    assert_eq!(daemon.metric(r#"balancedns_responses_total{rcode="SERVFAIL"}"#), 0.0);
}

fn the_only_upstream_is_asked_all_the_same(world: &World) {
    let port = free_port();
    let daemon = without_cache().upstream_at(([127, 0, 0, 1], port).into(), "").start(world);
    for number in 0..5 {
        assert_eq!(daemon.ask(&Query::a(&format!("n{number}.example.org"))).rcode(), 2);
    }
    let _back = Upstream::at_port(port, |asked| asked.address(60, "192.0.2.1"));
    assert_eq!(address_of(&daemon, "www.example.org"), "192.0.2.1");
}

fn a_hard_question_takes_nobody_down(world: &World) {
    let first = Upstream::start(|asked| -> Answer {
        if asked.name().starts_with("hard") {
            Answer::Silence
        } else {
            asked.address(60, "192.0.2.1").into()
        }
    });
    let second = Upstream::answering("192.0.2.2");
    let daemon =
        without_cache().upstream(&first, "timeout_ms = 600").upstream(&second, "").start(world);
    let mut waiting = daemon.client();
    waiting.send(&Query::a("hard.example.org").encode());
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < Duration::from_millis(700) {
        number += 1;
        assert_eq!(address_of(&daemon, &format!("easy{number}.example.org")), "192.0.2.1");
    }
    assert_eq!(waiting.receive().address(), "192.0.2.2");
    assert_eq!(daemon.metric("balancedns_upstream_down_total"), 0.0);
}

fn probes_stay_within_their_zone(world: &World) {
    let private = Upstream::answering("192.0.2.1");
    let (port, public_zone) = (free_port(), r#"zones = { "." }"#);
    let daemon = without_cache()
        .upstream(&private, r#"zones = { "corp.example" }"#)
        .upstream_at(([127, 0, 0, 1], port).into(), public_zone)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), 2, "the public one is down");
    let public = Upstream::at_port(port, |asked| asked.address(60, "192.0.2.2"));
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < Duration::from_millis(1_500) {
        number += 1;
        assert_eq!(address_of(&daemon, &format!("secret{number}.corp.example")), "192.0.2.1");
    }
    assert_eq!(public.count(), 0);
    assert_eq!(address_of(&daemon, "www.example.org"), "192.0.2.2");
}
