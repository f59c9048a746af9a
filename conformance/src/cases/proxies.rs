//! Behind proxies: the PROXY protocol on every transport, `Forwarded` and its elder sister on DNS
//! over HTTP, and HTTP without TLS. That an announced client counts is shown by the ACL, which lets
//! in 192.0.2.0/24 and nobody else.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use http::{HeaderName, Request, header};

use crate::case::World;
use crate::harness::http::{Http1, Http2, Version, get, message, post};
use crate::harness::{
    Daemon, Door, Extra, PATIENCE, Query, Reply, Settings, StreamClient, Tried, Upstream, framed,
    proxy, until,
};

cases! {
    streams_carry_their_client, own, "config listen.proxy_protocol_from",
        "a PROXY header of either version in front of TCP, TLS and HTTP names the client that counts";
    datagrams_carry_their_client, udp, "config listen.proxy_protocol_from",
        "a PROXY header in front of a datagram names the client; the reply goes to the proxy, bare";
    header_is_required, own, "config listen.proxy_protocol_from",
        "who is listed and sends no PROXY header is not served";
    header_of_a_datagram_is_required, udp, "config listen.proxy_protocol_from",
        "a datagram of who is listed is dropped and counted without a sound header of version 2";
    header_of_others_is_none, own, "config listen.proxy_protocol_from",
        "from who is not listed nothing is taken for a PROXY header";
    header_may_come_in_pieces, own, "config listen.proxy_protocol_from",
        "a PROXY header may be cut at every octet";
    header_has_its_time, own, "robustness clients",
        "a PROXY header that does not come to its end costs its connection";
    broken_headers_end_it, own, "config listen.proxy_protocol_from",
        "a PROXY header that breaks its rules ends the connection";
    proxies_speak_for_themselves, own, "config listen.proxy_protocol_from",
        "with LOCAL or UNKNOWN in its header the proxy is the client";
    fields_are_passed_over, own, "config listen.proxy_protocol_from",
        "further fields of a version 2 header do no harm";
    ipv6_clients_are_carried, own, "config listen.proxy_protocol_from",
        "an IPv6 client of an IPv4 proxy counts as such, and a mapped one as IPv4";
    limits_count_carried_clients, own, "config listen.max_connections_per_client",
        "connections by a proxy count for their client, not for the proxy";
    http_without_tls, own, "config listen.doh_plain",
        "HTTP/1.1, and HTTP/2 with prior knowledge, are served without TLS where that is wanted";
    tls_is_not_spoken_there, own, "config listen.doh_plain",
        "a TLS handshake at the listener without TLS ends its connection";
    forwarded_clients_count, own, "RFC 7239 5.2, config listen.trusted_proxies",
        "`Forwarded` of a trusted proxy names the client that counts";
    x_forwarded_clients_count, own, "config listen.trusted_proxies",
        "`X-Forwarded-For` does too, and `Forwarded` is believed first";
    nearest_stranger_counts, own, "RFC 7239 8.1, config listen.trusted_proxies",
        "of several addresses the last one that is no trusted proxy counts: a client cannot add one";
    others_are_not_believed, own, "config listen.trusted_proxies",
        "from who is no trusted proxy these headers mean nothing";
    nonsense_is_not_believed, own, "RFC 7239 6.3, config listen.trusted_proxies",
        "an obfuscated, unknown or broken address leaves the proxy itself as client";
    forwarded_over_tls, own, "config listen.trusted_proxies",
        "headers of trusted proxies are believed over TLS as well";
}

const INSIDE: &str = "192.0.2.7";
const OUTSIDE: &str = "198.51.100.7";
const REFUSED: u16 = 5;
/// Who is not on the list has one connection at a time.
const PLACE: &str = "the place of the last connection is free";

fn www() -> Query {
    Query::a("www.example.org")
}

fn from(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 4_711)
}

/// All doors, behind a proxy at `proxy`; only 192.0.2.0/24 may ask.
fn start(world: &World, upstream: &Upstream, proxy: &str) -> Daemon {
    Settings::with(upstream)
        .door(Extra::Dot)
        .door(Extra::Doh)
        .door(Extra::PlainDoh)
        .listen(&format!(r#"proxy_protocol_from = {{ "{proxy}" }}"#))
        .section(r#"acl = { "192.0.2.0/24", "2001:db8::/32" }"#)
        .start(world)
}

/// Whether the client that this header names is served, by streams of every kind.
fn served(daemon: &Daemon, header: &[u8]) -> bool {
    let rcodes = [Door::plain(daemon.addr()), daemon.dot_door()].map(|door| {
        let door = door.behind(header);
        until(PLACE, || {
            let mut client = StreamClient::try_through(&door)?;
            client.send(&www().encode());
            match client.try_receive(PATIENCE) {
                Tried::Reply(reply) => Some(reply.rcode() != REFUSED),
                Tried::Closed | Tried::Silence | Tried::Status(_) => None,
            }
        })
    });
    let mut all = rcodes.to_vec();
    for version in Version::BOTH {
        for door in [daemon.doh_door(version), daemon.plain_door()] {
            all.push(is_let_in(version, &door.behind(header), &get(&www().encode())));
        }
    }
    assert!(all.iter().all(|one| *one == all[0]), "not all alike: {all:?}");
    all[0]
}

/// Whether a request is answered rather than forbidden.
fn is_let_in(version: Version, door: &Door, request: &Request<Vec<u8>>) -> bool {
    let response = until(PLACE, || version.try_exchange(door, request.clone()));
    match response.status().as_u16() {
        200 => true,
        403 => false,
        other => panic!("status {other}"),
    }
}

fn streams_carry_their_client(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    for (ip, may) in [(INSIDE, true), (OUTSIDE, false)] {
        for header in
            [proxy::version_1(from(ip), daemon.addr()), proxy::version_2(from(ip), daemon.addr())]
        {
            assert_eq!(served(&daemon, &header), may, "{ip}: {header:02x?}");
        }
    }
}

/// Sends a query behind a header, from a socket of the proxy.
fn datagram(daemon: &Daemon, header: &[u8], query: &Query) -> UdpSocket {
    bare_datagram(daemon, &[header, &query.encode()].concat())
}

fn bare_datagram(daemon: &Daemon, octets: &[u8]) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    socket.send_to(octets, daemon.addr()).expect("loopback takes a datagram");
    socket
}

fn receive(socket: &UdpSocket) -> Reply {
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).expect("a reply");
    buffer.truncate(length);
    Reply::decode(buffer)
}

fn datagrams_carry_their_client(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    for (ip, rcode) in [(INSIDE, 0), (OUTSIDE, REFUSED), (INSIDE, 0)] {
        let header = proxy::version_2_datagram(from(ip), daemon.addr());
        let query = www();
        let reply = receive(&datagram(&daemon, &header, &query));
        reply.check_echo(&query);
        assert_eq!(reply.rcode(), rcode, "{ip}");
    }
}

fn header_is_required(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    let mut client = StreamClient::to(daemon.addr());
    client.send(&www().encode());
    client.wait_for_close();
    StreamClient::refused(&daemon.dot_door());
    let mut client = Http1::to(&daemon.plain_door());
    client.send(&get(&www().encode()));
    client.wait_for_close();
    assert_eq!(upstream.count(), 0);
}

fn header_of_a_datagram_is_required(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    let good = proxy::version_2_datagram(from(INSIDE), daemon.addr());
    let mut broken = good.clone();
    broken[13] = 0x55;
    let version_1 = proxy::version_1(from(INSIDE), daemon.addr());
    let message = Query::a("dropped.example.org").encode();
    for octets in [
        message.clone(),
        good[..20].to_vec(),
        [broken, message.clone()].concat(),
        [version_1, message].concat(),
    ] {
        let dropped = daemon.metric(r#"balancedns_dropped_total{reason="proxy_header"}"#);
        let socket = bare_datagram(&daemon, &octets);
        until("it is counted", || {
            let now = daemon.metric(r#"balancedns_dropped_total{reason="proxy_header"}"#);
            (now > dropped).then_some(())
        });
        // In its turn, so that an answer to the first one would be there before.
        let query = www();
        let octets = [&good, query.encode().as_slice()].concat();
        socket.send_to(&octets, daemon.addr()).expect("loopback takes a datagram");
        receive(&socket).check_echo(&query);
    }
    assert_eq!(upstream.count(), 1);
}

fn header_of_others_is_none(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.2");
    for header in [
        proxy::version_1(from(INSIDE), daemon.addr()),
        proxy::version_2(from(INSIDE), daemon.addr()),
    ] {
        // Taken as a message of DNS it has no end, or is none.
        let mut client = StreamClient::through(&Door::plain(daemon.addr()).behind(&header));
        client.send(&www().encode());
        match client.try_receive(PATIENCE) {
            Tried::Closed => {}
            Tried::Reply(reply) => assert_ne!(reply.rcode(), 0, "{reply:?}"),
            other @ (Tried::Silence | Tried::Status(_)) => panic!("{other:?}"),
        }
        assert!(daemon.dot_door().behind(&header).try_open().is_err());
    }
    let datagram =
        datagram(&daemon, &proxy::version_2_datagram(from(INSIDE), daemon.addr()), &www());
    drop(datagram);
    // Without a header it is a client of its own, whom the ACL does not let in.
    assert_eq!(daemon.udp(&www()).rcode(), REFUSED);
    assert_eq!(daemon.tcp(&www()).rcode(), REFUSED);
    assert_eq!(upstream.count(), 0);
}

fn header_may_come_in_pieces(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    for header in [
        proxy::version_1(from(INSIDE), daemon.addr()),
        proxy::version_2(from(INSIDE), daemon.addr()),
    ] {
        for cut in 1..header.len() {
            let door = Door::plain(daemon.addr()).behind(&header[..cut]);
            let mut client = StreamClient::through(&door);
            std::thread::yield_now();
            client.send_raw(&header[cut..]);
            assert_eq!(client.ask(&www()).address(), "192.0.2.1", "cut at {cut}");
        }
    }
    // All in one segment.
    let header = proxy::version_2(from(INSIDE), daemon.addr());
    let octets = [header, framed(&www().encode())].concat();
    let mut client = StreamClient::through(&Door::plain(daemon.addr()).behind(&octets));
    assert_eq!(client.receive().address(), "192.0.2.1");
}

fn header_has_its_time(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    let header = proxy::version_2(from(INSIDE), daemon.addr());
    for said in [&[][..], &header[..14]] {
        let mut client = StreamClient::through(&Door::plain(daemon.addr()).behind(said));
        let took = client.wait_for_close();
        assert!(took > Duration::from_millis(4_500), "{took:?}");
    }
}

fn broken_headers_end_it(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    let mut version_3 = proxy::version_2(from(INSIDE), daemon.addr());
    version_3[12] = 0x31;
    for header in [
        &version_3[..],
        b"PROXY TCP4 192.0.2.7 127.0.0.1 1 99999\r\n",
        b"PROXY TCP4 192.0.2.300 127.0.0.1 1 2\r\n",
        b"PROXY TCP9 x y 1 2\r\n",
        &[b'P'; 200],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut client = StreamClient::through(&Door::plain(daemon.addr()).behind(header));
        let took = client.wait_for_close();
        assert!(took < Duration::from_secs(4), "{took:?}: {header:02x?}");
    }
}

fn proxies_speak_for_themselves(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    for header in [proxy::version_2_local(), proxy::version_1_unknown()] {
        assert!(!served(&daemon, &header), "127.0.0.1 is not let in");
    }
    let daemon =
        Settings::with(&upstream).listen(r#"proxy_protocol_from = { "127.0.0.1" }"#).start(world);
    for header in [proxy::version_2_local(), proxy::version_1_unknown()] {
        let mut client = StreamClient::through(&Door::plain(daemon.addr()).behind(&header));
        assert_eq!(client.ask(&www()).address(), "192.0.2.1");
    }
}

fn fields_are_passed_over(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    assert!(served(&daemon, &proxy::version_2_with_fields(from(INSIDE), daemon.addr())));
}

fn ipv6_clients_are_carried(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, "127.0.0.1");
    let server = from("::1");
    for (ip, may) in [
        ("2001:db8::7", true),
        ("2001:db9::7", false),
        ("::ffff:192.0.2.7", true),
        ("::ffff:198.51.100.7", false),
    ] {
        for header in [proxy::version_1(from(ip), server), proxy::version_2(from(ip), server)] {
            assert_eq!(served(&daemon, &header), may, "{ip}: {header:02x?}");
        }
    }
}

fn limits_count_carried_clients(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .listen(r#"proxy_protocol_from = { "127.0.0.1" }, max_connections_per_client = 2"#)
        .section(r#"acl = { "192.0.2.0/24" }"#)
        .start(world);
    let door =
        |ip: &str| Door::plain(daemon.addr()).behind(&proxy::version_2(from(ip), daemon.addr()));
    let mut held: Vec<_> = ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"]
        .iter()
        .map(|ip| StreamClient::through(&door(ip)))
        .collect();
    for client in &mut held {
        assert_eq!(client.ask(&www()).address(), "192.0.2.1");
    }
    StreamClient::refused(&door("192.0.2.1"));
    assert_eq!(StreamClient::through(&door("192.0.2.3")).ask(&www()).address(), "192.0.2.1");
}

/// HTTP without TLS behind a trusted proxy at `proxy`; only 192.0.2.0/24 may ask.
fn plain(world: &World, upstream: &Upstream, proxy: &str) -> Daemon {
    Settings::with(upstream)
        .door(Extra::PlainDoh)
        .door(Extra::Doh)
        .listen(&format!(r#"trusted_proxies = {{ "{proxy}", "203.0.113.0/24" }}"#))
        .section(r#"acl = { "192.0.2.0/24" }"#)
        .start(world)
}

fn http_without_tls(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).door(Extra::PlainDoh).start(world);
    for request in [get(&www().encode()), post(&www().encode())] {
        for version in Version::BOTH {
            let response = version.exchange(&daemon.plain_door(), request.clone());
            assert_eq!(message(response).address(), "192.0.2.1");
        }
    }
    let mut client = Http2::to(&daemon.plain_door());
    for i in 0..20 {
        let query = Query::a(&format!("n{i}.example.org"));
        let response = client.exchange(get(&query.encode())).expect("a response");
        assert_eq!(message(response).address(), "192.0.2.1");
    }
}

fn tls_is_not_spoken_there(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).door(Extra::PlainDoh).door(Extra::Doh).start(world);
    let config = daemon.doh_door(Version::Http2).config().expect("it is one in TLS").clone();
    assert!(Door::tls(daemon.extra(Extra::PlainDoh), config).try_open().is_err());
}

/// Whether the client is served for whom these headers are sent.
fn let_in(daemon: &Daemon, headers: &[(HeaderName, &str)]) -> bool {
    let mut request = get(&www().encode());
    for (name, value) in headers {
        request.headers_mut().append(name, value.parse().expect("a value"));
    }
    match Version::BOTH.map(|version| is_let_in(version, &daemon.plain_door(), &request)) {
        [one, two] if one == two => one,
        other => panic!("{other:?} of {headers:?}"),
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

fn forwarded_clients_count(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plain(world, &upstream, "127.0.0.1");
    for (value, may) in [
        ("for=192.0.2.7", true),
        ("for=198.51.100.7", false),
        ("For=\"192.0.2.7:4711\";proto=https", true),
        ("proto=https;by=203.0.113.1;for=192.0.2.7", true),
        ("for=\"[2001:db8::7]\"", false),
    ] {
        assert_eq!(let_in(&daemon, &[(header::FORWARDED, value)]), may, "{value}");
    }
    assert!(!let_in(&daemon, &[]), "the proxy itself is not let in");
}

fn x_forwarded_clients_count(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plain(world, &upstream, "127.0.0.1");
    assert!(let_in(&daemon, &[(X_FORWARDED_FOR, INSIDE)]));
    assert!(!let_in(&daemon, &[(X_FORWARDED_FOR, OUTSIDE)]));
    let both = |forwarded, elder| [(header::FORWARDED, forwarded), (X_FORWARDED_FOR, elder)];
    assert!(let_in(&daemon, &both("for=192.0.2.7", OUTSIDE)));
    assert!(!let_in(&daemon, &both("for=198.51.100.7", INSIDE)));
}

fn nearest_stranger_counts(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plain(world, &upstream, "127.0.0.1");
    for (list, may) in [
        ("192.0.2.7, 198.51.100.7", false),
        ("198.51.100.7, 192.0.2.7", true),
        // Proxies of ours on the way.
        ("192.0.2.7, 203.0.113.1", true),
        ("192.0.2.7, 198.51.100.7, 203.0.113.1", false),
    ] {
        assert_eq!(let_in(&daemon, &[(X_FORWARDED_FOR, list)]), may, "{list}");
        let forwarded: Vec<_> = list.split(", ").map(|ip| format!("for={ip}")).collect();
        assert_eq!(let_in(&daemon, &[(header::FORWARDED, &forwarded.join(", "))]), may, "{list}");
        // A header of its own for each.
        let lines: Vec<_> = list.split(", ").map(|ip| (X_FORWARDED_FOR, ip)).collect();
        assert_eq!(let_in(&daemon, &lines), may, "{list} in lines");
    }
}

fn others_are_not_believed(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plain(world, &upstream, "127.0.0.2");
    assert!(!let_in(&daemon, &[(header::FORWARDED, "for=192.0.2.7")]));
    assert!(!let_in(&daemon, &[(X_FORWARDED_FOR, INSIDE)]));
    // And whoever may ask himself loses nothing by them.
    let daemon = Settings::with(&upstream).door(Extra::PlainDoh).start(world);
    assert!(let_in(&daemon, &[(X_FORWARDED_FOR, OUTSIDE)]));
}

fn nonsense_is_not_believed(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plain(world, &upstream, "127.0.0.1");
    for value in
        ["for=_hidden", "for=unknown", "for=\"192.0.2.7", "for=192.0.2.700", "192.0.2.7", ""]
    {
        assert!(!let_in(&daemon, &[(header::FORWARDED, value)]), "{value}");
    }
    for value in ["", "unknown", "192.0.2.7.1", "192.0.2.7,, x"] {
        assert!(!let_in(&daemon, &[(X_FORWARDED_FOR, value)]), "{value}");
    }
}

fn forwarded_over_tls(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plain(world, &upstream, "127.0.0.1");
    for (ip, may) in [(INSIDE, true), (OUTSIDE, false)] {
        let mut request = post(&www().encode());
        request.headers_mut().insert(X_FORWARDED_FOR, ip.parse().expect("a value"));
        for version in Version::BOTH {
            assert_eq!(is_let_in(version, &daemon.doh_door(version), &request), may, "{ip}");
        }
    }
}
