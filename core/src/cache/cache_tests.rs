//! Tests of [`super`]: order of eviction and accounts against a model, expiry, poisoned locks.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::*;
use crate::config::TtlBounds;
use crate::hash::KeyedState;
use crate::time::Duration;
use crate::wire::testing::{ANSWER, AT_QUESTION, Draft, wire};
use crate::wire::{Flags, RecordClass, RecordType, ResponseView};

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn key(number: usize) -> Key {
    let hash = KeyedState::new((3, 4));
    let name = wire(&format!("n{number}.example"));
    Key::new(
        &hash,
        &name,
        RecordType::TXT,
        RecordClass::IN,
        false,
        false,
        None,
        crate::upstream::Route::General,
    )
}

/// An answer of a minute whose one record has this RDATA, packed at zero.
fn answer(rdata: &[u8]) -> Vec<u8> {
    let message = Draft::new(0, Flags::QR)
        .question("n.example", RecordType::TXT)
        .record(ANSWER, AT_QUESTION, RecordType::TXT, 60, rdata)
        .0;
    let bounds = TtlBounds {
        min_seconds: 0,
        max_seconds: 3_600,
        negative_max_seconds: 3_600,
        servfail_seconds: 0,
    };
    let mut out = Vec::new();
    let view = ResponseView::parse(&message).unwrap();
    let cacheable = pack(&view, &bounds, at(0), &mut out).unwrap();
    assert_eq!(cacheable, Cacheable::For(Duration::from_secs(60)));
    out
}

fn found(cache: &Cache, key: &Key) -> Option<Vec<u8>> {
    cache.lookup(key, at(0), |packed| packed.bytes().to_vec())
}

fn entry_octets(key: &Key, packed: &[u8]) -> usize {
    key.as_bytes().len() + packed.len()
}

#[test]
fn what_was_put_is_found_until_it_expires() {
    let cache = Cache::new(10, 10_000);
    let (one, packed) = (key(1), answer(b"x"));
    assert_eq!(found(&cache, &one), None);
    cache.insert(&one, &packed);
    assert_eq!(found(&cache, &one), Some(packed.clone()));
    assert_eq!(found(&cache, &key(2)), None);

    let last = Instant::from_nanos(at(60).as_nanos() - 1);
    assert_eq!(cache.lookup(&one, last, |_| ()), Some(()));
    assert_eq!(cache.lookup(&one, at(60), |_| ()), None, "expired is a miss");
    assert_eq!(cache.len(), 1, "but stays");
    assert!(cache.remove(&one));
    assert!(!cache.remove(&one));
    assert_eq!((cache.len(), cache.bytes()), (0, 0));
}

#[test]
fn a_new_answer_takes_the_place_of_the_old_one() {
    let cache = Cache::new(10, 10_000);
    let one = key(1);
    for packed in [answer(b"first"), answer(b"second, longer"), answer(b"3")] {
        cache.insert(&one, &packed);
        assert_eq!(found(&cache, &one), Some(packed.clone()));
        assert_eq!((cache.len(), cache.bytes()), (1, entry_octets(&one, &packed)));
    }
    assert_eq!(cache.evictions(), 0);
}

#[test]
fn what_is_too_big_is_not_put_and_leaves_nothing_outdated() {
    let one = key(1);
    let (small, big) = (answer(b"x"), answer(&[0; 100]));
    let cache = Cache::new(10, entry_octets(&one, &big) - 1);
    cache.insert(&one, &small);
    cache.insert(&one, &big);
    assert_eq!(found(&cache, &one), None);
    assert_eq!((cache.len(), cache.bytes(), cache.evictions()), (0, 0, 0));

    let cache = Cache::new(10, entry_octets(&one, &big));
    cache.insert(&one, &big);
    assert_eq!(found(&cache, &one), Some(big), "exactly as big as allowed");
}

#[test]
fn a_cache_without_room_holds_nothing() {
    for cache in [Cache::new(0, 10_000), Cache::new(10, 0), Cache::new(0, 0)] {
        cache.insert(&key(1), &answer(b"x"));
        assert!(cache.is_empty());
        assert_eq!(found(&cache, &key(1)), None);
    }
}

#[test]
fn shares_sum_to_the_whole() {
    for total in [0, 1, 63, 64, 65, 10_000, usize::MAX] {
        let all: Vec<_> = shares(total, CACHE_SHARDS).collect();
        assert_eq!(all.len(), CACHE_SHARDS);
        assert_eq!(all.iter().copied().reduce(|sum, share| sum + share), Some(total));
        assert!(all.iter().max().unwrap() - all.iter().min().unwrap() <= 1);
    }
}

#[test]
fn a_large_cache_uses_all_its_shards_within_its_bounds() {
    let small = Cache::new(SHARDED_FROM_ENTRIES - 1, 1 << 20);
    assert_eq!(small.shards.len(), 1);
    let cache = Cache::new(SHARDED_FROM_ENTRIES, 1 << 20);
    assert_eq!(cache.shards.len(), CACHE_SHARDS);
    let packed = answer(b"x");
    for number in 0..4 * SHARDED_FROM_ENTRIES {
        cache.insert(&key(number), &packed);
    }
    // So many keys fill each shard to its share.
    assert_eq!(cache.len(), SHARDED_FROM_ENTRIES);
    assert_eq!(cache.capacity(), SHARDED_FROM_ENTRIES);
    assert_eq!(cache.recount(), (cache.len(), cache.bytes()));
    assert_eq!(cache.evictions(), 3 * SHARDED_FROM_ENTRIES as u64);
    cache.clear();
    assert_eq!((cache.recount(), cache.len(), cache.bytes()), ((0, 0), 0, 0));
}

#[test]
fn a_shard_left_by_a_panic_is_emptied_and_used_again() {
    let cache = Cache::new(10, 10_000);
    let (one, packed) = (key(1), answer(b"x"));
    cache.insert(&one, &packed);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        cache.lookup(&one, at(0), |_| panic!("while the shard is locked"))
    }));
    assert!(panicked.is_err());
    assert_eq!(found(&cache, &one), None);
    assert_eq!((cache.len(), cache.bytes(), cache.recount()), (0, 0, (0, 0)));
    cache.insert(&one, &packed);
    assert_eq!(found(&cache, &one), Some(packed));
}

/// A failure that is kept for a minute, packed at zero.
fn failure() -> Vec<u8> {
    let message =
        Draft::new(0, Flags::QR | Rcode::SERVFAIL.0).question("n.example", RecordType::TXT).0;
    let bounds = TtlBounds {
        min_seconds: 0,
        max_seconds: 3_600,
        negative_max_seconds: 3_600,
        servfail_seconds: 60,
    };
    let mut out = Vec::new();
    let view = ResponseView::parse(&message).unwrap();
    let cacheable = pack(&view, &bounds, at(0), &mut out).unwrap();
    assert_eq!(cacheable, Cacheable::For(Duration::from_secs(60)));
    out
}

/// The plainest cache: a list, most recently used first, of numbers, octets, and whether it is a
/// failure.
struct Model {
    entries: Vec<(usize, usize, bool)>,
    capacity: usize,
    max_bytes: usize,
    evictions: u64,
}

impl Model {
    fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, octets, _)| octets).sum()
    }

    fn touch(&mut self, number: usize) -> bool {
        let Some(at) = self.entries.iter().position(|(known, ..)| *known == number) else {
            return false;
        };
        let entry = self.entries.remove(at);
        self.entries.insert(0, entry);
        true
    }

    fn insert(&mut self, number: usize, octets: usize, is_failure: bool) {
        self.entries.retain(|(known, ..)| *known != number);
        if octets > self.max_bytes || self.capacity == 0 {
            return;
        }
        self.entries.insert(0, (number, octets, is_failure));
        while self.entries.len() > self.capacity || self.bytes() > self.max_bytes {
            self.entries.pop();
            self.evictions += 1;
        }
    }

    /// A good answer stays as long as it is fresh; a failure is next to go.
    fn insert_failure(&mut self, number: usize, octets: usize, is_late: bool) {
        let held = self.touch(number).then(|| self.entries[0]);
        if held.is_some_and(|(_, _, is_failure)| !is_failure && !is_late) {
            return;
        }
        self.insert(number, octets, true);
        if self.entries.first().is_some_and(|(known, ..)| *known == number) {
            self.entries.rotate_left(1);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(usize, usize),
    InsertFailure(usize, bool),
    Lookup(usize, bool),
    Remove(usize),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..8, 0_usize..120).prop_map(|(number, size)| Step::Insert(number, size)),
        4 => (0_usize..8, any::<bool>()).prop_map(|(number, late)| Step::InsertFailure(number, late)),
        8 => (0_usize..8, any::<bool>()).prop_map(|(number, late)| Step::Lookup(number, late)),
        2 => (0_usize..8).prop_map(Step::Remove),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #[test]
    fn order_and_accounts_are_those_of_the_model(
        capacity in 0_usize..6,
        max_bytes in 100_usize..600,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let cache = Cache::new(capacity, max_bytes);
        let mut model = Model { entries: Vec::new(), capacity, max_bytes, evictions: 0 };
        for step in steps {
            match step {
                Step::Insert(number, size) => {
                    let packed = answer(&vec![0; size]);
                    cache.insert(&key(number), &packed);
                    model.insert(number, entry_octets(&key(number), &packed), false);
                }
                Step::InsertFailure(number, is_late) => {
                    let packed = failure();
                    let now = at(if is_late { 60 } else { 59 });
                    cache.insert_failure(&key(number), now, &packed);
                    model.insert_failure(number, entry_octets(&key(number), &packed), is_late);
                }
                Step::Lookup(number, is_late) => {
                    let now = at(if is_late { 60 } else { 59 });
                    let rcode = cache.lookup(&key(number), now, |answer| answer.rcode());
                    let touched = model.touch(number);
                    prop_assert_eq!(rcode.is_some(), touched && !is_late);
                    let fails = touched && model.entries[0].2;
                    prop_assert!(rcode.is_none_or(|rcode| (rcode == Rcode::SERVFAIL) == fails));
                }
                Step::Remove(number) => {
                    let known = model.touch(number);
                    model.entries.retain(|(other, ..)| *other != number);
                    prop_assert_eq!(cache.remove(&key(number)), known);
                }
                Step::Clear => {
                    cache.clear();
                    model.entries.clear();
                }
            }
            prop_assert_eq!(cache.len(), model.entries.len());
            prop_assert_eq!(cache.bytes(), model.bytes());
            prop_assert_eq!(cache.recount(), (model.entries.len(), model.bytes()));
            prop_assert_eq!(cache.evictions(), model.evictions);
        }
        // What is left is the same, oldest first: looking does not disturb what is asked later.
        for (number, ..) in model.entries.iter().rev() {
            prop_assert!(found(&cache, &key(*number)).is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Many shards: each has its share, together they keep the bounds.
    #[test]
    fn shards_together_keep_the_bounds(
        capacity in SHARDED_FROM_ENTRIES..3 * SHARDED_FROM_ENTRIES,
        max_bytes in 10_000_usize..200_000,
        numbers in prop::collection::vec((0_usize..4_000, 0_usize..400), 1..2_000),
    ) {
        let cache = Cache::new(capacity, max_bytes);
        for (number, size) in numbers {
            let packed = answer(&vec![0; size]);
            cache.insert(&key(number), &packed);
            // Shares of octets differ by one.
            let fits = entry_octets(&key(number), &packed).cmp(&(max_bytes / CACHE_SHARDS));
            if fits.is_le() {
                prop_assert_eq!(found(&cache, &key(number)), Some(packed));
            } else if entry_octets(&key(number), &packed) > max_bytes / CACHE_SHARDS + 1 {
                prop_assert_eq!(found(&cache, &key(number)), None);
            }
        }
        prop_assert_eq!(cache.recount(), (cache.len(), cache.bytes()));
        prop_assert!(cache.len() <= capacity && cache.bytes() <= max_bytes);
    }
}

#[test]
fn what_is_in_a_shard_is_not_shown() {
    let mut shard = Shard::new(4, 10_000);
    shard.insert(b"some key", &answer(b"secret"));
    let bytes = shard.bytes();
    assert_eq!(format!("{shard:?}"), format!("Shard {{ entries: 1, bytes: {bytes}, .. }}"));
}

/// Hashes may be equal; what stands behind them decides.
#[test]
fn keys_with_equal_hashes_are_kept_apart() {
    let mut shard = Shard::new(4, 10_000);
    let (one, other) = (b"samehash one", b"samehash two");
    let (first, second) = (answer(b"1"), answer(b"2"));
    shard.insert(one, &first);
    assert!(shard.get(other).is_none());
    shard.insert(other, &second);
    assert_eq!(shard.get(one).unwrap().bytes(), first);
    assert_eq!(shard.get(other).unwrap().bytes(), second);
    assert!(shard.remove(one));
    assert!(shard.get(one).is_none() && shard.get(other).is_some());
    assert_eq!(shard.recount(), (shard.len(), shard.bytes()));
}

/// A full cache gives a flood of failing names one place per shard, not its answers.
#[test]
fn failures_push_out_failures() {
    const HELD: usize = 100;
    let cache = Cache::new(HELD, 1 << 20);
    let good = answer(b"\x01a");
    for number in 0..HELD {
        cache.insert(&key(number), &good);
    }
    for number in HELD..HELD + 10_000 {
        cache.insert_failure(&key(number), at(0), &good);
    }
    let kept = (0..HELD).filter(|number| found(&cache, &key(*number)).is_some()).count();
    assert!(kept >= HELD - 1, "{kept} of {HELD} are left");
    assert_eq!(cache.len(), HELD);

    cache.insert(&key(20_000), &good);
    let failures = (HELD..HELD + 10_000).filter(|n| found(&cache, &key(*n)).is_some()).count();
    assert_eq!(failures, 0, "the first to make room");
    assert_eq!(cache.recount(), (cache.len(), cache.bytes()));
}
