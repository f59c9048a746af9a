//! Records of the configuration: any type, wildcards, reverse names.

use crate::wire::{LocalRecord, RecordType};

/// Records that are given instead of asking anybody.
#[derive(Debug, Clone, Default)]
pub struct LocalRecords {}

/// What the local records say to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAnswer<'a> {
    /// Nothing: the name is not among them.
    NotListed,
    /// The records of the asked type, at least one.
    Records(Vec<LocalRecord<'a>>),
    /// The name is another one's alias; what that one has is to be found.
    Alias {
        /// The other name in lower-cased wire form.
        target: &'a [u8],
        /// The TTL of the CNAME.
        ttl: u32,
    },
    /// The name is listed, or stands above one that is, but has nothing of the asked type.
    NoData {
        /// Seconds that this may be remembered.
        ttl: u32,
    },
}

impl LocalRecords {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }

    /// What they say to a question for this lower-cased wire name.
    #[must_use]
    pub fn lookup(&self, _lower_name: &[u8], _record_type: RecordType) -> LocalAnswer<'_> {
        LocalAnswer::NotListed
    }
}
