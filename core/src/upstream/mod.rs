//! Upstreams: which one serves a name, and what a worker keeps open towards each.
//!
//! Owns the zone routes, the pool of UDP sockets and its ids, connection back-off. Does not decide
//! when to try which: that is the engine's.

mod ids;
mod routes;
mod socket;
mod state;

pub(crate) use ids::{IdTable, Owner};
pub use routes::Routes;
pub(crate) use socket::UpstreamSocket;
pub(crate) use state::UpstreamState;
