//! What does not fit a datagram: TC towards clients, TCP after TC towards upstreams.

use hickory_proto::rr::RecordType;

use crate::harness::{
    Answer, Asked, Daemon, Gate, Query, Settings, TcpClient, Transport, UdpClient, Upstream,
    address, txt_of, until,
};

fn txt(name: &str) -> Query {
    Query::new(name, RecordType::TXT)
}

/// An upstream with answers of this many octets, over UDP only what fits what it was offered.
fn upstream_with(octets: usize) -> Upstream {
    Upstream::start(move |asked| {
        let reply = asked.answer([txt_of(&asked.name(), 300, octets)]);
        let offered = usize::from(asked.message.max_payload());
        let length = reply.to_vec().expect("it can be encoded").len();
        if asked.transport == Transport::Udp && length > offered {
            asked.truncated()
        } else {
            reply
        }
    })
}

fn transports(asked: &[Asked]) -> Vec<Transport> {
    asked.iter().map(|asked| asked.transport).collect()
}

fn txt_octets(daemon: &Daemon, query: &Query) -> usize {
    let reply = daemon.tcp(query);
    assert!(!reply.truncated(), "TC over TCP");
    assert_eq!(reply.message.answers.len(), 1);
    reply.bytes.len()
}

/// RFC 1035 section 4.2.1: 512 octets for who says nothing else; whole by TCP.
#[test]
fn truncates_to_512_without_edns() {
    let upstream = upstream_with(900);
    let daemon = Settings::with(&upstream).start();
    for _ in 0..2 {
        // `ask` checks the size.
        assert!(daemon.udp(&txt("big.example.org")).truncated());
        assert!(txt_octets(&daemon, &txt("big.example.org")) > 900);
    }
    assert_eq!(upstream.count(), 1, "the client's size is not the upstream's affair");
}

/// RFC 6891 section 6.2.3: the size that the client offers, and no more.
#[test]
fn truncates_to_the_size_offered() {
    let upstream = upstream_with(900);
    let daemon = Settings::with(&upstream).start();
    assert!(daemon.udp(&txt("big.example.org").edns(600)).truncated());
    let whole = daemon.udp(&txt("big.example.org").edns(1200));
    assert!(!whole.truncated());
    assert!(whole.bytes.len() > 900);
}

/// Our own bound, `listen.udp_size`, holds however much the client offers (RFC 9715 section 3).
#[test]
fn truncates_to_our_own_size() {
    let upstream = upstream_with(3000);
    let daemon = Settings::with(&upstream).start();
    let reply = daemon.udp(&txt("big.example.org").edns(4096));
    assert!(reply.truncated());
    assert!(reply.bytes.len() <= 1232);
    assert!(txt_octets(&daemon, &txt("big.example.org").edns(4096)) > 3000);

    let daemon = Settings::with(&upstream).listen("udp_size = 4096").start();
    let reply = daemon.udp(&txt("big.example.org").edns(4096));
    assert!(!reply.truncated());
    assert!(reply.bytes.len() > 3000);
}

/// A truncated reply still carries OPT (RFC 6891 section 7) and still decodes, at every size.
#[test]
fn truncated_replies_decode_at_every_size() {
    let upstream = Upstream::start(|asked| {
        asked.answer((1..=100).map(|i| address(&asked.name(), 60, &format!("192.0.2.{i}"))))
    });
    let daemon = Settings::with(&upstream).start();
    for size in (512..1232).step_by(37) {
        let reply = daemon.udp(&Query::a("many.example.org").edns(size));
        assert!(reply.truncated(), "size {size}");
        assert!(reply.addresses().len() < 100);
    }
    assert_eq!(daemon.tcp(&Query::a("many.example.org")).addresses().len(), 100);
}

/// RFC 7766 section 5: TC from the upstream leads to TCP; who asked by TCP gets all of it.
#[test]
fn tc_from_the_upstream_leads_to_tcp() {
    let upstream = upstream_with(3000);
    let daemon = Settings::with(&upstream).start();
    assert!(txt_octets(&daemon, &txt("big.example.org")) > 3000);
    assert_eq!(transports(&upstream.asked()), [Transport::Udp, Transport::Tcp]);
    assert!(daemon.udp(&txt("big.example.org")).truncated(), "a small UDP client gets TC");
    assert_eq!(upstream.count(), 2, "and the answer is cached whole");
    assert!(daemon.metric("balancedns_upstream_truncated_total") >= 1.0);
}

/// RFC 7766 section 5: the same when a UDP client was the first to ask.
#[test]
fn tc_from_the_upstream_is_resolved_for_udp_clients() {
    let upstream = Upstream::start(|asked| match asked.transport {
        Transport::Udp => asked.truncated(),
        Transport::Tcp => asked.address(300, "192.0.2.1"),
    });
    let daemon = Settings::with(&upstream).start();
    let reply = daemon.udp(&Query::a("small.example.org"));
    assert!(!reply.truncated(), "what came by TCP fits");
    assert_eq!(reply.address(), "192.0.2.1");
}

/// Clients who wait for the same answer each get it as they can take it: cut for plain UDP, whole
/// for a larger datagram and for TCP, with OPT for who sent one.
#[test]
fn waiters_get_what_they_can_take() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |asked| {
        let reply = asked.answer([txt_of(&asked.name(), 300, 900)]);
        Answer::When(held.clone(), Box::new(reply.into()))
    });
    let daemon = Settings::with(&upstream).start();
    let queries = [
        txt("big.example.org"),
        txt("BIG.example.org").edns(1232),
        txt("big.EXAMPLE.org").edns(600),
    ];
    let clients = queries.each_ref().map(|query| {
        let client = UdpClient::to(daemon.addr());
        client.send(&query.encode());
        client
    });
    let mut stream = TcpClient::to(daemon.addr());
    stream.send(&queries[0].encode());
    until("three queries joined the first", || {
        (daemon.metric("balancedns_coalesced_total") >= 3.0).then_some(())
    });
    gate.open();
    let cut = clients.iter().zip(&queries).map(|(client, query)| {
        let reply = client.receive();
        reply.check_echo(query);
        reply.check_datagram(query);
        reply.truncated()
    });
    assert_eq!(cut.collect::<Vec<_>>(), [true, false, true]);
    let whole = stream.receive();
    whole.check_echo(&queries[0]);
    assert!(!whole.truncated() && whole.bytes.len() > 900);
}

/// RFC 1035 section 4.2.2: the largest answer that a stream can carry.
#[test]
fn largest_answer_comes_through_tcp() {
    let upstream = upstream_with(60_000);
    let daemon = Settings::with(&upstream).start();
    for _ in 0..2 {
        assert!(txt_octets(&daemon, &txt("huge.example.org")) > 60_000);
    }
}

/// RFC 2181 section 9: what is truncated is not kept. The upstream says TC, and cannot be reached
/// by TCP.
#[test]
fn truncated_answers_are_not_cached() {
    let upstream = Upstream::udp_only(|asked| {
        let mut reply = asked.address(300, "192.0.2.1");
        reply.metadata.truncation = true;
        Answer::from(reply)
    });
    let daemon = Settings::with(&upstream)
        .section("cache = { servfail_ttl_seconds = 0 }")
        .section("routing = { deadline_ms = 1000 }")
        .start();
    let first = daemon.udp(&Query::a("cut.example.org"));
    assert!(first.truncated() || first.rcode() == 2, "{first:?}");
    let before = upstream.count();
    let second = daemon.udp(&Query::a("cut.example.org"));
    assert!(second.truncated() || second.rcode() == 2, "{second:?}");
    assert!(upstream.count() > before, "the second answer came from the cache");
}
