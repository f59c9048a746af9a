//! Runs: one seed with everything that can be said of it, or many on all cores with a report.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault::Fault;
use crate::invariant::{Broken, Checks, Invariant};
use crate::options::Options;
use crate::trace::Printer;
use crate::twin::compare;
use crate::world::{Outcome, World};

/// One in so many seeds is run twice, and as its twins.
pub const TWICE_EVERY: u64 = 20;

/// A run that broke an invariant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {}: {broken}", .options.seed)]
pub struct Failure {
    /// The run.
    pub options: Box<Options>,
    /// What did not hold.
    pub broken: Broken,
}

/// Makes one run.
///
/// # Errors
/// The invariant that it broke; a panic is one too.
pub fn run(options: &Options, printer: Option<Printer>) -> Result<Outcome, Failure> {
    let make = || World::new(options.clone(), printer, None)?.run();
    let result = catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        Err(Broken::new(Invariant::S22, message.to_owned()))
    });
    match result {
        Ok((mut outcome, _)) => {
            outcome.checks.count(Invariant::S22, 1);
            Ok(outcome)
        }
        Err(broken) => Err(Failure { options: Box::new(options.clone()), broken }),
    }
}

impl Failure {
    /// The command that shows it again.
    #[must_use]
    pub fn reproduction(&self) -> String {
        format!("cargo run --release -p balancedns-sim -- {}", self.options.arguments())
    }
}

/// Makes a run twice, and as its twins.
///
/// # Errors
/// The invariant that did not hold; S21 if the second run was another one.
pub fn run_twice(options: &Options) -> Result<(Outcome, u64), Failure> {
    let first = run(options, None)?;
    let second = run(options, None)?;
    let broken = |broken| Failure { options: Box::new(options.clone()), broken };
    if first != second {
        let message = format!("hashes {:016x} and {:016x}", first.hash, second.hash);
        return Err(broken(Broken::new(Invariant::S21, message)));
    }
    let inputs = compare(options).map_err(broken)?;
    Ok((first, inputs))
}

/// What many runs showed together.
#[derive(Debug, Default)]
pub struct Report {
    /// Runs that broke nothing.
    pub runs: u64,
    /// Those of them with at least three faults.
    pub faulty_runs: u64,
    /// Queries of clients that reached an engine.
    pub queries: u64,
    /// Replies to them, and how many said SERVFAIL.
    pub replies: u64,
    /// SERVFAIL among the replies.
    pub servfails: u64,
    /// Look-ups in the cache that found something.
    pub hits: u64,
    /// Look-ups that found nothing.
    pub misses: u64,
    /// Queries sent to servers.
    pub sends: u64,
    /// Seconds of virtual time.
    pub virtual_seconds: u64,
    checks: Checks,
    fired: Vec<u64>,
}

impl Report {
    /// Adds a run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.fired.resize(Fault::ALL.len(), 0);
        self.runs += 1;
        let kinds = outcome.fired.iter().filter(|times| **times > 0).count();
        self.faulty_runs += u64::from(kinds >= 3);
        self.queries += outcome.queries;
        self.replies += outcome.replies;
        self.servfails += outcome.servfails;
        self.hits += outcome.hits_and_misses.0;
        self.misses += outcome.hits_and_misses.1;
        self.sends += outcome.sends;
        self.virtual_seconds += outcome.took.as_secs();
        self.checks.add(&outcome.checks);
        for (sum, one) in self.fired.iter_mut().zip(&outcome.fired) {
            *sum += one;
        }
    }

    /// Adds another report.
    pub fn merge(&mut self, other: &Self) {
        self.fired.resize(Fault::ALL.len(), 0);
        self.runs += other.runs;
        self.faulty_runs += other.faulty_runs;
        self.queries += other.queries;
        self.replies += other.replies;
        self.servfails += other.servfails;
        self.hits += other.hits;
        self.misses += other.misses;
        self.sends += other.sends;
        self.virtual_seconds += other.virtual_seconds;
        self.checks.add(&other.checks);
        for (sum, one) in self.fired.iter_mut().zip(&other.fired) {
            *sum += one;
        }
    }

    /// Counts checks that were made on the side.
    pub fn count(&mut self, invariant: Invariant, times: u64) {
        self.checks.count(invariant, times);
    }

    /// How often an invariant was checked.
    #[must_use]
    pub fn checked(&self, invariant: Invariant) -> u64 {
        self.checks.of(invariant)
    }

    /// How often a fault happened.
    #[must_use]
    pub fn fired(&self, fault: Fault) -> u64 {
        self.fired.get(fault as usize).copied().unwrap_or(0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(f, "checked:")?;
        for invariant in Invariant::ALL {
            writeln!(
                f,
                "  {:<4}{:>14}  {}",
                invariant.name(),
                self.checks.of(*invariant),
                invariant.what()
            )?;
        }
        writeln!(f, "faults:")?;
        for fault in Fault::ALL {
            writeln!(f, "  {:<20}{:>12}  {}", fault.name(), self.fired(*fault), fault.what())?;
        }
        writeln!(
            f,
            "{} runs, {} of them ({:.0} %) with three faults or more; {} s of virtual time",
            self.runs,
            self.faulty_runs,
            share(self.faulty_runs, self.runs),
            self.virtual_seconds
        )?;
        writeln!(
            f,
            "{} queries of clients, {} replies, {:.2} % of them SERVFAIL; {} queries sent upstream",
            self.queries,
            self.replies,
            share(self.servfails, self.replies),
            self.sends
        )?;
        write!(
            f,
            "{} look-ups in the cache, {:.1} % of them misses",
            self.hits + self.misses,
            share(self.misses, self.hits + self.misses)
        )
    }
}

/// Makes the runs of many seeds on several threads; each run has one thread for itself.
///
/// One in `TWICE_EVERY` is made twice and as its twins. Gives the report of those that broke nothing,
/// and the failure with the smallest seed. `go_on` is asked before each run.
pub fn run_all(
    seeds: std::ops::Range<u64>,
    queries: u64,
    threads: usize,
    go_on: impl Fn() -> bool + Sync,
) -> (Report, Option<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let shared: Mutex<(Report, Option<Failure>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while go_on() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let options = Options::draw(seed, queries);
                    let result = if seed.is_multiple_of(TWICE_EVERY) {
                        run_twice(&options).map(|(outcome, inputs)| (outcome, Some(inputs)))
                    } else {
                        run(&options, None).map(|outcome| (outcome, None))
                    };
                    let (report, failure) = &mut *shared.lock().expect("runs catch their panics");
                    match result {
                        Ok((outcome, twins)) => {
                            report.add(&outcome);
                            if let Some(inputs) = twins {
                                report.count(Invariant::S19, inputs);
                                report.count(Invariant::S20, inputs);
                                report.count(Invariant::S21, 1);
                            }
                        }
                        Err(new) => {
                            let is_first = failure
                                .as_ref()
                                .is_none_or(|known| new.options.seed < known.options.seed);
                            if is_first {
                                *failure = Some(new);
                            }
                            return;
                        }
                    }
                }
            });
        }
    });
    shared.into_inner().expect("runs catch their panics")
}
