//! Upstreams that do not do their work: the next one is asked, within the deadline.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use crate::harness::{Answer, Daemon, Query, Reply, Settings, Upstream, free_port};

const SERVFAIL: u16 = 2;
/// RFC 8914 section 4.23: no reachable authority; 4.24: network error.
const NOBODY_REACHED: [u16; 2] = [22, 23];

fn timed(daemon: &Daemon, query: &Query) -> (Reply, Duration) {
    let start = Instant::now();
    let reply = daemon.udp(query);
    (reply, start.elapsed())
}

fn failing(rcode: ResponseCode) -> Upstream {
    Upstream::start(move |asked| asked.rcode(rcode))
}

/// ICMP says at once that nobody is there: the second answers without any timeout.
#[test]
fn closed_port_costs_no_timeout() {
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new()
        .upstream_at(([127, 0, 0, 1], free_port()).into(), "timeout_ms = 5000")
        .upstream(&second, "")
        .start();
    let (reply, took) = timed(&daemon, &Query::a("www.example.org"));
    assert_eq!(reply.address(), "192.0.2.2");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// The same for a TCP upstream, whose connection is refused.
#[test]
fn refused_connection_costs_no_timeout() {
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new()
        .upstream_at(([127, 0, 0, 1], free_port()).into(), r#"protocol = "tcp", timeout_ms = 5000"#)
        .upstream(&second, "")
        .start();
    let (reply, took) = timed(&daemon, &Query::a("www.example.org"));
    assert_eq!(reply.address(), "192.0.2.2");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Silence ends after the upstream's own timeout; then the second is asked.
#[test]
fn silence_ends_after_the_timeout() {
    let (first, second) = (Upstream::silent(), Upstream::answering("192.0.2.2"));
    let daemon = Settings::new().upstream(&first, "timeout_ms = 300").upstream(&second, "").start();
    let (reply, took) = timed(&daemon, &Query::a("www.example.org"));
    assert_eq!(reply.address(), "192.0.2.2");
    assert!((Duration::from_millis(290)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert!(first.count() >= 1);
    let timeouts = daemon.metric(r#"balancedns_upstream_failures_total{reason="timeout"}"#);
    assert!(timeouts >= 1.0);
}

/// Each rcode of `failover_on`'s default leads to the next candidate.
#[test]
fn failing_rcodes_lead_on() {
    for rcode in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let (first, second) = (failing(rcode), Upstream::answering("192.0.2.2"));
        let daemon = Settings::new().upstream(&first, "").upstream(&second, "").start();
        let reply = daemon.udp(&Query::a("www.example.org"));
        assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.2".to_owned()), "{rcode}");
        assert_eq!((first.count(), second.count()), (1, 1), "{rcode}");
    }
}

/// NXDOMAIN is an answer, not a failure.
#[test]
fn nxdomain_does_not_lead_on() {
    let first = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 300));
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new().upstream(&first, "").upstream(&second, "").start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), 3);
    assert_eq!(second.count(), 0);
}

/// `failover_on` is the operator's: here only REFUSED leads on.
#[test]
fn failover_on_is_configured() {
    let (first, second) = (failing(ResponseCode::ServFail), Upstream::answering("192.0.2.2"));
    let daemon = Settings::new()
        .upstream(&first, "")
        .upstream(&second, "")
        .section(r#"routing = { failover_on = { "REFUSED" } }"#)
        .start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), SERVFAIL);
    assert_eq!(second.count(), 0);
}

/// If all fail, the client gets the first one's rcode, and is told why (RFC 8914 section 4.24).
#[test]
fn first_failure_is_passed_on() {
    for (rcode, other, expected) in [
        (ResponseCode::ServFail, ResponseCode::Refused, 2),
        (ResponseCode::Refused, ResponseCode::ServFail, 5),
    ] {
        let (first, second) = (failing(rcode), failing(other));
        let daemon = Settings::new().upstream(&first, "").upstream(&second, "").start();
        let reply = daemon.udp(&Query::a("www.example.org").edns(1232));
        assert_eq!((reply.rcode(), reply.extended_errors()), (expected, vec![23]));
        assert_eq!((first.count(), second.count()), (1, 1));
    }
}

/// If all are silent, SERVFAIL comes by the deadline, and says why.
#[test]
fn deadline_ends_the_waiting() {
    let (first, second) = (Upstream::silent(), Upstream::silent());
    let daemon = Settings::new()
        .upstream(&first, "")
        .upstream(&second, "")
        .section("routing = { deadline_ms = 700 }")
        .start();
    let (reply, took) = timed(&daemon, &Query::a("www.example.org").edns(1232));
    assert_eq!(reply.rcode(), SERVFAIL);
    let codes = reply.extended_errors();
    assert!(codes.iter().any(|code| NOBODY_REACHED.contains(code)), "{codes:?}");
    assert!((Duration::from_millis(650)..Duration::from_secs(2)).contains(&took), "{took:?}");
}

/// If all ports are closed, nobody waits for a deadline.
#[test]
fn all_dead_fails_at_once() {
    let daemon = Settings::new()
        .upstream_at(([127, 0, 0, 1], free_port()).into(), "")
        .upstream_at(([127, 0, 0, 1], free_port()).into(), "")
        .start();
    let (reply, took) = timed(&daemon, &Query::a("www.example.org").edns(1232));
    assert_eq!(reply.rcode(), SERVFAIL);
    let codes = reply.extended_errors();
    assert!(codes.iter().any(|code| NOBODY_REACHED.contains(code)), "{codes:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// A lost datagram is sent again before the upstream is given up.
#[test]
fn lost_datagrams_are_sent_again() {
    let upstream = Upstream::start(|asked| {
        if asked.sequence == 0 { Answer::Silence } else { asked.address(60, "192.0.2.1").into() }
    });
    let daemon = Settings::with(&upstream).start();
    let (reply, took) = timed(&daemon, &Query::a("www.example.org"));
    assert_eq!(reply.address(), "192.0.2.1");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(upstream.count(), 2);
    assert!(daemon.metric("balancedns_upstream_retransmits_total") >= 1.0);
}

/// `attempts_max` bounds what one question may cost upstream.
#[test]
fn attempts_are_bounded() {
    let servers = [Upstream::silent(), Upstream::silent()];
    let daemon = Settings::new()
        .upstream(&servers[0], "timeout_ms = 1000")
        .upstream(&servers[1], "timeout_ms = 1000")
        .section("routing = { attempts_max = 2, deadline_ms = 2500 }")
        .start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), SERVFAIL);
    let sends: usize = servers.iter().map(Upstream::count).sum();
    assert_eq!(sends, 2);
}

/// An answer that comes after its attempt was given up is not lost on the next asker, nor does it
/// confuse the one who has an answer already.
#[test]
fn late_replies_are_harmless() {
    let first = Upstream::start(|asked| {
        let reply = asked.address(60, "192.0.2.1");
        Answer::After(Duration::from_millis(500), Box::new(reply.into()))
    });
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new().upstream(&first, "timeout_ms = 200").upstream(&second, "").start();
    let client = crate::harness::UdpClient::to(daemon.addr());
    assert_eq!(client.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
    assert!(client.try_receive(Duration::from_millis(700)).is_none(), "a second reply");
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.2");
}

/// A reply that cannot be understood is as good as none; the next upstream is asked.
#[test]
fn broken_replies_lead_on() {
    let first = Upstream::start(|asked| {
        let mut octets = asked.address(60, "192.0.2.1").to_vec().expect("it can be encoded");
        // RDLENGTH of the A record promises more than there is.
        let at = octets.len() - 5;
        octets[at] = 200;
        Answer::Octets(vec![octets])
    });
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new().upstream(&first, "timeout_ms = 300").upstream(&second, "").start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.2");
}
