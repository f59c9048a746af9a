//! DNS messages of the actors, by hand: what clients and engines send, read octet by octet, and what
//! servers reply. Replies that clients get are read with hickory-proto instead.

use std::net::{IpAddr, SocketAddr};

/// Types that clients ask for.
pub mod types {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// An alias.
    pub const CNAME: u16 = 5;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// A mail exchange; no name of the world has one.
    pub const MX: u16 = 15;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// Everything.
    pub const ANY: u16 = 255;
}

/// The flag of a response.
pub const QR: u16 = 0x8000;
/// The flag of an answer by who is in charge of a zone.
pub const AA: u16 = 0x0400;
/// The flag of a message that was cut off.
pub const TC: u16 = 0x0200;
/// The flag of a query that wants recursion.
pub const RD: u16 = 0x0100;
/// The flag of a server that has recursion.
pub const RA: u16 = 0x0080;
/// The flag that has no meaning yet.
pub const Z: u16 = 0x0040;
/// The flag of data that was validated, or of who wants to know.
pub const AD: u16 = 0x0020;
/// The flag of a client that validates by itself.
pub const CD: u16 = 0x0010;

/// The cookie of all clients that have one.
pub const CLIENT_COOKIE: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8];

/// A client's EDNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEdns {
    /// What it can take.
    pub size: u16,
    /// Whether it wants signatures.
    pub dnssec_ok: bool,
    /// Its version; only zero is defined.
    pub version: u8,
    /// Options, encoded.
    pub options: Vec<u8>,
}

/// A query of a client.
#[must_use]
pub fn query(id: u16, flags: u16, name: &[u8], qtype: u16, edns: Option<&ClientEdns>) -> Vec<u8> {
    let mut message = Vec::with_capacity(12 + name.len() + 4 + 11);
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&flags.to_be_bytes());
    message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    message.extend_from_slice(name);
    message.extend_from_slice(&qtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    if let Some(edns) = edns {
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&edns.size.to_be_bytes());
        message.extend_from_slice(&[0, edns.version, if edns.dnssec_ok { 0x80 } else { 0 }, 0]);
        let length = u16::try_from(edns.options.len()).expect("few options");
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&edns.options);
    }
    message
}

/// A header of the PROXY protocol, version 2, for a datagram of this client (its section 2.2).
///
/// # Panics
/// Never: two addresses are short.
#[must_use]
pub fn proxy_header(client: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let (family, octets) = match client.ip() {
        IpAddr::V4(ip) => (0x12, ip.octets().to_vec()),
        IpAddr::V6(ip) => (0x22, ip.octets().to_vec()),
    };
    header.extend([family, 0, u8::try_from(2 * octets.len() + 4).expect("two addresses")]);
    header.extend_from_slice(&octets);
    header.extend(std::iter::repeat_n(0, octets.len()));
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend([0, 53]);
    header
}

/// A query that an engine sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its id.
    pub id: u16,
    /// Its flags.
    pub flags: u16,
    /// Where the question ends; it starts behind the header.
    pub question_end: usize,
    /// Its type.
    pub qtype: u16,
    /// The octets it can take and DO, if it has an OPT record.
    pub edns: Option<(u16, bool)>,
}

impl Asked {
    /// Reads a query of an engine, which has to be exactly as we write them.
    ///
    /// # Errors
    /// What is odd about it.
    pub fn read(message: &[u8]) -> Result<Self, &'static str> {
        let number =
            |at: usize| message.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        let (Some(id), Some(flags)) = (number(0), number(2)) else {
            return Err("shorter than a header");
        };
        if message.get(4..10) != Some(&[0, 1, 0, 0, 0, 0]) {
            return Err("other counts than one question");
        }
        let mut end = 12;
        loop {
            match message.get(end) {
                Some(0) => break,
                Some(length) if *length < 64 => end += 1 + usize::from(*length),
                Some(_) | None => return Err("the name does not end"),
            }
        }
        let (Some(qtype), Some(1)) = (number(end + 1), number(end + 3)) else {
            return Err("no type, or another class than IN");
        };
        let question_end = end + 5;
        let rest = &message[question_end..];
        let edns = match (number(10), rest) {
            (Some(0), []) => None,
            (
                Some(1),
                [0, 0, 41, high, low, 0, 0, bits @ (0 | 0x80), 0, more, less, options @ ..],
            ) if usize::from(u16::from_be_bytes([*more, *less])) == options.len() => {
                check_options(options)?;
                Some((u16::from_be_bytes([*high, *low]), *bits == 0x80))
            }
            _ => return Err("something else than an OPT record behind the question"),
        };
        Ok(Self { id, flags, question_end, qtype, edns })
    }

    /// The name as it was sent.
    #[must_use]
    pub fn name<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        &message[12..self.question_end - 4]
    }
}

/// Only what an engine has to say of its own: a cookie, that it wants to keep the connection, padding,
/// in this order and each once. Clients of the world send one cookie, `CLIENT_COOKIE`.
fn check_options(options: &[u8]) -> Result<(), &'static str> {
    let mut rest = options;
    let mut last = 0;
    while let [0, code, more, less, payload @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*more, *less]));
        let Some((payload, after)) = payload.split_at_checked(length) else {
            return Err("an option that overruns its OPT record");
        };
        let fine = match code {
            10 => matches!(length, 8 | 16..=40) && !payload.starts_with(CLIENT_COOKIE),
            11 => length == 0,
            12 => payload.iter().all(|octet| *octet == 0),
            _ => false,
        };
        if !fine || *code <= last {
            return Err("an option that is none of ours");
        }
        (last, rest) = (*code, after);
    }
    if rest.is_empty() { Ok(()) } else { Err("octets that are no option") }
}

/// A reply that is being written.
#[derive(Debug)]
pub struct Reply {
    octets: Vec<u8>,
}

impl Reply {
    /// The start of a reply to a query of an engine.
    #[must_use]
    pub fn to(asked: &Asked, message: &[u8], rcode: u8) -> Self {
        let mut octets = Vec::with_capacity(256);
        octets.extend_from_slice(&asked.id.to_be_bytes());
        let flags = QR | RA | (asked.flags & (RD | CD)) | u16::from(rcode);
        octets.extend_from_slice(&flags.to_be_bytes());
        octets.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        octets.extend_from_slice(&message[12..asked.question_end]);
        Self { octets }
    }

    /// Counts a record of a section: 1 answers, 2 authorities, 3 additional ones.
    fn count(&mut self, section: usize) {
        let at = 4 + 2 * section;
        let count = u16::from_be_bytes([self.octets[at], self.octets[at + 1]]) + 1;
        self.octets[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }

    /// Adds a record; its owner in wire form may be a pointer.
    pub fn record(&mut self, section: usize, owner: &[u8], rtype: u16, ttl: u32, data: &[u8]) {
        self.count(section);
        self.octets.extend_from_slice(owner);
        self.octets.extend_from_slice(&rtype.to_be_bytes());
        self.octets.extend_from_slice(&[0, 1]);
        self.octets.extend_from_slice(&ttl.to_be_bytes());
        self.octets
            .extend_from_slice(&u16::try_from(data.len()).expect("short data").to_be_bytes());
        self.octets.extend_from_slice(data);
    }

    /// Adds the OPT record of a server, with an extended error (RFC 8914) if there is one.
    pub fn opt(&mut self, dnssec_ok: bool, extended_error: Option<u16>) {
        self.count(3);
        let flags = if dnssec_ok { 0x80 } else { 0 };
        self.octets.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, flags, 0, 0]);
        match extended_error.map(u16::to_be_bytes) {
            None => self.octets.push(0),
            Some([high, low]) => self.octets.extend_from_slice(&[6, 0, 15, 0, 2, high, low]),
        }
    }

    /// Says that the data was validated.
    pub fn authentic(&mut self) {
        self.octets[3] |= AD as u8;
    }

    /// Leaves all records out and says so.
    pub fn truncate(&mut self, asked: &Asked) {
        self.octets.truncate(asked.question_end);
        self.octets[6..12].fill(0);
        self.octets[2] |= 2;
    }

    /// The message.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.octets
    }
}

/// A name in wire form.
///
/// # Panics
/// If a label is too long.
#[must_use]
pub fn wire_name(text: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("a short label"));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_odd_about_a_query_is_named() {
        let edns = ClientEdns { size: 1_232, dnssec_ok: true, version: 0, options: Vec::new() };
        let message = query(7, RD, &wire_name("a.example."), types::A, Some(&edns));
        let asked = Asked::read(&message).expect("it is plain");
        assert_eq!((asked.id, asked.qtype, asked.edns), (7, types::A, Some((1_232, true))));
        assert_eq!(asked.name(&message), wire_name("a.example."));
        let with = |options: &[u8]| {
            let edns = ClientEdns { options: options.to_vec(), ..edns.clone() };
            Asked::read(&query(7, RD, &wire_name("a.example."), types::A, Some(&edns)))
        };
        let ours = b"\0\x0a\0\x08its own.\0\x0b\0\0\0\x0c\0\x02\0\0";
        assert_eq!(with(ours).map(|asked| asked.edns), Ok(Some((1_232, true))));
        let leaking = [&b"\0\x0a\0\x08"[..], CLIENT_COOKIE].concat();
        for wrong in [
            &b"\0\x0a\0\0"[..],
            &leaking,
            b"\0\x08\0\x04\0\x01\0\0",
            b"\0\x0c\0\0\0\x0b\0\0",
            b"\0\x0c\0\x01x",
            b"\0\x0b\0\x01",
            b"\0\x0b\0",
        ] {
            assert!(with(wrong).is_err(), "{wrong:02x?}");
        }
        assert!(Asked::read(&message[..20]).is_err());
    }

    #[test]
    fn a_reply_counts_its_records() {
        let message = query(7, RD, &wire_name("a.example."), types::A, None);
        let asked = Asked::read(&message).expect("it is plain");
        let mut reply = Reply::to(&asked, &message, 3);
        reply.record(2, &[0xc0, 12], types::SOA, 9, &[1, 2]);
        reply.opt(true, None);
        let octets = reply.finish();
        assert_eq!(octets[4..12], [0, 1, 0, 0, 0, 1, 0, 1]);
        assert_eq!(octets[3] & 15, 3);
    }
}
