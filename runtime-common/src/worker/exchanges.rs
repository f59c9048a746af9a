//! HTTP exchanges between the tasks of their connections and the engine.

use std::rc::Rc;

use balancedns_core::engine::IoFailure;
use balancedns_core::handle::ExchangeHandle;
use bytes::Bytes;
use http::{Response, request};

use super::{Adapter, Worker};
use crate::conn::Conn;
use crate::http::Answer;

impl<A: Adapter> Worker<A> {
    /// The head of a client's request has come: the exchange's name, and where its answer will be.
    /// None if it is refused.
    pub(crate) fn open_exchange(
        self: &Rc<Self>,
        conn: &Conn,
        head: &request::Parts,
    ) -> Option<(ExchangeHandle, Rc<Answer>)> {
        if !conn.is_known() {
            return None;
        }
        let state = &mut *self.state.borrow_mut();
        let opened = state.engine.handle_exchange_opened(self.clock.now(), conn.handle(), head);
        // Entered first: it may be answered already.
        let opened = opened.ok().map(|handle| (handle, state.exchanges.enter_client(handle)));
        self.settle(state);
        opened
    }

    /// Octets of a request's body have come.
    pub(crate) fn exchange_body(self: &Rc<Self>, handle: ExchangeHandle, octets: &[u8], end: bool) {
        self.input(|engine, now| engine.handle_exchange_body(now, handle, octets, end));
    }

    /// A client's exchange is over: its response was taken, or nobody wants one any more.
    pub(crate) fn end_exchange(self: &Rc<Self>, conn: &Conn, handle: ExchangeHandle, sent: bool) {
        // After a defect the engine may be half-changed, and borrowed on the way out of it.
        if self.tasks.has_panicked() || std::thread::panicking() {
            return;
        }
        let state = &mut *self.state.borrow_mut();
        state.exchanges.forget_client(handle);
        if !conn.is_known() || state.stopped {
            return;
        }
        let now = self.clock.now();
        if sent {
            state.engine.handle_exchange_sent(now, handle);
        } else {
            state.engine.handle_exchange_reset(now, handle);
        }
        self.settle(state);
    }

    /// An upstream has answered.
    pub(crate) fn exchange_answered(
        self: &Rc<Self>,
        conn: &Conn,
        handle: ExchangeHandle,
        response: &Response<Bytes>,
    ) {
        if self.is_awaited(conn, handle) {
            self.input(|engine, now| engine.handle_exchange_answered(now, handle, response));
        }
    }

    /// An upstream will not answer.
    pub(crate) fn exchange_failed(
        self: &Rc<Self>,
        conn: &Conn,
        handle: ExchangeHandle,
        why: IoFailure,
    ) {
        if self.is_awaited(conn, handle) {
            self.input(|engine, now| engine.handle_exchange_failed(now, handle, why));
        }
    }

    /// Whether the engine waits for an exchange with an upstream, which has ended.
    fn is_awaited(&self, conn: &Conn, handle: ExchangeHandle) -> bool {
        self.state.borrow_mut().exchanges.end_upstream(handle) && conn.is_known()
    }
}
