//! Stream connections on smol: accepting, connecting, and a task for each that moves octets
//! between it and the engine.
//!
//! Generic over the transport, so that TLS will be another [`Stream`]. The engine owns all
//! deadlines of a connection; the one timer here is for what a connection that the engine has
//! already forgotten still has to send.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use async_io::Async;
use balancedns_core::engine::{CloseMode, ListenerId, Security};
use balancedns_runtime::bell::Bell;
use balancedns_runtime::conn::Conn;
use balancedns_runtime::pump::Octets;
use balancedns_runtime::socket;
use balancedns_runtime::worker::{AcceptFailures, Target};
use smol::future::{FutureExt, poll_once, yield_now};
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::{TcpListener, TcpStream};

use crate::local::{sleep, timeout};
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
                accepted_one(&worker, id, stream, peer);
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
        accepted_one(&worker, id, stream, peer);
    }
}

fn accepted_one(worker: &Rc<Worker>, id: ListenerId, stream: TcpStream, peer: SocketAddr) {
    if let Some(conn) = worker.handle_accepted(id, peer) {
        worker.spawn(serve(Rc::clone(worker), conn, Stream(stream)));
    }
}

/// Connects to an upstream and serves the connection.
pub(crate) async fn connect(worker: Rc<Worker>, conn: Rc<Conn>, target: Target) {
    let closed = async {
        conn.closed().await;
        None
    };
    let Some(opened) = closed.or(async { Some(open(target).await) }).await else {
        return;
    };
    match opened {
        Ok(stream) => {
            worker.handle_established(&conn);
            serve(worker, conn, stream).await;
        }
        Err(error) => worker.handle_broken(&conn, &error),
    }
}

async fn open(target: Target) -> io::Result<Stream<TcpStream>> {
    match target.security {
        Security::Plain => {}
        Security::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
    }
    let stream = Async::new_nonblocking(socket::upstream_tcp(target.remote, target.source)?)?;
    stream.write_with(connected).await?;
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

/// Moves octets both ways until the connection has ended.
async fn serve(worker: Rc<Worker>, conn: Rc<Conn>, mut stream: impl Octets) {
    match worker.pump(&conn, &mut stream).await {
        Some(CloseMode::AfterWrites) => {
            let _late = timeout(worker.write_timeout(), worker.finish(&conn, &mut stream)).await;
        }
        Some(CloseMode::Now) | None => {}
    }
}
