//! Messages of clients and upstreams as sequences of choices, so that a fuzzer that changes a few
//! octets gets another message that still leads somewhere.

use arbitrary::{Result, Unstructured};
use balancedns_core::time::Duration;

use super::oracle::HEADER;

/// Names that lead to every stage of the chain: forwarded by each zone, blocked, in the hosts file,
/// special, outside all zones; few, so that questions coincide.
const NAMES: [&str; 12] = [
    "a.example",
    "b.example",
    "x.a.example",
    "long-name-with-many-letters.example",
    "printer.home.example",
    "blocked.example",
    "up.example",
    "other.test",
    "localhost",
    "10.in-addr.arpa",
    "11.2.0.192.in-addr.arpa",
    "",
];
/// A, AAAA, CNAME, SOA, NS, PTR, TXT, ANY, AXFR, OPT, 0 and one of private use.
const TYPES: [u16; 12] = [1, 28, 5, 6, 2, 12, 16, 255, 252, 41, 0, 65_280];

/// One of a few times, most of them where something of the engine ends.
pub(super) fn duration(u: &mut Unstructured<'_>) -> Result<Duration> {
    const MILLIS: [u64; 13] =
        [0, 1, 10, 99, 100, 399, 400, 1_000, 2_000, 2_500, 5_000, 10_000, 40_000];
    Ok(Duration::from_millis(*u.choose(&MILLIS)?))
}

/// A length between two bounds, which are reached about as often as anything between.
pub(super) fn length(u: &mut Unstructured<'_>, least: usize, most: usize) -> Result<usize> {
    let chosen = u.int_in_range(0..=7)?;
    match chosen {
        0 => Ok(least),
        1 => Ok(most),
        _ => u.int_in_range(least..=most),
    }
}

/// Octets without meaning, 64 at most.
pub(super) fn octets(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = u.int_in_range(0..=64_usize)?.min(u.len());
    Ok(u.bytes(count)?.to_vec())
}

/// A client's query under one of these ids, mostly a proper one.
pub(super) fn query(u: &mut Unstructured<'_>, ids: u16) -> Result<Vec<u8>> {
    let mut message = u.int_in_range(1..=ids)?.to_be_bytes().to_vec();
    let flags: [u16; 6] = [0x0100, 0x0100, 0x0120, 0x0110, 0x0000, 0x1100];
    message.extend_from_slice(&u.choose(&flags)?.to_be_bytes());
    message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(&name(u)?);
    // Most often A: questions are to coincide.
    let record_type = if u.ratio(1, 2)? { 1 } else { *u.choose(&TYPES)? };
    message.extend_from_slice(&record_type.to_be_bytes());
    message.extend_from_slice(if u.ratio(1, 16)? { &[0, 3] } else { &[0, 1] });
    let opt: &[u8] = match u.int_in_range(0..=7)? {
        0 => &[0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0],
        1 => &[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0],
        2 => &[0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 4, 0, 12, 0, 0],
        3 => &[0, 0, 41, 4, 0xd0, 0, 1, 0, 0, 0, 0],
        _ => &[],
    };
    message[11] = u8::from(!opt.is_empty());
    message.extend_from_slice(opt);
    if u.ratio(1, 16)? { damaged(u, message) } else { Ok(message) }
}

/// A name in wire form, now and then in capitals.
fn name(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut text = match u.int_in_range(0..=3)? {
        0 => (*u.choose(&NAMES)?).to_owned(),
        _ => format!("n{}.example", u.int_in_range(0..=9)?),
    };
    if u.ratio(1, 8)? {
        text.make_ascii_uppercase();
    }
    let mut wire = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("names of ours are short"));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    Ok(wire)
}

/// The message with a few octets changed, or its end cut off, or something added.
fn damaged(u: &mut Unstructured<'_>, mut message: Vec<u8>) -> Result<Vec<u8>> {
    match u.int_in_range(0..=2)? {
        0 => message.truncate(u.int_in_range(0..=message.len())?),
        1 => message.extend_from_slice(&octets(u)?),
        _ => {
            for _ in 0..u.int_in_range(1..=3)? {
                let at = u.choose_index(message.len())?;
                message[at] = u.arbitrary()?;
            }
        }
    }
    Ok(message)
}

/// What an upstream says to a query that it was sent, right or wrong.
pub(super) fn reply(u: &mut Unstructured<'_>, sent: &[u8]) -> Result<Vec<u8>> {
    let Some(mut reply) = Reply::to(sent) else { return octets(u) };
    match u.int_in_range(0..=11)? {
        0 => reply.set_rcode(*u.choose(&[1, 2, 4, 5, 9])?),
        1 => {
            reply.set_rcode(*u.choose(&[1, 2, 4, 5])?);
            reply.message.truncate(HEADER);
            reply.message[4..].fill(0);
            return Ok(reply.message);
        }
        2 => {
            reply.set_rcode(*u.choose(&[0, 3])?);
            reply.add(Section::Authority, 6, ttl(u)?, SOA);
        }
        3 => reply.message[2] |= 0x02,
        4 => reply.add(Section::Answer, 5, ttl(u)?, &[0xc0, 12]),
        5 => reply.add(Section::Authority, 2, ttl(u)?, b"\x02ns\xc0\x0c"),
        6 => {
            // Texts up to more than any datagram holds.
            for _ in 0..u.int_in_range(1..=24)? {
                reply.add(Section::Answer, 16, ttl(u)?, &[200; 201]);
            }
        }
        _ => {
            let asked = reply.record_type;
            for _ in 0..u.int_in_range(1..=5)? {
                let last = u.int_in_range(1..=6)?;
                match asked {
                    28 => reply.add(
                        Section::Answer,
                        28,
                        ttl(u)?,
                        &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last],
                    ),
                    1 => reply.add(Section::Answer, 1, ttl(u)?, &[192, 0, 2, last]),
                    other => reply.add(Section::Answer, other, ttl(u)?, &[3, b'a', b'b', last]),
                }
            }
        }
    }
    match u.int_in_range(0..=3)? {
        0 => reply.add_opt(&[]),
        1 => reply.add_opt(&[0, 15, 0, 2, 0, 22]),
        _ => {}
    }
    let question = HEADER..reply.question_end;
    match u.int_in_range(0..=15)? {
        0 | 1 => reply.message[question].make_ascii_lowercase(),
        2 => reply.message[0] ^= 1,
        3 => reply.message[HEADER + 1] ^= 1,
        4 => return damaged(u, reply.message),
        _ => {}
    }
    Ok(reply.message)
}

fn ttl(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(*u.choose(&[0, 1, 5, 7, 60, 3_600, 0x7fff_ffff, u32::MAX])?)
}

/// A SOA with a MINIMUM of a minute.
const SOA: &[u8] = b"\x02ns\xc0\x0c\xc0\x0c\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x3c";

#[derive(Clone, Copy)]
enum Section {
    Answer = 7,
    Authority = 9,
    Additional = 11,
}

/// A reply that is being put together.
struct Reply {
    message: Vec<u8>,
    question_end: usize,
    record_type: u16,
}

impl Reply {
    /// One without records to a query of ours; `None` if that is not what `sent` is.
    fn to(sent: &[u8]) -> Option<Self> {
        let name = sent.get(HEADER..)?.iter().position(|octet| *octet == 0)?;
        let question_end = HEADER + name + 5;
        let mut message = sent.get(..question_end)?.to_vec();
        message[2] |= 0x80;
        message[3] = 0x80;
        message[6..HEADER].fill(0);
        let record_type =
            u16::from_be_bytes([message[question_end - 4], message[question_end - 3]]);
        Some(Self { message, question_end, record_type })
    }

    fn set_rcode(&mut self, rcode: u8) {
        self.message[3] = 0x80 | rcode;
    }

    /// Adds a record of the question's name. Sections have to be filled in order.
    fn add(&mut self, section: Section, record_type: u16, ttl: u32, rdata: &[u8]) {
        self.message[section as usize] += 1;
        self.message.extend_from_slice(&[0xc0, 12]);
        self.message.extend_from_slice(&record_type.to_be_bytes());
        self.message.extend_from_slice(&[0, 1]);
        self.message.extend_from_slice(&ttl.to_be_bytes());
        let length = u16::try_from(rdata.len()).expect("records of ours are short");
        self.message.extend_from_slice(&length.to_be_bytes());
        self.message.extend_from_slice(rdata);
    }

    fn add_opt(&mut self, options: &[u8]) {
        self.message[Section::Additional as usize] += 1;
        self.message.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0]);
        let length = u16::try_from(options.len()).expect("options of ours are short");
        self.message.extend_from_slice(&length.to_be_bytes());
        self.message.extend_from_slice(options);
    }
}
