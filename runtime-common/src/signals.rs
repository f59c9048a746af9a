//! The signals that a daemon listens to, taken by a thread of their own.
//!
//! They are blocked in every thread and waited for in one, so that none ends the process by itself
//! and nothing runs in a signal handler. Children are not affected: `std::process` starts them with
//! nothing blocked.

use std::sync::OnceLock;
use std::thread::Builder;
use std::{io, process};

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

/// Who is told what signals ask for, once there is somebody.
static LISTENER: OnceLock<Box<dyn Fn(Wish) + Send + Sync>> = OnceLock::new();

/// Takes the signals, in this thread and in those that it starts: to be called while there is only
/// one. As long as nobody [listens](listen), a signal to stop ends the process at once: there is
/// nothing yet that could be lost.
///
/// # Errors
/// The process is out of threads or memory.
pub fn take() -> io::Result<()> {
    signals().thread_block()?;
    Builder::new().name("signals".to_owned()).spawn(|| {
        loop {
            let signal = signals().wait().expect("the set is valid, and nothing else can fail");
            let asked = WISHES.iter().find(|(known, _)| *known == signal);
            match (asked, LISTENER.get()) {
                (Some((_, wish)), Some(listener)) => listener(*wish),
                (Some((_, Wish::Stop(_))), None) => process::exit(0),
                (Some((_, Wish::Reload)) | None, _) => {}
            }
        }
    })?;
    Ok(())
}

/// Sends on what each signal asks for from now on. The kernel keeps one of each kind at most while
/// it waits, so the mailbox stays small. The first call of a process counts.
pub fn listen<T: From<Wish> + Send + 'static>(wishes: Sender<T>) {
    let _first = LISTENER.set(Box::new(move |wish| wishes.send(T::from(wish))));
}

fn signals() -> SigSet {
    WISHES.iter().map(|(signal, _)| *signal).collect()
}
