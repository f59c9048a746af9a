//! What policies lead to: blocked questions, local data, failures, and names that became others.

use super::{Query, Told, Verdict};
use crate::generation::{BLOCK_TTL, Blacklist, Mode, RECORD_TTL};
use crate::invariant::{Broken, Checks, Invariant};
use crate::message::types;
use crate::policy::{LOCAL_TTL, local_v4, local_v6};
use crate::reading::Reading;
use crate::truth::Truth;

/// Seconds of the alias that leads from a name to the one that a plugin put in its place.
const REWRITE_TTL: u32 = 60;
/// Extended errors (RFC 8914 section 4).
const OTHER: u16 = 0;
/// Of who waits for a plugin when the process stops.
const NOT_READY: u16 = 14;
const BLOCKED: u16 = 15;

/// A blocked question is answered as is configured, and says so.
pub(super) fn check_blocked(
    told: Told<'_>,
    blacklist: Blacklist,
    checks: &mut Checks,
) -> Result<(), Broken> {
    let Told { query, reading, .. } = told;
    let addresses = blacklist.addresses(query.qtype);
    let rcode = match blacklist.mode {
        Mode::Refused => 5,
        Mode::NxDomain => 3,
        Mode::NoData | Mode::Zero | Mode::Addresses => 0,
    };
    let has_soa = addresses.is_empty() && blacklist.mode != Mode::Refused;
    let right = reading.rcode == rcode
        && reading.aliases.len() <= 1
        && reading.values.iter().copied().eq(addresses.iter().map(|ip| (*ip, BLOCK_TTL)))
        && reading.others == 0
        && reading.soa.is_some() == has_soa
        && !reading.truncated
        && says(reading, BLOCKED);
    checks.that(Invariant::S7, right, || format!("not blocked as by {blacklist:?}: {reading:?}"))
}

/// Local data of a plugin: those of this name, and of this variant.
pub(super) fn check_data(
    told: Told<'_>,
    name: usize,
    variant: u64,
    truth: &Truth,
    checks: &mut Checks,
) -> Result<(), Broken> {
    let reading = &without_rewriting(told, name, truth, checks)?;
    let value = match told.query.qtype {
        types::A => Some(u32::from(local_v4(name, variant))),
        types::AAAA => Some(u128::from(local_v6(name, variant)) as u32),
        _ => None,
    };
    let values = value.map(|value| (value, LOCAL_TTL));
    let right = reading.rcode == 0
        && reading.aliases.is_empty()
        && reading.values.iter().copied().eq(values)
        && reading.others == 0
        && reading.soa.is_some() == value.is_none()
        && !reading.truncated;
    checks.that(Invariant::S7, right, || {
        format!("not the local data {value:?} of {name}, variant {variant}: {reading:?}")
    })
}

/// A record of the configuration, perhaps behind an alias that is one too.
pub(super) fn check_record(
    told: Told<'_>,
    address: u32,
    checks: &mut Checks,
) -> Result<(), Broken> {
    let reading = told.reading;
    let right = reading.rcode == 0
        && reading.values == [(address, RECORD_TTL)]
        && reading.others == 0
        && reading.aliases.iter().all(|(_, ttl)| *ttl == RECORD_TTL)
        && reading.soa.is_none()
        && !reading.truncated;
    checks.that(Invariant::S7, right, || format!("not the record {address:#x}: {reading:?}"))
}

/// A plugin failed, and that is an error.
pub(super) fn check_failed(told: Told<'_>, checks: &mut Checks) -> Result<(), Broken> {
    let reading = told.reading;
    let empty = reading.values.is_empty() && reading.others == 0 && reading.soa.is_none();
    let said = says(reading, OTHER) || says(reading, NOT_READY);
    let right = reading.rcode == 2 && empty && !reading.truncated && said;
    checks.that(Invariant::S25, right, || format!("a plugin failed, and this came: {reading:?}"))
}

/// A plugin wants the question to come over TCP.
pub(super) fn check_wants_tcp(told: Told<'_>, checks: &mut Checks) -> Result<(), Broken> {
    let reading = told.reading;
    let empty = reading.values.is_empty() && reading.others == 0 && reading.soa.is_none();
    checks.that(Invariant::S7, reading.rcode == 0 && empty && reading.truncated, || {
        format!("not sent to TCP: {reading:?}")
    })
}

/// Whether a reply shows its verdict so that nothing else could look the same.
pub(super) fn is_telling(verdict: Verdict, query: &Query, reading: &Reading) -> bool {
    match verdict {
        // Without an extended error a refusal may be anybody's.
        Verdict::Blocked(_) => reading.edns.is_some(),
        Verdict::Data(..) => !reading.values.is_empty(),
        Verdict::Forwarded(name) | Verdict::Remembered(name) => {
            query.asked_name != Some(name) && !reading.aliases.is_empty()
        }
        Verdict::Failed | Verdict::WantsTcp => true,
        Verdict::Silence | Verdict::Rcode(..) | Verdict::Local(..) | Verdict::Record(_) => false,
    }
}

/// An answer for another name begins with an alias of the asked one; gives it without that.
pub(super) fn without_rewriting(
    told: Told<'_>,
    name: usize,
    truth: &Truth,
    checks: &mut Checks,
) -> Result<Reading, Broken> {
    let mut reading = told.reading.clone();
    if told.query.asked_name.is_none_or(|asked| asked == name) {
        return Ok(reading);
    }
    let text = &truth.names()[name].text;
    let has_records = !reading.values.is_empty() || reading.soa.is_some();
    let leads_there =
        reading.aliases.first().is_some_and(|(target, _)| target.eq_ignore_ascii_case(text));
    checks.that(Invariant::S7, leads_there || !has_records, || {
        format!("asked of {text} instead, which the answer does not say: {:?}", told.reading)
    })?;
    if leads_there {
        let (_, ttl) = reading.aliases.remove(0);
        checks.that(Invariant::S5, ttl == REWRITE_TTL, || {
            format!("the alias of a rewritten name is good for {ttl} s: {:?}", told.reading)
        })?;
    }
    Ok(reading)
}

/// Whether the reply has this extended error, if it can have one.
fn says(reading: &Reading, error: u16) -> bool {
    reading.edns.is_none_or(|edns| edns.extended_error == Some(error))
}
