//! The processes of one worker, with a recorder in the place of the engine.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use balancedns_core::engine::ProcessExit;
use balancedns_core::handle::{self, ProcessHandle, Slab};
use balancedns_core::policy::{ExecMode, ExecSettings};
use balancedns_core::time;
use balancedns_runtime::clock::Clock;
use balancedns_runtime::datagrams::Round;
use balancedns_runtime::process::{Hears, Processes};
use bytes::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was told of one process.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What it has said.
    pub(crate) said: Vec<u8>,
    /// How it has ended.
    pub(crate) end: Option<ProcessExit>,
}

/// Records what is told of processes, in their slots.
#[derive(Debug, Default)]
struct Recorder(Vec<Told>);

impl Hears for Recorder {
    fn process_bytes(&mut self, _: time::Instant, process: ProcessHandle, octets: &[u8]) {
        let told = &mut self.0[process.index()];
        assert_eq!(told.end, None, "nothing is said after the end");
        assert!(!octets.is_empty());
        told.said.extend(octets);
    }

    fn process_exited(&mut self, _: time::Instant, process: ProcessHandle, how: ProcessExit) {
        let end = &mut self.0[process.index()].end;
        assert_eq!(*end, None, "a process ends once");
        *end = Some(how);
    }
}

/// A worker's processes, and a folder for what they run.
pub(crate) struct Bench {
    clock: Clock,
    processes: Processes,
    handles: Slab<handle::Process, ()>,
    heard: Recorder,
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            clock: Clock::start(),
            processes: Processes::new().expect("makes descriptors"),
            handles: Slab::new(64),
            heard: Recorder::default(),
            folder: tempfile::tempdir().expect("creates"),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a file.
    pub(crate) fn start(
        &mut self,
        mode: ExecMode,
        path: &Path,
        args: &[&str],
        input: &[u8],
    ) -> ProcessHandle {
        let handle = self.handles.insert(()).expect("room");
        self.heard.0.push(Told::default());
        assert_eq!(self.heard.0.len(), handle.index() + 1);
        let command = ExecSettings {
            name: "hostile".to_owned(),
            path: path.to_str().expect("a text").to_owned(),
            args: args.iter().map(ToString::to_string).collect(),
            mode,
        };
        let (now, input) = (self.clock.now(), Bytes::copy_from_slice(input));
        self.processes.start(&mut self.heard, now, handle, Arc::new(command), input);
        handle
    }

    /// Starts a shell script.
    pub(crate) fn script(&mut self, mode: ExecMode, text: &str, input: &[u8]) -> ProcessHandle {
        let path = self.folder.path().join(format!("script-{}", self.heard.0.len()));
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("sets");
        self.start(mode, &path, &[], input)
    }

    /// Starts this executable as a plugin.
    pub(crate) fn own(&mut self, mode: ExecMode, args: &[&str]) -> ProcessHandle {
        let path = std::env::current_exe().expect("is known");
        let args: Vec<&str> = ["hostile"].iter().chain(args).copied().collect();
        self.start(mode, &path, &args, b"")
    }

    pub(crate) fn feed(&mut self, process: ProcessHandle, input: &[u8]) {
        self.processes.feed(self.clock.now(), process, Bytes::copy_from_slice(input));
    }

    pub(crate) fn kill(&mut self, process: ProcessHandle) {
        self.processes.kill(process);
    }

    /// Waits until something holds of what was told of a process.
    pub(crate) fn until(&mut self, process: ProcessHandle, holds: impl Fn(&Told) -> bool) -> &Told {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.heard.0[process.index()]) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{:?}", self.heard.0[process.index()]);
            match self.processes.round(&mut self.heard, self.clock.now()).expect("polls") {
                Round::More => {}
                Round::Drained => self.wait(left),
            }
        }
        &self.heard.0[process.index()]
    }

    /// Waits as a worker does, for the one descriptor.
    fn wait(&self, most: Duration) {
        let most = PollTimeout::try_from(most).expect("short");
        let mut descriptors = [PollFd::new(self.processes.as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, most).expect("polls");
    }

    /// What a process has said by its end, and how that was.
    pub(crate) fn end(&mut self, process: ProcessHandle) -> (String, ProcessExit) {
        let told = self.until(process, |told| told.end.is_some());
        let end = told.end.expect("has ended");
        (String::from_utf8_lossy(&told.said).into_owned(), end)
    }

    /// What comes after it has said so much.
    pub(crate) fn until_said(&mut self, process: ProcessHandle, text: &str) {
        let ends = |said: &[u8]| said.windows(text.len()).any(|found| found == text.as_bytes());
        let told = self.until(process, |told| told.end.is_some() || ends(&told.said));
        assert!(ends(&told.said), "{told:?}");
    }
}

/// Runs a test, after which there are the descriptors and the processes that there were before.
pub(crate) fn without_leaks(test: fn()) {
    // What is there once and for all: the spawner's thread.
    let mut warm = Bench::new();
    let process = warm.script(ExecMode::Once, "exit 0", b"");
    assert_eq!(warm.end(process).1, ProcessExit::Code(0));
    drop(warm);
    until(|| children().is_empty(), "children are buried");
    let descriptors = descriptors();
    test();
    until(|| children().is_empty(), "no process is left");
    // The last is closed by a thread that may be about to.
    until(|| self::descriptors() == descriptors, "no descriptor is left");
}

/// Waits until something holds that nobody tells of.
fn until(holds: impl Fn() -> bool, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what}: {:?}, {} descriptors",
            children(),
            descriptors()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("is there").count()
}

/// The children of this process, dead ones included. Those whose parents have gone become ours, so
/// without any of these there are no others either.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let all = fs::read_dir("/proc").expect("is there").flatten();
    let stats = all.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    // The name in parentheses may hold anything; state and parent come after it.
    let is_ours = |stat: &String| {
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1) == Some(&own)
    };
    stats.filter(is_ours).collect()
}
