//! Replies that are not ours (RFC 5452): ignored, counted, and no reason to stop waiting.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::{Name, RecordType};

use crate::case::World;
use crate::harness::{Answer, Asked, Query, Settings, Upstream, raw_record};

cases! {
    wrong_id_is_ignored, all, "RFC 5452 9.1",
        "a reply with another id is ignored";
    wrong_question_is_ignored, all, "RFC 5452 9.1",
        "a reply with another name, type or class in its question is ignored";
    queries_are_ignored, all, "RFC 1035 4.1.1",
        "a query is no reply, though with the right id and question";
    garbage_is_ignored, all, "robustness replies",
        "short and senseless datagrams from the upstream are ignored";
    other_sources_are_ignored, all, "RFC 5452 9.1",
        "a reply from another port is ignored, with everything else right";
    ports_and_ids_are_spread, all, "RFC 5452 9.2",
        "queries leave from many ports, with ids that cannot be guessed from earlier ones";
    wrong_replies_on_a_stream_are_ignored, all, "RFC 5452 9.1",
        "a reply to a TCP query is checked as well";
    replies_without_a_question_are_ignored, all, "RFC 5452 9.1",
        "an answer that does not say to what is ignored";
    replies_of_other_opcodes_are_ignored, all, "RFC 5452 9.1",
        "a reply of another opcode than we asked with is ignored";
    replies_with_two_questions_are_ignored, all, "RFC 9619 4",
        "a reply with two questions, the first of them right, is ignored";
    second_replies_change_nothing, all, "RFC 5452 9.1",
        "what comes after the answer, with everything right but late, replaces nothing";
}

const FORGED: &str = "203.0.113.66";
const TRUE: &str = "192.0.2.1";

fn octets(message: &Message) -> Vec<u8> {
    message.to_vec().expect("it can be encoded")
}

/// The upstream sends each of the forged messages, then the true one; the true one is taken, and
/// at once: no forged one used up the attempt.
fn assert_ignored(world: &World, forge: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static) {
    let upstream = Upstream::start(move |asked| {
        let mut messages = forge(asked);
        messages.push(octets(&asked.address(60, TRUE)));
        Answer::Octets(messages)
    });
    let daemon = Settings::with(&upstream).start(world);
    let start = Instant::now();
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), TRUE);
    }
    assert!(start.elapsed() < Duration::from_millis(1900), "{:?}", start.elapsed());
    assert_eq!(upstream.count(), 1, "asked once: the second came from the cache");
    let mismatches: f64 = ["id", "late", "question", "garbage"]
        .iter()
        .map(|what| {
            daemon.metric(&format!("balancedns_upstream_mismatches_total{{what=\"{what}\"}}"))
        })
        .sum();
    assert!(mismatches >= 1.0, "it is counted");
}

fn wrong_id_is_ignored(world: &World) {
    assert_ignored(world, |asked| {
        (1..=20)
            .map(|difference| {
                let mut forged = asked.address(60, FORGED);
                forged.metadata.id = asked.id().wrapping_add(difference);
                octets(&forged)
            })
            .collect()
    });
}

fn wrong_question_is_ignored(world: &World) {
    assert_ignored(world, |asked| {
        let mut name = asked.address(60, FORGED);
        name.queries[0].name = Name::from_ascii("www.example.net.").expect("a valid name");
        let mut qtype = asked.address(60, FORGED);
        qtype.queries[0].query_type = RecordType::AAAA;
        let mut qclass = asked.address(60, FORGED);
        qclass.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
        [name, qtype, qclass].iter().map(octets).collect()
    });
}

fn queries_are_ignored(world: &World) {
    assert_ignored(world, |asked| {
        let mut forged = asked.address(60, FORGED);
        forged.metadata.message_type = MessageType::Query;
        vec![octets(&forged)]
    });
}

fn garbage_is_ignored(world: &World) {
    assert_ignored(world, |asked| {
        let [high, low] = asked.id().to_be_bytes();
        vec![
            vec![],
            vec![high],
            vec![high, low],
            vec![high, low, 0x81, 0x80],
            vec![0xff; 11],
            vec![0xff; 300],
        ]
    });
}

fn other_sources_are_ignored(world: &World) {
    let upstream = Upstream::start(|asked| {
        let spoofer = UdpSocket::bind("127.0.0.1:0").expect("a port for the spoofer");
        let forged = octets(&asked.address(60, FORGED));
        // Refused by the kernel where the daemon's socket is connected; either is fine.
        let _ = spoofer.send_to(&forged, asked.from);
        let honest = asked.address(60, TRUE).into();
        Answer::After(Duration::from_millis(50), Box::new(honest))
    });
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), TRUE);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), TRUE);
}

fn ports_and_ids_are_spread(world: &World) {
    let upstream = Upstream::answering(TRUE);
    let daemon = Settings::with(&upstream).start(world);
    let mut client = daemon.client();
    for i in 0..300 {
        client.ask(&Query::a(&format!("n{i}.example.org")));
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 300);
    let ports: HashSet<_> = asked.iter().map(|asked| asked.from.port()).collect();
    assert!(ports.len() >= 20, "{} ports", ports.len());
    let ids: HashSet<_> = asked.iter().map(Asked::id).collect();
    assert!(ids.len() >= 290, "{} ids", ids.len());
    let neighbours =
        |ids: &[u16]| ids.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) <= 16).count();
    let all: Vec<_> = asked.iter().map(Asked::id).collect();
    // By chance about 300 * 17 / 65536 = 0.08.
    assert!(neighbours(&all) < 5, "{all:?}");
    for port in ports {
        let of_port: Vec<_> =
            asked.iter().filter(|a| a.from.port() == port).map(Asked::id).collect();
        assert!(neighbours(&of_port) < 3, "port {port}: {of_port:?}");
    }
}

fn wrong_replies_on_a_stream_are_ignored(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut wrong_id = asked.address(60, FORGED);
        wrong_id.metadata.id ^= 0x5555;
        Answer::Octets(vec![octets(&wrong_id), octets(&asked.address(60, TRUE))])
    });
    let daemon = Settings::new().upstream(&upstream, r#"protocol = "tcp""#).start(world);
    let reply = daemon.ask(&Query::a("www.example.org"));
    assert!(reply.addresses().iter().all(|ip| ip.to_string() != FORGED), "{reply:?}");
}

fn replies_without_a_question_are_ignored(world: &World) {
    assert_ignored(world, |asked| {
        let record = raw_record(&[0], RecordType::A, 60, &[203, 0, 113, 66]);
        let [high, low] = asked.id().to_be_bytes();
        let header = [high, low, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0];
        vec![[&header[..], &record].concat()]
    });
}

fn replies_of_other_opcodes_are_ignored(world: &World) {
    assert_ignored(world, |asked| {
        let forged = [1, 2, 4, 5].map(|opcode: u8| {
            let mut forged = octets(&asked.address(60, FORGED));
            forged[2] |= opcode << 3;
            forged
        });
        forged.to_vec()
    });
}

fn replies_with_two_questions_are_ignored(world: &World) {
    assert_ignored(world, |asked| {
        let mut forged = asked.address(60, FORGED);
        let mut second = asked.message.queries[0].clone();
        second.name = Name::from_ascii("www.example.net.").expect("a valid name");
        forged.add_query(second);
        vec![octets(&forged)]
    });
}

fn second_replies_change_nothing(world: &World) {
    let upstream = Upstream::start(|asked| {
        Answer::Octets(vec![octets(&asked.address(60, TRUE)), octets(&asked.address(60, FORGED))])
    });
    for keys in ["", r#"protocol = "tcp""#] {
        let daemon = Settings::new().upstream(&upstream, keys).start(world);
        let mut client = daemon.client();
        for _ in 0..3 {
            assert_eq!(client.ask(&Query::a("www.example.org")).address(), TRUE);
        }
        client.expect_silence(Duration::from_millis(20));
    }
    assert_eq!(upstream.count(), 2);
}
