//! HTTP on both sides: hyper over the streams of either async runtime.
//!
//! Owns how a connection's octets become exchanges and back. What is answered, for how long anything
//! may take and what is requested of upstreams is decided by the engine: there is no timer in here.
//! HTTP/2 (RFC 9113), HTTP/1.1 (RFC 9112). A connection and all its exchanges are one task: where it
//! ends, nothing is left of them.

mod clients;
mod driver;
mod exchanges;
mod io;
mod upstreams;

pub(crate) use clients::serve;
pub(crate) use exchanges::{Answer, Exchanges};
#[cfg(test)]
pub(crate) use io::Io;
pub(crate) use upstreams::{Requests, shake_hands};

/// Octets of a request's or a response's headers. A name in a GET takes up to 400.
const HEADER_OCTETS: usize = 16_384;
/// Octets of a message's body on the way in, for each exchange: what a DNS message can have.
const STREAM_WINDOW_OCTETS: u32 = 65_535;
/// Octets on the way in, for all exchanges of a connection together.
const CONN_WINDOW_OCTETS: u32 = 1 << 20;
/// Octets on the way out that are kept for each exchange: one message.
const SEND_OCTETS: usize = 65_536;
/// Resets of the other side that were not looked at yet before the connection is given up: a flood
/// of requests that are taken back at once (CVE-2023-44487).
const RESETS_PENDING: usize = 20;
/// Resets of our own for what the other side did wrong, before the connection is given up.
const RESETS_OF_OURS: usize = 64;
