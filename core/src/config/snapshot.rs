//! The validated configuration: immutable, shared by all workers, swapped as a whole.
//!
//! Everything here was checked when it was built; nothing that reads it checks again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::cache::TtlBounds;
use crate::handle::ListenerId;
use crate::policy::{
    Acl, Blocking, Discovery, Groups, Hosts, LocalRecords, PluginSettings, Rebinding,
};
use crate::time::Duration;
use crate::transport::Transport;
use crate::upstream::{Route, Routes};
use crate::wire::{Name, PrefixLengths, Rcode};

/// One generation of the configuration.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts up with each reload, from 1.
    pub generation: u64,
    /// Listeners and their limits.
    pub listen: ListenSettings,
    /// Logging.
    pub logging: LoggingSettings,
    /// Who may ask.
    pub acl: Acl,
    /// The stages that a question passes, in order.
    pub chain: Vec<Stage>,
    /// Who gets which lists, plugins and upstreams.
    pub groups: Arc<Groups>,
    /// Names that are not answered.
    pub blocking: Arc<Blocking>,
    /// How lists are fetched.
    pub lists: ListSettings,
    /// Records of the configuration.
    pub local_records: Arc<LocalRecords>,
    /// Names answered from the hosts file, if there is one.
    pub hosts: Option<Arc<Hosts>>,
    /// The path of that file.
    pub hosts_file: Option<String>,
    /// Whether other types of a name of the hosts file are forwarded.
    pub hosts_fallthrough: bool,
    /// What decides about questions besides.
    pub plugins: Arc<PluginSettings>,
    /// Which answers may have private addresses, if that matters.
    pub rebinding: Option<Arc<Rebinding>>,
    /// Names of the pools.
    pub pools: Vec<String>,
    /// Where to forward, in the order of the configuration.
    pub upstreams: Vec<UpstreamSettings>,
    /// Which upstreams serve which zone: indices into `upstreams`.
    pub routes: Routes,
    /// Whether any upstream is told of clients' networks.
    pub tells_client_subnets: bool,
    /// How forwarding goes about it.
    pub routing: RoutingSettings,
    /// The cache.
    pub cache: CacheSettings,
    /// Restarts and stopping.
    pub control: ControlSettings,
}

impl Snapshot {
    /// Whether an upstream, by its place, may be asked on a route.
    #[must_use]
    pub fn serves(&self, place: usize, route: Route) -> bool {
        match route {
            Route::General => self.upstreams.get(place).is_some_and(|one| one.pool.is_none()),
            Route::Pool(pool) => {
                self.upstreams.get(place).is_some_and(|one| one.pool == Some(pool))
            }
            Route::Upstream(one) => place == usize::from(one),
        }
    }
}

/// A stage of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Blocked names are answered here.
    Blacklist,
    /// Names of the hosts file are answered here.
    Hosts,
    /// Cached answers are given here.
    Cache,
    /// Plugins decide here.
    Policy,
    /// The question is forwarded; nothing comes after it.
    Upstream,
}

/// Listeners and their limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// All DNS sockets; [`ListenerId`] is the place in this list. `:port` is one IPv4 and one
    /// IPv6-only socket.
    pub sockets: Vec<ListenSocket>,
    /// Address of metrics and health, if they are on.
    pub metrics: Option<SocketAddr>,
    /// First to last octet of one message on a stream.
    pub read_timeout: Duration,
    /// Age of the oldest unsent answer on a stream.
    pub write_timeout: Duration,
    /// How long a stream may be idle (RFC 7766 section 6.2.3).
    pub tcp_idle_timeout: Duration,
    /// One socket per worker rather than one shared by all.
    pub reuse_port: bool,
    /// SO_REUSEADDR on TCP listeners.
    pub reuse_addr: bool,
    /// Largest UDP answer sent, and the receive buffer advertised, in octets: 512 to 65535.
    pub udp_size: u16,
    /// Whether clients that send a cookie get one from us (RFC 7873).
    pub cookies: bool,
    /// Worker threads; `None` means one per available core.
    pub workers: Option<usize>,
    /// Clients' stream connections, all workers together.
    pub max_connections: usize,
    /// Stream connections of one client address, all workers together.
    pub max_connections_per_client: usize,
    /// The certificate of encrypted listeners; there is none without one of them.
    pub tls: Option<ListenTls>,
    /// Where DNS over HTTPS is served, beginning with `/`.
    pub doh_path: String,
    /// From whom each connection and each datagram begins with a PROXY protocol header. From nobody
    /// else is one looked for.
    pub proxy_protocol_from: Acl,
    /// Whose `Forwarded` and `X-Forwarded-For` headers are believed.
    pub trusted_proxies: Acl,
    /// How encrypted listeners are announced (RFC 9462), if they are.
    pub ddr: Option<Arc<Discovery>>,
}

impl ListenSettings {
    /// The socket of a listener.
    #[must_use]
    pub fn socket(&self, id: ListenerId) -> Option<&ListenSocket> {
        self.sockets.get(usize::from(id.0))
    }
}

/// One DNS listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenSocket {
    /// What is spoken there.
    pub transport: Transport,
    /// Where. A wildcard address is of one family only.
    pub addr: SocketAddr,
    /// Whether streams begin with a TLS handshake: DNS over HTTPS does without behind a proxy.
    pub tls: bool,
}

/// Files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// The certificate chain, in PEM.
    pub cert_file: String,
    /// Its private key, in PEM.
    pub key_file: String,
}

/// Logging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggingSettings {
    /// The least important level that is logged.
    pub level: Level,
    /// A line per query.
    pub log_queries: bool,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something may stop working.
    Warn,
    /// What an operator wants to know on a normal day.
    Info,
    /// For finding a fault.
    Debug,
    /// Everything.
    Trace,
}

/// One upstream server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Its unique name.
    pub name: String,
    /// Its pool, by the place in the snapshot's list; one that is in none is asked in general.
    pub pool: Option<u16>,
    /// How it is asked.
    pub protocol: UpstreamProtocol,
    /// Where it is.
    pub addr: UpstreamAddress,
    /// One attempt, all of it: connecting, sending, retransmitting, waiting.
    pub timeout: Duration,
    /// Queries in flight to one address of it, all of one worker together, before further ones go
    /// elsewhere.
    pub max_in_flight: usize,
    /// Whether names in datagrams to it go out in random letter case (0x20).
    pub randomize_case: bool,
    /// What it is told of the client's network.
    pub client_subnet: SubnetPolicy,
    /// Whether datagrams to it carry cookies (RFC 7873).
    pub cookies: bool,
    /// The local address that it is asked from, if that matters.
    pub source: Option<IpAddr>,
    /// How its connections are protected: of dot and doh, and of no other.
    pub tls: Option<Arc<UpstreamTls>>,
    /// What is requested of it: of doh, and of no other.
    pub doh: Option<Arc<DohTarget>>,
}

/// What an upstream is told of a client's network (RFC 7871).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubnetPolicy {
    /// Nothing.
    Off,
    /// What the client itself says.
    Pass,
    /// What the client says, shortened, and where it says nothing, what its address says.
    Add(PrefixLengths),
}

/// How connections to an upstream are protected.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// The protocol that is negotiated (RFC 7301).
    pub alpn: Alpn,
    /// A host name or an IP address: sent as SNI if it is a name, and what the certificate has to be
    /// for.
    pub server_name: String,
    /// Who may have signed its certificate.
    pub trust: Trust,
    /// SHA-256 of the public keys (SubjectPublicKeyInfo) of which it must have one, if there are any
    /// (RFC 7858 section 4.2).
    pub pins: Vec<[u8; 32]>,
}

/// The protocol above TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// DNS over TLS.
    Dot,
    /// HTTP/2, for DNS over HTTPS.
    Http2,
}

impl Alpn {
    /// As it is registered.
    #[must_use]
    pub const fn id(self) -> &'static [u8] {
        match self {
            Self::Dot => b"dot",
            Self::Http2 => b"h2",
        }
    }
}

/// Who may have signed an upstream's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Whom the system trusts.
    System,
    /// The authorities in this PEM file, and nobody else.
    File(String),
    /// Anybody: no certificate is looked at, beside its key where there are pins.
    Anybody,
}

/// What is requested of an upstream over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DohTarget {
    /// Host, and port if it is another than 443, as it stands in the URL.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// At this address.
    Literal(SocketAddr),
    /// At all addresses of this host.
    Host {
        /// Its name.
        name: Name,
        /// The port.
        port: u16,
    },
}

impl std::fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Literal(addr) => addr.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// How an upstream is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// Datagrams, TCP after truncation.
    Udp,
    /// A kept TCP connection.
    Tcp,
    /// DNS over TLS (RFC 7858).
    Dot,
    /// DNS over HTTPS (RFC 8484).
    Doh,
}

impl UpstreamProtocol {
    /// The name used in the configuration and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Dot => "dot",
            Self::Doh => "doh",
        }
    }
}

/// How forwarding goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingSettings {
    /// From a query's arrival to its answer, all attempts included.
    pub deadline: Duration,
    /// Sends for one question in all.
    pub attempts_max: u32,
    /// Rcodes that make the next candidate be asked.
    pub failover_on: Vec<Rcode>,
    /// Name servers that the upstreams' host names are looked up at: those configured, else the
    /// system's. Never one of our own listeners.
    pub bootstrap: Vec<SocketAddr>,
    /// How often names are replaced by others, by rewriting and by local aliases, for one question.
    pub rewrite_hops: u32,
    /// Whether special names that no zone routes are answered instead of forwarded (RFC 6761).
    pub special_names: bool,
    /// Whether Firefox is told to leave its own DNS over HTTPS off.
    pub firefox_canary: bool,
}

/// How lists are fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListSettings {
    /// Where copies are kept.
    pub cache: ListCache,
    /// Name servers that the hosts of lists are looked up at where our own listeners have no answer:
    /// those configured. If there are none, the system's are meant.
    pub bootstrap: Vec<SocketAddr>,
}

/// Where copies of lists are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListCache {
    /// Where the system keeps what can be had again.
    #[default]
    Usual,
    /// Nowhere.
    Off,
    /// In this folder.
    Folder(String),
}

/// The cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// The most entries.
    pub capacity: usize,
    /// The most octets of keys and answers.
    pub max_bytes: usize,
    /// How answers' TTLs are bounded.
    pub ttl: TtlBounds,
}

/// Restarts and stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlSettings {
    /// First wait before a component is started again.
    pub restart_backoff: Duration,
    /// The longest such wait.
    pub restart_max_backoff: Duration,
    /// Failures in a row before giving up; 0 means never.
    pub max_consecutive_failure: u32,
    /// A run this long forgets earlier failures.
    pub min_stable_run: Duration,
    /// How long queries in flight may take when the process stops.
    pub drain_timeout: Duration,
}
