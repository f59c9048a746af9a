//! The examples of executables: they read what the daemon writes, and it understands what they say.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use balancedns_core::policy::{
    PolicyAction, PolicyQuestion, PolicyVerdict, decode_json, decode_line, question_json,
};
use balancedns_core::transport::Transport;
use balancedns_core::wire::{Name, RecordType};

/// In Rust and as a shell script.
const EXAMPLES: [&str; 2] =
    [env!("CARGO_BIN_EXE_policy"), concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/policy.sh")];

/// A question, with all that the daemon may tell.
fn question(domain: &str, id: Option<u64>) -> Vec<u8> {
    let name = Name::parse(domain).expect("valid");
    let question = PolicyQuestion {
        name: name.as_wire(),
        record_type: RecordType(1),
        client: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        transport: Some(Transport::Udp),
    };
    question_json(&question, id)
}

/// Each question, and what is to be decided.
fn expected() -> Vec<(&'static str, PolicyAction)> {
    let rewritten = Name::parse("safe.search.example.").expect("valid");
    let local = PolicyAction::LocalData {
        ttl: 300,
        v4: vec!["192.0.2.10".parse().expect("valid")],
        v6: vec!["2001:db8::10".parse().expect("valid")],
    };
    vec![
        ("www.example.", PolicyAction::Forward),
        ("ads.example.", PolicyAction::Block),
        ("deep.ads.example.", PolicyAction::Block),
        ("nads.example.", PolicyAction::Forward),
        ("ads.example.other.", PolicyAction::Forward),
        ("\\\"domain\\\":\\\"ads.example.", PolicyAction::Forward),
        ("a\\\"\\,\\\"domain\\\":\\\"ads.example.", PolicyAction::Forward),
        ("www.search.example.", PolicyAction::Rewrite { name: rewritten, record_type: None }),
        ("printer.example.", local),
        (".", PolicyAction::Forward),
    ]
}

fn decided(action: PolicyAction) -> PolicyVerdict {
    PolicyVerdict { action, ..PolicyVerdict::default() }
}

#[test]
fn run_once_they_decide_one_question() {
    for example in EXAMPLES {
        for (domain, action) in expected() {
            let mut process = Command::new(example)
                .env_clear()
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("starts");
            let mut stdin = process.stdin.take().expect("asked for");
            stdin.write_all(&question(domain, None)).expect("reads");
            drop(stdin);
            let output = process.wait_with_output().expect("ends");
            assert!(output.status.success(), "{example}: {output:?}");
            let verdict = decode_json(&output.stdout);
            assert_eq!(verdict, Ok(decided(action)), "{example}: {domain}");
        }
    }
}

#[test]
fn kept_running_they_decide_one_after_the_other() {
    for example in EXAMPLES {
        let mut process = Command::new(example)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stdin = process.stdin.take().expect("asked for");
        let mut stdout = BufReader::new(process.stdout.take().expect("asked for"));
        for ((domain, action), id) in expected().into_iter().zip([1, u64::MAX].into_iter().cycle())
        {
            stdin.write_all(&question(domain, Some(id))).expect("reads");
            let mut line = String::new();
            stdout.read_line(&mut line).expect("answers at once");
            let (answered, verdict) = decode_line(line.as_bytes()).expect("has an id");
            assert_eq!((answered, verdict), (id, Ok(decided(action))), "{example}: {domain}");
        }
        drop(stdin);
        assert!(process.wait().expect("ends").success());
    }
}
