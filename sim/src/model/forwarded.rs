//! What upstreams said, or the reason why none did: traced back to the answer that it came from.

use balancedns_core::time::{Duration, Instant};

use super::age::check_age;
use super::form::extended_errors;
use super::{Model, Query, Told};
use crate::invariant::{Broken, Checks, Invariant};
use crate::message::{CD, types};
use crate::reading::Reading;
use crate::truth::{Content, FORGED, Kind, Truth};

/// The extended error of what is blocked (RFC 8914 section 4.16).
const BLOCKED: u16 = 15;

impl Model {
    /// What an upstream said, or the reason why none did.
    pub(super) fn check_forwarded(
        &self,
        now: Instant,
        told: Told<'_>,
        name: usize,
        truth: &Truth,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let Told { query, reading, .. } = told;
        let error = reading.edns.and_then(|edns| edns.extended_error);
        checks.that(Invariant::S7, error != Some(BLOCKED), || {
            format!("{} is blocked: {reading:?}", truth.names()[name].text)
        })?;
        let kind = truth.names()[name].kind;
        let shown = query.blocks_targets && !reading.aliases.is_empty();
        checks.that(Invariant::S7, !shown, || {
            format!("what the alias leads to is blocked: {reading:?}")
        })?;
        if reading.truncated {
            return self.check_truncated(query, kind, reading, checks);
        }
        let number =
            reading.values.first().map(|(value, _)| *value).or(reading.soa.map(|soa| soa.0));
        let Some(value) = number else {
            return self.check_bare(now, query, name, reading, truth, checks);
        };
        checks.that(Invariant::S6, value < FORGED, || format!("a forged record: {reading:?}"))?;
        let given = truth.given(value >> 6).filter(|given| !given.arrivals.is_empty());
        checks.that(Invariant::S6, given.is_some(), || format!("nobody said that: {reading:?}"))?;
        let given = given.expect("just checked");
        let content = &given.content;
        let is_asked = content.name == name && content.qtype == query.qtype;
        checks.that(Invariant::S6, is_asked, || {
            format!(
                "asked for {}, told of {}",
                truth.names()[name].text,
                truth.names()[content.name].text
            )
        })?;
        let latest = given.arrivals.last().copied().expect("just checked");
        self.check_bits(query, content, now.since(latest), checks)?;
        if kind == Kind::Large || kind == Kind::Medium {
            checks.count(Invariant::S13, 1);
        }
        check_age(&self.bounds, now, told, given, truth, checks)
    }

    /// DO and CD of the query are those that the server saw, but for a server without EDNS, whose
    /// answers to queries with DO are not remembered.
    fn check_bits(
        &self,
        query: &Query,
        content: &Content,
        age: Duration,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let dnssec_ok = query.dnssec_ok();
        let checking_disabled = query.flags() & CD != 0;
        let same_dnssec = match content.edns {
            Some(asked) => asked == dnssec_ok,
            None => !dnssec_ok || age.is_zero(),
        };
        let right = same_dnssec && content.checking_disabled == checking_disabled;
        checks.that(Invariant::S8, right, || {
            format!("asked with DO {dnssec_ok}, CD {checking_disabled}, told what was said to {content:?}")
        })
    }

    /// A reply without records.
    fn check_bare(
        &self,
        now: Instant,
        query: &Query,
        name: usize,
        reading: &Reading,
        truth: &Truth,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let content = Content {
            name,
            qtype: query.qtype,
            version: 0,
            edns: Some(query.dnssec_ok()),
            checking_disabled: query.flags() & CD != 0,
        };
        let kind = truth.names()[name].kind;
        let without_edns = Content { edns: None, ..content };
        if let (Some(edns), Some(reasons)) = (reading.edns, extended_errors(reading.rcode)) {
            let given = edns.extended_error.is_some_and(|error| reasons.contains(&error));
            checks.that(Invariant::S6, given, || format!("no reason is given: {reading:?}"))?;
        }
        match reading.rcode {
            2 => checks.that(Invariant::L2, self.excuses.may_fail || kind == Kind::Broken, || {
                format!(
                    "SERVFAIL for {} ({kind:?}), and nothing is wrong",
                    truth.names()[name].text
                )
            }),
            3 => {
                let just_said = [content, without_edns]
                    .iter()
                    .any(|content| truth.bare_arrived(content) == Some(now));
                checks
                    .that(Invariant::S6, just_said, || format!("nobody said NXDOMAIN: {reading:?}"))
            }
            5 => {
                checks.that(Invariant::S6, self.excuses.odd_rcodes || kind == Kind::Denied, || {
                    format!("nobody refused {}", truth.names()[name].text)
                })
            }
            4 => checks
                .that(Invariant::S6, self.excuses.odd_rcodes, || "nobody said NOTIMP".to_owned()),
            _ => checks.that(Invariant::S6, false, || format!("nobody said that: {reading:?}")),
        }
    }

    /// TC is for what is too long for the client, or was for us when no send was left.
    fn check_truncated(
        &self,
        query: &Query,
        kind: Kind,
        reading: &Reading,
        checks: &mut Checks,
    ) -> Result<(), Broken> {
        let longest = match kind {
            Kind::Medium if query.qtype == types::TXT => 1_500,
            Kind::Large if query.qtype == types::TXT => 16_384,
            Kind::Plain
            | Kind::Extra
            | Kind::Alias
            | Kind::Medium
            | Kind::Large
            | Kind::Empty
            | Kind::Missing
            | Kind::MissingBare
            | Kind::Unstable
            | Kind::Broken
            | Kind::Denied => 512,
        };
        let by_us = query.limit < longest;
        let by_them = longest > 512 && self.excuses.may_fail || self.excuses.odd_truncation;
        checks.that(Invariant::S13, (by_us || by_them) && reading.values.is_empty(), || {
            format!("TC without a reason, or with records: {reading:?}")
        })
    }
}
