//! The wire views against hickory-proto: what we accept, hickory accepts with equal fields; what
//! we write, hickory reads with equal records. Over generated messages and mutated ones.
//!
//! Stricter on purpose, so hickory may accept what we refuse:
//! * queries: counts other than one question, a compressed question name, octets behind the last
//!   record, options that overrun their OPT record, an OPT owner that is a pointer to a root;
//! * responses: more than one question, another opcode than QUERY;
//! * both: compression pointers into the header.
//!
//! Laxer on purpose, so hickory may refuse what we accept; [`opaque`] takes that out of the
//! comparison:
//! * RDATA and option payloads are passed on or ignored, never validated, and may be empty;
//! * a SIG record may stand among answers, and records may follow TSIG;
//! * options in a response may overrun their OPT record, and a response with TC set may be cut off
//!   anywhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use balancedns_core::cache::{Cacheable, Packed, pack};
use balancedns_core::config::TtlBounds;
use balancedns_core::time::{Duration, Instant};
use balancedns_core::wire::{
    ClientEdns, Flags, QueryView, RecordType, ReplySettings, ResponseKind, ResponseView,
    UpstreamEdns, write_answer, write_query,
};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, NULL, SOA, TXT};
use hickory_proto::rr::{self, Name, RData, Record};
use proptest::prelude::*;
use proptest::sample::Index;

const OPT: u16 = 41;
const BOUNDS: TtlBounds = TtlBounds {
    min_seconds: 5,
    max_seconds: 50_000,
    negative_max_seconds: 900,
    servfail_seconds: 5,
};

// Generated messages.

/// Few different labels, so that there is much to compress.
fn name() -> impl Strategy<Value = Name> {
    let label = prop_oneof![
        4 => "[abA]".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..8),
    ];
    prop::collection::vec(label, 0..5)
        .prop_map(|labels| Name::from_labels(labels).expect("labels are short"))
}

fn edns() -> impl Strategy<Value = Edns> {
    let option = (65_001_u16..65_100, prop::collection::vec(any::<u8>(), 0..20));
    (any::<u16>(), any::<bool>(), prop::collection::vec(option, 0..3)).prop_map(
        |(size, dnssec_ok, options)| {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(dnssec_ok);
            for (code, payload) in options {
                edns.options_mut().insert(EdnsOption::Unknown(code, payload));
            }
            edns
        },
    )
}

fn data() -> impl Strategy<Value = RData> {
    prop_oneof![
        any::<u32>().prop_map(|bits| RData::A(A(Ipv4Addr::from(bits)))),
        any::<u128>().prop_map(|bits| RData::AAAA(AAAA(Ipv6Addr::from(bits)))),
        name().prop_map(|name| RData::CNAME(CNAME(name))),
        name().prop_map(|name| RData::NS(NS(name))),
        (any::<u16>(), name()).prop_map(|(preference, name)| RData::MX(MX::new(preference, name))),
        prop::collection::vec("[a-z ]{0,30}", 1..4).prop_map(|texts| RData::TXT(TXT::new(texts))),
        (name(), name(), 0_u32..2_000).prop_map(|(mname, rname, minimum)| {
            RData::SOA(SOA::new(mname, rname, 1, 2, 3, 4, minimum))
        }),
        prop::collection::vec(any::<u8>(), 1..40).prop_map(|octets| RData::Unknown {
            code: rr::RecordType::Unknown(65_280),
            rdata: NULL::with(octets),
        }),
    ]
}

fn records(most: usize) -> impl Strategy<Value = Vec<Record>> {
    let record = (name(), 0_u32..100_000, data())
        .prop_map(|(name, ttl, data)| Record::from_rdata(name, ttl, data));
    prop::collection::vec(record, 0..most)
}

fn asked() -> impl Strategy<Value = rr::RecordType> {
    prop_oneof![
        Just(rr::RecordType::A),
        Just(rr::RecordType::CNAME),
        Just(rr::RecordType::TXT),
        Just(rr::RecordType::ANY),
        Just(rr::RecordType::Unknown(65_280)),
    ]
}

fn query() -> impl Strategy<Value = Message> {
    (any::<u16>(), name(), asked(), any::<[bool; 3]>(), prop::option::of(edns())).prop_map(
        |(id, name, asked, [recursion, authentic, checking], edns)| {
            let mut message = Message::new(id, MessageType::Query, OpCode::Query);
            message.metadata.recursion_desired = recursion;
            message.metadata.authentic_data = authentic;
            message.metadata.checking_disabled = checking;
            message.add_query(Query::query(name, asked));
            message.edns = edns;
            message
        },
    )
}

fn response() -> impl Strategy<Value = Message> {
    let sections = (records(8), records(4), records(4));
    let rcode = prop_oneof![4 => Just(0_u16), 2 => Just(3), 1 => Just(2), 1 => 0_u16..0x100];
    (query(), sections, rcode, any::<bool>()).prop_map(
        |(mut message, (answers, authorities, additionals), rcode, own_name)| {
            message.metadata.message_type = MessageType::Response;
            // Without OPT there is no place for the high bits.
            let bits = if message.edns.is_some() { 0xfff } else { 0xf };
            message.metadata.response_code = (rcode & bits).into();
            message.answers = answers;
            if own_name {
                let asked = message.queries[0].name.clone();
                message.answers.iter_mut().for_each(|record| record.name = asked.clone());
            }
            message.authorities = authorities;
            message.additionals = additionals;
            message
        },
    )
}

/// Changes a few octets, cuts the end off or adds to it.
fn mutate(mut octets: Vec<u8>, changes: &[(Index, u8)], cut: usize, tail: &[u8]) -> Vec<u8> {
    octets.truncate(octets.len().saturating_sub(cut));
    for (at, octet) in changes {
        if !octets.is_empty() {
            let at = at.index(octets.len());
            octets[at] = *octet;
        }
    }
    octets.extend_from_slice(tail);
    octets
}

fn mutated(message: impl Strategy<Value = Message>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<Index>(), prop_oneof![any::<u8>(), 0_u8..20]), 0..3);
    let cut = prop_oneof![4 => Just(0_usize), 1 => 0_usize..30];
    let tail = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..9)];
    (message, changes, cut, tail).prop_map(|(message, changes, cut, tail)| {
        mutate(message.to_vec().expect("it is short"), &changes, cut, &tail)
    })
}

// What hickory sees.

/// Where a record's owner and type begin, and where its RDATA begins and ends.
#[derive(Clone, Copy)]
struct Place {
    owner: usize,
    record_type: usize,
    start: usize,
    end: usize,
}

fn number(message: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([message[at], message[at + 1]]))
}

/// The places of a message's records. Only for what our views accepted.
fn places(message: &[u8]) -> Vec<Place> {
    let skip = |mut at: usize| loop {
        match message[at] {
            0 => return at + 1,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return at + 2,
        }
    };
    let mut owner = 12;
    for _ in 0..number(message, 4) {
        owner = skip(owner) + 4;
    }
    let count = number(message, 6) + number(message, 8) + number(message, 10);
    let mut all = Vec::new();
    for _ in 0..count {
        let record_type = skip(owner);
        let start = record_type + 10;
        let end = start + number(message, record_type + 8);
        all.push(Place { owner, record_type, start, end });
        owner = end;
    }
    all
}

/// The places of all octets that make up a name, pointers followed.
fn name_octets(message: &[u8], mut at: usize) -> Vec<usize> {
    let mut all = Vec::new();
    loop {
        let length = usize::from(message[at]);
        match length {
            0 => {
                all.push(at);
                return all;
            }
            1..=63 => {
                all.extend(at..=at + length);
                at += 1 + length;
            }
            _ => {
                all.extend([at, at + 1]);
                at = number(message, at) & 0x3fff;
            }
        }
    }
}

/// The message with types and option codes that nobody knows, so that hickory looks into no RDATA.
/// `None` if there is empty RDATA or an OPT record that its options do not fill, which hickory
/// refuses, or if a name makes use of the octets that are changed. Only for what our views
/// accepted.
fn opaque(message: &[u8]) -> Option<Vec<u8>> {
    let mut out = message.to_vec();
    let places = places(message);
    for Place { record_type, start, end, .. } in &places {
        let type_field = &mut out[*record_type..record_type + 2];
        if *type_field != OPT.to_be_bytes() {
            if start == end {
                return None;
            }
            type_field.copy_from_slice(&65_280_u16.to_be_bytes());
            continue;
        }
        let mut at = *start;
        while at + 4 <= *end {
            out[at..at + 2].copy_from_slice(&65_001_u16.to_be_bytes());
            at += 4 + number(message, at + 2);
        }
        if at != *end {
            return None;
        }
    }
    let mut named = places.iter().flat_map(|place| name_octets(message, place.owner));
    named.all(|at| message[at] == out[at]).then_some(out)
}

/// The flags as hickory has them; it has none for the reserved bit.
fn flags(message: &Message) -> u16 {
    let meta = &message.metadata;
    let bit = |set: bool, mask: u16| if set { mask } else { 0 };
    bit(meta.message_type == MessageType::Response, Flags::QR)
        | u16::from(u8::from(meta.op_code)) << 11
        | bit(meta.authoritative, Flags::AA)
        | bit(meta.truncation, Flags::TC)
        | bit(meta.recursion_desired, Flags::RD)
        | bit(meta.recursion_available, Flags::RA)
        | bit(meta.authentic_data, Flags::AD)
        | bit(meta.checking_disabled, Flags::CD)
        | u16::from(meta.response_code) & Flags::RCODE
}

const RESERVED: u16 = 0x0040;

/// Name, type and class, uncompressed, letter case kept.
fn question(message: &Message) -> Vec<u8> {
    let query = &message.queries[0];
    let mut octets = Vec::new();
    for label in query.name.iter() {
        octets.push(u8::try_from(label.len()).expect("a label has 63 octets at most"));
        octets.extend_from_slice(label);
    }
    octets.push(0);
    octets.extend_from_slice(&u16::from(query.query_type).to_be_bytes());
    octets.extend_from_slice(&u16::from(query.query_class).to_be_bytes());
    octets
}

fn client_edns(message: &Message) -> Option<ClientEdns> {
    message.edns.as_ref().map(|edns| ClientEdns {
        udp_size: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
        version: edns.version(),
    })
}

/// RFC 2308 section 2 over hickory's records. The number is the negative TTL.
fn kind(message: &Message) -> ResponseKind {
    let asked = message.queries[0].query_type;
    let rcode = u16::from(message.metadata.response_code);
    let negative_ttl = message.authorities.iter().find_map(|record| {
        let RData::SOA(soa) = &record.data else {
            return None;
        };
        Some(soa.minimum.min(record.ttl))
    });
    let has = |records: &[Record], wanted: &[rr::RecordType]| {
        records.iter().any(|record| wanted.contains(&record.record_type()))
    };
    let answered = if asked == rr::RecordType::ANY {
        !message.answers.is_empty()
    } else {
        has(&message.answers, &[asked])
    };
    let addresses = [rr::RecordType::A, rr::RecordType::AAAA];
    match rcode {
        0 if answered => ResponseKind::Answer,
        0 if negative_ttl.is_some() => ResponseKind::NoData { negative_ttl },
        0 if !message.answers.is_empty() => ResponseKind::Answer,
        0 if has(&message.authorities, &[rr::RecordType::NS]) => ResponseKind::Referral,
        0 if message.authorities.is_empty() && has(&message.additionals, &addresses) => {
            ResponseKind::Referral
        }
        0 => ResponseKind::NoData { negative_ttl },
        3 => ResponseKind::NxDomain { negative_ttl },
        _ => ResponseKind::Error(balancedns_core::wire::Rcode(rcode)),
    }
}

// Comparisons.

fn compare_query(view: &QueryView<'_>, hickory: &Message) -> Result<(), TestCaseError> {
    prop_assert_eq!(view.id(), hickory.metadata.id);
    prop_assert_eq!(view.flags().0 & !RESERVED & !Flags::RCODE, flags(hickory) & !Flags::RCODE);
    prop_assert_eq!(hickory.queries.len(), 1);
    prop_assert_eq!(view.question(), question(hickory));
    prop_assert_eq!(view.record_type(), RecordType(hickory.queries[0].query_type.into()));
    prop_assert_eq!(view.record_class().0, u16::from(hickory.queries[0].query_class));
    prop_assert_eq!(view.edns(), client_edns(hickory));
    prop_assert!(hickory.answers.is_empty() && hickory.authorities.is_empty());
    Ok(())
}

/// Packs the response, answers a client with it after `age` seconds, and has hickory read that.
fn answered(
    view: &ResponseView<'_>,
    bounds: &TtlBounds,
    asker: &QueryView<'_>,
    age: u32,
) -> (Cacheable, Vec<u8>) {
    let stored_at = Instant::from_nanos(1);
    let now = stored_at + Duration::from_secs(u64::from(age));
    let mut packed = Vec::new();
    let cacheable = pack(view, bounds, stored_at, &mut packed).expect("there is a question");
    let mut out = vec![0; 65_535];
    let settings = ReplySettings { udp_size: 1_232 };
    let answer = Packed::new(&packed);
    let length = write_answer(&mut out, &asker.asker(65_535), settings, answer, now, None);
    out.truncate(length);
    (cacheable, out)
}

/// A client's query for the question of a response.
fn query_for(question: &[u8], edns: bool) -> Vec<u8> {
    let edns = edns.then_some(UpstreamEdns::plain(1_232, true));
    let mut out = vec![0; 12 + question.len() + 11];
    let length = write_query(&mut out, 77, question, false, edns);
    out.truncate(length);
    out
}

fn same_records(
    ours: &[Record],
    theirs: &[Record],
    ttl: impl Fn(&Record) -> u32,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(ours.len(), theirs.len());
    for (our, their) in ours.iter().zip(theirs) {
        prop_assert!(our.name.eq_case(&their.name), "{} is not {}", our.name, their.name);
        prop_assert_eq!(our.dns_class, their.dns_class);
        prop_assert_eq!(&our.data, &their.data);
        prop_assert_eq!(our.ttl, ttl(their));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn generated_queries_are_read_alike(message in query()) {
        let octets = message.to_vec().unwrap();
        compare_query(&QueryView::parse(&octets).unwrap(), &message)?;
        compare_query(&QueryView::parse(&octets).unwrap(), &Message::from_vec(&octets).unwrap())?;
    }

    #[test]
    fn mutated_queries_that_we_accept_are_read_alike(octets in mutated(query())) {
        if let Ok(view) = QueryView::parse(&octets)
            && let Some(opaque) = opaque(&octets)
        {
            let hickory = Message::from_vec(&opaque);
            prop_assert!(hickory.is_ok(), "{hickory:?}");
            compare_query(&view, &hickory.unwrap())?;
        }
    }

    #[test]
    fn our_queries_are_read_as_meant(
        message in query(),
        id in any::<u16>(),
        edns in prop::option::of((512_u16.., any::<bool>())),
        checking_disabled in any::<bool>(),
    ) {
        let question = question(&message);
        let edns = edns.map(|(udp_size, dnssec_ok)| UpstreamEdns::plain(udp_size, dnssec_ok));
        let mut out = [0; 600];
        let length = write_query(&mut out, id, &question, checking_disabled, edns);
        let hickory = Message::from_vec(&out[..length]).unwrap();
        compare_query(&QueryView::parse(&out[..length]).unwrap(), &hickory)?;
        prop_assert_eq!(hickory.metadata.id, id);
        let checking = if checking_disabled { Flags::CD } else { 0 };
        prop_assert_eq!(flags(&hickory), Flags::RD | Flags::AD | checking);
        prop_assert_eq!(hickory.queries[0].name.eq_case(&message.queries[0].name), true);
        let sent = edns.map(|edns| (edns.udp_size, edns.dnssec_ok));
        prop_assert_eq!(client_edns(&hickory).map(|edns| (edns.udp_size, edns.dnssec_ok)), sent);
    }

    #[test]
    fn generated_responses_are_read_and_answered_alike(
        message in response(),
        age in 0_u32..60_000,
        client_edns in any::<bool>(),
    ) {
        let octets = message.to_vec().unwrap();
        let view = ResponseView::parse(&octets).unwrap();
        prop_assert_eq!(view.id(), message.metadata.id);
        prop_assert_eq!(view.flags().0, flags(&message));
        prop_assert_eq!(view.rcode().0, u16::from(message.metadata.response_code));
        prop_assert_eq!(view.question(), question(&message));
        prop_assert!(view.matches_question(&question(&message)));
        prop_assert_eq!(view.kind(), kind(&message));

        let query = query_for(view.question(), client_edns);
        let query = QueryView::parse(&query).unwrap();
        let (cacheable, reply) = answered(&view, &BOUNDS, &query, age);
        let reply = Message::from_vec(&reply).unwrap();
        prop_assert_eq!(question(&reply), query.question());
        prop_assert_eq!(reply.edns.is_some(), client_edns);
        let rcode = u16::from(message.metadata.response_code);
        let shown = if rcode > 15 && !client_edns { 2 } else { rcode };
        prop_assert_eq!(u16::from(reply.metadata.response_code), shown);

        let bounded = |ttl: u32| ttl.clamp(BOUNDS.min_seconds, BOUNDS.max_seconds);
        let negative = match kind(&message) {
            ResponseKind::NoData { .. } | ResponseKind::NxDomain { .. } => true,
            ResponseKind::Answer | ResponseKind::Referral | ResponseKind::Truncated
            | ResponseKind::Error(_) => false,
        };
        let authority = |record: &Record| {
            if negative && let RData::SOA(soa) = &record.data {
                let most = BOUNDS.negative_max_seconds;
                return record.ttl.min(soa.minimum).clamp(BOUNDS.min_seconds, most);
            }
            bounded(record.ttl)
        };
        let other = |record: &Record| bounded(record.ttl);
        same_records(&reply.answers, &message.answers, |r| other(r).saturating_sub(age))?;
        same_records(&reply.authorities, &message.authorities, |r| authority(r).saturating_sub(age))?;
        same_records(&reply.additionals, &message.additionals, |r| other(r).saturating_sub(age))?;

        let shown = message.answers.iter().chain(&message.additionals).map(other);
        let least = shown.chain(message.authorities.iter().map(authority)).min();
        match (cacheable, kind(&message)) {
            (Cacheable::For(lifetime), ResponseKind::Error(_)) => {
                prop_assert_eq!((rcode, lifetime.as_secs()), (2, 5));
            }
            (Cacheable::For(lifetime), _) => {
                prop_assert_eq!(lifetime.as_secs(), u64::from(least.unwrap()));
            }
            (Cacheable::No(_), ResponseKind::Answer) => prop_assert!(false, "an answer is kept"),
            (Cacheable::No(_), _) => {}
        }
    }

    #[test]
    fn mutated_responses_that_we_accept_are_read_and_answered_alike(octets in mutated(response())) {
        let Ok(view) = ResponseView::parse(&octets) else { return Ok(()) };
        if view.truncated() || view.question().is_empty() {
            return Ok(());
        }
        let Some(opaque) = opaque(&octets) else { return Ok(()) };
        let hickory = Message::from_vec(&opaque);
        prop_assert!(hickory.is_ok(), "{hickory:?}");
        let hickory = hickory.unwrap();
        prop_assert_eq!(view.id(), hickory.metadata.id);
        prop_assert_eq!(view.flags().0 & !RESERVED, flags(&hickory));
        prop_assert_eq!(view.rcode().0, u16::from(hickory.metadata.response_code));
        prop_assert_eq!(view.question(), question(&hickory));

        // The reply has the same records, but where a TTL is changed that a name points into, and
        // where a record of this hop stood in front of others or is no OPT.
        let all = places(&octets);
        let type_of = |place: &Place| number(&octets, place.record_type);
        let opt_is_last = all.iter().rev().skip(1).all(|place| type_of(place) != usize::from(OPT));
        let signed = all.iter().any(|place| [24, 250].contains(&type_of(place)));
        let plain_ttls = hickory.all_sections().all(|record| record.ttl <= 0x7fff_ffff);
        let negative = matches!(
            view.kind(),
            ResponseKind::NoData { .. } | ResponseKind::NxDomain { .. }
        );
        if !opt_is_last || signed || !plain_ttls || negative {
            return Ok(());
        }
        let unbounded = TtlBounds {
            min_seconds: 0,
            max_seconds: u32::MAX,
            negative_max_seconds: u32::MAX,
            servfail_seconds: 0,
        };
        let query = query_for(view.question(), false);
        let (_, reply) = answered(&view, &unbounded, &QueryView::parse(&query).unwrap(), 0);
        let reply = self::opaque(&reply).expect("as full as the response");
        let reply = Message::from_vec(&reply).unwrap();
        same_records(&reply.answers, &hickory.answers, |record| record.ttl)?;
        same_records(&reply.authorities, &hickory.authorities, |record| record.ttl)?;
        same_records(&reply.additionals, &hickory.additionals, |record| record.ttl)?;
    }
}
