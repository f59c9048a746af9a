//! Queries to upstreams as HTTP exchanges (RFC 8484) on their kept connections.
//!
//! A connection's own life, its place among the endpoint's and what becomes of its queries when it
//! breaks are those of every stream (`upstream_streams`); an id stands for each exchange there, and none
//! is on the wire: the message itself has id 0, so that HTTP caches may work (section 4.1).

use bytes::Bytes;
use http::{Response, StatusCode};

use super::attempt::Failure;
use super::client_exchanges::{Exchange, UpstreamExchange};
use super::fetch::Carrier;
use super::{Action, Conn, ConnHandle, Engine, Event, ExchangeHandle, FetchHandle, IoFailure, Out};
use crate::doh;
use crate::limits::QUERY_OCTETS;
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::time::Instant;
use crate::wire::ResponseView;

impl Engine {
    /// An upstream answered an exchange.
    pub fn handle_exchange_answered(
        &mut self,
        now: Instant,
        exchange: ExchangeHandle,
        response: &Response<Bytes>,
    ) {
        let now = self.advance(now);
        self.exchange_answered(now, exchange, response);
        self.settle(now);
    }

    /// An exchange with an upstream failed.
    pub fn handle_exchange_failed(
        &mut self,
        now: Instant,
        exchange: ExchangeHandle,
        why: IoFailure,
    ) {
        let now = self.advance(now);
        self.exchange_failed(now, exchange, why);
        self.settle(now);
    }

    /// Starts the exchange of the attempt in flight on its connection, which is open.
    pub(super) fn start_exchange(&mut self, fetch: FetchHandle, conn: ConnHandle, id: u16) {
        let mut message = [0; QUERY_OCTETS];
        let shown = if is_planted(Bug::ExchangeWithId) { id } else { 0 };
        let len = self.write_query_of(fetch, shown, &mut message);
        let made = self.exchanges.insert(Exchange::Upstream(UpstreamExchange { conn, id, fetch }));
        let Ok(exchange) = made else {
            // The attempt's deadline ends it.
            return self.report_limit(self.now, Counter::LimitExchanges, "exchanges");
        };
        let Some(Conn::Upstream(upstream)) = self.conns.get_mut(conn) else { return };
        upstream.exchanges.push((id, exchange));
        let uri = self.endpoints[upstream.endpoint].request_uri();
        let request = Box::new(doh::request(uri, &message[..len]));
        self.actions.push_back(Action::StartExchange { exchange, conn, request });
    }

    /// Gives up the exchange of an id, if it has one that is not over.
    pub(super) fn cancel_exchange(&mut self, conn: ConnHandle, id: u16) {
        if let Some(exchange) = self.take_exchange(conn, id) {
            self.exchanges.remove(exchange);
            if !is_planted(Bug::ExchangeNotCancelled) {
                self.actions.push_back(Action::CancelExchange { exchange });
            }
        }
    }

    fn take_exchange(&mut self, conn: ConnHandle, id: u16) -> Option<ExchangeHandle> {
        let Some(Conn::Upstream(upstream)) = self.conns.get_mut(conn) else { return None };
        let at = upstream.exchanges.iter().position(|(of, _)| *of == id)?;
        Some(upstream.exchanges.swap_remove(at).1)
    }

    /// Takes an exchange that has come to its end out of all tables.
    fn end_upstream_exchange(&mut self, handle: ExchangeHandle) -> Option<UpstreamExchange> {
        let exchange = match self.exchanges.get(handle) {
            Some(Exchange::Upstream(exchange)) => *exchange,
            Some(Exchange::Client(_)) | None => {
                self.metrics.counters.count(Counter::DeadHandles);
                return None;
            }
        };
        self.exchanges.remove(handle);
        self.take_exchange(exchange.conn, exchange.id);
        Some(exchange)
    }

    /// An upstream has answered.
    pub(super) fn exchange_answered(
        &mut self,
        now: Instant,
        handle: ExchangeHandle,
        response: &Response<Bytes>,
    ) {
        let Some(UpstreamExchange { conn, fetch, .. }) = self.end_upstream_exchange(handle) else {
            return;
        };
        if let Some(Conn::Upstream(upstream)) = self.conns.get_mut(conn) {
            upstream.heard_at = Some(now);
            if !upstream.answered {
                upstream.answered = true;
                self.endpoints[upstream.endpoint].backoff.succeeded();
            }
        }
        let out = &mut Out(None);
        let message = match doh::read_response(response) {
            Ok(message) => message,
            Err(status) => {
                self.report_status(now, conn, status);
                return self.attempt_failed(now, fetch, Failure::Http, out);
            }
        };
        // Nothing else will come on this exchange: what does not fit ends the attempt.
        let parsed = ResponseView::parse(message).ok().filter(|view| view.id() == 0);
        let checked = parsed.ok_or(Counter::ReplyGarbage).and_then(|view| {
            self.check_question(fetch, &view)?;
            Ok(view)
        });
        match checked {
            Ok(view) => self.reply(now, fetch, &view, Carrier::Stream, out),
            Err(what) => {
                self.metrics.counters.count(what);
                self.attempt_failed(now, fetch, Failure::Malformed, out);
            }
        }
    }

    fn report_status(&mut self, now: Instant, conn: ConnHandle, status: StatusCode) {
        let Some(Conn::Upstream(upstream)) = self.conns.get(conn) else { return };
        let (upstream, addr) = self.endpoints[upstream.endpoint].display_name();
        let status = status.as_u16();
        self.report(now, Event::UpstreamHttpStatus { upstream, addr, status });
    }

    /// An exchange broke, and its connection perhaps with it: no new ones go there. The upstream gets
    /// one more try elsewhere, as with every stream that ends.
    pub(super) fn exchange_failed(&mut self, now: Instant, handle: ExchangeHandle, why: IoFailure) {
        let Some(UpstreamExchange { conn, fetch, .. }) = self.end_upstream_exchange(handle) else {
            return;
        };
        let Some(Conn::Upstream(upstream)) = self.conns.get_mut(conn) else { return };
        let endpoint = upstream.endpoint;
        if !std::mem::replace(&mut upstream.retired, true) && !upstream.answered {
            self.endpoints[endpoint].connect_failed(now);
        }
        self.release_attempt(fetch, false);
        self.ask_again(now, fetch, endpoint, why);
    }
}
