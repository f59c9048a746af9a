//! What an upstream said, word for word, and what is left of its TTLs.

use balancedns_core::time::{Duration, Instant};

use super::Told;
use crate::generation::Generation;
use crate::invariant::{Broken, Checks, Invariant};
use crate::message::AD;
use crate::reading::Reading;
use crate::truth::{Given, Truth};

/// Octets of an additional record: its name, ten in the middle, an address.
const ADDITIONAL_OCTETS: usize = 15 + 10 + 4;

/// Bounds of TTLs, and whether there is a cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    min: u32,
    max: u32,
    negative_max: u32,
    cache: bool,
}

impl Bounds {
    pub(super) const fn of(generation: &Generation) -> Self {
        Self {
            min: generation.min_ttl,
            max: generation.max_ttl,
            negative_max: generation.negative_max_ttl,
            cache: generation.cache,
        }
    }

    fn positive(&self, ttl: u32) -> u32 {
        let sane = if ttl >= 1 << 31 { 0 } else { ttl };
        sane.max(self.min).min(self.max)
    }

    fn negative(&self, ttl: u32, minimum: u32) -> u32 {
        let sane = |ttl: u32| if ttl >= 1 << 31 { 0 } else { ttl };
        sane(ttl).min(sane(minimum)).max(self.min).min(self.negative_max)
    }
}

/// Checks an answer against what was given, and its TTLs against when that came.
pub(super) fn check_age(
    bounds: &Bounds,
    now: Instant,
    told: Told<'_>,
    given: &Given,
    truth: &Truth,
    checks: &mut Checks,
) -> Result<(), Broken> {
    let Told { query, reading, octets, waited } = told;
    let Given { content, shape, arrivals } = given;
    // Additional records may be left out, but only where there is no room for them.
    let no_room = octets + ADDITIONAL_OCTETS * shape.additionals as usize > query.limit;
    let additionals = reading.additionals.len();
    let whole = reading.rcode == shape.rcode
        && reading.values.len() == shape.answers as usize - reading.aliases.len()
        && reading.soa.is_some() == shape.soa
        && (additionals == shape.additionals as usize || (additionals == 0 && no_room))
        && reading.additionals.iter().all(|(value, _)| value >> 6 == reading.number())
        && reading.values.iter().all(|(value, _)| value >> 6 == reading.number());
    checks.that(Invariant::S5, whole, || format!("not what was said: {shape:?}, {reading:?}"))?;
    let is_asked = query.dnssec_ok() || query.flags() & AD != 0;
    let authentic = reading.authentic == (shape.authentic && is_asked);
    checks.that(Invariant::S5, authentic, || format!("AD of {shape:?} in {reading:?}"))?;

    let lifetime = match reading.soa {
        Some(_) => bounds.negative(truth.ttl(content, 0), truth.minimum(content)),
        None => {
            let shown = |record| bounds.positive(truth.ttl(content, record));
            (0..shape.answers.max(1)).map(shown).min().unwrap_or(0)
        }
    };
    // It may have come several times: one of them it has to be.
    let is_it = |at: &&Instant| {
        let age = now.since(**at);
        let cached = bounds.cache && age < Duration::from_secs(lifetime.into()) && !waited;
        (age.is_zero() || cached) && has_aged(bounds, age, lifetime, reading, given, truth)
    };
    let came = arrivals.iter().rev().find(is_it).copied();
    checks.that(Invariant::S5, came.is_some(), || {
        let latest = now.since(*arrivals.last().expect("it has come"));
        format!("good for {lifetime} s, it last came {latest:?} ago (waited for: {waited}), and its TTLs are not what is left: {reading:?}")
    })?;
    // Said to those who waited, and not repeated later.
    let error = reading.edns.and_then(|edns| edns.extended_error);
    let said = shape.extended_error.filter(|_| reading.edns.is_some());
    let right = if waited {
        error == said
    } else {
        error.is_none() || (came == Some(now) && error == said)
    };
    checks.that(Invariant::S5, right, || format!("extended error of {shape:?} in {reading:?}"))
}

/// Whether each TTL shown is what is left of the one that was sent.
fn has_aged(
    bounds: &Bounds,
    age: Duration,
    lifetime: u32,
    reading: &Reading,
    given: &Given,
    truth: &Truth,
) -> bool {
    let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
    let left = |record| bounds.positive(truth.ttl(&given.content, record)).saturating_sub(seconds);
    let soa = reading.soa.is_none_or(|(_, shown)| shown == lifetime.saturating_sub(seconds));
    let alias = reading.aliases.iter().all(|(_, shown)| *shown == left(0));
    let mut values = reading.values.iter();
    let mut additionals = reading.additionals.iter();
    soa && alias
        && values.all(|(value, shown)| *shown == left(value & 0x3f))
        && additionals.all(|(_, shown)| *shown == left(0))
}
