//! Datagrams on smol: waits for the worker's UDP sockets, all behind one descriptor, and lets them
//! be read in bounded rounds.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use async_io::Async;
use balancedns_runtime::datagrams::Round;
use smol::future::yield_now;

use crate::worker::Worker;

/// The readiness of all UDP sockets of a worker.
#[derive(Debug)]
pub(crate) struct Readable(Async<OwnedFd>);

impl Readable {
    /// Registers the one descriptor with async-io.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        Async::new_nonblocking(descriptor).map(Self)
    }
}

/// Reads datagrams as they come. Ends with why it cannot go on. It needs a task of its own: whatever
/// wakes that is taken for readiness.
pub(crate) async fn serve(worker: Rc<Worker>, readable: Readable) -> io::Error {
    drain(&readable, || worker.read_datagrams()).await
}

/// Reads as long as there is something, then waits, and so on until reading fails.
///
/// async-io counts the rounds of its reactor, and takes an event of the round in which a wait began
/// for an old one. While another thread runs the reactor that is most events. So one must not ask
/// whether there was an event, but try to read after every wake-up, as `read_with` does.
async fn drain(readable: &Readable, mut read: impl FnMut() -> io::Result<Round>) -> io::Error {
    loop {
        let until_drained = |_: &OwnedFd| match read()? {
            Round::Drained => Err(io::ErrorKind::WouldBlock.into()),
            Round::More => Ok(()),
        };
        if let Err(error) = readable.0.read_with(until_drained).await {
            return error;
        }
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Duration;

    use balancedns_runtime::poll::Readiness;

    use super::*;
    use crate::local::{block_on, timeout};

    const PACKETS: usize = 5_000;

    fn readable(readiness: &Readiness) -> Readable {
        let descriptor = readiness.as_fd().try_clone_to_owned().expect("duplicates");
        Readable::new(descriptor).expect("registers")
    }

    /// How `drain` is ended.
    fn done() -> io::Error {
        io::ErrorKind::Interrupted.into()
    }

    /// Returns each packet to its sender, until there were enough.
    async fn echo(socket: &UdpSocket) {
        socket.set_nonblocking(true).expect("sets");
        let mut readiness = Readiness::new().expect("creates");
        readiness.add(socket, 0).expect("watches");
        let readable = readable(&readiness);
        let mut returned = 0;
        // As a worker does it: tokens are taken first, then the socket is read until it is empty.
        let read = || {
            readiness.poll()?;
            let mut packet = [0; 8];
            loop {
                match socket.recv_from(&mut packet) {
                    Ok((len, sender)) => {
                        socket.send_to(&packet[..len], sender)?;
                        returned += 1;
                    }
                    Err(_) if returned == PACKETS => return Err(done()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Round::Drained);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        assert_eq!(drain(&readable, read).await.kind(), done().kind());
    }

    /// One packet at a time is on its way, so that a single lost wake-up is the end of it.
    #[test]
    fn no_wake_up_is_lost_while_several_threads_share_the_reactor() {
        let pair = |_| {
            let server = UdpSocket::bind("127.0.0.1:0").expect("binds");
            let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
            client.connect(server.local_addr().expect("bound")).expect("connects");
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
            (server, client)
        };
        let pairs = [0; 3].map(pair);
        thread::scope(|scope| {
            for (server, client) in &pairs {
                scope.spawn(|| block_on(echo(server)));
                scope.spawn(|| {
                    for number in 0..PACKETS {
                        let packet = number.to_be_bytes();
                        client.send(&packet).expect("sends");
                        let mut returned = [0; 8];
                        client.recv(&mut returned).expect("the echo was woken");
                        assert_eq!(returned, packet);
                    }
                });
            }
        });
    }

    #[test]
    fn what_is_left_is_read_although_nothing_becomes_ready() {
        let readable = readable(&Readiness::new().expect("creates"));
        let mut reads = 0;
        let read = || {
            reads += 1;
            if reads <= 3 { Ok(Round::More) } else { Err(done()) }
        };
        let drained = block_on(timeout(Duration::from_secs(10), drain(&readable, read)));
        assert!(drained.is_some());
        assert_eq!(reads, 4);
    }
}
