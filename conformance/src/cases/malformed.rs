//! What is no proper query: answered with the right error or dropped, and never a danger.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{
    Daemon, PATIENCE, Query, Settings, StreamClient, Tried, UdpClient, Upstream, Via, raw_record,
    set_count, until,
};

cases! {
    no_question_is_formerr, all, "RFC 9619 4",
        "a query without a question is FORMERR";
    two_questions_are_formerr, all, "RFC 9619 4",
        "a query with two questions is FORMERR";
    missing_records_are_formerr, all, "RFC 1035 4.1.1",
        "a count that promises more than the message holds is FORMERR";
    trailing_garbage_is_formerr, all, "RFC 1035 4.1",
        "octets after the last record are FORMERR";
    two_opts_are_formerr, all, "RFC 6891 6.1.1",
        "more than one OPT is FORMERR";
    broken_option_is_formerr, all, "RFC 6891 6.1.2",
        "an option that is longer than its OPT is FORMERR";
    compression_in_the_question_is_formerr, all, "RFC 1035 4.1.4",
        "pointers in a question have nowhere to point to: FORMERR, and no loop";
    too_long_name_is_formerr, all, "RFC 1035 2.3.4",
        "a name longer than 255 octets is FORMERR";
    cut_question_is_formerr, all, "RFC 1035 4.1.2",
        "a question cut in the middle, at each of its octets, is FORMERR";
    other_opcodes_are_notimp, all, "RFC 1035 4.1.1",
        "other opcodes than QUERY are NOTIMP, with the opcode they came with";
    short_datagrams_are_dropped, udp, "RFC 1035 4.1.1",
        "shorter than a header: nobody could tell what it answers, so nothing does";
    replies_are_dropped, all, "RFC 1035 4.1.1",
        "QR set: answering a reply is how two servers talk to each other for ever";
    short_messages_on_a_stream, streams, "RFC 1035 4.2.2",
        "neither a message of no octets nor one shorter than a header stops the daemon";
    noise_does_no_harm, own, "robustness noise",
        "five thousand datagrams and a hundred streams of noise: it lives, and answers";
    records_in_a_query_are_formerr, all, "architecture queries",
        "a query that brings answers or authorities, whole ones, is FORMERR";
    overlong_datagrams_are_no_queries, udp, "robustness queries",
        "a datagram larger than any query is counted, and harms nobody";
}

const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;

/// A daemon that answers `blocked.example.org` at once and by itself.
fn start(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream)
        .section(r#"blacklist = { domains = { "blocked.example.org" } }"#)
        .start(world)
}

fn blocked() -> Query {
    Query::a("blocked.example.org")
}

/// The rcode that these octets get, with id and QR right.
fn rcode(daemon: &Daemon, octets: &[u8]) -> u16 {
    let mut client = daemon.client();
    client.send(octets);
    let reply = client.receive();
    assert_eq!(reply.bytes[..2], octets[..2], "id");
    assert_ne!(reply.bytes[2] & 0x80, 0, "QR");
    assert!(reply.message.answers.is_empty());
    reply.rcode()
}

/// Sends octets that get no reply: the next reply is to the query sent after them. A stream may end
/// instead, since who writes such octets knows no DNS.
fn assert_dropped(daemon: &Daemon, octets: &[u8]) {
    let mut client = daemon.client();
    client.send(octets);
    let after = blocked();
    if daemon.transport().is_http() {
        // Each request has a response (RFC 8484 section 4.2.1).
        client.expect_status(400);
        client.send(&after.encode());
        client.receive().check_echo(&after);
    } else {
        client.send(&after.encode());
        match (client.try_receive(PATIENCE), daemon.transport()) {
            (Tried::Reply(reply), _) => {
                reply.check_echo(&after);
                client.expect_silence(Duration::from_millis(20));
            }
            (Tried::Closed, Via::Tcp | Via::Dot) => {}
            (other @ (Tried::Closed | Tried::Silence | Tried::Status(_)), _) => {
                panic!("answered after it, not {other:?}")
            }
        }
    }
    assert_eq!(daemon.ask(&blocked()).rcode(), 5, "others do not notice");
}

fn no_question_is_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let mut octets = Query::a("www.example.org").encode();
    octets.truncate(12);
    set_count(&mut octets, 0, 0);
    assert_eq!(rcode(&daemon, &octets), FORMERR);
}

fn two_questions_are_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let query = Query::a("www.example.org");
    let mut octets = query.encode();
    octets.extend(query.question());
    set_count(&mut octets, 0, 2);
    assert_eq!(rcode(&daemon, &octets), FORMERR);
}

fn missing_records_are_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for section in 1..4 {
        let mut octets = Query::a("www.example.org").encode();
        set_count(&mut octets, section, 1);
        assert_eq!(rcode(&daemon, &octets), FORMERR, "section {section}");
    }
}

fn trailing_garbage_is_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for query in [Query::a("www.example.org"), Query::a("www.example.org").edns(1232)] {
        let mut octets = query.encode();
        octets.push(0);
        assert_eq!(rcode(&daemon, &octets), FORMERR);
    }
}

fn two_opts_are_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let mut octets = Query::a("www.example.org").edns(1232).encode();
    octets.extend(Query::opt_record(1232));
    set_count(&mut octets, 3, 2);
    assert_eq!(rcode(&daemon, &octets), FORMERR);
}

fn broken_option_is_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let mut octets = Query::a("www.example.org").option(65_001, b"abcd").encode();
    let at = octets.len() - 5;
    octets[at] = 200;
    assert_eq!(rcode(&daemon, &octets), FORMERR);
}

fn compression_in_the_question_is_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let header = &Query::a("www.example.org").encode()[..12];
    // To itself, forwards, into the header, and a label type that does not exist.
    for name in [&[0xc0, 12][..], &[0xc0, 40], &[0xc0, 0], &[1, b'a', 0xc0, 12], &[0x40, 1]] {
        let octets = [header, name, &[0, 1, 0, 1]].concat();
        assert_eq!(rcode(&daemon, &octets), FORMERR, "{name:02x?}");
    }
}

fn too_long_name_is_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let label = "x".repeat(63);
    let octets = Query::a(&format!("{label}.{label}.{label}.{}", "y".repeat(62))).encode();
    assert_eq!(rcode(&daemon, &octets), FORMERR);
}

fn cut_question_is_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let octets = Query::a("www.example.org").encode();
    let mut client = daemon.client();
    for length in 12..octets.len() {
        client.send(&octets[..length]);
        assert_eq!(client.receive().rcode(), FORMERR, "{length} octets");
    }
    assert_eq!(upstream.count(), 0);
}

fn other_opcodes_are_notimp(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    // STATUS, NOTIFY, UPDATE and two without a meaning.
    for opcode in [2, 3, 4, 5, 15] {
        let query = Query::new("example.org", RecordType::SOA).opcode(opcode);
        let octets = query.encode();
        assert_eq!(rcode(&daemon, &octets), NOTIMP, "opcode {opcode}");
        let mut client = daemon.client();
        client.send(&octets);
        let reply = client.receive();
        assert_eq!(u16::from(reply.bytes[2] >> 3) & 0xf, opcode, "the opcode comes back");
    }
    assert_eq!(upstream.count(), 0);
}

fn short_datagrams_are_dropped(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let octets = Query::a("www.example.org").encode();
    for length in [0, 1, 2, 11] {
        assert_dropped(&daemon, &octets[..length]);
    }
    until("they are counted", || {
        (daemon.metric(r#"balancedns_dropped_total{reason="garbage"}"#) >= 3.0).then_some(())
    });
}

fn replies_are_dropped(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let octets = Query::a("www.example.org").with_qr().encode();
    assert_dropped(&daemon, &octets);
    assert_dropped(&daemon, &octets[..12]);
    assert_eq!(upstream.count(), 0);
}

fn short_messages_on_a_stream(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for length in [0, 1, 5, 11] {
        let mut client = daemon.stream();
        client.send(&vec![0; length]);
        client.send(&blocked().encode());
        match client.try_receive(PATIENCE) {
            Tried::Reply(reply) => reply.check_echo(&blocked().id(reply.message.metadata.id)),
            Tried::Closed => {}
            other @ (Tried::Silence | Tried::Status(_)) => {
                panic!("neither answered nor closed after {length} octets: {other:?}")
            }
        }
        assert_eq!(daemon.ask(&blocked()).rcode(), 5);
    }
}

fn noise_does_no_harm(world: &World) {
    // Noisy names come through too: an answer that need not spell them.
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::NXDomain));
    let daemon = start(world, &upstream);
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let client = UdpClient::to(daemon.addr());
    for _ in 0..5_000 {
        client.send(&noise.message());
    }
    for _ in 0..100 {
        let mut stream = StreamClient::to(daemon.addr());
        for _ in 0..10 {
            let message = noise.message();
            if noise.below(3) == 0 {
                stream.send_raw(&message);
            } else {
                stream.send(&message);
            }
        }
    }
    let status = until("it answers over UDP, floods aside", || {
        let client = UdpClient::to(daemon.addr());
        client.send(&blocked().encode());
        client.try_receive(Duration::from_millis(500)).map(|reply| reply.rcode())
    });
    assert_eq!(status, 5);
    // The streams of noise count for this client until the daemon has seen their ends.
    let status = until("it answers over TCP", || {
        let mut client = StreamClient::to(daemon.addr());
        client.send(&blocked().encode());
        match client.try_receive(Duration::from_millis(500)) {
            Tried::Reply(reply) => Some(reply.rcode()),
            Tried::Closed | Tried::Silence | Tried::Status(_) => None,
        }
    });
    assert_eq!(status, 5);
    let restarts = daemon.metric(r#"balancedns_component_restarts_total{component="dns-udp"}"#);
    assert!(restarts == 0.0, "a worker was restarted {restarts} times");
}

/// A small generator, so that a failure can be repeated.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % bound
    }

    /// Pure noise, or a valid query with a few octets changed, cut or added.
    fn message(&mut self) -> Vec<u8> {
        if self.below(3) == 0 {
            let length = self.below(600);
            return (0..length).map(|_| self.next().to_le_bytes()[3]).collect();
        }
        let query = Query::a("some.example.org").option(10, b"8 octets").dnssec_ok();
        let mut octets = query.encode();
        for _ in 0..=self.below(4) {
            let at = self.below(octets.len());
            octets[at] = self.next().to_le_bytes()[5];
        }
        match self.below(4) {
            0 => octets.truncate(self.below(octets.len())),
            1 => octets.extend([0xc0; 7]),
            _ => {}
        }
        octets
    }
}

fn records_in_a_query_are_formerr(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for section in [1, 2] {
        let mut octets = Query::a("www.example.org").encode();
        octets.extend(raw_record(&[0xc0, 12], RecordType::A, 60, &[192, 0, 2, 1]));
        set_count(&mut octets, section, 1);
        assert_eq!(rcode(&daemon, &octets), FORMERR, "section {section}");
    }
    assert_eq!(upstream.count(), 0);
}

fn overlong_datagrams_are_no_queries(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let octets = blocked().option(65_001, &[0; 8_000]).encode();
    assert_dropped(&daemon, &octets);
    until("it is counted", || {
        let dropped = daemon.metric(r#"balancedns_dropped_total{reason="too_long"}"#);
        (dropped >= 1.0).then_some(())
    });
}
