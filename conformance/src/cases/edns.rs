//! EDNS (RFC 6891): hop by hop in both directions.

use std::time::Duration;

use hickory_proto::op::Edns;
use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{Daemon, Query, Reply, Settings, Upstream, raw_record, set_count, txt_of};

cases! {
    opt_only_if_asked, all, "RFC 6891 6.1.1",
        "OPT in the reply if and only if the query had one";
    opt_names_our_size_and_version, all, "RFC 6891 6.2.4",
        "our OPT has version 0 and names the size that we take";
    do_is_copied, all, "RFC 3225 3",
        "DO is copied into the reply, and asked of the upstream";
    unknown_options_are_ignored, all, "RFC 6891 6.1.2",
        "options that we do not know are ignored, and not echoed";
    client_options_are_not_forwarded, all, "RFC 7873 5, RFC 7871 7.1, RFC 7830 3",
        "what a client tells us about itself by options stays here";
    badvers, all, "RFC 6891 6.1.3",
        "a version above 0 is answered BADVERS, with our own version 0";
    opt_may_stand_anywhere, all, "RFC 6891 6.1.1",
        "OPT counts before, between and after other additional records, which are passed over";
    opt_belongs_to_the_root, all, "RFC 6891 6.1.2",
        "an OPT with another owner than the root is FORMERR";
    opt_belongs_to_the_additional_section, all, "RFC 6891 6.1.1",
        "an OPT among answers or authorities of a query is FORMERR";
    badvers_whatever_the_options, all, "RFC 6891 6.1.3",
        "only version 0 says how options look: BADVERS comes first, and only once";
    unknown_flags_are_ignored, all, "RFC 6891 6.1.4",
        "flags of OPT other than DO are ignored, and clear in ours";
    rcode_of_a_query_is_ignored, all, "RFC 6891 6.1.3",
        "the upper bits of an rcode in a query's OPT mean nothing";
    do_comes_back_with_every_answer, all, "RFC 3225 3",
        "DO is copied into refusals, errors and local answers too";
    formerr_carries_opt, all, "RFC 6891 7",
        "an error to who speaks EDNS comes with OPT";
    cookies_are_not_echoed, all, "RFC 7873 5.2, config listen.cookies",
        "who has no cookies to give ignores a client's, well-formed or not";
    client_subnet_is_not_echoed, all, "RFC 7871 7.2.2",
        "an answer that depends on no subnet names none";
    keepalive_is_ignored_in_datagrams, udp, "RFC 7828 3.3.1",
        "edns-tcp-keepalive in a datagram is ignored";
    size_means_nothing_on_a_stream, streams, "RFC 6891 6.2.3",
        "the size in OPT is one of datagrams: a stream carries everything";
    tiny_size_means_512, udp, "RFC 6891 6.2.3",
        "a size below 512 means 512";
}

const NSID: u16 = 3;
const CLIENT_SUBNET: u16 = 8;
const COOKIE: u16 = 10;
const TCP_KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const LOCAL_USE: u16 = 65_001;

fn opt_only_if_asked(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    // The miss, then the hit, of either kind; `ask` compares.
    for name in ["a.example.org", "a.example.org"] {
        assert!(daemon.ask(&Query::a(name)).message.edns.is_none());
        assert!(daemon.ask(&Query::a(name).edns(1232)).message.edns.is_some());
    }
}

fn opt_names_our_size_and_version(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.ask(&Query::a("www.example.org").edns(4096));
    let edns = reply.message.edns.as_ref().expect("asked for");
    assert_eq!((edns.version(), edns.max_payload()), (0, 1232));

    let daemon = Settings::with(&upstream).listen("udp_size = 1400").start(world);
    let reply = daemon.ask(&Query::a("www.example.org").edns(4096));
    assert_eq!(reply.message.edns.as_ref().expect("asked for").max_payload(), 1400);
}

fn do_is_copied(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for (name, wanted) in [("with.example.org", true), ("without.example.org", false)] {
        let query = Query::a(name).edns(1232);
        let query = if wanted { query.dnssec_ok() } else { query };
        let reply = daemon.ask(&query);
        let flags = |edns: &Option<Edns>| edns.as_ref().map(|edns| edns.flags().dnssec_ok);
        assert_eq!(flags(&reply.message.edns), Some(wanted));
        let asked = upstream.asked().pop().expect("it was asked");
        assert_eq!(flags(&asked.message.edns), Some(wanted));
    }
}

fn unknown_options_are_ignored(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let query = Query::a("www.example.org").option(LOCAL_USE, b"whatever").option(LOCAL_USE, b"");
    let reply = daemon.ask(&query);
    assert_eq!(reply.address(), "192.0.2.1");
    assert!(!reply.option_codes().contains(&LOCAL_USE), "not echoed");
}

fn client_options_are_not_forwarded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let query = Query::a("www.example.org")
        .option(COOKIE, b"8 octets")
        .option(CLIENT_SUBNET, &[0, 1, 24, 0, 198, 51, 100])
        .option(PADDING, &[0; 64])
        .option(NSID, b"")
        .option(LOCAL_USE, b"x");
    assert_eq!(daemon.ask(&query).address(), "192.0.2.1");
    let asked = &upstream.asked()[0];
    assert_eq!(asked.option_codes(), [COOKIE], "our own");
    assert_ne!(asked.option(COOKIE).as_deref(), Some(&b"8 octets"[..]));
}

fn badvers(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for version in [1, 255] {
        let query = Query::a("www.example.org").edns_version(version);
        let reply = daemon.ask(&query);
        assert_eq!(reply.rcode(), 16);
        assert_eq!(reply.message.edns.as_ref().expect("OPT carries it").version(), 0);
        assert!(reply.message.answers.is_empty());
    }
    assert_eq!(upstream.count(), 0);
}

fn tiny_size_means_512(world: &World) {
    let upstream = Upstream::start(|asked| {
        asked.answer(
            (1..=20).map(|i| crate::harness::address(&asked.name(), 60, &format!("192.0.2.{i}"))),
        )
    });
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.ask(&Query::a("www.example.org").edns(1));
    assert!(!reply.truncated());
    assert_eq!(reply.addresses().len(), 20);
    assert!(reply.bytes.len() > 300);
}

/// A daemon that refuses `blocked.example.org` by itself.
fn blocking(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream)
        .section(r#"blacklist = { domains = { "blocked.example.org" } }"#)
        .start(world)
}

/// The reply to these octets, whose id it has.
fn reply_to(daemon: &Daemon, octets: &[u8]) -> Reply {
    let mut client = daemon.client();
    client.send(octets);
    let reply = client.receive();
    assert_eq!(reply.bytes[..2], octets[..2], "id");
    reply
}

fn opt_may_stand_anywhere(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let (opt, other) = (Query::opt_record(1232), raw_record(&[0], RecordType::A, 0, &[0; 4]));
    let orders = [[&opt, &other, &other], [&other, &opt, &other], [&other, &other, &opt]];
    for (place, order) in orders.iter().enumerate() {
        let mut octets = Query::a(&format!("n{place}.example.org")).encode();
        octets.extend(order.iter().copied().flatten());
        set_count(&mut octets, 3, 3);
        let reply = reply_to(&daemon, &octets);
        assert_eq!(reply.address(), "192.0.2.1");
        assert!(reply.message.edns.is_some(), "OPT was seen in place {place}");
    }
}

fn opt_belongs_to_the_root(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).start(world);
    for owner in [&[1, b'a', 0][..], &[0xc0, 12]] {
        let mut octets = Query::a("www.example.org").encode();
        octets.extend(raw_record(owner, RecordType::OPT, 0, &[]));
        set_count(&mut octets, 3, 1);
        assert_eq!(reply_to(&daemon, &octets).rcode(), 1, "{owner:02x?}");
    }
    assert_eq!(upstream.count(), 0);
}

fn opt_belongs_to_the_additional_section(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).start(world);
    for section in [1, 2] {
        let mut octets = Query::a("www.example.org").encode();
        octets.extend(Query::opt_record(1232));
        set_count(&mut octets, section, 1);
        assert_eq!(reply_to(&daemon, &octets).rcode(), 1, "section {section}");
    }
    assert_eq!(upstream.count(), 0);
}

fn badvers_whatever_the_options(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).start(world);
    let query = Query::a("www.example.org").edns_version(1).option(LOCAL_USE, b"abcd");
    let mut octets = query.encode();
    let at = octets.len() - 5;
    octets[at] = 200; // longer than its OPT
    let mut client = daemon.client();
    client.send(&octets);
    let reply = client.receive();
    assert_eq!((&reply.bytes[..2], reply.rcode()), (&octets[..2], 16));
    client.expect_silence(Duration::from_millis(20));
}

fn unknown_flags_are_ignored(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org").edns_bits(0, 0x7fff));
        assert_eq!(reply.address(), "192.0.2.1");
        let flags = reply.message.edns.as_ref().expect("asked for").flags();
        assert_eq!((flags.dnssec_ok, flags.z), (false, 0));
    }
    let flags = upstream.asked()[0].message.edns.as_ref().expect("always there").flags().z;
    assert_eq!(flags, 0, "they are not handed on");
}

fn rcode_of_a_query_is_ignored(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org").edns_bits(0xff, 0));
        assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.1".to_owned()));
    }
}

fn do_comes_back_with_every_answer(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream);
    daemon.ask(&Query::a("kept.example.org").dnssec_ok());
    let queries = [
        Query::a("blocked.example.org"),
        Query::a("kept.example.org"),
        Query::a("www.example.org").edns_version(7),
        Query::a("www.example.org").opcode(4),
        Query::a("www.example.org").without_rd(),
    ];
    for query in queries {
        for (query, wanted) in [(query.clone().edns_bits(0, 0), false), (query.dnssec_ok(), true)] {
            let reply = daemon.ask(&query);
            let edns = reply.message.edns.as_ref().expect("asked for");
            assert_eq!(edns.flags().dnssec_ok, wanted, "{query:?}");
        }
    }
}

fn formerr_carries_opt(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).start(world);
    let plain = Query::a("www.example.org");
    for (query, wanted) in [(plain.clone(), false), (plain.edns(1232), true)] {
        let mut octets = query.encode();
        octets.push(0);
        let reply = reply_to(&daemon, &octets);
        assert_eq!((reply.rcode(), reply.message.edns.is_some()), (1, wanted));
    }
}

/// Asks twice with the option; neither the answers nor the query upstream carry any.
fn assert_not_answered(world: &World, code: u16, data: &[u8]) {
    let upstream = Upstream::answering("192.0.2.1");
    let settings = Settings::new().listen("cookies = false");
    let daemon = settings.upstream(&upstream, "cookies = false").start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org").option(code, data));
        assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.1".to_owned()));
        assert_eq!(reply.option_codes(), Vec::<u16>::new());
    }
    assert_eq!(upstream.asked()[0].option_codes(), Vec::<u16>::new());
}

fn cookies_are_not_echoed(world: &World) {
    for cookie in [&b"8 octets"[..], b"8 octets and 16 from a server", b"short"] {
        assert_not_answered(world, COOKIE, cookie);
    }
}

fn client_subnet_is_not_echoed(world: &World) {
    assert_not_answered(world, CLIENT_SUBNET, &[0, 1, 24, 0, 198, 51, 100]);
    assert_not_answered(world, CLIENT_SUBNET, &[0, 2, 0, 0]);
}

fn keepalive_is_ignored_in_datagrams(world: &World) {
    assert_not_answered(world, TCP_KEEPALIVE, &[]);
    assert_not_answered(world, TCP_KEEPALIVE, &[0, 100]);
}

fn size_means_nothing_on_a_stream(world: &World) {
    let upstream = Upstream::start(|asked| asked.answer([txt_of(&asked.name(), 60, 3000)]));
    let daemon = Settings::new().upstream(&upstream, r#"protocol = "tcp""#).start(world);
    for size in [0, 512, 1232] {
        let reply = daemon.ask(&Query::new("big.example.org", RecordType::TXT).edns(size));
        assert!(!reply.truncated() && reply.bytes.len() > 3000, "size {size}");
    }
}
