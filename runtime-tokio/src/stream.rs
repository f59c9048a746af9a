//! Stream connections on tokio: accepting, connecting, TLS. What becomes of them is the same on every
//! async runtime, so it is with the shared [`Worker`].

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use balancedns_core::engine::ListenerId;
use balancedns_runtime::bell::Bell;
use balancedns_runtime::pump::Octets;
use balancedns_runtime::socket;
use balancedns_runtime::tls::UpstreamClient;
use balancedns_runtime::worker::{AcceptFailures, Session};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::unconstrained;
use tokio::time::sleep;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::worker::Worker;

/// A stream of tokio, as the shared code knows it.
#[derive(Debug)]
pub(crate) struct Stream<S>(pub(crate) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Octets for Stream<S> {
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        memory: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(memory);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, octets)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
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
        let accepted = tokio::select! {
            biased;
            () = closing.rung() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                failures.clear();
                worker.handle_accepted(id, peer, Stream(stream));
            }
            Err(error) => {
                if let Some(pause) = failures.pause_after(&error) {
                    sleep(pause).await;
                }
            }
        }
    }
    let last_look = |context: &mut Context<'_>| {
        while let Poll::Ready(Ok((stream, peer))) = listener.poll_accept(context) {
            worker.handle_accepted(id, peer, Stream(stream));
        }
        Poll::Ready(())
    };
    unconstrained(poll_fn(last_look)).await; // all of them, whatever tokio's budget of a task
}

/// Connects to another host.
pub(crate) async fn connect(
    remote: SocketAddr,
    source: Option<IpAddr>,
) -> io::Result<Stream<TcpStream>> {
    let stream = TcpStream::from_std(socket::upstream_tcp(remote, source)?)?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    socket::notice_silence(&stream)?;
    Ok(Stream(stream))
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
