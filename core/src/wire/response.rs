//! An upstream's response, borrowed: walked once, classified after RFC 2308 section 2.
//!
//! Owner names and lengths are checked, names inside RDATA are not: those are passed on as they
//! came. Whether a response belongs to a query is the caller's question.

use super::codes::{ExtendedError, Rcode, RecordType};
use super::edns::{EXTENDED_ERROR, extended_rcode, options};
use super::header::{Flags, Header};
use super::octets::Reader;
use super::query::Question;
use super::record::{Record, read_record};

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
        let header = Header::read(&mut reader).ok_or(MalformedResponse::TooShort {
            octets: message.len(),
        })?;
        if !header.flags.contains(Flags::QR) {
            return Err(MalformedResponse::Query);
        }
        if header.flags.opcode() != 0 {
            return Err(MalformedResponse::Opcode {
                opcode: header.flags.opcode(),
            });
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
        Ok(Self {
            message,
            id: header.id,
            flags: header.flags,
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

    /// The code of the first Extended DNS Error (RFC 8914).
    #[must_use]
    pub fn extended_error(&self) -> Option<ExtendedError> {
        let opt = self.opt?;
        let (_, payload) = options(opt.rdata).find(|(code, _)| *code == EXTENDED_ERROR)?;
        Reader::new(payload).u16().map(ExtendedError)
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
        let sections = Sections {
            start,
            authorities_end: start,
            kept_end: start,
            ..Sections::default()
        };
        Self {
            asked,
            sections,
            opt: None,
            facts: Facts::default(),
        }
    }

    fn all(&mut self, header: &Header, reader: &mut Reader<'a>) -> Result<(), MalformedResponse> {
        for _ in 0..header.answers {
            let record = read_lasting(reader)?;
            self.sections.answers = self.sections.answers.saturating_add(1);
            self.sections.authorities_end = record.end;
            self.sections.kept_end = record.end;
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
                    return Err(MalformedResponse::Misplaced {
                        record_type: record.record_type,
                    });
                }
                self.opt = Some(record);
            }
            if record.is_hop_by_hop() {
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
        RecordType::OPT | RecordType::TSIG => Err(MalformedResponse::Misplaced {
            record_type: record.record_type,
        }),
        _ => Ok(record),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::testing::{
        ADDITIONAL, ANSWER, AT_QUESTION, AUTHORITY, Draft, question, soa, wire,
    };

    const QR: u16 = Flags::QR | Flags::RD | Flags::RA;

    fn response(rcode: Rcode) -> Draft {
        Draft::new(7, QR | rcode.low()).question("www.example", RecordType::A)
    }

    fn with_soa(draft: Draft, ttl: u32, minimum: u32) -> Draft {
        draft.record(
            AUTHORITY,
            &wire("example"),
            RecordType::SOA,
            ttl,
            &soa(minimum),
        )
    }

    fn with_ns(draft: Draft) -> Draft {
        draft.record(
            AUTHORITY,
            &wire("example"),
            RecordType::NS,
            60,
            &wire("ns.example"),
        )
    }

    fn with_cname(draft: Draft) -> Draft {
        draft.record(
            ANSWER,
            AT_QUESTION,
            RecordType::CNAME,
            60,
            &wire("other.example"),
        )
    }

    fn with_glue(draft: Draft) -> Draft {
        draft.record(
            ADDITIONAL,
            &wire("ns.example"),
            RecordType::A,
            60,
            &[192, 0, 2, 53],
        )
    }

    fn kind(draft: &Draft) -> ResponseKind {
        ResponseView::parse(&draft.0).unwrap().kind()
    }

    fn refusal(message: &[u8]) -> MalformedResponse {
        ResponseView::parse(message).unwrap_err()
    }

    #[test]
    fn fields() {
        let message = response(Rcode::NOERROR).address(60).0;
        let view = ResponseView::parse(&message).unwrap();
        assert_eq!(
            (view.id(), view.flags(), view.rcode()),
            (7, Flags(QR), Rcode::NOERROR)
        );
        assert_eq!(view.question(), question("www.example", RecordType::A));
        assert!(!view.truncated());
        assert_eq!(ResponseView::peek_id(&message), Some(7));
        assert_eq!(ResponseView::peek_id(&[7]), None);
    }

    #[test]
    fn positive_answers() {
        assert_eq!(
            kind(&response(Rcode::NOERROR).address(60)),
            ResponseKind::Answer
        );
        assert_eq!(
            kind(&with_cname(response(Rcode::NOERROR)).address(60)),
            ResponseKind::Answer
        );
        assert_eq!(
            kind(&with_soa(response(Rcode::NOERROR).address(60), 1, 1)),
            ResponseKind::Answer
        );
        assert_eq!(
            kind(&with_ns(response(Rcode::NOERROR).address(60))),
            ResponseKind::Answer
        );
        // A chain that the server did not follow: the client may.
        assert_eq!(
            kind(&with_cname(response(Rcode::NOERROR))),
            ResponseKind::Answer
        );
        let any = with_cname(Draft::new(7, QR).question("www.example", RecordType::ANY));
        assert_eq!(
            kind(&with_soa(any, 1, 1)),
            ResponseKind::Answer,
            "any record answers ANY"
        );
    }

    #[test]
    fn no_data_rfc_2308_section_2_2() {
        let negative = |seconds| ResponseKind::NoData {
            negative_ttl: Some(seconds),
        };
        let base = response(Rcode::NOERROR);
        assert_eq!(
            kind(&with_ns(with_soa(base.clone(), 60, 60))),
            negative(60),
            "type 1"
        );
        assert_eq!(
            kind(&with_soa(base.clone(), 60, 60)),
            negative(60),
            "type 2"
        );
        let without = ResponseKind::NoData { negative_ttl: None };
        assert_eq!(kind(&base), without, "type 3");
        assert_eq!(
            kind(&with_soa(with_cname(base), 60, 60)),
            negative(60),
            "end of a chain"
        );
    }

    #[test]
    fn no_such_name_rfc_2308_section_2_1() {
        let base = response(Rcode::NXDOMAIN);
        let negative = ResponseKind::NxDomain {
            negative_ttl: Some(30),
        };
        assert_eq!(kind(&with_soa(base.clone(), 60, 30)), negative);
        assert_eq!(
            kind(&with_soa(with_cname(base.clone()), 60, 30)),
            negative,
            "end of a chain"
        );
        let without = ResponseKind::NxDomain { negative_ttl: None };
        assert_eq!(
            kind(&with_ns(base)),
            without,
            "type 4 looks like a referral but is none"
        );
    }

    #[test]
    fn negative_ttl_is_the_lesser_one_rfc_2308_section_5() {
        for (ttl, minimum, least) in [
            (60, 30, 30),
            (30, 60, 30),
            (0, 60, 0),
            (60, 0x8000_0000, 0),
            (u32::MAX, 60, 0),
        ] {
            let draft = with_soa(response(Rcode::NXDOMAIN), ttl, minimum);
            assert_eq!(
                kind(&draft),
                ResponseKind::NxDomain {
                    negative_ttl: Some(least)
                }
            );
        }
        let short = response(Rcode::NXDOMAIN).record(AUTHORITY, &[0], RecordType::SOA, 9, &[0; 21]);
        assert_eq!(kind(&short), ResponseKind::NxDomain { negative_ttl: None });
    }

    #[test]
    fn referrals_rfc_2308_section_2_2() {
        let base = response(Rcode::NOERROR);
        assert_eq!(
            kind(&with_glue(with_ns(base.clone()))),
            ResponseKind::Referral
        );
        assert_eq!(kind(&with_ns(base.clone())), ResponseKind::Referral);
        assert_eq!(
            kind(&with_glue(base.clone())),
            ResponseKind::Referral,
            "glue alone"
        );
        let authoritative = Draft::new(7, QR | Flags::AA).question("www.example", RecordType::A);
        assert_eq!(
            kind(&with_ns(authoritative)),
            ResponseKind::Referral,
            "AA says nothing"
        );
        let negative = ResponseKind::NoData {
            negative_ttl: Some(5),
        };
        assert_eq!(kind(&with_glue(with_ns(with_soa(base, 5, 5)))), negative);
    }

    #[test]
    fn errors_have_their_extended_rcode_rfc_6891_section_6_1_3() {
        assert_eq!(
            kind(&response(Rcode::REFUSED)),
            ResponseKind::Error(Rcode::REFUSED)
        );
        let extended = response(Rcode::NOERROR).opt(1_232, 0x0100_0000, &[]);
        assert_eq!(kind(&extended), ResponseKind::Error(Rcode::BADVERS));
    }

    #[test]
    fn truncated_ones_may_end_anywhere() {
        let draft = Draft::new(7, QR | Flags::TC).question("www.example", RecordType::A);
        let records_at = draft.0.len();
        let message = with_ns(draft.address(60).address(60)).0;
        for length in records_at..=message.len() {
            let view = ResponseView::parse(&message[..length]).unwrap();
            assert_eq!(view.kind(), ResponseKind::Truncated);
            let answers = ((length - records_at) / 16).min(2);
            assert_eq!(usize::from(view.sections().answers), answers);
        }
        assert_eq!(
            refusal(&message[..records_at - 1]),
            MalformedResponse::Question
        );
    }

    #[test]
    fn whole_ones_may_not() {
        let message = with_glue(with_ns(response(Rcode::NOERROR).address(60))).0;
        let records_at = 12 + question("www.example", RecordType::A).len();
        for length in records_at..message.len() {
            assert_eq!(
                refusal(&message[..length]),
                MalformedResponse::Record,
                "{length}"
            );
        }
        let longer = [&message[..], b"garbage"].concat();
        assert!(
            ResponseView::parse(&longer).is_ok(),
            "what follows is nobody's business"
        );
    }

    #[test]
    fn what_is_no_response() {
        assert_eq!(
            refusal(&[0; 11]),
            MalformedResponse::TooShort { octets: 11 }
        );
        let query = Draft::new(7, 0).question("a", RecordType::A);
        assert_eq!(refusal(&query.0), MalformedResponse::Query);
        let notify = Draft::new(7, QR | 4 << 11).question("a", RecordType::A);
        assert_eq!(refusal(&notify.0), MalformedResponse::Opcode { opcode: 4 });
        let two = response(Rcode::NOERROR).question("b", RecordType::A);
        assert_eq!(
            refusal(&two.0),
            MalformedResponse::QuestionCount { count: 2 }
        );
        let compressed = Draft::new(7, QR).octets(&[0xc0, 12, 0, 1, 0, 1]).count(0);
        assert_eq!(refusal(&compressed.0), MalformedResponse::Question);
    }

    #[test]
    fn opt_and_tsig_have_their_place() {
        let base = response(Rcode::NOERROR);
        let opt = MalformedResponse::Misplaced {
            record_type: RecordType::OPT,
        };
        let tsig = MalformedResponse::Misplaced {
            record_type: RecordType::TSIG,
        };
        assert_eq!(
            refusal(&base.clone().opt(512, 0, &[]).opt(512, 0, &[]).0),
            opt,
            "two"
        );
        let owned = base
            .clone()
            .record(ADDITIONAL, &wire("a"), RecordType::OPT, 0, &[]);
        assert_eq!(refusal(&owned.0), opt, "not the root's");
        for section in [ANSWER, AUTHORITY] {
            let misplaced = base.clone().record(section, &[0], RecordType::OPT, 0, &[]);
            assert_eq!(refusal(&misplaced.0), opt);
            let misplaced = base.clone().record(section, &[0], RecordType::TSIG, 0, &[]);
            assert_eq!(refusal(&misplaced.0), tsig);
        }
    }

    #[test]
    fn questions_match_but_for_letter_case_rfc_4343() {
        let message = response(Rcode::NOERROR).0;
        let view = ResponseView::parse(&message).unwrap();
        assert!(view.matches_question(&question("WWW.eXample", RecordType::A)));
        assert!(!view.matches_question(&question("www.examples", RecordType::A)));
        assert!(!view.matches_question(&question("example", RecordType::A)));
        assert!(!view.matches_question(&question("www.example", RecordType::AAAA)));
        let mut chaos = question("www.example", RecordType::A);
        *chaos.last_mut().unwrap() = 3;
        assert!(!view.matches_question(&chaos));
        assert!(!view.matches_question(&[]));

        // 65 and 97 would be one letter in two cases.
        let message = Draft::new(7, QR).question("a", RecordType(65)).0;
        let view = ResponseView::parse(&message).unwrap();
        assert!(view.matches_question(&question("A", RecordType(65))));
        assert!(!view.matches_question(&question("a", RecordType(97))));
    }

    #[test]
    fn a_question_may_be_left_out() {
        let message = Draft::new(7, QR | Rcode::FORMERR.low()).0;
        let view = ResponseView::parse(&message).unwrap();
        assert!(view.question().is_empty());
        assert!(!view.matches_question(&question("a", RecordType::A)));
        assert!(!view.matches_question(&[]));
        assert_eq!(view.kind(), ResponseKind::Error(Rcode::FORMERR));
    }

    #[test]
    fn the_first_extended_error_counts_rfc_8914() {
        let error = |options: &[u8]| {
            let message = response(Rcode::SERVFAIL).opt(1_232, 0, options).0;
            ResponseView::parse(&message).unwrap().extended_error()
        };
        let two = [
            0, 10, 0, 1, 9, 0, 15, 0, 4, 0, 22, b'h', b'i', 0, 15, 0, 2, 0, 23,
        ];
        assert_eq!(error(&two), Some(ExtendedError::NO_REACHABLE_AUTHORITY));
        assert_eq!(error(&[0, 15, 0, 1, 0]), None, "too short");
        assert_eq!(error(&[0, 15, 0, 2, 0]), None, "overruns");
        assert_eq!(error(&[]), None);
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = ResponseView::parse(&octets).map(|view| (view.kind(), view.extended_error()));
        }

        #[test]
        fn no_mutation_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            length in any::<prop::sample::Index>(),
        ) {
            let draft = with_glue(with_soa(with_cname(response(Rcode::NOERROR)), 60, 60));
            let mut message = draft.opt(1_232, 0, &[0, 15, 0, 2, 0, 22]).0;
            for (at, octet) in changes {
                let at = at.index(message.len());
                message[at] = octet;
            }
            message.truncate(length.index(message.len() * 2));
            if let Ok(view) = ResponseView::parse(&message) {
                let sections = view.sections();
                prop_assert!(sections.start <= sections.authorities_end);
                prop_assert!(sections.authorities_end <= sections.kept_end);
                prop_assert!(sections.kept_end <= message.len());
                let _ = (view.kind(), view.extended_error(), view.rcode());
            }
        }
    }
}
