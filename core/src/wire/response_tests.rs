//! Tests of [`super`]: each kind of RFC 2308 section 2, what is refused, mutated messages.

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
    draft.record(AUTHORITY, &wire("example"), RecordType::SOA, ttl, &soa(minimum))
}

fn with_ns(draft: Draft) -> Draft {
    draft.record(AUTHORITY, &wire("example"), RecordType::NS, 60, &wire("ns.example"))
}

fn with_cname(draft: Draft) -> Draft {
    draft.record(ANSWER, AT_QUESTION, RecordType::CNAME, 60, &wire("other.example"))
}

fn with_glue(draft: Draft) -> Draft {
    draft.record(ADDITIONAL, &wire("ns.example"), RecordType::A, 60, &[192, 0, 2, 53])
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
    assert_eq!((view.id(), view.flags(), view.rcode()), (7, Flags(QR), Rcode::NOERROR));
    assert_eq!(view.question(), question("www.example", RecordType::A));
    assert!(!view.truncated());
    assert_eq!(ResponseView::peek_id(&message), Some(7));
    assert_eq!(ResponseView::peek_id(&[7]), None);
}

#[test]
fn positive_answers() {
    assert_eq!(kind(&response(Rcode::NOERROR).address(60)), ResponseKind::Answer);
    assert_eq!(kind(&with_cname(response(Rcode::NOERROR)).address(60)), ResponseKind::Answer);
    assert_eq!(kind(&with_soa(response(Rcode::NOERROR).address(60), 1, 1)), ResponseKind::Answer);
    assert_eq!(kind(&with_ns(response(Rcode::NOERROR).address(60))), ResponseKind::Answer);
    // A chain that the server did not follow: the client may.
    assert_eq!(kind(&with_cname(response(Rcode::NOERROR))), ResponseKind::Answer);
    let any = with_cname(Draft::new(7, QR).question("www.example", RecordType::ANY));
    assert_eq!(kind(&with_soa(any, 1, 1)), ResponseKind::Answer, "any record answers ANY");
}

#[test]
fn no_data_rfc_2308_section_2_2() {
    let negative = |seconds| ResponseKind::NoData { negative_ttl: Some(seconds) };
    let base = response(Rcode::NOERROR);
    assert_eq!(kind(&with_ns(with_soa(base.clone(), 60, 60))), negative(60), "type 1");
    assert_eq!(kind(&with_soa(base.clone(), 60, 60)), negative(60), "type 2");
    let without = ResponseKind::NoData { negative_ttl: None };
    assert_eq!(kind(&base), without, "type 3");
    assert_eq!(kind(&with_soa(with_cname(base), 60, 60)), negative(60), "end of a chain");
}

#[test]
fn no_such_name_rfc_2308_section_2_1() {
    let base = response(Rcode::NXDOMAIN);
    let negative = ResponseKind::NxDomain { negative_ttl: Some(30) };
    assert_eq!(kind(&with_soa(base.clone(), 60, 30)), negative);
    assert_eq!(kind(&with_soa(with_cname(base.clone()), 60, 30)), negative, "end of a chain");
    let without = ResponseKind::NxDomain { negative_ttl: None };
    assert_eq!(kind(&with_ns(base)), without, "type 4 looks like a referral but is none");
}

#[test]
fn negative_ttl_is_the_lesser_one_rfc_2308_section_5() {
    for (ttl, minimum, least) in
        [(60, 30, 30), (30, 60, 30), (0, 60, 0), (60, 0x8000_0000, 0), (u32::MAX, 60, 0)]
    {
        let draft = with_soa(response(Rcode::NXDOMAIN), ttl, minimum);
        assert_eq!(kind(&draft), ResponseKind::NxDomain { negative_ttl: Some(least) });
    }
    let short = response(Rcode::NXDOMAIN).record(AUTHORITY, &[0], RecordType::SOA, 9, &[0; 21]);
    assert_eq!(kind(&short), ResponseKind::NxDomain { negative_ttl: None });
}

#[test]
fn referrals_rfc_2308_section_2_2() {
    let base = response(Rcode::NOERROR);
    assert_eq!(kind(&with_glue(with_ns(base.clone()))), ResponseKind::Referral);
    assert_eq!(kind(&with_ns(base.clone())), ResponseKind::Referral);
    assert_eq!(kind(&with_glue(base.clone())), ResponseKind::Referral, "glue alone");
    let authoritative = Draft::new(7, QR | Flags::AA).question("www.example", RecordType::A);
    assert_eq!(kind(&with_ns(authoritative)), ResponseKind::Referral, "AA says nothing");
    let negative = ResponseKind::NoData { negative_ttl: Some(5) };
    assert_eq!(kind(&with_glue(with_ns(with_soa(base, 5, 5)))), negative);
}

#[test]
fn errors_have_their_extended_rcode_rfc_6891_section_6_1_3() {
    assert_eq!(kind(&response(Rcode::REFUSED)), ResponseKind::Error(Rcode::REFUSED));
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
    assert_eq!(refusal(&message[..records_at - 1]), MalformedResponse::Question);
}

#[test]
fn whole_ones_may_not() {
    let message = with_glue(with_ns(response(Rcode::NOERROR).address(60))).0;
    let records_at = 12 + question("www.example", RecordType::A).len();
    for length in records_at..message.len() {
        assert_eq!(refusal(&message[..length]), MalformedResponse::Record, "{length}");
    }
    let longer = [&message[..], b"garbage"].concat();
    assert!(ResponseView::parse(&longer).is_ok(), "what follows is nobody's business");
}

#[test]
fn what_is_no_response() {
    assert_eq!(refusal(&[0; 11]), MalformedResponse::TooShort { octets: 11 });
    let query = Draft::new(7, 0).question("a", RecordType::A);
    assert_eq!(refusal(&query.0), MalformedResponse::Query);
    let notify = Draft::new(7, QR | 4 << 11).question("a", RecordType::A);
    assert_eq!(refusal(&notify.0), MalformedResponse::Opcode { opcode: 4 });
    let two = response(Rcode::NOERROR).question("b", RecordType::A);
    assert_eq!(refusal(&two.0), MalformedResponse::QuestionCount { count: 2 });
    let compressed = Draft::new(7, QR).octets(&[0xc0, 12, 0, 1, 0, 1]).count(0);
    assert_eq!(refusal(&compressed.0), MalformedResponse::Question);
}

#[test]
fn opt_and_tsig_have_their_place() {
    let base = response(Rcode::NOERROR);
    let opt = MalformedResponse::Misplaced { record_type: RecordType::OPT };
    let tsig = MalformedResponse::Misplaced { record_type: RecordType::TSIG };
    assert_eq!(refusal(&base.clone().opt(512, 0, &[]).opt(512, 0, &[]).0), opt, "two");
    let owned = base.clone().record(ADDITIONAL, &wire("a"), RecordType::OPT, 0, &[]);
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
    let two = [0, 10, 0, 1, 9, 0, 15, 0, 4, 0, 22, b'h', b'i', 0, 15, 0, 2, 0, 23];
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
