//! Which names are blocked for whom, and how blocked questions are answered.
//!
//! Lists are immutable and shared between sets and generations. A set is what one group of clients
//! has: the lists that block, those that allow (which win), and the way of answering.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::blocklist::{BlockMatch, Blocklist};

/// Sets that a configuration may have: an answer in the cache keeps a bit for each.
pub const BLOCK_SETS: usize = 63;

/// All sets of a configuration; [`BlockSetId`] is the place in the list, 0 that of everybody.
#[derive(Debug, Clone, Default)]
pub struct Blocking {
    sets: Vec<BlockSet>,
    generation: u32,
}

/// Place of a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct BlockSetId(pub u8);

/// What is blocked for one group of clients.
#[derive(Debug, Clone, Default)]
pub struct BlockSet {
    /// Lists of blocked names, in the order of the configuration.
    pub lists: Vec<Arc<NameList>>,
    /// Lists of names that are not blocked whatever those say.
    pub allow: Vec<Arc<NameList>>,
    /// How blocked questions are answered.
    pub mode: BlockMode,
    /// Seconds that such an answer may be remembered.
    pub ttl: u32,
}

/// A list with its name.
#[derive(Debug, Clone)]
pub struct NameList {
    /// As operators and clients are told: `blacklist.domains`, a file or a URL.
    pub name: String,
    /// What is in it.
    pub names: Blocklist,
}

/// How blocked questions are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BlockMode {
    /// REFUSED.
    #[default]
    Refused,
    /// NXDOMAIN with a SOA.
    NxDomain,
    /// No records, with a SOA.
    NoData,
    /// The addresses 0.0.0.0 and ::, no records of other types.
    Zero,
    /// These addresses, no records of other types.
    Addresses {
        /// For A.
        v4: Vec<Ipv4Addr>,
        /// For AAAA.
        v6: Vec<Ipv6Addr>,
    },
}

/// What blocks a name.
#[derive(Debug, Clone, Copy)]
pub struct Blocked<'a> {
    /// Which list.
    pub list: &'a str,
    /// Which entry of it.
    pub entry: BlockMatch<'a>,
}

impl Blocking {
    /// Of these sets, at most [`BLOCK_SETS`]; the generation differs from that of any other content.
    #[must_use]
    pub fn new(sets: Vec<BlockSet>, generation: u32) -> Self {
        Self { sets, generation }
    }

    /// Which content this is: an answer in the cache that was checked against another one is checked
    /// again.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// A set by its place.
    #[must_use]
    pub fn set(&self, id: BlockSetId) -> Option<&BlockSet> {
        self.sets.get(usize::from(id.0))
    }

    /// All sets.
    #[must_use]
    pub fn sets(&self) -> &[BlockSet] {
        &self.sets
    }

    /// Whether no set blocks anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.iter().all(BlockSet::is_empty)
    }

    /// A bit for each set that blocks this lower-cased name.
    #[must_use]
    pub fn sets_that_block(&self, lower_name: &[u8]) -> u64 {
        let places = self.sets.iter().take(BLOCK_SETS).enumerate();
        let blocking = places.filter(|(_, set)| set.blocks(lower_name).is_some());
        blocking.fold(0, |bits, (place, _)| bits | 1 << place)
    }
}

impl BlockSet {
    /// Whether it blocks nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists.iter().all(|list| list.names.is_empty())
    }

    /// What blocks this lower-cased wire name: the first list that does, unless one allows it.
    #[must_use]
    pub fn blocks<'a>(&'a self, lower_name: &'a [u8]) -> Option<Blocked<'a>> {
        let blocked = self.lists.iter().find_map(|list| {
            let entry = list.names.matches(lower_name)?;
            Some(Blocked { list: &list.name, entry })
        })?;
        let is_allowed = self.allow.iter().any(|list| list.names.matches(lower_name).is_some());
        (!is_allowed).then_some(blocked)
    }
}
