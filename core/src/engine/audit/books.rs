//! Sums that belong to somebody else than what they are added up from, each made in one pass.

use super::{Armed, AttemptVia, Candidate, Conn, Engine, Purpose, ReplyTo, Target};
use crate::handle::{ConnHandle, ExchangeHandle, HostHandle};
use crate::hash::{Map, Set};
use crate::timers::TimerId;

/// What an audit adds up before it compares.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Queries that wait for an answer, by the client's connection.
    pub(super) waiters: Map<ConnHandle, usize>,
    /// Exchanges whose question waits for an answer.
    pub(super) exchanges: Set<ExchangeHandle>,
    /// Places in the line of connections with something to send.
    pub(super) dirty: Map<ConnHandle, usize>,
    /// Attempts in flight, by endpoint.
    pub(super) asked: Map<usize, usize>,
    /// Retired sockets, by endpoint.
    pub(super) retired: Map<usize, usize>,
    /// Endpoints that something leads to.
    pub(super) used: Set<usize>,
    /// Look-ups in flight, by host.
    pub(super) lookups: Map<HostHandle, usize>,
    /// Questions that wait for an address, by host.
    pub(super) waiting: Map<HostHandle, usize>,
    /// Timers whose owner has not yet been met.
    pub(super) timers: Map<TimerId, Armed>,
}

impl Books {
    pub(super) fn of(engine: &Engine) -> Self {
        let mut books = Self::default();
        books.add_fetches(engine);
        for waiter in engine.processes.iter().flat_map(|(_, process)| process.waiters()) {
            books.add_waiter(waiter.reply_to);
        }
        for (_, socket) in engine.sockets.iter().filter(|(_, socket)| socket.retired) {
            *books.retired.entry(socket.endpoint).or_default() += 1;
        }
        for handle in &engine.dirty {
            *books.dirty.entry(*handle).or_default() += 1;
        }
        for target in &engine.targets {
            match target {
                Target::Endpoint(place) => books.used.extend([*place]),
                Target::Host(host) => {
                    let host = engine.hosts.get(*host);
                    books.used.extend(host.iter().flat_map(|host| &host.endpoints));
                }
            }
        }
        for candidate in &engine.bootstrap {
            match candidate {
                Candidate::Endpoint(place) => books.used.extend([*place]),
                Candidate::Host(_) => {}
            }
        }
        books.timers.extend(engine.timers.iter().map(|(id, due, at)| (id, (due, at))));
        books
    }

    fn add_waiter(&mut self, reply_to: ReplyTo) {
        match reply_to {
            ReplyTo::Stream(conn) => *self.waiters.entry(conn).or_default() += 1,
            ReplyTo::Exchange(exchange) => self.exchanges.extend([exchange]),
            ReplyTo::Datagram(_) => {}
        }
    }

    fn add_fetches(&mut self, engine: &Engine) {
        for (_, fetch) in engine.fetches.iter() {
            match fetch.purpose {
                Purpose::Address(host, _) => *self.lookups.entry(host).or_default() += 1,
                Purpose::Clients | Purpose::Probe => {}
            }
            for waiter in &fetch.waiters {
                self.add_waiter(waiter.reply_to);
            }
            let endpoint = match fetch.attempt.via {
                AttemptVia::Nothing => None,
                AttemptVia::Host(host) => {
                    *self.waiting.entry(host).or_default() += 1;
                    None
                }
                AttemptVia::Socket(socket, _) => {
                    engine.sockets.get(socket).map(|socket| socket.endpoint)
                }
                AttemptVia::Conn(conn, _) => match engine.conns.get(conn) {
                    Some(Conn::Upstream(conn)) => Some(conn.endpoint),
                    Some(Conn::Client(_)) | None => None,
                },
            };
            if let Some(endpoint) = endpoint {
                *self.asked.entry(endpoint).or_default() += 1;
            }
        }
    }
}
