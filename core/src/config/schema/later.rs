//! Keys whose capability is not in this build: their values are checked as far as their type and
//! range go, and those that would switch the capability on are refused.
//!
//! When a capability comes, its keys leave these tables.

use std::ops::RangeInclusive;

use super::super::reader::{Item, Section};
use super::super::value::Value;
use super::address;
use super::settings::{MILLIS, TTL};

/// A key of a capability that is not in this build.
pub(super) struct Later {
    key: &'static str,
    shape: Shape,
    effect: Effect,
}

/// What values a key has.
enum Shape {
    Flag,
    Whole(RangeInclusive<u64>),
    Number(RangeInclusive<f64>),
    /// A text; what it is called in messages.
    Text(&'static str),
    Texts(&'static str),
    Word(&'static [&'static str]),
    Ip,
    Networks,
    Table(&'static [Later]),
    Tables(&'static [Later]),
    /// Only whether it is there is looked at.
    Anything,
}

/// What a value does.
enum Effect {
    /// Any value but `false`, `{}` and an empty text switches the capability on.
    Switch,
    /// The capability is on unless this is the value, as it is written in Lua.
    Unless(&'static str),
    /// A detail of something that another key switches on.
    Detail,
}

const fn switch(key: &'static str, shape: Shape) -> Later {
    Later { key, shape, effect: Effect::Switch }
}

const fn unless(key: &'static str, off: &'static str, shape: Shape) -> Later {
    Later { key, shape, effect: Effect::Unless(off) }
}

const fn detail(key: &'static str, shape: Shape) -> Later {
    Later { key, shape, effect: Effect::Detail }
}

/// A share of something.
const SHARE: RangeInclusive<f64> = 0.0..=1.0;
/// Counts and sizes that only have to be sane.
const COUNT: RangeInclusive<u64> = 0..=1_000_000;

/// Keys of `logging`.
pub(super) const LOGGING: &[Later] =
    &[unless("format", r#""text""#, Shape::Word(&["text", "json"]))];

/// Keys of `routing`.
pub(super) const ROUTING: &[Later] = &[
    unless("policy", r#""ordered""#, Shape::Text("the name of a policy")),
    unless("zone_fallback", "true", Shape::Flag),
    switch(
        "hedge",
        Shape::Table(&[
            detail("quantile", Shape::Number(SHARE)),
            detail("budget", Shape::Number(SHARE)),
        ]),
    ),
];

/// Keys of an entry of `upstreams`.
pub(super) const UPSTREAM: &[Later] = &[
    switch("confined", Shape::Flag),
    unless("tier", "1", Shape::Whole(1..=1_000)),
    unless("weight", "1", Shape::Whole(1..=1_000_000)),
];

/// Keys of `cache`.
pub(super) const CACHE: &[Later] = &[
    detail(
        "stale",
        Shape::Table(&[
            switch("enabled", Shape::Flag),
            detail("max_seconds", Shape::Whole(TTL)),
            detail("reply_ttl_seconds", Shape::Whole(TTL)),
            detail("client_timeout_ms", Shape::Whole(MILLIS)),
        ]),
    ),
    detail(
        "prefetch",
        Shape::Table(&[
            switch("enabled", Shape::Flag),
            detail("min_hits", Shape::Whole(COUNT)),
            detail("budget", Shape::Number(SHARE)),
        ]),
    ),
    switch("snapshot_file", Shape::Text("the path of a file")),
];

/// Keys of `control`.
pub(super) const CONTROL: &[Later] = &[switch("socket", Shape::Text("the path of a socket"))];

/// Sections of the top that have nothing else.
pub(super) const TOP: &[Later] = &[
    switch(
        "rate_limit",
        Shape::Table(&[
            detail("queries_per_second", Shape::Number(0.0..=1e9)),
            detail("burst", Shape::Number(0.0..=1e9)),
            detail("ipv4_prefix", Shape::Whole(0..=32)),
            detail("ipv6_prefix", Shape::Whole(0..=128)),
            detail("action", Shape::Word(&["drop", "tc", "refuse"])),
            detail("exempt", Shape::Networks),
        ]),
    ),
    switch(
        "query_log",
        Shape::Table(&[
            detail("target", Shape::Text("a target")),
            detail("format", Shape::Word(&["json", "text", "dnstap"])),
            detail("sample", Shape::Number(SHARE)),
            detail("mask_clients", Shape::Flag),
        ]),
    ),
    switch(
        "tests",
        Shape::Tables(&[
            detail("q", Shape::Text("a name")),
            detail("type", Shape::Text("a record type")),
            detail("client", Shape::Ip),
            detail("transport", Shape::Word(&["udp", "tcp", "dot", "doh"])),
            detail("at", Shape::Anything),
            detail("upstream", Shape::Anything),
            detail(
                "expect",
                Shape::Table(&[
                    detail("outcome", Shape::Text("an outcome")),
                    detail("rcode", Shape::Text("the name of an rcode")),
                    detail("answers", Shape::Texts("records")),
                    detail("upstream", Shape::Text("the name of an upstream")),
                    detail("reason", Shape::Text("a reason")),
                ]),
            ),
        ]),
    ),
];

/// Reads keys of a section that are not available.
pub(super) fn check(section: &mut Section<'_>, keys: &'static [Later]) {
    for later in keys {
        let Some(item) = section.item(later.key) else {
            continue;
        };
        match later.effect {
            Effect::Detail if item.is_off() => {}
            Effect::Detail => _ = later.shape.accepts(&item),
            Effect::Switch if item.is_off() => {}
            Effect::Switch if later.shape.accepts(&item) => {
                item.unavailable(later.shape.off());
            }
            Effect::Unless(off) if later.shape.accepts(&item) => {
                if !is_written(&item, off) {
                    item.unavailable(off);
                }
            }
            // The value is wrong in itself.
            Effect::Switch | Effect::Unless(_) => {}
        }
    }
}

/// Whether a value is the one that is written so, in any letter case.
fn is_written(item: &Item<'_>, text: &str) -> bool {
    item.value.to_string().eq_ignore_ascii_case(text)
}

impl Shape {
    /// What leaves the capability off.
    fn off(&self) -> &'static str {
        match self {
            Self::Texts(_) | Self::Networks | Self::Table(_) | Self::Tables(_) => {
                "{} or no such key"
            }
            Self::Flag
            | Self::Whole(_)
            | Self::Number(_)
            | Self::Text(_)
            | Self::Word(_)
            | Self::Ip
            | Self::Anything => "false or no such key",
        }
    }

    /// Whether a value has this shape; what is wrong is reported.
    fn accepts(&self, item: &Item<'_>) -> bool {
        match self {
            Self::Anything => true,
            Self::Flag => item.boolean().is_some(),
            Self::Whole(range) => item.integer::<u64>(range.clone()).is_some(),
            Self::Number(range) => item.number(range.clone()).is_some(),
            Self::Text(expected) => item.word(expected).is_some(),
            Self::Word(words) => {
                let words: Vec<(&str, ())> = words.iter().map(|word| (*word, ())).collect();
                item.choice(&words).is_some()
            }
            Self::Ip => ip(item),
            Self::Texts(of) => all(item, of, |entry| entry.word("a text").is_some()),
            Self::Networks => all(item, "networks", network),
            Self::Table(keys) => {
                let mut section = item.clone().section();
                check(&mut section, keys);
                section.finish();
                matches!(item.value, Value::Map(_) | Value::Empty)
            }
            Self::Tables(keys) => all(item, "tables", |entry| Self::Table(keys).accepts(entry)),
        }
    }
}

/// Whether a value is a list whose entries are all accepted.
fn all(item: &Item<'_>, of: &str, accepts: impl Fn(&Item<'_>) -> bool) -> bool {
    let entries = item.list(of);
    // Every entry is looked at, so that each mistake is reported.
    let accepted = entries.iter().filter(|entry| accepts(entry)).count();
    !entries.is_empty() && accepted == entries.len()
}

fn ip(item: &Item<'_>) -> bool {
    const EXPECTED: &str = "an ip address";
    let text = item.word(EXPECTED);
    let good = text.is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok());
    if text.is_some() && !good {
        item.error("is wrong", EXPECTED);
    }
    good
}

fn network(item: &Item<'_>) -> bool {
    const EXPECTED: &str = "a network or an ip address";
    let text = item.word(EXPECTED);
    let good = text.is_some_and(|text| address::network(text).is_some());
    if text.is_some() && !good {
        item.error("is not a network", EXPECTED);
    }
    good
}
