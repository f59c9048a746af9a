//! Our OPT record towards upstreams, and what theirs tells us: cookies, keepalive, padding.

use std::sync::Arc;

use super::harness::{World, error, literal, query, rcode, reply, snapshot, ttl, upstream};
use crate::config::{Alpn, Snapshot, Trust, UpstreamProtocol, UpstreamSettings, UpstreamTls};
use crate::conn::append_message;
use crate::engine::{Closed, IoFailure};
use crate::handle::ConnHandle;
use crate::limits::{COOKIE_AGE, RETRANSMIT_AFTER};
use crate::metrics::Counter;
use crate::time::Duration;
use crate::wire::{ClientOptions, QueryView};

const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const BADCOOKIE: u16 = 23;
const THEIRS: &[u8] = b"server's cookie.";

fn with_cookies(name: &str) -> UpstreamSettings {
    let mut one = upstream(name, UpstreamProtocol::Udp);
    one.cookies = true;
    one
}

fn one() -> Snapshot {
    let mut one = snapshot(vec![with_cookies("one")]);
    one.cache.enabled = false;
    one
}

fn options(sent: &[u8]) -> ClientOptions<'_> {
    QueryView::parse(sent).expect("a query of ours").options()
}

fn cookie(sent: &[u8]) -> Vec<u8> {
    options(sent).cookie.expect("a cookie").to_vec()
}

/// Adds an OPT record with one option and the high bits of this rcode, and sets its low ones.
fn with_option(mut message: Vec<u8>, rcode: u16, code: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (rcode << 4).to_be_bytes();
    message[3] = (message[3] & 0xf0) | (low >> 4);
    message[11] += 1;
    message.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, high, 0, 0, 0]);
    for number in [4 + payload.len(), usize::from(code), payload.len()] {
        message.extend_from_slice(&u16::try_from(number).expect("short").to_be_bytes());
    }
    message.extend_from_slice(payload);
    message
}

/// The server's answer to a query, with a server cookie behind ours.
fn proven(sent: &[u8], ttl: u32, server: &[u8]) -> Vec<u8> {
    let ours = &cookie(sent)[..8];
    with_option(reply(sent, ttl), 0, COOKIE, &[ours, server].concat())
}

fn ask(world: &mut World) {
    world.ask(&query(7, "a.example"));
}

/// Has the upstream give its cookie with an answer.
fn learn(world: &mut World) {
    ask(world);
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &proven(&sent, 60, THEIRS));
    assert_eq!(world.replies.pop_front().map(|reply| rcode(&reply)), Some(0));
}

fn answer_ttl(world: &mut World) -> Option<u32> {
    let answer = world.replies.pop_front()?;
    assert_eq!(rcode(&answer), 0);
    Some(ttl(&answer, &query(7, "a.example")))
}

fn stream_says(world: &mut World, conn: ConnHandle, message: &[u8]) {
    let mut framed = bytes::BytesMut::new();
    append_message(&mut framed, message);
    world.stream_says(conn, &framed);
}

#[test]
fn our_cookie_goes_along_and_theirs_is_sent_back() {
    let mut world = World::new(one());
    ask(&mut world);
    let (socket, _, first) = world.next_query();
    let ours = cookie(&first);
    assert_eq!(ours.len(), 8);
    world.pass(RETRANSMIT_AFTER);
    assert_eq!(world.next_query().2, first, "sent again as it was");
    world.upstream_says(socket, &proven(&first, 60, THEIRS));
    assert_eq!(answer_ttl(&mut world), Some(60));

    for server in [b"another cookie that is a long one".get(..32).expect("long"), b"8 octets"] {
        learn(&mut world);
        ask(&mut world);
        let (socket, _, sent) = world.next_query();
        assert_eq!(cookie(&sent), [&ours, THEIRS].concat());
        world.upstream_says(socket, &proven(&sent, 60, server));
        ask(&mut world);
        let (socket, _, sent) = world.next_query();
        assert_eq!(cookie(&sent), [&ours, server].concat(), "the latest");
        world.upstream_says(socket, &proven(&sent, 60, server));
        world.replies.clear();
    }
    assert_eq!(world.count(Counter::ReplyWrongCookie), 0);
}

#[test]
fn each_address_has_a_cookie_of_its_own_that_a_reload_keeps() {
    let mut other = with_cookies("two");
    other.addr = literal("192.0.2.2:53");
    let mut both = one();
    both.routes = crate::upstream::Routes::new(&[Vec::new(), Vec::new()]);
    both.upstreams.push(other);
    let mut world = World::new(both.clone());
    let cookies = |world: &mut World| {
        ask(world);
        let (socket, _, first) = world.next_query();
        world.upstream_says(socket, &error(&first, 5));
        let (socket, _, second) = world.next_query();
        world.upstream_says(socket, &error(&second, 5));
        [cookie(&first), cookie(&second)]
    };
    let [first, second] = cookies(&mut world);
    assert_ne!(first, second);
    world.engine.handle_reload(world.now, Arc::new(both.clone()));
    assert_eq!(cookies(&mut world), [first.clone(), second.clone()]);
    both.upstreams[0].max_in_flight += 1;
    world.engine.handle_reload(world.now, Arc::new(both));
    let [changed, kept] = cookies(&mut world);
    assert_ne!(changed, first, "made anew");
    assert_eq!(kept, second);
}

/// RFC 7873 section 7.1. A query in flight keeps the cookie that its reply will have.
#[test]
fn our_cookie_is_replaced_after_a_day() {
    let mut world = World::new(one());
    learn(&mut world);
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    let first = cookie(&sent);
    world.upstream_says(socket, &proven(&sent, 60, THEIRS));
    world.pass(COOKIE_AGE - Duration::from_millis(1));
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    assert_eq!(cookie(&sent), first, "not yet");
    world.pass(Duration::from_millis(1));
    world.ask(&query(8, "b.example"));
    let (other, _, at_the_same_time) = world.next_query();
    assert_eq!(cookie(&at_the_same_time), first, "still in use");
    world.upstream_says(socket, &proven(&sent, 60, THEIRS));
    world.upstream_says(other, &proven(&at_the_same_time, 60, THEIRS));
    ask(&mut world);
    let second = cookie(&world.next_query().2);
    assert_eq!(second.len(), 8, "without theirs, which was for the old one");
    assert_ne!(second, first[..8]);
}

/// RFC 7873 section 5.3 has it ignored. It is not believed, but a proxy that caches replies with their
/// cookies sends nothing else: TCP shows who it was.
#[test]
fn a_wrong_cookie_is_not_believed_in_a_datagram() {
    let wrong: [&[u8]; 4] = [b"not ours", b"not ours8 octets", b"ours...", &[7; 41]];
    for wrong in wrong {
        let mut world = World::new(one());
        ask(&mut world);
        let (socket, _, sent) = world.next_query();
        world.upstream_says(socket, &with_option(reply(&sent, 9), 0, COOKIE, wrong));
        assert_eq!(world.count(Counter::ReplyWrongCookie), 1);
        assert!(world.replies.is_empty());
        let conn = world.establish();
        let sent = world.messages(conn).pop().expect("the same question");
        stream_says(&mut world, conn, &proven(&sent, 60, THEIRS));
        assert_eq!(answer_ttl(&mut world), Some(60));
        ask(&mut world);
        assert_eq!(&cookie(&world.next_query().2)[8..], THEIRS, "it was a stranger's");
    }
}

#[test]
fn who_sends_ours_back_alone_has_no_cookies_and_is_believed() {
    let mut world = World::new(one());
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    let echoed = with_option(reply(&sent, 60), 0, COOKIE, &cookie(&sent));
    world.upstream_says(socket, &echoed);
    assert_eq!(answer_ttl(&mut world), Some(60));
    ask(&mut world);
    assert_eq!(cookie(&world.next_query().2), cookie(&sent), "ours alone");
}

#[test]
fn who_has_no_cookies_is_taken_as_it_is() {
    let mut world = World::new(one());
    for _ in 0..2 {
        ask(&mut world);
        let (socket, _, sent) = world.next_query();
        assert_eq!(cookie(&sent).len(), 8);
        world.upstream_says(socket, &reply(&sent, 60));
        assert_eq!(answer_ttl(&mut world), Some(60));
    }
}

#[test]
fn a_reply_without_the_cookie_that_always_came_is_confirmed_over_tcp() {
    let mut world = World::new(one());
    learn(&mut world);
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &reply(&sent, 9_999));
    assert!(world.replies.is_empty());
    assert_eq!(world.count(Counter::ReplyWrongCookie), 1);
    let conn = world.establish();
    let sent = world.messages(conn).pop().expect("the same question");
    assert_eq!(&cookie(&sent)[8..], THEIRS);
    stream_says(&mut world, conn, &proven(&sent, 60, THEIRS));
    assert_eq!(answer_ttl(&mut world), Some(60), "the stream's answer");
    ask(&mut world);
    assert_eq!(&cookie(&world.next_query().2)[8..], THEIRS, "still known");
}

#[test]
fn a_server_that_has_given_up_its_cookies_is_believed_over_tcp() {
    let mut world = World::new(one());
    learn(&mut world);
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &reply(&sent, 60));
    let conn = world.establish();
    let sent = world.messages(conn).pop().expect("the same question");
    stream_says(&mut world, conn, &reply(&sent, 60));
    assert_eq!(answer_ttl(&mut world), Some(60));
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    assert_eq!(cookie(&sent).len(), 8);
    world.upstream_says(socket, &reply(&sent, 61));
    assert_eq!(answer_ttl(&mut world), Some(61), "at once");
}

/// Nobody off the path answers over TCP: it is the upstream's own, whose cookies prove nothing.
#[test]
fn an_upstream_with_wrong_cookies_over_tcp_gets_none_any_more() {
    let mut world = World::new(one());
    learn(&mut world);
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &with_option(reply(&sent, 9), 0, COOKIE, &[9; 24]));
    let conn = world.establish();
    let sent = world.messages(conn).pop().expect("the same question");
    stream_says(&mut world, conn, &with_option(reply(&sent, 60), 0, COOKIE, &[9; 24]));
    assert_eq!(answer_ttl(&mut world), Some(60));
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    assert!(options(&sent).cookie.is_none());
    world.upstream_says(socket, &with_option(reply(&sent, 61), 0, COOKIE, &[9; 24]));
    assert_eq!(answer_ttl(&mut world), Some(61), "at once");
}

/// An operator who blocks TCP loses the confirmation, not the upstream.
#[test]
fn without_tcp_the_same_upstream_is_asked_again() {
    let mut world = World::new(one());
    learn(&mut world);
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &reply(&sent, 9_999));
    let conn = world.connects.pop_front().expect("a connect");
    world.break_conn(conn, Closed::Failed(IoFailure::Refused));
    let (other, _, again) = world.next_query();
    assert_ne!(other, socket, "from another port");
    assert!(options(&again).cookie.is_none(), "nothing is expected of it");
    world.upstream_says(other, &reply(&again, 60));
    assert_eq!(answer_ttl(&mut world), Some(60));
}

#[test]
fn what_cannot_be_confirmed_any_more_is_ignored_or_never_expected() {
    let mut snapshot = one();
    snapshot.routing.attempts_max = 2;
    let mut world = World::new(snapshot);
    learn(&mut world);
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    world.pass(RETRANSMIT_AFTER);
    world.next_query();
    world.upstream_says(socket, &reply(&sent, 9_999));
    assert!(world.replies.is_empty() && world.connects.is_empty(), "two sends are all there are");
    world.upstream_says(socket, &proven(&sent, 60, THEIRS));
    assert_eq!(answer_ttl(&mut world), Some(60));

    let mut snapshot = one();
    snapshot.routing.attempts_max = 1;
    let mut world = World::new(snapshot);
    learn(&mut world);
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(answer_ttl(&mut world), Some(60));
}

fn bad_cookie(sent: &[u8], server: &[u8]) -> Vec<u8> {
    let ours = &cookie(sent)[..8];
    with_option(error(sent, 0), BADCOOKIE, COOKIE, &[ours, server].concat())
}

/// RFC 7873 section 5.3: with the new cookie, then over TCP.
#[test]
fn a_bad_cookie_is_replaced_once_and_then_done_without() {
    let mut world = World::new(one());
    learn(&mut world);
    ask(&mut world);
    let (socket, _, first) = world.next_query();
    world.upstream_says(socket, &bad_cookie(&first, b"the new cookie.."));
    let (socket, _, second) = world.next_query();
    assert_eq!(&cookie(&second)[8..], b"the new cookie..");
    assert!(world.connects.is_empty());
    world.upstream_says(socket, &bad_cookie(&second, b"a newer cookie.."));
    let conn = world.establish();
    let third = world.messages(conn).pop().expect("the same question");
    assert_eq!(&cookie(&third)[8..], b"a newer cookie..");
    stream_says(&mut world, conn, &proven(&third, 60, THEIRS));
    assert_eq!(answer_ttl(&mut world), Some(60));
}

#[test]
fn clients_never_hear_of_a_bad_cookie() {
    for cookies in [true, false] {
        let mut snapshot = one();
        snapshot.upstreams[0].cookies = cookies;
        let mut world = World::new(snapshot);
        ask(&mut world);
        let (socket, _, sent) = world.next_query();
        assert_eq!(options(&sent).cookie.is_some(), cookies);
        // Without the cookie that should come with it there is nothing to try again with.
        let bare = |sent: &[u8]| with_option(error(sent, 0), BADCOOKIE, KEEPALIVE, &[]);
        world.upstream_says(socket, &bare(&sent));
        let conn = world.establish();
        let sent = world.messages(conn).pop().expect("the same question");
        stream_says(&mut world, conn, &bare(&sent));
        assert_eq!(world.replies.pop_front().map(|reply| rcode(&reply)), Some(2), "SERVFAIL");
        assert!(world.queries.is_empty());
    }
}

#[test]
fn asking_again_for_a_cookie_counts_as_sending() {
    let mut snapshot = one();
    snapshot.routing.attempts_max = 2;
    let mut world = World::new(snapshot);
    ask(&mut world);
    for _ in 0..2 {
        let (socket, _, sent) = world.next_query();
        world.upstream_says(socket, &bad_cookie(&sent, THEIRS));
    }
    assert!(world.connects.is_empty() && world.queries.is_empty());
    assert_eq!(world.replies.pop_front().map(|reply| rcode(&reply)), Some(2));
    assert_eq!(world.count(Counter::UpstreamSends), 2);
}

/// RFC 6891 section 7: without OPT there is no cookie either, and none is expected.
#[test]
fn an_old_server_is_asked_without_cookies() {
    let mut world = World::new(one());
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &error(&sent, 1));
    let (socket, _, plain) = world.next_query();
    assert_eq!(plain[11], 0, "without OPT");
    world.upstream_says(socket, &reply(&plain, 60));
    assert_eq!(answer_ttl(&mut world), Some(60));

    // One that became old is believed over TCP.
    learn(&mut world);
    ask(&mut world);
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &error(&sent, 1));
    let conn = world.establish();
    let sent = world.messages(conn).pop().expect("the same question");
    stream_says(&mut world, conn, &error(&sent, 1));
    let (socket, _, plain) = world.next_query();
    assert_eq!(plain[11], 0, "without OPT");
    world.upstream_says(socket, &reply(&plain, 60));
    assert_eq!(answer_ttl(&mut world), Some(60));
}

/// Cookies, subnets and padding of clients are between them and us (RFC 7873 section 5, RFC 7871
/// section 7.1, RFC 7830 section 3).
#[test]
fn nothing_that_clients_tell_goes_upstream() {
    let theirs = [
        &b"\0\x0a\0\x188 octets and 16 of them."[..],
        b"\0\x08\0\x07\0\x01\x18\0\xc6\x33\x64",
        b"\0\x0c\0\x04\0\0\0\0",
        b"\0\x0b\0\0",
        b"\xfd\xe9\0\x01x",
    ]
    .concat();
    let mut message = query(7, "a.example");
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0]);
    message.extend_from_slice(&u16::try_from(theirs.len()).expect("short").to_be_bytes());
    message.extend_from_slice(&theirs);
    for cookies in [true, false] {
        let mut snapshot = one();
        snapshot.upstreams[0].cookies = cookies;
        let mut world = World::new(snapshot);
        world.ask(&message);
        let (_, _, sent) = world.next_query();
        let ours = options(&sent).cookie;
        assert_ne!(ours, Some(&b"8 octets"[..]));
        let expected = ClientOptions { cookie: ours, ..ClientOptions::default() };
        assert_eq!((options(&sent), ours.map(<[u8]>::len)), (expected, cookies.then_some(8)));
        let octets = 12 + 11 + 4 + 11 + if cookies { 12 } else { 0 };
        assert_eq!(sent.len(), octets, "and nothing that we do not look for");
    }
}

fn over_stream(protocol: UpstreamProtocol) -> Snapshot {
    let mut only = upstream("one", protocol);
    only.tls = (protocol == UpstreamProtocol::Dot).then(|| {
        let server_name = "dns.example".to_owned();
        let (alpn, trust) = (Alpn::Dot, Trust::System);
        Arc::new(UpstreamTls { alpn, server_name, trust, pins: Vec::new() })
    });
    let mut snapshot = snapshot(vec![only]);
    snapshot.cache.enabled = false;
    snapshot
}

/// A question is asked and answered with an option over a stream.
fn exchange(world: &mut World, conn: Option<ConnHandle>, code: u16, payload: &[u8]) -> ConnHandle {
    ask(world);
    let conn = conn.unwrap_or_else(|| world.establish());
    let sent = world.messages(conn).pop().expect("a question");
    stream_says(world, conn, &with_option(reply(&sent, 60), 0, code, payload));
    assert_eq!(answer_ttl(world), Some(60));
    conn
}

#[test]
fn queries_on_streams_ask_for_the_idle_time_and_are_padded_if_that_hides_something() {
    for (protocol, padded) in [(UpstreamProtocol::Tcp, false), (UpstreamProtocol::Dot, true)] {
        let mut world = World::new(over_stream(protocol));
        ask(&mut world);
        let conn = world.establish();
        let sent = world.messages(conn).pop().expect("a question");
        let expected =
            ClientOptions { keepalive: Some(&[]), padding: padded, ..ClientOptions::default() };
        assert_eq!(options(&sent), expected, "{protocol:?}");
        assert_eq!(sent.len(), if padded { 128 } else { 12 + 15 + 11 + 4 });
    }
    let mut world = World::new(one());
    ask(&mut world);
    assert_eq!(options(&world.next_query().2).keepalive, None, "RFC 7828 section 3.3.1");
}

/// RFC 7828 section 3.2.2.
#[test]
fn a_connection_is_idle_no_longer_than_the_server_wants() {
    for (told, closed_after_ms) in [(&[0, 5][..], 500), (&[0xff, 0xff], 10_000), (&[], 10_000)] {
        let mut world = World::new(over_stream(UpstreamProtocol::Tcp));
        let conn = exchange(&mut world, None, KEEPALIVE, told);
        world.pass(Duration::from_millis(closed_after_ms - 1));
        assert!(world.is_live(conn), "{told:?}");
        world.pass(Duration::from_millis(1));
        assert!(!world.is_live(conn), "{told:?}");
    }
}

#[test]
fn the_last_word_about_the_idle_time_counts() {
    let mut world = World::new(over_stream(UpstreamProtocol::Tcp));
    let conn = exchange(&mut world, None, KEEPALIVE, &[0, 5]);
    exchange(&mut world, Some(conn), KEEPALIVE, &[0, 20]);
    exchange(&mut world, Some(conn), COOKIE, &[]); // says nothing of it
    world.pass(Duration::from_millis(1_999));
    assert!(world.is_live(conn));
    world.pass(Duration::from_millis(1));
    assert!(!world.is_live(conn));
}

#[test]
fn a_server_that_wants_to_close_gets_no_new_queries_and_answers_what_it_has() {
    let mut world = World::new(over_stream(UpstreamProtocol::Tcp));
    world.ask(&query(7, "a.example"));
    world.ask(&query(7, "b.example"));
    let conn = world.establish();
    let [first, second] = &world.messages(conn)[..] else { panic!("two questions") };
    stream_says(&mut world, conn, &with_option(reply(first, 60), 0, KEEPALIVE, &[0, 0]));
    assert!(world.is_live(conn));
    world.ask(&query(7, "c.example"));
    assert_eq!(world.connects.len(), 1, "another connection");
    stream_says(&mut world, conn, &reply(second, 60));
    assert!(!world.is_live(conn), "closed at once");
    assert_eq!(world.replies.len(), 2);
}
