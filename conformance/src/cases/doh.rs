//! DNS over HTTPS (RFC 8484): what a request may look like, and what the response says.

use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use http::{Method, Request, Response, header};

use crate::case::World;
use crate::harness::http::{
    DNS_MESSAGE, Http1, Http2, Version, field, get, get_path, max_age, message, post, url,
};
use crate::harness::{Daemon, Extra, Query, Settings, Upstream, address, txt_of, until};

cases! {
    both_methods_and_versions, own, "RFC 8484 4.1, RFC 8484 5.2",
        "GET and POST are answered, by HTTP/1.1 and by HTTP/2";
    answers_have_their_media_type, own, "RFC 8484 4.2.1",
        "a response says that it is a DNS message, and how long it is";
    padded_parameters_are_taken, own, "RFC 8484 6",
        "base64url with its padding, as it is or percent-encoded, is understood all the same";
    other_parameters_do_no_harm, own, "RFC 8484 4.1",
        "parameters beside `dns`, before or after it, mean nothing";
    bad_encodings_are_bad_requests, own, "RFC 8484 4.2.1",
        "a parameter that is no base64url gets 400";
    missing_parameter_is_a_bad_request, own, "RFC 8484 4.1",
        "GET without `dns`, or with nothing in it, gets 400";
    noise_is_a_bad_request, own, "RFC 8484 4.2.1",
        "octets that are no query get 400, by GET and by POST, and harm no other request";
    empty_body_is_a_bad_request, own, "RFC 8484 4.1",
        "POST without a message gets 400";
    other_paths_are_not_found, own, "config listen.doh_path",
        "another path than the configured one gets 404";
    path_can_be_chosen, own, "config listen.doh_path",
        "queries are answered at the configured path and no longer at the usual one";
    other_methods_are_not_allowed, own, "RFC 9110 15.5.6",
        "another method gets 405 with those that are allowed";
    head_gets_no_body, own, "RFC 9110 9.3.2",
        "a refusal of HEAD has no body that could be taken for the next response";
    other_media_types_are_refused, own, "RFC 8484 4.1, RFC 9110 15.5.16",
        "a body of another media type, or of none, gets 415";
    media_types_are_read_as_such, own, "RFC 9110 8.3.1",
        "letter case and parameters of the media type mean nothing";
    announced_long_bodies_are_too_large, own, "RFC 9110 15.5.14",
        "a body that announces more than a DNS message can have gets 413 at once";
    long_bodies_are_too_large, own, "RFC 9110 15.5.14",
        "a body that is longer than a DNS message, and did not say so, gets 413";
    largest_query_is_taken, own, "RFC 8484 6",
        "a query may have 65,535 octets";
    bodies_may_come_in_chunks, own, "RFC 9112 7.1",
        "a body in chunks, or in DATA of one octet each, is a body";
    outsiders_are_forbidden, own, "config acl",
        "a client outside the ACL gets 403 before its body is read, and nothing is asked for it";
    dns_errors_are_answers, own, "RFC 8484 4.2.1",
        "NXDOMAIN, SERVFAIL, REFUSED, NOTIMP and FORMERR come with status 200";
    id_zero_comes_back, own, "RFC 8484 4.1",
        "the id, 0 or any other, is that of the query";
    freshness_is_the_smallest_ttl, own, "RFC 8484 5.1",
        "max-age is the smallest TTL of the answer section";
    freshness_ages, own, "RFC 8484 5.1",
        "max-age of a cached answer shrinks with its TTLs, and nothing else tells its age";
    freshness_of_negative_answers, own, "RFC 8484 5.1, RFC 2308 5",
        "max-age of what does not exist is the smaller one of the SOA's TTL and its minimum";
    failures_are_not_fresh, own, "RFC 8484 5.1",
        "no cache may keep a SERVFAIL or a REFUSED";
    refusals_are_not_fresh, own, "RFC 8484 5.1",
        "an error of HTTP has no freshness of its own";
    large_answers_come_whole, own, "RFC 8484 6",
        "an answer of 60,000 octets is not truncated, whatever size OPT has offered";
    accept_need_not_be_said, own, "RFC 8484 4.1",
        "a request without Accept is answered like any other";
}

fn start(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream).door(Extra::Doh).start(world)
}

fn www() -> Query {
    Query::a("www.example.org")
}

/// One exchange by each version on a connection of its own; what is said of the response holds for
/// both.
fn each(daemon: &Daemon, request: &Request<Vec<u8>>, check: impl Fn(Response<Vec<u8>>)) {
    for version in Version::BOTH {
        check(version.exchange(&daemon.doh_door(version), request.clone()));
    }
}

fn assert_status(daemon: &Daemon, request: &Request<Vec<u8>>, status: u16) {
    each(daemon, request, |response| {
        assert_eq!(response.status(), status, "{request:?}");
        assert_ne!(field(&response, header::CONTENT_TYPE), DNS_MESSAGE);
    });
}

fn both_methods_and_versions(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for (i, request) in [get, post].into_iter().enumerate() {
        let query = Query::a(&format!("n{i}.example.org")).edns(1232);
        each(&daemon, &request(&query.encode()), |response| {
            assert_eq!(response.status(), 200);
            let reply = message(response);
            reply.check_echo(&query);
            assert_eq!(reply.address(), "192.0.2.1");
        });
    }
}

fn answers_have_their_media_type(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    each(&daemon, &get(&www().encode()), |response| {
        assert_eq!(field(&response, header::CONTENT_TYPE), DNS_MESSAGE);
        let length = field(&response, header::CONTENT_LENGTH);
        assert_eq!(length, response.body().len().to_string());
    });
}

fn padded_parameters_are_taken(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    // Names of each length modulo 3, so that no, one and two characters are missing.
    for name in ["a.example.org", "aa.example.org", "aaa.example.org"] {
        let encoded = BASE64URL_NOPAD.encode(&Query::a(name).encode());
        let missing = (4 - encoded.len() % 4) % 4;
        for padding in ["=", "%3D", "%3d"] {
            let path = format!("/dns-query?dns={encoded}{}", padding.repeat(missing));
            each(&daemon, &get_path(&path), |response| {
                assert_eq!(message(response).address(), "192.0.2.1");
            });
        }
    }
}

fn other_parameters_do_no_harm(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let encoded = BASE64URL_NOPAD.encode(&www().encode());
    for path in
        [format!("a=b&dns={encoded}"), format!("dns={encoded}&ct&x=y"), format!("&&dns={encoded}&")]
    {
        each(&daemon, &get_path(&format!("/dns-query?{path}")), |response| {
            assert_eq!(message(response).address(), "192.0.2.1", "{path}");
        });
    }
}

fn bad_encodings_are_bad_requests(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let encoded = BASE64URL_NOPAD.encode(&www().encode());
    // The alphabet of plain base64, one character too few, characters of no alphabet.
    for bad in ["AA+A", "AA/A", "A", "AAAAA", "****", "=AAA", &format!("{encoded}!")] {
        assert_status(&daemon, &get_path(&format!("/dns-query?dns={bad}")), 400);
    }
    assert_eq!(upstream.count(), 0);
}

fn missing_parameter_is_a_bad_request(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for query in ["", "?", "?dns", "?dns=", "?DNS=AAAA", "?name=example.org&type=A"] {
        assert_status(&daemon, &get_path(&format!("/dns-query{query}")), 400);
    }
}

fn noise_is_a_bad_request(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let response = www().with_qr().encode();
    for noise in [&[0xff; 5][..], &[0; 11], &response] {
        assert_status(&daemon, &post(noise), 400);
        assert_status(&daemon, &get(noise), 400);
    }
    let mut client = Http2::to(&daemon.doh_door(Version::Http2));
    let good = client.start(post(&www().encode())).expect("a stream");
    let bad = client.exchange(post(&[0xff; 5])).expect("a response");
    assert_eq!(bad.status(), 400);
    assert_eq!(message(good.receive().expect("a response")).address(), "192.0.2.1");
    assert_eq!(
        message(client.exchange(get(&www().encode())).expect("a response")).address(),
        "192.0.2.1"
    );
}

fn empty_body_is_a_bad_request(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    assert_status(&daemon, &post(&[]), 400);
}

fn other_paths_are_not_found(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let encoded = BASE64URL_NOPAD.encode(&www().encode());
    for path in
        ["/", "/dns-query/", "/dns-quer", "/dns-query2", "/DNS-QUERY", "//dns-query", "/metrics"]
    {
        assert_status(&daemon, &get_path(&format!("{path}?dns={encoded}")), 404);
    }
    let mut elsewhere = post(&www().encode());
    *elsewhere.uri_mut() = url("/resolve").parse().expect("a URL");
    assert_status(&daemon, &elsewhere, 404);
    assert_eq!(upstream.count(), 0);
}

fn path_can_be_chosen(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon =
        Settings::with(&upstream).door(Extra::Doh).listen(r#"doh_path = "/a/secret""#).start(world);
    let encoded = BASE64URL_NOPAD.encode(&www().encode());
    each(&daemon, &get_path(&format!("/a/secret?dns={encoded}")), |response| {
        assert_eq!(message(response).address(), "192.0.2.1");
    });
    assert_status(&daemon, &get(&www().encode()), 404);
}

fn other_methods_are_not_allowed(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for method in [Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH] {
        let mut request = get(&www().encode());
        *request.method_mut() = method;
        each(&daemon, &request, |response| {
            assert_eq!(response.status(), 405);
            let allowed = field(&response, header::ALLOW);
            let mut allowed: Vec<_> = allowed.split(',').map(str::trim).collect();
            allowed.sort_unstable();
            assert_eq!(allowed, ["GET", "POST"]);
        });
    }
}

fn head_gets_no_body(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut request = get(&www().encode());
    *request.method_mut() = Method::HEAD;
    let mut client = Http1::to(&daemon.doh_door(Version::Http1));
    client.send(&request);
    assert_eq!(client.receive_head().status(), 405);
    assert_eq!(message(client.exchange(&get(&www().encode()))).address(), "192.0.2.1");
    let mut client = Http2::to(&daemon.doh_door(Version::Http2));
    let response = client.exchange(request).expect("a response");
    assert_eq!((response.status().as_u16(), response.body().len()), (405, 0));
}

fn other_media_types_are_refused(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for media_type in ["application/dns-json", "application/dns-message2", "text/plain", "*/*", ""]
    {
        let mut request = post(&www().encode());
        request.headers_mut().insert(header::CONTENT_TYPE, media_type.parse().expect("a value"));
        assert_status(&daemon, &request, 415);
    }
    let mut request = post(&www().encode());
    request.headers_mut().remove(header::CONTENT_TYPE);
    assert_status(&daemon, &request, 415);
    assert_eq!(upstream.count(), 0);
}

fn media_types_are_read_as_such(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for media_type in ["Application/DNS-Message", "application/dns-message; charset=x"] {
        let mut request = post(&www().encode());
        request.headers_mut().insert(header::CONTENT_TYPE, media_type.parse().expect("a value"));
        each(&daemon, &request, |response| {
            assert_eq!(message(response).address(), "192.0.2.1", "{media_type}");
        });
    }
}

/// The head of a POST that announces so many octets.
fn announcing(octets: usize) -> Request<()> {
    let (mut parts, _) = post(&[]).into_parts();
    parts.headers.insert(header::CONTENT_LENGTH, octets.into());
    Request::from_parts(parts, ())
}

fn announced_long_bodies_are_too_large(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let mut client = Http1::to(&daemon.doh_door(Version::Http1));
    let head =
        "POST /dns-query HTTP/1.1\r\nHost: dns.test\r\nContent-Type: application/dns-message\r\n";
    client.send_raw(format!("{head}Content-Length: 65536\r\n\r\n").as_bytes());
    assert_eq!(client.receive().status(), 413);
    let mut client = Http2::to(&daemon.doh_door(Version::Http2));
    let exchange = client.start_head(announcing(65_536), false).expect("a stream");
    assert_eq!(exchange.receive().expect("a response").status(), 413);
}

fn long_bodies_are_too_large(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let mut client = Http1::to(&daemon.doh_door(Version::Http1));
    let head =
        "POST /dns-query HTTP/1.1\r\nHost: dns.test\r\nContent-Type: application/dns-message\r\n";
    client.send_raw(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    for _ in 0..7 {
        client.send_raw(b"2800\r\n");
        client.send_raw(&[0; 0x2800]);
        client.send_raw(b"\r\n");
    }
    assert_eq!(client.receive().status(), 413);
    let mut client = Http2::to(&daemon.doh_door(Version::Http2));
    let head = head_of_post();
    let mut exchange = client.start_head(head, false).expect("a stream");
    exchange.body.send_data(vec![0; 70_000].into(), false).expect("the stream is open");
    assert_eq!(exchange.receive().expect("a response").status(), 413);
}

fn largest_query_is_taken(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let bare = www().option(65_001, b"").encode().len();
    let query = www().option(65_001, &vec![7; 65_535 - bare]);
    assert_eq!(query.encode().len(), 65_535);
    each(&daemon, &post(&query.encode()), |response| {
        assert_eq!(message(response).address(), "192.0.2.1");
    });
}

fn bodies_may_come_in_chunks(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let query = www().encode();
    let mut client = Http1::to(&daemon.doh_door(Version::Http1));
    let head =
        "POST /dns-query HTTP/1.1\r\nHost: dns.test\r\nContent-Type: application/dns-message\r\n";
    client.send_raw(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    for octet in &query {
        client.send_raw(&[b'1', b'\r', b'\n', *octet, b'\r', b'\n']);
    }
    client.send_raw(b"0\r\n\r\n");
    assert_eq!(message(client.receive()).address(), "192.0.2.1");

    let mut client = Http2::to(&daemon.doh_door(Version::Http2));
    let mut exchange = client.start_head(head_of_post(), false).expect("a stream");
    for (place, octet) in query.iter().enumerate() {
        let last = place + 1 == query.len();
        exchange.body.send_data(vec![*octet].into(), last).expect("the stream is open");
    }
    let response = exchange.receive().expect("a response");
    assert_eq!(message(response).address(), "192.0.2.1");
}

fn head_of_post() -> Request<()> {
    let (parts, _) = post(&[]).into_parts();
    Request::from_parts(parts, ())
}

fn outsiders_are_forbidden(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .door(Extra::Doh)
        .section(r#"acl = { "192.0.2.0/24" }"#)
        .start(world);
    // Who is not on the list has one connection at a time.
    for version in Version::BOTH {
        for request in [get(&www().encode()), post(&www().encode())] {
            let response = until("the place is free again", || {
                version.try_exchange(&daemon.doh_door(version), request.clone())
            });
            assert_eq!(response.status(), 403, "{version:?}");
        }
    }
    let exchange = until("the place is free again", || {
        let settings = h2::client::Builder::new();
        let mut client = Http2::try_with(&daemon.doh_door(Version::Http2), &settings).ok()?;
        client.start_head(head_of_post(), false).ok()?.receive().ok()
    });
    assert_eq!(exchange.status(), 403, "without its body");
    assert_eq!(upstream.count(), 0);
}

fn dns_errors_are_answers(world: &World) {
    let upstream = Upstream::start(|asked| match asked.name().as_str() {
        "nx.example.org." => asked.negative(ResponseCode::NXDomain, 60, 60),
        _ => asked.rcode(ResponseCode::ServFail),
    });
    let daemon = Settings::with(&upstream)
        .door(Extra::Doh)
        .section(r#"blacklist = { domains = { "blocked.example.org" } }"#)
        .start(world);
    let mut broken = www().encode();
    broken.push(0);
    for (octets, rcode) in [
        (Query::a("nx.example.org").encode(), 3),
        (Query::a("fails.example.org").encode(), 2),
        (Query::a("blocked.example.org").encode(), 5),
        (www().opcode(5).encode(), 4),
        (broken, 1),
    ] {
        for request in [get(&octets), post(&octets)] {
            each(&daemon, &request, |response| assert_eq!(message(response).rcode(), rcode));
        }
    }
}

fn id_zero_comes_back(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    for id in [0, 1, 0xffff] {
        let query = www().id(id);
        each(&daemon, &get(&query.encode()), |response| message(response).check_echo(&query));
    }
}

fn freshness_is_the_smallest_ttl(world: &World) {
    let upstream = Upstream::start(|asked| {
        let name = asked.name();
        asked.answer([address(&name, 300, "192.0.2.1"), address(&name, 200, "192.0.2.2")])
    });
    let daemon = start(world, &upstream);
    // The miss, then the hit.
    for _ in 0..2 {
        each(&daemon, &get(&www().encode()), |response| {
            let age = max_age(&response).expect("it says how long");
            assert_eq!(
                message(response.clone()).message.answers.iter().map(|record| record.ttl).min(),
                Some(age)
            );
            assert!((195..=200).contains(&age), "{response:?}");
        });
    }
}

fn freshness_ages(world: &World) {
    let upstream = Upstream::start(|asked| asked.address(300, "192.0.2.1"));
    let daemon = start(world, &upstream);
    let mut client = Http2::to(&daemon.doh_door(Version::Http2));
    let start = Instant::now();
    let mut fresh = || {
        let response = client.exchange(get(&www().encode())).expect("a response");
        assert_eq!(field(&response, header::AGE), "");
        max_age(&response).expect("it says how long")
    };
    let first = fresh();
    assert!((299..=300).contains(&first), "{first}");
    until("it ages", || (fresh() < first).then_some(()));
    assert!(start.elapsed() < Duration::from_secs(3));
}

fn freshness_of_negative_answers(world: &World) {
    let upstream = Upstream::start(|asked| match asked.name().as_str() {
        "minimum.example.org." => asked.negative(ResponseCode::NXDomain, 300, 100),
        "ttl.example.org." => asked.negative(ResponseCode::NXDomain, 100, 300),
        _ => asked.negative(ResponseCode::NoError, 300, 100),
    });
    let daemon = start(world, &upstream);
    for name in ["minimum", "ttl", "nodata"] {
        let query = Query::a(&format!("{name}.example.org"));
        each(&daemon, &get(&query.encode()), |response| {
            let age = max_age(&response).expect("it says how long");
            assert!((97..=100).contains(&age), "{name}: {age}");
        });
    }
}

fn failures_are_not_fresh(world: &World) {
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::ServFail));
    let daemon = Settings::with(&upstream)
        .door(Extra::Doh)
        .section(r#"blacklist = { domains = { "blocked.example.org" } }"#)
        .start(world);
    for name in ["fails.example.org", "fails.example.org", "blocked.example.org"] {
        each(&daemon, &get(&Query::a(name).encode()), |response| {
            assert_eq!(max_age(&response).unwrap_or(0), 0, "{response:?}");
        });
    }
}

fn refusals_are_not_fresh(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for path in ["/dns-query", "/elsewhere"] {
        each(&daemon, &get_path(path), |response| {
            assert_eq!(max_age(&response).unwrap_or(0), 0, "{response:?}");
        });
    }
}

fn large_answers_come_whole(world: &World) {
    let upstream = Upstream::start(|asked| asked.answer([txt_of(&asked.name(), 300, 60_000)]));
    let daemon =
        Settings::new().upstream(&upstream, r#"protocol = "tcp""#).door(Extra::Doh).start(world);
    let query = Query::new("huge.example.org", RecordType::TXT).edns(512);
    for request in [get(&query.encode()), post(&query.encode())] {
        each(&daemon, &request, |response| {
            let reply = message(response);
            assert!(reply.bytes.len() > 60_000 && !reply.truncated());
        });
    }
}

fn accept_need_not_be_said(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    let mut request = get(&www().encode());
    request.headers_mut().remove(header::ACCEPT);
    each(&daemon, &request, |response| assert_eq!(message(response).address(), "192.0.2.1"));
}
