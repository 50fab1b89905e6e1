// SPDX-License-Identifier: Apache-2.0
//! Confinement of `trine-io`.
//!
//! [`crate::begin`] comes first of all, then [`confine`], while there is one thread.  Afterwards
//! the process has the descriptors that the sandbox sends it, and nothing else: it opens nothing
//! and makes no sockets.

use std::os::fd::BorrowedFd;

use rustix::thread::LinkNameSpaceType;

use crate::{
    posture::{self, JailError},
    seccomp::{Filter, Rule},
};

/// Descriptors that an I/O process may have: streams, two each with FIFOs, of many VMs.
const MAX_FILES: u64 = 65_536;
const FIONREAD: u32 = 0x541b;

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
    posture::empty_root()?;
    posture::drop_privileges()?;
    filter().install()
}

/// What the filter allows.
pub fn filter() -> Filter {
    posture::common_filter()
        .rule(libc::SYS_ioctl, Rule::Match { argument: 1, mask: u32::MAX, values: vec![FIONREAD] })
}
