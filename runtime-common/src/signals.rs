//! The signals that a daemon listens to, taken by a thread of their own.
//!
//! They are blocked in every thread and waited for in one, so that none ends the process by itself
//! and nothing runs in a signal handler. Children are not affected: `std::process` starts them with
//! nothing blocked.

use std::io;
use std::thread::Builder;

use nix::sys::signal::{SigSet, Signal};

use crate::mailbox::Sender;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To stop, by this signal's name.
    Stop(&'static str),
    /// To take over a changed configuration.
    Reload,
}

/// Each signal, and what it asks for.
const WISHES: [(Signal, Wish); 3] = [
    (Signal::SIGINT, Wish::Stop("SIGINT")),
    (Signal::SIGTERM, Wish::Stop("SIGTERM")),
    (Signal::SIGHUP, Wish::Reload),
];

/// From now on they wait for [`watch`], in this thread and in those that it starts: to be called
/// while there is only one.
///
/// # Errors
/// None that a healthy process meets.
pub fn hold() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

/// Starts the thread that sends on what each signal asks for. The kernel keeps one of each kind at
/// most while it waits, so the mailbox stays small.
///
/// # Errors
/// The process is out of threads or memory.
pub fn watch<T: From<Wish> + Send + 'static>(wishes: Sender<T>) -> io::Result<()> {
    let watcher = move || {
        loop {
            let signal = signals().wait().expect("the set is valid, and nothing else can fail");
            let asked = WISHES.iter().find(|(known, _)| *known == signal);
            if let Some((_, wish)) = asked {
                wishes.send(T::from(*wish));
            }
        }
    };
    Builder::new().name("signals".to_owned()).spawn(watcher)?;
    Ok(())
}

fn signals() -> SigSet {
    WISHES.iter().map(|(signal, _)| *signal).collect()
}
