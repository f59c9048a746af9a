//! Tests of [`super`]: what is remembered, for how long, and that nothing of one hop stays.

use proptest::prelude::*;

use super::*;
use crate::wire::testing::{ADDITIONAL, ANSWER, AT_QUESTION, AUTHORITY, Draft, soa, wire};
use crate::wire::{QueryView, RecordType, ReplySettings, write_answer};

const BOUNDS: TtlBounds = TtlBounds {
    min_seconds: 5,
    max_seconds: 3_600,
    negative_max_seconds: 900,
    servfail_seconds: 7,
};
const UNBOUNDED: TtlBounds = TtlBounds {
    min_seconds: 0,
    max_seconds: u32::MAX,
    negative_max_seconds: u32::MAX,
    servfail_seconds: 0,
};
const QR: u16 = Flags::QR | Flags::RA;

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn seconds(count: u64) -> Cacheable {
    Cacheable::For(Duration::from_secs(count))
}

fn response(rcode: Rcode) -> Draft {
    Draft::new(7, QR | rcode.low()).question("www.example", RecordType::A)
}

fn with_soa(draft: Draft, ttl: u32, minimum: u32) -> Draft {
    draft.record(AUTHORITY, &wire("example"), RecordType::SOA, ttl, &soa(minimum))
}

/// Packs at second 100.
fn packed(draft: &Draft, bounds: &TtlBounds) -> (Cacheable, Vec<u8>) {
    let mut out = b"something older".to_vec();
    let view = ResponseView::parse(&draft.0).unwrap();
    let cacheable = pack(&view, bounds, at(100), &mut out).unwrap();
    (cacheable, out)
}

/// The TTLs stored, in the order of the records.
fn ttls(packed: &[u8]) -> Vec<u32> {
    let packed = Packed::new(packed);
    let ttl_at = |offset: usize| packed.body()[offset..].first_chunk().copied().unwrap();
    packed.ttl_offsets().map(|offset| u32::from_be_bytes(ttl_at(offset))).collect()
}

#[test]
fn head_and_records() {
    let draft = response(Rcode::NOERROR).address(60).address(50).opt(1_232, 0, &[]);
    let (cacheable, out) = packed(&draft, &BOUNDS);
    let answer = Packed::new(&out);
    assert_eq!(cacheable, seconds(50));
    assert_eq!((answer.stored_at(), answer.expires_at()), (at(100), at(150)));
    assert_eq!((answer.rcode(), answer.answer_count()), (Rcode::NOERROR, 2));
    assert_eq!(answer.counts(), [2, 0, 0], "OPT is gone");
    assert_eq!(answer.body().len(), 32);
    assert_eq!(answer.bytes(), out);
    assert!(!answer.authentic_data() && !answer.truncated());
}

/// Names that repeat our random letter case (0x20) are lower-cased, the server's own are left alone.
#[test]
fn our_own_letter_case_does_not_reach_clients() {
    let draft = Draft::new(7, QR)
        .question("wWw.eXamPle", RecordType::A)
        .record(ANSWER, &wire("wWw.eXamPle"), RecordType::A, 60, &[192, 0, 2, 1])
        .record(ANSWER, &wire("WWW.Example"), RecordType::A, 60, &[192, 0, 2, 2])
        .record(AUTHORITY, &wire("eXamPle"), RecordType::NS, 60, &wire("Ns.eXamPle"))
        .record(AUTHORITY, AT_QUESTION, RecordType::NS, 60, &wire("Ns.eXamPle"));
    let (_, out) = packed(&draft, &BOUNDS);
    let body = Packed::new(&out).body().to_vec();
    let expected = Draft::new(7, QR)
        .question("wWw.eXamPle", RecordType::A)
        .record(ANSWER, &wire("www.example"), RecordType::A, 60, &[192, 0, 2, 1])
        .record(ANSWER, &wire("WWW.Example"), RecordType::A, 60, &[192, 0, 2, 2])
        .record(AUTHORITY, &wire("example"), RecordType::NS, 60, &wire("Ns.eXamPle"))
        .record(AUTHORITY, AT_QUESTION, RecordType::NS, 60, &wire("Ns.eXamPle"));
    assert_eq!(body, expected.0[expected.0.len() - body.len()..]);
}

#[test]
fn fresh_until_the_instant_it_expires() {
    let (_, out) = packed(&response(Rcode::NOERROR).address(50), &BOUNDS);
    let expiry = Packed::new(&out).expires_at();
    assert!(Packed::new(&out).is_fresh(Instant::from_nanos(expiry.as_nanos() - 1)));
    assert!(!Packed::new(&out).is_fresh(expiry));
}

#[test]
fn ttls_are_bounded_both_ways() {
    let draft = response(Rcode::NOERROR).address(0).address(60).address(7_200);
    let (cacheable, out) = packed(&draft, &BOUNDS);
    assert_eq!((cacheable, ttls(&out)), (seconds(5), vec![5, 60, 3_600]));
    let (cacheable, out) = packed(&draft, &UNBOUNDED);
    assert_eq!(cacheable, Cacheable::No(NotCacheable::ZeroTtl), "the least is not skipped");
    assert_eq!(ttls(&out), [0, 60, 7_200]);
    assert!(!Packed::new(&out).is_fresh(at(100)));
}

#[test]
fn a_ttl_with_the_top_bit_set_is_zero_rfc_2181_section_8() {
    let draft = response(Rcode::NOERROR).address(0x7fff_ffff).address(0x8000_0000);
    assert_eq!(ttls(&packed(&draft, &UNBOUNDED).1), [0x7fff_ffff, 0]);
    assert_eq!(ttls(&packed(&draft, &BOUNDS).1), [3_600, 5]);
}

#[test]
fn opt_does_not_count_as_a_ttl() {
    let draft = response(Rcode::NOERROR).address(60).opt(1_232, 1, &[]);
    assert_eq!(packed(&draft, &UNBOUNDED).0, seconds(60));
}

#[test]
fn negative_answers_live_by_their_soa_rfc_2308_section_5() {
    for rcode in [Rcode::NOERROR, Rcode::NXDOMAIN] {
        for (ttl, minimum, lifetime) in
            [(60, 30, 30), (30, 60, 30), (7_200, 3_600, 900), (2, 60, 5), (60, 0, 5)]
        {
            let (cacheable, out) = packed(&with_soa(response(rcode), ttl, minimum), &BOUNDS);
            assert_eq!(cacheable, seconds(u64::from(lifetime)));
            assert_eq!(ttls(&out), [lifetime], "the SOA shows it");
        }
        let (cacheable, _) = packed(&response(rcode), &BOUNDS);
        assert_eq!(cacheable, Cacheable::No(NotCacheable::NegativeWithoutSoa));
    }
}

#[test]
fn a_chain_bounds_the_negative_answer_at_its_end() {
    let draft = response(Rcode::NXDOMAIN).record(
        ANSWER,
        AT_QUESTION,
        RecordType::CNAME,
        20,
        &wire("gone.example"),
    );
    let (cacheable, out) = packed(&with_soa(draft, 60, 30), &BOUNDS);
    assert_eq!((cacheable, ttls(&out)), (seconds(20), vec![20, 30]));
}

#[test]
fn the_soa_of_a_positive_answer_is_like_any_record() {
    let draft = with_soa(response(Rcode::NOERROR).address(2_000), 2_000, 1);
    let (cacheable, out) = packed(&draft, &BOUNDS);
    assert_eq!((cacheable, ttls(&out)), (seconds(2_000), vec![2_000, 2_000]));
}

#[test]
fn only_the_authorities_soa_says_how_long_nothing_is_remembered() {
    // A SOA among the answers to another question is a record like any.
    let draft = response(Rcode::NXDOMAIN).record(ANSWER, &[0], RecordType::SOA, 2_000, &soa(1));
    let (cacheable, out) = packed(&with_soa(draft, 60, 30), &BOUNDS);
    assert_eq!((cacheable, ttls(&out)), (seconds(30), vec![2_000, 30]));
}

#[test]
fn servfail_lives_as_configured_rfc_9520_section_3_2() {
    let draft = response(Rcode::SERVFAIL);
    assert_eq!(packed(&draft, &BOUNDS).0, seconds(7));
    assert_eq!(packed(&draft, &UNBOUNDED).0, Cacheable::No(NotCacheable::Error));
    let hour = TtlBounds { servfail_seconds: 3_600, ..BOUNDS };
    assert_eq!(packed(&draft, &hour).0, seconds(300), "five minutes at most");
    let other = packed(&response(Rcode::REFUSED), &BOUNDS).0;
    assert_eq!(other, Cacheable::No(NotCacheable::Error));
}

#[test]
fn referrals_and_truncated_answers_are_not_remembered() {
    let referral =
        response(Rcode::NOERROR).record(AUTHORITY, &[0], RecordType::NS, 60, &wire("ns"));
    assert_eq!(packed(&referral, &BOUNDS).0, Cacheable::No(NotCacheable::Referral));
    let cut = Draft::new(7, QR | Flags::TC).question("www.example", RecordType::A).address(60);
    let (cacheable, out) = packed(&cut.octets(&[0xc0]).count(ANSWER), &BOUNDS);
    assert_eq!(cacheable, Cacheable::No(NotCacheable::Truncated));
    let answer = Packed::new(&out);
    assert!(answer.truncated());
    assert_eq!(answer.counts(), [1, 0, 0], "what could be read");
}

#[test]
fn the_number_of_records_is_bounded() {
    let many = |count: usize| {
        let mut draft = response(Rcode::NOERROR);
        for _ in 0..count {
            draft = draft.octets(AT_QUESTION).octets(&[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4]);
        }
        draft.0[6..8].copy_from_slice(&u16::try_from(count).unwrap().to_be_bytes());
        draft
    };
    assert_eq!(packed(&many(CACHED_RECORDS), &BOUNDS).0, seconds(60));
    let (cacheable, out) = packed(&many(CACHED_RECORDS + 1), &BOUNDS);
    assert_eq!(cacheable, Cacheable::No(NotCacheable::TooManyRecords));
    assert_eq!(ttls(&out).len(), CACHED_RECORDS + 1, "still whole for whoever asked");
}

#[test]
fn an_answer_without_question_cannot_be_packed() {
    let message = Draft::new(7, QR | Rcode::REFUSED.low()).0;
    let view = ResponseView::parse(&message).unwrap();
    let refused = pack(&view, &BOUNDS, at(0), &mut Vec::new());
    assert_eq!(refused, Err(PackError::NoQuestion));
}

#[test]
fn authentic_data_is_kept() {
    let draft = Draft::new(7, QR | Flags::AD).question("a", RecordType::A).address(60);
    assert!(Packed::new(&packed(&draft, &BOUNDS).1).authentic_data());
}

#[test]
fn records_of_one_hop_are_cut_off_at_the_end() {
    let glue = wire("ns.example");
    let draft = response(Rcode::NOERROR)
        .address(60)
        .record(ADDITIONAL, &glue, RecordType::A, 60, &[192, 0, 2, 53])
        .opt(1_232, 0, &[0, 10, 0, 1, 9])
        .record(ADDITIONAL, &[0], RecordType::SIG, 0, &[0, 0, 1, 2])
        .record(ADDITIONAL, &[0], RecordType::TSIG, 0, b"secret");
    let (_, out) = packed(&draft, &BOUNDS);
    let answer = Packed::new(&out);
    assert_eq!(answer.counts(), [1, 0, 1]);
    assert_eq!(answer.body().len(), 16 + glue.len() + 14);
    assert_eq!(answer.body_without_additional().len(), 16);
}

#[test]
fn records_of_one_hop_are_taken_out_of_the_middle() {
    // The last record's owner points into the one before it, which moves.
    let draft = response(Rcode::NOERROR).address(60).opt(1_232, 0x0100_0000, &[0, 10, 0, 1, 9]);
    let pointer = u16::try_from(draft.0.len()).unwrap() | 0xc000;
    let draft = draft
        .record(ADDITIONAL, &wire("ns.example"), RecordType::A, 40, &[192, 0, 2, 53])
        .record(ADDITIONAL, &pointer.to_be_bytes(), RecordType::AAAA, 30, &[1; 16]);
    let (cacheable, out) = packed(&draft, &BOUNDS);
    let answer = Packed::new(&out);
    assert_eq!(answer.counts(), [1, 0, 2]);
    assert_eq!(ttls(&out), [60, 40, 30]);
    assert_eq!(answer.rcode(), Rcode::BADVERS, "the high bits of the rcode stay");
    assert_eq!(cacheable, Cacheable::No(NotCacheable::Error), "and so does what they mean");

    let reply = reply(answer, 100);
    let message = Message::from_vec(&reply).unwrap();
    let owners: Vec<_> = message.additionals.iter().map(|record| record.name.to_string()).collect();
    assert_eq!(owners, ["ns.example.", "ns.example."]);
}

#[test]
fn what_hickory_cannot_read_loses_the_additional_records_behind_opt() {
    let draft = response(Rcode::NOERROR).address(60).opt(1_232, 0, &[]).record(
        ADDITIONAL,
        &wire("ns.example"),
        RecordType::A,
        40,
        &[1, 2, 3],
    );
    let (cacheable, out) = packed(&draft, &BOUNDS);
    assert_eq!(Packed::new(&out).counts(), [1, 0, 0]);
    assert_eq!(cacheable, seconds(60));
}

/// Names that hickory does not compress when it writes them make some messages longer than any may
/// be. What it cuts off then is not what the upstream left out.
#[test]
fn what_does_not_fit_when_written_afresh_stays_as_it_came() {
    let name = [&"a".repeat(63)[..], &"b".repeat(63), &"c".repeat(63), "example"].join(".");
    let target = [&[0, 1, 0, 1, 0, 53], AT_QUESTION].concat();
    let mut draft = Draft::new(7, QR).question(&name, RecordType(33));
    for _ in 0..255 {
        draft = draft.record(ANSWER, AT_QUESTION, RecordType(33), 60, &target);
    }
    // A tenth of the longest message; spelled out it is half as long again as that.
    for _ in 0..120 {
        draft = draft.record(ADDITIONAL, AT_QUESTION, RecordType(33), 60, &target);
    }
    let draft = draft.opt(1_232, 0, &[]).record(ADDITIONAL, &wire("x"), RecordType::A, 60, &[1; 4]);
    let (cacheable, out) = packed(&draft, &BOUNDS);
    let answer = Packed::new(&out);
    assert_eq!(cacheable, seconds(60));
    assert!(!answer.truncated());
    assert_eq!(answer.counts(), [255, 0, 120]);
}

/// The reply to a plain query for `www.example`, at some second.
fn reply(answer: Packed<'_>, now: u64) -> Vec<u8> {
    reply_at(answer, at(now))
}

fn reply_at(answer: Packed<'_>, now: Instant) -> Vec<u8> {
    let query = Draft::new(1, 0).question("WWW.example", RecordType::A).opt(1_232, 0, &[]).0;
    let asker = QueryView::parse(&query).unwrap().asker(65_535);
    let mut out = vec![0; 65_535];
    let settings = ReplySettings { udp_size: 1_232 };
    let length = write_answer(&mut out, &asker, settings, answer, now, None);
    out.truncate(length);
    out
}

/// Seconds as TTL fields hold them: everyday ones, those about the top bit, any.
fn field() -> impl Strategy<Value = u32> {
    let about_the_top_bit = prop::sample::select(vec![0x7fff_ffff, 0x8000_0000, u32::MAX]);
    prop_oneof![4 => 0_u32..40, 2 => about_the_top_bit, 1 => any::<u32>()]
}

/// Nanoseconds just before, at and after a whole second.
fn about_a_second() -> impl Strategy<Value = u64> {
    (1_u64..100, 0_u64..3).prop_map(|(seconds, more)| seconds * 1_000_000_000 + more - 1)
}

/// Most moments, and those close to the end of time.
fn moment() -> impl Strategy<Value = u64> {
    prop_oneof![2 => 0..u64::MAX / 2, 1 => u64::MAX - 50_000_000_000..=u64::MAX]
}

proptest! {
    /// RFC 2308 section 5: the lesser of the SOA's TTL and its MINIMUM, whichever is sane.
    #[test]
    fn negative_answers_live_by_the_lesser_number_within_bounds(
        is_nxdomain: bool,
        (ttl, minimum) in (field(), field()),
        (min_seconds, negative_max_seconds) in (field(), field()),
    ) {
        let bounds = TtlBounds { min_seconds, negative_max_seconds, ..BOUNDS };
        let rcode = if is_nxdomain { Rcode::NXDOMAIN } else { Rcode::NOERROR };
        let (cacheable, out) = packed(&with_soa(response(rcode), ttl, minimum), &bounds);
        let sane = |seconds: u32| if seconds >= 1 << 31 { 0 } else { seconds };
        let mut shown = sane(ttl);
        if sane(minimum) < shown {
            shown = sane(minimum);
        }
        if shown < min_seconds {
            shown = min_seconds;
        }
        if shown > negative_max_seconds {
            shown = negative_max_seconds;
        }
        prop_assert_eq!(ttls(&out), vec![shown]);
        let expected = match shown {
            0 => Cacheable::No(NotCacheable::ZeroTtl),
            _ => seconds(shown.into()),
        };
        prop_assert_eq!(cacheable, expected);
    }

    /// Whole seconds are taken off, whenever it came and however much later it is asked for.
    #[test]
    fn ages_are_whole_seconds_at_any_time(
        ttl in field(),
        stored in moment(),
        age in prop_oneof![0_u64..60_000_000_000, any::<u64>(), about_a_second()],
    ) {
        let draft = response(Rcode::NOERROR).address(ttl);
        let view = ResponseView::parse(&draft.0).unwrap();
        let mut out = Vec::new();
        pack(&view, &UNBOUNDED, Instant::from_nanos(stored), &mut out).unwrap();
        let answer = Packed::new(&out);
        let now = stored.saturating_add(age);
        let lifetime = if ttl >= 1 << 31 { 0 } else { u128::from(ttl) };

        // Beyond the end of time there is nothing to compare with.
        let expiry = (u128::from(stored) + lifetime * 1_000_000_000).min(u64::MAX.into());
        prop_assert_eq!(u128::from(answer.expires_at().as_nanos()), expiry);
        prop_assert_eq!(answer.is_fresh(Instant::from_nanos(now)), u128::from(now) < expiry);

        let reply = Message::from_vec(&reply_at(answer, Instant::from_nanos(now))).unwrap();
        let aged = u128::from((now - stored) / 1_000_000_000);
        let left = lifetime.saturating_sub(aged);
        prop_assert_eq!(u128::from(reply.answers[0].ttl), left);
        // Before time itself comes from the other side: it is as if it had just come.
        let reply = Message::from_vec(&reply_at(answer, Instant::ZERO)).unwrap();
        prop_assert_eq!(u128::from(reply.answers[0].ttl), lifetime);
    }

    #[test]
    fn failures_live_as_configured_within_the_rfcs_bound(servfail_seconds in field()) {
        let bounds = TtlBounds { servfail_seconds, ..BOUNDS };
        let (cacheable, _) = packed(&response(Rcode::SERVFAIL), &bounds);
        let expected = match servfail_seconds {
            0 => Cacheable::No(NotCacheable::Error),
            1..300 => seconds(servfail_seconds.into()),
            300.. => seconds(300),
        };
        prop_assert_eq!(cacheable, expected);
    }

    #[test]
    fn aged_ttls_are_the_bounded_ones_less_the_age(
        sent in prop::collection::vec(prop_oneof![0_u32..40, any::<u32>()], 1..6),
        min_seconds in 0_u32..10,
        more in 0_u32..100,
        age in 0_u64..120,
    ) {
        let bounds = TtlBounds { min_seconds, max_seconds: min_seconds + more, ..BOUNDS };
        let draft = sent.iter().fold(response(Rcode::NOERROR), |draft, &ttl| draft.address(ttl));
        let (cacheable, out) = packed(&draft, &bounds);
        let answer = Packed::new(&out);
        let bounded: Vec<u32> = sent
            .iter()
            .map(|&ttl| if ttl > 0x7fff_ffff { 0 } else { ttl })
            .map(|ttl| ttl.clamp(min_seconds, min_seconds + more))
            .collect();
        prop_assert_eq!(ttls(&out), bounded.clone());

        let lifetime = u64::from(*bounded.iter().min().unwrap());
        let expected = match lifetime {
            0 => Cacheable::No(NotCacheable::ZeroTtl),
            _ => seconds(lifetime),
        };
        prop_assert_eq!(cacheable, expected);
        // A miss from the second on that would show a TTL of zero.
        prop_assert_eq!(answer.is_fresh(at(100 + age)), age < lifetime);

        let aged = Message::from_vec(&reply(answer, 100 + age)).unwrap();
        let aged: Vec<u32> = aged.answers.iter().map(|record| record.ttl).collect();
        let age = u32::try_from(age).unwrap();
        let expected: Vec<u32> = bounded.iter().map(|ttl| ttl.saturating_sub(age)).collect();
        prop_assert_eq!(aged, expected);
    }

    #[test]
    fn no_response_that_is_read_makes_packing_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let draft = with_soa(response(Rcode::NOERROR).address(60), 60, 60)
            .opt(1_232, 0, &[])
            .record(ADDITIONAL, &wire("ns.example"), RecordType::A, 40, &[1, 2, 3, 4]);
        let mut message = draft.0;
        for (at, octet) in changes {
            let at = at.index(message.len());
            message[at] = octet;
        }
        let mut out = Vec::new();
        if let Ok(view) = ResponseView::parse(&message)
            && let Ok(cacheable) = pack(&view, &BOUNDS, at(100), &mut out)
        {
            let answer = Packed::new(&out);
            let remembered = matches!(cacheable, Cacheable::For(_));
            prop_assert_eq!(answer.is_fresh(at(100)), remembered);
            prop_assert!(!(remembered && answer.truncated()));
            prop_assert_eq!(answer.counts().map(usize::from).iter().sum::<usize>(), ttls(&out).len());
        }
    }
}
