//! Upstream servers over TLS: DoT by hand, DoH by the h2 crate. The script is that of any other
//! upstream server; what came in is kept in the same place.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response};
use rustls::{HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::framed;
use super::http::{DNS_MESSAGE, RUNTIME, collect};
use super::tls::{ALL_VERSIONS, Identity};
use super::upstream::{Answer, Asked, Outlet, State, Transport, Upstream};

/// A server over TLS in the making.
#[derive(Clone, Debug)]
pub(crate) struct Secure {
    transport: Transport,
    identity: Identity,
    alpn: Vec<&'static str>,
    versions: &'static [&'static SupportedProtocolVersion],
    port: u16,
    answers_hello: bool,
}

/// What a server over TLS has counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections that were accepted.
    pub(crate) connections: AtomicUsize,
    /// Handshakes that were finished.
    pub(crate) handshakes: AtomicUsize,
    /// Those of them that went on with an earlier session.
    pub(crate) resumed: AtomicUsize,
    /// Handshakes that failed.
    pub(crate) refused: AtomicUsize,
    /// Streams that the other side has reset.
    pub(crate) resets: AtomicUsize,
}

impl Secure {
    pub(crate) fn dot() -> Self {
        Self::new(Transport::Dot, "dot")
    }

    pub(crate) fn doh() -> Self {
        Self::new(Transport::Doh, "h2")
    }

    fn new(transport: Transport, alpn: &'static str) -> Self {
        Self {
            transport,
            identity: Identity::usual().clone(),
            alpn: vec![alpn],
            versions: ALL_VERSIONS,
            port: 0,
            answers_hello: true,
        }
    }

    pub(crate) fn identity(mut self, identity: &Identity) -> Self {
        self.identity = identity.clone();
        self
    }

    pub(crate) fn alpn(mut self, alpn: &[&'static str]) -> Self {
        self.alpn = alpn.to_vec();
        self
    }

    pub(crate) fn versions(
        mut self,
        versions: &'static [&'static SupportedProtocolVersion],
    ) -> Self {
        self.versions = versions;
        self
    }

    /// On a port of 127.0.0.1 that the test knows already.
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Accepts connections and never says a word.
    pub(crate) fn without_handshakes(mut self) -> Self {
        self.answers_hello = false;
        self
    }

    /// Gives the same address for every name.
    pub(crate) fn answering(self, ip: &'static str) -> Upstream {
        self.start(move |asked| asked.address(300, ip))
    }

    pub(crate) fn start<A: Into<Answer>>(
        self,
        script: impl Fn(&Asked) -> A + Send + Sync + 'static,
    ) -> Upstream {
        let state = Arc::new(State::new(move |asked| script(asked).into()));
        // The runtime's bind sets SO_REUSEADDR: a server that was killed finds its port again.
        let listener = RUNTIME
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)))
            .expect("the TCP port is free");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let task = RUNTIME.spawn(accept(self, Arc::clone(&state), listener));
        Upstream::of_task(addr, state, task)
    }
}

async fn accept(secure: Secure, state: Arc<State>, listener: TcpListener) {
    let config = secure.identity.server(secure.versions, &secure.alpn);
    let acceptor = TlsAcceptor::from(config);
    // All of them end with this task.
    let mut connections = JoinSet::new();
    for conn in 0.. {
        let Ok((socket, from)) = listener.accept().await else {
            continue;
        };
        state.counts.connections.fetch_add(1, Ordering::SeqCst);
        let _ = socket.set_nodelay(true);
        let (state, acceptor, secure) = (Arc::clone(&state), acceptor.clone(), secure.clone());
        connections.spawn(async move {
            if !secure.answers_hello {
                return std::future::pending().await;
            }
            let Ok(stream) = acceptor.accept(socket).await else {
                state.counts.refused.fetch_add(1, Ordering::SeqCst);
                return;
            };
            state.counts.handshakes.fetch_add(1, Ordering::SeqCst);
            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                state.counts.resumed.fetch_add(1, Ordering::SeqCst);
            }
            match secure.transport {
                Transport::Doh => serve_http(state, stream, from, conn).await,
                Transport::Udp | Transport::Tcp | Transport::Dot => {
                    serve_frames(state, stream, from, conn).await;
                }
            }
        });
    }
}

/// What is to happen on a DoT connection.
pub(super) enum Out {
    Message(Vec<u8>),
    Close,
}

async fn serve_frames(
    state: Arc<State>,
    stream: TlsStream<TcpStream>,
    from: SocketAddr,
    conn: usize,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (sender, mut out) = mpsc::unbounded_channel();
    let reading = async {
        while let Ok(length) = reader.read_u16().await {
            let mut message = vec![0; usize::from(length)];
            if reader.read_exact(&mut message).await.is_err() {
                return;
            }
            let outlet = Outlet::Frames(sender.clone());
            state.take(&message, Transport::Dot, from, conn, None, outlet);
        }
    };
    let writing = async {
        while let Some(Out::Message(message)) = out.recv().await {
            if writer.write_all(&framed(&message)).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = reading => {}, () = writing => {} }
    let _ = writer.shutdown().await;
}

/// How a DoH exchange goes on.
#[derive(Debug)]
pub(super) enum Exchanged {
    Response(Box<Response<Vec<u8>>>),
    Reset,
}

/// How a DoH connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// By GOAWAY; what has begun is finished.
    Gracefully,
    /// In the middle.
    Now,
}

async fn serve_http(
    state: Arc<State>,
    stream: TlsStream<TcpStream>,
    from: SocketAddr,
    conn: usize,
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let (end, mut ends) = mpsc::unbounded_channel();
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (state, end) = (Arc::clone(&state), end.clone());
                exchanges.spawn(exchange(state, request, respond, from, conn, end));
            }
            Some(end) = ends.recv() => match end {
                End::Gracefully => connection.graceful_shutdown(),
                End::Now => return,
            },
        }
    }
}

async fn exchange(
    state: Arc<State>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    from: SocketAddr,
    conn: usize,
    end: mpsc::UnboundedSender<End>,
) {
    let (parts, body) = request.into_parts();
    let Ok(message) = collect(body).await else {
        return;
    };
    let (sender, answer) = oneshot::channel();
    let outlet = Outlet::Exchange(std::sync::Mutex::new(Some(sender)), end);
    state.take(&message, Transport::Doh, from, conn, Some(parts), outlet);
    let answer = async {
        match answer.await {
            Ok(answer) => answer,
            // The script says nothing.
            Err(_) => std::future::pending().await,
        }
    };
    let answer = tokio::select! {
        answer = answer => answer,
        _ = std::future::poll_fn(|context| respond.poll_reset(context)) => {
            state.counts.resets.fetch_add(1, Ordering::SeqCst);
            return;
        }
    };
    match answer {
        Exchanged::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        Exchanged::Response(response) => {
            let (parts, body) = response.into_parts();
            if let Ok(mut stream) = respond.send_response(Response::from_parts(parts, ()), false) {
                let _ = stream.send_data(body.into(), true);
            }
        }
    }
}

/// The response of a server that does as RFC 8484 section 4.2 says.
pub(super) fn ok(body: Vec<u8>) -> Exchanged {
    let response = Response::builder()
        .header(http::header::CONTENT_TYPE, DNS_MESSAGE)
        .body(body)
        .expect("a valid response");
    Exchanged::Response(Box::new(response))
}

#[cfg(test)]
mod tests {
    use super::super::http::{Http2, message, post};
    use super::super::octets::Door;
    use super::super::tls::client_config;
    use super::super::{Query, StreamClient, until};
    use super::*;

    fn door(upstream: &Upstream, alpn: &str) -> Door {
        Door::tls(upstream.addr(), client_config(ALL_VERSIONS, &[alpn]))
    }

    #[test]
    fn clients_and_servers_of_the_harness_understand_each_other() {
        let (dot, doh) =
            (Secure::dot().answering("192.0.2.1"), Secure::doh().answering("192.0.2.2"));
        let query = Query::a("www.example.org");
        let reply = StreamClient::through(&door(&dot, "dot")).ask(&query);
        assert_eq!(reply.address(), "192.0.2.1");
        let response = Http2::to(&door(&doh, "h2")).exchange(post(&query.encode()));
        assert_eq!(message(response.expect("a response")).address(), "192.0.2.2");
        assert_eq!(doh.asked()[0].transport, Transport::Doh);
        assert_eq!(doh.counts().handshakes.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn resets_are_counted() {
        let doh = Secure::doh().start(|_: &Asked| Answer::Silence);
        let mut client = Http2::to(&door(&doh, "h2"));
        let exchange = client.start(post(&Query::a("www.example.org").encode())).expect("a stream");
        doh.wait_for(1);
        exchange.reset();
        until("it is counted", || (doh.counts().resets.load(Ordering::SeqCst) == 1).then_some(()));
    }
}
