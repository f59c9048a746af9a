//! Polls a connection of hyper together with the exchanges that hyper starts beside it.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use balancedns_core::engine::{Closed, IoFailure};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;

use super::io::Failure;

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Where hyper, and whoever has something to do on a connection, puts it. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Beside(Rc<RefCell<Vec<Work>>>);

impl Beside {
    fn take(&self) -> Vec<Work> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Beside({})", self.0.borrow().len())
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Beside {
    fn execute(&self, future: F) {
        self.0.borrow_mut().push(Box::pin(future));
    }
}

/// A connection, and what was put beside it. Whatever wakes one wakes the task that drives all.
pub(super) struct Driver<C> {
    /// Gone once it has ended: what it holds keeps others from ending. In a box: it is large, and has
    /// to stay where it is.
    conn: Option<Pin<Box<C>>>,
    end: Option<hyper::Result<()>>,
    beside: Beside,
    running: FuturesUnordered<Work>,
}

impl<C: Future<Output = hyper::Result<()>>> Driver<C> {
    pub(super) fn new(conn: C, beside: Beside) -> Self {
        Self { conn: Some(Box::pin(conn)), end: None, beside, running: FuturesUnordered::new() }
    }

    /// The connection itself, until its end.
    pub(super) fn conn(&mut self) -> Option<Pin<&mut C>> {
        self.conn.as_mut().map(Pin::as_mut)
    }

    /// Polls all that is beside the connection once more, woken or not.
    pub(super) fn rouse(&mut self) {
        self.running = std::mem::take(&mut self.running).into_iter().collect();
    }

    /// Ready when the connection itself is at its end.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(conn) = &mut self.conn else {
                return Poll::Ready(());
            };
            if let Poll::Ready(end) = conn.as_mut().poll(context) {
                self.end = Some(end);
                self.conn = None;
                return Poll::Ready(());
            }
            let _left = self.poll_beside(context);
            if self.beside.0.borrow().is_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Ready when the connection is at its end and nothing is left beside it.
    pub(super) fn poll_all(&mut self, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll(context));
        self.poll_beside(context)
    }

    fn poll_beside(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            self.running.extend(self.beside.take());
            match self.running.poll_next_unpin(context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) if self.beside.0.borrow().is_empty() => return Poll::Ready(()),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// How it has ended: what broke the stream is more than hyper tells.
    pub(super) fn how_ended(self, failure: &Failure) -> Closed {
        let unknown = self.end.and_then(Result::err).map(|_| IoFailure::Other);
        failure.get().or(unknown).map_or(Closed::Cleanly, Closed::Failed)
    }
}
