//! Worker threads: named, their panics caught and told to whoever watches over them.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

thread_local! {
    /// What the last panic of this thread said and where it was.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How a worker's thread ended: as asked, or with what went wrong.
pub type WorkerEnd = Result<(), String>;

/// Makes panics log lines rather than backtraces on a bare stderr, and keeps their text for the
/// report of the worker's end.
pub fn install_panic_log() {
    std::panic::set_hook(Box::new(|panic| {
        let text = payload_text(panic.payload());
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = format!("panicked at {place}: {text}");
        tracing::error!(event = "panic", "{text}");
        LAST_PANIC.with_borrow_mut(|last| *last = Some(text));
    }));
}

/// Starts a worker's thread. `report` is called on it, as the last thing.
///
/// # Errors
/// The process is out of threads or memory.
pub fn spawn(
    worker: usize,
    body: impl FnOnce() -> WorkerEnd + Send + 'static,
    report: impl FnOnce(WorkerEnd) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(format!("worker-{worker}")).spawn(move || {
        // What the body owned is gone after a panic, so nothing half-changed can be seen. What it
        // shares with other workers guards itself by poisoning.
        let end = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
            let kept = LAST_PANIC.with_borrow_mut(Option::take);
            Err(kept.unwrap_or_else(|| format!("panicked: {}", payload_text(payload.as_ref()))))
        });
        report(end);
    })
}

/// What the last panic of this thread said, once; for panics that an async runtime caught.
#[must_use]
pub fn take_last_panic() -> Option<String> {
    LAST_PANIC.with_borrow_mut(Option::take)
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn end_of(body: impl FnOnce() -> WorkerEnd + Send + 'static) -> WorkerEnd {
        let (sender, receiver) = mpsc::channel();
        let report = move |end| sender.send(end).expect("the test listens");
        spawn(3, body, report).expect("starts").join().expect("panics are caught");
        receiver.recv().expect("reports")
    }

    #[test]
    fn a_panic_is_told_and_an_end_is_passed_on() {
        let name = || std::thread::current().name().unwrap_or_default().to_owned();
        assert_eq!(end_of(move || Err(name())), Err("worker-3".to_owned()));
        assert_eq!(end_of(|| Ok(())), Ok(()));
        let end = end_of(|| panic!("out of {}", "luck")).expect_err("panicked");
        assert!(end.contains("panicked") && end.contains("out of luck"), "{end}");
    }
}
