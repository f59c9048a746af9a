//! The rebinding guard: private addresses in answers of the public DNS.

use std::net::IpAddr;

use super::Blocklist;

/// Which answers may have private addresses.
#[derive(Debug, Clone, Default)]
pub struct Rebinding {
    /// Names that may: in the forms of the blacklist.
    pub allow: Blocklist,
}

impl Rebinding {
    /// Whether this lower-cased wire name may have private addresses.
    #[must_use]
    pub fn allows(&self, lower_name: &[u8]) -> bool {
        self.allow.matches(lower_name).is_some()
    }

    /// Whether no public name should have this address.
    #[must_use]
    pub fn is_private(_ip: IpAddr) -> bool {
        false
    }
}
