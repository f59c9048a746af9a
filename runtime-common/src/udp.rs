//! Batched datagram IO: `recvmmsg` into a [`ReceiveBatch`], runs of a transmit batch by `sendmmsg`.
//!
//! Nothing here allocates per call. Facts about nix's reused headers that this module stands on:
//! - A receive does not reset the lengths of address and control data. They stay right as long as
//!   every datagram brings an address of the socket's family and exactly one packet info, so the
//!   headers are made per family, and made anew after a datagram without its packet info.
//! - One send shares one list of control messages among all its datagrams: a run has one source.
//! - Headers with a control buffer must be used with a control message, those without must not.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use balancedns_core::batch::{ReceiveBatch, ReceiveMeta};
use balancedns_core::limits::BATCH_DATAGRAMS;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6,
    SockaddrLike, recvmmsg, sendmmsg,
};

/// The discard port (RFC 863) of this machine: no client of ours sends from there.
const NOBODY_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
const NOBODY_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 9);

/// A non-blocking UDP socket, and what the batched calls must know about it.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: UdpSocket,
    is_ipv6: bool,
    /// Bound to all addresses: each datagram says which one it was sent to.
    is_wildcard: bool,
}

impl DatagramSocket {
    /// A listener's socket, as made by [`crate::socket::udp_listener`].
    ///
    /// # Errors
    /// The socket is not bound.
    pub fn listener(socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        Ok(Self { socket, is_ipv6: local.is_ipv6(), is_wildcard: local.ip().is_unspecified() })
    }

    /// A socket connected to `remote`.
    #[must_use]
    pub fn connected(socket: UdpSocket, remote: SocketAddr) -> Self {
        Self { socket, is_ipv6: remote.is_ipv6(), is_wildcard: false }
    }

    /// Lets no further datagram in, so that clients learn at once to ask elsewhere, and can still
    /// send. Linux does both for a socket connected to somebody who never sends.
    ///
    /// Best effort: an address that has no route to the loopback goes on receiving, unread.
    pub fn refuse_more(&self) {
        let nobody = if self.is_ipv6 { NOBODY_V6 } else { NOBODY_V4 };
        let _still_receiving = self.socket.connect(nobody);
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What became of a run of datagrams.
#[derive(Debug, Default)]
pub struct Sent {
    /// Datagrams that the kernel did not take.
    pub failed: usize,
    /// Why the last of them was not taken.
    pub error: Option<io::Error>,
}

/// The memory that the batched calls need, of one thread.
#[derive(Debug)]
pub struct UdpIo {
    v4: Headers<V4>,
    v6: Headers<V6>,
    metas: Vec<ReceiveMeta>,
}

impl Default for UdpIo {
    fn default() -> Self {
        Self {
            v4: Headers::default(),
            v6: Headers::default(),
            metas: Vec::with_capacity(BATCH_DATAGRAMS),
        }
    }
}

impl UdpIo {
    /// Fills the batch with what the socket holds. Fewer datagrams than
    /// [fit](batch_size) mean that it held no more.
    ///
    /// # Errors
    /// A pending error of the socket, such as an ICMP answer to an earlier send; it is cleared by
    /// being reported.
    pub fn receive(
        &mut self,
        socket: &DatagramSocket,
        batch: &mut ReceiveBatch,
    ) -> io::Result<usize> {
        batch.clear();
        self.metas.clear();
        if socket.is_ipv6 {
            self.v6.receive(socket, batch, &mut self.metas)?;
        } else {
            self.v4.receive(socket, batch, &mut self.metas)?;
        }
        for (slot, meta) in self.metas.iter().enumerate() {
            batch.set(slot, *meta);
        }
        batch.set_len(self.metas.len());
        Ok(self.metas.len())
    }

    /// Sends datagrams by one socket: to a peer each, or to none on a connected socket; from
    /// `source`, where the socket is bound to all addresses.
    ///
    /// A datagram that fails is skipped. A full socket buffer fails all the rest.
    pub fn send<'a>(
        &mut self,
        socket: &DatagramSocket,
        source: Option<IpAddr>,
        datagrams: impl Iterator<Item = (Option<SocketAddr>, &'a [u8])>,
    ) -> Sent {
        if socket.is_ipv6 {
            self.v6.send(socket, source, datagrams)
        } else {
            self.v4.send(socket, source, datagrams)
        }
    }
}

/// How many datagrams one receive into this batch can bring.
#[must_use]
pub fn batch_size(batch: &ReceiveBatch) -> usize {
    batch.capacity().min(BATCH_DATAGRAMS)
}

/// What differs between the address families.
trait Family {
    type Address: SockaddrLike + Copy + Into<SocketAddr> + std::fmt::Debug;
    type PacketInfo;

    fn control_buffer() -> Vec<u8>;
    fn address(peer: SocketAddr) -> Option<Self::Address>;
    fn source(source: IpAddr) -> Option<Self::PacketInfo>;
    fn control(info: &Self::PacketInfo) -> ControlMessage<'_>;
    fn local(message: &ControlMessageOwned) -> Option<IpAddr>;
}

#[derive(Debug)]
enum V4 {}

impl Family for V4 {
    type Address = SockaddrIn;
    type PacketInfo = libc::in_pktinfo;

    fn control_buffer() -> Vec<u8> {
        cmsg_space!(libc::in_pktinfo)
    }

    fn address(peer: SocketAddr) -> Option<SockaddrIn> {
        match peer {
            SocketAddr::V4(peer) => Some(peer.into()),
            SocketAddr::V6(_) => None,
        }
    }

    fn source(source: IpAddr) -> Option<libc::in_pktinfo> {
        let IpAddr::V4(source) = source else {
            return None;
        };
        let s_addr = u32::from_ne_bytes(source.octets());
        Some(libc::in_pktinfo {
            ipi_ifindex: 0, // routing decides
            ipi_spec_dst: libc::in_addr { s_addr },
            ipi_addr: libc::in_addr { s_addr: 0 },
        })
    }

    fn control(info: &libc::in_pktinfo) -> ControlMessage<'_> {
        ControlMessage::Ipv4PacketInfo(info)
    }

    /// The address to answer from: that of the query's header, unless that was a broadcast.
    fn local(message: &ControlMessageOwned) -> Option<IpAddr> {
        let ControlMessageOwned::Ipv4PacketInfo(info) = message else {
            return None;
        };
        Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))
    }
}

#[derive(Debug)]
enum V6 {}

impl Family for V6 {
    type Address = SockaddrIn6;
    type PacketInfo = libc::in6_pktinfo;

    fn control_buffer() -> Vec<u8> {
        cmsg_space!(libc::in6_pktinfo)
    }

    fn address(peer: SocketAddr) -> Option<SockaddrIn6> {
        match peer {
            SocketAddr::V6(peer) => Some(peer.into()),
            SocketAddr::V4(_) => None,
        }
    }

    fn source(source: IpAddr) -> Option<libc::in6_pktinfo> {
        let IpAddr::V6(source) = source else {
            return None;
        };
        let ipi6_addr = libc::in6_addr { s6_addr: source.octets() };
        // The peer's scope, where it has one, decides the interface.
        Some(libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 })
    }

    fn control(info: &libc::in6_pktinfo) -> ControlMessage<'_> {
        ControlMessage::Ipv6PacketInfo(info)
    }

    /// The address to answer from: that of the query's header, unless that was a multicast.
    fn local(message: &ControlMessageOwned) -> Option<IpAddr> {
        let ControlMessageOwned::Ipv6PacketInfo(info) = message else {
            return None;
        };
        let local = IpAddr::from(info.ipi6_addr.s6_addr);
        (!local.is_multicast()).then_some(local)
    }
}

/// Headers of one family, each kind for one use only.
#[derive(Debug)]
struct Headers<F: Family> {
    receive: MultiHeaders<F::Address>,
    receive_with_info: MultiHeaders<F::Address>,
    send: MultiHeaders<F::Address>,
    send_with_info: MultiHeaders<F::Address>,
}

impl<F: Family> Default for Headers<F> {
    fn default() -> Self {
        let with_info = || MultiHeaders::preallocate(BATCH_DATAGRAMS, Some(F::control_buffer()));
        Self {
            receive: MultiHeaders::preallocate(BATCH_DATAGRAMS, None),
            receive_with_info: with_info(),
            send: MultiHeaders::preallocate(BATCH_DATAGRAMS, None),
            send_with_info: with_info(),
        }
    }
}

impl<F: Family> Headers<F> {
    fn receive(
        &mut self,
        socket: &DatagramSocket,
        batch: &mut ReceiveBatch,
        metas: &mut Vec<ReceiveMeta>,
    ) -> io::Result<()> {
        let headers =
            if socket.is_wildcard { &mut self.receive_with_info } else { &mut self.receive };
        loop {
            match receive_once::<F>(headers, socket, batch, metas) {
                Ok(()) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        if socket.is_wildcard && metas.iter().any(|meta| meta.local.is_none()) {
            *headers = MultiHeaders::preallocate(BATCH_DATAGRAMS, Some(F::control_buffer()));
        }
        Ok(())
    }

    fn send<'a>(
        &mut self,
        socket: &DatagramSocket,
        source: Option<IpAddr>,
        mut datagrams: impl Iterator<Item = (Option<SocketAddr>, &'a [u8])>,
    ) -> Sent {
        let mut sent = Sent::default();
        let info = source.and_then(F::source);
        loop {
            let mut slices: [[IoSlice<'_>; 1]; BATCH_DATAGRAMS] =
                std::array::from_fn(|_| [IoSlice::new(&[])]);
            let mut addresses: [Option<F::Address>; BATCH_DATAGRAMS] = [None; BATCH_DATAGRAMS];
            let mut len = 0;
            for (peer, bytes) in datagrams.by_ref().take(BATCH_DATAGRAMS) {
                let address = peer.map(F::address);
                if matches!(address, Some(None)) {
                    sent.failed += 1;
                    sent.error = Some(io::ErrorKind::AddrNotAvailable.into());
                    continue;
                }
                slices[len] = [IoSlice::new(bytes)];
                addresses[len] = address.flatten();
                len += 1;
            }
            if len == 0 {
                return sent;
            }
            self.send_batch(socket, info.as_ref(), &slices[..len], &addresses[..len], &mut sent);
        }
    }

    /// Sends at most a batch, however many calls that takes.
    fn send_batch(
        &mut self,
        socket: &DatagramSocket,
        info: Option<&F::PacketInfo>,
        slices: &[[IoSlice<'_>; 1]],
        addresses: &[Option<F::Address>],
        sent: &mut Sent,
    ) {
        let mut next = 0;
        while next < slices.len() {
            let (slices, addresses) = (&slices[next..], &addresses[next..]);
            match self.send_once(socket, info, slices, addresses) {
                Ok(taken) => next += taken,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    sent.failed += slices.len();
                    sent.error = Some(io::ErrorKind::WouldBlock.into());
                    return;
                }
                // The first of them fails alone: the others may be to peers that can be reached.
                Err(error) => {
                    sent.failed += 1;
                    sent.error = Some(error.into());
                    next += 1;
                }
            }
        }
    }

    fn send_once(
        &mut self,
        socket: &DatagramSocket,
        info: Option<&F::PacketInfo>,
        slices: &[[IoSlice<'_>; 1]],
        addresses: &[Option<F::Address>],
    ) -> Result<usize, Errno> {
        let fd = socket.as_fd().as_raw_fd();
        let flags = MsgFlags::empty();
        let results = match info {
            Some(info) => {
                let control = [F::control(info)];
                sendmmsg(fd, &mut self.send_with_info, slices, addresses, control, flags)?
            }
            None => sendmmsg(fd, &mut self.send, slices, addresses, [], flags)?,
        };
        Ok(results.count())
    }
}

fn receive_once<F: Family>(
    headers: &mut MultiHeaders<F::Address>,
    socket: &DatagramSocket,
    batch: &mut ReceiveBatch,
    metas: &mut Vec<ReceiveMeta>,
) -> Result<(), Errno> {
    let fits = batch_size(batch);
    let mut slots = batch.slots_mut();
    let mut slices: [[IoSliceMut<'_>; 1]; BATCH_DATAGRAMS] =
        std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
    let fd = socket.as_fd().as_raw_fd();
    let slices = slices[..fits].iter_mut();
    for message in recvmmsg(fd, headers, slices, MsgFlags::empty(), None)? {
        let peer = message.address.expect("nix gives every message an address").into();
        let local = if socket.is_wildcard {
            message.cmsgs().ok().and_then(|mut control| control.find_map(|c| F::local(&c)))
        } else {
            None
        };
        let truncated = message.flags.contains(MsgFlags::MSG_TRUNC);
        metas.push(ReceiveMeta { peer, local, len: message.bytes, truncated });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
