//! Datagrams on tokio: waits for the worker's UDP sockets, all behind one descriptor, and lets them
//! be read in bounded rounds.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use balancedns_runtime::datagrams::Round;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
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
}

/// Reads datagrams as they come. Ends with why it cannot go on.
pub(crate) async fn serve(worker: Rc<Worker>, readable: Readable) -> io::Error {
    loop {
        if let Err(error) = read(&worker, &readable).await {
            return error;
        }
    }
}

async fn read(worker: &Rc<Worker>, readable: &Readable) -> io::Result<()> {
    let mut ready = readable.0.readable().await?;
    match worker.read_datagrams()? {
        Round::Drained => ready.clear_ready(),
        // What is left is still ready afterwards.
        Round::More => yield_now().await,
    }
    Ok(())
}
