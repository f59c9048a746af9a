//! What results mean, as JSON says them; tables of Lua become the same fields.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::policy::PolicyQuestion;
use crate::transport::Transport;

fn decoded(text: &str) -> PolicyVerdict {
    decode_json(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    match decode_json(text.as_bytes()) {
        Err(PolicyError::Result(error)) => error,
        other => panic!("{text}: {other:?}"),
    }
}

fn action(action: PolicyAction) -> PolicyVerdict {
    PolicyVerdict { action, ..PolicyVerdict::default() }
}

#[test]
fn actions_have_names_in_any_letter_case() {
    for (text, expected) in [
        ("FORWARD", PolicyAction::Forward),
        ("Block", PolicyAction::Block),
        ("drop", PolicyAction::Drop),
        ("truncate", PolicyAction::Truncate),
        ("tC", PolicyAction::Truncate),
    ] {
        assert_eq!(decoded(&format!("\"{text}\"")), action(expected.clone()));
        assert_eq!(decoded(&format!(" {{\"action\": \"{text}\"}}\n")), action(expected));
    }
}

#[test]
fn rewrites_have_a_name_and_perhaps_a_type() {
    let name = Name::parse("new.example").unwrap();
    let rewrite = |record_type| action(PolicyAction::Rewrite { name: name.clone(), record_type });
    let text = r#"{"action":"REWRITE","rewrite_domain":"New.Example"}"#;
    assert_eq!(decoded(text), rewrite(None));
    for record_type in [r#""AAAA""#, r#""aaaa""#, r#""TYPE28""#, "28", "28.0"] {
        let text = format!(
            r#"{{"action":"REWRITE","rewrite_domain":"new.example.","rewrite_type":{record_type}}}"#
        );
        assert_eq!(decoded(&text), rewrite(Some(RecordType::AAAA)));
    }
}

#[test]
fn local_data_has_addresses_of_both_families() {
    let text = r#"{"action":"LOCAL_DATA","local_data":
        {"ip":"192.0.2.1","ips":["2001:db8::1","192.0.2.2","192.0.2.1","::ffff:192.0.2.3"]}}"#;
    let v4 = vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
    let v6 = vec!["2001:db8::1".parse().unwrap(), "::ffff:192.0.2.3".parse().unwrap()];
    assert_eq!(decoded(text), action(PolicyAction::LocalData { ttl: 60, v4, v6 }));
    let text = r#"{"action":"LOCAL_DATA","local_data":{"ttl":2147483647,"ip":"192.0.2.1"}}"#;
    let v4 = vec![Ipv4Addr::new(192, 0, 2, 1)];
    let v6 = Vec::new();
    assert_eq!(decoded(text), action(PolicyAction::LocalData { ttl: TTL_MAX, v4, v6 }));
}

#[test]
fn what_goes_on_may_choose_upstreams_and_bound_ttls() {
    let text = r#"{"action":"FORWARD","upstream":"one","min_ttl":5,"max_ttl":60}"#;
    let expected = PolicyVerdict {
        action: PolicyAction::Forward,
        choice: Some(Choice::Upstream("one".into())),
        ttl: TtlLimits { min: 5, max: 60 },
    };
    assert_eq!(decoded(text), expected);
    let text = r#"{"action":"REWRITE","rewrite_domain":"a.","pool":"two"}"#;
    assert_eq!(decoded(text).choice, Some(Choice::Pool("two".into())));
    assert_eq!(decoded(r#"{"action":"FORWARD","max_ttl":0}"#).ttl, TtlLimits { min: 0, max: 0 });
}

#[test]
fn empty_fields_are_not_there() {
    let text = r#"{"action":"FORWARD","rewrite_domain":"","rewrite_type":null,"local_data":{},
        "upstream":"","pool":null}"#;
    assert_eq!(decoded(text), PolicyVerdict::default());
    let text = r#"{"action":"LOCAL_DATA","local_data":{"ip":"","ips":["192.0.2.1"],"ttl":null}}"#;
    assert!(matches!(decoded(text).action, PolicyAction::LocalData { ttl: 60, .. }));
}

/// Results that are none, and what is said of them.
const ERRORS: &[(&str, &str)] = &[
    ("", "nothing was written"),
    (" \n", "nothing was written"),
    ("null", "nothing instead of an action's name or a table with an action"),
    ("true", "a boolean instead of an action's name or a table with an action"),
    ("5", "a number instead of an action's name or a table with an action"),
    ("[]", "a list instead of an action's name or a table with an action"),
    ("{}", "action is missing"),
    (r#"{"action":null}"#, "action is missing"),
    (r#"{"action":""}"#, "action is missing"),
    (r#"{"action":5}"#, "action is a number instead of a text"),
    (r#"{"action":["BLOCK"]}"#, "action is a list instead of a text"),
    (r#""""#, "\"\" is no action"),
    (r#""allow""#, "\"allow\" is no action"),
    (r#""blok""#, "\"blok\" is no action (did you mean BLOCK?)"),
    (r#""BLOCK ""#, "\"BLOCK \" is no action (did you mean BLOCK?)"),
    (r#""\u001b[31m""#, "\"\\u{1b}[31m\" is no action"),
    (r#"{"action":"BLOCK","ttl":5}"#, "\"ttl\" is no field of it"),
    (
        r#"{"action":"BLOCK","Action":"BLOCK"}"#,
        "\"Action\" is no field of it (did you mean action?)",
    ),
    (r#"{"action":"BLOCK","action":"FORWARD"}"#, "action is there twice"),
    (r#"{"action":null,"action":"BLOCK"}"#, "action is there twice"),
    (r#"{"action":"REWRITE"}"#, "rewrite_domain is missing"),
    (
        r#"{"action":"REWRITE","rewrite_domain":"a..b"}"#,
        "rewrite_domain \"a..b\": a label is empty",
    ),
    (r#"{"action":"REWRITE","rewrite_domain":1}"#, "rewrite_domain is a number instead of a text"),
    (
        r#"{"action":"REWRITE","rewrite_domain":"a.","rewrite_type":0}"#,
        "rewrite_type is a number instead of a type's name or 1 to 65535",
    ),
    (
        r#"{"action":"REWRITE","rewrite_domain":"a.","rewrite_type":65536}"#,
        "rewrite_type is a number instead of a type's name or 1 to 65535",
    ),
    (
        r#"{"action":"REWRITE","rewrite_domain":"a.","rewrite_type":"TYPE0"}"#,
        "rewrite_type is \"TYPE0\" instead of a type's name or 1 to 65535",
    ),
    (
        r#"{"action":"REWRITE","rewrite_domain":"a.","rewrite_type":[1]}"#,
        "rewrite_type is a list instead of a type's name or 1 to 65535",
    ),
    (r#"{"action":"LOCAL_DATA"}"#, "local_data is missing"),
    (r#"{"action":"LOCAL_DATA","local_data":{}}"#, "local_data is missing"),
    (
        r#"{"action":"LOCAL_DATA","local_data":["::"]}"#,
        "local_data is a list instead of a table with ip or ips",
    ),
    (r#"{"action":"LOCAL_DATA","local_data":{"ttl":5}}"#, "local_data has no address in ip or ips"),
    (
        r#"{"action":"LOCAL_DATA","local_data":{"ips":[]}}"#,
        "local_data has no address in ip or ips",
    ),
    (
        r#"{"action":"LOCAL_DATA","local_data":{"ips":"::"}}"#,
        "ips is a text instead of a list of addresses",
    ),
    (
        r#"{"action":"LOCAL_DATA","local_data":{"ips":["::",1]}}"#,
        "ips is a number instead of a text",
    ),
    (r#"{"action":"LOCAL_DATA","local_data":{"ip":"1.2.3"}}"#, "ip: \"1.2.3\" is no IP address"),
    (
        r#"{"action":"LOCAL_DATA","local_data":{"ip":"::","ttl":-1}}"#,
        "ttl is a negative number instead of 0 to 2147483647 seconds",
    ),
    (
        r#"{"action":"LOCAL_DATA","local_data":{"ip":"::","ttl":1.5}}"#,
        "ttl is 1.5 instead of 0 to 2147483647 seconds",
    ),
    (
        r#"{"action":"LOCAL_DATA","local_data":{"ip":"::","ttl":2147483648}}"#,
        "ttl is 2147483648 instead of 0 to 2147483647 seconds",
    ),
    (
        r#"{"action":"LOCAL_DATA","local_data":{"ip":"::","tll":1}}"#,
        "\"tll\" is no field of it (did you mean ttl?)",
    ),
    (
        r#"{"action":"LOCAL_DATA","local_data":{"ip":"::"},"max_ttl":5}"#,
        "max_ttl does not go with LOCAL_DATA",
    ),
    (r#"{"action":"BLOCK","rewrite_domain":"a."}"#, "rewrite_domain does not go with BLOCK"),
    (r#"{"action":"DROP","upstream":"a"}"#, "upstream does not go with DROP"),
    (r#"{"action":"tc","min_ttl":0}"#, "min_ttl does not go with TRUNCATE"),
    (r#"{"action":"FORWARD","local_data":{"ip":"::"}}"#, "local_data does not go with FORWARD"),
    (
        r#"{"action":"FORWARD","upstream":"a","pool":"b"}"#,
        "upstream and pool stand beside each other",
    ),
    (r#"{"action":"FORWARD","upstream":true}"#, "upstream is a boolean instead of a text"),
    (r#"{"action":"FORWARD","min_ttl":6,"max_ttl":5}"#, "min_ttl 6 is more than max_ttl 5"),
    (
        r#"{"action":"FORWARD","min_ttl":"5"}"#,
        "min_ttl is a text instead of 0 to 2147483647 seconds",
    ),
    (r#"{"action":"FORWARD"} {}"#, "no JSON: trailing characters at line 1 column 22"),
    (r#"{"action":"FORWARD""#, "no JSON: EOF while parsing an object at line 1 column 19"),
    ("FORWARD", "no JSON: expected value at line 1 column 1"),
    (r#"{"action":"FORWARD","max_ttl":NaN}"#, "no JSON: expected value at line 1 column 31"),
    (r#"{"action":"FORWARD","max_ttl":1e999}"#, "no JSON: number out of range at line 1 column 35"),
];

#[test]
fn what_is_no_result_is_an_error_that_says_so() {
    for (text, expected) in ERRORS {
        assert_eq!(error(text), *expected, "{text}");
    }
}

#[test]
fn octets_that_are_no_text_and_bombs_are_errors() {
    assert!(decode_json(b"{\"action\":\"FORWARD\xff\"}").is_err());
    assert!(decode_json(b"\"FORWARD\"\0").is_err());
    for (open, close) in [("[", "]"), ("{\"action\":", "}")] {
        let bomb = format!("{}\"FORWARD\"{}", open.repeat(20_000), close.repeat(20_000));
        assert_eq!(&error(&bomb)[..24], "no JSON: recursion limit");
    }
    let names = (0..5_000).map(|n| format!("\"{n}\":1")).collect::<Vec<_>>().join(",");
    assert_eq!(error(&format!("{{{names}}}")), "\"0\" is no field of it");
    let long = "x".repeat(60_000);
    assert!(error(&format!("\"{long}\"")).len() < 200);
    let addresses = vec!["\"192.0.2.1\""; ADDRESSES + 1].join(",");
    let text = format!(r#"{{"action":"LOCAL_DATA","local_data":{{"ips":[{addresses}]}}}}"#);
    assert_eq!(error(&text), "ips has 65 addresses, the limit is 64");
}

#[test]
fn lines_have_an_id() {
    let line = |text: &str| decode_line(text.as_bytes());
    let block = Ok(action(PolicyAction::Block));
    assert_eq!(line(r#"{"id":7,"action":"BLOCK"}"#), Ok((7, block.clone())));
    assert_eq!(line(r#"{"action":"BLOCK","id":18446744073709551615}"#), Ok((u64::MAX, block)));
    let (id, verdict) = line(r#"{"id":0,"action":"BLOCK","action":"BLOCK"}"#).unwrap();
    assert_eq!((id, verdict), (0, Err(PolicyError::Result("action is there twice".to_owned()))));
    for (text, expected) in [
        (r#"{"action":"BLOCK"}"#, "id is missing"),
        (r#"{"id":1,"id":1,"action":"BLOCK"}"#, "id is there twice"),
        (r#"{"id":"1","action":"BLOCK"}"#, "id is a text instead of a question's"),
        (r#"{"id":-1,"action":"BLOCK"}"#, "id is a negative number instead of a question's"),
        (r#"{"id":1.0,"action":"BLOCK"}"#, "id is a number instead of a question's"),
        (r#""BLOCK""#, "no object with an id"),
        ("[1]", "no object with an id"),
        ("", "nothing was written"),
    ] {
        assert_eq!(line(text), Err(PolicyError::Result(expected.to_owned())), "{text}");
    }
}

#[test]
fn questions_are_one_line() {
    let plain = Name::parse("Example.org").unwrap();
    let escaped = Name::parse(r#"Example.a\"\\b.org"#).unwrap();
    let mut question = PolicyQuestion {
        name: plain.as_wire(),
        record_type: RecordType::A,
        client: None,
        transport: None,
    };
    let json =
        |question: &PolicyQuestion<'_>, id| String::from_utf8(question_json(question, id)).unwrap();
    let expected = r#"{"question":{"domain":"example.org.","type":"A","qtype":1}}"#;
    assert_eq!(json(&question, None), format!("{expected}\n"));
    question.record_type = RecordType(65_280);
    question.client = Some("192.0.2.1".parse().unwrap());
    question.transport = Some(Transport::Udp);
    question.name = escaped.as_wire();
    let expected = r#"{"id":7,"question":{"domain":"example.a\\\"\\\\b.org.","type":"TYPE65280","qtype":65280,"client":"192.0.2.1","transport":"udp"}}"#;
    assert_eq!(json(&question, Some(7)), format!("{expected}\n"));
}

fn any_name() -> impl Strategy<Value = Name> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..4).prop_map(|labels| {
        let mut wire = Vec::new();
        for label in labels {
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend_from_slice(&label);
        }
        wire.push(0);
        Name::from_wire(&wire).unwrap()
    })
}

fn any_addresses() -> impl Strategy<Value = PolicyAction> {
    let v4 = prop::collection::hash_set(any::<Ipv4Addr>(), 0..20);
    let v6 = prop::collection::hash_set(any::<Ipv6Addr>(), 0..20);
    (0..=TTL_MAX, v4, v6).prop_filter_map("an address", |(ttl, v4, v6)| {
        let (v4, v6) = (v4.into_iter().collect::<Vec<_>>(), v6.into_iter().collect::<Vec<_>>());
        (!v4.is_empty() || !v6.is_empty()).then_some(PolicyAction::LocalData { ttl, v4, v6 })
    })
}

fn any_verdict() -> impl Strategy<Value = PolicyVerdict> {
    let rewrite = (any_name(), prop::option::of(1..=u16::MAX)).prop_map(|(name, number)| {
        PolicyAction::Rewrite { name, record_type: number.map(RecordType) }
    });
    let going_on = (
        prop_oneof![Just(PolicyAction::Forward), rewrite],
        prop::option::of(("\\PC{1,20}", any::<bool>())),
        (0..=TTL_MAX, prop_oneof![0..=TTL_MAX, Just(u32::MAX)]),
    )
        .prop_map(|(action, choice, (one, other))| PolicyVerdict {
            action,
            choice: choice.map(|(name, pool)| {
                let name = name.into_boxed_str();
                if pool { Choice::Pool(name) } else { Choice::Upstream(name) }
            }),
            ttl: TtlLimits { min: one.min(other), max: one.max(other) },
        });
    let ending = prop_oneof![
        Just(PolicyAction::Block),
        Just(PolicyAction::Drop),
        Just(PolicyAction::Truncate),
        any_addresses()
    ];
    prop_oneof![going_on, ending.prop_map(action)]
}

/// A verdict in JSON, as an executable might write it.
fn written(verdict: &PolicyVerdict) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| object.insert(name.to_owned(), value);
    let name = match &verdict.action {
        PolicyAction::Forward => "FORWARD",
        PolicyAction::Block => "BLOCK",
        PolicyAction::Rewrite { name, record_type } => {
            put("rewrite_domain", name.to_string().into());
            if let Some(record_type) = record_type {
                put("rewrite_type", record_type.to_string().into());
            }
            "REWRITE"
        }
        PolicyAction::LocalData { ttl, v4, v6 } => {
            let v4 = v4.iter().map(ToString::to_string);
            let ips: Vec<String> = v4.chain(v6.iter().map(ToString::to_string)).collect();
            put("local_data", serde_json::json!({ "ttl": ttl, "ips": ips }));
            "LOCAL_DATA"
        }
        PolicyAction::Drop => "DROP",
        PolicyAction::Truncate => "TRUNCATE",
    };
    put("action", name.into());
    match &verdict.choice {
        Some(Choice::Upstream(name)) => drop(put("upstream", name.to_string().into())),
        Some(Choice::Pool(name)) => drop(put("pool", name.to_string().into())),
        None => {}
    }
    if verdict.ttl.min > 0 {
        put("min_ttl", verdict.ttl.min.into());
    }
    if verdict.ttl.max < u32::MAX {
        put("max_ttl", verdict.ttl.max.into());
    }
    object.into()
}

proptest! {
    #[test]
    fn every_verdict_can_be_written_and_read(verdict in any_verdict(), id in any::<u64>()) {
        let mut json = written(&verdict);
        prop_assert_eq!(decode_json(json.to_string().as_bytes()), Ok(verdict.clone()));
        json["id"] = id.into();
        let line = json.to_string();
        prop_assert_eq!(decode_line(line.as_bytes()), Ok((id, Ok(verdict))));
        prop_assert!(decode_json(line.as_bytes()).is_err(), "an id is no field of a result");
    }

    /// Only what says FORWARD in full is one.
    #[test]
    fn no_octets_panic_or_become_forward(octets in any::<Vec<u8>>()) {
        let _ = decode_line(&octets);
        if let Ok(verdict) = decode_json(&octets) {
            prop_assert_ne!(verdict.action, PolicyAction::Forward);
        }
    }

    #[test]
    fn a_result_cut_off_or_changed_is_never_forward(
        verdict in any_verdict(),
        at in any::<prop::sample::Index>(),
        octet in any::<u8>(),
    ) {
        let mut octets = written(&verdict).to_string().into_bytes();
        let at = at.index(octets.len());
        prop_assert!(decode_json(&octets[..at]).is_err());
        octets[at] = octet;
        let _ = decode_line(&octets);
        if let Ok(changed) = decode_json(&octets)
            && changed.action == PolicyAction::Forward
        {
            prop_assert_eq!(verdict.action, PolicyAction::Forward);
        }
    }
}
