//! The processes of one worker: what the engine asks for is done, what becomes of them is told.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use balancedns_core::engine::{Engine, IoFailure, ProcessExit};
use balancedns_core::handle::ProcessHandle;
use balancedns_core::policy::ExecSettings;
use balancedns_core::time::Instant;
use bytes::Bytes;
use nix::libc::SIGKILL;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::complaints::Complaints;
use super::running::{Input, Part, Running};
use super::spawner::{Results, Spawned, Spawner, Start, Started};
use crate::datagrams::Round;
use crate::poll::{Interest, Readiness};

/// Octets of standard output that are read at once.
const READ_OCTETS: usize = 16_384;
/// The readiness token of the way back from the spawner.
const STARTED: u64 = u64::MAX;

/// Who is told what becomes of processes.
pub trait Hears {
    /// A process has written this.
    fn process_bytes(&mut self, now: Instant, process: ProcessHandle, octets: &[u8]);
    /// A process has ended, or could not be started: the last that is told of it.
    fn process_exited(&mut self, now: Instant, process: ProcessHandle, how: ProcessExit);
}

impl Hears for Engine {
    fn process_bytes(&mut self, now: Instant, process: ProcessHandle, octets: &[u8]) {
        self.handle_process_bytes(now, process, octets);
    }

    fn process_exited(&mut self, now: Instant, process: ProcessHandle, how: ProcessExit) {
        self.handle_process_exited(now, process, how);
    }
}

/// Processes of one worker. All of them are killed when it is dropped.
#[derive(Debug)]
pub struct Processes {
    readiness: Readiness,
    /// The process in each slot of the engine.
    slots: Vec<Option<Process>>,
    started: Receiver<Started>,
    results: Results,
    /// There is one once something is to be started.
    spawner: Option<Spawner>,
    complaints: Complaints,
    /// Something may be ready although nothing becomes so.
    unfinished: bool,
    /// Parts to look at in this round: kept for its memory.
    turn: Vec<u64>,
    memory: Box<[u8]>,
}

#[derive(Debug)]
struct Process {
    handle: ProcessHandle,
    command: Arc<ExecSettings>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// It is on its way, with what it is to be told.
    Starting { input: Input, cancelled: Arc<AtomicBool> },
    /// It runs.
    Running(Box<Running>),
}

impl Processes {
    /// None yet.
    ///
    /// # Errors
    /// The process or machine is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let readiness = Readiness::new()?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Arc::new(EventFd::from_flags(flags)?);
        readiness.add_level(&*bell, Interest::Readable, STARTED)?;
        let (sender, started) = channel();
        Ok(Self {
            readiness,
            slots: Vec::new(),
            started,
            results: Results { sender, bell },
            spawner: None,
            complaints: Complaints::default(),
            unfinished: false,
            turn: Vec::new(),
            memory: vec![0; READ_OCTETS].into(),
        })
    }

    /// Starts a process and writes `input` to it. What becomes of it is told in a later
    /// [round](Self::round), unless there cannot be any.
    pub fn start(
        &mut self,
        hears: &mut impl Hears,
        now: Instant,
        handle: ProcessHandle,
        command: Arc<ExecSettings>,
        input: Bytes,
    ) {
        if let Err(error) = self.try_start(handle, command, input) {
            hears.process_exited(now, handle, not_started(&error));
        }
    }

    fn try_start(
        &mut self,
        handle: ProcessHandle,
        command: Arc<ExecSettings>,
        octets: Bytes,
    ) -> io::Result<()> {
        let spawner = match &self.spawner {
            Some(spawner) => spawner,
            None => self.spawner.insert(Spawner::get()?),
        };
        let mut input = Input::default();
        if !input.push(octets) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        spawner.start(Start {
            handle,
            command: Arc::clone(&command),
            cancelled: Arc::clone(&cancelled),
            results: self.results.clone(),
        });
        while self.slots.len() <= handle.index() {
            self.slots.push(None);
        }
        let stage = Stage::Starting { input, cancelled };
        self.slots[handle.index()] = Some(Process { handle, command, stage });
        Ok(())
    }

    /// Writes more to a process that is kept running. One that leaves too much unread is killed.
    pub fn feed(&mut self, now: Instant, handle: ProcessHandle, octets: Bytes) {
        let Some(process) = find(&mut self.slots, handle) else { return };
        match &mut process.stage {
            Stage::Starting { input, cancelled } => {
                if !input.push(octets) {
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
            Stage::Running(running) => {
                self.complaints.tell(now, &process.command.name, &mut running.complaint);
                running.feed(octets, &self.readiness);
            }
        }
    }

    /// Kills a process and its children. Its end is told in a later [round](Self::round).
    pub fn kill(&mut self, handle: ProcessHandle) {
        let Some(process) = find(&mut self.slots, handle) else { return };
        match &mut process.stage {
            Stage::Starting { cancelled, .. } => cancelled.store(true, Ordering::Relaxed),
            Stage::Running(running) => running.kill(&self.readiness),
        }
    }

    /// Kills all, and tells nobody.
    pub fn end(&mut self) {
        self.slots.clear();
    }

    /// Looks once at what is ready, and tells what there is. As long as it says so there is more, or
    /// may be.
    ///
    /// # Errors
    /// Readiness itself failed: the worker cannot go on.
    pub fn round(&mut self, hears: &mut impl Hears, now: Instant) -> io::Result<Round> {
        let mut turn = std::mem::take(&mut self.turn);
        turn.extend(self.readiness.poll()?.tokens());
        self.unfinished = !turn.is_empty();
        for token in turn.drain(..) {
            if token == STARTED {
                self.take_started(hears, now);
            } else {
                let (slot, part) = Part::of_token(token);
                self.look(hears, now, slot, part);
            }
        }
        self.turn = turn;
        Ok(if self.unfinished { Round::More } else { Round::Drained })
    }

    /// Whether another round is due although nothing becomes ready.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    fn take_started(&mut self, hears: &mut impl Hears, now: Instant) {
        // First: whatever comes after is heard of again.
        let _silent = self.results.bell.read();
        while let Ok((handle, spawned)) = self.started.try_recv() {
            self.enter(hears, now, handle, spawned);
        }
    }

    /// A process runs, or will not.
    fn enter(
        &mut self,
        hears: &mut impl Hears,
        now: Instant,
        handle: ProcessHandle,
        spawned: io::Result<Spawned>,
    ) {
        let Some(process) = find(&mut self.slots, handle) else { return };
        let Stage::Starting { input, cancelled } = &mut process.stage else { return };
        let (input, cancelled) = (std::mem::take(input), cancelled.load(Ordering::Relaxed));
        let (slot, mode) = (handle.index(), process.command.mode);
        let running =
            spawned.and_then(|spawned| Running::new(slot, mode, spawned, input, &self.readiness));
        match running {
            Ok(mut running) => {
                if cancelled {
                    running.kill(&self.readiness);
                }
                process.stage = Stage::Running(Box::new(running));
            }
            Err(error) => {
                let how =
                    if cancelled { ProcessExit::Signal(SIGKILL) } else { not_started(&error) };
                self.slots[slot] = None;
                hears.process_exited(now, handle, how);
            }
        }
    }

    /// A part of the process in a slot is ready. If the slot has another owner by now, it is found
    /// not to be.
    fn look(&mut self, hears: &mut impl Hears, now: Instant, slot: usize, part: Part) {
        let Some(Some(process)) = self.slots.get_mut(slot) else { return };
        let Stage::Running(running) = &mut process.stage else { return };
        let (handle, memory, readiness) = (process.handle, &mut self.memory, &self.readiness);
        match part {
            Part::Stdin => running.write(readiness),
            Part::Stdout => {
                if let Some(octets) = running.read(memory, readiness) {
                    hears.process_bytes(now, handle, octets);
                }
            }
            Part::Stderr => running.listen(readiness),
            Part::Exit => {
                let Some(how) = running.exit() else { return };
                let said = |octets: &[u8]| hears.process_bytes(now, handle, octets);
                running.finish(memory, readiness, said);
                self.complaints.tell(now, &process.command.name, &mut running.complaint);
                self.slots[slot] = None;
                hears.process_exited(now, handle, how);
            }
        }
    }
}

impl AsFd for Processes {
    /// Readable when a [round](Self::round) finds something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}

fn find(slots: &mut [Option<Process>], handle: ProcessHandle) -> Option<&mut Process> {
    slots.get_mut(handle.index())?.as_mut().filter(|process| process.handle == handle)
}

fn not_started(error: &io::Error) -> ProcessExit {
    ProcessExit::NotStarted(IoFailure::from(error))
}
