// SPDX-License-Identifier: Apache-2.0
//! Mounts that are attached nowhere: what a volume's root is.
#![expect(unsafe_code, reason = "mount_setattr(2) takes a struct by address")]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::mount::OpenTreeFlags;

/// Copies the mount of a directory or file, and with `recursive` those below it, to one that is
/// attached nowhere: nothing is above its root, set-id bits and device nodes have no effect on it,
/// and with `readonly` nothing can be written through it.
///
/// # Errors
/// The system calls': ENOENT; EPERM without CAP_SYS_ADMIN; ENOSYS before Linux 5.12.
pub fn detached(path: &Path, recursive: bool, readonly: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags)?;
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if readonly {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is empty and ends in NUL, and the struct has the size that is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}
