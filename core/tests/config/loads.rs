//! Configurations that load: the shipped ones, defaults, and what is accepted for later.

use std::path::Path;

use crate::support::{FakeHost, warnings, with, with_upstream};
use balancedns_core::config::{
    self, ControlSettings, Level, Loaded, Source, Stage, TtlBounds, UpstreamProtocol, load,
};
use balancedns_core::engine::Transport;
use balancedns_core::time::Duration;
use balancedns_core::wire::{Name, Rcode};

/// The folder of the shipped configurations.
fn configs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

/// Loads a shipped configuration with the files beside it.
fn load_shipped(name: &str, host: FakeHost) -> Result<config::Loaded, String> {
    #[expect(clippy::disallowed_methods, reason = "tests read the shipped files")]
    let read = |name: &str| std::fs::read_to_string(configs().join(name)).expect("is readable");
    let host = ["hosts.example", "policy.example", "blocklist.example"]
        .into_iter()
        .fold(host, |host, name| host.file(&format!("configs/{name}"), &read(name)));
    let source =
        Source { name: format!("configs/{name}"), folder: "configs".to_owned(), text: read(name) };
    load(&source, &host).map_err(|errors| errors.to_string())
}

#[test]
fn every_shipped_configuration_loads_without_a_warning() {
    let mut count = 0;
    for entry in configs().read_dir().expect("is a folder") {
        let name = entry.expect("is readable").file_name().into_string().expect("is utf-8");
        if name.ends_with(".lua") {
            let loaded =
                load_shipped(&name, FakeHost::new()).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(warnings(&loaded), [""; 0], "{name}");
            assert!(!loaded.snapshot.upstreams.is_empty(), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 14);
}

#[test]
fn the_embedded_default_uses_the_systems_resolvers() {
    let source = Source {
        name: config::DEFAULT_NAME.to_owned(),
        folder: String::new(),
        text: config::DEFAULT.to_owned(),
    };
    let host = FakeHost::new().resolvers(&["192.0.2.7:53", "[2001:db8::7]:53"]);
    let loaded = load(&source, &host).expect("loads");
    let upstreams: Vec<String> =
        loaded.snapshot.upstreams.iter().map(|up| format!("{} {}", up.name, up.addr)).collect();
    assert_eq!(upstreams, ["server-1 192.0.2.7:53", "server-2 [2001:db8::7]:53"]);
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.snapshot.listen.sockets[0].addr.to_string(), "127.0.0.1:5300");

    let loaded = load(&source, &host.resolvers(&[])).expect("loads");
    assert_eq!(loaded.snapshot.upstreams[0].addr.to_string(), "9.9.9.9:53");
    assert_eq!(
        warnings(&loaded),
        ["default.lua (built in):6: no name server of this system can be used: forwarding to \
          Quad9 and Cloudflare instead"]
    );
}

#[test]
fn our_own_listeners_are_no_system_resolvers() {
    let host = FakeHost::new()
        .variable("BALANCEDNS_DNS_ADDR", "127.0.0.1:53")
        .resolvers(&["127.0.0.1:53", "192.0.2.9:53"]);
    let loaded = load_shipped("default.lua", host).expect("loads");
    assert_eq!(loaded.snapshot.upstreams.len(), 1);
    assert_eq!(loaded.snapshot.upstreams[0].addr.to_string(), "192.0.2.9:53");

    let only = FakeHost::new()
        .variable("BALANCEDNS_DNS_ADDR", ":53")
        .resolvers(&["127.0.0.53:53", "[::1]:53"]);
    let loaded = load_shipped("default.lua", only).expect("loads");
    assert_eq!(loaded.snapshot.upstreams[0].addr.to_string(), "9.9.9.9:53");
    assert_eq!(loaded.warnings.len(), 1);

    let other_port = FakeHost::new().variable("BALANCEDNS_DNS_ADDR", ":5300");
    let loaded = load_shipped("default.lua", other_port.resolvers(&["127.0.0.53:53"]));
    assert_eq!(loaded.expect("loads").snapshot.upstreams[0].addr.to_string(), "127.0.0.53:53");
}

#[test]
fn host_names_are_looked_up_at_bootstrap_servers_else_at_the_systems() {
    let shown = |loaded: &Loaded| -> Vec<String> {
        loaded.snapshot.routing.bootstrap.iter().map(ToString::to_string).collect()
    };
    let host = FakeHost::new().resolvers(&["127.0.0.1:53", "192.0.2.7:53"]);
    let upstreams = "upstreams = { { name = 'u', addr = 'DNS.example:5353' } }";
    let loaded = host.load(&format!("return {{ {upstreams} }}")).expect("loads");
    assert_eq!(loaded.snapshot.upstreams[0].addr.to_string(), "dns.example.:5353");
    assert_eq!(shown(&loaded), ["192.0.2.7:53"], "not our own listener");
    assert!(loaded.uses_system_resolvers);

    let bootstrap = "routing = { bootstrap = { '192.0.2.8', '[2001:db8::1]:5353' } }";
    let loaded = host.load(&format!("return {{ {upstreams}, {bootstrap} }}")).expect("loads");
    assert_eq!(shown(&loaded), ["192.0.2.8:53", "[2001:db8::1]:5353"]);
    assert!(!loaded.uses_system_resolvers);

    let loaded = host.load(&with(bootstrap)).expect("loads");
    assert!(shown(&loaded).is_empty(), "there is nothing to look up");
}

#[test]
fn letter_case_is_random_towards_udp_upstreams() {
    let random = |keys: &str| {
        let loaded = FakeHost::new().load(&with_upstream(keys)).expect("loads");
        (loaded.snapshot.upstreams[0].randomize_case, warnings(&loaded))
    };
    assert_eq!(random(""), (true, vec![]));
    assert_eq!(random("randomize_case = false"), (false, vec![]));
    assert_eq!(random("protocol = 'tcp'"), (false, vec![]));
    let (value, warned) = random("protocol = 'tcp', randomize_case = true");
    assert!(!value && warned[0].contains("has no effect on protocol tcp"), "{warned:?}");
}

#[test]
fn cookies_are_for_datagrams_to_upstreams_and_for_clients() {
    let cookies = |keys: &str| {
        let loaded = FakeHost::new().load(&with_upstream(keys)).expect("loads");
        (loaded.snapshot.upstreams[0].cookies, warnings(&loaded))
    };
    assert_eq!(cookies(""), (true, vec![]));
    assert_eq!(cookies("cookies = false"), (false, vec![]));
    assert_eq!(cookies("protocol = 'tcp'"), (false, vec![]));
    let (value, warned) = cookies("protocol = 'tcp', cookies = true");
    assert!(!value && warned[0].contains("has no effect on protocol tcp"), "{warned:?}");
    let ours =
        |keys: &str| FakeHost::new().load(&with(keys)).expect("loads").snapshot.listen.cookies;
    assert_eq!((ours(""), ours("listen = { cookies = false }")), (true, false));
}

#[test]
fn defaults_are_those_of_the_contract() {
    let loaded = FakeHost::new().load(&with("")).expect("loads");
    assert!(loaded.warnings.is_empty() && loaded.files.is_empty());
    let snapshot = loaded.snapshot;
    let millis = Duration::from_millis;

    let listen = &snapshot.listen;
    let sockets: Vec<_> =
        listen.sockets.iter().map(|s| (s.transport, s.addr.to_string())).collect();
    assert_eq!(
        sockets,
        [
            (Transport::Udp, "0.0.0.0:53".to_owned()),
            (Transport::Tcp, "0.0.0.0:53".to_owned()),
            (Transport::Udp, "[::]:53".to_owned()),
            (Transport::Tcp, "[::]:53".to_owned()),
        ]
    );
    assert_eq!(listen.metrics.expect("is on").to_string(), "127.0.0.1:9090");
    assert_eq!((listen.read_timeout, listen.write_timeout), (millis(2_000), millis(2_000)));
    assert_eq!(listen.tcp_idle_timeout, millis(10_000));
    assert!(listen.reuse_port && listen.reuse_addr);
    assert_eq!((listen.udp_size, listen.workers), (1_232, None));
    assert_eq!((listen.max_connections, listen.max_connections_per_client), (4_096, 64));

    assert_eq!((snapshot.logging.level, snapshot.logging.log_queries), (Level::Info, false));
    assert_eq!(snapshot.acl, balancedns_core::policy::Acl::default());
    assert_eq!(
        snapshot.chain,
        [Stage::Blacklist, Stage::Hosts, Stage::Cache, Stage::Policy, Stage::Upstream]
    );
    assert!(snapshot.blocking.is_empty() && snapshot.hosts.is_none());

    let upstream = &snapshot.upstreams[0];
    assert_eq!((upstream.protocol, upstream.timeout), (UpstreamProtocol::Udp, millis(2_000)));
    assert_eq!(upstream.max_in_flight, 1_000);
    assert_eq!(
        snapshot.routes.candidates(Name::parse("a.example").expect("a name").as_wire()),
        [Box::from([0])]
    );

    assert_eq!((snapshot.routing.deadline, snapshot.routing.attempts_max), (millis(4_500), 8));
    assert_eq!(snapshot.routing.failover_on, [Rcode::SERVFAIL, Rcode::REFUSED, Rcode::NOTIMP]);
    assert!(snapshot.routing.special_names);
    let cache = &snapshot.cache;
    assert_eq!((cache.enabled, cache.capacity, cache.max_bytes), (true, 10_000, 64 << 20));
    let ttl = TtlBounds {
        min_seconds: 5,
        max_seconds: 3_600,
        negative_max_seconds: 3_600,
        servfail_seconds: 5,
    };
    assert_eq!(cache.ttl, ttl);
    let control = ControlSettings {
        restart_backoff: millis(200),
        restart_max_backoff: millis(5_000),
        max_consecutive_failure: 0,
        min_stable_run: millis(10_000),
        drain_timeout: millis(5_000),
    };
    assert_eq!((snapshot.control, snapshot.generation), (control, 1));
}

/// Keys and values that load without a warning.
const ACCEPTED: &[&str] = &[
    r#"listen = { dns = "127.0.0.1:0" }"#,
    r#"listen = { dns = { "127.0.0.1:53", "[::1]:53", ":54" } }"#,
    r#"listen = { dns = "localhost:53", metrics = false }"#,
    r#"listen = { metrics = ":9090" }"#,
    r#"listen = { dot = false, doh = {}, doh_path = "/q" }"#,
    r#"listen = { dot = "", tls_cert_file = "", tls_key_file = "" }"#,
    r#"listen = { doh_plain = false, proxy_protocol_from = {}, trusted_proxies = {} }"#,
    r#"listen = { read_timeout_ms = 1, write_timeout_ms = 3600000, tcp_idle_timeout_ms = 5.0 }"#,
    r#"listen = { reuse_port = false, reuse_addr = false, udp_size = 512, workers = 4 }"#,
    r#"listen = { udp_size = 65535, max_connections = 1, max_connections_per_client = 1 }"#,
    r#"listen = {}"#,
    r#"logging = { level = "TRACE", log_queries = true, format = "text" }"#,
    r#"acl = {}"#,
    r#"acl = { "192.0.2.0/24", "::1", "::ffff:192.0.2.0/120" }"#,
    r#"routing = { chain = { "blacklist", "hosts", "cache", "lua_policy", "upstream" } }"#,
    r#"routing = { chain = { "plugin", "upstream" } }"#,
    r#"routing = { chain = { "plugins", "upstream" } }"#,
    r#"routing = { chain = { "lua", "upstream" } }"#,
    r#"routing = { policy = "ordered", failover_on = { "servfail" }, deadline_ms = 60000 }"#,
    r#"routing = { failover_on = {}, attempts_max = 1, bootstrap = {}, zone_fallback = true }"#,
    r#"routing = { hedge = false, rewrite_hops = 4, special_names = true }"#,
    r#"cache = { enabled = false, capacity = 1, max_bytes = 65536 }"#,
    r#"cache = { min_ttl_seconds = 0, max_ttl_seconds = 0, servfail_ttl_seconds = 300 }"#,
    r#"cache = { negative_max_ttl_seconds = 0, stale = {}, prefetch = {}, snapshot_file = false }"#,
    r#"cache = { stale = { enabled = false, max_seconds = 3600, reply_ttl_seconds = 30 } }"#,
    r#"cache = { stale = { client_timeout_ms = 1800 }, prefetch = { min_hits = 3, budget = 0.1 } }"#,
    r#"cache = { stale = false, prefetch = { enabled = false } }"#,
    r#"hosts = {}"#,
    r#"hosts = { file = false, ttl = 60, fallthrough = false }"#,
    r#"hosts = { file = "" }"#,
    r#"local_records = {}"#,
    r#"blacklist = { domains = { "a.example", "*.b.example", ".c.example" } }"#,
    r#"blacklist = { domains = {}, files = {}, urls = {}, allow = {}, refresh_seconds = 86400 }"#,
    r#"blacklist = { mode = "refused", addresses = {}, ttl = 60 }"#,
    r#"plugins = { enabled = false, timeout_ms = 20, entries = {}, scripts = {} }"#,
    r#"plugins = { on_error = "forward", memory_limit_mb = 16, disable_after_failures = 0 }"#,
    r#"plugins = { scripts = { "policy.lua" } }"#,
    r#"plugins = { entries = { { path = "a.lua" }, { name = "x", runtime = "go_exec", path = "b",
        args = { "-v" }, timeout_ms = 10, mode = "worker" } } }"#,
    r#"groups = {}, pools = {}, tests = {}, rate_limit = false, query_log = false"#,
    r#"rate_limit = {}, rebinding = { enabled = false, allow = { "lan.example" } }"#,
    r#"control = { restart_backoff_ms = 5, restart_max_backoff_ms = 5, min_stable_run_ms = 0 }"#,
    r#"control = { max_consecutive_failure = 3, drain_timeout_ms = 0, socket = false }"#,
];

/// Keys of an upstream that load without a warning.
const ACCEPTED_UPSTREAM: &[&str] = &[
    r#"protocol = "udp""#,
    r#"protocol = "TCP""#,
    r#"zones = {}"#,
    r#"zones = { ".", "Corp.Example." }"#,
    r#"timeout_ms = 2000.0, max_in_flight = 10"#,
    r#"confined = false, tier = 1, weight = 1, tls_ca_file = "", tls_pin_sha256 = {}"#,
    r#"source_addr = false, randomize_case = false, ecs = "off", pool = false"#,
    r#"ecs = false, tls_insecure_skip_verify = false, tls_server_name = "", doh_url = """#,
];

#[test]
fn accepted_values_load_without_a_warning() {
    let texts = ACCEPTED.iter().map(|keys| with(keys));
    for text in texts.chain(ACCEPTED_UPSTREAM.iter().map(|keys| with_upstream(keys))) {
        let loaded =
            FakeHost::new().load(&text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        assert_eq!(warnings(&loaded), [""; 0], "{text}");
    }
}

#[test]
fn values_without_effect_are_warned_about() {
    for (text, warning) in [
        (
            with_upstream("tls_insecure_skip_verify = true"),
            "etc/test.lua:2: upstreams[1].tls_insecure_skip_verify: true has no effect on protocol \
             udp",
        ),
        (
            with_upstream("protocol = 'tcp', tls_server_name = 'dns.example'"),
            "etc/test.lua:2: upstreams[1].tls_server_name: \"dns.example\" has no effect on \
             protocol tcp",
        ),
        (
            with_upstream("doh_url = 'https://dns.example/q'"),
            "etc/test.lua:2: upstreams[1].doh_url: \"https://dns.example/q\" has no effect on \
             protocol udp",
        ),
        (
            with_upstream("timeout_ms = 5000"),
            "etc/test.lua:2: upstreams[1].timeout_ms: is longer than routing.deadline_ms 4500, \
             which ends it",
        ),
        (
            with("listen = { tls_cert_file = 'c.pem', tls_key_file = 'k.pem' }"),
            "etc/test.lua:2: listen.tls_cert_file: \"c.pem\" has no effect: there is neither \
             listen.dot nor listen.doh",
        ),
        (with("acl = { '10.1.2.3/8' }"), "etc/test.lua:2: acl[1]: \"10.1.2.3/8\" means 10.0.0.0/8"),
        (
            with("routing = { chain = {} }"),
            "etc/test.lua:2: routing.chain: {} has no \"upstream\": what no other stage answers \
             is SERVFAIL",
        ),
        (
            with("routing = { chain = { 'upstream', 'cache' } }"),
            "etc/test.lua:2: routing.chain: a list of 2 goes on after \"upstream\", after which no \
             stage is reached",
        ),
        (
            with_upstream("zones = { 'a.example', 'A.example.' }"),
            "etc/test.lua:2: upstreams[1].zones[2]: \"A.example.\" is listed twice",
        ),
        (
            with("routing = { bootstrap = { '192.0.2.1', '192.0.2.1:53' } }"),
            "etc/test.lua:2: routing.bootstrap[2]: \"192.0.2.1:53\" is listed twice",
        ),
        (
            with("routing = { chain = { 'upstream' } }, hosts = { file = 'hosts' }"),
            "etc/test.lua:2: hosts.file: has no effect without \"hosts\" in routing.chain",
        ),
    ] {
        let loaded = FakeHost::new().file("etc/hosts", "").load(&text).expect("loads");
        assert_eq!(warnings(&loaded), [warning], "{text}");
    }
}

#[test]
fn special_names_can_be_switched_off() {
    let loaded = FakeHost::new().load(&with("routing = { special_names = false }"));
    assert!(!loaded.expect("loads").snapshot.routing.special_names);
}

#[test]
fn the_hosts_file_is_read_from_the_folder_of_the_configuration() {
    let text = with("hosts = { file = './my.hosts', ttl = 7 }");
    let host = FakeHost::new().file("etc/my.hosts", "192.0.2.1 a.example\nbad line\n");
    let loaded = host.load(&text).expect("loads");
    assert_eq!(loaded.files, ["etc/my.hosts"]);
    let hosts = loaded.snapshot.hosts.as_ref().expect("is there");
    assert_eq!((hosts.ttl(), hosts.len()), (7, 1));
    assert_eq!(
        warnings(&loaded),
        ["etc/test.lua:2: hosts.file: \"./my.hosts\" line 2: \"bad\" is not an ip address, the \
          line is skipped"]
    );
    let absolute = FakeHost::new().file("/etc/hosts", "");
    let loaded = absolute.load(&with("hosts = { file = '/etc/hosts' }")).expect("loads");
    assert_eq!(loaded.files, ["/etc/hosts"]);
}

#[test]
fn variables_come_from_the_host() {
    let text = with(
        "listen = { dns = env('ADDR', ':1'), udp_size = 600 + #env('EMPTY', 'xx') },
         logging = { level = env('LEVEL', 'debug'), log_queries = env('NONE') == '' }",
    );
    let host = FakeHost::new().variable("ADDR", "127.0.0.1:77").variable("EMPTY", "");
    let snapshot = host.load(&text).expect("loads").snapshot;
    assert_eq!(snapshot.listen.sockets[0].addr.to_string(), "127.0.0.1:77");
    assert_eq!(snapshot.listen.udp_size, 600);
    assert_eq!((snapshot.logging.level, snapshot.logging.log_queries), (Level::Debug, true));
    let numbers = with("listen = { dns = '127.0.0.1:' .. env('PORT', 5300) }");
    let snapshot = FakeHost::new().load(&numbers).expect("loads").snapshot;
    assert_eq!(snapshot.listen.sockets[0].addr.to_string(), "127.0.0.1:5300");
}

#[test]
fn the_variable_for_workers_overrides() {
    let text = with("listen = { workers = 2 }");
    let workers = |host: FakeHost| host.load(&text).expect("loads").snapshot.listen.workers;
    assert_eq!(workers(FakeHost::new()), Some(2));
    assert_eq!(workers(FakeHost::new().variable("BALANCEDNS_WORKERS", "6")), Some(6));
    assert_eq!(workers(FakeHost::new().variable("BALANCEDNS_WORKERS", "")), Some(2));
}

#[test]
fn included_tables_are_used_and_their_files_known() {
    let host = FakeHost::new()
        .file("etc/parts/up.lua", "return { include('one.lua') }")
        .file("etc/parts/one.lua", "return { name = 'u', addr = '192.0.2.1:53' }");
    let loaded = host.load("return { upstreams = include('parts/up.lua') }").expect("loads");
    assert_eq!(loaded.files, ["etc/parts/up.lua", "etc/parts/one.lua"]);
    assert_eq!(loaded.snapshot.upstreams[0].name, "u");
}

#[test]
fn the_script_can_tell_the_operator_something() {
    let text = format!("warn('one', 2, nil, true)\nprint('three')\n{}", with(""));
    let loaded = FakeHost::new().load(&text).expect("loads");
    assert_eq!(warnings(&loaded), ["etc/test.lua:1: one 2 nil true", "etc/test.lua:2: three"]);
}

#[test]
fn globals_and_functions_of_a_script_work() {
    let text = "function server(number) return { name = 's' .. number, addr = base .. number .. ':53' } end
        base = '192.0.2.'
        list = {}
        for number = 1, 3 do table.insert(list, server(number)) end
        return { upstreams = list }";
    let snapshot = FakeHost::new().load(text).expect("loads").snapshot;
    assert_eq!(snapshot.upstreams.len(), 3);
    assert_eq!(snapshot.upstreams[2].addr.to_string(), "192.0.2.3:53");
}

#[test]
fn many_blocked_names_load_quickly_enough() {
    let text = with(
        "blacklist = { domains = (function()
            local list = {}
            for number = 1, 50000 do list[number] = 'a' .. number .. '.example' end
            return list
        end)() }",
    );
    let host = FakeHost { has_clock: false, ..FakeHost::new() };
    assert_eq!(
        host.load(&text).expect("loads").snapshot.blocking.sets()[0].lists[0].names.len(),
        50_000
    );
}
