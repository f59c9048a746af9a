//! Tests of [`super`] and of `local`: octet for octet, and that what is too long is cut as told.

use crate::wire::ExtendedError;
use hickory_proto::op::Message;
use proptest::prelude::*;

use super::*;
use crate::cache::pack;
use crate::config::TtlBounds;
use crate::limits::HEADER_OCTETS;
use crate::time::Duration;
use crate::wire::testing::{
    ADDITIONAL, ANSWER, AT_QUESTION, AUTHORITY, Draft, question, soa, wire,
};
use crate::wire::{ClientEdns, RecordType, ResponseView};

const SETTINGS: ReplySettings = ReplySettings { udp_size: 1_232 };
const BOUNDS: TtlBounds = TtlBounds {
    min_seconds: 0,
    max_seconds: 3_600,
    negative_max_seconds: 3_600,
    servfail_seconds: 5,
};
const DNSSEC: ClientEdns = ClientEdns { udp_size: 4_096, dnssec_ok: true, version: 0 };
const EDNS: ClientEdns = ClientEdns { udp_size: 4_096, dnssec_ok: false, version: 0 };
/// What every reply to a query with RD starts with.
const FLAGS: u16 = Flags::QR | Flags::RD | Flags::RA;

fn asker(question: &[u8], edns: Option<ClientEdns>) -> Asker<'_> {
    Asker {
        id: 0xabcd,
        flags: Flags(Flags::RD),
        question,
        edns,
        limit: 65_535,
        options: ReplyOptions::default(),
    }
}

fn packed(draft: &Draft) -> Vec<u8> {
    let mut out = Vec::new();
    pack(&ResponseView::parse(&draft.0).unwrap(), &BOUNDS, Instant::ZERO, &mut out).unwrap();
    out
}

fn upstream(flags: u16) -> Draft {
    Draft::new(7, Flags::QR | Flags::AA | flags).question("www.example", RecordType::A)
}

/// The reply `seconds` after the answer came.
fn answer(asker: &Asker<'_>, packed: &[u8], seconds: u64, error: Option<ErrorNote<'_>>) -> Vec<u8> {
    let mut out = vec![0xff; asker.limit];
    let now = Instant::ZERO + Duration::from_secs(seconds);
    let length = write_answer(&mut out, asker, SETTINGS, Packed::new(packed), now, error);
    out.truncate(length);
    out
}

fn flags(reply: &[u8]) -> u16 {
    u16::from_be_bytes([reply[2], reply[3]])
}

#[test]
fn the_client_gets_its_own_header_and_spelling() {
    let packed = packed(&upstream(0).address(60).opt(512, 0, &[0, 10, 0, 1, 9]));
    let question = question("wWw.eXample", RecordType::A);
    let expected = Draft::new(0xabcd, FLAGS).octets(&question).count(0).address(48);
    assert_eq!(answer(&asker(&question, None), &packed, 12, None), expected.0);

    let expected = expected.opt(1_232, 0, &[]);
    assert_eq!(answer(&asker(&question, Some(EDNS)), &packed, 12, None), expected.0);
}

#[test]
fn an_extended_error_needs_an_opt_rfc_8914_section_3() {
    let packed = packed(&upstream(0).address(60));
    let question = question("www.example", RecordType::A);
    let stale = Some(ErrorNote::from(ExtendedError::STALE_ANSWER));
    let expected = Draft::new(0xabcd, FLAGS).octets(&question).count(0).address(0);
    assert_eq!(answer(&asker(&question, None), &packed, 99, stale), expected.0);
    let expected = expected.opt(1_232, 0x8000, &[0, 15, 0, 2, 0, 3]);
    assert_eq!(answer(&asker(&question, Some(DNSSEC)), &packed, 99, stale), expected.0);
}

#[test]
fn authentic_data_is_for_who_asks_for_it_rfc_6840_section_5_8() {
    let question = question("www.example", RecordType::A);
    let authentic = packed(&upstream(Flags::AD).address(60));
    let unproven = packed(&upstream(0).address(60));
    let ad = |packed: &[u8], flags_sent: u16, edns| {
        let asker = Asker { flags: Flags(flags_sent), ..asker(&question, edns) };
        let flags = flags(&answer(&asker, packed, 0, None));
        assert_eq!(flags & !Flags::AD, Flags::QR | Flags::RA, "and nothing else");
        flags & Flags::AD != 0
    };
    assert!(ad(&authentic, Flags::AD, None));
    assert!(ad(&authentic, 0, Some(DNSSEC)));
    assert!(!ad(&authentic, 0, Some(EDNS)));
    assert!(!ad(&authentic, 0, None));
    assert!(!ad(&unproven, Flags::AD, Some(DNSSEC)));
}

#[test]
fn flags_are_the_clients_or_ours() {
    let question = question("www.example", RecordType::A);
    let packed = packed(&upstream(Flags::CD).address(60));
    let sent = [0, Flags::RD, Flags::CD, Flags::AA | Flags::TC | Flags::RA | 0x40 | 0x0f];
    let kept = [0, Flags::RD, Flags::CD, 0];
    for (sent, kept) in sent.into_iter().zip(kept) {
        let asker = Asker { flags: Flags(sent), ..asker(&question, None) };
        assert_eq!(flags(&answer(&asker, &packed, 0, None)), Flags::QR | Flags::RA | kept);
    }
}

#[test]
fn negative_answers_keep_rcode_and_soa() {
    let nxdomain = upstream(3).record(AUTHORITY, AT_QUESTION, RecordType::SOA, 60, &soa(30));
    let question = question("www.example", RecordType::A);
    let reply = answer(&asker(&question, None), &packed(&nxdomain), 10, None);
    let expected = Draft::new(0xabcd, FLAGS | 3).octets(&question).count(0).record(
        AUTHORITY,
        AT_QUESTION,
        RecordType::SOA,
        20,
        &soa(30),
    );
    assert_eq!(reply, expected.0);
}

#[test]
fn additional_records_go_first_and_quietly_rfc_2181_section_9() {
    let question = question("www.example", RecordType::A);
    let base = upstream(0).address(60).record(AUTHORITY, &[0], RecordType::NS, 60, &wire("ns"));
    let additional = base.clone().record(ADDITIONAL, &wire("ns"), RecordType::A, 60, &[9; 4]);
    let packed = packed(&additional);
    let asker = asker(&question, Some(EDNS));
    let whole = additional.0.len() + 11;
    let counts = |limit: usize| {
        let reply = answer(&Asker { limit, ..asker }, &packed, 0, None);
        assert!(reply.len() <= limit);
        (flags(&reply) & Flags::TC != 0, reply[7], reply[9], reply[11])
    };
    assert_eq!(counts(whole), (false, 1, 1, 2));
    assert_eq!(counts(whole - 1), (false, 1, 1, 1), "OPT stays");
    assert_eq!(counts(base.0.len() + 11), (false, 1, 1, 1));
    assert_eq!(counts(base.0.len() + 10), (true, 0, 0, 1), "no part of a section");
}

#[test]
fn an_answer_that_came_truncated_stays_so() {
    let question = question("www.example", RecordType::A);
    let packed = packed(&upstream(Flags::TC).address(60));
    let reply = answer(&asker(&question, None), &packed, 0, None);
    assert_eq!(flags(&reply), FLAGS | Flags::TC);
    assert_eq!(reply[7], 1);
}

#[test]
fn an_answer_to_another_question_is_servfail() {
    let packed = packed(&upstream(0).address(60));
    let question = question("other.example", RecordType::A);
    let reply = answer(&asker(&question, None), &packed, 0, None);
    assert_eq!(flags(&reply), FLAGS | 2);
    assert_eq!(reply.len(), HEADER_OCTETS + question.len());
}

#[test]
fn an_extended_rcode_needs_an_opt_rfc_6891_section_6_1_3() {
    let question = question("www.example", RecordType::A);
    let rcode = |edns| {
        let mut out = [0; 512];
        let asker = asker(&question, edns);
        let length = write_rcode(&mut out, &asker, SETTINGS, Rcode::BADVERS, None);
        out[..length].to_vec()
    };
    let expected =
        Draft::new(0xabcd, FLAGS).octets(&question).count(0).opt(1_232, 0x0100_0000, &[]);
    assert_eq!(rcode(Some(EDNS)), expected.0);
    assert_eq!(flags(&rcode(None)), FLAGS | 2, "SERVFAIL, since the low bits say NOERROR");
}

#[test]
fn an_rcode_goes_without_question_too() {
    let mut out = [0; 512];
    let asker = Asker { flags: Flags(5 << 11), ..asker(&[], None) };
    let length = write_rcode(&mut out, &asker, SETTINGS, Rcode::NOTIMP, None);
    assert_eq!(out[..length], Draft::new(0xabcd, Flags::QR | Flags::RA | 5 << 11 | 4).0);
}

#[test]
fn too_little_room_gives_nothing() {
    let question = question("www.example", RecordType::A);
    let packed = packed(&upstream(0).address(60));
    let asker = asker(&question, Some(EDNS));
    let least = HEADER_OCTETS + question.len() + 11;
    let mut out = vec![0; least];
    let now = Instant::ZERO;
    let answer = Packed::new(&packed);
    assert_eq!(write_answer(&mut out, &asker, SETTINGS, answer, now, None), least);
    assert_eq!(write_answer(&mut out[1..], &asker, SETTINGS, answer, now, None), 0);
    let asker = Asker { limit: least - 1, ..asker };
    assert_eq!(write_answer(&mut out, &asker, SETTINGS, answer, now, None), 0);
    assert_eq!(write_rcode(&mut out, &asker, SETTINGS, Rcode::REFUSED, None), 0);
}

proptest! {
    #[test]
    fn replies_fit_and_tell_the_truth_about_tc(
        answers in 0_usize..60,
        authorities in 0_usize..20,
        additionals in 0_usize..20,
        limit in 512_usize..1_500,
        edns in prop::option::of(any::<bool>()),
        error in prop::option::of(any::<u16>()),
    ) {
        let mut draft = upstream(0);
        for (section, count) in [(ANSWER, answers), (AUTHORITY, authorities), (ADDITIONAL, additionals)] {
            for number in 0..count {
                let rdata = [192, 0, 2, u8::try_from(number).unwrap()];
                draft = draft.record(section, AT_QUESTION, RecordType::A, 60, &rdata);
            }
        }
        let question = question("WWW.example", RecordType::A);
        let edns = edns.map(|dnssec_ok| ClientEdns { dnssec_ok, ..EDNS });
        let asker = Asker { limit, ..asker(&question, edns) };
        let reply = answer(&asker, &packed(&draft), 7, error.map(|code| ExtendedError(code).into()));

        prop_assert!(reply.len() <= limit);
        let message = Message::from_vec(&reply).unwrap();
        prop_assert_eq!(message.edns.is_some(), edns.is_some());
        prop_assert_eq!(message.queries[0].name.to_string(), "WWW.example.");
        let left_out = message.answers.len() < answers || message.authorities.len() < authorities;
        prop_assert_eq!(message.metadata.truncation, left_out);
        if left_out {
            prop_assert!(message.answers.is_empty() && message.authorities.is_empty());
        }
        prop_assert!(message.additionals.is_empty() || message.additionals.len() == additionals);
        // Nothing is left out that would have fitted.
        let opt = edns.map_or(0, |_| 11 + error.map_or(0, |_| 6));
        let essential = 12 + question.len() + 16 * (answers + authorities) + opt;
        prop_assert_eq!(left_out, essential > limit);
        let whole = essential + 16 * additionals;
        prop_assert_eq!(message.additionals.len() == additionals, whole <= limit || additionals == 0);
        for record in message.all_sections() {
            prop_assert_eq!(record.ttl, 53);
            prop_assert_eq!(record.name.to_string(), "WWW.example.", "the client's spelling");
        }
    }
}
