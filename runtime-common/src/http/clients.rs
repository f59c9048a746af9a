//! Clients' connections: each request becomes an exchange of the engine's, and its answer a response.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use balancedns_core::engine::CloseMode;
use balancedns_core::handle::ExchangeHandle;
use balancedns_core::limits::EXCHANGES_PER_CLIENT_CONN;
use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;

use super::driver::{Beside, Driver};
use super::io::{Failure, Io, Leaving};
use super::{
    CONN_WINDOW_OCTETS, HEADER_OCTETS, RESETS_OF_OURS, RESETS_PENDING, SEND_OCTETS,
    STREAM_WINDOW_OCTETS,
};
use crate::conn::Conn;
use crate::pump::{self, Octets};
use crate::worker::{Adapter, Worker};

/// How a connection over HTTP/2 begins (RFC 9113 section 3.4), as far as no HTTP/1.1 request does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Octets of a request that are read after it was refused: as many as a client sends that takes a
/// zone for a message, and not more than a moment's worth.
const READ_IN_VAIN_OCTETS: usize = 1 << 20;

/// Serves a client until its connection has ended. The protocol is what ALPN has settled; behind a
/// proxy without TLS it is told by the first octets.
pub(crate) async fn serve<A: Adapter, S: Octets + Unpin + 'static>(
    worker: &Rc<Worker<A>>,
    conn: &Rc<Conn>,
    mut stream: S,
    is_http2: Option<bool>,
) {
    let mut first = Vec::new();
    let is_http2 = match is_http2 {
        Some(is_http2) => is_http2,
        None => match conn.unless_closed(begins_as_http2(&mut stream, &mut first)).await {
            Some(Ok(is_http2)) => is_http2,
            Some(Err(error)) => return worker.handle_broken(conn, &error),
            None => return,
        },
    };
    let io = Io::new(stream, first.into(), worker.memory());
    let failure = io.failure();
    let beside = Beside::default();
    let service = Answering {
        worker: Rc::clone(worker),
        conn: Rc::clone(conn),
        beside: beside.clone(),
        leaving: io.leaving(),
    };
    let leaving = io.leaving();
    if is_http2 {
        let http = http2_settings(beside.clone()).serve_connection(io, service);
        drive(worker, conn, Driver::new(http, beside), &failure, &leaving).await;
    } else {
        let http = http1_settings().serve_connection(io, service);
        drive(worker, conn, Driver::new(http, beside), &failure, &leaving).await;
    }
}

/// Reads as much as it takes to tell HTTP/2 from HTTP/1.1, and keeps it.
async fn begins_as_http2(stream: &mut impl Octets, first: &mut Vec<u8>) -> io::Result<bool> {
    poll_fn(|context| {
        loop {
            if first.len() == PREFACE.len() || !PREFACE.starts_with(first) {
                return Poll::Ready(Ok(first == PREFACE));
            }
            let mut memory = [0; PREFACE.len()];
            let room = &mut memory[first.len()..];
            match pump::poll_read(stream, context, room)? {
                Poll::Pending => return Poll::Pending,
                // Hyper makes of the end what it is.
                Poll::Ready(0) => return Poll::Ready(Ok(false)),
                Poll::Ready(octets) => first.extend_from_slice(&room[..octets]),
            }
        }
    })
    .await
}

fn http2_settings(beside: Beside) -> http2::Builder<Beside> {
    let mut settings = http2::Builder::new(beside);
    settings
        .max_concurrent_streams(u32::try_from(EXCHANGES_PER_CLIENT_CONN).ok())
        .max_header_list_size(u32::try_from(HEADER_OCTETS).expect("a small number"))
        .initial_stream_window_size(STREAM_WINDOW_OCTETS)
        .initial_connection_window_size(CONN_WINDOW_OCTETS)
        .max_send_buf_size(SEND_OCTETS)
        .max_pending_accept_reset_streams(RESETS_PENDING)
        .max_local_error_reset_streams(RESETS_OF_OURS);
    settings
}

fn http1_settings() -> http1::Builder {
    let mut settings = http1::Builder::new();
    // What is written is gathered anyway. A client that sends nothing more may still read its answer.
    settings.max_buf_size(HEADER_OCTETS).header_read_timeout(None).writev(false).half_close(true);
    settings
}

/// A connection of either version.
trait Http: Future<Output = hyper::Result<()>> {
    /// Answers what was requested, and takes no new requests.
    fn begin_shutdown(self: Pin<&mut Self>);
}

impl<A: Adapter, S: Octets + Unpin + 'static> Http for http1::Connection<Io<S>, Answering<A>> {
    fn begin_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<A: Adapter, S: Octets + Unpin + 'static> Http
    for http2::Connection<Io<S>, Answering<A>, Beside>
{
    fn begin_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Drives a connection until it has ended or the engine wants its end.
async fn drive<A: Adapter, C: Http>(
    worker: &Rc<Worker<A>>,
    conn: &Rc<Conn>,
    mut driver: Driver<C>,
    failure: &Failure,
    leaving: &Leaving,
) {
    let ended = poll_fn(|context| {
        if let Poll::Ready(mode) = conn.poll_closed(context) {
            return Poll::Ready(Err(mode));
        }
        let ended = driver.poll(context);
        tell_what_left(worker, conn, leaving);
        ended.map(Ok)
    });
    match ended.await {
        Ok(()) => worker.handle_ended(conn, driver.how_ended(failure)),
        Err(CloseMode::AfterWrites) => {
            if let Some(http) = driver.conn() {
                http.begin_shutdown();
            }
            driver.rouse(); // what is not answered by now will not be
            let last = poll_fn(|context| driver.poll(context));
            A::timeout(worker.write_timeout(), last).await;
        }
        Err(CloseMode::Now) => {}
    }
}

/// Tells the engine which answers have left.
fn tell_what_left<A: Adapter>(worker: &Rc<Worker<A>>, conn: &Conn, leaving: &Leaving) {
    while let Some(exchange) = leaving.pop() {
        worker.end_exchange(conn, exchange, true);
    }
}

/// Who answers the requests of a connection: the engine.
struct Answering<A> {
    worker: Rc<Worker<A>>,
    conn: Rc<Conn>,
    beside: Beside,
    leaving: Leaving,
}

impl<A: Adapter> Service<Request<Incoming>> for Answering<A> {
    type Response = Response<Outgoing<A>>;
    type Error = Refused;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refused>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Self { worker, conn, beside, leaving } = self;
        // Their places are for this one, if the client has got them by now.
        tell_what_left(worker, conn, leaving);
        let (worker, conn) = (Rc::clone(worker), Rc::clone(conn));
        Box::pin(answer(worker, conn, beside.clone(), leaving.clone(), request))
    }
}

/// A request that is not answered: its stream is reset, or its connection closed.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

/// Hands a request in as it comes, until the engine has answered.
async fn answer<A: Adapter>(
    worker: Rc<Worker<A>>,
    conn: Rc<Conn>,
    beside: Beside,
    leaving: Leaving,
    request: Request<Incoming>,
) -> Result<Response<Outgoing<A>>, Refused> {
    let (head, mut body) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    let (handle, answer) = worker.open_exchange(&conn, &head).ok_or(Refused)?;
    let mut open = Open { worker, conn, handle, leaving, is_sent: false };
    let mut reading = true;
    let response = poll_fn(|context| {
        loop {
            if let Poll::Ready(response) = answer.poll_take(context) {
                return Poll::Ready(Ok(*response));
            }
            if !open.conn.is_known() {
                return Poll::Ready(Err(Refused)); // closed meanwhile: there will be no answer
            }
            if !reading {
                return Poll::Pending;
            }
            let (octets, end) = match Pin::new(&mut body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => (Bytes::new(), true),
                Poll::Ready(Some(Ok(frame))) => {
                    (frame.into_data().unwrap_or_default(), body.is_end_stream())
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Refused)),
            };
            reading = !end;
            open.worker.exchange_body(handle, &octets, end);
        }
    });
    let (head, octets) = response.await?.into_parts();
    if reading && !body.is_end_stream() {
        beside.execute(read_in_vain(body));
    }
    // None at all is sent as soon as it is made.
    let octets = Some(octets).filter(|octets| !octets.is_empty() && !is_head);
    open.is_sent = octets.is_none();
    Ok(Response::from_parts(head, Outgoing { octets, open }))
}

/// Reads what is left of a request that is refused already. A stream that is reset, or a connection
/// that is closed, while its client still sends can take the answer with it.
async fn read_in_vain(mut body: Incoming) {
    let mut left = READ_IN_VAIN_OCTETS;
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let octets = frame.into_data().map_or(0, |octets| octets.len());
        match left.checked_sub(octets) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// An exchange that the engine knows. Reset by being dropped.
struct Open<A: Adapter> {
    worker: Rc<Worker<A>>,
    conn: Rc<Conn>,
    handle: ExchangeHandle,
    leaving: Leaving,
    /// Hyper has taken all of its answer.
    is_sent: bool,
}

impl<A: Adapter> Drop for Open<A> {
    fn drop(&mut self) {
        if self.is_sent {
            self.leaving.taken(self.handle);
        } else {
            self.worker.end_exchange(&self.conn, self.handle, false);
        }
    }
}

/// The body of a response. The exchange is over once hyper has taken all of it and it has left.
struct Outgoing<A: Adapter> {
    octets: Option<Bytes>,
    open: Open<A>,
}

impl<A: Adapter> Body for Outgoing<A> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.open.is_sent = true;
        Poll::Ready(self.octets.take().map(|octets| Ok(Frame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        self.octets.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.octets.as_ref().map_or(0, |octets| octets.len() as u64))
    }
}
