//! What hickory-proto makes of messages that our views accepted, in the terms of our views.
//!
//! We are laxer than hickory on purpose: RDATA and option payloads are passed on or ignored, never
//! validated, and may be empty; records may follow TSIG. [`decode`] takes that out of the
//! comparison. Where we are stricter, hickory may accept what we refuse; nobody asks it then.

use balancedns_core::wire::{ClientEdns, Flags};
use hickory_proto::op::{Message, MessageType};

/// Octets of a header (RFC 1035 section 4.1.1).
pub(super) const HEADER: usize = 12;
/// The flag that hickory has no place for (RFC 1035 section 4.1.1: Z, without AD and CD).
pub(super) const RESERVED: u16 = 0x0040;

const OPT: u16 = 41;
/// A type (RFC 6895 section 3.1, private use) and an option (RFC 6891 section 9, local use) that
/// nobody looks into.
const OPAQUE_TYPE: u16 = 65_280;
const OPAQUE_OPTION: u16 = 65_001;

/// Where a record's owner and type begin, and where its RDATA begins and ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) owner: usize,
    pub(super) record_type: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Place {
    /// The type, as the message has it.
    pub(super) fn type_in(&self, message: &[u8]) -> u16 {
        number(message, self.record_type)
    }

    /// The TTL, as the message has it.
    pub(super) fn ttl_in(&self, message: &[u8]) -> u32 {
        u32::from(number(message, self.record_type + 4)) << 16
            | u32::from(number(message, self.record_type + 6))
    }
}

/// Two octets as a number. Only for places that are in the message.
pub(super) fn number(message: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([message[at], message[at + 1]])
}

/// Counts of questions, answers, authorities and additional records, as the header has them.
pub(super) fn counts(message: &[u8]) -> [usize; 4] {
    [4, 6, 8, 10].map(|at| usize::from(number(message, at)))
}

/// The places of all records, in order. Only for messages that our views accepted whole.
pub(super) fn places(message: &[u8]) -> Vec<Place> {
    let [questions, records @ ..] = counts(message);
    let mut owner = HEADER;
    for _ in 0..questions {
        owner = end_of_name(message, owner) + 4;
    }
    let mut all = Vec::new();
    for _ in 0..records.iter().sum() {
        let record_type = end_of_name(message, owner);
        let start = record_type + 10;
        let end = start + usize::from(number(message, record_type + 8));
        all.push(Place { owner, record_type, start, end });
        owner = end;
    }
    all
}

fn end_of_name(message: &[u8], mut at: usize) -> usize {
    loop {
        match message[at] {
            0 => return at + 1,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return at + 2,
        }
    }
}

/// The places of all octets that make up a name, pointers followed.
pub(super) fn octets_of_name(message: &[u8], mut at: usize) -> Vec<usize> {
    let mut all = Vec::new();
    loop {
        let length = usize::from(message[at]);
        match length {
            0 => {
                all.push(at);
                return all;
            }
            1..=63 => {
                all.extend(at..=at + length);
                at += 1 + length;
            }
            _ => {
                all.extend([at, at + 1]);
                at = usize::from(number(message, at) & 0x3fff);
            }
        }
    }
}

/// The message with types and option codes that nobody knows, so that hickory looks into no RDATA.
/// `None` if there is empty RDATA or an OPT record that its options do not fill, which hickory
/// refuses, or if a name makes use of the octets that are changed.
fn opaque(message: &[u8]) -> Option<Vec<u8>> {
    let mut out = message.to_vec();
    let places = places(message);
    for place in &places {
        let Place { record_type, start, end, .. } = *place;
        if place.type_in(message) != OPT {
            if start == end {
                return None;
            }
            out[record_type..record_type + 2].copy_from_slice(&OPAQUE_TYPE.to_be_bytes());
            continue;
        }
        let mut at = start;
        while at + 4 <= end {
            out[at..at + 2].copy_from_slice(&OPAQUE_OPTION.to_be_bytes());
            at += 4 + usize::from(number(message, at + 2));
        }
        if at != end {
            return None;
        }
    }
    let mut named = places.iter().flat_map(|place| octets_of_name(message, place.owner));
    named.all(|at| message[at] == out[at]).then_some(out)
}

/// What hickory reads in a message that one of our views accepted whole; RDATA stays octets.
/// `None` if the message has something that hickory refuses and we do not look at.
///
/// # Panics
/// If hickory refuses what is left.
pub(super) fn decode(message: &[u8]) -> Option<Message> {
    let opaque = opaque(message)?;
    match Message::from_vec(&opaque) {
        Ok(decoded) => Some(decoded),
        Err(error) => panic!("we accept what hickory refuses ({error}): {message:02x?}"),
    }
}

/// The flags as hickory has them.
pub(super) fn flags(message: &Message) -> u16 {
    let meta = &message.metadata;
    let bit = |set: bool, mask: u16| if set { mask } else { 0 };
    bit(meta.message_type == MessageType::Response, Flags::QR)
        | u16::from(u8::from(meta.op_code)) << 11
        | bit(meta.authoritative, Flags::AA)
        | bit(meta.truncation, Flags::TC)
        | bit(meta.recursion_desired, Flags::RD)
        | bit(meta.recursion_available, Flags::RA)
        | bit(meta.authentic_data, Flags::AD)
        | bit(meta.checking_disabled, Flags::CD)
        | u16::from(meta.response_code) & Flags::RCODE
}

/// Name, type and class of the one question, uncompressed, letter case kept; empty without one.
pub(super) fn question(message: &Message) -> Vec<u8> {
    assert!(message.queries.len() <= 1, "one question at most");
    let Some(query) = message.queries.first() else {
        return Vec::new();
    };
    let mut octets = wire(&query.name);
    octets.extend_from_slice(&u16::from(query.query_type).to_be_bytes());
    octets.extend_from_slice(&u16::from(query.query_class).to_be_bytes());
    octets
}

/// A name in wire form, uncompressed, letter case kept.
pub(super) fn wire(name: &hickory_proto::rr::Name) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.iter() {
        octets.push(u8::try_from(label.len()).expect("a label has 63 octets at most"));
        octets.extend_from_slice(label);
    }
    octets.push(0);
    octets
}

/// The OPT record's fields; hickory too counts less than 512 octets as 512.
pub(super) fn client_edns(message: &Message) -> Option<ClientEdns> {
    message.edns.as_ref().map(|edns| ClientEdns {
        udp_size: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
        version: edns.version(),
    })
}
