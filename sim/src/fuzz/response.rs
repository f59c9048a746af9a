//! Responses of upstreams: read like hickory reads them, classified like RFC 2308 says, and what is
//! kept of them comes out again for every client: the same records, aged, in no more octets.

use balancedns_core::cache::{Cacheable, NotCacheable, Packed, pack};
use balancedns_core::config::TtlBounds;
use balancedns_core::limits::{MESSAGE_OCTETS, UDP_PLAIN_OCTETS};
use balancedns_core::time::{Duration, Instant};
use balancedns_core::wire::{
    Flags, QueryView, Rcode, RecordType, ReplySettings, ResponseKind, ResponseView, UpstreamEdns,
    write_answer, write_query,
};

use super::oracle::{self, HEADER, Place};

const SETTINGS: ReplySettings = ReplySettings { udp_size: 1_232 };
const STORED_AT: Instant = Instant::from_nanos(1);

/// `data` is an upstream's message. Its id, which means nothing here, chooses the bounds of TTLs
/// and one of the ages at which the answer is given out.
///
/// # Panics
/// If a property is broken.
pub fn response(data: &[u8]) {
    let Ok(view) = ResponseView::parse(data) else { return };
    assert!(view.matches_question(view.question()) || view.question().is_empty());
    let chosen = view.id();
    let bounds = TtlBounds {
        min_seconds: [0, 5, 3_600][usize::from(chosen % 3)],
        max_seconds: [3_600, 50_000, u32::MAX][usize::from(chosen / 3 % 3)],
        negative_max_seconds: [0, 900, u32::MAX][usize::from(chosen / 9 % 3)],
        servfail_seconds: [0, 5, 10_000][usize::from(chosen / 27 % 3)],
    };
    let age = [0, 1, 100, 4_000, u32::MAX][usize::from(chosen / 81 % 5)];
    let records = (!view.truncated()).then(|| Records::of(data));
    if let Some(records) = &records {
        compare(data, &view);
        assert_eq!(view.kind(), records.kind(&view));
    } else {
        assert_eq!(view.kind(), ResponseKind::Truncated);
    }
    let mut packed = Vec::new();
    let Ok(cacheable) = pack(&view, &bounds, STORED_AT, &mut packed) else {
        assert!(view.question().is_empty());
        return;
    };
    let answer = Packed::new(&packed);
    assert_cacheable(&view, answer, cacheable, &bounds);
    let whole = answered(&view, answer, 0, true, MESSAGE_OCTETS).len();
    let clients = [
        (false, UDP_PLAIN_OCTETS, 0),
        (false, MESSAGE_OCTETS, 1),
        (true, whole, 3),
        (true, whole.saturating_sub(1).max(UDP_PLAIN_OCTETS), age),
    ];
    for (edns, limit, age) in clients {
        let reply = answered(&view, answer, age, edns, limit);
        assert_reply(&view, &reply, edns);
        if let Some(records) = &records {
            records.assert_kept(&reply, &bounds, age, edns, limit);
        }
    }
}

/// The view and hickory read the same.
fn compare(data: &[u8], view: &ResponseView<'_>) {
    let Some(hickory) = oracle::decode(data) else { return };
    assert_eq!(view.id(), hickory.metadata.id);
    assert_eq!(view.flags().0 & !oracle::RESERVED, oracle::flags(&hickory));
    assert_eq!(view.rcode().0, u16::from(hickory.metadata.response_code));
    assert_eq!(view.question(), oracle::question(&hickory));
}

fn assert_cacheable(
    view: &ResponseView<'_>,
    answer: Packed<'_>,
    cacheable: Cacheable,
    bounds: &TtlBounds,
) {
    assert_eq!((answer.stored_at(), answer.rcode()), (STORED_AT, view.rcode()));
    assert_eq!(answer.truncated(), view.truncated());
    let most = match view.kind() {
        ResponseKind::Answer => bounds.max_seconds,
        ResponseKind::NoData { .. } | ResponseKind::NxDomain { .. } => {
            bounds.max_seconds.max(bounds.negative_max_seconds)
        }
        ResponseKind::Error(Rcode::SERVFAIL) => bounds.servfail_seconds.min(300),
        ResponseKind::Error(_) | ResponseKind::Truncated | ResponseKind::Referral => 0,
    };
    match cacheable {
        Cacheable::For(lifetime) => {
            assert!((1..=u64::from(most)).contains(&lifetime.as_secs()), "{lifetime:?}");
            assert_eq!(answer.expires_at(), STORED_AT + lifetime);
            assert!(answer.is_fresh(STORED_AT) && !answer.is_fresh(STORED_AT + lifetime));
        }
        Cacheable::No(why) => {
            assert!(!answer.is_fresh(STORED_AT));
            assert_eq!(why == NotCacheable::Truncated, view.truncated());
        }
    }
}

/// The reply to a client who asks the response's question.
fn answered(
    view: &ResponseView<'_>,
    answer: Packed<'_>,
    age: u32,
    edns: bool,
    limit: usize,
) -> Vec<u8> {
    let edns = edns.then_some(UpstreamEdns::plain(1_232, true));
    let mut query = [0; 512];
    let length = write_query(&mut query, 77, view.question(), false, edns);
    let query = QueryView::parse(&query[..length]).expect("what we ask can be read");
    let now = STORED_AT + Duration::from_secs(u64::from(age));
    let mut out = vec![0xff; MESSAGE_OCTETS];
    let length = write_answer(&mut out, &query.asker(limit), SETTINGS, answer, now, None);
    assert!((HEADER..=limit).contains(&length), "{length} octets");
    out.truncate(length);
    out
}

/// What holds of every reply, whole or not.
fn assert_reply(view: &ResponseView<'_>, reply: &[u8], edns: bool) {
    assert_eq!(oracle::number(reply, 0), 77);
    let flags = Flags(oracle::number(reply, 2));
    assert!(flags.contains(Flags::QR | Flags::RA | Flags::RD));
    assert!(!flags.contains(Flags::AA) && flags.0 & oracle::RESERVED == 0);
    assert!(flags.contains(Flags::TC) || !view.truncated(), "TC is passed on");
    assert!(flags.contains(Flags::AD) == view.flags().contains(Flags::AD), "AD was asked for");
    assert!(reply[HEADER..].starts_with(view.question()));
    // Without OPT there is no place for the high bits.
    let shown = if view.rcode().0 > 15 && !edns { Rcode::SERVFAIL } else { view.rcode() };
    assert_eq!(u16::from(flags.rcode()), shown.0 & 15);
}

/// The records of a response, read naively.
struct Records<'a> {
    message: &'a [u8],
    places: Vec<Place>,
    answers: usize,
    authorities: usize,
    /// Additional records that stand before the first one that is for this hop alone.
    kept_additionals: usize,
    /// Additional records that stand behind one and are not for this hop alone.
    stranded: usize,
    /// Whether a name makes use of octets that are changed.
    names_use_ttls: bool,
}

impl<'a> Records<'a> {
    fn of(message: &'a [u8]) -> Self {
        let places = oracle::places(message);
        let [_, answers, authorities, _] = oracle::counts(message);
        let additionals = &places[answers + authorities..];
        let lasting = |place: &&Place| !is_hop_by_hop(message, place);
        let kept = additionals.iter().take_while(lasting).count();
        let in_ttl = |at: usize| {
            let ttl = |place: &Place| place.record_type + 4..place.record_type + 8;
            places.iter().any(|place| ttl(place).contains(&at))
        };
        let mut named =
            places.iter().flat_map(|place| oracle::octets_of_name(message, place.owner));
        Self {
            message,
            answers,
            authorities,
            kept_additionals: kept,
            stranded: additionals[kept..].iter().filter(lasting).count(),
            names_use_ttls: named.any(in_ttl),
            places,
        }
    }

    fn has(&self, records: std::ops::Range<usize>, wanted: &[RecordType]) -> bool {
        let types = self.places[records].iter().map(|place| place.type_in(self.message));
        types.into_iter().any(|found| wanted.contains(&RecordType(found)))
    }

    /// RFC 2308 section 2.
    fn kind(&self, view: &ResponseView<'_>) -> ResponseKind {
        let before_additionals = self.answers + self.authorities;
        let authorities = self.answers..before_additionals;
        let negative_ttl =
            self.places[authorities.clone()].iter().find_map(|place| self.negative_ttl(place));
        let asked = view.question().last_chunk::<4>().map(|end| oracle::number(end, 0));
        let answered = asked.is_some_and(|asked| {
            let asked = RecordType(asked);
            (asked == RecordType::ANY && self.answers > 0) || self.has(0..self.answers, &[asked])
        });
        let addresses = [RecordType::A, RecordType::AAAA];
        match view.rcode() {
            Rcode::NXDOMAIN => ResponseKind::NxDomain { negative_ttl },
            Rcode::NOERROR if answered => ResponseKind::Answer,
            Rcode::NOERROR if negative_ttl.is_some() => ResponseKind::NoData { negative_ttl },
            Rcode::NOERROR if self.answers > 0 => ResponseKind::Answer,
            Rcode::NOERROR if self.has(authorities, &[RecordType::NS]) => ResponseKind::Referral,
            Rcode::NOERROR
                if self.authorities == 0
                    && self.has(before_additionals..self.places.len(), &addresses) =>
            {
                ResponseKind::Referral
            }
            Rcode::NOERROR => ResponseKind::NoData { negative_ttl },
            other => ResponseKind::Error(other),
        }
    }

    /// The lesser of a SOA's TTL and its last field.
    fn negative_ttl(&self, place: &Place) -> Option<u32> {
        let rdata = &self.message[place.start..place.end];
        if place.type_in(self.message) != RecordType::SOA.0 || rdata.len() < 22 {
            return None;
        }
        let minimum = u32::from_be_bytes(*rdata.last_chunk::<4>()?);
        Some(sane(minimum).min(sane(place.ttl_in(self.message))))
    }

    /// The TTL that a client sees of a record.
    fn shown_ttl(&self, index: usize, bounds: &TtlBounds, age: u32, negative: bool) -> u32 {
        let place = &self.places[index];
        let is_authority = (self.answers..self.answers + self.authorities).contains(&index);
        let soa = self.negative_ttl(place).filter(|_| negative && is_authority);
        let at_first = match soa {
            Some(seconds) => seconds.max(bounds.min_seconds).min(bounds.negative_max_seconds),
            None => {
                sane(place.ttl_in(self.message)).max(bounds.min_seconds).min(bounds.max_seconds)
            }
        };
        at_first.saturating_sub(age)
    }

    /// A reply has all records, or all but the additional ones, or none and TC: the first of these
    /// that fits.
    fn assert_kept(&self, reply: &[u8], bounds: &TtlBounds, age: u32, edns: bool, limit: usize) {
        if self.names_use_ttls {
            return; // other TTLs make other names, or none; nobody but the sender is to blame
        }
        let view = ResponseView::parse(reply).expect("what we write can be read");
        if self.stranded > 0 {
            return self.assert_rewritten(reply, edns);
        }
        let opt = if edns { 11 } else { 0 };
        let end_of = |records: usize| match records {
            0 => HEADER + view.question().len(),
            _ => self.places[records - 1].end,
        };
        let essential = self.answers + self.authorities;
        let all = essential + self.kept_additionals;
        let kept = [all, essential].into_iter().find(|records| end_of(*records) + opt <= limit);
        assert_eq!(view.truncated(), kept.is_none());
        let kept = kept.unwrap_or(0);
        let expected = [kept.min(self.answers), kept.min(essential), kept];
        let [_, answers, authorities, additionals] = oracle::counts(reply);
        let authorities = answers + authorities;
        let additionals = authorities + additionals - usize::from(edns);
        assert_eq!([answers, authorities, additionals], expected);
        assert_eq!(reply.len(), end_of(kept) + opt, "not an octet more than came");

        let negative = match self.kind(&ResponseView::parse(self.message).expect("it was read")) {
            ResponseKind::NoData { .. } | ResponseKind::NxDomain { .. } => true,
            ResponseKind::Answer
            | ResponseKind::Referral
            | ResponseKind::Truncated
            | ResponseKind::Error(_) => false,
        };
        let places = oracle::places(reply);
        for (index, (ours, theirs)) in places.iter().zip(&self.places[..kept]).enumerate() {
            assert_eq!(ours.type_in(reply), theirs.type_in(self.message));
            assert_eq!(reply[ours.start..ours.end], self.message[theirs.start..theirs.end]);
            let shown = self.shown_ttl(index, bounds, age, negative);
            assert_eq!(ours.ttl_in(reply), shown, "record {index}");
        }
        self.assert_decodes_alike(reply, kept);
    }

    /// Messages with records behind one that is taken out may be written afresh, and are longer or
    /// shorter then, or lose what is behind it.
    fn assert_rewritten(&self, reply: &[u8], edns: bool) {
        let [_, answers, authorities, additionals] = oracle::counts(reply);
        assert!(answers == self.answers || answers == 0);
        assert!(authorities == self.authorities || authorities == 0);
        let most = self.kept_additionals + self.stranded + usize::from(edns);
        assert!((usize::from(edns)..=most).contains(&additionals), "{additionals} of {most}");
        let places = oracle::places(reply);
        let opt = if edns { places.last().map(|place| place.start) } else { None };
        let lasting = |place: &Place| Some(place.start) == opt || !is_hop_by_hop(reply, place);
        let behind_authorities = &places[answers + authorities..];
        assert!(behind_authorities.iter().all(lasting), "nothing for one hop alone is kept");
    }

    fn assert_decodes_alike(&self, reply: &[u8], kept: usize) {
        let (Some(ours), Some(theirs)) = (oracle::decode(reply), oracle::decode(self.message))
        else {
            return;
        };
        // Hickory takes OPT out, which stands behind all that is kept.
        for (our, their) in ours.all_sections().zip(theirs.all_sections()).take(kept) {
            assert_eq!(our.name, their.name, "but for letter case");
            assert_eq!((our.dns_class, &our.data), (their.dns_class, &their.data));
        }
    }
}

/// Whether a record is about this message alone: OPT, TSIG, SIG(0).
fn is_hop_by_hop(message: &[u8], place: &Place) -> bool {
    match RecordType(place.type_in(message)) {
        RecordType::OPT | RecordType::TSIG => true,
        RecordType::SIG => message[place.start..place.end].starts_with(&[0, 0]),
        _ => false,
    }
}

/// RFC 2181 section 8.
fn sane(ttl: u32) -> u32 {
    if ttl > 0x7fff_ffff { 0 } else { ttl }
}
