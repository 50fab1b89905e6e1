// SPDX-License-Identifier: Apache-2.0
//! The network namespace that `trine-io` lives in.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{posture::JailError, socket};

const RTM_NEWLINK: u16 = 16;
/// NLM_F_REQUEST | NLM_F_ACK.
const REQUEST_FLAGS: u16 = 5;
const IFF_UP: u32 = 1;
const LOOPBACK_INDEX: u32 = 1;

fn refuse(action: &'static str) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError::Host { action, source }
}

/// Enters a pod's network namespace; without one, a fresh one in which only the loopback interface
/// is up.  Comes while there is one thread, and before [`crate::io::confine`].
///
/// # Errors
/// [`JailError::Host`], naming what is missing.
pub fn enter(namespace: Option<BorrowedFd<'_>>) -> Result<(), JailError> {
    if let Some(namespace) = namespace {
        let kind = Some(LinkNameSpaceType::Network);
        return rustix::thread::move_into_link_name_space(namespace, kind).map_err(|errno| {
            refuse("enter the pod's network namespace (needs CAP_SYS_ADMIN)")(errno.into())
        });
    }
    unshare().map_err(refuse("make a network namespace (needs CAP_SYS_ADMIN)"))?;
    raise_loopback().map_err(refuse("raise the loopback interface (needs CAP_NET_ADMIN)"))
}

#[expect(unsafe_code, reason = "rustix marks unshare, because of descriptor tables, as unsafe")]
fn unshare() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared; only the network namespace is new.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}

/// Sets IFF_UP of interface 1, which is always the loopback interface (rtnetlink(7)).
fn raise_loopback() -> io::Result<()> {
    let netlink = socket::open(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut request = Vec::new();
    request.extend_from_slice(&32_u32.to_ne_bytes());
    request.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    request.extend_from_slice(&REQUEST_FLAGS.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    // struct ifinfomsg: family and type, index, flags, which flags change.
    request.extend_from_slice(&[0; 4]);
    for word in [LOOPBACK_INDEX, IFF_UP, IFF_UP] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    socket::send(netlink.as_fd(), &request, 0)?;
    let mut answer = [0; 256];
    let got = socket::receive(netlink.as_fd(), &mut answer, 0)?;
    // struct nlmsgerr: 0, or an errno below zero.
    if got < 20 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
