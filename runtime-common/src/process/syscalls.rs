//! System calls that plugins may not make.
//!
//! A list of what is forbidden, not of what is allowed: plugins are programs of any kind, in any
//! language, and nobody here knows what their runtimes need. Forbidden is what reaches out of a
//! process that computes a verdict: to the network, to other processes and above all to the daemon,
//! which has the same user, to the kernel's settings, to what files are besides their content (which
//! Landlock does not cover), and out of the process group, which is how children are found again.
//!
//! A forbidden call fails with EPERM, or ENOSYS where programs have another way if there is no such
//! call; nothing is killed for trying.

use std::collections::BTreeMap;
use std::fs;

use nix::libc;
use nix::unistd::{Pid, getpgid};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Why there is no filter although the kernel could have one.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// A defect of this module.
    #[error("{0}")]
    Invalid(#[from] BackendError),
    /// The kernel does not want it.
    #[error("{0}")]
    Refused(seccompiler::Error),
}

/// Rules of system calls by their numbers. A call without conditions is always meant.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Marks calls of the x32 ABI, which are the same ones under other numbers.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// Never allowed.
const FORBIDDEN: &[i64] = &[
    // The network; pairs of connected sockets stay possible.
    libc::SYS_socket,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Ways out of the group, and into other namespaces.
    libc::SYS_setsid,
    libc::SYS_setpgid,
    libc::SYS_setns,
    libc::SYS_unshare,
    // The kernel and the machine.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // File systems, and what of a file is not its content.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_fanotify_init,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
];

/// Never allowed, and only on this architecture: older forms of the same.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[i64] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[i64] = &[];

/// Newer than the constants of libc on some architectures, and the same number on all.
const SYS_FCHMODAT2: i64 = 452;

/// As if the kernel had none of these: C libraries then create processes by `clone`, whose flags
/// a filter can see, and nobody gets sockets from io_uring.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Signals by the number of the argument that says whom they are for.
const SIGNALS: &[i64] =
    &[libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];

/// Settings of a process, which is the caller itself if the first argument is 0.
const OF_OTHERS: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

/// New namespaces, by the flags of `clone`.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// Forbids them to this thread and to all that come of it, for good. Does nothing where the kernel
/// has no filters, or this library none for the architecture.
///
/// # Errors
/// The kernel has filters, and refused these.
pub(super) fn forbid(daemon: Pid) -> Result<(), FilterError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    for (rules, error) in [(forbidden(daemon)?, libc::EPERM), (absent(), libc::ENOSYS)] {
        let program = compiled(rules, error, arch)?;
        match apply_filter(&program) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(error)) if is_for_want_of(&error) => return Ok(()),
            Err(error) => return Err(FilterError::Refused(error)),
        }
    }
    Ok(())
}

/// Whether kernel and library have what [`forbid`] needs.
pub(super) fn are_filtered_here() -> bool {
    let known = TargetArch::try_from(std::env::consts::ARCH).is_ok();
    known && fs::exists("/proc/sys/kernel/seccomp/actions_avail").unwrap_or(false)
}

/// The kernel's answer if it was built without filters.
fn is_for_want_of(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS))
}

fn compiled(
    rules: Rules,
    error: libc::c_int,
    arch: TargetArch,
) -> Result<BpfProgram, BackendError> {
    let refused = SeccompAction::Errno(error.unsigned_abs());
    SeccompFilter::new(in_all_forms(rules), SeccompAction::Allow, refused, arch)?.try_into()
}

fn forbidden(daemon: Pid) -> Result<Rules, BackendError> {
    let always = FORBIDDEN.iter().chain(FORBIDDEN_HERE);
    let mut rules: Rules = always.map(|call| (*call, Vec::new())).collect();
    // If it has gone meanwhile, so has who could be sent anything.
    let group = getpgid(Some(daemon)).unwrap_or(daemon).as_raw();
    let daemon = daemon.as_raw();
    for call in SIGNALS {
        // The daemon, its group, whoever started that, and everybody.
        let whom = [daemon, -daemon, -group, -1];
        let whom = whom.map(|id| only_if(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, dword(id)));
        rules.insert(*call, whom.into_iter().collect::<Result<_, _>>()?);
    }
    for call in OF_OTHERS {
        let others = only_if(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0)?;
        rules.insert(*call, vec![others]);
    }
    let namespaces = NAMESPACES.map(|flag| {
        let flag = dword(flag);
        only_if(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)
    });
    rules.insert(libc::SYS_clone, namespaces.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

fn absent() -> Rules {
    ABSENT.iter().map(|call| (*call, Vec::new())).collect()
}

fn only_if(
    argument: u8,
    len: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, len, operator, value)?])
}

/// An `int` as the filter sees it in its register.
fn dword(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

/// Where a call has several numbers, a rule is for each.
#[cfg(target_arch = "x86_64")]
fn in_all_forms(rules: Rules) -> Rules {
    let others = rules.clone().into_iter().map(|(call, rules)| (call | X32, rules));
    rules.into_iter().chain(others).collect()
}

/// Where a call has several numbers, a rule is for each.
#[cfg(not(target_arch = "x86_64"))]
fn in_all_forms(rules: Rules) -> Rules {
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_hold_all_that_is_named() {
        let rules = forbidden(Pid::from_raw(77)).expect("valid");
        let conditional = SIGNALS.len() + OF_OTHERS.len() + 1;
        assert_eq!(rules.len(), FORBIDDEN.len() + FORBIDDEN_HERE.len() + conditional);
        let arch = TargetArch::try_from(std::env::consts::ARCH).expect("known");
        for rules in [rules, absent()] {
            assert!(!compiled(rules, libc::EPERM, arch).expect("compiles").is_empty());
        }
    }
}
