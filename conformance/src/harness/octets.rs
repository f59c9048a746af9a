//! Streams of octets to a server, plain or in TLS, with or without a header in front of everything.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, Stream};

use super::{PATIENCE, tls};

/// How to get at a server.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    addr: SocketAddr,
    prefix: Vec<u8>,
    tls: Option<Arc<ClientConfig>>,
}

impl Door {
    pub(crate) fn plain(addr: SocketAddr) -> Self {
        Self { addr, prefix: Vec::new(), tls: None }
    }

    pub(crate) fn tls(addr: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self { addr, prefix: Vec::new(), tls: Some(config) }
    }

    /// Octets that go out before anything else, as a proxy's header does.
    pub(crate) fn behind(mut self, prefix: &[u8]) -> Self {
        self.prefix = prefix.to_vec();
        self
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn config(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    /// A connection on which nothing but the prefix was said.
    pub(crate) fn socket(&self) -> TcpStream {
        let mut socket =
            TcpStream::connect_timeout(&self.addr, PATIENCE).expect("a TCP connection");
        socket.set_nodelay(true).expect("no delay");
        // A daemon that refuses the connection may be faster.
        let _ = socket.write_all(&self.prefix);
        socket
    }

    /// A connection that is ready for use.
    pub(crate) fn open(&self) -> Octets {
        self.try_open().expect("a connection, with TLS if need be")
    }

    /// The same, where TLS may be refused.
    pub(crate) fn try_open(&self) -> io::Result<Octets> {
        let mut socket = self.socket();
        let tls = match &self.tls {
            Some(config) => Some(Box::new(tls::handshake(&mut socket, config)?)),
            None => None,
        };
        Ok(Octets { socket, tls })
    }
}

/// A stream to a server.
#[derive(Debug)]
pub(crate) struct Octets {
    pub(crate) socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

/// What became of an attempt to send without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Sent,
    Full,
    Closed,
}

impl Octets {
    /// What TLS has settled.
    pub(crate) fn session(&self) -> &ClientConnection {
        self.tls.as_deref().expect("a connection in TLS")
    }

    /// Says that nothing more will be sent, by close_notify where there is TLS.
    pub(crate) fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut self.socket).expect("close_notify can be sent");
            }
        }
        self.socket.shutdown(Shutdown::Write).expect("half-close");
    }

    /// Sends as much as goes without waiting.
    pub(crate) fn push(&mut self, octets: &[u8]) -> Pushed {
        self.socket.set_nonblocking(true).expect("non-blocking");
        let pushed = match &mut self.tls {
            None => self.socket.write(octets).map(drop),
            Some(tls) if tls.wants_write() => tls.write_tls(&mut self.socket).map(drop),
            Some(tls) => tls
                .writer()
                .write_all(octets)
                .and_then(|()| tls.write_tls(&mut self.socket).map(drop)),
        };
        self.socket.set_nonblocking(false).expect("blocking");
        match pushed {
            Ok(()) => Pushed::Sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Pushed::Full,
            Err(_) => Pushed::Closed,
        }
    }
}

impl Read for Octets {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => Stream::new(tls.as_mut(), &mut self.socket).read(buffer),
            None => self.socket.read(buffer),
        }
    }
}

impl Write for Octets {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => Stream::new(tls.as_mut(), &mut self.socket).write(octets),
            None => self.socket.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => Stream::new(tls.as_mut(), &mut self.socket).flush(),
            None => self.socket.flush(),
        }
    }
}
