//! Datagrams on tokio: waits for the worker's UDP sockets, all behind one descriptor, and lets them
//! be read in bounded rounds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use balancedns_runtime::datagrams::{Datagrams, Round};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::task::yield_now;

use crate::worker::Worker;

/// Rounds before timers and streams get their turn.
const ROUNDS: usize = 16;

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
    pub(crate) fn new(datagrams: &Datagrams) -> io::Result<Self> {
        let descriptor = datagrams.as_fd().try_clone_to_owned()?;
        AsyncFd::with_interest(descriptor, Interest::READABLE).map(Self)
    }

    /// Waits until a socket is ready.
    pub(crate) async fn ready(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}

/// Reads what is there. What is left after that many rounds is still ready afterwards.
pub(crate) async fn rounds(
    worker: &Rc<Worker>,
    mut ready: AsyncFdReadyGuard<'_, OwnedFd>,
) -> io::Result<()> {
    for _ in 0..ROUNDS {
        match worker.round()? {
            Round::Drained => {
                ready.clear_ready();
                return Ok(());
            }
            Round::More => {}
        }
    }
    yield_now().await;
    Ok(())
}
