//! Finding encrypted DNS: resolver.arpa (RFC 9462) and the name by which Firefox asks whether it may
//! use its own.

use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{Daemon, Extra, Query, Reply, Settings, Upstream, wire};

cases! {
    encrypted_listeners_are_announced, all, "RFC 9462 4, RFC 9461 4",
        "_dns.resolver.arpa SVCB names our encrypted listeners: protocol, port, path";
    only_what_listens_is_announced, own, "RFC 9462 4",
        "a listener that is not there is not announced, and the path is the configured one";
    nothing_is_announced_unasked, all, "RFC 9462 4",
        "without `listen.ddr` there is no designated resolver, and that is a proper answer";
    resolver_arpa_is_never_forwarded, all, "RFC 9462 6.1",
        "nothing below resolver.arpa leaves this resolver, whatever the type";
    announcements_need_encryption, own, "config listen.ddr",
        "announcing without an encrypted listener is an error of the configuration";
    firefox_is_asked_not_to, all, "config routing.firefox_canary",
        "if wanted, the canary of Firefox does not exist; otherwise it is a name like any other";
}

const SVCB: u16 = 64;
const DDR: &str = r#"ddr = "dns.test""#;

fn start(world: &World, upstream: &Upstream, extras: &[Extra], keys: &str) -> Daemon {
    let settings = Settings::with(upstream).listen(keys);
    extras.iter().fold(settings, |settings, extra| settings.door(*extra)).start(world)
}

/// The data of an SVCB record (RFC 9460 section 2.2).
#[derive(Debug, PartialEq, Eq)]
struct Svcb {
    priority: u16,
    target: Vec<u8>,
    /// Keys and values as they come.
    parameters: Vec<(u16, Vec<u8>)>,
}

impl Svcb {
    fn parameter(&self, key: u16) -> Option<&[u8]> {
        let found = self.parameters.iter().find(|(one, _)| *one == key);
        found.map(|(_, value)| value.as_slice())
    }
}

/// What is announced, as it is asked for by TCP.
fn svcb(daemon: &Daemon) -> Vec<Svcb> {
    let query = Query::new("_dns.resolver.arpa", RecordType::from(SVCB));
    let mut client = crate::harness::Client::to(
        crate::harness::Via::Tcp,
        &crate::harness::Door::plain(daemon.addr()),
    );
    client.send(&query.encode());
    parse_answers(&client.receive_octets(), &query)
}

fn parse_answers(octets: &[u8], query: &Query) -> Vec<Svcb> {
    let count = u16::from_be_bytes([octets[6], octets[7]]);
    let mut rest = &octets[12 + query.question().len()..];
    let mut records = Vec::new();
    for _ in 0..count {
        // The owner is the question's: a pointer to it, or the name again.
        let owner = if rest[0] >= 0xc0 { 2 } else { wire("_dns.resolver.arpa").len() };
        let fixed = &rest[owner..];
        assert_eq!(u16::from_be_bytes([fixed[0], fixed[1]]), SVCB);
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = &fixed[10..10 + length];
        records.push(parse_data(data));
        rest = &fixed[10 + length..];
    }
    records
}

fn parse_data(data: &[u8]) -> Svcb {
    let priority = u16::from_be_bytes([data[0], data[1]]);
    let end = 2 + data[2..].iter().position(|octet| *octet == 0).expect("the root ends a name") + 1;
    let (target, mut rest) = (data[2..end].to_vec(), &data[end..]);
    let mut parameters = Vec::new();
    while let [a, b, c, d, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        parameters.push((u16::from_be_bytes([*a, *b]), behind[..length].to_vec()));
        rest = &behind[length..];
    }
    assert!(rest.is_empty(), "octets after the last parameter");
    Svcb { priority, target, parameters }
}

const ALPN: u16 = 1;
const PORT: u16 = 3;
const DOHPATH: u16 = 7;

fn encrypted_listeners_are_announced(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, &[Extra::Dot, Extra::Doh], DDR);
    let mut seen = (false, false);
    let records = svcb(&daemon);
    for record in &records {
        assert!(record.priority > 0, "no alias");
        assert_eq!(record.target, wire("dns.test"));
        let keys: Vec<_> = record.parameters.iter().map(|(key, _)| *key).collect();
        assert!(keys.is_sorted(), "RFC 9460 section 2.2: {keys:?}");
        let port = record.parameter(PORT).expect("it is not the usual port");
        let port = u16::from_be_bytes([port[0], port[1]]);
        match record.parameter(ALPN).expect("what is spoken") {
            b"\x03dot" => {
                seen.0 = true;
                assert_eq!(port, daemon.extra(Extra::Dot).port());
            }
            alpn => {
                assert!(alpn.starts_with(b"\x02h2"), "{alpn:02x?}");
                seen.1 = true;
                assert_eq!(port, daemon.extra(Extra::Doh).port());
                assert_eq!(record.parameter(DOHPATH), Some(&b"/dns-query{?dns}"[..]));
            }
        }
    }
    assert_eq!((records.len(), seen), (2, (true, true)));
    // The same by this run's transport.
    let query = Query::new("_dns.resolver.arpa", RecordType::from(SVCB));
    let mut client = daemon.client();
    client.send(&query.encode());
    assert_eq!(parse_answers(&client.receive_octets(), &query), records);
    assert_eq!(upstream.count(), 0);
}

fn only_what_listens_is_announced(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for (extra, alpn) in [(Extra::Dot, &b"\x03dot"[..]), (Extra::Doh, b"\x02h2")] {
        let keys = format!(r#"{DDR}, doh_path = "/elsewhere""#);
        let daemon = start(world, &upstream, &[extra], &keys);
        let records = svcb(&daemon);
        assert_eq!(records.len(), 1);
        let path = (extra == Extra::Doh).then_some(&b"/elsewhere{?dns}"[..]);
        assert_eq!(records[0].parameter(DOHPATH), path);
        assert!(records[0].parameter(ALPN).expect("what is spoken").starts_with(alpn));
    }
}

fn assert_no_data(reply: &Reply) {
    assert_eq!((reply.rcode(), reply.message.answers.len()), (0, 0), "{reply:?}");
    assert!(reply.soa().is_some(), "{reply:?}");
}

fn nothing_is_announced_unasked(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream, &[Extra::Dot], "");
    assert_no_data(&daemon.ask(&Query::new("_dns.resolver.arpa", RecordType::from(SVCB))));
    assert_eq!(upstream.count(), 0);
}

fn resolver_arpa_is_never_forwarded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for section in ["routing = { special_names = true }", "routing = { special_names = false }"] {
        let daemon =
            Settings::with(&upstream).door(Extra::Dot).listen(DDR).section(section).start(world);
        for name in ["resolver.arpa", "_dns.resolver.arpa", "any.thing.resolver.arpa"] {
            for qtype in [RecordType::A, RecordType::TXT, RecordType::from(65)] {
                let reply = daemon.ask(&Query::new(name, qtype));
                assert!(matches!(reply.rcode(), 0 | 3), "{reply:?}");
                assert!(reply.message.answers.is_empty());
            }
        }
    }
    assert_eq!(upstream.count(), 0);
}

fn announcements_need_encryption(world: &World) {
    let upstream = Upstream::silent();
    let ended = Settings::with(&upstream).listen(DDR).fail_on(world, crate::harness::free_port());
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("listen.ddr"), "{ended:?}");
}

fn firefox_is_asked_not_to(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let canary = Query::a("use-application-dns.net");
    let daemon =
        Settings::with(&upstream).section("routing = { firefox_canary = true }").start(world);
    assert_eq!(daemon.ask(&canary).rcode(), 3);
    assert_eq!(upstream.count(), 0);
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&canary).address(), "192.0.2.1");
}
