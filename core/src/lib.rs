//! The brain of BalanceDNS: a forwarding DNS resolver as a pure state machine.
#![forbid(unsafe_code)]

pub mod batch;
pub mod cache;
pub mod config;
mod conn;
pub mod engine;
pub mod handle;
pub mod hash;
pub mod limits;
pub mod metrics;
pub mod policy;
pub mod rng;
pub mod time;
pub mod timers;
pub mod upstream;
pub mod wire;
