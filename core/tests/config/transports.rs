//! Keys of listeners and upstreams over TLS and HTTP, and of proxies.

use std::net::IpAddr;

use balancedns_core::config::{
    Alpn, DohTarget, ListenTls, Loaded, SubnetPolicy, Trust, UpstreamProtocol, UpstreamSettings,
    UpstreamTls,
};
use balancedns_core::engine::Transport;
use balancedns_core::wire::PrefixLengths;

use crate::support::{FakeHost, warnings, with};

/// Files of a certificate, which encrypted listeners need.
const TLS: &str = "tls_cert_file = 'c.pem', tls_key_file = '/k/k.pem'";

fn listening(keys: &str) -> String {
    with(&format!("listen = {{ {keys} }}"))
}

fn load(text: &str) -> Loaded {
    let loaded = FakeHost::new().load(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    assert_eq!(warnings(&loaded), [""; 0], "{text}");
    loaded
}

/// What is wrong with an upstream that has these keys and, besides its name, no others.
fn upstream_errors(keys: &str) -> Vec<String> {
    FakeHost::new().errors(&upstream(keys))
}

fn upstream(keys: &str) -> String {
    format!("return {{ upstreams = {{\n{{ name = 'u', {keys} }} }} }}")
}

fn only_upstream(loaded: Loaded) -> UpstreamSettings {
    let [upstream] = <[_; 1]>::try_from(loaded.snapshot.upstreams).expect("one upstream");
    upstream
}

fn tls(upstream: &UpstreamSettings) -> UpstreamTls {
    upstream.tls.as_deref().expect("an encrypted protocol").clone()
}

#[test]
fn encrypted_listeners_come_after_plain_ones() {
    let loaded = load(&listening(&format!(
        "dns = '127.0.0.1:53', dot = {{ ':853', '127.0.0.1:8853' }}, doh = '127.0.0.1:443', \
         doh_plain = '[::1]:80', doh_path = '/q', {TLS}"
    )));
    let listen = loaded.snapshot.listen;
    let shown = |socket: &balancedns_core::config::ListenSocket| {
        (socket.transport, socket.addr.to_string(), socket.tls)
    };
    let sockets: Vec<_> = listen.sockets.iter().map(shown).collect();
    let sockets: Vec<_> =
        sockets.iter().map(|(transport, addr, tls)| (*transport, addr.as_str(), *tls)).collect();
    assert_eq!(
        sockets,
        [
            (Transport::Udp, "127.0.0.1:53", false),
            (Transport::Tcp, "127.0.0.1:53", false),
            (Transport::Dot, "0.0.0.0:853", true),
            (Transport::Dot, "[::]:853", true),
            (Transport::Dot, "127.0.0.1:8853", true),
            (Transport::Doh, "127.0.0.1:443", true),
            (Transport::Doh, "[::1]:80", false),
        ]
    );
    let files = ListenTls { cert_file: "etc/c.pem".into(), key_file: "/k/k.pem".into() };
    assert_eq!((listen.tls, listen.doh_path.as_str()), (Some(files), "/q"));
}

#[test]
fn without_their_keys_there_is_nothing_encrypted() {
    let listen = load(&with("")).snapshot.listen;
    assert_eq!((&listen.tls, listen.doh_path.as_str(), &listen.ddr), (&None, "/dns-query", &None));
    assert!(listen.proxy_protocol_from.is_empty() && listen.trusted_proxies.is_empty());
    assert!(!load(&with("")).snapshot.routing.firefox_canary);
    let listen = load(&listening("doh_plain = ':80'")).snapshot.listen;
    assert!(listen.tls.is_none(), "a proxy has the certificate");
    assert!(load(&with("routing = { firefox_canary = true }")).snapshot.routing.firefox_canary);
}

#[test]
fn encrypted_listeners_are_announced_under_a_name() {
    let loaded = load(&listening(&format!("dot = ':853', ddr = 'dns.Example', {TLS}")));
    let discovery = loaded.snapshot.listen.ddr.expect("is on");
    assert_eq!(
        (discovery.name().to_string().as_str(), discovery.records().len()),
        ("dns.example.", 1)
    );
    let text = listening(&format!("dot = ':0', ddr = 'dns.example', {TLS}"));
    let loaded = FakeHost::new().load(&text).expect("loads");
    let expected = "etc/test.lua:2: listen.ddr: \"dns.example\" announces nothing: the system \
        chooses the ports of its listeners";
    assert_eq!(warnings(&loaded), [expected]);
}

#[test]
fn proxies_are_networks() {
    let loaded = load(&listening(
        "doh_plain = ':80', proxy_protocol_from = { '192.0.2.0/24', '::1' }, \
         trusted_proxies = { '2001:db8::/32' }",
    ));
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let listen = loaded.snapshot.listen;
    assert!(listen.proxy_protocol_from.allows(ip("192.0.2.9")));
    assert!(listen.proxy_protocol_from.allows(ip("::1")));
    assert!(!listen.proxy_protocol_from.allows(ip("192.0.3.9")));
    assert!(listen.trusted_proxies.allows(ip("2001:db8::9")));
    assert!(!listen.trusted_proxies.allows(ip("192.0.2.9")));
}

#[test]
fn mistakes_of_listeners() {
    const BOTH: &str = "expected listen.tls_cert_file and listen.tls_key_file";
    const PLACE: &str = "expected another address or port";
    const NETWORK: &str = "expected a network such as \"192.0.2.0/24\", or an ip address";
    const NAME: &str = "expected a host name that the certificate is for";
    for (keys, expected) in [
        ("dot = ':853'".to_owned(), format!("dot: has no certificate; {BOTH}")),
        ("doh = ':443'".to_owned(), format!("doh: has no certificate; {BOTH}")),
        (
            "dot = ':853', tls_cert_file = 'c'".to_owned(),
            "tls_cert_file: \"c\" has no key; expected listen.tls_key_file beside it".to_owned(),
        ),
        (
            format!("dot = ':53', {TLS}"),
            format!("dot: \":53\" is where listen.dns listens; {PLACE}"),
        ),
        (
            format!("dns = ':53', dot = '127.0.0.1:853', doh = {{ ':443', ':853' }}, {TLS}"),
            format!("doh[2]: \":853\" is where listen.dot listens; {PLACE}"),
        ),
        (
            format!("doh = ':443', doh_plain = '[::1]:443', {TLS}"),
            format!("doh_plain: \"[::1]:443\" is where listen.doh listens; {PLACE}"),
        ),
        (
            "doh_plain = ':9090', metrics = ':9090'".to_owned(),
            format!("metrics: \":9090\" is where listen.doh_plain listens; {PLACE}"),
        ),
        (
            format!("dot = {{ ':853', ':853' }}, {TLS}"),
            "dot[2]: \":853\" is listed twice; expected different addresses".to_owned(),
        ),
        (
            format!("dot = 853, {TLS}"),
            "dot: 853 is wrong; expected host:port with an ip address, or :port".to_owned(),
        ),
        (
            "proxy_protocol_from = { '10.0.0.0/33' }".to_owned(),
            format!("proxy_protocol_from[1]: \"10.0.0.0/33\" is not a network; {NETWORK}"),
        ),
        (
            "doh_plain = ':80', trusted_proxies = '::1'".to_owned(),
            "trusted_proxies: \"::1\" is wrong; expected a list of networks".to_owned(),
        ),
        (
            "doh_path = '/q?a'".to_owned(),
            "doh_path: \"/q?a\" is not a plain path; expected letters, digits and \
             -._~!$&'()*+,;=:@/"
                .to_owned(),
        ),
        (format!("dot = ':853', ddr = true, {TLS}"), format!("ddr: true is wrong; {NAME}")),
        (
            format!("dot = ':853', ddr = '192.0.2.1', {TLS}"),
            format!("ddr: \"192.0.2.1\" is wrong; {NAME}"),
        ),
        (
            "doh_plain = ':80', ddr = 'dns.example'".to_owned(),
            "ddr: \"dns.example\" has nothing to announce; expected listen.dot or listen.doh \
             beside it"
                .to_owned(),
        ),
    ] {
        let errors = FakeHost::new().errors(&listening(&keys));
        assert_eq!(errors, [format!("etc/test.lua:2: listen.{expected}")], "{keys}");
    }
    let loaded = FakeHost::new().load(&listening("trusted_proxies = { '::1' }")).expect("loads");
    let expected = "etc/test.lua:2: listen.trusted_proxies: a list of 1 has no effect without \
        listen.doh or listen.doh_plain";
    assert_eq!(warnings(&loaded), [expected]);
}

#[test]
fn sockets_of_all_kinds_are_counted() {
    let text = format!(
        "local list = {{}} for n = 1, 1023 do list[n] = '127.0.0.1:' .. 1000 + n end
        return {{ listen = {{ dns = '127.0.0.1:53', dot = list, {TLS} }},
            upstreams = {{ {{ name = 'u', addr = '192.0.2.1:53' }} }} }}"
    );
    let errors = FakeHost::new().errors(&text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("listen.dot: has 1025 sockets; expected at most 1024"));
}

#[test]
fn dns_over_tls_upstreams() {
    for (addr, server_name) in [
        ("dns.Example:853", "dns.example"),
        ("192.0.2.1:853", "192.0.2.1"),
        ("[2001:DB8::1]:853", "2001:db8::1"),
        ("localhost:853", "localhost"),
        ("caf\u{e9}.example:853", "xn--caf-dma.example"),
    ] {
        let one = only_upstream(load(&upstream(&format!("protocol = 'dot', addr = '{addr}'"))));
        assert_eq!((one.protocol, &one.doh), (UpstreamProtocol::Dot, &None));
        let expected = UpstreamTls {
            alpn: Alpn::Dot,
            server_name: server_name.to_owned(),
            trust: Trust::System,
            pins: vec![],
        };
        assert_eq!(tls(&one), expected, "{addr}");
    }
    let all_ones = format!("sha256/{}8=", "/".repeat(42));
    let one = only_upstream(load(&upstream(&format!(
        "protocol = 'DoT', addr = '192.0.2.1:853', source_addr = '::ffff:192.0.2.9', \
         tls_server_name = 'Dns.Example.', tls_ca_file = './ca.pem', tls_pin_sha256 = {{ \
         'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=', '{all_ones}' }}"
    ))));
    let expected = UpstreamTls {
        alpn: Alpn::Dot,
        server_name: "dns.example".to_owned(),
        trust: Trust::File("etc/ca.pem".to_owned()),
        pins: vec![std::array::from_fn(|at| u8::try_from(at).expect("small")), [0xff; 32]],
    };
    assert_eq!((tls(&one), one.source), (expected, "192.0.2.9".parse().ok()));
}

/// The prefix of a pin is made of digits of base64, too.
#[test]
fn a_pin_may_begin_like_the_prefix() {
    let pin = format!("sha256/{}A=", "A".repeat(35));
    let keys = format!(
        "protocol = 'dot', addr = '192.0.2.1:853', tls_pin_sha256 = {{ '{pin}', 'sha256/{pin}' }}"
    );
    let loaded = FakeHost::new().load(&upstream(&keys)).expect("loads");
    assert_eq!(warnings(&loaded).len(), 1, "both are one pin");
    let [pin] = tls(&only_upstream(loaded)).pins[..] else { panic!("one pin") };
    assert_eq!(pin[..4], [0xb2, 0x16, 0xb6, 0xe7]);
}

#[test]
fn dns_over_https_upstreams() {
    let one = only_upstream(load(&upstream(
        "protocol = 'doh', doh_url = 'https://dns.example:8443/q?a=b'",
    )));
    assert_eq!(one.addr.to_string(), "dns.example.:8443");
    let target = DohTarget { authority: "dns.example:8443".into(), path: "/q?a=b".into() };
    assert_eq!(one.doh.as_deref(), Some(&target));
    assert_eq!((tls(&one).alpn, tls(&one).server_name.as_str()), (Alpn::Http2, "dns.example"));

    // The URL's host is not looked up, but it is what the certificate is for.
    let one = only_upstream(load(&upstream(
        "protocol = 'doh', doh_url = 'https://dns.example/q', addr = '[2001:db8::1]:444'",
    )));
    assert_eq!(one.addr.to_string(), "[2001:db8::1]:444");
    assert_eq!(one.doh.as_deref().map(|doh| doh.authority.as_str()), Some("dns.example"));
    assert_eq!(tls(&one).server_name, "dns.example");

    let one = only_upstream(load(&upstream(
        "protocol = 'doh', doh_url = 'https://[2001:db8::1]', tls_server_name = '192.0.2.1'",
    )));
    assert_eq!(one.addr.to_string(), "[2001:db8::1]:443");
    assert_eq!(tls(&one).server_name, "192.0.2.1");
    assert_eq!(one.doh.as_deref().map(|doh| doh.path.as_str()), Some("/"));
}

#[test]
fn nobody_is_trusted_by_mistake() {
    const PIN: &str = "tls_pin_sha256 = { 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=' }";
    const SKIP: &str = "protocol = 'dot', addr = '192.0.2.1:853', tls_insecure_skip_verify = true";
    for (keys, expected) in [
        (
            SKIP.to_owned(),
            &["tls_insecure_skip_verify: true means that nobody verifies the certificate of \
                upstream \"u\""][..],
        ),
        (
            format!("{SKIP}, {PIN}, tls_ca_file = 'ca'"),
            &[
                "tls_insecure_skip_verify: true means that nobody verifies more than the pinned \
                    keys of upstream \"u\"",
                "tls_ca_file: \"ca\" has no effect with tls_insecure_skip_verify",
            ],
        ),
    ] {
        let loaded = FakeHost::new().load(&upstream(&keys)).expect("loads");
        let expected: Vec<String> =
            expected.iter().map(|one| format!("etc/test.lua:2: upstreams[1].{one}")).collect();
        assert_eq!(warnings(&loaded), expected);
        assert_eq!(tls(&only_upstream(loaded)).trust, Trust::Anybody);
    }
}

#[test]
fn mistakes_of_encrypted_upstreams() {
    const DOT: &str = "protocol = 'dot', addr = '192.0.2.1:853'";
    const URL: &str = "expected an https url";
    const PIN: &str = "expected the sha-256 of a public key in base64: 44 characters";
    for (keys, expected) in [
        ("protocol = 'dot'".to_owned(), "addr: is missing; expected host:port".to_owned()),
        ("protocol = 'doh'".to_owned(), format!("doh_url: is missing; {URL}")),
        (
            "protocol = 'doh', addr = '192.0.2.1:443'".to_owned(),
            format!("doh_url: is missing; {URL}"),
        ),
        (
            "protocol = 'doh', doh_url = 'http://dns.example/q'".to_owned(),
            format!("doh_url: \"http://dns.example/q\" is wrong; {URL}"),
        ),
        (
            "protocol = 'doh', doh_url = 'https://dns.example/q#f'".to_owned(),
            format!("doh_url: \"https://dns.example/q#f\" has a fragment; {URL}"),
        ),
        (
            "protocol = 'doh', doh_url = 'https://dns.example', addr = '192.0.2.1'".to_owned(),
            "addr: \"192.0.2.1\" has no port; expected host:port".to_owned(),
        ),
        (
            "protocol = 'dot', addr = 'a-.example:853'".to_owned(),
            "tls_server_name: is missing: no certificate is for the upstream's name; expected a \
             host name or an ip address"
                .to_owned(),
        ),
        (
            format!("{DOT}, tls_server_name = '*.example'"),
            "tls_server_name: \"*.example\" is wrong; expected a host name or an ip address"
                .to_owned(),
        ),
        (
            format!("{DOT}, tls_ca_file = 5"),
            "tls_ca_file: 5 is wrong; expected the path of a file".to_owned(),
        ),
        (
            format!("{DOT}, tls_pin_sha256 = 'x'"),
            "tls_pin_sha256: \"x\" is wrong; expected a list of pins".to_owned(),
        ),
        (
            format!("{DOT}, tls_pin_sha256 = {{ 'AAAA' }}"),
            format!("tls_pin_sha256[1]: \"AAAA\" is no pin; {PIN}"),
        ),
        (
            // Octets of base64 without the padding.
            format!("{DOT}, tls_pin_sha256 = {{ '{}' }}", "A".repeat(43)),
            format!("tls_pin_sha256[1]: \"{}\" is no pin; {PIN}", "A".repeat(43)),
        ),
    ] {
        let expected = format!("etc/test.lua:2: upstreams[1].{expected}");
        assert_eq!(upstream_errors(&keys), [expected], "{keys}");
    }
}

#[test]
fn keys_of_tls_have_no_effect_on_plain_upstreams() {
    let text = upstream(
        "protocol = 'tcp', addr = '192.0.2.1:53', tls_ca_file = 'ca', tls_pin_sha256 = {\n\
         'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=' }",
    );
    let loaded = FakeHost::new().load(&text).expect("loads");
    assert_eq!(
        warnings(&loaded),
        [
            "etc/test.lua:2: upstreams[1].tls_ca_file: \"ca\" has no effect on protocol tcp",
            "etc/test.lua:2: upstreams[1].tls_pin_sha256: a list of 1 has no effect on protocol tcp",
        ]
    );
    assert_eq!(only_upstream(loaded).tls, None);
}

/// What is sent to one of our own listeners would come back forever.
#[test]
fn no_upstream_is_one_of_our_own_encrypted_listeners() {
    for (keys, path, shown) in [
        ("protocol = 'dot', addr = '127.0.0.1:853'", "addr", "\"127.0.0.1:853\""),
        ("protocol = 'doh', doh_url = 'https://[::1]'", "doh_url", "\"https://[::1]\""),
        (
            "protocol = 'doh', doh_url = 'https://dns.example', addr = '127.0.0.1:443'",
            "addr",
            "\"127.0.0.1:443\"",
        ),
    ] {
        let text = format!(
            "return {{ listen = {{ dot = ':853', doh = ':443', {TLS} }},\n\
             upstreams = {{ {{ name = 'u', {keys} }} }} }}"
        );
        let expected = format!(
            "etc/test.lua:2: upstreams[1].{path}: {shown} is one of our own listeners; expected \
             another server"
        );
        assert_eq!(FakeHost::new().errors(&text), [expected]);
    }
}

#[test]
fn host_names_of_urls_need_somebody_to_look_them_up() {
    let text = upstream("protocol = 'doh', doh_url = 'https://dns.example/q'");
    let errors = FakeHost::new().resolvers(&[]).errors(&text);
    let expected = "etc/test.lua:2: upstreams[1].doh_url: \"dns.example.\" has to be looked up";
    assert!(errors.len() == 1 && errors[0].starts_with(expected), "{errors:?}");
    assert_eq!(load(&text).snapshot.routing.bootstrap.len(), 1);
}

#[test]
fn what_upstreams_are_told_of_clients_networks() {
    let policy = |key: &str| {
        let text = format!(
            "return {{ upstreams = {{ {{ name = 'u', addr = '192.0.2.1:53', {key} }} }} }}"
        );
        let snapshot = load(&text).snapshot;
        assert_eq!(
            snapshot.tells_client_subnets,
            snapshot.upstreams[0].client_subnet != SubnetPolicy::Off
        );
        snapshot.upstreams[0].client_subnet
    };
    let add = |ipv4, ipv6| SubnetPolicy::Add(PrefixLengths { ipv4, ipv6 });
    for (key, expected) in [
        ("", SubnetPolicy::Off),
        ("ecs = false", SubnetPolicy::Off),
        ("ecs = 'off'", SubnetPolicy::Off),
        ("ecs = 'pass'", SubnetPolicy::Pass),
        ("ecs = 'add'", add(24, 56)),
        ("ecs = { ipv4_prefix = 20 }", add(20, 56)),
        ("ecs = { ipv4_prefix = 32, ipv6_prefix = 48 }", add(32, 48)),
    ] {
        assert_eq!(policy(key), expected, "{key}");
    }
}
