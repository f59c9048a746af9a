//! A stream as hyper knows it. What hyper writes is kept until it flushes, so that an answer's
//! HEADERS and DATA, and those of all answers that are ready together, leave in one write.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use balancedns_core::engine::IoFailure;
use balancedns_core::handle::ExchangeHandle;
use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};

use crate::pump::{self, Octets};
use crate::tls;

/// Octets kept before hyper has to wait for the stream.
const KEPT_OCTETS: usize = 65_536;
/// Octets of room that an idle connection holds.
const IDLE_OCTETS: usize = 4_096;

/// A stream with a buffer on its way out.
#[derive(Debug)]
pub(crate) struct Io<S> {
    stream: S,
    /// Read before hyper was there.
    first: Bytes,
    /// Written, from `sent` on not yet passed on.
    kept: Vec<u8>,
    sent: usize,
    /// What a read may fill at once; shared by all connections of the worker.
    memory: Rc<RefCell<Box<[u8]>>>,
    failure: Failure,
    leaving: Leaving,
}

/// Answers on their way out of a connection: those that hyper has taken, until what it wrote is with
/// the kernel. A client that reads nothing shows in them. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaving(Rc<RefCell<Stages>>);

#[derive(Debug, Default)]
struct Stages {
    taken: Vec<ExchangeHandle>,
    left: Vec<ExchangeHandle>,
}

impl Leaving {
    /// Hyper has taken an answer.
    pub(super) fn taken(&self, exchange: ExchangeHandle) {
        self.0.borrow_mut().taken.push(exchange);
    }

    /// All that was written has left.
    fn flushed(&self) {
        let Stages { taken, left } = &mut *self.0.borrow_mut();
        left.append(taken);
    }

    /// The next answer that has left.
    pub(super) fn pop(&self) -> Option<ExchangeHandle> {
        self.0.borrow_mut().left.pop()
    }
}

/// What broke a stream, for who has only hyper's word of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure(Rc<Cell<Option<IoFailure>>>);

impl Failure {
    /// What broke the stream, if anything did.
    pub(super) fn get(&self) -> Option<IoFailure> {
        self.0.get()
    }
}

impl<S: Octets> Io<S> {
    /// Reads `first` before what comes from the stream.
    pub(crate) fn new(stream: S, first: Bytes, memory: Rc<RefCell<Box<[u8]>>>) -> Self {
        let (failure, leaving) = (Failure::default(), Leaving::default());
        Self { stream, first, kept: Vec::new(), sent: 0, memory, failure, leaving }
    }

    /// Where to look for what broke it.
    pub(super) fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// Where answers are that hyper has taken.
    pub(super) fn leaving(&self) -> Leaving {
        self.leaving.clone()
    }

    /// Remembers an error on its way to hyper.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.failure.0.set(Some(tls::failure_of(error))))
    }

    fn poll_pass_on(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.kept.len() {
            let written = ready!(self.stream.poll_write(context, &self.kept[self.sent..]));
            match self.noted(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                octets => self.sent += octets,
            }
        }
        self.sent = 0;
        self.kept.clear();
        self.kept.shrink_to(IDLE_OCTETS);
        Poll::Ready(Ok(()))
    }
}

impl<S: Octets + Unpin> Read for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.first.is_empty() {
            let octets = this.first.split_to(cursor.remaining().min(this.first.len()));
            cursor.put_slice(octets.chunk());
            return Poll::Ready(Ok(()));
        }
        let memory = Rc::clone(&this.memory);
        let mut memory = memory.borrow_mut();
        let room = cursor.remaining().min(memory.len());
        let read = ready!(pump::poll_read(&mut this.stream, context, &mut memory[..room]));
        cursor.put_slice(&memory[..this.noted(read)?]);
        Poll::Ready(Ok(()))
    }
}

impl<S: Octets + Unpin> Write for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kept.len() >= KEPT_OCTETS {
            ready!(self.poll_pass_on(context))?;
        }
        self.kept.extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass_on(context))?;
        let flushed = ready!(self.stream.poll_flush(context));
        self.leaving.flushed();
        Poll::Ready(self.noted(flushed))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass_on(context))?;
        let closed = ready!(self.stream.poll_close(context));
        Poll::Ready(self.noted(closed))
    }
}
