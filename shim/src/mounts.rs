// SPDX-License-Identifier: Apache-2.0
//! Mounting a container's root file system on the host, for snapshotters whose mounts the image
//! builder does not read itself.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
};

/// Most mounts that are taken off one mount point.
const STACK_MAX: usize = 64;

/// A mount, as containerd asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `bind`, `overlay`, or a file system.
    pub kind: String,
    /// What is mounted.
    pub source: PathBuf,
    /// Options, as in fstab(5).
    pub options: Vec<String>,
}

/// Mounts on a directory, one after the other.
///
/// # Errors
/// If one fails; those before it stay, for [`unmount_all`].
pub fn mount_all(mounts: &[Mount], target: &Path) -> io::Result<()> {
    mounts.iter().try_for_each(|mount| mount_one(mount, target))
}

fn mount_one(mount: &Mount, target: &Path) -> io::Result<()> {
    let mut flags = MountFlags::empty();
    let mut is_bind = mount.kind == "bind";
    let mut is_recursive = false;
    let mut data = Vec::new();
    for option in &mount.options {
        match option.as_str() {
            "bind" => is_bind = true,
            "rbind" => (is_bind, is_recursive) = (true, true),
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "rw" | "defaults" | "private" | "rprivate" | "slave" | "rslave" => {}
            other => data.push(other),
        }
    }
    if is_bind {
        if is_recursive {
            rustix::mount::mount_bind_recursive(&mount.source, target)?;
        } else {
            rustix::mount::mount_bind(&mount.source, target)?;
        }
        // The flags of a bind mount take effect on a second call only.
        if !flags.is_empty() {
            rustix::mount::mount_remount(target, flags | MountFlags::BIND, "")?;
        }
    } else {
        let data = std::ffi::CString::new(data.join(","))?;
        let data = (!data.is_empty()).then_some(data);
        rustix::mount::mount(&mount.source, target, &*mount.kind, flags, data.as_deref())?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change(target, private)?)
}

/// Takes everything off a mount point; a path that is none, or is not there, is fine.
///
/// # Errors
/// If a mount stays.
pub fn unmount_all(target: &Path) -> io::Result<()> {
    for _ in 0..STACK_MAX {
        // Detached, so that a busy or dead file system below does not keep the mount.
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other(format!("more than {STACK_MAX} mounts")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmount_of_what_is_not_mounted_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        unmount_all(dir.path()).unwrap();
        unmount_all(Path::new("/nonexistent/rootfs")).unwrap();
    }
}
