//! The control thread on smol: waits for what it is told and for the supervisor's deadlines.

use std::future::pending;
use std::io;

use balancedns_core::supervisor::Outcome;
use balancedns_core::time::Duration;
use balancedns_runtime::control::Control;
use balancedns_runtime::startup::Prepared;
use smol::future::FutureExt;

use crate::local::{self, sleep};
use crate::{admin, worker};

/// Runs the daemon until its end.
///
/// # Errors
/// The control thread itself cannot work; a line each.
pub(crate) fn run(prepared: Prepared) -> Result<Outcome, Vec<String>> {
    let failed = |error: io::Error| vec![format!("cannot start: {error}")];
    local::block_on(async {
        let control = Control::new(prepared, worker::run, admin::start).map_err(failed)?;
        Ok(serve(control).await)
    })
}

async fn serve(mut control: Control) -> Outcome {
    loop {
        if let Some(outcome) = control.proceed() {
            return outcome;
        }
        let wait = control.wait();
        control.notice().or(elapsed(wait)).await;
    }
}

async fn elapsed(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => pending().await,
    }
}
