//! Upstreams asked over TCP: one connection, kept and pipelined, and what happens when it breaks.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::case::World;
use crate::harness::{
    Answer, Asked, Daemon, Gate, Query, Settings, Transport, Upstream, free_port,
};

cases! {
    connection_is_reused, all, "RFC 7766 6.2.1",
        "a TCP upstream is asked by TCP, over one connection that is kept";
    connection_is_pipelined, all, "RFC 7766 6.2.1.1",
        "queries to an upstream do not wait for each other, and answers come in any order";
    connection_is_opened_again, all, "RFC 7766 6.2.3",
        "the upstream may close when it likes; the next query opens anew";
    interrupted_queries_are_retried, all, "RFC 7766 6.2.4",
        "what was in flight when a connection broke is asked again";
    all_interrupted_queries_are_retried, all, "RFC 7766 6.2.4",
        "of many in flight, those that the upstream left unanswered at its close are asked again";
    silent_connections_lead_on, all, "robustness failover",
        "an upstream that accepts and never says a word fails over like any silent one";
    garbage_on_a_connection_leads_on, all, "robustness replies",
        "frames that are no messages are no answers: the second upstream is asked";
    upstream_that_returns_is_used, all, "robustness failover",
        "a TCP server that comes back is used again";
}

const TCP: &str = r#"protocol = "tcp""#;

fn start(world: &World, upstream: &Upstream) -> Daemon {
    Settings::new().upstream(upstream, TCP).start(world)
}

fn conns(asked: &[Asked]) -> HashSet<usize> {
    asked.iter().map(|asked| asked.conn).collect()
}

fn connection_is_reused(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for i in 0..30 {
        assert_eq!(daemon.ask(&Query::a(&format!("n{i}.example.org"))).address(), "192.0.2.1");
    }
    let asked = upstream.asked();
    assert!(asked.iter().all(|asked| asked.transport == Transport::Tcp));
    assert_eq!(conns(&asked).len(), 1);
    assert!((daemon.metric("balancedns_upstream_connections_opened_total") - 1.0).abs() < 0.1);
}

fn connection_is_pipelined(world: &World) {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |asked| {
        let last_octet = asked.name()[1..2].to_owned();
        let answer = asked.address(60, &format!("192.0.2.{last_octet}"));
        Answer::When(held.clone(), Box::new(answer.into()))
    });
    let daemon = start(world, &upstream);
    let mut client = daemon.client();
    let queries: Vec<_> = (0..10).map(|i| Query::a(&format!("n{i}.example.org")).id(i)).collect();
    for query in &queries {
        client.send(&query.encode());
    }
    let asked = upstream.wait_for(10);
    assert_eq!(conns(&asked).len(), 1);
    assert_eq!(asked.iter().map(Asked::id).collect::<HashSet<_>>().len(), 10, "ids differ");
    gate.open();
    for _ in &queries {
        let reply = client.receive();
        let id = reply.message.metadata.id;
        reply.check_echo(&queries[usize::from(id)]);
        assert_eq!(reply.address(), format!("192.0.2.{id}"), "each its own answer");
    }
}

fn connection_is_opened_again(world: &World) {
    let upstream =
        Upstream::start(|asked| Answer::SendAndClose(Box::new(asked.address(60, "192.0.2.1"))));
    let daemon = start(world, &upstream);
    let start = Instant::now();
    for i in 0..5 {
        assert_eq!(daemon.ask(&Query::a(&format!("n{i}.example.org"))).address(), "192.0.2.1");
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(conns(&upstream.asked()).len(), 5);
}

fn interrupted_queries_are_retried(world: &World) {
    let upstream = Upstream::start(|asked| {
        if asked.conn == 0 { Answer::Close } else { asked.address(60, "192.0.2.1").into() }
    });
    let daemon = start(world, &upstream);
    let start = Instant::now();
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

fn all_interrupted_queries_are_retried(world: &World) {
    let upstream = Upstream::start(|asked| match (asked.conn, asked.sequence) {
        (0, 9) => Answer::Close,
        (0, odd) if odd % 2 == 1 => Answer::Silence,
        _ => asked.address(60, "192.0.2.1").into(),
    });
    let daemon = start(world, &upstream);
    let mut client = daemon.client();
    let queries: Vec<_> = (0..10).map(|i| Query::a(&format!("n{i}.example.org")).id(i)).collect();
    for query in &queries {
        client.send(&query.encode());
    }
    for _ in &queries {
        assert_eq!(client.receive().address(), "192.0.2.1");
    }
}

fn silent_connections_lead_on(world: &World) {
    let (first, second) = (Upstream::silent(), Upstream::answering("192.0.2.2"));
    let daemon = Settings::new()
        .upstream(&first, r#"protocol = "tcp", timeout_ms = 300"#)
        .upstream(&second, TCP)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
}

fn garbage_on_a_connection_leads_on(world: &World) {
    let first = Upstream::start(|_| Answer::Octets(vec![vec![], vec![1, 2, 3], vec![0xff; 40]]));
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new()
        .upstream(&first, r#"protocol = "tcp", timeout_ms = 300"#)
        .upstream(&second, TCP)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
}

fn upstream_that_returns_is_used(world: &World) {
    let port = free_port();
    let daemon = Settings::new()
        .upstream_at(([127, 0, 0, 1], port).into(), r#"protocol = "tcp", timeout_ms = 500"#)
        .section("cache = { servfail_ttl_seconds = 0 }")
        .start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), 2);
    let _upstream = Upstream::at_port(port, |asked| asked.address(60, "192.0.2.1"));
    crate::harness::until("it is used again", || {
        (daemon.ask(&Query::a("www.example.org")).rcode() == 0).then_some(())
    });
}
