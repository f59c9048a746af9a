//! Names: the walk over compressed ones against a naive reading and against hickory's; text and
//! wire form there and back.

use balancedns_core::limits::NAME_OCTETS;
use balancedns_core::wire::{DisplayName, Name, ResponseView, suffixes};
use hickory_proto::op::Message;

use super::oracle::{self, HEADER};

/// Pointers that the walk follows for one name.
const POINTERS_MAX: usize = 127;

/// `data` is: two octets for where the name begins, the rest are octets full of labels and
/// pointers, which stand in the RDATA of a first record; the name is owner of a second one. The
/// same octets are also taken for a name in wire form, and for one in text.
///
/// # Panics
/// If a property is broken.
pub fn name(data: &[u8]) {
    assert_text(&String::from_utf8_lossy(data));
    assert_wire(data);
    let Some((at, heap)) = data.split_first_chunk::<2>() else { return };
    if heap.is_empty() || heap.len() > 20_000 {
        return;
    }
    let at = usize::from(u16::from_be_bytes(*at)) % heap.len();
    assert_walk(&heap[..at], &heap[at..]);
}

/// A response whose first record holds `heap`, and whose second one belongs to the name that
/// starts `rest`, which has room behind it.
fn assert_walk(heap: &[u8], rest: &[u8]) {
    // The root, a type that nobody knows, IN, TTL 0; the length of the RDATA follows.
    const FIXED: &[u8] = &[0, 0xff, 0, 0, 1, 0, 0, 0, 0];
    let mut message = vec![0, 0, 0x80, 0, 0, 0, 0, 2, 0, 0, 0, 0];
    message.extend_from_slice(FIXED);
    message.extend_from_slice(&u16::try_from(heap.len() + 1).expect("bounded").to_be_bytes());
    message.push(0); // RDATA is not empty, which hickory would refuse
    message.extend_from_slice(heap);
    let start = message.len();
    let Some(own) = own_octets(rest) else {
        message.extend_from_slice(rest);
        assert!(ResponseView::parse(&message).is_err(), "cut off: {message:02x?}");
        return;
    };
    message.extend_from_slice(&rest[..own]);
    message.extend_from_slice(&FIXED[1..]);
    message.extend_from_slice(&[0, 1, 0]);

    let naive = read_naively(&message, start);
    let view = ResponseView::parse(&message);
    let hickory = Message::from_vec(&message);
    match naive {
        Reading::Name(labels) => {
            assert!(view.is_ok(), "{view:?}: {message:02x?}");
            let hickory = hickory.expect("hickory accepts what we accept");
            assert_eq!(oracle::wire(&hickory.answers[1].name), labels);
            assert_wire(&labels);
        }
        Reading::StricterThanHickory => assert!(view.is_err(), "{message:02x?}"),
        Reading::Malformed => {
            assert!(view.is_err(), "{message:02x?}");
            assert!(hickory.is_err(), "{hickory:?}: {message:02x?}");
        }
    }
}

/// Octets of the name where it stands: up to its root or its first pointer, that included. `None`
/// if it is cut off before.
fn own_octets(octets: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let end = match octets.get(at)? {
            0 => at + 1,
            length @ 1..=63 => {
                at += 1 + usize::from(*length);
                continue;
            }
            _ => at + 2,
        };
        return (end <= octets.len()).then_some(end);
    }
}

enum Reading {
    /// Uncompressed, letter case kept.
    Name(Vec<u8>),
    /// Hickory reads something: pointers into the header, pointers whose second octet is part of
    /// the name that points at them, and very many pointers are refused by us alone.
    StricterThanHickory,
    Malformed,
}

/// RFC 1035 section 4.1.4, octet by octet: each pointer goes to before the part that it ends, and
/// no part runs into the one that points at it.
fn read_naively(message: &[u8], start: usize) -> Reading {
    let (mut name, mut at, mut limit, mut part) = (Vec::new(), start, message.len(), start);
    let (mut pointers, mut stricter) = (0, false);
    loop {
        let Some(&length) = message[..limit].get(at) else { return Reading::Malformed };
        match length {
            0 => {
                name.push(0);
                break;
            }
            1..=63 => {
                let end = at + 1 + usize::from(length);
                let Some(label) = message[..limit].get(at..end) else { return Reading::Malformed };
                name.extend_from_slice(label);
                at = end;
            }
            0xc0.. => {
                let Some(&low) = message.get(at + 1) else { return Reading::Malformed };
                let target = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                if target >= part {
                    return Reading::Malformed;
                }
                pointers += 1;
                stricter |= at + 2 > limit || target < HEADER || pointers > POINTERS_MAX;
                (limit, part, at) = (part, target, target);
            }
            _ => return Reading::Malformed,
        }
    }
    match stricter {
        _ if name.len() > NAME_OCTETS => Reading::Malformed,
        true => Reading::StricterThanHickory,
        false => Reading::Name(name),
    }
}

/// Octets that may be a name in wire form.
fn assert_wire(octets: &[u8]) {
    assert!(DisplayName(octets).to_string().ends_with('.'), "whatever it is");
    assert!(suffixes(octets).count() <= octets.len());
    let uncompressed = own_octets(octets) == Some(octets.len())
        && octets.last() == Some(&0)
        && octets.len() <= NAME_OCTETS
        && suffixes(octets).all(|suffix| suffix[0] < 64)
        && suffixes(octets).last() == Some(&[0]);
    let name = Name::from_wire(octets);
    assert_eq!(name.is_ok(), uncompressed, "{octets:02x?}");
    let Ok(name) = name else { return };
    assert_eq!(name.as_wire(), octets.to_ascii_lowercase());
    let text = name.to_string();
    assert!(text.is_ascii() && !text.contains(char::is_whitespace), "{text:?}");
    assert_eq!(Name::parse(&text), Ok(name.clone()), "{text:?}");
}

/// Text that may be a name.
fn assert_text(text: &str) {
    let parsed = Name::parse(text);
    if let Ok(name) = &parsed {
        assert_eq!(Name::from_wire(name.as_wire()).as_ref(), Ok(name));
        assert_eq!(Name::parse(&name.to_string()).as_ref(), Ok(name), "{text:?}");
    }
    // Where letters and digits stand between dots, nobody has an opinion of their own. (Hickory has
    // one about hyphens at the ends of labels.)
    let plain = |char: char| char.is_ascii_alphanumeric() || char == '.';
    if text.is_empty() || !text.chars().all(plain) {
        return;
    }
    let hickory = hickory_proto::rr::Name::from_ascii(text);
    assert_eq!(parsed.is_ok(), hickory.is_ok(), "{text:?}: {parsed:?}, {hickory:?}");
    if let (Ok(ours), Ok(theirs)) = (parsed, hickory) {
        assert_eq!(ours.as_wire(), oracle::wire(&theirs.to_lowercase()));
    }
}
