//! Passive health: who is down is asked last, probed now and then, and costs clients no timeout.

use super::harness::{World, error, literal, query, rcode, reply, snapshot, upstream};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::engine::{Closed, Event, IoFailure};
use crate::limits::{PROBE_AFTER, RETRANSMIT_AFTER, SILENT_QUERIES};
use crate::metrics::Counter;
use crate::time::Duration;
use crate::upstream::Routes;
use crate::wire::Name;

const FIRST: &str = "192.0.2.1:53";
const SECOND: &str = "192.0.2.2:53";

fn two() -> Snapshot {
    let mut second = upstream("two", UpstreamProtocol::Udp);
    second.addr = literal(SECOND);
    let mut two = snapshot(vec![upstream("one", UpstreamProtocol::Udp), second]);
    two.cache.enabled = false;
    two
}

/// Asks for a name that nobody has asked for.
fn ask(world: &mut World, number: usize) {
    let id = u16::try_from(number).expect("few");
    world.ask(&query(id, &format!("name{number}.example")));
}

/// Answers the next query upstream and says where it went.
fn answer_next(world: &mut World) -> String {
    let (socket, remote, sent) = world.next_query();
    world.upstream_says(socket, &reply(&sent, 60));
    remote
}

/// The first upstream refuses one question, the second one answers it.
fn first_goes_down(world: &mut World) {
    ask(world, 0);
    let (socket, remote, _) = world.next_query();
    assert_eq!(remote, FIRST);
    world.engine.handle_socket_failed(world.now, socket, IoFailure::Refused);
    world.pump();
    assert_eq!(answer_next(world), SECOND);
    assert_eq!(world.count(Counter::UpstreamsDown), 1);
}

#[test]
fn who_refuses_is_asked_last_until_a_probe_is_answered() {
    let mut world = World::new(two());
    first_goes_down(&mut world);
    for number in 1..10 {
        ask(&mut world, number);
        assert_eq!(answer_next(&mut world), SECOND);
        assert!(world.queries.is_empty());
    }

    world.pass(PROBE_AFTER);
    world.replies.clear();
    ask(&mut world, 10);
    let (probe, remote, copied) = world.next_query();
    assert_eq!(remote, FIRST, "a copy of the question");
    assert_eq!(answer_next(&mut world), SECOND);
    assert_eq!(world.replies.len(), 1, "the client has waited for no probe");
    world.upstream_says(probe, &reply(&copied, 60));
    assert_eq!(world.replies.len(), 1, "and hears nothing of it");

    ask(&mut world, 11);
    assert_eq!(answer_next(&mut world), FIRST, "back in its place");
    assert_eq!(world.count(Counter::UpstreamProbes), 1);
    assert_eq!(world.engine.sizes().fetches, 0);
}

#[test]
fn probes_that_fail_become_rarer_and_leave_nothing_behind() {
    let mut world = World::new(two());
    first_goes_down(&mut world);
    let mut probed = 0;
    for second in 1..=31 {
        world.pass(Duration::from_secs(1));
        ask(&mut world, second);
        for _ in 0..world.queries.len() {
            let (socket, remote, sent) = world.next_query();
            if remote == SECOND {
                world.upstream_says(socket, &reply(&sent, 60));
            }
        }
        probed += usize::from(world.count(Counter::UpstreamProbes) > probed as u64);
    }
    assert_eq!(probed, 5, "after 1, 3, 7, 15 and 31 seconds");
    assert_eq!(world.replies.len(), 32);
    world.pass(Duration::from_secs(10));
    assert_eq!((world.engine.sizes().fetches, world.engine.sizes().waiters), (0, 0));
}

/// One that stops answering costs the questions in flight what a reply usually takes at most, not
/// the timeout, and later ones nothing.
#[test]
fn silence_towards_several_questions_moves_all_of_them_on() {
    let mut world = World::new(two());
    let count = SILENT_QUERIES as usize + 6;
    for number in 0..count {
        ask(&mut world, number);
        let (_, remote, _) = world.next_query();
        assert_eq!(remote, FIRST);
    }
    world.pass(RETRANSMIT_AFTER);
    let mut moved = 0;
    for _ in 0..world.queries.len() {
        let (socket, remote, sent) = world.next_query();
        if remote == SECOND {
            moved += 1;
            world.upstream_says(socket, &reply(&sent, 60));
        }
    }
    // The earliest ones were sent again, since the first may just have lost them.
    assert_eq!(moved, count + 1 - SILENT_QUERIES as usize);
    ask(&mut world, count);
    assert_eq!(answer_next(&mut world), SECOND);
    world.pass(2 * RETRANSMIT_AFTER);
    while !world.queries.is_empty() {
        assert_eq!(answer_next(&mut world), SECOND, "the others move on when they are due again");
    }
    assert_eq!(world.replies.len(), count + 1);
    assert!(world.replies.iter().all(|reply| rcode(reply) == 0));
}

#[test]
fn a_question_that_nobody_answers_takes_nobody_down_who_answers_others() {
    let mut world = World::new(two());
    ask(&mut world, 0);
    world.next_query();
    for number in 1..4 {
        world.pass(Duration::from_millis(600));
        world.queries.retain(|(_, sent)| !sent.windows(5).any(|part| part == b"name0"));
        ask(&mut world, number);
        assert_eq!(answer_next(&mut world), FIRST);
    }
    world.pass(Duration::from_millis(300));
    assert_eq!(world.count(Counter::UpstreamTimeouts), 1);
    assert_eq!(world.count(Counter::UpstreamsDown), 0);
}

#[test]
fn when_all_are_down_the_one_heard_of_last_is_asked_first() {
    let mut world = World::new(two());
    ask(&mut world, 0);
    assert_eq!(answer_next(&mut world), FIRST);
    world.pass(Duration::from_secs(1));
    first_goes_down(&mut world); // and the second one answers
    world.pass(Duration::from_millis(1));
    ask(&mut world, 1);
    let (socket, remote, _) = world.next_query();
    assert_eq!(remote, SECOND);
    world.engine.handle_socket_failed(world.now, socket, IoFailure::Unreachable);
    world.pump();
    let (socket, remote, _) = world.next_query();
    assert_eq!(remote, FIRST, "who is down is better than nobody");
    world.engine.handle_socket_failed(world.now, socket, IoFailure::Refused);
    world.pump();
    assert_eq!(rcode(world.replies.back().expect("an answer")), 2);

    ask(&mut world, 2);
    let (_, remote, _) = world.next_query();
    assert_eq!(remote, SECOND, "the least bad");
    assert!(world.queries.is_empty(), "the question itself is the probe");
    world.pass(RETRANSMIT_AFTER);
    let (socket, remote, sent) = world.next_query();
    assert_eq!(remote, SECOND, "with nobody better it has its whole time");
    world.upstream_says(socket, &reply(&sent, 60));
    ask(&mut world, 3);
    assert_eq!(answer_next(&mut world), SECOND);
}

/// The upstreams of another zone are no substitute for those that are down: they come after them.
#[test]
fn zones_come_before_health() {
    let zone = Name::parse("example").expect("a name");
    let mut snapshot = two();
    snapshot.routes = Routes::new(&[vec![zone], Vec::new()]);
    let mut world = World::new(snapshot);
    first_goes_down(&mut world);
    ask(&mut world, 1);
    let (_, remote, _) = world.next_query();
    assert_eq!(remote, FIRST);
    world.pass(RETRANSMIT_AFTER);
    assert_eq!(answer_next(&mut world), SECOND, "but soon");
}

/// Names of a zone must not be shown to those who do not serve it.
#[test]
fn probes_stay_within_the_zone() {
    let zone = Name::parse("example").expect("a name");
    let mut snapshot = two();
    snapshot.routes = Routes::new(&[vec![zone], Vec::new()]);
    let mut world = World::new(snapshot);
    world.ask(&query(1, "elsewhere.test-zone.net"));
    let (socket, remote, _) = world.next_query();
    assert_eq!(remote, SECOND);
    world.engine.handle_socket_failed(world.now, socket, IoFailure::Refused);
    world.pump();
    world.pass(PROBE_AFTER);
    ask(&mut world, 1);
    assert_eq!(answer_next(&mut world), FIRST);
    assert!(world.queries.is_empty());
    assert_eq!(world.count(Counter::UpstreamProbes), 0);
}

#[test]
fn an_answer_of_any_kind_is_a_sign_of_life() {
    let mut world = World::new(two());
    first_goes_down(&mut world);
    world.pass(PROBE_AFTER);
    ask(&mut world, 1);
    let (probe, _, copied) = world.next_query();
    world.upstream_says(probe, &error(&copied, 2));
    assert_eq!(answer_next(&mut world), SECOND);
    let back = Event::UpstreamAnswers {
        upstream: "one".to_owned(),
        addr: FIRST.parse().expect("an address"),
    };
    assert!(world.events.contains(&back));
    ask(&mut world, 2);
    assert_eq!(answer_next(&mut world), FIRST);
}

#[test]
fn a_server_of_datagrams_that_refuses_tcp_is_not_down() {
    let mut world = World::new(two());
    ask(&mut world, 0);
    let (socket, _, sent) = world.next_query();
    let mut truncated = error(&sent, 0);
    truncated[2] |= 0x02;
    world.upstream_says(socket, &truncated);
    let conn = world.connects.pop_front().expect("a connect");
    world.break_conn(conn, Closed::Failed(IoFailure::Refused));
    assert_eq!(answer_next(&mut world), SECOND);
    ask(&mut world, 1);
    assert_eq!(answer_next(&mut world), FIRST);
}

#[test]
fn a_stream_upstream_that_is_silent_is_left_too() {
    let mut snapshot = two();
    snapshot.upstreams[0].protocol = UpstreamProtocol::Tcp;
    let mut world = World::new(snapshot);
    let count = SILENT_QUERIES as usize;
    for number in 0..count {
        ask(&mut world, number);
    }
    world.establish();
    // There and back for the connection, and again for the reply.
    world.pass(2 * RETRANSMIT_AFTER);
    assert_eq!(answer_next(&mut world), SECOND, "the one that made it certain");
    world.pass(4 * RETRANSMIT_AFTER);
    while !world.queries.is_empty() {
        assert_eq!(answer_next(&mut world), SECOND);
    }
    assert_eq!(world.replies.len(), count);
    ask(&mut world, count);
    assert_eq!(answer_next(&mut world), SECOND);
}

#[test]
fn stopping_does_not_wait_for_a_probe() {
    let mut world = World::new(two());
    first_goes_down(&mut world);
    world.pass(PROBE_AFTER);
    ask(&mut world, 1);
    world.next_query();
    assert_eq!(answer_next(&mut world), SECOND);
    assert_eq!(world.engine.sizes().fetches, 1, "the probe");
    world.engine.handle_shutdown(world.now);
    world.pump();
    assert!(world.stopped);
    assert!(world.open_sockets.is_empty());
    assert_eq!(world.engine.next_timeout(), None);
}

/// However short clients' patience is: who is never heard of is found to be down.
#[test]
fn a_deadline_shorter_than_any_patience_does_not_hide_a_dead_upstream() {
    for (timeout, deadline) in [(2_000, 300), (100, 4_500), (2_000, 20)] {
        let mut snapshot = two();
        snapshot.routing.deadline = Duration::from_millis(deadline);
        snapshot.upstreams[0].timeout = Duration::from_millis(timeout);
        let mut world = World::new(snapshot);
        let mut answered = 0;
        for number in 0..50 {
            ask(&mut world, number);
            for _ in 0..20 {
                for _ in 0..world.queries.len() {
                    let (socket, remote, sent) = world.next_query();
                    if remote == SECOND {
                        world.upstream_says(socket, &reply(&sent, 60));
                    }
                }
                world.pass(Duration::from_millis(deadline / 20));
            }
            answered += usize::from(world.replies.drain(..).any(|reply| rcode(&reply) == 0));
        }
        assert!(answered >= 50 - SILENT_QUERIES as usize, "{answered}, {timeout} {deadline}");
    }
}
