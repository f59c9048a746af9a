//! DNS messages as octets: borrowed views of what comes in, writers of what goes out.
//!
//! Owns the wire format (RFC 1035 section 4, RFC 6891, RFC 7828, RFC 7830, RFC 7873,
//! RFC 8914) on the hot path: nothing here
//! allocates except [`Name`] and text. Policy is not decided here: which types, classes and
//! clients are served is the engine's business. Whatever is off the hot path may use
//! hickory-proto instead.
//!
//! Arithmetic and indexing on what strangers send is checked by construction: two lints forbid
//! the unchecked forms in this module.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod client_subnet;
mod codes;
mod cookie;
mod edns;
mod header;
mod local;
mod name;
mod octets;
mod query;
mod record;
mod reply;
mod response;
mod upstream_query;

pub use client_subnet::{CLIENT_SUBNET_OCTETS, ClientSubnet, MalformedSubnet, PrefixLengths};
pub use codes::{EXTRA_TEXT_OCTETS, ErrorNote, ExtendedError, Rcode, RecordClass, RecordType};
pub use cookie::{CLIENT_COOKIE_OCTETS, COOKIE_OCTETS_MAX, Cookie, REPLY_COOKIE_OCTETS};
pub use edns::{ClientEdns, ClientOptions};
pub use header::Flags;
pub use local::{LocalData, LocalRecord, Owner, local_soa, local_zone_soa, write_local};
pub use name::{DisplayName, Name, NameError, suffixes};
pub use query::{Asker, QueryView, Rejected};
pub use reply::{ReplyOptions, ReplySettings, write_answer, write_rcode, write_truncated};
pub use response::{MalformedResponse, ResponseKind, ResponseView};
pub use upstream_query::{UPSTREAM_OPT_OCTETS, UpstreamEdns, write_query};

pub(crate) use cookie::{CookieSecret, Presented};
pub(crate) use edns::KEEPALIVE_UNIT;
pub(crate) use name::{labels, unescaped, wire_form};
pub(crate) use octets::Reader;
pub(crate) use record::{Record, read_record};
pub(crate) use reply::limit_ttls;

#[cfg(test)]
pub(crate) mod testing;
