//! One UDP socket towards an upstream: its age, its ids, and what waits for it to open.
//!
//! A socket takes new queries until it is old or used up; it then waits for the replies that are
//! still due and is closed. Many sockets, each used for a while, keep the source port hard to guess
//! without a socket for each query (RFC 5452 section 9.2).

use super::ids::IdTable;
use crate::handle::FetchHandle;
use crate::limits::{QUERIES_PER_SOCKET, SOCKET_AGE};
use crate::time::Instant;
use crate::timers::TimerId;

/// A UDP socket connected to an upstream.
#[derive(Debug)]
pub(crate) struct UpstreamSocket {
    /// The endpoint it leads to.
    pub(crate) endpoint: usize,
    /// Its place among the endpoint's sockets.
    pub(crate) place: usize,
    /// Whether the adapter has said that it is open.
    pub(crate) open: bool,
    /// Whether it takes no new queries any more.
    pub(crate) retired: bool,
    /// When it was asked for.
    pub(crate) opened_at: Instant,
    /// Queries sent from it in all.
    pub(crate) queries: u32,
    /// Datagrams that matched no query.
    pub(crate) mismatches: u32,
    /// Ids in flight.
    pub(crate) ids: IdTable<FetchHandle>,
    /// Queries to be sent as soon as it is open.
    pub(crate) waiting: Vec<FetchHandle>,
    /// Fires at [`SOCKET_AGE`].
    pub(crate) timer: TimerId,
}

impl UpstreamSocket {
    pub(crate) fn new(endpoint: usize, place: usize, now: Instant, timer: TimerId) -> Self {
        Self {
            endpoint,
            place,
            open: false,
            retired: false,
            opened_at: now,
            queries: 0,
            mismatches: 0,
            ids: IdTable::default(),
            waiting: Vec::new(),
            timer,
        }
    }

    /// Whether the next query has to take another socket in this one's place.
    pub(crate) fn is_used_up(&self, now: Instant) -> bool {
        self.retired
            || self.queries >= QUERIES_PER_SOCKET
            || now.since(self.opened_at) >= SOCKET_AGE
    }
}
