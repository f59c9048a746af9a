//! Names on their way into a table, in the order in which they came, duplicates and all.
//!
//! They stand in pieces of moderate size: one block that doubles would have to be copied, and what
//! is freed in one piece of many megabytes makes allocators keep as much for the next time.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// Octets of a piece.
const PIECE: usize = 1 << 18;
/// Pieces: a list of more than a gigabyte is a mistake, and places have 32 bits.
const PIECES: usize = 1 << 12;

/// The names, each after an octet with its flags and one with its length.
#[derive(Debug, Clone, Default)]
pub(super) struct Staging {
    pieces: Vec<Vec<u8>>,
    len: usize,
}

impl Staging {
    /// Adds a lower-cased wire name; `false` if there is no more room.
    ///
    /// # Panics
    /// If the name is longer than names are.
    pub(super) fn push(&mut self, flags: u8, name: &[u8]) -> bool {
        let length = u8::try_from(name.len()).expect("a name has at most 255 octets");
        let fits = self.pieces.last().is_some_and(|piece| piece.len() + name.len() + 2 <= PIECE);
        if !fits {
            if self.pieces.len() == PIECES {
                return false;
            }
            self.pieces.push(Vec::new());
        }
        let piece = self.pieces.last_mut().expect("one with room was there or was added");
        piece.extend_from_slice(&[flags, length]);
        piece.extend_from_slice(name);
        self.len += 1;
        true
    }

    /// How many names were added.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Octets of all names and what stands before them.
    pub(super) fn octets(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// A hash of all of it.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        self.pieces.iter().for_each(|piece| hasher.write(piece));
        hasher.finish()
    }

    /// Flags and name at a place that [`Staging::iter`] gave.
    pub(super) fn get(&self, place: u32) -> (u8, &[u8]) {
        let piece = &self.pieces[place as usize / PIECE];
        let at = place as usize % PIECE;
        let length = usize::from(piece[at + 1]);
        (piece[at], &piece[at + 2..at + 2 + length])
    }

    /// Place, flags and name of each, in the order in which they were added.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u8, &[u8])> {
        self.pieces.iter().enumerate().flat_map(|(piece, octets)| {
            let mut at = 0;
            std::iter::from_fn(move || {
                let (flags, length) = (*octets.get(at)?, usize::from(*octets.get(at + 1)?));
                let name = &octets[at + 2..at + 2 + length];
                let place = u32::try_from(piece * PIECE + at).expect("all pieces are that short");
                at += 2 + length;
                Some((place, flags, name))
            })
        })
    }
}
