//! Names on their way into a table, in the order in which they came, duplicates and all.

use super::table::{BELOW, EXACT};
use crate::hash::KeyedState;

/// Octets of all names: a list of more than a gigabyte is a mistake, and places have 32 bits.
const STAGED: usize = 1 << 30;
/// From this many octets on, a block is given [`ROOM`].
const LARGE: usize = 1 << 20;
/// glibc returns blocks of more than 32 MiB to the system when they are freed. Of smaller ones it
/// learns: it then keeps up to twice as much for the next time, which for a list that is read once
/// a day is waste. Memory that is reserved and not used costs nothing.
const ROOM: usize = (32 << 20) + (1 << 12);

/// The names, each after an octet with its flags and one with its length.
#[derive(Debug, Clone, Default)]
pub(super) struct Staging {
    octets: Vec<u8>,
    len: usize,
}

/// Flags and name.
pub(super) type Entry<'s> = (u8, &'s [u8]);

/// An empty vector for so many items, which leaves nothing behind when it is freed.
pub(super) fn roomy<T>(items: usize) -> Vec<T> {
    let octets = items * size_of::<T>();
    let room = if octets < LARGE { octets } else { octets.max(ROOM) };
    Vec::with_capacity(room / size_of::<T>())
}

impl Staging {
    /// Adds a lower-cased wire name; `false` if there is no more room.
    ///
    /// # Panics
    /// If the name is longer than names are.
    pub(super) fn push(&mut self, flags: u8, name: &[u8]) -> bool {
        let length = u8::try_from(name.len()).expect("a name has at most 255 octets");
        let octets = self.octets.len() + name.len() + 2;
        if octets > STAGED {
            return false;
        }
        if octets > LARGE && self.octets.capacity() < ROOM {
            let mut larger = roomy(octets);
            larger.append(&mut self.octets);
            self.octets = larger;
        }
        self.octets.extend_from_slice(&[flags, length]);
        self.octets.extend_from_slice(name);
        self.len += 1;
        true
    }

    /// How many names were added.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Octets of all names and what stands before them.
    pub(super) fn octets(&self) -> usize {
        self.octets.len()
    }

    /// A hash of all of it.
    pub(super) fn fingerprint(&self) -> u64 {
        KeyedState::default().hash_bytes(&self.octets)
    }

    /// The entry at a place that [`Staging::iter`] gave.
    pub(super) fn get(&self, place: u32) -> Entry<'_> {
        let (entry, _) = split(&self.octets[place as usize..]).expect("an entry begins there");
        entry
    }

    /// Place, flags and name of each, in the order in which they were added.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u8, &[u8])> {
        let mut rest = &self.octets[..];
        std::iter::from_fn(move || {
            let place = self.octets.len() - rest.len();
            let ((flags, name), tail) = split(rest)?;
            rest = tail;
            Some((u32::try_from(place).expect("a gigabyte at most"), flags, name))
        })
    }
}

/// The first entry, and what comes after it.
fn split(octets: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (&[flags, length], rest) = octets.split_first_chunk()?;
    debug_assert!(flags & (EXACT | BELOW) == flags && flags != 0, "nothing else is staged");
    let (name, rest) = rest.split_at(usize::from(length));
    Some(((flags, name), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_comes_back() {
        let mut staging = Staging::default();
        let name = |number: u8| {
            let length = number % 60 + 1;
            let mut name = vec![number; usize::from(length) + 2];
            (name[0], name[usize::from(length) + 1]) = (length, 0);
            name
        };
        let names: Vec<Vec<u8>> = (0..200).map(name).collect();
        // Some 1.3 MiB: the block moves once.
        for _ in 0..200 {
            names.iter().for_each(|name| assert!(staging.push(BELOW, name)));
        }
        assert!(staging.octets() > LARGE && staging.octets.capacity() >= ROOM);
        assert_eq!(staging.len(), 40_000);
        let all: Vec<_> = staging.iter().collect();
        assert_eq!(all.len(), 40_000);
        for (number, (place, flags, name)) in all.into_iter().enumerate() {
            assert_eq!((flags, name), (BELOW, &names[number % 200][..]));
            assert_eq!(staging.get(place), (flags, name));
        }
    }

    #[test]
    fn a_list_that_is_full_takes_no_more() {
        // Never written to, so that it takes no memory.
        let mut staging = Staging { octets: vec![0; STAGED - 10], len: 0 };
        assert!(!staging.push(EXACT, b"\x07example\0"));
        assert!(staging.push(EXACT, b"\x06exampl\0"));
        assert!(!staging.push(EXACT, b"\x01a\0"));
        assert_eq!(staging.len(), 1);
    }
}
