//! Log lines on standard error, in plain text and without colours.
//!
//! Lines go through a bounded queue to a thread of their own: a reader that stalls, or a disk that
//! is full, costs log lines and never an answer.

use std::io::{self, Write};

use balancedns_core::config::Level;
use balancedns_core::engine::Event;
use balancedns_core::limits::LOG_LINES;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;

/// Keeps logging going. When it is dropped, what waits is written, within a second.
#[derive(Debug)]
pub struct Logging {
    _writer: WorkerGuard,
}

/// Starts logging at a level and above. The first call of a process counts.
#[must_use]
pub fn start(level: Level) -> Logging {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES)
        .thread_name("log")
        .finish(io::stderr());
    let lines = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(false)
        .with_max_level(filter)
        .with_target(false)
        .log_internal_errors(false);
    // It fails if there is a subscriber already, which then stays.
    let _already_started = lines.try_init();
    Logging { _writer: guard }
}

/// A plain line for the operator, on standard error. Nothing happens if it cannot be written.
pub fn plain(line: &str) {
    let _unwritable = writeln!(io::stderr(), "{line}");
}

/// Logs what an engine reported, under the event's stable name.
pub fn event(worker: usize, event: &Event) {
    let name = event.name();
    match event.level() {
        Level::Error => tracing::error!(event = name, worker, "{event}"),
        Level::Warn => tracing::warn!(event = name, worker, "{event}"),
        Level::Info => tracing::info!(event = name, worker, "{event}"),
        Level::Debug => tracing::debug!(event = name, worker, "{event}"),
        Level::Trace => tracing::trace!(event = name, worker, "{event}"),
    }
}
