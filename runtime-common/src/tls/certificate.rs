//! The certificate that clients are shown: read from its files, checked, exchanged when they change.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use balancedns_core::config::ListenTls;
use balancedns_core::time::{Duration, Instant};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::{Decode, SliceReader};
use x509_cert::time::Validity;

use crate::clock::unix_now;
use crate::file_watch::FileWatch;
use crate::host::explained;

/// Before its end, a certificate is warned about.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3_600);
/// Time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3_600);

/// The certificate with its key, as long as the process runs. What is shown may be exchanged.
#[derive(Debug)]
pub struct Identity {
    files: ListenTls,
    shown: RwLock<Shown>,
}

#[derive(Debug, Clone)]
struct Shown {
    key: Arc<CertifiedKey>,
    /// Until when, since 1970 in UTC.
    expiry: Duration,
}

impl Identity {
    /// Reads the files and checks that they fit each other and the date.
    ///
    /// # Errors
    /// What is wrong with them, as a line for the operator.
    pub(super) fn load(files: &ListenTls, provider: &CryptoProvider) -> Result<Self, String> {
        let shown = load(files, provider, unix_now())?;
        Ok(Self { files: files.clone(), shown: RwLock::new(shown) })
    }

    /// When the certificate expires, since 1970 in UTC.
    #[must_use]
    pub fn expiry(&self) -> Duration {
        self.shown().expiry
    }

    fn shown(&self) -> Shown {
        // Written as a whole: nothing is left half-changed.
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows clients what the files hold now, from their next handshake on.
    pub(super) fn renew(&self) -> Result<(), String> {
        let shown = load(&self.files, &default_provider(), unix_now())?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    fn files(&self) -> Vec<String> {
        vec![self.files.cert_file.clone(), self.files.key_file.clone()]
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown().key)
    }
}

fn load(files: &ListenTls, provider: &CryptoProvider, now: Duration) -> Result<Shown, String> {
    let ListenTls { cert_file, key_file } = files;
    let of_cert = |why: String| format!("listen.tls_cert_file {cert_file}: {why}");
    let of_key = |why: String| format!("listen.tls_key_file {key_file}: {why}");
    let chain = CertificateDer::pem_file_iter(Path::new(cert_file))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| of_cert(pem_explained(&error)))?;
    let Some(first) = chain.first() else {
        return Err(of_cert("no certificate in it, expected a chain in PEM".to_owned()));
    };
    let expiry = validity(first, now).map_err(of_cert)?;
    let key = PrivateKeyDer::from_pem_file(Path::new(key_file))
        .map_err(|error| of_key(key_explained(&error)))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| of_key(format!("not a usable private key: {error}")))?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match()
        .map_err(|_| of_key(format!("not the key of the first certificate in {cert_file}")))?;
    Ok(Shown { key: Arc::new(key), expiry })
}

/// When a certificate that is valid now expires.
fn validity(certificate: &CertificateDer<'_>, now: Duration) -> Result<Duration, String> {
    let validity = validity_of(certificate)?;
    let (from, to) = (validity.not_before, validity.not_after);
    if to.to_unix_duration() < now {
        return Err(format!("the certificate has expired at {to}"));
    }
    if from.to_unix_duration() > now {
        return Err(format!("the certificate is not valid before {from}"));
    }
    Ok(to.to_unix_duration())
}

/// From when until when a certificate is valid.
pub(super) fn validity_of(certificate: &CertificateDer<'_>) -> Result<Validity, String> {
    // Whatever follows the certificate in its PEM block is no concern of the date.
    let parsed =
        SliceReader::new(certificate).and_then(|mut reader| Certificate::decode(&mut reader));
    let parsed = parsed.map_err(|error| format!("not a certificate: {error}"))?;
    Ok(*parsed.tbs_certificate().validity())
}

/// Why a file yields no PEM, in words for the operator.
pub(super) fn pem_explained(error: &pem::Error) -> String {
    if let pem::Error::Io(error) = error {
        return explained(error);
    }
    format!("not PEM: {error}")
}

fn key_explained(error: &pem::Error) -> String {
    if matches!(error, pem::Error::NoItemsFound) {
        return "no private key in it, expected one in PEM without a password".to_owned();
    }
    pem_explained(error)
}

/// Watches the files of the certificate for one that is to be shown instead, and its date.
#[derive(Debug)]
pub struct CertificateWatch {
    identity: Arc<Identity>,
    /// Certificate and key are two files, which nobody can exchange in one step.
    files: FileWatch,
    warn_at: Instant,
}

impl CertificateWatch {
    /// Watches from now on what has just been read.
    #[must_use]
    pub fn new(identity: Arc<Identity>, now: Instant) -> Self {
        let files = FileWatch::new(identity.files(), now);
        Self { identity, files, warn_at: now }
    }

    /// When to [look](Self::look) again.
    #[must_use]
    pub fn next_look(&self) -> Instant {
        self.files.next_look().min(self.warn_at)
    }

    /// Looks, if it is time to, and tells the operator what has come of it.
    pub fn look(&mut self, now: Instant) {
        if self.files.has_changed(now) {
            self.renew(now);
        }
        if now >= self.warn_at {
            self.warn_at = now + WARN_EVERY;
            self.warn_of_expiry(unix_now());
        }
    }

    fn renew(&mut self, now: Instant) {
        match self.identity.renew() {
            Ok(()) => {
                self.warn_at = now;
                tracing::info!(
                    event = "certificate_renewed",
                    "{}: shown to clients from now on",
                    self.identity.files.cert_file
                );
            }
            Err(error) => tracing::warn!(
                event = "certificate_kept",
                "{error}; the certificate read before stays in use"
            ),
        }
    }

    fn warn_of_expiry(&self, unix_now: Duration) {
        let left = self.identity.expiry().saturating_sub(unix_now);
        if left <= WARN_BEFORE {
            let days = left.as_secs() / (24 * 3_600);
            tracing::warn!(
                event = "certificate_expires",
                "listen.tls_cert_file {}: the certificate expires in {days} days",
                self.identity.files.cert_file
            );
        }
    }
}
