//! Random letter case towards upstreams (0x20), and those who do not repeat it.

use super::harness::{World, query, rcode, reply, snapshot, ttl, upstream};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::conn::append_message;
use crate::engine::{Closed, Event, IoFailure};
use crate::limits::{CASE_LOST_FOR, RETRANSMIT_AFTER};
use crate::metrics::Counter;
use crate::time::Duration;

const NAME: &str = "a-name-with-many-letters.example";

fn one() -> Snapshot {
    let mut only = upstream("one", UpstreamProtocol::Udp);
    only.randomize_case = true;
    let mut one = snapshot(vec![only]);
    one.cache.enabled = false;
    one
}

fn ask(world: &mut World) {
    world.ask(&query(7, NAME));
}

fn is_mixed(sent: &[u8]) -> bool {
    sent[12..12 + NAME.len()].iter().any(u8::is_ascii_uppercase)
}

fn lower(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[12..12 + NAME.len()].make_ascii_lowercase();
    message
}

/// A reply over the stream that was opened for it.
fn confirm(world: &mut World) {
    let conn = world.establish();
    let sent = world.messages(conn).pop().expect("the same question");
    assert!(!is_mixed(&sent), "a stream needs no more bits");
    let mut framed = bytes::BytesMut::new();
    append_message(&mut framed, &reply(&sent, 60));
    world.stream_says(conn, &framed);
    world.break_conn(conn, Closed::Cleanly);
}

/// The upstream answers a question in lower case over UDP.
fn answer_in_lower_case(world: &mut World) {
    let (socket, _, sent) = world.next_query();
    assert!(is_mixed(&sent));
    let heard = world.replies.len();
    world.upstream_says(socket, &lower(&reply(&sent, 60)));
    assert_eq!(world.replies.len(), heard, "not taken yet");
}

#[test]
fn case_is_random_and_the_client_gets_its_own_back() {
    let mut world = World::new(one());
    let mut spellings = std::collections::BTreeSet::new();
    for round in 0..8 {
        ask(&mut world);
        let (socket, _, sent) = world.next_query();
        spellings.insert(sent[12..12 + NAME.len()].to_vec());
        if round == 0 {
            world.pass(RETRANSMIT_AFTER);
            let (_, _, again) = world.next_query();
            assert_eq!(again, sent, "sent again as it was");
        }
        world.upstream_says(socket, &reply(&sent, 60));
        let answer = world.replies.pop_front().expect("an answer");
        assert_eq!(answer[12..12 + NAME.len()], query(7, NAME)[12..12 + NAME.len()]);
    }
    assert!(spellings.len() > 6, "{} of 8 differ", spellings.len());
}

#[test]
fn a_reply_in_another_case_is_confirmed_over_tcp() {
    let mut world = World::new(one());
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    let mut other = reply(&sent, 9_999);
    other[13] ^= 0x20;
    world.upstream_says(socket, &other);
    assert!(world.replies.is_empty());
    assert_eq!(world.count(Counter::ReplyOtherCase), 1);
    confirm(&mut world);
    let answer = world.replies.pop_front().expect("an answer");
    assert_eq!((rcode(&answer), ttl(&answer, &query(7, NAME))), (0, 60), "the stream's answer");
}

#[test]
fn three_confirmed_in_a_row_switch_it_off_for_an_hour() {
    let mut world = World::new(one());
    for round in 0..3 {
        if round == 2 {
            // One reply that repeats the case, and the count begins anew.
            ask(&mut world);
            let (socket, _, sent) = world.next_query();
            world.upstream_says(socket, &reply(&sent, 60));
            for _ in 0..2 {
                ask(&mut world);
                answer_in_lower_case(&mut world);
                confirm(&mut world);
            }
        }
        ask(&mut world);
        answer_in_lower_case(&mut world);
        confirm(&mut world);
    }
    assert_eq!(world.replies.len(), 6);
    let addr = "192.0.2.1:53".parse().expect("an address");
    let told = Event::UpstreamIgnoresCase { upstream: "one".to_owned(), addr };
    assert_eq!(world.events.iter().filter(|event| **event == told).count(), 1);

    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    assert!(!is_mixed(&sent));
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(world.replies.len(), 7);

    world.pass(CASE_LOST_FOR);
    ask(&mut world);
    assert!(is_mixed(&world.next_query().2), "tried again");
}

/// Who has no TCP and does not repeat the case would never be heard: asking again from another port
/// under another id is as good as a second guess.
#[test]
fn without_tcp_the_same_upstream_is_asked_in_lower_case() {
    let mut world = World::new(one());
    for round in 1..=3 {
        ask(&mut world);
        answer_in_lower_case(&mut world);
        if let Some(conn) = world.connects.pop_front() {
            world.break_conn(conn, Closed::Failed(IoFailure::Refused));
        }
        world.pass(Duration::from_millis(100)); // a connect may have to wait its turn
        if let Some(conn) = world.connects.pop_front() {
            world.break_conn(conn, Closed::Failed(IoFailure::Refused));
        }
        let (socket, _, plain) = world.next_query();
        assert!(!is_mixed(&plain));
        world.upstream_says(socket, &reply(&plain, 60));
        assert_eq!(world.replies.len(), round);
        world.pass(Duration::from_secs(5));
    }
    ask(&mut world);
    assert!(!is_mixed(&world.next_query().2), "learnt");
}

#[test]
fn an_error_without_a_question_is_taken() {
    let mut world = World::new(one());
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    let mut unread = sent[..12].to_vec();
    unread[2] |= 0x80;
    unread[3] = 0x80 | 1;
    unread[4..12].fill(0);
    world.upstream_says(socket, &unread);
    let (socket, _, again) = world.next_query();
    assert_eq!(again[11], 0, "without OPT");
    assert!(is_mixed(&again));
    world.upstream_says(socket, &reply(&again, 60));
    assert_eq!(world.replies.len(), 1);
}

/// A reply in another case can only be found out about with sends to spare.
#[test]
fn case_is_random_only_while_it_can_be_confirmed() {
    for (attempts, expected) in [(1, false), (2, false), (3, true), (8, true)] {
        let mut snapshot = one();
        snapshot.routing.attempts_max = attempts;
        let mut world = World::new(snapshot);
        ask(&mut world);
        assert_eq!(is_mixed(&world.next_query().2), expected, "{attempts}");
    }
}
