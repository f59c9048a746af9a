//! What is going to happen: events in the order of their time, and of their making where that is equal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use balancedns_core::engine::{Closed, IoFailure};
use balancedns_core::handle::{ConnHandle, ExchangeHandle, ProcessHandle, SocketHandle};
use balancedns_core::time::Instant;
use bytes::Bytes;

use super::clients::Question;
use super::processes::ProcessEvent;
use super::recovery::Ask;

/// One start of one worker: what belongs to an earlier start concerns nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) engine: usize,
    pub(super) start: u64,
}

/// How a server was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedBy {
    Socket(SocketHandle),
    Conn(ConnHandle),
    Exchange(ConnHandle, ExchangeHandle),
}

/// What happens on a connection to a server.
#[derive(Debug, Clone)]
pub(super) enum ConnEvent {
    Established,
    /// Octets, and the answers that are whole with them.
    Octets(Bytes, Vec<u32>),
    End,
    Written(usize),
    Closed(Closed),
    /// A response, and the answer that is in it.
    Answered(ExchangeHandle, Box<http::Response<Bytes>>, Option<u32>),
    Failed(ExchangeHandle, IoFailure),
}

/// What happens on a client's connection.
#[derive(Debug, Clone)]
pub(super) enum LinkEvent {
    Connects,
    /// Its handshakes are over.
    Established,
    /// They came to nothing.
    HandshakeFails,
    /// They must have come to nothing by now.
    HandshakeIsOver,
    /// Octets, and the queries that are whole with them.
    Octets(Bytes, Vec<Question>),
    End,
    Reset,
    Written(usize),
    /// By now its worker has closed it, for this reason.
    IsGone(&'static str),
}

/// What happens with an HTTP exchange of a client.
#[derive(Debug, Clone)]
pub(super) enum ExchangeEvent {
    Opens(Box<http::request::Parts>),
    /// Octets of its body, and whether they are the last.
    Body(Bytes, bool),
    Resets,
    /// All of its response has left.
    Taken,
    /// By now it has a response.
    IsAnswered,
}

/// Something that is going to happen.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A client asks something, if it is still its time.
    ClientTurn(usize),
    /// A datagram arrives at a listener.
    Query { engine: usize, question: Box<Question> },
    /// Something happens on a client's connection.
    Link(u64, LinkEvent),
    /// Something happens with an HTTP exchange of a client.
    Exchange(u64, ExchangeEvent),
    /// A query arrives at a server of the pool, or at the one that looks host names up.
    Asked { place: Option<usize>, life: Life, by: AskedBy, message: Bytes },
    /// A datagram arrives at a socket; with the answer's number if it is one.
    Reply { life: Life, socket: SocketHandle, message: Bytes, number: Option<u32> },
    /// A socket has opened, or has not.
    Socket { life: Life, socket: SocketHandle, failure: Option<IoFailure> },
    /// Something happens on a connection to a server.
    Conn { life: Life, conn: ConnHandle, what: ConnEvent },
    /// Something happens with a plugin's process.
    Process { life: Life, process: ProcessHandle, what: ProcessEvent },
    /// A second has passed for servers, workers and the operator.
    Tick,
    /// The operator changes the configuration.
    Reload,
    /// The supervisor's deadline.
    Supervise,
    /// A question of the time after healing.
    Recovery { engine: usize, name: usize, ask: Ask },
    /// From now on nothing may fail.
    BeStrict,
    /// One server ends for good.
    Outage,
    /// A client connects, asks one thing and waits.
    Idle,
    /// All workers are to stop.
    Stop,
    /// All of them have had their time.
    End,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// The earliest is the greatest, since a heap gives out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// Events to come.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Entry>,
    sequence: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.heap.push(Entry { at, sequence: self.sequence, event });
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.at)
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }

    /// The next event, if it is for this time and of a kind.
    pub(super) fn pop_if(
        &mut self,
        at: Instant,
        is_kind: impl Fn(&Event) -> bool,
    ) -> Option<Event> {
        let next = self.heap.peek()?;
        if next.at == at && is_kind(&next.event) {
            self.pop().map(|(_, event)| event)
        } else {
            None
        }
    }
}
