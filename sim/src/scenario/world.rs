//! The world of a scenario: the engine, what is between it and the others, and the time.
//!
//! An adapter in memory: sockets open and connections are made at once, and everything that is sent
//! arrives at once, in order, unless a scenario says otherwise. Decides nothing; what a client or an
//! upstream does is in `clients`, `upstreams` and `acts`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use balancedns_core::config::{Alpn, Snapshot};
use balancedns_core::engine::{
    Accepted, CloseMode, Closed, Established, ListenerId, Origin, Security, Shared, Sizes,
    Transport,
};
use balancedns_core::handle::{ConnHandle, ExchangeHandle, ProcessHandle, SocketHandle};
use balancedns_core::time::Instant;
use bytes::Bytes;

use super::clients::{ClientState, Sent, next_message};
use super::exchanges::{Exchange, Opening};
use super::parse::{Cast, Client};
use super::processes::{PluginAct, PluginState, PluginTarget, Process};
use super::rules::{Act, When};
use super::upstreams::{self, Carrier, UpstreamState};
use crate::machine::{Input, Machine, Output};

/// The clock's reading at the start. Not zero, so that arithmetic below it would show.
const START: Duration = Duration::from_secs(1_000);
/// Inputs that may follow from one another without any time passing.
const INPUTS_AT_ONCE: usize = 1_000_000;
const SEED: [u8; 32] = [7; 32];

/// Something that upstreams or plugins do later.
#[derive(Debug)]
pub(super) enum Later {
    Upstream { upstream: usize, target: Target, acts: VecDeque<Act> },
    Plugin { plugin: usize, target: PluginTarget, acts: VecDeque<PluginAct> },
}

/// What an upstream reacts to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// A query, by its number among those received.
    Query(usize),
    Conn(ConnHandle),
    Socket(SocketHandle),
}

/// A UDP socket towards an upstream.
#[derive(Debug)]
struct Socket {
    upstream: usize,
    open: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) enum Conn {
    Client(usize),
    /// What is spoken there, and what has come on it that is no whole message.
    Upstream(usize, Transport, Vec<u8>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    pub(super) machine: Machine,
    shared: Arc<Shared>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) now: Instant,
    pub(super) clients: Vec<ClientState>,
    pub(super) upstreams: Vec<UpstreamState>,
    pub(super) plugins: Vec<PluginState>,
    pub(super) processes: HashMap<ProcessHandle, Process>,
    addresses: Vec<SocketAddr>,
    pub(super) peers: Vec<Client>,
    sockets: HashMap<SocketHandle, Socket>,
    pub(super) conns: HashMap<ConnHandle, Conn>,
    pub(super) inputs: VecDeque<Input>,
    pub(super) later: BTreeMap<(Instant, usize), Later>,
    scheduled: usize,
    /// Who is being accepted, and whether it was.
    connecting: Option<usize>,
    /// Whether its handshakes come to their end.
    shakes_hands: bool,
    pub(super) exchanges: HashMap<ExchangeHandle, Exchange>,
    pub(super) opening: Option<Opening>,
    listeners_closed: Vec<ListenerId>,
    pub(super) shut_down: bool,
    pub(super) stopped: bool,
    /// What was reported to operators.
    pub(super) log: Vec<String>,
}

impl World {
    pub(super) fn new(snapshot: Arc<Snapshot>, cast: &Cast) -> Self {
        let now = Instant::ZERO + START;
        let shared = Arc::new(Shared::new(&snapshot, SEED));
        let machine = Machine::new(&shared, Arc::clone(&snapshot), 0, SEED, now);
        let client = |client: &Client| ClientState::new(client.transport);
        let upstreams = cast.upstreams.iter();
        let plugins = cast.plugins.iter();
        Self {
            machine,
            shared,
            snapshot,
            now,
            clients: cast.clients.iter().map(client).collect(),
            upstreams: upstreams.clone().map(|one| UpstreamState::new(one.rules.clone())).collect(),
            plugins: plugins.map(|(name, rules)| PluginState::new(name, rules.clone())).collect(),
            processes: HashMap::new(),
            addresses: upstreams.map(|one| one.address).collect(),
            peers: cast.clients.clone(),
            sockets: HashMap::new(),
            conns: HashMap::new(),
            inputs: VecDeque::new(),
            later: BTreeMap::new(),
            scheduled: 0,
            connecting: None,
            shakes_hands: true,
            exchanges: HashMap::new(),
            opening: None,
            listeners_closed: Vec::new(),
            shut_down: false,
            stopped: false,
            log: Vec::new(),
        }
    }

    /// The listener that a client asks, and the address that it asks there if the listener has all.
    fn listener(&self, client: usize) -> Result<(ListenerId, Option<std::net::IpAddr>), String> {
        let Client { transport, asks, .. } = &self.peers[client];
        let address = self.peers[client].seen();
        let sockets = &self.snapshot.listen.sockets;
        let place = sockets.iter().position(|socket| {
            let ip = socket.addr.ip();
            let fits = match asks {
                None => ip.is_ipv4() == address.is_ipv4(),
                Some(asks) => {
                    let all = ip.is_unspecified() && ip.is_ipv4() == asks.is_ipv4();
                    (all || ip == asks.ip()) && socket.addr.port() == asks.port()
                }
            };
            socket.transport == *transport && fits
        });
        let place = place.ok_or("the configuration has no listener that this client asks")?;
        let wildcard = sockets[place].addr.ip().is_unspecified();
        let local = asks.filter(|_| wildcard).map(|asks| asks.ip());
        Ok((ListenerId(u16::try_from(place).unwrap_or(u16::MAX)), local))
    }

    /// Datagrams of a client that arrive together.
    pub(super) fn datagrams(
        &mut self,
        client: usize,
        messages: Vec<Vec<u8>>,
    ) -> Result<(), String> {
        let (listener, local) = self.listener(client)?;
        let peer = self.peers[client].seen();
        let datagram = |message: Vec<u8>| crate::machine::Datagram {
            peer,
            local,
            message: Bytes::from(message),
        };
        let datagrams = messages.into_iter().map(datagram).collect();
        self.inputs.push_back(Input::Datagrams(Origin::Listener(listener), datagrams));
        self.pump()
    }

    /// Connects a client; says whether it was let in.
    pub(super) fn connect(&mut self, client: usize, shakes_hands: bool) -> Result<bool, String> {
        let (listener, _) = self.listener(client)?;
        self.connecting = Some(client);
        self.shakes_hands = shakes_hands;
        self.inputs.push_back(Input::Connects(listener, self.peers[client].seen()));
        self.pump()?;
        Ok(self.clients[client].conn.is_some())
    }

    /// Octets of a client on its connection, or the end of them.
    pub(super) fn stream(&mut self, client: usize, sent: Sent) -> Result<(), String> {
        self.clients[client].unsent.push_back(sent);
        self.flush(client);
        self.pump()
    }

    /// Hands in what a client has sent, if the engine reads from it.
    fn flush(&mut self, client: usize) {
        let state = &mut self.clients[client];
        while let Some(conn) = state.conn
            && !state.paused
            && let Some(sent) = state.unsent.pop_front()
        {
            self.inputs.push_back(match sent {
                Sent::Octets(octets) => Input::Octets(conn, octets),
                Sent::End => Input::EndOfStream(conn),
            });
        }
    }

    /// A client or the network ends a client's connection.
    pub(super) fn client_closes(&mut self, client: usize, how: Closed) -> Result<(), String> {
        let conn = self.clients[client].conn.ok_or("there is no connection")?;
        self.clients[client].forget_connection();
        self.inputs.push_back(Input::Closed(conn, how));
        self.pump()
    }

    /// So many octets of a client's answers were read.
    pub(super) fn written(&mut self, client: usize, octets: usize) -> Result<(), String> {
        if let Some(conn) = self.clients[client].conn {
            self.inputs.push_back(Input::Written(conn, octets));
        }
        self.pump()
    }

    /// Lets time pass, from one thing that happens to the next.
    pub(super) fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        loop {
            let timeout = self.machine.engine().next_timeout().map(|(at, _)| at);
            let later = self.later.first_key_value().map(|((at, _), _)| *at);
            let next = [timeout, later].into_iter().flatten().min().filter(|at| *at <= end);
            let Some(next) = next else {
                break;
            };
            if next < self.now {
                return Err("a deadline in the past was announced".to_owned());
            }
            self.now = next;
            if later == Some(next) {
                let (_, due) = self.later.pop_first().expect("just seen");
                match due {
                    Later::Upstream { upstream, target, acts } => {
                        self.perform(upstream, target, acts)?;
                    }
                    Later::Plugin { plugin, target, acts } => {
                        self.plugin_acts(plugin, target, acts)?;
                    }
                }
                self.pump()?;
                continue;
            }
            self.inputs.push_back(Input::Timeout);
            self.pump()?;
            let again = self.machine.engine().next_timeout();
            if again.is_some_and(|(at, _)| at <= next) {
                return Err("what was due at this time is due again".to_owned());
            }
        }
        self.now = end;
        Ok(())
    }

    /// Remembers what an upstream or a plugin will do.
    pub(super) fn schedule(&mut self, wait: Duration, later: Later) {
        self.scheduled += 1;
        self.later.insert((self.now + wait, self.scheduled), later);
    }

    /// Hands inputs in, and carries out what follows, until nothing does.
    pub(super) fn pump(&mut self) -> Result<(), String> {
        let mut outputs = Vec::new();
        self.machine.drain(self.now, &mut outputs); // what a new engine, or none, wants at once
        for number in 0.. {
            for output in outputs.drain(..) {
                self.carry_out(output)?;
            }
            let Some(input) = self.inputs.pop_front() else {
                break;
            };
            if number == INPUTS_AT_ONCE {
                return Err("one thing leads to another without end, in no time".to_owned());
            }
            if self.is_for_someone(&input) {
                self.machine.feed(self.now, input, &mut outputs);
            }
        }
        Ok(())
    }

    /// Whether the socket or connection is still there: what arrives at one that is closed is lost.
    fn is_for_someone(&mut self, input: &Input) -> bool {
        match input {
            Input::Datagrams(Origin::Socket(socket), _)
            | Input::SocketOpened(socket)
            | Input::SocketFailed(socket, _) => self.sockets.contains_key(socket),
            Input::Body(exchange, ..) => self.exchanges.contains_key(exchange),
            Input::Reset(exchange)
            | Input::Sent(exchange)
            | Input::Answered(exchange, _)
            | Input::Failed(exchange, _) => self.exchanges.remove(exchange).is_some(),
            Input::Opens(conn, _)
            | Input::Established(conn, _)
            | Input::Octets(conn, _)
            | Input::EndOfStream(conn)
            | Input::Written(conn, _) => self.conns.contains_key(conn),
            Input::Closed(conn, _) => self.lose(*conn),
            Input::Wrote(process, _) => self.processes.contains_key(process),
            Input::Exited(process, _) => self.processes.remove(process).is_some(),
            Input::Datagrams(Origin::Listener(listener), _) | Input::Connects(listener, _) => {
                !self.listeners_closed.contains(listener)
            }
            Input::SendFailed(..) | Input::Timeout | Input::Reload(_) | Input::Shutdown => true,
        }
    }

    fn carry_out(&mut self, output: Output) -> Result<(), String> {
        match output {
            Output::Reply { peer, source, message, listener } => {
                self.reply(listener, peer, source, &message)
            }
            Output::Query { socket, message } => self.query(socket, &message),
            Output::OpenSocket { socket, remote } => {
                let upstream = self.upstream_at(remote)?;
                self.sockets.insert(socket, Socket { upstream, open: false });
                self.arrives(upstream, Target::Socket(socket), When::Open)
            }
            Output::CloseSocket(socket) => match self.sockets.remove(&socket) {
                Some(_) => Ok(()),
                None => Err("a socket was closed that is not open".to_owned()),
            },
            Output::Accepted(accepted) => self.accepted(accepted),
            Output::NotAccepted(_) => {
                self.connecting = None;
                Ok(())
            }
            Output::Connect { conn, remote, security } => {
                let upstream = self.upstream_at(remote)?;
                let spoken = match security {
                    Security::Plain => Transport::Tcp,
                    Security::Tls(tls) if tls.alpn == Alpn::Dot => Transport::Dot,
                    Security::Tls(_) => Transport::Doh,
                };
                self.conns.insert(conn, Conn::Upstream(upstream, spoken, Vec::new()));
                self.arrives(upstream, Target::Conn(conn), When::Connect)
            }
            Output::Write { conn, octets } => self.write(conn, octets),
            Output::PauseReading(conn) => self.pause(conn, true),
            Output::ResumeReading(conn) => self.pause(conn, false),
            Output::CloseConn(conn, mode) => self.close(conn, mode),
            Output::CloseListener(listener) => {
                self.listeners_closed.push(listener);
                Ok(())
            }
            Output::Report(event) => {
                self.log.push(event.to_string());
                Ok(())
            }
            Output::Stopped => {
                self.stopped = true;
                Ok(())
            }
            Output::Opened(handle) => self.request_opened(handle),
            Output::NotOpened(_) => Ok(()), // who makes the request notices
            Output::Respond { exchange, response } => self.respond(exchange, response),
            Output::Request { exchange, conn, target, request } => {
                self.requested(exchange, conn, &target, &request)
            }
            Output::Start { process, command, input } => self.start(process, &command, &input),
            Output::Feed { process, input } => self.fed(process, &input),
            Output::Kill(process) => self.killed(process),
            Output::Cancel(exchange) => match self.exchanges.remove(&exchange) {
                Some(Exchange { client: None, .. }) => Ok(()),
                Some(_) | None => Err("a request was given up that is over".to_owned()),
            },
        }
    }

    /// A client's connection was taken: its handshakes follow.
    fn accepted(&mut self, accepted: Accepted) -> Result<(), String> {
        let Accepted { conn, proxied, socket } = accepted;
        let client = self.connecting.take().ok_or("nobody connects")?;
        let Client { name, proxy, address, .. } = &self.peers[client];
        if proxied != proxy.is_some() {
            return Err(format!("of {name} a proxy's header is wanted: {proxied}"));
        }
        self.clients[client].conn = Some(conn);
        self.conns.insert(conn, Conn::Client(client));
        if self.shakes_hands {
            let alpn = alpn(socket.transport).filter(|_| socket.tls);
            let how = Established { alpn, client: proxy.map(|_| *address) };
            self.inputs.push_back(Input::Established(conn, how));
        }
        Ok(())
    }

    fn close(&mut self, conn: ConnHandle, mode: CloseMode) -> Result<(), String> {
        let closed = self.conns.remove(&conn);
        self.exchanges.retain(|_, exchange| exchange.conn != conn);
        match closed {
            Some(Conn::Client(client)) => self.clients[client].closed_by_engine(mode),
            Some(Conn::Upstream(upstream, ..)) => {
                self.upstreams[upstream].conns.retain(|open| *open != conn);
                Ok(())
            }
            None => Err("a connection was closed that is not open".to_owned()),
        }
    }

    fn reply(
        &mut self,
        listener: ListenerId,
        peer: SocketAddr,
        source: Option<std::net::IpAddr>,
        message: &[u8],
    ) -> Result<(), String> {
        let is_it = |client: &Client| client.seen() == peer && client.transport == Transport::Udp;
        let client = self.peers.iter().position(is_it);
        let client = client.ok_or_else(|| format!("a reply to {peer}, which is nobody"))?;
        let name = &self.peers[client].name;
        if self.listener(client)? != (listener, source) {
            return Err(format!("a reply to {name} by another address than it asked"));
        }
        let own_size = self.snapshot.listen.udp_size;
        let name = name.clone();
        self.clients[client]
            .takes(message, own_size, None)
            .map_err(|what| format!("{name} got {what}"))
    }

    fn query(&mut self, socket: SocketHandle, message: &[u8]) -> Result<(), String> {
        let open = self.sockets.get(&socket).filter(|socket| socket.open);
        let upstream =
            open.ok_or("a datagram to an upstream by a socket that is not open")?.upstream;
        self.asked(upstream, (Carrier::Socket(socket), Transport::Udp), None, message)
    }

    /// An upstream receives a query.
    pub(super) fn asked(
        &mut self,
        upstream: usize,
        (carrier, transport): (Carrier, Transport),
        url: Option<String>,
        message: &[u8],
    ) -> Result<(), String> {
        let received = upstreams::received(carrier, transport, url, message)?;
        let state = &mut self.upstreams[upstream];
        let number = state.received.len();
        state.received.push(received);
        let Some(rule) = state.rule_for(number) else {
            let shown = state.received[number].show();
            return Err(format!(
                "the upstream at {} was asked what no rule of it is for:\n{shown}",
                self.addresses[upstream]
            ));
        };
        let acts = rule.acts.clone().into();
        self.perform(upstream, Target::Query(number), acts)
    }

    /// Something happens at an upstream that is no query.
    fn arrives(&mut self, upstream: usize, target: Target, event: When) -> Result<(), String> {
        let rule = self.upstreams[upstream].rule(|when| *when == event);
        let usual = || VecDeque::from([Act::Accept]);
        let acts = rule.map_or_else(usual, |rule| rule.acts.clone().into());
        self.perform(upstream, target, acts)
    }

    /// A UDP socket or a connection towards an upstream is there.
    pub(super) fn opened(&mut self, target: Target) {
        match target {
            Target::Socket(socket) => {
                if let Some(state) = self.sockets.get_mut(&socket) {
                    state.open = true;
                    self.inputs.push_back(Input::SocketOpened(socket));
                }
            }
            Target::Conn(conn) => {
                if let Some(Conn::Upstream(upstream, spoken, _)) = self.conns.get(&conn) {
                    self.upstreams[*upstream].conns.push(conn);
                    let how = Established { alpn: alpn(*spoken), client: None };
                    self.inputs.push_back(Input::Established(conn, how));
                }
            }
            Target::Query(_) => {}
        }
    }

    /// A connection has ended, and not by the engine; says whether it was there.
    fn lose(&mut self, conn: ConnHandle) -> bool {
        self.exchanges.retain(|_, exchange| exchange.conn != conn);
        match self.conns.remove(&conn) {
            Some(Conn::Upstream(upstream, ..)) => {
                self.upstreams[upstream].conns.retain(|open| *open != conn);
                true
            }
            Some(Conn::Client(_)) => true,
            None => false,
        }
    }

    /// Whether HTTP is spoken on a connection to an upstream.
    pub(super) fn is_http(&self, conn: ConnHandle) -> bool {
        matches!(self.conns.get(&conn), Some(Conn::Upstream(_, Transport::Doh, _)))
    }

    pub(super) fn address(&self, upstream: usize) -> SocketAddr {
        self.addresses[upstream]
    }

    fn upstream_at(&self, remote: SocketAddr) -> Result<usize, String> {
        let found = self.addresses.iter().position(|address| *address == remote);
        found.ok_or_else(|| format!("{remote} is asked, where no upstream of the scenario is"))
    }

    fn write(&mut self, conn: ConnHandle, octets: Bytes) -> Result<(), String> {
        let own_size = self.snapshot.listen.udp_size;
        let count = octets.len();
        match self.conns.get_mut(&conn) {
            Some(Conn::Client(client)) => {
                let client = *client;
                let read = self.clients[client].written(octets, own_size);
                let read =
                    read.map_err(|what| format!("{} got {what}", self.peers[client].name))?;
                if read > 0 {
                    self.inputs.push_back(Input::Written(conn, read));
                }
                Ok(())
            }
            Some(Conn::Upstream(_, Transport::Doh, _)) => {
                Err("octets were written where HTTP is spoken".to_owned())
            }
            Some(Conn::Upstream(upstream, spoken, incoming)) => {
                let (upstream, spoken) = (*upstream, *spoken);
                incoming.extend_from_slice(&octets);
                let mut messages = Vec::new();
                while let Some(message) = next_message(incoming) {
                    messages.push(message);
                }
                self.inputs.push_back(Input::Written(conn, count));
                for message in messages {
                    self.asked(upstream, (Carrier::Conn(conn), spoken), None, &message)?;
                }
                Ok(())
            }
            None => Err("octets were written to a connection that is not open".to_owned()),
        }
    }

    fn pause(&mut self, conn: ConnHandle, paused: bool) -> Result<(), String> {
        let Some(Conn::Client(client)) = self.conns.get(&conn) else {
            return Err("reading was paused where no client is".to_owned());
        };
        let client = *client;
        self.clients[client].paused = paused;
        self.flush(client);
        Ok(())
    }

    /// What an engine that has stopped must not hold.
    ///
    /// # Errors
    /// What it holds.
    pub(super) fn check_nothing_is_left(&self) -> Result<(), String> {
        let engine = self.machine.engine();
        let timer = engine.next_timeout();
        let left = [
            ("the engine has not stopped", !self.stopped),
            ("tables are not empty", engine.sizes() != Sizes::default()),
            ("a timer is set", timer.is_some()),
            ("UDP sockets are open", !self.sockets.is_empty()),
            ("connections are open", !self.conns.is_empty()),
            ("exchanges are open", !self.exchanges.is_empty()),
            ("processes run", self.processes.values().any(|process| !process.is_killed())),
            ("connections are counted", self.shared.open_connections() != 0),
            (
                "listeners are open",
                self.listeners_closed.len() != self.snapshot.listen.sockets.len(),
            ),
        ];
        let left: Vec<&str> =
            left.iter().filter(|(_, left)| *left).map(|(what, _)| *what).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(format!("after the end {}: {:?}, {timer:?}", left.join(", "), engine.sizes()))
    }
}

/// What is negotiated for a transport (RFC 7301).
fn alpn(transport: Transport) -> Option<Bytes> {
    match transport {
        Transport::Udp | Transport::Tcp => None,
        Transport::Dot => Some(Bytes::from_static(Alpn::Dot.id())),
        Transport::Doh => Some(Bytes::from_static(Alpn::Http2.id())),
    }
}
