//! Replays the committed corpora and regressions of all fuzz targets over their bodies, on stable.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use balancedns_sim::fuzz::{TARGETS, Target};

/// Bounds of what is committed per target: files and octets.
const FILES_MAX: usize = 150;
const OCTETS_MAX: u64 = 300 * 1_024;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// The entries of a folder in order; none if it does not exist.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut all: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
    all.sort();
    all
}

/// Runs a target over the files of its folders.
fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("it is a target");
    let corpus = entries(&fuzz_folder().join("corpus").join(name));
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let regressions = entries(&fuzz_folder().join("regressions").join(name));
    let failed: Vec<&PathBuf> =
        corpus.iter().chain(&regressions).filter(|path| !passes(*target, path)).collect();
    assert!(failed.is_empty(), "{name} fails over {failed:#?}");
}

fn passes(target: Target, path: &Path) -> bool {
    let data = fs::read(path).expect("an input can be read");
    catch_unwind(AssertUnwindSafe(|| (target.run)(&data))).is_ok()
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = BTreeSet::from([$(stringify!($name)),*]);
            assert_eq!(replayed, TARGETS.iter().map(|target| target.name).collect());
        }
    };
}

replays! {
    config edns engine framing hosts lists local_records name proxy query response round_trip
    verdict
}

#[test]
fn every_target_has_a_wrapper_and_nothing_else_has_a_folder() {
    let targets: BTreeSet<&OsStr> = TARGETS.iter().map(|target| OsStr::new(target.name)).collect();
    let wrappers = entries(&fuzz_folder().join("fuzz_targets"));
    assert_eq!(
        wrappers.iter().filter_map(|path| path.file_stem()).collect::<BTreeSet<_>>(),
        targets
    );
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).expect("it is there");
    for target in TARGETS {
        let name = target.name;
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not built");
        let wrapper = fuzz_folder().join("fuzz_targets").join(format!("{name}.rs"));
        let wrapper = fs::read_to_string(wrapper).expect("it is there");
        assert!(wrapper.contains(&format!("fuzz::{name}(data)")), "{name} runs something else");
    }
    for folder in ["corpus", "regressions"] {
        for path in entries(&fuzz_folder().join(folder)) {
            assert!(path.file_name().is_some_and(|name| targets.contains(name)), "{path:?}");
        }
    }
}

#[test]
fn corpora_stay_small() {
    for target in TARGETS {
        let files = entries(&fuzz_folder().join("corpus").join(target.name));
        let octets: u64 =
            files.iter().map(|path| fs::metadata(path).expect("it is there").len()).sum();
        assert!(files.len() <= FILES_MAX, "{}: {} files", target.name, files.len());
        assert!(octets <= OCTETS_MAX, "{}: {octets} octets", target.name);
    }
}
