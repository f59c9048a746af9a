//! Black-box conformance cases: a real daemon on real sockets, between scripted upstream servers
//! and plain clients. They know its binary, its configuration file and the RFCs, and nothing of its
//! code.
//!
//! A daemon's package runs all of them by a test without harness of one line:
//!
//! ```text
//! fn main() -> std::process::ExitCode {
//!     balancedns_conformance::main(env!("CARGO_BIN_EXE_balancedns"))
//! }
//! ```
//!
//! `case` says what a case is, `cases` holds them by kind of behaviour, `harness` is what they stand
//! on, `report` is the table of them in `docs/conformance.md`. `docs/testing.md` says how to run
//! them.

#[macro_use]
mod case;
mod cases;
mod harness;
mod report;

use std::any::Any;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};
use std::thread;

use libtest_mimic::{Arguments, Failed, Trial};

use case::{Case, World};
use harness::Via;

/// Cases that run at once for each core: most of them wait for timers most of the time.
const CASES_PER_CORE: usize = 3;

/// Runs the cases against the daemon whose binary is at this path, as the command line says: that
/// of libtest, and `--list-behaviours`.
pub fn main(daemon: &'static str) -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--list-behaviours") => return list_behaviours(),
        Some(harness::SERVE_UPSTREAM) => return harness::serve_upstream(),
        Some(_) | None => {}
    }
    let mut arguments = Arguments::from_args();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores * CASES_PER_CORE);
    // A runner that starts each case by itself would be told each time.
    if !arguments.list && !arguments.exact {
        eprintln!("\n{}", report::summary());
    }
    let trials = cases::all().flat_map(|case| trials(case, daemon)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn list_behaviours() -> ExitCode {
    let text = format!("{}\n\n{}", report::summary(), report::table());
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One run of the case for each transport of its clients.
fn trials(case: &'static Case, daemon: &'static str) -> impl Iterator<Item = Trial> {
    case.clients.runs().iter().map(move |transport| {
        let name = case.run_name(*transport);
        let thread_name = name.clone();
        let world = World { daemon, transport: *transport };
        Trial::test(name, move || run(case, thread_name, world))
            .with_ignored_flag(case.pending.is_some())
    })
}

/// Held by a case that has to run alone, shared by all others.
static QUIET: RwLock<()> = RwLock::new(());

/// Runs in a thread of the case's name, so that what it says when it panics can be told apart.
fn run(case: &'static Case, name: String, world: World) -> Result<(), Failed> {
    let body = move || {
        // Nothing is behind the lock that a panic could leave half done.
        if case.alone {
            let _alone = QUIET.write().unwrap_or_else(PoisonError::into_inner);
            (case.body)(&world);
        } else {
            let _beside_others = QUIET.read().unwrap_or_else(PoisonError::into_inner);
            (case.body)(&world);
        }
    };
    thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|error| Failed::from(format!("no thread for the case: {error}")))?
        .join()
        .map_err(|panic| Failed::from(panic_text(&*panic)))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

impl Case {
    /// The name under which the case runs by this transport.
    fn run_name(&self, transport: Option<Via>) -> String {
        let prefix = match transport {
            Some(Via::Udp) => "udp::",
            Some(Via::Tcp) => "tcp::",
            Some(Via::Dot) => "dot::",
            Some(Via::Get) => "get::",
            Some(Via::Post) => "post::",
            None => "",
        };
        format!("{prefix}{}", self.full_name())
    }
}
