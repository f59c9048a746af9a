//! All listening sockets of a process: bound together before the first worker starts, kept while
//! workers come and go.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use balancedns_core::config::ListenSettings;
use balancedns_core::engine::Transport;
use socket2::Type;

use crate::socket::{self, Reuse};

/// One listening socket.
#[derive(Debug)]
pub enum Listener {
    /// Datagrams.
    Udp(UdpSocket),
    /// Streams.
    Stream(TcpListener),
}

impl Listener {
    fn bind(transport: Transport, addr: SocketAddr, reuse: Reuse) -> io::Result<Self> {
        match transport {
            Transport::Udp => socket::udp_listener(addr, reuse).map(Self::Udp),
            Transport::Tcp | Transport::Dot | Transport::Doh => {
                socket::tcp_listener(addr, reuse).map(Self::Stream)
            }
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Udp(socket) => socket.try_clone().map(Self::Udp),
            Self::Stream(socket) => socket.try_clone().map(Self::Stream),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Stream(socket) => socket.local_addr(),
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{key} {addr} ({}): {}", names(transports), explained(error))]
pub struct BindError {
    key: &'static str,
    addr: SocketAddr,
    /// All those that fail there for the same reason.
    transports: Vec<Transport>,
    error: io::Error,
}

impl BindError {
    /// Whether another one would tell the operator the same.
    fn is_like(&self, other: &Self) -> bool {
        (self.key, self.addr, self.error.kind()) == (other.key, other.addr, other.error.kind())
    }
}

fn names(transports: &[Transport]) -> String {
    let names: Vec<&str> = transports.iter().map(|transport| transport.name()).collect();
    names.join(", ")
}

/// What is wrong with an address, in words for the operator.
#[must_use]
pub fn explained(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::AddrInUse, "address already in use"),
        (
            io::ErrorKind::PermissionDenied,
            "permission denied; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
        ),
        (io::ErrorKind::AddrNotAvailable, "this machine has no such address"),
    ];
    known
        .iter()
        .find(|(kind, _)| *kind == error.kind())
        .map_or_else(|| error.to_string(), |(_, text)| (*text).to_owned())
}

/// The sockets, first by worker, then by listener.
#[derive(Debug)]
pub struct Listeners {
    sets: Vec<Vec<Listener>>,
    bound: Vec<(Transport, SocketAddr)>,
}

impl Listeners {
    /// Binds everything that is configured, for so many workers.
    ///
    /// # Errors
    /// All addresses that cannot be bound, not only the first.
    pub fn bind(settings: &ListenSettings, workers: usize) -> Result<Self, Vec<BindError>> {
        let sets = if settings.reuse_port { workers.max(1) } else { 1 };
        let mut listeners =
            Self { sets: (0..sets).map(|_| Vec::new()).collect(), bound: Vec::new() };
        let mut errors = Vec::new();
        for socket in &settings.sockets {
            let addr = listeners.settled(socket.addr, socket.transport);
            if let Err(error) = listeners.bind_one(socket.transport, addr, settings) {
                let (key, addr) = (key(socket.transport), socket.addr);
                let transports = vec![socket.transport];
                let error = BindError { key, addr, transports, error };
                match errors.iter_mut().find(|other: &&mut BindError| other.is_like(&error)) {
                    Some(other) => other.transports.extend(error.transports),
                    None => errors.push(error),
                }
            }
        }
        if errors.is_empty() { Ok(listeners) } else { Err(errors) }
    }

    fn bind_one(
        &mut self,
        transport: Transport,
        mut addr: SocketAddr,
        settings: &ListenSettings,
    ) -> io::Result<()> {
        let reuse = Reuse { port: settings.reuse_port, address: settings.reuse_addr };
        let kind = if transport == Transport::Udp { Type::DGRAM } else { Type::STREAM };
        socket::probe(addr, kind, reuse.address)?;
        for set in &mut self.sets {
            let listener = Listener::bind(transport, addr, reuse)?;
            addr = listener.local_addr()?; // port 0 is settled by the first
            set.push(listener);
        }
        self.bound.push((transport, addr));
        Ok(())
    }

    /// Where port 0 is configured: the port that another transport got on the same address, so that
    /// UDP and TCP go together.
    fn settled(&self, addr: SocketAddr, transport: Transport) -> SocketAddr {
        if addr.port() != 0 {
            return addr;
        }
        let twin = self
            .bound
            .iter()
            .rev()
            .find(|(other, bound)| bound.ip() == addr.ip() && *other != transport);
        twin.map_or(addr, |(_, bound)| *bound)
    }

    /// Descriptors of its own for one worker, by listener.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn for_worker(&self, worker: usize) -> io::Result<Vec<Listener>> {
        let set = &self.sets[worker % self.sets.len()];
        set.iter().map(Listener::try_clone).collect()
    }

    /// Where it is listened, in the order of the configuration.
    #[must_use]
    pub fn bound(&self) -> &[(Transport, SocketAddr)] {
        &self.bound
    }
}

const fn key(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp | Transport::Tcp => "listen.dns",
        Transport::Dot => "listen.dot",
        Transport::Doh => "listen.doh",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use balancedns_core::config::ListenSocket;
    use balancedns_core::policy::Acl;

    use super::*;

    fn settings(sockets: &[(Transport, SocketAddr)]) -> ListenSettings {
        let sockets =
            sockets.iter().map(|&(transport, addr)| ListenSocket { transport, addr, tls: false });
        ListenSettings {
            sockets: sockets.collect(),
            metrics: None,
            read_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(2),
            tcp_idle_timeout: Duration::from_secs(10),
            reuse_port: true,
            reuse_addr: true,
            cookies: true,
            udp_size: 1232,
            workers: None,
            max_connections: 10,
            max_connections_per_client: 10,
            tls: None,
            doh_path: "/dns-query".to_owned(),
            proxy_protocol_from: Acl::new(Vec::new()),
            trusted_proxies: Acl::new(Vec::new()),
            ddr: None,
        }
    }

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// The system chooses the port for UDP; somebody may just hold its number for TCP.
    fn bind_both(settings: &ListenSettings, workers: usize) -> Listeners {
        let mut tries = (0..20).map(|_| Listeners::bind(settings, workers));
        tries.find_map(Result::ok).expect("one of them is free")
    }

    #[test]
    fn all_workers_and_both_transports_share_a_port_chosen_by_the_system() {
        let settings = settings(&[(Transport::Udp, any_port()), (Transport::Tcp, any_port())]);
        let listeners = bind_both(&settings, 3);
        let [(Transport::Udp, udp), (Transport::Tcp, tcp)] = listeners.bound() else {
            panic!("both are bound: {:?}", listeners.bound());
        };
        assert_eq!(udp, tcp);
        for worker in 0..3 {
            for listener in listeners.for_worker(worker).expect("duplicates") {
                assert_eq!(listener.local_addr().expect("bound"), *udp);
            }
        }
    }

    #[test]
    fn every_address_in_use_is_reported_by_its_key() {
        let wanted = settings(&[(Transport::Udp, any_port()), (Transport::Tcp, any_port())]);
        let first = bind_both(&wanted, 2);
        let taken = first.bound()[0].1;
        let elsewhere = TcpListener::bind("127.0.0.1:0").expect("binds");
        let other = elsewhere.local_addr().expect("bound");
        let sockets = [(Transport::Udp, taken), (Transport::Tcp, taken), (Transport::Tcp, other)];
        let errors = Listeners::bind(&settings(&sockets), 2).expect_err("all are taken");
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                format!("listen.dns {taken} (udp, tcp): address already in use"),
                format!("listen.dns {other} (tcp): address already in use"),
            ]
        );
    }

    #[test]
    fn a_low_port_says_what_is_missing() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(explained(&error).contains("CAP_NET_BIND_SERVICE"));
    }
}
