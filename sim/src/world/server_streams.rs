//! Connections to servers: made, refused, broken, slow, and what goes over them.

use std::net::SocketAddr;

use balancedns_core::engine::{Closed, Established, IoFailure, Security, TlsFailure};
use balancedns_core::handle::{ConnHandle, ExchangeHandle};
use balancedns_core::limits::{RECONNECT_BACKOFF, RECONNECT_BACKOFF_MAX};
use balancedns_core::time::{Duration, Instant};
use bytes::{Bytes, BytesMut};

use super::World;
use super::queue::{AskedBy, ConnEvent, Event, Life};
use super::server_exchanges::is_protected;
use super::servers::Outage;
use super::worker::{Conn, End, Worker};
use crate::fault::Fault;
use crate::generation::{Protocol, place_of};
use crate::invariant::{Broken, Invariant};
use crate::machine::Input;
use crate::message::Asked;

/// Why there may be no TLS session.
const TLS_FAILURES: [TlsFailure; 8] = [
    TlsFailure::Expired,
    TlsFailure::NotYetValid,
    TlsFailure::WrongName,
    TlsFailure::UnknownIssuer,
    TlsFailure::WrongPin,
    TlsFailure::BadCertificate,
    TlsFailure::WrongProtocol,
    TlsFailure::Protocol,
];

/// A connection to a server.
#[derive(Debug)]
pub(super) struct ServerConn {
    pub(super) remote: SocketAddr,
    /// The generation that it was made under: a later one may have other settings, and then counts
    /// its failures anew.
    generation: usize,
    established: bool,
    /// Something has come over it.
    answered: bool,
    /// When the last octets that are under way arrive at the engine.
    next_at: Instant,
    /// The server takes no new HTTP exchange.
    pub(super) goes_away: bool,
}

impl ServerConn {
    fn is_http(&self) -> bool {
        self.remote.port() == Protocol::Doh.port()
    }

    /// Whether it is open for HTTP exchanges.
    pub(super) fn speaks_http(&self) -> bool {
        self.established && self.is_http()
    }
}

/// Connects to a server that came to nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectFailed {
    /// In a row.
    times: u32,
    /// No connect before.
    until: Instant,
}

impl Worker {
    /// A connection ends. If nothing ever came over it, the next connect has to wait, twice as long
    /// each time.
    fn note_conn_end(&mut self, conn: ConnHandle, now: Instant) {
        let Some(Conn::Server(server)) = self.conns.get(&conn) else { return };
        if server.answered || server.generation != self.generation {
            return;
        }
        let first = ConnectFailed { times: 0, until: now };
        let failed = self.connect_failed.entry(server.remote).or_insert(first);
        if now.since(failed.until) > RECONNECT_BACKOFF_MAX {
            failed.times = 0;
        }
        let wait = RECONNECT_BACKOFF * (1 << failed.times.min(16));
        failed.times += 1;
        failed.until = now + wait.min(RECONNECT_BACKOFF_MAX);
    }
}

impl World {
    /// An engine wants a connection to a server.
    pub(super) fn connect(
        &mut self,
        engine: usize,
        conn: ConnHandle,
        remote: SocketAddr,
        security: &Security,
    ) -> Result<(), Broken> {
        self.checks.that(Invariant::S28, is_protected(remote, security), || {
            format!("connecting to {remote} with {security:?}")
        })?;
        let worker = &mut self.workers[engine];
        let life = worker.life(engine);
        let failed = worker.connect_failed.get(&remote).copied();
        let waited = failed.is_none_or(|failed| self.now >= failed.until);
        let state = ServerConn {
            remote,
            generation: worker.generation,
            established: false,
            answered: false,
            next_at: self.now,
            goes_away: false,
        };
        worker.conns.insert(conn, Conn::Server(state));
        let count = worker.conns.len();
        self.checks.that(Invariant::S12, waited, || {
            format!("connecting to {remote} too soon: {failed:?}")
        })?;
        let open = count <= balancedns_core::limits::CONNS;
        self.checks.that(Invariant::S10, open, || format!("{count} connections"))?;
        let mut at = self.now + self.one_way() * 2;
        let place = place_of(remote);
        let gone = place.is_some_and(|place| !self.is_at(place, remote) || self.is_deaf(place));
        if gone || self.faults.strike(Fault::ConnectSilent) {
            return Ok(());
        }
        let unreachable = place.is_some_and(|place| self.suffers(place, &[Fault::Unreachable]));
        let what = if unreachable {
            ConnEvent::Closed(Closed::Failed(IoFailure::Unreachable))
        } else if place.is_some_and(|place| self.servers[place].outage == Some(Outage::Refusing))
            || self.faults.strike(Fault::ConnectRefused)
        {
            ConnEvent::Closed(Closed::Failed(IoFailure::Refused))
        } else if *security == Security::Plain {
            ConnEvent::Established
        } else {
            at = at + self.one_way() * 2;
            if self.faults.strike(Fault::TlsSilent) {
                return Ok(());
            }
            if self.faults.strike(Fault::TlsFails) {
                let why = self.faults.draw(Fault::TlsFails).pick(&TLS_FAILURES);
                ConnEvent::Closed(Closed::Failed(IoFailure::Tls(why)))
            } else {
                ConnEvent::Established
            }
        };
        self.queue.push(at, Event::Conn { life, conn, what });
        Ok(())
    }

    /// An engine writes to a connection.
    pub(super) fn write(
        &mut self,
        engine: usize,
        conn: ConnHandle,
        octets: Bytes,
    ) -> Result<(), Broken> {
        let (number, remote) = match self.workers[engine].conns.get(&conn) {
            Some(Conn::Client(number)) => (Some(*number), None),
            Some(Conn::Server(server)) => {
                (None, Some((server.remote, server.established && !server.is_http())))
            }
            None => {
                return self.checks.that(Invariant::S17, false, || {
                    format!("a write to {conn:?}, which is closed")
                });
            }
        };
        if let Some(number) = number {
            return self.link_written(number, &octets);
        }
        let (remote, established) = remote.expect("it is one or the other");
        self.checks.that(Invariant::S9, established, || {
            format!("a write to {conn:?}, which is not open for octets")
        })?;
        let life = self.workers[engine].life(engine);
        self.octets_leave(octets.len(), |world, at, part| {
            let what = ConnEvent::Written(part);
            world.queue.push(at, Event::Conn { life, conn, what });
        });
        let mut rest = octets;
        while !rest.is_empty() {
            let length =
                rest.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)));
            let whole = length.filter(|length| rest.len() >= 2 + length);
            self.checks
                .that(Invariant::S9, whole.is_some(), || "half a query was written".to_owned())?;
            let message = rest.split_to(2 + whole.expect("just checked")).slice(2..);
            self.check_sent(engine, remote, &message)?;
            let at = self.now + self.one_way();
            let (place, by) = (place_of(remote), AskedBy::Conn(conn));
            self.queue.push(at, Event::Asked { place, life, by, message });
        }
        Ok(())
    }

    pub(super) fn reply_by_stream(
        &mut self,
        place: usize,
        life: Life,
        conn: ConnHandle,
        name: usize,
        asked: &Asked,
        message: &[u8],
    ) -> Result<(), Broken> {
        let at = self.now + self.one_way();
        let event = |what| Event::Conn { life, conn, what };
        if self.faults.strike(Fault::StreamReset) {
            let what = ConnEvent::Closed(Closed::Failed(IoFailure::Reset));
            self.queue.push(at, event(what));
            return Ok(());
        }
        if self.faults.strike(Fault::StreamEnds) {
            self.queue.push(at, event(ConnEvent::End));
            return Ok(());
        }
        if self.faults.strike(Fault::StreamSilent) {
            return Ok(());
        }
        let (mut reply, mut number) = self.make_reply(place, name, asked, message);
        if self.damage(asked, &mut reply) {
            number = None;
        }
        let is_slow = self.suffers(place, &[Fault::Slow]);
        let at = at + self.delay(is_slow);
        self.stream_octets(life, conn, at, &reply, number);
        Ok(())
    }

    /// Puts a message onto a connection towards an engine, in one piece or in several.
    pub(super) fn stream_octets(
        &mut self,
        life: Life,
        conn: ConnHandle,
        at: Instant,
        message: &[u8],
        number: Option<u32>,
    ) {
        let Some(Conn::Server(server)) = self.workers[life.engine].conns.get_mut(&conn) else {
            return;
        };
        let mut at = at.max(server.next_at);
        let length = u16::try_from(message.len()).expect("replies are short enough");
        let mut octets = BytesMut::from(&length.to_be_bytes()[..]);
        octets.extend_from_slice(message);
        let mut rest = octets.freeze();
        while rest.len() > 1 && self.faults.strike(Fault::StreamPieces) {
            let draw = self.faults.draw(Fault::StreamPieces);
            let (cut, pause) = (1 + draw.below(rest.len() - 1), draw.between(1, 5_000));
            let what = ConnEvent::Octets(rest.split_to(cut), Vec::new());
            self.queue.push(at, Event::Conn { life, conn, what });
            at = at + Duration::from_micros(pause);
        }
        let what = ConnEvent::Octets(rest, number.into_iter().collect());
        self.queue.push(at, Event::Conn { life, conn, what });
        if let Some(Conn::Server(server)) = self.workers[life.engine].conns.get_mut(&conn) {
            server.next_at = at;
        }
    }

    /// Something happens on a connection to a server.
    pub(super) fn conn_event(
        &mut self,
        life: Life,
        conn: ConnHandle,
        what: ConnEvent,
    ) -> Result<(), Broken> {
        let engine = life.engine;
        let worker = &mut self.workers[engine];
        if !worker.is_alive(life) {
            return Ok(());
        }
        let Some(Conn::Server(server)) = worker.conns.get_mut(&conn) else { return Ok(()) };
        match what {
            ConnEvent::Established => {
                server.established = true;
                let alpn = match server.remote.port() {
                    853 => Some(Bytes::from_static(b"dot")),
                    443 => Some(Bytes::from_static(b"h2")),
                    _ => None,
                };
                self.feed(engine, Input::Established(conn, Established { alpn, client: None }))
            }
            ConnEvent::Octets(octets, numbers) => {
                // Who answers on one connection may be connected to again.
                let remote = server.remote;
                server.answered = true;
                worker.connect_failed.remove(&remote);
                for number in numbers {
                    self.truth.arrived(number, self.now);
                }
                self.feed(engine, Input::Octets(conn, octets))
            }
            ConnEvent::End => {
                worker.note_conn_end(conn, self.now);
                self.feed(engine, Input::EndOfStream(conn))
            }
            ConnEvent::Written(octets) => self.feed(engine, Input::Written(conn, octets)),
            ConnEvent::Answered(exchange, response, number) => {
                let remote = server.remote;
                if !worker.exchanges.contains_key(&exchange) {
                    return Ok(()); // given up
                }
                if let Some(Conn::Server(server)) = worker.conns.get_mut(&conn) {
                    server.answered = true;
                }
                worker.connect_failed.remove(&remote);
                worker.bury(End::Exchange(exchange));
                if let Some(number) = number {
                    self.truth.arrived(number, self.now);
                }
                self.feed(engine, Input::Answered(exchange, response))
            }
            ConnEvent::Failed(exchange, why) => self.exchange_fails(engine, exchange, why),
            ConnEvent::Closed(how) => {
                // An adapter may notice exchanges first, and then their connection.
                if server.is_http() && self.latency.chance(500) {
                    self.all_exchanges_fail(engine, conn)?;
                }
                let worker = &mut self.workers[engine];
                if !worker.conns.contains_key(&conn) {
                    return Ok(()); // closed from here meanwhile
                }
                worker.note_conn_end(conn, self.now);
                worker.bury(End::Conn(conn));
                self.feed(engine, Input::Closed(conn, how))
            }
        }
    }

    fn all_exchanges_fail(&mut self, engine: usize, conn: ConnHandle) -> Result<(), Broken> {
        let exchanges = self.workers[engine].exchanges.iter();
        let on_it = exchanges.filter(|(_, exchange)| exchange.conn == conn);
        let mut on_it: Vec<ExchangeHandle> = on_it.map(|(handle, _)| *handle).collect();
        on_it.sort_unstable_by_key(|handle| handle.index());
        for exchange in on_it {
            self.exchange_fails(engine, exchange, IoFailure::Reset)?;
        }
        Ok(())
    }

    fn exchange_fails(
        &mut self,
        engine: usize,
        exchange: ExchangeHandle,
        why: IoFailure,
    ) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        if !worker.exchanges.contains_key(&exchange) {
            return Ok(()); // given up
        }
        worker.bury(End::Exchange(exchange));
        self.feed(engine, Input::Failed(exchange, why))
    }

    /// An engine closes a connection.
    pub(super) fn conn_closed_by_engine(
        &mut self,
        engine: usize,
        conn: ConnHandle,
    ) -> Result<(), Broken> {
        let known = match self.workers[engine].conns.get(&conn) {
            Some(Conn::Client(number)) => Some(Some(*number)),
            Some(Conn::Server(_)) => Some(None),
            None => None,
        };
        self.workers[engine].bury(End::Conn(conn));
        self.checks
            .that(Invariant::S17, known.is_some(), || format!("{conn:?} was closed twice"))?;
        match known.flatten() {
            Some(number) => self.link_closed(number),
            None => Ok(()),
        }
    }

    pub(super) fn pause(
        &mut self,
        engine: usize,
        conn: ConnHandle,
        paused: bool,
    ) -> Result<(), Broken> {
        if let Some(Conn::Client(number)) = self.workers[engine].conns.get(&conn) {
            let number = *number;
            self.pause_link(number, paused);
        }
        Ok(())
    }
}
