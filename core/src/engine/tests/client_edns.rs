//! What the OPT record of replies tells clients: cookies, the idle time of connections, padding.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::harness::{World, blocking, error, query, rcode, reply, snapshot, upstream};
use crate::config::{Snapshot, Stage, UpstreamProtocol};
use crate::conn::append_message;
use crate::engine::chain::Desk;
use crate::engine::leads::Rules;
use crate::engine::plugins::Plugins;
use crate::engine::question::{Client, Verdict};
use crate::engine::{Shared, Transport};
use crate::handle::ConnHandle;
use crate::limits::MESSAGE_OCTETS;
use crate::metrics::{Counter, WorkerMetrics};
use crate::policy::{Acl, Blocklist};
use crate::time::{Duration, Instant};

const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const MINE: &[u8] = b"my dough";

fn one() -> Snapshot {
    snapshot(vec![upstream("one", UpstreamProtocol::Udp)])
}

/// The stream listener speaks this.
fn stream(transport: Transport) -> Snapshot {
    let mut snapshot = one();
    snapshot.listen.sockets[1].transport = transport;
    snapshot
}

/// An option as it goes over the wire.
fn option(code: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    [&code.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
}

/// A query with an OPT record that has these options.
fn with_options(name: &str, options: &[u8]) -> Vec<u8> {
    let mut message = query(7, name);
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0]);
    message.extend_from_slice(&u16::try_from(options.len()).expect("short").to_be_bytes());
    message.extend_from_slice(options);
    message
}

/// The options of the OPT record at the end of a reply; `None` without one.
fn options(reply: &[u8]) -> Option<Vec<(u16, Vec<u8>)>> {
    let at = reply.windows(5).rposition(|octets| octets == [0, 0, 41, 0x04, 0xd0])?;
    assert_eq!(reply[11], 1);
    let number = |at: usize| usize::from(u16::from_be_bytes([reply[at], reply[at + 1]]));
    assert_eq!(at + 11 + number(at + 9), reply.len(), "OPT is the last record, and whole");
    let mut rest = &reply[at + 11..];
    let mut options = Vec::new();
    while let [high, low, more, less, ..] = rest {
        let end = 4 + usize::from(u16::from_be_bytes([*more, *less]));
        options.push((u16::from_be_bytes([*high, *low]), rest[4..end].to_vec()));
        rest = &rest[end..];
    }
    assert!(rest.is_empty());
    Some(options)
}

fn payload(reply: &[u8], code: u16) -> Option<Vec<u8>> {
    options(reply)?.into_iter().find(|(found, _)| *found == code).map(|(_, payload)| payload)
}

/// Asks in a datagram and has the upstream answer, should it be asked.
fn ask(world: &mut World, message: &[u8]) -> Vec<u8> {
    world.ask(message);
    if let Some((socket, sent)) = world.queries.pop_front() {
        world.upstream_says(socket, &reply(&sent, 60));
    }
    world.replies.pop_front().expect("a reply")
}

fn ask_over(world: &mut World, conn: ConnHandle, message: &[u8]) -> Vec<u8> {
    let mut framed = BytesMut::new();
    append_message(&mut framed, message);
    world.stream_says(conn, &framed);
    if let Some((socket, sent)) = world.queries.pop_front() {
        world.upstream_says(socket, &reply(&sent, 60));
    }
    world.messages(conn).pop().expect("a reply")
}

/// What is decided at once about a message that comes over `transport`.
fn decide(snapshot: &Snapshot, transport: Transport, message: &[u8]) -> Vec<u8> {
    let shared = Shared::new(snapshot, [1; 32]);
    let metrics = WorkerMetrics::default();
    let mut plugins = Plugins::new(&snapshot.plugins, None);
    let (counters, rules) = (&metrics.counters, Rules::new(snapshot, 1));
    let mut desk = Desk { snapshot, shared: &shared, counters, plugins: &mut plugins, rules };
    let address: SocketAddr = "127.0.0.1:40000".parse().expect("an address");
    let mut out = vec![0; MESSAGE_OCTETS];
    match desk.decide(Instant::ZERO, message, Client { address, transport }, &mut out) {
        Verdict::Reply(written) => out[..written.len].to_vec(),
        Verdict::Forward(_) | Verdict::Suspend(..) | Verdict::Ignore | Verdict::Drop => {
            panic!("no reply")
        }
    }
}

#[test]
fn a_cookie_comes_back_with_ours_and_ours_is_known_again() {
    let mut world = World::new(one());
    let plain = with_options("www.example", &[]);
    assert_eq!(options(&ask(&mut world, &plain)), Some(Vec::new()), "only to who sent one");
    assert_eq!(options(&ask(&mut world, &query(7, "www.example"))), None);

    let first = with_options("www.example", &option(COOKIE, MINE));
    let given = payload(&ask(&mut world, &first), COOKIE).expect("a cookie");
    assert_eq!((&given[..8], given.len()), (MINE, 24));
    assert_eq!(given[8..12], [1, 0, 0, 0], "RFC 9018 section 4.1");
    assert_eq!(world.count(Counter::CookiesNone), 1);

    let second = with_options("www.example", &option(COOKIE, &given));
    world.pass(Duration::from_secs(10));
    let again = payload(&ask(&mut world, &second), COOKIE).expect("a cookie");
    assert_eq!(world.count(Counter::CookiesValid), 1);
    assert_ne!(given, again, "a later one");

    world.pass(Duration::from_secs(3_600));
    assert_eq!(rcode(&ask(&mut world, &second)), 0, "too old is no reason to turn anybody away");
    let made_up = with_options("www.example", &option(COOKIE, &[MINE, &[9; 16]].concat()));
    let given = payload(&ask(&mut world, &made_up), COOKIE).expect("a cookie nevertheless");
    assert_eq!(&given[..8], MINE);
    assert_eq!(world.count(Counter::CookiesInvalid), 2);
    let third = with_options("www.example", &option(COOKIE, &given));
    ask(&mut world, &third);
    assert_eq!(world.count(Counter::CookiesValid), 2);
}

/// The next query of a client may come to another worker, after a reload, or over TCP.
#[test]
fn a_cookie_is_known_everywhere_in_the_process() {
    let mut world = World::new(one());
    let first = with_options("www.example", &option(COOKIE, MINE));
    let given = payload(&ask(&mut world, &first), COOKIE).expect("a cookie");
    let second = with_options("www.example", &option(COOKIE, &given));
    world.engine.handle_reload(world.now, std::sync::Arc::new(one()));
    let conn = world.connect_client();
    ask_over(&mut world, conn, &second);
    assert_eq!(world.count(Counter::CookiesValid), 1);
}

#[test]
fn every_kind_of_reply_has_the_cookie() {
    let mut snapshot = one();
    let mut blocked = Blocklist::builder();
    blocked.insert("blocked.example").expect("a name");
    snapshot.blocking = blocking(blocked.build());
    let cookie = option(COOKIE, MINE);
    let mut world = World::new(snapshot);
    for name in ["blocked.example", "localhost", "a.example", "a.example"] {
        let given = payload(&ask(&mut world, &with_options(name, &cookie)), COOKIE);
        assert_eq!(given.expect(name).len(), 24);
    }
    // A failure of the upstream.
    world.ask(&with_options("b.example", &cookie));
    let (socket, _, sent) = world.next_query();
    world.upstream_says(socket, &error(&sent, 5));
    let refused = world.replies.pop_front().expect("a reply");
    assert_eq!(rcode(&refused), 5);
    assert_eq!(payload(&refused, COOKIE).expect("a cookie").len(), 24);
    // An opcode that nobody knows.
    let mut other = with_options("a.example", &cookie);
    other[2] |= 0x28;
    assert!(payload(&ask(&mut world, &other), COOKIE).is_some());
}

#[test]
fn strangers_get_their_cookie_with_the_refusal() {
    let mut snapshot = one();
    snapshot.acl = Acl::new(Vec::new());
    let mut world = World::new(snapshot);
    let refused = ask(&mut world, &with_options("a.example", &option(COOKIE, MINE)));
    assert_eq!(rcode(&refused), 5);
    assert_eq!(payload(&refused, COOKIE).expect("a cookie").len(), 24);
}

#[test]
fn a_cookie_of_no_such_length_is_formerr_rfc_7873_section_5_2_2() {
    let mut world = World::new(one());
    for length in 0..48 {
        let message = with_options("a.example", &option(COOKIE, &vec![1; length]));
        let answer = ask(&mut world, &message);
        let well = matches!(length, 8 | 16..=40);
        assert_eq!(rcode(&answer), u8::from(!well), "{length}");
        assert_eq!(payload(&answer, COOKIE).is_some(), well, "{length}");
    }
}

/// RFC 7873 section 5.2: further ones are ignored, whatever they look like.
#[test]
fn of_two_cookies_the_first_counts() {
    let both = [option(COOKIE, MINE), option(COOKIE, b"x")].concat();
    let answer = ask(&mut World::new(one()), &with_options("a.example", &both));
    assert_eq!(rcode(&answer), 0);
    assert_eq!(&payload(&answer, COOKIE).expect("a cookie")[..8], MINE);
}

#[test]
fn without_cookies_of_ours_theirs_are_ignored() {
    let mut snapshot = one();
    snapshot.listen.cookies = false;
    let mut world = World::new(snapshot);
    for payload in [MINE, b"wrong", &[7; 24]] {
        let answer = ask(&mut world, &with_options("a.example", &option(COOKIE, payload)));
        assert_eq!((rcode(&answer), options(&answer)), (0, Some(Vec::new())));
    }
    let counted = [Counter::CookiesNone, Counter::CookiesValid, Counter::CookiesInvalid];
    assert_eq!(counted.map(|counter| world.count(counter)), [0; 3]);
}

#[test]
fn keepalive_tells_the_idle_time_on_streams_to_who_asks() {
    for transport in [Transport::Tcp, Transport::Dot] {
        let mut world = World::new(stream(transport));
        let conn = world.connect_client();
        let keep = with_options("a.example", &option(KEEPALIVE, &[]));
        for round in ["forwarded", "cached"] {
            let answer = ask_over(&mut world, conn, &keep);
            assert_eq!(payload(&answer, KEEPALIVE), Some(vec![0, 100]), "{round}: ten seconds");
        }
        let answer = ask_over(&mut world, conn, &with_options("a.example", &[]));
        assert_eq!(options(&answer), Some(Vec::new()));
        let timed = with_options("a.example", &option(KEEPALIVE, &[0, 1]));
        let wrong = ask_over(&mut world, conn, &timed);
        assert_eq!(rcode(&wrong), 1, "RFC 7828 section 3.2.1");
    }
}

/// RFC 7828 section 3.3.1 for datagrams; HTTP keeps connections in its own way.
#[test]
fn keepalive_is_ignored_where_it_means_nothing() {
    let snapshot = one();
    for transport in [Transport::Udp, Transport::Doh] {
        for time in [&[][..], &[0, 1]] {
            let message = with_options("localhost", &option(KEEPALIVE, time));
            let answer = decide(&snapshot, transport, &message);
            assert_eq!((rcode(&answer), options(&answer)), (0, Some(Vec::new())));
        }
    }
}

#[test]
fn keepalive_is_the_configured_time_as_far_as_it_can_be_said() {
    let told = |millis| {
        let mut snapshot = one();
        snapshot.listen.tcp_idle_timeout = Duration::from_millis(millis);
        let message = with_options("localhost", &option(KEEPALIVE, &[]));
        let answer = decide(&snapshot, Transport::Tcp, &message);
        let time = payload(&answer, KEEPALIVE).expect("a time");
        u16::from_be_bytes(time.try_into().expect("two octets"))
    };
    assert_eq!([1, 199, 200, 6_553_500, 9_000_000].map(told), [0, 1, 2, 65_535, 65_535]);
}

#[test]
fn replies_to_who_pads_are_blocks_of_468_octets_where_it_hides_something() {
    let snapshot = one();
    let padded = with_options("localhost", &option(PADDING, &[0; 40]));
    let plain = with_options("localhost", &[]);
    for transport in [Transport::Dot, Transport::Doh] {
        let answer = decide(&snapshot, transport, &padded);
        assert_eq!(answer.len(), 468);
        let zeros = payload(&answer, PADDING).expect("padding");
        assert!(zeros.iter().all(|octet| *octet == 0), "RFC 7830 section 3");
        assert_eq!(options(&decide(&snapshot, transport, &plain)), Some(Vec::new()));
    }
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(options(&decide(&snapshot, transport, &padded)), Some(Vec::new()));
    }
}

#[test]
fn forwarded_cached_and_failed_replies_are_padded_alike() {
    let mut world = World::new(stream(Transport::Dot));
    let conn = world.connect_client();
    let all = [option(PADDING, &[]), option(COOKIE, MINE), option(KEEPALIVE, &[])].concat();
    let message = with_options("a.example", &all);
    let trailing = [&message[..], &[0]].concat();
    for (message, expected) in [(&message, 0), (&message, 0), (&trailing, 1)] {
        let answer = ask_over(&mut world, conn, message);
        assert_eq!((rcode(&answer), answer.len()), (expected, 468));
    }
    let answer = ask_over(&mut world, conn, &message);
    let codes: Vec<u16> = options(&answer).expect("OPT").iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [COOKIE, KEEPALIVE, PADDING]);
    // Nobody is left to ask.
    let mut nobody = stream(Transport::Dot);
    nobody.chain = vec![Stage::Cache];
    let mut world = World::new(nobody);
    let conn = world.connect_client();
    let answer = ask_over(&mut world, conn, &message);
    assert_eq!((rcode(&answer), answer.len()), (2, 468));
}

/// A cookie takes its place before records do, so that what does not fit is said with TC.
#[test]
fn options_never_lead_beyond_what_a_datagram_may_have() {
    let mut world = World::new(one());
    let mut message = with_options("a.example", &option(COOKIE, MINE));
    let size = message.len() - 12 - 8;
    assert_eq!(message[size - 2..size], [0, 41]);
    message[size..size + 2].copy_from_slice(&512_u16.to_be_bytes());
    world.ask(&message);
    let (socket, _, sent) = world.next_query();
    let mut long = error(&sent, 0);
    // 12 + 15 octets, 29 records of 16, OPT of 11: 502, and a cookie of 28.
    long[7] = 29;
    for _ in 0..29 {
        long.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    }
    world.upstream_says(socket, &long);
    let answer = world.replies.pop_front().expect("a reply");
    assert_eq!(answer[2] & 2, 2, "TC");
    assert_eq!(payload(&answer, COOKIE).expect("a cookie").len(), 24);
    message.truncate(size + 6);
    message.extend_from_slice(&[0, 0]);
    let answer = ask(&mut world, &message);
    assert_eq!((answer[2] & 2, answer.len()), (0, 502), "without a cookie all fits");
}
