//! The daemon's own certificate: checked at the start, looked at again when its files change.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::case::World;
use crate::harness::tls::{ALL_VERSIONS, Flaw, Identity, client_config};
use crate::harness::{
    Daemon, Door, Extra, Query, Settings, StreamClient, Upstream, free_port, until_within,
};

cases! {
    missing_certificate_is_an_error, own, "config listen.tls_cert_file",
        "a certificate that is not there ends the start, and the error names the file";
    missing_key_is_an_error, own, "config listen.tls_key_file",
        "a key that is not there ends the start, and the error names the file";
    garbage_is_no_certificate, own, "config listen.tls_cert_file",
        "a file without a certificate ends the start, and the error names the file";
    garbage_is_no_key, own, "config listen.tls_key_file",
        "a file without a key ends the start, and the error names the file";
    key_has_to_match, own, "config listen.tls_key_file",
        "a key of another certificate ends the start";
    expired_certificate_is_an_error, own, "config listen.tls_cert_file",
        "a certificate that has expired ends the start";
    certificate_not_yet_valid_is_an_error, own, "config listen.tls_cert_file",
        "a certificate that is not valid yet ends the start";
    encrypted_listeners_need_a_certificate, own, "config listen.dot",
        "a listener for TLS without certificate and key is an error of the configuration";
    expiry_is_a_metric, own, "http /metrics",
        "when the certificate ends is a metric";
    end_is_announced_early, own, "robustness logging",
        "a certificate that ends within days is warned about at the start";
    new_certificate_is_taken_up, own, "config listen.tls_cert_file",
        "new files are used for new sessions, without a restart; sessions that stand are not dropped";
    bad_new_certificate_changes_nothing, own, "config listen.tls_cert_file",
        "new files that cannot be used are warned about, and the old certificate stays";
    missing_authorities_are_an_error, own, "config upstreams.tls_ca_file",
        "a file of authorities that is not there, or holds none, ends the start and is named";
}

/// How long it may take until changed files are noticed: they are looked at every few seconds, and
/// twice, since they may be half written.
const NOTICED: Duration = Duration::from_secs(25);

/// Starts what has to fail, over each encrypted transport, and gives what it says.
fn fail(world: &World, change: impl Fn(Settings) -> Settings) -> String {
    let upstream = Upstream::silent();
    let mut said = String::new();
    for extra in [Extra::Dot, Extra::Doh] {
        let settings = change(Settings::with(&upstream).door(extra));
        let ended = settings.fail_on(world, free_port());
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
        said.push_str(&ended.stderr);
    }
    said
}

fn assert_named(said: &str, file: &str) {
    let lines = said.lines().filter(|line| line.contains(file)).count();
    assert_eq!(lines, 2, "one line each that names {file}:\n{said}");
}

fn missing_certificate_is_an_error(world: &World) {
    let keys = r#"tls_cert_file = "gone.pem", tls_key_file = "server.key""#;
    assert_named(&fail(world, |settings| settings.listen(keys)), "gone.pem");
}

fn missing_key_is_an_error(world: &World) {
    let keys = r#"tls_cert_file = "server.pem", tls_key_file = "gone.key""#;
    assert_named(&fail(world, |settings| settings.listen(keys)), "gone.key");
}

fn garbage_is_no_certificate(world: &World) {
    for content in
        ["", "whatever\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        assert_named(&fail(world, |settings| settings.file("server.pem", content)), "server.pem");
    }
    // The key in place of the certificate.
    let key = &Identity::usual().key;
    assert_named(&fail(world, |settings| settings.file("server.pem", key)), "server.pem");
}

fn garbage_is_no_key(world: &World) {
    let certificate = &Identity::usual().certificate;
    for content in ["", "whatever\n", certificate] {
        assert_named(&fail(world, |settings| settings.file("server.key", content)), "server.key");
    }
}

fn key_has_to_match(world: &World) {
    let other = Identity::new(Flaw::None).key;
    assert_named(&fail(world, |settings| settings.file("server.key", &other)), "server.key");
}

fn expired_certificate_is_an_error(world: &World) {
    let identity = Identity::new(Flaw::Expired);
    let said = fail(world, |settings| settings.identity(&identity));
    assert_named(&said, "server.pem");
    assert!(said.contains("expired"), "{said}");
}

fn certificate_not_yet_valid_is_an_error(world: &World) {
    let identity = Identity::new(Flaw::NotYetValid);
    assert_named(&fail(world, |settings| settings.identity(&identity)), "server.pem");
}

fn encrypted_listeners_need_a_certificate(world: &World) {
    let upstream = Upstream::silent();
    for key in ["dot", "doh"] {
        let listener = format!(r#"{key} = "127.0.0.1:{}""#, free_port());
        let ended = Settings::with(&upstream).listen(&listener).fail_on(world, free_port());
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        for missing in ["listen.tls_cert_file", "listen.tls_key_file"] {
            assert!(ended.stderr.contains(missing), "{ended:?}");
        }
    }
}

fn expiry_is_a_metric(world: &World) {
    let upstream = Upstream::silent();
    let identity = Identity::new(Flaw::EndsSoon);
    let daemon = Settings::with(&upstream).door(Extra::Dot).identity(&identity).start(world);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let ends = daemon.metric("balancedns_certificate_expiry_timestamp_seconds");
    let left = ends - now as f64;
    assert!((2.9 * 86_400.0..3.1 * 86_400.0).contains(&left), "{left} s");
}

fn end_is_announced_early(world: &World) {
    let upstream = Upstream::silent();
    let identity = Identity::new(Flaw::EndsSoon);
    let daemon = Settings::with(&upstream).door(Extra::Dot).identity(&identity).start(world);
    daemon.wait_to_say("expires");
    let daemon = Settings::with(&upstream).door(Extra::Dot).start(world);
    assert!(!daemon.said().contains("expires"), "a good one is not worth a word");
}

/// What the daemon shows to a new client, in DER.
fn shown(daemon: &Daemon) -> Vec<u8> {
    let door = Door::tls(daemon.extra(Extra::Dot), client_config(ALL_VERSIONS, &["dot"]));
    let octets = door.open();
    octets.session().peer_certificates().expect("it shows one")[0].to_vec()
}

fn new_certificate_is_taken_up(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).door(Extra::Dot).start(world);
    let mut standing = StreamClient::through(&daemon.dot_door());
    standing.ask(&Query::a("www.example.org"));
    let before = shown(&daemon);
    let new = Identity::new(Flaw::None);
    daemon.rewrite("server.pem", &new.certificate);
    daemon.rewrite("server.key", &new.key);
    until_within(NOTICED, "the new certificate is shown", || {
        // Who keeps busy is not idle.
        assert_eq!(standing.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
        (shown(&daemon) == new.der()).then_some(())
    });
    assert_ne!(before, new.der());
    assert_eq!(standing.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn bad_new_certificate_changes_nothing(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).door(Extra::Dot).start(world);
    let before = shown(&daemon);
    for content in ["whatever\n", &Identity::new(Flaw::None).certificate] {
        let warnings = daemon.said().matches("server.").count();
        daemon.rewrite("server.pem", content);
        until_within(NOTICED, "it warns", || {
            (daemon.said().matches("server.").count() > warnings).then_some(())
        });
        assert_eq!(shown(&daemon), before);
    }
}

fn missing_authorities_are_an_error(world: &World) {
    let upstream = Upstream::silent();
    for (file, content) in [("gone.pem", None), ("none.pem", Some("")), ("bad.pem", Some("x\n"))] {
        let keys = format!(r#"tls_ca_file = "{file}""#);
        let mut settings = Settings::new().dot(upstream.addr(), &keys);
        if let Some(content) = content {
            settings = settings.file(file, content);
        }
        let ended = settings.fail_on(world, free_port());
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains(file), "{ended:?}");
    }
}
