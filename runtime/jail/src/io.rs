// SPDX-License-Identifier: Apache-2.0
//! Confinement of `trine-io`.
//!
//! [`crate::begin`] comes first of all, then [`confine`], while there is one thread.  Afterwards
//! the process has the descriptors that the sandbox sends it, and makes sockets of the internet
//! families in the namespace it is in.  It opens nothing else.

use crate::{
    posture::{self, JailError},
    seccomp::{Filter, Rule},
};

/// Descriptors that an I/O process may have: streams, two each with FIFOs, of many VMs.
const MAX_FILES: u64 = 65_536;
const FIONREAD: u32 = 0x541b;
const SIOCATMARK: u32 = 0x8905;
const SIOCOUTQ: u32 = 0x5411;

/// Levels of socket options.
const OPTION_LEVELS: &[i32] =
    &[libc::SOL_SOCKET, libc::IPPROTO_IP, libc::IPPROTO_TCP, libc::IPPROTO_IPV6];

/// Gives up everything but what is handed over; [`crate::network::enter`] comes before.
///
/// # Errors
/// [`JailError`], naming what is missing.
pub fn confine() -> Result<(), JailError> {
    posture::limit_resources(MAX_FILES)?;
    posture::empty_root()?;
    posture::drop_privileges()?;
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
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_listen,
            libc::SYS_accept4,
            libc::SYS_getsockname,
            libc::SYS_getpeername,
        ])
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
