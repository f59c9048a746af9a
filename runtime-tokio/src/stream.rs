//! Stream connections on tokio: accepting, connecting, and a task for each that moves octets
//! between it and the engine.
//!
//! Generic over the transport, so that TLS will be another [`Stream`]. The engine owns all
//! deadlines of a connection; the one timer here is for what a connection that the engine has
//! already forgotten still has to send.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use balancedns_core::engine::{CloseMode, Closed, Established, IoFailure, ListenerId, Security};
use balancedns_core::handle::ConnHandle;
use balancedns_core::time::Duration;
use balancedns_runtime::socket;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::worker::Worker;

/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Reads and writes of one connection before others get their turn.
const STEPS_PER_TURN: usize = 16;
/// Reads at most of what came after the end, before closing.
const READS_AFTER_END: usize = 16;

/// What carries octets both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Stream for T {}

/// What the worker and the task of a connection share.
#[derive(Debug)]
pub(crate) struct Conn {
    handle: ConnHandle,
    wishes: RefCell<Wishes>,
}

/// What the engine wants of a connection.
#[derive(Debug, Default)]
struct Wishes {
    queue: VecDeque<Bytes>,
    paused: bool,
    close: Option<CloseMode>,
    /// The task, while it waits.
    waker: Option<Waker>,
}

impl Conn {
    /// Nothing is wished for yet.
    pub(crate) fn new(handle: ConnHandle) -> Self {
        Self { handle, wishes: RefCell::default() }
    }

    /// Appends to what is sent.
    pub(crate) fn write(&self, bytes: Bytes) {
        self.wish(|wishes| wishes.queue.push_back(bytes));
    }

    /// Stops or resumes reading.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.wish(|wishes| wishes.paused = paused);
    }

    /// Ends the connection. The engine has forgotten it.
    pub(crate) fn close(&self, mode: CloseMode) {
        self.wish(|wishes| wishes.close = Some(mode));
    }

    /// While the task runs it has no waker here, and sees the change anyway.
    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        let mut wishes = self.wishes.borrow_mut();
        change(&mut wishes);
        if let Some(waker) = wishes.waker.take() {
            waker.wake();
        }
    }

    fn poll_closed(&self, context: &Context<'_>) -> Poll<()> {
        let mut wishes = self.wishes.borrow_mut();
        if wishes.close.is_some() {
            return Poll::Ready(());
        }
        wishes.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// How an accepting task is told to end.
#[derive(Debug, Default)]
pub(crate) struct Acceptor {
    closing: Notify,
}

impl Acceptor {
    /// Takes what waits to be accepted, then closes the socket.
    pub(crate) fn close(&self) {
        self.closing.notify_one();
    }
}

/// Accepts connections until told to end.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    id: ListenerId,
    listener: TcpListener,
    acceptor: Rc<Acceptor>,
) {
    let warned = Cell::new(false);
    loop {
        let accepted = tokio::select! {
            biased;
            () = acceptor.closing.notified() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                warned.set(false);
                accepted_one(&worker, id, stream, peer);
            }
            // The client has gone meanwhile.
            Err(error) if IoFailure::from(&error) == IoFailure::Reset => {}
            Err(error) => {
                if !warned.replace(true) {
                    tracing::warn!(event = "accept_failed", "cannot accept: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let last_look = |context: &mut Context<'_>| {
        while let Poll::Ready(Ok((stream, peer))) = listener.poll_accept(context) {
            accepted_one(&worker, id, stream, peer);
        }
        Poll::Ready(())
    };
    poll_fn(last_look).await;
}

fn accepted_one(worker: &Rc<Worker>, id: ListenerId, stream: TcpStream, peer: SocketAddr) {
    let accepted = worker.input(|engine, now| {
        let conn = engine.handle_accepted(now, id, peer)?;
        engine.handle_established(now, conn, Established::default());
        Ok::<_, balancedns_core::engine::AcceptRefused>(conn)
    });
    // What is refused is closed by being dropped.
    if let Ok(conn) = accepted {
        worker.serve_client(conn, stream);
    }
}

/// Connects to an upstream and serves the connection.
pub(crate) async fn connect(
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    remote: SocketAddr,
    source: Option<IpAddr>,
    security: Security,
) {
    let opened = tokio::select! {
        biased;
        () = poll_fn(|context| conn.poll_closed(context)) => return,
        opened = open(remote, source, security) => opened,
    };
    match opened {
        Ok(stream) => {
            let handle = conn.handle;
            worker.input(|engine, now| {
                engine.handle_established(now, handle, Established::default());
            });
            serve(worker, conn, stream).await;
        }
        Err(error) => closed(&worker, &conn, Closed::Failed(IoFailure::from(&error))),
    }
}

async fn open(
    remote: SocketAddr,
    source: Option<IpAddr>,
    security: Security,
) -> io::Result<TcpStream> {
    match security {
        Security::Plain => {}
        Security::Tls { .. } => return Err(io::ErrorKind::Unsupported.into()),
    }
    let stream = TcpStream::from_std(socket::upstream_tcp(remote, source)?)?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

fn closed(worker: &Rc<Worker>, conn: &Conn, how: Closed) {
    worker.forget(conn.handle);
    worker.input(|engine, now| engine.handle_closed(now, conn.handle, how));
}

/// Moves octets both ways until the connection has ended.
pub(crate) async fn serve<S: Stream>(worker: Rc<Worker>, conn: Rc<Conn>, mut stream: S) {
    let mut ended_reading = false;
    let mode = poll_fn(|context| {
        let mut pump = Pump {
            worker: &worker,
            conn: &conn,
            stream: &mut stream,
            ended_reading: &mut ended_reading,
        };
        pump.poll(context)
    });
    match mode.await {
        Ok(CloseMode::AfterWrites) => {
            let _late = timeout(worker.write_timeout(), finish(&conn, &mut stream)).await;
        }
        Ok(CloseMode::Now) => {}
        Err(error) => closed(&worker, &conn, Closed::Failed(IoFailure::from(&error))),
    }
}

/// One look of a connection's task at everything.
struct Pump<'a, S> {
    worker: &'a Rc<Worker>,
    conn: &'a Conn,
    stream: &'a mut S,
    ended_reading: &'a mut bool,
}

impl<S: Stream> Pump<'_, S> {
    /// Ready when the engine wants an end, or with what broke the connection.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<CloseMode>> {
        for _ in 0..STEPS_PER_TURN {
            if let Some(mode) = self.conn.wishes.borrow().close {
                return Poll::Ready(Ok(mode));
            }
            // Writing first: it makes room for what reading brings.
            let wrote = self.write(context)?;
            let close = self.conn.wishes.borrow().close;
            let read = close.is_none() && self.read(context)?;
            if close.is_none() && !wrote && !read {
                // What was wished for meanwhile is seen here, since nothing runs in between.
                return self.wait(context);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn wait(&self, context: &Context<'_>) -> Poll<io::Result<CloseMode>> {
        let mut wishes = self.conn.wishes.borrow_mut();
        match wishes.close {
            Some(mode) => Poll::Ready(Ok(mode)),
            None => {
                wishes.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Writes of the queue what can be written at once. Whether anything was.
    fn write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut total = 0;
        let blocked = loop {
            let mut wishes = self.conn.wishes.borrow_mut();
            match write_front(&mut wishes.queue, self.stream, context)? {
                Step::Moved(octets) => total += octets,
                Step::Blocked => break true,
                Step::Nothing => break false,
            }
        };
        if total == 0 {
            return Ok(false);
        }
        if !blocked {
            // For streams with a buffer of their own; Pending wakes this task.
            let _flushed = Pin::new(&mut *self.stream).poll_flush(context)?;
        }
        let handle = self.conn.handle;
        self.worker.input(|engine, now| engine.handle_written(now, handle, total));
        Ok(true)
    }

    /// Reads once, if reading is wanted. Whether anything came.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if *self.ended_reading || self.conn.wishes.borrow().paused {
            return Ok(false);
        }
        let handle = self.conn.handle;
        let mut memory = self.worker.read_buffer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut memory);
        match Pin::new(&mut *self.stream).poll_read(context, &mut buffer)? {
            Poll::Pending => return Ok(false),
            Poll::Ready(()) => {}
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            *self.ended_reading = true;
            self.worker.input(|engine, now| engine.handle_end_of_stream(now, handle));
        } else {
            self.worker.input(|engine, now| engine.handle_bytes(now, handle, bytes));
        }
        Ok(true)
    }
}

/// What came of trying to write.
enum Step {
    Moved(usize),
    Blocked,
    Nothing,
}

fn write_front<S: Stream>(
    queue: &mut VecDeque<Bytes>,
    stream: &mut S,
    context: &mut Context<'_>,
) -> io::Result<Step> {
    let Some(front) = queue.front_mut() else {
        return Ok(Step::Nothing);
    };
    match Pin::new(stream).poll_write(context, front)? {
        Poll::Pending => Ok(Step::Blocked),
        Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(octets) => {
            front.advance(octets);
            if front.is_empty() {
                queue.pop_front();
            }
            Ok(Step::Moved(octets))
        }
    }
}

/// Sends what is left, says that nothing more comes, and takes what the other side has sent in vain:
/// closing a socket with unread octets resets it, which can destroy answers on their way.
async fn finish<S: Stream>(conn: &Conn, stream: &mut S) -> io::Result<()> {
    poll_fn(|context| {
        loop {
            match write_front(&mut conn.wishes.borrow_mut().queue, stream, context)? {
                Step::Moved(_) => {}
                Step::Blocked => return Poll::Pending,
                Step::Nothing => return Pin::new(&mut *stream).poll_shutdown(context),
            }
        }
    })
    .await?;
    let mut memory = [0; 4096];
    poll_fn(|context| {
        for _ in 0..READS_AFTER_END {
            let mut buffer = ReadBuf::new(&mut memory);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer)? {
                Poll::Ready(()) if !buffer.filled().is_empty() => {}
                Poll::Ready(()) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}
