//! Names, types and their data: any octets, any case, any length, and nothing lost on the way
//! (RFC 1035, RFC 2181 section 11, RFC 3597, RFC 4343).

use std::net::IpAddr;

use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{Answer, Asked, Query, Settings, Upstream, address, raw_record, wire};

cases! {
    labels_hold_any_octet, all, "RFC 2181 11, RFC 1035 3.1",
        "a label may hold any octets; they go upstream and come back as they are";
    dots_in_labels_are_no_borders, all, "RFC 2181 11",
        "a dot inside a label parts no labels: zones and blacklist are not fooled";
    only_ascii_letters_fold, all, "RFC 4343 3",
        "other octets that differ by the same bit as letters are different names";
    many_labels, all, "RFC 1035 2.3.4",
        "127 labels, of one octet each, are a name like any other";
    labels_of_64_octets_are_formerr, all, "RFC 1035 2.3.4",
        "a label is 63 octets at most";
    every_type_comes_through, all, "RFC 1035 3.2.2, RFC 3597 3",
        "the data of two dozen types come through to the octet, fresh and from the cache";
    compressed_answers_keep_their_meaning, all, "RFC 1035 4.1.4",
        "pointers of the upstream, to the question and into data, mean the same to the client";
    pointer_loops_in_replies_are_no_answers, all, "RFC 1035 4.1.4",
        "owner names that point in circles, forwards or nowhere: the next upstream is asked";
    other_classes_have_their_own_answers, all, "RFC 1035 3.2.4",
        "what is kept for class IN is not given for another";
    records_keep_their_order, all, "RFC 2181 5",
        "records come in the upstream's order, fresh and from the cache";
    empty_data_is_data, all, "RFC 3597 3",
        "a record without any data comes through";
    unknown_types_are_kept, all, "RFC 3597 3",
        "a type without a name is kept by its TTL like any other";
}

const QR_RD_RA: u16 = 0x8180;
/// A pointer to the question's name.
const QNAME: [u8; 2] = [0xc0, 12];

/// A reply of one record under the name that was asked.
fn with_data(asked: &Asked, data: &[u8]) -> Answer {
    let record = raw_record(&QNAME, asked.qtype(), 60, data);
    Answer::Octets(vec![asked.raw_reply(QR_RD_RA, [1, 0, 0], &record)])
}

fn labels_hold_any_octet(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let odd: [&[u8]; 6] = [b" ", b"\0\x01\x7f", b"\\.\"", b"\xff\xfe\xc0\x0c", b"*", b"_dns"];
    for label in odd {
        let labels = [label, b"example", b"org"];
        // `ask` compares the question octet by octet.
        let reply = daemon.ask(&Query::of_labels(&labels, RecordType::A));
        assert_eq!(reply.rcode(), 0, "{label:02x?}");
        let asked = upstream.asked().pop().expect("it was asked");
        assert_eq!(asked.labels(), labels.map(<[u8]>::to_ascii_lowercase));
    }
    assert_eq!(upstream.count(), odd.len());
}

fn dots_in_labels_are_no_borders(world: &World) {
    let (all, zone) = (Upstream::answering("192.0.2.1"), Upstream::answering("192.0.2.2"));
    let daemon = Settings::new()
        .upstream(&all, "")
        .upstream(&zone, r#"zones = { "example.org" }"#)
        .section(r#"blacklist = { domains = { "bad.example.net", "*.worse.example.net" } }"#)
        .start(world);
    let whole: [&[&[u8]]; 4] = [
        &[b"www", b"example.org"],
        &[b"www.example.org"],
        &[b"bad.example", b"net"],
        &[b"x.worse", b"example", b"net"],
    ];
    for labels in whole {
        let reply = daemon.ask(&Query::of_labels(labels, RecordType::A));
        assert_eq!(reply.rcode(), 0, "{labels:?}");
    }
    assert_eq!((all.count(), zone.count()), (4, 0));
    assert_eq!(daemon.ask(&Query::a("x.worse.example.net")).rcode(), 5);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
}

fn only_ascii_letters_fold(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    // Pairs that differ by 0x20, as capital and small letters do.
    let pairs: [[&[u8]; 2]; 5] =
        [[b"@", b"`"], [b"[", b"{"], [b"^", b"~"], [b"\xc4", b"\xe4"], [b"\x10", b"0"]];
    for label in pairs.into_iter().flatten() {
        daemon.ask(&Query::of_labels(&[label, b"example", b"org"], RecordType::A));
    }
    assert_eq!(upstream.count(), 10, "each is a question of its own");
}

fn many_labels(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let query = Query::a(&["a"; 127].join("."));
    assert_eq!(query.question().len(), 255 + 4);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&query).address(), "192.0.2.1");
    }
    assert_eq!(upstream.asked()[0].labels().len(), 127);
    assert_eq!(upstream.count(), 1);
}

fn labels_of_64_octets_are_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).start(world);
    let label = [b'x'; 64];
    let octets = Query::of_labels(&[&label, b"org"], RecordType::A).encode();
    let mut client = daemon.client();
    client.send(&octets);
    let reply = client.receive();
    assert_eq!((reply.rcode(), &reply.bytes[..2]), (1, &octets[..2]));
    assert_eq!(upstream.count(), 0);
}

/// Types and data that are valid for them, names not compressed.
fn typed_data() -> Vec<(u16, Vec<u8>)> {
    let name = wire("Target.Example.NET");
    let numbered = |numbers: &[u16]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
    let before = |head: Vec<u8>| [head, name.clone()].concat();
    let soa = [name.clone(), name.clone(), (1..=20).collect()].concat();
    let naptr = [&[0, 10, 0, 20, 1, b'S', 3, b's', b'i', b'p', 0][..], &name].concat();
    let rrsig = [&[0, 1, 13, 2, 0, 0, 0, 60][..], &[0x6a; 8], &[0, 7], &name, &[9; 64]].concat();
    let nsec = [&name[..], &[0, 6, 0x40, 1, 0, 0, 0, 3]].concat();
    vec![
        (2, name.clone()),                                             // NS
        (5, name.clone()),                                             // CNAME
        (6, soa),                                                      // SOA
        (12, name.clone()),                                            // PTR
        (13, b"\x05A-CPU\x04A-OS".to_vec()),                           // HINFO
        (15, before(numbered(&[10]))),                                 // MX
        (16, b"\x05hello\x00\x02\x00\xff".to_vec()),                   // TXT
        (28, vec![0x20; 16]),                                          // AAAA
        (29, [&[0, 0x12, 0x16, 0x13][..], &[0x80; 12]].concat()),      // LOC
        (33, before(numbered(&[1, 2, 443]))),                          // SRV
        (35, naptr),                                                   // NAPTR
        (39, name.clone()),                                            // DNAME
        (43, [&[0x12, 0x34, 13, 2][..], &[7; 32]].concat()),           // DS
        (44, [&[4, 2][..], &[8; 32]].concat()),                        // SSHFP
        (46, rrsig),                                                   // RRSIG
        (47, nsec),                                                    // NSEC
        (48, [&[1, 1, 3, 13][..], &[9; 64]].concat()),                 // DNSKEY
        (52, [&[3, 1, 1][..], &[6; 32]].concat()),                     // TLSA
        (64, [&[0, 1][..], &name, &[0, 3, 0, 2, 1, 0xbb]].concat()),   // SVCB
        (65, [&[0, 1, 0][..], &[0, 1, 0, 3, 2, b'h', b'2']].concat()), // HTTPS
        (99, b"\x0bv=spf1 -all".to_vec()),                             // SPF
        (257, b"\x00\x05issueca.example.net".to_vec()),                // CAA
        (65_280, vec![0xc0, 12, 0xff, 0]),                             // private use
        (65_535, vec![]),                                              // reserved
    ]
}

fn every_type_comes_through(world: &World) {
    let all = typed_data();
    let sent = all.clone();
    let upstream = Upstream::start(move |asked| {
        let qtype = u16::from(asked.qtype());
        let (_, data) = sent.iter().find(|(code, _)| *code == qtype).expect("only these are asked");
        with_data(asked, data)
    });
    let daemon = Settings::with(&upstream).start(world);
    for (qtype, data) in &all {
        let query = Query::new("Types.Example.ORG", RecordType::from(*qtype));
        for _ in 0..2 {
            let mut client = daemon.client();
            client.send(&query.encode());
            let octets = client.receive_octets();
            assert_eq!(octets[..2], query.encode()[..2]);
            assert_eq!(octets[4..12], [0, 1, 0, 1, 0, 0, 0, 0], "type {qtype}");
            let tail = raw_record(&QNAME, RecordType::from(*qtype), 60, data);
            let at = octets.len() - tail.len();
            // The TTL may have aged.
            assert_eq!(octets[at..at + 6], tail[..6], "type {qtype}: owner, type, class");
            assert_eq!(octets[at + 10..], tail[10..], "type {qtype}: length and data");
        }
    }
    assert_eq!(upstream.count(), all.len());
}

fn compressed_answers_keep_their_meaning(world: &World) {
    let upstream = Upstream::start(|asked| {
        let question = asked.question().len();
        // An alias whose target is a label and a pointer to "example.org" of the question.
        let alias = raw_record(&QNAME, RecordType::CNAME, 60, b"\x05other\xc0\x10");
        let target_at = 12 + question + alias.len() - 8;
        let target = (0xc000 | u16::try_from(target_at).expect("it is short")).to_be_bytes();
        let exchange = [&[0, 10][..], b"\x04mail", &target].concat();
        let records = [alias, raw_record(&target, RecordType::MX, 60, &exchange)].concat();
        Answer::Octets(vec![asked.raw_reply(QR_RD_RA, [2, 0, 0], &records)])
    });
    let daemon = Settings::with(&upstream).start(world);
    for (name, edns) in [("www.example.org", false), ("WWW.EXAMPLE.ORG", true)] {
        let query = Query::new(name, RecordType::MX);
        let reply = daemon.ask(&if edns { query.edns(1232) } else { query });
        let texts = reply.message.answers.iter().map(|record| {
            format!("{} {}", record.name.to_ascii(), record.data).to_ascii_lowercase()
        });
        assert_eq!(
            texts.collect::<Vec<_>>(),
            [
                "www.example.org. other.example.org.",
                "other.example.org. 10 mail.other.example.org."
            ]
        );
    }
    assert_eq!(upstream.count(), 1);
}

fn pointer_loops_in_replies_are_no_answers(world: &World) {
    let first = Upstream::start(|asked| {
        let own = u16::try_from(12 + asked.question().len()).expect("it is short");
        let [high, low] = (0xc000 | own).to_be_bytes();
        let owner = match asked.labels()[0].as_slice() {
            b"self" => vec![high, low],
            b"circle" => vec![1, b'a', high, low],
            b"forwards" => vec![high, low + 2, 0xc0, 12],
            b"nowhere" => vec![0xff, 0xff],
            _ => vec![0x80, 12],
        };
        let record = raw_record(&owner, RecordType::A, 60, &[203, 0, 113, 66]);
        Answer::Octets(vec![asked.raw_reply(QR_RD_RA, [1, 0, 0], &record)])
    });
    let second = Upstream::answering("192.0.2.2");
    let daemon =
        Settings::new().upstream(&first, "timeout_ms = 300").upstream(&second, "").start(world);
    for name in ["self", "circle", "forwards", "nowhere", "reserved"] {
        let reply = daemon.ask(&Query::a(&format!("{name}.example.org")));
        assert_eq!(reply.address(), "192.0.2.2", "{name}");
    }
}

fn other_classes_have_their_own_answers(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    // Hesiod: answered by an upstream or refused, but not with the record of class IN.
    let hits = daemon.metric("balancedns_cache_hits_total");
    daemon.ask(&Query::a("www.example.org").class(4));
    let now = daemon.metric("balancedns_cache_hits_total");
    assert!((now - hits).abs() < 0.1, "a hit for another class");
}

fn records_keep_their_order(world: &World) {
    let order = [3, 1, 2, 9, 5];
    let upstream = Upstream::start(move |asked| {
        asked.answer(order.map(|i| address(&asked.name(), 60, &format!("192.0.2.{i}"))))
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..3 {
        let reply = daemon.ask(&Query::a("www.example.org"));
        let expected = order.map(|i| IpAddr::from([192, 0, 2, i]));
        assert_eq!(reply.addresses(), expected);
    }
    assert_eq!(upstream.count(), 1);
}

fn empty_data_is_data(world: &World) {
    let upstream = Upstream::start(|asked| with_data(asked, &[]));
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let query = Query::new("empty.example.org", RecordType::Unknown(65_281));
        let mut client = daemon.client();
        client.send(&query.encode());
        let octets = client.receive_octets();
        assert_eq!(octets[2..8], [0x81, 0x80, 0, 1, 0, 1], "an answer, {octets:02x?}");
        assert!(octets.ends_with(&[0, 0]), "without data, {octets:02x?}");
    }
    assert_eq!(upstream.count(), 1);
}

fn unknown_types_are_kept(world: &World) {
    let upstream = Upstream::start(|asked| {
        let record = raw_record(&QNAME, asked.qtype(), 77, b"opaque");
        Answer::Octets(vec![asked.raw_reply(QR_RD_RA, [1, 0, 0], &record)])
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..3 {
        let reply = daemon.ask(&Query::new("odd.example.org", RecordType::Unknown(65_282)));
        assert!((75..=77).contains(&reply.ttl()), "{}", reply.ttl());
    }
    assert_eq!(upstream.count(), 1);
}
