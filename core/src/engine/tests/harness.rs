//! A host for one engine: carries out its actions in memory, with time as a number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};

use crate::batch::{ReceiveBatch, TransmitBatch, Via};
use crate::config::{
    CacheSettings, ControlSettings, Level, ListSettings, ListenSettings, ListenSocket,
    LoggingSettings, RoutingSettings, Snapshot, Stage, SubnetPolicy, TtlBounds, UpstreamAddress,
    UpstreamProtocol, UpstreamSettings,
};
use crate::engine::{
    Action, Closed, Engine, EngineConfig, Established, Event, ListenerId, Origin, ProcessExit,
    Shared, Transport,
};
use crate::handle::{ConnHandle, ExchangeHandle, ProcessHandle, SocketHandle};
use crate::metrics::{Counter, WorkerMetrics};
use crate::policy::{Acl, BlockSet, Blocking, Blocklist, NameList};
use crate::time::{Duration, Instant};
use crate::upstream::Routes;
use crate::wire::{Rcode, RecordType};

pub(super) const UDP: ListenerId = ListenerId(0);
pub(super) const TCP: ListenerId = ListenerId(1);

pub(super) fn client() -> SocketAddr {
    "127.0.0.1:40000".parse().expect("an address")
}

pub(super) fn literal(addr: &str) -> UpstreamAddress {
    UpstreamAddress::Literal(addr.parse().expect("an address"))
}

pub(super) fn upstream(name: &str, protocol: UpstreamProtocol) -> UpstreamSettings {
    UpstreamSettings {
        pool: None,
        name: name.to_owned(),
        protocol,
        addr: literal("192.0.2.1:53"),
        timeout: Duration::from_secs(2),
        max_in_flight: 1_000,
        randomize_case: false,
        client_subnet: SubnetPolicy::Off,
        cookies: false,
        source: None,
        tls: None,
        doh: None,
    }
}

pub(super) fn snapshot(upstreams: Vec<UpstreamSettings>) -> Snapshot {
    let addr = "127.0.0.1:53".parse().expect("an address");
    Snapshot {
        generation: 1,
        listen: ListenSettings {
            sockets: [Transport::Udp, Transport::Tcp]
                .map(|transport| ListenSocket { transport, addr, tls: false })
                .to_vec(),
            metrics: None,
            read_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(2),
            tcp_idle_timeout: Duration::from_secs(10),
            reuse_port: true,
            reuse_addr: true,
            udp_size: 1232,
            cookies: true,
            workers: Some(1),
            max_connections: 100,
            max_connections_per_client: 10,
            tls: None,
            doh_path: "/dns-query".to_owned(),
            proxy_protocol_from: Acl::new(Vec::new()),
            trusted_proxies: Acl::new(Vec::new()),
            ddr: None,
        },
        logging: LoggingSettings { level: Level::Info, log_queries: false },
        acl: Acl::default(),
        chain: vec![Stage::Blacklist, Stage::Hosts, Stage::Cache, Stage::Policy, Stage::Upstream],
        groups: Arc::default(),
        lists: ListSettings::default(),
        blocking: Arc::default(),
        local_records: Arc::default(),
        hosts_file: None,
        hosts: None,
        hosts_fallthrough: false,
        plugins: Arc::default(),
        rebinding: None,
        pools: Vec::new(),
        routes: Routes::new(&vec![Vec::new(); upstreams.len()]),
        upstreams,
        tells_client_subnets: false,
        routing: RoutingSettings {
            deadline: Duration::from_millis(4_500),
            attempts_max: 8,
            failover_on: vec![Rcode::SERVFAIL, Rcode::REFUSED, Rcode::NOTIMP],
            bootstrap: Vec::new(),
            rewrite_hops: 4,
            special_names: true,
            firefox_canary: false,
        },
        cache: CacheSettings {
            enabled: true,
            capacity: 1_000,
            max_bytes: 1 << 20,
            ttl: TtlBounds {
                min_seconds: 5,
                max_seconds: 3_600,
                negative_max_seconds: 3_600,
                servfail_seconds: 5,
            },
        },
        control: ControlSettings {
            restart_backoff: Duration::from_millis(200),
            restart_max_backoff: Duration::from_secs(5),
            max_consecutive_failure: 0,
            min_stable_run: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
        },
    }
}

/// Everybody's blacklist.
pub(super) fn blocking(names: Blocklist) -> Arc<Blocking> {
    let list = NameList::new("blacklist.domains", names);
    let set = BlockSet { lists: vec![Arc::new(list)], ttl: 60, ..BlockSet::default() };
    Arc::new(Blocking::new(vec![set], 1))
}

/// One engine and what it has done so far.
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) shared: Arc<Shared>,
    pub(super) now: Instant,
    transmit: TransmitBatch,
    /// Replies to clients' datagrams.
    pub(super) replies: VecDeque<Vec<u8>>,
    /// Datagrams to upstreams.
    pub(super) queries: VecDeque<(SocketHandle, Vec<u8>)>,
    pub(super) open_sockets: Vec<SocketHandle>,
    /// Where the socket of each slot leads to.
    remotes: BTreeMap<usize, SocketAddr>,
    /// Connections asked for and not yet established.
    pub(super) connects: VecDeque<ConnHandle>,
    /// Octets written to each connection and not looked at.
    pub(super) written: BTreeMap<usize, Vec<u8>>,
    pub(super) closed: Vec<ConnHandle>,
    /// Connections that are open or being opened, by slot.
    live: BTreeMap<usize, ConnHandle>,
    pub(super) paused: Vec<ConnHandle>,
    pub(super) events: Vec<Event>,
    pub(super) closed_listeners: Vec<ListenerId>,
    pub(super) stopped: bool,
    /// Whether writes leave at once.
    pub(super) writable: bool,
    /// Whether sockets open at once.
    pub(super) opens_at_once: bool,
    /// Sockets that do not, and have not yet.
    pub(super) opening: Vec<SocketHandle>,
    /// Responses to clients' exchanges.
    pub(super) responses: VecDeque<(ExchangeHandle, http::Response<Bytes>)>,
    /// Exchanges asked for on connections to upstreams.
    pub(super) requests: VecDeque<(ExchangeHandle, ConnHandle, http::Request<Bytes>)>,
    pub(super) cancelled: Vec<ExchangeHandle>,
    /// Processes that were started: which plugin's, and what they were given.
    pub(super) started: VecDeque<(ProcessHandle, String, String)>,
    /// What processes were given later.
    pub(super) fed: VecDeque<(ProcessHandle, String)>,
    pub(super) killed: VecDeque<ProcessHandle>,
    /// What connections were to send when they were closed.
    pub(super) last_written: Vec<(ConnHandle, Vec<u8>)>,
}

impl World {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self::with_seed(snapshot, [9; 32])
    }

    pub(super) fn with_seed(snapshot: Snapshot, seed: [u8; 32]) -> Self {
        let shared = Arc::new(Shared::new(&snapshot, seed));
        let metrics = shared.worker_metrics(0);
        let now = Instant::ZERO + Duration::from_secs(1_000);
        let config = EngineConfig {
            policy_clock: None,
            shared: Arc::clone(&shared),
            snapshot: Arc::new(snapshot),
            metrics: Arc::clone(&metrics),
            seed,
        };
        Self {
            engine: Engine::new(config, now),
            metrics,
            shared,
            now,
            transmit: TransmitBatch::new(64, 1232),
            replies: VecDeque::new(),
            queries: VecDeque::new(),
            open_sockets: Vec::new(),
            remotes: BTreeMap::new(),
            connects: VecDeque::new(),
            written: BTreeMap::new(),
            closed: Vec::new(),
            live: BTreeMap::new(),
            paused: Vec::new(),
            events: Vec::new(),
            closed_listeners: Vec::new(),
            stopped: false,
            writable: true,
            opens_at_once: true,
            opening: Vec::new(),
            responses: VecDeque::new(),
            requests: VecDeque::new(),
            cancelled: Vec::new(),
            started: VecDeque::new(),
            fed: VecDeque::new(),
            killed: VecDeque::new(),
            last_written: Vec::new(),
        }
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.metrics.counters.value(counter)
    }

    /// A client's datagram.
    pub(super) fn ask(&mut self, message: &[u8]) {
        self.ask_all(&[message]);
    }

    pub(super) fn ask_all(&mut self, messages: &[&[u8]]) {
        let mut batch = ReceiveBatch::new(messages.len(), 4_096);
        for message in messages {
            batch.push(client(), None, message).expect("room");
        }
        let origin = Origin::Listener(UDP);
        self.engine.handle_datagrams(self.now, origin, &batch, &mut self.transmit);
        self.pump();
    }

    /// The next datagram to an upstream: by which socket, to which address, what.
    pub(super) fn next_query(&mut self) -> (SocketHandle, String, Vec<u8>) {
        let (socket, sent) = self.queries.pop_front().expect("a query to an upstream");
        (socket, self.remotes[&socket.index()].to_string(), sent)
    }

    /// Where a socket leads to.
    pub(super) fn remote(&self, socket: SocketHandle) -> String {
        self.remotes[&socket.index()].to_string()
    }

    /// Whether a connection is open or being opened.
    pub(super) fn is_live(&self, conn: ConnHandle) -> bool {
        self.live.get(&conn.index()) == Some(&conn)
    }

    /// Connections that are open or being opened.
    pub(super) fn live(&self) -> impl Iterator<Item = ConnHandle> {
        self.live.values().copied()
    }

    /// Where open sockets lead to.
    pub(super) fn open_remotes(&self) -> BTreeSet<String> {
        let remote = |socket: &SocketHandle| self.remotes[&socket.index()].to_string();
        self.open_sockets.iter().map(remote).collect()
    }

    /// A datagram from an upstream.
    pub(super) fn upstream_says(&mut self, socket: SocketHandle, message: &[u8]) {
        let mut batch = ReceiveBatch::new(1, 4_096);
        batch.push(client(), None, message).expect("room");
        let origin = Origin::Socket(socket);
        self.engine.handle_datagrams(self.now, origin, &batch, &mut self.transmit);
        self.pump();
    }

    /// Asks, and gives the reply as text, which has to come at once.
    pub(super) fn reply_to(&mut self, message: &[u8]) -> String {
        self.ask(message);
        self.reply()
    }

    /// The next reply as text.
    pub(super) fn reply(&mut self) -> String {
        shown(&self.replies.pop_front().expect("a reply"))
    }

    /// The upstream answers the next query with these records; the name that was asked for.
    pub(super) fn answer_next(&mut self, records: &[(&str, u32, RData)]) -> String {
        let (socket, _, sent) = self.next_query();
        self.upstream_says(socket, &answers(&sent, records));
        let asked = &Message::from_vec(&sent).expect("our own").queries[0];
        format!("{} {}", asked.name(), asked.query_type())
    }

    /// A plugin's process writes something.
    pub(super) fn process_says(&mut self, process: ProcessHandle, text: &str) {
        self.engine.handle_process_bytes(self.now, process, text.as_bytes());
        self.pump();
    }

    /// A plugin's process ends.
    pub(super) fn process_ends(&mut self, process: ProcessHandle, how: ProcessExit) {
        self.engine.handle_process_exited(self.now, process, how);
        self.pump();
    }

    /// Lets time pass, timer by timer.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.engine.next_timeout().filter(|(at, _)| *at <= end) {
            assert!(at >= self.now, "a deadline in the past was announced");
            self.now = at;
            self.engine.handle_timeout(at);
            assert!(self.engine.next_timeout().is_none_or(|(next, _)| next > at), "due again");
            self.pump();
        }
        self.now = end;
    }

    pub(super) fn connect_client(&mut self) -> ConnHandle {
        let conn = self.accept(TCP, client());
        self.engine.handle_established(self.now, conn, Established::default());
        self.pump();
        conn
    }

    /// A client connects, and goes no further.
    pub(super) fn accept(&mut self, listener: ListenerId, peer: SocketAddr) -> ConnHandle {
        let conn = self.engine.handle_accepted(self.now, listener, peer).expect("room").conn;
        assert_eq!(self.live.insert(conn.index(), conn), None);
        self.written.remove(&conn.index());
        self.pump();
        conn
    }

    /// The other side, or the network, ends a connection.
    pub(super) fn break_conn(&mut self, conn: ConnHandle, how: Closed) {
        self.connects.retain(|waiting| *waiting != conn);
        self.live.remove(&conn.index());
        self.written.remove(&conn.index());
        self.engine.handle_closed(self.now, conn, how);
        self.pump();
    }

    pub(super) fn stream_says(&mut self, conn: ConnHandle, bytes: &[u8]) {
        self.engine.handle_bytes(self.now, conn, bytes);
        self.pump();
    }

    /// The next connect succeeds.
    pub(super) fn establish(&mut self) -> ConnHandle {
        let conn = self.connects.pop_front().expect("a connect");
        self.engine.handle_established(self.now, conn, Established::default());
        self.pump();
        conn
    }

    /// Messages written to a connection, without their lengths.
    pub(super) fn messages(&mut self, conn: ConnHandle) -> Vec<Vec<u8>> {
        let bytes = self.written.remove(&conn.index()).unwrap_or_default();
        let mut rest = &bytes[..];
        let mut messages = Vec::new();
        while let Some((message, after)) = crate::conn::split_message(rest) {
            messages.push(message.to_vec());
            rest = after;
        }
        assert!(rest.is_empty(), "whole messages are written");
        messages
    }

    pub(super) fn pump(&mut self) {
        loop {
            let more = self.engine.poll_transmit(self.now, &mut self.transmit);
            self.take_transmits();
            let mut idle = !more;
            while let Some(action) = self.engine.poll_action(self.now) {
                idle = false;
                self.perform(action);
            }
            if idle {
                return;
            }
        }
    }

    fn take_transmits(&mut self) {
        for (meta, bytes) in self.transmit.iter() {
            match meta.via {
                Via::Listener { peer, .. } => {
                    assert_eq!(peer, client());
                    self.replies.push_back(bytes.to_vec());
                }
                Via::Socket(socket) => {
                    assert!(self.open_sockets.contains(&socket), "sent on a closed socket");
                    self.queries.push_back((socket, bytes.to_vec()));
                }
            }
        }
        self.transmit.clear();
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::OpenSocket { socket, remote, .. } => {
                self.open_sockets.push(socket);
                self.remotes.insert(socket.index(), remote);
                if self.opens_at_once {
                    self.engine.handle_socket_opened(self.now, socket);
                } else {
                    self.opening.push(socket);
                }
            }
            Action::CloseSocket { socket } => {
                assert!(self.open_sockets.contains(&socket), "closed twice");
                self.open_sockets.retain(|open| *open != socket);
                self.opening.retain(|opening| *opening != socket);
            }
            Action::Connect { conn, .. } => {
                let held = self.live.insert(conn.index(), conn);
                assert_eq!(held, None, "the slot's earlier connection was not closed");
                self.written.remove(&conn.index());
                self.connects.push_back(conn);
            }
            Action::Write { conn, bytes } => {
                self.written.entry(conn.index()).or_default().extend_from_slice(&bytes);
                if self.writable {
                    self.engine.handle_written(self.now, conn, bytes.len());
                }
            }
            Action::PauseReading { conn } => self.paused.push(conn),
            Action::ResumeReading { conn } => self.paused.retain(|paused| *paused != conn),
            Action::CloseConn { conn, .. } => {
                self.connects.retain(|waiting| *waiting != conn);
                assert_eq!(self.live.remove(&conn.index()), Some(conn), "closed what is not open");
                let written = self.written.get(&conn.index()).cloned();
                self.last_written.extend(written.map(|bytes| (conn, bytes)));
                self.closed.push(conn);
            }
            Action::CloseListener { listener } => self.closed_listeners.push(listener),
            Action::Report(event) => self.events.push(event),
            Action::Stopped => self.stopped = true,
            Action::Respond { exchange, response } => {
                self.responses.push_back((exchange, *response));
            }
            Action::StartExchange { exchange, conn, request } => {
                assert!(self.is_live(conn), "an exchange on a connection that is not open");
                self.requests.push_back((exchange, conn, *request));
            }
            Action::CancelExchange { exchange } => self.cancelled.push(exchange),
            Action::StartProcess { process, command, input } => {
                self.started.push_back((process, command.name.clone(), text(&input)));
            }
            Action::FeedProcess { process, input } => self.fed.push_back((process, text(&input))),
            Action::KillProcess { process } => self.killed.push_back(process),
            Action::AnswerAdmin { .. } => panic!("not asked for: {action:?}"),
        }
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).expect("json is text")
}

/// A query of a client for another type than A.
pub(super) fn query_of(id: u16, name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = query(id, name);
    let at = message.len() - 4;
    message[at..at + 2].copy_from_slice(&record_type.0.to_be_bytes());
    message
}

/// The reply of a server with these records: owner, TTL, data.
pub(super) fn answers(query: &[u8], records: &[(&str, u32, RData)]) -> Vec<u8> {
    let mut message = Message::from_vec(&error(query, 0)).expect("our own");
    for (owner, ttl, data) in records {
        let owner = owner.parse().expect("a name");
        message.add_answer(Record::from_rdata(owner, *ttl, data.clone()));
    }
    message.to_vec().expect("fits")
}

/// A reply as text: rcode, answers, the owners of the authority section's records, the extended error.
pub(super) fn shown(reply: &[u8]) -> String {
    let message = Message::from_vec(reply).expect("a message");
    let mut text = format!("{:?}", message.metadata.response_code).to_uppercase();
    for record in &message.answers {
        let (name, ttl) = (&record.name, record.ttl);
        text += &format!(" | {name} {ttl} {} {}", record.record_type(), record.data);
    }
    for record in &message.authorities {
        text += &format!(" | authority {} {}", record.name, record.record_type());
    }
    text
}

/// A query of a client: id, RD, one question of type A, no EDNS.
pub(super) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).expect("short"));
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// The reply of a server to a query of ours: one address with this TTL. Drops our OPT.
pub(super) fn reply(query: &[u8], ttl: u32) -> Vec<u8> {
    let mut message = error(query, 0);
    message[7] = 1;
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    message.extend_from_slice(&ttl.to_be_bytes());
    message.extend_from_slice(&[0, 4, 192, 0, 2, 7]);
    message
}

/// The reply of a server that has only an rcode to give.
pub(super) fn error(query: &[u8], rcode: u8) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|octet| *octet == 0).expect("a root") + 5;
    let mut message = query[..end].to_vec();
    message[2] |= 0x80;
    message[3] = 0x80 | rcode;
    message[6..12].fill(0);
    message
}

pub(super) fn rcode(message: &[u8]) -> u8 {
    message[3] & 15
}

pub(super) fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

/// The TTL of the one record behind the question.
pub(super) fn ttl(reply: &[u8], query: &[u8]) -> u32 {
    let at = query.len() + 6;
    u32::from_be_bytes(reply[at..at + 4].try_into().expect("four octets"))
}
