//! Servers that are asked over HTTPS: late, out of order, with other statuses, or not at all.

use std::net::SocketAddr;

use balancedns_core::config::{Alpn, Trust};
use balancedns_core::engine::{Closed, IoFailure, Security};
use balancedns_core::handle::{ConnHandle, ExchangeHandle};
use balancedns_core::limits::EXCHANGES_PER_UPSTREAM_CONN;
use balancedns_core::time::Duration;
use bytes::Bytes;

use super::World;
use super::client_exchanges::DNS_MESSAGE;
use super::queue::{AskedBy, ConnEvent, Event, Life};
use super::worker::{Conn, End, Exchange};
use crate::fault::Fault;
use crate::generation::{DOH_PATH, Protocol, host_name, place_of};
use crate::invariant::{Broken, Invariant};
use crate::machine::Http;
use crate::message::Asked;

/// Statuses that say that there is no answer.
const STATUSES: [u16; 7] = [204, 301, 400, 403, 404, 500, 503];

/// Whether a connection is protected as it has to be towards this port.
pub(super) fn is_protected(remote: SocketAddr, security: &Security) -> bool {
    let port = remote.port();
    match security {
        Security::Plain => port == Protocol::Tcp.port(),
        Security::Tls(tls) => {
            let place = place_of(remote);
            let is_its = place.is_some_and(|place| tls.server_name == host_name(place));
            let alpn = match tls.alpn {
                Alpn::Dot => Protocol::Dot,
                Alpn::Http2 => Protocol::Doh,
            };
            is_its && alpn.port() == port && tls.trust == Trust::System && tls.pins.is_empty()
        }
    }
}

impl World {
    /// An engine sends a request to a server.
    pub(super) fn request(
        &mut self,
        engine: usize,
        exchange: ExchangeHandle,
        conn: ConnHandle,
        target: &str,
        request: &Http,
    ) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        let server = match worker.conns.get(&conn) {
            Some(Conn::Server(server)) if server.speaks_http() => Some(server.remote),
            Some(Conn::Client(_) | Conn::Server(_)) | None => None,
        };
        self.checks.that(Invariant::S28, server.is_some(), || {
            format!("a request on {conn:?}, which is no open connection for them")
        })?;
        let remote = server.expect("just checked");
        let known = worker.exchanges.insert(exchange, Exchange { conn, of_client: None });
        let open = worker.exchanges.values().filter(|other| other.conn == conn).count();
        let within = known.is_none() && open <= EXCHANGES_PER_UPSTREAM_CONN;
        self.checks.that(Invariant::S10, within, || format!("{open} exchanges on {conn:?}"))?;
        let name = host_name(place_of(remote).expect("no bootstrap server is asked so"));
        let is_right = target == format!("POST https://{name}{DOH_PATH}")
            && request.header("content-type") == Some(DNS_MESSAGE)
            && request.header("accept") == Some(DNS_MESSAGE);
        self.checks.that(Invariant::S28, is_right, || format!("a request of {name}: {target}"))?;
        let message = request.body.clone();
        // What an HTTP cache may keep has id 0 (RFC 8484 section 4.1).
        self.checks.that(Invariant::S9, message.starts_with(&[0, 0]), || {
            format!("a request with an id: {message:02x?}")
        })?;
        self.check_sent(engine, remote, &message)?;
        let life = self.workers[engine].life(engine);
        let at = self.now + self.one_way();
        let (place, by) = (place_of(remote), AskedBy::Exchange(conn, exchange));
        self.queue.push(at, Event::Asked { place, life, by, message });
        Ok(())
    }

    /// An engine gives a request up.
    pub(super) fn cancel(&mut self, engine: usize, exchange: ExchangeHandle) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        let known = worker.exchanges.get(&exchange).is_some_and(|it| it.of_client.is_none());
        worker.bury(End::Exchange(exchange));
        self.checks.that(Invariant::S17, known, || {
            format!("{exchange:?} was given up, which does not exist")
        })
    }

    pub(super) fn reply_by_exchange(
        &mut self,
        (place, life): (usize, Life),
        (conn, exchange): (ConnHandle, ExchangeHandle),
        name: usize,
        asked: &Asked,
        message: &[u8],
    ) {
        let at = self.now + self.one_way();
        let event = |what| Event::Conn { life, conn, what };
        let fails = || event(ConnEvent::Failed(exchange, IoFailure::Reset));
        if self.goes_away(life, conn) || self.faults.strike(Fault::ExchangeFails) {
            return self.queue.push(at, fails());
        }
        if self.faults.strike(Fault::GoAway) {
            if let Some(Conn::Server(server)) = self.workers[life.engine].conns.get_mut(&conn) {
                server.goes_away = true;
            }
            self.queue.push(at, fails());
            let later = self.faults.draw(Fault::GoAway).between(1, 300_000);
            let at = at + Duration::from_micros(later);
            return self.queue.push(at, event(ConnEvent::Closed(Closed::Cleanly)));
        }
        for (fault, how) in [
            (Fault::StreamReset, Closed::Failed(IoFailure::Reset)),
            (Fault::StreamEnds, Closed::Cleanly),
        ] {
            if self.faults.strike(fault) {
                return self.queue.push(at, event(ConnEvent::Closed(how)));
            }
        }
        if self.faults.strike(Fault::StreamSilent) {
            return;
        }
        let (mut reply, mut number) = self.make_reply(place, name, asked, message);
        if self.damage(asked, &mut reply) {
            number = None;
        }
        let (mut status, mut media_type) = (200, DNS_MESSAGE);
        if self.faults.strike(Fault::WrongStatus) {
            status = self.faults.draw(Fault::WrongStatus).pick(&STATUSES);
            number = None;
        }
        if self.faults.strike(Fault::WrongMediaType) {
            media_type = "text/html";
            number = None;
        }
        let is_slow = self.suffers(place, &[Fault::Slow]);
        let at = at + self.delay(is_slow);
        let response = http::Response::builder().status(status).header("content-type", media_type);
        let response = Box::new(response.body(Bytes::from(reply)).expect("valid"));
        self.queue.push(at, event(ConnEvent::Answered(exchange, response, number)));
    }

    /// Whether a server takes nothing new on a connection.
    fn goes_away(&self, life: Life, conn: ConnHandle) -> bool {
        let conn = self.workers[life.engine].conns.get(&conn);
        matches!(conn, Some(Conn::Server(server)) if server.goes_away)
    }
}
