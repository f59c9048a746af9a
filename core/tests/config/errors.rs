//! Configurations that must not load: what is said, and where.

use crate::support::{FakeHost, with, with_upstream};

/// Wrong keys, and the one line that is said about each; `@` stands for the file and the line.
const WRONG: &[(&str, &str)] = &[
    // listen
    ("listen = 5", "listen: 5 is wrong; expected a table"),
    ("listen = { ':53' }", "listen: a list of 1 is wrong; expected a table"),
    (
        "listen = { dns = '1.1.1.1' }",
        "listen.dns: \"1.1.1.1\" has no port; expected host:port with an ip address, or :port",
    ),
    (
        "listen = { dns = { ':53', '::1:53' } }",
        "listen.dns[2]: \"::1:53\" is an ipv6 address without brackets; expected host:port with an \
         ip address, or :port",
    ),
    (
        "listen = { dns = 'dns.example:53' }",
        "listen.dns: \"dns.example:53\" has a host name; expected host:port with an ip address, or \
         :port",
    ),
    (
        "listen = { dns = {} }",
        "listen.dns: {} has no address; expected host:port with an ip address, or :port",
    ),
    (
        "listen = { dns = false }",
        "listen.dns: false is wrong; expected host:port with an ip address, or :port",
    ),
    (
        "listen = { dns = { '127.0.0.1:53', '127.0.0.1:53' } }",
        "listen.dns[2]: \"127.0.0.1:53\" is listed twice; expected different addresses",
    ),
    (
        "listen = { dns = { ':53', '[::]:53' } }",
        "listen.dns[2]: \"[::]:53\" is listed twice; expected different addresses",
    ),
    (
        "listen = { dns = { ':53', '127.0.0.1:53' } }",
        "listen.dns[2]: \"127.0.0.1:53\" overlaps with 0.0.0.0:53; expected different addresses",
    ),
    (
        "listen = { metrics = true }",
        "listen.metrics: true is wrong; expected host:port with an ip address, or :port",
    ),
    (
        "listen = { read_timeout_ms = 0 }",
        "listen.read_timeout_ms: 0 is wrong; expected a whole number from 1 to 3600000",
    ),
    (
        "listen = { write_timeout_ms = 2000.5 }",
        "listen.write_timeout_ms: 2000.5 is wrong; expected a whole number from 1 to 3600000",
    ),
    (
        "listen = { tcp_idle_timeout_ms = '5' }",
        "listen.tcp_idle_timeout_ms: \"5\" is wrong; expected a whole number from 1 to 3600000",
    ),
    (
        "listen = { udp_size = 511 }",
        "listen.udp_size: 511 is wrong; expected a whole number from 512 to 65535",
    ),
    ("listen = { reuse_port = 1 }", "listen.reuse_port: 1 is wrong; expected true or false"),
    (
        "listen = { workers = -1 }",
        "listen.workers: -1 is wrong; expected a whole number from 1 to 1024",
    ),
    (
        "listen = { max_connections = 1/0 }",
        "listen.max_connections: inf is wrong; expected a whole number from 1 to 1000000",
    ),
    (
        "listen = { udp_sise = 512 }",
        "listen.udp_sise: is not a known key; expected another key: did you mean \"udp_size\"?",
    ),
    (
        "listen = { doh_path = 'q' }",
        "listen.doh_path: \"q\" is not a path; expected a path that starts with /",
    ),
    (
        "listen = { tls_cert_file = 'c.pem' }",
        "listen.tls_cert_file: \"c.pem\" has no key; expected listen.tls_key_file beside it",
    ),
    (
        "listen = { tls_key_file = 'k.pem' }",
        "listen.tls_key_file: \"k.pem\" has no certificate; expected listen.tls_cert_file beside it",
    ),
    // logging
    (
        "logging = { level = 'inof' }",
        "logging.level: \"inof\" is wrong; expected one of error, warn, info, debug, trace (did you \
         mean \"info\"?)",
    ),
    (
        "logging = { format = 'xml' }",
        "logging.format: \"xml\" is wrong; expected one of text, json",
    ),
    // acl
    ("acl = '10.0.0.0/8'", "acl: \"10.0.0.0/8\" is wrong; expected a list of networks"),
    (
        "acl = { '10.0.0.0/33' }",
        "acl[1]: \"10.0.0.0/33\" is not a network; expected a network such as \"192.0.2.0/24\", or \
         an ip address",
    ),
    (
        "acl = { '::ffff:10.0.0.0/95' }",
        "acl[1]: \"::ffff:10.0.0.0/95\" is not a network; expected a network such as \
         \"192.0.2.0/24\", or an ip address",
    ),
    // routing
    (
        "routing = { chain = { 5 } }",
        "routing.chain[1]: 5 is wrong; expected one of blacklist, hosts, cache, lua_policy, \
         upstream, plugin, plugins, lua",
    ),
    (
        "routing = { failover_on = { 2 } }",
        "routing.failover_on[1]: 2 is wrong; expected the name of an error rcode, such as \
         \"SERVFAIL\"",
    ),
    (
        "blacklist = { domains = { 5 } }",
        "blacklist.domains[1]: 5 is wrong; expected a name, or *.name or .name for all names below \
         it",
    ),
    (
        "routing = { chain = { 'blaklist', 'upstream' } }",
        "routing.chain[1]: \"blaklist\" is wrong; expected one of blacklist, hosts, cache, \
         lua_policy, upstream, plugin, plugins, lua (did you mean \"blacklist\"?)",
    ),
    (
        "routing = { chain = { 'lua', 'plugins', 'upstream' } }",
        "routing.chain[2]: \"plugins\" is in the chain twice; expected each stage once",
    ),
    (
        "routing = { failover_on = { 'SERVFAIL', 'servfail' } }",
        "routing.failover_on[2]: \"servfail\" is listed twice; expected each rcode once",
    ),
    (
        "routing = { failover_on = { 'NOERROR' } }",
        "routing.failover_on[1]: \"NOERROR\" is wrong; expected the name of an error rcode, such as \
         \"SERVFAIL\"",
    ),
    (
        "routing = { deadline_ms = 60001 }",
        "routing.deadline_ms: 60001 is wrong; expected a whole number from 1 to 60000",
    ),
    (
        "routing = { attempts_max = 101 }",
        "routing.attempts_max: 101 is wrong; expected a whole number from 1 to 100",
    ),
    // cache
    (
        "cache = { capacity = 0 }",
        "cache.capacity: 0 is wrong; expected a whole number from 1 to 100000000",
    ),
    (
        "cache = { min_ttl_seconds = 10, max_ttl_seconds = 9 }",
        "cache.min_ttl_seconds: 10 is more than cache.max_ttl_seconds 9; expected at most the \
         maximum",
    ),
    (
        "cache = { servfail_ttl_seconds = 301 }",
        "cache.servfail_ttl_seconds: 301 is wrong; expected a whole number from 0 to 300",
    ),
    (
        "cache = { prefetch = { budget = 1.5 } }",
        "cache.prefetch.budget: 1.5 is wrong; expected a number from 0 to 1",
    ),
    (
        "cache = { stale = { max_second = 1 } }",
        "cache.stale.max_second: is not a known key; expected another key: did you mean \
         \"max_seconds\"?",
    ),
    // hosts, blacklist
    (
        "hosts = { file = 'none' }",
        "hosts.file: \"none\" cannot be read: no such file; expected a readable file",
    ),
    ("hosts = { file = 5 }", "hosts.file: 5 is wrong; expected the path of a hosts file, or false"),
    (
        "hosts = { ttl = 2147483648 }",
        "hosts.ttl: 2147483648 is wrong; expected a whole number from 0 to 2147483647",
    ),
    (
        "blacklist = { domains = { 'a.example', 'a..b' } }",
        "blacklist.domains[2]: \"a..b\" is not a name: a label is empty; expected a name, or *.name \
         or .name for all names below it",
    ),
    (
        "blacklist = { domains = { '*.' } }",
        "blacklist.domains[1]: \"*.\" names nothing; expected a name, or *.name or .name for all \
         names below it",
    ),
    (
        "blacklist = { domains = { a = 'b' } }",
        "blacklist.domains: a table with a is wrong; expected a list of names",
    ),
    (
        "blacklist = { mode = 'drop' }",
        "blacklist.mode: \"drop\" is wrong; expected one of refused, nxdomain, nodata, zero, \
         addresses",
    ),
    (
        "blacklist = { files = { 'none' } }",
        "blacklist.files[1]: \"none\" cannot be read: etc/none: no such file; expected a readable \
         file with a list of names",
    ),
    (
        "blacklist = { files = { 5 } }",
        "blacklist.files[1]: 5 is wrong; expected the path of a list",
    ),
    (
        "blacklist = { urls = { 'ftp://lists.example/a' } }",
        "blacklist.urls[1]: \"ftp://lists.example/a\" is wrong; expected an https url",
    ),
    (
        "blacklist = { urls = { 'http://a@lists.example/a' } }",
        "blacklist.urls[1]: \"http://a@lists.example/a\" has a user name; expected an https url",
    ),
    (
        "blacklist = { allow = { '*.*.a' } }",
        "blacklist.allow[1]: \"*.*.a\" has a wildcard that is not the first label; expected a name, \
         or *.name or .name for all names below it",
    ),
    (
        "blacklist = { mode = 'addresses' }",
        "blacklist.addresses: is missing; expected at least one address for mode \"addresses\"",
    ),
    (
        "blacklist = { mode = 'addresses', addresses = { 'zero' } }",
        "blacklist.addresses[1]: \"zero\" is wrong; expected an ip address",
    ),
    (
        "blacklist = { mode = 'zero', addresses = { '::' } }",
        "blacklist.addresses: a list of 1 has no effect without mode \"addresses\"; expected that \
         mode, or no such key",
    ),
    (
        "blacklist = { refresh_seconds = 0 }",
        "blacklist.refresh_seconds: 0 is wrong; expected a whole number from 1 to 31536000",
    ),
    (
        "blacklist = { refresh = 60 }",
        "blacklist.refresh: is not a known key; expected another key: did you mean \
         \"refresh_seconds\"?",
    ),
    // control
    (
        "control = { restart_backoff_ms = 6000 }",
        "control.restart_backoff_ms: 6000 is more than control.restart_max_backoff_ms 5000; \
         expected at most the longest wait",
    ),
    // plugins
    (
        "plugins = { entries = { { path = 'a' } }, scripts = { 'b' } }",
        "plugins.scripts[1]: \"b\" stands beside plugins.entries; expected one of both lists",
    ),
    (
        "plugins = { entries = { { name = 'a' } } }",
        "plugins.entries[1].path: is missing; expected the path of a file",
    ),
    (
        "plugins = { entries = { { path = 'x/a.lua' }, { path = 'y/a.lua' } } }",
        "plugins.entries[2].path: \"y/a.lua\" makes \"a.lua\" the name of two plugins; expected \
         another file name, or a name of its own",
    ),
    (
        "plugins = { entries = { { path = 'a', runtime = 'wasm' } } }",
        "plugins.entries[1].runtime: \"wasm\" is wrong; expected one of lua, go_exec, exec",
    ),
    // what is no configuration
    (
        "cach = { enabled = true }",
        "cach: is not a known key; expected another key: did you mean \"cache\"?",
    ),
    ("zzz = 1", "zzz: is not a known key; expected a known key"),
    (
        "acl = function() end",
        "acl: is a function; expected numbers, texts, booleans, lists and tables with named keys",
    ),
    (
        "acl = { [2] = '::1' }",
        "acl: is a list with a gap before entry 2; expected numbers, texts, booleans, lists and \
         tables with named keys",
    ),
    (
        "acl = { '::1', also = '::2' }",
        "acl: mixes list entries and keys; expected numbers, texts, booleans, lists and tables with \
         named keys",
    ),
    (
        "acl = { '\\xff' }",
        "acl[1]: is a text that is not utf-8; expected numbers, texts, booleans, lists and tables \
         with named keys",
    ),
    (
        "cache = { capacity = 0/0 }",
        "cache.capacity: is not a number (NaN); expected numbers, texts, booleans, lists and tables \
         with named keys",
    ),
];

/// Wrong keys of an upstream.
const WRONG_UPSTREAM: &[(&str, &str)] = &[
    (
        "protocol = 'quic'",
        "upstreams[1].protocol: \"quic\" is wrong; expected one of udp, tcp, dot, doh",
    ),
    (
        "timeout_ms = 0",
        "upstreams[1].timeout_ms: 0 is wrong; expected a whole number from 1 to 3600000",
    ),
    ("zones = '.'", "upstreams[1].zones: \".\" is wrong; expected a list of zones"),
    (
        "zones = { 5 }",
        "upstreams[1].zones[1]: 5 is wrong; expected a zone such as \"corp.example\", or \".\" for \
         everything",
    ),
    ("doh_url = 5", "upstreams[1].doh_url: 5 is wrong; expected an https url"),
    (
        "zones = { 'a..b' }",
        "upstreams[1].zones[1]: \"a..b\" is not a name: a label is empty; expected a zone such as \
         \"corp.example\", or \".\" for everything",
    ),
    (
        "zones = { '*.corp.example' }",
        "upstreams[1].zones[1]: \"*.corp.example\" has a wildcard; a zone covers all names below it \
         anyway; expected a zone such as \"corp.example\", or \".\" for everything",
    ),
    (
        "doh_url = 'http://dns.example/q'",
        "upstreams[1].doh_url: \"http://dns.example/q\" is wrong; expected an https url",
    ),
    (
        "tls_insecure_skip_verify = 'no'",
        "upstreams[1].tls_insecure_skip_verify: \"no\" is wrong; expected true or false",
    ),
    (
        "adress = 'x'",
        "upstreams[1].adress: is not a known key; expected another key: did you mean \"addr\"?",
    ),
    ("ecs = 'on'", "upstreams[1].ecs: \"on\" is wrong; expected one of off, pass, add"),
    ("tier = 0", "upstreams[1].tier: 0 is wrong; expected a whole number from 1 to 1000"),
    (
        "source_addr = '1.1.1.1:53'",
        "upstreams[1].source_addr: \"1.1.1.1:53\" is wrong; expected an ip address",
    ),
    (
        "source_addr = '0.0.0.0'",
        "upstreams[1].source_addr: \"0.0.0.0\" is no address of one machine; expected an ip address \
         of this machine",
    ),
    (
        "source_addr = '2001:db8::1'",
        "upstreams[1].source_addr: \"2001:db8::1\" is of another family than the upstream's \
         address; expected an ipv4 address, as the upstream's is",
    ),
];

#[test]
fn each_mistake_has_its_line() {
    for (keys, expected) in WRONG {
        let errors = FakeHost::new().errors(&with(keys));
        assert_eq!(errors, [format!("etc/test.lua:2: {expected}")], "{keys}");
    }
    for (keys, expected) in WRONG_UPSTREAM {
        let errors = FakeHost::new().errors(&with_upstream(keys));
        assert_eq!(errors, [format!("etc/test.lua:2: {expected}")], "{keys}");
    }
}

#[test]
fn upstreams_are_required() {
    for (text, expected) in [
        (
            "return {}",
            "etc/test.lua:1: upstreams: is missing; expected a list of at least one upstream",
        ),
        (
            "return { upstreams = {} }",
            "etc/test.lua:1: upstreams: {} has no upstream; expected a list of at least one upstream",
        ),
        (
            "return { upstreams = { name = 'u', addr = '1.1.1.1:53' } }",
            "etc/test.lua:1: upstreams: a table with addr, name is wrong; expected a list of \
             upstreams",
        ),
    ] {
        assert_eq!(FakeHost::new().errors(text), [expected], "{text}");
    }
}

#[test]
fn metrics_have_a_port_of_their_own() {
    for metrics in ["127.0.0.1:5300", ":5300"] {
        let text = with(&format!("listen = {{ dns = '127.0.0.1:5300', metrics = '{metrics}' }}"));
        let expected = format!(
            "etc/test.lua:2: listen.metrics: \"{metrics}\" is where listen.dns listens; expected \
             another address or port"
        );
        assert_eq!(FakeHost::new().errors(&text), [expected]);
    }
    let apart = "listen = { dns = '127.0.0.1:5300', metrics = '127.0.0.2:5300' }";
    assert!(FakeHost::new().load(&with(apart)).is_ok());
}

#[test]
fn bootstrap_servers() {
    const EXPECTED: &str = "expected ip or ip:port of a name server";
    for (entry, expected) in [
        ("'dns.example'", format!("\"dns.example\" is wrong; {EXPECTED}")),
        ("'dns.example:53'", format!("\"dns.example:53\" is wrong; {EXPECTED}")),
        ("'192.0.2.1:0'", format!("\"192.0.2.1:0\" is wrong; {EXPECTED}")),
        ("53", format!("53 is wrong; {EXPECTED}")),
        (
            "'127.0.0.1'",
            "\"127.0.0.1\" is one of our own listeners; expected another server".into(),
        ),
    ] {
        let text = with(&format!("routing = {{ bootstrap = {{ {entry} }} }}"));
        let expected = format!("etc/test.lua:2: routing.bootstrap[1]: {expected}");
        assert_eq!(FakeHost::new().errors(&text), [expected], "{entry}");
    }
}

/// A host name is never looked up through ourselves.
#[test]
fn host_names_need_somebody_to_look_them_up() {
    let text = "return { upstreams = {\n{ name = 'u', addr = 'dns.example:53' } } }";
    for resolvers in [&[][..], &["127.0.0.1:53"]] {
        let expected = "etc/test.lua:2: upstreams[1].addr: \"dns.example.\" has to be looked up, but \
            routing.bootstrap is empty and the system has no name servers besides our own listeners; \
            expected an ip address, or name servers in routing.bootstrap";
        assert_eq!(FakeHost::new().resolvers(resolvers).errors(text), [expected], "{resolvers:?}");
    }
}

#[test]
fn addresses_of_upstreams() {
    for (addr, expected) in [
        ("'1.1.1.1'", "\"1.1.1.1\" has no port; expected host:port"),
        ("':53'", "\":53\" has no host; expected host:port"),
        ("'1.1.1.1:0'", "\"1.1.1.1:0\" has port 0; expected host:port"),
        ("'1.1.1.1:65536'", "\"1.1.1.1:65536\" has a bad port; expected host:port"),
        (
            "'2606:4700::1:53'",
            "\"2606:4700::1:53\" is an ipv6 address without brackets; expected host:port",
        ),
        ("53", "53 is wrong; expected host:port"),
        ("''", "\"\" is wrong; expected host:port"),
        ("'127.0.0.1:53'", "\"127.0.0.1:53\" is one of our own listeners; expected another server"),
        ("'[::1]:53'", "\"[::1]:53\" is one of our own listeners; expected another server"),
    ] {
        let text = format!("return {{ upstreams = {{\n{{ name = 'u', addr = {addr} }} }} }}");
        let expected = format!("etc/test.lua:2: upstreams[1].addr: {expected}");
        assert_eq!(FakeHost::new().errors(&text), [expected], "{addr}");
    }
}

#[test]
fn everything_is_reported_at_once_in_the_order_of_the_lines() {
    let text = "\
local servers = {
  { name = 'a', addr = '1.1.1.1' },
  { addr = '1.1.1.2:53' },
  { name = 'a', addr = '1.1.1.3:53',
    timeout_ms = 0 },
}
return {
  cache = { capacity = 'many',
    [\"max_bytes\"] = 1 },
  listen = include('listen.lua'),
  upstreams = servers,
  blacklist = { domains = (function()
    return { 'good.example', 'bad..example' }
  end)() },
  hots = {},
}
";
    let listen = "local all = true\nreturn {\n  dns = ':53', -- fine\n  udp_size = 1,\n}\n";
    let errors = FakeHost::new().file("etc/listen.lua", listen).errors(text);
    assert_eq!(
        errors,
        [
            "etc/listen.lua:4: listen.udp_size: 1 is wrong; expected a whole number from 512 to \
             65535",
            "etc/test.lua:2: upstreams[1].addr: \"1.1.1.1\" has no port; expected host:port",
            "etc/test.lua:3: upstreams[2].name: is missing; expected a name of up to 100 printable \
             characters",
            "etc/test.lua:4: upstreams[3].name: \"a\" is the name of another upstream; expected a \
             unique name",
            "etc/test.lua:5: upstreams[3].timeout_ms: 0 is wrong; expected a whole number from 1 to \
             3600000",
            "etc/test.lua:8: cache.capacity: \"many\" is wrong; expected a whole number from 1 to \
             100000000",
            "etc/test.lua:9: cache.max_bytes: 1 is wrong; expected a whole number from 65536 to \
             1099511627776",
            "etc/test.lua:12: blacklist.domains[2]: \"bad..example\" is not a name: a label is \
             empty; expected a name, or *.name or .name for all names below it",
            "etc/test.lua:15: hots: is not a known key; expected another key: did you mean \
             \"hosts\"?",
        ]
    );
}

#[test]
fn a_line_that_is_not_known_is_not_made_up() {
    // Two places return a table, one variable has two values: neither is taken for the other.
    for text in [
        "if env('X') == '' then\nreturn { upstreams = { { name = 'u', addr = 'x' } } }\nend\nreturn 1",
        "local up = { addr = 'y' }\nup = { name = 'u', addr = 'x' }\n\
            return (function() return { upstreams = { up } } end)()",
    ] {
        let errors = FakeHost::new().errors(text);
        let expected = "etc/test.lua: upstreams[1].addr: \"x\" has no port; expected host:port";
        assert_eq!(errors, [expected], "{text}");
    }
    let twice = "local up = { addr = 'y' }\nup = { name = 'u', addr = 'x' }\n\
        return { upstreams = {\n up } }";
    let errors = FakeHost::new().errors(twice);
    let expected = "etc/test.lua:4: upstreams[1].addr: \"x\" has no port; expected host:port";
    assert_eq!(errors, [expected]);
}

#[test]
fn a_bad_variable_for_workers_is_named() {
    for value in ["0", "x", "1025", "-1", "2.5"] {
        let host = FakeHost::new().variable("BALANCEDNS_WORKERS", value);
        assert_eq!(
            host.errors(&with("")),
            [format!(
                "etc/test.lua:1: listen.workers: the variable BALANCEDNS_WORKERS is {value:?}; \
                 expected a whole number from 1 to 1024"
            )]
        );
    }
}

#[test]
fn an_empty_list_of_resolvers_that_nobody_handles_is_an_error() {
    let text = "local list = {}
        for number, addr in ipairs(system_resolvers()) do
            list[number] = { name = 'r' .. number, addr = addr }
        end
        return { listen = { dns = '127.0.0.1:53' }, upstreams = list }";
    let expected = [
        "etc/test.lua: system_resolvers(): the system has no name servers besides our own \
         listeners; expected upstreams with addresses, or a script that handles the empty list",
        "etc/test.lua:5: upstreams: {} has no upstream; expected a list of at least one upstream",
    ];
    assert_eq!(FakeHost::new().resolvers(&[]).errors(text), expected);
    assert_eq!(FakeHost::new().resolvers(&["127.0.0.1:53"]).errors(text), expected);
    FakeHost::new().load(text).expect("loads with a resolver");
}

#[test]
fn all_errors_are_one_text_of_a_line_each() {
    let source = balancedns_core::config::Source {
        name: "test.lua".to_owned(),
        folder: String::new(),
        text: "return { acl = 1, cache = 2 }".to_owned(),
    };
    let errors = balancedns_core::config::load(&source, &FakeHost::new()).expect_err("wrong");
    let text = errors.to_string();
    assert_eq!(text.lines().count(), errors.iter().count());
    for (line, error) in text.lines().zip(&errors) {
        assert_eq!(line, error.to_string());
    }
    assert!(text.lines().count() >= 3, "acl, cache and no upstream: {text}");
}
