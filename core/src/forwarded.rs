//! For whom an HTTP proxy asks: `Forwarded` (RFC 7239) and the older `X-Forwarded-For`.
//!
//! Owns the formats and whom to believe. Each proxy adds whom it heard to the right end; anybody may
//! have written what stands to the left of that. So everything is read from the right, and nothing on
//! the left, an open quote least of all, changes what was read on the right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use crate::policy::{Acl, fold};

/// Not registered, but what most proxies send.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whose request it is that came from `peer`: of the addresses that trusted proxies vouch for, the
/// first one from the right that is not itself a trusted proxy; the left-most one if all are. What is
/// not an address (`unknown`, an obfuscated name, garbage) ends the search at the proxy that wrote
/// it. `X-Forwarded-For` counts only where there is no `Forwarded`.
#[must_use]
pub fn client(headers: &HeaderMap, peer: IpAddr, trusted: &Acl) -> IpAddr {
    let mut client = fold(peer);
    if !trusted.allows(client) {
        return client;
    }
    let has_standard = headers.contains_key(FORWARDED);
    let name = if has_standard { FORWARDED } else { X_FORWARDED_FOR };
    let read = if has_standard { element } else { node };
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    let lines = lines.iter().rev();
    let elements = lines.flat_map(|line| split_from_right(line.as_bytes(), b','));
    // A list may have empty elements (RFC 9110 section 5.6.1.2).
    for text in elements.map(<[u8]>::trim_ascii).filter(|text| !text.is_empty()) {
        let Some(ip) = read(text) else {
            break;
        };
        client = ip;
        if !trusted.allows(client) {
            break;
        }
    }
    client
}

/// The pieces between separators outside of quotes, the right-most one first. A quote that was never
/// closed reaches to the left end, which spoils the pieces there only.
fn split_from_right(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let piece = rest?;
        let mut quoted = false;
        for (at, octet) in piece.iter().enumerate().rev() {
            if *octet == b'"' && !is_escaped(piece, at) {
                quoted = !quoted;
            } else if *octet == separator && !quoted {
                rest = piece.get(..at);
                return piece.get(at + 1..);
            }
        }
        rest = None;
        Some(piece)
    })
}

/// Whether an odd number of backslashes stands in front (RFC 9110 section 5.6.4).
fn is_escaped(text: &[u8], at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    before.iter().rev().take_while(|octet| **octet == b'\\').count() % 2 == 1
}

/// The address of a `for` parameter of `Forwarded` (RFC 7239 section 4).
fn element(text: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for pair in split_from_right(text, b';') {
        let equals = pair.iter().position(|octet| *octet == b'=')?;
        let (name, value) = pair.split_at_checked(equals)?;
        if !name.trim_ascii().eq_ignore_ascii_case(b"for") {
            continue;
        }
        if found.is_some() {
            return None; // each parameter once
        }
        found = Some(node(&unquoted(value.get(1..)?.trim_ascii())?)?);
    }
    found
}

/// What a token or a quoted string says.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let Some(inner) = value.strip_prefix(b"\"") else {
        return (!value.contains(&b'"')).then(|| value.to_vec());
    };
    let inner = inner.strip_suffix(b"\"")?;
    let mut out = Vec::with_capacity(inner.len());
    let mut octets = inner.iter();
    while let Some(octet) = octets.next() {
        match octet {
            b'\\' => out.push(*octets.next()?),
            b'"' => return None,
            _ => out.push(*octet),
        }
    }
    Some(out)
}

/// The address of a node (RFC 7239 section 6), with or without a port. `X-Forwarded-For` has IPv6
/// addresses without brackets, too.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once(']')?;
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_node_port);
        return ip.parse::<Ipv6Addr>().ok().filter(|_| is_port).map(|ip| fold(ip.into()));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(fold(ip));
    }
    let (ip, port) = text.split_once(':')?;
    ip.parse::<Ipv4Addr>().ok().filter(|_| is_node_port(port)).map(IpAddr::V4)
}

/// A number of up to five digits, or something that hides one.
fn is_node_port(text: &str) -> bool {
    let is_number =
        (1..=5).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    let hides = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
    let is_hidden =
        text.strip_prefix('_').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(hides));
    is_number || is_hidden
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "10.0.0.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Proxies are 10.0.0.0/8 and 2001:db8:1::/48.
    fn trusted() -> Acl {
        let networks = ["10.0.0.0/8", "2001:db8:1::/48"];
        Acl::new(networks.iter().map(|net| net.parse().expect("a network")).collect())
    }

    fn headers(lines: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn standard(value: &str) -> String {
        client(&headers(&[(&FORWARDED, value)]), ip(PEER), &trusted()).to_string()
    }

    fn common(value: &str) -> String {
        client(&headers(&[(&X_FORWARDED_FOR, value)]), ip(PEER), &trusted()).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        for name in [&FORWARDED, &X_FORWARDED_FOR] {
            let headers = headers(&[(name, "for=192.0.2.1")]);
            for peer in ["192.0.2.77", "::1", "11.0.0.1"] {
                assert_eq!(client(&headers, ip(peer), &trusted()), ip(peer));
            }
            let nobody = Acl::new(Vec::new());
            assert_eq!(client(&headers, ip(PEER), &nobody), ip(PEER));
        }
        let headers = headers(&[(&FORWARDED, "for=192.0.2.1")]);
        assert_eq!(client(&headers, ip("::ffff:10.0.0.1"), &trusted()), ip("192.0.2.1"));
        assert_eq!(client(&HeaderMap::new(), ip("::ffff:10.0.0.1"), &trusted()), ip(PEER));
    }

    #[test]
    fn nodes_of_rfc_7239() {
        for (value, expected) in [
            ("for=192.0.2.60", "192.0.2.60"),
            ("For=\"192.0.2.60\"", "192.0.2.60"),
            ("for=\"192.0.2.60:4711\"", "192.0.2.60"),
            ("for=\"192.0.2.60:_port.1\"", "192.0.2.60"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=\"[2001:db8:cafe::17]\"", "2001:db8:cafe::17"),
            ("for=\"[::ffff:192.0.2.1]\"", "192.0.2.1"),
            ("for=\"\\192.0.2.\\60\"", "192.0.2.60"),
            ("proto=http;by=203.0.113.43;for=192.0.2.60", "192.0.2.60"),
            ("for=192.0.2.60;proto=\"a;for=b,c\\\"\" ; by=_x", "192.0.2.60"),
            (" , for=192.0.2.60 , ,", "192.0.2.60"),
        ] {
            assert_eq!(standard(value), expected, "{value}");
        }
        for value in [
            "for=unknown",
            "for=_hidden",
            "for=\"_SEVKISEK\"",
            "by=203.0.113.43",
            "192.0.2.60",
            "for=",
            "for=\"192.0.2.60",
            "for=192.0.2.60\"",
            "for=\"192.0.2.60\\\"",
            "for=192.0.2.60;for=192.0.2.61",
            "for=192.0.2.60:123456",
            "for=\"[192.0.2.60]\"",
            "for=\"[2001:db8::1]4711\"",
            "for=\"[2001:db8::1]:\"",
            "for=\"[2001:db8::1\"",
            "for=\"[fe80::1%1]\"",
            "",
        ] {
            assert_eq!(standard(value), PEER, "{value}: the proxy itself");
        }
    }

    #[test]
    fn the_first_from_the_right_that_is_no_proxy_is_the_client() {
        for (value, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("198.51.100.1, 192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, 10.0.0.2,10.0.0.3", "192.0.2.1"),
            ("2001:db8::1, 2001:db8:1::1", "2001:db8::1"),
            ("[2001:db8::1]:443, 10.0.0.2:1", "2001:db8::1"),
            ("10.0.0.4, 10.0.0.3", "10.0.0.4"),
            ("192.0.2.1, unknown, 10.0.0.3", "10.0.0.3"),
            ("192.0.2.1, garbage", PEER),
            ("", PEER),
        ] {
            assert_eq!(common(value), expected, "{value}");
        }
        let lines = headers(&[
            (&X_FORWARDED_FOR, "198.51.100.1"),
            (&X_FORWARDED_FOR, "192.0.2.1, 10.0.0.3"),
            (&X_FORWARDED_FOR, "10.0.0.2"),
        ]);
        assert_eq!(client(&lines, ip(PEER), &trusted()), ip("192.0.2.1"));
    }

    #[test]
    fn the_standard_header_counts_before_the_common_one() {
        let both = headers(&[(&X_FORWARDED_FOR, "198.51.100.1"), (&FORWARDED, "for=192.0.2.1")]);
        assert_eq!(client(&both, ip(PEER), &trusted()), ip("192.0.2.1"));
        let hidden = headers(&[(&X_FORWARDED_FOR, "198.51.100.1"), (&FORWARDED, "for=unknown")]);
        assert_eq!(client(&hidden, ip(PEER), &trusted()), ip(PEER));
    }

    proptest! {
        /// What a client sends along cannot change what its proxy says of it: the proxy would else
        /// lend it its own address.
        #[test]
        fn nothing_on_the_left_counts(left in "[ -~]{0,40}", v6 in any::<bool>()) {
            let expected = if v6 { "2001:db8::7" } else { "192.0.2.7" };
            let told = if v6 { "for=\"[2001:db8::7]:1\"" } else { "for=192.0.2.7" };
            prop_assert_eq!(standard(&format!("{left}, {told}")), expected);
            prop_assert_eq!(common(&format!("{left}, {expected}")), expected);
        }

        #[test]
        fn any_value_is_read(value in "[ -~]{0,60}|[for=\";,\\\\:.0-9\\[\\]]{0,60}") {
            let outcome = standard(&value);
            prop_assert!(outcome.parse::<IpAddr>().is_ok());
            prop_assert!(common(&value).parse::<IpAddr>().is_ok());
        }
    }
}
