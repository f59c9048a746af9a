//! Answers that are remembered, shared by all workers, bounded in entries and in octets.
//!
//! Owns the key, the packed form of an answer and the eviction order. What may be remembered and
//! for how long is decided by [`pack`] (RFC 2181 sections 5.2 and 8, RFC 2308 section 5, RFC 9520
//! section 3.2). Asks no clock: expiry is compared with the caller's time.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod key;
mod packed;
mod shard;
mod ttl;

use std::sync::{Mutex, MutexGuard};

pub use key::{KEY_OCTETS, Key, Scope};
pub use packed::{Cacheable, Marks, NotCacheable, PackError, Packed, pack, pack_again, set_marks};
use shard::Shard;
pub use ttl::TtlBounds;

use crate::limits::{CACHE_SHARDS, SHARDED_FROM_ENTRIES};
use crate::planted::{Bug, is_planted};
use crate::time::Instant;
use crate::wire::Rcode;

// Shards are chosen by a mask over one octet.
const _: () = assert!(CACHE_SHARDS.is_power_of_two() && CACHE_SHARDS <= 256);

/// The cache. Least recently used answers make room for new ones, per shard.
#[derive(Debug)]
pub struct Cache {
    shards: Box<[Mutex<Shard>]>,
    capacity: usize,
}

impl Cache {
    /// An empty cache of at most `capacity` entries, whose keys and answers have at most
    /// `max_bytes` octets. Small caches are one shard, so that their order of eviction is exact.
    #[must_use]
    pub fn new(capacity: usize, max_bytes: usize) -> Self {
        let count = if capacity < SHARDED_FROM_ENTRIES { 1 } else { CACHE_SHARDS };
        let shards = shares(capacity, count)
            .zip(shares(max_bytes, count))
            .map(|(entries, bytes)| Mutex::new(Shard::new(entries, bytes)))
            .collect();
        Self { shards, capacity }
    }

    /// Looks for a fresh answer and hands it to `found`, under the lock of one shard: `found` must
    /// be quick and must not use the cache. An expired answer counts as a miss; it stays until it
    /// is evicted or replaced.
    pub fn lookup<R>(
        &self,
        key: &Key,
        now: Instant,
        found: impl FnOnce(Packed<'_>) -> R,
    ) -> Option<R> {
        let mut shard = self.shard(key);
        let packed = shard.get(key.as_bytes())?;
        (packed.is_fresh(now) || is_planted(Bug::ExpiredServed)).then(|| found(packed))
    }

    /// Remembers a packed answer in place of what was there. Others are evicted if there is no
    /// room; one that is bigger than its shard's share of the octets is not remembered.
    pub fn insert(&self, key: &Key, packed: &[u8]) {
        self.shard(key).insert(key.as_bytes(), packed);
    }

    /// Remembers a failure, unless there is a fresh answer that is none. It is the first to make
    /// room for others, so that a flood of names that fail cannot push out those that do not.
    pub fn insert_failure(&self, key: &Key, now: Instant, packed: &[u8]) {
        let mut shard = self.shard(key);
        let better = shard
            .get(key.as_bytes())
            .is_some_and(|held| held.is_fresh(now) && held.rcode() != Rcode::SERVFAIL);
        if !better {
            shard.insert(key.as_bytes(), packed);
            shard.demote(key.as_bytes());
        }
    }

    /// Marks an answer, if it is still the one that came then.
    pub fn mark(&self, key: &Key, stored_at: Instant, marks: Marks) {
        self.shard(key).mark(key.as_bytes(), stored_at, marks);
    }

    /// Forgets an answer; tells whether there was one.
    pub fn remove(&self, key: &Key) -> bool {
        self.shard(key).remove(key.as_bytes())
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.shards.iter().for_each(|shard| lock(shard).clear());
    }

    /// Answers held, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sum(|shard| shard.len())
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of keys and answers held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sum(|shard| shard.bytes())
    }

    /// Answers that had to make room, ever.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        let counts = self.shards.iter().map(|shard| lock(shard).evictions());
        counts.fold(0, u64::saturating_add)
    }

    /// The most entries.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Entries and octets, counted afresh: must equal [`Cache::len`] and [`Cache::bytes`]. Slow;
    /// for tests and the simulator.
    #[must_use]
    pub fn recount(&self) -> (usize, usize) {
        self.shards.iter().map(|shard| lock(shard).recount()).fold(
            (0, 0),
            |(entries, bytes): (usize, usize), (more, octets)| {
                (entries.saturating_add(more), bytes.saturating_add(octets))
            },
        )
    }

    fn sum(&self, of: impl Fn(&Shard) -> usize) -> usize {
        self.shards.iter().map(|shard| of(&lock(shard))).fold(0, usize::saturating_add)
    }

    /// The shard by bits of the hash that the tables do not use: those take the lowest bits for
    /// the place and the highest seven for the tag.
    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let [_, _, _, _, middle, ..] = key.hash().to_le_bytes();
        // The count is 1 or CACHE_SHARDS, a power of two.
        let index = usize::from(middle) & self.shards.len().saturating_sub(1);
        lock(self.shards.get(index).expect("the mask is less than the number of shards"))
    }
}

/// Locks a shard. One that was left by a panic is emptied and used again: its order and account
/// may be half changed.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(|poisoned| {
        let mut emptied = poisoned.into_inner();
        emptied.clear();
        shard.clear_poison();
        emptied
    })
}

/// Divides `total` into `count` shares that differ by one at most and sum to it.
fn shares(total: usize, count: usize) -> impl Iterator<Item = usize> {
    let share = total.checked_div(count).unwrap_or(0);
    let larger = total.checked_rem(count).unwrap_or(0);
    (0..count).map(move |index| share.saturating_add(usize::from(index < larger)))
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
