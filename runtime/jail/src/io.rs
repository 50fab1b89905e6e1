// SPDX-License-Identifier: Apache-2.0
//! Confinement of `trine-io`.
//!
//! [`crate::begin`] comes first of all, then [`confine`], while there is one thread.  Afterwards
//! the process has the descriptors that the sandbox sends it, and what it finds below those that are
//! directories of volumes: its root directory is empty, and its current directory holds its own
//! descriptors, by number, which is how it opens what it has a node of.  It makes no sockets.

use std::os::fd::BorrowedFd;

use rustix::{
    fs::Mode,
    thread::{CapabilitySet, LinkNameSpaceType},
};

use crate::{
    posture::{self, JailError},
    seccomp::{Filter, Rule},
};

/// Descriptors that an I/O process may have: streams, two each with FIFOs, of many VMs.
const MAX_FILES: u64 = 65_536;
const FIONREAD: u32 = 0x541b;

/// What it takes to act as any user on a volume: the guest's kernel decides what the container's
/// users may do there.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Enters the pod's network namespace, if it has one, and gives up everything else.
///
/// # Errors
/// [`JailError`], naming what is missing.
pub fn confine(network: Option<BorrowedFd<'_>>) -> Result<(), JailError> {
    if let Some(network) = network {
        let kind = Some(LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(network, kind).map_err(|errno| {
            let action = "enter the pod's network namespace (needs CAP_SYS_ADMIN)";
            JailError::Host { action, source: errno.into() }
        })?;
    }
    posture::limit_resources(MAX_FILES)?;
    let own = posture::own_descriptors()?;
    posture::empty_root()?;
    posture::enter(&own)?;
    drop(own);
    posture::drop_privileges(KEPT)?;
    // New files on volumes have the mode that the guest gave them.
    rustix::process::umask(Mode::empty());
    filter().install()
}

/// What the filter allows.
pub fn filter() -> Filter {
    posture::common_filter()
        .allow(&[
            // Its arguments cannot be seen here, but there is nothing to open except below the
            // descriptors that the process has.
            libc::SYS_openat2,
            libc::SYS_newfstatat,
            libc::SYS_statx,
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
        .rule(libc::SYS_ioctl, Rule::Match { argument: 1, mask: u32::MAX, values: vec![FIONREAD] })
}
