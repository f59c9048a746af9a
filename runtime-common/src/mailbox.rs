//! Letters from any thread to one task, whatever its async runtime.
//!
//! For what is rare: commands to workers, their reports, signals. Senders never wait, so a mailbox
//! holds as much as is sent; each use says why that is little.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A mailbox that nothing was sent to yet.
#[must_use]
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Shared { letters: VecDeque::new(), senders: 1, listener: None };
    let shared = Arc::new(Mutex::new(shared));
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

/// Puts letters in.
#[derive(Debug)]
pub struct Sender<T>(Arc<Mutex<Shared<T>>>);

/// Takes letters out, in the order in which they came.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Mutex<Shared<T>>>);

#[derive(Debug)]
struct Shared<T> {
    letters: VecDeque<T>,
    senders: usize,
    listener: Option<Waker>,
}

impl<T> Sender<T> {
    /// Sends. Where the receiver has gone, nobody will read it.
    pub fn send(&self, letter: T) {
        let mut shared = lock(&self.0);
        shared.letters.push_back(letter);
        wake(shared);
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.senders -= 1;
        if shared.senders == 0 {
            wake(shared);
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for the next letter. None once all senders have gone and everything was taken.
    pub async fn receive(&mut self) -> Option<T> {
        poll_fn(|context| self.poll_receive(context)).await
    }

    fn poll_receive(&mut self, context: &Context<'_>) -> Poll<Option<T>> {
        let mut shared = lock(&self.0);
        if let Some(letter) = shared.letters.pop_front() {
            return Poll::Ready(Some(letter));
        }
        if shared.senders == 0 {
            return Poll::Ready(None);
        }
        shared.listener = Some(context.waker().clone());
        Poll::Pending
    }
}

fn lock<T>(shared: &Mutex<Shared<T>>) -> MutexGuard<'_, Shared<T>> {
    // Nothing is left half-changed under this lock, whatever the thread died of.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes after letting go of the lock: the receiver may run at once, on another thread.
fn wake<T>(mut shared: MutexGuard<'_, Shared<T>>) {
    let listener = shared.listener.take();
    drop(shared);
    if let Some(waker) = listener {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::wakes::Wakes;

    #[test]
    fn letters_come_in_order_and_the_end_after_the_last_sender() {
        let (wakes, waker) = Wakes::new();
        let context = Context::from_waker(&waker);
        let (sender, mut receiver) = mailbox();
        assert!(receiver.poll_receive(&context).is_pending());
        sender.send(1);
        assert_eq!(wakes.count(), 1);
        let second = sender.clone();
        second.send(2);
        drop(sender);
        assert_eq!(wakes.count(), 1, "nobody waits");
        assert_eq!(receiver.poll_receive(&context), Poll::Ready(Some(1)));
        assert_eq!(receiver.poll_receive(&context), Poll::Ready(Some(2)));
        assert!(receiver.poll_receive(&context).is_pending());
        drop(second);
        assert_eq!(wakes.count(), 2, "the end is an event too");
        assert_eq!(receiver.poll_receive(&context), Poll::Ready(None));
    }

    #[test]
    fn a_sender_on_another_thread_may_outlive_the_receiver() {
        let (sender, receiver) = mailbox();
        drop(receiver);
        thread::spawn(move || sender.send(1)).join().expect("does not mind");
    }
}
