//! A compact immutable set of names, exact: a name is in it or not, there is no "perhaps".
//!
//! The names stand in one block of octets, in buckets by a keyed hash, four to a bucket; beside them
//! are an offset and a small filter per bucket. A look-up hashes once, reads these two, and compares
//! with the few names that stand there. What a name costs beyond its letters is two octets of its
//! bucket's and two of its own: the length of the first label, which every name on the wire begins
//! with, carries the flags, and one octet at the end stands for the most common endings of the list
//! (`.com`) as a whole.
//!
//! ```text
//! entry   = first label, its length with EXACT and BELOW; further labels; end
//! end     = 0 for the root, or ENDINGS_FROM + place of an ending, which includes the root
//! ```

use std::fmt;

use super::staging::{Staging, roomy};
use crate::hash::{KeyedState, Map};
use crate::wire::suffixes;

/// In the first octet of an entry: the name itself is listed.
pub(super) const EXACT: u8 = 0x40;
/// In the first octet of an entry: what is below the name is listed.
pub(super) const BELOW: u8 = 0x80;
/// The rest of the first octet: a label has at most 63 octets.
const LENGTH: u8 = 0x3f;
/// The first octet that is no length of a label and so may stand for an ending.
const ENDINGS_FROM: u8 = LENGTH + 1;
/// Endings that a table may have.
const ENDINGS: usize = 256 - ENDINGS_FROM as usize;
/// Labels of an ending: `com`, `co.uk`, `s3.example.com`.
const ENDING_LABELS: usize = 3;
/// Names that are looked at for the most common endings.
const SAMPLE: usize = 1 << 14;
/// Names per bucket on average: fewer cost more offsets, more cost comparisons.
const PER_BUCKET: usize = 4;

/// Where the names of a bucket are, and which bits of their hashes' low ends there are: most questions
/// are for no name of any list, and of those seven in eight end here, without a look at the names.
#[derive(Clone, Copy, Default)]
struct Bucket {
    start: u32,
    bits: u32,
}

/// The set.
#[derive(Clone, Default)]
pub(super) struct Table {
    key: KeyedState,
    /// One more than there are: where it begins is the end of the last one. None if there is nothing.
    buckets: Box<[Bucket]>,
    /// Not shrunk: see [`roomy`].
    entries: Vec<u8>,
    endings: Endings,
    depths: Depths,
    len: usize,
}

impl Table {
    /// Which of [`EXACT`] and [`BELOW`] are listed for this lower-cased wire name.
    pub(super) fn flags(&self, name: &[u8]) -> u8 {
        let count = self.buckets.len().saturating_sub(1);
        if count == 0 {
            return 0;
        }
        let hash = self.key.hash_bytes(name);
        let place = place(hash, count);
        let Bucket { start, bits } = self.buckets[place];
        if bits & bit(hash) == 0 {
            return 0;
        }
        let mut rest = &self.entries[start as usize..self.buckets[place + 1].start as usize];
        while let Some((entry, tail)) = Entry::split(rest) {
            if self.is_name(&entry, name) {
                return entry.first & !LENGTH;
            }
            rest = tail;
        }
        0
    }

    /// Whether anything with one of these flags has as many labels.
    pub(super) fn has_depth(&self, flag: u8, labels: usize) -> bool {
        self.depths.has(flag, labels)
    }

    /// How many of the entries it was built from said something new.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Octets that it takes in memory.
    pub(super) fn octets(&self) -> usize {
        self.entries.len() + self.buckets.len() * size_of::<Bucket>() + self.endings.octets.len()
    }

    /// Everything that was staged, each name once.
    pub(super) fn build(staging: &Staging) -> Self {
        if staging.len() == 0 {
            return Self::default();
        }
        // Who writes a list can aim all its names at one bucket of a hash with a known key. Under a
        // key that depends on all of the list, aiming moves the aim; and same lists make the same
        // table, which a drawn key would not.
        let key = KeyedState::new((staging.fingerprint(), 0));
        let count = staging.len().div_ceil(PER_BUCKET);
        let (mut buckets, order) = sorted(staging, &key, count);
        let mut writer = Writer {
            entries: roomy(staging.octets()),
            endings: Endings::common(staging),
            depths: Depths::default(),
        };
        let mut names = Vec::new();
        let mut len = 0;
        for place in 0..count {
            let members = buckets[place].start as usize..buckets[place + 1].start as usize;
            buckets[place].start = writer.position();
            let members = order[members].iter().map(|&at| staging.get(at));
            len += members.filter(|&entry| is_new(&mut names, entry)).count();
            names.drain(..).for_each(|(flags, name)| writer.write(flags, name));
        }
        buckets[count].start = writer.position();
        Self {
            key,
            buckets: buckets.into_boxed_slice(),
            entries: writer.entries,
            endings: writer.endings.table,
            depths: writer.depths,
            len,
        }
    }

    fn is_name(&self, entry: &Entry<'_>, name: &[u8]) -> bool {
        let Some((&first, rest)) = name.split_first() else { return false };
        first == entry.first & LENGTH
            && rest
                .strip_prefix(entry.labels)
                .is_some_and(|ending| ending == self.endings.get(entry.end))
    }
}

/// The octets are those of a list with thousands of names: nobody wants to read them.
impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} entries, {} octets)", self.len, self.octets())
    }
}

/// The bucket of a name, by its hash.
fn place(hash: u64, buckets: usize) -> usize {
    // The upper half of the product is uniform over the buckets, without a division.
    ((u128::from(hash) * buckets as u128) >> u64::BITS) as usize
}

/// The bit of a name in its bucket: from the end of the hash that has no part in choosing that.
fn bit(hash: u64) -> u32 {
    1 << (hash % u64::from(u32::BITS))
}

/// The buckets, for now with where each begins among the places of all names, and these places,
/// ordered by bucket and within it as they were staged. Counted rather than compared: two passes over
/// the names, and four octets for each of them.
fn sorted(staging: &Staging, key: &KeyedState, count: usize) -> (Vec<Bucket>, Vec<u32>) {
    let mut buckets = vec![Bucket::default(); count + 1];
    for (_, _, name) in staging.iter() {
        let hash = key.hash_bytes(name);
        let place = place(hash, count);
        buckets[place].bits |= bit(hash);
        buckets[place + 1].start += 1;
    }
    let mut before = 0;
    for bucket in &mut buckets[1..] {
        // For now where the one before it begins; counted up once per name, it ends up right.
        before += std::mem::replace(&mut bucket.start, before);
    }
    let mut order = roomy(staging.len());
    order.resize(staging.len(), 0_u32);
    for (at, _, name) in staging.iter() {
        let bucket = &mut buckets[place(key.hash_bytes(name), count) + 1];
        order[bucket.start as usize] = at;
        bucket.start += 1;
    }
    (buckets, order)
}

/// Whether an entry says something that those of its bucket so far do not. A bucket has few
/// different names, however often each comes.
fn is_new<'s>(names: &mut Vec<(u8, &'s [u8])>, (flags, name): (u8, &'s [u8])) -> bool {
    match names.iter_mut().find(|(_, known)| *known == name) {
        Some((known, _)) => {
            let before = *known;
            *known |= flags;
            *known != before
        }
        None => {
            names.push((flags, name));
            true
        }
    }
}

/// An entry, taken apart.
struct Entry<'t> {
    /// Flags and the length of the first label.
    first: u8,
    /// What comes between that octet and the end.
    labels: &'t [u8],
    end: u8,
}

impl<'t> Entry<'t> {
    /// The first entry of these octets, and what comes after it.
    fn split(octets: &'t [u8]) -> Option<(Self, &'t [u8])> {
        let &first = octets.first()?;
        let mut at = usize::from(first & LENGTH) + 1;
        let end = loop {
            let &length = octets.get(at)?;
            if length == 0 || length >= ENDINGS_FROM {
                break length;
            }
            at += usize::from(length) + 1;
        };
        Some((Self { first, labels: &octets[1..at], end }, &octets[at + 1..]))
    }
}

/// The endings of a table, each with the root at its end.
#[derive(Clone, Default)]
struct Endings {
    octets: Box<[u8]>,
    /// Where each one ends in `octets`; the next one begins there.
    ends: Box<[u16]>,
}

impl Endings {
    /// What the last octet of an entry stands for.
    fn get(&self, end: u8) -> &[u8] {
        let Some(place) = end.checked_sub(ENDINGS_FROM).map(usize::from) else {
            return &[0];
        };
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.octets[usize::from(start)..usize::from(self.ends[place])]
    }

    /// Those that save most, as far as a sample of the names shows.
    fn common(staging: &Staging) -> WritingEndings<'_> {
        let mut counts: Map<&[u8], usize> = Map::default();
        let every = staging.len().div_ceil(SAMPLE);
        for (_, _, name) in staging.iter().step_by(every) {
            for ending in endings(name) {
                *counts.entry(ending).or_default() += 1;
            }
        }
        // An ending of a name or two costs here what it saves there.
        let mut ranked: Vec<(usize, &[u8])> = counts
            .into_iter()
            .filter(|(_, count)| *count > 2)
            .map(|(ending, count)| (count * (ending.len() - 1), ending))
            .collect();
        ranked.sort_unstable_by(|left, right| right.cmp(left));
        ranked.truncate(ENDINGS);
        let (mut octets, mut ends, mut codes) = (Vec::new(), Vec::new(), Map::default());
        for ((_, ending), code) in ranked.into_iter().zip(ENDINGS_FROM..=u8::MAX) {
            octets.extend_from_slice(ending);
            let Ok(end) = u16::try_from(octets.len()) else { break };
            ends.push(end);
            codes.insert(ending, code);
        }
        let table = Self { octets: octets.into_boxed_slice(), ends: ends.into_boxed_slice() };
        WritingEndings { table, codes }
    }
}

/// The endings of a name that may be kept apart from it, the longest first: at least its first label
/// stays.
fn endings(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let labels = suffixes(name).count() - 1; // the root is none
    suffixes(name).take(labels).skip(labels.saturating_sub(ENDING_LABELS).max(1))
}

/// Endings while entries are written.
struct WritingEndings<'s> {
    table: Endings,
    codes: Map<&'s [u8], u8>,
}

/// How many labels names have: most suffixes of a question need not be looked up.
#[derive(Debug, Clone, Copy, Default)]
struct Depths {
    exact: u128,
    below: u128,
}

impl Depths {
    fn has(self, flag: u8, labels: usize) -> bool {
        let depths = if flag == EXACT { self.exact } else { self.below };
        labels < 128 && depths & (1 << labels) != 0
    }

    fn add(&mut self, flags: u8, name: &[u8]) {
        let labels = suffixes(name).count() - 1;
        self.exact |= u128::from(flags & EXACT != 0) << labels;
        self.below |= u128::from(flags & BELOW != 0) << labels;
    }
}

/// A table being written.
struct Writer<'s> {
    entries: Vec<u8>,
    endings: WritingEndings<'s>,
    depths: Depths,
}

impl Writer<'_> {
    fn position(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("entries are shorter than what was staged")
    }

    fn write(&mut self, flags: u8, name: &[u8]) {
        let known =
            endings(name).find_map(|ending| Some((ending.len(), *self.endings.codes.get(ending)?)));
        let (ending, code) = known.unwrap_or((1, 0));
        let labels = &name[..name.len() - ending];
        self.entries.push(labels[0] | flags);
        self.entries.extend_from_slice(&labels[1..]);
        self.entries.push(code);
        self.depths.add(flags, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    fn staged(names: &[String]) -> Staging {
        let mut staging = Staging::default();
        for name in names {
            assert!(staging.push(EXACT, Name::parse(name).unwrap().as_wire()));
        }
        staging
    }

    fn longest_bucket(table: &Table) -> u32 {
        table.buckets.windows(2).map(|pair| pair[1].start - pair[0].start).max().unwrap_or(0)
    }

    /// Names that were chosen to fall into one bucket fall into many: choosing them chose the key.
    #[test]
    fn nobody_aims_at_a_bucket() {
        let numbered =
            |count| (0..count).map(|number| format!("n{number}.example")).collect::<Vec<_>>();
        let some = Table::build(&staged(&numbered(4_000)));
        let usual = longest_bucket(&some);
        // The key that everybody knows, and that of another list.
        for key in [KeyedState::default(), some.key] {
            let falls = |name: &String, buckets| {
                place(key.hash_bytes(Name::parse(name).unwrap().as_wire()), buckets) == 0
            };
            let mut aimed = numbered(100_000);
            aimed.retain(|name| falls(name, 500));
            let count = aimed.len();
            assert!(count > 150 && aimed.iter().all(|name| falls(name, count / PER_BUCKET)));
            let table = Table::build(&staged(&aimed));
            assert_eq!(table.len(), count);
            assert!(longest_bucket(&table) <= 2 * usual, "{count} names");
        }
    }

    /// Endings with all codes there are, and names without one.
    #[test]
    fn every_ending_has_its_code() {
        let names: Vec<String> = (0..300)
            .flat_map(|top| (0..4).map(move |number| format!("n{number}.t{top}")))
            .chain((0..300).map(|top| format!("t{top}")))
            .collect();
        let staging = staged(&names);
        let table = Table::build(&staging);
        assert_eq!(table.endings.ends.len(), ENDINGS);
        assert_eq!(table.len(), names.len());
        for (_, flags, name) in staging.iter() {
            assert_eq!(table.flags(name), flags);
        }
        assert_eq!(table.flags(b"\x02n4\x02t1\0"), 0);
        assert_eq!(table.flags(b"\x02n1\x04t300\0"), 0);
    }

    #[test]
    fn names_have_flags_and_depths() {
        let mut staging = Staging::default();
        for (flags, name) in [(EXACT, "a.b"), (BELOW, "c"), (BELOW, "a.b"), (EXACT | BELOW, "c")] {
            assert!(staging.push(flags, Name::parse(name).unwrap().as_wire()));
        }
        let table = Table::build(&staging);
        assert_eq!(table.len(), 4, "the last one says something new as well");
        let depths =
            |flag| (0..130).filter(|&depth| table.has_depth(flag, depth)).collect::<Vec<_>>();
        assert_eq!((depths(EXACT), depths(BELOW)), (vec![1, 2], vec![1, 2]));
        assert_eq!(table.flags(b"\x01c\0"), EXACT | BELOW);
        assert_eq!(table.flags(b"\x01a\x01b\0"), EXACT | BELOW);
        for none in [&b"\x01b\0"[..], b"\0", b"", b"\x01a\x01b", b"\x01a\x01b\0\0"] {
            assert_eq!(table.flags(none), 0, "{none:?}");
            assert_eq!(Table::default().flags(none), 0);
        }
    }
}
