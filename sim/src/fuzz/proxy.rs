//! What proxies say of their clients: headers of the PROXY protocol against a naive reading and in
//! pieces; lists of forwarded addresses with more of them appended.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancedns_core::forwarded;
use balancedns_core::limits::PROXY_HEADER_OCTETS;
use balancedns_core::policy::Acl;
use balancedns_core::proxy::{Header, Progress, parse};
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, HeaderValue};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// `data` is what a stream begins with, and also the value of a header of HTTP.
///
/// # Panics
/// If a property is broken.
pub fn proxy(data: &[u8]) {
    if data.len() > 2 * PROXY_HEADER_OCTETS {
        return;
    }
    let expected = naive(data);
    let done = match parse(data) {
        Ok(Progress::Done(header)) => Some(header),
        Ok(Progress::More(more)) => {
            assert!(more > 0);
            None
        }
        Err(_) => None,
    };
    assert_eq!(done, expected);
    assert_pieces(data, expected);
    assert_forwarded(data);
}

/// A header is read to its end and no further; what is refused early would have been refused late.
fn assert_pieces(data: &[u8], expected: Option<Header>) {
    let mut have = 0;
    loop {
        match parse(&data[..have]) {
            Ok(Progress::More(more)) if have + more <= data.len() => have += more,
            Ok(Progress::More(more)) => {
                assert!(expected.is_none(), "{more} octets more than there are");
                return;
            }
            Ok(Progress::Done(header)) => {
                assert_eq!((Some(header), have), (expected, header.octets));
                return;
            }
            Err(_) => return assert_eq!(expected, None),
        }
    }
}

/// A header by another way of reading: of all that is there, from the left.
fn naive(data: &[u8]) -> Option<Header> {
    if data.starts_with(V2) {
        return naive_v2(data);
    }
    let text: String = data.iter().take(107).map(|octet| char::from(*octet)).collect();
    let (line, _) = text.split_once("\r\n")?;
    let octets = line.chars().count() + 2;
    let words: Vec<&str> = line.split(' ').collect();
    let port = |text: &str| text.parse().ok().filter(|port: &u16| port.to_string() == text);
    let client = match words.as_slice() {
        // What is ignored has to be a text all the same.
        ["PROXY", "UNKNOWN", ..] => {
            let is_text = std::str::from_utf8(&data[..octets]).is_ok();
            return is_text.then_some(Header { client: None, octets });
        }
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            to.parse::<Ipv4Addr>().ok()?;
            port(to_port)?;
            SocketAddr::from((from.parse::<Ipv4Addr>().ok()?, port(from_port)?))
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            to.parse::<Ipv6Addr>().ok()?;
            port(to_port)?;
            SocketAddr::from((from.parse::<Ipv6Addr>().ok()?, port(from_port)?))
        }
        _ => return None,
    };
    Some(Header { client: Some(client), octets })
}

fn naive_v2(data: &[u8]) -> Option<Header> {
    let number = |at: usize| Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
    let length = usize::from(number(14)?);
    let octets = 16 + length;
    if octets > data.len() || octets > PROXY_HEADER_OCTETS {
        return None;
    }
    let client = match (data[12], data[13], length) {
        (0x20, _, _) | (0x21, 0, _) | (0x21, 0x31 | 0x32, 216..) => None,
        (0x21, 0x11 | 0x12, 12..) => {
            let ip: [u8; 4] = data[16..20].try_into().ok()?;
            Some(SocketAddr::from((ip, number(24)?)))
        }
        (0x21, 0x21 | 0x22, 36..) => {
            let ip: [u8; 16] = data[16..32].try_into().ok()?;
            Some(SocketAddr::from((ip, number(48)?)))
        }
        _ => return None,
    };
    Some(Header { client, octets })
}

/// What the next proxy appends counts before what was there, and only if it appends a proxy's
/// address does what was there count at all.
fn assert_forwarded(data: &[u8]) {
    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let trusted = Acl::new(vec!["10.0.0.0/8".parse().expect("a network")]);
    let common = HeaderName::from_static("x-forwarded-for");
    for (name, prefix) in [(FORWARDED, "for="), (common, "")] {
        let client = |appended: Option<IpAddr>| {
            let appended = appended.map(|ip| format!(", {prefix}{ip}")).unwrap_or_default();
            let value = HeaderValue::from_bytes(&[data, appended.as_bytes()].concat()).ok()?;
            let headers = HeaderMap::from_iter([(name.clone(), value)]);
            Some(forwarded::client(&headers, PEER, &trusted))
        };
        let Some(alone) = client(None) else { return };
        assert_eq!(client(Some(CLIENT)), Some(CLIENT));
        let behind = client(Some(PROXY));
        let nothing_read = alone == PEER && behind == Some(PROXY);
        assert!(nothing_read || behind == Some(alone), "{alone} became {behind:?}");
    }
}
