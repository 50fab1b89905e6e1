// SPDX-License-Identifier: Apache-2.0
//! File calls that rustix does not have.
#![expect(unsafe_code, reason = "fcntl(2) takes a struct by address")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// A kind of lock on a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeLock {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None.
    Unlock,
}

/// Sets a lock of the open file description (`F_OFD_SETLK`) from `start` on, `bytes` long or, for
/// 0, to the end; does not wait.
///
/// # Errors
/// EAGAIN if somebody else's lock is in the way.
pub fn lock_range(file: BorrowedFd<'_>, kind: RangeLock, start: u64, bytes: u64) -> io::Result<()> {
    let kind = match kind {
        RangeLock::Read => libc::F_RDLCK,
        RangeLock::Write => libc::F_WRLCK,
        RangeLock::Unlock => libc::F_UNLCK,
    };
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: i64::try_from(start).map_err(invalid)?,
        l_len: i64::try_from(bytes).map_err(invalid)?,
        l_pid: 0,
    };
    // SAFETY: the call only reads the struct.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
