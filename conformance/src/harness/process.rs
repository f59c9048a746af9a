//! An upstream server in a process of its own, for what cannot be done to a thread: stopping it.
//!
//! The process is the runner itself, started with [`SERVE_UPSTREAM`]. It says its address on
//! standard output and ends with its standard input, so that it does not outlive the runner.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Upstream, signal};

/// The argument that makes the runner an upstream server.
pub(crate) const SERVE_UPSTREAM: &str = "--serve-upstream";

/// Serves until standard input ends: the same address for every name.
pub(crate) fn serve_upstream() -> ExitCode {
    let upstream = Upstream::answering("192.0.2.1");
    let mut stdout = io::stdout();
    if writeln!(stdout, "{}", upstream.addr()).and_then(|()| stdout.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    match io::stdin().read_to_end(&mut Vec::new()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A server that can be stopped; it is killed when dropped.
#[derive(Debug)]
pub(crate) struct UpstreamProcess {
    child: Child,
    addr: SocketAddr,
}

impl UpstreamProcess {
    pub(crate) fn start() -> Self {
        let runner = std::env::current_exe().expect("the runner knows its own path");
        let mut child = Command::new(runner)
            .arg(SERVE_UPSTREAM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the runner runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says its address");
        let addr = line.trim().parse().expect("an address");
        Self { child, addr }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on it keeps its port and does nothing.
    pub(crate) fn stop(&self) {
        signal(self.child.id(), "STOP");
    }
}

impl Drop for UpstreamProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whoever has this among the arguments of its command line.
pub(crate) fn processes_with(argument: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("Linux has it");
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let has_it = |id: &u32| {
        // Whoever is gone by now has none; neither has one that has ended and is not waited for yet.
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|octet| *octet == 0).any(|one| one == argument.as_bytes())
    };
    ids.filter(has_it).collect()
}

/// An argument that no other process of this machine has: a number of seconds for `sleep`, above an
/// hour, so that nobody sees the end of it.
pub(crate) fn unique_argument() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}.{number:04}", 100_000 + u64::from(std::process::id()))
}
