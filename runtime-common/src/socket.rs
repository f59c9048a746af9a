//! Making sockets: every option that is set on one is set here, with its reason.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use balancedns_core::time::Duration;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Octets of a UDP listener's buffers, each way: bursts wait here while a worker is busy. The
/// system's own limit may be lower.
const LISTENER_BUFFER_OCTETS: usize = 1 << 20;
/// Connections that wait to be accepted. The system's own limit may be lower.
const BACKLOG: i32 = 1024;

/// For how long what was sent to an upstream may go without an acknowledgement: a few retransmissions,
/// and less than the usual time of an attempt.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_millis(1_500);

/// How listening sockets share their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// One socket per worker on the same address; the kernel spreads queries over them.
    pub port: bool,
    /// TCP only: bind although old connections linger in TIME_WAIT.
    pub address: bool,
}

/// A UDP socket for queries.
///
/// # Errors
/// The address cannot be bound.
pub fn udp_listener(addr: SocketAddr, reuse: Reuse) -> io::Result<UdpSocket> {
    let socket = bindable(addr, Type::DGRAM)?;
    socket.set_reuse_port(reuse.port)?;
    set_no_fragmentation_on_hearsay(&socket, addr)?;
    if addr.ip().is_unspecified() {
        // Answers must leave from the address that was asked, so each query has to tell it.
        match addr {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    // Best effort: with smaller buffers a burst loses some datagrams, no more.
    let _smaller = socket.set_recv_buffer_size(LISTENER_BUFFER_OCTETS);
    let _smaller = socket.set_send_buffer_size(LISTENER_BUFFER_OCTETS);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// A TCP socket that accepts connections.
///
/// # Errors
/// The address cannot be bound.
pub fn tcp_listener(addr: SocketAddr, reuse: Reuse) -> io::Result<TcpListener> {
    let socket = bindable(addr, Type::STREAM)?;
    socket.set_reuse_port(reuse.port)?;
    socket.set_reuse_address(reuse.address)?;
    // Accepted connections inherit it: an answer is whole when it is written.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A TCP socket for the admin interface: on an address of this machine only. `[::]` takes both
/// families, or IPv4 alone where there is no IPv6.
///
/// # Errors
/// The address cannot be bound.
pub fn admin_listener(addr: SocketAddr) -> io::Result<TcpListener> {
    let addr = match addr {
        SocketAddr::V6(all) if all.ip().is_unspecified() && !has_ipv6() => {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, all.port()))
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => addr,
    };
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether this machine knows the family at all.
#[must_use]
pub fn has_ipv6() -> bool {
    let made = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None);
    !made.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT))
}

/// Finds out whether an address is free, by a bind that does not share it with anybody.
///
/// Without this, a second instance would silently take a part of the first one's queries.
///
/// # Errors
/// It is not free, or cannot be bound at all.
pub fn probe(addr: SocketAddr, kind: Type, reuse_address: bool) -> io::Result<()> {
    let socket = bindable(addr, kind)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(reuse_address)?;
    }
    socket.bind(&addr.into())
}

/// A UDP socket connected to an upstream, on a port that the kernel picks at random.
///
/// # Errors
/// The local address cannot be used, there is no route, or a resource has run out.
pub fn upstream_udp(remote: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )?;
    set_no_fragmentation_on_hearsay(&socket, remote)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect(&remote.into())?;
    Ok(socket.into())
}

/// A TCP socket that has begun to connect to an upstream. Once it is writable, its pending error
/// says whether it got there.
///
/// # Errors
/// The local address cannot be used, there is no route, or a resource has run out.
pub fn upstream_tcp(remote: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&remote.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// What a stream to an upstream gets once it is there: an end as soon as the other host no longer
/// acknowledges what is sent. It has gone then without a word (a router forgot the connection, a machine
/// lost its power), which is something else than taking long to answer, and what was asked there can
/// be asked elsewhere in time.
///
/// # Errors
/// The system does not know the option.
pub fn notice_silence(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// A non-blocking socket of the address's family that may be bound to an address which the machine
/// does not have yet (a floating one, or an interface that is not up).
fn bindable(addr: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind.nonblocking().cloexec(), None)?;
    match addr {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            // `:port` is one socket per family, so that no v4 address ever looks like a v6 one.
            socket.set_only_v6(true)?;
        }
    }
    Ok(socket)
}

/// Forged ICMP messages can claim a tiny path MTU and so make answers leave in fragments, the
/// second of which can be forged too (RFC 9715 section 3.1). OMIT ignores what was learnt that way.
fn set_no_fragmentation_on_hearsay(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    match addr {
        SocketAddr::V4(_) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::OMIT)?,
        SocketAddr::V6(_) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::OMIT)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: Reuse = Reuse { port: true, address: true };

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn workers_share_an_address_and_a_probe_still_sees_it_taken() {
        let first = udp_listener(loopback(), SHARED).expect("binds");
        let addr = first.local_addr().expect("bound");
        let second = udp_listener(addr, SHARED).expect("shares");
        let error = probe(addr, Type::DGRAM, true).expect_err("is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop((first, second));
        probe(addr, Type::DGRAM, true).expect("is free again");
    }

    #[test]
    fn a_tcp_probe_sees_listeners_but_not_old_connections() {
        let listener = tcp_listener(loopback(), SHARED).expect("binds");
        let addr = listener.local_addr().expect("bound");
        let error = probe(addr, Type::STREAM, true).expect_err("is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

        let client = TcpStream::connect(addr).expect("connects");
        listener.set_nonblocking(false).expect("sets");
        let (accepted, _) = listener.accept().expect("accepts");
        drop(accepted); // closes first, so that TIME_WAIT is on this side
        drop((client, listener));
        probe(addr, Type::STREAM, true).expect("is free again");
    }

    #[test]
    fn a_wildcard_v6_listener_leaves_v4_alone() {
        let v6 = udp_listener("[::]:0".parse().expect("valid"), SHARED).expect("binds");
        let port = v6.local_addr().expect("bound").port();
        probe(SocketAddr::from(([0, 0, 0, 0], port)), Type::DGRAM, false).expect("v4 is free");
    }

    #[test]
    fn an_address_of_another_machine_can_be_bound() {
        udp_listener("192.0.2.1:0".parse().expect("valid"), SHARED).expect("binds");
    }

    #[test]
    fn an_upstream_socket_uses_the_source_it_is_given() {
        let remote = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let source: IpAddr = "127.0.0.9".parse().expect("valid");
        let socket = upstream_udp(remote.local_addr().expect("bound"), Some(source));
        assert_eq!(socket.expect("opens").local_addr().expect("bound").ip(), source);
    }
}
