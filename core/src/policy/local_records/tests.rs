//! Tests of [`super`]: what lines say, what questions get, and that hickory-proto reads the same.

use hickory_proto::rr::{RData, RecordType as HickoryType};
use hickory_proto::serialize::binary::BinEncodable;
use proptest::prelude::*;

use super::*;

fn records(lines: &[&str]) -> LocalRecords {
    let mut builder = LocalRecords::builder();
    for line in lines {
        builder.insert(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    builder.build()
}

fn wire(name: &str) -> Vec<u8> {
    Name::parse(name).unwrap().as_wire().to_vec()
}

/// An answer as words: `ttl type hex`, `alias`, `nodata`, `none`.
fn ask(records: &LocalRecords, name: &str, record_type: &str) -> String {
    let record_type = RecordType::from_name(record_type).unwrap();
    match records.lookup(&wire(name), record_type) {
        LocalAnswer::NotListed => "none".to_owned(),
        LocalAnswer::NoData { ttl } => format!("nodata {ttl}"),
        LocalAnswer::Alias { target, ttl } => {
            format!("alias {} {ttl}", Name::from_wire(target).unwrap())
        }
        LocalAnswer::Records(records) => {
            assert!(!records.is_empty());
            let shown: Vec<String> = records.iter().map(show).collect();
            shown.join(", ")
        }
    }
}

fn show(record: &LocalRecord<'_>) -> String {
    assert_eq!(record.owner, Owner::Question);
    let LocalData::Raw(data) = record.data else { panic!("{record:?}") };
    format!("{} {} {}", record.ttl, record.record_type, data_encoding::HEXLOWER.encode(data))
}

/// The data of one record at `a.example`.
fn data(record: &str) -> Result<Vec<u8>, String> {
    let line = Line::parse(&format!("a.example. 60 IN {record}"));
    line.map(|line| line.data.to_vec()).map_err(|error| error.to_string())
}

#[test]
fn ttl_and_class_stand_in_any_order_or_not_at_all() {
    for (line, ttl) in [
        ("A.Example. 300 IN A 192.0.2.1", 300),
        ("a.example IN 300 a 192.0.2.1", 300),
        ("a.example class1 A 192.0.2.1", 60),
        ("a.example\t1h30m\ttype1\t192.0.2.1 ; the server", 5_400),
        ("a.example 0 A ( ; in brackets\n 192.0.2.1\n)", 0),
        ("a.example A \\# 4 c0000201", 60),
        ("a.example 2147483647 TYPE1 \\# 4 C0 0002 01 \n", 2_147_483_647),
    ] {
        let records = records(&[line]);
        assert_eq!(ask(&records, "a.example", "A"), format!("{ttl} A c0000201"), "{line}");
    }
}

#[test]
fn lines_that_are_no_record_say_what_is_wrong() {
    for (line, message) in [
        ("", "holds no record"),
        (" ; nothing\n", "holds no record"),
        (" 60 IN A 192.0.2.1", "begins with a blank, so that it has no owner"),
        ("$TTL 60", "begins with $: directives are for zone files"),
        ("@ A 192.0.2.1", "has the owner @, but there is no origin"),
        ("a.example. TXT \"a", "has a quote or a bracket without the other one"),
        ("a.example. ( A 192.0.2.1", "has a quote or a bracket without the other one"),
        ("a.example. ) A 192.0.2.1", "has a quote or a bracket without the other one"),
        ("a.example. A 192.0.2.1\nb.example. A 192.0.2.1", "has more than one line"),
        ("a..b A 192.0.2.1", "has an owner that is not a name: a label is empty"),
        ("a.example 2147483648 A 192.0.2.1", "has the bad ttl \"2147483648\""),
        ("a.example 1y A 192.0.2.1", "has the bad ttl \"1y\""),
        ("a.example CH A 192.0.2.1", "has the class CH"),
        ("a.example class3 A 192.0.2.1", "has the class CLASS3"),
        ("a.example", "has no type"),
        ("a.example 60 IN", "has no type"),
        ("a.example 60 60 A 192.0.2.1", "has the unknown type \"60\""),
        ("a.example B 192.0.2.1", "has the unknown type \"B\""),
        ("a.example ANY \\# 0", "has the type ANY, which no record has"),
        ("a.example TYPE0 \\# 0", "has the type TYPE0, which no record has"),
        ("a.example OPT \\# 0", "has the type OPT, which no record has"),
        ("a.example AXFR \\# 0", "has the type AXFR, which no record has"),
        ("a.example DNAME b.example", "has the type DNAME, which is not supported"),
        ("a.example CNAME A.Example.", "is an alias of itself"),
    ] {
        let error = LocalRecords::builder().insert(line).expect_err(line);
        assert_eq!(error.to_string(), message, "{line:?}");
        assert!(!error.expected().is_empty(), "{line:?}");
    }
}

/// Octets by hand, from the RFCs of the types.
#[test]
fn data_of_each_type() {
    let long = "x".repeat(255);
    let cases: &[(&str, &[&[u8]])] = &[
        ("AAAA 2001:db8::1", &[&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]),
        ("PTR Office\\032Printer.Example.", &[b"\x0eOffice Printer\x07Example\0"]),
        ("NS .", &[b"\0"]),
        ("MX 10 mail.example", &[&[0, 10], b"\x04mail\x07example\0"]),
        ("SRV 1 2 443 A.example.", &[&[0, 1, 0, 2, 1, 0xbb], b"\x01A\x07example\0"]),
        (
            "SOA ns.example. Me.example. 7 1h 2 1w 300",
            &[
                b"\x02ns\x07example\0\x02Me\x07example\0",
                &[0, 0, 0, 7, 0, 0, 0x0e, 0x10, 0, 0, 0, 2, 0, 9, 0x3a, 0x80, 0, 0, 1, 44],
            ],
        ),
        ("TXT \"a b\" c\\;d \"\" \"\\255\\\"\"", &[b"\x03a b\x03c;d\x00\x02\xff\""]),
        ("TXT \"a\"\"b\"", &[b"\x01a\x01b"]),
        ("TXT \u{e9}", &[b"\x02\xc3\xa9"]),
        ("SPF \"v=spf1 -all\"", &[b"\x0bv=spf1 -all"]),
        ("HINFO PC \"Linux 6\"", &[b"\x02PC\x07Linux 6"]),
        (
            "NAPTR 1 2 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b!\" .",
            &[&[0, 1, 0, 2], b"\x01u\x07E2U+sip\x0e!^.*$!sip:a@b!\0"],
        ),
        ("URI 1 2 \"https://a.example/\"", &[&[0, 1, 0, 2], b"https://a.example/"]),
        ("CAA 128 issue \"ca.example; x=y\"", &[&[128, 5], b"issueca.example; x=y"]),
        ("TLSA 3 1 1 0aFF 01", &[&[3, 1, 1, 0x0a, 0xff, 1]]),
        ("SMIMEA 3 0 0 ab", &[&[3, 0, 0, 0xab]]),
        ("SSHFP 4 2 0102", &[&[4, 2, 1, 2]]),
        ("DS 1 8 2 0102", &[&[0, 1, 8, 2, 1, 2]]),
        ("CERT 1 2 8 AQID BA==", &[&[0, 1, 0, 2, 8, 1, 2, 3, 4]]),
        ("OPENPGPKEY AQID", &[&[1, 2, 3]]),
        ("CSYNC 7 3 A NS", &[&[0, 0, 0, 7, 0, 3, 0, 1, 0x60]]),
        ("HTTPS 0 other.example.", &[&[0, 0], b"\x05other\x07example\0"]),
        (
            "HTTPS 1 . port=8443 alpn=h2,h3 mandatory=port,alpn",
            &[
                &[0, 1, 0],
                &[0, 0, 0, 4, 0, 1, 0, 3],
                &[0, 1, 0, 6, 2, b'h', b'2', 2, b'h', b'3'],
                &[0, 3, 0, 2, 0x20, 0xfb],
            ],
        ),
        ("SVCB 1 . ipv4hint=\"192.0.2.1\"", &[&[0, 1, 0, 0, 4, 0, 4, 192, 0, 2, 1]]),
        ("TYPE65280 \\# 3 01 0203", &[&[1, 2, 3]]),
        ("TYPE65280 \\# 0", &[]),
        ("RRSIG \\# 1 00", &[&[0]]),
    ];
    for (record, expected) in cases {
        assert_eq!(data(record), Ok(expected.concat()), "{record}");
    }
    assert_eq!(data(&format!("TXT {long}")).map(|data| data.len()), Ok(256));
}

#[test]
fn data_that_do_not_suit_the_type() {
    let long = format!("TXT {}", "x".repeat(256));
    let huge = format!("TXT {}", "x ".repeat(40_000));
    for (record, message) in [
        ("A", "type A: an ipv4 address is missing"),
        ("A 192.0.2", "type A: \"192.0.2\" is not an ipv4 address"),
        ("A 192.0.2.1 192.0.2.2", "type A: there is \"192.0.2.2\" after its last field"),
        ("AAAA 192.0.2.1", "type AAAA: \"192.0.2.1\" is not an ipv6 address"),
        ("CNAME @", "type CNAME: \"@\" is not an absolute name"),
        ("CNAME a..b", "type CNAME: \"a..b\" is not a name: a label is empty"),
        ("MX mail.example", "type MX: \"mail.example\" is not a number up to 65535"),
        ("MX +1 mail.example", "type MX: \"+1\" is not a number up to 65535"),
        ("MX 65536 mail.example", "type MX: \"65536\" is not a number up to 65535"),
        ("MX 10", "type MX: a name is missing"),
        ("TXT", "type TXT: one or more texts is missing"),
        ("TXT \\9", "type TXT: \"\\\\9\" is not a text with escapes such as \\; or \\059"),
        (&long, "type TXT: a text has 256 octets, the limit is 255"),
        (&huge, "type TXT: there are 80000 octets of data"),
        ("SSHFP 1 2 0g", "type SSHFP: \"0g\" is not octets in base 16"),
        ("CERT 1 2 3 A", "type CERT: \"A\" is not octets in base 64"),
        ("SOA a. b. 1 1y 1 1 1", "type SOA: \"1y\" is not a time in seconds"),
        ("A \\# 3 010203", "type A: the octets are not of this type"),
        ("A \\# 5 0102030405", "type A: the octets are not of this type"),
        ("CNAME \\# 2 c000", "type CNAME: the octets are not of this type"),
        ("MX \\# 5 000a01610c", "type MX: the octets are not of this type"),
        ("A \\# 4 0102", "type A: there are 2 octets of data"),
        ("A \\# 65536 0102", "type A: \"65536\" is not a number up to 65535"),
        ("A \\#", "type A: a length is missing"),
        ("LOC 1 2 3", "type LOC: there is no text form of this type"),
        ("TYPE65280 1", "type TYPE65280: there is no text form of this type"),
        ("HTTPS 1 . alpn=a\\,b", "type HTTPS: escapes are not supported here"),
        ("HTTPS 1 . port=1 port=2", "type HTTPS: the parameter port is there twice"),
        ("HTTPS 1 . mandatory=port", "type HTTPS: the parameter port is mandatory, but not there"),
        ("HTTPS", "type HTTPS: everything is missing"),
    ] {
        let message = format!("has data that are not those of {message}");
        assert_eq!(data(record), Err(message), "{record:.60}");
    }
    assert!(data("HTTPS 1 . nonsense=1").is_err() && data("HTTPS x .").is_err());
}

#[test]
fn expected_data_are_described() {
    let expected = |line: &str| Line::parse(line).expect_err(line).expected();
    assert_eq!(
        expected("a.example MX"),
        "a number up to 65535, a name; or \\# LENGTH OCTETS, in base 16 (RFC 3597)"
    );
    assert_eq!(expected("a.example LOC 1"), "\\# LENGTH OCTETS, in base 16 (RFC 3597)");
}

#[test]
fn records_by_name_and_type() {
    let records = records(&[
        "Nas.Example. 300 A 192.0.2.1",
        "nas.example. 100 A 192.0.2.2",
        "nas.example. 300 A 192.0.2.1",
        "nas.example. 50 TXT hello",
        "1.2.0.192.in-addr.arpa. PTR nas.example.",
    ]);
    let addresses = "100 A c0000201, 100 A c0000202";
    assert_eq!(ask(&records, "NAS.example", "A"), addresses, "once each, with one TTL");
    assert_eq!(ask(&records, "nas.example", "AAAA"), "nodata 50");
    assert_eq!(ask(&records, "nas.example", "ANY"), format!("{addresses}, 50 TXT 0568656c6c6f"));
    assert!(ask(&records, "1.2.0.192.in-addr.arpa", "PTR").starts_with("60 PTR 03"));
    for other in ["example", ".", "a.nas.example", "2.0.192.in-addr.arpa", "anas.example"] {
        assert_eq!(ask(&records, other, "A"), "none", "{other}: it is somebody else's");
    }
    let none = LocalRecords::default();
    assert!(none.is_empty() && !records.is_empty());
    assert_eq!(ask(&none, "nas.example", "A"), "none");
}

#[test]
fn wildcards_rfc_4592() {
    let records = records(&[
        "*.example. 300 MX 10 host1.example.",
        "sub.*.example. 300 TXT inner",
        "host1.example. 300 A 192.0.2.1",
        "_ssh._tcp.host1.example. 300 SRV 0 0 22 host1.example.",
        "*.deep.host2.example. 200 A 192.0.2.2",
    ]);
    let mx = "300 MX 000a05686f737431076578616d706c6500";
    // The examples of section 2.2.1.
    assert_eq!(ask(&records, "host3.example", "MX"), mx);
    assert_eq!(ask(&records, "host3.example", "A"), "nodata 300");
    assert_eq!(ask(&records, "foo.bar.example", "MX"), mx);
    assert_eq!(ask(&records, "host1.example", "MX"), "nodata 300");
    assert_eq!(ask(&records, "*.example", "MX"), mx);
    assert_eq!(ask(&records, "sub.*.example", "MX"), "nodata 300");
    assert_eq!(ask(&records, "ghost.*.example", "MX"), "none", "below the wildcard itself");
    assert_eq!(ask(&records, "_telnet._tcp.host1.example", "SRV"), "none");
    // Names between a wildcard and what is listed exist (section 2.2.2).
    assert_eq!(ask(&records, "_tcp.host1.example", "MX"), "nodata 300");
    assert_eq!(ask(&records, "host2.example", "MX"), "nodata 300");
    assert_eq!(ask(&records, "deep.host2.example", "A"), "nodata 300");
    assert_eq!(ask(&records, "a.b.deep.host2.example", "A"), "200 A c0000202");
    assert_eq!(ask(&records, "a.host2.example", "MX"), "none", "its closest encloser has none");
    assert_eq!(ask(&records, "example", "MX"), "none", "a wildcard is not its own parent");
    let all = self::records(&["*. A 192.0.2.1", "a.b. A 192.0.2.2"]);
    assert_eq!(ask(&all, "www.example", "A"), "60 A c0000201");
    assert_eq!(ask(&all, "b", "A"), "nodata 60");
    assert_eq!(ask(&all, ".", "A"), "none");
}

#[test]
fn aliases() {
    let records = records(&[
        "www.example. 300 CNAME Web.Example.",
        "*.alias.example. CNAME web.example.",
        "web.example. A 192.0.2.1",
    ]);
    let cname = "CNAME 03576562074578616d706c6500";
    for record_type in ["A", "HTTPS", "TXT"] {
        assert_eq!(ask(&records, "www.example", record_type), "alias web.example. 300");
        assert_eq!(ask(&records, "x.alias.example", record_type), "alias web.example. 60");
    }
    for record_type in ["CNAME", "ANY"] {
        assert_eq!(ask(&records, "www.example", record_type), format!("300 {cname}"));
    }
}

#[test]
fn an_alias_stands_alone() {
    for (first, second) in [
        ("a.example A 192.0.2.1", "A.example CNAME b.example"),
        ("a.example CNAME b.example", "a.example A 192.0.2.1"),
        ("*.a.example CNAME b.example", "*.a.example CNAME c.example"),
    ] {
        let mut builder = LocalRecords::builder();
        let target = builder.insert(first).unwrap();
        assert_eq!(target.is_some(), first.contains("CNAME"), "{first}");
        assert_eq!(builder.insert(second), Err(LocalRecordError::AliasNotAlone), "{second}");
        assert!(builder.insert(first).is_ok(), "the same again");
    }
}

#[test]
fn aliases_that_do_not_end_are_known() {
    let records = records(&[
        "a.example CNAME b.example",
        "b.example CNAME c.example",
        "c.example A 192.0.2.1",
        "d.example CNAME e.example",
        "e.example CNAME d.example",
        "*.lan CNAME gw.lan",
        "out.example CNAME elsewhere.test",
    ]);
    let is_long = |hops, name: &str| records.is_alias_longer_than(hops, &wire(name));
    assert!(!is_long(2, "a.example") && is_long(1, "a.example"));
    assert!(!is_long(0, "c.example") && !is_long(1, "out.example"));
    assert!(is_long(100, "d.example") && is_long(100, "x.lan"));
}

#[test]
fn records_of_a_name_are_bounded() {
    let mut builder = LocalRecords::builder();
    for last in 0..RECORDS_PER_TYPE {
        builder.insert(&format!("a.example A 192.0.2.{last}")).unwrap();
    }
    let one_more = builder.insert("a.example A 198.51.100.1");
    assert_eq!(one_more, Err(LocalRecordError::ManyRecords { limit: RECORDS_PER_TYPE }));
    assert_eq!(builder.insert("a.example A 192.0.2.1"), Ok(None), "it is there already");
    assert_eq!(builder.insert("a.example AAAA ::1"), Ok(None));
    let long = |number: usize| {
        let texts = format!("\"{}\" ", "x".repeat(255)).repeat(15);
        format!("b.example TXT {number} {texts}")
    };
    let fitting = OCTETS_PER_NAME / (15 * 256 + 2 + RECORD_OCTETS);
    for number in 0..fitting {
        builder.insert(&long(number)).unwrap();
    }
    let error = builder.insert(&long(fitting));
    assert_eq!(error, Err(LocalRecordError::ManyOctets { limit: OCTETS_PER_NAME }));
}

/// The same by comparing labels, from the root down.
fn naive(owners: &[String], name: &str) -> Option<String> {
    fn labels(name: &str) -> Vec<&str> {
        name.split('.').rev().collect()
    }
    let exists = |name: &[&str]| owners.iter().any(|owner| labels(owner).starts_with(name));
    let name = labels(name);
    if owners.iter().any(|owner| labels(owner) == name) {
        return Some(name.into_iter().rev().collect::<Vec<_>>().join("."));
    }
    if exists(&name) {
        return None;
    }
    let encloser = (1..name.len()).rev().find(|&length| exists(&name[..length]))?;
    let wildcard = [&name[..encloser], &["*"]].concat();
    let wildcard = owners.iter().find(|owner| labels(owner) == wildcard)?;
    Some(wildcard.clone())
}

proptest! {
    #[test]
    fn any_line_is_survived(line in "\\PC{0,60}") {
        if let Err(error) = LocalRecords::builder().insert(&line) {
            prop_assert!(!error.to_string().is_empty() && !error.expected().is_empty());
        }
    }

    #[test]
    fn any_data_are_survived(
        record_type in prop::sample::select(vec![
            "A", "MX", "SOA", "TXT", "CAA", "HTTPS", "SVCB", "CSYNC", "CERT", "TYPE5", "NAPTR",
        ]),
        words in prop::collection::vec(
            prop::sample::select(vec![
                "1", "65536", "a.example", "\"", "\"a b\"", "\\", "\\#", "4", "01020304", "alpn=h2",
                "mandatory=alpn", "(", ")", ";", "\n", "@", "$", "AQID", "port=", "ech=", "key7=\"\"",
                "ipv6hint=::1", "\u{e9}", "=",
            ]),
            0..8,
        ),
    ) {
        let line = format!("a.example. 60 IN {record_type} {}", words.join(" "));
        let mut builder = LocalRecords::builder();
        if builder.insert(&line).is_ok() {
            prop_assert!(!builder.build().is_empty());
        }
    }

    /// Another reader of plain data reads the same; it lower-cases names.
    #[test]
    fn agrees_with_hickory(
        record in prop_oneof![
            (any::<u16>(), "([a-z]{1,5}\\.){1,3}").prop_map(|(n, name)| format!("MX {n} {name}")),
            (any::<[u16; 3]>(), "([a-z]{1,5}\\.){1,3}")
                .prop_map(|([a, b, c], name)| format!("SRV {a} {b} {c} {name}")),
            prop::collection::vec("[a-z]{1,9}", 1..4).prop_map(|all| format!("TXT {}", all.join(" "))),
            (any::<[u8; 3]>(), "([0-9a-f]{2}){1,9}")
                .prop_map(|([a, b, c], hex)| format!("TLSA {a} {b} {c} {hex}")),
            (any::<[u32; 5]>(), "([a-z]{1,5}\\.){1,3}").prop_map(|(n, name)| {
                let [a, b, c, d, e] = n.map(|n| n >> 1);
                format!("SOA {name} me.{name} {a} {b} {c} {d} {e}")
            }),
            (any::<bool>(), "[a-z]{1,9}").prop_map(|(is_critical, value)| {
                format!("CAA {} issue {value}", u8::from(is_critical) << 7)
            }),
            any::<std::net::Ipv6Addr>().prop_map(|ip| format!("AAAA {ip}")),
        ],
    ) {
        let (record_type, text) = record.split_once(' ').unwrap();
        let number = RecordType::from_name(record_type).unwrap().0;
        let other = RData::try_from_str(HickoryType::from(number), text).unwrap();
        let mut octets = Vec::new();
        let mut encoder = hickory_proto::serialize::binary::BinEncoder::new(&mut octets);
        encoder.set_name_encoding(hickory_proto::serialize::binary::NameEncoding::Uncompressed);
        other.emit(&mut encoder).unwrap();
        prop_assert_eq!(data(&record), Ok(octets));
    }

    #[test]
    fn agrees_with_comparing_labels(
        owners in prop::collection::vec("(\\*\\.)?[ab]{1,2}(\\.[ab]){0,3}", 1..8),
        name in "[ab]{1,2}(\\.[ab]){0,4}",
    ) {
        let mut builder = LocalRecords::builder();
        for owner in &owners {
            builder.insert(&format!("{owner}. TXT {}", owner.replace('*', "w"))).unwrap();
        }
        let records = builder.build();
        let found = match records.lookup(&wire(&name), RecordType::TXT) {
            LocalAnswer::Records(records) => {
                let LocalData::Raw(data) = records[0].data else { panic!("{records:?}") };
                Some(String::from_utf8(data[1..].to_vec()).unwrap())
            }
            LocalAnswer::NotListed | LocalAnswer::NoData { .. } => None,
            answer @ LocalAnswer::Alias { .. } => panic!("{answer:?}"),
        };
        prop_assert_eq!(found, naive(&owners, &name).map(|owner| owner.replace('*', "w")));
    }
}
