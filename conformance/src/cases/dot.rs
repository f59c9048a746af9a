//! DNS over TLS towards clients (RFC 7858): what is settled in the handshake, and what becomes of
//! those who cannot, or do not want to, shake hands. Messages in the session are those of TCP:
//! `stream_clients` and `stream_limits` run over both.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use rustls::{AlertDescription, Error, HandshakeKind, ProtocolVersion};

use crate::case::World;
use crate::harness::tls::{ALL_VERSIONS, client_config};
use crate::harness::{
    Answer, Daemon, Door, Extra, Gate, PATIENCE, Query, Settings, StreamClient, Upstream, framed,
    txt_of, until,
};

cases! {
    one_session_serves_many_queries, own, "RFC 7858 3.4",
        "a TLS session is kept: one handshake serves many queries";
    protocol_of_dot_is_chosen, own, "RFC 7858 3.1, RFC 7301 3.1",
        "a client that offers the protocol dot gets it, also from among others";
    protocol_need_not_be_named, own, "RFC 7858 3.1",
        "a client without ALPN is served";
    other_protocols_are_refused, own, "RFC 7301 3.2",
        "a client that speaks only something else is told no_application_protocol";
    both_versions_of_tls, own, "RFC 8310 8.1",
        "TLS 1.2 and TLS 1.3 are spoken";
    sessions_are_resumed, own, "RFC 7858 3.4, RFC 8310 8.1",
        "a client that returns resumes its session, by both versions of TLS";
    sessions_are_resumed_at_any_worker, own, "RFC 7858 3.4",
        "a session that one worker began is resumed by every other";
    silent_handshakes_are_cut_off, own, "robustness clients",
        "who connects and does not finish its handshake is let go, whatever it has sent by then";
    dripping_handshakes_are_cut_off, own, "robustness clients",
        "a handshake whose octets drip in is cut off like one that stands still";
    handshake_in_pieces, own, "RFC 7858 3.2",
        "a handshake may come in any pieces";
    plain_dns_is_no_handshake, own, "RFC 7858 3.1",
        "a query without TLS is not answered: the connection ends";
    noise_is_no_handshake, own, "robustness clients",
        "octets that are no TLS end their connection and harm nobody";
    handshakes_count_against_the_client, own, "config listen.max_connections_per_client",
        "a connection counts from its start, not from the end of its handshake";
    ends_are_announced, own, "RFC 7858 3.4",
        "the daemon says close_notify before it closes: an end is no truncation";
    broken_off_sessions_harm_nobody, own, "robustness clients",
        "a client that breaks off without close_notify, in a record or between, is just gone";
    records_need_not_match_messages, own, "RFC 7858 3.3",
        "a message may lie in many records, and many messages in one";
    large_answers_cross_records, own, "RFC 7858 3.3",
        "an answer larger than any TLS record comes whole";
    drain_ends_sessions, own, "cli signals",
        "a stopping daemon answers what is in flight over TLS, then says close_notify";
    acl_counts_over_tls, own, "config acl",
        "a client outside the ACL is REFUSED within its session";
    transports_share_the_cache, own, "architecture cache",
        "what one transport has fetched is a hit for all others";
}

/// Above what the daemon gives a handshake.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

fn start(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream).door(Extra::Dot).start(world)
}

fn www() -> Query {
    Query::a("www.example.org")
}

fn one_session_serves_many_queries(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut client = StreamClient::through(&daemon.dot_door());
    for i in 0..30 {
        assert_eq!(client.ask(&Query::a(&format!("n{i}.example.org"))).address(), "192.0.2.1");
    }
    assert!((daemon.metric("balancedns_connections_accepted_total") - 1.0).abs() < 0.1);
}

/// The protocol that is settled with a client that offers these.
fn settled(daemon: &Daemon, alpn: &[&str]) -> std::io::Result<Option<Vec<u8>>> {
    let door = Door::tls(daemon.extra(Extra::Dot), client_config(ALL_VERSIONS, alpn));
    let octets = door.try_open()?;
    let protocol = octets.session().alpn_protocol().map(<[u8]>::to_vec);
    let mut client = StreamClient { octets };
    assert_eq!(client.ask(&www()).address(), "192.0.2.1");
    Ok(protocol)
}

fn protocol_of_dot_is_chosen(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for alpn in [&["dot"][..], &["h2", "dot"], &["dot", "http/1.1"]] {
        let protocol = settled(&daemon, alpn).expect("a session");
        assert_eq!(protocol.as_deref(), Some(&b"dot"[..]), "{alpn:?}");
    }
}

fn protocol_need_not_be_named(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    assert_eq!(settled(&daemon, &[]).expect("a session"), None);
}

fn other_protocols_are_refused(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let error = settled(&daemon, &["h2", "http/1.1"]).expect_err("no session");
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let alert = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    assert_eq!(inner, Some(&alert), "{error:?}");
}

fn both_versions_of_tls(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for (version, number) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let door = Door::tls(daemon.extra(Extra::Dot), client_config(&[version], &["dot"]));
        let mut client = StreamClient::through(&door);
        assert_eq!(client.octets.session().protocol_version(), Some(number));
        assert_eq!(client.ask(&www()).address(), "192.0.2.1");
    }
}

/// Asks on sessions one after the other, and says how many of them went on with an earlier one.
fn resumed(door: &Door, sessions: usize) -> usize {
    let kinds = (0..sessions).map(|_| {
        let mut client = StreamClient::through(door);
        // The answer comes behind the tickets of TLS 1.3.
        assert_eq!(client.ask(&www()).address(), "192.0.2.1");
        client.octets.session().handshake_kind()
    });
    kinds.filter(|kind| *kind == Some(HandshakeKind::Resumed)).count()
}

fn sessions_are_resumed(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for version in ALL_VERSIONS {
        let door = Door::tls(daemon.extra(Extra::Dot), client_config(&[version], &["dot"]));
        assert_eq!(resumed(&door, 4), 3, "{version:?}");
    }
}

fn sessions_are_resumed_at_any_worker(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).door(Extra::Dot).workers(4).start(world);
    // The kernel spreads connections: twenty meet the same worker once in a trillion.
    assert_eq!(resumed(&daemon.dot_door(), 21), 20);
}

/// How long a connection lives on which only this is said.
fn lives(daemon: &Daemon, said: &[u8]) -> Duration {
    let start = Instant::now();
    let mut socket = Door::plain(daemon.extra(Extra::Dot)).socket();
    socket.write_all(said).expect("it is connected");
    socket.set_read_timeout(Some(LONG_ENOUGH)).expect("a timeout above zero");
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection stays open: {error}"),
    }
    start.elapsed()
}

/// The first octets of a real handshake.
fn hello() -> Vec<u8> {
    let config = client_config(ALL_VERSIONS, &["dot"]);
    let name = crate::harness::tls::server_name();
    let mut tls = rustls::ClientConnection::new(config, name).expect("a client");
    let mut octets = Vec::new();
    tls.write_tls(&mut octets).expect("a buffer takes all");
    octets
}

fn silent_handshakes_are_cut_off(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let hello = hello();
    let beginnings = [&[][..], &hello[..3], &hello[..hello.len() / 2], &hello];
    let lived: Vec<_> = std::thread::scope(|scope| {
        let threads = beginnings.map(|said| scope.spawn(|| lives(&daemon, said)));
        threads.into_iter().map(|thread| thread.join().expect("a closed connection")).collect()
    });
    for (took, said) in lived.iter().zip(beginnings) {
        let about = Duration::from_millis(4_500)..Duration::from_secs(8);
        assert!(about.contains(took), "{took:?} after {} octets", said.len());
    }
    assert_eq!(StreamClient::through(&daemon.dot_door()).ask(&www()).address(), "192.0.2.1");
}

fn dripping_handshakes_are_cut_off(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut socket = Door::plain(daemon.extra(Extra::Dot)).socket();
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout above zero");
    let start = Instant::now();
    for octet in hello() {
        let _ = socket.write_all(&[octet]);
        match socket.read(&mut [0; 100]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => break,
        }
        assert!(start.elapsed() < PATIENCE, "it never ends");
    }
    assert!(start.elapsed() > Duration::from_millis(4_500), "{:?}", start.elapsed());
}

fn handshake_in_pieces(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let config = client_config(ALL_VERSIONS, &["dot"]);
    let name = crate::harness::tls::server_name();
    let mut tls = rustls::ClientConnection::new(config, name).expect("a client");
    let mut socket = Door::plain(daemon.extra(Extra::Dot)).socket();
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    while tls.is_handshaking() {
        let mut octets = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut octets).expect("a buffer takes all");
        }
        for octet in octets {
            socket.write_all(&[octet]).expect("the daemon listens on");
        }
        if tls.is_handshaking() {
            tls.read_tls(&mut socket).expect("the daemon answers");
            tls.process_new_packets().expect("sound records");
        }
    }
}

fn plain_dns_is_no_handshake(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let took = lives(&daemon, &framed(&www().encode()));
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(upstream.count(), 0, "nothing of it was a question");
}

fn noise_is_no_handshake(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut damaged = hello();
    damaged[5] = 0xff;
    for noise in [&b"GET / HTTP/1.1\r\nHost: dns.test\r\n\r\n"[..], &[0xff; 100], &damaged] {
        let took = lives(&daemon, noise);
        assert!(took < Duration::from_secs(4), "{took:?}: {noise:02x?}");
    }
    assert_eq!(StreamClient::through(&daemon.dot_door()).ask(&www()).address(), "192.0.2.1");
}

fn handshakes_count_against_the_client(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .door(Extra::Dot)
        .listen("max_connections_per_client = 2")
        .start(world);
    let silent = Door::plain(daemon.extra(Extra::Dot));
    let held = [silent.socket(), silent.socket()];
    until("both are counted", || {
        (daemon.metric("balancedns_connections_accepted_total") > 1.9).then_some(())
    });
    StreamClient::refused(&daemon.dot_door());
    drop(held);
    until("the places are free again", || {
        let mut client = StreamClient::try_through(&daemon.dot_door())?;
        client.send(&www().encode());
        matches!(client.try_receive(PATIENCE), crate::harness::Tried::Reply(_)).then_some(())
    });
}

/// Reads until the end of the session, which has to be announced.
fn assert_announced_end(client: &mut StreamClient) {
    client.octets.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    // rustls tells an end without close_notify as `UnexpectedEof`.
    let read = client.octets.read(&mut [0; 10]);
    assert!(matches!(read, Ok(0)), "{read:?}");
}

fn ends_are_announced(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon =
        Settings::with(&upstream).door(Extra::Dot).listen("tcp_idle_timeout_ms = 300").start(world);
    for version in ALL_VERSIONS {
        let door = Door::tls(daemon.extra(Extra::Dot), client_config(&[version], &["dot"]));
        let mut idle = StreamClient::through(&door);
        idle.ask(&www());
        assert_announced_end(&mut idle);
        let mut finished = StreamClient::through(&door);
        finished.ask(&www());
        finished.finish();
        assert_announced_end(&mut finished);
    }
}

fn broken_off_sessions_harm_nobody(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for said in [&[][..], &[0x17, 3, 3, 0, 40, 1, 2, 3]] {
        let mut client = StreamClient::through(&daemon.dot_door());
        client.ask(&www());
        client.octets.socket.write_all(said).expect("it is connected");
        client.octets.socket.shutdown(Shutdown::Write).expect("half-close");
        client.wait_for_close();
    }
    assert_eq!(StreamClient::through(&daemon.dot_door()).ask(&www()).address(), "192.0.2.1");
    let restarts = daemon.metric(r#"balancedns_component_restarts_total{component="dns-dot"}"#);
    assert!(restarts == 0.0, "a worker was restarted {restarts} times");
}

fn records_need_not_match_messages(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut client = StreamClient::through(&daemon.dot_door());
    let queries: Vec<_> = (0..20).map(|id| www().id(id)).collect();
    // A record for each octet, then one for all.
    for octet in framed(&queries[0].encode()) {
        client.send_raw(&[octet]);
    }
    client.receive().check_echo(&queries[0]);
    let all: Vec<_> = queries.iter().flat_map(|query| framed(&query.encode())).collect();
    client.send_raw(&all);
    for _ in &queries {
        let reply = client.receive();
        reply.check_echo(&queries[usize::from(reply.message.metadata.id)]);
    }
}

fn large_answers_cross_records(world: &World) {
    let upstream = Upstream::start(|asked| asked.answer([txt_of(&asked.name(), 300, 60_000)]));
    let daemon =
        Settings::new().upstream(&upstream, r#"protocol = "tcp""#).door(Extra::Dot).start(world);
    let mut client = StreamClient::through(&daemon.dot_door());
    for _ in ["miss", "hit"] {
        let reply = client.ask(&Query::new("huge.example.org", RecordType::TXT));
        assert!(reply.bytes.len() > 60_000 && !reply.truncated());
    }
}

fn drain_ends_sessions(world: &World) {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |asked| {
        Answer::When(held.clone(), Box::new(asked.address(60, "192.0.2.1").into()))
    });
    let daemon = start(world, &upstream);
    let mut client = StreamClient::through(&daemon.dot_door());
    let query = www();
    client.send(&query.encode());
    upstream.wait_for(1);
    daemon.signal("TERM");
    until("it drains", || match daemon.try_get("/readyz") {
        Ok((503, _)) | Err(_) => Some(()),
        Ok(_) => None,
    });
    gate.open();
    client.receive().check_echo(&query);
    assert_announced_end(&mut client);
    assert_eq!(daemon.end().status.code(), Some(0));
}

fn acl_counts_over_tls(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .door(Extra::Dot)
        .section(r#"acl = { "192.0.2.0/24" }"#)
        .start(world);
    let mut client = StreamClient::through(&daemon.dot_door());
    assert_eq!(client.ask(&www()).rcode(), 5);
    assert_eq!(upstream.count(), 0);
}

fn transports_share_the_cache(world: &World) {
    use crate::harness::http::{Version, get, message, post};
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).door(Extra::Dot).door(Extra::Doh).start(world);
    assert_eq!(daemon.udp(&www()).address(), "192.0.2.1");
    assert_eq!(daemon.tcp(&www()).address(), "192.0.2.1");
    assert_eq!(StreamClient::through(&daemon.dot_door()).ask(&www()).address(), "192.0.2.1");
    for version in Version::BOTH {
        for request in [get(&www().encode()), post(&www().encode())] {
            let response = version.exchange(&daemon.doh_door(version), request);
            assert_eq!(message(response).address(), "192.0.2.1");
        }
    }
    assert_eq!(upstream.count(), 1);
}
