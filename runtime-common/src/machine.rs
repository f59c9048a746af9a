//! Fits a configuration to the machine: descriptors, address families, addresses. What has to give
//! way is a warning, so that the daemon starts wherever it can serve.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancedns_core::config::{Host, Snapshot};
use balancedns_core::limits::{ADMIN_CONNS, CONNS_PER_UPSTREAM, SOCKETS_PER_UPSTREAM};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::socket::has_ipv6;

/// Descriptors for everything but queries: standard streams, epoll instances, admin connections,
/// files that are read.
const OTHER_DESCRIPTORS: u64 = 64 + ADMIN_CONNS as u64;
/// Descriptors of one worker besides: epoll instances, wake-ups.
const WORKER_DESCRIPTORS: u64 = 8;
/// Descriptors of one listener in each worker: its own, and the one that outlives it.
const LISTENER_DESCRIPTORS: u64 = 2;
/// Clients get one in so many of all descriptors at least.
const CLIENTS_SHARE: u64 = 4;
/// Sockets of one upstream that are in use beside those that wait for their last replies.
const SOCKETS_OVERLAPPING: u64 = 2;

/// Fits the snapshot to this machine, and says what was changed.
pub(crate) fn fit(snapshot: &mut Snapshot, workers: usize, host: &dyn Host) {
    if !has_ipv6() {
        leave_out_ipv6(snapshot);
    }
    for addr in foreign_addresses(snapshot, host) {
        tracing::warn!(
            event = "foreign_address",
            "listen.dns {addr}: this machine has no such address now; nobody is served there \
             until it has"
        );
    }
    let descriptors = raise_descriptor_limit();
    fit_connections(snapshot, workers, descriptors);
}

/// Without IPv6, `:port` means IPv4. An IPv6 address that was asked for by itself stays an error.
fn leave_out_ipv6(snapshot: &mut Snapshot) {
    let sockets = &mut snapshot.listen.sockets;
    let all_v4: Vec<u16> = sockets
        .iter()
        .filter(|socket| socket.addr.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        .map(|socket| socket.addr.port())
        .collect();
    let before = sockets.len();
    sockets.retain(|socket| {
        let all_v6 = socket.addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        !all_v6 || !all_v4.contains(&socket.addr.port())
    });
    if sockets.len() < before {
        tracing::warn!(event = "no_ipv6", "this machine has no IPv6: listening on IPv4 only");
    }
}

fn foreign_addresses(snapshot: &Snapshot, host: &dyn Host) -> Vec<SocketAddr> {
    let mut foreign: Vec<SocketAddr> = snapshot.listen.sockets.iter().map(|s| s.addr).collect();
    foreign.retain(|addr| !host.is_own_address(addr.ip()));
    foreign.dedup();
    foreign
}

/// The soft limit of descriptors is there for programs that use `select`; ours goes up to the hard
/// one. The limit that holds afterwards.
fn raise_descriptor_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// Clients' connections must never take the descriptors that answering needs.
fn fit_connections(snapshot: &mut Snapshot, workers: usize, descriptors: u64) {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let per_upstream =
        SOCKETS_OVERLAPPING * count(SOCKETS_PER_UPSTREAM) + count(CONNS_PER_UPSTREAM);
    let per_worker = WORKER_DESCRIPTORS
        .saturating_add(LISTENER_DESCRIPTORS * count(snapshot.listen.sockets.len()))
        .saturating_add(count(snapshot.upstreams.len()).saturating_mul(per_upstream));
    let reserved = count(workers).saturating_mul(per_worker).saturating_add(OTHER_DESCRIPTORS);
    // A few clients must not keep all others out. What they take here, a burst of questions to
    // many upstreams at once would miss.
    let left = descriptors.saturating_sub(reserved).max(descriptors / CLIENTS_SHARE).max(1);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    let wanted = snapshot.listen.max_connections;
    if left < wanted {
        snapshot.listen.max_connections = left;
        tracing::warn!(
            event = "few_descriptors",
            "listen.max_connections is {left} instead of {wanted}: this process may open \
             {descriptors} descriptors, of which {reserved} are kept for sockets of its own; \
             raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
}

#[cfg(test)]
mod tests {
    use balancedns_core::config;

    use super::*;
    use crate::clock::Clock;
    use crate::host::Machine;

    fn snapshot(listen: &str) -> Snapshot {
        let text = format!(
            "return {{ listen = {{ {listen} }},
               upstreams = {{ {{ name = 'one', addr = '192.0.2.1:53' }} }} }}"
        );
        let source = config::Source { name: "test".into(), folder: String::new(), text };
        config::load(&source, &Machine::new(Clock::start())).expect("valid").snapshot
    }

    #[test]
    fn without_ipv6_all_addresses_are_those_of_ipv4() {
        let mut all = snapshot("dns = ':5300'");
        leave_out_ipv6(&mut all);
        assert!(all.listen.sockets.iter().all(|socket| socket.addr.is_ipv4()));
        assert_eq!(all.listen.sockets.len(), 2);
        let mut asked_for = snapshot("dns = '[::]:5300'");
        leave_out_ipv6(&mut asked_for);
        assert_eq!(asked_for.listen.sockets.len(), 2, "binding it will say what is wrong");
    }

    #[test]
    fn connections_leave_descriptors_for_answering() {
        let mut few = snapshot("dns = '127.0.0.1:5300', max_connections = 4096");
        fit_connections(&mut few, 2, 1_024);
        // 1024 - (64 + 128 for metrics) - 2 workers x (8 + 2 x 2 listeners + 1 upstream x (2 x 32 + 4))
        assert_eq!(few.listen.max_connections, 1_024 - (64 + 128) - 2 * (8 + 4 + 68));
        let mut many = snapshot("dns = '127.0.0.1:5300', max_connections = 4096");
        fit_connections(&mut many, 2, 65_536);
        assert_eq!(many.listen.max_connections, 4_096);
        fit_connections(&mut many, 2, 64);
        assert_eq!(many.listen.max_connections, 64 / 4, "some connections are always possible");
    }

    #[test]
    fn an_address_of_another_machine_is_told() {
        let host = Machine::new(Clock::start());
        let foreign = snapshot("dns = { '192.0.2.1:5300', '127.0.0.1:5301' }");
        assert_eq!(
            foreign_addresses(&foreign, &host),
            ["192.0.2.1:5300".parse().expect("an address")]
        );
    }
}
