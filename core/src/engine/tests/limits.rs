//! At a bound the newest is shed, counted, and told so where that is cheap.

use super::harness::{
    TCP, UDP, World, client, error, id, literal, query, rcode, snapshot, upstream,
};
use crate::batch::{ReceiveBatch, TransmitBatch};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::engine::{AcceptRefused, Event, Origin};
use crate::limits;
use crate::metrics::Counter;
use crate::time::Duration;

fn silent(names: &[&str]) -> Snapshot {
    let upstreams = names.iter().enumerate().map(|(place, name)| {
        let mut upstream = upstream(name, UpstreamProtocol::Udp);
        upstream.addr = literal(&format!("192.0.2.{}:53", place + 1));
        upstream.max_in_flight = usize::MAX;
        upstream
    });
    snapshot(upstreams.collect())
}

/// Asks the same for each of these names, without taking anything out meanwhile.
fn ask_all(world: &mut World, names: impl Iterator<Item = String>) {
    let mut batch = ReceiveBatch::new(64, 64);
    let mut transmit = TransmitBatch::new(1, 1_232);
    transmit
        .reserve()
        .expect("room")
        .commit(crate::batch::Via::Listener { listener: UDP, peer: client(), source: None }, 0); // no room
    let mut names = names.peekable();
    while names.peek().is_some() {
        batch.clear();
        for name in names.by_ref().take(64) {
            batch.push(client(), None, &query(7, &name)).expect("room");
        }
        world.engine.handle_datagrams(world.now, Origin::Listener(UDP), &batch, &mut transmit);
    }
}

fn reached(world: &World, limit: &str) -> bool {
    let is_it = |event: &Event| matches!(event, Event::LimitReached { limit: at } if *at == limit);
    world.events.iter().any(is_it)
}

#[test]
fn one_question_has_so_many_waiters() {
    let mut world = World::new(silent(&["one"]));
    let names = std::iter::repeat_n("a.example".to_owned(), limits::WAITERS_PER_FETCH + 1);
    ask_all(&mut world, names);
    world.pump();
    assert_eq!(world.replies.len(), 1, "the last one is told at once");
    assert_eq!(rcode(&world.replies[0]), 2);
    assert_eq!(world.engine.sizes().waiters, limits::WAITERS_PER_FETCH);
    assert_eq!(world.count(Counter::LimitWaiters), 1);
    assert!(reached(&world, "waiters of one fetch"));
    world.engine.audit().expect("whole");
}

#[test]
fn all_questions_together_have_so_many_waiters() {
    let mut world = World::new(silent(&["one"]));
    let each = limits::WAITERS_PER_FETCH;
    let names = (0..=limits::WAITERS).map(|number| format!("n{}.example", number / each));
    ask_all(&mut world, names);
    world.pump();
    assert_eq!(world.engine.sizes().waiters, limits::WAITERS);
    assert_eq!((world.replies.len(), world.count(Counter::LimitWaiters)), (1, 1));
    assert!(reached(&world, "waiters"));
    world.engine.audit().expect("whole");
}

#[test]
fn so_many_questions_are_asked() {
    let mut world = World::new(silent(&["one"]));
    let names = (0..limits::FETCHES + 10).map(|number| format!("n{number}.example"));
    ask_all(&mut world, names);
    world.pump();
    assert_eq!(world.engine.sizes().fetches, limits::FETCHES);
    assert_eq!((world.replies.len(), world.count(Counter::LimitFetches)), (10, 10));
    assert!(reached(&world, "fetches"));
    world.engine.audit().expect("whole");
}

#[test]
fn so_many_datagrams_wait() {
    let mut world = World::new(silent(&["one"]));
    let names = std::iter::repeat_n("localhost".to_owned(), limits::OUTBOX_DATAGRAMS + 10);
    ask_all(&mut world, names);
    world.engine.audit().expect("whole");
    world.pump();
    assert_eq!(world.replies.len(), limits::OUTBOX_DATAGRAMS);
    assert!(world.replies.iter().all(|reply| id(reply) == 7));
    assert_eq!(world.count(Counter::LimitOutbox), 10);
    assert!(reached(&world, "outbox"));
}

#[test]
fn so_many_sockets_are_open() {
    // Each of them has some for itself until there are none left; then those that are there serve.
    let count = limits::SOCKETS / limits::SOCKETS_PER_UPSTREAM + 6;
    let names: Vec<String> = (0..count).map(|number| format!("up{number}")).collect();
    let mut snapshot = silent(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (place, upstream) in snapshot.upstreams.iter_mut().enumerate() {
        upstream.addr = literal(&format!("192.0.2.{}:{}", place % 250 + 1, 53 + place / 250));
    }
    let zones = (0..count)
        .map(|place| vec![crate::wire::Name::parse(&format!("z{place}")).expect("a name")]);
    snapshot.routes = crate::upstream::Routes::new(&zones.collect::<Vec<_>>());
    let mut world = World::new(snapshot);
    for place in 0..count {
        let names = (0..120).map(|number| format!("n{number}.z{place}"));
        ask_all(&mut world, names);
        world.pump();
        world.queries.clear();
        if place % 16 == 0 {
            world.engine.audit().expect("whole");
        }
    }
    assert_eq!(world.engine.sizes().sockets, limits::SOCKETS);
    assert!(world.count(Counter::LimitSockets) > 0);
    assert!(reached(&world, "upstream sockets"));
    assert!(!world.replies.is_empty(), "the last upstreams have no socket at all");
    assert!(world.replies.iter().all(|reply| rcode(reply) == 2));
    world.engine.audit().expect("whole");
}

#[test]
fn so_many_connections_have_a_place() {
    let mut snapshot = silent(&["one"]);
    snapshot.listen.max_connections = usize::MAX;
    snapshot.listen.max_connections_per_client = usize::MAX;
    let mut world = World::new(snapshot);
    for _ in 0..limits::CONNS {
        world.engine.handle_accepted(world.now, TCP, client()).expect("room");
    }
    let refused = world.engine.handle_accepted(world.now, TCP, client());
    assert_eq!(refused, Err(AcceptRefused::TooManyConnections));
    assert_eq!(world.count(Counter::ConnsRefused), 1);
    assert_eq!(world.shared.open_connections(), limits::CONNS, "the last one is not counted");
    // An upstream that has to be asked over TCP finds no place either.
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let mut truncated = error(&sent, 0);
    truncated[2] |= 2;
    world.upstream_says(socket, &truncated);
    assert_eq!(rcode(&world.replies[0]), 2);
    assert!(reached(&world, "connections"));
    world.engine.audit().expect("whole");
}

#[test]
fn so_many_events_wait() {
    let mut snapshot = silent(&["one"]);
    snapshot.logging.log_queries = true;
    let mut world = World::new(snapshot);
    let names = std::iter::repeat_n("localhost".to_owned(), limits::EVENTS + 10);
    ask_all(&mut world, names);
    world.engine.audit().expect("whole");
    assert_eq!(world.count(Counter::LimitEvents), 10);
    world.pump();
    assert_eq!(world.events.len(), limits::EVENTS);
}

#[test]
fn a_connection_to_an_upstream_carries_so_many_queries() {
    let mut by_stream = upstream("one", UpstreamProtocol::Tcp);
    by_stream.max_in_flight = usize::MAX;
    let mut world = World::new(snapshot(vec![by_stream]));
    let all = limits::CONNS_PER_UPSTREAM * limits::PIPELINE_PER_CONN;
    ask_all(&mut world, (0..all + 5).map(|number| format!("n{number}.example")));
    world.pump();
    assert_eq!(world.connects.len(), limits::CONNS_PER_UPSTREAM);
    assert_eq!(world.engine.sizes().fetches, all);
    assert_eq!(world.replies.len(), 5, "nobody else can be asked");
    assert_eq!(world.count(Counter::UpstreamFull), 5);
    world.engine.audit().expect("whole");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.replies.len(), all + 5);
    world.engine.audit().expect("whole");
}

#[test]
fn a_question_may_be_put_to_so_many() {
    let names: Vec<String> = (0..limits::CANDIDATES + 6).map(|n| format!("up{n}")).collect();
    let mut world = World::new(silent(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    world.ask(&query(1, "a.example"));
    world.engine.audit().expect("whole");
    let (_, fetch) = world.engine.fetches.iter().next().expect("it is asked");
    assert_eq!(fetch.candidates.len(), limits::CANDIDATES);
}

#[test]
fn the_last_place_may_go_to_a_probe_or_to_nobody() {
    let mut world = World::new(silent(&["one", "two"]));
    world.ask(&query(1, "first.example"));
    let (socket, ..) = world.next_query();
    world.engine.handle_socket_failed(world.now, socket, crate::engine::IoFailure::Refused);
    world.pump();
    world.pass(Duration::from_secs(1));
    let free = limits::FETCHES - world.engine.sizes().fetches;
    // The first of these leads to the probe that is due; the rest fill the table but for one place.
    ask_all(&mut world, (0..free - 2).map(|number| format!("n{number}.example")));
    world.pump();
    assert_eq!(world.count(Counter::UpstreamProbes), 1);
    assert_eq!(world.engine.sizes().fetches, limits::FETCHES - 1);
    world.replies.clear();
    world.pass(Duration::from_millis(1));
    // When the next probe is due it takes the last place. Nobody has called for the timeouts
    // meanwhile, so that all questions are still there.
    world.now = world.now + Duration::from_secs(2);
    ask_all(&mut world, std::iter::once("late.example".to_owned()));
    world.pump();
    assert_eq!(world.count(Counter::UpstreamProbes), 2);
    let told = world.replies.iter().filter(|reply| rcode(reply) == 2).count();
    assert_eq!(told, 1, "the question itself has no place any more");
    assert_eq!(world.engine.sizes().fetches, limits::FETCHES);
    world.engine.audit().expect("whole");
}
