//! The process: command line, start, errors on stderr, signals, exit codes.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use crate::case::World;
use crate::harness::{
    Answer, Gate, Query, Running, Settings, Stderr, StreamClient, UdpClient, Upstream, free_port,
    signal, until,
};

cases! {
    version, own, "cli --version",
        "the daemon says its name and its version";
    signals_end_it, own, "cli signals",
        "SIGTERM and SIGINT end an idle daemon with code 0";
    drain_answers_what_is_in_flight, own, "cli signals",
        "SIGTERM with queries in flight: they are answered first, meanwhile it is not ready";
    drain_is_bounded, both, "config control.drain_timeout_ms, RFC 8914 4.15",
        "who is not answered by the end of the drain is told so";
    address_in_use, own, "cli exit-code",
        "an address in use is one clear line and exit code 1, for UDP and for TCP";
    second_instance_is_refused, own, "cli exit-code",
        "a second instance does not silently share the port of the first";
    bad_configuration_names_every_error, own, "cli errors",
        "every error of a configuration gets its line with its key path";
    failures_are_kept_five_minutes_at_most, own, "RFC 9520 3.2, config cache.servfail_ttl_seconds",
        "more than five minutes is an error of the configuration";
    lua_errors_have_their_line, own, "cli errors",
        "a Lua error is reported with file and line";
    missing_capabilities_are_refused, own, "cli errors",
        "what this build cannot do is refused, not ignored";
    at_least_one_upstream, own, "config upstreams",
        "a configuration without upstreams is an error";
    missing_file, own, "cli -config",
        "a file that is not there is one clear line";
    embedded_default_starts, own, "cli -config",
        "without a configuration file the embedded one is used; it says how to try it";
    names_are_not_logged, both, "config logging.log_queries",
        "names of clients' queries are nobody's business by default";
    names_are_logged_if_told_so, both, "config logging.log_queries",
        "if told so, there is a line per query";
    a_log_that_goes_nowhere_costs_no_answer, own, "robustness logging",
        "nobody reads the log, or it cannot be written: answers do not suffer";
    a_hangup_does_not_end_it, own, "cli signals",
        "SIGHUP asks for a reload, which this build does not have: it says so and goes on";
    a_dead_upstream_does_not_fill_the_log, both, "robustness logging",
        "a dead upstream is a line now and then, not one for each query";
}

/// An upstream that holds back its answers until the gate opens.
fn gated(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |asked| {
        Answer::When(gate.clone(), Box::new(asked.address(60, "192.0.2.1").into()))
    })
}

fn version(world: &World) {
    let name = world.daemon.rsplit('/').next().expect("a path has a last part");
    let ended = Running::with_arguments(world, &["--version"], &[]).end();
    assert!(ended.status.success());
    assert_eq!(ended.stdout.trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
}

fn signals_end_it(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for name in ["TERM", "INT"] {
        let daemon = Settings::with(&upstream).start(world);
        daemon.udp(&Query::a("www.example.org"));
        daemon.signal(name);
        let ended = daemon.end();
        assert_eq!(ended.status.code(), Some(0), "{name}: {ended:?}");
    }
}

fn drain_answers_what_is_in_flight(world: &World) {
    let gate = Gate::default();
    let upstream = gated(&gate);
    let daemon = Settings::with(&upstream).start(world);
    let (by_udp, by_tcp) = (Query::a("one.example.org"), Query::a("two.example.org"));
    let client = UdpClient::to(daemon.addr());
    client.send(&by_udp.encode());
    let mut stream = StreamClient::to(daemon.addr());
    stream.send(&by_tcp.encode());
    upstream.wait_for(2);

    daemon.signal("TERM");
    until("it is not ready while it drains", || match daemon.try_get("/readyz") {
        Ok((503, _)) | Err(_) => Some(()),
        Ok(_) => None,
    });
    gate.open();
    let reply = client.receive();
    reply.check_echo(&by_udp);
    assert_eq!(reply.address(), "192.0.2.1");
    let reply = stream.receive();
    reply.check_echo(&by_tcp);
    assert_eq!(reply.address(), "192.0.2.1");
    let ended = daemon.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

fn drain_is_bounded(world: &World) {
    let upstream = Upstream::silent();
    let daemon = Settings::with(&upstream)
        .section("control = { drain_timeout_ms = 300 }")
        .section("routing = { deadline_ms = 20000 }")
        .start(world);
    let mut client = daemon.client();
    client.send(&Query::a("www.example.org").edns(1232).encode());
    upstream.wait_for(1);
    let start = std::time::Instant::now();
    daemon.signal("TERM");
    let ended = daemon.end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let reply = client.receive();
    // RFC 8914 section 4.15: not ready.
    assert_eq!((reply.rcode(), reply.extended_errors()), (2, vec![14]), "rather than silence");
}

fn address_in_use(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let port = free_port();
    let _socket = UdpSocket::bind(("127.0.0.1", port)).expect("it was free");
    assert_address_in_use(world, &Settings::with(&upstream), port);

    let listener = TcpListener::bind("127.0.0.1:0").expect("a TCP port");
    let port = listener.local_addr().expect("bound").port();
    assert_address_in_use(world, &Settings::with(&upstream), port);
}

fn second_instance_is_refused(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    assert_address_in_use(world, &Settings::with(&upstream), daemon.port());
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn assert_address_in_use(world: &World, settings: &Settings, port: u16) {
    let ended = settings.fail_on(world, port);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().filter(|line| line.contains("in use")).collect();
    assert_eq!(lines.len(), 1, "{ended:?}");
    assert!(lines[0].contains(&format!("127.0.0.1:{port}")), "{}", lines[0]);
}

fn bad_configuration_names_every_error(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let ended = Settings::with(&upstream)
        .listen("udp_size = 100, read_timeout_ms = 0")
        .section("cahce = { enabled = true }")
        .section(r#"acl = { "not-an-address" }"#)
        .section("cache = { min_ttl_seconds = 10, max_ttl_seconds = 5 }")
        .section(r#"routing = { chain = { "upstraem" } }"#)
        .fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for words in [
        &["listen.udp_size"][..],
        &["listen.read_timeout_ms"],
        &["cahce", "did you mean", "cache"],
        &["acl"],
        &["min_ttl_seconds"],
        &["routing.chain", "did you mean", "upstream"],
    ] {
        let found = ended.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?}:\n{}", ended.stderr);
    }
}

fn failures_are_kept_five_minutes_at_most(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let with = |seconds: u32| {
        let section = format!("cache = {{ servfail_ttl_seconds = {seconds} }}");
        Settings::with(&upstream).section(&section)
    };
    let daemon = with(300).start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), 0);
    let ended = with(301).fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("servfail_ttl_seconds"), "{}", ended.stderr);
}

fn lua_errors_have_their_line(world: &World) {
    let ended = Settings::new().section("this is not Lua").fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("test.lua:"), "{}", ended.stderr);
}

fn missing_capabilities_are_refused(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let ended = Settings::new().upstream(&upstream, "confined = true").fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("not available in this build"), "{}", ended.stderr);
}

fn at_least_one_upstream(world: &World) {
    let ended = Settings::new().fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("upstreams"), "{}", ended.stderr);
}

fn missing_file(world: &World) {
    for flag in ["-config", "--config"] {
        let ended = Running::with_arguments(world, &[flag, "nowhere.lua"], &[]).end();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains("nowhere.lua"), "{}", ended.stderr);
    }
}

fn embedded_default_starts(world: &World) {
    let port = free_port();
    let addr = format!("127.0.0.1:{port}");
    let mut running = Running::with_arguments(world, &[], &[("BALANCEDNS_DNS_ADDR", &addr)]);
    until("it says how to try it", || {
        assert!(running.ended().is_none(), "it ended: {}", running.said());
        running
            .said()
            .lines()
            .any(|l| l.contains("dig") && l.contains(&port.to_string()))
            .then_some(())
    });
    // Answered without any upstream, which this machine may not have.
    let client = UdpClient::to(addr.parse().expect("an address"));
    assert_eq!(client.ask(&Query::a("www.example.org").opcode(2)).rcode(), 4);
    signal(running.pid(), "TERM");
    assert_eq!(running.end().status.code(), Some(0));
}

fn names_are_not_logged(world: &World) {
    let upstream = Upstream::start(|asked| asked.rcode(hickory_proto::op::ResponseCode::ServFail));
    let daemon = Settings::with(&upstream).start(world);
    daemon.ask(&Query::a("secret-name.example.org"));
    daemon.signal("TERM");
    let ended = daemon.end();
    assert!(!ended.stderr.contains("secret-name") && !ended.stdout.contains("secret-name"));
}

fn names_are_logged_if_told_so(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).section("logging = { log_queries = true }").start(world);
    for _ in 0..2 {
        daemon.ask(&Query::a("asked-name.example.org"));
    }
    daemon.signal("TERM");
    let ended = daemon.end();
    let said = format!("{}{}", ended.stdout, ended.stderr);
    let lines = said.lines().filter(|line| line.contains("asked-name.example.org"));
    assert_eq!(lines.count(), 2, "{said}");
}

fn a_log_that_goes_nowhere_costs_no_answer(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for stderr in [Stderr::Unread, Stderr::Full] {
        let logging = "logging = { log_queries = true }";
        let daemon = Settings::with(&upstream).section(logging).stderr(stderr).start(world);
        for _ in 0..2_000 {
            assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), 0, "{stderr:?}");
        }
        daemon.signal("TERM");
        assert_eq!(daemon.end().status.code(), Some(0), "{stderr:?}");
    }
}

fn a_hangup_does_not_end_it(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).start(world);
    daemon.signal("HUP");
    until("it says that it cannot", || daemon.said().contains("SIGHUP").then_some(()));
    assert_eq!(daemon.udp(&Query::a("www.example.org")).rcode(), 0);
    daemon.signal("TERM");
    assert_eq!(daemon.end().status.code(), Some(0));
}

fn a_dead_upstream_does_not_fill_the_log(world: &World) {
    let daemon = Settings::new()
        .upstream_at(([127, 0, 0, 1], free_port()).into(), "")
        .section("cache = { enabled = false }")
        .start(world);
    for n in 0..200 {
        assert_eq!(daemon.ask(&Query::a(&format!("n{n}.example.org"))).rcode(), 2);
    }
    daemon.signal("TERM");
    let stderr = daemon.end().stderr;
    let lines = stderr.lines().filter(|line| line.contains("upstream_failed"));
    assert_eq!(lines.count(), 1, "{stderr}");
}
