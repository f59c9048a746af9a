//! The one internal form of an answer, for fresh answers and remembered ones alike.
//!
//! `head | offsets of TTLs, two octets each | records as they came`. The records need no change
//! for another client: every reply has a question of the same length in front, so that compression
//! pointers stay right wherever they go, and only TTLs and the header differ. All numbers are
//! big-endian. TTLs are stored as they are shown at age zero.

use std::ops::Add as _;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType as HickoryType;

use super::TtlBounds;
use crate::limits::{CACHED_RECORDS, SERVFAIL_TTL_SECONDS_MAX};
use crate::planted::{Bug, is_planted};
use crate::time::{Duration, Instant};
use crate::wire::{Flags, Rcode, Reader, Record, ResponseKind, ResponseView, read_record};

/// Octets of the head: two instants, marks, and eight numbers: rcode, flags, question's length, three
/// counts, length of the records without the additional ones, what the marks were made by.
const HEAD_OCTETS: usize = 8 + 8 + 8 + 8 * 2;
/// Where the marks stand.
const MARKS_AT: usize = 16;
/// Where it stands what they were made by.
const CHECKED_BY_AT: usize = HEAD_OCTETS - 2;
/// Flag of an answer with AD set.
const AUTHENTIC: u16 = 1;
/// Flag of an answer with TC set.
const TRUNCATED: u16 = 2;

/// Whether an answer may be remembered.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Cacheable {
    /// For so long.
    For(Duration),
    /// Not at all.
    No(NotCacheable),
}

/// Why an answer may not be remembered.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NotCacheable {
    /// It was cut off (RFC 2181 section 9).
    Truncated,
    /// It only names other servers.
    Referral,
    /// Its rcode says that the server would not or could not; other than SERVFAIL.
    Error,
    /// A record may not be remembered (RFC 1035 section 3.2.1: TTL zero).
    ZeroTtl,
    /// It is negative, but no SOA says for how long (RFC 2308 section 5).
    NegativeWithoutSoa,
    /// It has more records than [`CACHED_RECORDS`].
    TooManyRecords,
}

/// Why a response cannot be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// It has no question, so that compression pointers would not fit a reply with one.
    #[error("the response has no question")]
    NoQuestion,
}

/// Writes the packed form of `view` into `out`, which is cleared first; its allocation is used
/// again. Tells whether the answer may be remembered; if not, it counts as expired from the start.
///
/// OPT, TSIG and SIG(0) are left out. TTLs are bounded: those with the top bit set are zero
/// (RFC 2181 section 8), then they are lifted or cut to `bounds`. The SOA of a negative answer gets
/// the lesser of its TTL and its MINIMUM, and the ceiling of negative answers (RFC 2308 section 5).
/// The lifetime is the least TTL shown; for SERVFAIL it is configured (RFC 9520 section 3.2).
///
/// # Errors
///
/// If the response has no question.
pub fn pack(
    view: &ResponseView<'_>,
    bounds: &TtlBounds,
    now: Instant,
    out: &mut Vec<u8>,
) -> Result<Cacheable, PackError> {
    pack_bounded(view, Some(bounds), now, out)
}

/// As [`pack`], of an answer whose TTLs are shown as they are: it was packed before.
///
/// # Errors
///
/// If the response has no question.
pub fn pack_again(
    view: &ResponseView<'_>,
    now: Instant,
    out: &mut Vec<u8>,
) -> Result<(), PackError> {
    pack_bounded(view, None, now, out).map(|_| ())
}

fn pack_bounded(
    view: &ResponseView<'_>,
    bounds: Option<&TtlBounds>,
    now: Instant,
    out: &mut Vec<u8>,
) -> Result<Cacheable, PackError> {
    if view.question().is_empty() {
        return Err(PackError::NoQuestion);
    }
    let meaning = Meaning { rcode: view.rcode(), kind: view.kind() };
    if view.sections().stranded > 0 {
        // Off the hot path: nearly everybody sends OPT last.
        if let Some(message) = without_hop_by_hop(view.message())
            && let Ok(rewritten) = ResponseView::parse(&message)
            && rewritten.truncated() == view.truncated()
        {
            return Ok(write(&rewritten, meaning, bounds, now, out));
        }
        // hickory could not read it, or it became too long: what is behind the removed record is
        // left out, which is allowed for additional records (RFC 2181 section 9).
    }
    Ok(write(view, meaning, bounds, now, out))
}

/// What a response says as it came: taking OPT out of it takes the high bits of the rcode too.
#[derive(Copy, Clone)]
struct Meaning {
    rcode: Rcode,
    kind: ResponseKind,
}

/// The message encoded afresh: taking a record out of the middle would leave pointers behind it
/// that point at the wrong place. Any SIG goes: as data it is obsolete (RFC 3755 section 3).
fn without_hop_by_hop(message: &[u8]) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(message).ok()?;
    message.edns = None;
    message.signature = None;
    message
        .additionals
        .retain(|record| !matches!(record.record_type(), HickoryType::TSIG | HickoryType::SIG));
    message.to_vec().ok()
}

/// Writes head, offsets and records.
fn write(
    view: &ResponseView<'_>,
    meaning: Meaning,
    bounds: Option<&TtlBounds>,
    now: Instant,
    out: &mut Vec<u8>,
) -> Cacheable {
    let sections = view.sections();
    let body = view.message().get(sections.start..sections.kept_end).unwrap_or_default();
    let essential = sections.authorities_end.saturating_sub(sections.start);
    let counts = [sections.answers, sections.authorities, sections.additionals];
    let records = counts.into_iter().map(usize::from).fold(0, usize::saturating_add);
    let table_octets = records.saturating_mul(2);

    out.clear();
    out.resize(HEAD_OCTETS.saturating_add(table_octets), 0);
    out.extend_from_slice(body);
    let least_ttl = write_ttls(view, meaning.kind, bounds, table_octets, out);
    let cacheable = cacheable(meaning.kind, bounds, records, least_ttl);
    let expires_at = match cacheable {
        Cacheable::For(lifetime) => now.add(lifetime),
        Cacheable::No(_) => now,
    };

    let authentic = if view.flags().contains(Flags::AD) { AUTHENTIC } else { 0 };
    let truncated = if view.truncated() { TRUNCATED } else { 0 };
    let short = |octets: usize| u16::try_from(octets).expect("a message has 65535 octets at most");
    let [answers, authorities, additionals] = counts;
    let instants = [now.as_nanos(), expires_at.as_nanos(), 0];
    let numbers = [
        meaning.rcode.0,
        authentic | truncated,
        short(view.question().len()),
        answers,
        authorities,
        additionals,
        short(essential),
        0,
    ];
    let head = instants
        .into_iter()
        .flat_map(u64::to_be_bytes)
        .chain(numbers.into_iter().flat_map(u16::to_be_bytes));
    out.iter_mut().zip(head).for_each(|(place, octet)| *place = octet);
    cacheable
}

/// Fills the table of offsets and replaces the TTLs by those to be shown; returns the least.
fn write_ttls(
    view: &ResponseView<'_>,
    kind: ResponseKind,
    bounds: Option<&TtlBounds>,
    table_octets: usize,
    out: &mut [u8],
) -> Option<u32> {
    let sections = view.sections();
    let negative = match kind {
        ResponseKind::NoData { .. } | ResponseKind::NxDomain { .. } => true,
        ResponseKind::Answer
        | ResponseKind::Referral
        | ResponseKind::Truncated
        | ResponseKind::Error(_) => false,
    };
    let (_, rest) = out.split_at_mut_checked(HEAD_OCTETS)?;
    let (table, body) = rest.split_at_mut_checked(table_octets)?;
    let mut reader = Reader::at(view.message(), sections.start)?;
    let mut least = None;
    let authorities = usize::from(sections.answers)..sections.before_additionals();
    for (index, place) in table.chunks_exact_mut(2).enumerate() {
        let record = read_record(&mut reader)?;
        let ttl = shown_ttl(&record, negative && authorities.contains(&index), bounds);
        let offset = record.ttl_at.checked_sub(sections.start)?;
        place.copy_from_slice(&u16::try_from(offset).ok()?.to_be_bytes());
        *body.get_mut(offset..)?.first_chunk_mut::<4>()? = ttl.to_be_bytes();
        // Type and class stand between the owner's name and the TTL.
        let owner = view.message().get(record.start..record.ttl_at.checked_sub(4)?)?;
        if is_spelled_like(view, owner) {
            let place = record.start.checked_sub(sections.start)?;
            body.get_mut(place..)?.get_mut(..owner.len())?.make_ascii_lowercase();
        }
        least = Some(least.map_or(ttl, |least: u32| least.min(ttl)));
    }
    least
}

/// Whether an owner's name, spelled out, is the question's or the end of it in the very same letter
/// case. That case is our own invention (0x20), which servers that do not compress names repeat
/// throughout; clients get lower case.
fn is_spelled_like(view: &ResponseView<'_>, owner: &[u8]) -> bool {
    let Some((name, _)) = view.question().split_last_chunk::<4>() else {
        return false;
    };
    // Labels of names have no zeros in their lengths, so only the end of a name can end like this.
    owner.len() > 1 && name.ends_with(owner)
}

/// The TTL that clients see at age zero.
fn shown_ttl(record: &Record<'_>, negative: bool, bounds: Option<&TtlBounds>) -> u32 {
    let Some(bounds) = bounds else { return record.sane_ttl() };
    let soa =
        if negative && !is_planted(Bug::SoaMinimumIgnored) { record.negative_ttl() } else { None };
    match soa {
        Some(seconds) => seconds.max(bounds.min_seconds).min(bounds.negative_max_seconds),
        None => record.sane_ttl().max(bounds.min_seconds).min(bounds.max_seconds),
    }
}

fn cacheable(
    kind: ResponseKind,
    bounds: Option<&TtlBounds>,
    records: usize,
    least_ttl: Option<u32>,
) -> Cacheable {
    let configured = bounds.map_or(0, |bounds| bounds.servfail_seconds);
    let servfail_seconds = configured.min(SERVFAIL_TTL_SECONDS_MAX);
    let seconds = match kind {
        ResponseKind::Truncated => return Cacheable::No(NotCacheable::Truncated),
        ResponseKind::Referral => return Cacheable::No(NotCacheable::Referral),
        ResponseKind::Error(Rcode::SERVFAIL) if is_planted(Bug::ServfailKeptTooLong) => 86_400,
        ResponseKind::Error(Rcode::SERVFAIL) if servfail_seconds > 0 => servfail_seconds,
        ResponseKind::Error(_) => return Cacheable::No(NotCacheable::Error),
        ResponseKind::NoData { negative_ttl: None }
        | ResponseKind::NxDomain { negative_ttl: None } => {
            return Cacheable::No(NotCacheable::NegativeWithoutSoa);
        }
        ResponseKind::Answer | ResponseKind::NoData { .. } | ResponseKind::NxDomain { .. } => {
            least_ttl.unwrap_or(0)
        }
    };
    if records > CACHED_RECORDS {
        return Cacheable::No(NotCacheable::TooManyRecords);
    }
    match seconds {
        0 => Cacheable::No(NotCacheable::ZeroTtl),
        _ => Cacheable::For(Duration::from_secs(u64::from(seconds))),
    }
}

/// For whom an answer is blocked, for what its records lead to.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// A bit for each that blocks it.
    pub bits: u64,
    /// Which rules were asked: marks made by others say nothing.
    pub checked_by: u16,
}

/// Marks a packed answer.
///
/// # Panics
///
/// If the octets are not from [`pack`].
pub fn set_marks(packed: &mut [u8], marks: Marks) {
    let mut put = |at: usize, octets: &[u8]| {
        let place = packed.get_mut(at..at.saturating_add(octets.len()));
        place.expect("packed answers have a whole head").copy_from_slice(octets);
    };
    put(MARKS_AT, &marks.bits.to_be_bytes());
    put(CHECKED_BY_AT, &marks.checked_by.to_be_bytes());
}

/// A packed answer, borrowed.
#[derive(Copy, Clone, Debug)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    stored_at: Instant,
    expires_at: Instant,
    marks: Marks,
    rcode: Rcode,
    flags: u16,
    question_octets: usize,
    counts: [u16; 3],
    essential: &'a [u8],
    ttl_offsets: &'a [u8],
    body: &'a [u8],
}

impl<'a> Packed<'a> {
    /// The answer that [`pack`] wrote.
    ///
    /// # Panics
    ///
    /// If the octets are not from there.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::read(bytes).expect("packed answers are written by pack alone")
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let stored_at = Instant::from_nanos(reader.u64()?);
        let expires_at = Instant::from_nanos(reader.u64()?);
        let marks = reader.u64()?;
        let rcode = Rcode(reader.u16()?);
        let flags = reader.u16()?;
        let question_octets = usize::from(reader.u16()?);
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?];
        let essential = usize::from(reader.u16()?);
        let checked_by = reader.u16()?;
        let records = counts.into_iter().map(usize::from).fold(0, usize::saturating_add);
        let ttl_offsets = reader.take(records.saturating_mul(2))?;
        let body = reader.rest();
        Some(Self {
            bytes,
            stored_at,
            expires_at,
            marks: Marks { bits: marks, checked_by },
            rcode,
            flags,
            question_octets,
            counts,
            essential: body.get(..essential)?,
            ttl_offsets,
            body,
        })
    }

    /// When it came.
    #[must_use]
    pub const fn stored_at(&self) -> Instant {
        self.stored_at
    }

    /// From when on it must not be used; when it came, if it may not be remembered.
    #[must_use]
    pub const fn expires_at(&self) -> Instant {
        self.expires_at
    }

    /// Whether it may still be used.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        now < self.expires_at
    }

    /// For whom it is blocked.
    #[must_use]
    pub const fn marks(&self) -> Marks {
        self.marks
    }

    /// Its rcode.
    #[must_use]
    pub const fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Records among its answers.
    #[must_use]
    pub const fn answer_count(&self) -> u16 {
        let [answers, ..] = self.counts;
        answers
    }

    /// Whether AD was set (RFC 4035 section 3.2.3).
    #[must_use]
    pub const fn authentic_data(&self) -> bool {
        self.flags & AUTHENTIC != 0
    }

    /// Whether TC was set: never so in a remembered answer.
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.flags & TRUNCATED != 0
    }

    /// All of it, as [`pack`] wrote it.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Octets of the question in front of the records.
    pub(crate) const fn question_octets(&self) -> usize {
        self.question_octets
    }

    /// Counts of answers, authorities and additional records.
    pub(crate) const fn counts(&self) -> [u16; 3] {
        self.counts
    }

    /// All records.
    pub(crate) const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Answers and authorities.
    pub(crate) const fn body_without_additional(&self) -> &'a [u8] {
        self.essential
    }

    /// Where TTLs stand in the body, rising.
    pub(crate) fn ttl_offsets(&self) -> impl Iterator<Item = usize> + 'a {
        let (offsets, _) = self.ttl_offsets.as_chunks::<2>();
        offsets.iter().map(|&offset| usize::from(u16::from_be_bytes(offset)))
    }
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
