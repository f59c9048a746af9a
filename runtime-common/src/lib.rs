//! What both BalanceDNS daemons share and is not pure: command line, clock, entropy, sockets and
//! batched datagram IO, logging, start-up, the state of workers and of the control thread.
//!
//! There is no async runtime in here: whatever waits for a socket or a timer is in the daemons' own
//! crates. What they wait for beside those, from other tasks and threads, is built on the standard
//! library's wakers alone. Decisions are in core; this crate carries them out.

pub mod admin;
pub mod bell;
pub mod cli;
pub mod clock;
mod configuration;
pub mod conn;
pub mod control;
pub mod datagrams;
mod file_watch;
pub mod host;
mod http;
pub mod listeners;
pub mod lists;
pub mod logging;
mod machine;
pub mod mailbox;
pub mod poll;
pub mod process;
mod proxy;
pub mod pump;
pub mod resolvers;
pub mod seed;
pub mod signals;
pub mod socket;
pub mod startup;
pub mod tasks;
pub mod threads;
pub mod tls;
pub mod udp;
#[cfg(test)]
mod wakes;
pub mod worker;
