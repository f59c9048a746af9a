//! A failing run made smaller: with fewer faults, fewer queries and a smaller world, as long as it
//! breaks the same invariant.

use crate::fault::Fault;
use crate::options::Options;
use crate::run::{Failure, run};

/// The smallest values that are tried, by option.
const LEAST: &[(&str, u64)] = &[
    ("engines", 1),
    ("clients", 1),
    ("burst", 1),
    ("servers", 1),
    ("streams", 0),
    ("dot", 0),
    ("doh", 0),
    ("proxied", 0),
    ("encrypted", 0),
    ("edns", 0),
    ("skew", 0),
    ("names", 4),
    ("tiny-cache", 0),
    ("tiny-limits", 0),
    ("tiny-patience", 0),
    ("policies", 0),
];

/// Makes a failing run smaller; tells `progress` of each step that worked.
#[must_use]
pub fn shrink(failure: Failure, mut progress: impl FnMut(&Failure)) -> Failure {
    let mut smallest = failure;
    loop {
        let before = smallest.options.clone();
        for candidate in smaller(&smallest.options) {
            if let Err(failure) = run(&candidate(&smallest.options), None)
                && failure.broken.invariant == smallest.broken.invariant
                && failure.options != smallest.options
            {
                progress(&failure);
                smallest = failure;
            }
        }
        if before == smallest.options {
            return smallest;
        }
    }
}

/// A change of the options that makes a run smaller.
type Step = Box<dyn Fn(&Options) -> Options>;

fn smaller(options: &Options) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // Coarse steps first: half of the queries, half of the faults.
    for part in [8, 2] {
        steps.push(Box::new(move |options| Options {
            queries: (options.queries / part).max(1),
            ..options.clone()
        }));
    }
    let on: Vec<Fault> = options.rates.on().collect();
    let (one, other) = on.split_at(on.len() / 2);
    for faults in [one.to_vec(), other.to_vec()].into_iter().chain(on.iter().map(|one| vec![*one]))
    {
        steps.push(Box::new(move |options| {
            let mut options = options.clone();
            faults.iter().for_each(|fault| options.rates.set(*fault, 0));
            options
        }));
    }
    for (name, least) in LEAST {
        steps.push(Box::new(move |options| {
            let mut options = options.clone();
            options.set(name, *least).expect("the table has names and values of options");
            options
        }));
    }
    steps.push(Box::new(|options| Options {
        queries: options.queries - options.queries.div_ceil(10).min(options.queries - 1),
        ..options.clone()
    }));
    steps
}
