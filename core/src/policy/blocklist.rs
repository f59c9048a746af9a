//! The list of blocked names: `a.b` blocks that name only, `*.a.b` and `.a.b` block every name
//! below it, but not itself.
//!
//! One look-up in a table for the question's name and one for each name above it, less those with
//! as many labels as no entry has; however long the list is.

mod staging;
mod table;

use std::fmt;

use self::staging::Staging;
use self::table::{BELOW, EXACT, Table};
use crate::wire::{DisplayName, Name, NameError, suffixes};

/// An immutable set of blocked names: some twenty octets for each.
#[derive(Debug, Clone, Default)]
pub struct Blocklist {
    table: Table,
}

/// Collects the entries of a [`Blocklist`].
#[derive(Debug, Clone, Default)]
pub struct BlocklistBuilder {
    staging: Staging,
}

/// What an entry blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The name.
    Itself,
    /// Every name below it.
    Below,
    /// Both.
    Both,
}

/// Which entry blocks a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockMatch<'a> {
    /// Which form the entry has.
    pub kind: BlockKind,
    /// The name of the entry in wire form, without its wildcard: a suffix of the name asked for.
    pub suffix: &'a [u8],
}

/// The form of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// `a.b`: that name only.
    Exact,
    /// `*.a.b` or `.a.b`: every name below it.
    Below,
}

/// Why a text is no entry of a [`Blocklist`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockPatternError {
    /// There is nothing to block, or nothing after the wildcard.
    #[error("names nothing")]
    Empty,
    /// A `*` label that is not the first one.
    #[error("has a wildcard that is not the first label")]
    InnerWildcard,
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The list has a gigabyte of names.
    #[error("does not fit into the list any more")]
    Full,
}

impl Blocklist {
    /// An empty list to be filled.
    #[must_use]
    pub fn builder() -> BlocklistBuilder {
        BlocklistBuilder::default()
    }

    /// The entry that blocks this lower-cased wire name: the name's own entry first, then the most
    /// specific of those that block what is below them.
    #[must_use]
    pub fn matches<'a>(&self, lower_name: &'a [u8]) -> Option<BlockMatch<'a>> {
        if self.is_empty() {
            return None;
        }
        let mut labels = suffixes(lower_name).count();
        let mut kind = BlockKind::Exact; // for the name itself; each shorter suffix is above it
        for suffix in suffixes(lower_name) {
            labels -= 1;
            let flag = kind.flag();
            if self.table.has_depth(flag, labels) && self.table.flags(suffix) & flag != 0 {
                return Some(BlockMatch { kind, suffix });
            }
            kind = BlockKind::Below;
        }
        None
    }

    /// How many different entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing is blocked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets that it takes in memory.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.table.octets()
    }
}

impl BlocklistBuilder {
    /// Adds an entry in one of its three forms; one that is there already is not counted twice.
    ///
    /// # Errors
    /// The text is not a name, optionally after `*.` or `.`.
    pub fn insert(&mut self, pattern: &str) -> Result<(), BlockPatternError> {
        let (extent, name) = match pattern.strip_prefix("*.").or_else(|| pattern.strip_prefix('.'))
        {
            Some(name) => (Extent::Below, name),
            None => (Extent::Itself, pattern),
        };
        if name.is_empty() {
            return Err(BlockPatternError::Empty);
        }
        if name.split('.').any(|label| label == "*") {
            return Err(BlockPatternError::InnerWildcard);
        }
        self.insert_name(Name::parse(name)?.as_wire(), extent)
    }

    /// Adds an entry by its lower-cased wire name.
    ///
    /// # Errors
    /// The name is the root, or the list is full.
    pub(super) fn insert_name(
        &mut self,
        lower_name: &[u8],
        extent: Extent,
    ) -> Result<(), BlockPatternError> {
        if lower_name.len() < 2 {
            return Err(BlockPatternError::Empty);
        }
        let room = self.staging.push(extent.flags(), lower_name);
        if room { Ok(()) } else { Err(BlockPatternError::Full) }
    }

    /// How many entries were added, those included that were there already.
    #[must_use]
    pub fn inserted(&self) -> usize {
        self.staging.len()
    }

    /// The finished list.
    #[must_use]
    pub fn build(self) -> Blocklist {
        Blocklist { table: Table::build(&self.staging) }
    }
}

impl Extent {
    fn flags(self) -> u8 {
        match self {
            Self::Itself => EXACT,
            Self::Below => BELOW,
            Self::Both => EXACT | BELOW,
        }
    }
}

impl BlockKind {
    fn flag(self) -> u8 {
        match self {
            Self::Exact => EXACT,
            Self::Below => BELOW,
        }
    }
}

/// The entry as one would write it: `a.b.` or `*.a.b.`.
impl fmt::Display for BlockMatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            BlockKind::Exact => write!(f, "{}", DisplayName(self.suffix)),
            BlockKind::Below => write!(f, "*.{}", DisplayName(self.suffix)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(patterns: &[&str]) -> Blocklist {
        let mut builder = Blocklist::builder();
        for pattern in patterns {
            builder.insert(pattern).unwrap();
        }
        builder.build()
    }

    fn matched(list: &Blocklist, name: &str) -> Option<String> {
        list.matches(Name::parse(name).unwrap().as_wire()).map(|found| found.to_string())
    }

    #[test]
    fn a_plain_entry_blocks_that_name_only() {
        let list = list(&["Ads.Example"]);
        assert_eq!(matched(&list, "ads.example").as_deref(), Some("ads.example."));
        assert_eq!(matched(&list, "x.ads.example"), None);
        assert_eq!(matched(&list, "bads.example"), None);
        assert_eq!(matched(&list, "example"), None);
        assert_eq!(matched(&list, "."), None);
    }

    #[test]
    fn a_wildcard_blocks_what_is_below_but_not_itself() {
        for pattern in ["*.ads.example", ".ads.example", ".ads.example."] {
            let list = list(&[pattern]);
            assert_eq!(matched(&list, "ads.example"), None, "{pattern}");
            assert_eq!(matched(&list, "a.ads.example").as_deref(), Some("*.ads.example."));
            assert_eq!(matched(&list, "a.b.ads.example").as_deref(), Some("*.ads.example."));
            assert_eq!(matched(&list, "a.bads.example"), None, "only whole labels count");
        }
    }

    #[test]
    fn the_most_specific_entry_is_named() {
        let list = list(&["*.example", "a.b.example", "*.b.example"]);
        assert_eq!(matched(&list, "a.b.example").as_deref(), Some("a.b.example."));
        assert_eq!(matched(&list, "c.b.example").as_deref(), Some("*.b.example."));
        assert_eq!(matched(&list, "b.example").as_deref(), Some("*.example."));
    }

    #[test]
    fn entries_are_counted_once() {
        let list = list(&["a.example", "A.example.", "*.a.example", ".a.example"]);
        assert_eq!(list.len(), 2);
        assert!(!list.is_empty());
        assert!(Blocklist::default().is_empty());
    }

    #[test]
    fn what_is_no_entry_is_an_error() {
        let mut builder = Blocklist::builder();
        for empty in ["", ".", "*."] {
            assert_eq!(builder.insert(empty), Err(BlockPatternError::Empty), "{empty:?}");
        }
        for inner in ["*", "a.*.b", "*.*.b", "a.*"] {
            assert_eq!(builder.insert(inner), Err(BlockPatternError::InnerWildcard), "{inner:?}");
        }
        for bad in ["a..b", "..a", "*..a"] {
            assert!(
                matches!(builder.insert(bad), Err(BlockPatternError::Name(_))),
                "{bad:?} must be refused as a name"
            );
        }
        assert!(builder.build().is_empty());
    }

    /// Thousands of names, of which each is found, with its neighbours in the bucket and its ending.
    #[test]
    fn long_lists_are_exact() {
        let tops = ["com", "net", "org", "co.example", "a", "b.c.d.e"];
        let name =
            |number: usize| format!("n{}x{number}.{}", number % 7, tops[number % tops.len()]);
        let mut builder = Blocklist::builder();
        for number in 0..20_000 {
            builder.insert(&name(number)).unwrap();
            builder.insert(&name(number / 2)).unwrap();
            if number % 5 == 0 {
                builder.insert(&["*.", &name(number)].concat()).unwrap();
            }
        }
        assert_eq!(builder.inserted(), 44_000);
        let list = builder.build();
        assert_eq!(list.len(), 24_000);
        for number in 0..20_000 {
            let name = name(number);
            assert_eq!(matched(&list, &name), Some([&name, "."].concat()));
            let below = ["x.", &name].concat();
            assert_eq!(matched(&list, &below).is_some(), number % 5 == 0, "{below}");
            for other in [["x", &name].concat(), [&name, "x"].concat(), name.replace("n", "m")] {
                assert_eq!(matched(&list, &other), None, "{other}");
            }
        }
        assert!(list.octets() < 24_000 * 20, "{} octets", list.octets());
        assert_eq!(format!("{list:?}").lines().count(), 1, "nobody wants to read all of it");
    }

    /// Endings are taken off as a whole; the name that one of them is stays findable.
    #[test]
    fn names_that_are_endings_of_others() {
        let mut builder = Blocklist::builder();
        for number in 0..100 {
            builder.insert(&format!("n{number}.deep.example.com")).unwrap();
        }
        for name in ["com", "example.com", "deep.example.com", "*.com"] {
            builder.insert(name).unwrap();
        }
        let list = builder.build();
        assert_eq!(list.len(), 104);
        for name in ["com", "example.com", "deep.example.com", "n99.deep.example.com"] {
            assert_eq!(matched(&list, name), Some([name, "."].concat()));
        }
        assert_eq!(matched(&list, "x.com").as_deref(), Some("*.com."));
        assert_eq!(matched(&list, "n1.deep.example"), None);
    }

    #[test]
    fn labels_may_have_any_octets_and_names_any_length() {
        let label = "a".repeat(63);
        let longest = [&label[..], &label, &label, &"b".repeat(61)].join(".");
        let many = ["a"; 127].join(".");
        let list = list(&[&longest, &many, "\\000\\255.\\.x", "*.a"]);
        assert_eq!(matched(&list, &longest), Some([&longest, "."].concat()));
        assert_eq!(matched(&list, &many), Some([&many, "."].concat()));
        assert_eq!(matched(&list, &many[2..]).as_deref(), Some("*.a."));
        assert_eq!(matched(&list, "\\000\\255.\\.x").as_deref(), Some("\\000\\255.\\.x."));
        assert_eq!(matched(&list, "\\000\\255.x"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_texts(
            entries in prop::collection::vec("(\\*\\.|\\.)?[ab]{1,2}(\\.[ab]{1,2}){0,3}", 0..12),
            name in "[ab]{1,2}(\\.[ab]{1,2}){0,4}",
        ) {
            let mut builder = Blocklist::builder();
            for entry in &entries {
                builder.insert(entry).unwrap();
            }
            let naive = entries.iter().any(|entry| {
                match entry.strip_prefix("*").unwrap_or(entry) {
                    below if below.starts_with('.') => name.ends_with(below),
                    exact => name == *exact,
                }
            });
            prop_assert_eq!(matched(&builder.build(), &name).is_some(), naive);
        }
    }
}
