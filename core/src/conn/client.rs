//! A client's stream connection: what is being read, what is not yet sent, and its deadlines.
//!
//! State and arithmetic only; the engine asks the questions that come over it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::BytesMut;

use super::framing::Reassembly;
use crate::config::ListenSettings;
use crate::engine::Counted;
use crate::handle::ExchangeHandle;
use crate::limits::{CLIENT_PIPELINE, CLIENT_UNSENT_OCTETS, HANDSHAKE};
use crate::planted::{Bug, is_planted};
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
    /// Whether its handshakes are over, if it has any.
    pub(crate) established: bool,
    /// HTTP exchanges that are not over.
    pub(crate) exchanges: Vec<ExchangeHandle>,
    /// Those whose body is still to come, since when, the oldest first; others may stand behind it.
    pub(crate) bodies: VecDeque<(ExchangeHandle, Instant)>,
    /// Those whose response is still to leave, in the same way.
    pub(crate) answers: VecDeque<(ExchangeHandle, Instant)>,
    /// Exchanges that came to their end, and those that the client reset.
    pub(crate) completed: u32,
    pub(crate) resets: u32,
    /// Octets of responses that have not left yet.
    responses: usize,
    /// When it was accepted.
    accepted_at: Instant,
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
    /// The client did not come to the end of its handshakes.
    Handshake,
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
        established: bool,
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
            established,
            exchanges: Vec::new(),
            bodies: VecDeque::new(),
            answers: VecDeque::new(),
            completed: 0,
            resets: 0,
            responses: 0,
            accepted_at: now,
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
        handed.saturating_add(self.out.len()).saturating_add(self.responses)
    }

    /// Whether another query may be taken from it.
    pub(crate) fn takes_queries(&self) -> bool {
        !self.closing
            && self.in_flight < CLIENT_PIPELINE
            && self.unsent_octets() < CLIENT_UNSENT_OCTETS
    }

    /// Whether nothing is left to be done for it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight == 0 && self.unsent_octets() == 0 && self.exchanges.is_empty()
    }

    /// Whether HTTP is spoken on it: then the adapter reads, and asks what it reads as exchanges.
    pub(crate) fn is_http(&self) -> bool {
        self.transport == Transport::Doh
    }

    /// Its handshakes are over.
    pub(crate) fn note_established(&mut self, now: Instant) {
        self.established = true;
        self.active_at = now;
    }

    /// The head of a request came.
    pub(crate) fn note_exchange(&mut self, now: Instant, exchange: ExchangeHandle) {
        self.exchanges.push(exchange);
        self.bodies.push_back((exchange, now));
        self.active_at = now;
    }

    /// A response was handed to the adapter.
    pub(crate) fn note_answer(&mut self, now: Instant, exchange: ExchangeHandle, octets: usize) {
        self.answers.push_back((exchange, now));
        self.responses += octets;
    }

    /// An exchange is over, of whose response so many octets had not left.
    pub(crate) fn note_exchange_over(
        &mut self,
        now: Instant,
        exchange: ExchangeHandle,
        unsent: usize,
    ) {
        self.exchanges.retain(|open| *open != exchange);
        self.responses -= unsent;
        self.active_at = now;
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
        if !self.established && is_planted(Bug::HandshakeUnbounded) {
            return None;
        }
        if !self.established {
            return Some((self.accepted_at + HANDSHAKE, Overdue::Handshake));
        }
        let unsent = self.unsent.front().map(|(_, since)| *since);
        let answer = self.answers.front().map(|(_, since)| *since);
        let writing =
            unsent.or(answer).map(|since| (since + settings.write_timeout, Overdue::Writing));
        let bodies = (!is_planted(Bug::BodyUnbounded)).then_some(&self.bodies);
        let body = bodies.and_then(VecDeque::front).map(|(_, since)| *since);
        let reading = self
            .message_since
            .or(body)
            .map(|since| (since + settings.read_timeout, Overdue::Reading));
        let idle = (self.is_quiet() && self.message_since.is_none())
            .then(|| (self.active_at + settings.tcp_idle_timeout, Overdue::Idle));
        [writing, reading, idle].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}
