//! Clients of a scenario: what they have asked, what has come, and the state of their connections.

use std::collections::VecDeque;

use balancedns_core::engine::{CloseMode, Transport};
use balancedns_core::handle::{ConnHandle, ExchangeHandle};
use bytes::Bytes;

use super::check::{self, Decoded};
use super::message::Query;
use crate::machine::Http;
use crate::reading::freshness;

/// A query without a reply.
#[derive(Debug, Clone)]
pub(super) struct Open {
    id: u16,
    /// What was asked; none if octets were sent of which nothing is known but the first two.
    query: Option<Query>,
    /// The HTTP exchange that it was asked by.
    exchange: Option<ExchangeHandle>,
}

/// Something that has come to a client.
#[derive(Debug, Clone)]
pub(super) enum Arrived {
    /// A reply; over HTTP with the seconds that it may be kept.
    Reply(Decoded, Option<u32>),
    /// An HTTP response that is no DNS message.
    Response(Http),
}

impl Arrived {
    pub(super) fn show(&self) -> String {
        match self {
            Self::Reply(reply, None) => reply.show(),
            Self::Reply(reply, Some(seconds)) => format!("{} max-age {seconds}", reply.show()),
            Self::Response(Http { status, headers, body }) => {
                format!("  status {status} {headers:?} {:?}", String::from_utf8_lossy(body))
            }
        }
    }
}

/// Something that a client has sent and the engine has not read.
#[derive(Debug)]
pub(super) enum Sent {
    Octets(Bytes),
    End,
}

/// A client while a scenario runs.
#[derive(Debug)]
pub(super) struct ClientState {
    pub(super) transport: Transport,
    pub(super) conn: Option<ConnHandle>,
    /// The engine has closed the connection, and no step has looked.
    pub(super) closed: bool,
    open: Vec<Open>,
    /// Replies that no step has looked at.
    pub(super) arrived: VecDeque<Arrived>,
    /// Octets of a message that has not come whole.
    incoming: Vec<u8>,
    /// Whether what the engine writes leaves at once.
    pub(super) stalled: bool,
    /// What does not.
    unread: Vec<Bytes>,
    /// Exchanges whose responses do not.
    pub(super) untaken: Vec<ExchangeHandle>,
    /// The engine does not read.
    pub(super) paused: bool,
    pub(super) unsent: VecDeque<Sent>,
}

impl ClientState {
    pub(super) fn new(transport: Transport) -> Self {
        Self {
            transport,
            conn: None,
            closed: false,
            open: Vec::new(),
            arrived: VecDeque::new(),
            incoming: Vec::new(),
            stalled: false,
            unread: Vec::new(),
            untaken: Vec::new(),
            paused: false,
            unsent: VecDeque::new(),
        }
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self.transport, Transport::Tcp | Transport::Dot)
    }

    /// Remembers a query.
    pub(super) fn asked(&mut self, id: u16, query: Option<Query>) {
        self.open.push(Open { id, query, exchange: None });
    }

    /// Remembers a request that was taken.
    pub(super) fn requested(&mut self, exchange: ExchangeHandle, id: u16, query: Option<Query>) {
        self.open.push(Open { id, query, exchange: Some(exchange) });
    }

    /// Takes the oldest request without a response back.
    pub(super) fn gives_up(&mut self) -> Option<ExchangeHandle> {
        let place = self.open.iter().position(|open| open.exchange.is_some())?;
        self.open.remove(place).exchange
    }

    /// Waits for no answer any more. Gives how many questions there were without one.
    pub(super) fn forget_questions(&mut self) -> usize {
        let before = self.open.len();
        self.open.clear();
        before
    }

    /// A response to a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn responded(
        &mut self,
        exchange: ExchangeHandle,
        response: Http,
        own_size: u16,
    ) -> Result<(), String> {
        let is_message = response.header("content-type") == Some("application/dns-message");
        if response.status == 200 && is_message {
            let max_age = response.header("cache-control").unwrap_or_default();
            let seconds = max_age.strip_prefix("max-age=").and_then(|text| text.parse().ok());
            let seconds: u32 = seconds.ok_or_else(|| format!("no max-age, but \"{max_age}\""))?;
            if seconds > freshness(&response.body) {
                return Err(format!("an answer that is kept for {seconds} s, and so for too long"));
            }
            return self.takes(&response.body, own_size, Some((exchange, seconds)));
        }
        let place = self.open.iter().position(|open| open.exchange == Some(exchange));
        let open = self.open.remove(place.ok_or("a second response to one request")?);
        if response.status == 200 || open.query.is_some() {
            return Err(format!("no DNS message:\n{}", Arrived::Response(response).show()));
        }
        self.arrived.push_back(Arrived::Response(response));
        Ok(())
    }

    /// The questions that were asked properly and not answered.
    pub(super) fn unanswered(&self) -> Vec<u16> {
        let is_owed = |open: &&Open| open.query.is_some() || open.exchange.is_some();
        self.open.iter().filter(is_owed).map(|open| open.id).collect()
    }

    /// Takes a reply, which must be one to something that was asked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn takes(
        &mut self,
        octets: &[u8],
        own_size: u16,
        by_http: Option<(ExchangeHandle, u32)>,
    ) -> Result<(), String> {
        let reply = Decoded::new(octets)?;
        let shown = || format!("it came:\n{}", reply.show());
        let place = self.open.iter().position(|open| {
            let question = |query: &Query| query.question == reply.question();
            let same_way = open.exchange == by_http.map(|(exchange, _)| exchange);
            same_way && open.id == reply.id() && open.query.as_ref().is_none_or(question)
        });
        let Some(place) = place else {
            return Err(format!(
                "a reply under an id and to a question, letter case included, that were not asked; {}",
                shown()
            ));
        };
        if let Some(query) = self.open.remove(place).query {
            check::always_of_reply(&reply, &query, self.transport, own_size)
                .map_err(|what| format!("of every reply is true: {what}; {}", shown()))?;
        }
        self.arrived.push_back(Arrived::Reply(reply, by_http.map(|(_, seconds)| seconds)));
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
            self.takes(&message, own_size, None)?;
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
        self.untaken.clear();
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
