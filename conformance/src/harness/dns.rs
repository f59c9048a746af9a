//! Messages: queries built octet by octet, so that a test can say anything, and replies decoded by
//! hickory-proto with the checks that hold for every reply.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;
/// The flag of OPT (RFC 3225 section 3).
const DO: u16 = 0x8000;
/// The EDNS option of RFC 8914.
const EXTENDED_ERROR: u16 = 15;

/// A bit of the header that no query may have set, nor any reply (RFC 1035 section 4.1.1).
pub(crate) const Z: u16 = 0x0040;
/// Header bits that have a meaning in replies only.
pub(crate) const AA_TC_RA: u16 = 0x0400 | TC | RA;

/// A query before it is encoded.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) id: u16,
    flags: u16,
    name: Vec<u8>,
    qtype: u16,
    qclass: u16,
    edns: Option<Edns>,
}

#[derive(Clone, Debug)]
struct Edns {
    size: u16,
    rcode_high: u8,
    version: u8,
    flags: u16,
    options: Vec<(u16, Vec<u8>)>,
}

impl Query {
    /// One question of class IN, recursion desired, no EDNS, an id of its own.
    pub(crate) fn new(name: &str, qtype: RecordType) -> Self {
        Self::of_labels(&labels_of(name), qtype)
    }

    /// The same with labels of any octets.
    pub(crate) fn of_labels(labels: &[&[u8]], qtype: RecordType) -> Self {
        static NEXT_ID: AtomicU16 = AtomicU16::new(0x1234);
        Self {
            id: NEXT_ID.fetch_add(0x3571, Ordering::Relaxed),
            flags: RD,
            name: wire_name(labels),
            qtype: qtype.into(),
            qclass: 1,
            edns: None,
        }
    }

    /// A question for an IPv4 address.
    pub(crate) fn a(name: &str) -> Self {
        Self::new(name, RecordType::A)
    }

    pub(crate) fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn class(mut self, class: u16) -> Self {
        self.qclass = class;
        self
    }

    pub(crate) fn opcode(mut self, opcode: u16) -> Self {
        self.flags = (self.flags & !OPCODE) | (opcode << 11);
        self
    }

    pub(crate) fn without_rd(mut self) -> Self {
        self.flags &= !RD;
        self
    }

    pub(crate) fn ad(mut self) -> Self {
        self.flags |= AD;
        self
    }

    pub(crate) fn cd(mut self) -> Self {
        self.flags |= CD;
        self
    }

    /// Sets header bits that a query of its own would not have.
    pub(crate) fn flags(mut self, bits: u16) -> Self {
        self.flags |= bits;
        self
    }

    /// Sets QR, as no query may.
    pub(crate) fn with_qr(mut self) -> Self {
        self.flags |= QR;
        self
    }

    /// Adds OPT that offers to take `size` octets.
    pub(crate) fn edns(mut self, size: u16) -> Self {
        self.edns = Some(Edns::offering(size));
        self
    }

    pub(crate) fn dnssec_ok(self) -> Self {
        self.with_edns(|edns| edns.flags |= DO)
    }

    pub(crate) fn edns_version(self, version: u8) -> Self {
        self.with_edns(|edns| edns.version = version)
    }

    /// Sets the upper bits of the rcode and flags of OPT, as no query has reason to.
    pub(crate) fn edns_bits(self, rcode_high: u8, flags: u16) -> Self {
        self.with_edns(|edns| {
            edns.rcode_high = rcode_high;
            edns.flags |= flags;
        })
    }

    pub(crate) fn option(self, code: u16, data: &[u8]) -> Self {
        self.with_edns(|edns| edns.options.push((code, data.to_vec())))
    }

    fn with_edns(mut self, change: impl FnOnce(&mut Edns)) -> Self {
        change(self.edns.get_or_insert(Edns::offering(1232)));
        self
    }

    /// The octets of the question section.
    pub(crate) fn question(&self) -> Vec<u8> {
        let mut octets = self.name.clone();
        octets.extend(self.qtype.to_be_bytes());
        octets.extend(self.qclass.to_be_bytes());
        octets
    }

    /// The whole message.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        for word in [self.id, self.flags, 1, 0, 0, u16::from(self.edns.is_some())] {
            octets.extend(word.to_be_bytes());
        }
        octets.extend(self.question());
        if let Some(edns) = &self.edns {
            octets.extend(edns.encode());
        }
        octets
    }

    /// The OPT record alone, to be added once more.
    pub(crate) fn opt_record(size: u16) -> Vec<u8> {
        Edns::offering(size).encode()
    }

    /// The most octets that may come back in a datagram.
    fn datagram_limit(&self) -> usize {
        self.edns.as_ref().map_or(512, |edns| usize::from(edns.size.max(512)))
    }
}

impl Edns {
    fn offering(size: u16) -> Self {
        Self { size, rcode_high: 0, version: 0, flags: 0, options: Vec::new() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut options = Vec::new();
        for (code, data) in &self.options {
            options.extend(code.to_be_bytes());
            options.extend(length_of(data).to_be_bytes());
            options.extend(data);
        }
        let mut octets = vec![0, 0, 41];
        octets.extend(self.size.to_be_bytes());
        octets.extend([self.rcode_high, self.version]);
        octets.extend(self.flags.to_be_bytes());
        octets.extend(length_of(&options).to_be_bytes());
        octets.extend(options);
        octets
    }
}

/// What came back: the octets, and what hickory-proto makes of them.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) message: Message,
}

impl Reply {
    /// Decodes; a reply that does not decode, or has octets left over, fails the test.
    pub(crate) fn decode(bytes: Vec<u8>) -> Self {
        let mut decoder = BinDecoder::new(&bytes);
        let message = Message::read(&mut decoder)
            .unwrap_or_else(|error| panic!("the reply does not decode: {error}: {bytes:02x?}"));
        assert!(decoder.is_empty(), "octets after the last record: {bytes:02x?}");
        Self { bytes, message }
    }

    /// Checks what holds for every reply to `query`: same id, opcode, RD and question to the
    /// letter, QR set, OPT if and only if asked.
    pub(crate) fn check_echo(&self, query: &Query) {
        assert_eq!(self.message.metadata.id, query.id, "id: {self:?}");
        assert_eq!(self.message.metadata.message_type, MessageType::Response);
        assert_eq!(self.flags() & (OPCODE | RD), query.flags & (OPCODE | RD), "opcode and RD");
        assert_eq!(
            self.message.edns.is_some(),
            query.edns.is_some(),
            "OPT if and only if asked: {self:?}"
        );
        let question = query.question();
        assert_eq!(
            self.bytes.get(12..12 + question.len()),
            Some(question.as_slice()),
            "question to the letter: {self:?}"
        );
    }

    /// Checks that the reply may travel in a datagram to who sent `query`.
    pub(crate) fn check_datagram(&self, query: &Query) {
        assert!(
            self.bytes.len() <= query.datagram_limit(),
            "{} octets where {} fit",
            self.bytes.len(),
            query.datagram_limit()
        );
    }

    /// The second word of the header.
    pub(crate) fn flags(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    pub(crate) fn truncated(&self) -> bool {
        self.flags() & TC != 0
    }

    pub(crate) fn recursion_available(&self) -> bool {
        self.flags() & RA != 0
    }

    pub(crate) fn authentic_data(&self) -> bool {
        self.flags() & AD != 0
    }

    pub(crate) fn checking_disabled(&self) -> bool {
        self.flags() & CD != 0
    }

    /// The rcode with the upper bits from OPT (RFC 6891 section 6.1.3).
    pub(crate) fn rcode(&self) -> u16 {
        let high = self.message.edns.as_ref().map_or(0, |edns| u16::from(edns.rcode_high()));
        (high << 4) | (self.flags() & 0x000f)
    }

    /// The addresses of the answer section, in order.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
    }

    /// The only address of the answer, as text.
    pub(crate) fn address(&self) -> String {
        match self.addresses().as_slice() {
            [one] => one.to_string(),
            other => panic!("one address expected, not {other:?}: {:?}", self.message),
        }
    }

    /// The TTL of the first record of the answer.
    pub(crate) fn ttl(&self) -> u32 {
        self.message.answers.first().expect("the answer holds a record").ttl
    }

    /// The SOA of the authority section, if it is there.
    pub(crate) fn soa(&self) -> Option<&Record> {
        self.message.authorities.iter().find(|record| record.record_type() == RecordType::SOA)
    }

    /// The info codes of all Extended DNS Errors (RFC 8914).
    pub(crate) fn extended_errors(&self) -> Vec<u16> {
        let Some(edns) = &self.message.edns else {
            return Vec::new();
        };
        edns.options()
            .options
            .iter()
            .filter_map(|(_, option)| {
                let EdnsOption::Unknown(EXTENDED_ERROR, data) = option else {
                    return None;
                };
                let code = data.get(..2).expect("an info code has two octets");
                Some(u16::from_be_bytes([code[0], code[1]]))
            })
            .collect()
    }

    /// Info code and text of the only Extended DNS Error (RFC 8914 section 2).
    pub(crate) fn extended_error(&self) -> (u16, String) {
        let data = self.option(EXTENDED_ERROR).expect("an extended error");
        let (code, text) = data.split_first_chunk().expect("an info code has two octets");
        (u16::from_be_bytes(*code), String::from_utf8(text.to_vec()).expect("it is UTF-8"))
    }

    /// The records of the answer: type and data as text, in order.
    pub(crate) fn answers(&self) -> Vec<String> {
        let records = self.message.answers.iter();
        records.map(|record| format!("{} {}", record.record_type(), record.data)).collect()
    }

    /// Checks that it has no answer but a SOA, whose TTLs say how long that is remembered (RFC 2308
    /// section 5).
    pub(crate) fn check_negative(&self, rcode: u16, ttl: u32) {
        assert_eq!((self.rcode(), self.message.answers.len()), (rcode, 0), "{:?}", self.message);
        assert_eq!(self.negative_ttl(), Some(ttl), "{:?}", self.message);
        assert!(self.recursion_available());
    }

    /// How long a resolver remembers that there is nothing.
    pub(crate) fn negative_ttl(&self) -> Option<u32> {
        let record = self.soa()?;
        let RData::SOA(soa) = &record.data else { return None };
        Some(record.ttl.min(soa.minimum))
    }

    /// The codes of all EDNS options.
    pub(crate) fn option_codes(&self) -> Vec<u16> {
        option_codes(&self.message)
    }

    /// The data of an EDNS option, if it is there.
    pub(crate) fn option(&self, code: u16) -> Option<Vec<u8>> {
        option(&self.message, code)
    }
}

/// The data of an EDNS option of a message.
pub(crate) fn option(message: &Message, code: u16) -> Option<Vec<u8>> {
    let options = &message.edns.as_ref()?.options().options;
    let mut found = options.iter().filter(|(one, _)| u16::from(*one) == code);
    let (_, option) = found.next()?;
    assert!(found.next().is_none(), "option {code} twice");
    Some(Vec::try_from(option).expect("an option that was read can be written"))
}

/// The codes of all EDNS options of a message.
pub(crate) fn option_codes(message: &Message) -> Vec<u16> {
    let Some(edns) = &message.edns else {
        return Vec::new();
    };
    edns.options().options.iter().map(|(code, _)| u16::from(*code)).collect()
}

/// A record of any name.
pub(crate) fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).expect("a test's name is valid"), ttl, data)
}

/// An A or AAAA record.
pub(crate) fn address(name: &str, ttl: u32, ip: &str) -> Record {
    let data = match ip.parse().expect("a test's address is valid") {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    record(name, ttl, data)
}

/// An SOA record with the two numbers that matter for negative answers (RFC 2308 section 5).
pub(crate) fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
    let name = |text: &str| Name::from_ascii(text).expect("a test's name is valid");
    let data = SOA::new(name("ns.example.org."), name("mail.example.org."), 1, 2, 3, 4, minimum);
    record(zone, ttl, RData::SOA(data))
}

/// A TXT record whose data takes about `octets` octets on the wire.
pub(crate) fn txt_of(name: &str, ttl: u32, octets: usize) -> Record {
    let strings = vec!["x".repeat(250); octets.div_ceil(251)];
    record(name, ttl, RData::TXT(TXT::new(strings)))
}

/// A record octet by octet: owner in wire form, type, class IN, TTL, data.
pub(crate) fn raw_record(owner: &[u8], rtype: RecordType, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut octets = owner.to_vec();
    octets.extend(u16::from(rtype).to_be_bytes());
    octets.extend([0, 1]);
    octets.extend(ttl.to_be_bytes());
    octets.extend(length_of(data).to_be_bytes());
    octets.extend(data);
    octets
}

/// Changes one of the four counts of a header.
pub(crate) fn set_count(octets: &mut [u8], section: usize, count: u16) {
    octets[4 + 2 * section..6 + 2 * section].copy_from_slice(&count.to_be_bytes());
}

/// The wire form of a name without escapes.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    wire_name(&labels_of(name))
}

fn labels_of(name: &str) -> Vec<&[u8]> {
    name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect()
}

fn wire_name(labels: &[&[u8]]) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in labels {
        octets.push(u8::try_from(label.len()).expect("a test's label is short"));
        octets.extend(*label);
    }
    octets.push(0);
    octets
}

fn length_of(octets: &[u8]) -> u16 {
    u16::try_from(octets.len()).expect("a test's message fits")
}
