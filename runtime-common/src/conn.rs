//! Stream connections, as what the engine wants of each and what its task carries out.
//!
//! The worker enters wishes at any time; the task that owns the stream polls for them with
//! everything else (see [`pump`](crate::pump)). Both are on one thread.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use balancedns_core::engine::CloseMode;
use balancedns_core::handle::{self, ConnHandle, Table};
use bytes::Bytes;

use crate::http::Requests;

/// What the worker and the task of a connection share.
#[derive(Debug)]
pub struct Conn {
    handle: ConnHandle,
    wishes: RefCell<Wishes>,
    /// The engine has not forgotten it.
    is_known: Cell<bool>,
    /// Where requests to an upstream go.
    requests: RefCell<Option<Requests>>,
}

/// What the engine wants of a connection.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// What is to be sent.
    pub(crate) queue: VecDeque<Bytes>,
    /// Nothing is to be read for now.
    pub(crate) paused: bool,
    /// The engine has forgotten the connection: it is to end.
    pub(crate) close: Option<CloseMode>,
    /// The task, while it waits.
    waker: Option<Waker>,
}

impl Conn {
    /// Nothing is wished for yet.
    pub(crate) fn new(handle: ConnHandle) -> Self {
        let (wishes, requests) = (RefCell::default(), RefCell::default());
        Self { handle, wishes, is_known: Cell::new(true), requests }
    }

    /// Its name between engine and worker.
    #[must_use]
    pub fn handle(&self) -> ConnHandle {
        self.handle
    }

    /// Whether the engine still has it. Whatever becomes of it afterwards, nobody is to be told.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.get()
    }

    /// Runs a future until the engine wants an end; none then.
    pub(crate) async fn unless_closed<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = Box::pin(future);
        poll_fn(|context| {
            if self.poll_closed(context).is_ready() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Requests go here from now on.
    pub(crate) fn put_requests(&self, requests: Requests) {
        self.requests.replace(Some(requests));
    }

    /// Where requests go, if there may be any.
    pub(crate) fn requests(&self) -> Option<Requests> {
        self.requests.borrow().clone()
    }

    /// There are no more requests.
    pub(crate) fn end_requests(&self) {
        self.requests.take();
    }

    /// Ready when the engine wants an end. Else the task is woken by the next wish of any kind.
    pub(crate) fn poll_closed(&self, context: &Context<'_>) -> Poll<CloseMode> {
        let mut wishes = self.wishes_mut();
        match wishes.close {
            Some(mode) => Poll::Ready(mode),
            None => {
                wishes.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// What is wanted now.
    pub(crate) fn wishes(&self) -> Ref<'_, Wishes> {
        self.wishes.borrow()
    }

    /// What is wanted now, to be carried out.
    pub(crate) fn wishes_mut(&self) -> RefMut<'_, Wishes> {
        self.wishes.borrow_mut()
    }

    /// Makes the task have a look.
    pub(crate) fn wake(&self) {
        self.wish(|_| ());
    }

    /// The engine has forgotten it.
    fn forget(&self) {
        self.is_known.set(false);
    }

    /// While the task runs it has no waker here, and sees the change anyway.
    pub(crate) fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        let mut wishes = self.wishes_mut();
        change(&mut wishes);
        if let Some(waker) = wishes.waker.take() {
            waker.wake();
        }
    }
}

/// The connections of a worker that the engine knows, by handle. What the engine wants of one that
/// broke meanwhile is for nobody: the engine has been told so.
#[derive(Debug, Default)]
pub(crate) struct Conns(Table<handle::Conn, Rc<Conn>>);

impl Conns {
    /// Enters a connection. One that still held the slot would never end.
    pub(crate) fn enter(&mut self, handle: ConnHandle) -> Rc<Conn> {
        let conn = Rc::new(Conn::new(handle));
        if let Some(forgotten) = self.0.insert(handle, Rc::clone(&conn)) {
            forgotten.forget();
            forgotten.wish(|wishes| wishes.close = Some(CloseMode::Now));
        }
        conn
    }

    /// Appends to what a connection sends.
    pub(crate) fn write(&self, handle: ConnHandle, bytes: Bytes) {
        if let Some(conn) = self.0.get(handle) {
            conn.wish(|wishes| wishes.queue.push_back(bytes));
        }
    }

    /// Stops or resumes reading.
    pub(crate) fn set_paused(&self, handle: ConnHandle, paused: bool) {
        if let Some(conn) = self.0.get(handle) {
            conn.wish(|wishes| wishes.paused = paused);
        }
    }

    /// Ends a connection, which the engine has forgotten.
    pub(crate) fn close(&mut self, handle: ConnHandle, mode: CloseMode) {
        if let Some(conn) = self.0.remove(handle) {
            conn.forget();
            conn.wish(|wishes| wishes.close = Some(mode));
        }
    }

    /// A connection has ended by itself.
    pub(crate) fn forget(&mut self, handle: ConnHandle) {
        if let Some(conn) = self.0.remove(handle) {
            conn.forget();
        }
    }

    /// The names of all.
    #[cfg(test)]
    pub(crate) fn handles(&self) -> Vec<ConnHandle> {
        self.0.values().map(|conn| conn.handle()).collect()
    }

    /// A connection that the engine knows.
    pub(crate) fn get(&self, handle: ConnHandle) -> Option<&Rc<Conn>> {
        self.0.get(handle)
    }
}

#[cfg(test)]
mod tests {
    use balancedns_core::handle::Slab;

    use super::*;
    use crate::wakes::Wakes;

    #[test]
    fn every_wish_wakes_the_waiting_task_and_a_close_ends_it() {
        let (wakes, waker) = Wakes::new();
        let context = Context::from_waker(&waker);
        let mut slab = Slab::<handle::Conn, ()>::new(1);
        let handle = slab.insert(()).expect("room");
        let mut conns = Conns::default();
        let conn = conns.enter(handle);
        assert!(conn.poll_closed(&context).is_pending());
        conns.write(handle, Bytes::from_static(b"x"));
        assert_eq!(wakes.count(), 1);
        conns.set_paused(handle, true);
        assert_eq!(wakes.count(), 1, "nobody waits");
        assert!(conn.poll_closed(&context).is_pending());
        conns.close(handle, CloseMode::AfterWrites);
        assert_eq!(wakes.count(), 2);
        assert_eq!(conn.poll_closed(&context), Poll::Ready(CloseMode::AfterWrites));
        conns.write(handle, Bytes::from_static(b"for nobody"));
        assert_eq!(conn.wishes().queue.len(), 1);
    }

    #[test]
    fn a_connection_whose_slot_is_given_away_ends() {
        let mut slab = Slab::<handle::Conn, ()>::new(1);
        let first = slab.insert(()).expect("room");
        slab.remove(first);
        let second = slab.insert(()).expect("room");
        assert_eq!(first.index(), second.index());
        let mut conns = Conns::default();
        let (old, new) = (conns.enter(first), conns.enter(second));
        assert_eq!(old.wishes().close, Some(CloseMode::Now));
        conns.forget(first);
        conns.close(second, CloseMode::Now);
        assert_eq!(new.wishes().close, Some(CloseMode::Now), "the old handle took nothing away");
    }
}
