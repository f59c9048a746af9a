//! Upstreams that do not do their work: the next one is asked, within the deadline.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use crate::case::World;
use crate::harness::{Answer, Daemon, Query, Reply, Settings, Upstream, free_port};

cases! {
    closed_port_costs_no_timeout, all, "robustness failover",
        "ICMP says at once that nobody is there: the second answers without any timeout";
    refused_connection_costs_no_timeout, all, "robustness failover",
        "a TCP upstream that refuses connections costs no timeout either";
    silence_ends_after_the_timeout, all, "config upstreams.timeout_ms",
        "silence ends after the upstream's own timeout; then the second is asked";
    failing_rcodes_lead_on, all, "config routing.failover_on",
        "each rcode of the default leads to the next candidate";
    nxdomain_does_not_lead_on, all, "RFC 2308 2.1",
        "NXDOMAIN is an answer, not a failure: nobody else is asked";
    failover_on_is_configured, all, "config routing.failover_on",
        "the rcodes that lead on are the operator's";
    first_failure_is_passed_on, all, "RFC 8914 4.24",
        "if all fail, the client gets the first one's rcode, and is told why";
    deadline_ends_the_waiting, all, "config routing.deadline_ms, RFC 8914 4.23",
        "if all are silent, SERVFAIL comes by the deadline, and says why";
    all_dead_fails_at_once, all, "RFC 8914 4.24",
        "if all ports are closed, nobody waits for a deadline";
    lost_datagrams_are_sent_again, all, "RFC 1035 4.2.1",
        "a lost datagram is sent again before the upstream is given up";
    attempts_are_bounded, all, "config routing.attempts_max",
        "what one question may cost upstream is bounded";
    late_replies_are_harmless, all, "RFC 5452 9.1",
        "an answer that comes after its attempt was given up confuses nobody";
    broken_replies_lead_on, all, "robustness replies",
        "a reply that cannot be understood is as good as none: the next upstream is asked";
}

const SERVFAIL: u16 = 2;
/// RFC 8914 section 4.23: no reachable authority; 4.24: network error.
const NOBODY_REACHED: [u16; 2] = [22, 23];

fn timed(daemon: &Daemon, query: &Query) -> (Reply, Duration) {
    let start = Instant::now();
    let reply = daemon.ask(query);
    (reply, start.elapsed())
}

fn failing(rcode: ResponseCode) -> Upstream {
    Upstream::start(move |asked| asked.rcode(rcode))
}

fn closed_port_costs_no_timeout(world: &World) {
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new()
        .upstream_at(([127, 0, 0, 1], free_port()).into(), "timeout_ms = 5000")
        .upstream(&second, "")
        .start(world);
    let (reply, took) = timed(&daemon, &Query::a("www.example.org"));
    assert_eq!(reply.address(), "192.0.2.2");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn refused_connection_costs_no_timeout(world: &World) {
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new()
        .upstream_at(([127, 0, 0, 1], free_port()).into(), r#"protocol = "tcp", timeout_ms = 5000"#)
        .upstream(&second, "")
        .start(world);
    let (reply, took) = timed(&daemon, &Query::a("www.example.org"));
    assert_eq!(reply.address(), "192.0.2.2");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn silence_ends_after_the_timeout(world: &World) {
    let (first, second) = (Upstream::silent(), Upstream::answering("192.0.2.2"));
    let daemon =
        Settings::new().upstream(&first, "timeout_ms = 300").upstream(&second, "").start(world);
    let (reply, took) = timed(&daemon, &Query::a("www.example.org"));
    assert_eq!(reply.address(), "192.0.2.2");
    assert!((Duration::from_millis(290)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert!(first.count() >= 1);
    let timeouts = daemon.metric(r#"balancedns_upstream_failures_total{reason="timeout"}"#);
    assert!(timeouts >= 1.0);
}

fn failing_rcodes_lead_on(world: &World) {
    for rcode in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let (first, second) = (failing(rcode), Upstream::answering("192.0.2.2"));
        let daemon = Settings::new().upstream(&first, "").upstream(&second, "").start(world);
        let reply = daemon.ask(&Query::a("www.example.org"));
        assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.2".to_owned()), "{rcode}");
        assert_eq!((first.count(), second.count()), (1, 1), "{rcode}");
    }
}

fn nxdomain_does_not_lead_on(world: &World) {
    let first = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 300));
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new().upstream(&first, "").upstream(&second, "").start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), 3);
    assert_eq!(second.count(), 0);
}

fn failover_on_is_configured(world: &World) {
    let (first, second) = (failing(ResponseCode::ServFail), Upstream::answering("192.0.2.2"));
    let daemon = Settings::new()
        .upstream(&first, "")
        .upstream(&second, "")
        .section(r#"routing = { failover_on = { "REFUSED" } }"#)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), SERVFAIL);
    assert_eq!(second.count(), 0);
}

fn first_failure_is_passed_on(world: &World) {
    for (rcode, other, expected) in [
        (ResponseCode::ServFail, ResponseCode::Refused, 2),
        (ResponseCode::Refused, ResponseCode::ServFail, 5),
    ] {
        let (first, second) = (failing(rcode), failing(other));
        let daemon = Settings::new().upstream(&first, "").upstream(&second, "").start(world);
        let reply = daemon.ask(&Query::a("www.example.org").edns(1232));
        assert_eq!((reply.rcode(), reply.extended_errors()), (expected, vec![23]));
        assert_eq!((first.count(), second.count()), (1, 1));
    }
}

fn deadline_ends_the_waiting(world: &World) {
    let (first, second) = (Upstream::silent(), Upstream::silent());
    let daemon = Settings::new()
        .upstream(&first, "")
        .upstream(&second, "")
        .section("routing = { deadline_ms = 700 }")
        .start(world);
    let (reply, took) = timed(&daemon, &Query::a("www.example.org").edns(1232));
    assert_eq!(reply.rcode(), SERVFAIL);
    let codes = reply.extended_errors();
    assert!(codes.iter().any(|code| NOBODY_REACHED.contains(code)), "{codes:?}");
    assert!((Duration::from_millis(650)..Duration::from_secs(2)).contains(&took), "{took:?}");
}

fn all_dead_fails_at_once(world: &World) {
    let daemon = Settings::new()
        .upstream_at(([127, 0, 0, 1], free_port()).into(), "")
        .upstream_at(([127, 0, 0, 1], free_port()).into(), "")
        .start(world);
    let (reply, took) = timed(&daemon, &Query::a("www.example.org").edns(1232));
    assert_eq!(reply.rcode(), SERVFAIL);
    let codes = reply.extended_errors();
    assert!(codes.iter().any(|code| NOBODY_REACHED.contains(code)), "{codes:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

fn lost_datagrams_are_sent_again(world: &World) {
    let upstream = Upstream::start(|asked| {
        if asked.sequence == 0 { Answer::Silence } else { asked.address(60, "192.0.2.1").into() }
    });
    let daemon = Settings::with(&upstream).start(world);
    let (reply, took) = timed(&daemon, &Query::a("www.example.org"));
    assert_eq!(reply.address(), "192.0.2.1");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(upstream.count(), 2);
    assert!(daemon.metric("balancedns_upstream_retransmits_total") >= 1.0);
}

fn attempts_are_bounded(world: &World) {
    let servers = [Upstream::silent(), Upstream::silent()];
    let daemon = Settings::new()
        .upstream(&servers[0], "timeout_ms = 1000")
        .upstream(&servers[1], "timeout_ms = 1000")
        .section("routing = { attempts_max = 2, deadline_ms = 2500 }")
        .start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), SERVFAIL);
    let sends: usize = servers.iter().map(Upstream::count).sum();
    assert_eq!(sends, 2);
}

fn late_replies_are_harmless(world: &World) {
    let first = Upstream::start(|asked| {
        let reply = asked.address(60, "192.0.2.1");
        Answer::After(Duration::from_millis(500), Box::new(reply.into()))
    });
    let second = Upstream::answering("192.0.2.2");
    let daemon =
        Settings::new().upstream(&first, "timeout_ms = 200").upstream(&second, "").start(world);
    let mut client = daemon.client();
    assert_eq!(client.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
    client.expect_silence(Duration::from_millis(700));
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
}

fn broken_replies_lead_on(world: &World) {
    let first = Upstream::start(|asked| {
        let mut octets = asked.address(60, "192.0.2.1").to_vec().expect("it can be encoded");
        // RDLENGTH of the A record promises more than there is.
        let at = octets.len() - 5;
        octets[at] = 200;
        Answer::Octets(vec![octets])
    });
    let second = Upstream::answering("192.0.2.2");
    let daemon =
        Settings::new().upstream(&first, "timeout_ms = 300").upstream(&second, "").start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
}
