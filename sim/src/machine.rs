//! One engine and the least that an adapter does: inputs as values in, outputs as values out.
//!
//! Owns the batches between the two and drains the engine after each input, as the daemons do. It
//! decides nothing: whether a socket opens, what arrives and when, is up to who drives it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use balancedns_core::batch::{ReceiveBatch, TransmitBatch, Via};
use balancedns_core::config::Snapshot;
use balancedns_core::engine::{
    AcceptRefused, Accepted, Action, CloseMode, Closed, Engine, EngineConfig, Established, Event,
    IoFailure, ListenerId, Origin, ProcessExit, Security, Shared,
};
use balancedns_core::handle::{ConnHandle, ExchangeHandle, ProcessHandle, SocketHandle};
use balancedns_core::limits::{BATCH_DATAGRAMS, CLIENT_DATAGRAM_OCTETS, UPSTREAM_DATAGRAM_OCTETS};
use balancedns_core::metrics::WorkerMetrics;
use balancedns_core::policy::ExecSettings;
use balancedns_core::time::Instant;
use bytes::Bytes;

/// A datagram that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it, or claims to have.
    pub peer: SocketAddr,
    /// The address it was sent to, where the listener is bound to all addresses.
    pub local: Option<IpAddr>,
    /// What is in it.
    pub message: Bytes,
}

/// What may happen to an engine.
#[derive(Debug, Clone)]
pub enum Input {
    /// Datagrams arrived together. Any number: they are handed over in batches as the daemons do.
    Datagrams(Origin, Vec<Datagram>),
    /// A UDP socket is open.
    SocketOpened(SocketHandle),
    /// A UDP socket could not be opened, or the network refused on it.
    SocketFailed(SocketHandle, IoFailure),
    /// A datagram to a client could not be sent.
    SendFailed(ListenerId, IoFailure),
    /// A client connects; answered by [`Output::Accepted`] or [`Output::NotAccepted`].
    Connects(ListenerId, SocketAddr),
    /// A connection is ready for use, and what its handshakes settled.
    Established(ConnHandle, Established),
    /// Octets came in on a connection.
    Octets(ConnHandle, Bytes),
    /// The other side of a connection sends nothing more.
    EndOfStream(ConnHandle),
    /// So many octets of a connection's writes have left.
    Written(ConnHandle, usize),
    /// A connection has ended.
    Closed(ConnHandle, Closed),
    /// The head of a client's HTTP request; answered by [`Output::Opened`] or
    /// [`Output::NotOpened`].
    Opens(ConnHandle, Box<http::request::Parts>),
    /// Octets of its body, and whether they are the last.
    Body(ExchangeHandle, Bytes, bool),
    /// A client wants no response any more.
    Reset(ExchangeHandle),
    /// All of a response has left.
    Sent(ExchangeHandle),
    /// An upstream responds.
    Answered(ExchangeHandle, Box<http::Response<Bytes>>),
    /// An upstream will not respond.
    Failed(ExchangeHandle, IoFailure),
    /// A plugin's process wrote something.
    Wrote(ProcessHandle, Bytes),
    /// A plugin's process has ended.
    Exited(ProcessHandle, ProcessExit),
    /// Time has passed.
    Timeout,
    /// A new configuration.
    Reload(Arc<Snapshot>),
    /// The process is to stop.
    Shutdown,
}

/// What an engine does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A datagram to a client.
    Reply {
        /// The listener it leaves by.
        listener: ListenerId,
        /// Where to.
        peer: SocketAddr,
        /// From which address, where the listener is bound to all.
        source: Option<IpAddr>,
        /// What is in it.
        message: Bytes,
    },
    /// A datagram to an upstream.
    Query {
        /// The socket it leaves by.
        socket: SocketHandle,
        /// What is in it.
        message: Bytes,
    },
    /// A UDP socket is to be opened; wants [`Input::SocketOpened`] or [`Input::SocketFailed`].
    OpenSocket {
        /// Its name.
        socket: SocketHandle,
        /// The upstream's address.
        remote: SocketAddr,
    },
    /// A UDP socket is closed.
    CloseSocket(SocketHandle),
    /// A client's connection was taken, under this name.
    Accepted(Accepted),
    /// A client's connection was not taken.
    NotAccepted(AcceptRefused),
    /// A stream is to be connected; wants [`Input::Established`] or [`Input::Closed`].
    Connect {
        /// Its name.
        conn: ConnHandle,
        /// The upstream's address.
        remote: SocketAddr,
        /// How it is protected.
        security: Security,
    },
    /// Octets are to be sent; wants [`Input::Written`] as they leave.
    Write {
        /// The connection.
        conn: ConnHandle,
        /// What is sent.
        octets: Bytes,
    },
    /// Nothing is to be read from a connection until further notice.
    PauseReading(ConnHandle),
    /// A connection is to be read from again.
    ResumeReading(ConnHandle),
    /// A connection is closed.
    CloseConn(ConnHandle, CloseMode),
    /// A listener takes nothing more.
    CloseListener(ListenerId),
    /// A client's request was taken, under this name.
    Opened(ExchangeHandle),
    /// A client's request was not taken.
    NotOpened(AcceptRefused),
    /// A client gets a response; wants [`Input::Sent`], unless it does not take it.
    Respond {
        /// Its request.
        exchange: ExchangeHandle,
        /// What it gets.
        response: Http,
    },
    /// An upstream gets a request; wants [`Input::Answered`] or [`Input::Failed`].
    Request {
        /// Its name.
        exchange: ExchangeHandle,
        /// The connection that carries it.
        conn: ConnHandle,
        /// Method and URI.
        target: String,
        /// The rest of it; the status means nothing.
        request: Http,
    },
    /// A request to an upstream is given up.
    Cancel(ExchangeHandle),
    /// A plugin's process is to be started; wants [`Input::Exited`] in the end.
    Start {
        /// Its name.
        process: ProcessHandle,
        /// What is run.
        command: Arc<ExecSettings>,
        /// What is written to it.
        input: Bytes,
    },
    /// More is written to a plugin's process.
    Feed {
        /// Which.
        process: ProcessHandle,
        /// What is written.
        input: Bytes,
    },
    /// A plugin's process is killed; wants [`Input::Exited`] all the same.
    Kill(ProcessHandle),
    /// Something that operators are told.
    Report(Event),
    /// The engine has come to its end.
    Stopped,
}

/// An HTTP message as a value that can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// The status of a response.
    pub status: u16,
    /// Names in lower case and values, in the order of the message.
    pub headers: Vec<(String, String)>,
    /// What it is about.
    pub body: Bytes,
}

impl Http {
    /// The value of a header, if there is one.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    fn new(status: u16, headers: &http::HeaderMap, body: Bytes) -> Self {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
        let headers =
            headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Self { status, headers, body }
    }
}

/// An engine with its batches.
#[derive(Debug)]
pub struct Machine {
    engine: Engine,
    metrics: Arc<WorkerMetrics>,
    received: ReceiveBatch,
    transmit: TransmitBatch,
}

impl Machine {
    /// A worker of this number. No two workers may get the same seed.
    #[must_use]
    pub fn new(
        shared: &Arc<Shared>,
        snapshot: Arc<Snapshot>,
        worker: usize,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let metrics = shared.worker_metrics(worker);
        let config = EngineConfig {
            policy_clock: None,
            shared: Arc::clone(shared),
            snapshot,
            metrics: Arc::clone(&metrics),
            seed,
        };
        Self {
            engine: Engine::new(config, now),
            metrics,
            received: ReceiveBatch::new(BATCH_DATAGRAMS, CLIENT_DATAGRAM_OCTETS),
            transmit: TransmitBatch::new(BATCH_DATAGRAMS, UPSTREAM_DATAGRAM_OCTETS),
        }
    }

    /// The engine, to look at.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What the worker has counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<WorkerMetrics> {
        &self.metrics
    }

    /// Hands one input in and takes everything out that follows from it, in order.
    pub fn feed(&mut self, now: Instant, input: Input, outputs: &mut Vec<Output>) {
        let engine = &mut self.engine;
        match input {
            Input::Datagrams(origin, datagrams) => {
                self.datagrams(now, origin, &datagrams, outputs);
            }
            Input::SocketOpened(socket) => engine.handle_socket_opened(now, socket),
            Input::SocketFailed(socket, why) => engine.handle_socket_failed(now, socket, why),
            Input::SendFailed(listener, why) => engine.handle_send_failed(now, listener, why),
            Input::Connects(listener, peer) => {
                outputs.push(match engine.handle_accepted(now, listener, peer) {
                    Ok(accepted) => Output::Accepted(accepted),
                    Err(refused) => Output::NotAccepted(refused),
                });
            }
            Input::Established(conn, how) => engine.handle_established(now, conn, how),
            Input::Octets(conn, octets) => engine.handle_bytes(now, conn, &octets),
            Input::EndOfStream(conn) => engine.handle_end_of_stream(now, conn),
            Input::Written(conn, octets) => engine.handle_written(now, conn, octets),
            Input::Closed(conn, how) => engine.handle_closed(now, conn, how),
            Input::Opens(conn, head) => {
                outputs.push(match engine.handle_exchange_opened(now, conn, &head) {
                    Ok(exchange) => Output::Opened(exchange),
                    Err(refused) => Output::NotOpened(refused),
                });
            }
            Input::Body(exchange, octets, end) => {
                engine.handle_exchange_body(now, exchange, &octets, end);
            }
            Input::Reset(exchange) => engine.handle_exchange_reset(now, exchange),
            Input::Sent(exchange) => engine.handle_exchange_sent(now, exchange),
            Input::Answered(exchange, response) => {
                engine.handle_exchange_answered(now, exchange, &response);
            }
            Input::Failed(exchange, why) => engine.handle_exchange_failed(now, exchange, why),
            Input::Wrote(process, octets) => engine.handle_process_bytes(now, process, &octets),
            Input::Exited(process, how) => engine.handle_process_exited(now, process, how),
            Input::Timeout => engine.handle_timeout(now),
            Input::Reload(snapshot) => engine.handle_reload(now, snapshot),
            Input::Shutdown => engine.handle_shutdown(now),
        }
        self.drain(now, outputs);
    }

    /// Takes out whatever waits, also without an input: a new engine may want something at once. All
    /// datagrams leave before a socket may be closed.
    pub fn drain(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        loop {
            while self.engine.poll_transmit(now, &mut self.transmit) {
                self.take_transmits(outputs);
            }
            self.take_transmits(outputs);
            let before = outputs.len();
            while let Some(action) = self.engine.poll_action(now) {
                outputs.push(output(action));
            }
            if outputs.len() == before {
                return;
            }
        }
    }

    fn datagrams(
        &mut self,
        now: Instant,
        origin: Origin,
        datagrams: &[Datagram],
        outputs: &mut Vec<Output>,
    ) {
        for batch in datagrams.chunks(BATCH_DATAGRAMS) {
            self.received.clear();
            for Datagram { peer, local, message } in batch {
                self.received.push(*peer, *local, message).expect("a chunk fits a batch");
            }
            self.engine.handle_datagrams(now, origin, &self.received, &mut self.transmit);
            self.take_transmits(outputs);
        }
    }

    fn take_transmits(&mut self, outputs: &mut Vec<Output>) {
        outputs.extend(self.transmit.iter().map(|(meta, message)| {
            let message = Bytes::copy_from_slice(message);
            match meta.via {
                Via::Listener { listener, peer, source } => {
                    Output::Reply { listener, peer, source, message }
                }
                Via::Socket(socket) => Output::Query { socket, message },
            }
        }));
        self.transmit.clear();
    }
}

fn output(action: Action) -> Output {
    match action {
        Action::OpenSocket { socket, remote, source: _ } => Output::OpenSocket { socket, remote },
        Action::CloseSocket { socket } => Output::CloseSocket(socket),
        Action::Connect { conn, remote, source: _, security } => {
            Output::Connect { conn, remote, security }
        }
        Action::Write { conn, bytes } => Output::Write { conn, octets: bytes },
        Action::PauseReading { conn } => Output::PauseReading(conn),
        Action::ResumeReading { conn } => Output::ResumeReading(conn),
        Action::CloseConn { conn, mode } => Output::CloseConn(conn, mode),
        Action::CloseListener { listener } => Output::CloseListener(listener),
        Action::Report(event) => Output::Report(event),
        Action::Stopped => Output::Stopped,
        Action::Respond { exchange, response } => {
            let (head, body) = response.into_parts();
            let response = Http::new(head.status.as_u16(), &head.headers, body);
            Output::Respond { exchange, response }
        }
        Action::StartExchange { exchange, conn, request } => {
            let (head, body) = request.into_parts();
            let target = format!("{} {}", head.method, head.uri);
            let request = Http::new(0, &head.headers, body);
            Output::Request { exchange, conn, target, request }
        }
        Action::CancelExchange { exchange } => Output::Cancel(exchange),
        Action::StartProcess { process, command, input } => {
            Output::Start { process, command, input }
        }
        Action::FeedProcess { process, input } => Output::Feed { process, input },
        Action::KillProcess { process } => Output::Kill(process),
        Action::AnswerAdmin { .. } => panic!("no input of this adapter leads to {action:?}"),
    }
}
