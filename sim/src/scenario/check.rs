//! Messages against what is expected of them, decoded by hickory-proto and never by core's code.
//!
//! What holds for every reply is checked whether a scenario says it or not: [`always_of_reply`] and
//! [`always_of_query`].

use std::fmt::Write as _;

use balancedns_core::engine::Transport;
use hickory_proto::op::Message;
use hickory_proto::rr;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::expect::ExpectedReply;
use super::message::{Query, Record, SECTIONS};
use super::wire::{self, bits};

/// RFC 8914 section 2.
const EXTENDED_ERROR: u16 = 15;
/// RFC 7873 section 4.
const COOKIE: u16 = 10;
/// RFC 7828 section 3.1.
const KEEPALIVE: u16 = 11;
/// RFC 7830 section 3.
const PADDING: u16 = 12;
const HEADER_OCTETS: usize = 12;

/// A message and what hickory-proto makes of it.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    pub(super) octets: Vec<u8>,
    message: Message,
}

impl Decoded {
    /// # Errors
    /// If it cannot be decoded, or has octets left over.
    pub(super) fn new(octets: &[u8]) -> Result<Self, String> {
        let mut decoder = BinDecoder::new(octets);
        let message = Message::read(&mut decoder)
            .map_err(|error| format!("it cannot be decoded: {error}\n  {}", hex(octets)))?;
        if !decoder.is_empty() {
            return Err(format!("there are octets behind its last record\n  {}", hex(octets)));
        }
        Ok(Self { octets: octets.to_vec(), message })
    }

    pub(super) fn id(&self) -> u16 {
        self.message.metadata.id
    }

    /// The second word of the header.
    pub(super) fn flags(&self) -> u16 {
        u16::from_be_bytes([self.octets[2], self.octets[3]])
    }

    /// Name, type and class of the first question in wire form; empty if there is none.
    pub(super) fn question(&self) -> &[u8] {
        if self.message.queries.is_empty() {
            return &[];
        }
        let rest = &self.octets[HEADER_OCTETS..];
        let mut end = 0;
        while let Some(length) = rest.get(end).filter(|length| **length > 0) {
            end += 1 + usize::from(*length);
        }
        rest.get(..end + 5).unwrap_or_default()
    }

    /// The rcode with its upper bits from OPT (RFC 6891 section 6.1.3).
    fn rcode(&self) -> u16 {
        let high = self.message.edns.as_ref().map_or(0, |edns| u16::from(edns.rcode_high()));
        high << 4 | self.flags() & bits::RCODE
    }

    pub(super) fn has_edns(&self) -> bool {
        self.message.edns.is_some()
    }

    pub(super) fn edns_size(&self) -> Option<u16> {
        self.message.edns.as_ref().map(hickory_proto::op::Edns::max_payload)
    }

    pub(super) fn dnssec_ok(&self) -> bool {
        self.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    fn options(&self) -> Vec<(u16, Vec<u8>)> {
        let Some(edns) = &self.message.edns else {
            return Vec::new();
        };
        let option = |option: &EdnsOption| Vec::<u8>::try_from(option).unwrap_or_default();
        edns.options().options.iter().map(|(code, data)| (u16::from(*code), option(data))).collect()
    }

    /// Codes and texts of its extended errors (RFC 8914 section 2).
    fn extended_errors(&self) -> Vec<(u16, String)> {
        let options = self.options();
        let errors = options.iter().filter(|(code, _)| *code == EXTENDED_ERROR);
        let read = errors.filter_map(|(_, data)| {
            let (code, text) = data.split_first_chunk()?;
            Some((u16::from_be_bytes(*code), String::from_utf8_lossy(text).into_owned()))
        });
        read.collect()
    }

    fn sections(&self) -> [&[rr::Record]; 3] {
        let Message { answers, authorities, additionals, .. } = &self.message;
        [answers, authorities, additionals]
    }

    /// In the words of a scenario.
    pub(super) fn show(&self) -> String {
        let mut text = format!("  {} id {}", wire::rcode_name(self.rcode()), self.id());
        for (name, bit) in bits::NAMES {
            if self.flags() & bit != 0 {
                let _ = write!(text, " {name}");
            }
        }
        for query in &self.message.queries {
            let _ = write!(
                text,
                " for {} {} {}",
                query.name(),
                query.query_type(),
                query.query_class()
            );
        }
        if let Some(edns) = &self.message.edns {
            let _ = write!(text, " edns {}", edns.max_payload());
            if edns.version() != 0 {
                let _ = write!(text, " version {}", edns.version());
            }
            text.push_str(if self.dnssec_ok() { " do" } else { "" });
        }
        for (code, data) in self.options() {
            match (code, data.split_first_chunk()) {
                (EXTENDED_ERROR, Some((error, why))) => {
                    let _ = write!(text, " ede {}", u16::from_be_bytes(*error));
                    if !why.is_empty() {
                        let _ = write!(text, " because \"{}\"", why.escape_ascii());
                    }
                }
                _ => {
                    let _ = write!(text, " option {code} {}", hex(&data));
                }
            }
        }
        let _ = write!(text, " octets {}", self.octets.len());
        for (name, records) in SECTIONS.iter().zip(self.sections()) {
            for record in records {
                let (owner, ttl, class) = (&record.name, record.ttl, record.dns_class);
                let shown = format!("{} {}", record.record_type(), record.data);
                let shown: String = shown.chars().take(200).collect();
                let _ = write!(text, "\n    {name} {owner} {ttl} {class} {shown}");
            }
        }
        text
    }
}

pub(super) fn hex(octets: &[u8]) -> String {
    let shown = octets.iter().take(512).fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    });
    if octets.len() > 512 { format!("{shown}... ({} octets)", octets.len()) } else { shown }
}

/// What is true of every reply to a query that a client asked properly.
///
/// # Errors
/// What is not.
pub(super) fn always_of_reply(
    reply: &Decoded,
    query: &Query,
    transport: Transport,
    own_size: u16,
) -> Result<(), String> {
    let is_stream = matches!(transport, Transport::Tcp | Transport::Dot);
    let wanted = bits::QR | bits::RA | query.flags() & (bits::OPCODE | bits::RD | bits::CD);
    let looked_at = bits::QR | bits::OPCODE | bits::RD | bits::RA | bits::Z | bits::CD;
    if reply.flags() & looked_at != wanted {
        return Err(
            "QR and RA are set, Z is clear, opcode, RD and CD are those of the query".into()
        );
    }
    if reply.has_edns() != query.edns.is_some() {
        return Err("there is an OPT record if and only if the query has one".to_owned());
    }
    if let (Some(ours), Some(theirs)) = (&reply.message.edns, &query.edns) {
        if ours.version() != 0 || ours.max_payload() != own_size {
            return Err(format!("its OPT record has version 0 and the size {own_size}"));
        }
        if theirs.version == 0 && reply.dnssec_ok() != theirs.dnssec_ok {
            return Err("DO is copied".to_owned());
        }
        for (code, data) in reply.options() {
            let asked_for = match code {
                EXTENDED_ERROR => true,
                // The client's cookie and one of ours (RFC 9018 section 4).
                COOKIE => theirs
                    .option(COOKIE)
                    .and_then(<[u8]>::first_chunk::<8>)
                    .is_some_and(|cookie| data.starts_with(cookie) && data.len() == 24),
                PADDING => is_encrypted(transport) && theirs.option(PADDING).is_some(),
                KEEPALIVE => is_stream && theirs.option(KEEPALIVE).is_some() && data.len() == 2,
                _ => false,
            };
            if !asked_for {
                return Err(format!("option {code} is none that was asked for"));
            }
        }
    }
    if transport == Transport::Udp {
        let limit = query.edns.as_ref().map_or(512, |edns| edns.size.clamp(512, own_size.max(512)));
        if reply.octets.len() > usize::from(limit) {
            return Err(format!("{} octets do not fit {limit}", reply.octets.len()));
        }
    }
    Ok(())
}

/// Whether padding hides something there.
fn is_encrypted(transport: Transport) -> bool {
    matches!(transport, Transport::Dot | Transport::Doh)
}

/// What is true of every query that goes upstream.
///
/// # Errors
/// What is not.
pub(super) fn always_of_query(query: &Decoded, transport: Transport) -> Result<(), String> {
    if transport == Transport::Doh && query.id() != 0 {
        return Err("over HTTP its id is 0, so that caches may work (RFC 8484 section 4.1)".into());
    }
    if query.flags() & !(bits::AD | bits::CD) != bits::RD {
        return Err("it is a standard query with RD, AD, CD and nothing else".to_owned());
    }
    let records: usize = query.sections().iter().map(|section| section.len()).sum();
    if query.message.queries.len() != 1 || records > 0 {
        return Err("it has one question and no records but OPT".to_owned());
    }
    if let Some(edns) = &query.message.edns
        && (edns.version() != 0 || edns.rcode_high() != 0)
    {
        return Err("its OPT record has version 0".to_owned());
    }
    let is_ours = |(code, data): &(u16, Vec<u8>)| match *code {
        COOKIE => matches!(data.len(), 8 | 16..=40),
        KEEPALIVE => data.is_empty(),
        PADDING => is_encrypted(transport) && data.iter().all(|octet| *octet == 0),
        _ => false,
    };
    if !query.options().iter().all(is_ours) {
        return Err(
            "its only options are a cookie, that the connection is to be kept, and padding".into(),
        );
    }
    Ok(())
}

/// Compares a reply with what is expected of it.
///
/// # Errors
/// Each thing that differs, in a line of its own.
pub(super) fn reply(expected: &ExpectedReply, reply: &Decoded) -> Result<(), String> {
    let mut wrong = Vec::new();
    let mut differs = |is_wrong: bool, what: String| {
        if is_wrong {
            wrong.push(what);
        }
    };
    let name = wire::rcode_name(expected.rcode);
    differs(reply.rcode() != expected.rcode, format!("rcode {name}"));
    for (name, bit) in [("aa", bits::AA), ("tc", bits::TC), ("ad", bits::AD)] {
        let is_set = if expected.flags & bit != 0 { "set" } else { "clear" };
        differs((reply.flags() ^ expected.flags) & bit != 0, format!("{name} {is_set}"));
    }
    if let Some(id) = expected.id {
        differs(reply.id() != id, format!("id {id}"));
    }
    if let Some(question) = &expected.question {
        differs(!reply.question().eq_ignore_ascii_case(question), "another question".to_owned());
    }
    if let Some(size) = expected.edns_size {
        differs(reply.edns_size() != Some(size), format!("edns {size}"));
    }
    if let Some(octets) = expected.octets {
        differs(reply.octets.len() != octets, format!("octets {octets}"));
    }
    let (errors, found) = (&expected.extended_errors, reply.extended_errors());
    let codes: Vec<u16> = found.iter().map(|(code, _)| *code).collect();
    differs(codes != *errors, format!("extended errors (ede) {errors:?}"));
    if let Some(because) = &expected.because {
        let is_said = found.iter().any(|(_, text)| text.contains(because));
        differs(!is_said, format!("because \"{because}\""));
    }
    for (section, (expected_records, records)) in
        expected.sections.iter().zip(reply.sections()).enumerate()
    {
        let Some(expected_records) = expected_records else { continue };
        let same = expected_records.len() == records.len()
            && expected_records
                .iter()
                .zip(records)
                .all(|(wanted, record)| same_record(wanted, record, reply, expected.exact_case));
        let mut text = format!("section {}:", SECTIONS[section]);
        for record in expected_records {
            let _ = write!(text, "\n      {}", record.text);
        }
        differs(!same, text + if expected_records.is_empty() { " empty" } else { "" });
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n    ")) }
}

/// Whether a record is as expected. Both are compared as hickory-proto reads them: names in their
/// data may differ in letter case.
fn same_record(wanted: &Record, found: &rr::Record, reply: &Decoded, exact_case: bool) -> bool {
    let question = reply.question();
    let asked = &question[..question.len().saturating_sub(4)];
    let Ok(read) = rr::Record::from_bytes(&wanted.encode(Some(asked))) else {
        return false;
    };
    let same_owner =
        if exact_case { read.name.eq_case(&found.name) } else { read.name == found.name };
    same_owner
        && wanted.ttl.allows(found.ttl)
        && read.dns_class == found.dns_class
        && read.record_type() == found.record_type()
        && read.data == found.data
}
