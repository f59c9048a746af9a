//! `groups`: what is different for some clients.

use ipnet::IpNet;

use super::super::error::{Path, Report};
use super::super::reader::{Item, Section};
use super::super::snapshot::Stage;
use super::super::value::Value;
use super::plugins::Plugins;
use super::policy::network;
use super::pools::Pools;
use super::{NAME, unique_name};
use crate::limits::GROUPS;
use crate::policy::{BlockSet, BlockSetId, Group, Groups};

/// What groups are made of.
pub(super) struct Parts<'r> {
    pub(super) pools: &'r Pools,
    pub(super) plugins: &'r Plugins,
    pub(super) chain: &'r [Stage],
    pub(super) cache_enabled: bool,
    /// What is blocked: everybody's set first.
    pub(super) block_sets: &'r mut Vec<BlockSet>,
}

/// Reads the list; `blacklist` reads a group's own one.
pub(super) fn read<'v>(
    top: &mut Section<'v>,
    mut parts: Parts<'_>,
    mut blacklist: impl FnMut(Section<'v>) -> BlockSet,
) -> Groups {
    let everybody = Group { plugins: parts.plugins.usual.clone(), ..Group::default() };
    let entries = top.list("groups", "groups");
    if let Some(one_more) = entries.get(GROUPS) {
        one_more.error("is one group too many", &format!("at most {GROUPS} groups"));
    }
    let mut names = Vec::new();
    let mut members: Vec<(Group, Vec<IpNet>)> = Vec::new();
    for entry in entries.into_iter().take(GROUPS) {
        let mut section = entry.section();
        let name = section.required("name", NAME);
        let name = name.and_then(|name| unique_name(&name, "group", &names)).unwrap_or_default();
        names.push(name.to_owned());
        let clients = clients(&mut section, &names, &members);
        let group = Group {
            name: name.to_owned(),
            block_set: block_set(&mut section, &mut parts, &mut blacklist),
            plugins: plugins(&mut section, &parts),
            route: parts.pools.route(&mut section),
        };
        section.finish();
        members.push((group, clients));
    }
    if parts.plugins.enabled {
        warn_of_unused(&everybody, &members, parts.plugins, top.report);
    }
    Groups::with_members(everybody, members)
}

/// Reports plugins that are asked for nobody.
fn warn_of_unused(
    everybody: &Group,
    members: &[(Group, Vec<IpNet>)],
    plugins: &Plugins,
    report: &Report,
) {
    let groups = || members.iter().map(|(group, _)| group).chain([everybody]);
    for place in 0..plugins.names.len() {
        if !groups().any(|group| group.plugins.contains(&place)) {
            let entry = Path::default().key("plugins").key("entries").index(place + 1);
            report.warning(&entry, "is asked for nobody: no group names it".to_owned());
        }
    }
}

/// Reads the networks of a group, which must be nobody else's.
fn clients(
    section: &mut Section<'_>,
    names: &[String],
    others: &[(Group, Vec<IpNet>)],
) -> Vec<IpNet> {
    const EXPECTED: &str = "a list of at least one network";
    let Some(item) = section.required("clients", EXPECTED) else {
        return Vec::new();
    };
    if *item.value == Value::Empty {
        item.error("has no network", EXPECTED);
    }
    let mut networks: Vec<IpNet> = Vec::new();
    for entry in item.list("networks") {
        let Some(network) = network(&entry).map(|network| network.trunc()) else {
            continue;
        };
        let mut others = others.iter().zip(names);
        let other = others.find(|((_, theirs), _)| theirs.contains(&network));
        if let Some((_, name)) = other {
            let message = format!("is in the group {name:?} already");
            entry.error(&message, "each network in one group; longer prefixes win");
        } else if networks.contains(&network) {
            entry.warning("is listed twice");
        } else {
            networks.push(network);
        }
    }
    networks
}

/// Reads `blacklist`: the place of a new set if there is one, else that of everybody.
fn block_set<'v>(
    section: &mut Section<'v>,
    parts: &mut Parts<'_>,
    blacklist: &mut impl FnMut(Section<'v>) -> BlockSet,
) -> BlockSetId {
    let Some(item) = section.item("blacklist") else {
        return BlockSetId::default();
    };
    let set = match item.value {
        Value::Boolean(false) => blacklist(Item { value: &Value::Empty, ..item }.section()),
        Value::Map(_) | Value::Empty => blacklist(item.section()),
        _ => {
            item.error("is wrong", "a table as the top-level blacklist, or false");
            return BlockSetId::default();
        }
    };
    let place = u8::try_from(parts.block_sets.len()).expect("there are at most as many as groups");
    parts.block_sets.push(set);
    BlockSetId(place)
}

/// Reads `plugins`: names in the order in which they are asked.
fn plugins(section: &mut Section<'_>, parts: &Parts<'_>) -> Vec<usize> {
    let Some(item) = section.item("plugins") else {
        return parts.plugins.usual.clone();
    };
    if parts.plugins.enabled && parts.cache_enabled && is_cache_before_policy(parts.chain) {
        item.error(
            "is one group's own list, but \"cache\" stands before \"lua_policy\" in routing.chain, so \
             that an answer made for one group would be given to all",
            "\"lua_policy\" before \"cache\", or no such key",
        );
    }
    if item.is_off() {
        return Vec::new();
    }
    let mut places = Vec::new();
    for entry in item.list("names of plugins") {
        let Some(place) = plugin(&entry, parts.plugins) else {
            continue;
        };
        if places.contains(&place) {
            entry.error("is listed twice", "each plugin once");
        } else {
            places.push(place);
        }
    }
    // While they are off there is none of them.
    if parts.plugins.enabled { places } else { Vec::new() }
}

/// Reads the name of a plugin: its place.
fn plugin(entry: &Item<'_>, plugins: &Plugins) -> Option<usize> {
    const EXPECTED: &str = "the name of a plugin";
    let name = entry.word(EXPECTED)?;
    let place = plugins.names.iter().position(|known| known == name);
    if place.is_none() {
        let known = plugins.names.iter().map(String::as_str);
        return entry.unknown("is not in plugins.entries", EXPECTED, known);
    }
    place
}

/// Whether what the cache holds is given without asking the policy.
fn is_cache_before_policy(chain: &[Stage]) -> bool {
    let place = |wanted| chain.iter().position(|stage| *stage == wanted);
    match (place(Stage::Cache), place(Stage::Policy)) {
        (Some(cache), Some(policy)) => cache < policy,
        _ => false,
    }
}
