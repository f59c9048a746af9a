//! `listen`: sockets and the limits of clients' connections.

use std::net::SocketAddr;

use super::super::Host;
use super::super::reader::{Item, Section};
use super::super::snapshot::{ListenSettings, ListenSocket};
use super::super::value::Value;
use super::{address, later};
use crate::config::schema::settings::MILLIS;
use crate::policy::Acl;
use crate::transport::Transport;

/// The variable that overrides `listen.workers`.
const WORKERS_VARIABLE: &str = "BALANCEDNS_WORKERS";
/// Worker threads that may be asked for.
const WORKERS: std::ops::RangeInclusive<u64> = 1..=1_024;
/// DNS sockets in all: a listener is known by 16 bits, and each is opened by every worker.
const SOCKETS: usize = 1_024;
/// What is expected of an address to listen on.
const LISTEN_ADDRESS: &str = "host:port with an ip address, or :port";

/// Reads the section.
pub(super) fn read(mut section: Section<'_>, host: &dyn Host) -> ListenSettings {
    let sockets = dns_sockets(&mut section);
    let metrics = metrics(&mut section, &sockets);
    tls(&mut section);
    let settings = ListenSettings {
        sockets,
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
        tls: None,
        doh_path: "/dns-query".to_owned(),
        proxy_protocol_from: Acl::new(Vec::new()),
        trusted_proxies: Acl::new(Vec::new()),
        ddr: None,
    };
    later::check(&mut section, later::LISTEN);
    section.finish();
    settings
}

/// A UDP and a TCP socket per address.
fn dns_sockets(section: &mut Section<'_>) -> Vec<ListenSocket> {
    let mut addresses = Vec::new();
    match section.item("dns") {
        None => addresses.extend(address::listen(":53").expect("the default is an address")),
        Some(item) => match item.value {
            Value::List(_) => {
                for entry in item.list("addresses") {
                    add_addresses(&entry, &mut addresses);
                }
            }
            Value::Empty => item.error("has no address", LISTEN_ADDRESS),
            _ => add_addresses(&item, &mut addresses),
        },
    }
    let mut sockets = Vec::new();
    for addr in addresses {
        for transport in [Transport::Udp, Transport::Tcp] {
            sockets.push(ListenSocket { transport, addr, tls: false });
        }
    }
    if sockets.len() > SOCKETS {
        section.error("dns", format!("has {} sockets", sockets.len()), "at most 1024");
    }
    sockets
}

/// Adds what an entry stands for, unless it is there already. Port 0 is another port each time.
fn add_addresses(item: &Item<'_>, addresses: &mut Vec<SocketAddr>) {
    for addr in listen_addresses(item) {
        if let Some(other) = addresses.iter().find(|other| overlap(**other, addr)) {
            let message = if *other == addr {
                "is listed twice".to_owned()
            } else {
                format!("overlaps with {other}")
            };
            item.error(&message, "different addresses");
            return;
        }
        addresses.push(addr);
    }
}

/// Whether two addresses cannot both be listened on: one address, or all of the family and one of it.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    let same_ip = one.ip() == other.ip() || (all && one.is_ipv4() == other.is_ipv4());
    same_ip && one.port() != 0 && one.port() == other.port()
}

/// The addresses of one entry.
pub(super) fn listen_addresses(item: &Item<'_>) -> Vec<SocketAddr> {
    let Some(text) = item.word(LISTEN_ADDRESS) else {
        return Vec::new();
    };
    address::listen(text).unwrap_or_else(|wrong| {
        item.error(wrong, LISTEN_ADDRESS);
        Vec::new()
    })
}

/// Metrics and health are on loopback unless the configuration says otherwise.
fn metrics(section: &mut Section<'_>, sockets: &[ListenSocket]) -> Option<SocketAddr> {
    let Some(item) = section.item("metrics") else {
        return Some(([127, 0, 0, 1], 9_090).into());
    };
    if *item.value == Value::Boolean(false) {
        return None;
    }
    let wanted = listen_addresses(&item);
    let taken = |addr: &SocketAddr| sockets.iter().any(|socket| overlap(socket.addr, *addr));
    if wanted.iter().any(taken) {
        item.error("is where listen.dns listens", "another address or port");
    }
    match wanted.as_slice() {
        [one] => Some(*one),
        // All addresses: this one socket takes both families.
        [_, all_v6] => Some(*all_v6),
        _ => None,
    }
}

/// Keys of encrypted listeners: a certificate without its key is a mistake even while they are off.
fn tls(section: &mut Section<'_>) {
    if let Some(item) = section.item("doh_path")
        && let Some(path) = item.text()
        && !path.starts_with('/')
    {
        item.error("is not a path", "a path that starts with /");
    }
    let mut file = |key| section.item(key).filter(|item| !item.is_off() && item.text().is_some());
    match (file("tls_cert_file"), file("tls_key_file")) {
        (Some(cert), Some(_)) => {
            cert.warning("has no effect: there is neither listen.dot nor listen.doh");
        }
        (Some(cert), None) => cert.error("has no key", "listen.tls_key_file beside it"),
        (None, Some(key)) => key.error("has no certificate", "listen.tls_cert_file beside it"),
        (None, None) => {}
    }
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
