//! Replies whose records we make ourselves, with name compression (RFC 1035 section 4.1.4).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::codes::{ErrorNote, Rcode, RecordClass, RecordType};
use super::header::Flags;
use super::name::suffixes;
use super::octets::{LABEL_OCTETS, Reader, Writer};
use super::query::{Asker, Question};
use super::reply::{Frame, ReplySettings};
use crate::limits::HEADER_OCTETS;

/// A record of a reply that we make ourselves; its class is IN.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct LocalRecord<'a> {
    /// Whose record it is.
    pub owner: Owner<'a>,
    /// Its type, which `data` must suit.
    pub record_type: RecordType,
    /// Seconds it may be remembered.
    pub ttl: u32,
    /// Its RDATA.
    pub data: LocalData<'a>,
}

/// Whose record it is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// The name asked for.
    Question,
    /// This name: wire form, uncompressed.
    Name(&'a [u8]),
}

/// RDATA of a record that we make ourselves.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum LocalData<'a> {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The name of a CNAME, PTR or NS: wire form, uncompressed; it is compressed when written.
    Name(&'a [u8]),
    /// A start of authority (RFC 1035 section 3.3.13).
    Soa {
        /// The primary server: wire form, uncompressed.
        mname: &'a [u8],
        /// The mailbox of whoever is responsible: wire form, uncompressed.
        rname: &'a [u8],
        /// The zone's version.
        serial: u32,
        /// Seconds between secondaries' checks.
        refresh: u32,
        /// Seconds between those after a failure.
        retry: u32,
        /// Seconds after which a secondary gives up.
        expire: u32,
        /// Seconds that negative answers may be remembered (RFC 2308 section 4).
        minimum: u32,
    },
    /// Octets as they are.
    Raw(&'a [u8]),
}

/// The SOA record of our negative answers (RFC 2308 section 3): without one nobody would remember
/// them. Its owner is the question's name.
#[must_use]
pub const fn local_soa(ttl: u32) -> LocalRecord<'static> {
    soa(Owner::Question, b"\x09localhost\0", ttl)
}

/// The SOA record of a zone that is served here: its primary server is the apex itself, as RFC 6303
/// section 3 has it, so that nobody sends updates elsewhere.
#[must_use]
pub const fn local_zone_soa(apex: &[u8], ttl: u32) -> LocalRecord<'_> {
    soa(Owner::Name(apex), apex, ttl)
}

const fn soa<'a>(owner: Owner<'a>, mname: &'a [u8], ttl: u32) -> LocalRecord<'a> {
    LocalRecord {
        owner,
        record_type: RecordType::SOA,
        ttl,
        data: LocalData::Soa {
            mname,
            rname: b"\x06nobody\x07invalid\0",
            serial: 1,
            refresh: 3_600,
            retry: 1_200,
            expire: 604_800,
            minimum: ttl,
        },
    }
}

/// Writes a reply with records of our own and returns its length. AA is clear: we are nobody's
/// authority. Names are compressed against the question and what was written before. What is too
/// long for the client becomes header, question and OPT with TC. Returns 0 if `out` or the
/// limit is too small even for that.
#[must_use]
pub fn write_local(
    out: &mut [u8],
    asker: &Asker<'_>,
    settings: ReplySettings,
    rcode: Rcode,
    answers: &[LocalRecord<'_>],
    authority: &[LocalRecord<'_>],
    error: Option<ErrorNote<'_>>,
) -> usize {
    let frame = Frame::new(asker, settings, rcode, error);
    let counts = u16::try_from(answers.len()).ok().zip(u16::try_from(authority.len()).ok());
    if let Some((answer_count, authority_count)) = counts {
        let length = frame.finish(out, 0, [answer_count, authority_count, 0], |writer| {
            let mut names = WrittenNames::after_question(writer.written(), asker.question);
            let mut records = answers.iter().chain(authority);
            records.try_for_each(|record| write_record(writer, &mut names, record))
        });
        if length > 0 {
            return length;
        }
    }
    frame.finish(out, Flags::TC, [0; 3], |_| Some(()))
}

fn write_record(
    out: &mut Writer<'_>,
    names: &mut WrittenNames,
    record: &LocalRecord<'_>,
) -> Option<()> {
    match record.owner {
        Owner::Question if names.has_question => out.u16(POINTER | HEADER_OCTETS as u16)?,
        Owner::Question => out.put(&[0])?,
        Owner::Name(name) => names.write(out, name)?,
    }
    out.u16(record.record_type.0)?;
    out.u16(RecordClass::IN.0)?;
    out.u32(record.ttl)?;
    let length_at = out.position();
    out.u16(0)?;
    let start = out.position();
    write_data(out, names, &record.data)?;
    let octets = out.position().checked_sub(start)?;
    out.patch_u16(length_at, u16::try_from(octets).ok()?)
}

fn write_data(out: &mut Writer<'_>, names: &mut WrittenNames, data: &LocalData<'_>) -> Option<()> {
    match *data {
        LocalData::A(address) => out.put(&address.octets()),
        LocalData::Aaaa(address) => out.put(&address.octets()),
        LocalData::Name(name) => names.write(out, name),
        LocalData::Soa { mname, rname, serial, refresh, retry, expire, minimum } => {
            names.write(out, mname)?;
            names.write(out, rname)?;
            [serial, refresh, retry, expire, minimum].into_iter().try_for_each(|n| out.u32(n))
        }
        LocalData::Raw(octets) => out.put(octets),
    }
}

/// The two bits that announce a compression pointer.
const POINTER: u16 = 0xc000;
/// Where labels were written, for pointers to them: enough for the answers we make; names beyond
/// are written out.
const WRITTEN_LABELS: usize = 64;

/// Where labels begin that pointers may go to.
struct WrittenNames {
    offsets: [u16; WRITTEN_LABELS],
    len: usize,
    has_question: bool,
}

impl WrittenNames {
    fn after_question(written: &[u8], question: &[u8]) -> Self {
        let mut names = Self { offsets: [0; WRITTEN_LABELS], len: 0, has_question: false };
        if let Some(question) = Question::read(&mut Reader::new(question)) {
            names.has_question = written.len() > HEADER_OCTETS;
            for suffix in suffixes(question.name) {
                names.note(HEADER_OCTETS.saturating_add(question.name.len()), suffix);
            }
        }
        names
    }

    /// Notes that `suffix` stands at the end of a name that ends at `end`.
    fn note(&mut self, end: usize, suffix: &[u8]) {
        let at = end.checked_sub(suffix.len()).and_then(|at| u16::try_from(at).ok());
        // Pointers have 14 bits; one to the root would be longer than the root itself.
        let Some(at) = at.filter(|&at| at < POINTER_LIMIT && suffix.len() > 1) else {
            return;
        };
        if let Some(place) = self.offsets.get_mut(self.len) {
            *place = at;
            self.len = self.len.saturating_add(1);
        }
    }

    /// Writes a name, its longest suffix that was written before as a pointer.
    fn write(&mut self, out: &mut Writer<'_>, name: &[u8]) -> Option<()> {
        let name = Reader::new(name).uncompressed_name()?;
        let known = suffixes(name).enumerate().find_map(|(depth, suffix)| {
            let at = self.find(out.written(), suffix)?;
            Some((depth, suffix.len(), at))
        });
        let end = out.position().checked_add(name.len())?;
        let new_labels = match known {
            Some((depth, tail, at)) => {
                out.put(name.get(..name.len().checked_sub(tail)?)?)?;
                out.u16(POINTER | at)?;
                depth
            }
            None => {
                out.put(name)?;
                usize::MAX
            }
        };
        // Of a compressed name only the labels in front of the pointer stand where `end` says.
        suffixes(name).take(new_labels).for_each(|suffix| self.note(end, suffix));
        Some(())
    }

    /// Where this name was written, if it was, in any letter case (RFC 4343).
    fn find(&self, written: &[u8], name: &[u8]) -> Option<u16> {
        let offsets = self.offsets.get(..self.len)?;
        offsets.iter().copied().find(|&at| is_name_at(written, usize::from(at), name))
    }
}

/// The first offset that a pointer cannot say.
const POINTER_LIMIT: u16 = 0x4000;

/// Whether `name`, uncompressed, is what stands at `at`, which is of our own writing: pointers in
/// it go backwards.
fn is_name_at(written: &[u8], at: usize, name: &[u8]) -> bool {
    let mut at = at;
    let mut rest = name;
    loop {
        let Some(mut there) = Reader::at(written, at) else {
            return false;
        };
        let Some(length) = there.u8() else {
            return false;
        };
        if length > LABEL_OCTETS {
            let Some(low) = there.u8() else { return false };
            at = usize::from(u16::from_be_bytes([length, low]) & !POINTER);
            continue;
        }
        let octets = usize::from(length).saturating_add(1);
        let label = written.get(at..).and_then(|tail| tail.get(..octets));
        let wanted = rest.get(..octets);
        match (label, wanted) {
            (Some(label), Some(wanted)) if label.eq_ignore_ascii_case(wanted) => {}
            _ => return false,
        }
        if length == 0 {
            return true;
        }
        at = at.saturating_add(octets);
        rest = rest.get(octets..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::testing::{ANSWER, AT_QUESTION, AUTHORITY, Draft, question, wire};
    use crate::wire::{ClientEdns, DisplayName, ReplyOptions};

    const SETTINGS: ReplySettings = ReplySettings { udp_size: 1_232 };
    const FLAGS: u16 = Flags::QR | Flags::RD | Flags::RA;

    fn asker(question: &[u8]) -> Asker<'_> {
        Asker {
            id: 9,
            flags: Flags(Flags::RD),
            question,
            edns: None,
            limit: 512,
            options: ReplyOptions::default(),
        }
    }

    fn reply(
        asker: &Asker<'_>,
        rcode: Rcode,
        answers: &[LocalRecord<'_>],
        authority: &[LocalRecord<'_>],
    ) -> Vec<u8> {
        let mut out = vec![0xff; asker.limit];
        let length = write_local(&mut out, asker, SETTINGS, rcode, answers, authority, None);
        out.truncate(length);
        out
    }

    fn address(owner: Owner<'_>, last: u8) -> LocalRecord<'_> {
        let data = LocalData::A(Ipv4Addr::new(192, 0, 2, last));
        LocalRecord { owner, record_type: RecordType::A, ttl: 60, data }
    }

    #[test]
    fn addresses_of_the_question() {
        let question = question("Www.example", RecordType::ANY);
        let six = LocalRecord {
            owner: Owner::Name(b"\x03wWW\x07EXAMPLE\0"),
            record_type: RecordType::AAAA,
            ttl: 61,
            data: LocalData::Aaaa(Ipv6Addr::LOCALHOST),
        };
        let out =
            reply(&asker(&question), Rcode::NOERROR, &[address(Owner::Question, 1), six], &[]);
        let expected = Draft::new(9, FLAGS).octets(&question).count(0).address(60).record(
            ANSWER,
            AT_QUESTION,
            RecordType::AAAA,
            61,
            &Ipv6Addr::LOCALHOST.octets(),
        );
        assert_eq!(out, expected.0);
    }

    #[test]
    fn negative_answers_have_a_soa_rfc_2308_section_3() {
        let question = question("www.example", RecordType::A);
        let out = reply(&asker(&question), Rcode::NXDOMAIN, &[], &[local_soa(300)]);
        let mut rdata = [wire("localhost"), wire("nobody.invalid")].concat();
        for number in [1_u32, 3_600, 1_200, 604_800, 300] {
            rdata.extend_from_slice(&number.to_be_bytes());
        }
        let expected = Draft::new(9, FLAGS | 3).octets(&question).count(0).record(
            AUTHORITY,
            AT_QUESTION,
            RecordType::SOA,
            300,
            &rdata,
        );
        assert_eq!(out, expected.0);
    }

    #[test]
    fn names_are_compressed_against_all_that_was_written() {
        let question = question("www.example", RecordType::A);
        let target = wire("cdn.Example");
        let cname = LocalRecord {
            owner: Owner::Question,
            record_type: RecordType::CNAME,
            ttl: 60,
            data: LocalData::Name(&target),
        };
        let out = reply(
            &asker(&question),
            Rcode::NOERROR,
            &[cname, address(Owner::Name(&target), 1)],
            &[],
        );
        // "example" stands at 16; the target begins after header, question and twelve octets.
        let target_at = u8::try_from(12 + question.len() + 12).unwrap();
        let expected = Draft::new(9, FLAGS)
            .octets(&question)
            .count(0)
            .record(ANSWER, AT_QUESTION, RecordType::CNAME, 60, b"\x03cdn\xc0\x10")
            .record(ANSWER, &[0xc0, target_at], RecordType::A, 60, &[192, 0, 2, 1]);
        assert_eq!(out, expected.0);
    }

    #[test]
    fn raw_data_is_left_alone() {
        let question = question("www.example", RecordType::TXT);
        let text = LocalRecord {
            owner: Owner::Question,
            record_type: RecordType::TXT,
            ttl: 1,
            data: LocalData::Raw(b"\x0d\x03www\x07example\0"),
        };
        let out = reply(&asker(&question), Rcode::NOERROR, &[text], &[]);
        assert!(out.ends_with(b"\0\x0e\x0d\x03www\x07example\0"));
    }

    #[test]
    fn what_is_too_long_is_truncated_as_a_whole() {
        let question = question("www.example", RecordType::A);
        let edns = ClientEdns { udp_size: 512, dnssec_ok: false, version: 0 };
        let asker = Asker { edns: Some(edns), ..asker(&question) };
        let many = |count| vec![address(Owner::Question, 1); count];
        let fitting = (512 - 12 - question.len() - 11) / 16;
        let out = reply(&asker, Rcode::NOERROR, &many(fitting), &[]);
        assert_eq!(usize::from(out[7]), fitting);
        let cut = Draft::new(9, FLAGS | Flags::TC).octets(&question).count(0).opt(1_232, 0, &[]);
        assert_eq!(reply(&asker, Rcode::NOERROR, &many(fitting + 1), &[]), cut.0);
        assert_eq!(reply(&asker, Rcode::NOERROR, &many(70_000), &[]), cut.0, "too many to count");
    }

    #[test]
    fn the_root_is_written_as_it_is() {
        let question = question("", RecordType::NS);
        let name_server = LocalRecord {
            owner: Owner::Name(&[0]),
            record_type: RecordType::NS,
            ttl: 60,
            data: LocalData::Name(&[0]),
        };
        let out = reply(&asker(&question), Rcode::NOERROR, &[name_server], &[]);
        let expected = Draft::new(9, FLAGS).octets(&question).count(0).record(
            ANSWER,
            &[0],
            RecordType::NS,
            60,
            &[0],
        );
        assert_eq!(out, expected.0);
    }

    #[test]
    fn a_name_that_is_none_is_not_sent() {
        let question = question("www.example", RecordType::A);
        let out =
            reply(&asker(&question), Rcode::NOERROR, &[address(Owner::Name(b"\x05a"), 1)], &[]);
        assert_eq!(out, Draft::new(9, FLAGS | Flags::TC).octets(&question).count(0).0);
    }

    proptest! {
        /// What fits the limit is sent whole; else header, question and OPT with TC.
        #[test]
        fn replies_fit_or_say_that_they_are_cut(
            count in 0_usize..120,
            limit in 512_usize..2_000,
            edns in prop::option::of(any::<bool>()),
            error in prop::option::of(any::<u16>()),
        ) {
            let question = question("www.example", RecordType::A);
            let edns = edns.map(|dnssec_ok| ClientEdns { udp_size: 512, dnssec_ok, version: 0 });
            let asker = Asker { edns, limit: 65_535, ..asker(&question) };
            let error = error.map(|code| crate::wire::ExtendedError(code).into());
            let records = vec![address(Owner::Question, 1); count];
            let write = |out: &mut Vec<u8>, asker: &Asker<'_>| {
                let soa = [local_soa(60)];
                let len = write_local(out, asker, SETTINGS, Rcode::NOERROR, &records, &soa, error);
                out.truncate(len);
            };
            let (mut whole, mut out) = (vec![0; 65_535], vec![0; 65_535]);
            write(&mut whole, &asker);
            write(&mut out, &Asker { limit, ..asker });
            if whole.len() <= limit {
                prop_assert_eq!(out, whole);
            } else {
                prop_assert!(out.len() <= limit);
                prop_assert_eq!(out[2] & 2, 2, "TC");
                prop_assert_eq!(&out[6..12], &[0, 0, 0, 0, 0, u8::from(edns.is_some())]);
                prop_assert_eq!(&out[12..12 + question.len()], &question);
            }
        }

        #[test]
        fn compressed_names_are_what_was_meant(
            asked in "[a-cA-C]{1,2}(\\.[a-cA-C]{1,2}){0,3}",
            names in prop::collection::vec("[a-cA-C]{1,2}(\\.[a-cA-C]{1,2}){0,3}", 0..40),
        ) {
            let question = question(&asked, RecordType::CNAME);
            let names: Vec<_> = names.iter().map(|name| wire(name)).collect();
            let records: Vec<_> = names
                .windows(2)
                .map(|pair| LocalRecord {
                    owner: Owner::Name(&pair[0]),
                    record_type: RecordType::CNAME,
                    ttl: 60,
                    data: LocalData::Name(&pair[1]),
                })
                .collect();
            let asker = Asker { limit: 4_096, ..asker(&question) };
            let out = reply(&asker, Rcode::NOERROR, &records, &[]);
            let message = Message::from_vec(&out).unwrap();
            prop_assert_eq!(message.answers.len(), records.len());
            for (record, pair) in message.answers.iter().zip(names.windows(2)) {
                let text = |name: &[u8]| DisplayName(name).to_string().to_ascii_lowercase();
                prop_assert_eq!(record.name.to_string().to_ascii_lowercase(), text(&pair[0]));
                prop_assert_eq!(record.data.to_string().to_ascii_lowercase(), text(&pair[1]));
            }
        }
    }
}
