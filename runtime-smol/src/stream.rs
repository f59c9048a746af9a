//! Stream connections on smol: accepting, connecting, TLS. What becomes of them is the same on every
//! async runtime, so it is with the shared [`Worker`].

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_io::Async;
use balancedns_core::engine::ListenerId;
use balancedns_runtime::bell::Bell;
use balancedns_runtime::pump::Octets;
use balancedns_runtime::socket;
use balancedns_runtime::tls::UpstreamClient;
use balancedns_runtime::worker::{AcceptFailures, Session};
use bytes::Bytes;
use futures_rustls::rustls::ServerConfig;
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use smol::future::{FutureExt, poll_once, yield_now};
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::{TcpListener, TcpStream};

use crate::local::sleep;
use crate::worker::Worker;

/// A stream of smol, as the shared code knows it.
#[derive(Debug)]
pub(crate) struct Stream<S>(pub(crate) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Octets for Stream<S> {
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        memory: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(context, memory)
    }

    fn poll_write(&mut self, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, octets)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(context)
    }
}

/// Accepts connections until told to close the socket, then those that wait to be accepted.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    id: ListenerId,
    listener: TcpListener,
    closing: Rc<Bell>,
) {
    let mut failures = AcceptFailures::default();
    loop {
        let closed = async {
            closing.rung().await;
            None
        };
        let Some(accepted) = closed.or(async { Some(listener.accept().await) }).await else {
            break;
        };
        match accepted {
            Ok((stream, peer)) => {
                failures.clear();
                worker.handle_accepted(id, peer, Stream(stream));
                // A flood of clients must not keep the thread here: smol's tasks have no budget.
                yield_now().await;
            }
            Err(error) => {
                if let Some(pause) = failures.pause_after(&error) {
                    sleep(pause).await;
                }
            }
        }
    }
    while let Some(Ok((stream, peer))) = poll_once(listener.accept()).await {
        worker.handle_accepted(id, peer, Stream(stream));
    }
}

/// Connects to another host.
pub(crate) async fn connect(
    remote: SocketAddr,
    source: Option<IpAddr>,
) -> io::Result<Stream<TcpStream>> {
    let stream = Async::new_nonblocking(socket::upstream_tcp(remote, source)?)?;
    stream.write_with(connected).await?;
    socket::notice_silence(&stream)?;
    Ok(Stream(stream.into()))
}

/// Whether a stream has got to the other side. Asked after every wake-up: see
/// [`datagram`](crate::datagram) on what async-io's own notion of readiness is worth.
fn connected(stream: &StdTcpStream) -> io::Result<()> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        // One that the other side has broken since is found to be so by reading.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Does a client's TLS handshake.
pub(crate) async fn accept_tls(
    stream: Stream<TcpStream>,
    config: Arc<ServerConfig>,
) -> Session<Stream<TlsStream<TcpStream>>> {
    let stream = TlsAcceptor::from(config).accept(stream.0).await?;
    let alpn = stream.get_ref().1.alpn_protocol().map(Bytes::copy_from_slice);
    Ok((Stream(stream.into()), alpn))
}

/// Does the TLS handshake with an upstream.
pub(crate) async fn connect_tls(
    stream: Stream<TcpStream>,
    client: &UpstreamClient,
) -> Session<Stream<TlsStream<TcpStream>>> {
    let connector = TlsConnector::from(Arc::clone(&client.config));
    let stream = connector.connect(client.name.clone(), stream.0).await?;
    let alpn = stream.get_ref().1.alpn_protocol().map(Bytes::copy_from_slice);
    Ok((Stream(stream.into()), alpn))
}
