//! What surrounds the engine: it remembers what was given out and what is owed, and checks every
//! output against that. It carries nothing out unless it is told to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use balancedns_core::config::Snapshot;
use balancedns_core::engine::{Accepted, Established, Origin, Security, Sizes, Transport};
use balancedns_core::handle::{ConnHandle, ExchangeHandle, SocketHandle};
use balancedns_core::limits;
use balancedns_core::time::{Duration, Instant};
use balancedns_core::wire::{QueryView, Rejected};
use bytes::Bytes;

use super::super::setup::{START, assert_drains, machine, timeout};
use crate::fuzz::oracle;
use crate::machine::{Input, Machine, Output};

/// Where a query went.
#[derive(Debug, Clone, Copy)]
pub(super) enum Upstream {
    Socket(SocketHandle),
    Conn(ConnHandle),
    Exchange(ExchangeHandle),
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Datagram(SocketAddr),
    Stream(ConnHandle),
}

/// A query that may be answered once.
#[derive(Debug)]
struct Asked {
    asker: Asker,
    id: u16,
    question: Vec<u8>,
    limit: usize,
}

/// A connection that the engine holds open.
#[derive(Debug)]
struct Conn {
    handle: ConnHandle,
    is_client: bool,
    is_http: bool,
    /// Octets that were written to it, and octets that its client has said, that do not yet make a
    /// message.
    written: Vec<u8>,
    said: Vec<u8>,
    /// Its client said something that is no query: nothing more is taken from it.
    is_garbled: bool,
}

/// An HTTP exchange that the engine holds open.
#[derive(Debug)]
struct Exchange {
    handle: ExchangeHandle,
    conn: ConnHandle,
    is_client: bool,
    is_answered: bool,
}

/// What the engine has asked for and was not yet told.
#[derive(Debug)]
enum Wanted {
    Socket(SocketHandle),
    Conn(ConnHandle),
    Written(ConnHandle, usize),
    Sent(ExchangeHandle),
}

#[derive(Debug)]
pub(super) struct World {
    machine: Machine,
    snapshot: Arc<Snapshot>,
    pub(super) now: Instant,
    /// Handles that were given out, of the living and the dead: the latest.
    pub(super) sockets: Vec<SocketHandle>,
    pub(super) conns: Vec<ConnHandle>,
    pub(super) exchanges: Vec<ExchangeHandle>,
    open_exchanges: Vec<Exchange>,
    /// The connection of the request that is being made.
    opening: Option<ConnHandle>,
    open_sockets: Vec<SocketHandle>,
    open_conns: Vec<Conn>,
    wanted: VecDeque<Wanted>,
    /// Queries that upstreams were sent: the latest.
    pub(super) held: Vec<(Upstream, Bytes)>,
    asked: Vec<Asked>,
    stopped: bool,
    is_eager: bool,
    trace: Option<Vec<Output>>,
}

/// Handles, and queries to be answered, that are remembered.
const REMEMBERED: usize = 256;

impl World {
    /// An engine and its world, which carries out at once what it is asked for if it `is_eager`, and
    /// puts all outputs down if it `records`.
    pub(super) fn new(snapshot: Arc<Snapshot>, is_eager: bool, records: bool) -> Self {
        let mut world = Self {
            machine: machine(&snapshot),
            snapshot,
            now: START,
            sockets: Vec::new(),
            conns: Vec::new(),
            exchanges: Vec::new(),
            open_exchanges: Vec::new(),
            opening: None,
            open_sockets: Vec::new(),
            open_conns: Vec::new(),
            wanted: VecDeque::new(),
            held: Vec::new(),
            asked: Vec::new(),
            stopped: false,
            is_eager,
            trace: records.then(Vec::new),
        };
        let mut outputs = Vec::new();
        world.machine.drain(world.now, &mut outputs);
        world.take(outputs);
        world
    }

    /// Clients' connections that are open.
    pub(super) fn clients(&self) -> impl Iterator<Item = ConnHandle> {
        self.open_conns.iter().filter(|conn| conn.is_client).map(|conn| conn.handle)
    }

    /// Those that speak HTTP, and those that do not.
    pub(super) fn http_clients(&self) -> impl Iterator<Item = ConnHandle> {
        let conns = self.open_conns.iter().filter(|conn| conn.is_client && conn.is_http);
        conns.map(|conn| conn.handle)
    }

    /// See [`http_clients`](Self::http_clients).
    pub(super) fn stream_clients(&self) -> impl Iterator<Item = ConnHandle> {
        let conns = self.open_conns.iter().filter(|conn| conn.is_client && !conn.is_http);
        conns.map(|conn| conn.handle)
    }

    /// Makes a request; gives its handle if it was taken and has not ended with that.
    pub(super) fn open_exchange(
        &mut self,
        conn: ConnHandle,
        head: http::request::Parts,
    ) -> Option<ExchangeHandle> {
        let known = self.exchanges.last().copied();
        self.opening = Some(conn);
        self.feed(Input::Opens(conn, Box::new(head)));
        self.exchanges.last().copied().filter(|latest| Some(*latest) != known)
    }

    /// Whether an adapter may say so: octets are for streams, a connection for HTTP
    /// is established once, a response has left only if there was
    /// one, and exchanges end as their kind does.
    pub(super) fn is_possible(&self, input: &Input) -> bool {
        let exchange = |handle: &ExchangeHandle| {
            self.open_exchanges.iter().find(|exchange| exchange.handle == *handle)
        };
        match input {
            Input::Octets(conn, _)
            | Input::EndOfStream(conn)
            | Input::Written(conn, _)
            | Input::Established(conn, _) => {
                let conn = self.open_conns.iter().find(|open| open.handle == *conn);
                conn.is_none_or(|conn| !conn.is_http)
            }
            Input::Body(handle, ..) | Input::Reset(handle) => {
                exchange(handle).is_none_or(|exchange| exchange.is_client)
            }
            Input::Sent(handle) => {
                exchange(handle).is_none_or(|exchange| exchange.is_client && exchange.is_answered)
            }
            Input::Answered(handle, _) | Input::Failed(handle, _) => {
                exchange(handle).is_none_or(|exchange| !exchange.is_client)
            }
            Input::Datagrams(..)
            | Input::SocketOpened(_)
            | Input::SocketFailed(..)
            | Input::SendFailed(..)
            | Input::Connects(..)
            | Input::Closed(..)
            | Input::Opens(..)
            | Input::Wrote(..)
            | Input::Exited(..)
            | Input::Timeout
            | Input::Reload(_)
            | Input::Shutdown => true,
        }
    }

    /// Hands an input in, and checks what comes of it.
    pub(super) fn feed(&mut self, input: Input) {
        self.feed_alone(input);
        while self.is_eager && !self.wanted.is_empty() {
            self.carry_out_next();
        }
    }

    fn feed_alone(&mut self, input: Input) {
        self.note_input(&input);
        let mut outputs = Vec::new();
        if matches!(input, Input::Timeout) {
            timeout(&mut self.machine, self.now, &mut outputs);
        } else {
            self.machine.feed(self.now, input, &mut outputs);
        }
        self.take(outputs);
    }

    /// The next thing that was asked for is done: a socket opens, a connection is there, octets
    /// have left.
    pub(super) fn carry_out_next(&mut self) {
        match self.wanted.pop_front() {
            Some(Wanted::Socket(socket)) => self.feed_alone(Input::SocketOpened(socket)),
            Some(Wanted::Conn(conn)) => {
                self.feed_alone(Input::Established(conn, Established::default()));
            }
            Some(Wanted::Sent(exchange)) => self.feed_alone(Input::Sent(exchange)),
            Some(Wanted::Written(conn, octets)) => self.feed_alone(Input::Written(conn, octets)),
            None => {}
        }
    }

    /// Lets time pass, timer by timer.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.machine.engine().next_timeout()
            && at <= end
        {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
        self.now = end;
    }

    /// Lets time pass until the next timer.
    pub(super) fn pass_to_next(&mut self) {
        if let Some((at, _)) = self.machine.engine().next_timeout() {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
    }

    /// Lets time pass without telling the engine before all of it is over.
    pub(super) fn jump(&mut self, time: Duration) {
        self.now = self.now + time;
        self.feed(Input::Timeout);
    }

    /// Stops the engine; gives what it has put out, if that was to be recorded.
    pub(super) fn end(mut self) -> Option<Vec<Output>> {
        if !self.stopped {
            let outputs = assert_drains(&mut self.machine, &mut self.now);
            self.take(outputs);
        }
        assert!(self.stopped);
        assert_eq!(self.machine.engine().sizes(), Sizes::default(), "something is left");
        assert_eq!(self.machine.engine().next_timeout(), None, "a timer is left");
        assert!(self.open_sockets.is_empty(), "sockets are left open");
        assert!(self.open_conns.is_empty(), "connections are left open");
        assert!(self.open_exchanges.is_empty(), "exchanges are left open");
        let mut lost = self.asked.iter().filter(|asked| matches!(asked.asker, Asker::Datagram(_)));
        assert!(lost.next().is_none(), "datagrams without an answer: {:?}", self.asked);
        self.trace
    }

    // Inputs: what is owed for them.

    fn note_input(&mut self, input: &Input) {
        match input {
            Input::Datagrams(Origin::Listener(_), datagrams) => {
                for datagram in datagrams {
                    if datagram.message.len() <= limits::CLIENT_DATAGRAM_OCTETS {
                        self.note_query(Asker::Datagram(datagram.peer), &datagram.message);
                    }
                }
            }
            Input::Octets(conn, octets) => self.note_octets(*conn, octets),
            Input::Closed(conn, _) => self.forget_conn(*conn),
            Input::Reload(snapshot) if !self.stopped => self.snapshot = Arc::clone(snapshot),
            Input::Datagrams(Origin::Socket(_), _)
            | Input::SocketOpened(_)
            | Input::SocketFailed(..)
            | Input::SendFailed(..)
            | Input::Connects(..)
            | Input::Established(..)
            | Input::EndOfStream(_)
            | Input::Written(..)
            | Input::Opens(..)
            | Input::Body(..)
            | Input::Wrote(..)
            | Input::Exited(..)
            | Input::Timeout
            | Input::Reload(_)
            | Input::Shutdown => {}
            Input::Reset(exchange)
            | Input::Sent(exchange)
            | Input::Answered(exchange, _)
            | Input::Failed(exchange, _) => {
                self.open_exchanges.retain(|open| open.handle != *exchange);
            }
        }
    }

    /// A message of a client; whether it is one that gets a reply.
    fn note_query(&mut self, asker: Asker, message: &[u8]) -> bool {
        let (id, question, limit) = match QueryView::parse(message) {
            Err(Rejected::Drop) => return false,
            Err(Rejected::Reply { asker, .. }) => (asker.id, asker.question, asker.limit),
            Ok(view) => {
                let limit = view.udp_limit(self.snapshot.listen.udp_size);
                (view.id(), view.question(), limit)
            }
        };
        let limit = match asker {
            Asker::Datagram(_) => limit,
            Asker::Stream(_) => limits::MESSAGE_OCTETS,
        };
        self.asked.push(Asked { asker, id, question: question.to_vec(), limit });
        true
    }

    fn note_octets(&mut self, handle: ConnHandle, octets: &[u8]) {
        let Some(conn) = self.open_conns.iter_mut().find(|conn| conn.handle == handle) else {
            return;
        };
        if !conn.is_client || conn.is_garbled {
            return;
        }
        conn.said.extend_from_slice(octets);
        let mut said = std::mem::take(&mut conn.said);
        let mut is_garbled = false;
        while let Some(message) = take_message(&mut said)
            && !is_garbled
        {
            is_garbled = !self.note_query(Asker::Stream(handle), &message);
        }
        if let Some(conn) = self.open_conns.iter_mut().find(|conn| conn.handle == handle) {
            conn.said = said;
            conn.is_garbled = is_garbled;
        }
    }

    // Outputs.

    fn take(&mut self, outputs: Vec<Output>) {
        if let Some(trace) = &mut self.trace {
            trace.extend_from_slice(&outputs);
        }
        for output in outputs {
            self.take_one(output);
        }
        let sizes = self.machine.engine().sizes();
        assert!(sizes.fetches <= limits::FETCHES && sizes.waiters <= limits::WAITERS);
        assert_eq!(sizes.sockets, self.open_sockets.len(), "sockets here and there");
        assert_eq!(sizes.exchanges, self.open_exchanges.len(), "exchanges here and there");
        let clients = self.clients().count();
        assert_eq!(sizes.client_conns, clients, "clients' connections here and there");
        assert!(sizes.upstream_conns >= self.open_conns.len() - clients, "some wait to connect");
    }

    fn take_one(&mut self, output: Output) {
        match output {
            Output::Reply { peer, message, .. } => {
                self.note_reply(Asker::Datagram(peer), &message);
            }
            Output::Query { socket, message } => {
                assert!(self.open_sockets.contains(&socket), "sent on a closed socket");
                self.hold(Upstream::Socket(socket), message);
            }
            Output::OpenSocket { socket, .. } => {
                assert!(!self.open_sockets.contains(&socket), "opened twice");
                self.open_sockets.push(socket);
                remember(&mut self.sockets, socket);
                self.wanted.push_back(Wanted::Socket(socket));
            }
            Output::CloseSocket(socket) => {
                let at = self.open_sockets.iter().position(|open| *open == socket);
                self.open_sockets.swap_remove(at.expect("closed what is not open"));
            }
            Output::Accepted(Accepted { conn, socket, .. }) => {
                self.open_conn(conn, true, socket.transport == Transport::Doh);
            }
            Output::Connect { conn, security, .. } => {
                self.open_conn(conn, false, security != Security::Plain);
                self.wanted.push_back(Wanted::Conn(conn));
            }
            Output::Write { conn, octets } => self.note_write(conn, &octets),
            Output::PauseReading(conn) | Output::ResumeReading(conn) => {
                let is_client = |open: &Conn| open.handle == conn && open.is_client;
                assert!(self.open_conns.iter().any(is_client), "not a client's connection");
            }
            Output::CloseConn(conn, _) => {
                let is_open = self.open_conns.iter().any(|open| open.handle == conn);
                assert!(is_open, "closed what is not open");
                self.forget_conn(conn);
            }
            Output::Stopped => {
                assert!(!self.stopped, "stopped twice");
                self.stopped = true;
            }
            Output::Start { .. } | Output::Feed { .. } | Output::Kill(_) => {
                panic!("no plugin is configured")
            }
            Output::Report(event) => assert!(!event.name().is_empty()),
            Output::NotAccepted(_) | Output::CloseListener(_) => {}
            Output::Opened(handle) => {
                let conn = self.opening.take().expect("somebody makes a request");
                self.note_exchange(handle, conn, true);
            }
            Output::NotOpened(_) => self.opening = None,
            Output::Respond { exchange, .. } => {
                let open = self.open_exchanges.iter_mut().find(|open| open.handle == exchange);
                let open = open.expect("a response to a request that is over");
                assert!(open.is_client && !open.is_answered, "answered twice, or no client's");
                open.is_answered = true;
                self.wanted.push_back(Wanted::Sent(exchange));
            }
            Output::Request { exchange, conn, request, .. } => {
                let is_its = |open: &Conn| open.handle == conn && !open.is_client && open.is_http;
                assert!(self.open_conns.iter().any(is_its), "no connection for requests");
                self.note_exchange(exchange, conn, false);
                self.hold(Upstream::Exchange(exchange), request.body);
            }
            Output::Cancel(exchange) => {
                let is_it = |open: &Exchange| open.handle == exchange && !open.is_client;
                let at = self.open_exchanges.iter().position(is_it);
                self.open_exchanges.swap_remove(at.expect("gave up what is over"));
            }
        }
    }

    fn note_exchange(&mut self, handle: ExchangeHandle, conn: ConnHandle, is_client: bool) {
        assert!(self.open_exchanges.iter().all(|open| open.handle.index() != handle.index()));
        remember(&mut self.exchanges, handle);
        self.open_exchanges.push(Exchange { handle, conn, is_client, is_answered: false });
    }

    fn open_conn(&mut self, handle: ConnHandle, is_client: bool, is_http: bool) {
        assert!(self.open_conns.iter().all(|conn| conn.handle.index() != handle.index()));
        remember(&mut self.conns, handle);
        let (written, said) = (Vec::new(), Vec::new());
        self.open_conns.push(Conn { handle, is_client, is_http, written, said, is_garbled: false });
    }

    fn forget_conn(&mut self, handle: ConnHandle) {
        self.open_conns.retain(|conn| conn.handle != handle);
        self.open_exchanges.retain(|exchange| exchange.conn != handle);
        self.asked.retain(|asked| asked.asker != Asker::Stream(handle));
    }

    fn note_write(&mut self, handle: ConnHandle, octets: &[u8]) {
        self.wanted.push_back(Wanted::Written(handle, octets.len()));
        let conn = self.open_conns.iter_mut().find(|conn| conn.handle == handle);
        let conn = conn.expect("written to what is not open");
        assert!(!conn.is_http, "octets where HTTP is");
        conn.written.extend_from_slice(octets);
        let is_client = conn.is_client;
        let mut written = std::mem::take(&mut conn.written);
        while let Some(message) = take_message(&mut written) {
            if is_client {
                self.note_reply(Asker::Stream(handle), &message);
            } else {
                self.hold(Upstream::Conn(handle), message.into());
            }
        }
        assert!(written.is_empty(), "whole messages are written");
    }

    /// A query of ours: one question, as upstreams want it.
    fn hold(&mut self, to: Upstream, message: Bytes) {
        let view = QueryView::parse(&message).expect("what we ask can be read");
        assert!(message.len() <= limits::QUERY_OCTETS && view.client_subnet().is_none());
        remember(&mut self.held, (to, message));
    }

    /// A reply is to a query that has none yet, and no longer than its asker takes.
    fn note_reply(&mut self, asker: Asker, message: &[u8]) {
        assert!(message.len() >= oracle::HEADER && message[2] & 0x80 != 0);
        let id = oracle::number(message, 0);
        let question = match oracle::number(message, 4) {
            0 => &[][..],
            _ => &message[oracle::HEADER..],
        };
        let is_owed = |asked: &Asked| {
            asked.asker == asker
                && asked.id == id
                && question.is_empty() == asked.question.is_empty()
                && question.starts_with(&asked.question)
                && message.len() <= asked.limit
        };
        // Of a client that asks the same in two sizes, the one who takes less.
        let owed = self.asked.iter().enumerate().filter(|(_, asked)| is_owed(asked));
        let owed = owed.min_by_key(|(_, asked)| asked.limit).map(|(at, _)| at);
        let Some(owed) = owed else {
            panic!("nobody asked, or not twice, or for less: {asker:?} gets {message:02x?}");
        };
        self.asked.remove(owed);
    }
}

/// Adds to a list of the latest.
fn remember<T>(list: &mut Vec<T>, item: T) {
    if list.len() == REMEMBERED {
        list.remove(0);
    }
    list.push(item);
}

/// Takes the first whole message off the front of a stream.
fn take_message(stream: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*stream.first_chunk::<2>()?));
    if stream.len() < 2 + length {
        return None;
    }
    let rest = stream.split_off(2 + length);
    let mut message = std::mem::replace(stream, rest);
    message.drain(..2);
    Some(message)
}
