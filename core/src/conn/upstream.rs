//! A stream connection to an upstream: pipelined queries under their ids (RFC 7766 section 6.2.1.1).
//!
//! Queries may be put on it before it is established, and are written when it is; deadlines belong to the queries, never to
//! the connection, so that new queries cannot keep a dead one alive.

use bytes::BytesMut;

use super::framing::Reassembly;
use crate::handle::{ExchangeHandle, FetchHandle};
use crate::limits::{
    EXCHANGES_PER_UPSTREAM_CONN, GIVEN_UP_IDS_PER_CONN, PIPELINE_PER_CONN, UPSTREAM_IDLE,
    UPSTREAM_UNSENT_OCTETS,
};
use crate::time::{Duration, Instant};
use crate::timers::TimerId;
use crate::upstream::IdTable;

/// A stream connection to an upstream.
#[derive(Debug)]
pub(crate) struct UpstreamConn {
    /// The endpoint it leads to.
    pub(crate) endpoint: usize,
    /// How far it has come.
    pub(crate) stage: Stage,
    /// Fires when the wait before connecting is over, or when it has been idle.
    pub(crate) timer: TimerId,
    /// Ids in flight.
    pub(crate) ids: IdTable<FetchHandle>,
    /// Queries not yet handed to the adapter.
    pub(crate) out: BytesMut,
    /// Whether the connection is in the list of those with queries to hand over.
    pub(crate) dirty: bool,
    /// Octets handed to the adapter and not sent yet.
    pub(crate) handed: usize,
    /// Octets that do not yet make a message.
    pub(crate) reading: Reassembly,
    /// Whether it has answered anything: only then is it worth more than one that is refused.
    pub(crate) answered: bool,
    /// When the other side last sent something.
    pub(crate) heard_at: Option<Instant>,
    /// Whether queries travel as HTTP exchanges.
    pub(crate) is_http: bool,
    /// Those in flight, each with the id that stands for it.
    pub(crate) exchanges: Vec<(u16, ExchangeHandle)>,
    /// How long it may be idle: what the other side lets it be, if that is less than what we do
    /// (RFC 7828 section 3.2.2).
    pub(crate) idle: Duration,
    /// Takes no new queries: closed as soon as the last one has ended.
    pub(crate) retired: bool,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits until it may be connected.
    Waiting,
    /// Being connected.
    Connecting,
    /// Established.
    Open,
}

impl UpstreamConn {
    pub(crate) fn new(endpoint: usize, stage: Stage, timer: TimerId, is_http: bool) -> Self {
        Self {
            endpoint,
            stage,
            timer,
            ids: IdTable::default(),
            out: BytesMut::new(),
            dirty: false,
            handed: 0,
            reading: Reassembly::default(),
            answered: false,
            heard_at: None,
            is_http,
            exchanges: Vec::new(),
            idle: UPSTREAM_IDLE,
            retired: false,
        }
    }

    /// The other side says how long the connection may be idle; no time at all means that it wants it
    /// closed (RFC 7828 section 3.2.2).
    pub(crate) fn note_keepalive(&mut self, told: Duration) {
        self.idle = told.min(UPSTREAM_IDLE);
        self.retired |= told.is_zero();
    }

    /// Whether so many of its ids wait for late replies that it has to be replaced.
    pub(crate) fn is_worn(&self) -> bool {
        self.ids.used() - self.ids.live() >= GIVEN_UP_IDS_PER_CONN
    }

    /// Whether another query may be put on it.
    pub(crate) fn takes_queries(&self) -> bool {
        !self.retired
            && self.ids.live()
                < if self.is_http { EXCHANGES_PER_UPSTREAM_CONN } else { PIPELINE_PER_CONN }
            && self.out.len() + self.handed < UPSTREAM_UNSENT_OCTETS
    }
}
