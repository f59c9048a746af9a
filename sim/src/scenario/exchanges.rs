//! HTTP exchanges of a scenario: what clients request, what upstreams are requested for, and proxies'
//! headers.

use balancedns_core::engine::Transport;
use balancedns_core::handle::{ConnHandle, ExchangeHandle};
use bytes::Bytes;

use super::message::Query;
use super::parse::Client;
use super::steps::Request;
use super::upstreams::Carrier;
use super::world::{Conn, World};
use crate::machine::{Http, Input};
use crate::message::proxy_header;

/// An HTTP exchange: its connection, and the client if it is one's.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) conn: ConnHandle,
    pub(super) client: Option<usize>,
}

/// A request that is being offered to the engine.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) client: usize,
    pub(super) id: u16,
    pub(super) query: Option<Query>,
    pub(super) body: Vec<Bytes>,
    pub(super) ends: bool,
}

impl World {
    /// The header that a client's proxy puts before a datagram; nothing if it has none.
    pub(super) fn proxy_header(&self, client: usize) -> Vec<u8> {
        let Client { address, proxy, .. } = self.peers[client];
        proxy.map_or(Vec::new(), |_| proxy_header(address))
    }

    /// A client makes a request on its connection; of one that asks something, its query.
    pub(super) fn request(
        &mut self,
        client: usize,
        asked: (u16, Option<Query>),
        request: &Request,
    ) -> Result<(), String> {
        if self.clients[client].conn.is_none() && !self.connect(client, true)? {
            return Err("the connection was not taken".to_owned());
        }
        let conn = self.clients[client].conn.ok_or("there is no connection")?;
        let mut head = http::Request::builder().method(&*request.method).uri(&*request.target);
        for (name, value) in &request.headers {
            head = head.header(name, value);
        }
        let (head, ()) = head.body(()).map_err(|error| error.to_string())?.into_parts();
        let (id, query) = asked;
        let pieces = query.as_ref().and_then(|query| query.pieces);
        let pieces = request.body.chunks(pieces.unwrap_or(usize::MAX));
        let body = pieces.map(Bytes::copy_from_slice).collect();
        let ends = !request.unfinished;
        self.opening = Some(Opening { client, id, query, body, ends });
        self.inputs.push_back(Input::Opens(conn, Box::new(head)));
        self.pump()?;
        match self.opening {
            None => Ok(()),
            Some(_) => Err("the request was not taken".to_owned()),
        }
    }

    /// A request was taken: its body follows, also if it has none.
    pub(super) fn request_opened(&mut self, handle: ExchangeHandle) -> Result<(), String> {
        let Opening { client, id, query, body, ends } =
            self.opening.take().ok_or("nobody makes a request")?;
        let state = &mut self.clients[client];
        let conn = state.conn.ok_or("there is no connection")?;
        state.requested(handle, id, query);
        self.exchanges.insert(handle, Exchange { conn, client: Some(client) });
        let last = body.len();
        for (piece, octets) in body.into_iter().enumerate() {
            self.inputs.push_back(Input::Body(handle, octets, ends && piece + 1 == last));
        }
        if last == 0 && ends {
            self.inputs.push_back(Input::Body(handle, Bytes::new(), true));
        }
        Ok(())
    }

    pub(super) fn respond(&mut self, handle: ExchangeHandle, response: Http) -> Result<(), String> {
        let client = self.exchanges.get(&handle).and_then(|exchange| exchange.client);
        let client = client.ok_or("a response to a request that is over")?;
        let own_size = self.snapshot.listen.udp_size;
        let state = &mut self.clients[client];
        let name = &self.peers[client].name;
        state.responded(handle, response, own_size).map_err(|what| format!("{name} got {what}"))?;
        if state.stalled {
            state.untaken.push(handle);
        } else {
            self.inputs.push_back(Input::Sent(handle));
        }
        Ok(())
    }

    /// An upstream gets a request.
    pub(super) fn requested(
        &mut self,
        handle: ExchangeHandle,
        conn: ConnHandle,
        target: &str,
        request: &Http,
    ) -> Result<(), String> {
        let Some(Conn::Upstream(upstream, Transport::Doh, _)) = self.conns.get(&conn) else {
            return Err("a request on a connection that is none of HTTP".to_owned());
        };
        let upstream = *upstream;
        let media_type = "application/dns-message";
        let is_typed = ["content-type", "accept"]
            .iter()
            .all(|header| request.header(header) == Some(media_type));
        let url = target.strip_prefix("POST ").filter(|_| is_typed);
        let url = url.ok_or_else(|| format!("a request that is no query: {target} {request:?}"))?;
        self.exchanges.insert(handle, Exchange { conn, client: None });
        let url = Some(url.to_owned());
        self.asked(upstream, (Carrier::Exchange(conn, handle), Transport::Doh), url, &request.body)
    }
}
