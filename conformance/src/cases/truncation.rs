//! What does not fit a datagram: TC towards clients, TCP after TC towards upstreams.

use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{
    Answer, Asked, Daemon, Gate, Query, Settings, StreamClient, Transport, UdpClient, Upstream,
    address, raw_record, txt_of, until,
};

cases! {
    truncates_to_512_without_edns, udp, "RFC 1035 4.2.1",
        "who says nothing of sizes gets 512 octets at most, and all by TCP";
    truncates_to_the_size_offered, udp, "RFC 6891 6.2.3",
        "an answer is as large as the client offers to take, and no larger";
    truncates_to_our_own_size, udp, "RFC 9715 3.1, config listen.udp_size",
        "our own bound holds however much the client offers";
    truncated_replies_decode_at_every_size, udp, "RFC 6891 7",
        "a truncated reply still carries OPT and still decodes, at every size";
    tc_from_the_upstream_leads_to_tcp, own, "RFC 7766 5",
        "TC from the upstream leads to TCP; who asked by TCP gets all of it";
    tc_from_the_upstream_is_resolved, all, "RFC 7766 5",
        "what was truncated upstream and came by TCP reaches the client without TC";
    waiters_get_what_they_can_take, own, "RFC 6891 6.2.3",
        "clients who wait for the same answer each get it as they can take it";
    largest_answer_comes_through_tcp, tcp, "RFC 1035 4.2.2",
        "the largest answer that a stream can carry comes through whole";
    truncated_answers_are_not_cached, all, "RFC 2181 9",
        "what is truncated is not kept";
    additional_records_go_first, udp, "RFC 2181 9",
        "additional records that do not fit are left out without TC";
    authority_that_does_not_fit_is_tc, udp, "RFC 2181 9",
        "answer and authority come whole or not at all, with TC";
    truncated_replies_hold_nothing_partial, udp, "RFC 2181 9",
        "of records that do not fit none is sent: who sees TC asks again";
    exact_fit_is_no_truncation, udp, "RFC 6891 6.2.3, RFC 1035 4.2.1",
        "an answer of the very size that the client takes comes whole; one octet more does not";
}

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

fn truncates_to_512_without_edns(world: &World) {
    let upstream = upstream_with(900);
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        // `ask` checks the size.
        assert!(daemon.udp(&txt("big.example.org")).truncated());
        assert!(txt_octets(&daemon, &txt("big.example.org")) > 900);
    }
    assert_eq!(upstream.count(), 1, "the client's size is not the upstream's affair");
}

fn truncates_to_the_size_offered(world: &World) {
    let upstream = upstream_with(900);
    let daemon = Settings::with(&upstream).start(world);
    assert!(daemon.ask(&txt("big.example.org").edns(600)).truncated());
    let whole = daemon.ask(&txt("big.example.org").edns(1200));
    assert!(!whole.truncated());
    assert!(whole.bytes.len() > 900);
}

fn truncates_to_our_own_size(world: &World) {
    let upstream = upstream_with(3000);
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.udp(&txt("big.example.org").edns(4096));
    assert!(reply.truncated());
    assert!(reply.bytes.len() <= 1232);
    assert!(txt_octets(&daemon, &txt("big.example.org").edns(4096)) > 3000);

    let daemon = Settings::with(&upstream).listen("udp_size = 4096").start(world);
    let reply = daemon.udp(&txt("big.example.org").edns(4096));
    assert!(!reply.truncated());
    assert!(reply.bytes.len() > 3000);
}

fn truncated_replies_decode_at_every_size(world: &World) {
    let upstream = Upstream::start(|asked| {
        asked.answer((1..=100).map(|i| address(&asked.name(), 60, &format!("192.0.2.{i}"))))
    });
    let daemon = Settings::with(&upstream).start(world);
    for size in (512..1232).step_by(37) {
        let reply = daemon.udp(&Query::a("many.example.org").edns(size));
        assert!(reply.truncated(), "size {size}");
        assert!(reply.addresses().len() < 100);
    }
    assert_eq!(daemon.tcp(&Query::a("many.example.org")).addresses().len(), 100);
}

fn tc_from_the_upstream_leads_to_tcp(world: &World) {
    let upstream = upstream_with(3000);
    let daemon = Settings::with(&upstream).start(world);
    assert!(txt_octets(&daemon, &txt("big.example.org")) > 3000);
    assert_eq!(transports(&upstream.asked()), [Transport::Udp, Transport::Tcp]);
    assert!(daemon.udp(&txt("big.example.org")).truncated(), "a small UDP client gets TC");
    assert_eq!(upstream.count(), 2, "and the answer is cached whole");
    assert!(daemon.metric("balancedns_upstream_truncated_total") >= 1.0);
}

fn tc_from_the_upstream_is_resolved(world: &World) {
    let upstream = Upstream::start(|asked| match asked.transport {
        Transport::Udp => asked.truncated(),
        Transport::Tcp | Transport::Dot | Transport::Doh => asked.address(300, "192.0.2.1"),
    });
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.ask(&Query::a("small.example.org"));
    assert!(!reply.truncated(), "what came by TCP fits");
    assert_eq!(reply.address(), "192.0.2.1");
}

fn waiters_get_what_they_can_take(world: &World) {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |asked| {
        let reply = asked.answer([txt_of(&asked.name(), 300, 900)]);
        Answer::When(held.clone(), Box::new(reply.into()))
    });
    let daemon = Settings::with(&upstream).start(world);
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
    let mut stream = StreamClient::to(daemon.addr());
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

fn largest_answer_comes_through_tcp(world: &World) {
    let upstream = upstream_with(60_000);
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        assert!(txt_octets(&daemon, &txt("huge.example.org")) > 60_000);
    }
}

fn truncated_answers_are_not_cached(world: &World) {
    let upstream = Upstream::udp_only(|asked| {
        let mut reply = asked.address(300, "192.0.2.1");
        reply.metadata.truncation = true;
        Answer::from(reply)
    });
    let daemon = Settings::with(&upstream)
        .section("cache = { servfail_ttl_seconds = 0 }")
        .section("routing = { deadline_ms = 1000 }")
        .start(world);
    let first = daemon.ask(&Query::a("cut.example.org"));
    assert!(first.truncated() || first.rcode() == 2, "{first:?}");
    let before = upstream.count();
    let second = daemon.ask(&Query::a("cut.example.org"));
    assert!(second.truncated() || second.rcode() == 2, "{second:?}");
    assert!(upstream.count() > before, "the second answer came from the cache");
}

fn additional_records_go_first(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.address(300, "192.0.2.1");
        reply.add_additional(txt_of("more.example.org.", 300, 600));
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.udp(&Query::a("www.example.org"));
        assert!(!reply.truncated(), "all of the answer is there");
        assert_eq!((reply.address(), reply.message.additionals.len()), ("192.0.2.1".into(), 0));
        let whole = daemon.udp(&Query::a("www.example.org").edns(1232));
        assert_eq!(whole.message.additionals.len(), 1);
    }
}

fn authority_that_does_not_fit_is_tc(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.address(300, "192.0.2.1");
        reply.add_authority(txt_of("example.org.", 300, 600));
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        assert!(daemon.udp(&Query::a("www.example.org")).truncated());
        let whole = daemon.udp(&Query::a("www.example.org").edns(1232));
        assert_eq!((whole.truncated(), whole.message.authorities.len()), (false, 1));
    }
}

fn truncated_replies_hold_nothing_partial(world: &World) {
    let upstream = Upstream::start(|asked| {
        asked.answer((1..=40).map(|i| address(&asked.name(), 60, &format!("192.0.2.{i}"))))
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.udp(&Query::a("many.example.org"));
        assert!(reply.truncated());
        let message = &reply.message;
        let counts = (message.answers.len(), message.authorities.len(), message.additionals.len());
        assert_eq!(counts, (0, 0, 0));
    }
    assert_eq!(daemon.udp(&Query::a("many.example.org").edns(1232)).addresses().len(), 40);
}

fn exact_fit_is_no_truncation(world: &World) {
    // The label says how many octets of data to send.
    let upstream = Upstream::start(|asked| {
        let label = String::from_utf8(asked.labels().swap_remove(0)).expect("digits");
        let data = vec![0; label.parse().expect("digits")];
        let record = raw_record(&[0xc0, 12], asked.qtype(), 60, &data);
        Answer::Octets(vec![asked.raw_reply(0x8180, [1, 0, 0], &record)])
    });
    let daemon = Settings::with(&upstream).start(world);
    // Header, question, record; then OPT too.
    let around = 12 + Query::a("0000.example.org").question().len() + 12;
    for (edns, limit) in [(None, 512), (Some(512), 512), (Some(700), 700), (Some(4096), 1232)] {
        let fits = limit - around - if edns.is_some() { 11 } else { 0 };
        for (octets, cut) in [(fits, false), (fits + 1, true)] {
            let qtype = RecordType::Unknown(65_280);
            let query = Query::new(&format!("{octets:0>4}.example.org"), qtype);
            let reply = daemon.udp(&edns.map_or(query.clone(), |size| query.edns(size)));
            assert_eq!(reply.truncated(), cut, "{octets} octets of data for {edns:?}");
            assert!(cut || reply.bytes.len() == limit);
        }
    }
}
