//! An upstream's response, borrowed: walked once, classified after RFC 2308 section 2.
//!
//! Owner names and lengths are checked, names inside RDATA are not: those are passed on as they
//! came. Whether a response belongs to a query is the caller's question.

use super::codes::{ExtendedError, Rcode, RecordType};
use super::edns::{
    CLIENT_SUBNET, COOKIE, EXTENDED_ERROR, KEEPALIVE_UNIT, TCP_KEEPALIVE, extended_rcode, options,
};
use super::header::{Flags, Header};
use super::octets::Reader;
use super::query::Question;
use super::record::{Record, read_record};
use crate::planted::{Bug, is_planted};
use crate::time::Duration;

/// A response whose every record was walked.
#[derive(Copy, Clone, Debug)]
pub struct ResponseView<'a> {
    message: &'a [u8],
    id: u16,
    flags: Flags,
    question: Option<Question<'a>>,
    sections: Sections,
    opt: Option<Record<'a>>,
    facts: Facts,
}

/// What a response says (RFC 2308 section 2).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// Records that answer the question.
    Answer,
    /// The name, or the one at the end of the CNAME chain, has no records of that type.
    NoData {
        /// Seconds it may be remembered, not yet bounded: the lesser of the SOA's TTL and MINIMUM
        /// (RFC 2308 section 5). `None` without SOA.
        negative_ttl: Option<u32>,
    },
    /// The name, or the one at the end of the CNAME chain, does not exist.
    NxDomain {
        /// As in [`ResponseKind::NoData`].
        negative_ttl: Option<u32>,
    },
    /// Other servers should be asked: this one does not recurse.
    Referral,
    /// Cut off; ask over a stream.
    Truncated,
    /// Any other rcode than NOERROR and NXDOMAIN.
    Error(Rcode),
}

/// Why a message is no response that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedResponse {
    /// Not even a header.
    #[error("{octets} octets are shorter than a header")]
    TooShort {
        /// Its length.
        octets: usize,
    },
    /// QR is clear.
    #[error("the message is a query")]
    Query,
    /// Another opcode than we send.
    #[error("opcode {opcode} instead of 0")]
    Opcode {
        /// Which one.
        opcode: u8,
    },
    /// More than one question.
    #[error("{count} questions instead of one")]
    QuestionCount {
        /// How many.
        count: u16,
    },
    /// The question is cut off, or its name is malformed, compressed or too long.
    #[error("malformed question")]
    Question,
    /// A record is cut off or its owner's name is malformed.
    #[error("malformed record")]
    Record,
    /// A second OPT record, one that is not the root's, or OPT or TSIG among the answers.
    #[error("misplaced {record_type} record")]
    Misplaced {
        /// OPT or TSIG.
        record_type: RecordType,
    },
}

impl<'a> ResponseView<'a> {
    /// Walks a response. One with TC set may end anywhere: what could be read counts then. What
    /// follows the last record is ignored.
    ///
    /// # Errors
    ///
    /// If it cannot be used; see [`MalformedResponse`].
    pub fn parse(message: &'a [u8]) -> Result<Self, MalformedResponse> {
        let mut reader = Reader::new(message);
        let header = Header::read(&mut reader)
            .ok_or(MalformedResponse::TooShort { octets: message.len() })?;
        if !header.flags.contains(Flags::QR) {
            return Err(MalformedResponse::Query);
        }
        if header.flags.opcode() != 0 {
            return Err(MalformedResponse::Opcode { opcode: header.flags.opcode() });
        }
        let question = match header.questions {
            0 => None,
            1 => Some(Question::read(&mut reader).ok_or(MalformedResponse::Question)?),
            count => return Err(MalformedResponse::QuestionCount { count }),
        };
        let asked = question.map(|question| question.record_type);
        let mut walk = Walk::new(asked, reader.position());
        match walk.all(&header, &mut reader) {
            Err(MalformedResponse::Record) if header.flags.contains(Flags::TC) => {}
            other => other?,
        }
        let mut flags = header.flags;
        if is_planted(Bug::TruncatedTakenAsWhole) {
            flags.0 &= !Flags::TC;
        }
        Ok(Self {
            message,
            id: header.id,
            flags,
            question,
            sections: walk.sections,
            opt: walk.opt,
            facts: walk.facts,
        })
    }

    /// The id of whatever message this is; `None` if it is shorter than one.
    #[must_use]
    pub fn peek_id(message: &[u8]) -> Option<u16> {
        Reader::new(message).u16()
    }

    /// The message id.
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// The flags as received.
    #[must_use]
    pub const fn flags(&self) -> Flags {
        self.flags
    }

    /// The rcode, with the high bits of the OPT record.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        extended_rcode(self.flags.rcode(), self.opt.as_ref())
    }

    /// Whether TC is set.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.flags.contains(Flags::TC)
    }

    /// Name, type and class as echoed; empty if the server left the question out, as some do with
    /// FORMERR and NOTIMP.
    #[must_use]
    pub fn question(&self) -> &'a [u8] {
        self.question.map_or(&[], |question| question.octets)
    }

    /// Whether the question is the one sent: the same name but for the case of ASCII letters
    /// (RFC 4343), the same type and class.
    #[must_use]
    pub fn matches_question(&self, sent: &[u8]) -> bool {
        let Some(question) = self.question else {
            return false;
        };
        let mut reader = Reader::new(sent);
        let Some(sent) = Question::read(&mut reader) else {
            return false;
        };
        // Not the octets as a whole: type 65 and type 97 are no letters.
        reader.rest().is_empty()
            && sent.record_type == question.record_type
            && sent.record_class == question.record_class
            && sent.name.eq_ignore_ascii_case(question.name)
    }

    /// What it says (RFC 2308 section 2).
    #[must_use]
    pub fn kind(&self) -> ResponseKind {
        let Facts { negative_ttl, .. } = self.facts;
        if self.truncated() {
            return ResponseKind::Truncated;
        }
        match self.rcode() {
            Rcode::NOERROR => {}
            Rcode::NXDOMAIN => return ResponseKind::NxDomain { negative_ttl },
            other => return ResponseKind::Error(other),
        }
        if self.facts.answered || (self.sections.answers > 0 && negative_ttl.is_none()) {
            return ResponseKind::Answer;
        }
        // Section 2.2: without SOA, name servers among the authorities make a referral, and so do
        // their addresses alone. Section 2.1.1's answers with NXDOMAIN were handled above.
        let directs =
            self.facts.name_servers || (self.sections.authorities == 0 && self.facts.glue);
        if negative_ttl.is_none() && directs {
            return ResponseKind::Referral;
        }
        ResponseKind::NoData { negative_ttl }
    }

    /// For how many seconds an HTTP cache may keep it (RFC 8484 section 5.1): the smallest TTL of the
    /// answers, and where they do not end in what was asked for, of the denial. Without either, 0.
    #[must_use]
    pub fn freshness(&self) -> u32 {
        let denial = self.facts.negative_ttl.filter(|_| !self.facts.answered);
        [self.facts.smallest_ttl, denial].into_iter().flatten().min().unwrap_or(0)
    }

    /// The code of the first Extended DNS Error (RFC 8914).
    #[must_use]
    pub fn extended_error(&self) -> Option<ExtendedError> {
        Reader::new(self.option(EXTENDED_ERROR)?).u16().map(ExtendedError)
    }

    /// The payload of the first COOKIE option (RFC 7873 section 4), not checked.
    #[must_use]
    pub fn cookie(&self) -> Option<&'a [u8]> {
        self.option(COOKIE)
    }

    /// The payload of the first client subnet (RFC 7871 section 6), not checked.
    #[must_use]
    pub fn client_subnet(&self) -> Option<&'a [u8]> {
        self.option(CLIENT_SUBNET)
    }

    /// How long the server lets a connection be idle (RFC 7828 section 3.1). An option without a time
    /// tells nothing.
    #[must_use]
    pub fn keepalive(&self) -> Option<Duration> {
        let units = self.option(TCP_KEEPALIVE)?.try_into().ok().map(u16::from_be_bytes)?;
        Some(KEEPALIVE_UNIT.saturating_mul(u32::from(units)))
    }

    /// The payload of the first option of this code.
    fn option(&self, wanted: u16) -> Option<&'a [u8]> {
        options(self.opt?.rdata).find(|(code, _)| *code == wanted).map(|(_, payload)| payload)
    }

    /// The message as received.
    pub(crate) const fn message(&self) -> &'a [u8] {
        self.message
    }

    /// Where the sections are.
    pub(crate) const fn sections(&self) -> &Sections {
        &self.sections
    }
}

/// Counts and places of what was read.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Sections {
    /// Records among the answers.
    pub(crate) answers: u16,
    /// Records among the authorities.
    pub(crate) authorities: u16,
    /// Additional records, those that concern this message alone left out.
    pub(crate) additionals: u16,
    /// Where the first record begins, from the start of the message.
    pub(crate) start: usize,
    /// Where the authorities end.
    pub(crate) authorities_end: usize,
    /// Where the last additional record ends that is followed by none to be removed.
    pub(crate) kept_end: usize,
    /// Additional records that are kept although one to be removed stands before them.
    pub(crate) stranded: u16,
}

impl Sections {
    /// Records among answers and authorities.
    pub(crate) fn before_additionals(&self) -> usize {
        usize::from(self.answers).saturating_add(usize::from(self.authorities))
    }
}

/// What the kind follows from.
#[derive(Copy, Clone, Debug, Default)]
struct Facts {
    /// A record of the asked type is among the answers.
    answered: bool,
    /// NS is among the authorities.
    name_servers: bool,
    /// Addresses are among the additional records.
    glue: bool,
    /// From the first SOA among the authorities.
    negative_ttl: Option<u32>,
    /// Of all answers.
    smallest_ttl: Option<u32>,
}

/// The walk over all records.
struct Walk<'a> {
    asked: Option<RecordType>,
    sections: Sections,
    opt: Option<Record<'a>>,
    facts: Facts,
}

impl<'a> Walk<'a> {
    fn new(asked: Option<RecordType>, start: usize) -> Self {
        let sections =
            Sections { start, authorities_end: start, kept_end: start, ..Sections::default() };
        Self { asked, sections, opt: None, facts: Facts::default() }
    }

    fn all(&mut self, header: &Header, reader: &mut Reader<'a>) -> Result<(), MalformedResponse> {
        for _ in 0..header.answers {
            let record = read_lasting(reader)?;
            self.sections.answers = self.sections.answers.saturating_add(1);
            self.sections.authorities_end = record.end;
            self.sections.kept_end = record.end;
            let ttl = record.sane_ttl();
            self.facts.smallest_ttl =
                Some(self.facts.smallest_ttl.map_or(ttl, |least| least.min(ttl)));
            self.facts.answered |= self
                .asked
                .is_some_and(|asked| asked == RecordType::ANY || asked == record.record_type);
        }
        for _ in 0..header.authorities {
            let record = read_lasting(reader)?;
            self.sections.authorities = self.sections.authorities.saturating_add(1);
            self.sections.authorities_end = record.end;
            self.sections.kept_end = record.end;
            self.facts.name_servers |= record.record_type == RecordType::NS;
            if self.facts.negative_ttl.is_none() {
                self.facts.negative_ttl = record.negative_ttl();
            }
        }
        let mut removed = false;
        for _ in 0..header.additionals {
            let record = read_record(reader).ok_or(MalformedResponse::Record)?;
            if record.record_type == RecordType::OPT {
                if self.opt.is_some() || !record.owned_by_root() {
                    return Err(MalformedResponse::Misplaced { record_type: record.record_type });
                }
                self.opt = Some(record);
            }
            let is_kept = is_planted(Bug::OptKept) && record.record_type == RecordType::OPT;
            if record.is_hop_by_hop() && !is_kept {
                removed = true;
                continue;
            }
            self.facts.glue |= matches!(record.record_type, RecordType::A | RecordType::AAAA);
            if removed {
                self.sections.stranded = self.sections.stranded.saturating_add(1);
            } else {
                self.sections.additionals = self.sections.additionals.saturating_add(1);
                self.sections.kept_end = record.end;
            }
        }
        Ok(())
    }
}

/// A record of the answers or authorities.
fn read_lasting<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>, MalformedResponse> {
    let record = read_record(reader).ok_or(MalformedResponse::Record)?;
    match record.record_type {
        RecordType::OPT | RecordType::TSIG => {
            Err(MalformedResponse::Misplaced { record_type: record.record_type })
        }
        _ => Ok(record),
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
