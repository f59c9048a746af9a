//! The processes of executable policies: what they are told, how many there are and for how long, when
//! they are started again. They are shell scripts.
//!
//! Whoever looks for processes looks for an argument that nobody else has.

use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{
    Daemon, Query, Settings, UdpClient, Upstream, Via, free_port, processes_with, unique_argument,
    until, until_within,
};

cases! {
    told_the_question, all, "config plugins.entries",
        "an executable is told the question as one line of JSON, and nothing else";
    told_the_client, all, "config plugins.entries",
        "before the cache it is told client and transport too";
    its_surroundings, own, "config plugins.entries",
        "an executable has its arguments, an empty environment, and no descriptor of the daemon's";
    its_own_code, own, "config plugins.entries",
        "an executable that ends other than with code 0 has failed, whatever it has said";
    shipped_policy, all, "config plugins.entries",
        "the shell example decides the same, started for each question or kept running";
    nonsense, own, "config plugins.on_error",
        "what is no verdict is an error: nothing, half of one, two, another action, no JSON";
    shared_runs, own, "config plugins.entries",
        "equal questions at the same time share a run";
    overdue_ones_are_killed, own, "config plugins.timeout_ms",
        "an executable that takes too long is killed with all its children, deaf to TERM or not";
    floods, own, "robustness plugins",
        "an executable that never stops talking fails, and is killed";
    too_many, own, "robustness plugins",
        "beyond the bound on processes questions fail at once, and nothing is left when all are over";
    must_be_executable, own, "cli errors, config plugins.entries",
        "what is missing, a folder, or may not be executed is an error at the start";
    may_vanish, own, "robustness plugins",
        "an executable that is gone later is a failure, and is found again when it is back";
    kept_running, own, "config plugins.entries.mode",
        "one that is kept running gets a line for each question and is started once";
    out_of_order, own, "config plugins.entries.mode",
        "one that is kept running may answer in any order";
    started_again, own, "config plugins.entries.mode, config control.restart_backoff_ms",
        "one that was kept running and has ended is started again, not at once, and its end is told";
    slow_answers, own, "config plugins.entries.mode, config plugins.timeout_ms",
        "one that is kept running and answers others keeps running though one answer is overdue";
    deaf_ones, own, "config plugins.entries.mode, config plugins.timeout_ms",
        "one that is kept running and says nothing in time is killed and started again";
    broken_lines, own, "config plugins.entries.mode",
        "one that is kept running and says what is no verdict is killed and started again";
    nothing_is_left_at_the_end, own, "cli signals",
        "when the daemon ends no plugin is left, busy or idle, and who waited for one is told that we end";
}

const SERVFAIL: u16 = 2;
const REFUSED: u16 = 5;
/// What forwards and rewrites in the scripts.
const FORWARD: &str = r#"{"action":"FORWARD"}"#;
/// What says that all is as it should be.
const FINE: &str = r#"{"action":"LOCAL_DATA","local_data":{"ip":"192.0.2.99"}}"#;

/// A shell script as plugin, with more keys of its entry.
fn plugged(upstream: &Upstream, text: &str, keys: &str) -> Settings {
    with_script(upstream, &format!("#!/bin/sh\n{text}\n"), keys)
}

fn with_script(upstream: &Upstream, script: &str, keys: &str) -> Settings {
    let entry = format!("{{ path = \"plugin.sh\", runtime = \"exec\", {keys} }}");
    Settings::with(upstream).file("plugin.sh", script).section(&format!(
        "plugins = {{ enabled = true, timeout_ms = 7000, entries = {{ {entry} }} }}"
    ))
}

const WORKER: &str = r#"mode = "worker""#;

fn count(daemon: &Daemon, metric: &str) -> u32 {
    let value = daemon.metric(metric);
    (0..10_000).find(|number| (f64::from(*number) - value).abs() < 0.1).expect("a small number")
}

fn processes(daemon: &Daemon) -> u32 {
    count(daemon, "balancedns_plugin_processes_total")
}

fn failures(daemon: &Daemon, reason: &str) -> u32 {
    count(daemon, &format!("balancedns_plugin_failures_total{{reason=\"{reason}\"}}"))
}

fn until_gone(argument: &str) {
    until("no process is left", || processes_with(argument).is_empty().then_some(()));
}

fn told_the_question(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let line = r#"{"question":{"domain":"www.example.org.","type":"A","qtype":1}}"#;
    let text = format!(
        "input=$(cat; echo .)\nexpected=$(printf '%s\\n.' '{line}')\n\
         if [ \"$input\" = \"$expected\" ]; then echo '{FINE}'; exit; fi\n\
         case $input in *'\"type\":\"MX\"'*) echo '{FORWARD}' ;; *) echo '{{\"action\":\"BLOCK\"}}' ;; esac"
    );
    let daemon = plugged(&upstream, &text, "").start(world);
    assert_eq!(daemon.ask(&Query::a("WWW.example.org")).address(), "192.0.2.99");
    // Whatever a client writes into its name, it stays a text.
    let labels = [&br#"a","type":"MX""#[..], b"example", b"org"];
    assert_eq!(daemon.ask(&Query::of_labels(&labels, RecordType::A)).rcode(), REFUSED);
    assert_eq!(daemon.ask(&Query::new("www.example.org", RecordType::MX)).rcode(), 0);
}

fn told_the_client(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let question = r#""domain":"www.example.org.","type":"A","qtype":1,"client":"127.0.0.1""#;
    let text = format!(
        "read -r line\ncase $line in\n\
         '{{\"question\":{{{question},\"transport\":\"udp\"}}}}') ip=1 ;;\n\
         '{{\"question\":{{{question},\"transport\":\"tcp\"}}}}') ip=2 ;;\n\
         '{{\"question\":{{{question},\"transport\":\"dot\"}}}}') ip=3 ;;\n\
         '{{\"question\":{{{question},\"transport\":\"doh\"}}}}') ip=4 ;;\n\
         *) ip=5 ;;\nesac\n\
         echo \"{{\\\"action\\\":\\\"LOCAL_DATA\\\",\\\"local_data\\\":{{\\\"ip\\\":\\\"192.0.2.$ip\\\"}}}}\""
    );
    let daemon = plugged(&upstream, &text, "")
        .section(
            r#"routing = { chain = { "blacklist", "hosts", "lua_policy", "cache", "upstream" } }"#,
        )
        .start(world);
    let expected = match daemon.transport() {
        Via::Udp => "192.0.2.1",
        Via::Tcp => "192.0.2.2",
        Via::Dot => "192.0.2.3",
        Via::Get | Via::Post => "192.0.2.4",
    };
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), expected);
}

fn its_surroundings(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    // A builtin's redirection is done by the shell itself, whose environment this is.
    let text = format!(
        "environment=\nread -r environment </proc/self/environ\nread -r line\n\
         sockets=no\ncase $(ls -l /proc/$$/fd) in *socket:*|*anon_inode*) sockets=yes ;; esac\n\
         if [ -z \"$environment\" ] && [ $# = 3 ] && [ \"$1\" = 'one two' ] && [ \"$2\" = '' ] \
            && [ \"$3\" = '$HOME' ] && [ $sockets = no ]\n\
         then echo '{FINE}'; else echo \"$environment|$#|$1|$2|$3|$sockets\" >&2; fi"
    );
    let args = r#"args = { "one two", "", "$HOME" }"#;
    let daemon =
        plugged(&upstream, &text, args).variable("SECRET_OF_THE_DAEMON", "told").start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.99");
}

fn its_own_code(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let text = format!(
        "read -r line\necho '{FINE}'\ncase $line in\n*one.*) exit 1 ;;\n*two.*) kill -SEGV $$ ;;\nesac"
    );
    let daemon = plugged(&upstream, &text, "").start(world);
    for name in ["one.example.org", "two.example.org"] {
        let reply = daemon.udp(&Query::a(name).edns(1232));
        assert_eq!(
            (reply.rcode(), reply.extended_error()),
            (SERVFAIL, (0, "plugin.sh".to_owned()))
        );
    }
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.99");
    assert_eq!(failures(&daemon, "process"), 2);
    daemon.wait_to_say("ended with code 1");
    daemon.wait_to_say("was ended by signal 11");
}

fn shipped_policy(world: &World) {
    let script = include_str!("../../../scripts/policy.sh");
    let upstream = Upstream::answering("203.0.113.1");
    for mode in ["", WORKER] {
        let daemon = with_script(&upstream, script, mode).start(world);
        for _ in 0..2 {
            let ask = |name: &str| daemon.ask(&Query::a(name));
            assert_eq!(ask("a.ads.example").rcode(), REFUSED);
            assert_eq!(ask("bads.example").address(), "203.0.113.1");
            assert_eq!(ask("printer.example").address(), "192.0.2.10");
            let reply = ask("www.search.example");
            assert_eq!(reply.answers(), ["CNAME safe.search.example.", "A 203.0.113.1"]);
        }
    }
}

fn nonsense(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let sayings = [
        "",
        "FORWARD",
        "{",
        r#"{"action":"FORWARD""#,
        r#"{"action":"ALLOW"}"#,
        r#"{"action":"FORWARD"}{"action":"BLOCK"}"#,
        r#"["FORWARD"]"#,
        r#"{"action":"FORWARD","surprise":1}"#,
        r#"{"action":"FORWARD","action":"FORWARD"}"#,
        r#"{"action":"LOCAL_DATA","local_data":{"ip":"nowhere"}}"#,
        "null",
        "{}",
    ];
    let arms: String = sayings
        .iter()
        .enumerate()
        .map(|(number, saying)| {
            format!("*'\"{number}.example.org.\"'*) printf '%s' '{saying}' ;;\n")
        })
        .collect();
    let text = format!("read -r line\ncase $line in\n{arms}*) echo '{FORWARD}' ;;\nesac");
    let daemon = plugged(&upstream, &text, "").start(world);
    for (number, saying) in sayings.iter().enumerate() {
        let reply = daemon.udp(&Query::a(&format!("{number}.example.org")));
        assert_eq!(reply.rcode(), SERVFAIL, "{saying}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(usize::try_from(failures(&daemon, "result")), Ok(sayings.len()));
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn shared_runs(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plugged(&upstream, &format!("sleep 1; echo '{FINE}'"), "").start(world);
    let clients: Vec<_> = (0..10).map(|_| UdpClient::to(daemon.addr())).collect();
    let queries: Vec<_> = clients.iter().map(|_| Query::a("www.example.org")).collect();
    for (client, query) in clients.iter().zip(&queries) {
        client.send(&query.encode());
    }
    for (client, query) in clients.iter().zip(&queries) {
        let reply = client.receive();
        reply.check_echo(query);
        assert_eq!(reply.address(), "192.0.2.99");
    }
    assert_eq!(processes(&daemon), 1);
    assert_eq!(count(&daemon, "balancedns_plugin_shared_total"), 9);
}

fn overdue_ones_are_killed(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let argument = unique_argument();
    let text = format!(
        "read -r line\ncase $line in *good*) echo '{FORWARD}'; exit ;; esac\n\
         trap '' TERM HUP INT\n( sleep {argument} & sleep {argument} )"
    );
    let daemon = plugged(&upstream, &text, "timeout_ms = 1500").start(world);
    let start = Instant::now();
    let client = UdpClient::to(daemon.addr());
    client.send(&Query::a("www.example.org").encode());
    until("it runs, and its child", || (processes_with(&argument).len() == 2).then_some(()));
    assert_eq!(client.receive().rcode(), SERVFAIL);
    let took = start.elapsed();
    assert!((1_500..4_000).contains(&took.as_millis()), "{took:?}");
    until_gone(&argument);
    assert_eq!(failures(&daemon, "timeout"), 1);
    // The next one is none the worse for it.
    assert_eq!(daemon.udp(&Query::a("good.example.org")).rcode(), 0);
}

fn floods(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let argument = unique_argument();
    let text = format!("echo '{FINE}'\nwhile :; do echo \"$1 and nothing but noise\"; done");
    for mode in ["", WORKER] {
        let keys = format!("args = {{ \"{argument}\" }}, {mode}");
        let daemon = plugged(&upstream, &text, &keys).start(world);
        let before = daemon.memory_kib();
        assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), SERVFAIL, "{mode}");
        until_gone(&argument);
        assert!(daemon.memory_peak_kib() < before + 8_192, "{before} KiB before");
        assert_eq!(count(&daemon, "balancedns_plugin_execution_errors"), 1, "{mode}");
    }
}

fn too_many(world: &World) {
    const QUESTIONS: usize = 80;
    const PROCESSES: usize = 64;
    let upstream = Upstream::answering("192.0.2.1");
    let text = format!("read -r line\nsleep 3\necho '{FINE}'");
    let daemon = plugged(&upstream, &text, "timeout_ms = 60000").start(world);
    let descriptors = daemon.descriptors();
    let client = UdpClient::to(daemon.addr());
    for number in 0..QUESTIONS {
        client.send(&Query::a(&format!("n{number}.example.org")).encode());
    }
    let mut answered = 0;
    let mut failed = 0;
    for _ in 0..QUESTIONS {
        let reply = client.try_receive(Duration::from_secs(50)).expect("each gets its reply");
        match reply.rcode() {
            0 => answered += 1,
            SERVFAIL => {
                assert_eq!(answered, 0, "who finds no place is told so at once");
                failed += 1;
            }
            other => panic!("rcode {other}"),
        }
    }
    assert_eq!((answered, failed), (PROCESSES, QUESTIONS - PROCESSES));
    assert_eq!(usize::try_from(failures(&daemon, "busy")), Ok(failed));
    // What starting takes is kept: a thread, and the way back from it.
    until("descriptors are given back", || (daemon.descriptors() <= descriptors + 8).then_some(()));
    assert_eq!(daemon.udp(&Query::a("after.example.org")).address(), "192.0.2.99");
}

fn must_be_executable(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let entry = |path: &str| format!("{{ path = \"{path}\", runtime = \"exec\" }}");
    let entries = ["plain.sh", "nowhere.sh", ".", "folder/"].map(entry).join(", ");
    let ended = Settings::with(&upstream)
        .file("plain.sh", "echo FORWARD\n")
        .section(&format!("plugins = {{ enabled = true, entries = {{ {entries} }} }}"))
        .fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for words in [
        ["plugins.entries[1].path", "cannot be started", "plain.sh"],
        ["plugins.entries[2].path", "cannot be started", "nowhere.sh"],
        ["plugins.entries[3].path", "cannot be started", ""],
        ["plugins.entries[4].path", "is a folder", ""],
    ] {
        let found = ended.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?}:\n{}", ended.stderr);
    }
}

fn may_vanish(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let text = format!("#!/bin/sh\necho '{FINE}'\n");
    let daemon = with_script(&upstream, &text, "").start(world);
    let ask = || daemon.udp(&Query::a("www.example.org"));
    assert_eq!(ask().address(), "192.0.2.99");
    daemon.remove("plugin.sh");
    assert_eq!(ask().rcode(), SERVFAIL);
    assert_eq!(failures(&daemon, "process"), 1);
    daemon.rewrite("plugin.sh", &text);
    assert_eq!(ask().address(), "192.0.2.99");
}

/// Answers each line with an address that counts them.
const COUNTING: &str = r#"count=0
while read -r line; do
    count=$((count + 1))
    id=${line#'{"id":'}
    id=${id%%,*}
    case $line in
    *crash.*) exit 3 ;;
    *never.*) continue ;;
    *broken.*) echo nonsense; continue ;;
    *unknown.*) echo '{"id":4711,"action":"BLOCK"}' ;;
    esac
    echo "{\"id\":$id,\"action\":\"LOCAL_DATA\",\"local_data\":{\"ip\":\"192.0.2.$count\"}}"
done"#;

fn kept_running(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plugged(&upstream, COUNTING, WORKER).start(world);
    for count in 1..=20 {
        // An answer that nobody waits for does no harm.
        let name = if count == 7 { "unknown.example.org" } else { "www.example.org" };
        let reply = daemon.udp(&Query::a(name));
        assert_eq!(reply.address(), format!("192.0.2.{count}"));
    }
    assert_eq!(processes(&daemon), 1);
}

fn out_of_order(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let text = r#"answer() {
    id=${1#'{"id":'}
    id=${id%%,*}
    case $1 in *one.*) ip=192.0.2.1 ;; *) ip=192.0.2.2 ;; esac
    echo "{\"id\":$id,\"action\":\"LOCAL_DATA\",\"local_data\":{\"ip\":\"$ip\"}}"
}
while read -r first && read -r second; do answer "$second"; answer "$first"; done"#;
    let daemon = plugged(&upstream, text, WORKER).start(world);
    for _ in 0..3 {
        let queries = ["one.example.org", "two.example.org"].map(Query::a);
        let clients = queries.each_ref().map(|query| {
            let client = UdpClient::to(daemon.addr());
            client.send(&query.encode());
            client
        });
        for ((client, query), ip) in clients.iter().zip(&queries).zip(["192.0.2.1", "192.0.2.2"]) {
            let reply = client.receive();
            reply.check_echo(query);
            assert_eq!(reply.address(), ip);
        }
    }
    assert_eq!(processes(&daemon), 1);
}

/// Asks until the plugin answers with its first count.
fn until_started_again(daemon: &Daemon) {
    until_within(Duration::from_secs(20), "it is started again", || {
        let reply = daemon.udp(&Query::a("www.example.org"));
        (reply.rcode() == 0).then(|| assert_eq!(reply.address(), "192.0.2.1", "it counts afresh"))
    });
}

fn started_again(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plugged(&upstream, COUNTING, WORKER)
        .section("control = { restart_backoff_ms = 1000, restart_max_backoff_ms = 2000 }")
        .start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    let crashed = Instant::now();
    assert_eq!(daemon.udp(&Query::a("crash.example.org")).rcode(), SERVFAIL);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), SERVFAIL, "not at once");
    daemon.wait_to_say("its process ended with code 3");
    until_started_again(&daemon);
    assert!(crashed.elapsed() >= Duration::from_secs(1), "{:?}", crashed.elapsed());
    assert_eq!(processes(&daemon), 2);
}

fn slow_answers(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plugged(&upstream, COUNTING, &format!("{WORKER}, timeout_ms = 3000")).start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    let client = UdpClient::to(daemon.addr());
    client.send(&Query::a("never.example.org").encode());
    // It is behind the other one in the pipe.
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.3");
    assert_eq!(client.receive().rcode(), SERVFAIL);
    assert_eq!(failures(&daemon, "timeout"), 1);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.4");
    assert_eq!(processes(&daemon), 1);
}

fn deaf_ones(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let argument = unique_argument();
    let keys = format!("{WORKER}, timeout_ms = 1500, args = {{ \"{argument}\" }}");
    let daemon = plugged(&upstream, COUNTING, &keys).start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    let before = processes_with(&argument);
    assert_eq!(before.len(), 1);
    assert_eq!(daemon.udp(&Query::a("never.example.org")).rcode(), SERVFAIL);
    until("it is killed", || (!processes_with(&argument).contains(&before[0])).then_some(()));
    until_started_again(&daemon);
    assert_eq!(processes(&daemon), 2);
}

fn broken_lines(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = plugged(&upstream, COUNTING, WORKER).start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    assert_eq!(daemon.udp(&Query::a("broken.example.org")).rcode(), SERVFAIL);
    assert_eq!(failures(&daemon, "result"), 1);
    until_started_again(&daemon);
    assert_eq!(processes(&daemon), 2);
}

/// Plugins of both modes: one waits for its next question, one is in the middle of the first.
fn busy_and_idle(world: &World, upstream: &Upstream, argument: &str) -> (Daemon, UdpClient) {
    let once = format!(
        "#!/bin/sh\nread -r line\ncase $line in\n*busy.*) exec sleep {argument} ;;\nesac\necho '{FORWARD}'\n"
    );
    let keys = format!("runtime = \"exec\", timeout_ms = 60000, args = {{ \"{argument}\" }}");
    let daemon = Settings::with(upstream)
        .file("once.sh", &once)
        .file("kept.sh", &format!("#!/bin/sh\n{COUNTING}\n"))
        .section("control = { drain_timeout_ms = 300 }")
        .section(&format!(
            "plugins = {{ enabled = true, entries = {{ {{ path = \"once.sh\", {keys} }}, \
             {{ path = \"kept.sh\", {keys}, {WORKER} }} }} }}"
        ))
        .start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    let client = UdpClient::to(daemon.addr());
    client.send(&Query::a("busy.example.org").edns(1232).encode());
    until("both run", || (processes_with(argument).len() == 2).then_some(()));
    (daemon, client)
}

fn nothing_is_left_at_the_end(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let argument = unique_argument();
    let (daemon, client) = busy_and_idle(world, &upstream, &argument);
    daemon.signal("TERM");
    let ended = daemon.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(processes_with(&argument).is_empty(), "none outlives the daemon");
    // Who still waited is told that we are not ready (RFC 8914 section 4.15).
    let reply = client.receive();
    assert_eq!((reply.rcode(), reply.extended_errors()), (SERVFAIL, vec![14]));
}
