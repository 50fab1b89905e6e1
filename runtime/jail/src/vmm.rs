// SPDX-License-Identifier: Apache-2.0
//! Confinement of `trine-vmm`.
//!
//! ```text
//! begin()            first of all
//! open /dev/kvm, receive the boot message with all descriptors
//! drop_privileges()  while there is one thread
//! make threads       they inherit everything
//! install_filter()   before the guest runs: applies to every thread, and to later ones
//! ```
//!
//! Afterwards the process can use the descriptors that it has, KVM, memory that is not executable
//! and threads of its own; every other system call kills it (SIGSYS).

use rustix::thread::CapabilitySet;

use crate::{
    fence::{Fence, Landlock},
    posture::{self, JailError},
    seccomp::{Filter, Rule},
};

/// Descriptors that a VMM may have: KVM's, the link, the window's, images.
const MAX_FILES: u64 = 256;
/// Type byte of KVM's ioctls (`KVMIO`), where `_IOC` puts it.
const KVMIO: u32 = 0xae00;
const IOCTL_TYPE: u32 = 0xff00;

/// Gives up the root directory, capabilities, groups and the right to gain privileges.
///
/// Capabilities belong to threads, so that this comes before the first thread is made.  Opening
/// /dev/kvm comes before this.
///
/// # Errors
/// [`JailError`], naming what is missing.
pub fn drop_privileges(landlock: Landlock) -> Result<(), JailError> {
    posture::limit_resources(MAX_FILES)?;
    posture::empty_root()?;
    posture::drop_privileges(CapabilitySet::empty())?;
    Fence::around_all(landlock)?.enter()
}

/// Installs the system call filter on all threads, for good.
///
/// # Errors
/// [`JailError::Seccomp`].
pub fn install_filter() -> Result<(), JailError> {
    filter().install()
}

/// [`drop_privileges`] and [`install_filter`], for a process that makes its threads afterwards.
///
/// # Errors
/// [`JailError`], naming what is missing.
pub fn confine(landlock: Landlock) -> Result<(), JailError> {
    drop_privileges(landlock)?;
    install_filter()
}

/// What the filter allows.
pub fn filter() -> Filter {
    posture::common_filter()
        .rule(libc::SYS_ioctl, Rule::Match { argument: 1, mask: IOCTL_TYPE, values: vec![KVMIO] })
}
