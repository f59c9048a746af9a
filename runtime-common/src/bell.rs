//! A call from one part of a thread to another: something has changed, have a look.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Rung by anybody on its thread, heard by one task. Ringing it again before it was heard changes
/// nothing; ringing it before anybody listens is not lost.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Cell<bool>,
    listener: RefCell<Option<Waker>>,
}

impl Bell {
    /// Calls.
    pub fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.listener.take() {
            waker.wake();
        }
    }

    /// Waits until it has been rung since it was last heard.
    pub async fn rung(&self) {
        poll_fn(|context| self.poll_rung(context)).await;
    }

    fn poll_rung(&self, context: &Context<'_>) -> Poll<()> {
        if self.rung.take() {
            return Poll::Ready(());
        }
        self.listener.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wakes::Wakes;

    #[test]
    fn it_is_heard_once_however_often_and_whenever_it_rang() {
        let (wakes, waker) = Wakes::new();
        let context = Context::from_waker(&waker);
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert!(bell.poll_rung(&context).is_ready());
        assert!(bell.poll_rung(&context).is_pending());
        assert_eq!(wakes.count(), 0);
        bell.ring();
        assert_eq!(wakes.count(), 1, "the listener is woken");
        assert!(bell.poll_rung(&context).is_ready());
        assert!(bell.poll_rung(&context).is_pending());
    }
}
