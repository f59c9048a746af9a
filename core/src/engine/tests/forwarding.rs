//! Datagrams in and out: misses, hits, what does not count as a reply, and the next candidate.

use std::collections::BTreeSet;

use super::harness::{UDP, World, client, error, id, query, rcode, reply, snapshot, ttl, upstream};
use crate::batch::{ReceiveBatch, TransmitBatch};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::engine::{Action, Event, IoFailure, Origin};
use crate::limits::{QUERIES_PER_SOCKET, SOCKET_AGE};
use crate::metrics::Counter;
use crate::time::Duration;

fn one() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Udp)])
}

fn two() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Udp), upstream("two", UpstreamProtocol::Udp)])
}

#[test]
fn upstreams_are_asked_from_the_configured_address() {
    let own = "192.0.2.99".parse().ok();
    for protocol in [UpstreamProtocol::Udp, UpstreamProtocol::Tcp] {
        for expected in [None, own] {
            let mut snapshot = snapshot(vec![upstream("one", protocol)]);
            snapshot.upstreams[0].source = expected;
            let mut world = World::new(snapshot);
            let mut received = ReceiveBatch::new(1, 512);
            received.push(client(), None, &query(1, "a.example")).expect("room");
            let (origin, mut transmit) = (Origin::Listener(UDP), TransmitBatch::new(1, 512));
            world.engine.handle_datagrams(world.now, origin, &received, &mut transmit);
            let action = world.engine.poll_action(world.now);
            let Some(Action::OpenSocket { source, .. } | Action::Connect { source, .. }) = action
            else {
                panic!("{action:?}")
            };
            assert_eq!(source, expected, "{protocol:?}");
        }
    }
}

#[test]
fn a_miss_is_forwarded_and_then_hit_with_an_aged_ttl() {
    let mut world = World::new(one());
    let asked = query(0x1234, "www.Example.org");
    world.ask(&asked);
    let (socket, sent) = world.queries.pop_front().expect("a query upstream");
    assert_ne!(id(&sent), 0x1234, "our own id");
    world.upstream_says(socket, &reply(&sent, 300));
    let answer = world.replies.pop_front().expect("an answer");
    assert_eq!(id(&answer), 0x1234);
    assert_eq!(answer[12..asked.len()], asked[12..], "the question as it was spelled");
    assert_eq!(ttl(&answer, &asked), 300);

    world.pass(Duration::from_millis(61_900));
    let again = query(0x4321, "WWW.example.ORG");
    world.ask(&again);
    let answer = world.replies.pop_front().expect("an answer");
    assert!(world.queries.is_empty(), "from the cache");
    assert_eq!((id(&answer), ttl(&answer, &again)), (0x4321, 300 - 61));
    assert_eq!(answer[12..again.len()], again[12..]);

    world.pass(Duration::from_secs(300));
    world.ask(&again);
    assert_eq!(world.queries.len(), 1, "expired");
    assert_eq!(world.count(Counter::CacheHits), 1);
    assert_eq!(world.count(Counter::CacheMisses), 2);
}

#[test]
fn what_does_not_match_does_not_consume_the_attempt() {
    let mut world = World::new(one());
    let asked = query(1, "a.example");
    world.ask(&asked);
    let (socket, sent) = world.queries.pop_front().expect("a query");
    let right = reply(&sent, 60);

    let mut wrong_id = right.clone();
    wrong_id[0] ^= 1;
    let mut wrong_name = right.clone();
    wrong_name[13] ^= 1;
    let mut wrong_type = right.clone();
    let type_at = asked.len() - 3;
    wrong_type[type_at] = 28;
    let mut not_a_reply = right.clone();
    not_a_reply[2] &= 0x7f;
    for wrong in [wrong_id, wrong_name, wrong_type, not_a_reply, right[..9].to_vec(), Vec::new()] {
        world.upstream_says(socket, &wrong);
        assert!(world.replies.is_empty(), "{wrong:?} was taken");
    }
    world.upstream_says(socket, &right);
    assert_eq!(world.replies.len(), 1);
    assert_eq!(world.count(Counter::ReplyUnknownId), 1);
    assert_eq!(world.count(Counter::ReplyWrongQuestion), 2);
    assert_eq!(world.count(Counter::ReplyGarbage), 3);
    assert_eq!(world.count(Counter::UpstreamSends), 1);
}

#[test]
fn identical_questions_share_one_fetch() {
    let mut world = World::new(one());
    for n in 0..50 {
        world.ask(&query(n, if n % 2 == 0 { "a.example" } else { "A.EXAMPLE" }));
    }
    assert_eq!(world.queries.len(), 1);
    let (socket, sent) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&sent, 60));
    let ids: BTreeSet<u16> = world.replies.iter().map(|answer| id(answer)).collect();
    assert_eq!(ids, (0..50).collect());
    assert_eq!(world.replies[1][13], b'A');
    assert_eq!(world.count(Counter::Coalesced), 49);
    assert_eq!(world.engine.sizes().waiters, 0);
}

#[test]
fn a_refusing_network_means_the_next_candidate_at_once() {
    let mut world = World::new(two());
    world.ask(&query(1, "a.example"));
    let (first, _) = world.queries.pop_front().expect("a query");
    world.engine.handle_socket_failed(world.now, first, IoFailure::Refused);
    world.pump();
    let (second, sent) = world.queries.pop_front().expect("a query to the next");
    assert_ne!(first, second);
    world.upstream_says(second, &reply(&sent, 60));
    assert_eq!(rcode(&world.replies[0]), 0);
    let (upstream, failure) = ("one".into(), IoFailure::Refused);
    let addr = "192.0.2.1:53".parse().expect("an address");
    let failed = Event::UpstreamFailed { upstream, addr, failure, failures: 1 };
    assert!(world.events.contains(&failed));
}

#[test]
fn silence_is_met_with_the_same_query_again_then_with_the_next_candidate() {
    let mut world = World::new(two());
    world.ask(&query(1, "a.example"));
    let (first, sent) = world.queries.pop_front().expect("a query");
    world.pass(Duration::from_millis(400));
    assert_eq!(world.queries.pop_front(), Some((first, sent.clone())), "same socket, same id");
    world.pass(Duration::from_millis(1_599));
    assert_eq!(world.queries.drain(..).count(), 1, "once more after 800 ms");
    world.pass(Duration::from_millis(1));
    let (second, other) = world.queries.pop_front().expect("the next candidate at 2 s");
    assert_ne!(second, first);
    world.upstream_says(first, &reply(&sent, 60));
    assert_eq!(world.count(Counter::ReplyLate), 1, "too late to count");
    world.upstream_says(second, &reply(&other, 60));
    assert_eq!(world.replies.len(), 1);
}

#[test]
fn an_rcode_of_failover_on_means_the_next_candidate_and_the_first_one_is_told() {
    let mut world = World::new(two());
    world.ask(&query(1, "a.example"));
    for refused in [5, 2] {
        let (socket, sent) = world.queries.pop_front().expect("a query");
        world.upstream_says(socket, &error(&sent, refused));
    }
    assert_eq!(rcode(&world.replies[0]), 5);
    world.ask(&query(2, "a.example"));
    assert_eq!(world.queries.len(), 1, "REFUSED is not cached");
}

#[test]
fn the_deadline_ends_in_servfail_which_is_kept_briefly() {
    let mut world = World::new(two());
    world.ask(&query(1, "a.example"));
    world.pass(Duration::from_millis(4_499));
    assert!(world.replies.is_empty());
    world.pass(Duration::from_millis(1));
    assert_eq!(rcode(&world.replies.pop_front().expect("an answer")), 2);
    assert!(world.count(Counter::UpstreamSends) <= 8, "attempts_max");
    world.queries.clear();
    world.ask(&query(2, "a.example"));
    assert_eq!(rcode(&world.replies.pop_front().expect("an answer")), 2);
    assert!(world.queries.is_empty(), "from the cache");
    world.pass(Duration::from_secs(6));
    world.ask(&query(3, "a.example"));
    assert_eq!(world.queries.len(), 1);
}

#[test]
fn a_server_that_knows_no_edns_is_asked_without_it() {
    let mut world = World::new(one());
    world.ask(&query(1, "a.example"));
    let (socket, sent) = world.queries.pop_front().expect("a query");
    assert_eq!(sent[11], 1, "an OPT");
    world.upstream_says(socket, &error(&sent, 1));
    let (socket, plain) = world.queries.pop_front().expect("another query");
    assert_eq!(plain[11], 0, "no OPT");
    world.upstream_says(socket, &reply(&plain, 60));
    assert_eq!(rcode(&world.replies[0]), 0);
}

#[test]
fn sockets_are_many_and_each_is_used_for_a_while_only() {
    let mut world = World::new(one());
    let mut sockets = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let total = 40 * QUERIES_PER_SOCKET;
    for n in 0..total {
        world.ask(&query(1, &format!("n{n}.example")));
        let (socket, sent) = world.queries.pop_front().expect("a query");
        sockets.insert(format!("{socket:?}"));
        ids.insert(id(&sent));
        world.upstream_says(socket, &reply(&sent, 60));
    }
    assert_eq!(world.replies.len(), total as usize);
    assert!(sockets.len() > 32, "{} sockets for {total} queries", sockets.len());
    assert!(ids.len() > 25_000, "{} ids", ids.len());
    assert!(world.open_sockets.len() <= 32);
    world.pass(SOCKET_AGE);
    assert!(world.open_sockets.is_empty(), "given up after {SOCKET_AGE:?}");
    assert_eq!(world.engine.sizes().timers, 0);
}

#[test]
fn nothing_is_fetched_without_recursion_desired() {
    let mut world = World::new(one());
    let mut asked = query(1, "a.example");
    asked[2] = 0;
    world.ask(&asked);
    assert!(world.queries.is_empty());
    assert_eq!(rcode(&world.replies[0]), 5);
}

#[test]
fn same_inputs_and_seed_give_the_same_datagrams() {
    let run = |seed| {
        let mut world = World::with_seed(two(), seed);
        for n in 0..200u16 {
            world.ask(&query(n, &format!("n{n}.example")));
            world.pass(Duration::from_millis(50));
        }
        world.queries.iter().map(|(socket, sent)| (format!("{socket:?}"), sent.clone())).collect()
    };
    let first: Vec<(String, Vec<u8>)> = run([1; 32]);
    assert_eq!(first, run([1; 32]));
    assert_ne!(first, run([2; 32]));
}

#[test]
fn a_batch_gives_the_same_as_its_messages_one_by_one() {
    let messages: Vec<Vec<u8>> =
        (0..64).map(|n| query(n, &format!("n{}.example", n % 20))).collect();
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let mut batched = World::new(one());
    batched.ask_all(&slices);
    let mut single = World::new(one());
    for message in &messages {
        single.ask(message);
    }
    let sent = |world: &World| -> BTreeSet<Vec<u8>> {
        world.queries.iter().map(|(_, message)| message.clone()).collect()
    };
    assert_eq!(sent(&batched), sent(&single));
    assert_eq!(sent(&batched).len(), 20);
}

#[test]
fn an_early_timeout_does_nothing() {
    let mut world = World::new(one());
    world.ask(&query(1, "a.example"));
    world.queries.clear();
    let due = world.engine.next_timeout();
    for _ in 0..100 {
        world.now = world.now + Duration::from_millis(3);
        world.engine.handle_timeout(world.now);
        world.pump();
    }
    assert_eq!(world.engine.next_timeout(), due);
    assert!(world.queries.is_empty());
}

#[test]
fn a_flood_of_questions_is_bounded_by_the_upstreams_limit() {
    let mut world = World::new(one());
    for n in 0..5_000u16 {
        world.ask(&query(n, &format!("n{n}.example")));
    }
    assert_eq!(world.engine.sizes().fetches, 1_000);
    assert_eq!(world.replies.len(), 4_000, "the newest are told at once");
    assert!(world.replies.iter().all(|answer| rcode(answer) == 2));
    assert_eq!(world.count(Counter::UpstreamFull), 4_000);
}
