//! `balancedns-sim`: the simulator's command line.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use balancedns_sim::options::Options;
use balancedns_sim::run::{Failure, Report, run, run_all};
use balancedns_sim::scenario::Scenario;
use balancedns_sim::shrink::shrink;
use clap::{Args, Parser, Subcommand};

/// Prints a line. A reader that has gone is no reason to panic.
macro_rules! say {
    ($($part:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($part)*);
    }};
}

/// Seeds of one stretch of a long run.
const STRETCH: u64 = 10_000;

/// Runs the core of BalanceDNS in a simulated world and checks what always has to hold.
#[derive(Parser)]
#[command(name = "balancedns-sim", version)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    one: Option<One>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes one run for each of many seeds
    Run {
        /// How many seeds
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        #[command(flatten)]
        how: How,
    },
    /// Makes runs for as long as it is told to, from a seed on
    Long {
        /// How long
        #[arg(long)]
        minutes: u64,
        #[command(flatten)]
        how: How,
    },
    /// Makes a failing run smaller, as long as it breaks the same invariant
    Shrink(One),
    /// Plays scenario files
    Scenario {
        /// The files
        #[arg(required = true)]
        files: Vec<std::path::PathBuf>,
    },
}

/// How many runs are made.
#[derive(Args)]
struct How {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Queries of clients in each run, before everything heals
    #[arg(long, default_value_t = 5_000)]
    queries: u64,
    /// Threads; a run has one for itself
    #[arg(long)]
    threads: Option<usize>,
}

/// One run; with its trace when it is made by itself.
#[derive(Args, Clone)]
struct One {
    /// The seed that everything follows from
    #[arg(long)]
    seed: u64,
    /// Queries of clients before everything heals
    #[arg(long, default_value_t = 5_000)]
    queries: u64,
    /// An option or the rate of a fault in a thousand, as name=number
    #[arg(long = "set", value_parser = setting)]
    settings: Vec<(String, u64)>,
}

impl One {
    fn options(&self) -> Result<Options, String> {
        let mut options = Options::draw(self.seed, self.queries);
        for (name, value) in &self.settings {
            options.set(name, *value).map_err(|error| error.to_string())?;
        }
        Ok(options)
    }
}

fn setting(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("expected name=number")?;
    let value = value.parse().map_err(|_| format!("{value} is no whole number"))?;
    Ok((name.to_owned(), value))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match (cli.command, cli.one) {
        (Some(Command::Run { seeds, how }), _) => {
            many(how.first..how.first.saturating_add(seeds), &how, None)
        }
        (Some(Command::Long { minutes, how }), _) => {
            many(how.first..u64::MAX, &how, Some(Duration::from_secs(60 * minutes)))
        }
        (Some(Command::Shrink(one)), _) => with_options(&one, smaller),
        (Some(Command::Scenario { files }), _) => scenarios(&files),
        (None, Some(one)) => with_options(&one, traced),
        (None, None) => {
            say!("nothing to do: --help tells what there is");
            ExitCode::from(2)
        }
    }
}

fn with_options(one: &One, then: impl Fn(Options) -> ExitCode) -> ExitCode {
    match one.options() {
        Ok(options) => then(options),
        Err(error) => {
            say!("{error}");
            ExitCode::from(2)
        }
    }
}

fn many(seeds: std::ops::Range<u64>, how: &How, time: Option<Duration>) -> ExitCode {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = how.threads.unwrap_or_else(cores).max(1);
    let start = Instant::now();
    let go_on = || time.is_none_or(|time| start.elapsed() < time);
    let mut report = Report::default();
    let mut first = seeds.start;
    let mut failure = None;
    while first < seeds.end && go_on() && failure.is_none() {
        let stretch = first..seeds.end.min(first.saturating_add(STRETCH));
        first = stretch.end;
        let (more, failed) = run_all(stretch, how.queries, threads, go_on);
        report.merge(&more);
        failure = failed;
    }
    let took = start.elapsed();
    say!("{report}");
    let per_core = report.queries as f64 / took.as_secs_f64() / threads as f64;
    say!(
        "{:.1} s on {threads} threads: {per_core:.0} queries a second and thread",
        took.as_secs_f64()
    );
    verdict(failure.as_ref())
}

fn verdict(failure: Option<&Failure>) -> ExitCode {
    match failure {
        None => {
            say!("nothing was broken");
            ExitCode::SUCCESS
        }
        Some(failure) => {
            say!("\n{}", failure.options.to_string().trim_end());
            say!("BROKEN  {failure}");
            say!("again:  {}", failure.reproduction());
            ExitCode::FAILURE
        }
    }
}

fn traced(options: Options) -> ExitCode {
    say!("{options}");
    match run(&options, Some(Box::new(|line| say!("{line}")))) {
        Ok(outcome) => {
            say!(
                "{} queries, {} replies, {} inputs in {:?} of virtual time; hash {:016x}",
                outcome.queries,
                outcome.replies,
                outcome.steps,
                outcome.took,
                outcome.hash
            );
            verdict(None)
        }
        Err(failure) => verdict(Some(&failure)),
    }
}

fn smaller(options: Options) -> ExitCode {
    match run(&options, None) {
        Ok(_) => {
            say!("this run breaks nothing");
            ExitCode::from(2)
        }
        Err(failure) => {
            say!("{failure}");
            let smallest = shrink(failure, |step| say!("  {}", step.options.arguments()));
            verdict(Some(&smallest))
        }
    }
}

fn scenarios(files: &[std::path::PathBuf]) -> ExitCode {
    let mut failed = 0;
    for file in files {
        let name = file.display().to_string();
        let played = std::fs::read_to_string(file)
            .map_err(|error| format!("{name}: {error}"))
            .and_then(|text| Scenario::parse(&name, &text).map_err(|error| error.to_string()))
            .and_then(|scenario| scenario.run().map_err(|error| error.to_string()));
        match played {
            Ok(()) => say!("PASS  {name}"),
            Err(error) => {
                failed += 1;
                say!("FAIL  {error}");
            }
        }
    }
    say!("{} scenarios, {failed} failed", files.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
