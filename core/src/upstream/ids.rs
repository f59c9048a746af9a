//! Message ids on one socket or connection: random, unique among those in flight, and not used
//! again right after a timeout, when a late reply could still come (RFC 5452 section 9.1).
//!
//! Few ids live on one socket at a time, so a scan over a short array beats a hash table.

use crate::limits::IDS;
use crate::planted::{Bug, is_planted};
use crate::rng::Stream;

/// Ids in use, each with its owner; an id whose owner gave up stays used.
#[derive(Debug)]
pub(crate) struct IdTable<T> {
    ids: Vec<u16>,
    owners: Vec<Option<T>>,
    live: usize,
}

/// What an id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner<T> {
    /// A query in flight.
    Live(T),
    /// A query that was given up: this reply is late.
    GaveUp,
    /// Nothing that we sent.
    Unknown,
}

impl<T> Default for IdTable<T> {
    fn default() -> Self {
        Self { ids: Vec::new(), owners: Vec::new(), live: 0 }
    }
}

impl<T: Copy> IdTable<T> {
    /// A new random id for `owner`; `None` when too many are in use.
    pub(crate) fn allocate(&mut self, owner: T, random: &mut Stream) -> Option<u16> {
        if self.ids.len() >= IDS {
            return None;
        }
        let mut id = random.id();
        while self.ids.contains(&id) {
            id = random.id();
        }
        let id = self.planted_id().unwrap_or(id);
        self.ids.push(id);
        self.owners.push(Some(owner));
        self.live += 1;
        Some(id)
    }

    /// An id that must not be taken.
    fn planted_id(&mut self) -> Option<u16> {
        if is_planted(Bug::IdReusedInFlight) {
            return self.entries().find(|(_, owner)| owner.is_some()).map(|(id, _)| id);
        }
        let given_up = is_planted(Bug::GivenUpIdReused)
            .then(|| self.entries().find(|(_, owner)| owner.is_none()))
            .flatten();
        given_up.map(|(id, _)| id).inspect(|id| self.release(*id))
    }

    /// Who an id belongs to.
    pub(crate) fn owner(&self, id: u16) -> Owner<T> {
        match self.ids.iter().position(|used| *used == id) {
            None => Owner::Unknown,
            Some(at) => self.owners[at].map_or(Owner::GaveUp, Owner::Live),
        }
    }

    /// Frees an id: its reply came.
    pub(crate) fn release(&mut self, id: u16) {
        if let Some(at) = self.ids.iter().position(|used| *used == id) {
            self.ids.swap_remove(at);
            if self.owners.swap_remove(at).is_some() {
                self.live -= 1;
            }
        }
    }

    /// Keeps an id out of use although its owner waits no longer.
    pub(crate) fn give_up(&mut self, id: u16) {
        if let Some(at) = self.ids.iter().position(|used| *used == id)
            && self.owners[at].take().is_some()
        {
            self.live -= 1;
        }
    }

    /// Queries in flight.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Ids out of use, those of queries in flight included.
    pub(crate) fn used(&self) -> usize {
        self.ids.len()
    }

    /// All ids out of use, each with its owner if that still waits.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u16, Option<T>)> {
        self.ids.iter().copied().zip(self.owners.iter().copied())
    }

    /// Puts an id in twice, for tests of who finds such a thing.
    #[cfg(test)]
    pub(crate) fn damage_twice(&mut self) {
        self.ids.extend_from_within(..1);
        self.owners.extend_from_within(..1);
    }

    /// The owners of all queries in flight, oldest first as long as nothing was released.
    pub(crate) fn owners(&self) -> impl Iterator<Item = T> {
        self.owners.iter().filter_map(|owner| *owner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_given_up_id_is_late_not_unknown_and_not_reused() {
        let mut table = IdTable::default();
        let mut random = Stream::new([0; 32], 1);
        let id = table.allocate('a', &mut random).expect("room");
        table.give_up(id);
        assert_eq!(table.owner(id), Owner::GaveUp);
        assert_eq!((table.live(), table.used()), (0, 1));
        let others: Vec<u16> =
            (0..30_000).map(|_| table.allocate('b', &mut random).expect("room")).collect();
        assert!(!others.contains(&id));
        table.release(others[7]);
        assert_eq!(table.owner(others[7]), Owner::Unknown);
    }

    #[test]
    fn a_full_table_says_so_instead_of_searching_for_ever() {
        let mut table = IdTable::default();
        let mut random = Stream::new([0; 32], 1);
        let mut all = std::collections::BTreeSet::new();
        for _ in 0..IDS {
            let is_new = all.insert(table.allocate((), &mut random).expect("room"));
            assert!(is_new, "in use twice");
        }
        assert_eq!(table.allocate((), &mut random), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a map from id to owner.
        #[test]
        fn keeps_owners_like_a_map(steps in prop::collection::vec((0..3u8, any::<prop::sample::Index>()), 1..300)) {
            let mut table = IdTable::default();
            let mut random = Stream::new([3; 32], 1);
            let mut model: Vec<(u16, Option<usize>)> = Vec::new();
            for (number, (step, index)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let id = table.allocate(number, &mut random).expect("room");
                        prop_assert!(model.iter().all(|(used, _)| *used != id));
                        model.push((id, Some(number)));
                    }
                    1 if !model.is_empty() => {
                        let at = index.index(model.len());
                        table.release(model.remove(at).0);
                    }
                    2 if !model.is_empty() => {
                        let at = index.index(model.len());
                        table.give_up(model[at].0);
                        model[at].1 = None;
                    }
                    _ => {}
                }
                prop_assert_eq!(table.live(), model.iter().filter(|(_, owner)| owner.is_some()).count());
                for (id, owner) in &model {
                    prop_assert_eq!(table.owner(*id), owner.map_or(Owner::GaveUp, Owner::Live));
                }
            }
        }
    }
}
