//! Upstreams: which one serves a name, and what a worker keeps open towards each.
//!
//! Owns the zone routes, the endpoints with their sockets, ids, health and back-off, and the host
//! names that stand for endpoints. Does not decide when to try which: that is the engine's.

mod cookie;
mod endpoint;
mod health;
mod host_name;
mod ids;
mod letter_case;
mod round_trip;
mod route;
mod routes;
mod socket;

pub(crate) use cookie::{CookieSign, EndpointCookie};
pub(crate) use endpoint::Endpoint;
pub(crate) use host_name::{Family, HostName, RoundEnd};
pub(crate) use ids::{IdTable, Owner};
pub(crate) use letter_case::spell;
pub use route::{Route, Way};
pub use routes::Routes;
pub(crate) use socket::UpstreamSocket;
