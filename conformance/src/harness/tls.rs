//! Certificates made at run time, and the TLS settings of clients and of upstream servers.
//!
//! One authority serves the whole run. Clients trust it and nobody else, so that every DoT and DoH
//! case also shows that the daemon gives the certificate that it was told to give.

use std::io;
use std::net::TcpStream;
use std::sync::{Arc, LazyLock};

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, date_time_ymd,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion,
};

use super::PATIENCE;

/// The name that certificates are for, beside 127.0.0.1.
pub(crate) const SERVER_NAME: &str = "dns.test";

/// Every TLS version there is.
pub(crate) const ALL_VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS12, &rustls::version::TLS13];

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// In PEM.
    pub(crate) certificate: String,
    /// In PEM.
    pub(crate) key: String,
    certificate_der: CertificateDer<'static>,
    key_der: Vec<u8>,
    public_key: Vec<u8>,
}

/// What may be wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    Expired,
    NotYetValid,
    /// It is for another name and another address.
    OtherName,
    /// It has signed itself.
    SelfSigned,
    /// It ends in some days.
    EndsSoon,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// The authority of this run.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "Authority of the tests");
    let certificate = params.self_signed(&key).expect("an authority signs itself");
    Authority { issuer: Issuer::new(params, key), certificate }
});

/// The authority's certificate, in PEM.
pub(crate) fn authority_pem() -> String {
    AUTHORITY.certificate.pem()
}

impl Identity {
    /// What a server of the tests usually shows: for [`SERVER_NAME`] and 127.0.0.1, by our
    /// authority.
    pub(crate) fn usual() -> &'static Self {
        static USUAL: LazyLock<Identity> = LazyLock::new(|| Identity::new(Flaw::None));
        &USUAL
    }

    /// A new one, with a key of its own.
    pub(crate) fn new(flaw: Flaw) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let names = match flaw {
            Flaw::OtherName => ["other.test".to_owned(), "192.0.2.200".to_owned()],
            Flaw::None | Flaw::Expired | Flaw::NotYetValid | Flaw::SelfSigned | Flaw::EndsSoon => {
                [SERVER_NAME.to_owned(), "127.0.0.1".to_owned()]
            }
        };
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params.distinguished_name.push(DnType::CommonName, "Server of the tests");
        match flaw {
            Flaw::None | Flaw::OtherName | Flaw::SelfSigned => {}
            Flaw::Expired => params.not_after = date_time_ymd(2020, 1, 1),
            Flaw::NotYetValid => params.not_before = date_time_ymd(4000, 1, 1),
            Flaw::EndsSoon => {
                let now = std::time::SystemTime::now();
                params.not_after = (now + std::time::Duration::from_secs(3 * 86_400)).into();
            }
        }
        let certificate = match flaw {
            Flaw::SelfSigned => params.self_signed(&key),
            Flaw::None | Flaw::Expired | Flaw::NotYetValid | Flaw::OtherName | Flaw::EndsSoon => {
                params.signed_by(&key, &AUTHORITY.issuer)
            }
        }
        .expect("a certificate can be signed");
        Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            certificate_der: certificate.der().clone(),
            key_der: key.serialize_der(),
            public_key: key.subject_public_key_info(),
        }
    }

    /// The certificate in DER.
    pub(crate) fn der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// SHA-256 of its SubjectPublicKeyInfo in base64, as it is pinned.
    pub(crate) fn pin(&self) -> String {
        let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13();
        let sha256 = suite.expect("a suite of TLS 1.3").common.hash_provider;
        BASE64.encode(sha256.hash(&self.public_key).as_ref())
    }

    /// The settings of a server that shows it.
    pub(crate) fn server(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(self.key_der.clone().into());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("the provider knows all versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate_der.clone()], key)
            .expect("key and certificate belong together");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// The settings of a client that trusts our authority. Whoever uses them twice may resume a session.
pub(crate) fn client_config(
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(AUTHORITY.certificate.der().clone()).expect("the authority's certificate is sound");
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("the provider knows all versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The name under which clients ask for the daemon.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a valid name")
}

/// A handshake as a client, within the patience of a test.
pub(crate) fn handshake(
    socket: &mut TcpStream,
    config: &Arc<ClientConfig>,
) -> io::Result<ClientConnection> {
    let mut tls =
        ClientConnection::new(Arc::clone(config), server_name()).map_err(io::Error::other)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    while tls.is_handshaking() {
        tls.complete_io(socket)?;
    }
    Ok(tls)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_differ_by_key() {
        assert_ne!(Identity::usual().pin(), Identity::new(Flaw::None).pin());
    }
}
