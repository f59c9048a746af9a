//! Stream connections, as what the engine wants of each and what its task carries out.
//!
//! The worker enters wishes at any time; the task that owns the stream polls for them with
//! everything else (see [`pump`](crate::pump)). Both are on one thread.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use balancedns_core::engine::CloseMode;
use balancedns_core::handle::{self, ConnHandle, Table};
use bytes::Bytes;

/// What the worker and the task of a connection share.
#[derive(Debug)]
pub struct Conn {
    handle: ConnHandle,
    wishes: RefCell<Wishes>,
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
        Self { handle, wishes: RefCell::default() }
    }

    /// Its name between engine and worker.
    #[must_use]
    pub fn handle(&self) -> ConnHandle {
        self.handle
    }

    /// Waits until the engine wants an end, for a task that has no stream yet.
    pub async fn closed(&self) {
        poll_fn(|context| self.poll_closed(context).map(drop)).await;
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
            conn.wish(|wishes| wishes.close = Some(mode));
        }
    }

    /// A connection has ended by itself.
    pub(crate) fn forget(&mut self, handle: ConnHandle) {
        self.0.remove(handle);
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
