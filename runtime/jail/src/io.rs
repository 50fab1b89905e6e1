// SPDX-License-Identifier: Apache-2.0
//! Confinement of `trine-io`.
//!
//! [`crate::begin`] comes first of all, then [`confine`], while there is one thread.  Afterwards
//! the process has the descriptors that the sandbox sends it, what it finds below those that are
//! directories of volumes, and sockets of the internet families in the network namespace it is in.
//! Its root directory is empty, and its current directory holds its own descriptors, by number,
//! which is how it opens what it has a node of.

use rustix::{fs::Mode, thread::CapabilitySet};

use crate::{
    fence::{self, Landlock},
    posture::{self, JailError},
    seccomp::{Filter, Rule},
};

/// Descriptors that an I/O process may have: streams, two each with FIFOs, of many VMs.
const MAX_FILES: u64 = 65_536;
const FIONREAD: u32 = 0x541b;
const SIOCATMARK: u32 = 0x8905;
const SIOCOUTQ: u32 = 0x5411;

/// Levels of socket options.
const OPTION_LEVELS: &[i32] = &[
    libc::SOL_SOCKET,
    libc::IPPROTO_IP,
    libc::IPPROTO_TCP,
    libc::IPPROTO_IPV6,
    libc::IPPROTO_UDPLITE,
];

/// What it takes to act as any user on a volume, and to bind any port: the guest's kernel decides
/// what the container's users may do there.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Gives up everything else but what is handed over; [`crate::network::enter`] comes before.
///
/// # Errors
/// [`JailError`], naming what is missing.
pub fn confine(landlock: Landlock) -> Result<(), JailError> {
    posture::limit_resources(MAX_FILES)?;
    let own = posture::own_descriptors()?;
    posture::empty_root()?;
    posture::enter(&own)?;
    drop(own);
    posture::drop_privileges(KEPT)?;
    fence::check(landlock)?;
    // New files on volumes have the mode that the guest gave them.
    rustix::process::umask(Mode::empty());
    filter().install()
}

/// What the filter allows.
pub fn filter() -> Filter {
    let is = |argument, values: &[i32]| Rule::Match {
        argument,
        mask: u32::MAX,
        values: values.iter().map(|&value| value as u32).collect(),
    };
    posture::common_filter()
        .allow(&[
            libc::SYS_pread64,
            libc::SYS_lseek,
            libc::SYS_fstat,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
            libc::SYS_eventfd2,
            libc::SYS_clock_nanosleep,
            libc::SYS_sendto,
            libc::SYS_shutdown,
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_listen,
            libc::SYS_accept4,
            libc::SYS_getsockname,
            libc::SYS_getpeername,
            // Its arguments cannot be seen here, but there is nothing to open except below the
            // descriptors that the process has.
            libc::SYS_openat2,
            libc::SYS_newfstatat,
            libc::SYS_fstatfs,
            libc::SYS_getdents64,
            libc::SYS_preadv2,
            libc::SYS_pwritev2,
            libc::SYS_readlinkat,
            libc::SYS_mkdirat,
            libc::SYS_linkat,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_symlinkat,
            libc::SYS_fchmodat,
            libc::SYS_fchownat,
            libc::SYS_utimensat,
            libc::SYS_ftruncate,
            libc::SYS_fallocate,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_flock,
            libc::SYS_getxattr,
            libc::SYS_listxattr,
            libc::SYS_setxattr,
            libc::SYS_removexattr,
            // A thread gives up all but the volumes of its VM.
            libc::SYS_landlock_create_ruleset,
            libc::SYS_landlock_add_rule,
            libc::SYS_landlock_restrict_self,
        ])
        // Regular files and FIFOs; devices never.
        .rule(
            libc::SYS_mknodat,
            Rule::Match {
                argument: 2,
                mask: libc::S_IFMT,
                values: vec![libc::S_IFREG, libc::S_IFIFO],
            },
        )
        .rule(libc::SYS_fcntl, posture::fcntl_rule(&[libc::F_OFD_SETLK, libc::F_OFD_GETLK]))
        .rule(libc::SYS_socket, is(0, &[libc::AF_INET, libc::AF_INET6]))
        .rule(libc::SYS_getsockopt, is(1, OPTION_LEVELS))
        .rule(libc::SYS_setsockopt, is(1, OPTION_LEVELS))
        .rule(
            libc::SYS_ioctl,
            Rule::Match {
                argument: 1,
                mask: u32::MAX,
                values: vec![FIONREAD, SIOCATMARK, SIOCOUTQ],
            },
        )
}
