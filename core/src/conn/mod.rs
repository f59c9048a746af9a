//! Stream connections, in both directions: framing, pipelining, what is unsent, deadlines.
//!
//! Owns the state of a connection; what travels over it is the engine's.

mod client;
mod framing;
mod upstream;

pub(crate) use client::{ClientConn, Overdue};
pub(crate) use framing::{append_message, split_message};
pub(crate) use upstream::{Stage, UpstreamConn};
