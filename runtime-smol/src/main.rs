//! The daemon `balancedns-smol`: BalanceDNS on smol.
//!
//! A thin shell: sockets, timers and tasks of smol on one side, the engine of `balancedns-core` on
//! the other. What is not about the async runtime is in `balancedns-runtime`; the daemon on tokio
//! has the same files and names, and differs where the runtimes do.

mod admin;
mod control;
mod datagram;
mod local;
mod stream;
mod worker;

use std::process::ExitCode;

use balancedns_runtime::startup;

fn main() -> ExitCode {
    startup::daemon("balancedns-smol", control::run)
}
