//! For tests: an authority, certificates of all kinds, and their files.

use std::path::PathBuf;
use std::sync::Arc;

use balancedns_core::config::ListenTls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// The host of every certificate.
pub(crate) const HOST: &str = "dns.example";

/// Signs certificates, and has a folder for them.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, in PEM.
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
    /// SHA-256 of its public key.
    pub(crate) pin: [u8; 32],
}

/// Years of validity, first and last.
pub(crate) type Years = (i32, i32);
pub(crate) const VALID: Years = (2020, 2200);

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("us")
    }

    /// One of two has to have another name: issuers are looked up by it.
    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("generates");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("signs");
        Self { issuer, folder: tempfile::tempdir().expect("creates") }
    }

    /// What `openssl req -x509` makes: signed by itself, and an authority.
    pub(crate) fn self_signed((from, to): Years) -> Issued {
        let mut params = CertificateParams::new([HOST.to_owned()]).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().expect("generates");
        let cert = params.self_signed(&key).expect("signs").pem();
        let pin = digest(&rcgen::PublicKeyData::subject_public_key_info(&key));
        Issued { cert, key: key.serialize_pem(), pin }
    }

    pub(crate) fn issue(&self, (from, to): Years) -> Issued {
        let mut params = CertificateParams::new([HOST.to_owned()]).expect("valid");
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().expect("generates");
        let cert = params.signed_by(&key, &self.issuer).expect("signs").pem();
        let pin = digest(&rcgen::PublicKeyData::subject_public_key_info(&key));
        Issued { cert, key: key.serialize_pem(), pin }
    }

    /// The authority's own certificate, in DER.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// The authority's own certificate.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes a file.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).expect("writes");
        self.path(name).display().to_string()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes both files of a certificate.
    pub(crate) fn files(&self, cert: &str, key: &str) -> ListenTls {
        let (cert_file, key_file) = (self.file("cert.pem", cert), self.file("key.pem", key));
        ListenTls { cert_file, key_file }
    }
}

/// A certificate in DER.
pub(crate) fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.cert.as_bytes()).expect("valid")
}

/// A server of any certificate.
pub(crate) fn server_with(issued: &Issued, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("valid");
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("valid");
    let builder = builder.with_no_client_auth();
    let mut config = builder.with_single_cert(vec![der(issued)], key).expect("valid");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

fn digest(octets: &[u8]) -> [u8; 32] {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets);
    hash.as_ref().try_into().expect("32 octets")
}
