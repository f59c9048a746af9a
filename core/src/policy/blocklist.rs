//! The list of blocked names: `a.b` blocks that name only, `*.a.b` and `.a.b` block every name
//! below it, but not itself.
//!
//! One hash look-up per label of the question, however long the list is.

use std::fmt;

use crate::hash::Map;
use crate::wire::{DisplayName, Name, NameError, suffixes};

/// What an entry of the configuration is made of; both kinds may be listed for one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Listed {
    exact: bool,
    below: bool,
}

/// An immutable set of blocked names.
///
/// The table's key is a fixed one: strangers choose what is looked up, not what is in it.
#[derive(Debug, Clone, Default)]
pub struct Blocklist {
    entries: Map<Box<[u8]>, Listed>,
    len: usize,
}

/// Collects the entries of a [`Blocklist`].
#[derive(Debug, Clone, Default)]
pub struct BlocklistBuilder {
    list: Blocklist,
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
        let mut kind = BlockKind::Exact; // for the name itself; each shorter suffix is above it
        for suffix in suffixes(lower_name) {
            if let Some(listed) = self.entries.get(suffix)
                && listed.has(kind)
            {
                return Some(BlockMatch { kind, suffix });
            }
            kind = BlockKind::Below;
        }
        None
    }

    /// How many different entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is blocked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl BlocklistBuilder {
    /// Adds an entry in one of its three forms; one that is there already is not counted twice.
    ///
    /// # Errors
    /// The text is not a name, optionally after `*.` or `.`.
    pub fn insert(&mut self, pattern: &str) -> Result<(), BlockPatternError> {
        let (kind, name) = match pattern.strip_prefix("*.").or_else(|| pattern.strip_prefix('.')) {
            Some(name) => (BlockKind::Below, name),
            None => (BlockKind::Exact, pattern),
        };
        if name.is_empty() {
            return Err(BlockPatternError::Empty);
        }
        if name.split('.').any(|label| label == "*") {
            return Err(BlockPatternError::InnerWildcard);
        }
        let listed = self.list.entries.entry(Name::parse(name)?.as_wire().into()).or_default();
        let flag = match kind {
            BlockKind::Exact => &mut listed.exact,
            BlockKind::Below => &mut listed.below,
        };
        if !std::mem::replace(flag, true) {
            self.list.len += 1;
        }
        Ok(())
    }

    /// The finished list.
    #[must_use]
    pub fn build(self) -> Blocklist {
        self.list
    }
}

impl Listed {
    fn has(self, kind: BlockKind) -> bool {
        match kind {
            BlockKind::Exact => self.exact,
            BlockKind::Below => self.below,
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
