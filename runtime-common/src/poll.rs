//! Readiness of many datagram sockets, or pipes, behind one descriptor.
//!
//! A worker's UDP sockets live in an epoll instance of their own. The async runtime waits for that
//! one descriptor, so that a wake-up costs one async readiness whatever the number of sockets, and
//! opening an upstream socket costs the runtime nothing. Pipes of plugins live in another, which the
//! first one watches.
//!
//! Sockets are watched edge-triggered: whoever gets a token reads that socket until a receive comes
//! back short, or remembers to go on with it. Pipes are watched level-triggered: whoever gets a token
//! may leave something, and gets it again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken per system call.
const EVENTS: usize = 64;

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Readable,
    /// Room to write.
    Writable,
}

/// Watched sockets, each under a token of the caller's choice.
#[derive(Debug)]
pub struct Readiness {
    epoll: Epoll,
    events: [EpollEvent; EVENTS],
}

impl Readiness {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The process or machine is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: [EpollEvent::empty(); EVENTS] })
    }

    /// Watches a socket for datagrams and errors from now on. What it already holds counts as new.
    ///
    /// # Errors
    /// The kernel's limit of watches or memory is reached.
    pub fn add(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        Ok(self.epoll.add(socket, EpollEvent::new(flags, token))?)
    }

    /// Watches one direction of a descriptor, and its end, from now on: every poll tells of it as long
    /// as it is ready.
    ///
    /// # Errors
    /// The kernel's limit of watches or memory is reached.
    pub fn add_level(&self, fd: impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        let flags = match interest {
            Interest::Readable => EpollFlags::EPOLLIN,
            Interest::Writable => EpollFlags::EPOLLOUT,
        };
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token))?)
    }

    /// Watches a socket no longer. Closing is not enough where the descriptor has duplicates.
    pub fn remove(&self, socket: impl AsFd) {
        // It can only fail for a socket that is not watched, which is what is wanted.
        let _not_watched = self.epoll.delete(socket);
    }

    /// The tokens of sockets that became ready, without waiting. If there are
    /// [as many as fit](Ready::is_full), there may be more.
    ///
    /// # Errors
    /// None that a healthy process meets.
    pub fn poll(&mut self) -> io::Result<Ready<'_>> {
        loop {
            match self.epoll.wait(&mut self.events, EpollTimeout::ZERO) {
                Ok(len) => {
                    return Ok(Ready { events: &self.events[..len] });
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Readiness {
    /// Readable when a watched socket is ready.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// Sockets that became ready.
#[derive(Debug)]
pub struct Ready<'a> {
    events: &'a [EpollEvent],
}

impl Ready<'_> {
    /// Their tokens.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = u64> {
        self.events.iter().map(EpollEvent::data)
    }

    /// Whether there may be more than these.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.events.len() == EVENTS
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn tokens(readiness: &mut Readiness) -> Vec<u64> {
        readiness.poll().expect("polls").tokens().collect()
    }

    #[test]
    fn an_edge_is_seen_once_and_again_after_more_arrived() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("binds");
        sender.connect(receiver.local_addr().expect("bound")).expect("connects");
        let mut readiness = Readiness::new().expect("creates");
        readiness.add(&receiver, 7).expect("adds");
        assert!(tokens(&mut readiness).is_empty());
        sender.send(b"a").expect("sends");
        assert_eq!(tokens(&mut readiness), [7]);
        assert!(tokens(&mut readiness).is_empty());
        sender.send(b"b").expect("sends");
        assert_eq!(tokens(&mut readiness), [7]);
    }

    #[test]
    fn a_level_is_seen_until_it_is_gone_also_from_outside() {
        let (reader, writer) = io::pipe().expect("creates");
        let (mut outer, mut inner) = (Readiness::new(), Readiness::new());
        let (outer, inner) = (outer.as_mut().expect("creates"), inner.as_mut().expect("creates"));
        outer.add(&*inner, 1).expect("adds");
        inner.add_level(&reader, Interest::Readable, 2).expect("adds");
        inner.add_level(&writer, Interest::Writable, 3).expect("adds");
        assert_eq!((tokens(outer), tokens(inner), tokens(inner)), (vec![1], vec![3], vec![3]));
        inner.remove(&writer);
        assert!(tokens(inner).is_empty() && tokens(outer).is_empty());
        drop(writer);
        assert_eq!((tokens(outer), tokens(inner), tokens(inner)), (vec![1], vec![2], vec![2]));
    }

    #[test]
    fn a_removed_socket_is_silent_even_with_a_duplicate_open() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let kept = receiver.try_clone().expect("duplicates");
        let mut readiness = Readiness::new().expect("creates");
        readiness.add(&receiver, 7).expect("adds");
        readiness.remove(&receiver);
        drop(receiver);
        kept.send_to(b"a", kept.local_addr().expect("bound")).expect("sends");
        assert!(tokens(&mut readiness).is_empty());
    }
}
