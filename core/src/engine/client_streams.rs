//! Clients' stream connections: accepting, reading queries, writing answers, pausing, closing.

use std::net::{IpAddr, SocketAddr};

use super::question::{Client, Verdict, count_reply};
use super::shared::Standing;
use super::{
    AcceptRefused, Accepted, Action, CloseMode, Conn, Counted, Due, Engine, Established,
    ListenerId, Out, ReplyTo,
};
use crate::config::ListenSocket;
use crate::conn::{ClientConn, Overdue, append_message, split_message};
use crate::handle::ConnHandle;
use crate::limits::{CLIENT_PIPELINE, CLIENT_UNSENT_OCTETS, UNSENT_OCTETS};
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::policy::fold;
use crate::time::Instant;
use crate::transport::Transport;

impl Engine {
    /// A connection was accepted: count it in, give it a name.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        listener: ListenerId,
        peer: SocketAddr,
    ) -> Result<Accepted, AcceptRefused> {
        let admitted = self.admit(listener, peer);
        let (socket, peer, counted) = match admitted {
            Ok(admitted) => admitted,
            Err(refused) => {
                self.metrics.counters.count(Counter::ConnsRefused);
                return Err(refused);
            }
        };
        let timers = &mut self.timers;
        let proxied = self.snapshot.listen.proxy_protocol_from.allows(peer.ip());
        let established = !proxied && !socket.tls;
        let made = self.conns.insert_with(|handle| {
            let timer = timers.allocate(Due::Conn(handle));
            let transport = socket.transport;
            Conn::Client(ClientConn::new(transport, peer, counted, now, timer, established))
        });
        let Ok(handle) = made else {
            self.shared.release_connection(counted);
            self.metrics.counters.count(Counter::ConnsRefused);
            return Err(AcceptRefused::TooManyConnections);
        };
        self.metrics.counters.count(Counter::ConnsAccepted);
        self.update_client(now, handle);
        Ok(Accepted { conn: handle, proxied, socket })
    }

    fn admit(
        &self,
        listener: ListenerId,
        peer: SocketAddr,
    ) -> Result<(ListenSocket, SocketAddr, Counted), AcceptRefused> {
        if self.drain.is_some() {
            return Err(AcceptRefused::Stopping);
        }
        let settings = &self.snapshot.listen;
        let socket = settings.socket(listener).ok_or(AcceptRefused::Stopping)?;
        let peer = SocketAddr::new(fold(peer.ip()), peer.port());
        let speaks_for_others = settings.proxy_protocol_from.allows(peer.ip())
            || (socket.transport == Transport::Doh && settings.trusted_proxies.allows(peer.ip()));
        let standing = if speaks_for_others { Standing::Proxy } else { self.standing(peer.ip()) };
        let counted = self.shared.admit_connection(peer.ip(), standing, settings)?;
        Ok((*socket, peer, counted))
    }

    fn standing(&self, client: IpAddr) -> Standing {
        if self.snapshot.acl.allows(client) { Standing::Client } else { Standing::Stranger }
    }

    /// The handshakes of a client's connection are over. Whom a proxy announces counts in its place.
    pub(super) fn client_established(
        &mut self,
        now: Instant,
        handle: ConnHandle,
        how: &Established,
    ) {
        let announced = how.client.map(|client| SocketAddr::new(fold(client.ip()), client.port()));
        let standing = announced.map(|client| self.standing(client.ip()));
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return;
        };
        conn.note_established(now);
        if let Some((client, standing)) = announced.zip(standing) {
            if !is_planted(Bug::CarriedAddressIgnored) {
                conn.peer = client;
            }
            self.shared.release_connection(conn.counted);
            match self.shared.admit_connection(client.ip(), standing, &self.snapshot.listen) {
                Ok(counted) => conn.counted = counted,
                Err(_) => {
                    self.metrics.counters.count(Counter::ConnsRefused);
                    return self.close_uncounted(handle);
                }
            }
        }
        self.update_client(now, handle);
    }

    /// Octets from a client.
    pub(super) fn client_bytes(&mut self, now: Instant, handle: ConnHandle, bytes: &[u8]) {
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return;
        };
        let used = if conn.reading.is_empty() && conn.takes_queries() {
            let used = self.read_queries(now, handle, bytes);
            let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
                return;
            };
            conn.reading.keep(&bytes[used..]);
            used
        } else {
            conn.reading.keep(bytes);
            self.read_kept(now, handle)
        };
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return;
        };
        conn.note_read(now, used > 0);
        self.update_client(now, handle);
    }

    /// Goes on with what was kept while a connection could take no queries.
    pub(super) fn client_resumed(&mut self, now: Instant, handle: ConnHandle) {
        let used = self.read_kept(now, handle);
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return;
        };
        conn.note_read(now, used > 0);
        self.update_client(now, handle);
    }

    fn read_kept(&mut self, now: Instant, handle: ConnHandle) -> usize {
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return 0;
        };
        let kept = conn.reading.take();
        let used = self.read_queries(now, handle, &kept);
        if let Some(Conn::Client(conn)) = self.conns.get_mut(handle) {
            conn.reading.put_back(kept, used);
        }
        used
    }

    /// Takes whole messages as long as the connection may have more in flight; octets used.
    fn read_queries(&mut self, now: Instant, handle: ConnHandle, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while let Some(client) = self.next_query_of(handle)
            && let Some((message, after)) = split_message(rest)
        {
            rest = after;
            self.stream_query(now, handle, client, message);
        }
        bytes.len() - rest.len()
    }

    /// Who asks on this connection, if another query may be taken from it.
    fn next_query_of(&self, handle: ConnHandle) -> Option<Client> {
        match self.conns.get(handle)? {
            Conn::Client(conn) if conn.takes_queries() => {
                Some(Client { address: conn.peer, transport: conn.transport })
            }
            Conn::Client(_) | Conn::Upstream(_) => None,
        }
    }

    /// Takes a message from a client; a reply goes into the scratch buffer, and is counted.
    pub(super) fn decide_in_scratch<'m>(
        &mut self,
        now: Instant,
        message: &'m [u8],
        client: Client,
    ) -> Verdict<'m> {
        let (mut desk, scratch) = self.desk();
        let verdict = desk.decide(now, message, client, scratch);
        if let Verdict::Reply(written) = &verdict {
            count_reply(desk.counters, written.rcode, &scratch[..written.len]);
        }
        verdict
    }

    fn stream_query(&mut self, now: Instant, handle: ConnHandle, client: Client, message: &[u8]) {
        match self.decide_in_scratch(now, message, client) {
            // Octets that are no query at all: what follows them cannot be trusted either.
            Verdict::Drop => {
                if let Some(Conn::Client(conn)) = self.conns.get_mut(handle) {
                    conn.closing = true;
                }
                self.update_client(now, handle);
            }
            Verdict::Reply(written) => {
                self.append_answer(handle, written.len);
                self.log_written(now, client, &written);
            }
            Verdict::Forward(forward) => {
                if let Some(Conn::Client(conn)) = self.conns.get_mut(handle) {
                    conn.in_flight += 1;
                }
                let reply_to = ReplyTo::Stream(handle);
                self.forward(now, forward, client, reply_to, now, &mut Out(None));
            }
            Verdict::Suspend(forward, plugin) => {
                if let Some(Conn::Client(conn)) = self.conns.get_mut(handle) {
                    conn.in_flight += 1;
                }
                let reply_to = ReplyTo::Stream(handle);
                self.suspend(now, forward, plugin, client, reply_to, now, &mut Out(None));
            }
            Verdict::Ignore => self.metrics.counters.count(Counter::DroppedPolicy),
        }
    }

    /// Sends what is answered already and closes, without waiting for that here: the process ends.
    pub(super) fn flush_and_close(&mut self, now: Instant, handle: ConnHandle) {
        if let Some(write) = self.take_writes(now, handle) {
            self.actions.push_back(write);
        }
        if self.conns.contains(handle) {
            self.close_client(handle, CloseMode::AfterWrites);
        }
    }

    /// Queues the reply in the scratch buffer for a waiter; whether its connection still lives.
    pub(super) fn answer_stream(&mut self, now: Instant, handle: ConnHandle, len: usize) -> bool {
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return false;
        };
        conn.in_flight -= 1;
        if conn.closing {
            return false;
        }
        let above_its_own = conn.unsent_octets() > CLIENT_UNSENT_OCTETS;
        if above_its_own && self.unsent_octets + len > UNSENT_OCTETS {
            self.report_limit(now, Counter::LimitUnsent, "unsent answers");
            self.close_client(handle, CloseMode::Now);
            return false;
        }
        self.append_answer(handle, len);
        self.update_client(now, handle);
        true
    }

    /// A query that was waited for gets no answer.
    pub(super) fn ignore_on_stream(&mut self, now: Instant, handle: ConnHandle) {
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else { return };
        conn.in_flight -= 1;
        self.update_client(now, handle);
    }

    fn append_answer(&mut self, handle: ConnHandle, len: usize) {
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return;
        };
        let before = conn.out.len();
        append_message(&mut conn.out, &self.scratch[..len]);
        self.unsent_octets += conn.out.len() - before;
        if !conn.dirty {
            conn.dirty = true;
            self.dirty.push_back(handle);
        }
    }

    /// The client sends nothing more: it gets its answers, then the connection ends.
    pub(super) fn client_half_closed(&mut self, now: Instant, handle: ConnHandle) {
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return;
        };
        conn.half_closed = true;
        self.update_client(now, handle);
    }

    /// Answers left for the kernel.
    pub(super) fn client_written(&mut self, now: Instant, handle: ConnHandle, octets: usize) {
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return;
        };
        let before = conn.unsent_octets();
        conn.note_written(now, octets);
        self.unsent_octets -= before - conn.unsent_octets();
        self.update_client(now, handle);
    }

    /// After any change: pause or resume reading, close if nothing is left to do, set the timer.
    pub(super) fn update_client(&mut self, now: Instant, handle: ConnHandle) {
        let Some(Conn::Client(conn)) = self.conns.get_mut(handle) else {
            return;
        };
        if conn.is_http() {
            // A client has at most so many exchanges, and HTTP has a flow control of its own.
        } else if !conn.paused && !conn.takes_queries() {
            conn.note_paused();
            self.actions.push_back(Action::PauseReading { conn: handle });
        } else if conn.paused
            && !conn.closing
            && conn.in_flight <= CLIENT_PIPELINE / 2
            && conn.unsent_octets() <= CLIENT_UNSENT_OCTETS / 2
        {
            conn.paused = false;
            self.actions.push_back(Action::ResumeReading { conn: handle });
            self.resumed.push_back(handle);
        }
        if conn.closing && conn.unsent_octets() == 0 {
            // As long as it has something to send it keeps its place, and the deadline for writing.
            return self.close_client(handle, CloseMode::AfterWrites);
        }
        let draining = self.drain.is_some() && !is_planted(Bug::DrainWaitsForIdle);
        let ending = conn.half_closed || draining;
        if ending && conn.is_quiet() && !conn.paused && !self.resumed.contains(&handle) {
            return self.close_client(handle, CloseMode::AfterWrites);
        }
        if let Some((at, _)) = conn.due(&self.snapshot.listen)
            && self.timers.deadline(conn.timer).is_none_or(|armed| at < armed)
        {
            self.timers.set(conn.timer, at.max(now));
        }
    }

    /// A connection's timer: something took too long, or less time has passed than it seemed.
    pub(super) fn client_due(&mut self, now: Instant, handle: ConnHandle) {
        let Some(Conn::Client(conn)) = self.conns.get(handle) else {
            return;
        };
        match conn.due(&self.snapshot.listen) {
            Some((at, Overdue::Reading)) if at <= now && conn.is_http() => {
                self.exchange_overdue(now, handle);
            }
            Some((at, overdue)) if at <= now => {
                self.metrics.counters.count(Counter::ConnsTimedOut);
                let mode = match overdue {
                    Overdue::Idle => CloseMode::AfterWrites,
                    Overdue::Handshake | Overdue::Reading | Overdue::Writing => CloseMode::Now,
                };
                self.close_client(handle, mode);
            }
            Some(_) if is_planted(Bug::IdleClientUnarmed) => {}
            Some((at, _)) => self.timers.set(conn.timer, at),
            None => {}
        }
    }

    /// Closes a client's connection from our side.
    pub(super) fn close_client(&mut self, handle: ConnHandle, mode: CloseMode) {
        self.forget_client(handle);
        self.actions.push_back(Action::CloseConn { conn: handle, mode });
    }

    /// Takes a connection out of all tables.
    pub(super) fn forget_client(&mut self, handle: ConnHandle) {
        let Some(Conn::Client(conn)) = self.conns.remove(handle) else {
            return;
        };
        self.shared.release_connection(conn.counted);
        self.forget_uncounted(&conn);
    }

    /// Closes a connection that is counted out already.
    fn close_uncounted(&mut self, handle: ConnHandle) {
        if let Some(Conn::Client(conn)) = self.conns.remove(handle) {
            self.forget_uncounted(&conn);
        }
        self.actions.push_back(Action::CloseConn { conn: handle, mode: CloseMode::Now });
    }

    fn forget_uncounted(&mut self, conn: &ClientConn) {
        self.timers.release(conn.timer);
        if !is_planted(Bug::UnsentMiscounted) {
            self.unsent_octets -= conn.unsent_octets();
        }
        if is_planted(Bug::ExchangesKeptOnClose) {
            return;
        }
        for exchange in &conn.exchanges {
            self.exchanges.remove(*exchange);
        }
    }
}
