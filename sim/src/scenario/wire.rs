//! Names, types, classes, rcodes and records: what a scenario writes, and the octets it stands for.
//!
//! Written beside core on purpose, and with hickory-proto where that can read the text: a mistake of
//! core's own code must not be repeated here. RFC 1035 sections 3.1, 3.2 and 5.1; RFC 3597 section 5.

use std::str::FromStr;

use hickory_proto::rr::{DNSClass, RData, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};

use super::lines::Words;

/// Bits of the second word of a header (RFC 1035 section 4.1.1, RFC 2535 section 6.1).
pub(super) mod bits {
    pub(in super::super) const QR: u16 = 0x8000;
    pub(in super::super) const OPCODE: u16 = 0x7800;
    pub(in super::super) const AA: u16 = 0x0400;
    pub(in super::super) const TC: u16 = 0x0200;
    pub(in super::super) const RD: u16 = 0x0100;
    pub(in super::super) const RA: u16 = 0x0080;
    pub(in super::super) const Z: u16 = 0x0040;
    pub(in super::super) const AD: u16 = 0x0020;
    pub(in super::super) const CD: u16 = 0x0010;
    pub(in super::super) const RCODE: u16 = 0x000f;

    /// The flags by name.
    pub(in super::super) const NAMES: [(&str, u16); 8] = [
        ("qr", QR),
        ("aa", AA),
        ("tc", TC),
        ("rd", RD),
        ("ra", RA),
        ("z", Z),
        ("ad", AD),
        ("cd", CD),
    ];
}

/// Octets of a message on a stream at most, with the length before it (RFC 1035 section 4.2.2).
const MESSAGE_OCTETS: usize = 2 + 0xffff;

const RCODES: [(&str, u16); 13] = [
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
    ("BADVERS", 16),
    ("BADCOOKIE", 23),
];

pub(super) fn rcode(word: &str) -> Option<u16> {
    let named = RCODES.iter().find(|(name, _)| *name == word);
    let code = named.map(|(_, code)| *code).or_else(|| word.strip_prefix("RCODE")?.parse().ok());
    code.filter(|code| *code < 1 << 12) // RFC 6891 section 6.1.3
}

pub(super) fn rcode_name(code: u16) -> String {
    let named = RCODES.iter().find(|(_, known)| *known == code);
    named.map_or_else(|| format!("RCODE{code}"), |(name, _)| (*name).to_owned())
}

/// A type by its name, or as `TYPE65280`.
pub(super) fn record_type(word: &str) -> Option<u16> {
    let unnamed = word.strip_prefix("TYPE").and_then(|number| number.parse().ok());
    unnamed.or_else(|| RecordType::from_str(word).ok().map(u16::from))
}

/// A class by its name, or as `CLASS17`.
pub(super) fn class(word: &str) -> Option<u16> {
    let unnamed = word.strip_prefix("CLASS").and_then(|number| number.parse().ok());
    unnamed.or_else(|| DNSClass::from_str(word).ok().map(u16::from))
}

/// A name in wire form. It is absolute: it ends with a dot. `\.` and `\046` are octets of a label.
///
/// # Errors
/// What is wrong with it.
pub(super) fn name(text: &str) -> Result<Vec<u8>, String> {
    if text == "." {
        return Ok(vec![0]);
    }
    let mut wire = Vec::new();
    let mut label = Vec::new();
    let mut rest = text.bytes().peekable();
    while let Some(octet) = rest.next() {
        match octet {
            b'.' => {
                let length =
                    u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
                wire.push(
                    length.ok_or_else(|| format!("a label of \"{text}\" has no legal length"))?,
                );
                wire.append(&mut label);
            }
            b'\\' => {
                label.push(escaped(&mut rest).ok_or_else(|| format!("bad escape in \"{text}\""))?)
            }
            _ => label.push(octet),
        }
    }
    wire.push(0);
    if label.is_empty() && wire.len() > 1 && wire.len() <= 255 {
        Ok(wire)
    } else {
        Err(format!("\"{text}\" is no absolute name: it has to end with a dot"))
    }
}

/// What stands behind a backslash: three digits, or the octet itself.
fn escaped(rest: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = rest.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, rest.next()?, rest.next()?];
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// Reads as hexadecimal octets: `81a0`, `00*600` (600 times), and names as they stand in messages.
/// `id` and `question` are given for what answers a query.
///
/// # Errors
/// What cannot be read.
pub(super) fn octets(words: Words<'_>, asked: Option<(u16, &[u8])>) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    for word in words {
        match (word, asked) {
            ("ID", Some((id, _))) => octets.extend(id.to_be_bytes()),
            ("QUESTION", Some((_, question))) => octets.extend(question),
            _ if word.ends_with('.') => octets.extend(name(word)?),
            _ => {
                let (hex, count) = match word.split_once('*') {
                    Some((hex, count)) => {
                        (hex, count.parse().map_err(|_| format!("\"{count}\" is no count"))?)
                    }
                    None => (word, 1),
                };
                let once = hexadecimal(hex)?;
                if once.len().saturating_mul(count) > MESSAGE_OCTETS {
                    return Err(format!("\"{word}\" is more than any message"));
                }
                octets.extend(once.repeat(count));
            }
        }
        if octets.len() > MESSAGE_OCTETS {
            return Err("these octets are more than any message".to_owned());
        }
    }
    Ok(octets)
}

pub(super) fn hexadecimal(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("\"{text}\" is no row of octets in hexadecimal");
    if !text.bytes().all(|octet| octet.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok();
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(wrong)
        })
        .collect()
}

/// The data of a record: presentation format as hickory-proto reads it, `\# 4 c0000207` for any type
/// (RFC 3597 section 5), or `octets 600` for a TXT record of that much data.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn rdata(record_type: u16, text: &str) -> Result<Vec<u8>, String> {
    let mut words = text.split_whitespace();
    match words.next() {
        Some("\\#") => {
            let length: usize = words
                .next()
                .and_then(|length| length.parse().ok())
                .ok_or("no length behind \\#".to_owned())?;
            let data = hexadecimal(&words.collect::<String>())?;
            if data.len() != length {
                return Err(format!("{} octets where \\# says {length}", data.len()));
            }
            Ok(data)
        }
        Some("octets") => {
            let length: usize = words
                .next()
                .and_then(|length| length.parse().ok())
                .ok_or("no number behind octets".to_owned())?;
            if length > MESSAGE_OCTETS {
                return Err(format!("{length} octets are more than any message"));
            }
            Ok(filler(length))
        }
        Some(_) | None => presented(RecordType::from(record_type), text),
    }
}

/// Character strings (RFC 1035 section 3.3) that take this much room.
fn filler(length: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(length);
    while data.len() < length {
        let string = (length - data.len() - 1).min(255);
        data.push(u8::try_from(string).expect("at most 255"));
        data.resize(data.len() + string, b'x');
    }
    data
}

fn presented(record_type: RecordType, text: &str) -> Result<Vec<u8>, String> {
    let wrong =
        |error: &dyn std::fmt::Display| format!("\"{text}\" is no {record_type} data: {error}");
    let data = RData::try_from_str(record_type, text).map_err(|error| wrong(&error))?;
    let mut octets = Vec::new();
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    data.emit(&mut encoder).map_err(|error| wrong(&error))?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_absolute_and_may_hold_any_octet() {
        assert_eq!(name("a.Bc."), Ok(b"\x01a\x02Bc\0".to_vec()));
        assert_eq!(name(r"a\.b\255."), Ok(b"\x04a.b\xff\0".to_vec()));
        assert_eq!(name("."), Ok(vec![0]));
        for wrong in ["a", "", "a..", ".a.", r"a\2.", r"a\999.", &format!("{}.", "x".repeat(64))] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn data_is_read_as_it_is_presented_or_as_octets() {
        assert_eq!(rdata(1, "192.0.2.7"), Ok(vec![192, 0, 2, 7]));
        assert_eq!(rdata(65_280, r"\# 3 0a0b 0c"), Ok(vec![10, 11, 12]));
        assert_eq!(rdata(16, "octets 600").map(|data| data.len()), Ok(600));
        assert_eq!(rdata(15, "10 mx.a."), Ok(b"\0\x0a\x02mx\x01a\0".to_vec()));
        for (record_type, wrong) in [(1, "nonsense"), (1, r"\# 4 0a"), (65_280, "x")] {
            assert!(rdata(record_type, wrong).is_err(), "{wrong}");
        }
    }
}
