//! Clients over plain sockets of the standard library.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::{PATIENCE, Query, Reply, Transport};

/// A client of either transport, for what is the same over both.
#[derive(Debug)]
pub(crate) enum Client {
    Udp(UdpClient),
    Tcp(TcpClient),
}

impl Client {
    pub(crate) fn to(transport: Transport, server: SocketAddr) -> Self {
        match transport {
            Transport::Udp => Self::Udp(UdpClient::to(server)),
            Transport::Tcp => Self::Tcp(TcpClient::to(server)),
        }
    }

    /// Sends one message: in a datagram, or behind its length.
    pub(crate) fn send(&mut self, message: &[u8]) {
        match self {
            Self::Udp(client) => client.send(message),
            Self::Tcp(client) => client.send(message),
        }
    }

    /// The next message, or why there is none.
    pub(crate) fn try_receive(&mut self, within: Duration) -> Tried {
        match self {
            Self::Udp(client) => match client.try_receive(within) {
                Some(reply) => Tried::Reply(Box::new(reply)),
                None => Tried::Silence,
            },
            Self::Tcp(client) => client.try_receive(within),
        }
    }

    pub(crate) fn receive(&mut self) -> Reply {
        match self {
            Self::Udp(client) => client.receive(),
            Self::Tcp(client) => client.receive(),
        }
    }

    /// The next message as it came, for types that hickory-proto would refuse.
    pub(crate) fn receive_octets(&mut self) -> Vec<u8> {
        match self {
            Self::Udp(client) => client.octets_within(PATIENCE).expect("a reply by UDP"),
            Self::Tcp(client) => match client.octets_within(PATIENCE) {
                Filled::Whole(octets) => octets,
                other @ (Filled::Closed | Filled::Silence) => panic!("a reply, not {other:?}"),
            },
        }
    }

    /// Sends the query and checks what holds for every reply to it.
    pub(crate) fn ask(&mut self, query: &Query) -> Reply {
        match self {
            Self::Udp(client) => client.ask(query),
            Self::Tcp(client) => client.ask(query),
        }
    }

    /// Checks that no reply comes within the time given, and that a stream stays open.
    pub(crate) fn expect_silence(&mut self, within: Duration) {
        match self.try_receive(within) {
            Tried::Silence => {}
            other @ (Tried::Reply(_) | Tried::Closed) => panic!("silence, not {other:?}"),
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
}

/// A client on a TCP connection.
#[derive(Debug)]
pub(crate) struct TcpClient {
    pub(crate) stream: TcpStream,
}

impl TcpClient {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&server, PATIENCE).expect("a TCP connection");
        stream.set_nodelay(true).expect("no delay");
        Self { stream }
    }

    /// Sends octets as they are; a connection that the daemon has closed is the test's affair.
    pub(crate) fn send_raw(&mut self, octets: &[u8]) {
        let _ = self.stream.write_all(octets);
    }

    /// Sends one message behind its length (RFC 1035 section 4.2.2).
    pub(crate) fn send(&mut self, message: &[u8]) {
        self.send_raw(&framed(message));
    }

    /// Says that nothing more will be asked.
    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("half-close");
    }

    /// The next message, or why there is none.
    pub(crate) fn try_receive(&mut self, within: Duration) -> Tried {
        match self.octets_within(within) {
            Filled::Whole(message) => Tried::Reply(Box::new(Reply::decode(message))),
            Filled::Closed => Tried::Closed,
            Filled::Silence => Tried::Silence,
        }
    }

    fn octets_within(&mut self, within: Duration) -> Filled {
        let length = match self.fill(2, Instant::now() + within) {
            Filled::Whole(length) => usize::from(u16::from_be_bytes([length[0], length[1]])),
            other @ (Filled::Closed | Filled::Silence) => return other,
        };
        match self.fill(length, Instant::now() + PATIENCE) {
            Filled::Silence => panic!("a message stopped half way"),
            other @ (Filled::Whole(_) | Filled::Closed) => other,
        }
    }

    pub(crate) fn receive(&mut self) -> Reply {
        match self.try_receive(PATIENCE) {
            Tried::Reply(reply) => *reply,
            other @ (Tried::Closed | Tried::Silence) => panic!("a reply by TCP, not {other:?}"),
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
            other @ (Tried::Reply(_) | Tried::Silence) => panic!("closed, not {other:?}"),
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
            self.stream.set_read_timeout(Some(left)).expect("a timeout above zero");
            match self.stream.read(&mut buffer[filled..]) {
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
}

/// A message behind its length.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message fits its length");
    let mut octets = length.to_be_bytes().to_vec();
    octets.extend(message);
    octets
}
