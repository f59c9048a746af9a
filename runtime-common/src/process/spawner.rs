//! The thread that starts processes of plugins and buries them.
//!
//! Starting one takes until the launcher runs, some hundred microseconds in which nothing else is
//! done by the thread that waits: so it is none that answers queries. The same thread lives as long
//! as the daemon, which processes need that are to die with the thread that started them.
//!
//! Burying is to wait for all of a group, after it was killed: for its first process, and for those
//! whose parents have gone, which the kernel hands to the daemon as it asks for them. Numbers of
//! processes and groups are not given to others before that, so that nobody else is ever killed.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use balancedns_core::handle::ProcessHandle;
use balancedns_core::policy::ExecSettings;
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::launcher::{SUBCOMMAND, mode_name};

/// The executable of this process, whatever has become of its file.
const OWN_EXECUTABLE: &str = "/proc/self/exe";
/// Time between looks at groups that were killed and are not all dead.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The thread of this process, once there is one.
static SPAWNER: Mutex<Option<Spawner>> = Mutex::new(None);

/// The first processes of all groups that were not dropped.
static LIVING: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

/// Kills all processes of plugins, whosever they are: for the end of a daemon that does not wait for
/// its workers.
pub fn kill_all() {
    for leader in living().iter() {
        kill_group(*leader);
    }
}

fn living() -> MutexGuard<'static, BTreeSet<Pid>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills a group that is not buried. None can be added on the way: the kernel starts no child of one
/// that has a signal coming.
fn kill_group(leader: Pid) {
    // There is one at least, if only a dead one, and it is ours.
    let _all_dead = killpg(leader, Signal::SIGKILL);
}

/// The thread, to those that ask it for something. Each worker asks for no more processes at once
/// than the engine allows, and each is buried once: so its queue is bounded.
#[derive(Debug, Clone)]
pub(super) struct Spawner(Sender<Order>);

#[derive(Debug)]
enum Order {
    Start(Start),
    Bury(Pid),
}

/// A process that a worker wants.
#[derive(Debug)]
pub(super) struct Start {
    /// Its name.
    pub(super) handle: ProcessHandle,
    /// What is run, and how.
    pub(super) command: Arc<ExecSettings>,
    /// Nobody wants it any more.
    pub(super) cancelled: Arc<AtomicBool>,
    /// Where it is to be handed in.
    pub(super) results: Results,
}

/// What came of wanting a process.
pub(super) type Started = (ProcessHandle, io::Result<Spawned>);

/// The way back to a worker.
#[derive(Debug, Clone)]
pub(super) struct Results {
    /// To it.
    pub(super) sender: Sender<Started>,
    /// Becomes readable when there is something.
    pub(super) bell: Arc<EventFd>,
}

impl Results {
    fn hand_in(&self, started: Started) {
        // A worker that has gone drops what came, which kills it.
        let _nobody = self.sender.send(started);
        // It can only fail while it is readable already.
        let _rung = self.bell.write(1);
    }
}

/// A process that was started, and the daemon's ends of its pipes, none of which blocks.
#[derive(Debug)]
pub(super) struct Spawned {
    /// It and its children.
    pub(super) group: Group,
    /// Readable when it has ended.
    pub(super) exit: OwnedFd,
    /// What it reads.
    pub(super) stdin: OwnedFd,
    /// What it says.
    pub(super) stdout: OwnedFd,
    /// What it complains of.
    pub(super) stderr: OwnedFd,
}

/// A process and its children: killed and buried when dropped.
#[derive(Debug)]
pub(super) struct Group {
    leader: Pid,
    spawner: Spawner,
}

impl Group {
    /// The group of a process that was just started as the first of one.
    fn new(leader: Pid, spawner: Spawner) -> Self {
        living().insert(leader);
        Self { leader, spawner }
    }

    /// Its first process, which is not buried as long as this is here.
    pub(super) fn leader(&self) -> Pid {
        self.leader
    }

    /// Kills all of it.
    pub(super) fn kill(&self) {
        kill_group(self.leader);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        // Before it is buried: its number may be another's afterwards.
        living().remove(&self.leader);
        self.spawner.order(Order::Bury(self.leader));
    }
}

impl Spawner {
    /// The thread of this process, started by whoever needs it first.
    ///
    /// # Errors
    /// The process is out of threads or memory.
    pub(super) fn get() -> io::Result<Self> {
        let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spawner) = &*spawner {
            return Ok(spawner.clone());
        }
        set_child_subreaper(true)?;
        let (sender, orders) = channel();
        let new = Self(sender);
        let own = new.clone();
        Builder::new().name("plugins".to_owned()).spawn(move || own.serve(&orders))?;
        Ok(spawner.insert(new).clone())
    }

    /// Starts a process, and hands in what came of it.
    pub(super) fn start(&self, start: Start) {
        self.order(Order::Start(start));
    }

    fn order(&self, order: Order) {
        // The thread ends with the process.
        let _ending = self.0.send(order);
    }

    fn serve(&self, orders: &Receiver<Order>) {
        let mut graves = Vec::new();
        loop {
            let order = if graves.is_empty() {
                orders.recv().map_err(RecvTimeoutError::from)
            } else {
                orders.recv_timeout(LOOK_AGAIN)
            };
            match order {
                Ok(Order::Start(start)) => self.carry_out(start),
                Ok(Order::Bury(leader)) => graves.push(leader),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            graves.retain(|leader| !is_buried(*leader));
        }
    }

    fn carry_out(&self, start: Start) {
        let Start { handle, command, cancelled, results } = start;
        let spawned = if cancelled.load(Ordering::Relaxed) {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            self.spawn(&command)
        };
        results.hand_in((handle, spawned));
    }

    fn spawn(&self, command: &ExecSettings) -> io::Result<Spawned> {
        let mut child = Command::new(OWN_EXECUTABLE)
            .args([SUBCOMMAND, mode_name(command.mode), &std::process::id().to_string(), "--"])
            .arg(&command.path)
            .args(&command.args)
            .env_clear()
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let id = i32::try_from(child.id()).expect("the kernel's numbers of processes are positive");
        let group = Group::new(Pid::from_raw(id), self.clone());
        let id = rustix::process::Pid::from_raw(id).expect("no process is number 0");
        let exit = pidfd_open(id, PidfdFlags::empty())?;
        let missing = "each was asked for and is taken once";
        Ok(Spawned {
            group,
            exit,
            stdin: unblocking(child.stdin.take().expect(missing).into())?,
            stdout: unblocking(child.stdout.take().expect(missing).into())?,
            stderr: unblocking(child.stderr.take().expect(missing).into())?,
        })
    }
}

fn unblocking(pipe: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(pipe.as_fd(), true)?;
    Ok(pipe)
}

/// Waits for those of a group that are dead. Whether that was all of it: as long as any is left, its
/// oldest living or dead forebear in the group is a child of ours.
fn is_buried(leader: Pid) -> bool {
    let any_of_group = Pid::from_raw(-leader.as_raw());
    loop {
        match waitpid(any_of_group, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}
