//! Keyed hashing without thread randomness: SipHash-1-3 under a key that comes from a seed.
//!
//! `std`'s default hasher draws its key from the thread, which would make two runs of one seed
//! differ. Tables keyed by what strangers send use a secret key, so that nobody can aim at one
//! bucket.

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// Builds hashers under one key; usable wherever a `BuildHasher` is asked for.
#[derive(Clone, Copy, Default)]
pub struct KeyedState {
    key: (u64, u64),
}

impl std::fmt::Debug for KeyedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedState(..)") // the key is secret
    }
}

impl KeyedState {
    /// Hashers under this key.
    #[must_use]
    pub const fn new(key: (u64, u64)) -> Self {
        Self { key }
    }

    /// The hash of some bytes.
    #[must_use]
    pub fn hash_bytes(&self, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.key.0, self.key.1).hash(bytes)
    }
}

impl BuildHasher for KeyedState {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key.0, self.key.1)
    }
}

/// A map under [`KeyedState`].
pub type Map<K, V> = std::collections::HashMap<K, V, KeyedState>;
/// A set under [`KeyedState`].
pub type Set<K> = std::collections::HashSet<K, KeyedState>;

/// For keys that are uniformly distributed hashes already: takes the number as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prehashed;

/// The hasher of [`Prehashed`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PrehashedHasher(u64);

impl BuildHasher for Prehashed {
    type Hasher = PrehashedHasher;

    fn build_hasher(&self) -> PrehashedHasher {
        PrehashedHasher(0)
    }
}

impl std::hash::Hasher for PrehashedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Takes the first eight bytes, where a packed key keeps its hash.
    fn write(&mut self, bytes: &[u8]) {
        let mut first = [0; 8];
        let len = bytes.len().min(8);
        first[..len].copy_from_slice(&bytes[..len]);
        self.0 = u64::from_le_bytes(first);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    /// A slice announces its length before its bytes: that says nothing about the key.
    fn write_usize(&mut self, _length: usize) {}
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher as _;

    use super::*;

    #[test]
    fn the_key_decides_and_is_not_shown() {
        let (one, other) = (KeyedState::new((1, 2)), KeyedState::new((1, 3)));
        assert_eq!(one.hash_bytes(b"x"), KeyedState::new((1, 2)).hash_bytes(b"x"));
        assert_ne!(one.hash_bytes(b"x"), other.hash_bytes(b"x"));
        assert_eq!(format!("{one:?}"), "KeyedState(..)");
    }

    /// Whether it comes as octets or as a number, the hash is what stands in front.
    #[test]
    fn a_hash_that_is_there_already_is_taken_as_it_is() {
        let hash = |feed: &dyn Fn(&mut PrehashedHasher)| {
            let mut hasher = Prehashed.build_hasher();
            feed(&mut hasher);
            hasher.finish()
        };
        let number = 0x0102_0304_0506_0708_u64;
        let octets = [&number.to_le_bytes()[..], b"whatever follows"].concat();
        assert_eq!(hash(&|hasher| hasher.write_u64(number)), number);
        assert_eq!(hash(&|hasher| hasher.write(&octets)), number);
        assert_eq!(hash(&|hasher| hasher.write(&octets[..2])), 0x0708, "short ones too");
        assert_eq!(hash(&|hasher| hasher.write_usize(9)), 0);
    }
}
