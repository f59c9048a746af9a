//! What is answered without an upstream: the blacklist, the hosts file, the access list.

use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{Daemon, PATIENCE, Query, Settings, Tried, Upstream, Via, until};

cases! {
    plain_name_blocks_itself, all, "config blacklist.domains",
        "a plain name blocks that name only, for every type and in any letter case";
    wildcard_blocks_what_is_below, all, "config blacklist.domains",
        "a wildcard, in either spelling, blocks what is below it by whole labels, not itself";
    blocked_names_say_so, all, "RFC 8914 4.16",
        "who speaks EDNS is told that the name is blocked";
    chain_order_counts, all, "config routing.chain",
        "what stands first in the chain decides";
    chain_without_an_answer_is_servfail, all, "config routing.chain",
        "a chain that ends without an answer is SERVFAIL";
    hosts_give_addresses, all, "config hosts.file",
        "addresses of either family come from the file, with its TTL and RA";
    hosts_know_no_letter_case, all, "RFC 4343 3",
        "names of the hosts file are found in any letter case, and come back in the client's own";
    hosts_give_no_data_for_other_types, all, "RFC 2308 2.2",
        "a listed name without that family, or of another type, is NODATA with a SOA";
    hosts_give_names_for_addresses, all, "RFC 1035 3.5, RFC 3596 2.5",
        "addresses of the hosts file lead back to their names";
    other_names_pass_the_hosts, all, "config hosts.file",
        "a name that the file does not list goes on";
    acl_refuses_strangers, all, "config acl, RFC 8914 4.19",
        "who is not on the list is refused, and told so";
    acl_tells_addresses_apart, all, "config acl",
        "one address on the list does not let its neighbour in";
}

const REFUSED: u16 = 5;
/// RFC 8914 section 4.16.
const BLOCKED: u16 = 15;
/// RFC 8914 section 4.19.
const PROHIBITED: u16 = 18;

fn blocking(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream)
        .section(
            r#"blacklist = { domains = { "exact.example.org", "*.wild.example.org", ".dot.example.org" } }"#,
        )
        .start(world)
}

fn plain_name_blocks_itself(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream);
    for name in ["exact.example.org", "EXACT.Example.ORG"] {
        assert_eq!(daemon.ask(&Query::a(name)).rcode(), REFUSED);
        assert_eq!(daemon.ask(&Query::new(name, RecordType::MX)).rcode(), REFUSED);
    }
    assert_eq!(upstream.count(), 0);
    for name in ["sub.exact.example.org", "inexact.example.org", "example.org"] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
}

fn wildcard_blocks_what_is_below(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream);
    for name in ["a.wild.example.org", "a.b.wild.example.org", "a.dot.example.org"] {
        assert_eq!(daemon.ask(&Query::a(name)).rcode(), REFUSED, "{name}");
    }
    assert_eq!(upstream.count(), 0);
    for name in
        ["wild.example.org", "dot.example.org", "notwild.example.org", "x.nodot.example.org"]
    {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
}

fn blocked_names_say_so(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream);
    let reply = daemon.ask(&Query::a("exact.example.org").edns(1232));
    assert_eq!((reply.rcode(), reply.extended_errors()), (REFUSED, vec![BLOCKED]));
    let reply = daemon.ask(&Query::a("exact.example.org"));
    assert!(reply.message.edns.is_none());
    assert!(daemon.metric("balancedns_blocked_total") >= 2.0);
}

fn chain_order_counts(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .section(r#"blacklist = { domains = { "exact.example.org" } }"#)
        .section(r#"routing = { chain = { "cache", "upstream", "blacklist" } }"#)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("exact.example.org")).address(), "192.0.2.1");
}

fn chain_without_an_answer_is_servfail(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .section(r#"routing = { chain = { "blacklist", "cache" } }"#)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), 2);
    assert_eq!(upstream.count(), 0);
}

fn with_hosts(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream)
        .file(
            "hosts",
            "# a comment\n192.0.2.10 Box.Home.Example.ORG alias.home.example.org # more\n\
             2001:db8::10 box.home.example.org\n192.0.2.11 four.home.example.org\n\
             192.0.2.12 four.home.example.org\n",
        )
        .section(r#"hosts = { file = "hosts", ttl = 77 }"#)
        .start(world)
}

fn hosts_give_addresses(world: &World) {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(world, &upstream);
    let reply = daemon.ask(&Query::a("box.home.example.org"));
    assert_eq!((reply.address(), reply.ttl()), ("192.0.2.10".to_owned(), 77));
    assert!(reply.recursion_available());
    assert_eq!(daemon.ask(&Query::a("alias.home.example.org")).address(), "192.0.2.10");
    let six = daemon.ask(&Query::new("box.home.example.org", RecordType::AAAA));
    assert_eq!(six.address(), "2001:db8::10");
    let both = daemon.ask(&Query::a("four.home.example.org"));
    let mut addresses: Vec<_> = both.addresses().iter().map(ToString::to_string).collect();
    addresses.sort();
    assert_eq!(addresses, ["192.0.2.11", "192.0.2.12"]);
    assert_eq!(upstream.count(), 0);
    assert!(daemon.metric("balancedns_hosts_answers_total") >= 4.0);
}

fn hosts_know_no_letter_case(world: &World) {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(world, &upstream);
    // `ask` compares the question to the letter.
    assert_eq!(daemon.ask(&Query::a("BOX.home.EXAMPLE.org").edns(1232)).address(), "192.0.2.10");
}

fn hosts_give_no_data_for_other_types(world: &World) {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(world, &upstream);
    for qtype in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS, RecordType::TXT] {
        let reply = daemon.ask(&Query::new("four.home.example.org", qtype));
        assert_eq!((reply.rcode(), reply.message.answers.len()), (0, 0), "{qtype}");
        assert!(reply.soa().is_some(), "{qtype}");
        assert!(reply.recursion_available());
    }
    assert_eq!(upstream.count(), 0);
}

fn hosts_give_names_for_addresses(world: &World) {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(world, &upstream);
    let six = format!("0.1.0.0.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(20));
    for name in ["10.2.0.192.in-addr.arpa", &six] {
        let reply = daemon.ask(&Query::new(name, RecordType::PTR));
        let targets: Vec<_> =
            reply.message.answers.iter().map(|r| r.data.to_string().to_lowercase()).collect();
        assert!(targets.contains(&"box.home.example.org.".to_owned()), "{name}: {targets:?}");
    }
    assert_eq!(upstream.count(), 0);
}

fn other_names_pass_the_hosts(world: &World) {
    let upstream = Upstream::answering("203.0.113.1");
    let daemon = with_hosts(world, &upstream);
    for name in ["home.example.org", "x.box.home.example.org", "www.example.org"] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "203.0.113.1", "{name}");
    }
}

fn acl_refuses_strangers(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).section(r#"acl = { "192.0.2.0/24" }"#).start(world);
    // Who is not on the list has one connection at a time.
    let mut client = daemon.client();
    for query in [Query::a("www.example.org"), Query::a("www.example.org").edns(1232)] {
        if daemon.transport() == Via::Get {
            // A connection for each query: the daemon has to have seen the end of the one before.
            until("its place is free", || {
                client.send(&query.encode());
                matches!(client.try_receive(PATIENCE), Tried::Status(403)).then_some(())
            });
            continue;
        }
        if daemon.transport() == Via::Post {
            client.send(&query.encode());
            client.expect_status(403);
            continue;
        }
        let reply = client.ask(&query);
        assert_eq!((reply.rcode(), reply.message.answers.len()), (REFUSED, 0));
        if reply.message.edns.is_some() {
            assert_eq!(reply.extended_errors(), [PROHIBITED]);
        }
    }
    assert_eq!(upstream.count(), 0);
    let metric = if daemon.transport().is_http() {
        r#"balancedns_doh_refused_total{status="403"}"#
    } else {
        "balancedns_acl_refused_total"
    };
    assert!(daemon.metric(metric) >= 2.0);
}

fn acl_tells_addresses_apart(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for (acl, rcode) in [("127.0.0.1", 0), ("127.0.0.2", REFUSED), ("127.0.0.0/31", 0)] {
        let acl = format!("acl = {{ \"{acl}\", \"2001:db8::/32\" }}");
        let daemon = Settings::with(&upstream).section(&acl).start(world);
        if daemon.transport().is_http() && rcode == REFUSED {
            let mut client = daemon.client();
            client.send(&Query::a("www.example.org").encode());
            client.expect_status(403);
        } else {
            assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), rcode, "{acl}");
        }
    }
}
