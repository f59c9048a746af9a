//! Log lines on standard error, in plain text and without colours.

use std::io;

use balancedns_core::config::Level;
use balancedns_core::engine::Event;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging at a level and above. The first call of a process counts.
pub fn start(level: Level) {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let lines =
        tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(filter).with_target(false);
    // It fails if there is a subscriber already, which then stays.
    let _already_started = lines.try_init();
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
