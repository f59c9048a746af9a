//! TCP as well-behaved clients use it (RFC 7766): pipelined, in pieces, half-closed.

use crate::case::World;
use crate::harness::{Answer, Gate, PATIENCE, Query, Settings, Tried, Upstream, framed};

cases! {
    connection_is_kept, streams, "RFC 7766 6.2.1",
        "one connection serves many queries, one after the other";
    answers_come_out_of_order, streams, "RFC 7766 7",
        "answers come as they are ready, not in the order of the questions";
    several_messages_in_one_segment, streams, "RFC 7766 6.2.1.1",
        "many queries in one write are many queries";
    message_in_pieces, streams, "RFC 7766 8",
        "a message may come in any pieces: cut at every octet, and octet by octet";
    half_closed_clients_are_answered, streams, "RFC 7766 6.2.4",
        "a client that has finished sending still gets its answers; then the connection ends";
    client_may_vanish, streams, "robustness clients",
        "a client that goes away with queries in flight harms nobody";
    errors_do_not_end_the_connection, streams, "RFC 7766 6.2.1",
        "what is wrong with one message is no reason to drop the connection";
    deep_pipelines_lose_nothing, streams, "RFC 7766 6.2.1.1",
        "more pipelined than one connection may have in flight: reading pauses, nothing is lost";
    nothing_asked_is_nothing_kept, streams, "RFC 7766 6.2.4",
        "a client that finishes without a question is let go at once";
    connections_do_not_wait_for_each_other, streams, "RFC 7766 6.2.2",
        "a slow answer on one connection holds up no other";
    large_queries_are_read, streams, "RFC 1035 4.2.2",
        "a query may be as long as its length can say";
}

/// Holds back names that start with "slow" until the gate opens.
fn with_slow_names(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |asked| {
        let answer = Answer::from(asked.address(60, "192.0.2.1"));
        if asked.name().starts_with("slow") {
            Answer::When(gate.clone(), Box::new(answer))
        } else {
            answer
        }
    })
}

fn connection_is_kept(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let mut client = daemon.stream();
    for i in 0..20 {
        assert_eq!(client.ask(&Query::a(&format!("n{i}.example.org"))).address(), "192.0.2.1");
    }
    assert!((daemon.metric("balancedns_connections_accepted_total") - 1.0).abs() < 0.1);
}

fn answers_come_out_of_order(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = Settings::with(&upstream).start(world);
    let (slow, fast) = (Query::a("slow.example.org"), Query::a("fast.example.org"));
    let mut client = daemon.stream();
    client.send(&slow.encode());
    upstream.wait_for(1);
    client.send(&fast.encode());
    client.receive().check_echo(&fast);
    gate.open();
    client.receive().check_echo(&slow);
}

fn several_messages_in_one_segment(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let queries: Vec<_> =
        (0..100).map(|i| Query::a(&format!("n{}.example.org", i % 10)).id(i)).collect();
    let mut octets = Vec::new();
    for query in &queries {
        octets.extend(framed(&query.encode()));
    }
    let mut client = daemon.stream();
    client.send_raw(&octets);
    let mut seen = [false; 100];
    for _ in &queries {
        let reply = client.receive();
        let id = usize::from(reply.message.metadata.id);
        reply.check_echo(&queries[id]);
        assert!(!std::mem::replace(&mut seen[id], true), "id {id} answered twice");
    }
}

fn message_in_pieces(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let query = Query::a("www.example.org").edns(1232);
    let framed = framed(&query.encode());
    let mut client = daemon.stream();
    for cut in 1..framed.len() {
        client.send_raw(&framed[..cut]);
        std::thread::yield_now();
        client.send_raw(&framed[cut..]);
        client.receive().check_echo(&query);
    }
    for octet in &framed {
        client.send_raw(std::slice::from_ref(octet));
        std::thread::yield_now();
    }
    client.receive().check_echo(&query);
}

fn half_closed_clients_are_answered(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = Settings::with(&upstream).start(world);
    let queries = [Query::a("slow1.example.org"), Query::a("slow2.example.org")];
    let mut client = daemon.stream();
    for query in &queries {
        client.send(&query.encode());
    }
    client.finish();
    upstream.wait_for(2);
    gate.open();
    let mut ids: Vec<_> = (0..2).map(|_| client.receive().message.metadata.id).collect();
    let mut expected: Vec<_> = queries.iter().map(|query| query.id).collect();
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    client.wait_for_close();
}

fn client_may_vanish(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = Settings::with(&upstream).start(world);
    for i in 0..10 {
        let mut client = daemon.stream();
        client.send(&Query::a(&format!("slow{i}.example.org")).encode());
        upstream.wait_for(i + 1);
    }
    gate.open();
    assert_eq!(daemon.ask(&Query::a("fast.example.org")).address(), "192.0.2.1");
    assert_eq!(daemon.ask(&Query::a("slow3.example.org")).address(), "192.0.2.1");
}

fn errors_do_not_end_the_connection(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let mut client = daemon.stream();
    let mut broken = Query::a("www.example.org").encode();
    broken.push(0);
    client.send(&broken);
    assert_eq!(client.receive().rcode(), 1);
    client.send(&Query::a("www.example.org").opcode(5).encode());
    assert_eq!(client.receive().rcode(), 4);
    assert_eq!(client.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn deep_pipelines_lose_nothing(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let mut client = daemon.stream();
    let queries = (0..2_000).map(|id| Query::a(&format!("n{}.example.org", id % 500)).id(id));
    // Far less than what sockets hold: neither side waits for the other to read.
    let octets: Vec<_> = queries.flat_map(|query| framed(&query.encode())).collect();
    client.send_raw(&octets);
    let mut seen = vec![false; 2_000];
    for _ in 0..2_000 {
        match client.try_receive(PATIENCE) {
            Tried::Reply(reply) => {
                assert_eq!(reply.address(), "192.0.2.1");
                let id = usize::from(reply.message.metadata.id);
                assert!(!std::mem::replace(&mut seen[id], true), "id {id} answered twice");
            }
            other @ (Tried::Closed | Tried::Silence | Tried::Status(_)) => {
                panic!("{other:?} after {} replies", seen.iter().filter(|seen| **seen).count())
            }
        }
    }
}

fn nothing_asked_is_nothing_kept(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).listen("tcp_idle_timeout_ms = 60000").start(world);
    let mut client = daemon.stream();
    client.finish();
    client.wait_for_close();
}

fn connections_do_not_wait_for_each_other(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = Settings::with(&upstream).start(world);
    let slow = Query::a("slow.example.org");
    let mut waiting = daemon.stream();
    waiting.send(&slow.encode());
    upstream.wait_for(1);
    for i in 0..5 {
        let reply = daemon.ask(&Query::a(&format!("fast{i}.example.org")));
        assert_eq!(reply.address(), "192.0.2.1");
    }
    gate.open();
    waiting.receive().check_echo(&slow);
}

fn large_queries_are_read(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    // Options of all but what header, question and OPT need.
    let bare = Query::a("www.example.org").option(65_001, b"").encode().len();
    for octets in [5_000, 65_535 - bare] {
        let query = Query::a("www.example.org").option(65_001, &vec![7; octets]);
        assert_eq!(daemon.ask(&query).address(), "192.0.2.1", "{octets} octets of options");
    }
}
