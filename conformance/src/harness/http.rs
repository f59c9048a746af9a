//! HTTP clients: version 1.1 by hand, so that a case can say anything, version 2 by the h2 crate, so
//! that a case can handle single streams.

use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::octets::{Door, Octets};
use super::tls::{SERVER_NAME, server_name};
use super::{PATIENCE, Reply};

/// The media type of RFC 8484 section 6.
pub(crate) const DNS_MESSAGE: &str = "application/dns-message";

/// Drives everything of the runner that is asynchronous.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// A request of RFC 8484 section 4.1 by POST.
pub(crate) fn post(message: &[u8]) -> Request<Vec<u8>> {
    Request::post(url("/dns-query"))
        .header(header::CONTENT_TYPE, DNS_MESSAGE)
        .header(header::ACCEPT, DNS_MESSAGE)
        .body(message.to_vec())
        .expect("a valid request")
}

/// The same by GET.
pub(crate) fn get(message: &[u8]) -> Request<Vec<u8>> {
    get_path(&format!("/dns-query?dns={}", BASE64URL_NOPAD.encode(message)))
}

/// A GET of any path.
pub(crate) fn get_path(path: &str) -> Request<Vec<u8>> {
    Request::get(url(path))
        .header(header::ACCEPT, DNS_MESSAGE)
        .body(Vec::new())
        .expect("a valid request")
}

/// The daemon's address for this path and query.
pub(crate) fn url(path: &str) -> String {
    format!("https://{SERVER_NAME}{path}")
}

/// The value of a header, empty if it is not there.
pub(crate) fn field(response: &Response<Vec<u8>>, name: header::HeaderName) -> String {
    let value = response.headers().get(name);
    value.map_or(String::new(), |value| value.to_str().expect("a printable header").to_owned())
}

/// The DNS message in an answer, of which status and media type are checked.
pub(crate) fn message(response: Response<Vec<u8>>) -> Reply {
    assert_eq!(response.status(), 200, "{response:?}");
    assert_eq!(field(&response, header::CONTENT_TYPE), DNS_MESSAGE);
    Reply::decode(response.into_body())
}

/// The age that `Cache-Control` allows, if it allows any.
pub(crate) fn max_age(response: &Response<Vec<u8>>) -> Option<u32> {
    let control = field(response, header::CACHE_CONTROL);
    let age = control.split(',').find_map(|part| part.trim().strip_prefix("max-age="));
    age.map(|age| age.parse().expect("an age is a number"))
}

/// Either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

impl Version {
    pub(crate) const BOTH: [Self; 2] = [Self::Http1, Self::Http2];

    /// One exchange on a connection of its own.
    pub(crate) fn exchange(self, door: &Door, request: Request<Vec<u8>>) -> Response<Vec<u8>> {
        self.try_exchange(door, request).expect("a response")
    }

    /// The same, where the daemon may refuse the connection.
    pub(crate) fn try_exchange(
        self,
        door: &Door,
        request: Request<Vec<u8>>,
    ) -> Option<Response<Vec<u8>>> {
        match self {
            Self::Http1 => {
                let mut client = Http1::on(door.try_open().ok()?);
                client.send(&request);
                client.receive_if_any()
            }
            Self::Http2 => {
                let mut client = Http2::try_with(door, &h2::client::Builder::new()).ok()?;
                client.exchange(request).ok()
            }
        }
    }
}

/// A client of HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Http1 {
    pub(crate) octets: Octets,
    received: Vec<u8>,
    /// The next response is one to HEAD.
    bodiless: bool,
}

/// What became of an attempt to read a response.
#[derive(Debug)]
pub(crate) enum Responded {
    Whole(Box<Response<Vec<u8>>>),
    Closed,
    Silence,
}

impl Http1 {
    pub(crate) fn to(door: &Door) -> Self {
        Self::on(door.open())
    }

    /// On a stream that is open already.
    pub(crate) fn on(octets: Octets) -> Self {
        Self { octets, received: Vec::new(), bodiless: false }
    }

    /// Sends octets as they are; a connection that the daemon has closed is the test's affair.
    pub(crate) fn send_raw(&mut self, octets: &[u8]) {
        let _ = self.octets.write_all(octets);
        let _ = self.octets.flush();
    }

    pub(crate) fn send(&mut self, request: &Request<Vec<u8>>) {
        self.send_raw(&encode(request));
    }

    pub(crate) fn exchange(&mut self, request: &Request<Vec<u8>>) -> Response<Vec<u8>> {
        self.send(request);
        self.receive()
    }

    pub(crate) fn receive(&mut self) -> Response<Vec<u8>> {
        match self.try_receive(PATIENCE) {
            Responded::Whole(response) => *response,
            other @ (Responded::Closed | Responded::Silence) => {
                panic!("a response, not {other:?} after {:?}", self.received)
            }
        }
    }

    /// The next response without a body, whatever length it says: that to HEAD.
    pub(crate) fn receive_head(&mut self) -> Response<()> {
        self.bodiless = true;
        let response = self.receive();
        self.bodiless = false;
        response.map(drop)
    }

    /// The next response, unless the connection ends or nothing comes.
    pub(crate) fn receive_if_any(&mut self) -> Option<Response<Vec<u8>>> {
        match self.try_receive(PATIENCE) {
            Responded::Whole(response) => Some(*response),
            Responded::Closed | Responded::Silence => None,
        }
    }

    /// The next response, or why there is none.
    pub(crate) fn try_receive(&mut self, within: Duration) -> Responded {
        let deadline = Instant::now() + within;
        loop {
            if let Some(response) = self.take_response() {
                return Responded::Whole(Box::new(response));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Responded::Silence;
            }
            self.octets.socket.set_read_timeout(Some(left)).expect("a timeout above zero");
            let mut buffer = [0; 16_384];
            match self.octets.read(&mut buffer) {
                Ok(0) => return Responded::Closed,
                Ok(count) => self.received.extend(&buffer[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return Responded::Closed,
            }
        }
    }

    /// How long it took until the other side closed the connection; responses before it are passed
    /// over.
    pub(crate) fn wait_for_close(&mut self) -> Duration {
        let start = Instant::now();
        loop {
            match self.try_receive(PATIENCE) {
                Responded::Closed => return start.elapsed(),
                Responded::Whole(_) => {}
                Responded::Silence => panic!("the connection stays open"),
            }
        }
    }

    fn take_response(&mut self) -> Option<Response<Vec<u8>>> {
        let end = self.received.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8(self.received[..end].to_vec()).expect("a head is text");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let mut response = Response::builder().status(status);
        let mut length = 0;
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a header has its colon");
            assert!(!name.eq_ignore_ascii_case("transfer-encoding"), "lengths are known: {head}");
            if name.eq_ignore_ascii_case("content-length") && !self.bodiless {
                length = value.parse().expect("a length is a number");
            }
            response = response.header(name, value);
        }
        let body = self.received.get(end + 4..end + 4 + length)?.to_vec();
        self.received.drain(..end + 4 + length);
        Some(response.body(body).expect("a valid response"))
    }
}

/// A request as HTTP/1.1 says it.
pub(crate) fn encode(request: &Request<Vec<u8>>) -> Vec<u8> {
    let path = request.uri().path_and_query().expect("every request has a path");
    let host = request.uri().authority().expect("every request has a host");
    let mut head = format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", request.method());
    for (name, value) in request.headers() {
        let value = value.to_str().expect("a printable header");
        write!(head, "{name}: {value}\r\n").expect("text takes text");
    }
    if !request.body().is_empty() || request.method() == http::Method::POST {
        write!(head, "Content-Length: {}\r\n", request.body().len()).expect("text takes text");
    }
    head.push_str("\r\n");
    let mut octets = head.into_bytes();
    octets.extend(request.body());
    octets
}

/// A client of HTTP/2.
#[derive(Debug)]
pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A request whose response is awaited.
#[derive(Debug)]
pub(crate) struct Exchange {
    response: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Http2 {
    pub(crate) fn to(door: &Door) -> Self {
        Self::with(door, &h2::client::Builder::new())
    }

    /// A client with settings of its own.
    pub(crate) fn with(door: &Door, settings: &h2::client::Builder) -> Self {
        Self::try_with(door, settings).expect("an HTTP/2 connection")
    }

    /// The same, where the daemon may refuse the connection.
    pub(crate) fn try_with(door: &Door, settings: &h2::client::Builder) -> io::Result<Self> {
        let socket = door.socket();
        let (sender, connection) = patiently(async {
            socket.set_nonblocking(true)?;
            let socket = tokio::net::TcpStream::from_std(socket)?;
            let stream: Box<dyn Stream> = match door.config() {
                None => Box::new(socket),
                Some(config) => {
                    let connector = TlsConnector::from(config.clone());
                    Box::new(connector.connect(server_name(), socket).await?)
                }
            };
            settings.handshake(stream).await.map_err(io::Error::other)
        })?;
        Ok(Self { sender, connection: RUNTIME.spawn(connection) })
    }

    /// Sends a request and does not wait for the response.
    pub(crate) fn start(&mut self, request: Request<Vec<u8>>) -> Result<Exchange, h2::Error> {
        let (parts, body) = request.into_parts();
        let mut exchange = self.start_head(Request::from_parts(parts, ()), body.is_empty())?;
        if !body.is_empty() {
            exchange.body.send_data(body.into(), true)?;
        }
        Ok(exchange)
    }

    /// Sends the head of a request, which is all of it if `ends`.
    pub(crate) fn start_head(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> Result<Exchange, h2::Error> {
        patiently(async {
            self.sender = self.sender.clone().ready().await?;
            let (response, body) = self.sender.send_request(request, ends)?;
            Ok(Exchange { response, body })
        })
    }

    pub(crate) fn exchange(
        &mut self,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, h2::Error> {
        self.start(request)?.receive()
    }

    /// How many streams the daemon lets be open at once, as it has said so far.
    pub(crate) fn streams_max(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// How long it took until the other side closed the connection.
    pub(crate) fn wait_for_close(&mut self) -> Duration {
        let start = Instant::now();
        let _ = patiently(&mut self.connection).expect("the task of a connection does not panic");
        start.elapsed()
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Exchange {
    pub(crate) fn receive(self) -> Result<Response<Vec<u8>>, h2::Error> {
        patiently(self.received())
    }

    /// The response, head and body.
    pub(crate) async fn received(self) -> Result<Response<Vec<u8>>, h2::Error> {
        let (parts, body) = self.response.await?.into_parts();
        Ok(Response::from_parts(parts, collect(body).await?))
    }

    /// Gives up (RFC 9113 section 5.4.2).
    pub(crate) fn reset(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }
}

/// All data of a stream, taken as it comes.
pub(crate) async fn collect(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut octets = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        octets.extend(data);
    }
    Ok(octets)
}

/// Waits for what has to happen, no longer than a test waits for anything.
pub(crate) fn patiently<T>(what: impl Future<Output = T>) -> T {
    let waited = RUNTIME.block_on(async { tokio::time::timeout(PATIENCE, what).await });
    waited.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain"))
}
