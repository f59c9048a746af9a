//! The simulator: real engines of the core in a world without sockets, threads or clocks.
//!
//! [`machine`] drives one engine: inputs go in as values, outputs come out as values. [`scenario`]
//! plays readable files on it; [`fuzz`] holds the bodies of the fuzz targets.

pub mod fuzz;
pub mod machine;
pub mod scenario;
