//! The simulator: real engines of the core in a world without sockets, threads or clocks.
//!
//! It is a third adapter beside the two daemons, and the project's main proof: a release states how
//! many simulated queries, under which faults, kept which invariants, and anyone can rerun it.
//!
//! * [`machine`] drives one engine: inputs go in as values, outputs come out as values, so that runs
//!   can be recorded, repeated and compared.
//! * [`world`] is what surrounds engines in a run: clients, servers, spoofers, an operator, a network
//!   and a clock. [`options`] are drawn from the seed, among them how often each [`fault`] strikes;
//!   [`generation`] is one configuration, [`truth`] the data of the world.
//! * [`model`] knows what clients may be told, [`invariant`] what always holds. Replies are read with
//!   hickory-proto ([`reading`]), never with the core's own code.
//! * [`run`] makes many runs, [`twin`] the same one in another way, [`shrink`] a failing one smaller;
//!   [`trace`] tells what happens in one.
//! * [`policy`] are names that say what a plugin does with them; [`plugin`] reads what a plugin's
//!   process is told.
//! * [`scenario`] plays readable files: what was found once is looked at for ever.
//! * [`fuzz`] holds the bodies of the fuzz targets.

pub mod draw;
pub mod fault;
pub mod fuzz;
pub mod generation;
pub mod invariant;
pub mod machine;
pub mod message;
pub mod model;
pub mod options;
pub mod plugin;
pub mod policy;

pub mod reading;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod trace;
pub mod truth;
pub mod twin;
pub mod world;
