//! Bodies of the fuzz targets: plain functions over octets that panic when a property is broken.
//!
//! `fuzz/` wraps them for cargo-fuzz; `tests/corpora.rs` replays the committed corpora over them
//! on stable. A body owns its property and nothing else: what a message is comes from the core,
//! what it should be comes from hickory-proto (`oracle`) or from a naive model beside the body.
//! Bodies whose input is a sequence of choices take them through `arbitrary` (`draw`), so that a
//! fuzzer's mutations stay meaningful.
//!
//! A panic is a finding. It is either a mistake of the body or one of the core; both are fixed
//! where they are, and the input goes to `fuzz/regressions/`.

mod config;
mod draw;
mod edns;
mod engine;
mod framing;
mod hosts;
mod lists;
mod local_records;
mod name;
mod oracle;
mod proxy;
mod query;
mod response;
mod round_trip;
mod setup;
mod verdict;

pub use config::config;
pub use edns::edns;
pub use engine::engine;
pub use framing::framing;
pub use hosts::hosts;
pub use lists::lists;
pub use local_records::local_records;
pub use name::name;
pub use proxy::proxy;
pub use query::query;
pub use response::response;
pub use round_trip::round_trip;
pub use verdict::verdict;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its wrapper and of the folder of its corpus.
    pub name: &'static str,
    /// What it does with one input. Panics if a property is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    Target { name: "config", run: config },
    Target { name: "edns", run: edns },
    Target { name: "engine", run: engine },
    Target { name: "framing", run: framing },
    Target { name: "hosts", run: hosts },
    Target { name: "lists", run: lists },
    Target { name: "local_records", run: local_records },
    Target { name: "name", run: name },
    Target { name: "proxy", run: proxy },
    Target { name: "query", run: query },
    Target { name: "response", run: response },
    Target { name: "round_trip", run: round_trip },
    Target { name: "verdict", run: verdict },
];
