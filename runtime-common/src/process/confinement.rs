//! What a plugin's process may not do, and what it may not use up.
//!
//! Limits of resources hold everywhere, and nobody keeps a capability: a plugin of a daemon that runs
//! as root owns what root owns, and can do nothing else that only root can. Landlock and seccomp hold
//! where the kernel has them: where it has not, a plugin runs without, and the operator is told so
//! once when the daemon starts. What each forbids is the same for all plugins:
//!
//! * Landlock: to change anything in the file system (everything may be read and executed; written
//!   only `/dev/null`), TCP, and signals or abstract Unix sockets of others.
//! * seccomp: see [`syscalls`].

use balancedns_core::policy::ExecMode;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::Pid;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::syscalls::{self, FilterError};

/// The newest Landlock that this code was written for. Older kernels do what they can.
const LANDLOCK: ABI = ABI::V9;
/// The first Landlock with all that matters here: signals of others came last.
const LANDLOCK_COMPLETE: ABI = ABI::V6;

/// Octets of private memory that can be written to: what a process really uses, more or less.
const DATA_OCTETS: rlim_t = 512 << 20;
/// Octets of address space. Runtimes with a garbage collector reserve far more than they use.
const ADDRESS_OCTETS: rlim_t = 4 << 30;
/// Open descriptors.
const DESCRIPTORS: rlim_t = 256;
/// Processes and threads of the daemon's user, those of others included: so it has to be generous,
/// and only keeps a fork bomb from filling the machine's table until the group is killed. The kernel
/// does not hold root to it.
const PROCESSES: rlim_t = 4_096;
/// Seconds of computing of one that is started for each question, which ends much sooner: for the
/// case that nobody is left who kills it. One that is kept running may not be limited.
const ONCE_CPU_SECONDS: rlim_t = 10;

/// Why a plugin is not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfinementError {
    /// The kernel refused what every kernel has.
    #[error("cannot give up resources and privileges: {0}")]
    Basics(#[from] Errno),
    /// It has Landlock, and refused the rules.
    #[error("cannot enter landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// It has seccomp, and refused the filter.
    #[error("cannot enter seccomp: {0}")]
    Seccomp(#[from] FilterError),
}

/// Confines this process, which must have one thread, and all that come of it, for good.
///
/// # Errors
/// The kernel refused something that it has.
pub(super) fn enter(mode: ExecMode, daemon: Pid) -> Result<(), ConfinementError> {
    limit_resources(mode)?;
    prctl::set_no_new_privs()?;
    drop_capabilities()?;
    enter_landlock()?;
    Ok(syscalls::forbid(daemon)?)
}

/// Tells the operator what cannot be forbidden to plugins here.
pub fn warn_of_gaps() {
    for gap in gaps() {
        tracing::warn!(event = "plugins_less_confined", "{gap}");
    }
}

/// What cannot be forbidden to plugins here, by this kernel and on this architecture.
#[must_use]
pub fn gaps() -> Vec<&'static str> {
    let landlock = match (has_landlock(LANDLOCK_COMPLETE), has_landlock(ABI::V1)) {
        (true, _) => None,
        (false, true) => {
            Some("an old Landlock: plugins may send signals to processes of their user")
        }
        (false, false) => Some("no Landlock here: plugins may write files as the daemon may"),
    };
    let seccomp = (!syscalls::are_filtered_here()).then_some(
        "no seccomp filter here: plugins may leave their process group, and use sockets",
    );
    landlock.into_iter().chain(seccomp).collect()
}

/// Whether the kernel has all of this version of Landlock.
fn has_landlock(version: ABI) -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let ruleset = ruleset.handle_access(AccessFs::from_all(version));
    let ruleset = match Scope::from_all(version) {
        none if none.is_empty() => ruleset,
        scopes => ruleset.and_then(|ruleset| ruleset.scope(scopes)),
    };
    ruleset.and_then(Ruleset::create).is_ok()
}

fn limit_resources(mode: ExecMode) -> Result<(), Errno> {
    let limits = [
        (Resource::RLIMIT_DATA, DATA_OCTETS),
        (Resource::RLIMIT_AS, ADDRESS_OCTETS),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        (Resource::RLIMIT_NPROC, PROCESSES),
        // No file may grow, and none is left behind by a crash.
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
    ];
    for (resource, most) in limits {
        limit(resource, most)?;
    }
    match mode {
        ExecMode::Once => limit(Resource::RLIMIT_CPU, ONCE_CPU_SECONDS),
        ExecMode::Worker => Ok(()),
    }
}

/// Gives up all of them, for good: without new privileges, executing a file as root brings none back.
fn drop_capabilities() -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(|error| Errno::from_raw(error.raw_os_error()))
}

/// Lowers a limit, for good; one that is lower already stays.
fn limit(resource: Resource, most: rlim_t) -> Result<(), Errno> {
    let (_, hard) = getrlimit(resource)?;
    let most = most.min(hard);
    setrlimit(resource, most, most)
}

fn enter_landlock() -> Result<(), RulesetError> {
    let (read, all) = (AccessFs::from_read(LANDLOCK), AccessFs::from_all(LANDLOCK));
    // By default the library leaves out what the kernel does not know.
    Ruleset::default()
        .handle_access(all)?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(["/"], read))?
        .add_rules(path_beneath_rules(["/dev/null"], read | AccessFs::WriteFile))?
        .restrict_self()?;
    Ok(())
}
