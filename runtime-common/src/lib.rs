//! What both BalanceDNS daemons share and is not pure: command line, clock, entropy, sockets and
//! batched datagram IO, logging, start-up and worker threads.
//!
//! There is no async runtime in here: whatever waits is in the daemons' own crates. Decisions are
//! in core; this crate carries them out.

pub mod cli;
pub mod clock;
pub mod datagrams;
pub mod host;
pub mod listeners;
pub mod logging;
mod machine;
pub mod poll;
pub mod seed;
pub mod socket;
pub mod startup;
pub mod udp;
pub mod workers;
