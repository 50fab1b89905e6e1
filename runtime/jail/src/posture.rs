// SPDX-License-Identifier: Apache-2.0
//! The layers of confinement, one function each.
#![expect(unsafe_code, reason = "closes descriptors by number before anybody owns them")]

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::Mode,
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags},
    process::{DumpableBehavior, Resource, Rlimit},
    thread::{CapabilitySet, CapabilitySets},
};

use crate::seccomp::{Filter, Rule};

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The kernel refused a step.
    #[error("cannot {action}")]
    Host {
        /// Which, and what it needs.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Landlock is required, and the host does not have it.
    #[error(
        "cannot confine with Landlock (needs Linux 5.19 and landlock in the kernel's lsm= \
         parameter; the configuration's `landlock` says whether it is required)"
    )]
    Landlock(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system call filter was refused.
    #[error("cannot install the system call filter (needs a kernel with CONFIG_SECCOMP_FILTER)")]
    Seccomp(#[source] seccompiler::Error),
    /// A filter has too many rules.
    #[error("system call filter is too long to compile")]
    FilterTooLong,
}

fn step(action: &'static str) -> impl FnOnce(Errno) -> JailError {
    move |errno| JailError::Host { action, source: errno.into() }
}

/// The first thing that a confined process does: closes every descriptor that it inherited beyond
/// the standard three, and leaves the session of its parent, so that no terminal sends it signals
/// or stops it when it reads.
///
/// # Errors
/// [`JailError::Host`] if descriptors cannot be closed.
pub fn begin() -> Result<(), JailError> {
    // SAFETY: called before anything in this process has made or owns a descriptor above 2.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if closed != 0 {
        let source = io::Error::last_os_error();
        let action = "close inherited descriptors (needs Linux 5.9)";
        return Err(JailError::Host { action, source });
    }
    // A process that leads a group already has left its parent's far enough.
    let _ = rustix::process::setsid();
    Ok(())
}

/// Makes an empty, read-only directory that has no name anywhere the root of the process.
pub(crate) fn empty_root() -> Result<(), JailError> {
    let refuse = || step("make an empty root directory (needs CAP_SYS_ADMIN and Linux 5.2)");
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(refuse())?;
    rustix::mount::fsconfig_create(&context).map_err(refuse())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(refuse())?;
    // No mount namespace is needed: this mount is attached to none, so that nothing is above it.
    rustix::process::fchdir(&root).map_err(refuse())?;
    rustix::process::chroot(".").map_err(step("change the root directory"))
}

/// Limits what the process may use beyond its cgroup: no core files, no locked memory, and `files`
/// descriptors, or as many as it may have if that is fewer.
pub(crate) fn limit_resources(files: u64) -> Result<(), JailError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let refuse = || step("set resource limits");
    rustix::process::setrlimit(Resource::Core, none).map_err(refuse())?;
    rustix::process::setrlimit(Resource::Memlock, none).map_err(refuse())?;
    let most = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let files = Some(files.min(most));
    let limit = Rlimit { current: files, maximum: files };
    rustix::process::setrlimit(Resource::Nofile, limit).map_err(refuse())
}

/// The process's own descriptors as a directory, mounted nowhere: nothing is above it.
pub(crate) fn own_descriptors() -> Result<OwnedFd, JailError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(rustix::fs::CWD, "/proc/self/fd", flags)
        .map_err(step("open /proc/self/fd (needs CAP_SYS_ADMIN and a mounted /proc)"))
}

/// Makes a directory the current one.
pub(crate) fn enter(directory: &OwnedFd) -> Result<(), JailError> {
    rustix::process::fchdir(directory).map_err(step("change the current directory"))
}

/// Gives up every privilege of the calling thread, which must be the only one, for good, but the
/// capabilities in `kept`.
pub(crate) fn drop_privileges(kept: CapabilitySet) -> Result<(), JailError> {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let refuse = || step("drop supplementary groups (needs CAP_SETGID)");
    rustix::thread::set_thread_groups(&[]).map_err(refuse())?;
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that is no capability.
            Err(Errno::INVAL) => break,
            Err(errno) => {
                return Err(step("drop the capability bounding set (needs CAP_SETPCAP)")(errno));
            }
        }
    }
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    // The ambient set is emptied along with the inheritable one.
    rustix::thread::set_capabilities(None, sets).map_err(step("drop capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(step("set no_new_privs"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(step("forbid tracing and core files"))
}

/// The commands of fcntl(2) that every process of ours uses, and more.
pub(crate) fn fcntl_rule(more: &[i32]) -> Rule {
    let common =
        [libc::F_GETFL, libc::F_SETFL, libc::F_GETFD, libc::F_DUPFD_CLOEXEC, libc::F_GET_SEALS];
    let values = common.iter().chain(more).map(|&command| command as u32).collect();
    Rule::Match { argument: 1, mask: u32::MAX, values }
}

/// What every process of ours does: memory, threads, time, signals of its own, descriptors it has.
pub(crate) fn common_filter() -> Filter {
    let any = u32::MAX;
    let own = std::process::id();
    let no_exec = Rule::Match { argument: 2, mask: libc::PROT_EXEC as u32, values: vec![0] };
    Filter::new()
        .allow(&[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_close,
            libc::SYS_ppoll,
            libc::SYS_sendmsg,
            libc::SYS_recvmsg,
            libc::SYS_recvfrom,
            libc::SYS_munmap,
            libc::SYS_madvise,
            libc::SYS_mremap,
            libc::SYS_brk,
            libc::SYS_futex,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
            libc::SYS_sched_yield,
            libc::SYS_sched_getaffinity,
            libc::SYS_getpid,
            libc::SYS_gettid,
            libc::SYS_getrandom,
            libc::SYS_clock_gettime,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_restart_syscall,
            libc::SYS_exit,
            libc::SYS_exit_group,
        ])
        // Memory is never executable.
        .rule(libc::SYS_mmap, no_exec.clone())
        .rule(libc::SYS_mprotect, no_exec)
        // Threads, no processes.  What clone3 is asked cannot be seen; without it, clone is used.
        .rule(libc::SYS_clone3, Rule::Fail(libc::ENOSYS as u16))
        .rule(
            libc::SYS_clone,
            Rule::Match {
                argument: 0,
                mask: libc::CLONE_THREAD as u32,
                values: vec![libc::CLONE_THREAD as u32],
            },
        )
        // Signals to own threads only.
        .rule(libc::SYS_tgkill, Rule::Match { argument: 0, mask: any, values: vec![own] })
        .rule(
            libc::SYS_prctl,
            Rule::Match { argument: 0, mask: any, values: vec![libc::PR_SET_NAME as u32] },
        )
        // No owner for SIGIO, no leases, no notifications.
        .rule(libc::SYS_fcntl, fcntl_rule(&[]))
        // The run-time library looks for files that do not matter, such as a time zone.
        .rule(libc::SYS_openat, Rule::Fail(libc::ENOENT as u16))
        .rule(libc::SYS_readlink, Rule::Fail(libc::ENOENT as u16))
        .rule(libc::SYS_prlimit64, Rule::Fail(libc::EPERM as u16))
}
