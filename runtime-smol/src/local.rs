//! A thread's own executor and timers, in the shape in which the rest of the daemon uses them.
//!
//! Tasks are not `Send` and run on the thread that started them. What wakes them may be another
//! thread: async-io has one reactor for all, which whoever waits runs for everybody.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use async_io::Timer;
use balancedns_core::time::Duration;
use smol::future::FutureExt;
use smol::{LocalExecutor, Task};

thread_local! {
    /// Owned by `block_on`: tasks must not keep their own executor alive.
    static EXECUTOR: RefCell<Weak<LocalExecutor<'static>>> = const { RefCell::new(Weak::new()) };
}

/// Runs a future on this thread, together with the tasks that it spawns. Those that have not ended
/// by then are dropped.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let executor = Rc::new(LocalExecutor::new());
    EXECUTOR.set(Rc::downgrade(&executor));
    async_io::block_on(executor.run(future))
}

/// Starts a task beside the others of this thread. It is to be awaited or detached; if it panics,
/// so does who awaits it, and nobody else.
pub(crate) fn spawn_local<T: 'static>(task: impl Future<Output = T> + 'static) -> Task<T> {
    let executor = EXECUTOR.with_borrow(Weak::upgrade);
    executor.expect("tasks are started by what block_on runs").spawn(task)
}

/// Waits that long.
pub(crate) async fn sleep(time: Duration) {
    Timer::after(time).await;
}

/// Runs a future for that long at most. None if it took longer.
pub(crate) async fn timeout<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let late = async {
        sleep(time).await;
        None
    };
    async { Some(future.await) }.or(late).await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    #[test]
    fn what_a_task_owns_is_dropped_with_its_executor() {
        let kept = Rc::new(Cell::new(0));
        let in_task = Rc::clone(&kept);
        block_on(async move {
            spawn_local(async move {
                in_task.set(1);
                pending::<()>().await;
                drop(in_task);
            })
            .detach();
            smol::future::yield_now().await;
        });
        assert_eq!((kept.get(), Rc::strong_count(&kept)), (1, 1));
    }

    #[test]
    fn a_panic_of_a_task_ends_it_alone() {
        let goes_on = block_on(async {
            spawn_local(async { panic!("a defect") }).detach();
            smol::future::yield_now().await;
            true
        });
        assert!(goes_on);
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        assert_eq!(block_on(timeout(Duration::from_millis(1), pending::<()>())), None);
        assert_eq!(block_on(timeout(Duration::from_secs(60), async { 1 })), Some(1));
    }
}
