//! Which upstreams may be asked for a name: the candidates of the longest matching zone first.
//!
//! A zone matches by whole labels: `ru.` is not the parent of `guru.`. All candidate lists are
//! made when the configuration is read, so that a look-up costs one hash per label and allocates
//! nothing.

use crate::hash::Map;
use crate::planted::{Bug, is_planted};
use crate::wire::{Name, suffixes};

/// Upstreams, by their places: a list for each matching zone, the longest one first.
type Lists = Box<[Box<[usize]>]>;

/// The zones of all upstreams and who serves them.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// For each zone, in wire form, the candidates for a name that this zone is the longest match
    /// of: one list per zone, its own first.
    candidates: Map<Box<[u8]>, Lists>,
    /// The names above zones, the root left out.
    above: Map<Box<[u8]>, ()>,
    /// The distinct zones in their own order, for display.
    zones: Vec<Name>,
}

impl Routes {
    /// The routes to upstreams with these zones; an upstream is known by its place in the list. One
    /// without zones serves everything, that is the root zone.
    #[must_use]
    pub fn new(zones_per_upstream: &[Vec<Name>]) -> Self {
        let mut servers: Map<Name, Vec<usize>> = Map::default();
        for (upstream, zones) in zones_per_upstream.iter().enumerate() {
            let root = [Name::root()];
            let zones = if zones.is_empty() { &root } else { zones.as_slice() };
            for zone in zones {
                let of_zone = servers.entry(zone.clone()).or_default();
                if of_zone.last() != Some(&upstream) {
                    of_zone.push(upstream);
                }
            }
        }
        let mut zones: Vec<Name> = servers.keys().cloned().collect();
        zones.sort_unstable();
        let by_wire: Map<&[u8], &[usize]> =
            servers.iter().map(|(zone, list)| (zone.as_wire(), list.as_slice())).collect();
        let candidates = zones
            .iter()
            .map(|zone| (zone.as_wire().into(), candidates_of(zone, &by_wire)))
            .collect();
        let above = zones
            .iter()
            .flat_map(|zone| suffixes(zone.as_wire()).skip(1))
            .filter(|name| name.len() > 1)
            .map(|name| (name.into(), ()))
            .collect();
        Self { candidates, above, zones }
    }

    /// The upstreams to ask for a lower-cased wire name, in order: a list of those of the longest
    /// matching zone as configured, then a list for each less specific one, each upstream once.
    /// Empty if no zone matches.
    #[must_use]
    pub fn candidates(&self, lower_name: &[u8]) -> &[Box<[usize]>] {
        if is_planted(Bug::ZoneBySuffix) {
            return self.candidates_by_text(lower_name);
        }
        suffixes(lower_name).find_map(|suffix| self.candidates.get(suffix)).map_or(&[], |list| list)
    }

    /// The wrong ones: of the longest zone whose text the name ends with.
    fn candidates_by_text(&self, lower_name: &[u8]) -> &[Box<[usize]>] {
        let ends = |zone: &&Name| lower_name.ends_with(&zone.as_wire()[1..]);
        let longest = self.zones.iter().filter(ends).max_by_key(|zone| zone.as_wire().len());
        longest.and_then(|zone| self.candidates.get(zone.as_wire())).map_or(&[], |list| list)
    }

    /// Whether a zone other than the root matches a lower-cased wire name.
    #[must_use]
    pub fn is_routed(&self, lower_name: &[u8]) -> bool {
        let mut below_root = suffixes(lower_name).filter(|suffix| suffix.len() > 1);
        below_root.any(|suffix| self.candidates.contains_key(suffix))
    }

    /// Whether a zone lies below a lower-cased wire name: then the name exists.
    #[must_use]
    pub fn is_above_a_zone(&self, lower_name: &[u8]) -> bool {
        self.above.contains_key(lower_name)
    }

    /// Every distinct zone with its candidates.
    pub fn zones(&self) -> impl Iterator<Item = (&Name, &[Box<[usize]>])> {
        self.zones.iter().map(|zone| (zone, self.candidates(zone.as_wire())))
    }
}

/// The upstreams of a zone, then those of the zones above it, each once.
fn candidates_of(zone: &Name, servers: &Map<&[u8], &[usize]>) -> Lists {
    let mut lists: Vec<Box<[usize]>> = Vec::new();
    for suffix in suffixes(zone.as_wire()) {
        let of_zone = servers.get(suffix).copied().unwrap_or_default();
        let is_new = |upstream: &&usize| !lists.iter().flatten().any(|known| known == *upstream);
        let list: Box<[usize]> = of_zone.iter().filter(is_new).copied().collect();
        if !list.is_empty() {
            lists.push(list);
        }
    }
    lists.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(upstreams: &[&[&str]]) -> Routes {
        let zones: Vec<Vec<Name>> = upstreams
            .iter()
            .map(|zones| zones.iter().map(|zone| Name::parse(zone).unwrap()).collect())
            .collect();
        Routes::new(&zones)
    }

    /// All lists as one.
    fn candidates(routes: &Routes, name: &str) -> Vec<usize> {
        routes.candidates(Name::parse(name).unwrap().as_wire()).concat()
    }

    #[test]
    fn the_longest_zone_comes_first_and_the_others_after_it() {
        let routes = routes(&[&[], &["corp.example"], &["example", "test"], &["corp.example"]]);
        let lists = routes.candidates(Name::parse("a.corp.example").unwrap().as_wire());
        assert_eq!(lists, [[1, 3].into(), [2].into(), Box::from([0])]);
        assert_eq!(candidates(&routes, "a.corp.example"), [1, 3, 2, 0]);
        assert_eq!(candidates(&routes, "corp.example"), [1, 3, 2, 0]);
        assert_eq!(candidates(&routes, "example"), [2, 0]);
        assert_eq!(candidates(&routes, "x.test"), [2, 0]);
        assert_eq!(candidates(&routes, "other"), [0]);
        assert_eq!(candidates(&routes, "."), [0]);
    }

    #[test]
    fn zones_match_whole_labels() {
        let routes = routes(&[&["ru"]]);
        assert_eq!(candidates(&routes, "a.ru"), [0]);
        assert!(candidates(&routes, "guru").is_empty());
        assert!(candidates(&routes, "a.guru").is_empty());
        assert!(candidates(&routes, ".").is_empty());
    }

    #[test]
    fn the_root_routes_nothing_in_particular() {
        let routes = routes(&[&[], &["."], &["corp.test"]]);
        let is_routed = |name: &str| routes.is_routed(Name::parse(name).unwrap().as_wire());
        assert!(is_routed("corp.test") && is_routed("a.b.corp.test"));
        for other in ["test", "a.test", "xcorp.test", "corp.test.example", "."] {
            assert!(!is_routed(other), "{other}");
        }
    }

    #[test]
    fn names_above_zones_are_known() {
        let routes = routes(&[&[], &["."], &["a.corp.test", "example"]]);
        let is_above = |name: &str| routes.is_above_a_zone(Name::parse(name).unwrap().as_wire());
        assert!(is_above("corp.test") && is_above("test"));
        for other in [".", "a.corp.test", "b.test", "example", "b.a.corp.test"] {
            assert!(!is_above(other), "{other}");
        }
    }

    #[test]
    fn an_upstream_of_several_matching_zones_is_asked_once() {
        let routes = routes(&[&[".", "example", "a.example", "Example."]]);
        assert_eq!(candidates(&routes, "b.a.example"), [0]);
        assert_eq!(candidates(&routes, "b.example"), [0]);
    }

    #[test]
    fn zones_are_listed_once_each() {
        let routes = routes(&[&[], &["example"], &["EXAMPLE"]]);
        let listed: Vec<_> =
            routes.zones().map(|(zone, lists)| (zone.to_string(), lists.concat())).collect();
        assert_eq!(listed, [(".".to_owned(), vec![0]), ("example.".to_owned(), vec![1, 2, 0])]);
        assert!(candidates(&Routes::default(), "example").is_empty());
    }

    /// The same by comparing texts and sorting; zones and names end with a dot.
    fn naive(upstreams: &[Vec<String>], name: &str) -> Vec<usize> {
        let matched_labels = |zone: &String| match zone.as_str() {
            "." => Some(0),
            zone => (name == zone || name.ends_with(&format!(".{zone}")))
                .then(|| zone.matches('.').count()),
        };
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (upstream, zones) in upstreams.iter().enumerate() {
            let longest = match zones.as_slice() {
                [] => Some(0),
                zones => zones.iter().filter_map(matched_labels).max(),
            };
            found.extend(longest.map(|labels| (labels, upstream)));
        }
        found.sort_by_key(|(labels, upstream)| (std::cmp::Reverse(*labels), *upstream));
        found.into_iter().map(|(_, upstream)| upstream).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_texts(
            upstreams in prop::collection::vec(
                prop::collection::vec(prop_oneof![
                    Just(".".to_owned()),
                    "([ab]{1,2}\\.){1,3}",
                ], 0..4),
                0..6,
            ),
            name in "([ab]{1,2}\\.){1,4}",
        ) {
            let zones: Vec<Vec<Name>> = upstreams
                .iter()
                .map(|zones| zones.iter().map(|zone| Name::parse(zone).unwrap()).collect())
                .collect();
            let routes = Routes::new(&zones);
            let expected = naive(&upstreams, &name);
            prop_assert_eq!(candidates(&routes, &name), expected.as_slice());
        }
    }
}
