//! The header of a message, bit by bit (RFC 1035 section 4.1.1, RFC 4035 section 3.2): what a
//! query may say, what a reply says, what goes upstream.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{AA_TC_RA, Answer, Asked, Daemon, Query, Settings, Upstream, Z, raw_record};

cases! {
    aa_is_not_passed_on, all, "RFC 1035 4.1.1",
        "AA is an authority's: it is clear, whatever the upstream says, fresh and from the cache";
    z_is_ignored_and_never_sent, all, "RFC 1035 4.1.1",
        "Z in a query is ignored; it goes neither upstream nor back";
    z_of_an_upstream_stays_here, all, "RFC 1035 4.1.1",
        "Z in a reply of the upstream is ignored, and not passed on";
    bits_of_replies_mean_nothing_in_queries, all, "RFC 1035 4.1.1",
        "AA, TC, RA and an rcode in a query change nothing and do not come back";
    rd_comes_back_with_every_answer, all, "RFC 1035 4.1.1",
        "RD is the client's own in hits, refusals and errors";
    rd_of_an_upstream_stays_here, all, "RFC 1035 4.1.1",
        "an upstream that clears RD does not clear the client's";
    upstream_header_is_clean, all, "RFC 1035 4.1.1",
        "what goes upstream is a standard query: only RD, AD and CD, and one question";
    inverse_queries_are_notimp, all, "RFC 3425 3",
        "IQUERY is not implemented";
    opcodes_without_a_question_are_notimp, all, "RFC 1035 4.1.1",
        "another opcode is NOTIMP with nothing but a header, too";
    ra_is_set_in_every_reply, all, "RFC 1035 4.1.1",
        "RA is set in refusals, errors and local answers too";
    meta_types_are_refused, all, "RFC 6895 3.1, RFC 8914 4.22",
        "types that no question and answer can carry are refused, with the reason";
    other_rcodes_come_through, all, "RFC 2136 2.2",
        "YXDOMAIN, YXRRSET, NXRRSET, NOTAUTH and NOTZONE come through, and are not kept";
    formerr_is_an_answer_at_last, all, "RFC 6891 6.2.2",
        "FORMERR to the query without OPT too is the client's answer";
    ad_needs_the_upstreams_word, all, "RFC 4035 3.2.3",
        "AD is clear when the upstream did not set it, whoever asks";
    local_answers_are_not_authentic, all, "RFC 4035 3.2.3",
        "AD is clear in what no validator has seen: refusals, hosts, errors";
    cd_comes_back_with_every_answer, all, "RFC 4035 3.2.2",
        "CD is the client's own in refusals, hosts and errors";
}

/// The flags of a reply that says nothing else than that it is one, and recurses.
const QR_RD_RA: u16 = 0x8180;
const AA: u16 = 0x0400;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;

/// An address for `asked`, with these bits in the header.
fn answer(asked: &Asked, flags: u16) -> Answer {
    let record = raw_record(&[0xc0, 12], RecordType::A, 60, &[192, 0, 2, 1]);
    Answer::Octets(vec![asked.raw_reply(flags, [1, 0, 0], &record)])
}

/// A daemon with a blocked name, a name of its own, and an upstream for the rest.
fn start(world: &World, upstream: &Upstream) -> Daemon {
    Settings::with(upstream)
        .section(r#"blacklist = { domains = { "blocked.example.org" } }"#)
        .file("hosts", "192.0.2.10 own.example.org\n")
        .section(r#"hosts = { file = "hosts" }"#)
        .start(world)
}

/// Queries that are answered in every way there is but by the upstream.
fn local_queries() -> [Query; 5] {
    [
        Query::a("blocked.example.org"),
        Query::a("own.example.org"),
        Query::new("own.example.org", RecordType::MX),
        Query::a("www.example.org").opcode(5),
        Query::a("www.example.org").edns_version(1),
    ]
}

fn aa_is_not_passed_on(world: &World) {
    let upstream = Upstream::start(|asked| answer(asked, QR_RD_RA | AA));
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org"));
        assert_eq!(reply.address(), "192.0.2.1");
        assert_eq!(reply.flags() & AA, 0);
    }
    assert_eq!(upstream.count(), 1);
}

fn z_is_ignored_and_never_sent(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org").flags(Z));
        assert_eq!((reply.address(), reply.flags() & Z), ("192.0.2.1".to_owned(), 0));
    }
    assert_eq!(upstream.asked()[0].flags() & Z, 0);
}

fn z_of_an_upstream_stays_here(world: &World) {
    let upstream = Upstream::start(|asked| answer(asked, QR_RD_RA | Z));
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org"));
        assert_eq!((reply.address(), reply.flags() & Z), ("192.0.2.1".to_owned(), 0));
    }
}

fn bits_of_replies_mean_nothing_in_queries(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    for name in ["miss.example.org", "miss.example.org", "other.example.org"] {
        // NXDOMAIN in the low four bits.
        let reply = daemon.ask(&Query::a(name).flags(AA_TC_RA | 3));
        assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.1".to_owned()));
        assert_eq!(reply.flags() & AA_TC_RA, RA, "RA is ours, the others are not set");
    }
    for asked in upstream.asked() {
        assert_eq!(asked.flags() & (AA_TC_RA | 0xf), 0);
    }
}

fn rd_comes_back_with_every_answer(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = start(world, &upstream);
    daemon.ask(&Query::a("kept.example.org"));
    for query in local_queries().into_iter().chain([Query::a("kept.example.org")]) {
        for (query, rd) in [(query.clone(), RD), (query.without_rd(), 0)] {
            assert_eq!(daemon.ask(&query).flags() & RD, rd, "{query:?}");
        }
    }
    assert_eq!(upstream.count(), 1);
}

fn rd_of_an_upstream_stays_here(world: &World) {
    let upstream = Upstream::start(|asked| answer(asked, QR_RD_RA & !RD));
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        // `ask` compares RD.
        assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    }
    assert_eq!(daemon.ask(&Query::a("www.example.org").without_rd()).address(), "192.0.2.1");
}

fn upstream_header_is_clean(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    let plain = Query::a("a.example.org");
    let strange = Query::a("b.example.org").flags(AA_TC_RA | Z | 5).ad();
    let disabled = Query::a("c.example.org").cd().dnssec_ok();
    for (query, expected) in [(plain, RD | AD), (strange, RD | AD), (disabled, RD | AD | CD)] {
        daemon.ask(&query);
        let asked = upstream.asked().pop().expect("it was asked");
        assert_eq!(asked.flags(), expected, "{:04x}", asked.flags());
        assert_eq!(asked.octets[4..12], [0, 1, 0, 0, 0, 0, 0, 1], "a question and OPT");
    }
}

fn inverse_queries_are_notimp(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org").opcode(1)).rcode(), 4);
    assert_eq!(upstream.count(), 0);
}

fn opcodes_without_a_question_are_notimp(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream).start(world);
    for opcode in 1..16_u16 {
        let mut octets = Query::a("www.example.org").opcode(opcode).encode();
        octets.truncate(12);
        octets[5] = 0;
        let mut client = daemon.client();
        client.send(&octets);
        let reply = client.receive();
        assert_eq!((reply.bytes.len(), reply.rcode()), (12, 4), "opcode {opcode}");
        assert_eq!((reply.flags() >> 11) & 0xf, opcode);
    }
    assert_eq!(upstream.count(), 0);
}

fn ra_is_set_in_every_reply(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    let refused = Query::a("nothing.example.org").without_rd();
    for query in local_queries().into_iter().chain([refused]) {
        assert!(daemon.ask(&query).recursion_available(), "{query:?}");
    }
    assert_eq!(upstream.count(), 0);
}

fn meta_types_are_refused(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    // Type 0, OPT, TKEY, TSIG, MAILB, MAILA.
    for qtype in [0, 41, 249, 250, 253, 254] {
        let reply = daemon.ask(&Query::new("www.example.org", qtype.into()).edns(1232));
        assert_eq!((reply.rcode(), reply.extended_errors()), (5, vec![21]), "type {qtype}");
    }
    assert_eq!(upstream.count(), 0, "nothing of it goes upstream");
}

fn other_rcodes_come_through(world: &World) {
    let upstream = Upstream::start(|asked| {
        let label = String::from_utf8(asked.labels().swap_remove(0)).expect("digits");
        let rcode: u16 = label.parse().expect("digits");
        Answer::Octets(vec![asked.raw_reply(QR_RD_RA | rcode, [0; 3], &[])])
    });
    let daemon = Settings::with(&upstream).start(world);
    for rcode in 6..=10_u16 {
        for _ in 0..2 {
            let reply = daemon.ask(&Query::a(&format!("{rcode}.example.org")));
            assert_eq!(reply.rcode(), rcode);
        }
    }
    assert_eq!(upstream.count(), 10, "none was kept");
}

fn formerr_is_an_answer_at_last(world: &World) {
    let upstream = Upstream::start(|asked| asked.rcode(ResponseCode::FormErr));
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org").edns(1232)).rcode(), 1);
    let asked = upstream.asked();
    let with_opt: Vec<_> = asked.iter().map(|asked| asked.message.edns.is_some()).collect();
    assert_eq!(with_opt, [true, false]);
}

fn ad_needs_the_upstreams_word(world: &World) {
    let upstream = Upstream::start(|asked| answer(asked, QR_RD_RA));
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        assert!(!daemon.ask(&Query::a("www.example.org").ad()).authentic_data());
        assert!(!daemon.ask(&Query::a("www.example.org").dnssec_ok()).authentic_data());
        assert!(!daemon.ask(&Query::a("www.example.org").ad().dnssec_ok()).authentic_data());
    }
}

fn local_answers_are_not_authentic(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for query in local_queries() {
        assert!(!daemon.ask(&query.clone().ad()).authentic_data(), "{query:?}");
        assert!(!daemon.ask(&query.ad().dnssec_ok()).authentic_data());
    }
}

fn cd_comes_back_with_every_answer(world: &World) {
    let upstream = Upstream::silent();
    let daemon = start(world, &upstream);
    for query in local_queries() {
        assert!(!daemon.ask(&query).checking_disabled(), "{query:?}");
        assert!(daemon.ask(&query.clone().cd()).checking_disabled(), "{query:?}");
    }
}
