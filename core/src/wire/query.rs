//! A client's query, borrowed (RFC 1035 section 4.1, RFC 6891 section 6).
//!
//! Decides only whether a query can be read, and which rcode to send if not. Which types and
//! classes are served is not decided here.

use super::codes::{Rcode, RecordClass, RecordType};
use super::edns::{ClientEdns, ClientOptions};
use super::header::{Flags, Header};
use super::octets::Reader;
use super::record::read_record;
use super::reply::ReplyOptions;
use crate::limits::{QUERY_ADDITIONALS, UDP_PLAIN_OCTETS};

/// A query with exactly one question, every octet of it accounted for.
#[derive(Copy, Clone, Debug)]
pub struct QueryView<'a> {
    id: u16,
    flags: Flags,
    question: Question<'a>,
    edns: Option<ClientEdns>,
    options: ClientOptions<'a>,
}

/// What replies to a client need of its query. Borrowed: the question's octets are the client's
/// own, letter case kept.
#[derive(Copy, Clone, Debug)]
pub struct Asker<'a> {
    /// The message id.
    pub id: u16,
    /// The flags as received; replies take opcode, RD and CD, and AD has a say about AD.
    pub flags: Flags,
    /// Name, type and class as sent; empty if none could be read.
    pub question: &'a [u8],
    /// The OPT record, if there was one.
    pub edns: Option<ClientEdns>,
    /// The largest reply the client takes on this transport, in octets.
    pub limit: usize,
    /// What is told to it in our OPT record, if it sent one. None of it at first: who knows the
    /// client and its transport fills them in.
    pub options: ReplyOptions,
}

impl<'a> Asker<'a> {
    /// The name asked for, as it was sent; empty if none could be read.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        self.question.split_last_chunk::<4>().map_or(&[], |(name, _)| name)
    }
}

/// What to do about a message that is no [`QueryView`].
#[derive(Copy, Clone, Debug)]
pub enum Rejected<'a> {
    /// Nothing: it is shorter than a header, or it is a response.
    Drop,
    /// Say so.
    Reply {
        /// To whom. The limit is 512 octets; the question is empty unless it could be read.
        asker: Asker<'a>,
        /// FORMERR, NOTIMP or BADVERS.
        rcode: Rcode,
        /// The options of its OPT record, if they could be read.
        options: ClientOptions<'a>,
    },
}

impl<'a> QueryView<'a> {
    /// Reads a query.
    ///
    /// # Errors
    ///
    /// NOTIMP for another opcode than QUERY. FORMERR unless there is one question whose name is
    /// uncompressed, no answer and no authority, each additional record is whole, no more than one
    /// OPT record, with the root as its owner and options that fill it, and nothing after the last
    /// record. BADVERS for an EDNS version above 0.
    #[expect(clippy::result_large_err, reason = "moved once; a box would cost an allocation")]
    pub fn parse(message: &'a [u8]) -> Result<Self, Rejected<'a>> {
        let mut reader = Reader::new(message);
        let header = Header::read(&mut reader).ok_or(Rejected::Drop)?;
        if header.flags.contains(Flags::QR) {
            return Err(Rejected::Drop);
        }
        let mut seen = Seen::default();
        let read = seen.read(&header, reader);
        let rcode = if header.flags.opcode() == 0 { read.err() } else { Some(Rcode::NOTIMP) };
        match (rcode, seen.question) {
            (None, Some(question)) => Ok(Self {
                id: header.id,
                flags: header.flags,
                question,
                edns: seen.edns,
                options: seen.options,
            }),
            (rcode, question) => Err(Rejected::Reply {
                asker: Asker {
                    id: header.id,
                    flags: header.flags,
                    question: question.map_or(&[], |question| question.octets),
                    edns: seen.edns,
                    limit: UDP_PLAIN_OCTETS,
                    options: ReplyOptions::default(),
                },
                options: seen.options,
                rcode: rcode.unwrap_or(Rcode::FORMERR),
            }),
        }
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

    /// Name, type and class as sent.
    #[must_use]
    pub const fn question(&self) -> &'a [u8] {
        self.question.octets
    }

    /// The name as sent, uncompressed, root octet included.
    #[must_use]
    pub const fn name(&self) -> &'a [u8] {
        self.question.name
    }

    /// The type asked for.
    #[must_use]
    pub const fn record_type(&self) -> RecordType {
        self.question.record_type
    }

    /// The class asked in.
    #[must_use]
    pub const fn record_class(&self) -> RecordClass {
        self.question.record_class
    }

    /// The OPT record, if there is one.
    #[must_use]
    pub const fn edns(&self) -> Option<ClientEdns> {
        self.edns
    }

    /// The options of the OPT record that mean something to us, not checked.
    #[must_use]
    pub const fn options(&self) -> ClientOptions<'a> {
        self.options
    }

    /// The payload of the first Client Subnet option (RFC 7871 section 6), not checked.
    #[must_use]
    pub const fn client_subnet(&self) -> Option<&'a [u8]> {
        self.options.client_subnet
    }

    /// The largest datagram to answer with, in octets: what the client takes, `udp_size` at most
    /// (RFC 6891 section 6.2.5).
    #[must_use]
    pub fn udp_limit(&self, udp_size: u16) -> usize {
        let takes = self.edns.map_or(UDP_PLAIN_OCTETS, |edns| usize::from(edns.udp_size));
        takes.min(usize::from(udp_size))
    }

    /// What replies need of this query; `limit` is the largest reply, in octets.
    #[must_use]
    pub fn asker(&self, limit: usize) -> Asker<'a> {
        Asker {
            id: self.id,
            flags: self.flags,
            question: self.question.octets,
            edns: self.edns,
            limit,
            options: ReplyOptions::default(),
        }
    }
}

/// The question section's one entry (RFC 1035 section 4.1.2).
#[derive(Copy, Clone, Debug)]
pub(crate) struct Question<'a> {
    /// All of it.
    pub(crate) octets: &'a [u8],
    pub(crate) name: &'a [u8],
    pub(crate) record_type: RecordType,
    pub(crate) record_class: RecordClass,
}

impl<'a> Question<'a> {
    /// The question at the cursor; `None` if it is cut off or its name is malformed, compressed or
    /// too long.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let start = reader.rest();
        let name = reader.uncompressed_name()?;
        let record_type = RecordType(reader.u16()?);
        let record_class = RecordClass(reader.u16()?);
        let octets = start.get(..start.len().checked_sub(reader.rest().len())?)?;
        Some(Self { octets, name, record_type, record_class })
    }
}

/// What was read of a query, even if the rest of it is malformed: a reply about the malformed part
/// still echoes the question and has an OPT record if the query had one (RFC 6891 section 7).
#[derive(Default)]
struct Seen<'a> {
    question: Option<Question<'a>>,
    edns: Option<ClientEdns>,
    options: ClientOptions<'a>,
}

impl<'a> Seen<'a> {
    fn read(&mut self, header: &Header, mut reader: Reader<'a>) -> Result<(), Rcode> {
        if header.questions != 1 {
            return Err(Rcode::FORMERR);
        }
        self.question = Question::read(&mut reader);
        if self.question.is_none() || header.answers != 0 || header.authorities != 0 {
            return Err(Rcode::FORMERR);
        }
        if usize::from(header.additionals) > QUERY_ADDITIONALS {
            return Err(Rcode::FORMERR);
        }
        for _ in 0..header.additionals {
            self.read_additional(&mut reader)?;
        }
        if !reader.rest().is_empty() {
            return Err(Rcode::FORMERR);
        }
        match self.edns {
            Some(edns) if edns.version > 0 => Err(Rcode::BADVERS),
            _ => Ok(()),
        }
    }

    /// Reads one record; any but OPT (a TSIG, say) is passed over.
    fn read_additional(&mut self, reader: &mut Reader<'a>) -> Result<(), Rcode> {
        let record = read_record(reader).ok_or(Rcode::FORMERR)?;
        if record.record_type != RecordType::OPT {
            return Ok(());
        }
        let first = self.edns.is_none();
        let edns = *self.edns.get_or_insert(ClientEdns::of(&record));
        if !first || !record.owned_by_root() {
            return Err(Rcode::FORMERR);
        }
        // Only version 0 says how options look.
        if edns.version == 0 {
            self.options = ClientOptions::read(record.rdata).ok_or(Rcode::FORMERR)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::testing::{ADDITIONAL, ANSWER, AUTHORITY, Draft, question, wire};

    const RD: u16 = Flags::RD;

    fn plain() -> Draft {
        Draft::new(0x1234, RD).question("Www.Example", RecordType::HTTPS)
    }

    /// The rcode that is replied, and whether the question and the OPT record were seen.
    fn rejected(message: &[u8]) -> (Rcode, bool, bool) {
        match QueryView::parse(message) {
            Err(Rejected::Reply { asker, rcode, .. }) => {
                assert_eq!((asker.id, asker.limit), (0x1234, 512));
                (rcode, !asker.question.is_empty(), asker.edns.is_some())
            }
            other => panic!("not rejected with a reply: {other:?}"),
        }
    }

    #[test]
    fn a_plain_query() {
        let message = plain().0;
        let query = QueryView::parse(&message).unwrap();
        assert_eq!((query.id(), query.flags()), (0x1234, Flags(RD)));
        assert_eq!(query.name(), wire("Www.Example"), "letter case is kept");
        assert_eq!(query.question(), question("Www.Example", RecordType::HTTPS));
        assert_eq!(query.record_type(), RecordType::HTTPS);
        assert_eq!(query.record_class(), RecordClass::IN);
        assert_eq!((query.edns(), query.client_subnet()), (None, None));
        assert_eq!(query.udp_limit(1_232), 512, "RFC 1035 section 4.2.1");
        assert_eq!(query.asker(99).limit, 99);
    }

    #[test]
    fn edns_and_its_options() {
        let options = [0, 10, 0, 2, 7, 7, 0, 8, 0, 4, 0, 1, 0, 0];
        let message = plain().opt(4_096, 0x8000, &options).0;
        let query = QueryView::parse(&message).unwrap();
        let edns = ClientEdns { udp_size: 4_096, dnssec_ok: true, version: 0 };
        assert_eq!(query.edns(), Some(edns));
        assert_eq!(query.client_subnet(), Some(&[0, 1, 0, 0][..]));
        assert_eq!(query.options().cookie, Some(&[7, 7][..]), "as it came");
        assert_eq!(query.udp_limit(1_232), 1_232, "ours is less");
        let message = plain().opt(600, 0, &[]).0;
        assert_eq!(QueryView::parse(&message).unwrap().udp_limit(1_232), 600, "theirs is less");
    }

    #[test]
    fn other_additional_records_are_passed_over() {
        let tsig = plain().opt(1_232, 0, &[]).record(
            ADDITIONAL,
            &wire("key"),
            RecordType::TSIG,
            0,
            b"signature",
        );
        assert!(QueryView::parse(&tsig.0).unwrap().edns().is_some());
        let cut = &tsig.0[..tsig.0.len() - 1];
        assert_eq!(rejected(cut), (Rcode::FORMERR, true, true), "but they must be whole");
    }

    #[test]
    fn responses_and_scraps_are_dropped() {
        let response = Draft::new(1, Flags::QR).question("a", RecordType::A).0;
        assert!(matches!(QueryView::parse(&response), Err(Rejected::Drop)));
        for length in 0..12 {
            assert!(matches!(QueryView::parse(&response[..length]), Err(Rejected::Drop)));
            assert!(matches!(QueryView::parse(&plain().0[..length]), Err(Rejected::Drop)));
        }
    }

    #[test]
    fn counts_other_than_one_question_are_formerr() {
        let formerr = (Rcode::FORMERR, false, false);
        assert_eq!(rejected(&Draft::new(0x1234, RD).0), formerr, "none");
        assert_eq!(rejected(&plain().question("b", RecordType::A).0), formerr, "two");
        let formerr = (Rcode::FORMERR, true, false);
        let answer = plain().record(ANSWER, &[0], RecordType::A, 1, &[1, 2, 3, 4]);
        assert_eq!(rejected(&answer.0), formerr, "an answer");
        let authority = plain().record(AUTHORITY, &[0], RecordType::A, 1, &[1, 2, 3, 4]);
        assert_eq!(rejected(&authority.0), formerr, "an authority");
    }

    #[test]
    fn malformed_questions_are_formerr() {
        let ask =
            |name: &[u8]| Draft::new(0x1234, RD).octets(name).octets(&[0, 1, 0, 1]).count(0).0;
        let formerr = (Rcode::FORMERR, false, false);
        assert_eq!(rejected(&ask(&[0xc0, 12])), formerr, "compressed");
        assert_eq!(rejected(&ask(&[0x41, 0])), formerr, "reserved label type");
        let long = [[63; 64], [63; 64], [63; 64], [63; 64]].concat();
        assert_eq!(rejected(&ask(&[&long[..], &[0]].concat())), formerr, "257 octets");
        let whole = plain().0;
        for length in 12..whole.len() {
            assert_eq!(rejected(&whole[..length]), formerr, "cut at {length}");
        }
    }

    #[test]
    fn trailing_garbage_is_formerr() {
        assert_eq!(rejected(&plain().octets(&[0]).0), (Rcode::FORMERR, true, false));
    }

    #[test]
    fn a_wrong_opt_is_formerr_with_opt_rfc_6891_section_7() {
        let formerr = (Rcode::FORMERR, true, true);
        assert_eq!(rejected(&plain().opt(512, 0, &[]).opt(512, 0, &[]).0), formerr, "two");
        let owned = plain().record(ADDITIONAL, &wire("a"), RecordType::OPT, 0, &[]);
        assert_eq!(rejected(&owned.0), formerr, "owner");
        for options in [&[0, 8, 0, 1][..], &[0], &[0, 8, 0]] {
            assert_eq!(rejected(&plain().opt(512, 0, options).0), formerr, "{options:?}");
        }
    }

    #[test]
    fn other_opcodes_are_notimp_before_anything_else() {
        let update = Draft::new(0x1234, 5 << 11).question("a", RecordType::SOA);
        assert_eq!(rejected(&update.0), (Rcode::NOTIMP, true, false));
        let garbage = update.octets(&[1, 2, 3]);
        assert_eq!(rejected(&garbage.0), (Rcode::NOTIMP, true, false));
        assert_eq!(rejected(&Draft::new(0x1234, 2 << 11).0), (Rcode::NOTIMP, false, false));
    }

    #[test]
    fn versions_above_zero_are_badvers_rfc_6891_section_6_1_3() {
        let badvers = (Rcode::BADVERS, true, true);
        assert_eq!(rejected(&plain().opt(1_232, 0x0001_0000, &[]).0), badvers);
        // Nobody knows what options of another version look like.
        assert_eq!(rejected(&plain().opt(1_232, 0x00ff_0000, &[1]).0), badvers);
    }

    proptest! {
        /// What the client says it takes, 512 at least; without EDNS 512; never more than is ours to
        /// send.
        #[test]
        fn the_limit_is_the_lesser_of_both_sides(
            theirs in prop::option::of(prop_oneof![0_u16..600, any::<u16>()]),
            ours in 512_u16..,
        ) {
            let message = match theirs {
                None => plain(),
                Some(size) => plain().opt(size, 0, &[]),
            };
            let limit = QueryView::parse(&message.0).unwrap().udp_limit(ours);
            let takes = usize::from(theirs.unwrap_or(512));
            prop_assert!(limit >= 512 && limit <= usize::from(ours));
            prop_assert_eq!(limit, if takes < 512 { 512 } else { takes.min(ours.into()) });
        }

        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = QueryView::parse(&octets);
        }

        #[test]
        fn no_mutation_panics_and_what_is_accepted_is_all_there(
            changes in prop::collection::vec((0_usize..64, any::<u8>()), 1..4),
            length in 0_usize..64,
        ) {
            let mut message = plain().opt(1_232, 0, &[0, 8, 0, 4, 0, 1, 0, 0]).0;
            for (at, octet) in changes {
                let at = at % message.len();
                message[at] = octet;
            }
            message.truncate(message.len().saturating_sub(length % 8));
            match QueryView::parse(&message) {
                Ok(query) => {
                    prop_assert_eq!(&message[12..12 + query.question().len()], query.question());
                    prop_assert_eq!(query.name().len() + 4, query.question().len());
                    prop_assert!(!query.flags().contains(Flags::QR));
                    prop_assert!(query.udp_limit(1_232) >= 512);
                }
                Err(Rejected::Drop) => {
                    prop_assert!(message.len() < 12 || message[2] & 0x80 != 0);
                }
                Err(Rejected::Reply { asker, .. }) => {
                    prop_assert_eq!(asker.id.to_be_bytes(), [message[0], message[1]]);
                }
            }
        }
    }
}
