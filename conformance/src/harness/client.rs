//! Clients: datagrams and streams over plain sockets of the standard library, TLS by rustls, HTTP as
//! [`super::http`] has it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use http::Response;

use super::http::{DNS_MESSAGE, Exchange, Http1, Http2, RUNTIME, field, get, post};
use super::octets::{Door, Octets, Pushed};
use super::{PATIENCE, Query, Reply};

/// By what a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Udp,
    Tcp,
    /// DNS over TLS.
    Dot,
    /// DNS over HTTPS: GET by HTTP/1.1, a connection for each query.
    Get,
    /// DNS over HTTPS: POST by HTTP/2, a connection for all queries.
    Post,
}

impl Via {
    /// Whether it is DNS over HTTPS.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Get | Self::Post)
    }
}

/// A client of any transport, for what is the same over all of them.
#[derive(Debug)]
pub(crate) enum Client {
    Udp(UdpClient),
    Stream(StreamClient),
    Http(HttpClient),
}

impl Client {
    pub(crate) fn to(via: Via, door: &Door) -> Self {
        match via {
            Via::Udp => Self::Udp(UdpClient::to(door.addr())),
            Via::Tcp | Via::Dot => Self::Stream(StreamClient::through(door)),
            Via::Get => Self::Http(HttpClient::new(door, None)),
            Via::Post => Self::Http(HttpClient::new(door, Some(Http2::to(door)))),
        }
    }

    /// Sends one message: in a datagram, behind its length, or in a request.
    pub(crate) fn send(&mut self, message: &[u8]) {
        match self {
            Self::Udp(client) => client.send(message),
            Self::Stream(client) => client.send(message),
            Self::Http(client) => client.send(message),
        }
    }

    /// The next message, or why there is none.
    pub(crate) fn try_receive(&mut self, within: Duration) -> Tried {
        match self {
            Self::Udp(client) => match client.try_receive(within) {
                Some(reply) => Tried::Reply(Box::new(reply)),
                None => Tried::Silence,
            },
            Self::Stream(client) => client.try_receive(within),
            Self::Http(client) => client.try_receive(within),
        }
    }

    pub(crate) fn receive(&mut self) -> Reply {
        match self.try_receive(PATIENCE) {
            Tried::Reply(reply) => *reply,
            other @ (Tried::Closed | Tried::Silence | Tried::Status(_)) => {
                panic!("a reply, not {other:?}")
            }
        }
    }

    /// The next message as it came, for types that hickory-proto would refuse.
    pub(crate) fn receive_octets(&mut self) -> Vec<u8> {
        let filled = match self {
            Self::Udp(client) => {
                client.octets_within(PATIENCE).map_or(Filled::Silence, Filled::Whole)
            }
            Self::Stream(client) => client.octets_within(PATIENCE),
            Self::Http(client) => client.octets_within(PATIENCE),
        };
        match filled {
            Filled::Whole(octets) => octets,
            other @ (Filled::Closed | Filled::Silence | Filled::Status(_)) => {
                panic!("a reply, not {other:?}")
            }
        }
    }

    /// Sends the query and checks what holds for every reply to it.
    pub(crate) fn ask(&mut self, query: &Query) -> Reply {
        self.send(&query.encode());
        let reply = self.receive();
        reply.check_echo(query);
        if let Self::Udp(_) = self {
            reply.check_datagram(query);
        }
        reply
    }

    /// Checks that no reply comes within the time given, and that a stream stays open.
    pub(crate) fn expect_silence(&mut self, within: Duration) {
        match self.try_receive(within) {
            Tried::Silence => {}
            other @ (Tried::Reply(_) | Tried::Closed | Tried::Status(_)) => {
                panic!("silence, not {other:?}")
            }
        }
    }

    /// Checks that the next response of HTTP has this status, and no message.
    pub(crate) fn expect_status(&mut self, status: u16) {
        match self.try_receive(PATIENCE) {
            Tried::Status(other) if other == status => {}
            other @ (Tried::Reply(_) | Tried::Closed | Tried::Silence | Tried::Status(_)) => {
                panic!("status {status}, not {other:?}")
            }
        }
    }
}

/// A client of DNS over HTTPS whose exchanges do not wait for each other.
#[derive(Debug)]
pub(crate) struct HttpClient {
    door: Door,
    /// The connection of all exchanges, else each has its own.
    shared: Option<Http2>,
    done: Sender<Option<Response<Vec<u8>>>>,
    responses: Receiver<Option<Response<Vec<u8>>>>,
}

impl HttpClient {
    fn new(door: &Door, shared: Option<Http2>) -> Self {
        let (done, responses) = mpsc::channel();
        Self { door: door.clone(), shared, done, responses }
    }

    fn send(&mut self, message: &[u8]) {
        let done = self.done.clone();
        // Nobody waits for the answers of a client that is gone.
        if let Some(shared) = &mut self.shared {
            match shared.start(post(message)).map(Exchange::received) {
                Ok(exchange) => drop(RUNTIME.spawn(async move { done.send(exchange.await.ok()) })),
                Err(_) => drop(done.send(None)),
            }
        } else {
            let (door, request) = (self.door.clone(), get(message));
            thread::spawn(move || {
                let response = door.try_open().ok().and_then(|octets| {
                    let mut client = Http1::on(octets);
                    client.send(&request);
                    client.receive_if_any()
                });
                drop(done.send(response));
            });
        }
    }

    fn try_receive(&mut self, within: Duration) -> Tried {
        self.octets_within(within).into()
    }

    fn octets_within(&mut self, within: Duration) -> Filled {
        match self.responses.recv_timeout(within) {
            Ok(Some(response)) if response.status() == 200 => {
                assert_eq!(field(&response, http::header::CONTENT_TYPE), DNS_MESSAGE);
                Filled::Whole(response.into_body())
            }
            Ok(Some(response)) => Filled::Status(response.status().as_u16()),
            Ok(None) => Filled::Closed,
            Err(RecvTimeoutError::Timeout) => Filled::Silence,
            Err(RecvTimeoutError::Disconnected) => panic!("we hold a sender ourselves"),
        }
    }
}

/// A client with a UDP socket of its own.
#[derive(Debug)]
pub(crate) struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    /// Connected: takes datagrams only from the very address that it asks.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let local: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        Self::from(local, server)
    }

    /// From an address of the client's choice.
    pub(crate) fn from(local: SocketAddr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind(local).expect("a port for a client");
        socket.connect(server).expect("connecting a datagram socket needs nobody");
        Self { socket }
    }

    pub(crate) fn send(&self, octets: &[u8]) {
        self.socket.send(octets).expect("loopback takes a datagram");
    }

    /// The next datagram that comes within the time given.
    pub(crate) fn try_receive(&self, within: Duration) -> Option<Reply> {
        self.octets_within(within).map(Reply::decode)
    }

    fn octets_within(&self, within: Duration) -> Option<Vec<u8>> {
        self.socket.set_read_timeout(Some(within)).expect("a timeout above zero");
        let mut buffer = vec![0; 65_535];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Some(buffer)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                None
            }
            Err(error) => panic!("receiving: {error}"),
        }
    }

    pub(crate) fn receive(&self) -> Reply {
        self.try_receive(PATIENCE).expect("a reply by UDP")
    }

    /// Sends the query and checks what holds for every reply to it.
    pub(crate) fn ask(&self, query: &Query) -> Reply {
        self.send(&query.encode());
        let reply = self.receive();
        reply.check_echo(query);
        reply.check_datagram(query);
        reply
    }
}

/// What became of an attempt to read a message from a stream.
#[derive(Debug)]
pub(crate) enum Tried {
    /// It came.
    Reply(Box<Reply>),
    /// The other side closed or broke the connection.
    Closed,
    /// Neither, within the time given.
    Silence,
    /// A response of HTTP that brings no message.
    Status(u16),
}

impl From<Filled> for Tried {
    fn from(filled: Filled) -> Self {
        match filled {
            Filled::Whole(message) => Self::Reply(Box::new(Reply::decode(message))),
            Filled::Closed => Self::Closed,
            Filled::Silence => Self::Silence,
            Filled::Status(status) => Self::Status(status),
        }
    }
}

/// A client on a stream: a TCP connection, or TLS on one.
#[derive(Debug)]
pub(crate) struct StreamClient {
    pub(crate) octets: Octets,
}

impl StreamClient {
    pub(crate) fn to(server: SocketAddr) -> Self {
        Self::through(&Door::plain(server))
    }

    pub(crate) fn through(door: &Door) -> Self {
        Self { octets: door.open() }
    }

    /// The same, where the daemon may refuse the connection.
    pub(crate) fn try_through(door: &Door) -> Option<Self> {
        Some(Self { octets: door.try_open().ok()? })
    }

    /// Checks that the daemon does not want one more connection.
    pub(crate) fn refused(door: &Door) {
        if let Some(mut client) = Self::try_through(door) {
            client.wait_for_close();
        }
    }

    /// Sends octets as they are; a connection that the daemon has closed is the test's affair.
    pub(crate) fn send_raw(&mut self, octets: &[u8]) {
        let _ = self.octets.write_all(octets).and_then(|()| self.octets.flush());
    }

    /// Sends as much as goes without waiting.
    pub(crate) fn push(&mut self, octets: &[u8]) -> Pushed {
        self.octets.push(octets)
    }

    /// Sends one message behind its length (RFC 1035 section 4.2.2).
    pub(crate) fn send(&mut self, message: &[u8]) {
        self.send_raw(&framed(message));
    }

    /// Says that nothing more will be asked.
    pub(crate) fn finish(&mut self) {
        self.octets.finish();
    }

    /// The next message, or why there is none.
    pub(crate) fn try_receive(&mut self, within: Duration) -> Tried {
        self.octets_within(within).into()
    }

    fn octets_within(&mut self, within: Duration) -> Filled {
        let length = match self.fill(2, Instant::now() + within) {
            Filled::Whole(length) => usize::from(u16::from_be_bytes([length[0], length[1]])),
            other @ (Filled::Closed | Filled::Silence | Filled::Status(_)) => return other,
        };
        match self.fill(length, Instant::now() + PATIENCE) {
            Filled::Silence => panic!("a message stopped half way"),
            other @ (Filled::Whole(_) | Filled::Closed | Filled::Status(_)) => other,
        }
    }

    pub(crate) fn receive(&mut self) -> Reply {
        match self.try_receive(PATIENCE) {
            Tried::Reply(reply) => *reply,
            other @ (Tried::Closed | Tried::Silence | Tried::Status(_)) => {
                panic!("a reply on a stream, not {other:?}")
            }
        }
    }

    /// Sends the query and checks what holds for every reply to it.
    pub(crate) fn ask(&mut self, query: &Query) -> Reply {
        self.send(&query.encode());
        let reply = self.receive();
        reply.check_echo(query);
        reply
    }

    /// How long it took until the other side closed the connection without another word.
    pub(crate) fn wait_for_close(&mut self) -> Duration {
        let start = Instant::now();
        match self.try_receive(PATIENCE) {
            Tried::Closed => start.elapsed(),
            other @ (Tried::Reply(_) | Tried::Silence | Tried::Status(_)) => {
                panic!("closed, not {other:?}")
            }
        }
    }

    fn fill(&mut self, octets: usize, deadline: Instant) -> Filled {
        let mut buffer = vec![0; octets];
        let mut filled = 0;
        while filled < buffer.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Filled::Silence;
            }
            self.octets.socket.set_read_timeout(Some(left)).expect("a timeout above zero");
            match self.octets.read(&mut buffer[filled..]) {
                Ok(0) => return Filled::Closed,
                Ok(count) => filled += count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return Filled::Closed,
            }
        }
        Filled::Whole(buffer)
    }
}

/// As [`Tried`], in octets.
#[derive(Debug)]
enum Filled {
    Whole(Vec<u8>),
    Closed,
    Silence,
    Status(u16),
}

/// A message behind its length.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message fits its length");
    let mut octets = length.to_be_bytes().to_vec();
    octets.extend(message);
    octets
}
