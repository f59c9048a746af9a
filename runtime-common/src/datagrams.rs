//! A worker's UDP sockets, between readiness and the engine.
//!
//! Owns the sockets of listeners and those towards upstreams, their readiness and the two batches.
//! Waits for nothing: the async runtime waits for [`Datagrams`] as a descriptor and then calls
//! [`round`](Datagrams::round). Decides nothing but the order in which ready sockets are read.
//! Something else of the worker that has a descriptor may be waited for along with them.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use balancedns_core::batch::{ReceiveBatch, TransmitBatch, Via};
use balancedns_core::engine::{Engine, IoFailure, ListenerId, Origin};
use balancedns_core::handle::SocketHandle;
use balancedns_core::limits::{BATCH_DATAGRAMS, CLIENT_DATAGRAM_OCTETS, UPSTREAM_DATAGRAM_OCTETS};
use balancedns_core::time::Instant;

use crate::clock::Clock;
use crate::poll::Readiness;
use crate::socket;
use crate::udp::{DatagramSocket, UdpIo, batch_size};

/// Batches read from one socket before the others get their turn.
const BATCHES_PER_TURN: usize = 4;
/// Turns at most for the last look at a listener that is closed.
const TURNS_BEFORE_CLOSING: usize = 16;
/// Marks a readiness token of a socket towards an upstream; the rest is its slot.
const UPSTREAM_TOKEN: u64 = 1 << 63;
/// The readiness token of what is waited for beside the sockets.
const OTHER_TOKEN: u64 = u64::MAX;
/// The smallest slot for sending: queries to upstreams fit.
const TRANSMIT_OCTETS_MIN: u16 = 1232;

/// What a round found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// All sockets are drained: wait.
    Drained,
    /// There is more, or probably so: come again before waiting.
    More,
}

/// UDP sockets of one worker.
#[derive(Debug)]
pub struct Datagrams {
    clock: Clock,
    readiness: Readiness,
    io: UdpIo,
    listeners: Vec<Option<Listener>>,
    upstreams: Vec<Option<Upstream>>,
    receive: ReceiveBatch,
    transmit: TransmitBatch,
    /// Sockets that were left before they were drained.
    unfinished: Vec<u64>,
    /// Sockets to read in this round: kept for its memory.
    turn: Vec<u64>,
    /// What is waited for beside the sockets has become ready.
    other_ready: bool,
}

#[derive(Debug)]
struct Listener {
    socket: DatagramSocket,
    /// No longer read: only answers to what came earlier leave by it.
    closed: bool,
}

#[derive(Debug)]
struct Upstream {
    handle: SocketHandle,
    socket: DatagramSocket,
}

impl Datagrams {
    /// No sockets yet. Sends at most `udp_size` octets at once.
    ///
    /// # Errors
    /// The process or machine is out of descriptors or memory.
    pub fn new(clock: Clock, udp_size: u16) -> io::Result<Self> {
        let receive_octets = CLIENT_DATAGRAM_OCTETS.max(UPSTREAM_DATAGRAM_OCTETS);
        let transmit_octets = usize::from(udp_size.max(TRANSMIT_OCTETS_MIN));
        Ok(Self {
            clock,
            readiness: Readiness::new()?,
            io: UdpIo::default(),
            listeners: Vec::new(),
            upstreams: Vec::new(),
            receive: ReceiveBatch::new(BATCH_DATAGRAMS, receive_octets),
            transmit: TransmitBatch::new(BATCH_DATAGRAMS, transmit_octets),
            unfinished: Vec::new(),
            turn: Vec::new(),
            other_ready: false,
        })
    }

    /// Waits for a descriptor along with the sockets, from now on.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn watch(&self, other: impl AsFd) -> io::Result<()> {
        self.readiness.add(other, OTHER_TOKEN)
    }

    /// Whether that descriptor has become ready since this was last asked.
    pub fn take_other_ready(&mut self) -> bool {
        std::mem::take(&mut self.other_ready)
    }

    /// Listens on a bound socket.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn add_listener(&mut self, id: ListenerId, socket: UdpSocket) -> io::Result<()> {
        let socket = DatagramSocket::listener(socket)?;
        self.readiness.add(&socket, u64::from(id.0))?;
        place(&mut self.listeners, usize::from(id.0), Listener { socket, closed: false });
        Ok(())
    }

    /// Reads every ready socket once, a few batches each, and hands what came to the engine. Its
    /// immediate answers go out with the next [`transmit`](Self::transmit) at the latest.
    ///
    /// # Errors
    /// Readiness itself failed: the worker cannot go on.
    pub fn round(&mut self, engine: &mut Engine) -> io::Result<Round> {
        std::mem::swap(&mut self.turn, &mut self.unfinished);
        let ready = self.readiness.poll()?;
        let more_ready = ready.is_full();
        let left_over = self.turn.len();
        for token in ready.tokens() {
            if token == OTHER_TOKEN {
                self.other_ready = true;
            } else if !self.turn[..left_over].contains(&token) {
                self.turn.push(token);
            }
        }
        let mut received = 0;
        for next in 0..self.turn.len() {
            received += self.read(engine, self.turn[next]);
        }
        self.turn.clear();
        // A full batch in all: while it was worked on, more has probably come.
        let busy = received >= BATCH_DATAGRAMS;
        if more_ready || busy || !self.unfinished.is_empty() {
            return Ok(Round::More);
        }
        Ok(Round::Drained)
    }

    /// Sends all that the engine has to send. Says whether there was anything.
    pub fn transmit(&mut self, engine: &mut Engine) -> bool {
        let mut any = false;
        loop {
            let now = self.clock.now();
            let more = engine.poll_transmit(now, &mut self.transmit);
            any |= !self.transmit.is_empty();
            self.flush(engine, now);
            if !more {
                return any;
            }
        }
    }

    /// Opens a socket towards an upstream, and tells the engine how that went.
    pub fn open_socket(
        &mut self,
        engine: &mut Engine,
        handle: SocketHandle,
        remote: SocketAddr,
        source: Option<IpAddr>,
    ) {
        let opened = self.try_open(handle, remote, source);
        let now = self.clock.now();
        match opened {
            Ok(()) => engine.handle_socket_opened(now, handle),
            Err(error) => engine.handle_socket_failed(now, handle, IoFailure::from(&error)),
        }
    }

    fn try_open(
        &mut self,
        handle: SocketHandle,
        remote: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<()> {
        let socket = DatagramSocket::connected(socket::upstream_udp(remote, source)?, remote);
        self.readiness.add(&socket, UPSTREAM_TOKEN | handle.index() as u64)?;
        place(&mut self.upstreams, handle.index(), Upstream { handle, socket });
        Ok(())
    }

    /// Closes a socket towards an upstream.
    pub fn close_socket(&mut self, handle: SocketHandle) {
        if let Some(slot) = self.upstreams.get_mut(handle.index())
            && slot.as_ref().is_some_and(|upstream| upstream.handle == handle)
        {
            *slot = None; // its only descriptor, so closing also ends the watch
        }
    }

    /// Hands in what a listener still holds and lets nothing more in. Answers to queries in flight
    /// still leave by it, until the worker ends. False if there is no such UDP listener.
    pub fn close_listener(&mut self, engine: &mut Engine, id: ListenerId) -> bool {
        if !self.listeners.get(usize::from(id.0)).is_some_and(Option::is_some) {
            return false;
        }
        let token = u64::from(id.0);
        for _ in 0..TURNS_BEFORE_CLOSING {
            self.unfinished.retain(|other| *other != token);
            self.read(engine, token);
            self.transmit(engine);
            if !self.unfinished.contains(&token) {
                break;
            }
        }
        self.unfinished.retain(|other| *other != token);
        if let Some(Some(listener)) = self.listeners.get_mut(usize::from(id.0)) {
            listener.closed = true;
            listener.socket.refuse_more();
            self.readiness.remove(&listener.socket);
        }
        true
    }

    /// Reads one socket until it is drained or its turn is over, which it then remembers. Says how
    /// many datagrams came.
    fn read(&mut self, engine: &mut Engine, token: u64) -> usize {
        let mut total = 0;
        let mut failed = false;
        for _ in 0..BATCHES_PER_TURN {
            let Some((origin, socket)) = find(&self.listeners, &self.upstreams, token) else {
                return total; // closed since it became ready
            };
            let received = self.io.receive(socket, &mut self.receive);
            let now = self.clock.now();
            match (received, origin) {
                (Ok(0), _) => return total,
                (Ok(count), origin) => {
                    if self.transmit.room() < count {
                        self.flush(engine, now);
                    }
                    engine.handle_datagrams(now, origin, &self.receive, &mut self.transmit);
                    total += count;
                    if count < batch_size(&self.receive) {
                        return total;
                    }
                }
                // An ICMP answer to an earlier query, cleared by being read: datagrams may follow.
                (Err(error), Origin::Socket(handle)) if !failed => {
                    engine.handle_socket_failed(now, handle, IoFailure::from(&error));
                    failed = true;
                }
                // A second failure in a row, or one of a listener: the others first, then again.
                (Err(_), _) => break,
            }
        }
        self.unfinished.push(token);
        total
    }

    /// Empties the transmit batch.
    fn flush(&mut self, engine: &mut Engine, now: Instant) {
        self.send_runs(engine, now);
        self.transmit.clear();
    }

    /// Sends run by run of datagrams that leave by one socket from one address.
    fn send_runs(&mut self, engine: &mut Engine, now: Instant) {
        let mut datagrams = self.transmit.iter().peekable();
        while let Some((first, _)) = datagrams.peek() {
            let run = Run::of(first.via);
            let of_run = std::iter::from_fn(|| {
                let (meta, bytes) = datagrams.next_if(|(meta, _)| Run::of(meta.via) == run)?;
                Some((peer(meta.via), bytes))
            });
            let socket = match run {
                Run::Listener(id, _) => {
                    let listener = self.listeners.get(usize::from(id.0)).and_then(Option::as_ref);
                    listener.map(|listener| &listener.socket)
                }
                Run::Socket(handle) => upstream(&self.upstreams, handle).map(|found| &found.socket),
            };
            let Some(socket) = socket else {
                of_run.for_each(drop); // closed meanwhile: nobody waits for these
                continue;
            };
            let source = match run {
                Run::Listener(_, source) => source,
                Run::Socket(_) => None,
            };
            let sent = self.io.send(socket, source, of_run);
            let Some(error) = sent.error else { continue };
            match run {
                Run::Listener(id, _) => {
                    for _ in 0..sent.failed {
                        engine.handle_send_failed(now, id, IoFailure::from(&error));
                    }
                }
                // A full buffer is a lost datagram like any other: it will be sent again.
                Run::Socket(_) if error.kind() == io::ErrorKind::WouldBlock => {}
                Run::Socket(handle) => {
                    engine.handle_socket_failed(now, handle, IoFailure::from(&error));
                }
            }
        }
    }
}

impl AsFd for Datagrams {
    /// Readable when a socket is ready.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}

/// What the datagrams of one system call have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Listener(ListenerId, Option<IpAddr>),
    Socket(SocketHandle),
}

impl Run {
    fn of(via: Via) -> Self {
        match via {
            Via::Listener { listener, source, .. } => Self::Listener(listener, source),
            Via::Socket(handle) => Self::Socket(handle),
        }
    }
}

fn peer(via: Via) -> Option<SocketAddr> {
    match via {
        Via::Listener { peer, .. } => Some(peer),
        Via::Socket(_) => None,
    }
}

fn upstream(upstreams: &[Option<Upstream>], handle: SocketHandle) -> Option<&Upstream> {
    upstreams.get(handle.index())?.as_ref().filter(|found| found.handle == handle)
}

/// The socket under a readiness token. A token of a slot that has a new owner is harmless: the new
/// socket is found to be empty.
fn find<'a>(
    listeners: &'a [Option<Listener>],
    upstreams: &'a [Option<Upstream>],
    token: u64,
) -> Option<(Origin, &'a DatagramSocket)> {
    let slot = usize::try_from(token & !UPSTREAM_TOKEN).ok()?;
    if token & UPSTREAM_TOKEN != 0 {
        let upstream = upstreams.get(slot)?.as_ref()?;
        return Some((Origin::Socket(upstream.handle), &upstream.socket));
    }
    let listener = listeners.get(slot)?.as_ref().filter(|listener| !listener.closed)?;
    let id = u16::try_from(slot).expect("tokens of listeners are made of their ids");
    Some((Origin::Listener(ListenerId(id)), &listener.socket))
}

fn place<T>(slots: &mut Vec<Option<T>>, index: usize, value: T) {
    while slots.len() <= index {
        slots.push(None);
    }
    slots[index] = Some(value);
}
