//! One generation of the configuration: drawn from the seed, written as Lua, and what it means.
//!
//! What it means is worked out here anew by comparing texts, not with the core's code: the model
//! compares the two.

mod policies;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use balancedns_core::config::{self, Clock, ConfigErrors, Host, Snapshot, Source};

use self::policies::script_at;
pub use self::policies::{
    Asking, BLOCK_TTL, Blacklist, Decision, Mode, OnError, Policies, RECORD_TTL,
};
use crate::draw::{Draw, Purpose};
use crate::fault::Fault;
use crate::options::Options;
use crate::policy::POOL;

/// Zones that servers may have, each above or beside another one by its text.
pub const ZONES: &[&str] =
    &["example.", "corp.example.", "a.corp.example.", "ru.", "guru.", "net."];
/// The name server that looks host names up.
pub const BOOTSTRAP: &str = "192.0.2.53:53";
/// Groups of names of which the blacklist of one generation has one.
pub const BLOCKED_GROUPS: u64 = 3;
/// The hosts file.
pub const HOSTS_FILE: &str = "10.9.0.1 h1.lan\n10.9.0.2 h2.lan\n";

/// Where clients ask over HTTPS.
pub const DOH_PATH: &str = "/dns-query";
/// Who begins each connection and each datagram with the address of somebody else.
pub const PROXIES: [u8; 2] = [10, 2];

/// How a server is asked. Each is known by its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// By datagrams, and over TCP after truncation.
    Udp,
    /// Over TCP.
    Tcp,
    /// Over TLS.
    Dot,
    /// Over HTTPS.
    Doh,
}

impl Protocol {
    /// The port that is asked.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 53,
            Self::Dot => 853,
            Self::Doh => 443,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Dot => "dot",
            Self::Doh => "doh",
        }
    }
}

/// An upstream of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its place in the pool of servers of the world.
    pub place: usize,
    /// How it is asked.
    pub protocol: Protocol,
    /// Known by its host name.
    pub by_name: bool,
    /// Zones with their final dot; none is everything.
    pub zones: Vec<&'static str>,
    /// Time of one attempt.
    pub timeout_ms: u64,
    /// Queries in flight at most.
    pub max_in_flight: usize,
    /// Names go out in random letter case.
    pub randomize_case: bool,
    /// In the pool: asked only for what is sent there.
    pub pool: bool,
}

impl Server {
    /// How many labels of a name its zones match, if they do.
    fn matched_labels(&self, name: &str) -> Option<usize> {
        if self.zones.is_empty() {
            return Some(0);
        }
        let is_in = |zone: &&&str| name == **zone || name.ends_with(&format!(".{zone}"));
        self.zones.iter().filter(is_in).map(|zone| zone.matches('.').count()).max()
    }

    /// Whether it may be asked for a name.
    #[must_use]
    pub fn serves(&self, name: &str) -> bool {
        self.matched_labels(name).is_some()
    }
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Counted from zero.
    pub number: u64,
    /// The upstreams, in order.
    pub servers: Vec<Server>,
    /// From a query to its answer.
    pub deadline_ms: u64,
    /// Sends for one question.
    pub attempts_max: u32,
    /// Whether answers are remembered.
    pub cache: bool,
    /// Entries of the cache.
    pub capacity: usize,
    /// Octets of the cache.
    pub max_bytes: usize,
    /// Floor of TTLs.
    pub min_ttl: u32,
    /// Ceiling of TTLs.
    pub max_ttl: u32,
    /// Ceiling of negative answers.
    pub negative_max_ttl: u32,
    /// How long SERVFAIL is kept.
    pub servfail_ttl: u32,
    /// The largest UDP answer.
    pub udp_size: u16,
    /// Connections of all clients, and of one.
    pub max_connections: (usize, usize),
    /// Times of clients' connections.
    pub stream_timeout_ms: u64,
    /// How long queries in flight may take at a stop.
    pub drain_ms: u64,
    /// Plugins, groups and the like, if the run has them.
    pub policies: Option<Policies>,
}

impl Generation {
    /// The configuration of this number in a run.
    #[must_use]
    pub fn draw(options: &Options, number: u64) -> Self {
        // What the cache was made with stays: a reload cannot change its size.
        let mut lasting = Draw::new(options.seed, Purpose::Configuration(0));
        let tiny = options.tiny_cache;
        let (capacity, max_bytes) = if tiny {
            (lasting.pick(&[1, 2, 5]), 65_536)
        } else {
            (lasting.pick(&[1_000, 10_000, 100_000]), lasting.pick(&[65_536, 1 << 26]))
        };
        let cache = lasting.chance(900);
        let min_ttl = lasting.pick(&[0, 1, 5, 60]);
        let max_ttl = lasting.pick(&[60, 3_600, 100_000]);
        let negative_max_ttl = lasting.pick(&[5, 60, 3_600]);
        let servfail_ttl = lasting.pick(&[0, 1, 5, 30]);
        // The supervisor is not told of a reload, and would end workers that may still drain.
        let drain_ms = lasting.pick(&[1, 500, 5_000]);

        let mut draw = Draw::new(options.seed, Purpose::Configuration(number));
        let _ = draw.bits();
        let impatient = options.tiny_patience;
        let servers = servers(options, &mut draw);
        let pool = servers.iter().any(|server| server.pool);
        Self {
            number,
            policies: options.policies.then(|| Policies::draw(options, number, pool)),
            servers,
            deadline_ms: if impatient {
                draw.pick(&[20, 300])
            } else {
                draw.pick(&[1_000, 4_500, 4_500, 20_000])
            },
            attempts_max: if impatient { draw.pick(&[1, 2]) } else { draw.pick(&[3, 8, 8, 100]) },
            cache,
            capacity,
            max_bytes,
            min_ttl,
            max_ttl,
            negative_max_ttl,
            servfail_ttl,
            udp_size: draw.pick(&[512, 1_232, 1_232, 4_096]),
            max_connections: match options.tiny_limits {
                // Either all of them are few, or those of one client are.
                true if options.seed.is_multiple_of(2) => (3, 1),
                true => (20, 1),
                false => (4_096, 64),
            },
            stream_timeout_ms: draw.pick(&[200, 2_000]),
            drain_ms,
        }
    }

    /// The configuration file.
    #[must_use]
    pub fn lua(&self) -> String {
        let mut text = String::from("return {\n");
        let (connections, per_client) = self.max_connections;
        let timeout = self.stream_timeout_ms;
        let [high, low] = PROXIES;
        let _ = writeln!(
            text,
            "  listen = {{ dns = \"0.0.0.0:53\", dot = \"0.0.0.0:853\", doh = \"0.0.0.0:443\", \
             doh_plain = \"0.0.0.0:8053\", doh_path = \"{DOH_PATH}\", tls_cert_file = \"c.pem\", \
             tls_key_file = \"k.pem\", proxy_protocol_from = {{ \"{high}.{low}.0.0/16\" }}, \
             metrics = false, udp_size = {}, read_timeout_ms = {timeout}, \
             write_timeout_ms = {timeout}, tcp_idle_timeout_ms = {}, max_connections = {connections}, \
             max_connections_per_client = {per_client} }},",
            self.udp_size,
            self.idle_timeout_ms()
        );
        if let Some(policies) = &self.policies {
            policies.write(&mut text);
        } else {
            let blocked = self.blocked_group();
            let _ =
                writeln!(text, "  blacklist = {{ domains = {{ \"*.g{blocked}.ads.example\" }} }},");
        }
        let _ = writeln!(text, "  hosts = {{ file = \"hosts\", ttl = 60 }},");
        let _ = writeln!(
            text,
            "  cache = {{ enabled = {}, capacity = {}, max_bytes = {}, min_ttl_seconds = {}, max_ttl_seconds = {}, \
             negative_max_ttl_seconds = {}, servfail_ttl_seconds = {} }},",
            self.cache,
            self.capacity,
            self.max_bytes,
            self.min_ttl,
            self.max_ttl,
            self.negative_max_ttl,
            self.servfail_ttl
        );
        let _ = writeln!(
            text,
            "  routing = {{ deadline_ms = {}, attempts_max = {}, bootstrap = {{ \"{BOOTSTRAP}\" }}{} }},",
            self.deadline_ms,
            self.attempts_max,
            self.policies.as_ref().map_or(String::new(), |it| format!(", chain = {}", it.chain()))
        );
        let _ = writeln!(text, "  control = {{ drain_timeout_ms = {} }},", self.drain_ms);
        text.push_str("  upstreams = {\n");
        for server in &self.servers {
            server.write(&mut text);
        }
        text.push_str("  },\n}\n");
        text
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(&self) -> Result<Snapshot, ConfigErrors> {
        Ok(config::load(&source(self.lua()), &Files)?.snapshot)
    }

    /// How long a client's connection may idle.
    #[must_use]
    pub const fn idle_timeout_ms(&self) -> u64 {
        2 * self.stream_timeout_ms
    }

    /// The group of names that is blocked.
    #[must_use]
    pub const fn blocked_group(&self) -> u64 {
        self.number % BLOCKED_GROUPS
    }

    /// The upstreams that may be asked for a name, in order, in general or in the pool.
    #[must_use]
    pub fn route(&self, name: &str, pool: bool) -> Vec<&Server> {
        let mut found: Vec<(usize, &Server)> = self
            .servers
            .iter()
            .filter(|server| server.pool == pool)
            .filter_map(|server| Some((server.matched_labels(name)?, server)))
            .collect();
        found.sort_by_key(|(labels, _)| std::cmp::Reverse(*labels));
        found.into_iter().map(|(_, server)| server).collect()
    }

    /// Whether the pool is asked for a client.
    #[must_use]
    pub fn pool_for(&self, client: IpAddr) -> bool {
        self.policies.as_ref().is_some_and(|policies| policies.pool_for(client))
    }

    /// The upstreams of the most specific zone of a name, in order.
    #[must_use]
    pub fn best_zone(&self, name: &str, pool: bool) -> Vec<&Server> {
        let route = self.route(name, pool);
        let best = route.first().and_then(|server| server.matched_labels(name));
        route.into_iter().filter(|server| server.matched_labels(name) == best).collect()
    }

    /// The upstream of this place, if it is configured.
    #[must_use]
    pub fn server(&self, place: usize) -> Option<&Server> {
        self.servers.iter().find(|server| server.place == place)
    }

    /// A file with a mistake, made out of this one.
    #[must_use]
    pub fn damaged(&self, draw: &mut Draw) -> String {
        let text = self.lua();
        match draw.below(5) {
            0 => text.replace("cache =", "cahce ="),
            1 => text.replace("protocol = \"", "protocol = \"x"),
            2 => text.replace("deadline_ms = ", "deadline_ms = \"many\" .. "),
            3 => text.trim_end().trim_end_matches('}').to_owned(),
            _ => text.replace("return {", "return { upstreams = {} }, {"),
        }
    }
}

impl Server {
    /// Writes it as an entry of `upstreams`.
    fn write(&self, text: &mut String) {
        let (ip, host) = (address(self.place).ip().to_string(), host_name(self.place));
        let port = self.protocol.port();
        let is_plain = matches!(self.protocol, Protocol::Udp | Protocol::Tcp);
        let (url, own_name) = match self.protocol {
            Protocol::Doh => (format!("doh_url = \"https://{host}{DOH_PATH}\", "), true),
            Protocol::Udp | Protocol::Tcp | Protocol::Dot => (String::new(), false),
        };
        let addr = match (self.by_name, own_name) {
            (true, true) => String::new(),
            (true, false) => format!("addr = \"{host}:{port}\", "),
            (false, _) => format!("addr = \"{ip}:{port}\", "),
        };
        let tls_name = if is_plain || own_name || self.by_name {
            String::new()
        } else {
            format!("tls_server_name = \"{host}\", ")
        };
        let case = if is_plain {
            format!("randomize_case = {}", self.randomize_case)
        } else {
            String::new() // means nothing there
        };
        let pool = if self.pool { format!("pool = \"{POOL}\", ") } else { String::new() };
        let zones: Vec<String> = self.zones.iter().map(|zone| format!("\"{zone}\"")).collect();
        let _ = writeln!(
            text,
            "    {{ name = \"s{}\", protocol = \"{}\", {addr}{url}{tls_name}{pool}zones = {{ {} }}, \
             timeout_ms = {}, max_in_flight = {}, {case} }},",
            self.place,
            self.protocol.name(),
            zones.join(", "),
            self.timeout_ms,
            self.max_in_flight,
        );
    }
}

fn servers(options: &Options, draw: &mut Draw) -> Vec<Server> {
    let limits: &[usize] = if options.tiny_limits { &[1, 2] } else { &[1_000] };
    let timeouts: &[u64] =
        if options.tiny_patience { &[1, 50] } else { &[400, 2_000, 2_000, 5_000] };
    let mut servers: Vec<Server> = Vec::new();
    for place in 0..options.servers {
        let is_last = place + 1 == options.servers && servers.is_empty();
        if !is_last && draw.chance(150) {
            continue;
        }
        let zones = match draw.below(3) {
            _ if servers.is_empty() => Vec::new(),
            0 => Vec::new(),
            1 => vec![draw.pick(ZONES)],
            _ => vec![draw.pick(ZONES), draw.pick(ZONES)],
        };
        servers.push(Server {
            place,
            protocol: if draw.chance(options.encrypted_per_mille) {
                draw.pick(&[Protocol::Dot, Protocol::Doh])
            } else if draw.chance(250) {
                Protocol::Tcp
            } else {
                Protocol::Udp
            },
            by_name: draw.chance(200),
            zones,
            timeout_ms: draw.pick(timeouts),
            max_in_flight: draw.pick(limits),
            randomize_case: draw.chance(700),
            pool: false,
        });
    }
    // The last one may be in the pool, for all names.
    if options.policies && servers.len() > 1 && draw.chance(500) {
        let last = servers.last_mut().expect("there are two");
        (last.pool, last.zones) = (true, Vec::new());
    }
    servers
}

/// The address of a server of the pool.
///
/// # Panics
/// If there are more than a hundred.
#[must_use]
pub fn address(place: usize) -> SocketAddr {
    let last = u8::try_from(10 + place).expect("a small pool");
    SocketAddr::from(([192, 0, 2, last], 53))
}

/// Where a server of the pool may move to.
///
/// # Panics
/// If there are more than a hundred.
#[must_use]
pub fn other_address(place: usize) -> SocketAddr {
    let last = u8::try_from(110 + place).expect("a small pool");
    SocketAddr::from(([192, 0, 2, last], 53))
}

/// The host name of a server of the pool, without its final dot.
#[must_use]
pub fn host_name(place: usize) -> String {
    format!("s{place}.servers.example")
}

/// Whose address it is; none for that of the bootstrap server.
///
/// # Panics
/// If it is nobody's.
#[must_use]
pub fn place_of(remote: SocketAddr) -> Option<usize> {
    let std::net::IpAddr::V4(ip) = remote.ip() else { panic!("no server has {remote}") };
    match ip.octets()[3] {
        53 => None,
        last @ 10..=52 => Some(usize::from(last) - 10),
        last @ 110..=152 => Some(usize::from(last) - 110),
        _ => panic!("no server has {remote}"),
    }
}

/// What the configuration sees of the world: the hosts file.
#[derive(Debug)]
pub struct Files;

impl Host for Files {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn read(&self, path: &str) -> Result<String, String> {
        let known = if path == "hosts" { Some(HOSTS_FILE.to_owned()) } else { script_at(path) };
        known.ok_or_else(|| format!("no file {path}"))
    }

    fn system_resolvers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    fn clock(&self) -> Option<Clock> {
        None
    }
}

/// A text as a source.
#[must_use]
pub fn source(text: String) -> Source {
    Source { name: "simulated.lua".to_owned(), folder: String::new(), text }
}

/// Faults that keep an upstream from answering as it should: with none of them nobody is told
/// SERVFAIL.
pub const UPSTREAM_FAULTS: &[Fault] = &[
    Fault::SentLost,
    Fault::ReplyLost,
    Fault::ReplyLate,
    Fault::Burst,
    Fault::DeafUpstream,
    Fault::MuteUpstream,
    Fault::CutReply,
    Fault::Mutated,
    Fault::Dead,
    Fault::Unreachable,
    Fault::Slow,
    Fault::Flapping,
    Fault::WrongId,
    Fault::WrongQuestion,
    Fault::Truncates,
    Fault::NoEdns,
    Fault::Oversize,
    Fault::IgnoresCase,
    Fault::ErrorRcode,
    Fault::NoQuestion,
    Fault::TrailingGarbage,
    Fault::GarbageReply,
    Fault::ConnectRefused,
    Fault::ConnectSilent,
    Fault::StreamReset,
    Fault::StreamEnds,
    Fault::StreamSilent,
    Fault::TlsSilent,
    Fault::TlsFails,
    Fault::ExchangeFails,
    Fault::GoAway,
    Fault::WrongStatus,
    Fault::WrongMediaType,
    Fault::WritesStall,
    Fault::SpoofFlood,
    Fault::SpoofedCase,
    Fault::SocketFails,
    Fault::SocketLate,
    Fault::LateTimer,
    Fault::Reload,
    Fault::HostMoves,
];
