//! A client's stream connection: what is being read, what is not yet sent, and its deadlines.
//!
//! State and arithmetic only; the engine asks the questions that come over it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::BytesMut;

use super::framing::Reassembly;
use crate::config::ListenSettings;
use crate::engine::Counted;
use crate::limits::{CLIENT_PIPELINE, CLIENT_UNSENT_OCTETS};
use crate::time::Instant;
use crate::timers::TimerId;
use crate::transport::Transport;

/// A stream connection that a client opened.
#[derive(Debug)]
pub(crate) struct ClientConn {
    /// What is spoken on it.
    pub(crate) transport: Transport,
    /// The client: who the connection came from, or whom a trusted proxy announced.
    pub(crate) peer: SocketAddr,
    /// What it was counted for.
    pub(crate) counted: Counted,
    /// Fires at [`due`](Self::due).
    pub(crate) timer: TimerId,
    /// Octets that do not yet make a message.
    pub(crate) reading: Reassembly,
    /// Answers not yet handed to the adapter.
    pub(crate) out: BytesMut,
    /// Whether the connection is in the list of those with answers to hand over.
    pub(crate) dirty: bool,
    /// Queries of this connection that are not answered yet.
    pub(crate) in_flight: usize,
    /// The adapter was asked not to read.
    pub(crate) paused: bool,
    /// The client sends nothing more.
    pub(crate) half_closed: bool,
    /// Only what is answered already is sent: then the connection ends.
    pub(crate) closing: bool,
    /// When octets last moved in either direction.
    active_at: Instant,
    /// When the first octet of the message being read came.
    message_since: Option<Instant>,
    /// Octets handed to the adapter and octets sent, since the start.
    handed: u64,
    sent: u64,
    /// Where each write ends in the count of handed octets, and since when it waits.
    unsent: VecDeque<(u64, Instant)>,
}

/// What a connection's deadline was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Nothing was asked for long enough.
    Idle,
    /// A message took too long to come in.
    Reading,
    /// An answer took too long to go out.
    Writing,
}

impl ClientConn {
    pub(crate) fn new(
        transport: Transport,
        peer: SocketAddr,
        counted: Counted,
        now: Instant,
        timer: TimerId,
    ) -> Self {
        Self {
            transport,
            peer,
            counted,
            timer,
            reading: Reassembly::default(),
            out: BytesMut::new(),
            dirty: false,
            in_flight: 0,
            paused: false,
            half_closed: false,
            closing: false,
            active_at: now,
            message_since: None,
            handed: 0,
            sent: 0,
            unsent: VecDeque::new(),
        }
    }

    /// Octets of answers that have not left yet.
    pub(crate) fn unsent_octets(&self) -> usize {
        let handed = usize::try_from(self.handed - self.sent).unwrap_or(usize::MAX);
        handed.saturating_add(self.out.len())
    }

    /// Whether another query may be taken from it.
    pub(crate) fn takes_queries(&self) -> bool {
        !self.closing
            && self.in_flight < CLIENT_PIPELINE
            && self.unsent_octets() < CLIENT_UNSENT_OCTETS
    }

    /// Whether nothing is left to be done for it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight == 0 && self.unsent_octets() == 0
    }

    /// Reading stops for now: the client is not the slow one meanwhile.
    pub(crate) fn note_paused(&mut self) {
        self.paused = true;
        self.message_since = None;
    }

    /// Octets came in, after which the message being read is whole or not.
    pub(crate) fn note_read(&mut self, now: Instant, progressed: bool) {
        self.active_at = now;
        if self.reading.is_empty() || !self.takes_queries() {
            // While we take nothing from it, the client is not the slow one.
            self.message_since = None;
        } else if progressed || self.message_since.is_none() {
            self.message_since = Some(now);
        }
    }

    /// Answers were handed to the adapter.
    pub(crate) fn note_handed(&mut self, now: Instant, octets: usize) {
        self.handed += octets as u64;
        self.unsent.push_back((self.handed, now));
    }

    /// Answers went out. More than were handed over cannot have.
    pub(crate) fn note_written(&mut self, now: Instant, octets: usize) {
        self.sent = self.handed.min(self.sent.saturating_add(octets as u64));
        self.active_at = now;
        while self.unsent.front().is_some_and(|(end, _)| *end <= self.sent) {
            self.unsent.pop_front();
        }
    }

    /// The next deadline and what it is for. A query in flight has a deadline of its own.
    pub(crate) fn due(&self, settings: &ListenSettings) -> Option<(Instant, Overdue)> {
        let writing = self
            .unsent
            .front()
            .map(|(_, since)| (*since + settings.write_timeout, Overdue::Writing));
        let reading =
            self.message_since.map(|since| (since + settings.read_timeout, Overdue::Reading));
        let idle = (self.is_quiet() && self.message_since.is_none())
            .then(|| (self.active_at + settings.tcp_idle_timeout, Overdue::Idle));
        [writing, reading, idle].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}
