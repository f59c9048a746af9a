//! Plugins that do what they should not, or as badly as they can, and what becomes of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;

use balancedns_core::engine::ProcessExit;
use balancedns_core::limits::PROCESS_OUTPUT_OCTETS;
use balancedns_core::policy::ExecMode::{Once, Worker};
use nix::libc::SIGKILL;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Case;
use crate::bench::Bench;
use crate::hostile::{COMPLAINED_DIGITS, COMPLAINED_OCTETS};

const KILLED: ProcessExit = ProcessExit::Signal(SIGKILL);
/// Children that outlive any test, unless they are killed.
const LINGER: &str = "sleep 1000";

pub(crate) fn all() -> Vec<Case> {
    vec![
        Case::new("asked_once_it_reads_to_the_end_and_answers", asked_once),
        Case::new("kept_running_it_is_fed_line_by_line", kept_running),
        Case::new("what_is_said_before_the_end_is_told_before_it", half_an_object),
        Case::new("the_ways_to_end_are_told_apart", ends),
        Case::new("what_cannot_be_executed_ends_with_a_code_of_its_own", not_executable),
        Case::new("a_child_that_holds_stdout_ends_with_its_parent", holds_stdout),
        Case::new("orphans_of_orphans_end_too", double_fork),
        Case::new("nobody_leaves_the_group", leaves_group),
        Case::new("term_is_not_what_kills", ignores_term),
        Case::new("one_that_stops_itself_is_killed", stops_itself),
        Case::new("many_that_go_on_forking_are_killed", fork_bomb),
        Case::new("one_that_executes_itself_is_killed", executes_itself),
        Case::new("a_flood_is_read_no_faster_than_it_is_judged", floods),
        Case::new("after_a_kill_nothing_is_said", silent_after_kill),
        Case::new("one_that_closes_stdout_goes_on", closes_stdout),
        Case::new("asked_once_it_need_not_read", need_not_read),
        Case::new("kept_running_it_has_to_have_an_input", closes_stdin),
        Case::new("kept_running_it_has_to_read", never_reads),
        Case::new("a_long_input_is_written_as_it_is_read", long_input),
        Case::new("complaints_are_heard_to_a_bound_for_each_question", complains),
        Case::new("what_is_killed_before_it_runs_ends_once", killed_early),
        Case::new("whoever_is_forgotten_is_killed", dropped),
        Case::new("nobody_inherits_anything_whoever_starts_at_the_same_time", descriptors),
        Case::new("the_environment_is_empty", environment),
        Case::new("they_die_with_the_daemon", daemon_dies),
        Case::new("the_launcher_starts_nothing_for_others", launched_by_hand),
    ]
}

fn asked_once() {
    let mut bench = Bench::new();
    let process = bench.script(Once, "cat; echo .", b"question");
    assert_eq!(bench.end(process), ("question.\n".to_owned(), ProcessExit::Code(0)));
}

fn kept_running() {
    let mut bench = Bench::new();
    let process = bench.script(Worker, "while read line; do echo \"<$line>\"; done", b"a\n");
    bench.until_said(process, "<a>\n");
    bench.feed(process, b"b\n");
    bench.until_said(process, "<b>\n");
    bench.kill(process);
    assert_eq!(bench.end(process), ("<a>\n<b>\n".to_owned(), KILLED));
}

fn half_an_object() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        let process = bench.script(Once, "printf '{\"act'", b"");
        assert_eq!(bench.end(process), ("{\"act".to_owned(), ProcessExit::Code(0)));
    }
}

fn ends() {
    let mut bench = Bench::new();
    for (text, end) in [
        ("exit 0", ProcessExit::Code(0)),
        ("exit 3", ProcessExit::Code(3)),
        ("kill -SEGV $$", ProcessExit::Signal(11)),
        ("kill -KILL $$", KILLED),
    ] {
        let process = bench.script(Once, text, b"unread");
        assert_eq!(bench.end(process), (String::new(), end), "{text}");
    }
}

fn not_executable() {
    let mut bench = Bench::new();
    let file = |name: &str, mode, text: &str| {
        let path = bench.folder().join(name);
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("sets");
        path
    };
    let plain = file("plain", 0o644, "#!/bin/sh\n");
    let no_interpreter = file("no_interpreter", 0o755, "#!/nonexistent/x\n");
    let folder = bench.folder().to_owned();
    let missing = folder.join("missing");
    for (path, code) in [(plain, 126), (folder, 126), (no_interpreter, 127), (missing, 127)] {
        for mode in [Once, Worker] {
            let process = bench.start(mode, &path, &[], b"question");
            let end = bench.end(process);
            assert_eq!(end, (String::new(), ProcessExit::Code(code)), "{path:?}");
        }
    }
}

fn holds_stdout() {
    let mut bench = Bench::new();
    let process = bench.script(Once, &format!("{LINGER} & echo done"), b"");
    assert_eq!(bench.end(process), ("done\n".to_owned(), ProcessExit::Code(0)));
}

fn double_fork() {
    let mut bench = Bench::new();
    let text =
        format!("( ( {LINGER} & {LINGER} ) & ) ; ( trap '' HUP TERM; {LINGER} ) & echo done");
    let process = bench.script(Once, &text, b"");
    assert_eq!(bench.end(process), ("done\n".to_owned(), ProcessExit::Code(0)));
}

fn leaves_group() {
    let mut bench = Bench::new();
    let process = bench.own(Once, &["leave"]);
    assert_eq!(bench.end(process), ("EPERM EPERM".to_owned(), ProcessExit::Code(0)));
    let process = bench.script(Once, &format!("setsid -f {LINGER}; setsid {LINGER} & exit 5"), b"");
    assert_eq!(bench.end(process).1, ProcessExit::Code(5));
}

fn ignores_term() {
    let mut bench = Bench::new();
    let text = "trap '' TERM HUP INT; kill -TERM $$; echo alive; while :; do :; done";
    let process = bench.script(Once, text, b"");
    bench.until_said(process, "alive");
    bench.kill(process);
    assert_eq!(bench.end(process).1, KILLED);
}

fn stops_itself() {
    let mut bench = Bench::new();
    let process = bench.script(Once, "echo going; kill -STOP 0", b"");
    bench.until_said(process, "going");
    bench.kill(process);
    assert_eq!(bench.end(process).1, KILLED);
}

/// Two of each, to a depth that a machine can take if this test fails.
fn fork_bomb() {
    let mut bench = Bench::new();
    let bomb = format!(
        "bomb() {{ if [ $1 -gt 0 ]; then bomb $(($1 - 1)) & bomb $(($1 - 1)) & fi; {LINGER}; }}\n\
         bomb 7 & echo lit;"
    );
    let process = bench.script(Once, &format!("{bomb} wait"), b"");
    bench.until_said(process, "lit");
    bench.kill(process);
    assert_eq!(bench.end(process).1, KILLED);
    // The same, when its first process has gone.
    let process = bench.script(Once, &format!("{bomb} exit 0"), b"");
    assert_eq!(bench.end(process).1, ProcessExit::Code(0));
}

fn executes_itself() {
    let mut bench = Bench::new();
    let process = bench.script(Worker, "echo again; exec \"$0\"", b"");
    bench.until_said(process, "again\nagain\nagain\n");
    bench.kill(process);
    assert_eq!(bench.end(process).1, KILLED);
}

fn floods() {
    let mut bench = Bench::new();
    let process = bench.own(Once, &["flood"]);
    let said = bench.until(process, |told| told.said.len() > PROCESS_OUTPUT_OCTETS).said.len();
    // Beyond the bound there is what one round reads.
    assert!(said <= PROCESS_OUTPUT_OCTETS + 16_384, "{said}");
    bench.kill(process);
    let (after, end) = bench.end(process);
    assert_eq!((after.len(), end), (said, KILLED));
}

fn silent_after_kill() {
    let mut bench = Bench::new();
    let process = bench.own(Worker, &["flood"]);
    let said = bench.until(process, |told| !told.said.is_empty()).said.len();
    bench.kill(process);
    bench.kill(process);
    bench.feed(process, b"for nobody");
    let (after, end) = bench.end(process);
    assert_eq!((after.len(), end), (said, KILLED));
    bench.kill(process);
}

fn closes_stdout() {
    let mut bench = Bench::new();
    let process = bench.script(Once, "echo last; exec >&-; read line; exit 4", b"x\n");
    assert_eq!(bench.end(process), ("last\n".to_owned(), ProcessExit::Code(4)));
    let process = bench.script(Once, "echo last; exec >&- 2>&-; while :; do :; done", b"");
    bench.until_said(process, "last\n");
    bench.kill(process);
    assert_eq!(bench.end(process).1, KILLED);
}

fn need_not_read() {
    let mut bench = Bench::new();
    let long = vec![b'x'; 1 << 20];
    for text in ["exec 0<&-; echo same", "echo same"] {
        let process = bench.script(Once, text, &long);
        assert_eq!(bench.end(process), ("same\n".to_owned(), ProcessExit::Code(0)));
    }
}

fn closes_stdin() {
    let mut bench = Bench::new();
    let text = "exec 0<&-; echo closed; while :; do :; done";
    let process = bench.script(Worker, text, b"");
    bench.until_said(process, "closed");
    bench.feed(process, b"question\n");
    assert_eq!(bench.end(process), ("closed\n".to_owned(), KILLED));
}

fn never_reads() {
    let mut bench = Bench::new();
    let process = bench.script(Worker, &format!("echo deaf; {LINGER}"), b"");
    bench.until_said(process, "deaf");
    // A pipe holds some of it.
    for _ in 0..18 {
        bench.feed(process, &[b'x'; 65_536]);
    }
    assert_eq!(bench.end(process).1, KILLED);
}

fn long_input() {
    let mut bench = Bench::new();
    let process = bench.script(Worker, "wc -c", b"");
    bench.kill(process);
    bench.end(process);
    let process = bench.script(Once, "sleep 0.05; wc -c", &[b'x'; 1 << 20]);
    assert_eq!(bench.end(process), ("1048576\n".to_owned(), ProcessExit::Code(0)));
}

/// It answers each question with how much it has got rid of by then, of a megabyte.
fn complains() {
    let mut bench = Bench::new();
    let process = bench.own(Worker, &["complain"]);
    for questions in 1..1_000_000 {
        let before = bench.until(process, |_| true).said.len();
        bench.feed(process, b"?");
        let told = bench.until(process, |told| told.said.len() >= before + COMPLAINED_DIGITS);
        let complained: usize = str::from_utf8(&told.said[before..])
            .ok()
            .and_then(|digits| digits.parse().ok())
            .expect("a number");
        // What is heard before the first question and for each, and what the pipe holds.
        assert!(complained <= (questions + 2) * 65_536, "{complained} after {questions}");
        if complained == COMPLAINED_OCTETS {
            return;
        }
    }
    panic!("it is heard no more");
}

fn killed_early() {
    let mut bench = Bench::new();
    for _ in 0..40 {
        let process = bench.script(Once, LINGER, b"question");
        bench.kill(process);
        bench.kill(process);
        assert_eq!(bench.end(process), (String::new(), KILLED));
    }
}

fn dropped() {
    let mut bench = Bench::new();
    let process = bench.script(Worker, &format!("{LINGER} & echo up; {LINGER}"), b"");
    bench.until_said(process, "up");
    for _ in 0..20 {
        bench.script(Worker, LINGER, b"");
    }
    drop(bench);
}

/// Workers start processes at the same time, and the daemon has a descriptor that may be inherited.
fn descriptors() {
    let inheritable = fs::File::open("/dev/null").expect("opens");
    rustix::io::fcntl_setfd(&inheritable, rustix::io::FdFlags::empty()).expect("sets");
    let worker = || {
        let mut bench = Bench::new();
        let all: Vec<_> = (0..12).map(|_| bench.own(Once, &["descriptors"])).collect();
        for process in all {
            // The last is that of the folder which lists them.
            assert_eq!(bench.end(process), ("0 1 2 3".to_owned(), ProcessExit::Code(0)));
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(worker);
        }
    });
}

fn environment() {
    let mut bench = Bench::new();
    let process = bench.own(Once, &["environment"]);
    assert_eq!(bench.end(process), ("[]".to_owned(), ProcessExit::Code(0)));
}

/// A daemon is killed that has a plugin running.
fn daemon_dies() {
    let mut daemon = Command::new(std::env::current_exe().expect("is known"))
        .args(["hostile", "daemon"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    let stdout = daemon.stdout.take().expect("asked for");
    BufReader::new(stdout).read_line(&mut line).expect("reads");
    daemon.kill().expect("kills");
    daemon.wait().expect("ends");
    // It is an orphan now, and therefore ours.
    let process = Pid::from_raw(line.trim().parse().expect("a number"));
    let end = waitpid(process, None).expect("is waited for");
    assert_eq!(end, WaitStatus::Signaled(process, Signal::SIGKILL, false));
}

fn launched_by_hand() {
    let own = std::env::current_exe().expect("is known");
    for args in [&["exec-plugin"][..], &["exec-plugin", "once", "1", "--", "/bin/true"]] {
        let output = Command::new(&own).args(args).output().expect("starts");
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{words}");
        assert!(words.starts_with("exec-plugin: "), "{words}");
    }
}
