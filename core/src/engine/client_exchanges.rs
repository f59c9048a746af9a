//! Clients' HTTP exchanges: from the head of a request to the last octet of its response (RFC 8484).
//!
//! HTTP itself is the adapter's; what a request asks and how it is answered is decided here, and so are
//! all deadlines. Exchanges live in a table of their own, since a connection carries many of them.

use std::net::SocketAddr;

use super::question::{Client, Verdict};
use super::{
    AcceptRefused, Action, CloseMode, Conn, ConnHandle, Engine, ExchangeHandle, FetchHandle, Out,
    ReplyTo, Transport,
};
use crate::doh::{self, Head, Refusal};
use crate::forwarded;
use crate::limits::{
    CLIENT_UNSENT_OCTETS, EXCHANGES_PER_CLIENT_CONN, MESSAGE_OCTETS, RESETS_PER_CONN, UNSENT_OCTETS,
};
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::time::Instant;

/// An HTTP exchange of either direction.
#[derive(Debug)]
pub(super) enum Exchange {
    Client(ClientExchange),
    Upstream(UpstreamExchange),
}

/// A request of a client.
#[derive(Debug)]
pub(super) struct ClientExchange {
    pub(super) conn: ConnHandle,
    client: SocketAddr,
    pub(super) phase: Phase,
}

/// How far a client's request has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// So much of its body is there.
    Body(Vec<u8>),
    /// Its question waits for an answer.
    Asked,
    /// The response, of so many octets, is on its way.
    Answered(usize),
}

/// A query to an upstream.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpstreamExchange {
    pub(super) conn: ConnHandle,
    /// What it is known by on its connection.
    pub(super) id: u16,
    pub(super) fetch: FetchHandle,
}

impl Engine {
    /// A client has sent the head of a request on an HTTP connection. Its body follows with
    /// [`handle_exchange_body`](Self::handle_exchange_body), also where there is none.
    ///
    /// # Errors
    /// [`AcceptRefused`]: reset the exchange, there is no handle for it.
    pub fn handle_exchange_opened(
        &mut self,
        now: Instant,
        conn: ConnHandle,
        request: &http::request::Parts,
    ) -> Result<ExchangeHandle, AcceptRefused> {
        let now = self.advance(now);
        let opened = self.open_exchange(now, conn, request);
        self.settle(now);
        opened
    }

    /// Octets of the body of a client's request; with `end` there are no more.
    pub fn handle_exchange_body(
        &mut self,
        now: Instant,
        exchange: ExchangeHandle,
        octets: &[u8],
        end: bool,
    ) {
        let now = self.advance(now);
        self.exchange_body(now, exchange, octets, end);
        self.settle(now);
    }

    /// A client reset its exchange, answered or not.
    pub fn handle_exchange_reset(&mut self, now: Instant, exchange: ExchangeHandle) {
        let now = self.advance(now);
        self.exchange_reset(now, exchange);
        self.settle(now);
    }

    /// All of [`Action::Respond`] was handed over: the exchange is over.
    pub fn handle_exchange_sent(&mut self, now: Instant, exchange: ExchangeHandle) {
        let now = self.advance(now);
        self.exchange_sent(now, exchange);
        self.settle(now);
    }

    /// The head of a request has come.
    pub(super) fn open_exchange(
        &mut self,
        now: Instant,
        name: ConnHandle,
        head: &http::request::Parts,
    ) -> Result<ExchangeHandle, AcceptRefused> {
        let conn = match self.conns.get_mut(name) {
            Some(Conn::Client(conn)) if conn.is_http() && conn.established => conn,
            Some(Conn::Client(_) | Conn::Upstream(_)) | None => {
                self.metrics.counters.count(Counter::DeadHandles);
                return Err(AcceptRefused::Stopping);
            }
        };
        if conn.exchanges.len() >= EXCHANGES_PER_CLIENT_CONN || self.exchanges.is_full() {
            self.report_limit(now, Counter::LimitExchanges, "exchanges");
            return Err(AcceptRefused::TooManyConnections);
        }
        let proxies = &self.snapshot.listen.trusted_proxies;
        let client = match forwarded::client(&head.headers, conn.peer.ip(), proxies) {
            ip if ip == conn.peer.ip() => conn.peer,
            ip => SocketAddr::new(ip, 0), // the port is not told
        };
        let phase = Phase::Body(Vec::new());
        let exchange = Exchange::Client(ClientExchange { conn: name, client, phase });
        let handle = self.exchanges.insert(exchange).expect("there is room");
        conn.note_exchange(now, handle);
        let read = if self.snapshot.acl.allows(client.ip()) {
            doh::read_head(head, &self.snapshot.listen.doh_path)
        } else {
            Head::Refused(Refusal::Forbidden) // before anything of it is read
        };
        match read {
            Head::Query(query) => self.ask_exchange(now, handle, &query),
            Head::Refused(refusal) => self.refuse_exchange(now, handle, refusal),
            Head::Body => {}
        }
        self.update_exchanges(now, name);
        Ok(handle)
    }

    /// Octets of a request's body. Those of a request that is answered already are let go.
    pub(super) fn exchange_body(
        &mut self,
        now: Instant,
        handle: ExchangeHandle,
        octets: &[u8],
        end: bool,
    ) {
        let Some(Exchange::Client(exchange)) = self.exchanges.get_mut(handle) else {
            return self.metrics.counters.count(Counter::DeadHandles);
        };
        let conn = exchange.conn;
        let Phase::Body(body) = &mut exchange.phase else { return };
        if body.len() + octets.len() > MESSAGE_OCTETS {
            self.refuse_exchange(now, handle, Refusal::TooLarge);
        } else if !end {
            body.extend_from_slice(octets);
        } else if body.is_empty() {
            self.ask_exchange(now, handle, octets);
        } else {
            let mut body = std::mem::take(body);
            body.extend_from_slice(octets);
            self.ask_exchange(now, handle, &body);
        }
        self.update_exchanges(now, conn);
    }

    fn ask_exchange(&mut self, now: Instant, handle: ExchangeHandle, message: &[u8]) {
        let Some(Exchange::Client(exchange)) = self.exchanges.get_mut(handle) else { return };
        exchange.phase = Phase::Asked;
        let client = Client { address: exchange.client, transport: Transport::Doh };
        match self.decide_in_scratch(now, message, client) {
            Verdict::Drop => self.refuse_exchange(now, handle, Refusal::BadRequest),
            Verdict::Reply(written) => {
                let response = doh::answer(&self.scratch[..written.len]);
                self.respond(now, handle, response);
                self.log_written(now, client, &written);
            }
            Verdict::Forward(forward) => {
                let reply_to = ReplyTo::Exchange(handle);
                self.forward(now, forward, client, reply_to, now, &mut Out(None));
            }
            Verdict::Suspend(forward, plugin) => {
                let reply_to = ReplyTo::Exchange(handle);
                self.suspend(now, forward, plugin, client, reply_to, now, &mut Out(None));
            }
            Verdict::Ignore => {
                self.metrics.counters.count(Counter::DroppedPolicy);
                self.refuse_exchange(now, handle, Refusal::Forbidden);
            }
        }
    }

    /// Gives a waiter the reply in the scratch buffer; whether its exchange still lives.
    pub(super) fn answer_exchange(
        &mut self,
        now: Instant,
        handle: ExchangeHandle,
        len: usize,
    ) -> bool {
        let Some(Exchange::Client(exchange)) = self.exchanges.get(handle) else {
            return false;
        };
        let name = exchange.conn;
        let Some(Conn::Client(conn)) = self.conns.get(name) else { return false };
        let above_its_own = conn.unsent_octets() > CLIENT_UNSENT_OCTETS;
        if above_its_own && self.unsent_octets + len > UNSENT_OCTETS {
            self.report_limit(now, Counter::LimitUnsent, "unsent answers");
            self.close_client(name, CloseMode::Now);
            return false;
        }
        let response = doh::answer(&self.scratch[..len]);
        let latest = conn.exchanges.last().copied();
        let handle = latest.filter(|_| is_planted(Bug::ResponseToAnother)).unwrap_or(handle);
        self.respond(now, handle, response);
        self.update_exchanges(now, name);
        true
    }

    /// Tells a client that its question gets no answer.
    pub(super) fn ignore_exchange(&mut self, now: Instant, handle: ExchangeHandle) {
        let Some(Exchange::Client(exchange)) = self.exchanges.get(handle) else { return };
        let conn = exchange.conn;
        self.refuse_exchange(now, handle, Refusal::Forbidden);
        self.update_exchanges(now, conn);
    }

    fn refuse_exchange(&mut self, now: Instant, handle: ExchangeHandle, refusal: Refusal) {
        self.metrics.counters.count(match refusal {
            Refusal::BadRequest => Counter::DohBadRequest,
            Refusal::Forbidden => Counter::DohForbidden,
            Refusal::NotFound => Counter::DohNotFound,
            Refusal::MethodNotAllowed => Counter::DohMethod,
            Refusal::Timeout => Counter::DohTimeout,
            Refusal::TooLarge => Counter::DohTooLarge,
            Refusal::UnsupportedMediaType => Counter::DohMediaType,
        });
        self.respond(now, handle, refusal.response());
    }

    fn respond(
        &mut self,
        now: Instant,
        handle: ExchangeHandle,
        response: http::Response<bytes::Bytes>,
    ) {
        let Some(Exchange::Client(exchange)) = self.exchanges.get_mut(handle) else { return };
        let octets = response.body().len();
        exchange.phase = Phase::Answered(octets);
        if let Some(Conn::Client(conn)) = self.conns.get_mut(exchange.conn) {
            conn.note_answer(now, handle, octets);
            self.unsent_octets += octets;
        }
        let response = Box::new(response);
        self.actions.push_back(Action::Respond { exchange: handle, response });
    }

    /// The response has left.
    pub(super) fn exchange_sent(&mut self, now: Instant, handle: ExchangeHandle) {
        let Some(conn) = self.end_exchange(now, handle) else { return };
        if let Some(Conn::Client(conn)) = self.conns.get_mut(conn) {
            conn.completed = conn.completed.saturating_add(1);
        }
        self.update_exchanges(now, conn);
    }

    /// The client wants no response any more. Its question, if it has one, is still answered to others.
    pub(super) fn exchange_reset(&mut self, now: Instant, handle: ExchangeHandle) {
        if is_planted(Bug::ExchangeKeptOnReset) {
            return;
        }
        let Some(name) = self.end_exchange(now, handle) else { return };
        self.metrics.counters.count(Counter::DohResets);
        if let Some(Conn::Client(conn)) = self.conns.get_mut(name) {
            conn.resets = conn.resets.saturating_add(1);
            let is_flood = conn.resets > conn.completed.saturating_add(RESETS_PER_CONN);
            if is_flood && !is_planted(Bug::ResetsUnbounded) {
                self.report_limit(now, Counter::LimitResets, "resets of one connection");
                return self.close_client(name, CloseMode::Now);
            }
        }
        self.update_exchanges(now, name);
    }

    /// Takes a client's exchange out of all tables; gives its connection.
    fn end_exchange(&mut self, now: Instant, handle: ExchangeHandle) -> Option<ConnHandle> {
        let Some(Exchange::Client(exchange)) = self.exchanges.get(handle) else {
            self.metrics.counters.count(Counter::DeadHandles);
            return None;
        };
        let (name, unsent) = match exchange.phase {
            Phase::Answered(octets) => (exchange.conn, octets),
            Phase::Body(_) | Phase::Asked => (exchange.conn, 0),
        };
        self.exchanges.remove(handle);
        if let Some(Conn::Client(conn)) = self.conns.get_mut(name) {
            conn.note_exchange_over(now, handle, unsent);
            self.unsent_octets -= unsent;
        }
        Some(name)
    }

    /// The oldest request whose body is still to come has had its time.
    pub(super) fn exchange_overdue(&mut self, now: Instant, name: ConnHandle) {
        let Some(Conn::Client(conn)) = self.conns.get(name) else { return };
        let Some((handle, _)) = conn.bodies.front().copied() else { return };
        self.refuse_exchange(now, handle, Refusal::Timeout);
        self.update_exchanges(now, name);
    }

    /// After any change: looks only at exchanges that are still what they are listed as.
    fn update_exchanges(&mut self, now: Instant, name: ConnHandle) {
        let Some(Conn::Client(conn)) = self.conns.get_mut(name) else { return };
        let phase = |handle: ExchangeHandle| match self.exchanges.get(handle) {
            Some(Exchange::Client(exchange)) => Some(&exchange.phase),
            Some(Exchange::Upstream(_)) | None => None,
        };
        let is_body = |handle| matches!(phase(handle), Some(Phase::Body(_)));
        let is_answered = |handle| matches!(phase(handle), Some(Phase::Answered(_)));
        while conn.bodies.front().is_some_and(|(handle, _)| !is_body(*handle)) {
            conn.bodies.pop_front();
        }
        while conn.answers.front().is_some_and(|(handle, _)| !is_answered(*handle)) {
            conn.answers.pop_front();
        }
        self.update_client(now, name);
    }
}
