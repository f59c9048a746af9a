//! What a block list costs: time to read it, resident memory while it is there, time per look-up.
//!
//! `cargo run --release -p balancedns-benches --bin lists -- FILE...`
//!
//! Each file is read as the daemon reads it, in pieces, and read anew three times on threads of their
//! own, as a refresh does, each time with the old one in place. Times are CPU time of the thread;
//! memory is `VmRSS` of this process less what it was before. Look-ups are of names in random order,
//! which stand one after the other, so that only the list is waited for: names that are listed, and
//! the same names with another first letter, and with a label more.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::thread;

use balancedns_core::policy::{Blocklist, ListReader, ListSource, NameList};
use balancedns_core::wire::Name;

const RELOADS: usize = 3;
/// Names that are looked up, and how often.
const NAMES: usize = 100_000;
const ROUNDS: usize = 10;

fn main() -> ExitCode {
    let mut files = std::env::args().skip(1).peekable();
    if files.peek().is_none() {
        eprintln!("lists: usage: lists FILE...");
        return ExitCode::FAILURE;
    }
    for path in files {
        if let Err(error) = measure(&path) {
            eprintln!("lists: {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(path: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let (before, start) = (resident()?, cpu_nanos()?);
    let mut list = read(path)?;
    let millis = (cpu_nanos()? - start) / 1_000_000;
    let grown = |now: u64| now.saturating_sub(before) / 1_024;
    writeln!(out, "{path}: {}", list.report)?;
    let (mebibytes, octets) = (grown(resident()?), list.names.octets());
    writeln!(out, "  read in {millis} ms, {mebibytes} MiB resident, {octets} octets in the table")?;
    for _ in 0..RELOADS {
        let path = path.to_owned();
        let reading = thread::spawn(move || read(&path));
        list = reading.join().map_err(|_| io::Error::other("reading panicked"))??;
    }
    writeln!(out, "  after {RELOADS} reloads {} MiB resident", grown(resident()?))?;
    let names = sample(path)?;
    for (what, change) in CHANGES {
        let asked: Vec<u8> = names.iter().flat_map(|name| flat(&change(name))).collect();
        let (nanos, found) = look_up(&list.names, &asked)?;
        writeln!(out, "  {what}: {nanos} ns, {found} of {} found", names.len())?;
    }
    Ok(())
}

/// What is asked for instead of a name of the list.
type Change = fn(&str) -> String;
const CHANGES: [(&str, Change); 3] = [
    ("listed", str::to_owned),
    ("unlisted, as many labels", |name| format!("q-{name}")),
    ("unlisted, one label more", |name| format!("www.{name}")),
];

fn read(path: &str) -> io::Result<NameList> {
    let mut file = File::open(path)?;
    let mut reader = ListReader::new(ListSource::File(path.to_owned()));
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(reader.finish()),
            octets => reader.read(&piece[..octets]),
        }
    }
}

/// Names of a file of plain names or of a hosts file, drawn at random with a fixed seed.
fn sample(path: &str) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let names: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    let mut state = 1_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        names[(state >> 33) as usize % names.len()].to_owned()
    };
    Ok(if names.is_empty() { Vec::new() } else { (0..NAMES).map(|_| draw()).collect() })
}

/// A name's length and its wire form; nothing if it is none.
fn flat(name: &str) -> Vec<u8> {
    let Ok(name) = Name::parse(name) else { return Vec::new() };
    let length = u8::try_from(name.as_wire().len()).expect("names have at most 255 octets");
    [&[length], name.as_wire()].concat()
}

/// Nanoseconds per look-up, and how many names were found in one round.
fn look_up(list: &Blocklist, asked: &[u8]) -> io::Result<(u64, usize)> {
    let (mut looked_up, mut found) = (0, 0);
    let start = cpu_nanos()?;
    for _ in 0..ROUNDS {
        let mut rest = asked;
        while let Some((&length, tail)) = rest.split_first() {
            let (name, tail) = tail.split_at(usize::from(length));
            found += usize::from(list.matches(black_box(name)).is_some());
            looked_up += 1;
            rest = tail;
        }
    }
    Ok(((cpu_nanos()? - start) / looked_up.max(1), found / ROUNDS))
}

/// CPU time of this thread.
fn cpu_nanos() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    first_number(&text)
}

/// Resident memory of this process, in KiB.
fn resident() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    first_number(line.unwrap_or_default())
}

fn first_number(text: &str) -> io::Result<u64> {
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    number.ok_or_else(|| io::Error::other("the kernel does not say"))
}
