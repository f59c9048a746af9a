//! Keys of upstreams that are asked over TLS: whom to expect there, and what to request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use data_encoding::BASE64;
use http::Uri;

use super::super::reader::{Item, Section};
use super::super::snapshot::{Alpn, DohTarget, Trust, UpstreamProtocol, UpstreamTls};
use super::super::vm::resolve;
use super::address::{self, Host};
use crate::wire::Name;

/// Where HTTPS is served unless a URL says otherwise (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;
/// The key of the URL.
pub(super) const DOH_URL: &str = "doh_url";
/// What is expected of it.
const HTTPS_URL: &str = "an https url";
/// What is expected of a name that a certificate is for.
const CERTIFIED: &str = "a host name or an ip address";
/// Characters of 32 octets in base64.
const PIN_CHARS: usize = 44;
/// Octets of the longest host name, without a dot at its end (RFC 1035 section 2.3.4).
const HOST_NAME_OCTETS: usize = 253;
/// Octets of the longest label (RFC 1035 section 2.3.4).
const LABEL_OCTETS: usize = 63;

/// A host as it is reached, and as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) host: Host,
    pub(super) text: String,
}

/// A URL of DNS over HTTPS, taken apart.
#[derive(Debug)]
pub(super) struct DohUrl {
    pub(super) host: Written,
    pub(super) port: u16,
    pub(super) target: DohTarget,
}

/// Reads `doh_url`, which doh needs and nothing else uses.
pub(super) fn doh_url<'v>(
    section: &mut Section<'v>,
    protocol: UpstreamProtocol,
) -> Option<(Item<'v>, DohUrl)> {
    let is_used = protocol == UpstreamProtocol::Doh;
    let item = if is_used {
        section.required(DOH_URL, HTTPS_URL)?
    } else {
        section.item(DOH_URL).filter(|item| !item.is_off())?
    };
    match split_url(item.word(HTTPS_URL)?) {
        Err(wrong) => item.wrong_because(wrong, HTTPS_URL),
        Ok(_) if !is_used => {
            item.warning(&format!("has no effect on protocol {}", protocol.name()));
            None
        }
        Ok(url) => Some((item, url)),
    }
}

/// Takes a URL apart; the error says what is wrong with it.
pub(super) fn split_url(text: &str) -> Result<DohUrl, &'static str> {
    // A template (RFC 6570) has braces: what it leaves out is for GET, and we send POST.
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}\"<>\\^`|".contains(&byte));
    let uri: Uri = text.parse().ok().filter(|_| plain).ok_or("is wrong")?;
    if !uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        return Err("is wrong");
    }
    if text.contains('#') {
        return Err("has a fragment");
    }
    let authority = uri.authority().ok_or("is wrong")?;
    if authority.as_str().contains('@') {
        return Err("has a user name");
    }
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host) {
        Some("") => HTTPS_PORT,
        Some(_) | None => authority.port_u16().filter(|port| *port != 0).ok_or("has a bad port")?,
    };
    if host.is_empty() || host.contains('%') {
        return Err("has a bad host");
    }
    let (address, _) = address::host_port(&format!("{host}:{port}"))?;
    let written = Written { host: address, text: host.to_owned() };
    certified_name(&written).ok_or("has a bad host")?;
    let path = match uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
        None | Some("") => "/".to_owned(),
        Some(query) if query.starts_with('?') => format!("/{query}"),
        Some(path) => path.to_owned(),
    };
    let authority = if port == HTTPS_PORT { host.to_owned() } else { format!("{host}:{port}") };
    Ok(DohUrl { host: written, port, target: DohTarget { authority, path } })
}

/// What a host's certificate is for, by default: its address or its name. None if no certificate can
/// be for such a name.
fn certified_name(written: &Written) -> Option<String> {
    match &written.host {
        Host::Any => None,
        // It has an address of its own here, but it is a name.
        Host::Literal(_) if written.text.eq_ignore_ascii_case("localhost") => {
            Some("localhost".to_owned())
        }
        Host::Literal(addr) => Some(addr.ip().to_string()),
        Host::Name(name) => host_name(name),
    }
}

/// A name as certificates have it, if one can be for it.
pub(super) fn host_name(name: &Name) -> Option<String> {
    let text = name.to_string();
    is_host_name(&text).then(|| text.trim_end_matches('.').to_owned())
}

/// Whether a text is a name that a certificate can be for (RFC 5280 section 4.2.1.6, with the
/// underscore that is in use): ASCII letters, digits and hyphens, and not only digits at its end.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=LABEL_OCTETS).contains(&label.len())
            && label.bytes().all(known)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.len() <= HOST_NAME_OCTETS
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads the keys about certificates. They may be left over when an upstream is switched to udp.
pub(super) fn tls(
    section: &mut Section<'_>,
    protocol: UpstreamProtocol,
    upstream: &str,
    host: Option<&Written>,
    folder: &str,
) -> Option<Arc<UpstreamTls>> {
    let name = section.item("tls_server_name").filter(|item| !item.is_off());
    let skip = section.item("tls_insecure_skip_verify");
    let ca_file = section.item("tls_ca_file").filter(|item| !item.is_off());
    let pins = section.item("tls_pin_sha256").filter(|item| !item.is_off());
    let configured = name.as_ref().map(server_name);
    let skips = skip.as_ref().and_then(Item::boolean) == Some(true);
    let trusted = ca_file.as_ref().and_then(|item| item.word("the path of a file"));
    let digests = pins.as_ref().map(pinned).unwrap_or_default();
    let alpn = match protocol {
        UpstreamProtocol::Dot => Alpn::Dot,
        UpstreamProtocol::Doh => Alpn::Http2,
        UpstreamProtocol::Udp | UpstreamProtocol::Tcp => {
            let no_effect = format!("has no effect on protocol {}", protocol.name());
            let given = [name, skip.filter(|_| skips), ca_file, pins];
            given.iter().flatten().for_each(|item| item.warning(&no_effect));
            return None;
        }
    };
    if let Some(item) = skip.filter(|_| skips) {
        let rest = if digests.is_empty() { "the certificate" } else { "more than the pinned keys" };
        item.warning(&format!("means that nobody verifies {rest} of upstream {upstream:?}"));
        if let Some(item) = ca_file {
            item.warning("has no effect with tls_insecure_skip_verify");
        }
    }
    let trust = match trusted {
        _ if skips => Trust::Anybody,
        Some(path) => Trust::File(resolve(folder, path)),
        None => Trust::System,
    };
    let server_name = configured.unwrap_or_else(|| {
        let server_name = certified_name(host?);
        if server_name.is_none() {
            let message = "is missing: no certificate is for the upstream's name".to_owned();
            section.error("tls_server_name", message, CERTIFIED);
        }
        server_name
    });
    let server_name = server_name.unwrap_or_default();
    Some(Arc::new(UpstreamTls { alpn, server_name, trust, pins: digests }))
}

/// Reads `tls_server_name`.
fn server_name(item: &Item<'_>) -> Option<String> {
    let text = item.word(CERTIFIED)?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_string());
    }
    let name = Name::parse(text).ok().and_then(|name| host_name(&name));
    name.or_else(|| item.wrong(CERTIFIED))
}

/// Reads `tls_pin_sha256`: digests as RFC 7858 section 4.2 (after RFC 7469) writes them.
fn pinned(item: &Item<'_>) -> Vec<[u8; 32]> {
    const EXPECTED: &str = "the sha-256 of a public key in base64: 44 characters";
    let mut pins = Vec::new();
    for entry in item.list("pins") {
        let Some(text) = entry.word(EXPECTED) else {
            continue;
        };
        // The digits of a pin may themselves begin like the prefix.
        let rest = text.strip_prefix("sha256/").filter(|rest| rest.len() == PIN_CHARS);
        let digits = rest.unwrap_or(text);
        let octets = BASE64.decode(digits.as_bytes()).ok();
        match octets.and_then(|octets| <[u8; 32]>::try_from(octets).ok()) {
            None => entry.error("is no pin", EXPECTED),
            Some(pin) if pins.contains(&pin) => entry.warning("is listed twice"),
            Some(pin) => pins.push(pin),
        }
    }
    pins
}

/// Reads `source_addr`, which must suit an upstream's address.
pub(super) fn source(section: &mut Section<'_>, remote: Option<SocketAddr>) -> Option<IpAddr> {
    const EXPECTED: &str = "an ip address";
    let item = section.item("source_addr").filter(|item| !item.is_off())?;
    let text = item.word(EXPECTED)?;
    let Ok(ip) = text.parse::<IpAddr>() else {
        return item.wrong(EXPECTED);
    };
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() {
        return item.wrong_because("is no address of one machine", "an ip address of this machine");
    }
    if remote.is_some_and(|remote| remote.is_ipv4() != ip.is_ipv4()) {
        let family = if ip.is_ipv4() { "an ipv6" } else { "an ipv4" };
        let expected = format!("{family} address, as the upstream's is");
        return item.wrong_because("is of another family than the upstream's address", &expected);
    }
    Some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<(u16, String, String, String), &'static str> {
        let DohUrl { host, port, target } = split_url(text)?;
        let server_name = certified_name(&host).expect("it was checked");
        Ok((port, server_name, target.authority, target.path))
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, port, name, authority, path) in [
            ("https://dns.example/dns-query", 443, "dns.example", "dns.example", "/dns-query"),
            ("HTTPS://dns.example", 443, "dns.example", "dns.example", "/"),
            ("https://dns.example:443/", 443, "dns.example", "dns.example", "/"),
            (
                "https://dns.example.:8443/a/b?c=d",
                8443,
                "dns.example",
                "dns.example.:8443",
                "/a/b?c=d",
            ),
            ("https://dns.example?c", 443, "dns.example", "dns.example", "/?c"),
            ("https://192.0.2.1/q", 443, "192.0.2.1", "192.0.2.1", "/q"),
            ("https://[2001:DB8::1]:444/q", 444, "2001:db8::1", "[2001:DB8::1]:444", "/q"),
            ("https://localhost:1/%7e", 1, "localhost", "localhost:1", "/%7e"),
        ] {
            let expected = (port, name.to_owned(), authority.to_owned(), path.to_owned());
            assert_eq!(split(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn urls_that_are_none() {
        for (text, wrong) in [
            ("", "is wrong"),
            ("dns.example", "is wrong"),
            ("dns.example/q", "is wrong"),
            ("/q", "is wrong"),
            ("http://dns.example/q", "is wrong"),
            ("https:///q", "is wrong"),
            ("https://", "is wrong"),
            ("https://dns.example/a b", "is wrong"),
            ("https://dns.example/q{?dns}", "is wrong"),
            ("https://dns.example/caf\u{e9}", "is wrong"),
            ("https://dns.example/q#f", "has a fragment"),
            ("https://me@dns.example/q", "has a user name"),
            ("https://dns.example:/q", "has a bad port"),
            ("https://dns.example:0/q", "has a bad port"),
            ("https://dns.example:65536/q", "has a bad port"),
            ("https://dns..example/q", "has a bad host"),
            ("https://-dns.example/q", "has a bad host"),
            ("https://192.0.2/q", "has a bad host"),
            ("https://[fe80::1%25eth0]/q", "has a bad host"),
        ] {
            assert_eq!(split(text), Err(wrong), "{text}");
        }
    }

    #[test]
    fn names_of_certificates() {
        let long = format!("{}.example", "x".repeat(LABEL_OCTETS));
        for name in ["a", "dns.example", "dns.example.", "1.1.1.one", "a_b.xn--p1ai", "A-1", &long]
        {
            assert!(is_host_name(name), "{name}");
        }
        let too_long = format!("x{long}");
        let whole = ["a"; 128].join(".");
        for wrong in
            ["", ".", "a..b", "-a.b", "a-.b", "a.1", "192.0.2.1", "caf\u{e9}", "*.a", "a b", "::1"]
        {
            assert!(!is_host_name(wrong), "{wrong}");
        }
        assert!(!is_host_name(&too_long) && !is_host_name(&whole));
    }
}
