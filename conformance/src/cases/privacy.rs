//! What EDNS adds for privacy and against forgery: padding on encrypted transports, keepalive on
//! streams, cookies, with clients and with upstreams.

use hickory_proto::op::Edns;
use hickory_proto::rr::rdata::opt::EdnsOption;

use crate::case::World;
use crate::harness::{Answer, Asked, Client, Extra, Query, Settings, Transport, Upstream, Via};

cases! {
    answers_are_padded, own, "RFC 8467 4.1, RFC 7830 4",
        "who pads a query in TLS gets an answer that is a multiple of 468 octets";
    padding_is_not_forced, own, "RFC 7830 4",
        "who does not pad gets no padding";
    plain_answers_are_not_padded, both, "RFC 7830 6",
        "nothing is padded where it hides nothing";
    errors_are_padded_too, own, "RFC 8467 4.1",
        "an error or a local answer in TLS is as long as any other";
    keepalive_tells_the_idle_time, streams, "RFC 7828 3.3.2",
        "who asks how long a stream may be idle is told the configured time";
    keepalive_is_not_volunteered, all, "RFC 7828 3.3.2",
        "who does not ask by edns-tcp-keepalive is told nothing of it";
    keepalive_with_a_timeout_is_formerr, streams, "RFC 7828 3.2.1",
        "a client has no timeout to tell: such an option is FORMERR";
    cookies_are_given, all, "RFC 7873 5.2.3, RFC 9018 4",
        "a client's cookie comes back with a server cookie of sixteen octets, version 1";
    cookies_are_recognised, all, "RFC 7873 5.2.4",
        "a server cookie of ours is counted as valid, one that was changed is not";
    cookies_differ_by_client, all, "RFC 9018 4.4",
        "another client cookie gets another server cookie";
    malformed_cookies_are_formerr, all, "RFC 7873 5.2.2",
        "a cookie of a length that no cookie has is FORMERR";
    upstreams_get_our_cookie, both, "RFC 7873 5.1",
        "datagrams to an upstream carry a client cookie of ours, the same each time";
    upstreams_differ_in_cookie, own, "RFC 7873 4.1",
        "each upstream gets a client cookie of its own";
    server_cookies_are_sent_back, own, "RFC 7873 5.3",
        "the server cookie that an upstream gave comes with the next query";
    replies_with_a_wrong_cookie_are_not_believed, own, "RFC 7873 5.3",
        "a reply with another client cookie is none; the true one comes over TCP";
    who_has_wrong_cookies_over_tcp_too_gets_none, own, "RFC 7873 5.3",
        "an upstream whose cookies prove nothing is believed over TCP, and gets none any more";
    bad_cookie_is_asked_again, own, "RFC 7873 5.3",
        "BADCOOKIE brings a new server cookie, by which the query is asked again";
    streams_to_upstreams_need_no_cookie, own, "RFC 7873 5.1",
        "a query by TCP asks for keepalive, and needs no cookie against forgery";
    keepalive_of_upstreams_is_obeyed, own, "RFC 7828 3.4",
        "an upstream that lets connections be idle for no time gets a new one for the next query";
}

const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const CLIENT_COOKIE: &[u8; 8] = b"8 octets";

fn www() -> Query {
    Query::a("www.example.org")
}

/// A daemon with all doors, and clients of each encrypted kind.
fn encrypted(world: &World, upstream: &Upstream) -> (crate::harness::Daemon, Vec<Client>) {
    use crate::harness::http::Version;
    let daemon = Settings::with(upstream)
        .door(Extra::Dot)
        .door(Extra::Doh)
        .section(r#"blacklist = { domains = { "blocked.example.org" } }"#)
        .start(world);
    let clients = vec![
        Client::to(Via::Dot, &daemon.dot_door()),
        Client::to(Via::Get, &daemon.doh_door(Version::Http1)),
        Client::to(Via::Post, &daemon.doh_door(Version::Http2)),
    ];
    (daemon, clients)
}

fn answers_are_padded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let (_daemon, clients) = encrypted(world, &upstream);
    for mut client in clients {
        for name in ["a.example.org", "a.example.org", "a-longer-name.example.org"] {
            let reply = client.ask(&Query::a(name).option(PADDING, &[0; 20]));
            assert_eq!(reply.bytes.len() % 468, 0, "{} octets", reply.bytes.len());
            let padding = reply.option(PADDING).expect("a padding option");
            assert!(padding.iter().all(|octet| *octet == 0));
        }
    }
}

fn padding_is_not_forced(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let (_daemon, clients) = encrypted(world, &upstream);
    for mut client in clients {
        assert_eq!(client.ask(&www().edns(1232)).option(PADDING), None);
        client.ask(&www());
    }
}

fn plain_answers_are_not_padded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.ask(&www().option(PADDING, &[0; 64]));
    assert_eq!(reply.option(PADDING), None);
}

fn errors_are_padded_too(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let (_daemon, clients) = encrypted(world, &upstream);
    for mut client in clients {
        for query in [Query::a("blocked.example.org"), www().opcode(5), Query::a("x.test")] {
            let reply = client.ask(&query.option(PADDING, &[]));
            assert_eq!(reply.bytes.len(), 468, "{reply:?}");
        }
    }
}

fn keepalive_tells_the_idle_time(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).listen("tcp_idle_timeout_ms = 7300").start(world);
    for _ in ["miss", "hit"] {
        let reply = daemon.ask(&www().option(KEEPALIVE, &[]));
        assert_eq!(reply.option(KEEPALIVE), Some(73_u16.to_be_bytes().to_vec()));
    }
}

fn keepalive_is_not_volunteered(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&www().edns(1232)).option(KEEPALIVE), None);
}

fn keepalive_with_a_timeout_is_formerr(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&www().option(KEEPALIVE, &[0, 100])).rcode(), 1);
    assert_eq!(upstream.count(), 0);
}

fn cookies_are_given(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for query in [www(), www(), Query::a("x.test"), www().opcode(5)] {
        let reply = daemon.ask(&query.option(COOKIE, CLIENT_COOKIE));
        let cookie = reply.option(COOKIE).expect("a cookie");
        assert_eq!(cookie.len(), 24, "{cookie:02x?}");
        assert_eq!(&cookie[..8], CLIENT_COOKIE);
        assert_eq!(cookie[8..12], [1, 0, 0, 0], "version and reserved octets");
    }
    assert_eq!(daemon.ask(&www().edns(1232)).option(COOKIE), None, "only for who sends one");
}

fn cookies_are_recognised(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let count =
        |state: &str| daemon.metric(&format!("balancedns_cookies_total{{state=\"{state}\"}}"));
    let cookie = daemon.ask(&www().option(COOKIE, CLIENT_COOKIE)).option(COOKIE).expect("one");
    let (valid, invalid) = (count("valid"), count("invalid"));
    daemon.ask(&www().option(COOKIE, &cookie));
    assert!((count("valid") - valid - 1.0).abs() < 0.1);
    let mut changed = cookie.clone();
    changed[20] ^= 1;
    let reply = daemon.ask(&www().option(COOKIE, &changed));
    assert!((count("invalid") - invalid - 1.0).abs() < 0.1);
    // It is answered all the same, with a good one.
    assert_eq!(reply.address(), "192.0.2.1");
    let again = reply.option(COOKIE).expect("one");
    daemon.ask(&www().option(COOKIE, &again));
    assert!((count("valid") - valid - 2.0).abs() < 0.1);
}

fn cookies_differ_by_client(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let cookie = |client: &[u8; 8]| {
        daemon.ask(&www().option(COOKIE, client)).option(COOKIE).expect("a cookie")[16..].to_vec()
    };
    assert_ne!(cookie(CLIENT_COOKIE), cookie(b"others 8"));
}

fn malformed_cookies_are_formerr(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for length in [0, 1, 7, 9, 15, 41, 100] {
        let reply = daemon.ask(&www().option(COOKIE, &vec![1; length]));
        assert_eq!(reply.rcode(), 1, "{length} octets");
    }
    for length in [8, 16, 24, 40] {
        let reply = daemon.ask(&www().option(COOKIE, &vec![1; length]));
        assert_eq!(reply.rcode(), 0, "{length} octets");
    }
}

fn upstreams_get_our_cookie(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for i in 0..3 {
        daemon.ask(&Query::a(&format!("n{i}.example.org")).option(COOKIE, CLIENT_COOKIE));
    }
    let cookies: Vec<_> = upstream.asked().iter().map(|asked| asked.option(COOKIE)).collect();
    let first = cookies[0].clone().expect("a cookie");
    assert_eq!(first.len(), 8);
    assert_ne!(&first, CLIENT_COOKIE, "the client's own stays here");
    assert!(cookies.iter().all(|cookie| *cookie == cookies[0]), "{cookies:02x?}");
}

fn upstreams_differ_in_cookie(world: &World) {
    let (first, second) = (Upstream::answering("192.0.2.1"), Upstream::answering("192.0.2.2"));
    let daemon = Settings::new()
        .upstream(&first, r#"zones = { "one.test.org" }"#)
        .upstream(&second, r#"zones = { "two.test.org" }"#)
        .start(world);
    daemon.udp(&Query::a("one.test.org"));
    daemon.udp(&Query::a("two.test.org"));
    let cookie = |upstream: &Upstream| upstream.asked()[0].option(COOKIE).expect("a cookie");
    assert_ne!(cookie(&first), cookie(&second));
}

/// An answer that brings a cookie: that of the query with this one behind it.
fn with_cookie(asked: &Asked, server: &[u8]) -> hickory_proto::op::Message {
    let mut cookie = asked.option(COOKIE).unwrap_or_default();
    cookie.truncate(8);
    cookie.extend(server);
    let mut reply = asked.address(60, "192.0.2.1");
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(COOKIE, cookie));
    reply.set_edns(edns);
    reply
}

fn server_cookies_are_sent_back(world: &World) {
    let upstream = Upstream::start(|asked| with_cookie(asked, b"servers!"));
    let daemon = Settings::with(&upstream).start(world);
    for i in 0..3 {
        let reply = daemon.udp(&Query::a(&format!("n{i}.example.org")));
        assert_eq!(reply.address(), "192.0.2.1");
    }
    let cookies: Vec<_> =
        upstream.asked().iter().filter_map(|asked| asked.option(COOKIE)).collect();
    assert_eq!(cookies[0].len(), 8);
    for later in &cookies[1..] {
        assert_eq!((&later[..8], &later[8..]), (&cookies[0][..], &b"servers!"[..]));
    }
}

fn replies_with_a_wrong_cookie_are_not_believed(world: &World) {
    let upstream = Upstream::start(|asked: &Asked| {
        if asked.transport == Transport::Tcp {
            return Answer::from(with_cookie(asked, b"servers!"));
        }
        let mut forged = asked.address(60, "192.0.2.66");
        let mut edns = Edns::new();
        let wrong = b"wrong!!!servers!".to_vec();
        edns.options_mut().insert(EdnsOption::Unknown(COOKIE, wrong));
        forged.set_edns(edns);
        Answer::from(forged)
    });
    let daemon = Settings::with(&upstream).start(world);
    for i in 0..3 {
        let reply = daemon.udp(&Query::a(&format!("n{i}.example.org")));
        assert_eq!(reply.address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 6, "each is asked once more, over TCP");
}

/// A proxy that caches replies with the cookies of others has nothing else to give.
fn who_has_wrong_cookies_over_tcp_too_gets_none(world: &World) {
    let upstream = Upstream::start(|asked: &Asked| {
        let mut reply = asked.address(60, "192.0.2.1");
        let mut edns = Edns::new();
        let wrong = b"wrong!!!servers!".to_vec();
        edns.options_mut().insert(EdnsOption::Unknown(COOKIE, wrong));
        reply.set_edns(edns);
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.udp(&www()).address(), "192.0.2.1");
    assert_eq!(upstream.count(), 2, "over TCP too");
    assert_eq!(daemon.udp(&Query::a("other.example.org")).address(), "192.0.2.1");
    let asked = upstream.wait_for(3).remove(2);
    assert_eq!(asked.option(COOKIE), None);
}

fn bad_cookie_is_asked_again(world: &World) {
    let upstream = Upstream::start(|asked: &Asked| {
        let mut reply = with_cookie(asked, b"servers!");
        let cookie = asked.option(COOKIE).unwrap_or_default();
        if asked.transport == Transport::Udp && cookie.get(8..) != Some(&b"servers!"[..]) {
            reply.answers.clear();
            reply.metadata.response_code = hickory_proto::op::ResponseCode::BADCOOKIE;
        }
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.udp(&www()).address(), "192.0.2.1");
    assert_eq!(upstream.count(), 2);
    assert_eq!(daemon.udp(&Query::a("other.example.org")).address(), "192.0.2.1");
    assert_eq!(upstream.count(), 3, "now it is known");
}

fn streams_to_upstreams_need_no_cookie(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::new().upstream(&upstream, r#"protocol = "tcp""#).start(world);
    daemon.udp(&www());
    let asked = upstream.wait_for(1).remove(0);
    assert_eq!(asked.option(KEEPALIVE), Some(Vec::new()));
    assert_eq!(asked.option(COOKIE), None);
    assert_eq!(asked.option(PADDING), None);
}

fn keepalive_of_upstreams_is_obeyed(world: &World) {
    for (timeout, conns) in [(0_u16, 3), (600, 1)] {
        let upstream = Upstream::start(move |asked: &Asked| {
            let mut reply = asked.address(60, "192.0.2.1");
            let mut edns = Edns::new();
            let told = timeout.to_be_bytes().to_vec();
            edns.options_mut().insert(EdnsOption::Unknown(KEEPALIVE, told));
            reply.set_edns(edns);
            reply
        });
        let daemon = Settings::new().upstream(&upstream, r#"protocol = "tcp""#).start(world);
        for i in 0..3 {
            let reply = daemon.udp(&Query::a(&format!("n{i}.example.org")));
            assert_eq!(reply.address(), "192.0.2.1");
        }
        let asked = upstream.asked();
        let last = asked.last().expect("it was asked").conn;
        assert_eq!(last + 1, conns, "told {timeout}");
    }
}
