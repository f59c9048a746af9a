//! A question goes upstream and its answer comes back: header bits, question, sections, types.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CNAME, NS};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::case::World;
use crate::harness::{
    Answer, Client, Door, Gate, Query, Settings, Transport, Upstream, address, record, until,
};

cases! {
    forwards, all, "RFC 1035 4.2.1, RFC 7766 5",
        "a question goes upstream, and its answer comes back";
    forwards_from_and_to_ipv6, both, "RFC 3596 2.2",
        "AAAA comes through a listener and an upstream of IPv6";
    every_id_comes_back, all, "RFC 1035 4.1.1",
        "the id of the query is the id of the reply, whatever it is";
    recursion_is_available, all, "RFC 1035 4.1.1",
        "RA says that we recurse, whatever the upstream says of itself";
    cd_is_copied, all, "RFC 4035 3.2.2",
        "CD is copied from the query, and handed to the upstream";
    ad_is_for_who_asks, all, "RFC 6840 5.8",
        "AD is for who asked with AD or DO, and for nobody else";
    letter_case_is_the_clients, all, "RFC 1035 2.3.3, RFC 4343 4.1",
        "the question comes back in the client's own spelling, whoever asked first";
    upstream_may_change_letter_case, all, "RFC 4343 3",
        "an upstream that writes names in lower case is still understood";
    cname_chain_comes_through, all, "RFC 1034 3.6.2",
        "a chain of CNAMEs arrives whole and in order";
    all_sections_come_through, all, "RFC 1035 4.1",
        "authority and additional sections come through as they were sent";
    unknown_types_come_through, all, "RFC 3597 3, RFC 3597 4",
        "a type without a name is forwarded, and its octets come back untouched";
    longest_and_shortest_name, all, "RFC 1035 2.3.4",
        "the longest name that there can be and the root are forwarded";
    nxdomain_comes_through, all, "RFC 2308 2.1",
        "NXDOMAIN is an answer and arrives as one, with its SOA";
    zone_transfers_are_answered_with_an_error, all, "RFC 5936 4, RFC 1995 2",
        "no zone transfers here; the asker is told so";
    identical_questions_are_asked_once, all, "RFC 5452 5, architecture coalescing",
        "fifty who ask the same at once are one question upstream, and each gets an own reply";
    retransmitted_queries_each_get_a_reply, all, "RFC 1035 4.2.1",
        "a client that sends its query again gets a reply to each";
    equal_ids_of_different_clients, all, "RFC 1035 4.1.1",
        "clients that chose the same id get each its own answer";
    equal_ids_of_one_client, all, "RFC 1035 4.1.1",
        "a client that asks two questions under one id gets both answers";
    upstream_transport_is_configured, all, "RFC 7766 5",
        "how the client asks does not decide how the upstream is asked";
}

fn forwards(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.ask(&Query::a("www.example.org"));
    assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.1".to_owned()));
    assert_eq!(reply.message.answers[0].name.to_ascii(), "www.example.org.");
    assert_eq!(upstream.count(), 1);
}

fn forwards_from_and_to_ipv6(world: &World) {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no ::1");
        return;
    }
    let upstream = Upstream::on(std::net::Ipv6Addr::LOCALHOST.into(), true, |asked| {
        asked.answer([address(&asked.name(), 60, "2001:db8::7")])
    });
    let daemon = Settings::with(&upstream).dns("[::1]:{port}").start(world);
    let query = Query::new("six.example.org", RecordType::AAAA);
    let mut client = Client::to(world.transport(), &Door::plain(daemon.addr6()));
    assert_eq!(client.ask(&query).address(), "2001:db8::7");
}

fn every_id_comes_back(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for id in [0, 1, 0x00ff, 0xff00, u16::MAX] {
        let reply = daemon.ask(&Query::a(&format!("id-{id}.example.org")).id(id));
        assert_eq!(reply.message.metadata.id, id);
    }
}

fn recursion_is_available(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.address(60, "192.0.2.1");
        reply.metadata.recursion_available = false;
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org"));
        assert!(reply.recursion_available());
        assert!(reply.message.metadata.recursion_desired);
    }
}

fn cd_is_copied(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    assert!(daemon.ask(&Query::a("one.example.org").cd()).checking_disabled());
    assert!(upstream.asked()[0].message.metadata.checking_disabled);
    assert!(!daemon.ask(&Query::a("two.example.org")).checking_disabled());
    assert!(!upstream.asked()[1].message.metadata.checking_disabled);
}

fn ad_is_for_who_asks(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.address(60, "192.0.2.1");
        reply.metadata.authentic_data = true;
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        assert!(daemon.ask(&Query::a("www.example.org").ad()).authentic_data());
        assert!(daemon.ask(&Query::a("www.example.org").dnssec_ok()).authentic_data());
        assert!(!daemon.ask(&Query::a("www.example.org")).authentic_data());
    }
}

fn letter_case_is_the_clients(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for name in ["WwW.eXaMpLe.OrG", "www.example.org", "WWW.EXAMPLE.ORG"] {
        // `ask` compares the question octet by octet.
        assert_eq!(daemon.ask(&Query::a(name)).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 1);
}

fn upstream_may_change_letter_case(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.address(60, "192.0.2.1");
        reply.queries[0].name = Name::from_ascii(asked.name()).expect("a valid name");
        reply
    });
    let daemon = Settings::new().upstream(&upstream, "randomize_case = false").start(world);
    assert_eq!(daemon.ask(&Query::a("Mixed.Example.ORG")).address(), "192.0.2.1");
}

fn cname_chain_comes_through(world: &World) {
    let upstream = Upstream::start(|asked| {
        let alias = |from: &str, to: &str| {
            let target = Name::from_ascii(to).expect("a valid name");
            record(from, 60, RData::CNAME(CNAME(target)))
        };
        asked.answer([
            alias(&asked.name(), "b.example.org."),
            alias("b.example.org.", "c.example.net."),
            address("c.example.net.", 60, "192.0.2.3"),
        ])
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("a.example.org"));
        let types: Vec<_> = reply.message.answers.iter().map(|r| r.record_type()).collect();
        assert_eq!(types, [RecordType::CNAME, RecordType::CNAME, RecordType::A]);
        assert_eq!(reply.message.answers[2].name.to_ascii(), "c.example.net.");
    }
}

fn all_sections_come_through(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.address(60, "192.0.2.1");
        let server = Name::from_ascii("ns.example.org.").expect("a valid name");
        reply.add_authority(record("example.org.", 60, RData::NS(NS(server))));
        reply.add_additional(address("ns.example.org.", 60, "192.0.2.53"));
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let message = daemon.ask(&Query::a("www.example.org").edns(1232)).message;
        assert_eq!(
            (message.answers.len(), message.authorities.len(), message.additionals.len()),
            (1, 1, 1)
        );
    }
}

fn unknown_types_come_through(world: &World) {
    let data = vec![0xc0, 0x0c, 0, 1, 2, 255];
    let sent = data.clone();
    let upstream = Upstream::start(move |asked| {
        let code = asked.qtype();
        let rdata = hickory_proto::rr::rdata::NULL::with(sent.clone());
        asked.answer([record(&asked.name(), 60, RData::Unknown { code, rdata })])
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::new("odd.example.org", RecordType::Unknown(65_280)));
        assert_eq!(reply.message.answers[0].record_type(), RecordType::Unknown(65_280));
        assert!(reply.bytes.ends_with(&data), "{:02x?}", reply.bytes);
    }
}

fn longest_and_shortest_name(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let label = "x".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "y".repeat(61));
    assert_eq!(daemon.ask(&Query::a(&longest)).address(), "192.0.2.1");
    assert_eq!(daemon.ask(&Query::new(".", RecordType::NS)).rcode(), 0);
}

fn nxdomain_comes_through(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 300));
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.ask(&Query::a("missing.example.org"));
    assert_eq!(reply.rcode(), 3);
    assert!(reply.soa().is_some());
}

fn zone_transfers_are_answered_with_an_error(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for qtype in [RecordType::AXFR, RecordType::IXFR] {
        let query = Query::new("example.org", qtype);
        let reply = daemon.ask(&query);
        assert!([1, 4, 5].contains(&reply.rcode()), "{qtype}: {reply:?}");
        assert!(reply.message.answers.is_empty());
    }
    assert_eq!(upstream.count(), 0, "nothing of it goes upstream");
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn identical_questions_are_asked_once(world: &World) {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |asked| {
        Answer::When(held.clone(), Box::new(asked.address(60, "192.0.2.1").into()))
    });
    let daemon = Settings::with(&upstream).start(world);
    let mut client = daemon.client();
    let queries: Vec<_> = (0..50_u16)
        .map(|id| {
            let name = if id % 2 == 0 { "herd.example.org" } else { "HERD.example.ORG" };
            Query::a(name).id(id)
        })
        .collect();
    for query in &queries {
        client.send(&query.encode());
    }
    until("49 queries joined the first", || {
        (daemon.metric("balancedns_coalesced_total") >= 49.0).then_some(())
    });
    gate.open();
    let mut seen = [false; 50];
    for _ in &queries {
        let reply = client.receive();
        let id = usize::from(reply.message.metadata.id);
        reply.check_echo(&queries[id]);
        assert_eq!(reply.address(), "192.0.2.1");
        assert!(!std::mem::replace(&mut seen[id], true), "id {id} answered twice");
    }
    // A retransmission on a slow machine is the same question again: same port, same id.
    let first = &upstream.asked()[0];
    assert!(upstream.asked().iter().all(|a| (a.from, a.id()) == (first.from, first.id())));
}

fn retransmitted_queries_each_get_a_reply(world: &World) {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |asked| {
        Answer::When(held.clone(), Box::new(asked.address(60, "192.0.2.1").into()))
    });
    let daemon = Settings::with(&upstream).start(world);
    let query = Query::a("www.example.org");
    let mut client = daemon.client();
    for _ in 0..3 {
        client.send(&query.encode());
    }
    until("two of them joined the first", || {
        (daemon.metric("balancedns_coalesced_total") >= 2.0).then_some(())
    });
    gate.open();
    for _ in 0..3 {
        let reply = client.receive();
        reply.check_echo(&query);
        assert_eq!(reply.address(), "192.0.2.1");
    }
}

/// Answers with an address that tells the first labels "one" and "two" apart.
fn by_name() -> Upstream {
    Upstream::start(|asked| {
        let first = asked.name().starts_with("one");
        asked.address(60, if first { "192.0.2.1" } else { "192.0.2.2" })
    })
}

fn equal_ids_of_different_clients(world: &World) {
    let upstream = by_name();
    let daemon = Settings::with(&upstream).start(world);
    let queries = ["one.example.org", "two.example.org"].map(|name| Query::a(name).id(77));
    for _ in 0..2 {
        let mut clients = [daemon.client(), daemon.client()];
        for (client, query) in clients.iter_mut().zip(&queries) {
            client.send(&query.encode());
        }
        let replies = clients.each_mut().map(Client::receive);
        replies[0].check_echo(&queries[0]);
        replies[1].check_echo(&queries[1]);
        assert_eq!(replies.map(|reply| reply.address()), ["192.0.2.1", "192.0.2.2"]);
    }
}

fn equal_ids_of_one_client(world: &World) {
    let upstream = by_name();
    let daemon = Settings::with(&upstream).start(world);
    let mut client = daemon.client();
    for name in ["one.example.org", "two.example.org"] {
        client.send(&Query::a(name).id(77).encode());
    }
    let mut seen: Vec<_> = (0..2)
        .map(|_| {
            let reply = client.receive();
            assert_eq!(reply.message.metadata.id, 77);
            (reply.message.queries[0].name().to_ascii(), reply.address())
        })
        .collect();
    seen.sort();
    let expected = [("one.example.org.", "192.0.2.1"), ("two.example.org.", "192.0.2.2")];
    assert_eq!(seen, expected.map(|(name, ip)| (name.to_owned(), ip.to_owned())));
}

fn upstream_transport_is_configured(world: &World) {
    for (keys, transport) in
        [(r#"protocol = "udp""#, Transport::Udp), (r#"protocol = "tcp""#, Transport::Tcp)]
    {
        let upstream = Upstream::answering("192.0.2.1");
        let daemon = Settings::new().upstream(&upstream, keys).start(world);
        assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
        let asked = upstream.asked();
        assert_eq!(asked.iter().map(|asked| asked.transport).collect::<Vec<_>>(), [transport]);
    }
}
