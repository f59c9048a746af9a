//! Stream connections to upstreams: kept, pipelined, replaced when they break.

use super::attempt::Failure;
use super::fetch::{AttemptVia, Carrier};
use super::{Action, CloseMode, Closed, Conn, Due, Engine, FetchHandle, IoFailure, Out, Security};
use crate::config::UpstreamProtocol;
use crate::conn::{Stage, UpstreamConn, append_message, split_message};
use crate::handle::ConnHandle;
use crate::limits::{CONNS_PER_UPSTREAM, HTTP_CONNS_PER_UPSTREAM, QUERY_OCTETS};
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::time::Instant;
use crate::upstream::{Endpoint, Owner};
use crate::wire::ResponseView;

impl Engine {
    /// Puts a fetch's query onto a connection to the endpoint, opening one if need be.
    pub(super) fn attempt_stream(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        endpoint: usize,
    ) -> Result<(), Failure> {
        let name = self.take_conn(now, handle, endpoint)?;
        let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) else {
            return Err(Failure::Busy);
        };
        let id = conn.ids.allocate(handle, &mut self.rng.ids).ok_or(Failure::Busy)?;
        let open = conn.stage == Stage::Open;
        if open {
            self.timers.cancel(conn.timer); // no longer idle
        }
        self.begin_attempt(now, handle, endpoint, AttemptVia::Conn(name, id), None);
        if open {
            self.write_stream_query(handle);
        }
        Ok(())
    }

    /// Writes the query of the attempt in flight onto its connection.
    fn write_stream_query(&mut self, handle: FetchHandle) {
        let fetch = self.fetches.get(handle).expect("the caller has the fetch");
        let AttemptVia::Conn(name, id) = fetch.attempt.via else {
            return;
        };
        if let Some(Conn::Upstream(conn)) = self.conns.get(name)
            && conn.is_http
        {
            return self.start_exchange(handle, name, id);
        }
        let mut message = [0; QUERY_OCTETS];
        let len = self.write_query_of(handle, id, &mut message);
        if let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) {
            append_message(&mut conn.out, &message[..len]);
            self.mark_dirty(name);
        }
    }

    /// A connection that takes another query: the least busy one, or a new one.
    fn take_conn(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        endpoint: usize,
    ) -> Result<ConnHandle, Failure> {
        let state = &self.endpoints[endpoint];
        let mut best: Option<(usize, ConnHandle)> = None;
        let mut usable = 0;
        for name in &state.conns {
            let Some(Conn::Upstream(conn)) = self.conns.get(*name) else {
                continue;
            };
            usable += usize::from(!conn.retired);
            if conn.takes_queries() && best.is_none_or(|(live, _)| conn.ids.live() < live) {
                best = Some((conn.ids.live(), *name));
            }
        }
        if let Some((_, name)) = best {
            return Ok(name);
        }
        if usable >= conns_max(state) {
            return Err(Failure::Busy);
        }
        let wait = state.backoff.wait(now);
        let fetch = self.fetches.get(handle).expect("the caller has the fetch");
        if wait.is_some() && fetch.candidates.len() > 1 {
            return Err(Failure::Busy); // somebody else can be asked meanwhile
        }
        self.open_conn(now, endpoint, wait)
    }

    fn open_conn(
        &mut self,
        now: Instant,
        endpoint: usize,
        wait: Option<Instant>,
    ) -> Result<ConnHandle, Failure> {
        let timers = &mut self.timers;
        let is_http = self.endpoints[endpoint].settings.protocol == UpstreamProtocol::Doh;
        let stage = if wait.is_some() { Stage::Waiting } else { Stage::Connecting };
        let made = self.conns.insert_with(|name| {
            let timer = timers.allocate(Due::Conn(name));
            if let Some(until) = wait {
                timers.set(timer, until);
            }
            Conn::Upstream(UpstreamConn::new(endpoint, stage, timer, is_http))
        });
        let Ok(name) = made else {
            self.report_limit(now, Counter::LimitSockets, "connections");
            return Err(Failure::Busy);
        };
        self.endpoints[endpoint].conns.push(name);
        if stage == Stage::Connecting {
            self.connect(name, endpoint);
        }
        Ok(name)
    }

    fn connect(&mut self, conn: ConnHandle, endpoint: usize) {
        let Endpoint { remote, settings, .. } = &self.endpoints[endpoint];
        let (remote, source) = (*remote, settings.source);
        let tls = settings.tls.clone().filter(|_| !is_planted(Bug::TlsLeftOut));
        let security = tls.map_or(Security::Plain, Security::Tls);
        self.metrics.counters.count(Counter::ConnsOpened);
        self.actions.push_back(Action::Connect { conn, remote, source, security });
    }

    pub(super) fn mark_dirty(&mut self, name: ConnHandle) {
        let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) else {
            return;
        };
        if !conn.dirty && conn.stage == Stage::Open {
            conn.dirty = true;
            self.dirty.push_back(name);
        }
    }

    /// The connection is there: the queries that still wait for it may go. Others have been given up
    /// meanwhile, and what nobody waits for is not asked.
    pub(super) fn upstream_established(&mut self, name: ConnHandle) {
        let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) else {
            return;
        };
        if conn.stage == Stage::Open {
            return; // told twice
        }
        conn.stage = Stage::Open;
        if conn.ids.live() == 0 {
            self.timers.set(conn.timer, self.now + conn.idle);
        }
        let waiting: Vec<FetchHandle> = conn.ids.owners().collect();
        for fetch in waiting {
            self.write_stream_query(fetch);
        }
    }

    /// Octets from an upstream.
    pub(super) fn upstream_bytes(&mut self, now: Instant, name: ConnHandle, bytes: &[u8]) {
        let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) else {
            return;
        };
        conn.heard_at = Some(now);
        if conn.reading.is_empty() {
            let used = self.read_replies(now, name, bytes);
            if let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) {
                conn.reading.keep(&bytes[used..]);
            }
        } else {
            conn.reading.keep(bytes);
            let kept = conn.reading.take();
            let used = self.read_replies(now, name, &kept);
            if let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) {
                conn.reading.put_back(kept, used);
            }
        }
    }

    fn read_replies(&mut self, now: Instant, name: ConnHandle, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while let Some((message, after)) = split_message(rest) {
            rest = after;
            if let Err(what) = self.stream_reply(now, name, message) {
                self.metrics.counters.count(what);
            }
        }
        bytes.len() - rest.len()
    }

    fn stream_reply(
        &mut self,
        now: Instant,
        name: ConnHandle,
        message: &[u8],
    ) -> Result<(), Counter> {
        let id = ResponseView::peek_id(message).ok_or(Counter::ReplyGarbage)?;
        let Some(Conn::Upstream(conn)) = self.conns.get(name) else {
            return Err(Counter::DeadHandles);
        };
        let fetch = match conn.ids.owner(id) {
            Owner::Live(fetch) => fetch,
            Owner::GaveUp => return Err(Counter::ReplyLate),
            Owner::Unknown => return Err(Counter::ReplyUnknownId),
        };
        let view = ResponseView::parse(message).map_err(|_| Counter::ReplyGarbage)?;
        self.check_question(fetch, &view)?;
        if let (Some(Conn::Upstream(conn)), Some(told)) =
            (self.conns.get_mut(name), view.keepalive())
        {
            conn.note_keepalive(told);
        }
        if let Some(Conn::Upstream(conn)) = self.conns.get_mut(name)
            && !conn.answered
        {
            conn.answered = true;
            self.endpoints[conn.endpoint].backoff.succeeded();
        }
        self.reply(now, fetch, &view, Carrier::Stream, &mut Out(None));
        Ok(())
    }

    /// A query on this connection has ended; `started` says when it was put there.
    pub(super) fn release_conn_id(
        &mut self,
        name: ConnHandle,
        id: u16,
        late: bool,
        started: Instant,
    ) {
        let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) else {
            return;
        };
        let (endpoint, is_http) = (conn.endpoint, conn.is_http);
        self.endpoints[endpoint].in_flight -= 1;
        if is_http {
            self.cancel_exchange(name, id);
        }
        let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) else {
            return;
        };
        if late {
            // What has not been written cannot be answered.
            match conn.stage {
                Stage::Waiting => conn.ids.release(id), // its time to connect will come
                Stage::Connecting => {
                    conn.ids.release(id);
                    if !conn.retired {
                        conn.retired = true;
                        self.endpoints[endpoint].connect_failed(self.now);
                    }
                }
                // Not an octet since the query was sent: nobody may be there any more.
                Stage::Open => {
                    if is_http {
                        conn.ids.release(id); // whatever comes, comes on an exchange that is over
                    } else {
                        conn.ids.give_up(id);
                    }
                    let silent = conn.heard_at.is_none_or(|at| at < started);
                    conn.retired |= silent || conn.is_worn();
                }
            }
        } else {
            conn.ids.release(id);
        }
        if conn.ids.live() > 0 {
            return;
        }
        if conn.retired || self.endpoints[endpoint].removed {
            self.close_upstream_conn(name);
        } else if conn.stage == Stage::Open {
            self.timers.set(conn.timer, self.now + conn.idle);
        }
    }

    /// A connection's timer: it may be connected now, or it has been idle long enough.
    pub(super) fn upstream_conn_due(&mut self, now: Instant, name: ConnHandle) {
        let Some(Conn::Upstream(conn)) = self.conns.get_mut(name) else {
            return;
        };
        match conn.stage {
            Stage::Waiting => {
                // Another connect may have failed meanwhile.
                if let Some(until) = self.endpoints[conn.endpoint].backoff.wait(now) {
                    return self.timers.set(conn.timer, until);
                }
                conn.stage = Stage::Connecting;
                let endpoint = conn.endpoint;
                self.connect(name, endpoint);
            }
            Stage::Connecting | Stage::Open if conn.ids.live() == 0 => {
                self.close_upstream_conn(name);
            }
            Stage::Connecting | Stage::Open => {}
        }
    }

    /// Closes a connection without queries in flight.
    pub(super) fn close_upstream_conn(&mut self, name: ConnHandle) {
        let Some(Conn::Upstream(conn)) = self.conns.get(name) else {
            return;
        };
        let asked_for = conn.stage != Stage::Waiting;
        self.forget_upstream_conn(name);
        if asked_for {
            self.actions.push_back(Action::CloseConn { conn: name, mode: CloseMode::Now });
        }
    }

    fn forget_upstream_conn(&mut self, name: ConnHandle) -> Option<UpstreamConn> {
        match self.conns.remove(name)? {
            Conn::Upstream(conn) => {
                self.timers.release(conn.timer);
                self.endpoints[conn.endpoint].conns.retain(|held| *held != name);
                for (_, exchange) in &conn.exchanges {
                    self.exchanges.remove(*exchange);
                }
                Some(conn)
            }
            Conn::Client(_) => unreachable!("the caller looked at the kind"),
        }
    }

    /// The connection broke or could not be made: its queries go elsewhere.
    pub(super) fn upstream_closed(&mut self, now: Instant, name: ConnHandle, how: Closed) {
        let Some(conn) = self.forget_upstream_conn(name) else {
            return;
        };
        let endpoint = conn.endpoint;
        let failure = match how {
            Closed::Cleanly => IoFailure::Reset,
            Closed::Failed(failure) => failure,
        };
        let was_open = conn.stage == Stage::Open;
        if !conn.answered {
            self.endpoints[endpoint].connect_failed(now);
        }
        for handle in conn.ids.owners() {
            self.endpoints[endpoint].in_flight -= 1;
            let Some(fetch) = self.fetches.get_mut(handle) else {
                continue;
            };
            fetch.attempt.via = AttemptVia::Nothing;
            if was_open {
                self.ask_again(now, handle, endpoint, failure);
            } else {
                self.attempt_failed(now, handle, Failure::Network(failure), &mut Out(None));
            }
        }
    }

    /// An upstream may close a connection at any time (RFC 7766 section 6.2.4): it is tried once more
    /// before the next one is.
    pub(super) fn ask_again(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        endpoint: usize,
        failure: IoFailure,
    ) {
        let Some(fetch) = self.fetches.get_mut(handle) else { return };
        if std::mem::replace(&mut fetch.reconnected, true) {
            self.attempt_failed(now, handle, Failure::Network(failure), &mut Out(None));
        } else {
            self.retry_stream(now, handle, endpoint);
        }
    }

    fn retry_stream(&mut self, now: Instant, handle: FetchHandle, endpoint: usize) {
        let retried = match self.fetches.get(handle) {
            Some(fetch) if fetch.is_spent() => Err(Failure::Network(IoFailure::Reset)),
            Some(_) => self.attempt_stream(now, handle, endpoint),
            None => return,
        };
        if let Err(failure) = retried {
            self.attempt_failed(now, handle, failure, &mut Out(None));
        }
    }
}

/// How many connections may lead to an endpoint.
pub(super) fn conns_max(endpoint: &Endpoint) -> usize {
    match endpoint.settings.protocol {
        UpstreamProtocol::Udp | UpstreamProtocol::Tcp | UpstreamProtocol::Dot => CONNS_PER_UPSTREAM,
        UpstreamProtocol::Doh => HTTP_CONNS_PER_UPSTREAM,
    }
}
