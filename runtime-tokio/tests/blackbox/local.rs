//! What is answered without an upstream: the blacklist, the hosts file, the access list.

use hickory_proto::rr::RecordType;

use crate::harness::{Daemon, PATIENCE, Query, Settings, TcpClient, Tried, UdpClient, Upstream};

const REFUSED: u16 = 5;
/// RFC 8914 section 4.16.
const BLOCKED: u16 = 15;
/// RFC 8914 section 4.19.
const PROHIBITED: u16 = 18;

fn blocking(upstream: &Upstream) -> Daemon {
    Settings::with(upstream)
        .section(
            r#"blacklist = { domains = { "exact.example.org", "*.wild.example.org", ".dot.example.org" } }"#,
        )
        .start()
}

/// A plain name blocks that name only, on both transports and in any letter case.
#[test]
fn plain_name_blocks_itself() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(&upstream);
    for name in ["exact.example.org", "EXACT.Example.ORG"] {
        assert_eq!(daemon.udp(&Query::a(name)).rcode(), REFUSED);
        assert_eq!(daemon.tcp(&Query::a(name)).rcode(), REFUSED);
        assert_eq!(daemon.udp(&Query::new(name, RecordType::MX)).rcode(), REFUSED);
    }
    assert_eq!(upstream.count(), 0);
    for name in ["sub.exact.example.org", "inexact.example.org", "example.org"] {
        assert_eq!(daemon.udp(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
}

/// A wildcard, in either spelling, blocks every name below it, not itself, and by whole labels.
#[test]
fn wildcard_blocks_what_is_below() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(&upstream);
    for name in ["a.wild.example.org", "a.b.wild.example.org", "a.dot.example.org"] {
        assert_eq!(daemon.udp(&Query::a(name)).rcode(), REFUSED, "{name}");
    }
    assert_eq!(upstream.count(), 0);
    for name in
        ["wild.example.org", "dot.example.org", "notwild.example.org", "x.nodot.example.org"]
    {
        assert_eq!(daemon.udp(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
}

/// RFC 8914 section 4.16: who speaks EDNS is told why.
#[test]
fn blocked_names_say_so() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(&upstream);
    let reply = daemon.udp(&Query::a("exact.example.org").edns(1232));
    assert_eq!((reply.rcode(), reply.extended_errors()), (REFUSED, vec![BLOCKED]));
    let reply = daemon.udp(&Query::a("exact.example.org"));
    assert!(reply.message.edns.is_none());
    assert!(daemon.metric("balancedns_blocked_total") >= 2.0);
}

/// Blocked before cached: the chain's order counts.
#[test]
fn chain_order_counts() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .section(r#"blacklist = { domains = { "exact.example.org" } }"#)
        .section(r#"routing = { chain = { "cache", "upstream", "blacklist" } }"#)
        .start();
    assert_eq!(daemon.udp(&Query::a("exact.example.org")).address(), "192.0.2.1");
}

/// A chain that ends without an answer is SERVFAIL.
#[test]
fn chain_without_an_answer_is_servfail() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .section(r#"routing = { chain = { "blacklist", "cache" } }"#)
        .start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), 2);
    assert_eq!(upstream.count(), 0);
}

fn with_hosts(upstream: &Upstream) -> Daemon {
    Settings::with(upstream)
        .file(
            "hosts",
            "# a comment\n192.0.2.10 Box.Home.Example.ORG alias.home.example.org # more\n\
             2001:db8::10 box.home.example.org\n192.0.2.11 four.home.example.org\n\
             192.0.2.12 four.home.example.org\n",
        )
        .section(r#"hosts = { file = "hosts", ttl = 77 }"#)
        .start()
}

/// Addresses of either family come from the file, with the configured TTL, RA and no upstream.
#[test]
fn hosts_give_addresses() {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(&upstream);
    let reply = daemon.udp(&Query::a("box.home.example.org"));
    assert_eq!((reply.address(), reply.ttl()), ("192.0.2.10".to_owned(), 77));
    assert!(reply.recursion_available());
    assert_eq!(daemon.tcp(&Query::a("alias.home.example.org")).address(), "192.0.2.10");
    let six = daemon.udp(&Query::new("box.home.example.org", RecordType::AAAA));
    assert_eq!(six.address(), "2001:db8::10");
    let both = daemon.udp(&Query::a("four.home.example.org"));
    let mut addresses: Vec<_> = both.addresses().iter().map(ToString::to_string).collect();
    addresses.sort();
    assert_eq!(addresses, ["192.0.2.11", "192.0.2.12"]);
    assert_eq!(upstream.count(), 0);
    assert!(daemon.metric("balancedns_hosts_answers_total") >= 4.0);
}

/// RFC 4343 section 3: in any letter case, and back in the client's own.
#[test]
fn hosts_know_no_letter_case() {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(&upstream);
    // `ask` compares the question to the letter.
    assert_eq!(daemon.udp(&Query::a("BOX.home.EXAMPLE.org").edns(1232)).address(), "192.0.2.10");
}

/// RFC 2308 section 2.2: a listed name without that family, or of another type, is NODATA with a
/// SOA; it does not leak upstream.
#[test]
fn hosts_give_no_data_for_other_types() {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(&upstream);
    for qtype in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS, RecordType::TXT] {
        let reply = daemon.udp(&Query::new("four.home.example.org", qtype));
        assert_eq!((reply.rcode(), reply.message.answers.len()), (0, 0), "{qtype}");
        assert!(reply.soa().is_some(), "{qtype}");
        assert!(reply.recursion_available());
    }
    assert_eq!(upstream.count(), 0);
}

/// RFC 1035 section 3.5, RFC 3596 section 2.5: and from addresses back to names.
#[test]
fn hosts_give_names_for_addresses() {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(&upstream);
    let six = format!("0.1.0.0.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(20));
    for name in ["10.2.0.192.in-addr.arpa", &six] {
        let reply = daemon.udp(&Query::new(name, RecordType::PTR));
        let targets: Vec<_> =
            reply.message.answers.iter().map(|r| r.data.to_string().to_lowercase()).collect();
        assert!(targets.contains(&"box.home.example.org.".to_owned()), "{name}: {targets:?}");
    }
    assert_eq!(upstream.count(), 0);
}

/// A name that the file does not list goes on.
#[test]
fn other_names_pass_the_hosts() {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(&upstream);
    for name in ["home.example.org", "x.box.home.example.org", "www.example.org"] {
        assert_eq!(daemon.udp(&Query::a(name)).address(), "203.0.113.1", "{name}");
    }
}

/// Who is not on the list gets REFUSED by UDP, and no answer by TCP.
#[test]
fn acl_refuses_strangers() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).section(r#"acl = { "192.0.2.0/24" }"#).start();
    for query in [Query::a("www.example.org"), Query::a("www.example.org").edns(1232)] {
        let reply = daemon.udp(&query);
        assert_eq!((reply.rcode(), reply.message.answers.len()), (REFUSED, 0));
        if reply.message.edns.is_some() {
            assert_eq!(reply.extended_errors(), [PROHIBITED]);
        }
        let mut client = TcpClient::to(daemon.addr());
        client.send(&query.encode());
        match client.try_receive(PATIENCE) {
            Tried::Reply(reply) => assert_eq!(reply.rcode(), REFUSED),
            Tried::Closed => {}
            Tried::Silence => panic!("neither refused nor closed"),
        }
    }
    assert_eq!(upstream.count(), 0);
    assert!(daemon.metric("balancedns_acl_refused_total") >= 2.0);
}

/// A list with one address in it, and another address of the same machine.
#[test]
fn acl_tells_addresses_apart() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon =
        Settings::with(&upstream).section(r#"acl = { "127.0.0.1", "2001:db8::/32" }"#).start();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    let stranger = UdpClient::from("127.0.0.2", daemon.addr());
    assert_eq!(stranger.ask(&Query::a("www.example.org")).rcode(), REFUSED);
}
