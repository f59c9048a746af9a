//! Policies as executables: what they decide, how they fail, and that nothing of them stays.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::case::World;
use crate::harness::{Daemon, Query, Settings, UdpClient, Upstream, until};

cases! {
    run_once_it_decides, all, "config plugins.entries",
        "an executable that is run for each question blocks, rewrites, answers and lets pass";
    kept_running_it_decides, all, "config plugins.entries",
        "the same with one that is kept running";
    what_fails_is_not_forwarded, both, "config plugins.on_error, RFC 8914 4.1",
        "one that fails in any way is SERVFAIL, asks nobody, and the next question is answered well";
    one_that_ends_is_started_again, both, "config plugins.entries",
        "one that is to be kept running and ends is started again";
    complaints_are_lines_of_the_log, own, "config plugins.entries",
        "what one writes to standard error is a line of the log, and cannot look like several";
    it_can_change_nothing, own, "robustness plugins",
        "one can write no file, reach no network and see no variable of the daemon";
    nothing_of_it_stays, own, "robustness plugins",
        "children that it leaves behind end with it, and it ends with the daemon, also a killed one";
}

const SERVFAIL: u16 = 2;
const REFUSED: u16 = 5;

/// Answers a question in the variable `domain`; an id of it is in `id`.
const DECIDE: &str = r#"
    case $domain in
    blocked.example.) decision='"action":"block"' ;;
    old.example.) decision='"action":"REWRITE","rewrite_domain":"new.example"' ;;
    local.example.) decision='"action":"LOCAL_DATA","local_data":{"ip":"192.0.2.9"}' ;;
    *) decision='"action":"FORWARD"' ;;
    esac
    printf '{%s%s}\n' "$id" "$decision"
"#;

/// Reads a question.
const READ: &str = r#"
    read -r line || exit 0
    domain=${line#*'"domain":"'}
    domain=${domain%%\"*}
    id=
    case $line in '{"id":'*) id=${line#'{"id":'}; id="\"id\":${id%%,*}," ;; esac
"#;

/// A daemon with a shell script as its only policy.
fn policy(upstream: &Upstream, mode: &str, keys: &str, script: &str) -> Settings {
    Settings::with(upstream).section("control = { restart_backoff_ms = 1 }").section(&format!(
        "plugins = {{ enabled = true, entries = {{ {{ name = \"policy\", runtime = \"exec\", \
         path = \"/bin/sh\", args = {{ \"-c\", [==[{script}]==] }}, mode = \"{mode}\", {keys} }} }} }}"
    ))
}

/// Long enough for a process on a busy machine.
const PATIENT: &str = "timeout_ms = 4000";

fn run_once_it_decides(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = policy(&upstream, "once", PATIENT, &format!("{READ}{DECIDE}")).start(world);
    expect_decisions(&daemon, &upstream);
}

fn kept_running_it_decides(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let script = format!("while :; do {READ}{DECIDE} done");
    let daemon = policy(&upstream, "worker", PATIENT, &script).start(world);
    expect_decisions(&daemon, &upstream);
}

fn expect_decisions(daemon: &Daemon, upstream: &Upstream) {
    assert_eq!(daemon.ask(&Query::a("blocked.example")).rcode(), REFUSED);
    assert_eq!(daemon.ask(&Query::a("local.example")).address(), "192.0.2.9");
    assert_eq!(upstream.count(), 0);
    assert_eq!(daemon.ask(&Query::a("www.example")).address(), "192.0.2.1");
    let rewritten = daemon.ask(&Query::a("old.example"));
    assert_eq!(rewritten.rcode(), 0);
    assert_eq!(upstream.count(), 2);
}

fn what_fails_is_not_forwarded(world: &World) {
    let misdeeds = [
        ("fails.example.", "exit 1"),
        ("silent.example.", "exit 0"),
        ("half.example.", "printf '{\"action\":\"FORW'; exit 0"),
        ("unknown.example.", "echo '{\"action\":\"ALLOW\"}'; exit 0"),
        ("killed.example.", "kill -KILL $$"),
        ("floods.example.", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"),
    ];
    let arms: String = misdeeds.iter().map(|(name, deed)| format!("{name}) {deed} ;; ")).collect();
    let upstream = Upstream::answering("192.0.2.1");
    let script = format!("{READ} case $domain in {arms} esac; {DECIDE}");
    let daemon = policy(&upstream, "once", PATIENT, &script).start(world);
    for (name, deed) in misdeeds {
        assert_eq!(daemon.ask(&Query::a(name)).rcode(), SERVFAIL, "{deed}");
        assert_eq!(daemon.ask(&Query::a("local.example")).address(), "192.0.2.9", "after {deed}");
    }
    assert_eq!(upstream.count(), 0);
    // Too slow.
    let script = "trap '' TERM INT HUP; while :; do :; done";
    let daemon = policy(&upstream, "once", "timeout_ms = 100", script).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example")).rcode(), SERVFAIL);
    assert_eq!(upstream.count(), 0);
}

fn one_that_ends_is_started_again(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    // It says who it is, once.
    let script = format!(
        "{READ} printf '{{%s\"action\":\"LOCAL_DATA\",\"local_data\":{{\"ip\":\"192.0.%d.%d\"}}}}\\n' \
         \"$id\" $(($$ / 256 % 256)) $(($$ % 256)); exit 1"
    );
    let daemon = policy(&upstream, "worker", PATIENT, &script).start(world);
    let mut seen = HashSet::new();
    until("a third process answers", || {
        let reply = daemon.ask(&Query::a("www.example"));
        if reply.rcode() == 0 {
            seen.insert(reply.address());
        }
        (seen.len() == 3).then_some(())
    });
    assert_eq!(upstream.count(), 0);
}

fn complaints_are_lines_of_the_log(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let script = "echo 'no list' >&2; echo 'ERROR nothing works' >&2; exit 1";
    let daemon = policy(&upstream, "once", PATIENT, script).start(world);
    assert_eq!(daemon.udp(&Query::a("www.example")).rcode(), SERVFAIL);
    daemon.wait_to_say(r"plugin policy: no list\nERROR nothing works");
}

fn it_can_change_nothing(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "before").expect("a file of the test");
    let path = file.display();
    let script = format!(
        "echo after >{path} && exit 1; rm -f {path} && exit 1; chmod 777 {path} && exit 1; \
         echo new >{path}.new && exit 1; kill -TERM $PPID && exit 1; [ -z \"$SECRET\" ] || exit 1; \
         echo FORWARD >/dev/null; {READ}{DECIDE}"
    );
    let settings = policy(&upstream, "once", PATIENT, &script).variable("SECRET", "x");
    let daemon = settings.start(world);
    for _ in 0..2 {
        assert_eq!(daemon.udp(&Query::a("local.example")).address(), "192.0.2.9");
    }
    assert_eq!(fs::read_to_string(&file).expect("is there"), "before");
    assert_eq!(fs::read_dir(folder.path()).expect("is there").count(), 1);
}

fn nothing_of_it_stays(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let lingers = lingering();
    let leave = format!("{lingers} & ( setsid {lingers} & ); ( trap '' TERM; {lingers} ) &");
    let script = format!("{leave} {READ}{DECIDE}");
    let daemon = policy(&upstream, "once", PATIENT, &script).start(world);
    assert_eq!(daemon.udp(&Query::a("local.example")).address(), "192.0.2.9");
    expect_none(&lingers);
    assert_eq!(daemon.udp(&Query::a("www.example")).address(), "192.0.2.1");

    let script = format!("{leave} while :; do {READ}{DECIDE} done");
    let daemon = policy(&upstream, "worker", PATIENT, &script).start(world);
    assert_eq!(daemon.udp(&Query::a("local.example")).address(), "192.0.2.9");
    until("it has left children", || (processes(&lingers) > 0).then_some(()));
    daemon.signal("TERM");
    assert_eq!(daemon.end().status.code(), Some(0));
    expect_none(&lingers);

    // A second signal: nobody waits for anything.
    let silent = Upstream::silent();
    let daemon = policy(&silent, "worker", PATIENT, &script).start(world);
    let client = UdpClient::to(daemon.addr());
    client.send(&Query::a("www.example").encode());
    silent.wait_for(1);
    until("it has left children", || (processes(&lingers) > 0).then_some(()));
    daemon.signal("TERM");
    until("it drains", || daemon.said().contains("SIGTERM").then_some(()));
    daemon.signal("TERM");
    assert_eq!(daemon.end().status.code(), Some(1));
    expect_none(&lingers);

    let script = format!("{READ}{DECIDE} exec {lingers}");
    let daemon = policy(&upstream, "worker", PATIENT, &script).start(world);
    assert_eq!(daemon.udp(&Query::a("local.example")).address(), "192.0.2.9");
    until("it lingers", || (processes(&lingers) > 0).then_some(()));
    daemon.signal("KILL");
    daemon.end();
    expect_none(&lingers);
}

/// A command that lasts, and is told from those of other runs by its argument.
fn lingering() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("sleep 9{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn expect_none(command: &str) {
    until("no process is left", || (processes(command) == 0).then_some(()));
}

/// How many processes run a command.
fn processes(command: &str) -> usize {
    let wanted = format!("{}\0", command.replace(' ', "\0"));
    let all = fs::read_dir("/proc").expect("is there").flatten();
    let commands = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    commands.filter(|found| *found == wanted.as_bytes()).count()
}
