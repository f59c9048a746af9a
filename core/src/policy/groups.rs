//! Groups of clients, by their addresses: which lists, which plugins, which upstreams are theirs.

use std::net::IpAddr;

use super::BlockSetId;
use crate::upstream::Route;

/// All groups. There is always one, that of everybody who is in no other.
#[derive(Debug, Clone)]
pub struct Groups {
    everybody: Group,
}

/// What a group of clients has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name; empty for everybody else.
    pub name: String,
    /// What is blocked for it.
    pub block_set: BlockSetId,
    /// Its plugins: places in the list of all, in the order in which they are asked.
    pub plugins: Vec<usize>,
    /// Who is asked for it.
    pub route: Route,
}

impl Groups {
    /// One group for everybody.
    #[must_use]
    pub fn new(everybody: Group) -> Self {
        Self { everybody }
    }

    /// The group of a client: that with the longest prefix around its address.
    #[must_use]
    pub fn of(&self, _client: IpAddr) -> &Group {
        &self.everybody
    }

    /// The group of everybody who is in no other.
    #[must_use]
    pub const fn everybody(&self) -> &Group {
        &self.everybody
    }
}

impl Default for Groups {
    fn default() -> Self {
        Self::new(Group::default())
    }
}
