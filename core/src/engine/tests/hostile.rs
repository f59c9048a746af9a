//! What clients, upstreams and the network do to break things: each was a defect once.

use std::sync::Arc;

use super::harness::{TCP, World, error, id, literal, query, rcode, reply, snapshot, upstream};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::engine::{AcceptRefused, Action, Closed, Engine, EngineConfig, Event, IoFailure};
use crate::limits::{
    MISMATCHES_BEFORE_STREAM, MISMATCHES_PER_SOCKET, QUERY_ADDITIONALS, UNSENT_OCTETS,
};
use crate::metrics::Counter;
use crate::time::Duration;
use crate::wire::{QueryView, Rejected};

fn udp(names: &[&str]) -> Snapshot {
    snapshot(names.iter().map(|name| upstream(name, UpstreamProtocol::Udp)).collect())
}

fn tcp() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Tcp)])
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short");
    [&length.to_be_bytes(), message].concat()
}

/// The same query with an OPT that has DO set.
fn with_dnssec_ok(mut query: Vec<u8>) -> Vec<u8> {
    query[11] = 1;
    query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    query
}

/// An answer of this many octets of RDATA in one record of type A.
fn large_reply(query: &[u8], octets: u16) -> Vec<u8> {
    let mut message = error(query, 0);
    message[7] = 1;
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0]);
    message.extend_from_slice(&octets.to_be_bytes());
    message.resize(message.len() + usize::from(octets), 7);
    message
}

#[test]
fn a_connection_is_closed_before_its_slot_is_used_again() {
    let mut world = World::new(tcp());
    world.ask(&query(1, "a.example"));
    let conn = world.establish();
    let sent = world.messages(conn).remove(0);
    world.stream_says(conn, &framed(&reply(&sent, 60)));
    world.ask(&query(2, "b.example"));
    world.messages(conn);
    world.engine.handle_end_of_stream(world.now, conn);
    let mut seen = Vec::new();
    while let Some(action) = world.engine.poll_action(world.now) {
        if let Action::CloseConn { conn: closed, .. } = action {
            seen.push(("close", closed == conn));
        } else {
            assert!(matches!(action, Action::Connect { .. }), "not asked for: {action:?}");
            seen.push(("connect", true));
        }
    }
    assert_eq!(seen, [("close", true), ("connect", true)]);
}

#[test]
fn chains_of_compression_pointers_cost_nothing() {
    // A chain of pointers in the RDATA of one record, and many records owned by its end.
    let mut message = query(7, "a");
    message.extend_from_slice(&[0, 0, 10, 0, 1, 0, 0, 0, 0, 1, 0]);
    let mut target = 12u16;
    for _ in 0..128 {
        let here = u16::try_from(message.len()).expect("short");
        message.extend_from_slice(&(0xc000 | target).to_be_bytes());
        target = here;
    }
    message[11] = 2;
    message.extend_from_slice(&(0xc000 | target).to_be_bytes());
    message.extend_from_slice(&[0, 10, 0, 1, 0, 0, 0, 0, 0, 0]);
    let refused = QueryView::parse(&message);
    assert!(matches!(refused, Err(Rejected::Reply { .. })), "129 pointers for one name");

    let mut many = query(7, "a");
    for _ in 0..=QUERY_ADDITIONALS {
        many.extend_from_slice(&[0, 0, 10, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    many[11] = u8::try_from(QUERY_ADDITIONALS + 1).expect("few");
    assert!(matches!(QueryView::parse(&many), Err(Rejected::Reply { .. })));
}

#[test]
fn an_upstream_that_came_back_is_connected_while_queries_keep_coming() {
    let mut settings = tcp();
    settings.upstreams[0].timeout = Duration::from_millis(300);
    let mut world = World::new(settings);
    for n in 0..8 {
        world.ask(&query(n, &format!("down{n}.example")));
        world.pass(Duration::from_secs(2));
        while let Some(conn) = world.connects.pop_front() {
            world.break_conn(conn, Closed::Failed(IoFailure::Refused));
        }
    }
    let back = world.now;
    for n in 0..600 {
        world.ask(&query(n, &format!("up{n}.example")));
        world.pass(Duration::from_millis(100));
        if !world.connects.is_empty() {
            break;
        }
    }
    assert!(world.now.since(back) <= Duration::from_millis(2_100), "{:?}", world.now.since(back));
    let conn = world.establish();
    world.pass(Duration::from_secs(20));
    assert!(world.closed.contains(&conn), "idle after its queries had timed out");
}

#[test]
fn guessing_ids_loses_the_port_and_then_the_datagram() {
    let mut world = World::new(udp(&["one"]));
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let guess = |world: &mut World, guesses: std::ops::Range<u32>| {
        for n in guesses {
            let mut wrong = reply(&sent, 300);
            let other = id(&sent).wrapping_add(1).wrapping_add(u16::try_from(n).expect("fits"));
            wrong[..2].copy_from_slice(&other.to_be_bytes());
            world.upstream_says(socket, &wrong);
        }
    };
    guess(&mut world, 0..MISMATCHES_PER_SOCKET);
    let spoofed = Event::UpstreamSpoofed { upstream: "one".into() };
    assert_eq!(world.events, [spoofed]);
    assert!(world.connects.is_empty(), "the right reply would still be taken");
    guess(&mut world, MISMATCHES_PER_SOCKET..MISMATCHES_BEFORE_STREAM);
    world.upstream_says(socket, &reply(&sent, 300));
    assert!(world.replies.is_empty(), "too many ids were tried on this port");
    let conn = world.establish();
    let again = world.messages(conn).remove(0);
    world.stream_says(conn, &framed(&reply(&again, 300)));
    assert_eq!(rcode(&world.replies[0]), 0);
}

#[test]
fn the_right_reply_is_taken_after_thousands_of_wrong_ones() {
    let mut world = World::new(udp(&["one"]));
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    for n in 1..9_000u16 {
        let mut wrong = reply(&sent, 300);
        wrong[..2].copy_from_slice(&id(&sent).wrapping_add(n).to_be_bytes());
        world.upstream_says(socket, &wrong);
    }
    world.upstream_says(socket, &reply(&sent, 300));
    assert_eq!(rcode(&world.replies[0]), 0);
}

#[test]
fn what_was_learnt_of_an_old_server_is_not_held_against_the_next() {
    let mut world = World::new(udp(&["old", "new"]));
    let asked = with_dnssec_ok(query(1, "a.example"));
    world.ask(&asked);
    for code in [1, 2] {
        let (socket, sent) = world.queries.pop_front().expect("a query");
        world.upstream_says(socket, &error(&sent, code)); // FORMERR, then SERVFAIL
    }
    let (_, sent) = world.queries.pop_front().expect("a query to the next");
    assert_eq!(sent[11], 1, "with an OPT");
}

#[test]
fn an_answer_without_dnssec_data_is_not_kept_for_those_who_want_it() {
    let mut world = World::new(udp(&["old"]));
    let asked = with_dnssec_ok(query(1, "a.example"));
    world.ask(&asked);
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &error(&sent, 1));
    let (socket, plain) = world.queries.pop_front().expect("without OPT");
    world.upstream_says(socket, &reply(&plain, 300));
    assert_eq!(world.replies.len(), 1);
    world.ask(&asked);
    assert_eq!(world.queries.len(), 1, "not from the cache");
}

#[test]
fn a_failure_does_not_replace_another_workers_answer() {
    let mut unlucky = World::new(udp(&["one"]));
    let mut lucky = World::new(udp(&["one"]));
    let config = EngineConfig {
        policy_clock: None,
        shared: Arc::clone(&unlucky.shared),
        snapshot: Arc::new(udp(&["one"])),
        metrics: unlucky.shared.worker_metrics(1),
        seed: [3; 32],
    };
    lucky.engine = Engine::new(config, lucky.now);
    let asked = query(1, "a.example");
    unlucky.ask(&asked);
    lucky.ask(&asked);
    let (socket, sent) = lucky.queries.pop_front().expect("a query");
    lucky.upstream_says(socket, &reply(&sent, 3_000));
    unlucky.pass(Duration::from_secs(5));
    assert_eq!(rcode(&unlucky.replies.pop_front().expect("told")), 2);
    unlucky.ask(&asked);
    assert_eq!(rcode(&unlucky.replies.pop_front().expect("from the cache")), 0);
}

#[test]
fn what_this_machine_lacks_is_not_remembered_as_the_upstreams_failure() {
    let mut world = World::new(udp(&["one"]));
    world.ask(&query(1, "a.example"));
    let (socket, _) = world.queries.pop_front().expect("a query");
    world.engine.handle_socket_failed(world.now, socket, IoFailure::NoResources);
    world.pump();
    assert_eq!(rcode(&world.replies.pop_front().expect("told")), 2);
    world.ask(&query(2, "a.example"));
    assert_eq!(world.queries.len(), 1, "asked again");
}

#[test]
fn large_answers_for_clients_that_do_not_read_are_bounded() {
    let mut settings = tcp();
    settings.listen.max_connections_per_client = 100;
    let mut world = World::new(settings);
    world.writable = false;
    let conns: Vec<_> = (0..8).map(|_| world.connect_client()).collect();
    for conn in &conns {
        let name = format!("big{}.example", conn.index());
        let many: Vec<u8> = (0..256).flat_map(|n| framed(&query(n, &name))).collect();
        world.stream_says(*conn, &many);
    }
    let upstream = world.establish();
    for sent in world.messages(upstream) {
        world.stream_says(upstream, &framed(&large_reply(&sent, 60_000)));
    }
    let held: usize = conns
        .iter()
        .filter(|conn| !world.closed.contains(conn))
        .map(|conn| world.written.get(&conn.index()).map_or(0, Vec::len))
        .sum();
    assert!(held <= UNSENT_OCTETS, "{held}");
    assert!(held >= UNSENT_OCTETS / 2, "{held}: who is within the bound is served");
    assert!(world.count(Counter::LimitUnsent) > 0);
    assert_eq!(world.engine.sizes().waiters, 0);
    for conn in conns {
        world.break_conn(conn, Closed::Cleanly);
    }
    assert_eq!(world.engine.unsent_octets, 0);
}

#[test]
fn a_pause_of_ours_is_not_the_clients_slowness() {
    let mut world = World::new(tcp());
    world.writable = false;
    let conn = world.connect_client();
    let mut asked: Vec<u8> = (0..10).flat_map(|n| framed(&query(n, "big.example"))).collect();
    asked.extend_from_slice(&[0, 29, 1]); // the start of another one
    world.stream_says(conn, &asked);
    let upstream = world.establish();
    let sent = world.messages(upstream).remove(0);
    world.pass(Duration::from_millis(1_000));
    world.stream_says(upstream, &framed(&large_reply(&sent, 60_000)));
    assert_eq!(world.paused, [conn]);
    world.pass(Duration::from_millis(900));
    let octets = world.written[&conn.index()].len();
    world.engine.handle_written(world.now, conn, octets);
    world.pump();
    assert!(world.paused.is_empty());
    world.pass(Duration::from_millis(1_900));
    assert!(world.closed.is_empty(), "it has its whole time again");
    world.pass(Duration::from_millis(100));
    assert_eq!(world.closed, [conn]);
}

#[test]
fn a_query_after_a_reload_does_not_join_one_from_before() {
    let mut world = World::new(udp(&["old"]));
    world.ask(&query(1, "a.example"));
    let (old, before) = world.queries.pop_front().expect("a query");
    let mut next = udp(&["new"]);
    next.upstreams[0].addr = literal("192.0.2.2:53");
    world.engine.handle_reload(world.now, Arc::new(next));
    world.pump();
    world.ask(&query(2, "a.example"));
    let (new, after) = world.queries.pop_front().expect("a query to the new one");
    world.upstream_says(old, &reply(&before, 300));
    world.ask(&query(3, "a.example"));
    assert_eq!(world.replies.len(), 1, "the old answer went to who had asked, not into the cache");
    world.upstream_says(new, &reply(&after, 300));
    assert_eq!(world.replies.len(), 3);
}

#[test]
fn reloads_under_load_do_not_pile_up_upstreams() {
    let mut world = World::new(udp(&["one"]));
    for n in 0..100u8 {
        world.ask(&query(n.into(), &format!("n{n}.example")));
        let mut next = udp(&["one"]);
        next.upstreams[0].addr = literal(&format!("192.0.2.{n}:53"));
        world.engine.handle_reload(world.now, Arc::new(next));
        world.pass(Duration::from_millis(500));
    }
    assert!(world.engine.upstream_places() <= 12, "{}", world.engine.upstream_places());
}

#[test]
fn both_replies_to_a_query_sent_twice_are_ours() {
    let mut world = World::new(udp(&["one"]));
    world.ask(&query(1, "a.example"));
    world.pass(Duration::from_millis(600));
    assert_eq!(world.queries.len(), 2);
    for (socket, sent) in std::mem::take(&mut world.queries) {
        world.upstream_says(socket, &reply(&sent, 300));
    }
    assert_eq!(world.replies.len(), 1);
    assert_eq!(world.count(Counter::ReplyLate), 1);
    assert_eq!(world.count(Counter::ReplyUnknownId), 0);
}

#[test]
fn with_no_send_left_a_truncated_reply_is_passed_on() {
    let mut settings = udp(&["one"]);
    settings.routing.attempts_max = 1;
    let mut world = World::new(settings);
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let mut truncated = error(&sent, 0);
    truncated[2] |= 2;
    world.upstream_says(socket, &truncated);
    let answer = world.replies.pop_front().expect("an answer");
    assert_eq!((rcode(&answer), answer[2] & 2), (0, 2));
    world.ask(&query(2, "a.example"));
    assert_eq!(world.queries.len(), 1, "and not kept");
}

#[test]
fn an_upstream_that_accepts_and_closes_is_not_connected_for_each_query() {
    let mut world = World::new(tcp());
    for n in 0..200 {
        world.ask(&query(n, &format!("n{n}.example")));
        while !world.connects.is_empty() {
            let conn = world.establish();
            world.break_conn(conn, Closed::Cleanly);
        }
        world.pass(Duration::from_millis(10));
    }
    // 2 s with waits of 100, 200, 400, 800 and 1600 ms.
    assert!(world.count(Counter::ConnsOpened) <= 6, "{}", world.count(Counter::ConnsOpened));
}

#[test]
fn a_reply_longer_than_any_datagram_we_take_is_asked_for_over_tcp() {
    let mut world = World::new(udp(&["one"]));
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let large = large_reply(&sent, 5_000);
    let mut wrong = large.clone();
    wrong[14] ^= 1;
    world.upstream_says(socket, &wrong);
    assert!(world.connects.is_empty(), "for another name");
    world.upstream_says(socket, &large);
    let conn = world.establish();
    let again = world.messages(conn).remove(0);
    world.stream_says(conn, &framed(&large_reply(&again, 5_000)));
    assert_eq!(rcode(&world.replies[0]), 0);
}

#[test]
fn who_may_not_ask_cannot_keep_others_from_connecting() {
    let mut settings = udp(&["one"]);
    settings.listen.max_connections = 32;
    let mut world = World::new(settings);
    let mut accept = |peer: &str| {
        let peer = peer.parse().expect("an address");
        world.engine.handle_accepted(world.now, TCP, peer)
    };
    assert!(accept("198.51.100.1:1").is_ok(), "to be told so");
    assert_eq!(accept("198.51.100.1:2"), Err(AcceptRefused::TooManyFromClient));
    assert!(accept("198.51.100.2:1").is_ok());
    assert_eq!(accept("198.51.100.3:1"), Err(AcceptRefused::TooManyConnections), "2 of 32");
    for n in 0..30 {
        let peer = format!("127.0.0.{}:1", 1 + n);
        assert!(accept(&peer).is_ok(), "{peer}");
    }
    assert_eq!(accept("127.0.0.99:1"), Err(AcceptRefused::TooManyConnections));
}

#[test]
fn one_ipv6_network_is_one_client() {
    let mut world = World::new(udp(&["one"]));
    for n in 0..10 {
        let peer = format!("[fd00::{n}]:1").parse().expect("an address");
        assert!(world.engine.handle_accepted(world.now, TCP, peer).is_ok());
    }
    let same = "[fd00::ffff:1]:1".parse().expect("an address");
    let refused = world.engine.handle_accepted(world.now, TCP, same);
    assert_eq!(refused, Err(AcceptRefused::TooManyFromClient));
    let other = "[fd00:0:0:1::1]:1".parse().expect("an address");
    assert!(world.engine.handle_accepted(world.now, TCP, other).is_ok());
}

#[test]
fn octets_that_are_no_query_end_a_stream() {
    let mut world = World::new(udp(&["one"]));
    for garbage in [&[0, 0][..], &[0, 3, 1, 2, 3]] {
        let conn = world.connect_client();
        world.stream_says(conn, garbage);
        assert_eq!(world.closed.last(), Some(&conn), "{garbage:?}");
    }
}

#[test]
fn no_more_octets_of_a_stream_have_left_than_were_handed_over() {
    let mut world = World::new(udp(&["one"]));
    world.writable = false;
    let conn = world.connect_client();
    for id in 1..3 {
        world.stream_says(conn, &framed(&query(id, "localhost")));
        for octets in [usize::MAX, usize::MAX, 1] {
            world.engine.handle_written(world.now, conn, octets);
        }
        world.pump();
    }
    assert_eq!(world.messages(conn).len(), 2);
    assert!(world.is_live(conn));
}

#[test]
fn an_id_is_not_free_because_of_an_icmp_error() {
    let mut world = World::new(udp(&["one"]));
    world.ask(&query(1, "a.example"));
    let (socket, _, sent) = world.next_query();
    world.engine.handle_socket_failed(world.now, socket, IoFailure::Refused);
    world.pump();
    // It was about another query on the same port; this one is answered.
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(world.count(Counter::ReplyLate), 1);
    assert_eq!(world.count(Counter::ReplyUnknownId), 0);
}

#[test]
fn a_connection_with_many_unanswered_queries_is_replaced_in_time() {
    let mut world = World::new(tcp());
    let mut conns = Vec::new();
    let mut told = 0;
    for n in 0..20_000u32 {
        world.ask(&query(1, &format!("n{n}.example")));
        if !world.connects.is_empty() {
            conns.push(world.establish());
        }
        for conn in conns.clone() {
            for (at, sent) in world.messages(conn).into_iter().enumerate() {
                // One in four is never answered.
                if !(n as usize + at).is_multiple_of(4) && !world.closed.contains(&conn) {
                    world.stream_says(conn, &framed(&reply(&sent, 300)));
                }
            }
        }
        world.pass(Duration::from_millis(2));
        told += world.replies.drain(..).filter(|answer| rcode(answer) == 2).count();
    }
    // The unanswered quarter fails for want of an answer, and nobody else for want of a connection.
    assert_eq!(world.count(Counter::UpstreamFull), 0);
    assert!(told <= 5_000, "{told}");
    assert!(conns.len() > 4, "{} connections were used in all", conns.len());
}
