//! Datagrams on tokio: waits for the worker's UDP sockets, all behind one descriptor, and lets them
//! be read in bounded rounds.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use balancedns_runtime::datagrams::Round;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::task::yield_now;

use crate::worker::Worker;

/// The readiness of all UDP sockets of a worker.
#[derive(Debug)]
pub(crate) struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers the one descriptor with tokio.
    #[expect(
        deprecated,
        reason = "its successor is an unsafe function that asks for a descriptor which stays open \
                  and the same; an OwnedFd is one by its type"
    )]
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        AsyncFd::with_interest(descriptor, Interest::READABLE).map(Self)
    }

    /// Waits until a socket is ready.
    pub(crate) async fn ready(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}

/// Reads what is there. What is left is still ready afterwards.
pub(crate) async fn read(
    worker: &Rc<Worker>,
    mut ready: AsyncFdReadyGuard<'_, OwnedFd>,
) -> io::Result<()> {
    match worker.read_datagrams()? {
        Round::Drained => ready.clear_ready(),
        Round::More => yield_now().await,
    }
    Ok(())
}
