//! `pools`: names for upstreams that are asked only for questions that are sent to them.

use super::super::error::{Path, Report};
use super::super::reader::Section;
use super::upstreams::Upstreams;
use super::{NAME, unique_name};
use crate::limits::UPSTREAMS;
use crate::upstream::Route;

/// What is expected where a pool is named.
const POOL: &str = "the name of a pool";

/// The pools, by their places.
#[derive(Default)]
pub(super) struct Pools {
    pub(super) names: Vec<String>,
}

/// Reads the list.
pub(super) fn read(top: &mut Section<'_>) -> Pools {
    let mut pools = Pools::default();
    let entries = top.list("pools", "pools");
    // Each has an upstream of its own.
    if let Some(one_more) = entries.get(UPSTREAMS) {
        one_more.error("is one pool too many", &format!("at most {UPSTREAMS} pools"));
    }
    for entry in entries.into_iter().take(UPSTREAMS) {
        let mut section = entry.section();
        let name = section.required("name", NAME);
        let name = name.and_then(|name| unique_name(&name, "pool", &pools.names));
        // An unnamed one keeps its place.
        pools.names.push(name.unwrap_or_default().to_owned());
        if let Some(policy) = section.item("policy")
            && let Some(word) = policy.word("the name of a policy")
            && !word.eq_ignore_ascii_case("ordered")
        {
            policy.unavailable("\"ordered\"");
        }
        section.finish();
    }
    pools
}

impl Pools {
    /// Reads `pool` of an upstream or a group: the place of the pool that it names.
    pub(super) fn chosen(&self, section: &mut Section<'_>) -> Option<u16> {
        let item = section.item("pool").filter(|item| !item.is_off())?;
        let name = item.word(POOL)?;
        let place = self.names.iter().position(|known| known == name);
        let Some(place) = place.and_then(|place| u16::try_from(place).ok()) else {
            let known = self.names.iter().map(String::as_str);
            return item.unknown("is not in pools", POOL, known);
        };
        Some(place)
    }

    /// The same as a route.
    pub(super) fn route(&self, section: &mut Section<'_>) -> Route {
        self.chosen(section).map_or(Route::General, Route::Pool)
    }

    /// Reports pools that nobody is in, and that there is nobody besides those in pools.
    pub(super) fn check_members(&self, upstreams: &Upstreams, report: &Report) {
        let members: Vec<Option<u16>> = upstreams.settings.iter().map(|one| one.pool).collect();
        for (place, name) in self.names.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            if !members.iter().flatten().any(|pool| usize::from(*pool) == place) {
                let path = Path::default().key("pools").index(place + 1).key("name");
                let expected = "upstreams[].pool that names it, or no such pool";
                report.error(&path, format!("{name:?} has no upstream"), expected);
            }
        }
        if !members.is_empty() && members.iter().all(Option::is_some) {
            let path = Path::default().key("upstreams");
            let message = "are all in pools: for a client that no group and no plugin sends to one, \
                           nobody can be asked";
            report.error(&path, message.to_owned(), "at least one upstream without a pool");
        }
    }
}
