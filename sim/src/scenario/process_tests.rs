//! Tests of plugins in scenarios: each check of one can fail, and what cannot be read is named.

use super::{Scenario, ScenarioError};

/// Uses each kind of rule and of check once.
const GOOD: &str = r#"title: An example
shows: docs/POLICIES.md
why:   To be damaged.

config
  return {
    listen = { dns = "10.0.0.53:53", metrics = false },
    upstreams = { { name = "one", addr = "198.51.100.1:53" } },
    plugins = { enabled = true, entries = {
      { name = "judge", runtime = "exec", path = "judge", mode = "worker", timeout_ms = 50 },
    } },
  }

upstream one 198.51.100.1:53

plugin judge
  on start
    starts
  on kill
    after 10 ms
    dies 9
  on held.example.
    hold
  on deaf.example. A once
    silence
  on *
    begins {"id":ID,
    writes "action":"BLOCK"}

client alice udp 10.0.0.1:40000

steps
  alice asks held.example. A
  alice asks blocked.example. AAAA
  judge gets held.example. A untold
  judge gets blocked.example. AAAA same-process
  alice gets REFUSED for blocked.example. AAAA
  judge answers held.example. A
    says {"action":"LOCAL_DATA","local_data":{"ip":"10.0.0.9"}}
  alice gets NOERROR
    answer @ 60 A 10.0.0.9
  judge was started 1 time
  wait 1 s
  alice asks deaf.example. A edns 1232
  judge gets 1 question
  wait 50 ms
  alice gets SERVFAIL ede 0 because "judge"
  judge was killed 1 time
  judge has 1 process
  wait 10 ms
  judge has 0 processes
  alice asks nobody.example. A
  alice gets SERVFAIL
"#;

fn run(text: &str) -> Result<(), ScenarioError> {
    Scenario::parse("example.scenario", text)?.run()
}

fn damaged(from: &str, to: &str) -> (String, usize) {
    assert_eq!(GOOD.matches(from).count(), 1, "\"{from}\" stands there once");
    let before = GOOD.split(from).next().expect("there is something before it");
    (GOOD.replace(from, to), before.matches('\n').count() + 1)
}

#[test]
fn the_example_passes() {
    assert_eq!(run(GOOD), Ok(()));
}

#[test]
fn each_check_of_a_plugin_can_fail_at_its_line() {
    for (from, to) in [
        ("judge gets held.example. A untold", "judge gets other.example. A untold"),
        ("judge gets held.example. A untold", "judge gets held.example. TXT untold"),
        ("judge gets held.example. A untold", "judge gets held.example. client 10.0.0.1"),
        ("judge gets held.example. A untold", "judge gets held.example. over udp"),
        ("AAAA same-process", "AAAA other-process"),
        ("judge answers held.example. A\n", "judge answers held.example. TXT\n"),
        ("was started 1 time", "was started 2 times"),
        ("was killed 1 time", "was killed 0 times"),
        ("gets 1 question", "gets 2 questions"),
        ("gets 1 question", "gets nothing"),
        ("judge has 1 process\n", "judge has 2 processes\n"),
        ("judge has 0 processes", "judge dies 9"),
        ("because \"judge\"", "because \"jury\""),
        ("  on start\n", "  on start times 0\n"),
        ("  alice gets SERVFAIL\n", "  alice waits in vain\n"),
    ] {
        let (text, line) = damaged(from, to);
        match run(&text) {
            Err(ScenarioError::Failed { line: found, what, .. }) => {
                assert_eq!(found, line, "\"{to}\": {what}");
            }
            other => panic!("\"{to}\" did not fail: {other:?}"),
        }
    }
}

#[test]
fn what_a_plugin_cannot_do_is_named() {
    for (from, to, what) in [
        ("plugin judge", "plugin alice", "the name \"alice\" is taken"),
        ("plugin judge", "plugin judge twice", "\"twice\" is not expected here"),
        ("  on held.example.\n", "  when held.example.\n", "a rule begins with \"on\""),
        ("on deaf.example. A once", "on deaf.example. A twice", "nothing that is looked at here"),
        ("  on kill\n", "  on kill always\n", "no number of times"),
        ("    hold\n", "    reply NOERROR\n", "nothing that a process does"),
        ("    dies 9\n", "    dies young\n", "\"young\" is no signal"),
        ("    hold\n", "", "what is done stands below"),
        ("judge has 0 processes", "judge has 0 friends", "processes are what a plugin has"),
        ("was killed 1 time", "was sued 1 time", "not \"started\" or \"killed\""),
        ("judge gets 1 question", "judge asks 1 question", "nothing that a process does"),
    ] {
        let (text, _) = damaged(from, to);
        match Scenario::parse("example.scenario", &text) {
            Err(ScenarioError::Malformed { what: found, .. }) => {
                assert!(found.contains(what), "\"{to}\": {found}");
            }
            other => panic!("\"{to}\" was read: {other:?}"),
        }
    }
}
