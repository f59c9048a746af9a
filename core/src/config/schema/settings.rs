//! Sections of plain settings: `logging`, `routing`, `cache`, `control`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::super::reader::{Item, Section};
use super::super::snapshot::{
    CacheSettings, ControlSettings, Level, ListenSocket, LoggingSettings, RoutingSettings, Stage,
};
use super::super::{Host, is_listener};
use super::{address, later};
use crate::cache::TtlBounds;
use crate::limits;
use crate::wire::Rcode;

/// Timeouts in general: from a millisecond to an hour.
pub(super) const MILLIS: RangeInclusive<u64> = 1..=3_600_000;
/// TTLs in seconds (RFC 2181 section 8).
pub(super) const TTL: RangeInclusive<u64> = 0..=0x7fff_ffff;

/// Stages by their names in the configuration.
const STAGES: &[(&str, Stage)] = &[
    ("blacklist", Stage::Blacklist),
    ("hosts", Stage::Hosts),
    ("cache", Stage::Cache),
    ("lua_policy", Stage::Policy),
    ("upstream", Stage::Upstream),
    ("plugin", Stage::Policy),
    ("plugins", Stage::Policy),
    ("lua", Stage::Policy),
];

/// Reads `logging`.
pub(super) fn logging(mut section: Section<'_>) -> LoggingSettings {
    const LEVELS: &[(&str, Level)] = &[
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];
    let settings = LoggingSettings {
        level: section.choice("level", LEVELS, Level::Info),
        log_queries: section.boolean("log_queries", false),
    };
    later::check(&mut section, later::LOGGING);
    section.finish();
    settings
}

/// `routing`, of which the chain stands apart in the snapshot.
pub(super) struct Routing {
    pub(super) chain: Vec<Stage>,
    pub(super) settings: RoutingSettings,
}

/// Reads `routing`.
pub(super) fn routing(
    mut section: Section<'_>,
    listeners: &[ListenSocket],
    host: &dyn Host,
) -> Routing {
    let chain = match section.item("chain") {
        None => {
            use Stage::{Blacklist, Cache, Hosts, Policy, Upstream};
            vec![Blacklist, Hosts, Cache, Policy, Upstream]
        }
        Some(item) => chain(&item),
    };
    let failover_on = match section.item("failover_on") {
        None => vec![Rcode::SERVFAIL, Rcode::REFUSED, Rcode::NOTIMP],
        Some(item) => failover_on(&item),
    };
    let settings = RoutingSettings {
        // A client has asked again or given up long before a minute is over.
        deadline: section.millis("deadline_ms", 1..=60_000, 4_500),
        attempts_max: section.integer("attempts_max", 1..=100, 8),
        failover_on,
        bootstrap: bootstrap(&mut section, listeners, host),
        rewrite_hops: section.integer("rewrite_hops", 0..=16, 4),
        special_names: section.boolean("special_names", true),
        firefox_canary: section.boolean("firefox_canary", false),
    };
    later::check(&mut section, later::ROUTING);
    section.finish();
    Routing { chain, settings }
}

fn chain(item: &Item<'_>) -> Vec<Stage> {
    let mut chain = Vec::new();
    for entry in item.list("stages") {
        let Some(stage) = entry.choice(STAGES) else {
            continue;
        };
        if chain.contains(&stage) {
            entry.error("is in the chain twice", "each stage once");
        } else {
            chain.push(stage);
        }
    }
    match chain.iter().position(|stage| *stage == Stage::Upstream) {
        None => item.warning("has no \"upstream\": what no other stage answers is SERVFAIL"),
        Some(place) if place + 1 < chain.len() => {
            item.warning("goes on after \"upstream\", after which no stage is reached");
        }
        Some(_) => {}
    }
    chain
}

/// Reads `bootstrap`: what is sent to one of our own listeners would come back to be looked up.
fn bootstrap(
    section: &mut Section<'_>,
    listeners: &[ListenSocket],
    host: &dyn Host,
) -> Vec<SocketAddr> {
    const EXPECTED: &str = "ip or ip:port of a name server";
    let mut servers = Vec::new();
    for entry in section.list("bootstrap", "name servers") {
        let Some(text) = entry.word(EXPECTED) else {
            continue;
        };
        match address::server(text) {
            None => entry.error("is wrong", EXPECTED),
            Some(server) if is_listener(server, listeners, host) => {
                entry.error("is one of our own listeners", "another server");
            }
            Some(server) if servers.contains(&server) => entry.warning("is listed twice"),
            Some(server) => servers.push(server),
        }
    }
    servers
}

fn failover_on(item: &Item<'_>) -> Vec<Rcode> {
    const EXPECTED: &str = "the name of an error rcode, such as \"SERVFAIL\"";
    let mut rcodes = Vec::new();
    for entry in item.list("rcode names") {
        let Some(name) = entry.word(EXPECTED) else {
            continue;
        };
        match Rcode::from_name(name).filter(|rcode| *rcode != Rcode::NOERROR) {
            None => entry.error("is wrong", EXPECTED),
            Some(rcode) if rcodes.contains(&rcode) => {
                entry.error("is listed twice", "each rcode once");
            }
            Some(rcode) => rcodes.push(rcode),
        }
    }
    rcodes
}

/// Reads `cache`.
pub(super) fn cache(mut section: Section<'_>) -> CacheSettings {
    let servfail_max = u64::from(limits::SERVFAIL_TTL_SECONDS_MAX);
    let settings = CacheSettings {
        enabled: section.boolean("enabled", true),
        capacity: section.integer("capacity", 1..=100_000_000, 10_000),
        max_bytes: section.integer("max_bytes", 65_536..=1 << 40, 64 << 20),
        ttl: TtlBounds {
            min_seconds: section.integer("min_ttl_seconds", TTL, 5),
            max_seconds: section.integer("max_ttl_seconds", TTL, 3_600),
            negative_max_seconds: section.integer("negative_max_ttl_seconds", TTL, 3_600),
            servfail_seconds: section.integer("servfail_ttl_seconds", 0..=servfail_max, 5),
        },
    };
    let TtlBounds { min_seconds, max_seconds, .. } = settings.ttl;
    if min_seconds > max_seconds {
        let message = format!("{min_seconds} is more than cache.max_ttl_seconds {max_seconds}");
        section.error("min_ttl_seconds", message, "at most the maximum");
    }
    later::check(&mut section, later::CACHE);
    section.finish();
    settings
}

/// Reads `control`.
pub(super) fn control(mut section: Section<'_>) -> ControlSettings {
    let settings = ControlSettings {
        restart_backoff: section.millis("restart_backoff_ms", MILLIS, 200),
        restart_max_backoff: section.millis("restart_max_backoff_ms", MILLIS, 5_000),
        max_consecutive_failure: section.integer("max_consecutive_failure", 0..=1_000_000, 0),
        min_stable_run: section.millis("min_stable_run_ms", 0..=86_400_000, 10_000),
        drain_timeout: section.millis("drain_timeout_ms", 0..=3_600_000, 5_000),
    };
    let (first, last) = (settings.restart_backoff, settings.restart_max_backoff);
    if first > last {
        let (first, last) = (first.as_millis(), last.as_millis());
        let message = format!("{first} is more than control.restart_max_backoff_ms {last}");
        section.error("restart_backoff_ms", message, "at most the longest wait");
    }
    later::check(&mut section, later::CONTROL);
    section.finish();
    settings
}
