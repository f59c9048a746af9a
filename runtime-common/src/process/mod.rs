//! Processes of plugins, from their start in a confinement to their burial.
//!
//! Three parts. [`launcher`] is what the daemon runs as when it has started itself to become a
//! plugin: it gives up what a plugin does not need and executes it. The spawner is one thread of the
//! daemon, which starts processes and reaps them, so that no worker waits for either. [`Processes`]
//! are those of one worker: pipes and ends behind one descriptor, which the worker's own loop polls.
//! No async runtime is involved, no handler of signals, and nothing runs between fork and exec.
//!
//! A process leads a group of its own, and stays in it: the confinement forbids to leave. The group
//! is killed whole when the engine says so, when its first process ends, and when the worker does.
//! Deadlines, bounds of output and of processes, and what is made of an end are the engine's.

mod complaints;
mod confinement;
pub mod launcher;
mod running;
mod spawner;
mod syscalls;
mod table;

pub use confinement::{gaps, warn_of_gaps};
pub use spawner::kill_all;
pub use table::{Hears, Processes};
