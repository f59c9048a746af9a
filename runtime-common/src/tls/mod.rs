//! TLS on both sides: which configuration a connection gets, and what a failure means.
//!
//! Everything is made before the first socket is bound, from the files that the configuration
//! names, so that what is wrong with them is told then. The handshakes themselves are in the
//! daemons, which know the streams of their async runtimes. TLS 1.2 and 1.3 (RFC 8446, and RFC 9325
//! on their use), ALPN (RFC 7301).

mod certificate;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use balancedns_core::config::{Alpn, Snapshot, UpstreamTls};
use balancedns_core::engine::{IoFailure, TlsFailure, Transport};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::server::ServerSessionMemoryCache;
use rustls::{AlertDescription, CertificateError, ServerConfig};

pub use certificate::{CertificateWatch, Identity};
pub use upstream::UpstreamClient;

/// Sessions of clients that know no tickets (TLS 1.2) which may be resumed, of each encrypted
/// transport.
const SESSIONS: usize = 4_096;

/// The TLS configurations of a process.
#[derive(Debug, Default)]
pub struct TlsContext {
    listen: Option<ListenTlsContext>,
    upstreams: HashMap<Arc<UpstreamTls>, UpstreamClient>,
}

#[derive(Debug)]
struct ListenTlsContext {
    identity: Arc<Identity>,
    dot: Arc<ServerConfig>,
    doh: Arc<ServerConfig>,
}

impl TlsContext {
    /// Reads all files that a configuration names.
    ///
    /// # Errors
    /// Everything that is wrong with them, a line each.
    pub fn build(snapshot: &Snapshot) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let provider = Arc::new(default_provider());
        let listen = snapshot.listen.tls.as_ref().and_then(|files| {
            let made = Identity::load(files, &provider)
                .and_then(|identity| ListenTlsContext::new(identity, &provider));
            made.map_err(|error| errors.push(error)).ok()
        });
        let mut context = Self { listen, upstreams: HashMap::new() };
        errors.extend(context.add_upstreams(snapshot, &provider));
        if errors.is_empty() { Ok(context) } else { Err(errors) }
    }

    /// The same certificate for clients, with what another configuration says of upstreams. What is
    /// known of those that stay is kept, sessions included.
    ///
    /// # Errors
    /// Everything that is wrong with what is new, a line each.
    pub fn renewed(&self, snapshot: &Snapshot) -> Result<Self, Vec<String>> {
        let listen = self.listen.as_ref().map(ListenTlsContext::share);
        let mut context = Self { listen, upstreams: self.upstreams.clone() };
        let errors = context.add_upstreams(snapshot, &Arc::new(default_provider()));
        let used: Vec<_> = snapshot.upstreams.iter().filter_map(|u| u.tls.as_ref()).collect();
        context.upstreams.retain(|settings, _| used.contains(&settings));
        if errors.is_empty() { Ok(context) } else { Err(errors) }
    }

    fn add_upstreams(
        &mut self,
        snapshot: &Snapshot,
        provider: &Arc<CryptoProvider>,
    ) -> Vec<String> {
        let mut errors = Vec::new();
        for upstream in &snapshot.upstreams {
            let Some(settings) = &upstream.tls else { continue };
            if self.upstreams.contains_key(settings) {
                continue;
            }
            match UpstreamClient::new(settings, provider) {
                Ok(client) => {
                    self.upstreams.insert(Arc::clone(settings), client);
                }
                Err(error) => errors.push(format!("upstream {:?}: {error}", upstream.name)),
            }
        }
        errors
    }

    /// What a client's handshake follows. None where there is no certificate.
    #[must_use]
    pub fn server(&self, transport: Transport) -> Option<Arc<ServerConfig>> {
        let listen = self.listen.as_ref()?;
        match transport {
            Transport::Dot => Some(Arc::clone(&listen.dot)),
            Transport::Doh => Some(Arc::clone(&listen.doh)),
            Transport::Udp | Transport::Tcp => None,
        }
    }

    /// What a handshake with an upstream of these settings follows.
    #[must_use]
    pub fn client(&self, settings: &UpstreamTls) -> Option<&UpstreamClient> {
        self.upstreams.get(settings)
    }

    /// The certificate that clients are shown, if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.listen.as_ref().map(|listen| &listen.identity)
    }
}

impl ListenTlsContext {
    fn new(identity: Identity, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let identity = Arc::new(identity);
        let dot = server_config(&identity, provider, &[Alpn::Dot.id()])?;
        let doh = server_config(&identity, provider, &[Alpn::Http2.id(), b"http/1.1"])?;
        Ok(Self { identity, dot, doh })
    }

    fn share(&self) -> Self {
        let Self { identity, dot, doh } = self;
        Self { identity: Arc::clone(identity), dot: Arc::clone(dot), doh: Arc::clone(doh) }
    }
}

/// A client that names protocols has to name one of these; one that names none is served all the
/// same (RFC 7858 section 3.1 asks for no ALPN at all).
fn server_config(
    identity: &Arc<Identity>,
    provider: &Arc<CryptoProvider>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, String> {
    let failed = |error: rustls::Error| format!("cannot set up TLS: {error}");
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let resolver = Arc::clone(identity);
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // All workers share the configuration, and so the keys of tickets.
    config.ticketer = Ticketer::new().map_err(failed)?;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(Arc::new(config))
}

/// What the other side's answer to ALPN is worth: an upstream asked for HTTP/2 has to agree to it,
/// while DNS over TLS predates its own name.
///
/// # Errors
/// Another protocol than the one that is needed.
pub fn check_protocol(wanted: Alpn, got: Option<&[u8]>) -> io::Result<()> {
    let agreed = got == Some(wanted.id()) || (wanted == Alpn::Dot && got.is_none());
    let refused = || io::Error::new(io::ErrorKind::InvalidData, WrongProtocol);
    if agreed { Ok(()) } else { Err(refused()) }
}

/// The other side speaks TLS, and nothing that we want above it.
#[derive(Debug, thiserror::Error)]
#[error("no common protocol above tls")]
struct WrongProtocol;

/// What an error of a stream means, be it of TLS or of what is below.
#[must_use]
pub fn failure_of(error: &io::Error) -> IoFailure {
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<WrongProtocol>()) {
        return IoFailure::Tls(TlsFailure::WrongProtocol);
    }
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return IoFailure::Tls(tls_failure(error));
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return IoFailure::Reset; // in the middle of a handshake, where nothing can end
    }
    IoFailure::from(error)
}

fn tls_failure(error: &rustls::Error) -> TlsFailure {
    if let rustls::Error::InvalidCertificate(error) = error {
        return certificate_failure(error);
    }
    let no_protocol = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    if *error == no_protocol || *error == rustls::Error::NoApplicationProtocol {
        return TlsFailure::WrongProtocol;
    }
    TlsFailure::Protocol
}

fn certificate_failure(error: &CertificateError) -> TlsFailure {
    use CertificateError as Error;
    if upstream::is_wrong_pin(error) {
        return TlsFailure::WrongPin;
    }
    if matches!(error, Error::Expired | Error::ExpiredContext { .. }) {
        return TlsFailure::Expired;
    }
    if matches!(error, Error::NotValidYet | Error::NotValidYetContext { .. }) {
        return TlsFailure::NotYetValid;
    }
    if matches!(error, Error::NotValidForName | Error::NotValidForNameContext { .. }) {
        return TlsFailure::WrongName;
    }
    if *error == Error::UnknownIssuer {
        return TlsFailure::UnknownIssuer;
    }
    TlsFailure::BadCertificate
}
