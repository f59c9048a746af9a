//! Connections of DNS over HTTPS: what is settled in the handshake, many exchanges on one
//! connection, and the bounds of both versions of HTTP.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use http::{Request, header};

use crate::case::World;
use crate::harness::http::{Http1, Http2, Responded, Version, encode, field, get, message, post};
use crate::harness::tls::{ALL_VERSIONS, client_config};
use crate::harness::{
    Answer, Daemon, Door, Extra, Gate, PATIENCE, Pushed, Query, Settings, Upstream, txt_of, until,
};

cases! {
    protocol_is_settled_by_alpn, own, "RFC 7301 3.2, RFC 9113 3.2",
        "h2 or http/1.1, as the client offers; h2 if it offers both";
    http1_without_alpn, own, "RFC 9112 9.7",
        "a client that names no protocol is served by HTTP/1.1";
    dot_is_not_spoken_here, own, "RFC 7301 3.2",
        "a client that offers neither version of HTTP is refused";
    sessions_are_resumed_over_http, own, "RFC 8310 8.1",
        "a client of DoH that returns resumes its session";
    http1_connections_are_kept, own, "RFC 9112 9.3",
        "one HTTP/1.1 connection serves many requests, one after the other";
    http1_pipelines_are_served, own, "RFC 9112 9.3.2",
        "requests that come at once are answered in their order";
    http1_close_is_kept_to, own, "RFC 9112 9.6",
        "who asks for the end of the connection gets its answer, then the end";
    http1_requests_in_pieces, own, "RFC 9112 2.1",
        "a request may come in any pieces: cut at every octet";
    http2_answers_come_out_of_order, own, "RFC 9113 5",
        "a slow answer holds up no other stream";
    http2_streams_are_bounded, own, "RFC 9113 5.1.2",
        "the daemon says how many streams it takes: a hundred, and serves as many at once";
    http2_large_answers_share, own, "RFC 9113 5.2",
        "a client that does not take a large answer gets others meanwhile";
    cancelled_requests_cost_nothing, own, "RFC 9113 5.4.2",
        "a client may cancel a request; the connection goes on";
    rapid_resets_are_bounded, own, "robustness clients",
        "a client that only opens and resets streams loses its connection";
    slow_bodies_time_out, own, "config listen.read_timeout_ms, RFC 9110 15.5.9",
        "a body that begins and does not go on gets 408, and costs no other stream";
    unfinished_heads_are_cut_off, own, "config listen.tcp_idle_timeout_ms",
        "a head that does not come to its end costs its connection, also octet by octet";
    idle_http_connections_are_closed, own, "config listen.tcp_idle_timeout_ms",
        "a connection of either version that nobody uses is closed; use keeps it open";
    waiting_requests_are_not_idle, own, "config listen.tcp_idle_timeout_ms",
        "a connection with a request in flight is not idle";
    heads_are_bounded, own, "RFC 6585 5",
        "a head of megabytes is not taken, and harms nobody";
    noise_is_no_http, own, "robustness clients",
        "octets in TLS that are no HTTP end their connection and harm nobody";
    slow_http1_readers_are_cut_off, own, "config listen.write_timeout_ms",
        "who asks by HTTP/1.1 and does not read costs bounded memory, and loses the connection";
    slow_http2_readers_are_cut_off, own, "config listen.write_timeout_ms, RFC 9113 5.2",
        "who asks by HTTP/2 and opens no window costs bounded memory, and loses the connection";
    http_clients_may_vanish, own, "robustness clients",
        "a client that goes away with requests in flight harms nobody";
    http_connections_are_bounded, own, "config listen.max_connections_per_client",
        "connections of DoH count like all others";
    drain_finishes_exchanges, own, "cli signals",
        "a stopping daemon answers what is in flight by both versions, then closes";
    http_components_are_watched, own, "http /statusz",
        "dns-dot and dns-doh are components that run when they are configured";
}

fn start(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream).door(Extra::Doh).start(world)
}

fn www() -> Query {
    Query::a("www.example.org")
}

/// Holds back names that start with "slow" until the gate opens.
fn with_slow_names(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |asked| {
        let answer = Answer::from(asked.address(60, "192.0.2.1"));
        if asked.name().starts_with("slow") {
            Answer::When(gate.clone(), Box::new(answer))
        } else {
            answer
        }
    })
}

fn http1(daemon: &Daemon) -> Http1 {
    Http1::to(&daemon.doh_door(Version::Http1))
}

fn http2(daemon: &Daemon) -> Http2 {
    Http2::to(&daemon.doh_door(Version::Http2))
}

fn assert_served(daemon: &Daemon) {
    for version in Version::BOTH {
        let response = version.exchange(&daemon.doh_door(version), get(&www().encode()));
        assert_eq!(message(response).address(), "192.0.2.1");
    }
}

fn protocol_is_settled_by_alpn(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for (alpn, chosen) in [
        (&["h2"][..], "h2"),
        (&["http/1.1"], "http/1.1"),
        (&["http/1.1", "h2"], "h2"),
        (&["dot", "http/1.1"], "http/1.1"),
    ] {
        let door = Door::tls(daemon.extra(Extra::Doh), client_config(ALL_VERSIONS, alpn));
        let octets = door.open();
        assert_eq!(octets.session().alpn_protocol(), Some(chosen.as_bytes()), "{alpn:?}");
        let response = match chosen {
            "h2" => Http2::to(&door).exchange(get(&www().encode())).expect("a response"),
            _ => Http1::on(octets).exchange(&get(&www().encode())),
        };
        assert_eq!(message(response).address(), "192.0.2.1");
    }
}

fn http1_without_alpn(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let door = Door::tls(daemon.extra(Extra::Doh), client_config(ALL_VERSIONS, &[]));
    let response = Http1::to(&door).exchange(&get(&www().encode()));
    assert_eq!(message(response).address(), "192.0.2.1");
}

fn dot_is_not_spoken_here(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let door = Door::tls(daemon.extra(Extra::Doh), client_config(ALL_VERSIONS, &["dot"]));
    assert!(door.try_open().is_err());
    assert_served(&daemon);
}

fn sessions_are_resumed_over_http(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for version in ALL_VERSIONS {
        let config = client_config(&[version], &["http/1.1"]);
        let door = Door::tls(daemon.extra(Extra::Doh), config);
        let kinds = [0, 1].map(|_| {
            let mut client = Http1::to(&door);
            client.exchange(&get(&www().encode()));
            client.octets.session().handshake_kind()
        });
        assert_eq!(kinds[1], Some(rustls::HandshakeKind::Resumed), "{version:?}");
    }
}

fn http1_connections_are_kept(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut client = http1(&daemon);
    for i in 0..20 {
        let query = Query::a(&format!("n{i}.example.org")).encode();
        let request = if i % 2 == 0 { get(&query) } else { post(&query) };
        assert_eq!(message(client.exchange(&request)).address(), "192.0.2.1");
        // A refusal is no reason for an end.
        assert_eq!(client.exchange(&get(&[1, 2, 3])).status(), 400);
    }
    assert!((daemon.metric("balancedns_connections_accepted_total") - 1.0).abs() < 0.1);
}

fn http1_pipelines_are_served(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let queries: Vec<_> = (0..50).map(|i| Query::a(&format!("n{i}.example.org"))).collect();
    let requests = queries.iter().enumerate().map(|(i, query)| {
        let query = query.encode();
        if i % 2 == 0 { get(&query) } else { post(&query) }
    });
    let octets: Vec<_> = requests.flat_map(|request| encode(&request)).collect();
    let mut client = http1(&daemon);
    client.send_raw(&octets);
    for query in &queries {
        message(client.receive()).check_echo(query);
    }
}

fn http1_close_is_kept_to(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut request = get(&www().encode());
    request.headers_mut().insert(header::CONNECTION, "close".parse().expect("a value"));
    let mut client = http1(&daemon);
    let response = client.exchange(&request);
    assert_eq!(field(&response, header::CONNECTION), "close");
    message(response);
    client.wait_for_close();
}

fn http1_requests_in_pieces(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut client = http1(&daemon);
    for request in [get(&www().encode()), post(&www().encode())] {
        let octets = encode(&request);
        for cut in 1..octets.len() {
            client.send_raw(&octets[..cut]);
            std::thread::yield_now();
            client.send_raw(&octets[cut..]);
            assert_eq!(message(client.receive()).address(), "192.0.2.1", "cut at {cut}");
        }
    }
}

fn http2_answers_come_out_of_order(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = start(world, &upstream);
    let mut client = http2(&daemon);
    let slow = Query::a("slow.example.org");
    let waiting = client.start(post(&slow.encode())).expect("a stream");
    upstream.wait_for(1);
    for i in 0..10 {
        let query = Query::a(&format!("fast{i}.example.org"));
        let response = client.exchange(post(&query.encode())).expect("a response");
        message(response).check_echo(&query);
    }
    gate.open();
    message(waiting.receive().expect("a response")).check_echo(&slow);
}

fn http2_streams_are_bounded(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = start(world, &upstream);
    let mut client = http2(&daemon);
    client.exchange(get(&www().encode())).expect("a response, behind the daemon's settings");
    assert_eq!(client.streams_max(), 100);
    let exchanges: Vec<_> = (0..100)
        .map(|i| client.start(post(&Query::a(&format!("slow{i}.example.org")).encode())))
        .collect();
    upstream.wait_for(101);
    gate.open();
    for exchange in exchanges {
        let response = exchange.expect("a stream").receive().expect("a response");
        assert_eq!(message(response).address(), "192.0.2.1");
    }
}

fn http2_large_answers_share(world: &World) {
    let upstream = huge_or_not();
    let daemon =
        Settings::new().upstream(&upstream, r#"protocol = "tcp""#).door(Extra::Doh).start(world);
    // A stream may hold 10 kB, the connection much more.
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(10_000).initial_connection_window_size(1_000_000);
    let mut client = Http2::with(&daemon.doh_door(Version::Http2), &settings);
    let huge = Query::new("huge.example.org", RecordType::TXT);
    // Its data is taken only when it is received.
    let untaken = client.start(post(&huge.encode())).expect("a stream");
    upstream.wait_for(1);
    for _ in 0..5 {
        let response = client.exchange(post(&www().encode())).expect("a response");
        assert_eq!(message(response).address(), "192.0.2.1");
    }
    assert!(message(untaken.receive().expect("a response")).bytes.len() > 60_000);
}

fn cancelled_requests_cost_nothing(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = start(world, &upstream);
    let mut client = http2(&daemon);
    for i in 0..10 {
        let query = Query::a(&format!("slow{i}.example.org")).encode();
        let exchange = client.start(post(&query)).expect("a stream");
        upstream.wait_for(i + 1);
        exchange.reset();
        let response = client.exchange(get(&www().encode())).expect("a response");
        assert_eq!(message(response).address(), "192.0.2.1");
        // `www` itself is asked once.
        if i == 0 {
            upstream.wait_for(2);
        }
    }
    gate.open();
    assert!(!client.is_closed());
}

fn rapid_resets_are_bounded(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream)
        .door(Extra::Doh)
        .section(r#"hosts = { file = "hosts" }"#)
        .file("hosts", "192.0.2.1 www.example.org\n")
        .start(world);
    let mut client = http2(&daemon);
    let mut opened = 0;
    until("the connection is closed", || {
        for _ in 0..50 {
            let Ok(exchange) =
                client.start(post(&Query::a(&format!("n{opened}.test.org")).encode()))
            else {
                return Some(());
            };
            opened += 1;
            exchange.reset();
        }
        client.is_closed().then_some(())
    });
    assert!(opened < 5_000, "{opened} streams");
    assert_served(&daemon);
}

fn slow_bodies_time_out(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .door(Extra::Doh)
        .listen("read_timeout_ms = 400, tcp_idle_timeout_ms = 2000")
        .start(world);
    let start = Instant::now();
    let mut client = http2(&daemon);
    let (parts, _) = post(&[]).into_parts();
    let mut slow = client.start_head(Request::from_parts(parts, ()), false).expect("a stream");
    slow.body.send_data(vec![0; 5].into(), false).expect("the stream is open");
    let response = slow.receive().expect("a response");
    assert_eq!(response.status(), 408);
    assert!(start.elapsed() >= Duration::from_millis(350), "{:?}", start.elapsed());
    let response = client.exchange(post(&www().encode())).expect("a response");
    assert_eq!(message(response).address(), "192.0.2.1");

    let mut octets = encode(&post(&www().encode()));
    octets.truncate(octets.len() - 3);
    let mut client = http1(&daemon);
    client.send_raw(&octets);
    match client.try_receive(PATIENCE) {
        Responded::Whole(response) => assert_eq!(response.status(), 408),
        Responded::Closed => {}
        Responded::Silence => panic!("it is waited for without end"),
    }
    client.wait_for_close();
}

fn unfinished_heads_are_cut_off(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .door(Extra::Doh)
        .listen("tcp_idle_timeout_ms = 500, read_timeout_ms = 500")
        .start(world);
    let octets = encode(&get(&www().encode()));
    let mut silent = http1(&daemon);
    silent.send_raw(&octets[..octets.len() - 2]);
    let took = silent.wait_for_close();
    assert!(took < Duration::from_secs(4), "{took:?}");

    let mut dripping = http1(&daemon);
    let start = Instant::now();
    dripping.send_raw(b"GET /dns-query HTTP/1.1\r\n");
    for i in 0.. {
        dripping.send_raw(format!("x{i}: y\r\n").as_bytes());
        match dripping.try_receive(Duration::from_millis(50)) {
            Responded::Silence => assert!(start.elapsed() < PATIENCE, "it never ends"),
            Responded::Closed | Responded::Whole(_) => break,
        }
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

fn idle_http_connections_are_closed(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon =
        Settings::with(&upstream).door(Extra::Doh).listen("tcp_idle_timeout_ms = 600").start(world);
    let about = Duration::from_millis(500)..Duration::from_secs(4);
    for used in [false, true] {
        let (mut one, mut two) = (http1(&daemon), http2(&daemon));
        let start = Instant::now();
        while used && start.elapsed() < Duration::from_millis(1_500) {
            one.exchange(&get(&www().encode()));
            two.exchange(get(&www().encode())).expect("use keeps it open");
        }
        let idle = Instant::now();
        one.wait_for_close();
        let took = idle.elapsed();
        assert!(about.contains(&took), "HTTP/1.1, used {used}: {took:?}");
        two.wait_for_close();
        let took = idle.elapsed();
        assert!(about.contains(&took), "HTTP/2, used {used}: {took:?}");
    }
}

fn waiting_requests_are_not_idle(world: &World) {
    let upstream = Upstream::start(|asked| {
        let answer = asked.address(60, "192.0.2.1").into();
        Answer::After(Duration::from_millis(900), Box::new(answer))
    });
    let daemon =
        Settings::with(&upstream).door(Extra::Doh).listen("tcp_idle_timeout_ms = 200").start(world);
    for (version, name) in [(Version::Http1, "one"), (Version::Http2, "two")] {
        let query = Query::a(&format!("{name}.example.org"));
        let response = version.exchange(&daemon.doh_door(version), post(&query.encode()));
        assert_eq!(message(response).address(), "192.0.2.1");
    }
}

fn heads_are_bounded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut client = http1(&daemon);
    client.send_raw(b"GET /dns-query HTTP/1.1\r\nHost: dns.test\r\nX-Long: ");
    for _ in 0..64 {
        client.send_raw(&[b'x'; 65_536]);
    }
    match client.try_receive(PATIENCE) {
        Responded::Whole(response) => assert!(response.status().is_client_error(), "{response:?}"),
        Responded::Closed => {}
        Responded::Silence => panic!("it is taken without end"),
    }
    let mut request = get(&www().encode());
    request.headers_mut().insert("x-long", "x".repeat(60_000).parse().expect("a value"));
    let mut client = http2(&daemon);
    if let Ok(response) = client.exchange(request) {
        assert!(response.status().is_client_error(), "{response:?}");
    }
    assert_served(&daemon);
}

fn noise_is_no_http(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for noise in [&[0xff; 200][..], b"\x00\x10www.example.org\r\n\r\n", b"HELO dns.test\r\n\r\n"] {
        let mut client = http1(&daemon);
        client.send_raw(noise);
        let took = client.wait_for_close();
        assert!(took < Duration::from_secs(4), "{took:?}: {noise:02x?}");
    }
    // Frames of version 2 that make no sense, behind its preface.
    let door = daemon.doh_door(Version::Http2);
    let mut octets = door.open();
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend([0xff; 200]);
    let _ = octets.write_all(&said).and_then(|()| octets.flush());
    octets.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    match octets.read_to_end(&mut Vec::new()) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("the connection stays open")
        }
        Ok(_) | Err(_) => {}
    }
    assert_served(&daemon);
}

/// A daemon that cuts off whoever does not take what it has asked for, with a huge answer cached.
fn start_for_readers(world: &World, upstream: &Upstream) -> (Daemon, Vec<u8>) {
    let daemon = Settings::new()
        .upstream(upstream, r#"protocol = "tcp""#)
        .door(Extra::Doh)
        // Nothing else may be what ends it.
        .listen("write_timeout_ms = 500, read_timeout_ms = 60000, tcp_idle_timeout_ms = 60000")
        .start(world);
    let huge = Query::new("huge.example.org", RecordType::TXT).encode();
    assert!(message(http1(&daemon).exchange(&post(&huge))).bytes.len() > 60_000);
    (daemon, huge)
}

/// Gives TXT records of 60 kB, and an address for any other type.
fn huge_or_not() -> Upstream {
    Upstream::start(|asked| {
        if asked.qtype() == RecordType::TXT {
            asked.answer([txt_of(&asked.name(), 300, 60_000)])
        } else {
            asked.address(300, "192.0.2.1")
        }
    })
}

/// Waits until a connection is cut off, while little memory is used.
fn assert_cut_off(daemon: &Daemon, mut go_on: impl FnMut() -> bool) {
    let before = daemon.memory_kib();
    let mut largest = before;
    until("the daemon closes the connection", || {
        let closed = go_on();
        largest = largest.max(daemon.memory_kib());
        let counted = daemon.metric("balancedns_connections_timed_out_total") >= 1.0;
        (closed && counted).then_some(())
    });
    let grown = largest.saturating_sub(before);
    assert!(grown < 32_768, "memory grew by {grown} KiB");
    assert_served(daemon);
}

fn slow_http1_readers_are_cut_off(world: &World) {
    let upstream = huge_or_not();
    let (daemon, huge) = start_for_readers(world, &upstream);
    let mut client = http1(&daemon);
    let request = encode(&post(&huge));
    // Some GB of answers, if the daemon went along.
    let mut sent = 0;
    assert_cut_off(&daemon, || {
        let mut pushed = Pushed::Sent;
        while sent < 200_000 && pushed == Pushed::Sent {
            pushed = client.octets.push(&request);
            sent += 1;
        }
        pushed == Pushed::Closed
    });
}

fn slow_http2_readers_are_cut_off(world: &World) {
    let upstream = huge_or_not();
    let (daemon, huge) = start_for_readers(world, &upstream);
    // A window that holds none of the answers.
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(0);
    let mut client = Http2::with(&daemon.doh_door(Version::Http2), &settings);
    let _untaken: Vec<_> = (0..100).map_while(|_| client.start(post(&huge)).ok()).collect();
    assert_cut_off(&daemon, || client.is_closed());
}

fn http_clients_may_vanish(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = start(world, &upstream);
    for i in 0..10 {
        let request = post(&Query::a(&format!("slow{i}.example.org")).encode());
        if i % 2 == 0 {
            let mut client = http1(&daemon);
            client.send(&request);
            upstream.wait_for(i + 1);
        } else {
            let mut client = http2(&daemon);
            let _exchange = client.start(request).expect("a stream");
            upstream.wait_for(i + 1);
        }
    }
    gate.open();
    assert_served(&daemon);
    let response = http1(&daemon).exchange(&get(&Query::a("slow3.example.org").encode()));
    assert_eq!(message(response).address(), "192.0.2.1");
}

fn http_connections_are_bounded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .door(Extra::Doh)
        .listen("max_connections_per_client = 2")
        .start(world);
    let (mut one, mut two) = (http1(&daemon), http2(&daemon));
    one.exchange(&get(&www().encode()));
    two.exchange(get(&www().encode())).expect("a response");
    if let Ok(octets) = daemon.doh_door(Version::Http1).try_open() {
        Http1::on(octets).wait_for_close();
    }
    drop(one);
    until("the place is free again", || {
        let octets = daemon.doh_door(Version::Http1).try_open().ok()?;
        let mut client = Http1::on(octets);
        client.send(&get(&www().encode()));
        client.receive_if_any().map(|response| assert_eq!(response.status(), 200))
    });
}

fn drain_finishes_exchanges(world: &World) {
    let gate = Gate::default();
    let upstream = with_slow_names(&gate);
    let daemon = start(world, &upstream);
    let (mut one, mut two) = (http1(&daemon), http2(&daemon));
    let (first, second) = (Query::a("slow1.example.org"), Query::a("slow2.example.org"));
    one.send(&post(&first.encode()));
    let exchange = two.start(post(&second.encode())).expect("a stream");
    upstream.wait_for(2);
    daemon.signal("TERM");
    until("it drains", || match daemon.try_get("/readyz") {
        Ok((503, _)) | Err(_) => Some(()),
        Ok(_) => None,
    });
    gate.open();
    message(one.receive()).check_echo(&first);
    message(exchange.receive().expect("a response")).check_echo(&second);
    one.wait_for_close();
    two.wait_for_close();
    assert_eq!(daemon.end().status.code(), Some(0));
}

fn http_components_are_watched(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).door(Extra::Doh).door(Extra::Dot).start(world);
    let (status, text) = daemon.get("/statusz");
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let components = body["components"].as_array().expect("a list");
    for name in ["dns-dot", "dns-doh"] {
        let one = components.iter().find(|one| one["name"] == name).expect("it is listed");
        assert_eq!((&one["required"], &one["running"]), (&true.into(), &true.into()), "{one}");
        let up = daemon.metric(&format!("balancedns_component_up{{component=\"{name}\"}}"));
        assert!((up - 1.0).abs() < 0.1);
    }
}
