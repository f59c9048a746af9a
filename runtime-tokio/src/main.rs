//! The daemon `balancedns`: BalanceDNS on tokio.
//!
//! A thin shell: sockets, timers and signals of tokio on one side, the engine of `balancedns-core`
//! on the other. What is not about the async runtime is in `balancedns-runtime`.

mod admin;
mod control;
mod datagram;
mod stream;
mod worker;

use std::process::ExitCode;

use balancedns_runtime::cli::Options;
use balancedns_runtime::startup::Prepared;
use balancedns_runtime::{logging, workers};

const DAEMON: &str = "balancedns";

fn main() -> ExitCode {
    let options = Options::parse(DAEMON, std::env::args_os()).unwrap_or_else(|error| error.exit());
    workers::install_panic_log();
    match Prepared::new(&options).and_then(control::run) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(errors) => {
            for error in errors {
                logging::plain(&format!("{DAEMON}: {error}"));
            }
            ExitCode::FAILURE
        }
    }
}
