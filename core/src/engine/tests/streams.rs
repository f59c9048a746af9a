//! Stream connections: clients that pipeline, upstreams that are kept, truncation, breakage.

use super::harness::{World, id, query, rcode, reply, snapshot, upstream};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::engine::{Closed, IoFailure};
use crate::limits::CLIENT_PIPELINE;
use crate::limits::PIPELINE_PER_CONN;
use crate::metrics::Counter;
use crate::time::Duration;

fn udp() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Udp)])
}

fn tcp() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Tcp)])
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short");
    [&length.to_be_bytes(), message].concat()
}

#[test]
fn a_truncated_reply_leads_to_tcp_at_the_same_upstream() {
    let mut world = World::new(udp());
    world.ask(&query(1, "big.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let mut truncated = reply(&sent, 60);
    truncated[2] |= 2;
    world.upstream_says(socket, &truncated);
    assert!(world.replies.is_empty());
    let conn = world.establish();
    let sent = world.messages(conn).remove(0);
    world.stream_says(conn, &framed(&reply(&sent, 60)));
    assert_eq!(rcode(&world.replies[0]), 0);
    assert_eq!(world.count(Counter::UpstreamTruncated), 1);
}

#[test]
fn a_connection_to_an_upstream_is_kept_and_pipelined() {
    let mut world = World::new(tcp());
    for n in 0..3 {
        world.ask(&query(n, &format!("n{n}.example")));
    }
    let conn = world.establish();
    assert!(world.connects.is_empty(), "one connection for all");
    let sent = world.messages(conn);
    assert_eq!(sent.len(), 3);
    let all: Vec<u8> = sent.iter().rev().flat_map(|query| framed(&reply(query, 60))).collect();
    for octet in all {
        world.stream_says(conn, &[octet]);
    }
    let ids: Vec<u16> = world.replies.drain(..).map(|answer| id(&answer)).collect();
    assert_eq!(ids, [2, 1, 0], "each as soon as its reply is whole");
    world.pass(Duration::from_secs(5));
    world.ask(&query(9, "later.example"));
    assert_eq!(world.messages(conn).len(), 1);
    assert!(world.connects.is_empty());
}

#[test]
fn queries_of_a_broken_connection_are_asked_again_on_a_new_one() {
    let mut world = World::new(tcp());
    world.ask(&query(1, "a.example"));
    let conn = world.establish();
    let sent = world.messages(conn).remove(0);
    world.stream_says(conn, &framed(&reply(&sent, 60)));
    world.replies.clear();
    world.ask(&query(2, "b.example"));
    world.messages(conn);
    world.break_conn(conn, Closed::Failed(IoFailure::Reset));
    let again = world.establish();
    let sent = world.messages(again).remove(0);
    world.stream_says(again, &framed(&reply(&sent, 60)));
    assert_eq!(rcode(&world.replies[0]), 0);
}

#[test]
fn a_refused_connect_backs_off_and_never_spins() {
    let mut world = World::new(tcp());
    for n in 0..20 {
        world.ask(&query(n, &format!("n{n}.example")));
        while let Some(conn) = world.connects.pop_front() {
            let refused = Closed::Failed(IoFailure::Refused);
            world.break_conn(conn, refused);
        }
        world.pass(Duration::from_millis(10));
    }
    // 200 ms with waits of 100 ms and 200 ms: two connects, three if the second wait is over.
    assert!(world.count(Counter::ConnsOpened) <= 3, "{}", world.count(Counter::ConnsOpened));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.engine.sizes().fetches, 0);
    assert_eq!(world.replies.len(), 20);
}

#[test]
fn a_connect_that_waits_waits_on_when_another_one_fails() {
    let mut world = World::new(tcp());
    let refused = Closed::Failed(IoFailure::Refused);
    world.ask(&query(0, "a.example"));
    let first = world.connects.pop_front().expect("a connect");
    let more_than_one_carries = u16::try_from(PIPELINE_PER_CONN).expect("few");
    for n in 1..=more_than_one_carries {
        world.ask(&query(n, &format!("n{n}.example")));
    }
    let second = world.connects.pop_front().expect("another connect");
    world.break_conn(first, refused);
    for n in 1..=more_than_one_carries {
        world.ask(&query(n, &format!("m{n}.example")));
    }
    world.pass(Duration::from_millis(90));
    assert!(world.connects.is_empty(), "it waits for 100 ms");
    world.break_conn(second, refused);
    world.pass(Duration::from_millis(20));
    assert!(world.connects.is_empty(), "for 200 ms more since the second failure");
    world.pass(Duration::from_millis(200));
    assert!(!world.connects.is_empty());
}

#[test]
fn what_nobody_waits_for_is_not_written_to_a_new_connection() {
    let mut world = World::new(tcp());
    world.ask(&query(1, "a.example"));
    world.pass(Duration::from_millis(1_900));
    world.ask(&query(2, "b.example"));
    world.pass(Duration::from_millis(200));
    let conn = world.establish();
    let asked = world.messages(conn);
    assert_eq!(asked.len(), 1, "the first question's attempt is over");
    assert!(asked[0].windows(2).any(|two| two == b"\x01b"));
}

#[test]
fn ids_of_what_was_never_written_are_free_again() {
    let mut snapshot = tcp();
    snapshot.routing.deadline = Duration::from_millis(10);
    snapshot.cache.enabled = false;
    let mut world = World::new(snapshot);
    for n in 0..6 {
        world.ask(&query(n, "refused.example"));
        world.pass(Duration::from_millis(1));
        if let Some(conn) = world.connects.pop_front() {
            world.break_conn(conn, Closed::Failed(IoFailure::Refused));
        }
        world.pass(Duration::from_secs(2));
    }
    // The next connection waits for seconds, and nobody waits that long for it.
    for round in 0..100 {
        for n in 0..100 {
            world.ask(&query(n, &format!("r{round}n{n}.example")));
        }
        world.pass(Duration::from_millis(11));
        world.engine.audit().expect("what was not written needs no late replies");
    }
}

#[test]
fn a_silent_connection_is_given_up_with_its_queries() {
    let mut world = World::new(tcp());
    world.ask(&query(1, "a.example"));
    let conn = world.establish();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.closed, [conn]);
    assert_eq!(world.connects.len(), 1, "asked again on a fresh one");
}

#[test]
fn answers_on_a_stream_come_as_they_are_ready() {
    let mut world = World::new(udp());
    let conn = world.connect_client();
    let both = [framed(&query(1, "slow.example")), framed(&query(2, "quick.example"))].concat();
    for octet in both {
        world.stream_says(conn, &[octet]);
    }
    let (socket, slow) = world.queries.pop_front().expect("a query");
    let (other, quick) = world.queries.pop_front().expect("a query");
    world.upstream_says(other, &reply(&quick, 60));
    assert_eq!(id(&world.messages(conn)[0]), 2);
    world.upstream_says(socket, &reply(&slow, 60));
    assert_eq!(id(&world.messages(conn)[0]), 1);
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_answers() {
    let mut world = World::new(udp());
    let conn = world.connect_client();
    world.stream_says(conn, &framed(&query(1, "a.example")));
    world.engine.handle_end_of_stream(world.now, conn);
    world.pump();
    assert!(world.closed.is_empty());
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(world.messages(conn).len(), 1);
    assert_eq!(world.closed, [conn]);
    assert_eq!(world.shared.open_connections(), 0);
}

#[test]
fn a_client_is_not_read_from_beyond_its_pipeline() {
    let mut world = World::new(udp());
    let conn = world.connect_client();
    let many: Vec<u8> =
        (0..1_000u16).flat_map(|n| framed(&query(n, &format!("n{n}.example")))).collect();
    world.stream_says(conn, &many);
    assert_eq!(world.engine.sizes().waiters, CLIENT_PIPELINE);
    assert_eq!(world.paused, [conn]);
    let mut answered = 0;
    while let Some((socket, sent)) = world.queries.pop_front() {
        world.upstream_says(socket, &reply(&sent, 60));
        answered += 1;
    }
    assert_eq!(answered, 1_000, "went on as answers left");
    assert_eq!(world.messages(conn).len(), 1_000);
    assert!(world.paused.is_empty());
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let mut world = World::new(udp());
    world.writable = false;
    let conn = world.connect_client();
    world.stream_says(conn, &framed(&query(1, "a.example")));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&sent, 60));
    world.pass(Duration::from_millis(1_999));
    assert!(world.closed.is_empty());
    world.pass(Duration::from_millis(1));
    assert_eq!(world.closed, [conn]);
}

#[test]
fn slow_and_idle_clients_are_closed() {
    let mut world = World::new(udp());
    let slow = world.connect_client();
    let idle = world.connect_client();
    let asked = framed(&query(1, "a.example"));
    for octet in &asked[..9] {
        world.stream_says(slow, &[*octet]);
        world.pass(Duration::from_millis(200));
    }
    assert!(world.closed.is_empty(), "1.8 s since the first octet");
    world.pass(Duration::from_millis(200));
    assert_eq!(world.closed, [slow], "the message took too long");
    world.pass(Duration::from_secs(10));
    assert_eq!(world.closed, [slow, idle]);
    assert_eq!(world.count(Counter::ConnsTimedOut), 2);
}

#[test]
fn connections_of_one_client_are_bounded() {
    let mut world = World::new(udp());
    let conns: Vec<_> = (0..10).map(|_| world.connect_client()).collect();
    let refused =
        world.engine.handle_accepted(world.now, super::harness::TCP, super::harness::client());
    assert_eq!(refused, Err(crate::engine::AcceptRefused::TooManyFromClient));
    world.break_conn(conns[0], Closed::Cleanly);
    world.connect_client();
    assert_eq!(world.shared.open_connections(), 10);
}

/// Octets that are no query end a connection, but as long as answers of its own are to be sent it
/// keeps its place: else a client could hold any number of them open.
#[test]
fn a_client_that_is_being_closed_keeps_its_place_until_its_answers_have_left() {
    let mut world = World::new(udp());
    let conn = world.connect_client();
    world.stream_says(conn, &framed(&query(1, "localhost")));
    assert_eq!(world.messages(conn).len(), 1);
    world.writable = false;
    world.stream_says(conn, &framed(&query(2, "localhost")));
    world.stream_says(conn, &framed(b"x"));
    assert_eq!(world.engine.sizes().client_conns, 1);
    world.stream_says(conn, &framed(&query(3, "localhost")));
    assert_eq!(world.messages(conn).len(), 1, "nothing is taken from it any more");
    assert!(world.closed.is_empty() && world.paused.contains(&conn));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.closed, [conn], "too slow");
    assert_eq!(world.shared.open_connections(), 0);

    let mut world = World::new(udp());
    let conn = world.connect_client();
    world.writable = false;
    world.stream_says(conn, &framed(&query(2, "localhost")));
    world.stream_says(conn, &framed(b"x"));
    let octets = world.written[&conn.index()].len();
    world.engine.handle_written(world.now, conn, octets);
    world.pump();
    assert_eq!(world.closed, [conn], "all has left");
}

#[test]
fn an_upstream_that_takes_one_query_per_connection_is_not_down() {
    let mut world = World::new(tcp());
    for round in 0..4 {
        for n in 0..3 {
            world.ask(&query(round * 10 + n, &format!("n{n}-{round}.example")));
        }
        while !world.connects.is_empty() {
            let conn = world.establish();
            let first = world.messages(conn).remove(0);
            world.stream_says(conn, &framed(&reply(&first, 60)));
            world.break_conn(conn, Closed::Failed(IoFailure::Reset));
        }
        world.pass(Duration::from_millis(500));
    }
    assert_eq!(world.count(Counter::UpstreamsDown), 0);
}

#[test]
fn what_follows_on_a_connection_that_is_closed_is_for_nobody() {
    let mut world = World::new(tcp());
    world.ask(&query(1, "a.example"));
    let conn = world.establish();
    let sent = world.messages(conn).remove(0);
    world.stream_says(conn, &framed(b"x"));
    assert_eq!(world.count(Counter::ReplyGarbage), 1, "shorter than an id");
    // Its upstream is removed: the connection ends with the last reply that is due.
    world.engine.handle_reload(world.now, std::sync::Arc::new(udp()));
    let both = [framed(&reply(&sent, 60)), framed(&reply(&sent, 60))].concat();
    world.stream_says(conn, &both);
    assert_eq!(rcode(&world.replies[0]), 0);
    assert_eq!(world.closed, [conn]);
    assert_eq!(world.count(Counter::DeadHandles), 1, "the second message");
    world.engine.audit().expect("whole");
}

#[test]
fn a_listener_that_is_none_takes_nobody() {
    let mut world = World::new(udp());
    let stranger = super::harness::client();
    let nowhere = crate::engine::ListenerId(9);
    let refused = world.engine.handle_accepted(world.now, nowhere, stranger);
    assert_eq!(refused, Err(crate::engine::AcceptRefused::Stopping));
    assert_eq!(world.count(Counter::ConnsRefused), 1);
}
