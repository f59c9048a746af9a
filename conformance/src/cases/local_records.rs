//! Records of the configuration: any type, wildcards, aliases, and what is no record.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{Client, Daemon, Query, Settings, Upstream, free_port};

cases! {
    addresses, all, "config local_records",
        "local records give addresses of either family with their own TTL, 60 without one";
    other_types, all, "RFC 1035 5.1, config local_records",
        "TXT, MX, SRV, CAA, NAPTR, SSHFP, TLSA, HTTPS and others are given as they are written";
    unknown_types, all, "RFC 3597 5, config local_records",
        "types without a name are given octet by octet";
    texts, all, "RFC 1035 5.1, config local_records",
        "a TXT record may have several texts, blanks, and octets by their numbers";
    reverse_names, all, "RFC 1035 3.5, config local_records",
        "addresses lead to names by PTR records";
    letter_case_does_not_matter, all, "RFC 4343 3, config local_records",
        "local records are found in any letter case, and the question comes back in the client's own";
    no_data_for_other_types, all, "RFC 2308 2.2, config local_records",
        "other types of a local name are NODATA with a SOA, and nobody is asked";
    names_between, all, "RFC 8020 2, RFC 4592 2.2.2",
        "a name between a wildcard and a local name exists: NODATA, not what the wildcard has";
    names_beside_and_below, all, "config local_records",
        "names above, below and beside local ones are somebody else's";
    wildcards, all, "RFC 4592 2.1.1, config local_records",
        "a wildcard stands for every name below it, however deep, but not for the name above it";
    wildcards_end_at_names, all, "RFC 4592 2.2.1",
        "a wildcard does not stand for a name that is listed, nor for what is below that";
    any_gives_all, all, "config local_records",
        "ANY gives all records of the name";
    aliases_among_them, all, "RFC 1034 3.6.2, config local_records",
        "an alias of an alias of a local name comes with the whole chain";
    aliases_upstream, all, "RFC 1034 3.6.2, config local_records",
        "an alias of a name elsewhere comes with its records, fresh and from the cache";
    aliases_into_the_hosts_file, all, "config local_records, config hosts.file",
        "an alias may lead to a name of the hosts file";
    aliases_to_nowhere, all, "RFC 2308 2.1, RFC 6604 3",
        "an alias of a name that does not exist is NXDOMAIN, with the alias and the SOA";
    aliases_to_blocked_ones, all, "config local_records, config blacklist",
        "an alias that leads to a blocked name is blocked, for the asked name";
    aliases_are_asked_for, all, "RFC 1034 3.6.2",
        "who asks for CNAME gets the alias and nothing more";
    without_recursion, all, "RFC 1034 4.3.1",
        "with RD=0 local records are given; of an alias that leads elsewhere the alias alone";
    before_the_hosts_file, all, "config local_records, config hosts.file",
        "a local record comes before what the hosts file says of the name";
    large_sets_are_truncated, own, "RFC 2181 9, config local_records",
        "records that do not fit into a datagram come by TCP";
    bad_lines_are_refused, own, "cli errors, config local_records",
        "a line that is no record is an error at the start that names it and its line";
    aliases_that_do_not_end_are_refused, own, "cli errors, config local_records",
        "aliases that lead round in circles are an error at the start";
    hosts_may_fall_through, all, "config hosts.fallthrough",
        "with hosts.fallthrough other types of a listed name go upstream, addresses do not";
    local_answers_are_counted, own, "http /metrics",
        "answers from local records are counted";
}

const NXDOMAIN: u16 = 3;

const RECORDS: &[&str] = &[
    "Nas.Home.example. 300 IN A 192.0.2.10",
    "nas.home.example 300 A 192.0.2.11",
    "nas.home.example AAAA 2001:db8::10",
    "1.deep.down.home.example 120 A 192.0.2.12",
    "*.apps.home.example 90 A 192.0.2.13",
    "one.apps.home.example 90 TXT one",
    "short.home.example 40 CNAME longer.home.example.",
    "longer.home.example 50 CNAME nas.home.example",
    "www.home.example 40 CNAME www.example.org.",
    "gone.home.example 40 CNAME gone.example.org.",
    "box-alias.home.example 40 CNAME box.home.example.",
    "ads.home.example 40 CNAME blocked.example.org.",
];

fn text_of(records: &[&str]) -> String {
    let lines = records.iter().map(|line| format!("[=[{line}]=]"));
    format!("local_records = {{ {} }}", lines.collect::<Vec<_>>().join(", "))
}

fn with(upstream: &Upstream, records: &[&str]) -> Settings {
    Settings::with(upstream).section(&text_of(records))
}

fn start(world: &World, upstream: &Upstream) -> Daemon {
    with(upstream, RECORDS).start(world)
}

/// An upstream that knows all names but one.
fn knowing() -> Upstream {
    Upstream::start(|asked| {
        if asked.name().starts_with("gone.") {
            asked.negative(ResponseCode::NXDomain, 300, 200)
        } else {
            asked.address(300, "203.0.113.1")
        }
    })
}

fn addresses(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    let reply = daemon.ask(&Query::a("nas.home.example").edns(1232));
    assert_eq!(reply.answers(), ["A 192.0.2.10", "A 192.0.2.11"]);
    assert!(reply.recursion_available() && reply.ttl() == 300);
    let six = daemon.ask(&Query::new("nas.home.example", RecordType::AAAA));
    assert_eq!((six.answers(), six.ttl()), (vec!["AAAA 2001:db8::10".to_owned()], 60));
    assert_eq!(upstream.count(), 0);
}

fn other_types(world: &World) {
    const CASES: &[(&str, RecordType, &[&[u8]])] = &[
        ("MX 10 mail.example.", RecordType::MX, &[&[0, 10], b"\x04mail\x07example\0"]),
        (
            "SRV 1 2 443 a.example.",
            RecordType::SRV,
            &[&[0, 1, 0, 2, 1, 0xbb], b"\x01a\x07example\0"],
        ),
        ("CAA 128 issue \"ca.example\"", RecordType::CAA, &[&[128, 5], b"issueca.example"]),
        (
            "NAPTR 1 2 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b!\" .",
            RecordType::NAPTR,
            &[&[0, 1, 0, 2], b"\x01u\x07E2U+sip\x0e!^.*$!sip:a@b!\0"],
        ),
        ("TLSA 3 1 1 0aFF01", RecordType::TLSA, &[&[3, 1, 1, 0x0a, 0xff, 1]]),
        ("SSHFP 4 2 0102", RecordType::SSHFP, &[&[4, 2, 1, 2]]),
        ("HINFO PC \"Linux 6\"", RecordType::HINFO, &[b"\x02PC\x07Linux 6"]),
        (
            "HTTPS 1 . port=8443 alpn=h2,h3",
            RecordType::HTTPS,
            &[&[0, 1, 0], &[0, 1, 0, 6, 2, b'h', b'2', 2, b'h', b'3'], &[0, 3, 0, 2, 0x20, 0xfb]],
        ),
        ("SVCB 0 other.example.", RecordType::SVCB, &[&[0, 0], b"\x05other\x07example\0"]),
        ("NS ns.example.", RecordType::NS, &[b"\x02ns\x07example\0"]),
    ];
    let upstream = knowing();
    let owners: Vec<_> = (0..CASES.len()).map(|n| format!("t{n}.home.invalid")).collect();
    let lines: Vec<_> =
        owners.iter().zip(CASES).map(|(owner, case)| format!("{owner}. 77 {}", case.0)).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let daemon = with(&upstream, &lines).start(world);
    let mut client = daemon.client();
    for (owner, (line, qtype, data)) in owners.iter().zip(CASES) {
        assert_eq!(data_of(&mut client, owner, *qtype), (77, data.concat()), "{line}");
    }
    assert_eq!(upstream.count(), 0);
}

/// TTL and data of the only record: the name of each owner is that of the question, and names in the
/// data have no suffix in common with it, so that nothing is compressed.
fn data_of(client: &mut Client, name: &str, qtype: RecordType) -> (u32, Vec<u8>) {
    let query = Query::new(name, qtype);
    client.send(&query.encode());
    let octets = client.receive_octets();
    assert_eq!(octets[6..8], [0, 1], "one answer: {octets:02x?}");
    let record = &octets[12 + query.question().len()..];
    assert_eq!(record[..2], [0xc0, 12], "it belongs to the name of the question");
    assert_eq!(record[2..4], u16::from(qtype).to_be_bytes());
    let ttl = u32::from_be_bytes(record[6..10].try_into().expect("four octets"));
    let length = usize::from(u16::from_be_bytes([record[10], record[11]]));
    (ttl, record[12..12 + length].to_vec())
}

fn unknown_types(world: &World) {
    let upstream = knowing();
    let lines = [
        "a.home.invalid 5 TYPE65280 \\# 3 01 02ff",
        "b.home.invalid 5 TYPE65281 \\# 0",
        "c.home.invalid 5 A \\# 4 c0000207",
    ];
    let daemon = with(&upstream, &lines).start(world);
    let mut client = daemon.client();
    let unknown = RecordType::Unknown;
    let data = data_of(&mut client, "a.home.invalid", unknown(65_280));
    assert_eq!(data, (5, vec![1, 2, 0xff]));
    assert_eq!(data_of(&mut client, "b.home.invalid", unknown(65_281)), (5, Vec::new()));
    assert_eq!(daemon.ask(&Query::a("c.home.invalid")).address(), "192.0.2.7");
}

fn texts(world: &World) {
    let upstream = knowing();
    let line = r#"a.home.invalid TXT "a b" c\;d "" "\255\"" ; a comment"#;
    let daemon = with(&upstream, &[line]).start(world);
    let data = data_of(&mut daemon.client(), "a.home.invalid", RecordType::TXT);
    assert_eq!(data, (60, b"\x03a b\x03c;d\x00\x02\xff\"".to_vec()));
}

fn reverse_names(world: &World) {
    let upstream = knowing();
    let lines = [
        "10.2.0.192.in-addr.arpa. PTR nas.home.example.",
        "1.1.168.192.in-addr.arpa. PTR router.home.example.",
    ];
    let daemon = with(&upstream, &lines).start(world);
    for (name, target) in
        [("10.2.0.192", "nas.home.example."), ("1.1.168.192", "router.home.example.")]
    {
        let reply = daemon.ask(&Query::new(&format!("{name}.in-addr.arpa"), RecordType::PTR));
        assert_eq!(reply.answers(), [format!("PTR {target}")]);
    }
    assert_eq!(upstream.count(), 0);
}

fn letter_case_does_not_matter(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    // `ask` compares the question to the letter.
    let reply = daemon.ask(&Query::a("nAS.hOME.eXAMPLE"));
    assert_eq!(reply.addresses().len(), 2);
    assert_eq!(reply.message.answers[0].name.to_ascii(), "nAS.hOME.eXAMPLE.");
}

fn no_data_for_other_types(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    for qtype in [RecordType::MX, RecordType::HTTPS, RecordType::TXT, RecordType::DS] {
        // The least of the TTLs that the name has.
        daemon.ask(&Query::new("nas.home.example", qtype)).check_negative(0, 60);
    }
    assert_eq!(upstream.count(), 0);
}

fn names_between(world: &World) {
    let upstream = knowing();
    let lines =
        ["*.home.invalid 30 MX 10 mail.example.", "1.deep.down.home.invalid 120 A 192.0.2.12"];
    let daemon = with(&upstream, &lines).start(world);
    for name in ["deep.down.home.invalid", "down.home.invalid"] {
        daemon.ask(&Query::new(name, RecordType::MX)).check_negative(0, 30);
    }
    assert_eq!(daemon.ask(&Query::a("1.deep.down.home.invalid")).address(), "192.0.2.12");
    assert_eq!(upstream.count(), 0);
}

fn names_beside_and_below(world: &World) {
    let upstream = knowing();
    let daemon = with(&upstream, &["nas.home.example A 192.0.2.10"]).start(world);
    for name in ["x.nas.home.example", "home.example", "xnas.home.example", "other.home.example"] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "203.0.113.1", "{name}");
    }
}

fn wildcards(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    for name in ["x.apps.home.example", "X.y.Apps.home.example", "*.apps.home.example"] {
        let reply = daemon.ask(&Query::a(name));
        assert_eq!((reply.address().as_str(), reply.ttl()), ("192.0.2.13", 90), "{name}");
        assert_eq!(reply.message.answers[0].name.to_ascii(), format!("{name}."));
    }
    daemon.ask(&Query::new("x.apps.home.example", RecordType::MX)).check_negative(0, 90);
    assert_eq!(upstream.count(), 0);
    assert_eq!(daemon.ask(&Query::a("apps.home.example")).address(), "203.0.113.1");
}

fn wildcards_end_at_names(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    daemon.ask(&Query::a("one.apps.home.example")).check_negative(0, 90);
    assert_eq!(upstream.count(), 0);
    assert_eq!(daemon.ask(&Query::a("x.one.apps.home.example")).address(), "203.0.113.1");
}

fn any_gives_all(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    let mut answers = daemon.ask(&Query::new("nas.home.example", RecordType::ANY)).answers();
    answers.sort();
    assert_eq!(answers, ["A 192.0.2.10", "A 192.0.2.11", "AAAA 2001:db8::10"]);
    assert_eq!(upstream.count(), 0);
}

fn aliases_among_them(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    let reply = daemon.ask(&Query::a("Short.home.example").edns(1232));
    let expected =
        ["CNAME longer.home.example.", "CNAME nas.home.example.", "A 192.0.2.10", "A 192.0.2.11"];
    assert_eq!(reply.answers(), expected);
    let owners: Vec<_> = reply.message.answers.iter().map(|one| one.name.to_ascii()).collect();
    assert_eq!(owners[0], "Short.home.example.");
    assert_eq!(owners[1..], ["longer.home.example.", "nas.home.example.", "nas.home.example."]);
    let ttls: Vec<_> = reply.message.answers.iter().map(|one| one.ttl).collect();
    assert_eq!(ttls, [40, 50, 300, 300]);
    // There is no MX, and that holds for where the aliases lead.
    let reply = daemon.ask(&Query::new("longer.home.example", RecordType::MX));
    assert_eq!((reply.rcode(), reply.answers()), (0, vec!["CNAME nas.home.example.".to_owned()]));
    assert!(reply.soa().is_some());
    assert_eq!(upstream.count(), 0);
}

fn aliases_upstream(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("WWW.home.example"));
        assert_eq!(reply.answers(), ["CNAME www.example.org.", "A 203.0.113.1"]);
        assert_eq!(reply.message.answers[0].name.to_ascii(), "WWW.home.example.");
        assert_eq!(reply.message.answers[1].name.to_ascii(), "www.example.org.");
        assert!(reply.ttl() <= 40);
    }
    // Under its own name the target is the same entry.
    assert_eq!(daemon.ask(&Query::a("www.example.org")).answers(), ["A 203.0.113.1"]);
    let asked: Vec<_> = upstream.asked().iter().map(|asked| asked.name()).collect();
    assert_eq!(asked, ["www.example.org."]);
}

fn aliases_into_the_hosts_file(world: &World) {
    let upstream = knowing();
    let daemon = with(&upstream, RECORDS)
        .file("hosts", "192.0.2.77 box.home.example\n")
        .section(r#"hosts = { file = "hosts" }"#)
        .start(world);
    let reply = daemon.ask(&Query::a("box-alias.home.example"));
    assert_eq!(reply.answers(), ["CNAME box.home.example.", "A 192.0.2.77"]);
    assert_eq!(upstream.count(), 0);
}

fn aliases_to_nowhere(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("gone.home.example"));
        assert_eq!(reply.rcode(), NXDOMAIN);
        assert_eq!(reply.answers(), ["CNAME gone.example.org."]);
        assert!(reply.negative_ttl().is_some_and(|ttl| ttl <= 200), "{:?}", reply.message);
    }
    assert_eq!(upstream.count(), 1);
}

fn aliases_to_blocked_ones(world: &World) {
    let upstream = knowing();
    let daemon = with(&upstream, RECORDS)
        .section(r#"blacklist = { domains = { "blocked.example.org" }, mode = "zero" }"#)
        .start(world);
    let reply = daemon.ask(&Query::a("ads.home.example").edns(1232));
    assert_eq!((reply.answers(), reply.extended_error().0), (vec!["A 0.0.0.0".to_owned()], 15));
    assert_eq!(reply.message.answers[0].name.to_ascii(), "ads.home.example.");
    assert_eq!(upstream.count(), 0);
}

fn aliases_are_asked_for(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    for (name, target) in [
        ("www.home.example", "CNAME www.example.org."),
        ("short.home.example", "CNAME longer.home.example."),
    ] {
        let reply = daemon.ask(&Query::new(name, RecordType::CNAME));
        assert_eq!(reply.answers(), [target]);
    }
    assert_eq!(upstream.count(), 0);
}

fn without_recursion(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    let ask = |name: &str| daemon.ask(&Query::a(name).without_rd());
    assert_eq!(ask("nas.home.example").addresses().len(), 2);
    assert_eq!(ask("short.home.example").message.answers.len(), 4);
    let reply = ask("www.home.example");
    assert_eq!((reply.rcode(), reply.answers()), (0, vec!["CNAME www.example.org.".to_owned()]));
    assert_eq!(upstream.count(), 0);
}

fn before_the_hosts_file(world: &World) {
    let upstream = knowing();
    let daemon = with(&upstream, RECORDS)
        .file("hosts", "192.0.2.77 nas.home.example\n192.0.2.78 other.home.example\n")
        .section(r#"hosts = { file = "hosts" }"#)
        .start(world);
    let reply = daemon.ask(&Query::a("nas.home.example"));
    assert_eq!(reply.answers(), ["A 192.0.2.10", "A 192.0.2.11"]);
    assert_eq!(daemon.ask(&Query::a("other.home.example")).address(), "192.0.2.78");
}

fn large_sets_are_truncated(world: &World) {
    let upstream = knowing();
    let text = "x".repeat(250);
    let lines: Vec<_> = (0..10).map(|n| format!("big.home.example TXT {n}{text}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let daemon = with(&upstream, &lines).start(world);
    let query = Query::new("big.home.example", RecordType::TXT).edns(1232);
    assert!(daemon.udp(&query).truncated());
    let reply = daemon.tcp(&query);
    assert_eq!((reply.truncated(), reply.message.answers.len()), (false, 10));
}

fn bad_lines_are_refused(world: &World) {
    let upstream = knowing();
    let lines = [
        ("$ORIGIN example.", "directives are for zone files"),
        ("$INCLUDE /etc/passwd", "directives are for zone files"),
        ("@ A 192.0.2.1", "there is no origin"),
        ("a.example. A 192.0.2.256", "not an ipv4 address"),
        ("a.example. A", "is missing"),
        ("a.example. AAA 192.0.2.1", "unknown type"),
        ("a.example. CH A 192.0.2.1", "class"),
        ("a.example. 60 TXT \"open", "quote"),
        ("a..example. A 192.0.2.1", "not a name"),
        ("a.example. DNAME b.example.", "not supported"),
        ("a.example. ANY \\# 0", "no record has"),
        ("a.example. A \\# 3 010203", "octets"),
        ("b.example. CNAME c.example.", ""),
        ("b.example. A 192.0.2.1", "beside"),
    ];
    let records: Vec<_> = lines.iter().map(|(line, _)| format!("[=[{line}]=],\n")).collect();
    let section = format!("local_records = {{\n{}}}", records.concat());
    let ended = Settings::with(&upstream).section(&section).fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let of_line = |number: usize| {
        let path = format!("local_records[{}]: ", number + 1);
        ended.stderr.lines().find(move |line| line.contains(&path))
    };
    let first = of_line(0).expect("an error");
    let place = first.split("test.lua:").nth(1).and_then(|rest| rest.split(':').next());
    let start: usize = place.and_then(|line| line.parse().ok()).expect("its line in the file");
    for (number, (line, words)) in lines.iter().enumerate() {
        if words.is_empty() {
            assert!(of_line(number).is_none(), "{line}:\n{}", ended.stderr);
            continue;
        }
        let error = of_line(number).unwrap_or_else(|| panic!("{line}:\n{}", ended.stderr));
        assert!(error.contains(words), "{line}: {error}");
        assert!(error.contains(&format!("test.lua:{}:", start + number)), "{line}: {error}");
    }
}

fn aliases_that_do_not_end_are_refused(world: &World) {
    let upstream = knowing();
    let lines = ["a.example. CNAME b.example.", "b.example. CNAME a.example."];
    let ended = with(&upstream, &lines).fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("local_records[1]"), "{}", ended.stderr);
    assert!(ended.stderr.contains("aliases"), "{}", ended.stderr);
}

fn hosts_may_fall_through(world: &World) {
    let upstream = Upstream::start(|asked| asked.negative(ResponseCode::NXDomain, 300, 300));
    let daemon = Settings::with(&upstream)
        .file("hosts", "192.0.2.77 box.home.example\n")
        .section(r#"hosts = { file = "hosts", fallthrough = true }"#)
        .start(world);
    assert_eq!(daemon.ask(&Query::a("box.home.example")).address(), "192.0.2.77");
    daemon.ask(&Query::new("box.home.example", RecordType::AAAA)).check_negative(0, 60);
    assert_eq!(upstream.count(), 0);
    let reply = daemon.ask(&Query::new("box.home.example", RecordType::MX));
    assert_eq!((reply.rcode(), upstream.count()), (NXDOMAIN, 1), "it is asked upstream");
}

fn local_answers_are_counted(world: &World) {
    let upstream = knowing();
    let daemon = start(world, &upstream);
    daemon.udp(&Query::a("nas.home.example"));
    daemon.udp(&Query::new("nas.home.example", RecordType::MX));
    daemon.udp(&Query::a("www.example.org"));
    assert!((daemon.metric("balancedns_local_answers_total") - 2.0).abs() < 0.1);
}
