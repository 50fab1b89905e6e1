// SPDX-License-Identifier: Apache-2.0
//! mount(2) and umount2(2): file systems in memory, and other names for what is mounted.

use alloc::vec::Vec;

use super::path::{AT_FDCWD, At};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::{
        boot::{self, Options},
        mount::MountFlags,
    },
    process::creds::CAP_SYS_ADMIN,
};

const MS_RDONLY: u64 = 1;
const MS_NOSUID: u64 = 2;
const MS_NOEXEC: u64 = 8;
const MS_REMOUNT: u64 = 0x20;
const MS_BIND: u64 = 0x1000;
const MS_MOVE: u64 = 0x2000;
/// MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED.
const MS_PROPAGATION: u64 = 0x1e_0000;

fn optional(cx: &Cx<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    if address == 0 { Ok(Vec::new()) } else { cx.read_path(address) }
}

pub(super) fn sys_mount(
    cx: &mut Cx<'_>,
    source: u64,
    target: u64,
    kind: u64,
    flags: u64,
    data: u64,
) -> SysResult {
    let creds = cx.creds();
    if !creds.has_cap(CAP_SYS_ADMIN) {
        return Err(Errno::PERM.into());
    }
    let at = At::new(cx, AT_FDCWD, target, 0)?;
    let point = at.find(&creds, true)?;
    // There is one mount namespace: nothing to propagate to.
    if flags & MS_PROPAGATION != 0 {
        return Ok(0);
    }
    let mut options = Options::parse(&[optional(cx, data)?]);
    options.flags.readonly |= flags & MS_RDONLY != 0;
    options.flags.nosuid |= flags & MS_NOSUID != 0;
    options.flags.noexec |= flags & MS_NOEXEC != 0;
    if flags & MS_REMOUNT != 0 {
        at.fs.vfs.remount(&point.mount, options.flags.readonly);
    } else if flags & MS_BIND != 0 {
        let from = At::new(cx, AT_FDCWD, source, 0)?.find(&creds, true)?;
        if (from.kind() == crate::fs::types::FileType::Directory)
            != (point.kind() == crate::fs::types::FileType::Directory)
        {
            return Err(Errno::NOTDIR.into());
        }
        let kept = MountFlags { readonly: from.mount.is_readonly(), ..options.flags.clone() };
        boot::bind(&at.fs, &from, point, &kept);
    } else if flags & MS_MOVE != 0 {
        return Err(Errno::INVAL.into());
    } else {
        let (kind, source) = (optional(cx, kind)?, optional(cx, source)?);
        boot::mount_kind(&at.fs, point, &kind, &source, &options)?;
    }
    Ok(0)
}

pub(super) fn sys_umount2(cx: &mut Cx<'_>, target: u64, flags: u32) -> SysResult {
    const NOFOLLOW: u32 = 8;
    const KNOWN: u32 = 0xf;
    let creds = cx.creds();
    if !creds.has_cap(CAP_SYS_ADMIN) {
        return Err(Errno::PERM.into());
    }
    if flags & !KNOWN != 0 {
        return Err(Errno::INVAL.into());
    }
    let at = At::new(cx, AT_FDCWD, target, 0)?;
    let place = at.find(&creds, flags & NOFOLLOW == 0)?;
    at.fs.vfs.unmount(&place)?;
    Ok(0)
}

/// Calls whose answer is always the same.
pub(super) fn sys_not_here(_cx: &mut Cx<'_>) -> SysResult {
    Err(Errno::NOSYS.into())
}
