//! `listen`: sockets and the limits of clients' connections.

use std::net::SocketAddr;
use std::sync::Arc;

use super::super::Host;
use super::super::reader::{Item, Section};
use super::super::snapshot::{ListenSettings, ListenSocket, ListenTls};
use super::super::value::Value;
use super::super::vm::resolve;
use super::policy::networks;
use super::{address, encrypted};
use crate::config::schema::settings::MILLIS;
use crate::policy::{Acl, Discovery};
use crate::transport::Transport;
use crate::wire::Name;

/// The variable that overrides `listen.workers`.
const WORKERS_VARIABLE: &str = "BALANCEDNS_WORKERS";
/// Worker threads that may be asked for.
const WORKERS: std::ops::RangeInclusive<u64> = 1..=1_024;
/// DNS sockets in all: a listener is known by 16 bits, and each is opened by every worker.
const SOCKETS: usize = 1_024;
/// What is expected of an address to listen on.
const LISTEN_ADDRESS: &str = "host:port with an ip address, or :port";
/// Where RFC 8484 section 4.1.1 has its examples, and most clients look.
const DOH_PATH: &str = "/dns-query";

/// Reads the section; paths in it start at `folder`.
pub(super) fn read(mut section: Section<'_>, host: &dyn Host, folder: &str) -> ListenSettings {
    let mut listeners = Listeners::default();
    listeners.read_dns(&mut section);
    for kind in ENCRYPTED {
        listeners.read_streams(&mut section, kind);
    }
    let metrics = metrics(&mut section, &listeners);
    let tls = tls(&mut section, &listeners, folder);
    let doh_path = doh_path(&mut section);
    let settings = ListenSettings {
        metrics,
        read_timeout: section.millis("read_timeout_ms", MILLIS, 2_000),
        write_timeout: section.millis("write_timeout_ms", MILLIS, 2_000),
        tcp_idle_timeout: section.millis("tcp_idle_timeout_ms", MILLIS, 10_000),
        reuse_port: section.boolean("reuse_port", true),
        reuse_addr: section.boolean("reuse_addr", true),
        udp_size: section.integer("udp_size", 512..=65_535, 1_232),
        cookies: section.boolean("cookies", true),
        workers: workers(&mut section, host),
        max_connections: section.integer("max_connections", 1..=1_000_000, 4_096),
        max_connections_per_client: section.integer(
            "max_connections_per_client",
            1..=1_000_000,
            64,
        ),
        tls,
        proxy_protocol_from: proxies(&mut section, "proxy_protocol_from", None),
        trusted_proxies: proxies(
            &mut section,
            "trusted_proxies",
            (!listeners.have(Transport::Doh)).then_some("listen.doh or listen.doh_plain"),
        ),
        ddr: ddr(&mut section, &listeners, &doh_path),
        doh_path,
        sockets: listeners.sockets,
    };
    section.finish();
    settings
}

/// A key of listeners for streams that are not plain DNS, and what they speak.
struct Kind {
    key: &'static str,
    transport: Transport,
    tls: bool,
}

const ENCRYPTED: [Kind; 3] = [
    Kind { key: "dot", transport: Transport::Dot, tls: true },
    Kind { key: "doh", transport: Transport::Doh, tls: true },
    // For use behind a proxy that has the certificate.
    Kind { key: "doh_plain", transport: Transport::Doh, tls: false },
];

/// The sockets that were read so far.
#[derive(Default)]
struct Listeners {
    sockets: Vec<ListenSocket>,
    /// Which key listens for streams at which address. Datagrams are of `dns` only.
    streams: Vec<(&'static str, SocketAddr)>,
}

impl Listeners {
    /// Reads `dns`: a UDP and a TCP socket per address.
    fn read_dns(&mut self, section: &mut Section<'_>) {
        let addresses = match section.item("dns") {
            None => self.added("dns", None, address::listen(":53").expect("it is an address")),
            Some(item) if *item.value == Value::Empty => {
                item.error("has no address", LISTEN_ADDRESS);
                Vec::new()
            }
            Some(item) => self.addresses("dns", &item),
        };
        for addr in addresses {
            for transport in [Transport::Udp, Transport::Tcp] {
                self.sockets.push(ListenSocket { transport, addr, tls: false });
            }
        }
        self.check_count(section, "dns");
    }

    /// Reads a key of listeners that are off unless there is an address.
    fn read_streams(&mut self, section: &mut Section<'_>, kind: Kind) {
        let Some(item) = section.item(kind.key).filter(|item| !item.is_off()) else {
            return;
        };
        let Kind { key, transport, tls } = kind;
        let addresses = self.addresses(key, &item);
        self.sockets.extend(addresses.into_iter().map(|addr| ListenSocket {
            transport,
            addr,
            tls,
        }));
        self.check_count(section, key);
    }

    /// The addresses of one key: of one text or of a list of them.
    fn addresses(&mut self, key: &'static str, item: &Item<'_>) -> Vec<SocketAddr> {
        let entries = match item.value {
            Value::List(_) => item.list("addresses"),
            _ => vec![item.clone()],
        };
        let mut addresses = Vec::new();
        for entry in entries {
            addresses.extend(self.added(key, Some(&entry), listen_addresses(&entry)));
        }
        addresses
    }

    /// The addresses of an entry up to the first one that is taken. Port 0 is another port each time.
    fn added(
        &mut self,
        key: &'static str,
        entry: Option<&Item<'_>>,
        wanted: Vec<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let mut added = Vec::new();
        for addr in wanted {
            if let Some((other_key, other)) = self.taken(addr) {
                let (message, expected) = if other_key != key {
                    (format!("is where listen.{other_key} listens"), "another address or port")
                } else if other == addr {
                    ("is listed twice".to_owned(), "different addresses")
                } else {
                    (format!("overlaps with {other}"), "different addresses")
                };
                if let Some(entry) = entry {
                    entry.error(&message, expected);
                }
                break;
            }
            self.streams.push((key, addr));
            added.push(addr);
        }
        added
    }

    /// Who listens where this address would be reached.
    fn taken(&self, addr: SocketAddr) -> Option<(&'static str, SocketAddr)> {
        self.streams.iter().copied().find(|(_, other)| overlap(*other, addr))
    }

    fn check_count(&self, section: &Section<'_>, key: &str) {
        if self.sockets.len() > SOCKETS {
            section.error(key, format!("has {} sockets", self.sockets.len()), "at most 1024");
        }
    }

    fn have(&self, transport: Transport) -> bool {
        self.sockets.iter().any(|socket| socket.transport == transport)
    }

    /// The key of the first listener that needs a certificate.
    fn encrypted_key(&self) -> Option<&'static str> {
        let keys = ENCRYPTED.iter().filter(|kind| kind.tls).map(|kind| kind.key);
        keys.into_iter().find(|key| self.streams.iter().any(|(other, _)| other == key))
    }
}

/// Whether two addresses cannot both be listened on: one address, or all of the family and one of it.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    let same_ip = one.ip() == other.ip() || (all && one.is_ipv4() == other.is_ipv4());
    same_ip && one.port() != 0 && one.port() == other.port()
}

/// The addresses of one entry.
fn listen_addresses(item: &Item<'_>) -> Vec<SocketAddr> {
    let Some(text) = item.word(LISTEN_ADDRESS) else {
        return Vec::new();
    };
    address::listen(text).unwrap_or_else(|wrong| {
        item.error(wrong, LISTEN_ADDRESS);
        Vec::new()
    })
}

/// Metrics and health are on loopback unless the configuration says otherwise.
fn metrics(section: &mut Section<'_>, listeners: &Listeners) -> Option<SocketAddr> {
    let Some(item) = section.item("metrics") else {
        return Some(([127, 0, 0, 1], 9_090).into());
    };
    if *item.value == Value::Boolean(false) {
        return None;
    }
    let wanted = listen_addresses(&item);
    if let Some((key, _)) = wanted.iter().find_map(|addr| listeners.taken(*addr)) {
        item.error(&format!("is where listen.{key} listens"), "another address or port");
    }
    match wanted.as_slice() {
        [one] => Some(*one),
        // All addresses: this one socket takes both families.
        [_, all_v6] => Some(*all_v6),
        _ => None,
    }
}

/// Reads the files of the certificate: both or none, and both for encrypted listeners. They are read
/// by the runtime.
fn tls(section: &mut Section<'_>, listeners: &Listeners, folder: &str) -> Option<ListenTls> {
    let mut file = |key| {
        let item = section.item(key).filter(|item| !item.is_off())?;
        let path = item.text();
        Some((item, path))
    };
    let files = (file("tls_cert_file"), file("tls_key_file"));
    let needed_by = listeners.encrypted_key();
    match files {
        (Some((cert, Some(cert_file))), Some((_, Some(key_file)))) => {
            if needed_by.is_none() {
                cert.warning("has no effect: there is neither listen.dot nor listen.doh");
                return None;
            }
            let (cert_file, key_file) = (resolve(folder, cert_file), resolve(folder, key_file));
            return Some(ListenTls { cert_file, key_file });
        }
        (Some((cert, Some(_))), None) => cert.error("has no key", "listen.tls_key_file beside it"),
        (None, Some((key, Some(_)))) => {
            key.error("has no certificate", "listen.tls_cert_file beside it");
        }
        (None, None) => {
            if let Some(key) = needed_by {
                let expected = "listen.tls_cert_file and listen.tls_key_file";
                section.error(key, "has no certificate".to_owned(), expected);
            }
        }
        // One of them is no text, which was reported.
        (Some(_), _) | (None, Some(_)) => {}
    }
    None
}

/// Reads `doh_path`. A path that needs no escapes is the same for whoever compares it.
fn doh_path(section: &mut Section<'_>) -> String {
    let Some(item) = section.item("doh_path") else {
        return DOH_PATH.to_owned();
    };
    let Some(path) = item.text() else {
        return DOH_PATH.to_owned();
    };
    // Segments as in RFC 3986 section 3.3, without percent signs.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
    if !path.starts_with('/') {
        item.error("is not a path", "a path that starts with /");
    } else if !path.bytes().all(plain) {
        item.error("is not a plain path", "letters, digits and -._~!$&'()*+,;=:@/");
    }
    path.to_owned()
}

/// Reads a list of proxies; `lacks` are listeners without which they are none.
fn proxies(section: &mut Section<'_>, key: &'static str, lacks: Option<&str>) -> Acl {
    let Some(item) = section.item(key).filter(|item| !item.is_off()) else {
        return Acl::new(Vec::new());
    };
    let acl = Acl::new(networks(&item.list("networks")));
    if let Some(lacks) = lacks {
        item.warning(&format!("has no effect without {lacks}"));
    }
    acl
}

/// Reads `ddr`: the name under which encrypted listeners are announced.
fn ddr(section: &mut Section<'_>, listeners: &Listeners, doh_path: &str) -> Option<Arc<Discovery>> {
    const EXPECTED: &str = "a host name that the certificate is for";
    let item = section.item("ddr").filter(|item| !item.is_off())?;
    let name = Name::parse(item.word(EXPECTED)?).ok();
    let Some(name) = name.filter(|name| encrypted::host_name(name).is_some()) else {
        return item.wrong(EXPECTED);
    };
    let encrypted = listeners.sockets.iter().filter(|socket| socket.tls);
    let encrypted: Vec<_> = encrypted.map(|socket| (socket.transport, socket.addr)).collect();
    if encrypted.is_empty() {
        return item.wrong_because("has nothing to announce", "listen.dot or listen.doh beside it");
    }
    let discovery = Discovery::new(name, &encrypted, doh_path);
    if discovery.is_empty() {
        item.warning("announces nothing: the system chooses the ports of its listeners");
    }
    Some(Arc::new(discovery))
}

/// The variable counts more than the file; an empty one is as good as none.
fn workers(section: &mut Section<'_>, host: &dyn Host) -> Option<usize> {
    let configured = section.item("workers").and_then(|item| item.integer(WORKERS));
    let Some(variable) = host.variable(WORKERS_VARIABLE).filter(|text| !text.is_empty()) else {
        return configured;
    };
    let number = variable.trim().parse::<u64>().ok().filter(|number| WORKERS.contains(number));
    if number.is_none() {
        let message = format!("the variable {WORKERS_VARIABLE} is {variable:?}");
        let (first, last) = WORKERS.into_inner();
        section.error("workers", message, &format!("a whole number from {first} to {last}"));
    }
    number.and_then(|number| usize::try_from(number).ok())
}
