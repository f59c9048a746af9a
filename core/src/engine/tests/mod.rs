//! The engine without a socket and without a clock.

mod forwarding;
mod harness;
mod hostile;
mod lifecycle;
mod special;
mod streams;
