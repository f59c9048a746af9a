//! Some seeds, quickly: what the command line does with thousands (docs/simulation.md).

use balancedns_sim::fault::Fault;
use balancedns_sim::invariant::Invariant;
use balancedns_sim::run::{TWICE_EVERY, run_all};

/// Runs of this test, and queries of clients in each.
const SEEDS: u64 = 200;
const QUERIES: u64 = 1_000;

#[test]
fn nothing_breaks_and_everything_is_looked_at() {
    let (report, failure) = run_all(1..1 + SEEDS, QUERIES, 2, || true);
    if let Some(failure) = failure {
        panic!("{}{failure}\nagain: {}", failure.options, failure.reproduction());
    }
    assert_eq!(report.runs, SEEDS);
    assert_eq!(report.checked(Invariant::S21), SEEDS / TWICE_EVERY);
    for invariant in Invariant::ALL {
        assert!(report.checked(*invariant) > 0, "{} was never checked", invariant.name());
    }
    for fault in Fault::ALL {
        assert!(report.fired(*fault) > 0, "{} never happened", fault.name());
    }
    assert!(report.faulty_runs * 2 > report.runs, "half of the runs have three faults");
    assert!(report.misses * 5 > report.hits + report.misses, "a fifth of the look-ups are misses");
}
