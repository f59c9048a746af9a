//! What belongs to upstreams asked by DNS over HTTPS (RFC 8484) alone. What they share with those
//! asked by DoT is in `secure_upstreams`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::{Method, Response, header};

use crate::case::World;
use crate::harness::http::DNS_MESSAGE;
use crate::harness::{Answer, Asked, Daemon, Query, Secure, Settings, Upstream, until};

cases! {
    requests_are_those_of_the_rfc, own, "RFC 8484 4.1",
        "an upstream gets POST over HTTP/2, with media types, host and path of its URL";
    id_of_requests_is_zero, own, "RFC 8484 4.1",
        "queries by HTTP have the id 0: they can be told apart without it";
    any_path_will_do, own, "config upstreams.doh_url",
        "path and query of the URL are sent as they are";
    http2_is_required, own, "RFC 8484 5.2",
        "an upstream that speaks only HTTP/1.1 is not asked, and that is said";
    statuses_are_no_answers, own, "RFC 8484 4.2.1",
        "another status than 200 leads to the next upstream, whatever its body";
    redirects_are_not_followed, own, "RFC 8484 4.2.1",
        "an upstream cannot send us elsewhere";
    other_media_types_are_no_answers, own, "RFC 8484 4.2.1",
        "a response of another media type, or of none, leads to the next upstream";
    large_bodies_are_no_answers, own, "RFC 8484 6",
        "a body longer than a DNS message leads to the next upstream";
    empty_bodies_are_no_answers, own, "robustness replies",
        "a response without a message leads to the next upstream";
    reset_streams_lead_on, own, "RFC 9113 5.4.2",
        "a stream that the upstream resets costs its own query one attempt, and no other";
    goaway_is_obeyed, own, "RFC 9113 6.8",
        "after GOAWAY what is in flight is finished, and the next query opens anew";
    late_exchanges_are_cancelled, own, "RFC 9113 5.4.2",
        "a query whose time is over is reset; a connection on which others are answered goes on";
    large_answers_are_taken, own, "RFC 8484 6",
        "an answer of 60,000 octets is taken whole";
}

fn with_second(world: &World, first: &Upstream, second: &Upstream) -> Daemon {
    Settings::new().doh(first.addr(), "timeout_ms = 700").upstream(second, "").start(world)
}

fn www() -> Query {
    Query::a("www.example.org")
}

fn requests_are_those_of_the_rfc(world: &World) {
    let upstream = Secure::doh().answering("192.0.2.1");
    let daemon = Settings::new().doh(upstream.addr(), "").start(world);
    assert_eq!(daemon.udp(&www()).address(), "192.0.2.1");
    let request = upstream.wait_for(1).remove(0).request.expect("its head");
    assert_eq!((request.method, request.version), (Method::POST, http::Version::HTTP_2));
    assert_eq!(request.uri.to_string(), format!("https://{}/dns-query", upstream.addr()));
    assert_eq!(request.headers[header::CONTENT_TYPE], DNS_MESSAGE);
    assert_eq!(request.headers[header::ACCEPT], DNS_MESSAGE);
    // RFC 8484 section 8.2: nothing that would tell one asker from another.
    for name in [header::COOKIE, header::USER_AGENT, header::REFERER, header::ACCEPT_LANGUAGE] {
        assert!(!request.headers.contains_key(&name), "{name}");
    }
}

fn id_of_requests_is_zero(world: &World) {
    let upstream = Secure::doh().answering("192.0.2.1");
    let daemon = Settings::new().doh(upstream.addr(), "").start(world);
    for i in 0..5 {
        let query = Query::a(&format!("n{i}.example.org"));
        daemon.udp(&query).check_echo(&query);
    }
    assert!(upstream.asked().iter().all(|asked| asked.id() == 0));
}

fn any_path_will_do(world: &World) {
    let upstream = Secure::doh().answering("192.0.2.1");
    for path in ["/", "/a/very/long/path", "/resolve?key=secret&x=%2F", "/p%C3%A4th"] {
        let keys = format!(r#"doh_url = "https://{}{path}""#, upstream.addr());
        let daemon = Settings::new().doh(upstream.addr(), &keys).start(world);
        assert_eq!(daemon.udp(&www()).address(), "192.0.2.1");
        let asked = upstream.asked();
        let request = asked.last().and_then(|asked| asked.request.as_ref()).expect("its head");
        let sent = request.uri.path_and_query().expect("a path").as_str();
        assert_eq!(sent, path);
    }
}

fn http2_is_required(world: &World) {
    for alpn in [&["http/1.1"][..], &["dot"], &[]] {
        let upstream = Secure::doh().alpn(alpn).answering("192.0.2.1");
        let daemon = Settings::new().doh(upstream.addr(), "").start(world);
        assert_eq!(daemon.udp(&www()).rcode(), 2, "{alpn:?}");
        assert_eq!(upstream.count(), 0, "{alpn:?}");
        daemon.wait_to_say("wrong protocol above tls");
    }
}

/// A response with the right answer in the wrong dress.
fn dressed(asked: &Asked, status: u16, media_type: Option<&str>) -> Answer {
    let body = asked.address(60, "192.0.2.66").to_vec().expect("it can be encoded");
    let mut response = Response::builder().status(status);
    if let Some(media_type) = media_type {
        response = response.header(header::CONTENT_TYPE, media_type);
    }
    Answer::Http(Box::new(response.body(body).expect("a valid response")))
}

fn statuses_are_no_answers(world: &World) {
    let second = Upstream::answering("192.0.2.2");
    for status in [201, 204, 400, 401, 403, 404, 413, 415, 429, 500, 502, 503] {
        let first = Secure::doh().start(move |asked| dressed(asked, status, Some(DNS_MESSAGE)));
        let daemon = with_second(world, &first, &second);
        let start = Instant::now();
        assert_eq!(daemon.udp(&www()).address(), "192.0.2.2", "{status}");
        assert!(start.elapsed() < Duration::from_millis(650), "{status}: {:?}", start.elapsed());
        assert!(first.count() >= 1);
        daemon.wait_to_say(&format!("http status {status}"));
    }
}

fn redirects_are_not_followed(world: &World) {
    let elsewhere = Secure::doh().answering("192.0.2.66");
    let to = format!("https://{}/dns-query", elsewhere.addr());
    let second = Upstream::answering("192.0.2.2");
    for status in [301, 302, 307, 308] {
        let to = to.clone();
        let first = Secure::doh().start(move |_| {
            let response = Response::builder().status(status).header(header::LOCATION, &to);
            Answer::Http(Box::new(response.body(Vec::new()).expect("a valid response")))
        });
        let daemon = with_second(world, &first, &second);
        assert_eq!(daemon.udp(&www()).address(), "192.0.2.2", "{status}");
    }
    assert_eq!(elsewhere.counts().connections.load(Ordering::SeqCst), 0);
}

fn other_media_types_are_no_answers(world: &World) {
    let second = Upstream::answering("192.0.2.2");
    for media_type in [None, Some("text/html"), Some("application/dns-json")] {
        let first = Secure::doh().start(move |asked| dressed(asked, 200, media_type));
        let daemon = with_second(world, &first, &second);
        assert_eq!(daemon.udp(&www()).address(), "192.0.2.2", "{media_type:?}");
        daemon.wait_to_say("no dns messages");
    }
}

fn large_bodies_are_no_answers(world: &World) {
    let second = Upstream::answering("192.0.2.2");
    for octets in [65_536, 5_000_000] {
        let first = Secure::doh().start(move |asked: &Asked| {
            let mut body = asked.address(60, "192.0.2.66").to_vec().expect("it can be encoded");
            body.resize(octets, 0);
            Answer::Octets(vec![body])
        });
        let daemon = with_second(world, &first, &second);
        assert_eq!(daemon.udp(&www()).address(), "192.0.2.2", "{octets}");
    }
}

fn empty_bodies_are_no_answers(world: &World) {
    let second = Upstream::answering("192.0.2.2");
    for octets in [0, 1, 11] {
        let first = Secure::doh().start(move |_| Answer::Octets(vec![vec![0; octets]]));
        let daemon = with_second(world, &first, &second);
        assert_eq!(daemon.udp(&www()).address(), "192.0.2.2", "{octets}");
    }
}

fn reset_streams_lead_on(world: &World) {
    let first = Secure::doh().start(|asked| {
        if asked.name().starts_with("reset") {
            Answer::Reset
        } else {
            asked.address(60, "192.0.2.1").into()
        }
    });
    let second = Upstream::answering("192.0.2.2");
    let daemon = with_second(world, &first, &second);
    for i in 0..5 {
        let start = Instant::now();
        let reply = daemon.udp(&Query::a(&format!("reset{i}.example.org")));
        assert_eq!(reply.address(), "192.0.2.2");
        assert!(start.elapsed() < Duration::from_millis(650), "{:?}", start.elapsed());
    }
    assert!(first.asked().iter().all(|asked| asked.conn == 0), "the connection stays");
}

fn goaway_is_obeyed(world: &World) {
    let upstream = Secure::doh().start(|asked| {
        if asked.name().starts_with("last") {
            Answer::SendAndClose(Box::new(asked.address(60, "192.0.2.1")))
        } else {
            let answer = asked.address(60, "192.0.2.1").into();
            Answer::After(Duration::from_millis(300), Box::new(answer))
        }
    });
    let daemon = Settings::new().doh(upstream.addr(), "").start(world);
    let mut client = crate::harness::StreamClient::to(daemon.addr());
    let (in_flight, last) = (Query::a("slow.example.org"), Query::a("last.example.org"));
    client.send(&in_flight.encode());
    upstream.wait_for(1);
    client.send(&last.encode());
    client.receive().check_echo(&last);
    let reply = client.receive();
    reply.check_echo(&in_flight);
    assert_eq!(reply.address(), "192.0.2.1");
    assert_eq!(upstream.count(), 2, "nothing had to be asked twice");
    assert_eq!(client.ask(&Query::a("next.example.org")).address(), "192.0.2.1");
    let conns: Vec<_> = upstream.asked().iter().map(|asked| asked.conn).collect();
    assert_eq!(conns, [0, 0, 1]);
}

fn late_exchanges_are_cancelled(world: &World) {
    let upstream = Secure::doh().start(|asked| {
        if asked.name().starts_with("never") {
            Answer::Silence
        } else {
            asked.address(60, "192.0.2.1").into()
        }
    });
    let daemon = Settings::new()
        .doh(upstream.addr(), "timeout_ms = 400")
        .section("routing = { attempts_max = 1 }")
        .start(world);
    let mut client = crate::harness::StreamClient::to(daemon.addr());
    let never = Query::a("never.example.org");
    client.send(&never.encode());
    upstream.wait_for(1);
    // What is heard meanwhile shows that the upstream is alive: nothing is wrong with the connection.
    assert_eq!(daemon.udp(&www()).address(), "192.0.2.1");
    let reply = client.receive();
    reply.check_echo(&never);
    assert_eq!(reply.rcode(), 2);
    until("its stream is reset", || {
        (upstream.counts().resets.load(Ordering::SeqCst) == 1).then_some(())
    });
    assert_eq!(daemon.udp(&Query::a("other.example.org")).address(), "192.0.2.1");
    assert!(upstream.asked().iter().all(|asked| asked.conn == 0));
}

fn large_answers_are_taken(world: &World) {
    let upstream = Secure::doh()
        .start(|asked: &Asked| asked.answer([crate::harness::txt_of(&asked.name(), 300, 60_000)]));
    let daemon = Settings::new().doh(upstream.addr(), "").start(world);
    let query = Query::new("huge.example.org", hickory_proto::rr::RecordType::TXT);
    assert!(daemon.tcp(&query).bytes.len() > 60_000);
}
