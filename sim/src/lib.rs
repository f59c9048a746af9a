//! The simulator: real engines of the core in a world without sockets, threads or clocks.
//!
//! It is a third adapter beside the two daemons. [`machine`] drives one engine: inputs go in as
//! values, outputs come out as values, so that runs can be recorded, repeated and compared.

pub mod machine;
