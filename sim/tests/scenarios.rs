//! Runs every file of `scenarios/` as a test of its own, by the path of the file.
//!
//! `cargo test -p balancedns-sim --test scenarios NAME` runs those whose names hold NAME. Files below
//! `pending/` show what is not so yet; they are listed as ignored and run with `-- --ignored`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use balancedns_sim::scenario::Scenario;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files = Vec::new();
    if let Err(error) = find(&folder, &mut files) {
        eprintln!("{}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    files.sort();
    let trials = files.into_iter().map(|file| trial(&folder, file)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "scenario") {
            files.push(path);
        }
    }
    Ok(())
}

fn trial(folder: &Path, file: PathBuf) -> Trial {
    let relative = file.strip_prefix(folder).unwrap_or(&file).with_extension("");
    let is_pending = relative.starts_with("pending");
    let name = relative.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
    Trial::test(name.clone(), move || run(&file, &name)).with_ignored_flag(is_pending)
}

fn run(file: &Path, name: &str) -> Result<(), Failed> {
    let text = fs::read_to_string(file)?;
    let scenario = Scenario::parse(&format!("{name}.scenario"), &text)?;
    Ok(scenario.run()?)
}
