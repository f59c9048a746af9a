//! Processes of plugins, most of them hostile, over the real kernel.
//!
//! The test binary is three programs. The daemon starts its own executable as the launcher, so this
//! one has to be it. It is also the plugins that a shell cannot be. And it is the tests, one after
//! the other, since they look at all processes and descriptors of their own process.

mod bench;
mod cases;
mod confined;
mod hostile;

use std::process::ExitCode;

use balancedns_runtime::process::launcher;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if let Some(failure) = launcher::run_if_asked(std::env::args_os()) {
        return failure;
    }
    if let Some(code) = hostile::run_if_asked() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let cases = cases::all().into_iter().chain(confined::all());
    let trials = cases.map(|case| {
        let trial = Trial::test(case.name, move || {
            bench::without_leaks(case.body);
            Ok(())
        });
        trial.with_ignored_flag(!case.possible)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// One test.
struct Case {
    name: &'static str,
    body: fn(),
    /// Whether this kernel has what it tests.
    possible: bool,
}

impl Case {
    fn new(name: &'static str, body: fn()) -> Self {
        Self { name, body, possible: true }
    }
}
