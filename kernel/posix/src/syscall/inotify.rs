// SPDX-License-Identifier: Apache-2.0
//! inotify.

use super::{
    event::give,
    file::get,
    path::{AT_FDCWD, At},
};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::{
        notify::{
            ALL_EVENTS, DONT_FOLLOW, EXCL_UNLINK, ISDIR, Inotify, MASK_ADD, MASK_CREATE, ONESHOT,
            ONLYDIR,
        },
        permission::{self, READ},
        types::{FileType, OpenFlags},
    },
};

pub(super) fn sys_inotify_init(cx: &mut Cx<'_>) -> SysResult {
    sys_inotify_init1(cx, 0)
}

pub(super) fn sys_inotify_init1(cx: &mut Cx<'_>, flags: u32) -> SysResult {
    if flags & !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).bits() != 0 {
        return Err(Errno::INVAL.into());
    }
    let table = cx.fs().lock().vfs.notify.clone();
    give(cx, Inotify::new(&table), "anon_inode:inotify", flags)
}

fn with_inotify<R>(
    cx: &Cx<'_>,
    fd: i32,
    act: impl FnOnce(&Inotify) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let file = get(cx, fd)?;
    act(file.ops().as_any().downcast_ref::<Inotify>().ok_or(Errno::INVAL)?)
}

pub(super) fn sys_inotify_add_watch(cx: &mut Cx<'_>, fd: i32, path: u64, mask: u32) -> SysResult {
    let known = ALL_EVENTS
        | ONLYDIR
        | DONT_FOLLOW
        | EXCL_UNLINK
        | MASK_CREATE
        | MASK_ADD
        | ISDIR
        | ONESHOT
        // IN_UNMOUNT, IN_Q_OVERFLOW and IN_IGNORED come unasked, but may be asked for.
        | 0xe000;
    let contradicts = mask & MASK_ADD != 0 && mask & MASK_CREATE != 0;
    if mask & !known != 0 || mask & ALL_EVENTS == 0 || contradicts {
        return Err(Errno::INVAL.into());
    }
    with_inotify(cx, fd, |_| Ok(()))?;
    let creds = cx.creds();
    let place = At::new(cx, AT_FDCWD, path, 0)?.find(&creds, mask & DONT_FOLLOW == 0)?;
    permission::check_place(&place, &creds, READ)?;
    let attr = place.attr();
    if mask & ONLYDIR != 0 && attr.kind != FileType::Directory {
        return Err(Errno::NOTDIR.into());
    }
    Ok(with_inotify(cx, fd, |inotify| inotify.watch(&attr, mask))? as u64)
}

pub(super) fn sys_inotify_rm_watch(cx: &mut Cx<'_>, fd: i32, descriptor: i32) -> SysResult {
    with_inotify(cx, fd, |inotify| inotify.unwatch(descriptor))?;
    Ok(0)
}
