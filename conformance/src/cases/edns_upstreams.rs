//! EDNS towards upstreams (RFC 6891): what we say of ourselves, and what becomes of what they say.

use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;

use crate::case::World;
use crate::harness::{Answer, Asked, Query, Settings, Upstream, raw_record, wire};

cases! {
    upstream_query_is_our_own, all, "RFC 6891 6.1.1, RFC 6840 5.7",
        "what goes upstream is our own: RD and AD set, our OPT with our size, an own id";
    upstream_opt_stays_here, all, "RFC 6891 6.2.1",
        "the upstream's OPT is for us: neither passed on nor replayed from the cache";
    old_servers_are_asked_without_opt, all, "RFC 6891 6.2.2",
        "a server that knows no EDNS is asked again without it; our client still gets it";
    opt_need_not_be_answered_with_opt, all, "RFC 6891 6.1.1",
        "an upstream that leaves OPT out of its reply is understood; our client gets ours";
    old_servers_may_leave_out_the_question, all, "RFC 6891 6.2.2",
        "FORMERR of nothing but a header is the same news as one with the question";
    badvers_of_an_upstream_leads_to_plain, all, "RFC 6891 6.2.2",
        "an upstream that says BADVERS to version 0 is asked without OPT";
    each_server_is_asked_with_opt_first, all, "RFC 6891 6.2.2",
        "what was learnt of one upstream's age is not held against the next one";
    own_size_is_offered, all, "RFC 9715 3.2, config listen.udp_size",
        "upstreams are offered the configured size, whatever our client offers";
    two_opts_are_no_answer, all, "RFC 6891 6.1.1",
        "a reply with two OPTs is as good as none";
    misplaced_opt_is_no_answer, all, "RFC 6891 6.1.1",
        "a reply with OPT among its answers is as good as none";
    opt_need_not_come_last, all, "RFC 6891 6.1.1",
        "an OPT before other additional records is taken out, and these stay right";
    extended_rcodes_come_through, all, "RFC 6891 6.1.3",
        "an rcode above 15 reaches who speaks EDNS, and is SERVFAIL to who does not";
    extended_errors_come_through, all, "RFC 8914 3",
        "an upstream's extended error is told to who speaks EDNS";
    dnssec_records_come_through, all, "RFC 4035 3.2.1",
        "signatures come to who asks for them, and not from the cache to who does not";
}

const LOCAL_USE: u16 = 65_001;
const EXTENDED_ERROR: u16 = 15;
const QR_RD_RA: u16 = 0x8180;

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
        edns.options_mut().insert(EdnsOption::Unknown(LOCAL_USE, vec![1; 16]));
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

fn opt_need_not_be_answered_with_opt(world: &World) {
    let upstream = Upstream::start(|asked| {
        let record = raw_record(&[0xc0, 12], RecordType::A, 60, &[192, 0, 2, 1]);
        Answer::Octets(vec![asked.raw_reply(QR_RD_RA, [1, 0, 0], &record)])
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        // `ask` compares whether there is OPT.
        assert_eq!(daemon.ask(&Query::a("www.example.org").edns(1232)).address(), "192.0.2.1");
        assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 1);
}

/// Says no to EDNS with these octets, made from the query.
fn without_edns(refuse: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |asked| match asked.message.edns {
        Some(_) => Answer::Octets(vec![refuse(asked)]),
        None => asked.address(60, "192.0.2.1").into(),
    })
}

fn assert_asked_again_without_opt(world: &World, upstream: &Upstream) {
    let daemon = Settings::with(upstream).start(world);
    let reply = daemon.ask(&Query::a("www.example.org").edns(1232));
    assert_eq!((reply.rcode(), reply.address()), (0, "192.0.2.1".to_owned()));
    let opts: Vec<_> = upstream.asked().iter().map(|asked| asked.message.edns.is_some()).collect();
    assert_eq!(opts, [true, false]);
}

fn old_servers_may_leave_out_the_question(world: &World) {
    let upstream = without_edns(|asked| {
        let [high, low] = asked.id().to_be_bytes();
        vec![high, low, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]
    });
    assert_asked_again_without_opt(world, &upstream);
}

fn badvers_of_an_upstream_leads_to_plain(world: &World) {
    let upstream = without_edns(|asked| {
        let mut octets = asked.raw_reply(QR_RD_RA, [0, 0, 1], &Query::opt_record(512));
        let at = octets.len() - 6;
        octets[at] = 1; // 16 is 1 in the upper bits and 0 in the lower ones
        octets
    });
    assert_asked_again_without_opt(world, &upstream);
}

fn each_server_is_asked_with_opt_first(world: &World) {
    let first = Upstream::start(|asked| {
        let with_opt = asked.message.edns.is_some();
        asked.rcode(if with_opt { ResponseCode::FormErr } else { ResponseCode::Refused })
    });
    let second = Upstream::answering("192.0.2.2");
    let daemon = Settings::new().upstream(&first, "").upstream(&second, "").start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
    assert_eq!(first.count(), 2);
    assert!(second.asked()[0].message.edns.is_some());
}

fn own_size_is_offered(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for size in [1232, 1400] {
        let daemon = Settings::with(&upstream).listen(&format!("udp_size = {size}")).start(world);
        for query in [Query::a("a.example.org"), Query::a("b.example.org").edns(4096)] {
            daemon.ask(&query);
            let asked = upstream.asked().pop().expect("it was asked");
            assert_eq!(asked.message.edns.as_ref().expect("our OPT").max_payload(), size);
        }
    }
}

/// The first upstream's reply is of no use: the second one answers.
fn assert_no_answer(world: &World, reply: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) {
    let first = Upstream::start(move |asked| Answer::Octets(vec![reply(asked)]));
    let second = Upstream::answering("192.0.2.2");
    let daemon =
        Settings::new().upstream(&first, "timeout_ms = 300").upstream(&second, "").start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.2");
    assert!(first.count() >= 1);
}

fn two_opts_are_no_answer(world: &World) {
    assert_no_answer(world, |asked| {
        let address = raw_record(&[0xc0, 12], RecordType::A, 60, &[203, 0, 113, 66]);
        let records = [address, Query::opt_record(1232), Query::opt_record(1232)].concat();
        asked.raw_reply(QR_RD_RA, [1, 0, 2], &records)
    });
}

fn misplaced_opt_is_no_answer(world: &World) {
    assert_no_answer(world, |asked| {
        let address = raw_record(&[0xc0, 12], RecordType::A, 60, &[203, 0, 113, 66]);
        asked.raw_reply(QR_RD_RA, [2, 0, 0], &[address, Query::opt_record(1232)].concat())
    });
}

fn opt_need_not_come_last(world: &World) {
    let upstream = Upstream::start(|asked| {
        let target = wire("mail.example.net");
        let answer = raw_record(&[0xc0, 12], RecordType::MX, 60, &[&[0, 10][..], &target].concat());
        let at = 12 + asked.question().len() + answer.len() - target.len();
        let pointer = (0xc000 | u16::try_from(at).expect("it is short")).to_be_bytes();
        let glue = |last| raw_record(&pointer, RecordType::A, 60, &[192, 0, 2, last]);
        let records = [answer, glue(1), Query::opt_record(1232), glue(2)].concat();
        Answer::Octets(vec![asked.raw_reply(QR_RD_RA, [1, 0, 3], &records)])
    });
    let daemon = Settings::with(&upstream).start(world);
    for name in ["example.net", "EXAMPLE.net"] {
        let reply = daemon.ask(&Query::new(name, RecordType::MX).edns(1232));
        let glue = reply.message.additionals.iter().map(|record| {
            format!("{} {}", record.name.to_ascii().to_ascii_lowercase(), record.data)
        });
        assert_eq!(
            glue.collect::<Vec<_>>(),
            ["mail.example.net. 192.0.2.1", "mail.example.net. 192.0.2.2"]
        );
    }
    assert_eq!(upstream.count(), 1);
}

fn extended_rcodes_come_through(world: &World) {
    // 3841, which is 0xf01, is for private use (RFC 6895 section 2.3).
    let upstream = Upstream::start(|asked| {
        let mut octets = asked.raw_reply(QR_RD_RA | 1, [0, 0, 1], &Query::opt_record(1232));
        let at = octets.len() - 6;
        octets[at] = 0xf0;
        Answer::Octets(vec![octets])
    });
    let daemon = Settings::with(&upstream).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org").edns(1232)).rcode(), 0xf01);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), 2);
}

fn extended_errors_come_through(world: &World) {
    let upstream = Upstream::start(|asked| {
        let mut reply = asked.negative(ResponseCode::NXDomain, 60, 60);
        let mut edns = Edns::new();
        let text = [&[0, 17][..], b"filtered for you"].concat();
        edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, text));
        reply.set_edns(edns);
        reply
    });
    let daemon = Settings::with(&upstream).start(world);
    let reply = daemon.ask(&Query::a("www.example.org").edns(1232));
    assert_eq!((reply.rcode(), reply.extended_errors()), (3, vec![17]));
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), 3);
}

fn dnssec_records_come_through(world: &World) {
    const SIGNATURE: [u8; 64] = [9; 64];
    let upstream = Upstream::start(|asked| {
        let address = raw_record(&[0xc0, 12], RecordType::A, 60, &[192, 0, 2, 1]);
        if !asked.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok) {
            return Answer::Octets(vec![asked.raw_reply(QR_RD_RA, [1, 0, 0], &address)]);
        }
        let head = [0, 1, 13, 3, 0, 0, 0, 60, 0x6a, 0, 0, 0, 0x69, 0, 0, 0, 0, 7];
        let data = [&head[..], &wire("example.org"), &SIGNATURE].concat();
        let records = [address, raw_record(&[0xc0, 12], RecordType::RRSIG, 60, &data)].concat();
        Answer::Octets(vec![asked.raw_reply(QR_RD_RA, [2, 0, 0], &records)])
    });
    let daemon = Settings::with(&upstream).start(world);
    let plain = Query::a("www.example.org");
    for _ in 0..2 {
        for (query, signed) in [
            (plain.clone().dnssec_ok(), true),
            (plain.clone(), false),
            (plain.clone().edns(1232), false),
        ] {
            let mut client = daemon.client();
            client.send(&query.encode());
            let octets = client.receive_octets();
            assert_eq!(octets[6..8], [0, if signed { 2 } else { 1 }], "{query:?}");
            assert_eq!(octets.windows(64).any(|part| part == SIGNATURE), signed, "{query:?}");
        }
    }
    assert_eq!(upstream.count(), 2);
}
