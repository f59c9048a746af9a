//! Stream connections of a worker, from accepting or connecting through their handshakes to their
//! end.
//!
//! The engine owns all deadlines, those of handshakes too: it closes a connection, and the task here
//! ends. The one timer is for what a connection that the engine has already forgotten still has to
//! send.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use balancedns_core::config::{Alpn, UpstreamTls};
use balancedns_core::engine::{
    Accepted, CloseMode, Closed, Established, ListenerId, Security, Transport,
};
use balancedns_core::handle::ConnHandle;
use balancedns_core::time::Duration;
use bytes::Bytes;

use super::{Adapter, Session, Target, Worker};
use crate::conn::Conn;
use crate::pump::{self, Octets, Told};
use crate::tls::{self, check_protocol};
use crate::{http, proxy};

impl<A: Adapter> Worker<A> {
    /// A client has connected. It is served by a task of its own, unless it is refused: then its
    /// stream is closed by being dropped.
    pub fn handle_accepted(self: &Rc<Self>, id: ListenerId, peer: SocketAddr, stream: A::Stream) {
        let state = &mut *self.state.borrow_mut();
        let now = self.clock.now();
        let accepted = state.engine.handle_accepted(now, id, peer).ok().map(|accepted| {
            if !accepted.proxied && !accepted.socket.tls {
                state.engine.handle_established(now, accepted.conn, Established::default());
            }
            // Entered first: what follows may be about it already.
            (accepted, state.conns.enter(accepted.conn))
        });
        self.settle(state);
        if let Some((accepted, conn)) = accepted {
            self.spawn(Rc::clone(self).serve_client(conn, accepted, stream));
        }
    }

    async fn serve_client(self: Rc<Self>, conn: Rc<Conn>, accepted: Accepted, stream: A::Stream) {
        let mut stream = stream;
        let mut client = None;
        if accepted.proxied {
            match conn.unless_closed(proxy::read_header(&mut stream)).await {
                Some(Ok(announced)) => client = announced,
                Some(Err(error)) => return self.handle_broken(&conn, &error),
                None => return,
            }
        }
        let transport = accepted.socket.transport;
        if !accepted.socket.tls {
            if accepted.proxied {
                self.handle_established(&conn, Established { alpn: None, client });
            }
            return self.serve(&conn, stream, transport, None).await;
        }
        match conn.unless_closed(self.accept_tls(stream, transport)).await {
            Some(Ok((stream, alpn))) => {
                let is_http2 = alpn.as_deref() == Some(Alpn::Http2.id());
                self.handle_established(&conn, Established { alpn, client });
                self.serve(&conn, stream, transport, Some(is_http2)).await;
            }
            Some(Err(error)) => self.handle_broken(&conn, &error),
            None => {}
        }
    }

    async fn accept_tls(&self, stream: A::Stream, transport: Transport) -> Session<A::Tls> {
        let config = self.state.borrow().tls.server(transport);
        let config = config.ok_or(io::ErrorKind::Unsupported)?;
        A::accept_tls(stream, config).await
    }

    async fn serve<S: Octets + Unpin + 'static>(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        stream: S,
        transport: Transport,
        is_http2: Option<bool>,
    ) {
        match transport {
            Transport::Doh => http::serve(self, conn, stream, is_http2).await,
            Transport::Udp | Transport::Tcp | Transport::Dot => self.pump(conn, stream).await,
        }
    }

    /// Connects to an upstream and serves the connection.
    pub(super) async fn serve_upstream(self: Rc<Self>, conn: Rc<Conn>, target: Target) {
        let Target { remote, source, security } = target;
        let stream = match conn.unless_closed(A::connect(remote, source)).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return self.handle_broken(&conn, &error),
            None => return,
        };
        let settings = match security {
            Security::Plain => {
                self.handle_established(&conn, Established::default());
                return self.pump(&conn, stream).await;
            }
            Security::Tls(settings) => settings,
        };
        match conn.unless_closed(self.connect_tls(stream, &settings)).await {
            Some(Ok((stream, alpn))) => {
                self.serve_session(&conn, stream, settings.alpn, alpn).await
            }
            Some(Err(error)) => self.handle_broken(&conn, &error),
            None => {}
        }
    }

    async fn connect_tls(&self, stream: A::Stream, settings: &UpstreamTls) -> Session<A::Tls> {
        let client = self.state.borrow().tls.client(settings).cloned();
        let client = client.ok_or(io::ErrorKind::Unsupported)?;
        let (stream, alpn) = A::connect_tls(stream, &client).await?;
        check_protocol(settings.alpn, alpn.as_deref())?;
        Ok((stream, alpn))
    }

    async fn serve_session(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        stream: A::Tls,
        protocol: Alpn,
        alpn: Option<Bytes>,
    ) {
        match protocol {
            Alpn::Dot => {
                self.handle_established(conn, Established { alpn, client: None });
                self.pump(conn, stream).await;
            }
            Alpn::Http2 => {
                let memory = Rc::clone(&self.read_buffer);
                match conn.unless_closed(http::shake_hands(stream, memory)).await {
                    Some(Ok(shaken)) => shaken.serve(self, conn).await,
                    Some(Err(error)) => self.handle_broken(conn, &error),
                    None => {}
                }
            }
        }
    }

    /// Moves octets both ways until the connection has ended.
    async fn pump(self: &Rc<Self>, conn: &Conn, mut stream: impl Octets) {
        match pump::pump(self, conn, &mut stream, &self.read_buffer).await {
            Ok(CloseMode::AfterWrites) => {
                let last = async {
                    // Whatever goes wrong, nobody is left to be told.
                    let _broken = pump::finish(conn, &mut stream, &self.read_buffer).await;
                };
                A::timeout(self.write_timeout, last).await;
            }
            Ok(CloseMode::Now) => {}
            Err(error) => self.handle_broken(conn, &error),
        }
    }

    /// A connection is ready for use.
    pub(crate) fn handle_established(self: &Rc<Self>, conn: &Conn, how: Established) {
        let handle = conn.handle();
        self.input(|engine, now| engine.handle_established(now, handle, how));
    }

    /// A connection broke, or could not be made.
    pub(crate) fn handle_broken(self: &Rc<Self>, conn: &Conn, error: &io::Error) {
        self.handle_ended(conn, Closed::Failed(tls::failure_of(error)));
    }

    /// A connection has ended by itself.
    pub(crate) fn handle_ended(self: &Rc<Self>, conn: &Conn, how: Closed) {
        if !conn.is_known() {
            return;
        }
        let handle = conn.handle();
        self.state.borrow_mut().conns.forget(handle);
        self.input(|engine, now| engine.handle_closed(now, handle, how));
    }

    /// How long a closed connection may take to send what it still holds.
    pub(crate) fn write_timeout(&self) -> Duration {
        self.write_timeout
    }

    /// What a read of any stream may fill at once.
    pub(crate) fn memory(&self) -> Rc<RefCell<Box<[u8]>>> {
        Rc::clone(&self.read_buffer)
    }
}

impl<A: Adapter> Told for Rc<Worker<A>> {
    fn written(&self, conn: ConnHandle, octets: usize) {
        self.input(|engine, now| engine.handle_written(now, conn, octets));
    }

    fn received(&self, conn: ConnHandle, octets: &[u8]) {
        self.input(|engine, now| engine.handle_bytes(now, conn, octets));
    }

    fn ended(&self, conn: ConnHandle) {
        self.input(|engine, now| engine.handle_end_of_stream(now, conn));
    }
}
