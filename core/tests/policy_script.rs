//! The example that is shipped, as those who start from it would use it.

use std::sync::Arc;

use balancedns_core::policy::{
    LuaLimits, LuaVm, PolicyAction, PolicyQuestion, PolicyVerdict, Program, TtlLimits,
};
use balancedns_core::time::Duration;
use balancedns_core::transport::Transport;
use balancedns_core::wire::{Name, RecordType};

const MEMORY: usize = 16 << 20;

/// The example in a VM without a clock.
fn example() -> LuaVm {
    let text = include_str!("../../scripts/policy.lua");
    let program = Program::compile("policy", text, MEMORY).expect("the example compiles");
    let timeout = Duration::from_millis(20);
    LuaVm::new(Arc::new(program), LuaLimits { memory: MEMORY, timeout, clock: None })
}

/// What becomes of a question of the client at `client`, over UDP, if that is told.
fn ask(name: &str, record_type: RecordType, client: Option<&str>) -> PolicyVerdict {
    let name = Name::parse(name).expect("it is a name");
    let question = PolicyQuestion {
        name: name.as_wire(),
        record_type,
        client: client.map(|client| client.parse().expect("it is an address")),
        transport: client.map(|_| Transport::Udp),
    };
    example().decide(&question).expect("the example has a verdict")
}

fn action(name: &str) -> PolicyAction {
    ask(name, RecordType::A, None).action
}

#[test]
fn what_is_not_listed_goes_on() {
    assert_eq!(ask("www.example.org", RecordType::A, None), PolicyVerdict::default());
    assert_eq!(ask("example", RecordType::AAAA, Some("192.168.1.2")), PolicyVerdict::default());
    assert_eq!(ask(".", RecordType::NS, None), PolicyVerdict::default());
}

#[test]
fn listed_names_are_blocked_with_what_is_below_them() {
    assert_eq!(action("tracker.example"), PolicyAction::Block);
    assert_eq!(action("A.b.Tracker.example"), PolicyAction::Block);
    assert_eq!(action("nottracker.example"), PolicyAction::Forward);
}

#[test]
fn local_names_have_their_addresses() {
    let expected = PolicyAction::LocalData {
        ttl: 300,
        v4: vec!["192.168.1.30".parse().unwrap()],
        v6: vec!["fd00::30".parse().unwrap()],
    };
    assert_eq!(action("nas.home.arpa"), expected);
    assert!(matches!(action("printer.home.arpa"), PolicyAction::LocalData { .. }));
}

#[test]
fn children_get_safe_results() {
    let name = Name::parse("forcesafesearch.google.com").unwrap();
    let safe = PolicyAction::Rewrite { name, record_type: None };
    let asked = |client| ask("www.google.com", RecordType::A, client).action;
    assert_eq!(asked(Some("192.168.1.130")), safe);
    assert_eq!(asked(Some("fd00:0:0:1::7")), safe);
    assert_eq!(asked(Some("192.168.1.2")), PolicyAction::Forward);
    assert_eq!(asked(None), PolicyAction::Forward);
}

#[test]
fn answers_that_change_are_kept_shortly() {
    let verdict = ask("host.dyn.example.org", RecordType::A, None);
    assert_eq!(verdict.ttl, TtlLimits { min: 0, max: 30 });
}

#[test]
fn any_goes_to_tcp() {
    assert_eq!(ask("a", RecordType::ANY, Some("192.0.2.1")).action, PolicyAction::Truncate);
    assert_eq!(ask("a", RecordType::ANY, None).action, PolicyAction::Forward, "not told");
}
