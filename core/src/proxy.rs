//! The header of the PROXY protocol, versions 1 and 2: for whom a proxy speaks.
//!
//! Owns the format ("The PROXY protocol", HAProxy, sections 2.1 and 2.2) and nothing else: from whom
//! a header is required is configured, and a header from anybody else is never looked for. A reader
//! gives [`parse`] what it has and reads as many octets more as it is told to. It is never told to
//! read beyond the header, so that what follows (a TLS handshake, say) stays where it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PROXY_HEADER_OCTETS;

/// Begins every header of version 1 (section 2.1).
const V1: &[u8] = b"PROXY ";
/// Octets of the longest line of version 1, its end included (section 2.1).
const V1_OCTETS: usize = 107;
/// Octets of the shortest header of any kind: `PROXY UNKNOWN` and the end of the line.
const SHORTEST: usize = 15;
/// Begins every header of version 2 (section 2.2); the next four bits are the 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Octets of version 2 in front of the addresses.
const V2_FIXED_OCTETS: usize = 16;
/// Octets of the addresses of `AF_UNIX` (section 2.2): two paths.
const UNIX_OCTETS: usize = 216;

/// How far a header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on: read at most so many octets more, at least one. All of them are its own.
    More(usize),
    /// It is complete.
    Done(Header),
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whom the proxy speaks for; none if it speaks for itself (`LOCAL`), or for somebody who has no
    /// such address (`UNKNOWN`, `AF_UNSPEC`, `AF_UNIX`).
    pub client: Option<SocketAddr>,
    /// How long the header is.
    pub octets: usize,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins like neither version.
    #[error("not a proxy protocol header")]
    NotAHeader,
    /// The line of version 1 is not one.
    #[error("bad line of proxy protocol version 1")]
    Line,
    /// Another version or command in a binary header.
    #[error("unknown proxy protocol version and command {0:#04x}")]
    Command(u8),
    /// An address family or a protocol that nobody defined.
    #[error("unknown proxy protocol address family {0:#04x}")]
    Family(u8),
    /// The addresses do not fit into the length.
    #[error("proxy protocol header of {0} octets is too short for its addresses")]
    TooShort(usize),
    /// More than is needed for anything.
    #[error("proxy protocol header of {0} octets is longer than {PROXY_HEADER_OCTETS}")]
    TooLong(usize),
}

/// Reads the header at the beginning of these octets; what comes after it is not looked at.
///
/// # Errors
/// [`Malformed`] as soon as no further octets could make it a header.
pub fn parse(octets: &[u8]) -> Result<Progress, Malformed> {
    if agrees(octets, V2) {
        parse_v2(octets)
    } else if agrees(octets, V1) {
        parse_v1(octets)
    } else {
        Err(Malformed::NotAHeader)
    }
}

/// Takes the header off a datagram: its client, and the rest. A line of version 1 is for streams only
/// (section 2: datagrams need the binary form). None if there is no whole header.
pub(crate) fn split_datagram(octets: &[u8]) -> Option<(Option<SocketAddr>, &[u8])> {
    if !octets.starts_with(V2) {
        return None;
    }
    match parse(octets) {
        Ok(Progress::Done(header)) => Some((header.client, octets.get(header.octets..)?)),
        Ok(Progress::More(_)) | Err(_) => None,
    }
}

/// Whether octets begin with the signature, as far as they go.
fn agrees(octets: &[u8], signature: &[u8]) -> bool {
    octets.iter().zip(signature).all(|(octet, expected)| octet == expected)
}

fn parse_v2(octets: &[u8]) -> Result<Progress, Malformed> {
    let Some((fixed, rest)) = octets.split_first_chunk::<V2_FIXED_OCTETS>() else {
        // Without a single octet it may still be the shorter version 1.
        let wanted = if octets.is_empty() { SHORTEST } else { V2_FIXED_OCTETS };
        return Ok(Progress::More(wanted - octets.len()));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let header_octets = V2_FIXED_OCTETS + length;
    if !matches!(command, 0x20 | 0x21) {
        return Err(Malformed::Command(command));
    }
    if header_octets > PROXY_HEADER_OCTETS {
        return Err(Malformed::TooLong(header_octets));
    }
    let Some(addresses) = rest.get(..length) else {
        return Ok(Progress::More(length - rest.len()));
    };
    // LOCAL: a health check of the proxy's own. The family counts for nothing then.
    let client = if command == 0x20 { None } else { client_v2(family, addresses)? };
    Ok(Progress::Done(Header { client, octets: header_octets }))
}

/// The source of the addresses. Behind them stand TLVs, of which none concerns us.
fn client_v2(family: u8, addresses: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let too_short = Malformed::TooShort(V2_FIXED_OCTETS + addresses.len());
    match family {
        0x00 => Ok(None),
        // Source, destination, both ports. Stream and datagram: whoever sends one over the other
        // tells how it was asked itself.
        0x11 | 0x12 => {
            let (block, _) = addresses.split_first_chunk::<12>().ok_or(too_short)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *block;
            let port = u16::from_be_bytes([high, low]);
            Ok(Some((Ipv4Addr::new(a, b, c, d), port).into()))
        }
        0x21 | 0x22 => {
            let (block, _) = addresses.split_first_chunk::<36>().ok_or(too_short)?;
            let (source, rest) = block.split_first_chunk::<16>().ok_or(too_short)?;
            let [.., high, low, _, _] = *rest else { return Err(too_short) };
            let port = u16::from_be_bytes([high, low]);
            Ok(Some((Ipv6Addr::from(*source), port).into()))
        }
        0x31 | 0x32 if addresses.len() < UNIX_OCTETS => Err(too_short),
        0x31 | 0x32 => Ok(None),
        other => Err(Malformed::Family(other)),
    }
}

fn parse_v1(octets: &[u8]) -> Result<Progress, Malformed> {
    let longest = octets.get(..V1_OCTETS).unwrap_or(octets);
    let Some(end) = longest.windows(2).position(|pair| pair == b"\r\n") else {
        if longest.len() == V1_OCTETS {
            return Err(Malformed::Line);
        }
        return Ok(Progress::More(missing_v1(octets)));
    };
    let line = longest.get(..end).and_then(|line| std::str::from_utf8(line).ok());
    let line = line.and_then(|line| line.strip_prefix("PROXY ")).ok_or(Malformed::Line)?;
    let client = client_v1(line).ok_or(Malformed::Line)?;
    Ok(Progress::Done(Header { client, octets: end + 2 }))
}

/// Octets that a line of version 1 lacks at least. Asking for no more than these costs a few small
/// reads per connection, and what follows the line is left alone.
fn missing_v1(octets: &[u8]) -> usize {
    if octets.len() < SHORTEST {
        return SHORTEST - octets.len();
    }
    // Fields still to come, each behind a space: the destination's address and both ports. "::" is
    // the shortest address.
    let (shortest_address, is_known) = match octets.get(V1.len()..V1.len() + 5) {
        Some(b"TCP4 ") => ("0.0.0.0".len(), true),
        Some(b"TCP6 ") => ("::".len(), true),
        Some(_) | None => (0, false),
    };
    let fields = match octets.iter().filter(|octet| **octet == b' ').count() {
        _ if !is_known => 0,
        0..=2 => 1 + shortest_address + 4,
        3 => 4,
        4 => 2,
        _ => 0,
    };
    let line_end = if octets.ends_with(b"\r") { 1 } else { 2 };
    fields + line_end
}

/// The source of a line after `PROXY `; `None` if it is malformed.
#[expect(clippy::option_option, reason = "no client is not the same as no line")]
fn client_v1(line: &str) -> Option<Option<SocketAddr>> {
    let mut fields = line.split(' ');
    let kind = fields.next()?;
    if kind == "UNKNOWN" {
        return Some(None); // whatever follows is to be ignored (section 2.1)
    }
    let read: fn(&str) -> Option<IpAddr> = match kind {
        "TCP4" => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return None,
    };
    let source = read(fields.next()?)?;
    read(fields.next()?)?;
    let source_port = port(fields.next()?)?;
    port(fields.next()?)?;
    fields.next().is_none().then_some(Some(SocketAddr::new(source, source_port)))
}

/// A decimal number without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2 with the length of what follows.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [V2, &[command, family], &length, rest].concat()
    }

    fn done(octets: &[u8]) -> Option<SocketAddr> {
        match parse(octets) {
            Ok(Progress::Done(header)) => {
                assert_eq!(header.octets, octets.len());
                header.client
            }
            other => panic!("{other:?}"),
        }
    }

    const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0, 53];
    /// 2001:db8::1 port 12345 to `::` port 53.
    const INET6: [u8; 36] = {
        let mut block = [0; 36];
        [block[0], block[1], block[2], block[3], block[15]] = [0x20, 0x01, 0x0d, 0xb8, 1];
        [block[32], block[33], block[35]] = [0x30, 0x39, 53];
        block
    };

    #[test]
    fn lines_of_version_1() {
        let client = |line: &[u8]| done(line).map(|client| client.to_string());
        assert_eq!(
            client(b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 853\r\n").as_deref(),
            Some("192.0.2.1:12345")
        );
        assert_eq!(
            client(b"PROXY TCP6 2001:db8::1 :: 0 65535\r\n").as_deref(),
            Some("[2001:db8::1]:0")
        );
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(client(b"PROXY UNKNOWN \r\n"), None);
        assert_eq!(parse(b"PROXY UNKNOWN \r"), Ok(Progress::More(1)));
        assert_eq!(client(b"PROXY UNKNOWN ffff::1 whatever \r x\r\n"), None);
        let longest = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
            ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!((client(longest), longest.len()), (None, V1_OCTETS));
    }

    #[test]
    fn lines_that_are_none() {
        for line in [
            "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 2001:db8::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
            "PROXY TCP4 \u{e9} 192.0.2.2 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Malformed::Line), "{line:?}");
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_OCTETS]].concat();
        assert_eq!(parse(&endless), Err(Malformed::Line));
        let late = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r\n"].concat();
        assert_eq!((late.len(), parse(&late)), (V1_OCTETS + 1, Err(Malformed::Line)));
    }

    #[test]
    fn headers_of_version_2() {
        for family in [0x11, 0x12] {
            assert_eq!(done(&v2(0x21, family, &INET)), "192.0.2.1:12345".parse().ok());
        }
        for family in [0x21, 0x22] {
            assert_eq!(done(&v2(0x21, family, &INET6)), "[2001:db8::1]:12345".parse().ok());
        }
        let with_tlv = [&INET[..], &[4, 0, 1, 0]].concat();
        assert_eq!(done(&v2(0x21, 0x11, &with_tlv)), "192.0.2.1:12345".parse().ok());
        for family in [0x31, 0x32] {
            assert_eq!(done(&v2(0x21, family, &[b'/'; UNIX_OCTETS])), None);
        }
        assert_eq!(done(&v2(0x21, 0, b"")), None);
        assert_eq!(done(&v2(0x21, 0, b"anything")), None);
        for family in [0, 0x11, 0x5f] {
            assert_eq!(done(&v2(0x20, family, b"xyz")), None, "LOCAL: the rest is skipped");
        }
    }

    #[test]
    fn binary_headers_that_are_none() {
        use Malformed::{Command, Family, TooLong, TooShort};
        assert_eq!(parse(&v2(0x22, 0x11, &INET)), Err(Command(0x22)));
        assert_eq!(parse(&v2(0x11, 0x11, &INET)), Err(Command(0x11)));
        for family in [0x01, 0x10, 0x13, 0x20, 0x41, 0xff] {
            assert_eq!(parse(&v2(0x21, family, &INET6)), Err(Family(family)));
        }
        assert_eq!(parse(&v2(0x21, 0x11, &INET[..11])), Err(TooShort(27)));
        assert_eq!(parse(&v2(0x21, 0x21, &INET6[..35])), Err(TooShort(51)));
        assert_eq!(parse(&v2(0x21, 0x31, &[0; UNIX_OCTETS - 1])), Err(TooShort(231)));
        let most = PROXY_HEADER_OCTETS - V2_FIXED_OCTETS;
        assert_eq!(done(&v2(0x20, 0, &vec![0; most])), None);
        // Known before an octet of it has come.
        let long = v2(0x20, 0, &vec![0; most + 1]);
        assert_eq!(parse(&long[..V2_FIXED_OCTETS]), Err(TooLong(PROXY_HEADER_OCTETS + 1)));
    }

    #[test]
    fn what_is_no_header_is_seen_at_once() {
        for octets in
            [&b"\x00"[..], b"\x16\x03\x01", b"GET ", b"PROXX", b"\r\n\r\n\0\r\nQUIT ", b"proxy "]
        {
            assert_eq!(parse(octets), Err(Malformed::NotAHeader), "{octets:?}");
        }
        assert_eq!(parse(b""), Ok(Progress::More(SHORTEST)));
        let shown = Malformed::TooLong(9_999).to_string();
        assert_eq!(shown, "proxy protocol header of 9999 octets is longer than 4096");
    }

    #[test]
    fn a_datagram_begins_with_a_whole_binary_header() {
        let client = "192.0.2.1:12345".parse().ok();
        let whole = [&v2(0x21, 0x12, &INET)[..], b"query"].concat();
        assert_eq!(split_datagram(&whole), Some((client, &b"query"[..])));
        assert_eq!(split_datagram(&v2(0x20, 0, b"")), Some((None, &b""[..])));
        assert_eq!(split_datagram(&whole[..27]), None, "cut");
        assert_eq!(split_datagram(b"query"), None);
        assert_eq!(split_datagram(b""), None);
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 853\r\nquery";
        assert_eq!(split_datagram(line), None);
    }

    #[test]
    fn a_line_takes_few_reads() {
        let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
        assert!(reads(line, usize::MAX).0 < 12);
    }

    /// Reads as an adapter does, at most so many octets at a time: how often, and what came out.
    fn reads(octets: &[u8], most: usize) -> (usize, Result<Header, Malformed>) {
        let mut have = 0;
        for reads in 0.. {
            match parse(&octets[..have]) {
                Ok(Progress::More(wanted)) => {
                    assert!(wanted > 0, "asked for nothing at {have}");
                    let left = octets.len() - have;
                    assert!(wanted <= left, "asked for {wanted} of {left} at {have}");
                    have += wanted.min(most);
                }
                Ok(Progress::Done(header)) => {
                    assert_eq!(have, header.octets);
                    return (reads, Ok(header));
                }
                Err(error) => return (reads, Err(error)),
            }
        }
        unreachable!("each round reads an octet")
    }

    fn header() -> impl Strategy<Value = (Vec<u8>, Option<SocketAddr>)> {
        let ports = || (any::<u16>(), any::<u16>());
        let tcp4 = (any::<u32>(), any::<u32>(), ports()).prop_map(|(from, to, (one, two))| {
            let (from, to) = (Ipv4Addr::from(from), Ipv4Addr::from(to));
            let line = format!("PROXY TCP4 {from} {to} {one} {two}\r\n");
            (line.into_bytes(), Some((from, one).into()))
        });
        let tcp6 = (any::<u128>(), 0..128_u32, any::<u128>(), ports()).prop_map(
            |(from, shift, to, (one, two))| {
                let (from, to) = (Ipv6Addr::from(from >> shift), Ipv6Addr::from(to >> shift));
                let line = format!("PROXY TCP6 {from} {to} {one} {two}\r\n");
                (line.into_bytes(), Some((from, one).into()))
            },
        );
        let unknown = "[ a-z0-9:.\r]{0,92}".prop_map(|rest| {
            let space = if rest.is_empty() { "" } else { " " };
            let rest = rest.trim_end_matches('\r').get(..90).unwrap_or(&rest);
            (format!("PROXY UNKNOWN{space}{rest}\r\n").into_bytes(), None)
        });
        let tlvs = || prop::collection::vec(any::<u8>(), 0..100);
        let inet = (any::<[u8; 12]>(), tlvs()).prop_map(|(block, tlvs)| {
            let [a, b, c, d, _, _, _, _, high, low, ..] = block;
            let port = u16::from_be_bytes([high, low]);
            let client = (Ipv4Addr::new(a, b, c, d), port).into();
            (v2(0x21, 0x11, &[&block[..], &tlvs].concat()), Some(client))
        });
        let inet6 = (any::<[u8; 16]>(), any::<u16>(), tlvs()).prop_map(|(from, port, tlvs)| {
            let ports = [port.to_be_bytes(), [0, 53]].concat();
            let block = [&from[..], &[7; 16], &ports, &tlvs].concat();
            (v2(0x21, 0x22, &block), Some((Ipv6Addr::from(from), port).into()))
        });
        let local = tlvs().prop_map(|rest| (v2(0x20, 0, &rest), None));
        prop_oneof![tcp4, tcp6, unknown, inet, inet6, local]
    }

    proptest! {
        /// Whatever the pieces in which it comes, not an octet behind it is asked for.
        #[test]
        fn a_header_is_read_to_its_end_and_no_further(
            (octets, client) in header(),
            most in 1..40_usize,
        ) {
            let (_, read) = reads(&octets, most);
            prop_assert_eq!(read, Ok(Header { client, octets: octets.len() }));
        }

        /// What follows is not looked at; every cut leaves something to ask for.
        #[test]
        fn what_follows_changes_nothing(
            (octets, client) in header(),
            rest in prop::collection::vec(any::<u8>(), 0..50),
            cut in any::<prop::sample::Index>(),
        ) {
            let all = [&octets[..], &rest].concat();
            let expected = Header { client, octets: octets.len() };
            prop_assert_eq!(parse(&all), Ok(Progress::Done(expected)));
            let cut = cut.index(octets.len());
            let Ok(Progress::More(more)) = parse(&octets[..cut]) else {
                return Err(TestCaseError::fail(format!("not cut at {cut}")));
            };
            prop_assert!(more > 0 && cut + more <= octets.len());
        }

        #[test]
        fn any_octets_are_taken_or_refused(
            octets in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                (header(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
                    |((mut octets, _), at, value)| {
                        let at = at.index(octets.len());
                        octets[at] = value;
                        octets
                    }
                ),
            ],
        ) {
            match parse(&octets) {
                Ok(Progress::More(more)) => prop_assert!(more > 0),
                Ok(Progress::Done(header)) => prop_assert!(header.octets <= octets.len()),
                Err(_) => {}
            }
        }
    }
}
