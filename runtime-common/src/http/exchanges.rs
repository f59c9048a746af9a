//! Exchanges between the engine and the tasks of their connections.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use balancedns_core::handle::{Exchange, ExchangeHandle, Table};
use bytes::Bytes;
use http::Response;

use crate::bell::Bell;

/// Those of a worker that wait for the engine: clients' for their answers, those with upstreams for
/// being cancelled.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    clients: Table<Exchange, Rc<Answer>>,
    upstreams: Table<Exchange, Rc<Bell>>,
}

/// Where the answer to a client's exchange is put.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    response: RefCell<Option<Box<Response<Bytes>>>>,
    waker: RefCell<Option<Waker>>,
}

impl Answer {
    /// Takes the answer once it is there.
    pub(super) fn poll_take(&self, context: &Context<'_>) -> Poll<Box<Response<Bytes>>> {
        match self.response.take() {
            Some(response) => Poll::Ready(response),
            None => {
                self.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Exchanges {
    /// A client's exchange waits for its answer.
    pub(crate) fn enter_client(&mut self, handle: ExchangeHandle) -> Rc<Answer> {
        let answer = Rc::new(Answer::default());
        self.clients.insert(handle, Rc::clone(&answer));
        answer
    }

    /// Answers a client's exchange. Where it has gone with its connection meanwhile, nobody waits.
    pub(crate) fn respond(&mut self, handle: ExchangeHandle, response: Box<Response<Bytes>>) {
        let Some(answer) = self.clients.remove(handle) else { return };
        answer.response.replace(Some(response));
        if let Some(waker) = answer.waker.take() {
            waker.wake();
        }
    }

    /// A client's exchange waits no longer.
    pub(crate) fn forget_client(&mut self, handle: ExchangeHandle) {
        self.clients.remove(handle);
    }

    /// An exchange with an upstream begins. Rings when it is cancelled.
    pub(crate) fn enter_upstream(&mut self, handle: ExchangeHandle) -> Rc<Bell> {
        let cancelled = Rc::new(Bell::default());
        if let Some(forgotten) = self.upstreams.insert(handle, Rc::clone(&cancelled)) {
            forgotten.ring();
        }
        cancelled
    }

    /// Cancels an exchange with an upstream, which the engine has forgotten.
    pub(crate) fn cancel(&mut self, handle: ExchangeHandle) {
        if let Some(cancelled) = self.upstreams.remove(handle) {
            cancelled.ring();
        }
    }

    /// An exchange with an upstream has ended. Whether the engine still knows it.
    pub(crate) fn end_upstream(&mut self, handle: ExchangeHandle) -> bool {
        self.upstreams.remove(handle).is_some()
    }
}
