//! Upstream servers that do what a test tells them: one script is called for each query, on UDP
//! and TCP of one port, and says what to send. Everything that came in is kept for inspection.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use tokio::sync::{mpsc, oneshot};

use super::client::framed;
use super::secure::{Counts, End, Exchanged, Out, ok};
use super::{PATIENCE, address, dns, soa};

/// How a query came to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Dot,
    Doh,
}

/// A query as the upstream received it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// How many came before it, over both transports.
    pub(crate) sequence: usize,
    pub(crate) transport: Transport,
    pub(crate) from: SocketAddr,
    /// How many TCP connections came before its own; 0 for UDP.
    pub(crate) conn: usize,
    pub(crate) octets: Vec<u8>,
    pub(crate) message: Message,
    /// The head of the request that brought it, by DoH.
    pub(crate) request: Option<http::request::Parts>,
}

impl Asked {
    pub(crate) fn id(&self) -> u16 {
        self.message.metadata.id
    }

    /// The name in lower case, with its final dot.
    pub(crate) fn name(&self) -> String {
        self.message.queries[0].name().to_ascii().to_ascii_lowercase()
    }

    pub(crate) fn qtype(&self) -> RecordType {
        self.message.queries[0].query_type()
    }

    /// The labels of the name, letters in lower case.
    pub(crate) fn labels(&self) -> Vec<Vec<u8>> {
        self.message.queries[0].name().iter().map(<[u8]>::to_ascii_lowercase).collect()
    }

    /// The second word of the header.
    pub(crate) fn flags(&self) -> u16 {
        u16::from_be_bytes([self.octets[2], self.octets[3]])
    }

    /// The octets of the question section.
    pub(crate) fn question(&self) -> &[u8] {
        let name: usize = self.message.queries[0].name().iter().map(|label| 1 + label.len()).sum();
        &self.octets[12..12 + name + 1 + 4]
    }

    /// A reply octet by octet: flags, counts of the three sections, records.
    pub(crate) fn raw_reply(&self, flags: u16, counts: [u16; 3], records: &[u8]) -> Vec<u8> {
        let mut octets = self.octets[..2].to_vec();
        for word in [flags, 1].into_iter().chain(counts) {
            octets.extend(word.to_be_bytes());
        }
        octets.extend(self.question());
        octets.extend(records);
        octets
    }

    /// The codes of the EDNS options that came with it.
    pub(crate) fn option_codes(&self) -> Vec<u16> {
        dns::option_codes(&self.message)
    }

    /// The data of an EDNS option that came with it.
    pub(crate) fn option(&self, code: u16) -> Option<Vec<u8>> {
        dns::option(&self.message, code)
    }

    /// A reply without records, as a recursive server would send it.
    pub(crate) fn reply(&self) -> Message {
        let mut reply = Message::response(self.id(), OpCode::Query);
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        reply.add_queries(self.message.queries.clone());
        reply
    }

    pub(crate) fn answer(&self, records: impl IntoIterator<Item = Record>) -> Message {
        let mut reply = self.reply();
        reply.add_answers(records);
        reply
    }

    /// One address under the name that was asked.
    pub(crate) fn address(&self, ttl: u32, ip: &str) -> Message {
        let mut record = address(".", ttl, ip);
        record.name.clone_from(self.message.queries[0].name());
        self.answer([record])
    }

    pub(crate) fn rcode(&self, rcode: ResponseCode) -> Message {
        let mut reply = self.reply();
        reply.metadata.response_code = rcode;
        reply
    }

    /// A negative answer: NXDOMAIN, or NODATA with `ResponseCode::NoError`.
    pub(crate) fn negative(&self, rcode: ResponseCode, ttl: u32, minimum: u32) -> Message {
        let mut reply = self.rcode(rcode);
        reply.add_authority(soa("example.org.", ttl, minimum));
        reply
    }

    /// Nothing but "ask again over TCP".
    pub(crate) fn truncated(&self) -> Message {
        let mut reply = self.reply();
        reply.metadata.truncation = true;
        reply
    }
}

/// What a script wants done.
pub(crate) enum Answer {
    /// Nothing.
    Silence,
    /// This message.
    Send(Box<Message>),
    /// These octets, in datagrams or frames of their own.
    Octets(Vec<Vec<u8>>),
    /// What comes with it, once the gate is open.
    When(Gate, Box<Answer>),
    /// What comes with it, after this long.
    After(Duration, Box<Answer>),
    /// The message, then the end of the connection.
    SendAndClose(Box<Message>),
    /// The end of the connection.
    Close,
    /// A response that is none of DNS, by DoH; silence elsewhere.
    Http(Box<http::Response<Vec<u8>>>),
    /// The end of this exchange alone, by DoH; silence elsewhere.
    Reset,
}

impl From<Message> for Answer {
    fn from(message: Message) -> Self {
        Self::Send(Box::new(message))
    }
}

/// Holds answers back until a test opens it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub(crate) fn wait(&self) {
        let guard = lock(&self.0.0);
        drop(self.0.1.wait_timeout_while(guard, PATIENCE * 2, |open| !*open));
    }
}

/// A server; it stops when dropped.
pub(crate) struct Upstream {
    addr: SocketAddr,
    socket: Option<Arc<UdpSocket>>,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

pub(super) struct State {
    pub(super) counts: Counts,
    script: Box<dyn Fn(&Asked) -> Answer + Send + Sync>,
    asked: Mutex<Vec<Asked>>,
    changed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
    stopping: AtomicBool,
    /// A thread of the server panicked.
    broken: AtomicBool,
}

/// Takes down that the thread panicked, so that the case cannot pass over it.
struct Watch<'a>(&'a AtomicBool);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(thread::panicking(), Ordering::SeqCst);
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Upstream {
    /// UDP and TCP on one port of 127.0.0.1.
    pub(crate) fn start<A: Into<Answer>>(
        script: impl Fn(&Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into(), true, script)
    }

    /// UDP alone: a connection to the same port is refused.
    pub(crate) fn udp_only<A: Into<Answer>>(
        script: impl Fn(&Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into(), false, script)
    }

    /// A server that gives the same address for every name, and no data for other types.
    pub(crate) fn answering(ip: &'static str) -> Self {
        Self::start(move |asked| {
            if asked.qtype() == RecordType::A {
                asked.address(300, ip)
            } else {
                asked.negative(ResponseCode::NoError, 300, 300)
            }
        })
    }

    /// A server that takes everything and says nothing.
    pub(crate) fn silent() -> Self {
        Self::start(|_| Answer::Silence)
    }

    /// On a port of this address, with or without TCP.
    pub(crate) fn on<A: Into<Answer>>(
        ip: IpAddr,
        with_tcp: bool,
        script: impl Fn(&Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        let (socket, listener) = bind_both(ip);
        Self::serve(socket, with_tcp.then_some(listener), script)
    }

    /// On a port of 127.0.0.1 that the test knows already.
    pub(crate) fn at_port<A: Into<Answer>>(
        port: u16,
        script: impl Fn(&Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, port).into(), script)
    }

    /// On an address and port that the test knows already.
    pub(crate) fn at<A: Into<Answer>>(
        addr: SocketAddr,
        script: impl Fn(&Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        let socket = UdpSocket::bind(addr).expect("the UDP port is free");
        let listener = TcpListener::bind(addr).expect("the TCP port is free");
        Self::serve(socket, Some(listener), script)
    }

    /// On a UDP port of 127.0.0.1 that was free a moment ago, without TCP.
    pub(crate) fn udp_at_port<A: Into<Answer>>(
        port: u16,
        script: impl Fn(&Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("the UDP port is free");
        Self::serve(socket, None, script)
    }

    fn serve<A: Into<Answer>>(
        socket: UdpSocket,
        listener: Option<TcpListener>,
        script: impl Fn(&Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        let addr = socket.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State::new(move |asked| script(asked).into()));
        let socket = Arc::new(socket);
        let mut threads = Vec::new();
        threads.push(thread::spawn({
            let (state, socket) = (Arc::clone(&state), Arc::clone(&socket));
            move || serve_udp(&state, &socket)
        }));
        if let Some(listener) = listener {
            threads.push(thread::spawn({
                let state = Arc::clone(&state);
                move || serve_tcp(&state, &listener)
            }));
        }
        Self { addr, socket: Some(socket), state, threads, task: None }
    }

    /// A server that a task of the runtime is.
    pub(super) fn of_task(
        addr: SocketAddr,
        state: Arc<State>,
        task: tokio::task::JoinHandle<()>,
    ) -> Self {
        Self { addr, socket: None, state, threads: Vec::new(), task: Some(task) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends a datagram from the address that is asked, out of turn.
    pub(crate) fn send_to(&self, octets: &[u8], to: SocketAddr) {
        let socket = self.socket.as_ref().expect("a server that has datagrams");
        // An error is an ICMP message about an earlier one.
        let _ = socket.send_to(octets, to);
    }

    /// What it has counted, if it is one over TLS.
    pub(crate) fn counts(&self) -> &Counts {
        &self.state.counts
    }

    /// Everything asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        lock(&self.state.asked).clone()
    }

    /// How many queries came so far.
    pub(crate) fn count(&self) -> usize {
        lock(&self.state.asked).len()
    }

    /// Everything asked, once it is at least `count`.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Asked> {
        let guard = lock(&self.state.asked);
        let (guard, _) = self
            .state
            .changed
            .wait_timeout_while(guard, PATIENCE, |asked| asked.len() < count)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(guard.len() >= count, "{count} queries expected, {} came", guard.len());
        guard.clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.take() {
            // Its connections end with it.
            task.abort();
            let _ = super::http::patiently(task);
        }
        if !self.threads.is_empty() {
            // Wakes both servers, which then see that they are to stop.
            if let Ok(socket) = UdpSocket::bind((self.addr.ip(), 0)) {
                let _ = socket.send_to(&[], self.addr);
            }
            let _ = TcpStream::connect_timeout(&self.addr, Duration::from_millis(500));
        }
        for stream in lock(&self.state.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let broken = self.state.broken.load(Ordering::SeqCst);
        assert!(!broken || thread::panicking(), "the upstream server panicked");
    }
}

fn serve_udp(state: &Arc<State>, socket: &Arc<UdpSocket>) {
    let mut buffer = vec![0; 65_535];
    loop {
        let received = socket.recv_from(&mut buffer);
        if state.stopping.load(Ordering::SeqCst) {
            return;
        }
        // An error here is an ICMP message about an answer that nobody waited for.
        let Ok((length, from)) = received else {
            continue;
        };
        let outlet = Outlet::Datagram(Arc::clone(socket), from);
        state.take(&buffer[..length], Transport::Udp, from, 0, None, outlet);
    }
}

fn serve_tcp(state: &Arc<State>, listener: &TcpListener) {
    for conn in 0.. {
        let accepted = listener.accept();
        if state.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok((stream, from)) = accepted else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        lock(&state.streams).push(stream.try_clone().expect("a second handle"));
        let state = Arc::clone(state);
        thread::spawn(move || serve_stream(&state, stream, from, conn));
    }
}

fn serve_stream(state: &Arc<State>, mut stream: TcpStream, from: SocketAddr, conn: usize) {
    let writer = Arc::new(Mutex::new(stream.try_clone().expect("a second handle")));
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut message).is_err() {
            return;
        }
        let outlet = Outlet::Stream(Arc::clone(&writer));
        state.take(&message, Transport::Tcp, from, conn, None, outlet);
    }
}

impl State {
    pub(super) fn new(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            counts: Counts::default(),
            script: Box::new(script),
            asked: Mutex::default(),
            changed: Condvar::new(),
            streams: Mutex::default(),
            stopping: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }
    }

    pub(super) fn take(
        &self,
        octets: &[u8],
        transport: Transport,
        from: SocketAddr,
        conn: usize,
        request: Option<http::request::Parts>,
        outlet: Outlet,
    ) {
        let _watch = Watch(&self.broken);
        let message = Message::from_vec(octets)
            .unwrap_or_else(|error| panic!("a query that does not decode: {error}: {octets:02x?}"));
        let asked = {
            let mut list = lock(&self.asked);
            let asked = Asked {
                sequence: list.len(),
                transport,
                from,
                conn,
                octets: octets.to_vec(),
                message,
                request,
            };
            list.push(asked.clone());
            asked
        };
        self.changed.notify_all();
        outlet.carry_out((self.script)(&asked));
    }
}

pub(super) enum Outlet {
    Datagram(Arc<UdpSocket>, SocketAddr),
    Stream(Arc<Mutex<TcpStream>>),
    /// A DoT connection.
    Frames(mpsc::UnboundedSender<Out>),
    /// A DoH exchange, and the connection that carries it.
    Exchange(Mutex<Option<oneshot::Sender<Exchanged>>>, mpsc::UnboundedSender<End>),
}

impl Outlet {
    fn carry_out(self, answer: Answer) {
        match answer {
            Answer::Silence => {}
            Answer::Send(message) => self.send(&encode(&message)),
            Answer::Octets(messages) => messages.iter().for_each(|octets| self.send(octets)),
            Answer::When(gate, then) => {
                thread::spawn(move || {
                    gate.wait();
                    self.carry_out(*then);
                });
            }
            Answer::After(wait, then) => {
                thread::spawn(move || {
                    thread::sleep(wait);
                    self.carry_out(*then);
                });
            }
            Answer::SendAndClose(message) => {
                self.send(&encode(&message));
                self.close(End::Gracefully);
            }
            Answer::Close => self.close(End::Now),
            Answer::Http(response) => self.respond(Exchanged::Response(response)),
            Answer::Reset => self.respond(Exchanged::Reset),
        }
    }

    /// A client that has gone does not trouble the server.
    fn send(&self, octets: &[u8]) {
        match self {
            Self::Datagram(socket, to) => {
                let _ = socket.send_to(octets, to);
            }
            Self::Stream(stream) => {
                let _ = lock(stream).write_all(&framed(octets));
            }
            Self::Frames(out) => {
                let _ = out.send(Out::Message(octets.to_vec()));
            }
            Self::Exchange(..) => self.respond(ok(octets.to_vec())),
        }
    }

    fn respond(&self, response: Exchanged) {
        if let Self::Exchange(exchange, _) = self
            && let Some(exchange) = lock(exchange).take()
        {
            let _ = exchange.send(response);
        }
    }

    fn close(&self, end: End) {
        match self {
            Self::Datagram(..) => {}
            Self::Stream(stream) => {
                let _ = lock(stream).shutdown(Shutdown::Both);
            }
            Self::Frames(out) => {
                let _ = out.send(Out::Close);
            }
            Self::Exchange(_, connection) => {
                let _ = connection.send(end);
            }
        }
    }
}

fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a test's reply can be encoded")
}

/// UDP and TCP of the same port, chosen by the system.
fn bind_both(ip: IpAddr) -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let socket = UdpSocket::bind((ip, 0)).expect("a UDP port");
        let port = socket.local_addr().expect("a bound socket has an address").port();
        if let Ok(listener) = TcpListener::bind((ip, port)) {
            return (socket, listener);
        }
    }
    panic!("no port that is free for both UDP and TCP");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
