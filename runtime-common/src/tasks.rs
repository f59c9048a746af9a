//! The tasks of a worker: how many have not ended, and whether one has panicked.
//!
//! Async runtimes catch a panic of a task, each in its own way, and go on. A worker must not: its
//! engine may be half-changed. So a task carries a guard that sees the panic on its way out.

use std::cell::Cell;
use std::rc::Rc;
use std::thread;

use crate::bell::Bell;

/// What is known of a worker's tasks. Clones are the same.
#[derive(Debug, Clone)]
pub struct Tasks(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Rung when one has panicked or the last counted one has ended.
    changed: Rc<Bell>,
    counted: Cell<usize>,
    panicked: Cell<bool>,
}

impl Tasks {
    /// None yet. Rings when there is something to look at.
    #[must_use]
    pub fn new(changed: Rc<Bell>) -> Self {
        Self(Rc::new(Inner { changed, counted: Cell::new(0), panicked: Cell::new(false) }))
    }

    /// The task, watched for a panic.
    pub fn watched<F>(&self, task: F) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = ()>,
    {
        // In a box: each async block around a future holds it twice.
        let (guard, task) = (Watched(Rc::clone(&self.0)), Box::pin(task));
        async move {
            let _guard = guard;
            task.await;
        }
    }

    /// The task, watched, and counted from now until its end.
    pub fn counted<F>(&self, task: F) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = ()>,
    {
        self.0.counted.set(self.0.counted.get() + 1);
        let (counted, watched) = (Counted(Rc::clone(&self.0)), Watched(Rc::clone(&self.0)));
        let task = Box::pin(task);
        async move {
            let _guards = (watched, counted);
            task.await;
        }
    }

    /// Whether all counted tasks have ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.0.counted.get() == 0
    }

    /// Whether any task has panicked.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        self.0.panicked.get()
    }
}

#[derive(Debug)]
struct Watched(Rc<Inner>);

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked.set(true);
            self.0.changed.ring();
        }
    }
}

#[derive(Debug)]
struct Counted(Rc<Inner>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counted.set(self.0.counted.get() - 1);
        if self.0.counted.get() == 0 {
            self.0.changed.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll(task: impl Future<Output = ()>) -> Poll<()> {
        pin!(task).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_task_is_counted_from_its_making_to_its_end_or_being_dropped() {
        let tasks = Tasks::new(Rc::default());
        let (first, second) = (tasks.counted(ready(())), tasks.counted(pending()));
        assert!(!tasks.all_ended());
        assert!(poll(first).is_ready());
        assert!(!tasks.all_ended());
        drop(second);
        assert!(tasks.all_ended());
        assert!(!tasks.has_panicked());
    }

    #[test]
    fn a_panic_is_seen_on_its_way_out() {
        let changed = Rc::new(Bell::default());
        let tasks = Tasks::new(Rc::clone(&changed));
        for task in [true, false] {
            let defect = async { panic!("a defect") };
            let result = catch_unwind(AssertUnwindSafe(|| match task {
                true => poll(tasks.counted(defect)),
                false => poll(tasks.watched(defect)),
            }));
            result.expect_err("goes on to the runtime");
            assert!(tasks.has_panicked() && tasks.all_ended());
            assert!(poll(changed.rung()).is_ready());
        }
    }
}
