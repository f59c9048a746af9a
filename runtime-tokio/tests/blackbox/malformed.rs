//! What is no proper query: answered with the right error or dropped, and never a danger.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::harness::{
    Daemon, PATIENCE, Query, Settings, TcpClient, Tried, UdpClient, Upstream, until,
};

const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;

/// A daemon that answers `blocked.example.org` at once and by itself.
fn start(upstream: &Upstream) -> Daemon {
    Settings::with(upstream)
        .section(r#"blacklist = { domains = { "blocked.example.org" } }"#)
        .start()
}

fn blocked() -> Query {
    Query::a("blocked.example.org")
}

/// The rcode that these octets get over UDP and TCP, with id and QR right.
fn rcodes(daemon: &Daemon, octets: &[u8]) -> [u16; 2] {
    let client = UdpClient::to(daemon.addr());
    client.send(octets);
    let mut stream = TcpClient::to(daemon.addr());
    stream.send(octets);
    [client.receive(), stream.receive()].map(|reply| {
        assert_eq!(reply.bytes[..2], octets[..2], "id");
        assert_ne!(reply.bytes[2] & 0x80, 0, "QR");
        assert!(reply.message.answers.is_empty());
        reply.rcode()
    })
}

/// Sends octets that get no reply: the next reply is to the query sent after them.
fn assert_dropped(daemon: &Daemon, octets: &[u8]) {
    let client = UdpClient::to(daemon.addr());
    client.send(octets);
    assert_eq!(client.ask(&blocked()).rcode(), 5);
    assert!(client.try_receive(Duration::from_millis(20)).is_none(), "a second reply");
}

fn set_count(octets: &mut [u8], section: usize, count: u16) {
    octets[4 + 2 * section..6 + 2 * section].copy_from_slice(&count.to_be_bytes());
}

/// RFC 9619 section 4: a query has one question, not none.
#[test]
fn no_question_is_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let mut octets = Query::a("www.example.org").encode();
    octets.truncate(12);
    set_count(&mut octets, 0, 0);
    assert_eq!(rcodes(&daemon, &octets), [FORMERR; 2]);
}

/// RFC 9619 section 4: nor two.
#[test]
fn two_questions_are_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let query = Query::a("www.example.org");
    let mut octets = query.encode();
    octets.extend(query.question());
    set_count(&mut octets, 0, 2);
    assert_eq!(rcodes(&daemon, &octets), [FORMERR; 2]);
}

/// A count that promises more than the message holds.
#[test]
fn missing_records_are_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    for section in 1..4 {
        let mut octets = Query::a("www.example.org").encode();
        set_count(&mut octets, section, 1);
        assert_eq!(rcodes(&daemon, &octets), [FORMERR; 2], "section {section}");
    }
}

/// Octets after the last record.
#[test]
fn trailing_garbage_is_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    for query in [Query::a("www.example.org"), Query::a("www.example.org").edns(1232)] {
        let mut octets = query.encode();
        octets.push(0);
        assert_eq!(rcodes(&daemon, &octets), [FORMERR; 2]);
    }
}

/// RFC 6891 section 6.1.1: more than one OPT.
#[test]
fn two_opts_are_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let mut octets = Query::a("www.example.org").edns(1232).encode();
    octets.extend(Query::opt_record(1232));
    set_count(&mut octets, 3, 2);
    assert_eq!(rcodes(&daemon, &octets), [FORMERR; 2]);
}

/// RFC 6891 section 6.1.2: an option that is longer than its OPT.
#[test]
fn broken_option_is_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let mut octets = Query::a("www.example.org").option(65_001, b"abcd").encode();
    let at = octets.len() - 5;
    octets[at] = 200;
    assert_eq!(rcodes(&daemon, &octets), [FORMERR; 2]);
}

/// RFC 1035 section 4.1.4: pointers in a question have nowhere to point to.
#[test]
fn compression_in_the_question_is_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let header = &Query::a("www.example.org").encode()[..12];
    // To itself, forwards, into the header, and a label type that does not exist.
    for name in [&[0xc0, 12][..], &[0xc0, 40], &[0xc0, 0], &[1, b'a', 0xc0, 12], &[0x40, 1]] {
        let octets = [header, name, &[0, 1, 0, 1]].concat();
        assert_eq!(rcodes(&daemon, &octets), [FORMERR; 2], "{name:02x?}");
    }
}

/// RFC 1035 section 2.3.4: a name longer than 255 octets.
#[test]
fn too_long_name_is_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let label = "x".repeat(63);
    let octets = Query::a(&format!("{label}.{label}.{label}.{}", "y".repeat(62))).encode();
    assert_eq!(rcodes(&daemon, &octets), [FORMERR; 2]);
}

/// A question cut in the middle, at each of its octets.
#[test]
fn cut_question_is_formerr() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let octets = Query::a("www.example.org").encode();
    let client = UdpClient::to(daemon.addr());
    for length in 12..octets.len() {
        client.send(&octets[..length]);
        assert_eq!(client.receive().rcode(), FORMERR, "{length} octets");
    }
    assert_eq!(upstream.count(), 0);
}

/// RFC 1035 section 4.1.1: other opcodes than QUERY are not implemented, and that is said with the
/// opcode they came with.
#[test]
fn other_opcodes_are_notimp() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    // STATUS, NOTIFY, UPDATE and two without a meaning.
    for opcode in [2, 3, 4, 5, 15] {
        let query = Query::new("example.org", RecordType::SOA).opcode(opcode);
        let octets = query.encode();
        assert_eq!(rcodes(&daemon, &octets), [NOTIMP; 2], "opcode {opcode}");
        let client = UdpClient::to(daemon.addr());
        client.send(&octets);
        let reply = client.receive();
        assert_eq!(u16::from(reply.bytes[2] >> 3) & 0xf, opcode, "the opcode comes back");
    }
    assert_eq!(upstream.count(), 0);
}

/// Shorter than a header: nobody could tell what it answers.
#[test]
fn short_datagrams_are_dropped() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let octets = Query::a("www.example.org").encode();
    for length in [0, 1, 2, 11] {
        assert_dropped(&daemon, &octets[..length]);
    }
    until("they are counted", || {
        (daemon.metric(r#"balancedns_dropped_total{reason="garbage"}"#) >= 3.0).then_some(())
    });
}

/// QR set: answering a reply is how two servers talk to each other for ever.
#[test]
fn replies_are_dropped() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    let octets = Query::a("www.example.org").with_qr().encode();
    assert_dropped(&daemon, &octets);
    assert_dropped(&daemon, &octets[..12]);
    assert_eq!(upstream.count(), 0);
}

/// Over TCP, neither a message of no octets nor one shorter than a header stops the daemon.
#[test]
fn short_messages_on_a_stream() {
    let upstream = Upstream::silent();
    let daemon = start(&upstream);
    for length in [0, 1, 5, 11] {
        let mut client = TcpClient::to(daemon.addr());
        client.send(&vec![0; length]);
        client.send(&blocked().encode());
        match client.try_receive(PATIENCE) {
            Tried::Reply(reply) => reply.check_echo(&blocked().id(reply.message.metadata.id)),
            Tried::Closed => {}
            Tried::Silence => panic!("neither answered nor closed after {length} octets"),
        }
        assert_eq!(daemon.tcp(&blocked()).rcode(), 5);
    }
}

/// Five thousand datagrams and a hundred streams of noise, much of it close to valid: the daemon
/// lives, answers, and panicked nowhere.
#[test]
fn noise_does_no_harm() {
    // Noisy names come through too: an answer that need not spell them.
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::NXDomain));
    let daemon = start(&upstream);
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let client = UdpClient::to(daemon.addr());
    for _ in 0..5_000 {
        client.send(&noise.message());
    }
    for _ in 0..100 {
        let mut stream = TcpClient::to(daemon.addr());
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
        let mut client = TcpClient::to(daemon.addr());
        client.send(&blocked().encode());
        match client.try_receive(Duration::from_millis(500)) {
            Tried::Reply(reply) => Some(reply.rcode()),
            Tried::Closed | Tried::Silence => None,
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
