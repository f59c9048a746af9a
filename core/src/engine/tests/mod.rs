//! The engine without a socket and without a clock.

mod audit;
mod chain;
mod client_edns;
mod client_subnet;
mod discovery;
mod exchanges;
mod forwarding;
mod harness;
mod health;
mod host_names;
mod hostile;
mod leads;
mod letter_case;
mod lifecycle;
mod limits;
mod policy;
mod processes;
mod proxied;
mod random;
mod replies;
mod special;
mod streams;
mod upstream_edns;
