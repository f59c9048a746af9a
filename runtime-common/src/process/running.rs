//! One process of a plugin that runs: its pipes, what it has still to be told, its end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use balancedns_core::engine::{IoFailure, ProcessExit};
use balancedns_core::limits::PROCESS_OUTPUT_OCTETS;
use balancedns_core::policy::ExecMode;
use bytes::{Buf, Bytes};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::complaints::Complaint;
use super::spawner::{Group, Spawned};
use crate::poll::{Interest, Readiness};

/// Octets that a process may leave unread before it is given up.
pub(super) const INPUT_OCTETS: usize = 1 << 20;
/// Octets of standard output that are taken after the end: more than a pipe holds by default, and
/// more than the engine wants.
const LAST_OCTETS: usize = PROCESS_OUTPUT_OCTETS + 1;
/// Octets of standard error that are read at once.
const COMPLAINT_OCTETS: usize = 4_096;

/// Which of a process's descriptors is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It has ended.
    Exit,
    /// It reads again.
    Stdin,
    /// It has said something.
    Stdout,
    /// It has complained.
    Stderr,
}

impl Part {
    const ALL: [Self; 4] = [Self::Exit, Self::Stdin, Self::Stdout, Self::Stderr];

    /// The readiness token of this part of the process in a slot.
    fn token(self, slot: usize) -> u64 {
        (slot as u64) << 2 | self as u64
    }

    /// What a readiness token stands for.
    pub(super) fn of_token(token: u64) -> (usize, Self) {
        let slot = usize::try_from(token >> 2).expect("made of one");
        (slot, Self::ALL[(token & 3) as usize])
    }
}

/// What is to be written to a process.
#[derive(Debug, Default)]
pub(super) struct Input {
    queue: VecDeque<Bytes>,
    octets: usize,
}

impl Input {
    /// Appends. False if that is more than may wait.
    pub(super) fn push(&mut self, input: Bytes) -> bool {
        self.octets += input.len();
        self.queue.push_back(input);
        self.octets <= INPUT_OCTETS
    }
}

/// A process that runs, or has ended and is not reported.
#[derive(Debug)]
pub(super) struct Running {
    slot: usize,
    mode: ExecMode,
    group: Group,
    exit: OwnedFd,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    input: Input,
    /// Room in the pipe is waited for.
    waits_to_write: bool,
    /// Standard error is watched.
    hears: bool,
    /// What it has complained of.
    pub(super) complaint: Complaint,
}

impl Running {
    /// Watches a new process.
    ///
    /// # Errors
    /// The kernel's limit of watches or memory is reached.
    pub(super) fn new(
        slot: usize,
        mode: ExecMode,
        spawned: Spawned,
        input: Input,
        readiness: &Readiness,
    ) -> io::Result<Self> {
        let Spawned { group, exit, stdin, stdout, stderr } = spawned;
        let watch = |fd: &OwnedFd, part: Part| {
            readiness.add_level(fd, Interest::Readable, part.token(slot))
        };
        watch(&exit, Part::Exit)?;
        watch(&stdout, Part::Stdout)?;
        watch(&stderr, Part::Stderr)?;
        let (stdin, stdout, stderr) = (Some(stdin), Some(stdout), Some(stderr));
        let (waits_to_write, hears, complaint) = (false, true, Complaint::new());
        let mut new = Self {
            slot,
            mode,
            group,
            exit,
            stdin,
            stdout,
            stderr,
            input,
            waits_to_write,
            hears,
            complaint,
        };
        new.write(readiness);
        Ok(new)
    }

    /// Writes more to it, or kills it if it leaves too much unread.
    pub(super) fn feed(&mut self, input: Bytes, readiness: &Readiness) {
        if !self.input.push(input) {
            return self.kill(readiness);
        }
        self.complaint.hear_more();
        if !self.hears
            && let Some(stderr) = &self.stderr
        {
            let token = Part::Stderr.token(self.slot);
            self.hears = readiness.add_level(stderr, Interest::Readable, token).is_ok();
        }
        self.write(readiness);
    }

    /// Kills it and its children. Nothing it says counts any more; its end is still to be seen.
    pub(super) fn kill(&mut self, readiness: &Readiness) {
        self.group.kill();
        self.end_input(readiness);
        for pipe in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            readiness.remove(&pipe);
        }
    }

    /// Writes what it takes. It may end its input at any time: one that is asked once may need none.
    pub(super) fn write(&mut self, readiness: &Readiness) {
        let Some(stdin) = &self.stdin else { return };
        match write_all(stdin, &mut self.input) {
            Ok(()) if self.mode == ExecMode::Once => self.end_input(readiness),
            Ok(()) => self.wait_to_write(false, readiness),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_to_write(true, readiness);
            }
            Err(_) => match self.mode {
                ExecMode::Once => self.end_input(readiness),
                ExecMode::Worker => self.kill(readiness),
            },
        }
    }

    fn wait_to_write(&mut self, waits: bool, readiness: &Readiness) {
        let Some(stdin) = &self.stdin else { return };
        match (self.waits_to_write, waits) {
            (false, true) => {
                let token = Part::Stdin.token(self.slot);
                if readiness.add_level(stdin, Interest::Writable, token).is_err() {
                    return self.kill(readiness); // it would wait for the rest for ever
                }
            }
            (true, false) => readiness.remove(stdin),
            (false, false) | (true, true) => {}
        }
        self.waits_to_write = waits;
    }

    fn end_input(&mut self, readiness: &Readiness) {
        self.wait_to_write(false, readiness);
        self.stdin = None;
        self.input = Input::default();
    }

    /// Reads once of what it says. None if there is nothing now, or nothing any more.
    pub(super) fn read<'a>(
        &mut self,
        memory: &'a mut [u8],
        readiness: &Readiness,
    ) -> Option<&'a [u8]> {
        let stdout = self.stdout.as_ref()?;
        match nix::unistd::read(stdout, memory) {
            Ok(octets @ 1..) => Some(&memory[..octets]),
            Err(error) if is_for_now(error) => None,
            // It has closed it; its end is waited for elsewhere.
            Ok(0) | Err(_) => {
                readiness.remove(stdout);
                self.stdout = None;
                None
            }
        }
    }

    /// Reads once of what it complains of.
    pub(super) fn listen(&mut self, readiness: &Readiness) {
        let Some(stderr) = &self.stderr else { return };
        let mut memory = [0; COMPLAINT_OCTETS];
        match nix::unistd::read(stderr, &mut memory) {
            Ok(octets @ 1..) => {
                self.complaint.hear(&memory[..octets]);
                if !self.complaint.is_heard() && self.hears {
                    readiness.remove(stderr);
                    self.hears = false;
                }
            }
            Err(error) if is_for_now(error) => {}
            Ok(0) | Err(_) => {
                readiness.remove(stderr);
                self.stderr = None;
            }
        }
    }

    /// How it has ended, if it has. It is not buried by that.
    pub(super) fn exit(&self) -> Option<ProcessExit> {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.group.leader()), look) {
            Ok(WaitStatus::Exited(_, code)) => Some(ProcessExit::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(ProcessExit::Signal(signal as i32)),
            // Only what has ended is asked for.
            Ok(_) => None,
            // It is our child until it is buried; should it not be, there is nothing to wait for.
            Err(_) => Some(ProcessExit::NotStarted(IoFailure::Other)),
        }
    }

    /// It has ended: whatever it has left behind ends too, and what was said before is read.
    pub(super) fn finish(
        &mut self,
        memory: &mut [u8],
        readiness: &Readiness,
        mut said: impl FnMut(&[u8]),
    ) {
        self.group.kill();
        let mut total = 0;
        while total < LAST_OCTETS
            && let Some(octets) = self.read(memory, readiness)
        {
            total += octets.len();
            said(octets);
        }
        self.listen(readiness);
        readiness.remove(&self.exit);
        self.kill(readiness);
    }
}

fn write_all(stdin: &OwnedFd, input: &mut Input) -> io::Result<()> {
    while let Some(front) = input.queue.front_mut() {
        while !front.is_empty() {
            let octets = nix::unistd::write(stdin.as_fd(), front)?;
            front.advance(octets);
            input.octets -= octets;
        }
        input.queue.pop_front();
    }
    Ok(())
}

/// Whether a read has to be tried again later.
fn is_for_now(error: nix::errno::Errno) -> bool {
    matches!(error, nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR)
}
