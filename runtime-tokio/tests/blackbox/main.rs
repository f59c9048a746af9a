//! Black-box tests: the real daemon on real sockets, between scripted upstream servers and plain
//! clients. They know its binary, its configuration file and the RFCs, and nothing of its code.
//!
//! One module per kind of behaviour; [`harness`] is what they stand on. `docs/testing.md` says how
//! to run them and what they show.

mod admin;
mod caching;
mod edns;
mod failover;
mod forwarding;
mod harness;
mod local;
mod malformed;
mod process;
mod routing;
mod sockets;
mod spoofing;
mod stream_clients;
mod stream_limits;
mod stream_upstreams;
mod truncation;
