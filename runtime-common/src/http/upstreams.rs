//! Connections to upstreams over HTTP/2, on which the engine starts exchanges.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use balancedns_core::engine::{CloseMode, Established, IoFailure};
use balancedns_core::handle::ExchangeHandle;
use balancedns_core::limits::{EXCHANGES_PER_UPSTREAM_CONN, MESSAGE_OCTETS};
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::{self, Connection, SendRequest};
use hyper::rt::Executor;

use super::driver::{Beside, Driver};
use super::io::{Failure, Io};
use super::{CONN_WINDOW_OCTETS, HEADER_OCTETS, RESETS_OF_OURS, SEND_OCTETS, STREAM_WINDOW_OCTETS};
use crate::bell::Bell;
use crate::conn::Conn;
use crate::pump::Octets;
use crate::worker::{Adapter, Worker};

const ALPN: Bytes = Bytes::from_static(b"h2");

/// Where requests on a connection are put.
#[derive(Clone)]
pub(crate) struct Requests {
    sender: SendRequest<Full<Bytes>>,
    beside: Beside,
    failure: Failure,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Requests")
    }
}

/// A connection that is ready for requests.
pub(crate) struct Shaken<S: Octets + Unpin + 'static> {
    requests: Requests,
    driver: Driver<Connection<Io<S>, Full<Bytes>, Beside>>,
}

/// Begins HTTP/2 on a stream that has agreed to it.
pub(crate) async fn shake_hands<S: Octets + Unpin + 'static>(
    stream: S,
    memory: Rc<RefCell<Box<[u8]>>>,
) -> io::Result<Shaken<S>> {
    let stream = Io::new(stream, Bytes::new(), memory);
    let (failure, beside) = (stream.failure(), Beside::default());
    let mut settings = http2::Builder::new(beside.clone());
    settings
        .initial_max_send_streams(EXCHANGES_PER_UPSTREAM_CONN)
        .max_header_list_size(u32::try_from(HEADER_OCTETS).expect("a small number"))
        .initial_stream_window_size(STREAM_WINDOW_OCTETS)
        .initial_connection_window_size(CONN_WINDOW_OCTETS)
        .max_send_buf_size(SEND_OCTETS)
        .max_local_error_reset_streams(RESETS_OF_OURS);
    let (sender, conn) = settings.handshake(stream).await.map_err(io::Error::other)?;
    let requests = Requests { sender, beside: beside.clone(), failure };
    Ok(Shaken { requests, driver: Driver::new(conn, beside) })
}

impl<S: Octets + Unpin + 'static> Shaken<S> {
    /// Tells the engine, and serves the connection until its end. It has not ended as long as answers
    /// are on their way, even if the upstream takes no more requests.
    pub(crate) async fn serve<A: Adapter>(self, worker: &Rc<Worker<A>>, conn: &Rc<Conn>) {
        let Self { requests, mut driver } = self;
        let failure = requests.failure.clone();
        conn.put_requests(requests);
        worker.handle_established(conn, Established { alpn: Some(ALPN), client: None });
        let ended = poll_fn(|context| {
            if let Poll::Ready(mode) = conn.poll_closed(context) {
                return Poll::Ready(Err(mode));
            }
            driver.poll_all(context).map(Ok)
        });
        match ended.await {
            Ok(()) => worker.handle_ended(conn, driver.how_ended(&failure)),
            Err(CloseMode::AfterWrites) => {
                conn.end_requests();
                driver.rouse(); // nobody waits for what is not answered by now
                let last = poll_fn(|context| driver.poll_all(context));
                A::timeout(worker.write_timeout(), last).await;
            }
            Err(CloseMode::Now) => {}
        }
    }
}

impl Requests {
    /// Starts an exchange, which the engine hears the end of unless it is cancelled or its connection
    /// ends first.
    pub(crate) fn start<A: Adapter>(
        &self,
        worker: Rc<Worker<A>>,
        conn: Rc<Conn>,
        handle: ExchangeHandle,
        cancelled: Rc<Bell>,
        request: Request<Bytes>,
    ) {
        let Self { mut sender, failure, .. } = self.clone();
        let response = sender.send_request(request.map(Full::new));
        drop(sender); // else the connection would count on more requests
        let woken = Rc::clone(&conn);
        self.beside.execute(async move {
            match unless_given_up(&conn, &cancelled, collected(response)).await {
                None => {}
                Some(Ok(response)) => worker.exchange_answered(&conn, handle, &response),
                Some(Err(why)) => {
                    let why = failure.get().unwrap_or(why);
                    worker.exchange_failed(&conn, handle, why);
                }
            }
        });
        woken.wake();
    }
}

/// Runs an exchange until it is cancelled, or forgotten with its connection; none then.
async fn unless_given_up<T>(
    conn: &Conn,
    cancelled: &Bell,
    exchange: impl Future<Output = T>,
) -> Option<T> {
    let (mut rung, mut exchange) = (Box::pin(cancelled.rung()), Box::pin(exchange));
    poll_fn(|context| {
        if !conn.is_known() || rung.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        exchange.as_mut().poll(context).map(Some)
    })
    .await
}

/// The whole response, if it is no longer than a message can be.
async fn collected(
    response: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<Response<Bytes>, IoFailure> {
    let (head, mut body) = response.await.map_err(|_| IoFailure::Reset)?.into_parts();
    let mut octets = BytesMut::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| IoFailure::Reset)?;
        octets.extend_from_slice(&frame.into_data().unwrap_or_default());
        if octets.len() > MESSAGE_OCTETS {
            return Err(IoFailure::Other);
        }
    }
    Ok(Response::from_parts(head, octets.freeze()))
}
