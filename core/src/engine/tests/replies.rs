//! What clients are told at once, what is counted and logged of it, and replies that have to wait.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::harness::{
    TCP, UDP, World, blocking, client, error, id, literal, query, rcode, reply, snapshot, upstream,
};
use crate::batch::{ReceiveBatch, TransmitBatch, Via};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::engine::{
    AcceptRefused, Action, AdminAnswer, AdminCall, CallId, Closed, Established, Event, IoFailure,
    Origin, ProcessExit, QueryRecord, Transport,
};
use crate::handle::{ConnHandle, Exchange, Process, Slab};
use crate::metrics::Counter;
use crate::policy::{Acl, Blocklist, Hosts, Reason};
use crate::time::{Duration, Instant};
use crate::wire::Rcode;

fn one() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Udp)])
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short");
    [&length.to_be_bytes(), message].concat()
}

/// An OPT record of this version, for datagrams of this size.
fn with_opt(mut message: Vec<u8>, size: u16, version: u8) -> Vec<u8> {
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41]);
    message.extend_from_slice(&size.to_be_bytes());
    message.extend_from_slice(&[0, version, 0, 0, 0, 0]);
    message
}

fn typed(name: &str, record_type: u8) -> Vec<u8> {
    let mut message = query(1, name);
    let at = message.len() - 3;
    message[at] = record_type;
    message
}

/// A reply to a query with this many addresses.
fn addresses(sent: &[u8], count: u8) -> Vec<u8> {
    let mut message = error(sent, 0);
    message[7] = count;
    for last in 0..count {
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
    }
    message
}

#[test]
fn what_is_no_proper_query_is_told_why_and_counted() {
    let mut world = World::new(one());
    let mut garbage = query(1, "a.example");
    garbage.push(0);
    let mut other_opcode = query(1, "a.example");
    other_opcode[2] |= 2 << 3;
    let badvers = with_opt(query(1, "a.example"), 1_232, 1);
    for (message, code, counter) in [
        (garbage, 1, Counter::RepliesFormErr),
        (other_opcode, 4, Counter::RepliesNotImp),
        (badvers, 0, Counter::RepliesOther),
    ] {
        world.ask(&message);
        let told = world.replies.pop_front().expect("a reply");
        assert_eq!((id(&told), rcode(&told)), (1, code));
        assert_eq!(world.count(counter), 1);
    }
    world.ask(b"short");
    world.ask(&error(&query(1, "a.example"), 0));
    assert!(world.replies.is_empty() && world.queries.is_empty());
    assert_eq!(world.count(Counter::DroppedGarbage), 2);
    assert_eq!(world.count(Counter::Queries), 3, "garbage is none");
}

#[test]
fn who_may_not_ask_is_refused_whatever_is_asked() {
    let mut snapshot = one();
    snapshot.acl = Acl::new(vec!["192.0.2.0/24".parse().expect("a network")]);
    let mut world = World::new(snapshot);
    let mut malformed = query(1, "a.example");
    malformed.push(0);
    for message in [query(1, "a.example"), malformed, with_opt(query(1, "a.example"), 512, 0)] {
        world.ask(&message);
        assert_eq!(rcode(&world.replies.pop_front().expect("a reply")), 5);
    }
    assert_eq!(world.count(Counter::AclRefused), 3);
    assert!(world.queries.is_empty());
}

#[test]
fn a_chain_without_an_end_is_servfail() {
    let mut snapshot = one();
    snapshot.chain.pop();
    let mut world = World::new(snapshot);
    world.ask(&query(1, "a.example"));
    assert_eq!(rcode(&world.replies[0]), 2);
}

#[test]
fn the_hosts_file_answers_by_type_and_with_no_data() {
    let mut snapshot = one();
    let text = "192.0.2.9 both.example\n2001:db8::9 both.example\n192.0.2.8 four.example\n";
    snapshot.hosts = Some(Arc::new(Hosts::parse(text, 60).0));
    let mut world = World::new(snapshot);
    let mut ask = |message: Vec<u8>| {
        world.ask(&message);
        let reply = world.replies.pop_front().expect("a reply");
        assert_eq!(rcode(&reply), 0);
        (reply[7], reply[9], *reply.last().expect("octets"))
    };
    assert_eq!(ask(typed("both.example", 1)), (1, 0, 9));
    assert_eq!(ask(typed("both.example", 28)), (1, 0, 9));
    let (answers, authorities, _) = ask(typed("four.example", 28));
    assert_eq!((answers, authorities), (0, 1), "no data, with a SOA");
    assert_eq!(ask(typed("9.2.0.192.in-addr.arpa", 12)).0, 1, "the name of the address");
    assert_eq!(world.count(Counter::HostsAnswers), 4);
    assert!(world.queries.is_empty());
}

#[test]
fn a_reload_brings_its_own_blacklist() {
    let blocking = |name| {
        let mut builder = Blocklist::builder();
        builder.insert(name).expect("a name");
        let mut snapshot = one();
        snapshot.blocking = blocking(builder.build());
        snapshot
    };
    let mut world = World::new(blocking("old.example"));
    world.ask(&query(1, "old.example"));
    assert_eq!(rcode(&world.replies.pop_front().expect("a reply")), 5);
    world.engine.handle_reload(world.now, Arc::new(blocking("new.example")));
    world.ask(&query(2, "new.example"));
    assert_eq!(rcode(&world.replies.pop_front().expect("a reply")), 5);
    world.ask(&query(3, "old.example"));
    assert!(world.replies.is_empty());
    assert_eq!(world.queries.len(), 1, "forwarded");
    assert_eq!(world.count(Counter::Blocked), 2);
}

#[test]
fn replies_are_counted_by_rcode_over_either_transport() {
    let mut world = World::new(one());
    let conn = world.connect_client();
    for number in 0..2 {
        let message = query(number, &format!("n{number}.example"));
        if number == 0 {
            world.ask(&message);
        } else {
            world.stream_says(conn, &framed(&message));
        }
        let (socket, sent) = world.queries.pop_front().expect("a query");
        world.upstream_says(socket, &error(&sent, 3));
    }
    assert_eq!((world.replies.len(), world.messages(conn).len()), (1, 1));
    assert_eq!(world.count(Counter::RepliesNxDomain), 2);
    assert_eq!(world.count(Counter::Queries), 2);
    assert_eq!((world.count(Counter::QueriesUdp), world.count(Counter::QueriesTcp)), (1, 1));
}

#[test]
fn who_waited_gets_no_more_than_it_takes() {
    for (size, count, is_cut) in [(512, 20, false), (512, 40, true), (1_232, 40, false)] {
        let mut world = World::new(one());
        world.ask(&with_opt(query(1, "a.example"), size, 0));
        let (socket, sent) = world.queries.pop_front().expect("a query");
        world.upstream_says(socket, &addresses(&sent, count));
        let reply = world.replies.pop_front().expect("a reply");
        assert!(reply.len() <= usize::from(size));
        assert_eq!((reply[2] & 2 != 0, reply[7] == 0), (is_cut, is_cut));
        assert_eq!(world.count(Counter::RepliesTruncated), u64::from(is_cut));
    }
}

/// A batch of the same query, asked of this address of ours.
fn received(messages: &[Vec<u8>], local: IpAddr) -> ReceiveBatch {
    let mut batch = ReceiveBatch::new(messages.len(), 64);
    for message in messages {
        batch.push(client(), Some(local), message).expect("room");
    }
    batch
}

#[test]
fn replies_leave_from_the_address_that_was_asked_now_or_later() {
    let local = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
    let mut world = World::new(one());
    let mut transmit = TransmitBatch::new(1, 1_232);
    let both = [query(1, "a.example"), query(2, "localhost"), query(3, "localhost")];
    let batch = received(&both, local);
    world.engine.handle_datagrams(world.now, Origin::Listener(UDP), &batch, &mut transmit);
    // The batch has one slot: the other answer waits.
    let mut seen: Vec<(Via, u16)> = Vec::new();
    let mut take = |transmit: &mut TransmitBatch| {
        seen.extend(transmit.iter().map(|(meta, message)| (meta.via, id(message))));
        transmit.clear();
    };
    take(&mut transmit);
    assert!(!world.engine.poll_transmit(world.now, &mut transmit));
    take(&mut transmit);
    world.pump();
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let mut answer = ReceiveBatch::new(1, 512);
    answer.push(client(), None, &reply(&sent, 60)).expect("room");
    world.engine.handle_datagrams(world.now, Origin::Socket(socket), &answer, &mut transmit);
    take(&mut transmit);
    let via = Via::Listener { listener: UDP, peer: client(), source: Some(local) };
    assert_eq!(seen, [(via, 2), (via, 3), (via, 1)]);
}

#[test]
fn answers_for_a_batch_without_room_wait_their_turn() {
    let mut world = World::new(one());
    for number in 0..3 {
        world.ask(&query(number, "a.example"));
    }
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let mut answer = ReceiveBatch::new(1, 512);
    answer.push(client(), None, &reply(&sent, 60)).expect("room");
    let mut transmit = TransmitBatch::new(1, 1_232);
    world.engine.handle_datagrams(world.now, Origin::Socket(socket), &answer, &mut transmit);
    let mut ids = Vec::new();
    let mut more = true;
    while more {
        ids.extend(transmit.iter().map(|(_, message)| id(message)));
        transmit.clear();
        more = world.engine.poll_transmit(world.now, &mut transmit);
    }
    ids.extend(transmit.iter().map(|(_, message)| id(message)));
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(world.count(Counter::RepliesNoError), 3);
}

#[test]
fn slots_that_are_too_small_lose_a_datagram_and_say_so() {
    let mut world = World::new(one());
    world.opens_at_once = false;
    world.ask(&query(1, "a.example"));
    let socket = world.opening.pop().expect("a socket");
    world.engine.handle_socket_opened(world.now, socket);
    let mut small = TransmitBatch::new(1, 12);
    assert!(!world.engine.poll_transmit(world.now, &mut small));
    assert!(small.is_empty());
    assert_eq!(world.count(Counter::SendFailures), 1);
}

#[test]
fn datagrams_longer_than_a_slot_are_no_queries() {
    let mut world = World::new(one());
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let batch = received(&[with_opt(query(1, &"x".repeat(63)), 512, 0)], local);
    let mut transmit = TransmitBatch::new(1, 1_232);
    world.engine.handle_datagrams(world.now, Origin::Listener(UDP), &batch, &mut transmit);
    assert!(transmit.is_empty());
    assert_eq!(world.count(Counter::DroppedTooLong), 1);
    assert_eq!(world.count(Counter::Queries), 0);
}

#[test]
fn queries_are_logged_when_that_is_asked_for() {
    let mut snapshot = one();
    snapshot.logging.log_queries = true;
    let mut world = World::new(snapshot);
    world.ask(&query(1, "Local.test"));
    world.ask(&query(2, "a.example"));
    world.pass(Duration::from_millis(12));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&sent, 60));
    let mut no_question = query(3, "a.example");
    no_question.truncate(12);
    no_question[5] = 0;
    world.ask(&no_question);
    let record = |event: &Event| {
        let Event::Query(record) = event else { panic!("{event:?}") };
        (**record).clone()
    };
    let records: Vec<QueryRecord> = world.events.iter().map(record).collect();
    let seen: Vec<_> = records
        .iter()
        .map(|record| (record.name.to_vec(), record.rcode, record.reason, record.took.as_millis()))
        .collect();
    assert_eq!(
        seen,
        [
            (b"\x05Local\x04test\0".to_vec(), Rcode::NXDOMAIN, Reason::SpecialName, 0),
            (b"\x01a\x07example\0".to_vec(), Rcode::NOERROR, Reason::Forwarded, 12),
            (Vec::new(), Rcode::FORMERR, Reason::Malformed, 0),
        ]
    );
    assert!(records.iter().all(|record| record.client == client()));
    assert!(records.iter().all(|record| record.transport == Transport::Udp));
    assert_eq!(
        world.events[1].to_string(),
        "127.0.0.1:40000 udp a.example. A -> NOERROR (forwarded) in 12000 us"
    );
}

#[test]
fn a_client_that_resets_leaves_nothing() {
    let mut world = World::new(one());
    for how in [Closed::Cleanly, Closed::Failed(IoFailure::Reset)] {
        let conn = world.connect_client();
        world.stream_says(conn, &framed(&query(1, "a.example")));
        world.break_conn(conn, how);
        assert_eq!((world.engine.sizes().client_conns, world.shared.open_connections()), (0, 0));
    }
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(world.count(Counter::DroppedClientGone), 2);
}

#[test]
fn what_a_proxy_announces_is_the_client() {
    let mut snapshot = one();
    snapshot.logging.log_queries = true;
    let mut world = World::new(snapshot);
    let conn = world.engine.handle_accepted(world.now, TCP, client()).expect("room").conn;
    let announced = "[::ffff:192.0.2.77]:9".parse().ok();
    let how = Established { client: announced, ..Established::default() };
    world.engine.handle_established(world.now, conn, how);
    world.engine.handle_bytes(world.now, conn, &framed(&query(1, "localhost")));
    let mut actions = std::iter::from_fn(|| world.engine.poll_action(world.now));
    let record = actions.find_map(|action| {
        let Action::Report(Event::Query(record)) = action else { return None };
        Some(record)
    });
    // It connected as a local client, but asks as one that may not.
    let record = record.expect("logged");
    assert_eq!(record.client.to_string(), "192.0.2.77:9");
    assert_eq!(record.reason, Reason::NotAllowed);
}

#[test]
fn what_nobody_asked_for_is_refused_and_counted() {
    let mut world = World::new(one());
    let conn: ConnHandle = world.connect_client();
    let mut exchanges: Slab<Exchange, ()> = Slab::new(1);
    let exchange = exchanges.insert(()).expect("room");
    let mut processes: Slab<Process, ()> = Slab::new(1);
    let process = processes.insert(()).expect("room");
    let (engine, now) = (&mut world.engine, world.now);
    let opened = engine.handle_exchange_opened(now, conn, &http::Request::new(()).into_parts().0);
    assert_eq!(opened, Err(AcceptRefused::Stopping));
    engine.handle_exchange_reset(now, exchange);
    engine.handle_exchange_answered(now, exchange, &http::Response::default());
    engine.handle_exchange_failed(now, exchange, IoFailure::Reset);
    engine.handle_process_bytes(now, process, b"{}");
    engine.handle_process_exited(now, process, ProcessExit::Code(0));
    assert!(engine.poll_action(now).is_none());
    assert_eq!(world.count(Counter::DeadHandles), 6);
}

#[test]
fn events_for_what_has_gone_change_one_counter() {
    let mut world = World::new(snapshot(vec![
        upstream("one", UpstreamProtocol::Udp),
        upstream("two", UpstreamProtocol::Udp),
    ]));
    let conn = world.connect_client();
    world.break_conn(conn, Closed::Cleanly);
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.engine.handle_socket_failed(world.now, socket, IoFailure::NoResources);
    world.pump();
    let before = world.engine.sizes();
    let (engine, now) = (&mut world.engine, world.now);
    engine.handle_established(now, conn, Established::default());
    engine.handle_bytes(now, conn, b"x");
    engine.handle_end_of_stream(now, conn);
    engine.handle_written(now, conn, 1);
    engine.handle_closed(now, conn, Closed::Cleanly);
    engine.handle_socket_opened(now, socket);
    engine.handle_socket_failed(now, socket, IoFailure::Other);
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(world.count(Counter::DeadHandles), 8);
    assert_eq!(world.engine.sizes(), before);
    assert!(world.replies.is_empty());
}

#[test]
fn operators_are_told_sizes_and_sends_that_failed_are_counted() {
    let mut world = World::new(one());
    world.ask(&query(1, "a.example"));
    world.engine.handle_send_failed(world.now, UDP, IoFailure::Unreachable);
    assert_eq!(world.count(Counter::SendFailures), 1);
    world.engine.handle_admin(world.now, CallId(7), AdminCall::Sizes);
    let Some(Action::AnswerAdmin { call, answer }) = world.engine.poll_action(world.now) else {
        panic!("no answer")
    };
    let AdminAnswer::Sizes(sizes) = answer;
    assert_eq!(call, CallId(7));
    assert_eq!((sizes.fetches, sizes.waiters, sizes.sockets), (1, 1, 1));
}

#[test]
fn time_never_goes_back() {
    let mut world = World::new(one());
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&sent, 60));
    world.replies.clear();
    world.pass(Duration::from_secs(9));
    world.ask(&query(2, "a.example"));
    world.replies.clear();
    world.now = Instant::ZERO; // a mistake of the caller's
    world.ask(&query(2, "a.example"));
    let aged = world.replies.pop_front().expect("a reply");
    assert_eq!(
        super::harness::ttl(&aged, &query(2, "a.example")),
        60 - 9,
        "an earlier time is the latest one"
    );
}

#[test]
fn an_upstream_without_room_is_passed_over() {
    let mut first = upstream("first", UpstreamProtocol::Tcp);
    first.max_in_flight = 1;
    let mut second = upstream("second", UpstreamProtocol::Udp);
    second.addr = literal("192.0.2.2:53");
    let mut world = World::new(snapshot(vec![first, second]));
    world.ask(&query(1, "a.example"));
    assert_eq!(world.connects.len(), 1);
    world.ask(&query(2, "b.example"));
    assert_eq!(world.queries.len(), 1, "the second one is asked");
    assert_eq!(world.count(Counter::UpstreamFull), 1);
}

#[test]
fn a_refusal_that_is_passed_on_needs_its_question() {
    let mut snapshot = one();
    snapshot.routing.failover_on.clear();
    let mut world = World::new(snapshot);
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &error(&sent, 5));
    assert_eq!(rcode(&world.replies.pop_front().expect("a reply")), 5, "as it came");

    world.ask(&query(2, "b.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let mut without = error(&sent, 5);
    without.truncate(12);
    without[5] = 0;
    world.upstream_says(socket, &without);
    assert_eq!(rcode(&world.replies.pop_front().expect("a reply")), 2, "nothing to pass on");
    assert_eq!(world.count(Counter::UpstreamMalformed), 1);
}

#[test]
fn workers_are_counted_apart_and_known_together() {
    let world = World::new(one());
    let second = world.shared.worker_metrics(1);
    second.counters.count(Counter::Queries);
    let all = world.shared.all_metrics();
    let counted: Vec<u64> = all.iter().map(|one| one.counters.value(Counter::Queries)).collect();
    assert_eq!(counted, [0, 1]);
    let again = world.shared.worker_metrics(1);
    assert!(Arc::ptr_eq(&again, &second), "a worker that is started again goes on with them");
}
