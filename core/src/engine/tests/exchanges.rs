//! Encrypted listeners and upstreams: handshakes, announced addresses, exchanges over HTTP.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response};

use super::harness::{World, client, error, id, query, rcode, reply, snapshot, upstream};
use crate::config::{
    Alpn, DohTarget, ListenSocket, Snapshot, Trust, UpstreamProtocol, UpstreamTls,
};
use crate::engine::{AcceptRefused, Closed, Established, Event, IoFailure, ListenerId, Sizes};
use crate::handle::{ConnHandle, ExchangeHandle};
use crate::limits;
use crate::metrics::Counter;
use crate::policy::Acl;
use crate::time::Duration;
use crate::transport::Transport;

const DOT: ListenerId = ListenerId(2);
const DOH: ListenerId = ListenerId(3);

/// With encrypted listeners, and upstreams that are asked in this way.
fn with(protocols: &[UpstreamProtocol]) -> Snapshot {
    let upstreams = protocols.iter().enumerate().map(|(place, protocol)| {
        let mut one = upstream(["one", "two"][place], *protocol);
        one.addr = super::harness::literal(["192.0.2.1:443", "192.0.2.2:443"][place]);
        let tls = |alpn| UpstreamTls {
            alpn,
            server_name: "dns.test".to_owned(),
            trust: Trust::System,
            pins: Vec::new(),
        };
        match protocol {
            UpstreamProtocol::Udp | UpstreamProtocol::Tcp => {}
            UpstreamProtocol::Dot => one.tls = Some(tls(Alpn::Dot).into()),
            UpstreamProtocol::Doh => {
                one.tls = Some(tls(Alpn::Http2).into());
                let (authority, path) = ("dns.test".to_owned(), "/resolve?a=b".to_owned());
                one.doh = Some(DohTarget { authority, path }.into());
            }
        }
        one
    });
    let mut snapshot = snapshot(upstreams.collect());
    for transport in [Transport::Dot, Transport::Doh] {
        let addr = "127.0.0.1:853".parse().expect("an address");
        snapshot.listen.sockets.push(ListenSocket { transport, addr, tls: true });
    }
    snapshot
}

fn http_client(world: &mut World) -> ConnHandle {
    let conn = world.accept(DOH, client());
    world.engine.handle_established(world.now, conn, Established::default());
    conn
}

/// The head of a POST.
fn post(world: &mut World, conn: ConnHandle) -> ExchangeHandle {
    let request = Request::post("/dns-query").header("content-type", "application/dns-message");
    let head = request.body(()).expect("valid").into_parts().0;
    let opened = world.engine.handle_exchange_opened(world.now, conn, &head).expect("room");
    world.pump();
    opened
}

fn body(world: &mut World, exchange: ExchangeHandle, octets: &[u8], end: bool) {
    world.engine.handle_exchange_body(world.now, exchange, octets, end);
    world.pump();
}

fn ask(world: &mut World, conn: ConnHandle, message: &[u8]) -> ExchangeHandle {
    let exchange = post(world, conn);
    body(world, exchange, message, true);
    exchange
}

fn response(world: &mut World, exchange: ExchangeHandle) -> Response<Bytes> {
    let (of, response) = world.responses.pop_front().expect("a response");
    assert_eq!(of, exchange);
    world.engine.audit().expect("all is in order");
    response
}

fn sent(world: &mut World, exchange: ExchangeHandle) {
    world.engine.handle_exchange_sent(world.now, exchange);
    world.pump();
    world.engine.audit().expect("all is in order");
}

fn answers(world: &mut World, exchange: ExchangeHandle, message: Vec<u8>) {
    let response = Response::builder().header("content-type", "application/dns-message");
    let response = response.body(Bytes::from(message)).expect("valid");
    world.engine.handle_exchange_answered(world.now, exchange, &response);
    world.pump();
    world.engine.audit().expect("all is in order");
}

#[test]
fn a_question_over_http_is_answered_with_its_id_and_how_long_it_stays_fresh() {
    let mut world = World::new(with(&[UpstreamProtocol::Udp]));
    let conn = http_client(&mut world);
    let exchange = post(&mut world, conn);
    let message = query(7, "Www.Example.ORG");
    let (first, second) = message.split_at(5);
    body(&mut world, exchange, first, false);
    body(&mut world, exchange, second, true);
    let (socket, asked) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&asked, 300));
    let answer = response(&mut world, exchange);
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/dns-message");
    assert_eq!(answer.headers()["cache-control"], "max-age=300");
    assert_eq!(id(answer.body()), 7);
    assert_eq!(answer.body()[12..29], message[12..29], "in the client's spelling");
    sent(&mut world, exchange);

    world.pass(Duration::from_secs(100));
    assert!(world.closed.contains(&conn), "it has been idle");
    let conn = http_client(&mut world);
    let exchange = ask(&mut world, conn, &message);
    assert_eq!(response(&mut world, exchange).headers()["cache-control"], "max-age=200");
    assert_eq!(world.count(Counter::QueriesDoh), 2);
}

#[test]
fn a_get_is_answered_without_a_body() {
    let mut world = World::new(with(&[UpstreamProtocol::Udp]));
    let conn = http_client(&mut world);
    let encoded = data_encoding::BASE64URL_NOPAD.encode(&query(0, "localhost"));
    let request = Request::get(format!("/dns-query?dns={encoded}")).body(()).expect("valid");
    let head = request.into_parts().0;
    let exchange = world.engine.handle_exchange_opened(world.now, conn, &head).expect("room");
    world.pump();
    let answer = response(&mut world, exchange);
    assert_eq!((answer.status().as_u16(), rcode(answer.body())), (200, 0));
    body(&mut world, exchange, b"", true); // adapters say so of every request
    sent(&mut world, exchange);
    assert_eq!(world.count(Counter::DeadHandles), 0);
}

#[test]
fn what_cannot_be_answered_has_a_status() {
    let mut world = World::new(with(&[UpstreamProtocol::Udp]));
    let conn = http_client(&mut world);
    let media = ("content-type", "application/dns-message");
    for (method, target, header, status) in [
        (Method::GET, "/", media, 404),
        (Method::PUT, "/dns-query", media, 405),
        (Method::POST, "/dns-query", ("content-type", "text/plain"), 415),
        (Method::GET, "/dns-query?dns=!", media, 400),
    ] {
        let request = Request::builder().method(method).uri(target).header(header.0, header.1);
        let head = request.body(()).expect("valid").into_parts().0;
        let exchange = world.engine.handle_exchange_opened(world.now, conn, &head).expect("room");
        world.pump();
        assert_eq!(response(&mut world, exchange).status(), status);
        sent(&mut world, exchange);
    }
    for (octets, status) in [
        (&[0; limits::MESSAGE_OCTETS + 1][..], 413),
        (&[0; 11], 400),
        (&[0xff; 40], 400),
        (b"", 400),
    ] {
        let exchange = ask(&mut world, conn, octets);
        assert_eq!(response(&mut world, exchange).status(), status, "{} octets", octets.len());
        sent(&mut world, exchange);
    }
    assert!(world.is_live(conn), "other requests may be better");
    assert_eq!(world.count(Counter::DohBadRequest), 4);
}

#[test]
fn a_stranger_is_forbidden_before_anything_of_the_request_is_read() {
    let mut world = World::new(with(&[UpstreamProtocol::Udp]));
    let stranger: SocketAddr = "203.0.113.9:1".parse().expect("valid");
    let conn = world.accept(DOH, stranger);
    world.engine.handle_established(world.now, conn, Established::default());
    let exchange = post(&mut world, conn);
    assert_eq!(response(&mut world, exchange).status(), 403);
    assert_eq!(world.count(Counter::Queries), 0);
}

#[test]
fn one_connection_carries_many_exchanges_answered_in_any_order() {
    let mut world = World::new(with(&[UpstreamProtocol::Udp]));
    let conn = http_client(&mut world);
    let exchanges: Vec<_> = (0..limits::EXCHANGES_PER_CLIENT_CONN)
        .map(|n| ask(&mut world, conn, &query(0, &format!("n{n}.example"))))
        .collect();
    let head = Request::post("/dns-query").body(()).expect("valid").into_parts().0;
    let refused = world.engine.handle_exchange_opened(world.now, conn, &head);
    assert_eq!(refused, Err(AcceptRefused::TooManyConnections));
    let asked: Vec<_> = world.queries.drain(..).collect();
    assert_eq!(asked.len(), exchanges.len());
    for ((socket, asked), exchange) in asked.into_iter().zip(exchanges).rev() {
        world.upstream_says(socket, &reply(&asked, 60));
        assert_eq!(response(&mut world, exchange).status(), 200);
        sent(&mut world, exchange);
    }
}

#[test]
fn a_body_that_does_not_come_is_given_up_alone() {
    let mut world = World::new(with(&[UpstreamProtocol::Udp]));
    let conn = http_client(&mut world);
    let slow = post(&mut world, conn);
    body(&mut world, slow, b"some", false);
    world.pass(Duration::from_millis(1_500));
    let other = post(&mut world, conn);
    world.pass(Duration::from_millis(500));
    assert_eq!(response(&mut world, slow).status(), 408);
    sent(&mut world, slow);
    body(&mut world, other, &query(1, "localhost"), true);
    assert_eq!(response(&mut world, other).status(), 200);
    sent(&mut world, other);
    assert!(world.is_live(conn));
}

#[test]
fn a_client_that_takes_no_response_is_cut_off() {
    let mut world = World::new(with(&[UpstreamProtocol::Udp]));
    let conn = http_client(&mut world);
    let exchange = ask(&mut world, conn, &query(1, "localhost"));
    assert_eq!(response(&mut world, exchange).status(), 200);
    world.pass(Duration::from_millis(1_999));
    assert!(world.is_live(conn));
    world.pass(Duration::from_millis(1));
    assert!(!world.is_live(conn));
    world.engine.handle_exchange_reset(world.now, exchange);
    assert_eq!(world.count(Counter::DeadHandles), 1);
    world.engine.audit().expect("nothing is left of it");
}

#[test]
fn a_reset_exchange_is_not_answered_and_resets_are_bounded() {
    let mut world = World::new(with(&[UpstreamProtocol::Udp]));
    let conn = http_client(&mut world);
    let first = ask(&mut world, conn, &query(1, "example.org"));
    world.engine.handle_exchange_reset(world.now, first);
    let (socket, asked) = world.queries.pop_front().expect("a query");
    world.upstream_says(socket, &reply(&asked, 60));
    assert!(world.responses.is_empty());
    assert_eq!(world.count(Counter::DroppedClientGone), 1);
    for _ in 1..limits::RESETS_PER_CONN {
        let exchange = post(&mut world, conn);
        world.engine.handle_exchange_reset(world.now, exchange);
    }
    assert!(world.is_live(conn));
    let last = post(&mut world, conn);
    world.engine.handle_exchange_reset(world.now, last);
    world.pump();
    assert!(!world.is_live(conn), "nobody changes its mind so often");
    assert_eq!(world.count(Counter::DohResets), u64::from(limits::RESETS_PER_CONN) + 1);
    world.engine.audit().expect("all is in order");
}

#[test]
fn a_handshake_has_a_deadline() {
    for listener in [DOT, DOH] {
        let mut world = World::new(with(&[UpstreamProtocol::Udp]));
        let conn = world.accept(listener, client());
        world.pass(limits::HANDSHAKE - Duration::from_millis(1));
        assert!(world.is_live(conn));
        world.pass(Duration::from_millis(1));
        assert!(!world.is_live(conn));
        assert_eq!(world.count(Counter::ConnsTimedOut), 1);
    }
}

#[test]
fn whom_a_proxy_announces_is_the_client() {
    let mut snapshot = with(&[UpstreamProtocol::Udp]);
    snapshot.listen.proxy_protocol_from = Acl::new(vec!["198.51.100.1/32".parse().expect("valid")]);
    snapshot.listen.max_connections_per_client = 1;
    let mut world = World::new(snapshot);
    let proxy: SocketAddr = "198.51.100.1:7".parse().expect("valid");
    let announced = |world: &mut World, client: &str| {
        let accepted = world.engine.handle_accepted(world.now, DOH, proxy).expect("room");
        assert!(accepted.proxied && accepted.socket.tls);
        let client = Some(client.parse().expect("valid"));
        let how = Established { alpn: None, client };
        world.engine.handle_established(world.now, accepted.conn, how);
        accepted.conn
    };
    let local = announced(&mut world, "[::ffff:127.0.0.5]:9");
    let exchange = ask(&mut world, local, &query(1, "localhost"));
    assert_eq!(response(&mut world, exchange).status(), 200, "the proxy itself may not ask");
    let stranger = announced(&mut world, "203.0.113.9:9");
    let exchange = post(&mut world, stranger);
    assert_eq!(response(&mut world, exchange).status(), 403);
    sent(&mut world, exchange);
    // The bound is the client's, not the proxy's.
    let again = world.engine.handle_accepted(world.now, DOH, proxy).expect("room").conn;
    let client = Some("127.0.0.5:10".parse().expect("valid"));
    world.engine.handle_established(world.now, again, Established { alpn: None, client });
    assert!(matches!(
        world.engine.poll_action(world.now),
        Some(crate::engine::Action::CloseConn { conn, .. }) if conn == again
    ));
    world.engine.audit().expect("all is in order");
}

#[test]
fn dot_is_a_stream_after_its_handshake() {
    let mut world = World::new(with(&[UpstreamProtocol::Dot]));
    let conn = world.accept(DOT, client());
    world.pass(Duration::from_secs(1));
    world.engine.handle_established(world.now, conn, Established::default());
    let message = query(5, "example.org");
    let framed = [&u16::try_from(message.len()).expect("short").to_be_bytes(), &message[..]];
    world.stream_says(conn, &framed.concat());
    let to = world.establish();
    let asked = world.messages(to);
    let answer = reply(&asked[0], 60);
    let framed = [&u16::try_from(answer.len()).expect("short").to_be_bytes(), &answer[..]];
    world.stream_says(to, &framed.concat());
    assert_eq!(id(&world.messages(conn)[0]), 5);
    assert_eq!(world.count(Counter::QueriesDot), 1);
}

#[test]
fn an_upstream_over_http_is_asked_many_things_on_one_connection_without_ids() {
    let mut world = World::new(with(&[UpstreamProtocol::Doh]));
    for n in 0..10 {
        world.ask(&query(n, &format!("n{n}.example")));
    }
    assert!(world.requests.is_empty(), "nothing is asked before the connection is there");
    let conn = world.establish();
    assert!(world.connects.is_empty());
    let requests: Vec<_> = world.requests.drain(..).collect();
    assert_eq!(requests.len(), 10);
    for (exchange, on, request) in requests.into_iter().rev() {
        assert_eq!(on, conn);
        assert_eq!(request.uri(), "https://dns.test/resolve?a=b");
        assert_eq!(request.headers()["content-type"], "application/dns-message");
        assert_eq!(request.headers()["accept"], "application/dns-message");
        assert_eq!((request.method(), id(request.body())), (&Method::POST, 0));
        answers(&mut world, exchange, reply(request.body(), 60));
    }
    let ids: Vec<u16> = world.replies.iter().map(|reply| id(reply)).collect();
    assert_eq!(ids, (0..10).rev().collect::<Vec<u16>>());
    world.pass(limits::UPSTREAM_IDLE);
    assert!(!world.is_live(conn));
    assert_eq!(world.engine.sizes(), Sizes { timers: 0, ..Sizes::default() });
}

#[test]
fn more_than_one_connection_carries_what_one_may_not() {
    let mut world = World::new(with(&[UpstreamProtocol::Doh]));
    let all = limits::EXCHANGES_PER_UPSTREAM_CONN + 1;
    for n in 0..all {
        world.ask(&query(1, &format!("n{n}.example")));
    }
    assert_eq!(world.connects.len(), 2);
    world.establish();
    world.establish();
    assert_eq!(world.requests.len(), all);
    world.engine.audit().expect("all is in order");
}

#[test]
fn an_exchange_that_breaks_is_asked_once_more_then_elsewhere() {
    let mut world = World::new(with(&[UpstreamProtocol::Doh, UpstreamProtocol::Udp]));
    world.ask(&query(1, "first.example"));
    let first = world.establish();
    let (exchange, _, request) = world.requests.pop_front().expect("a request");
    answers(&mut world, exchange, reply(request.body(), 60));
    world.replies.clear();
    world.ask(&query(3, "example.org"));
    for conn in [Some(first), None] {
        let conn = conn.unwrap_or_else(|| world.establish());
        let (exchange, on, _) = world.requests.pop_front().expect("a request");
        assert_eq!(on, conn);
        world.engine.handle_exchange_failed(world.now, exchange, IoFailure::Reset);
        world.pump();
        assert!(!world.is_live(conn), "nothing is asked there any more");
    }
    assert!(world.connects.is_empty());
    let (socket, asked) = world.queries.pop_front().expect("the other one is asked");
    world.upstream_says(socket, &reply(&asked, 60));
    assert_eq!(id(&world.replies[0]), 3);
    world.engine.audit().expect("all is in order");
}

#[test]
fn a_connection_that_breaks_takes_its_exchanges_along() {
    let mut world = World::new(with(&[UpstreamProtocol::Doh]));
    world.ask(&query(1, "a.example"));
    let conn = world.establish();
    let (exchange, _, request) = world.requests.pop_front().expect("a request");
    answers(&mut world, exchange, reply(request.body(), 60));
    world.ask(&query(2, "b.example"));
    let (late, ..) = world.requests.pop_front().expect("a request");
    world.break_conn(conn, Closed::Cleanly);
    world.engine.audit().expect("all is in order");
    world.establish();
    let (exchange, _, request) = world.requests.pop_front().expect("the request again");
    world.engine.handle_exchange_failed(world.now, late, IoFailure::Reset);
    assert_eq!(world.count(Counter::DeadHandles), 1);
    answers(&mut world, exchange, reply(request.body(), 60));
    assert_eq!(world.replies.len(), 2);
}

#[test]
fn silence_cancels_the_exchange_and_leaves_the_connection() {
    let mut world = World::new(with(&[UpstreamProtocol::Doh, UpstreamProtocol::Udp]));
    world.ask(&query(3, "example.org"));
    let conn = world.establish();
    let (exchange, ..) = world.requests.pop_front().expect("a request");
    world.pass(Duration::from_secs(2));
    assert_eq!(world.cancelled, [exchange]);
    assert!(!world.is_live(conn), "nothing was heard on it");
    assert_eq!(world.queries.len(), 1, "the other one is asked");
    world.engine.audit().expect("all is in order");
}

#[test]
fn what_is_no_answer_to_the_question_is_not_passed_on() {
    for wrong in 0..4 {
        let mut world = World::new(with(&[UpstreamProtocol::Doh, UpstreamProtocol::Udp]));
        world.ask(&query(3, "example.org"));
        world.establish();
        let (exchange, _, request) = world.requests.pop_front().expect("a request");
        let mut message = reply(request.body(), 60);
        match wrong {
            0 => message[1] = 9,                     // an id
            1 => message[13] ^= 1,                   // another name
            2 => message.truncate(20),               // cut off
            _ => message = error(request.body(), 2), // SERVFAIL
        }
        answers(&mut world, exchange, message);
        let (socket, asked) = world.queries.pop_front().expect("the other one is asked");
        world.upstream_says(socket, &reply(&asked, 60));
        assert_eq!((id(&world.replies[0]), rcode(&world.replies[0])), (3, 0));
    }
}

#[test]
fn a_status_is_reported_and_the_next_one_is_asked() {
    let mut world = World::new(with(&[UpstreamProtocol::Doh, UpstreamProtocol::Udp]));
    world.ask(&query(3, "example.org"));
    world.establish();
    let (exchange, ..) = world.requests.pop_front().expect("a request");
    let mut response = Response::new(Bytes::from_static(b"Bad Gateway"));
    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
    world.engine.handle_exchange_answered(world.now, exchange, &response);
    world.pump();
    assert!(matches!(world.events[..], [Event::UpstreamHttpStatus { status: 502, .. }]));
    assert_eq!(world.count(Counter::UpstreamHttp), 1);
    assert_eq!(world.queries.len(), 1);
}

#[test]
fn whom_a_trusted_proxy_asks_for_is_the_client_of_that_request_alone() {
    let mut snapshot = with(&[UpstreamProtocol::Udp]);
    snapshot.listen.trusted_proxies = Acl::new(vec!["198.51.100.1/32".parse().expect("valid")]);
    snapshot.listen.max_connections_per_client = 1;
    let mut world = World::new(snapshot);
    let proxy: SocketAddr = "198.51.100.1:7".parse().expect("valid");
    for _ in 0..3 {
        let conn = world.accept(DOH, proxy); // more than one client may have
        world.engine.handle_established(world.now, conn, Established::default());
        for (header, status) in [
            (Some("for=10.0.0.1"), 200),
            (Some("for=203.0.113.9"), 403),
            (Some("for=10.0.0.1, for=203.0.113.9"), 403),
            (None, 403), // the proxy for itself
        ] {
            let encoded = data_encoding::BASE64URL_NOPAD.encode(&query(0, "localhost"));
            let mut request = Request::get(format!("/dns-query?dns={encoded}"));
            if let Some(header) = header {
                request = request.header("forwarded", header);
            }
            let head = request.body(()).expect("valid").into_parts().0;
            let opened = world.engine.handle_exchange_opened(world.now, conn, &head);
            let exchange = opened.expect("room");
            world.pump();
            assert_eq!(response(&mut world, exchange).status(), status, "{header:?}");
            sent(&mut world, exchange);
        }
    }
    // From anybody else the header means nothing.
    let conn = http_client(&mut world);
    let request = Request::post("/dns-query").header("forwarded", "for=203.0.113.9");
    let request = request.header("content-type", "application/dns-message");
    let head = request.body(()).expect("valid").into_parts().0;
    let exchange = world.engine.handle_exchange_opened(world.now, conn, &head).expect("room");
    body(&mut world, exchange, &query(0, "localhost"), true);
    assert_eq!(response(&mut world, exchange).status(), 200);
}
