//! One part of the cache: a least-recently-used table with an account of its octets.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;

use super::packed::{Marks, Packed, set_marks};
use crate::hash::Prehashed;
use crate::planted::{Bug, is_planted};
use crate::time::Instant;

/// Less than any entry's octets: bounds the table that is allocated up front.
const ENTRY_OCTETS_MIN: usize = 32;

/// A least-recently-used table, bounded in entries and octets.
pub(super) struct Shard {
    table: LruCache<Entry, (), Prehashed>,
    entries_max: usize,
    bytes_max: usize,
    bytes: usize,
    evictions: u64,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("entries", &self.table.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// An empty shard. Its table is allocated at full size, so that it never grows under the lock.
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Self {
        let fitting = bytes_max.checked_div(ENTRY_OCTETS_MIN).unwrap_or(0);
        let table_entries = entries_max.min(fitting).saturating_add(1);
        let table_entries = NonZeroUsize::new(table_entries).unwrap_or(NonZeroUsize::MIN);
        Self {
            table: LruCache::with_hasher(table_entries, Prehashed),
            entries_max,
            bytes_max,
            bytes: 0,
            evictions: 0,
        }
    }

    /// The answer under this key, which becomes the most recently used.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Packed<'_>> {
        self.table.get_key_value(key).map(|(entry, ())| Packed::new(entry.packed()))
    }

    /// Puts an answer in place of what was there, and evicts what is in the way.
    pub(super) fn insert(&mut self, key: &[u8], packed: &[u8]) {
        // Not left to the table: it would keep the old key, which is also the old answer.
        let counted = self.bytes;
        self.remove(key);
        if is_planted(Bug::CacheOctetsOnReplace) {
            self.bytes = counted;
        }
        let entry = Entry::new(key, packed);
        let octets = entry.octets.len();
        if octets > self.bytes_max || self.entries_max == 0 {
            return;
        }
        let room = self.bytes_max.saturating_sub(octets);
        while self.table.len() >= self.entries_max || self.bytes > room {
            self.evict();
        }
        self.bytes = self.bytes.saturating_add(octets);
        self.table.put(entry, ());
    }

    /// Marks an answer, if it came at this time; it becomes the most recently used.
    pub(super) fn mark(&mut self, key: &[u8], stored_at: Instant, marks: Marks) {
        let Some((entry, ())) = self.table.get_key_value(key) else { return };
        if Packed::new(entry.packed()).stored_at() != stored_at {
            return;
        }
        let mut packed = entry.packed().to_vec();
        set_marks(&mut packed, marks);
        self.insert(key, &packed);
    }

    /// Makes an answer the least recently used, and so the first to be evicted.
    pub(super) fn demote(&mut self, key: &[u8]) {
        self.table.demote(key);
    }

    /// Removes an answer; tells whether there was one.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let removed = self.table.pop_entry(key);
        if let Some((entry, ())) = &removed {
            self.discount(entry);
        }
        removed.is_some()
    }

    /// Removes all answers.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.bytes = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Entries and octets, counted afresh.
    pub(super) fn recount(&self) -> (usize, usize) {
        let octets = self.table.iter().map(|(entry, ())| entry.octets.len());
        octets.fold((0, 0), |(entries, bytes), octets| {
            (usize::saturating_add(entries, 1), usize::saturating_add(bytes, octets))
        })
    }

    fn evict(&mut self) {
        let (entry, ()) = self.table.pop_lru().expect("a shard over its bounds holds an entry");
        self.discount(&entry);
        self.evictions = self.evictions.saturating_add(1);
    }

    fn discount(&mut self, entry: &Entry) {
        self.bytes = self.bytes.checked_sub(entry.octets.len()).expect("each entry was counted");
    }
}

/// A key and its packed answer in one allocation. Hashed and compared by the key.
struct Entry {
    octets: Box<[u8]>,
    key_octets: u16,
}

impl Entry {
    fn new(key: &[u8], packed: &[u8]) -> Self {
        let key_octets = u16::try_from(key.len()).expect("keys are at most KEY_OCTETS long");
        Self { octets: [key, packed].concat().into_boxed_slice(), key_octets }
    }

    fn packed(&self) -> &[u8] {
        self.octets.get(usize::from(self.key_octets)..).unwrap_or_default()
    }
}

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.octets.get(..usize::from(self.key_octets)).unwrap_or_default()
    }
}

impl Hash for Entry {
    /// As the key's octets do, which a look-up by octets relies on.
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<[u8]>::borrow(self).hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        Borrow::<[u8]>::borrow(self) == Borrow::<[u8]>::borrow(other)
    }
}

impl Eq for Entry {}
