//! Plugins that a shell cannot be: what this executable does if it is started as one.

use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balancedns_core::policy::ExecMode;
use nix::unistd::{Pid, setpgid, setsid};

use crate::bench::Bench;
use crate::confined;

/// What the one that complains has to say, in octets.
pub(crate) const COMPLAINED_OCTETS: usize = 1 << 20;
/// Digits of its answers.
pub(crate) const COMPLAINED_DIGITS: usize = 8;

/// What is done with further arguments.
type Plugin = fn(&[String]) -> io::Result<()>;

/// Does what the arguments name, if they do.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [marker, name, arguments @ ..] = &arguments[..] else { return None };
    if marker != "hostile" {
        return None;
    }
    let known: [(&str, Plugin); 7] = [
        ("leave", leave),
        ("flood", flood),
        ("complain", complain),
        ("descriptors", descriptors),
        ("environment", environment),
        ("daemon", daemon),
        ("try", confined::run_all),
    ];
    let (_, body) = known.iter().find(|(known, _)| known == name)?;
    Some(body(arguments).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

fn name_of<T>(result: nix::Result<T>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |_| "done".to_owned())
}

fn leave(_: &[String]) -> io::Result<()> {
    // Not the leader of its group, which could not leave anyway: its child.
    let text = match std::env::args().nth(3) {
        Some(_) => {
            let group = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            format!("{} {}", name_of(group), name_of(setsid()))
        }
        None => {
            let own = std::env::current_exe()?;
            let output =
                std::process::Command::new(own).args(["hostile", "leave", "x"]).output()?;
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
    };
    io::stdout().write_all(text.as_bytes())
}

fn flood(_: &[String]) -> io::Result<()> {
    loop {
        io::stdout().write_all(&[b'x'; 4_096])?;
    }
}

/// Complains all the time, and says at each question how much of it somebody has taken.
fn complain(_: &[String]) -> io::Result<()> {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    std::thread::spawn(|| {
        while TAKEN.load(Ordering::SeqCst) < COMPLAINED_OCTETS
            && let Ok(octets) = io::stderr().write(&[b'x'; 4_096])
        {
            TAKEN.fetch_add(octets, Ordering::SeqCst);
        }
    });
    let mut question = [0];
    while io::stdin().read(&mut question)? == 1 {
        let taken = TAKEN.load(Ordering::SeqCst);
        io::stdout().write_all(format!("{taken:0COMPLAINED_DIGITS$}").as_bytes())?;
        io::stdout().flush()?;
    }
    Ok(())
}

fn descriptors(_: &[String]) -> io::Result<()> {
    let entries = fs::read_dir("/proc/self/fd")?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse().unwrap_or(-1)));
    let mut numbers: Vec<i32> = names.collect::<io::Result<_>>()?;
    numbers.sort_unstable();
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    io::stdout().write_all(numbers.join(" ").as_bytes())
}

fn environment(_: &[String]) -> io::Result<()> {
    let variables: Vec<_> = std::env::vars_os().collect();
    io::stdout().write_all(format!("{variables:?}").as_bytes())
}

/// A daemon with one plugin, whose number it prints, until it is killed.
fn daemon(_: &[String]) -> io::Result<()> {
    let mut bench = Bench::new();
    let process = bench.script(ExecMode::Worker, "echo $$ .; exec sleep 1000", b"");
    bench.until_said(process, ".\n");
    let said = &bench.until(process, |_| true).said;
    let number: Vec<u8> = said.iter().copied().take_while(u8::is_ascii_digit).collect();
    io::stdout().write_all(&[&number[..], b"\n"].concat())?;
    std::thread::sleep(Duration::from_secs(1_000));
    Ok(())
}
