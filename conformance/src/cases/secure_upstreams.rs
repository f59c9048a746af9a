//! Upstreams asked over TLS, by DoT and by DoH alike: kept and shared connections, resumed sessions,
//! certificates, and what happens when something of that breaks.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::case::World;
use crate::harness::tls::{Flaw, Identity, SERVER_NAME};
use crate::harness::{
    Answer, Asked, Client, Daemon, Door, Gate, Query, Secure, Settings, Transport, Upstream, Via,
    free_port, until,
};

cases! {
    one_handshake_serves_many_queries, own, "RFC 7858 3.4, RFC 8484 5.2",
        "an upstream over TLS is asked on one connection that is kept";
    queries_share_a_connection, own, "RFC 7858 3.3, RFC 9113 5",
        "queries to an upstream over TLS do not wait for each other; answers come in any order";
    sessions_with_upstreams_are_resumed, own, "RFC 8310 8.1",
        "when an upstream has closed its connection, the next one goes on with the session";
    old_tls_will_do, own, "RFC 8310 8.1",
        "an upstream that speaks only TLS 1.2 is asked by that";
    interrupted_secure_queries_are_retried, own, "RFC 7766 6.2.4",
        "what was in flight on a connection in TLS that broke is asked again";
    restarted_upstreams_are_used, own, "robustness failover",
        "an upstream over TLS that is killed and started again is used again, with its old port";
    refused_connections_lead_on, own, "robustness failover",
        "an upstream over TLS where nobody listens fails over at once";
    silent_handshakes_lead_on, own, "robustness failover",
        "an upstream that accepts and never shakes hands fails over in its time";
    silent_sessions_lead_on, own, "robustness failover",
        "an upstream that shakes hands and never answers fails over in its time";
    deadlines_are_the_querys, own, "config upstreams.timeout_ms",
        "connecting, handshake and answer share one time: a slow start is no second chance";
    plain_servers_are_no_secure_ones, own, "RFC 7858 3.1",
        "an upstream that answers without TLS is not believed, and not asked in the clear";
    expired_certificates_are_refused, own, "RFC 8310 8.1, robustness certificates",
        "an upstream whose certificate has expired, or is not valid yet, is not asked, and that is said";
    other_names_are_refused, own, "RFC 8310 8.1, config upstreams.tls_server_name",
        "an upstream whose certificate is for another name is not asked, and that is said";
    strangers_are_refused, own, "RFC 8310 8.1, config upstreams.tls_ca_file",
        "an upstream whose certificate nobody trusted has signed is not asked, and that is said";
    addresses_are_names, own, "config upstreams.tls_server_name",
        "an upstream by address needs no name if its certificate is for the address";
    insecure_is_a_choice, own, "config upstreams.tls_insecure_skip_verify",
        "who says so gets any certificate taken, and a warning at the start";
    system_roots_are_used, own, "config upstreams.tls_ca_file",
        "without a file of authorities those of the system count, and SSL_CERT_FILE says where they are";
    pins_have_to_match, own, "RFC 7858 4.2, config upstreams.tls_pin_sha256",
        "one of the pinned keys has to be shown, a good certificate or not";
    pins_count_without_authorities, own, "RFC 7858 4.2, config upstreams.tls_pin_sha256",
        "a pinned key counts also where no certificate is verified";
    second_upstream_stands_in, own, "robustness failover",
        "while the first upstream cannot be trusted, the second one answers";
    queries_are_padded, own, "RFC 8467 4.1, RFC 7830 3",
        "queries in TLS are padded to a multiple of 128 octets, whatever their name";
    clients_stay_private, own, "RFC 7873 5, RFC 7871 7.1",
        "neither cookie nor subnet nor padding nor unknown options of a client reach an upstream";
    source_address_is_used, own, "config upstreams.source_addr",
        "an upstream is asked from the configured address, whatever the protocol";
    host_names_are_verified, own, "config routing.bootstrap",
        "an upstream by host name is looked up, connected to, and verified by that name";
    secure_answers_are_checked, own, "RFC 5452 9.1, robustness replies",
        "an answer to another question, or one that is none, is not taken from TLS either";
    truncated_answers_are_taken, own, "RFC 7858 3.3",
        "TC on a stream leads nowhere else: there is nothing larger to ask by";
}

/// DoT and DoH: how a server is made, and how it is configured.
type Kind = (Secure, fn(Settings, SocketAddr, &str) -> Settings, Transport);

fn kinds() -> [Kind; 2] {
    [(Secure::dot(), Settings::dot, Transport::Dot), (Secure::doh(), Settings::doh, Transport::Doh)]
}

const SHORT: &str = "timeout_ms = 700";

fn ask(daemon: &Daemon, name: &str) -> u16 {
    daemon.udp(&Query::a(name).edns(1232)).rcode()
}

fn one_handshake_serves_many_queries(world: &World) {
    for (secure, configure, transport) in kinds() {
        let upstream = secure.answering("192.0.2.1");
        let daemon = configure(Settings::new(), upstream.addr(), "").start(world);
        for i in 0..30 {
            let reply = daemon.udp(&Query::a(&format!("n{i}.example.org")));
            assert_eq!(reply.address(), "192.0.2.1");
        }
        let asked = upstream.asked();
        assert_eq!(asked.len(), 30);
        assert!(asked.iter().all(|asked| asked.transport == transport && asked.conn == 0));
        assert_eq!(upstream.counts().handshakes.load(Ordering::SeqCst), 1);
        assert!((daemon.metric("balancedns_upstream_connections_opened_total") - 1.0).abs() < 0.1);
    }
}

/// A client that asks many at once.
fn ask_at_once(daemon: &Daemon, count: u16) -> (Client, Vec<Query>) {
    let mut client = Client::to(Via::Tcp, &Door::plain(daemon.addr()));
    let queries: Vec<_> =
        (0..count).map(|id| Query::a(&format!("n{id}.example.org")).id(id)).collect();
    for query in &queries {
        client.send(&query.encode());
    }
    (client, queries)
}

fn queries_share_a_connection(world: &World) {
    for (secure, configure, _) in kinds() {
        let gate = Gate::default();
        let held = gate.clone();
        let upstream = secure.start(move |asked: &Asked| {
            let number: u16 =
                asked.name()[1..].split('.').next().expect("a label").parse().expect("its number");
            let answer = asked.address(60, &format!("192.0.2.{number}"));
            Answer::When(held.clone(), Box::new(answer.into()))
        });
        let daemon = configure(Settings::new(), upstream.addr(), "").start(world);
        let (mut client, queries) = ask_at_once(&daemon, 50);
        let asked = upstream.wait_for(50);
        assert_eq!(asked.iter().map(|asked| asked.conn).collect::<HashSet<_>>().len(), 1);
        gate.open();
        for _ in &queries {
            let reply = client.receive();
            let id = reply.message.metadata.id;
            reply.check_echo(&queries[usize::from(id)]);
            assert_eq!(reply.address(), format!("192.0.2.{id}"), "each its own answer");
        }
    }
}

fn sessions_with_upstreams_are_resumed(world: &World) {
    for (secure, configure, _) in kinds() {
        for version in crate::harness::tls::ALL_VERSIONS {
            let upstream =
                secure.clone().versions(std::slice::from_ref(version)).start(|asked: &Asked| {
                    Answer::SendAndClose(Box::new(asked.address(60, "192.0.2.1")))
                });
            let daemon = configure(Settings::new(), upstream.addr(), "").start(world);
            for i in 0..5 {
                let name = format!("n{i}.example.org");
                assert_eq!(daemon.udp(&Query::a(&name)).address(), "192.0.2.1");
            }
            let counts = upstream.counts();
            // A query may still come before the end of the connection is seen.
            let handshakes = counts.handshakes.load(Ordering::SeqCst);
            assert!((2..=5).contains(&handshakes), "{handshakes}");
            assert_eq!(counts.resumed.load(Ordering::SeqCst), handshakes - 1, "{version:?}");
        }
    }
}

fn old_tls_will_do(world: &World) {
    for (secure, configure, _) in kinds() {
        let upstream =
            secure.versions(&crate::harness::tls::ALL_VERSIONS[..1]).answering("192.0.2.1");
        let daemon = configure(Settings::new(), upstream.addr(), "").start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    }
}

fn interrupted_secure_queries_are_retried(world: &World) {
    for (secure, configure, _) in kinds() {
        let upstream = secure.start(|asked: &Asked| match (asked.conn, asked.sequence) {
            (0, 9) => Answer::Close,
            (0, _) => Answer::Silence,
            _ => asked.address(60, "192.0.2.1").into(),
        });
        let daemon = configure(Settings::new(), upstream.addr(), "").start(world);
        let start = Instant::now();
        let (mut client, queries) = ask_at_once(&daemon, 10);
        for _ in &queries {
            assert_eq!(client.receive().address(), "192.0.2.1");
        }
        assert!(start.elapsed() < Duration::from_millis(1_900), "{:?}", start.elapsed());
    }
}

fn restarted_upstreams_are_used(world: &World) {
    for (secure, configure, _) in kinds() {
        let secure = secure.at_port(free_port());
        let upstream = secure.clone().answering("192.0.2.1");
        let daemon = configure(Settings::new(), upstream.addr(), SHORT)
            .section("cache = { servfail_ttl_seconds = 0 }")
            .start(world);
        assert_eq!(ask(&daemon, "before.example.org"), 0);
        drop(upstream);
        assert_eq!(ask(&daemon, "meanwhile.example.org"), 2);
        let upstream = secure.answering("192.0.2.1");
        until("it is used again", || (ask(&daemon, "after.example.org") == 0).then_some(()));
        assert!(upstream.count() >= 1);
    }
}

fn refused_connections_lead_on(world: &World) {
    for (secure, configure, _) in kinds() {
        let second = secure.answering("192.0.2.2");
        let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let settings = configure(Settings::new(), nobody, "");
        let daemon = configure(settings, second.addr(), "").start(world);
        let start = Instant::now();
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.2");
        assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
    }
}

fn silent_handshakes_lead_on(world: &World) {
    for (secure, configure, _) in kinds() {
        let first = secure.clone().without_handshakes().answering("192.0.2.1");
        let second = secure.answering("192.0.2.2");
        let settings = configure(Settings::new(), first.addr(), SHORT);
        let daemon = configure(settings, second.addr(), "").start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.2");
        assert!(first.counts().connections.load(Ordering::SeqCst) >= 1);
    }
}

fn silent_sessions_lead_on(world: &World) {
    for (secure, configure, _) in kinds() {
        let first = secure.clone().start(|_: &Asked| Answer::Silence);
        let second = secure.answering("192.0.2.2");
        let settings = configure(Settings::new(), first.addr(), SHORT);
        let daemon = configure(settings, second.addr(), "").start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.2");
        assert!(first.count() >= 1);
    }
}

fn deadlines_are_the_querys(world: &World) {
    for (secure, configure, _) in kinds() {
        for upstream in [
            secure.clone().without_handshakes().answering("192.0.2.1"),
            secure.clone().start(|_: &Asked| Answer::Silence),
        ] {
            let daemon = configure(Settings::new(), upstream.addr(), SHORT)
                .section("routing = { attempts_max = 1 }")
                .start(world);
            let start = Instant::now();
            assert_eq!(ask(&daemon, "www.example.org"), 2);
            let took = start.elapsed();
            assert!(took > Duration::from_millis(600), "{took:?}");
            assert!(took < Duration::from_millis(1_700), "{took:?}");
        }
    }
}

fn plain_servers_are_no_secure_ones(world: &World) {
    for (_, configure, _) in kinds() {
        // Breaks, and with it the case, if something comes that it can read.
        let plain = Upstream::start(|_| -> Answer { panic!("a query in the clear") });
        let second = Upstream::answering("192.0.2.2");
        let settings = configure(Settings::new(), plain.addr(), SHORT);
        let daemon = settings.upstream(&second, "").start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.2");
        assert_eq!(plain.count(), 0);
    }
}

/// An upstream that shows this and is configured with these keys is not asked, and the log says why.
fn assert_refused(world: &World, identity: &Identity, keys: &str, why: &str) {
    for (secure, configure, _) in kinds() {
        let upstream = secure.identity(identity).answering("192.0.2.1");
        let daemon = configure(Settings::new(), upstream.addr(), keys).start(world);
        assert_eq!(ask(&daemon, "www.example.org"), 2, "{why}");
        assert_eq!(upstream.count(), 0, "{why}");
        assert!(upstream.counts().connections.load(Ordering::SeqCst) > 0, "{why}");
        daemon.wait_to_say(why);
    }
}

/// An upstream that shows this and is configured with these keys is asked.
fn assert_taken(world: &World, identity: &Identity, keys: &str) {
    for (secure, configure, _) in kinds() {
        let upstream = secure.identity(identity).answering("192.0.2.1");
        let daemon = configure(Settings::new(), upstream.addr(), keys).start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1", "{keys}");
    }
}

fn expired_certificates_are_refused(world: &World) {
    assert_refused(world, &Identity::new(Flaw::Expired), "", "certificate expired");
    assert_refused(world, &Identity::new(Flaw::NotYetValid), "", "certificate not valid yet");
}

fn other_names_are_refused(world: &World) {
    assert_refused(world, &Identity::new(Flaw::OtherName), "", "certificate for another name");
    let keys = r#"tls_server_name = "elsewhere.test""#;
    assert_refused(world, Identity::usual(), keys, "certificate for another name");
    assert_taken(world, &Identity::new(Flaw::OtherName), r#"tls_server_name = "other.test""#);
}

fn strangers_are_refused(world: &World) {
    let why = "certificate of an unknown issuer";
    assert_refused(world, &Identity::new(Flaw::SelfSigned), "", why);
    // Signed by somebody whom the system does not know.
    assert_refused(world, Identity::usual(), "tls_ca_file = false", why);
}

fn addresses_are_names(world: &World) {
    assert_taken(world, Identity::usual(), "tls_server_name = nil");
    let identity = Identity::new(Flaw::OtherName);
    assert_refused(world, &identity, "tls_server_name = nil", "certificate for another name");
}

fn insecure_is_a_choice(world: &World) {
    const KEYS: &str = "tls_insecure_skip_verify = true, tls_ca_file = nil";
    for flaw in [Flaw::SelfSigned, Flaw::Expired, Flaw::OtherName] {
        assert_taken(world, &Identity::new(flaw), KEYS);
    }
    let upstream = Secure::dot().answering("192.0.2.1");
    let daemon = Settings::new().dot(upstream.addr(), KEYS).start(world);
    daemon.wait_to_say("tls_insecure_skip_verify");
}

fn system_roots_are_used(world: &World) {
    for (secure, configure, _) in kinds() {
        let upstream = secure.answering("192.0.2.1");
        let daemon = configure(Settings::new(), upstream.addr(), "tls_ca_file = nil")
            // It runs in the folder where the file lies.
            .variable("SSL_CERT_FILE", "authority.pem")
            .start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    }
}

fn pins(pins: &[&Identity]) -> String {
    let pins: Vec<_> = pins.iter().map(|identity| format!("{:?}", identity.pin())).collect();
    format!("tls_pin_sha256 = {{ {} }}", pins.join(", "))
}

fn pins_have_to_match(world: &World) {
    let (good, other) = (Identity::usual(), Identity::new(Flaw::None));
    assert_taken(world, good, &pins(&[good]));
    assert_taken(world, good, &pins(&[&other, good]));
    assert_refused(world, good, &pins(&[&other]), "public key not pinned");
    let expired = Identity::new(Flaw::Expired);
    assert_refused(world, &expired, &pins(&[&expired]), "certificate expired");
}

fn pins_count_without_authorities(world: &World) {
    let (one, other) = (Identity::new(Flaw::SelfSigned), Identity::new(Flaw::SelfSigned));
    let insecure =
        |pins: String| format!("tls_insecure_skip_verify = true, tls_ca_file = nil, {pins}");
    assert_taken(world, &one, &insecure(pins(&[&one])));
    assert_refused(world, &one, &insecure(pins(&[&other])), "public key not pinned");
}

fn second_upstream_stands_in(world: &World) {
    for (secure, configure, _) in kinds() {
        let first = secure.clone().identity(&Identity::new(Flaw::Expired)).answering("192.0.2.1");
        let second = secure.answering("192.0.2.2");
        let settings = configure(Settings::new(), first.addr(), "");
        let daemon = configure(settings, second.addr(), "").start(world);
        let start = Instant::now();
        for i in 0..10 {
            let reply = daemon.udp(&Query::a(&format!("n{i}.example.org")));
            assert_eq!(reply.address(), "192.0.2.2");
        }
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert_eq!(first.count(), 0);
    }
}

fn queries_are_padded(world: &World) {
    const PADDING: u16 = 12;
    for (secure, configure, _) in kinds() {
        let upstream = secure.answering("192.0.2.1");
        let daemon = configure(Settings::new(), upstream.addr(), "").start(world);
        for length in [1, 20, 40, 63] {
            daemon.udp(&Query::a(&format!("{}.example.org", "x".repeat(length))));
        }
        for asked in upstream.asked() {
            assert_eq!(asked.octets.len() % 128, 0, "{:02x?}", asked.octets);
            let padding = asked.option(PADDING).expect("a padding option");
            assert!(padding.iter().all(|octet| *octet == 0), "RFC 7830 section 3");
        }
    }
}

fn clients_stay_private(world: &World) {
    for (secure, configure, _) in kinds() {
        let upstream = secure.answering("192.0.2.1");
        let daemon = configure(Settings::new(), upstream.addr(), "").start(world);
        let query = Query::a("www.example.org")
            .option(10, b"8 octets")
            .option(8, &[0, 1, 24, 0, 198, 51, 100])
            .option(12, &[7; 64])
            .option(65_001, b"x");
        assert_eq!(daemon.udp(&query).address(), "192.0.2.1");
        let asked = upstream.wait_for(1).remove(0);
        let of_ours = asked.option_codes().into_iter().all(|code| matches!(code, 11 | 12));
        assert!(of_ours, "keepalive and padding at most: {:?}", asked.option_codes());
        let found = asked.octets.windows(8).any(|octets| octets == b"8 octets" || octets == [7; 8]);
        assert!(!found, "{:02x?}", asked.octets);
    }
}

fn source_address_is_used(world: &World) {
    const KEYS: &str = r#"source_addr = "127.0.0.77""#;
    let (dot, doh) = (Secure::dot().answering("192.0.2.1"), Secure::doh().answering("192.0.2.1"));
    let plain = Upstream::answering("192.0.2.1");
    for (settings, upstream) in [
        (Settings::new().dot(dot.addr(), KEYS), &dot),
        (Settings::new().doh(doh.addr(), KEYS), &doh),
        (Settings::new().upstream(&plain, KEYS), &plain),
        (Settings::new().upstream(&plain, &format!(r#"protocol = "tcp", {KEYS}"#)), &plain),
    ] {
        let daemon = settings.start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
        let asked = upstream.asked();
        let from = asked.last().expect("it was asked").from;
        assert_eq!(from.ip().to_string(), "127.0.0.77");
    }
}

fn host_names_are_verified(world: &World) {
    let bootstrap = Upstream::answering("127.0.0.1");
    let section = format!("routing = {{ bootstrap = {{ \"{}\" }} }}", bootstrap.addr());
    let (dot, doh) = (Secure::dot().answering("192.0.2.1"), Secure::doh().answering("192.0.2.1"));
    let keys = r#"name = "up", tls_ca_file = "authority.pem""#;
    let (dot_port, doh_port) = (dot.addr().port(), doh.addr().port());
    for text in [
        format!("{{ {keys}, protocol = \"dot\", addr = \"{SERVER_NAME}:{dot_port}\" }}"),
        format!(
            "{{ {keys}, protocol = \"doh\", doh_url = \"https://{SERVER_NAME}:{doh_port}/dns-query\" }}"
        ),
    ] {
        let daemon = Settings::new().upstream_text(&text).section(&section).start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1", "{text}");
    }
    assert!(bootstrap.asked().iter().all(|asked| asked.name() == "dns.test."));
    // The name leads to the server, but its certificate is for another one.
    let text = format!("{{ {keys}, protocol = \"dot\", addr = \"wrong.test:{dot_port}\" }}");
    let daemon = Settings::new().upstream_text(&text).section(&section).start(world);
    assert_eq!(ask(&daemon, "www.example.org"), 2);
    daemon.wait_to_say("certificate for another name");
}

fn secure_answers_are_checked(world: &World) {
    for (secure, configure, _) in kinds() {
        for (place, script) in [
            |asked: &Asked| {
                let mut other = asked.address(60, "192.0.2.66");
                other.queries.clear();
                Answer::from(other)
            },
            |_: &Asked| Answer::Octets(vec![vec![0xff; 40]]),
            |asked: &Asked| {
                // QR is clear: it is our own query, sent back.
                Answer::Octets(vec![asked.octets.clone()])
            },
        ]
        .into_iter()
        .enumerate()
        {
            let first = secure.clone().start(script);
            let second = Upstream::answering("192.0.2.2");
            let settings = configure(Settings::new(), first.addr(), SHORT);
            let daemon = settings.upstream(&second, "").start(world);
            let reply = daemon.udp(&Query::a("www.example.org"));
            assert_eq!(reply.address(), "192.0.2.2", "script {place}");
            assert!(first.count() >= 1);
        }
    }
}

fn truncated_answers_are_taken(world: &World) {
    for (secure, configure, _) in kinds() {
        let upstream = secure.start(|asked: &Asked| asked.truncated());
        let daemon = configure(Settings::new(), upstream.addr(), SHORT).start(world);
        let start = Instant::now();
        let reply = daemon.udp(&Query::a("www.example.org"));
        // What cannot be had whole is no answer to keep.
        assert!(reply.truncated() || reply.rcode() == 2, "{reply:?}");
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!(upstream.count() <= 8, "{}", upstream.count());
    }
}
