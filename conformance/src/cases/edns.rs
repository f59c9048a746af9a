//! EDNS (RFC 6891): hop by hop in both directions.

use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;

use crate::case::World;
use crate::harness::{Query, Settings, Upstream};

cases! {
    opt_only_if_asked, both, "RFC 6891 6.1.1",
        "OPT in the reply if and only if the query had one";
    opt_names_our_size_and_version, both, "RFC 6891 6.2.3",
        "our OPT has version 0 and names the size that we take";
    do_is_copied, both, "RFC 3225 3",
        "DO is copied into the reply, and asked of the upstream";
    unknown_options_are_ignored, both, "RFC 6891 6.1.2",
        "options that we do not know are ignored, and not echoed";
    client_options_are_not_forwarded, both, "RFC 7873 5, RFC 7871 7.1, RFC 7830 3",
        "what a client tells us about itself by options stays here";
    upstream_query_is_our_own, both, "RFC 6891 6.1.1, RFC 6840 5.7",
        "what goes upstream is our own: RD and AD set, our OPT with our size, an own id";
    upstream_opt_stays_here, both, "RFC 6891 6.1.1",
        "the upstream's OPT is for us: neither passed on nor replayed from the cache";
    badvers, both, "RFC 6891 6.1.3",
        "a version above 0 is answered BADVERS, with our own version 0";
    old_servers_are_asked_without_opt, both, "RFC 6891 7",
        "a server that knows no EDNS is asked again without it; our client still gets it";
    tiny_size_means_512, udp, "RFC 6891 6.2.3",
        "a size below 512 means 512";
}

const NSID: u16 = 3;
const CLIENT_SUBNET: u16 = 8;
const COOKIE: u16 = 10;
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
    assert_eq!(upstream.asked()[0].option_codes(), Vec::<u16>::new());
}

fn upstream_query_is_our_own(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for i in 0..4 {
        daemon.ask(&Query::a(&format!("plain{i}.example.org")).id(7));
        daemon.ask(&Query::a(&format!("edns{i}.example.org")).id(7).edns(512));
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 8);
    for asked in &asked {
        let metadata = asked.message.metadata;
        assert!(metadata.recursion_desired, "RD");
        assert!(metadata.authentic_data, "AD (RFC 6840 section 5.7)");
        let edns = asked.message.edns.as_ref().expect("OPT, whatever the client sent");
        assert_eq!((edns.version(), edns.max_payload()), (0, 1232));
    }
    let same = asked.iter().filter(|asked| asked.id() == 7).count();
    assert!(same < 2, "the client's id goes upstream");
}

fn upstream_opt_stays_here(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.address(60, "192.0.2.1");
        let mut edns = Edns::new();
        edns.set_max_payload(4000);
        edns.options_mut().insert(EdnsOption::Unknown(COOKIE, vec![1; 16]));
        reply.set_edns(edns);
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        assert!(daemon.ask(&Query::a("www.example.org")).message.edns.is_none());
        let reply = daemon.ask(&Query::a("www.example.org").edns(4096));
        assert_eq!(reply.option_codes(), Vec::<u16>::new());
        assert_eq!(reply.message.edns.as_ref().expect("asked for").max_payload(), 1232);
        assert_eq!(reply.ttl(), 60, "OPT's TTL field is no TTL");
    }
    assert_eq!(upstream.count(), 1);
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

fn old_servers_are_asked_without_opt(world: &World) {
    let upstream = Upstream::start(|asked| {
        if asked.message.edns.is_some() {
            asked.rcode(ResponseCode::FormErr)
        } else {
            asked.address(60, "192.0.2.1")
        }
    });
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org").edns(1232)).address(), "192.0.2.1");
    assert_eq!(upstream.count(), 2);
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
