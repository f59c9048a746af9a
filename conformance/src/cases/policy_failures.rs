//! Policies that fail: at the start with the configuration, later by their scripts' errors. No error lets a question pass unless that is wanted, none lasts, and none
//! costs others their answers.

use std::time::{Duration, Instant};

use crate::case::World;
use crate::harness::{Daemon, Query, Settings, Upstream, free_port, until_within};

cases! {
    errors_are_servfail, all, "config plugins.on_error",
        "a script that fails is SERVFAIL, and who speaks EDNS is told which";
    errors_forward_if_wanted, all, "config plugins.on_error",
        "with on_error forward a question goes on without the plugin that has failed";
    errors_block_if_wanted, all, "config plugins.on_error",
        "with on_error block a question is blocked in the way of the blacklist";
    nonsense_is_an_error, all, "config plugins",
        "a result that means nothing is an error, not FORWARD";
    earlier_decisions_stay, all, "config plugins.on_error",
        "what an earlier plugin has decided holds though a later one fails";
    failures_are_not_kept, all, "config plugins, config cache.servfail_ttl_seconds",
        "the failure of a script is not in the cache: the next question is asked again";
    state_begins_afresh, all, "config plugins",
        "after an error a script begins afresh: what it had in its variables is gone";
    endless_scripts_end, own, "config plugins.timeout_ms",
        "loops of every kind end with their time, and the next question is answered";
    time_is_the_plugins_own, own, "config plugins.timeout_ms",
        "an entry may have a time of its own";
    memory_is_bounded, own, "config plugins.memory_limit_mb",
        "a script that wants too much memory fails, and the next question is answered";
    failing_plugins_are_left_out, own, "config plugins.disable_after_failures",
        "a plugin that keeps failing is not asked for a while, visibly, and then is";
    failures_are_counted, own, "http /metrics",
        "failures are counted under the name that dashboards know, and by reason";
    failures_are_logged, own, "robustness logging",
        "a failing script is told by name and line, now and then, not once for each question";
    unknown_choices_are_errors, all, "config plugins",
        "a script that chooses somebody who is not there has failed";
    wrong_scripts, own, "cli errors, config plugins",
        "a script with a mistake, without handle, or without end is an error at the start, with file and line";
    wrong_entries, own, "cli errors, config plugins.entries",
        "entries that cannot be meant are errors at the start";
}

const SERVFAIL: u16 = 2;
/// RFC 8914 section 4.1.
const OTHER: u16 = 0;
const TIME: &str = "timeout_ms = 3000";

/// A script in a file of its own, which answers names that begin with `good`.
fn failing(upstream: &Upstream, keys: &str, rules: &str) -> Settings {
    let text = format!(
        "function handle(question)\n  \
           if string.sub(question.domain, 1, 4) == 'good' then return 'FORWARD' end\n{rules}\nend\n"
    );
    Settings::with(upstream).file("policy.lua", &text).section(&format!(
        "plugins = {{ enabled = true, {keys}, entries = {{ {{ path = \"policy.lua\" }} }} }}"
    ))
}

fn good(daemon: &Daemon) -> bool {
    daemon.udp(&Query::a("good.example.org")).rcode() == 0
}

fn errors_are_servfail(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = failing(&upstream, TIME, "  error('no idea')").start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("www.example.org").edns(1232));
        assert_eq!((reply.rcode(), reply.message.answers.len()), (SERVFAIL, 0));
        assert_eq!(reply.extended_error(), (OTHER, "policy.lua".to_owned()));
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(daemon.ask(&Query::a("good.example.org")).address(), "192.0.2.1");
}

fn errors_forward_if_wanted(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let keys = format!("{TIME}, on_error = \"forward\"");
    let daemon = failing(&upstream, &keys, "  error('no idea')").start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn errors_block_if_wanted(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let keys = format!("{TIME}, on_error = \"block\"");
    let daemon = failing(&upstream, &keys, "  error('no idea')")
        .section(r#"blacklist = { mode = "nxdomain", ttl = 9 }"#)
        .start(world);
    let reply = daemon.ask(&Query::a("www.example.org").edns(1232));
    reply.check_negative(3, 9);
    assert_eq!(reply.extended_error(), (15, "policy.lua".to_owned()));
    assert_eq!(upstream.count(), 0);
}

fn nonsense_is_an_error(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let results = [
        "'ALLOW'",
        "''",
        "42",
        "true",
        "{}",
        "{ 'FORWARD' }",
        "{ action = 'FORWARD', rewrite_domain = 'a.example' }",
        "{ action = 'FORWARD', ttl = 5 }",
        "{ action = 'REWRITE' }",
        "{ action = 'REWRITE', rewrite_domain = 'a..b' }",
        "{ action = 'REWRITE', rewrite_domain = 'a.example', rewrite_type = 'nonsense' }",
        "{ action = 'REWRITE', rewrite_domain = 'a.example', rewrite_type = 70000 }",
        "{ action = 'LOCAL_DATA' }",
        "{ action = 'LOCAL_DATA', local_data = {} }",
        "{ action = 'LOCAL_DATA', local_data = { ip = '192.0.2' } }",
        "{ action = 'LOCAL_DATA', local_data = { ip = '192.0.2.1', ttl = -1 } }",
        "{ action = 'LOCAL_DATA', local_data = { ip = '192.0.2.1' }, min_ttl = 5 }",
        "{ action = 'FORWARD', min_ttl = 5, max_ttl = 4 }",
        "{ action = 'FORWARD', upstream = 'up0', pool = 'a' }",
        "function() end",
        "question.nothing.at_all",
    ];
    let rules: String = results
        .iter()
        .enumerate()
        .map(|(number, result)| {
            format!("  if question.domain == '{number}.example.org.' then return {result} end\n")
        })
        .collect();
    let daemon = failing(&upstream, TIME, &rules).start(world);
    let mut client = daemon.client();
    for (number, result) in results.iter().enumerate() {
        let reply = client.ask(&Query::a(&format!("{number}.example.org")));
        assert_eq!(reply.rcode(), SERVFAIL, "{result}");
    }
    assert_eq!(upstream.count(), 0);
}

fn earlier_decisions_stay(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let one = "function handle()
        return { action = 'REWRITE', rewrite_domain = 'new.example.org', max_ttl = 10 }
      end";
    let daemon = Settings::with(&upstream)
        .file("one.lua", one)
        .file("two.lua", "function handle() error('no idea') end")
        .section(&format!(
            "plugins = {{ enabled = true, {TIME}, on_error = \"forward\", \
             scripts = {{ \"one.lua\", \"two.lua\" }} }}"
        ))
        .start(world);
    let reply = daemon.ask(&Query::a("www.example.org"));
    assert_eq!(reply.answers(), ["CNAME new.example.org.", "A 192.0.2.1"]);
    assert_eq!(reply.message.answers[1].ttl, 10);
}

fn failures_are_not_kept(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    // It cannot remember that it has failed, but the client can ask otherwise.
    let rules = "  if question.client == '192.0.2.7' then error('no idea') end";
    let daemon = failing(&upstream, TIME, rules)
        .listen(r#"proxy_protocol_from = { "127.0.0.1" }"#)
        .section(r#"acl = { "192.0.2.0/24" }"#)
        .section(
            r#"routing = { chain = { "blacklist", "hosts", "lua_policy", "cache", "upstream" } }"#,
        )
        .start(world);
    let query = Query::a("www.example.org");
    assert_eq!(daemon.ask_as("192.0.2.7", &query).rcode(), SERVFAIL);
    assert_eq!(daemon.ask_as("192.0.2.8", &query).address(), "192.0.2.1");
    assert_eq!(daemon.ask_as("192.0.2.7", &query).rcode(), SERVFAIL);
}

fn state_begins_afresh(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let text = "local count = 0
        function handle(question)
          if question.type == 'TXT' then error('no idea') end
          count = count + 1
          return { action = 'LOCAL_DATA', local_data = { ip = '192.0.2.' .. count } }
        end";
    let daemon = Settings::with(&upstream)
        .file("policy.lua", text)
        .section(&format!("plugins = {{ enabled = true, {TIME}, scripts = {{ \"policy.lua\" }} }}"))
        .start(world);
    let count = || daemon.ask(&Query::a("www.example.org")).address();
    assert_eq!([count(), count()], ["192.0.2.1", "192.0.2.2"]);
    let txt = Query::new("www.example.org", hickory_proto::rr::RecordType::TXT);
    assert_eq!(daemon.ask(&txt).rcode(), SERVFAIL);
    assert_eq!([count(), count()], ["192.0.2.1", "192.0.2.2"]);
}

/// Loops, and what takes as long as one.
const ENDLESS: [&str; 8] = [
    "while true do end",
    "repeat until false",
    "while true do pcall(function() while true do end end) end",
    "local function f() return f() end return f()",
    "local co = coroutine and coroutine.wrap(function() while true do end end) \
     if co then co() end while true do end",
    "local s = string.rep('a', 30) string.find(s, string.rep('a?', 30) .. string.rep('a', 30)) \
     while true do end",
    "while true do table.sort({ 5, 3, 4, 1, 2 }, function() return true end) end",
    "local t = setmetatable({}, { __index = function(t, k) return t[k + 1] end }) return t[1]",
];

fn endless_scripts_end(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let rules: String = ENDLESS
        .iter()
        .enumerate()
        .map(|(number, body)| {
            format!("  if question.domain == '{number}.example.org.' then do {body} end end\n")
        })
        .collect();
    let daemon = failing(&upstream, "timeout_ms = 300", &rules).start(world);
    for (number, body) in ENDLESS.iter().enumerate() {
        let start = Instant::now();
        let reply = daemon.udp(&Query::a(&format!("{number}.example.org")));
        assert_eq!(reply.rcode(), SERVFAIL, "{body}");
        assert!(start.elapsed() < Duration::from_secs(2), "{body}: {:?}", start.elapsed());
        assert!(good(&daemon), "{body}");
    }
    // Some run out of stack before.
    assert!(daemon.metric("balancedns_plugin_failures_total{reason=\"timeout\"}") >= 4.0);
}

fn time_is_the_plugins_own(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .file("policy.lua", "function handle() while true do end end")
        .section(
            r#"plugins = { enabled = true, timeout_ms = 60000,
               entries = { { path = "policy.lua", timeout_ms = 100 } } }"#,
        )
        .start(world);
    let start = Instant::now();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), SERVFAIL);
    let took = start.elapsed();
    assert!((100..2_000).contains(&took.as_millis()), "{took:?}");
}

fn memory_is_bounded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let bombs = [
        "local t = {} while true do t[#t + 1] = string.rep('x', 1024) .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "return string.rep('x', 1e9)",
        "local t = {} for i = 1, 1e9 do t[i] = {} end",
    ];
    let rules: String = bombs
        .iter()
        .enumerate()
        .map(|(number, body)| {
            format!("  if question.domain == '{number}.example.org.' then do {body} end end\n")
        })
        .collect();
    let keys = "timeout_ms = 5000, memory_limit_mb = 2";
    let daemon = failing(&upstream, keys, &rules).start(world);
    assert!(good(&daemon));
    let before = daemon.memory_kib();
    for (number, body) in bombs.iter().enumerate() {
        let reply = daemon.udp(&Query::a(&format!("{number}.example.org")));
        assert_eq!(reply.rcode(), SERVFAIL, "{body}");
        assert!(good(&daemon), "{body}");
    }
    let peak = daemon.memory_peak_kib();
    assert!(peak < before + 8_192, "{before} KiB before, {peak} KiB at most");
    assert!(daemon.metric("balancedns_plugin_failures_total{reason=\"memory\"}") >= 1.0);
}

fn failing_plugins_are_left_out(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let keys = format!("{TIME}, disable_after_failures = 3");
    let daemon = failing(&upstream, &keys, "  error('no idea')").start(world);
    let ask = |name: &str| daemon.udp(&Query::a(name)).rcode();
    // Failures in a row count.
    for (name, rcode) in [("a", 2), ("b", 2), ("good-1", 0), ("c", 2), ("d", 2), ("good-2", 0)] {
        assert_eq!(ask(&format!("{name}.example.org")), rcode, "{name}");
    }
    let failures = |reason: &str| {
        daemon.metric(&format!("balancedns_plugin_failures_total{{reason=\"{reason}\"}}"))
    };
    assert!(failures("disabled") < 0.1);
    for name in ["a", "b", "c"] {
        assert_eq!(ask(&format!("{name}.example.org")), SERVFAIL);
    }
    daemon.wait_to_say("plugin policy.lua has failed 3 times in a row");
    let disabled = Instant::now();
    assert_eq!(ask("good-3.example.org"), SERVFAIL, "it is not asked");
    assert!((failures("disabled") - 1.0).abs() < 0.1);
    until_within(Duration::from_secs(60), "it is asked again", || {
        (ask("good-4.example.org") == 0).then_some(())
    });
    assert!(disabled.elapsed() > Duration::from_secs(25), "{:?}", disabled.elapsed());
    daemon.wait_to_say("plugin policy.lua answers again");
}

fn failures_are_counted(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let rules = "  if question.type == 'A' then error('no idea') end return 'ALLOW'";
    let daemon = failing(&upstream, TIME, rules).start(world);
    for name in ["a.example.org", "b.example.org"] {
        daemon.udp(&Query::a(name));
    }
    daemon.udp(&Query::new("a.example.org", hickory_proto::rr::RecordType::TXT));
    assert!(good(&daemon));
    for (series, count) in [
        ("balancedns_plugin_execution_errors", 3.0),
        ("balancedns_plugin_execution_errors_total", 3.0),
        ("balancedns_plugin_failures_total{reason=\"script\"}", 2.0),
        ("balancedns_plugin_failures_total{reason=\"result\"}", 1.0),
        ("balancedns_policy_verdicts_total{action=\"forward\"}", 1.0),
    ] {
        let found = daemon.metric(series);
        assert!((found - count).abs() < 0.1, "{series} {found}");
    }
}

fn failures_are_logged(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let rules = "  if question.type == 'TXT' then return { action = 'BLOCK', rewrite_doman = 'x' } end\n  \
                 error('no idea')";
    let daemon = failing(&upstream, TIME, rules).start(world);
    daemon.udp(&Query::new("a.example.org", hickory_proto::rr::RecordType::TXT));
    for number in 0..200 {
        daemon.udp(&Query::a(&format!("secret-{number}.example.org")));
    }
    // A mistake is named, and what was probably meant.
    daemon.wait_to_say("rewrite_domain");
    daemon.signal("TERM");
    let stderr = daemon.end().stderr;
    let lines: Vec<_> = stderr.lines().filter(|line| line.contains("plugin_failed")).collect();
    assert!((1..=10).contains(&lines.len()), "{stderr}");
    assert!(lines.iter().all(|line| line.contains("policy.lua")), "{stderr}");
    assert!(
        lines.iter().any(|line| line.contains("line 4") && line.contains("no idea")),
        "{stderr}"
    );
    assert!(!stderr.contains("secret-"), "names of clients' queries are nobody's business");
}

fn unknown_choices_are_errors(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let rules = "  if question.domain == 'a.example.org.' then
           return { action = 'FORWARD', upstream = 'nobody' } end
         return { action = 'FORWARD', pool = 'nobody' }";
    let daemon = failing(&upstream, TIME, rules).start(world);
    for name in ["a.example.org", "b.example.org"] {
        assert_eq!(daemon.ask(&Query::a(name)).rcode(), SERVFAIL, "{name}");
    }
    assert_eq!(upstream.count(), 0);
}

fn wrong_scripts(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for (text, words) in [
        ("function handle(question)\n  return retrun\n  x y\nend\n", &["policy.lua:3"][..]),
        ("local x = 1\nlocal y = x.z.z\nfunction handle() end\n", &["policy.lua:2"]),
        ("function handel(question) end\n", &["policy.lua", "handle"]),
        ("handle = 'BLOCK'\n", &["policy.lua", "handle"]),
        ("while true do end\n", &["policy.lua", "takes longer"]),
        ("local t = {}\nfor i = 1, 1e9 do t[i] = i .. 'x' end\n", &["policy.lua"]),
        ("\u{1b}LuaS", &["policy.lua"]),
    ] {
        let section = "plugins = { enabled = true, entries = { { path = \"policy.lua\" } } }";
        let ended = Settings::with(&upstream)
            .file("policy.lua", text)
            .section(section)
            .fail_on(world, free_port());
        assert_eq!(ended.status.code(), Some(1), "{text}: {ended:?}");
        let is_it = |line: &&str| line.contains("plugins.entries[1]");
        let line = ended.stderr.lines().find(is_it);
        let line = line.unwrap_or_else(|| panic!("{text}: {}", ended.stderr));
        assert!(words.iter().all(|word| line.contains(word)), "{text}: {line}");
    }
}

fn wrong_entries(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let entries = r#"
        { path = "policy.lua", name = "same" },
        { path = "policy.lua", name = "same" },
        { path = "nowhere.lua" },
        { name = "pathless" },
        { path = "policy.lua", name = "five", runtime = "python" },
        { path = "policy.lua", name = "six", timeout_ms = 0 },
        { path = "policy.lua", name = "seven", tiemout_ms = 5 },
        { path = "policy.lua", name = "eight", runtime = "exec" },
        { path = "nowhere", name = "nine", runtime = "go_exec" },
        { path = "policy.lua", name = "ten", runtime = "exec", mode = "sometimes" },"#;
    let ended = Settings::with(&upstream)
        .file("policy.lua", "function handle() end")
        .section(&format!(
            "plugins = {{ enabled = true, on_error = \"ignore\", memory_limit_mb = 0, entries = {{ {entries} }}, \
             scripts = {{ \"policy.lua\" }} }}"
        ))
        .fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for words in [
        &["plugins.entries[2].name", "same"][..],
        &["plugins.entries[3].path", "nowhere.lua", "cannot be read"],
        &["plugins.entries[4].path", "missing"],
        &["plugins.entries[5].runtime", "lua"],
        &["plugins.entries[6].timeout_ms"],
        &["plugins.entries[7].tiemout_ms", "did you mean", "timeout_ms"],
        &["plugins.entries[8].path", "cannot be started"],
        &["plugins.entries[9].path", "cannot be started"],
        &["plugins.entries[10].mode", "once"],
        &["plugins.on_error", "servfail"],
        &["plugins.memory_limit_mb"],
        &["plugins.scripts[1]", "beside plugins.entries"],
    ] {
        let found = ended.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?}:\n{}", ended.stderr);
    }
}
