//! TLS towards upstreams: whom to trust, and which public keys (RFC 7858 section 4.2, RFC 8310).

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use balancedns_core::config::{Trust, UpstreamTls};
use balancedns_core::time::Duration;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use super::certificate::{pem_explained, validity_of};

/// Tickets kept for new sessions with the addresses of one upstream: a few for each connection of
/// each worker.
const SESSIONS: usize = 64;

/// How connections to one upstream are protected. Clones share the sessions.
#[derive(Debug, Clone)]
pub struct UpstreamClient {
    /// What a handshake follows. Each has sessions of its own: one that was begun under another's
    /// rules must not be resumed.
    pub config: Arc<ClientConfig>,
    /// Sent if it is a name, and what the certificate has to be for.
    pub name: ServerName<'static>,
}

impl UpstreamClient {
    /// Reads whom to trust.
    ///
    /// # Errors
    /// What is wrong with it, as a line for the operator.
    pub(super) fn new(
        settings: &UpstreamTls,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let name = ServerName::try_from(settings.server_name.clone()).map_err(|_| {
            format!("tls_server_name {:?}: not a host name or IP address", settings.server_name)
        })?;
        let verifier = UpstreamVerifier {
            trusted: Trusted::new(&settings.trust, provider)?,
            pins: settings.pins.clone(),
            provider: Arc::clone(provider),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot set up TLS: {error}"))?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![settings.alpn.id().to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { config: Arc::new(config), name })
    }
}

/// Who may have signed a certificate.
#[derive(Debug)]
struct Trusted {
    issuers: Arc<WebPkiServerVerifier>,
    /// Certificates that the operator has listed: one of them may be the server's own.
    listed: Vec<CertificateDer<'static>>,
}

impl Trusted {
    /// None: anybody may.
    fn new(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Option<Self>, String> {
        let (roots, listed) = match trust {
            Trust::System => (system_roots()?, Vec::new()),
            Trust::File(path) => roots_of_file(path)?,
            Trust::Anybody => return Ok(None),
        };
        let provider = Arc::clone(provider);
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map(|issuers| Some(Self { issuers, listed }))
            .map_err(|error| format!("cannot set up TLS: {error}"))
    }

    /// A server's own certificate that signs itself is what `openssl req -x509` makes: an authority,
    /// which is not taken for a server's. Listed by the operator it is trusted nevertheless, for its
    /// name and as long as it is valid.
    fn check_listed(
        &self,
        certificate: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
        now: UnixTime,
        refused: rustls::Error,
    ) -> Result<(), rustls::Error> {
        let is_other =
            matches!(refused, rustls::Error::InvalidCertificate(CertificateError::Other(_)));
        if !is_other || !self.listed.contains(certificate) {
            return Err(refused);
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
        let validity = validity_of(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let now = Duration::from_secs(now.as_secs());
        if now > validity.not_after.to_unix_duration() {
            return Err(CertificateError::Expired.into());
        }
        if now < validity.not_before.to_unix_duration() {
            return Err(CertificateError::NotValidYet.into());
        }
        Ok(())
    }
}

/// Those of `SSL_CERT_FILE` and `SSL_CERT_DIR` where they are set, else where distributions keep
/// them. Some of many may be of a kind that is not understood.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    Err(format!(
        "this system has no trusted certificate authorities{why}; install ca-certificates, or set \
         SSL_CERT_FILE or tls_ca_file"
    ))
}

fn roots_of_file(path: &str) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let failed = |why: String| format!("tls_ca_file {path}: {why}");
    let certificates = CertificateDer::pem_file_iter(Path::new(path))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(pem_explained(&error)))?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| failed(format!("unusable: {error}")))?;
    }
    if roots.is_empty() {
        return Err(failed("no certificate in it, expected PEM".to_owned()));
    }
    Ok((roots, certificates))
}

/// Whether a certificate was refused for its key.
pub(super) fn is_wrong_pin(error: &CertificateError) -> bool {
    // Errors of others are compared by their identity, so by type here.
    matches!(error, CertificateError::Other(OtherError(other)) if other.is::<WrongPin>())
}

/// A certificate's public key is none of those that are pinned.
#[derive(Debug, thiserror::Error)]
#[error("the public key is none of those in tls_pin_sha256")]
struct WrongPin;

/// Checks an upstream's certificate: its issuer unless anybody will do, then its key if there are
/// pins.
#[derive(Debug)]
struct UpstreamVerifier {
    trusted: Option<Trusted>,
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl UpstreamVerifier {
    fn check_pins(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if self.pins.is_empty() {
            return Ok(());
        }
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let hash = digest::digest(&digest::SHA256, key.as_ref());
        if self.pins.iter().any(|pin| pin == hash.as_ref()) {
            return Ok(());
        }
        Err(CertificateError::Other(OtherError(Arc::new(WrongPin))).into())
    }
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trusted) = &self.trusted {
            trusted
                .issuers
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map(drop)
                .or_else(|refused| trusted.check_listed(end_entity, server_name, now, refused))?;
        }
        self.check_pins(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
