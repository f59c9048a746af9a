//! Configurations: those that load, those that must not, and scripts that fail or mean harm.

mod blacklist;
mod bounds;
mod errors;
mod later;
mod loads;
mod policies;
mod scripts;
mod support;
mod transports;
