//! Reloading and stopping.

use std::sync::Arc;

use super::harness::{World, client, query, rcode, reply, snapshot, upstream};
use crate::config::UpstreamProtocol::{Tcp, Udp};
use crate::engine::{AcceptRefused, Closed};
use crate::metrics::Counter;
use crate::time::Duration;

#[test]
fn stopping_waits_for_queries_in_flight_and_leaves_nothing() {
    let mut world = World::new(snapshot(vec![upstream("one", Udp)]));
    let conn = world.connect_client();
    let idle = world.connect_client();
    world.stream_says(conn, &[&[0, 27], &query(1, "a.example")[..]].concat());
    world.engine.handle_shutdown(world.now);
    world.pump();
    assert_eq!(world.closed_listeners.len(), 2);
    assert_eq!(world.closed, [idle]);
    assert!(!world.stopped);
    let late = world.engine.handle_accepted(world.now, super::harness::TCP, client());
    assert_eq!(late, Err(AcceptRefused::Stopping));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(world.messages(conn).len(), 1);
    assert!(world.stopped);
    assert!(world.open_sockets.is_empty());
    let sizes = world.engine.sizes();
    assert_eq!((sizes.fetches, sizes.waiters, sizes.sockets), (0, 0, 0));
    assert_eq!((sizes.client_conns, sizes.upstream_conns, sizes.timers), (0, 0, 0));
}

#[test]
fn stopping_ends_in_bounded_time() {
    let mut snapshot = snapshot(vec![upstream("one", Udp)]);
    snapshot.control.drain_timeout = Duration::from_secs(1);
    let mut world = World::new(snapshot);
    world.ask(&query(1, "a.example"));
    world.engine.handle_shutdown(world.now);
    world.pump();
    assert!(!world.stopped);
    world.pass(Duration::from_secs(1));
    assert!(world.stopped);
    assert_eq!(rcode(&world.replies[0]), 2, "told rather than left waiting");
    assert_eq!(world.engine.sizes().timers, 0);
}

#[test]
fn an_idle_engine_stops_at_once() {
    let mut world = World::new(snapshot(vec![upstream("one", Udp)]));
    world.engine.handle_shutdown(world.now);
    world.pump();
    assert!(world.stopped);
}

#[test]
fn a_removed_upstream_finishes_what_it_has_and_gets_nothing_new() {
    let mut world = World::new(snapshot(vec![upstream("old", Udp), upstream("kept", Udp)]));
    world.ask(&query(9, "known.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&sent, 60));
    world.replies.clear();
    world.pass(Duration::from_secs(10));
    world.ask(&query(1, "a.example"));
    let (old, sent) = world.queries.pop_front().expect("a query");
    let next = snapshot(vec![upstream("kept", Udp)]);
    world.engine.handle_reload(world.now, Arc::new(next));
    world.pump();
    assert_eq!(world.open_sockets, [old], "still waited for");
    world.upstream_says(old, &reply(&sent, 60));
    assert_eq!(rcode(&world.replies[0]), 0);
    assert!(world.open_sockets.is_empty());
    for n in 0..100 {
        world.ask(&query(n, &format!("n{n}.example")));
    }
    world.ask(&query(7, "known.example"));
    assert_eq!(world.count(Counter::CacheHits), 1, "the cache survives");
    assert_eq!(world.metrics.latencies().len(), 2);
}

#[test]
fn an_unchanged_upstream_keeps_its_connection() {
    let mut world = World::new(snapshot(vec![upstream("kept", Tcp)]));
    world.ask(&query(1, "a.example"));
    let conn = world.establish();
    let next = snapshot(vec![upstream("new", Tcp), upstream("kept", Tcp)]);
    world.engine.handle_reload(world.now, Arc::new(next));
    world.pump();
    assert!(world.closed.is_empty());
    let gone = snapshot(vec![upstream("new", Tcp)]);
    world.engine.handle_reload(world.now, Arc::new(gone));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.closed, [conn], "closed once its query was over");
}

#[test]
fn inputs_for_what_has_gone_are_counted_and_nothing_else() {
    let mut world = World::new(snapshot(vec![upstream("one", Udp)]));
    let conn = world.connect_client();
    world.break_conn(conn, Closed::Cleanly);
    world.stream_says(conn, b"anything");
    world.engine.handle_end_of_stream(world.now, conn);
    world.engine.handle_written(world.now, conn, 5);
    world.engine.handle_closed(world.now, conn, Closed::Cleanly);
    assert_eq!(world.count(Counter::DeadHandles), 4);
}

#[test]
fn what_comes_after_the_end_changes_nothing() {
    let mut world = World::new(snapshot(vec![upstream("one", Udp)]));
    world.engine.handle_shutdown(world.now);
    world.pump();
    assert!(world.stopped);
    world.ask(&query(1, "a.example"));
    let other = snapshot(vec![upstream("two", Udp)]);
    world.engine.handle_reload(world.now, Arc::new(other));
    world.ask(&query(2, "b.example"));
    assert!(world.queries.is_empty() && world.open_sockets.is_empty());
    assert!(world.replies.iter().all(|reply| rcode(reply) == 2));
    assert_eq!(world.engine.next_timeout(), None);
}
