//! What every case stands on: the real daemon in a folder of its own, scripted upstream
//! servers, and clients of each transport. Nothing in here knows the daemon's code: messages are built by hand
//! or by hickory-proto and decoded by hickory-proto.
//!
//! Nothing sleeps for a fixed time and hopes; whoever waits, waits for a condition until a
//! deadline ([`until`]).

mod client;
mod daemon;
mod dns;
pub(crate) mod http;
mod octets;
mod process;
pub(crate) mod proxy;
mod secure;
mod settings;
pub(crate) mod tls;
mod upstream;
pub(crate) mod web;

use std::time::{Duration, Instant};

pub(crate) use client::{Client, StreamClient, Tried, UdpClient, Via, framed};
pub(crate) use daemon::{Daemon, Running, signal};
pub(crate) use dns::{
    AA_TC_RA, Query, Reply, Z, address, raw_record, record, set_count, soa, txt_of, wire,
};
pub(crate) use octets::{Door, Pushed};
pub(crate) use process::{
    SERVE_UPSTREAM, UpstreamProcess, processes_with, serve_upstream, unique_argument,
};
pub(crate) use secure::Secure;
pub(crate) use settings::{Extra, Settings, Stderr, free_port};
pub(crate) use upstream::{Answer, Asked, Gate, Transport, Upstream};

/// How long a test waits for what has to happen, far above what it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

/// Checks `condition` again and again until it gives something; panics after [`PATIENCE`].
pub(crate) fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, condition)
}

/// The same for what takes its time.
pub(crate) fn until_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
