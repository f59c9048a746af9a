//! Questions that wait for a plugin's process: answers, deadlines, bounds, restarts, the end.

use std::sync::Arc;

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::A;

use super::harness::{World, query, snapshot, upstream};
use crate::config::{Snapshot, UpstreamProtocol};
use crate::engine::{IoFailure, ProcessExit};
use crate::limits::{CALLS_PER_PROCESS, PROCESS_OUTPUT_OCTETS, PROCESSES};
use crate::metrics::Counter;
use crate::policy::{ExecMode, ExecSettings, Group, Groups, Plugin, PluginKind, PluginSettings};
use crate::time::Duration;

const TIMEOUT: Duration = Duration::from_millis(50);
const BLOCK: &str = "{\"action\":\"BLOCK\"}";

fn exec(name: &str, mode: ExecMode) -> Plugin {
    let settings =
        ExecSettings { name: name.to_owned(), path: "/x".to_owned(), args: Vec::new(), mode };
    Plugin { name: name.to_owned(), timeout: TIMEOUT, kind: PluginKind::Exec(Arc::new(settings)) }
}

fn configuration(plugins: Vec<Plugin>) -> Snapshot {
    let mut snapshot = snapshot(vec![upstream("one", UpstreamProtocol::Udp)]);
    let places = (0..plugins.len()).collect();
    snapshot.groups = Arc::new(Groups::new(Group { plugins: places, ..Group::default() }));
    snapshot.plugins = Arc::new(PluginSettings { plugins, ..PluginSettings::default() });
    snapshot
}

fn once() -> World {
    World::new(configuration(vec![exec("one", ExecMode::Once)]))
}

fn kept() -> World {
    World::new(configuration(vec![exec("kept", ExecMode::Worker)]))
}

fn check(world: &World) {
    world.engine.audit().expect("agrees");
}

#[test]
fn a_process_is_asked_in_json_and_its_verdict_counts_when_it_has_ended() {
    let mut world = once();
    world.ask(&query(1, "WWW.example"));
    let (process, plugin, input) = world.started.pop_front().expect("a process");
    assert_eq!(plugin, "one");
    assert_eq!(
        input.trim_end(),
        "{\"question\":{\"domain\":\"www.example.\",\"type\":\"A\",\"qtype\":1}}"
    );
    check(&world);
    world.process_says(process, "{\"action\":");
    world.process_says(process, "\"block\"}\n");
    assert!(world.replies.is_empty(), "it may still change its mind");
    world.process_ends(process, ProcessExit::Code(0));
    assert_eq!(world.reply(), "REFUSED");
    assert_eq!(world.engine.sizes().processes, 0);
    check(&world);
}

#[test]
fn forward_goes_on_to_the_upstream_and_the_deadline_is_that_of_the_query() {
    let mut world = once();
    world.ask(&query(1, "www.example"));
    let (process, ..) = world.started.pop_front().expect("a process");
    world.process_says(process, "{\"action\":\"FORWARD\"}");
    world.process_ends(process, ProcessExit::Code(0));
    world.answer_next(&[("www.example", 60, RData::A(A::new(192, 0, 2, 7)))]);
    assert_eq!(world.reply(), "NOERROR | www.example. 60 A 192.0.2.7");
    check(&world);
}

/// Whatever a process does wrong is an error, and an error is SERVFAIL.
#[test]
fn every_bad_end_is_a_failure() {
    let ends: [(&str, ProcessExit, Counter); 6] = [
        ("", ProcessExit::Code(0), Counter::PluginResult),
        ("{\"action\":", ProcessExit::Code(0), Counter::PluginResult),
        ("{\"action\":\"ALLOW\"}", ProcessExit::Code(0), Counter::PluginResult),
        (BLOCK, ProcessExit::Code(1), Counter::PluginProcess),
        (BLOCK, ProcessExit::Signal(9), Counter::PluginProcess),
        ("", ProcessExit::NotStarted(IoFailure::NoResources), Counter::PluginProcess),
    ];
    for (output, how, counter) in ends {
        let mut world = once();
        world.ask(&query(1, "www.example"));
        let (process, ..) = world.started.pop_front().expect("a process");
        if !output.is_empty() {
            world.process_says(process, output);
        }
        world.process_ends(process, how);
        assert_eq!(world.reply(), "SERVFAIL", "{output} {how:?}");
        assert_eq!(world.count(counter), 1, "{output} {how:?}");
        check(&world);
    }
}

/// S26: the deadline ends the call; what comes later is nobody's.
#[test]
fn no_call_outlives_its_deadline_and_late_results_are_ignored() {
    let mut world = once();
    world.ask(&query(1, "www.example"));
    let (process, ..) = world.started.pop_front().expect("a process");
    world.pass(TIMEOUT);
    assert_eq!(world.reply(), "SERVFAIL");
    assert_eq!(world.killed.pop_front(), Some(process));
    assert_eq!(world.count(Counter::PluginTimeout), 1);
    check(&world);
    world.process_says(process, BLOCK);
    world.process_ends(process, ProcessExit::Signal(9));
    assert!(world.replies.is_empty() && world.killed.is_empty());
    assert_eq!(world.engine.sizes().processes, 0);
    world.process_ends(process, ProcessExit::Code(0));
    assert_eq!(world.count(Counter::DeadHandles), 1);
    check(&world);
}

/// S2: a plugin that may take longer than a client waits does not.
#[test]
fn a_call_ends_with_its_clients_deadline() {
    let mut configuration = configuration(vec![exec("one", ExecMode::Once)]);
    configuration.routing.deadline = Duration::from_millis(20);
    let mut world = World::new(configuration);
    world.ask(&query(1, "www.example"));
    world.pass(Duration::from_millis(19));
    assert!(world.replies.is_empty());
    world.pass(Duration::from_millis(1));
    assert_eq!((world.reply().as_str(), world.killed.len()), ("SERVFAIL", 1));
    check(&world);
}

#[test]
fn a_flood_is_cut_off() {
    let mut world = once();
    world.ask(&query(1, "www.example"));
    let (process, ..) = world.started.pop_front().expect("a process");
    let half = "x".repeat(PROCESS_OUTPUT_OCTETS / 2 + 1);
    world.process_says(process, &half);
    check(&world);
    world.process_says(process, &half);
    assert_eq!(world.reply(), "SERVFAIL");
    assert_eq!(world.killed.pop_front(), Some(process));
    world.process_says(process, &half);
    check(&world);
}

#[test]
fn equal_questions_share_a_process_and_others_do_not() {
    let mut world = once();
    world.ask(&query(1, "www.example"));
    world.ask(&query(2, "WWW.example"));
    world.ask(&query(3, "other.example"));
    assert_eq!((world.started.len(), world.engine.sizes().suspended), (2, 3));
    let (first, ..) = world.started.pop_front().expect("a process");
    world.process_says(first, BLOCK);
    world.process_ends(first, ProcessExit::Code(0));
    assert_eq!(world.replies.len(), 2);
    assert_eq!(world.count(Counter::PluginShared), 1);
    check(&world);
}

/// Those beyond the bound are told so at once, those that are being killed still count.
#[test]
fn processes_are_bounded() {
    let mut world = once();
    for number in 0..=PROCESSES {
        world.ask(&query(1, &format!("n{number}.example")));
    }
    assert_eq!(world.started.len(), PROCESSES);
    assert_eq!(world.reply(), "SERVFAIL");
    assert_eq!(world.count(Counter::PluginBusy), 1);
    world.pass(TIMEOUT);
    assert_eq!(world.killed.len(), PROCESSES);
    world.replies.clear();
    assert_eq!(world.reply_to(&query(2, "late.example")), "SERVFAIL");
    for process in std::mem::take(&mut world.killed) {
        world.process_ends(process, ProcessExit::Signal(9));
    }
    world.started.clear();
    world.ask(&query(3, "again.example"));
    assert_eq!(world.started.len(), 1);
    check(&world);
}

#[test]
fn a_kept_process_is_asked_by_lines_with_ids_in_any_order() {
    let mut world = kept();
    world.ask(&query(1, "a.example"));
    world.ask(&query(2, "b.example"));
    let (process, _, first) = world.started.pop_front().expect("a process");
    let (fed, second) = world.fed.pop_front().expect("a line");
    assert_eq!((fed, world.started.len()), (process, 0));
    assert!(first.starts_with("{\"id\":1,\"question\":") && first.ends_with("}\n"), "{first}");
    assert!(second.starts_with("{\"id\":2,"), "{second}");
    world.process_says(process, "{\"id\":2,\"action\":\"BLOCK\"}\n{\"id\":1,\"acti");
    assert_eq!(world.reply(), "REFUSED");
    assert!(world.replies.is_empty());
    world.process_says(
        process,
        "on\":\"BLOCK\"}\n{\"id\":1,\"action\":\"BLOCK\"}\n{\"id\":77,\"action\":\"BLOCK\"}\n",
    );
    assert_eq!(world.reply(), "REFUSED", "and ids of nobody are ignored");
    assert!(world.replies.is_empty() && world.killed.is_empty());
    check(&world);
    world.ask(&query(3, "c.example"));
    assert_eq!(world.fed.len(), 1, "it still runs");
}

#[test]
fn a_kept_process_that_is_slow_for_one_question_keeps_running() {
    let mut world = kept();
    world.ask(&query(1, "slow.example"));
    let (process, ..) = world.started.pop_front().expect("a process");
    world.pass(Duration::from_millis(30));
    world.ask(&query(2, "fast.example"));
    world.process_says(process, "{\"id\":2,\"action\":\"BLOCK\"}\n");
    assert_eq!(world.reply(), "REFUSED");
    world.pass(Duration::from_millis(30));
    assert_eq!(world.reply(), "SERVFAIL");
    assert!(world.killed.is_empty());
    world.process_says(process, "{\"id\":1,\"action\":\"BLOCK\"}\n");
    assert!(world.replies.is_empty(), "too late");
    check(&world);
}

/// S12, S27: it is started again, but not before its wait is over, which doubles.
#[test]
fn a_kept_process_that_ends_is_started_again_after_a_wait_that_doubles() {
    let mut world = kept();
    for wait in [200, 400, 800] {
        world.ask(&query(1, "www.example"));
        let (process, ..) = world.started.pop_front().expect("a process");
        world.process_ends(process, ProcessExit::Code(0));
        assert_eq!(world.reply(), "SERVFAIL");
        world.pass(Duration::from_millis(wait - 1));
        assert_eq!(world.reply_to(&query(2, "www.example")), "SERVFAIL");
        assert!(world.started.is_empty(), "too early by a millisecond");
        world.pass(Duration::from_millis(1));
        check(&world);
    }
    // A run that was long enough forgets what was before.
    world.ask(&query(3, "www.example"));
    let (process, ..) = world.started.pop_front().expect("a process");
    world.process_says(process, "{\"id\":1,\"action\":\"BLOCK\"}\n");
    world.pass(Duration::from_secs(11));
    world.process_ends(process, ProcessExit::Code(0));
    world.pass(Duration::from_millis(200));
    world.ask(&query(4, "www.example"));
    assert_eq!(world.started.len(), 1);
}

#[test]
fn a_kept_process_that_is_deaf_or_talks_nonsense_is_killed() {
    let mut deaf = kept();
    deaf.ask(&query(1, "www.example"));
    deaf.pass(TIMEOUT);
    assert_eq!((deaf.reply().as_str(), deaf.killed.len()), ("SERVFAIL", 1));
    check(&deaf);
    for nonsense in
        ["hello\n".to_owned(), "{\"action\":\"BLOCK\"}\n".to_owned(), "x".repeat(70_000)]
    {
        let mut world = kept();
        world.ask(&query(1, "www.example"));
        let (process, ..) = world.started.pop_front().expect("a process");
        world.process_says(process, &nonsense);
        assert_eq!((world.reply().as_str(), world.killed.len()), ("SERVFAIL", 1));
        world.process_ends(process, ProcessExit::Signal(9));
        assert_eq!(world.engine.sizes().processes, 0);
        check(&world);
    }
}

#[test]
fn calls_of_one_process_are_bounded() {
    let mut world = kept();
    for number in 0..=CALLS_PER_PROCESS {
        world.ask(&query(1, &format!("n{number}.example")));
    }
    assert_eq!(world.reply(), "SERVFAIL");
    assert_eq!((world.count(Counter::PluginBusy), world.replies.len()), (1, 0));
    check(&world);
}

/// A question belongs to one configuration: those that wait begin again under the new one.
#[test]
fn a_reload_lets_waiting_questions_begin_again() {
    let mut world = once();
    world.ask(&query(1, "www.example"));
    let (process, ..) = world.started.pop_front().expect("a process");
    world.engine.handle_reload(world.now, Arc::new(configuration(Vec::new())));
    world.pump();
    assert_eq!(world.killed.pop_front(), Some(process));
    world.process_says(process, BLOCK);
    world.process_ends(process, ProcessExit::Code(0));
    world.answer_next(&[("www.example", 60, RData::A(A::new(192, 0, 2, 7)))]);
    assert_eq!(world.reply(), "NOERROR | www.example. 60 A 192.0.2.7");
    check(&world);
}

#[test]
fn a_kept_process_outlives_a_reload_that_is_about_something_else() {
    let snapshot = configuration(vec![exec("kept", ExecMode::Worker)]);
    let mut world = World::new(snapshot.clone());
    world.ask(&query(1, "www.example"));
    let (process, ..) = world.started.pop_front().expect("a process");
    world.engine.handle_reload(world.now, Arc::new(snapshot));
    world.pump();
    let (fed, line) = world.fed.pop_front().expect("asked again");
    assert!(world.killed.is_empty() && fed == process && line.starts_with("{\"id\":2,"), "{line}");
    world.process_says(
        process,
        "{\"id\":1,\"action\":\"BLOCK\"}\n{\"id\":2,\"action\":\"BLOCK\"}\n",
    );
    assert_eq!(world.reply(), "REFUSED");
    assert!(world.replies.is_empty());
    check(&world);
}

/// S17: nothing is left, and nobody waits longer than the time for draining.
#[test]
fn stopping_waits_for_calls_and_kills_what_is_left() {
    let mut world = kept();
    world.ask(&query(1, "www.example"));
    let (process, ..) = world.started.pop_front().expect("a process");
    world.engine.handle_shutdown(world.now);
    world.pump();
    assert!(!world.stopped && world.killed.is_empty());
    world.process_says(process, "{\"id\":1,\"action\":\"BLOCK\"}\n");
    assert_eq!(world.reply(), "REFUSED");
    assert_eq!(world.killed.pop_front(), Some(process));
    assert!(!world.stopped);
    world.process_ends(process, ProcessExit::Signal(9));
    assert!(world.stopped);
    check(&world);
    // Of whose end nobody tells, that is not waited for for ever.
    let mut silent = once();
    silent.ask(&query(1, "www.example"));
    silent.engine.handle_shutdown(silent.now);
    silent.pass(Duration::from_secs(5));
    assert!(silent.stopped);
    check(&silent);
}
