//! The daemon as the launcher of a plugin: `exec-plugin MODE PARENT -- PATH ARGUMENTS`.
//!
//! The daemon has many threads, and between fork and exec such a process may do almost nothing. So it
//! starts its own executable, which has one thread, gives up there what a plugin does not need, and
//! becomes the plugin. Standard input and output are the pipes to the daemon, the process leads a
//! group of its own, and the environment is empty: the daemon has seen to that.

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use balancedns_core::policy::ExecMode;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, close, getppid};

use super::confinement;
use crate::logging;

/// The first argument of a daemon that is to become a plugin.
pub(super) const SUBCOMMAND: &str = "exec-plugin";
/// Exit code: the launcher itself has failed.
const FAILED: u8 = 125;
/// Exit code: the file is there, and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit code: the file, or the interpreter that it names, is not there.
const NOT_FOUND: u8 = 127;

/// Becomes a plugin, if the arguments of this process say so; it returns only if that fails. Has to
/// run before anything that starts a thread or opens a file.
pub fn run_if_asked(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != SUBCOMMAND {
        return None;
    }
    let failure = match Order::parse(arguments) {
        Some(order) => order.carry_out(),
        None => Failure { code: FAILED, text: "is run by the daemon itself".to_owned() },
    };
    logging::plain(&format!("{SUBCOMMAND}: {}", failure.text));
    Some(ExitCode::from(failure.code))
}

/// The name of a mode in the launcher's arguments.
pub(super) fn mode_name(mode: ExecMode) -> &'static str {
    match mode {
        ExecMode::Once => "once",
        ExecMode::Worker => "worker",
    }
}

/// What the launcher is to do.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    mode: ExecMode,
    parent: Pid,
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Why there is no plugin.
struct Failure {
    code: u8,
    text: String,
}

impl Order {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let mode = arguments.next()?;
        let mode =
            [ExecMode::Once, ExecMode::Worker].into_iter().find(|m| mode_name(*m) == mode)?;
        let parent = Pid::from_raw(arguments.next()?.to_str()?.parse().ok()?);
        let separator = arguments.next()?;
        let path = arguments.next()?;
        if separator != "--" {
            return None;
        }
        Some(Self { mode, parent, path: path.into(), arguments: arguments.collect() })
    }

    fn carry_out(&self) -> Failure {
        let failed = |text| Failure { code: FAILED, text };
        if let Err(error) = leave_open_nothing_but_standard_io() {
            return failed(format!("cannot close descriptors: {error}"));
        }
        if let Err(error) = die_with(self.parent) {
            return failed(error.to_string());
        }
        if let Err(error) = confinement::enter(self.mode, self.parent) {
            return failed(error.to_string());
        }
        let path = with_folder(&self.path);
        let error = Command::new(&path).args(&self.arguments).env_clear().exec();
        let missing = error.kind() == io::ErrorKind::NotFound;
        Failure {
            code: if missing { NOT_FOUND } else { NOT_EXECUTABLE },
            text: format!("cannot execute {}: {error}", path.display()),
        }
    }
}

/// Whatever else is open was left so by who started the daemon, or by a library.
fn leave_open_nothing_but_standard_io() -> io::Result<()> {
    let descriptors: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in descriptors.into_iter().filter(|descriptor| *descriptor > 2) {
        // One of them was the folder's, and is closed already.
        let _closed = close(descriptor);
    }
    Ok(())
}

/// Makes the kernel kill this process when the daemon ends, however that comes about.
fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(io::Error::other("the daemon has gone meanwhile"));
    }
    Ok(())
}

/// A path that is not looked for in other folders.
fn with_folder(path: &Path) -> PathBuf {
    if path.components().count() == 1 { Path::new(".").join(path) } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> impl Iterator<Item = OsString> {
        line.split(' ').map(OsString::from).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn an_order_has_mode_parent_path_and_arguments() {
        let order = Order::parse(arguments("worker 12 -- /bin/policy -- a")).expect("valid");
        let expected = Order {
            mode: ExecMode::Worker,
            parent: Pid::from_raw(12),
            path: "/bin/policy".into(),
            arguments: arguments("-- a").collect(),
        };
        assert_eq!(order, expected);
        for line in
            ["", "once", "once 12", "once 12 --", "once x -- /a", "often 12 -- /a", "once 12 /a b"]
        {
            assert_eq!(Order::parse(arguments(line)), None, "{line}");
        }
    }

    #[test]
    fn other_command_lines_are_not_meant() {
        for line in ["balancedns", "balancedns -config exec-plugin", "balancedns x exec-plugin"] {
            assert_eq!(run_if_asked(arguments(line)), None, "{line}");
        }
    }

    #[test]
    fn a_bare_name_is_a_file_of_this_folder() {
        for (path, expected) in
            [("policy", "./policy"), ("a/b", "a/b"), ("/a", "/a"), ("./a", "./a")]
        {
            assert_eq!(with_folder(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
