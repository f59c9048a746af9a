//! Handshakes in memory, with files that are right and files that are not.

use balancedns_core::config::{ListenTls, Trust};
use balancedns_core::time::Instant;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection,
    SupportedProtocolVersion, version,
};

use super::fixture::{Authority, HOST, Issued, VALID, Years, der, server_with};
use super::*;

fn listen(files: &ListenTls) -> Result<ListenTlsContext, String> {
    let provider = Arc::new(default_provider());
    Identity::load(files, &provider).and_then(|identity| ListenTlsContext::new(identity, &provider))
}

/// Exchanges octets until both sides are done, tickets included. What the client, else the server,
/// objects to.
fn shake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), rustls::Error> {
    let mut failure = None;
    while client.wants_write() || server.wants_write() {
        let mut octets = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut octets).expect("memory");
        }
        let mut octets = &octets[..];
        while !octets.is_empty() && server.read_tls(&mut octets).expect("memory") > 0 {
            failure = failure.or(server.process_new_packets().err());
        }
        let mut octets = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut octets).expect("memory");
        }
        let mut octets = &octets[..];
        while !octets.is_empty() && client.read_tls(&mut octets).expect("memory") > 0 {
            client.process_new_packets()?;
        }
    }
    failure.map_or(Ok(()), Err)
}

fn connect(
    config: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(HOST).expect("valid");
    let mut client = ClientConnection::new(Arc::clone(config), name).expect("valid");
    let mut server = ServerConnection::new(Arc::clone(server)).expect("valid");
    shake(&mut client, &mut server).map(|()| (client, server))
}

/// A client that trusts the authority.
fn client(
    authority: &Authority,
    protocols: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("valid");
    roots.add(root).expect("valid");
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .expect("valid");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let authority = Authority::new();
    let (good, other) = (authority.issue(VALID), authority.issue(VALID));
    let expired = authority.issue((2020, 2021));
    let early = authority.issue((2150, 2200));
    let cases = [
        ("", good.key.as_str(), "cert.pem: no certificate in it"),
        (good.key.as_str(), good.key.as_str(), "cert.pem: no certificate in it"),
        ("-----BEGIN CERTIFICATE-----\nAAA", good.key.as_str(), "cert.pem: not PEM"),
        (good.cert.as_str(), "", "key.pem: no private key in it"),
        (good.cert.as_str(), good.cert.as_str(), "key.pem: no private key in it"),
        (good.cert.as_str(), other.key.as_str(), "key.pem: not the key of the first certificate"),
        (expired.cert.as_str(), expired.key.as_str(), "cert.pem: the certificate has expired at"),
        (early.cert.as_str(), early.key.as_str(), "cert.pem: the certificate is not valid before"),
    ];
    for (cert, key, expected) in cases {
        let error = listen(&authority.files(cert, key)).expect_err(expected);
        assert!(error.contains(expected), "{error}");
        assert!(error.starts_with("listen.tls_"), "{error}");
    }
    let mut files = authority.files(&good.cert, &good.key);
    listen(&files).expect("usable");
    files.key_file = authority.path("none").display().to_string();
    assert!(listen(&files).expect_err("missing").ends_with("none: no such file"));
    files.cert_file = authority.path("").display().to_string();
    assert!(listen(&files).expect_err("a folder").ends_with("a folder, not a file"));
}

#[test]
fn protocols_are_agreed_upon_or_refused() {
    let authority = Authority::new();
    let issued = authority.issue(VALID);
    let context = listen(&authority.files(&issued.cert, &issued.key)).expect("usable");
    let (dot, doh): (&[u8], &[u8]) = (b"dot", b"h2");
    let cases: [(&[&[u8]], _, _); 6] = [
        (&[dot], &context.dot, Ok(Some(dot))),
        (&[], &context.dot, Ok(None)),
        (&[doh], &context.dot, Err(rustls::Error::NoApplicationProtocol)),
        (&[b"http/1.1", doh], &context.doh, Ok(Some(doh))),
        (&[b"http/1.1"], &context.doh, Ok(Some(b"http/1.1"))),
        (&[dot], &context.doh, Err(rustls::Error::NoApplicationProtocol)),
    ];
    for versions in [&[&version::TLS13][..], &[&version::TLS12]] {
        for (offered, server, expected) in &cases {
            let client = client(&authority, offered, versions);
            let result = connect(&client, server);
            let agreed = result.as_ref().map(|(_, server)| server.alpn_protocol());
            match expected {
                Ok(protocol) => assert_eq!(agreed.expect("agree"), *protocol),
                // The server's own words, or its alert as the client sees it.
                Err(_) => assert_eq!(
                    tls_failure(&result.expect_err("refused")),
                    TlsFailure::WrongProtocol
                ),
            }
        }
    }
}

#[test]
fn sessions_are_resumed_also_after_the_certificate_was_exchanged() {
    let authority = Authority::new();
    let issued = authority.issue(VALID);
    let context = listen(&authority.files(&issued.cert, &issued.key)).expect("usable");
    for versions in [&[&version::TLS13][..], &[&version::TLS12]] {
        let client = client(&authority, &[], versions);
        let kind = || {
            let (client, _) = connect(&client, &context.dot).expect("agree");
            client.handshake_kind().expect("is over")
        };
        assert_eq!(kind(), HandshakeKind::Full);
        assert_eq!(kind(), HandshakeKind::Resumed);
        context.identity.renew().expect("the same files");
        assert_eq!(kind(), HandshakeKind::Resumed);
    }
}

fn shown(authority: &Authority, context: &ListenTlsContext) -> CertificateDer<'static> {
    let (client, _) = connect(&client(authority, &[], BOTH), &context.dot).expect("agree");
    client.peer_certificates().expect("shown")[0].clone().into_owned()
}

#[test]
fn a_certificate_is_exchanged_once_both_files_fit_and_are_settled() {
    let authority = Authority::new();
    let (first, second) = (authority.issue(VALID), authority.issue((2021, 2100)));
    let context = listen(&authority.files(&first.cert, &first.key)).expect("usable");
    let mut now = Instant::ZERO;
    let mut watch = CertificateWatch::new(Arc::clone(&context.identity), now);
    let mut look = |watch: &mut CertificateWatch| {
        watch.look(now);
        now = watch.next_look();
    };
    look(&mut watch);
    // The length differs, so that a coarse clock of the file system does not matter.
    authority.file("cert.pem", &format!("{}\n# renewed\n", second.cert));
    for _ in 0..3 {
        look(&mut watch);
        assert_eq!(shown(&authority, &context), der(&first), "the key is still the old one");
    }
    authority.file("key.pem", &format!("{}\n# renewed\n", second.key));
    look(&mut watch);
    assert_eq!(shown(&authority, &context), der(&first), "seen once: it may not be whole");
    let expiry = context.identity.expiry();
    look(&mut watch);
    assert_eq!(shown(&authority, &context), der(&second));
    assert!(context.identity.expiry() < expiry);
}

/// What an upstream of these settings makes of a server with a certificate of these years.
fn verified(
    authority: &Authority,
    years: Years,
    settings: impl FnOnce(&Issued) -> UpstreamTls,
) -> Result<(), TlsFailure> {
    let issued = authority.issue(years);
    let settings = settings(&issued);
    verified_as(&issued, &settings)
}

/// What an upstream of these settings makes of a server with this certificate.
fn verified_as(issued: &Issued, settings: &UpstreamTls) -> Result<(), TlsFailure> {
    let provider = Arc::new(default_provider());
    let server = server_with(issued, &[settings.alpn.id()]);
    let upstream = UpstreamClient::new(settings, &provider).expect("usable");
    let mut client =
        ClientConnection::new(Arc::clone(&upstream.config), upstream.name).expect("valid");
    let mut server = ServerConnection::new(server).expect("valid");
    let shaken = shake(&mut client, &mut server);
    shaken.map_err(|error| {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        let IoFailure::Tls(failure) = failure_of(&error) else { panic!("not of TLS: {error}") };
        failure
    })
}

fn settings(trust: Trust, pins: Vec<[u8; 32]>, server_name: &str) -> UpstreamTls {
    UpstreamTls { alpn: Alpn::Http2, server_name: server_name.to_owned(), trust, pins }
}

#[test]
fn upstreams_are_who_they_should_be() {
    let authority = Authority::new();
    let ca = Trust::File(authority.file("ca.pem", &authority.pem()));
    let foreign = Trust::File(authority.file("foreign.pem", &Authority::named("strangers").pem()));
    let of_ca = |name: &'static str| {
        let ca = ca.clone();
        move |_: &Issued| settings(ca, Vec::new(), name)
    };
    let verified =
        |years, settings: &dyn Fn(&Issued) -> UpstreamTls| verified(&authority, years, settings);
    assert_eq!(verified(VALID, &|issued| of_ca(HOST)(issued)), Ok(()));
    assert_eq!(verified((2020, 2021), &|i| of_ca(HOST)(i)), Err(TlsFailure::Expired));
    assert_eq!(verified((2150, 2200), &|i| of_ca(HOST)(i)), Err(TlsFailure::NotYetValid));
    assert_eq!(verified(VALID, &|i| of_ca("other.example")(i)), Err(TlsFailure::WrongName));
    assert_eq!(verified(VALID, &|i| of_ca("192.0.2.1")(i)), Err(TlsFailure::WrongName));
    let by_stranger = |_: &Issued| settings(foreign.clone(), Vec::new(), HOST);
    assert_eq!(verified(VALID, &by_stranger), Err(TlsFailure::UnknownIssuer));

    let pinned = |trust: &Trust, right: bool| {
        let trust = trust.clone();
        move |issued: &Issued| {
            let pins = vec![[7; 32], if right { issued.pin } else { [8; 32] }];
            settings(trust.clone(), pins, HOST)
        }
    };
    assert_eq!(verified(VALID, &pinned(&ca, true)), Ok(()));
    assert_eq!(verified(VALID, &pinned(&ca, false)), Err(TlsFailure::WrongPin));
    assert_eq!(verified(VALID, &pinned(&foreign, true)), Err(TlsFailure::UnknownIssuer));
    assert_eq!(verified((2020, 2021), &pinned(&Trust::Anybody, true)), Ok(()));
    assert_eq!(verified(VALID, &pinned(&Trust::Anybody, false)), Err(TlsFailure::WrongPin));
    let anybody = |_: &Issued| settings(Trust::Anybody, Vec::new(), "other.example");
    assert_eq!(verified((2020, 2021), &anybody), Ok(()));
}

#[test]
fn a_self_signed_certificate_is_trusted_if_it_is_listed_itself() {
    let folder = Authority::new();
    for (years, name, expected) in [
        (VALID, HOST, Ok(())),
        (VALID, "other.example", Err(TlsFailure::WrongName)),
        ((2020, 2021), HOST, Err(TlsFailure::Expired)),
        ((2150, 2200), HOST, Err(TlsFailure::NotYetValid)),
    ] {
        let issued = Authority::self_signed(years);
        let listed = Trust::File(folder.file("own.pem", &issued.cert));
        assert_eq!(verified_as(&issued, &settings(listed.clone(), Vec::new(), name)), expected);
        let another = Authority::self_signed(years);
        let refused = verified_as(&another, &settings(listed, Vec::new(), name));
        assert!(refused.is_err(), "another one of the same name");
    }
}

#[test]
fn sessions_with_an_upstream_are_resumed() {
    let authority = Authority::new();
    let ca = Trust::File(authority.file("ca.pem", &authority.pem()));
    let settings = settings(ca, Vec::new(), HOST);
    let upstream = UpstreamClient::new(&settings, &Arc::new(default_provider())).expect("usable");
    let server = server_with(&authority.issue(VALID), &[b"h2"]);
    let kinds = [(); 3].map(|()| {
        let (client, _) = connect(&upstream.config, &server).expect("agree");
        client.handshake_kind().expect("is over")
    });
    use HandshakeKind::{Full, Resumed};
    assert_eq!(kinds, [Full, Resumed, Resumed]);
}

#[test]
fn authorities_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let error = |trust, name| {
        let settings = settings(trust, Vec::new(), name);
        UpstreamClient::new(&settings, &Arc::new(default_provider())).expect_err("unusable")
    };
    let missing = Trust::File(authority.path("none").display().to_string());
    assert!(error(missing, HOST).ends_with("none: no such file"));
    let empty = Trust::File(authority.file("empty", "# nothing\n"));
    assert!(error(empty, HOST).ends_with("empty: no certificate in it, expected PEM"));
    assert!(error(Trust::Anybody, "not a name").contains("not a host name or IP address"));
}

#[test]
fn http2_has_to_be_agreed_upon_and_dot_may_be() {
    let failure = |wanted, got| check_protocol(wanted, got).map_err(|error| failure_of(&error));
    let refused = Err(IoFailure::Tls(TlsFailure::WrongProtocol));
    assert_eq!(failure(Alpn::Dot, None), Ok(()));
    assert_eq!(failure(Alpn::Dot, Some(b"dot")), Ok(()));
    assert_eq!(failure(Alpn::Dot, Some(b"h2")), refused);
    assert_eq!(failure(Alpn::Http2, Some(b"h2")), Ok(()));
    assert_eq!(failure(Alpn::Http2, None), refused);
}

#[test]
fn errors_below_tls_stay_what_they_are() {
    let reset = io::Error::from_raw_os_error(104);
    assert_eq!(failure_of(&reset), IoFailure::Reset);
    assert_eq!(failure_of(&io::ErrorKind::UnexpectedEof.into()), IoFailure::Reset);
    let garbage = rustls::Error::DecryptError;
    let garbage = io::Error::new(io::ErrorKind::InvalidData, garbage);
    assert_eq!(failure_of(&garbage), IoFailure::Tls(TlsFailure::Protocol));
}
