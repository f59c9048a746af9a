//! What is decided about a question before anybody is asked: who may ask, which names are blocked,
//! which ones are answered from the hosts file, which ones are special, what tells clients of our
//! encrypted listeners; and the reasons why a query
//! ended as it did.
//!
//! Pure look-ups in tables that were built when the configuration was read or are fixed; none of
//! them allocates or fails. Names are looked up in lower-cased uncompressed wire form.

mod acl;
mod blocklist;
mod discovery;
mod hosts;
mod reason;
mod special;

pub use acl::{Acl, fold};
pub use blocklist::{BlockKind, BlockMatch, BlockPatternError, Blocklist, BlocklistBuilder};
pub use discovery::{DISCOVERY_NAME, DISCOVERY_TTL_SECONDS, Discovery, FIREFOX_CANARY};
pub use hosts::{Hosts, HostsAnswer, HostsProblem, HostsWarning};
pub use reason::Reason;
pub use special::{Special, SpecialContent, special};
