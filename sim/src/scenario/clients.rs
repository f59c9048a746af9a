//! Clients of a scenario: what they have asked, what has come, and the state of their connections.

use std::collections::VecDeque;

use balancedns_core::engine::CloseMode;
use balancedns_core::handle::ConnHandle;
use bytes::Bytes;

use super::check::{self, Decoded};
use super::message::Query;

/// A query without a reply.
#[derive(Debug, Clone)]
pub(super) struct Open {
    id: u16,
    /// What was asked; none if octets were sent of which nothing is known but the first two.
    query: Option<Query>,
}

/// Something that a client has sent and the engine has not read.
#[derive(Debug)]
pub(super) enum Sent {
    Octets(Bytes),
    End,
}

/// A client while a scenario runs.
#[derive(Debug, Default)]
pub(super) struct ClientState {
    pub(super) is_stream: bool,
    pub(super) conn: Option<ConnHandle>,
    /// The engine has closed the connection, and no step has looked.
    pub(super) closed: bool,
    open: Vec<Open>,
    /// Replies that no step has looked at.
    pub(super) arrived: VecDeque<Decoded>,
    /// Octets of a message that has not come whole.
    incoming: Vec<u8>,
    /// Whether what the engine writes leaves at once.
    pub(super) stalled: bool,
    /// What does not.
    unread: Vec<Bytes>,
    /// The engine does not read.
    pub(super) paused: bool,
    pub(super) unsent: VecDeque<Sent>,
}

impl ClientState {
    pub(super) fn new(is_stream: bool) -> Self {
        Self { is_stream, ..Self::default() }
    }

    /// Remembers a query.
    pub(super) fn asked(&mut self, id: u16, query: Option<Query>) {
        self.open.push(Open { id, query });
    }

    /// The questions that were asked properly and not answered.
    pub(super) fn unanswered(&self) -> Vec<u16> {
        self.open.iter().filter(|open| open.query.is_some()).map(|open| open.id).collect()
    }

    /// Takes a reply, which must be one to something that was asked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn takes(&mut self, octets: &[u8], own_size: u16) -> Result<(), String> {
        let reply = Decoded::new(octets)?;
        let shown = || format!("it came:\n{}", reply.show());
        let place = self.open.iter().position(|open| {
            let question = |query: &Query| query.question == reply.question();
            open.id == reply.id() && open.query.as_ref().is_none_or(question)
        });
        let Some(place) = place else {
            return Err(format!(
                "a reply under an id and to a question, letter case included, that were not asked; {}",
                shown()
            ));
        };
        if let Some(query) = self.open.remove(place).query {
            check::always_of_reply(&reply, &query, self.is_stream, own_size)
                .map_err(|what| format!("of every reply is true: {what}; {}", shown()))?;
        }
        self.arrived.push_back(reply);
        Ok(())
    }

    /// Octets on the connection; gives how many of them were read.
    ///
    /// # Errors
    /// What is wrong with a message in them.
    pub(super) fn written(&mut self, octets: Bytes, own_size: u16) -> Result<usize, String> {
        if self.stalled {
            self.unread.push(octets);
            return Ok(0);
        }
        self.incoming.extend_from_slice(&octets);
        while let Some(message) = next_message(&mut self.incoming) {
            self.takes(&message, own_size)?;
        }
        Ok(octets.len())
    }

    /// Reads what has piled up; gives how many octets that were.
    ///
    /// # Errors
    /// What is wrong with a message in it.
    pub(super) fn reads_again(&mut self, own_size: u16) -> Result<usize, String> {
        self.stalled = false;
        let mut read = 0;
        for octets in std::mem::take(&mut self.unread) {
            read += self.written(octets, own_size)?;
        }
        Ok(read)
    }

    /// The engine closes the connection.
    ///
    /// # Errors
    /// If a message ends in its middle.
    pub(super) fn closed_by_engine(&mut self, mode: CloseMode) -> Result<(), String> {
        if mode == CloseMode::Now {
            self.unread.clear();
        }
        self.closed = true;
        self.forget_connection();
        let cut = std::mem::take(&mut self.incoming);
        if cut.is_empty() {
            Ok(())
        } else {
            Err(format!("the connection was closed within a message: {}", check::hex(&cut)))
        }
    }

    /// There is no connection any more, nor anything that could come on it.
    pub(super) fn forget_connection(&mut self) {
        self.conn = None;
        self.paused = false;
        self.unsent.clear();
        if self.unread.is_empty() {
            self.open.clear();
        }
    }
}

/// Takes a message and the length before it (RFC 1035 section 4.2.2) out of octets, if it is whole.
pub(super) fn next_message(octets: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = octets.split_first_chunk::<2>()?;
    let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
    octets.drain(..2 + message.len());
    Some(message)
}

/// A message with its length before it.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}
