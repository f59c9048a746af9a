//! Deadlines, each of one kind: nothing time-driven happens that `next_timeout` did not announce.
//!
//! A binary heap that knows where each timer sits, so that a deadline is moved or taken back in
//! place: never more entries than live timers, and none that has to be skipped later. Timers with
//! equal deadlines fire in the order in which they were set, so runs repeat.

use crate::time::Instant;

/// The position of a timer that has no deadline.
const NOWHERE: u32 = u32::MAX;

/// Names a timer of a [`Timers`] table: allocated once by its owner, then set and cancelled at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(u32);

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    sequence: u64,
    id: u32,
}

impl Entry {
    fn before(&self, other: &Self) -> bool {
        (self.at, self.sequence) < (other.at, other.sequence)
    }
}

#[derive(Debug)]
struct TimerSlot<K> {
    kind: K,
    position: u32,
}

/// A table of timers; `K` says what each one is for.
#[derive(Debug)]
pub struct Timers<K> {
    heap: Vec<Entry>,
    slots: Vec<Option<TimerSlot<K>>>,
    free: Vec<u32>,
    sequence: u64,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { heap: Vec::new(), slots: Vec::new(), free: Vec::new(), sequence: 0 }
    }
}

impl<K: Copy> Timers<K> {
    /// A new timer of this kind, not set.
    pub fn allocate(&mut self, kind: K) -> TimerId {
        let slot = Some(TimerSlot { kind, position: NOWHERE });
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = slot;
            return TimerId(id);
        }
        self.slots.push(slot);
        TimerId(u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 timers"))
    }

    /// Ends a timer: takes its deadline back and frees its name.
    pub fn release(&mut self, id: TimerId) {
        self.cancel(id);
        if self.slots[id.0 as usize].take().is_some() {
            self.free.push(id.0);
        }
    }

    /// Sets or moves a timer's deadline.
    pub fn set(&mut self, id: TimerId, at: Instant) {
        self.sequence += 1;
        let entry = Entry { at, sequence: self.sequence, id: id.0 };
        let position = self.position(id.0);
        if position == NOWHERE {
            self.heap.push(entry);
            let last = self.heap.len() - 1;
            self.place(last);
            self.sift_up(last);
        } else {
            let position = position as usize;
            self.heap[position] = entry;
            let position = self.sift_up(position);
            self.sift_down(position);
        }
    }

    /// Takes a timer's deadline back; nothing happens if it has none.
    pub fn cancel(&mut self, id: TimerId) {
        let position = self.position(id.0);
        if position != NOWHERE {
            self.remove_at(position as usize);
        }
    }

    /// A timer's deadline, if it has one.
    #[must_use]
    pub fn deadline(&self, id: TimerId) -> Option<Instant> {
        let position = self.position(id.0);
        (position != NOWHERE).then(|| self.heap[position as usize].at)
    }

    /// The earliest deadline and what it is for.
    #[must_use]
    pub fn next(&self) -> Option<(Instant, K)> {
        let first = self.heap.first()?;
        Some((first.at, self.slots[first.id as usize].as_ref()?.kind))
    }

    /// Takes out the earliest timer if its deadline is not after `now`.
    pub fn expire(&mut self, now: Instant) -> Option<K> {
        let (at, kind) = self.next()?;
        if at > now {
            return None;
        }
        self.remove_at(0);
        Some(kind)
    }

    /// How many timers have a deadline.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Timers that have an owner, what each is for, and its deadline if it has one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TimerId, K, Option<Instant>)> {
        (0..).zip(&self.slots).filter_map(|(id, slot)| {
            let slot = slot.as_ref()?;
            let entry = self.heap.get(slot.position as usize).filter(|entry| entry.id == id);
            Some((TimerId(id), slot.kind, entry.map(|entry| entry.at)))
        })
    }

    /// Whether no timer has a deadline.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn position(&self, id: u32) -> u32 {
        self.slots[id as usize].as_ref().map_or(NOWHERE, |slot| slot.position)
    }

    /// Writes down where the entry at `position` sits.
    fn place(&mut self, position: usize) {
        let id = self.heap[position].id as usize;
        let slot = self.slots[id].as_mut().expect("an entry of the heap belongs to a live timer");
        slot.position = u32::try_from(position).expect("fewer than 2^32 timers");
    }

    fn remove_at(&mut self, position: usize) {
        let entry = self.heap.swap_remove(position);
        if let Some(slot) = &mut self.slots[entry.id as usize] {
            slot.position = NOWHERE;
        }
        if position < self.heap.len() {
            self.place(position);
            let position = self.sift_up(position);
            self.sift_down(position);
        }
    }

    fn sift_up(&mut self, mut position: usize) -> usize {
        while position > 0 {
            let parent = (position - 1) / 2;
            if !self.heap[position].before(&self.heap[parent]) {
                break;
            }
            self.swap(position, parent);
            position = parent;
        }
        position
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let left = 2 * position + 1;
            if left >= self.heap.len() {
                return;
            }
            let right = left + 1;
            let right_first = right < self.heap.len() && self.heap[right].before(&self.heap[left]);
            let child = if right_first { right } else { left };
            if !self.heap[child].before(&self.heap[position]) {
                return;
            }
            self.swap(position, child);
            position = child;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.place(one);
        self.place(other);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(usize, u64),
        Cancel(usize),
        Expire(u64),
        /// The owner ends and another one begins.
        Replace(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..20usize, 0..50u64).prop_map(|(id, at)| Step::Set(id, at)),
            1 => (0..20usize).prop_map(Step::Cancel),
            1 => (0..50u64).prop_map(Step::Expire),
            1 => (0..20usize).prop_map(Step::Replace),
        ]
    }

    proptest! {
        /// Against a plain list sorted by (deadline, order of setting).
        #[test]
        fn fires_like_a_sorted_list(steps in prop::collection::vec(step(), 1..200)) {
            let mut timers = Timers::default();
            let mut ids: Vec<TimerId> = (0..20).map(|kind| timers.allocate(kind)).collect();
            let mut model: Vec<(u64, usize, usize)> = Vec::new(); // at, order, kind
            for (order, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Set(kind, at) => {
                        timers.set(ids[kind], Instant::from_nanos(at));
                        model.retain(|m| m.2 != kind);
                        model.push((at, order, kind));
                    }
                    Step::Cancel(kind) => {
                        timers.cancel(ids[kind]);
                        model.retain(|m| m.2 != kind);
                    }
                    Step::Expire(now) => {
                        model.sort_unstable();
                        while let Some(kind) = timers.expire(Instant::from_nanos(now)) {
                            let (at, _, expected) = model.remove(0);
                            prop_assert!(at <= now);
                            prop_assert_eq!(kind, expected);
                        }
                        prop_assert!(model.first().is_none_or(|m| m.0 > now));
                    }
                    Step::Replace(kind) => {
                        timers.release(ids[kind]);
                        prop_assert_eq!(timers.iter().count(), 19);
                        ids[kind] = timers.allocate(kind);
                        model.retain(|m| m.2 != kind);
                    }
                }
                model.sort_unstable();
                prop_assert_eq!(timers.len(), model.len());
                prop_assert_eq!(timers.next().map(|t| t.0.as_nanos()), model.first().map(|m| m.0));
                for (id, kind, at) in timers.iter() {
                    let expected = model.iter().find(|m| m.2 == kind).map(|m| m.0);
                    prop_assert_eq!(at.map(Instant::as_nanos), expected);
                    prop_assert_eq!((id, timers.deadline(id)), (ids[kind], at));
                }
                prop_assert_eq!(timers.iter().count(), 20);
            }
        }
    }

    #[test]
    fn a_released_timer_gives_its_name_on() {
        let mut timers = Timers::default();
        let first = timers.allocate('a');
        timers.set(first, Instant::from_nanos(5));
        timers.release(first);
        assert!(timers.is_empty());
        let second = timers.allocate('b');
        timers.set(second, Instant::from_nanos(3));
        assert_eq!(timers.next(), Some((Instant::from_nanos(3), 'b')));
    }
}
