//! Stream connections on tokio: accepting, connecting, and a task for each that moves octets
//! between it and the engine.
//!
//! Generic over the transport, so that TLS will be another [`Stream`]. The engine owns all
//! deadlines of a connection; the one timer here is for what a connection that the engine has
//! already forgotten still has to send.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use balancedns_core::engine::{CloseMode, ListenerId, Security};
use balancedns_runtime::bell::Bell;
use balancedns_runtime::conn::Conn;
use balancedns_runtime::pump::Octets;
use balancedns_runtime::socket;
use balancedns_runtime::worker::{AcceptFailures, Target};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::unconstrained;
use tokio::time::{sleep, timeout};

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
                accepted_one(&worker, id, stream, peer);
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
            accepted_one(&worker, id, stream, peer);
        }
        Poll::Ready(())
    };
    unconstrained(poll_fn(last_look)).await; // all of them, whatever tokio's budget of a task
}

fn accepted_one(worker: &Rc<Worker>, id: ListenerId, stream: TcpStream, peer: SocketAddr) {
    if let Some(conn) = worker.handle_accepted(id, peer) {
        worker.spawn(serve(Rc::clone(worker), conn, Stream(stream)));
    }
}

/// Connects to an upstream and serves the connection.
pub(crate) async fn connect(worker: Rc<Worker>, conn: Rc<Conn>, target: Target) {
    let opened = tokio::select! {
        biased;
        () = conn.closed() => return,
        opened = open(target) => opened,
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
    let stream = TcpStream::from_std(socket::upstream_tcp(target.remote, target.source)?)?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(Stream(stream)),
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
