//! Fetches lists over HTTPS: bounded in time, in size and in redirections, and only what has changed.

use std::net::SocketAddr;
use std::sync::Arc;

use balancedns_core::limits::LIST_OCTETS;
use balancedns_core::time::Duration;
use http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, StatusCode, Uri};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use ureq::config::Config;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use super::lookup;
use super::store::Version;

/// To look the host up, and to connect to it, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// From the request to the head of the response.
const RESPOND: Duration = Duration::from_secs(30);
/// A whole fetch, redirections included.
const WHOLE: Duration = Duration::from_secs(300);
/// Redirections that are followed.
const REDIRECTS: u32 = 5;
/// Octets of a server's word for a version that is kept.
const WORD_OCTETS: usize = 1_024;
/// Addresses of a host that are tried: no more fit into what the client library takes.
const ADDRESSES: usize = 16;

/// Fetches lists.
#[derive(Debug)]
pub(super) struct Fetcher {
    /// One that never leaves HTTPS, and one that may.
    secure: Agent,
    plain: Agent,
}

/// What a server had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// What we have already.
    Unchanged,
    /// This.
    Content {
        /// The list.
        octets: Vec<u8>,
        /// Which one it is.
        version: Version,
    },
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The server has answered something else.
    #[error("the server answers {0}")]
    Status(StatusCode),
    /// No list is as large.
    #[error("it has more than {LIST_OCTETS} octets")]
    TooLarge,
    /// The server leads to where nobody may listen in.
    #[error("it is redirected to {0}, which is not https")]
    Insecure(String),
    /// No name server has an address.
    #[error("no address of the server is known")]
    NoAddress,
    /// Anything else.
    #[error("{0}")]
    Other(Error),
}

impl From<Error> for FetchError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what else there is speaks for itself")]
    fn from(error: Error) -> Self {
        match error {
            Error::BodyExceedsLimit(_) => Self::TooLarge,
            Error::RequireHttpsOnly(url) => Self::Insecure(url),
            Error::HostNotFound => Self::NoAddress,
            other => Self::Other(other),
        }
    }
}

impl Fetcher {
    /// One that looks hosts up at these servers, and trusts whom the system trusts now.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self::trusting(&rustls_native_certs::load_native_certs().certs, servers)
    }

    fn trusting(authorities: &[CertificateDer<'_>], servers: Vec<SocketAddr>) -> Self {
        let roots = authorities.iter().map(|der| Certificate::from_der(der).to_owned());
        let roots = RootCerts::Specific(Arc::new(roots.collect()));
        let lookup = Lookup { servers: servers.into() };
        let agent = |https_only| {
            let config = config(https_only, roots.clone());
            Agent::with_parts(config, DefaultConnector::default(), lookup.clone())
        };
        Self { secure: agent(true), plain: agent(false) }
    }

    /// What a URL has, unless it is what we have.
    ///
    /// # Errors
    /// It has no list, or cannot be reached.
    pub(super) fn fetch(&self, url: &str, known: Option<&Version>) -> Result<Fetched, FetchError> {
        let agent = if is_secure(url) { &self.secure } else { &self.plain };
        let mut request = agent.get(url);
        let version = known.cloned().unwrap_or_default();
        if let Some(etag) = &version.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        if let Some(date) = &version.last_modified {
            request = request.header(IF_MODIFIED_SINCE, date);
        }
        let is_conditional = version != Version::default();
        let mut response = request.call()?;
        match response.status() {
            StatusCode::OK => {
                let version = version_in(response.headers());
                let octets = response.body_mut().with_config().limit(LIST_OCTETS).read_to_vec()?;
                Ok(Fetched::Content { octets, version })
            }
            StatusCode::NOT_MODIFIED if is_conditional => Ok(Fetched::Unchanged),
            other => Err(FetchError::Status(other)),
        }
    }
}

fn is_secure(url: &str) -> bool {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("https")
}

fn config(https_only: bool, roots: RootCerts) -> Config {
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
        .root_certs(roots)
        .build();
    Agent::config_builder()
        .https_only(https_only)
        .http_status_as_error(false)
        .max_redirects(REDIRECTS)
        .proxy(None) // a resolver must not depend on how a shell is set up
        .tls_config(tls)
        .user_agent(concat!("balancedns/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(RESPOND))
        .timeout_global(Some(WHOLE))
        .build()
}

fn version_in(headers: &HeaderMap) -> Version {
    let word = |name: HeaderName| {
        let word = headers.get(name)?.to_str().ok()?;
        (word.len() <= WORD_OCTETS).then(|| word.to_owned())
    };
    Version { etag: word(ETAG), last_modified: word(LAST_MODIFIED) }
}

/// Looks hosts up.
#[derive(Debug, Clone)]
struct Lookup {
    servers: Arc<[SocketAddr]>,
}

impl Resolver for Lookup {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default);
        let mut found = self.empty();
        for ip in lookup::addresses_of(host, &self.servers).into_iter().take(ADDRESSES) {
            found.push(SocketAddr::new(ip, port));
        }
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::{Reply, Server, name_server, record, response};
    use super::*;
    use crate::tls::fixture::{Authority, VALID};

    const TEXT: &[u8] = b"one.example\ntwo.example\n";

    fn content(fetched: Result<Fetched, FetchError>) -> (Vec<u8>, Version) {
        match fetched.expect("a list") {
            Fetched::Content { octets, version } => (octets, version),
            Fetched::Unchanged => panic!("nothing was known"),
        }
    }

    fn plain() -> Fetcher {
        Fetcher::trusting(&[], Vec::new())
    }

    #[test]
    fn a_list_comes_once_and_then_only_if_it_has_changed() {
        let server = Server::start(|request| {
            let date = "Mon, 23 Nov 2026 10:00:00 GMT";
            if request.contains("if-none-match: \"v1\"") && request.contains(date) {
                return response(304, "", b"");
            }
            let head = format!("ETag: \"v1\"\r\nLast-Modified: {date}\r\n");
            response(200, &head, TEXT)
        });
        let (fetcher, url) = (plain(), server.url("/ads.txt"));
        let (octets, version) = content(fetcher.fetch(&url, None));
        assert_eq!(octets, TEXT);
        assert_eq!(version.etag.as_deref(), Some("\"v1\""));
        let again = fetcher.fetch(&url, Some(&version)).expect("an answer");
        assert_eq!(again, Fetched::Unchanged);
        let requests = server.requests();
        assert!(requests[0].starts_with("GET /ads.txt HTTP/1.1"), "{requests:?}");
        assert!(!requests[0].contains("if-none-match"), "{requests:?}");
        assert!(requests[0].contains("user-agent: balancedns/"), "{requests:?}");
    }

    #[test]
    fn everything_but_a_list_is_an_error() {
        for status in [204, 304, 403, 404, 500, 503] {
            let server = Server::start(move |_| response(status, "", b""));
            let error = plain().fetch(&server.url("/"), None).expect_err("no list").to_string();
            assert!(error.contains(&status.to_string()), "{error}");
        }
        let cut_off = Server::start(|_| {
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\none.example\n".to_vec()
        });
        assert!(plain().fetch(&cut_off.url("/"), None).is_err());
        let gone = cut_off.url("/");
        drop(cut_off);
        let error = plain().fetch(&gone, None).expect_err("nobody").to_string();
        assert!(error.contains("refused"), "{error}");
        let error = plain().fetch("http://lists.example/", None).expect_err("no server knows it");
        assert!(matches!(error, FetchError::NoAddress), "{error}");
    }

    #[test]
    fn compressed_lists_are_unpacked_and_bounded() {
        let server = Server::start(|_| response(200, "Content-Encoding: gzip\r\n", &gzip(TEXT)));
        assert_eq!(content(plain().fetch(&server.url("/"), None)).0, TEXT);
        assert!(server.requests()[0].contains("accept-encoding: gzip"));
        let damaged = Server::start(|_| {
            let mut octets = gzip(TEXT);
            octets[20] ^= 1;
            response(200, "Content-Encoding: gzip\r\n", &octets)
        });
        assert!(plain().fetch(&damaged.url("/"), None).is_err());
        let octets = usize::try_from(LIST_OCTETS).expect("fits");
        let large = Server::start(move |_| response(200, "", &vec![b'a'; octets + 1]));
        let error = plain().fetch(&large.url("/"), None).expect_err("too large");
        assert!(matches!(error, FetchError::TooLarge), "{error}");
    }

    #[test]
    fn redirections_are_followed_for_a_while() {
        let server = Server::start(|request| match request.split(' ').nth(1) {
            Some("/") => response(302, "Location: /list\r\n", b""),
            Some("/list") => response(200, "", TEXT),
            _ => response(301, "Location: /round\r\n", b""),
        });
        assert_eq!(content(plain().fetch(&server.url("/"), None)).0, TEXT);
        let before = server.requests().len();
        assert!(plain().fetch(&server.url("/round"), None).is_err());
        assert!(server.requests().len() - before <= 7, "{:?}", server.requests());
    }

    #[test]
    fn https_is_checked_and_never_left() {
        let authority = Authority::new();
        let issued = authority.issue(VALID);
        let plain = Server::start(|_| response(200, "", TEXT));
        let leads_to = plain.url("/");
        let server = Server::secure(&issued, move |request| match request.split(' ').nth(1) {
            Some("/list") => response(200, "", TEXT),
            _ => response(302, &format!("Location: {leads_to}\r\n"), b""),
        });
        let answers = [Reply::Now(0, record(1, &[127, 0, 0, 1])), Reply::Now(0, Vec::new())];
        let names = name_server([answers.as_slice(); 3].concat());
        let trusting = Fetcher::trusting(&[authority.der()], vec![names]);
        assert_eq!(content(trusting.fetch(&server.url("/list"), None)).0, TEXT);
        let error = trusting.fetch(&server.url("/elsewhere"), None).expect_err("insecure");
        assert!(matches!(error, FetchError::Insecure(_)), "{error}");
        assert!(plain.requests().is_empty());
        let stranger = Fetcher::trusting(&[Authority::named("others").der()], vec![names]);
        let error = stranger.fetch(&server.url("/list"), None).expect_err("unknown issuer");
        assert!(error.to_string().contains("certificate"), "{error}");
    }

    /// One stored block (RFC 1951 section 3.2.4) in a gzip member (RFC 1952 section 2.3).
    fn gzip(octets: &[u8]) -> Vec<u8> {
        let count = u16::try_from(octets.len()).expect("one block");
        let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
        packed.extend(count.to_le_bytes());
        packed.extend((!count).to_le_bytes());
        packed.extend(octets);
        packed.extend(crc32(octets).to_le_bytes());
        packed.extend(u32::from(count).to_le_bytes());
        packed
    }

    fn crc32(octets: &[u8]) -> u32 {
        !octets.iter().fold(u32::MAX, |crc, octet| {
            (0..8).fold(crc ^ u32::from(*octet), |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
            })
        })
    }
}
