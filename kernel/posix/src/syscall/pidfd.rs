// SPDX-License-Identifier: Apache-2.0
//! Process descriptors.

use alloc::sync::Arc;

use super::{
    event::give as give_event,
    file::get,
    path::install,
    signal::{own_info, queued_info, send},
};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::{event::PidFd, proc::process, types::OpenFlags},
    process::{
        Process,
        access::may_trace,
        signal::{SI_USER, SIGNAL_MAX},
    },
};

const CLOEXEC: u32 = OpenFlags::CLOEXEC.bits();
const NONBLOCK: u32 = OpenFlags::NONBLOCK.bits();
const NAME: &str = "anon_inode:[pidfd]";

/// Gives the caller a descriptor for a process, and stores its number (CLONE_PIDFD).
pub(super) fn give(cx: &Cx<'_>, process: &Arc<Process>, at: u64) -> Result<(), Errno> {
    let fd = give_event(cx, Arc::new(PidFd::new(process.clone())), NAME, CLOEXEC);
    // Nothing in it waits.
    let fd = fd.map_err(|_| Errno::MFILE)?;
    if let Err(errno) = cx.write_u32(at, fd as u32) {
        let closed = cx.files().lock().close(fd as i32);
        drop(closed);
        return Err(errno);
    }
    Ok(())
}

/// The process of a descriptor, and whether calls on it block.
pub(super) fn process_of(cx: &Cx<'_>, fd: i32) -> Result<(Arc<Process>, bool), Errno> {
    let file = get(cx, fd)?;
    let ops = file.ops().as_any().downcast_ref::<PidFd>().ok_or(Errno::BADF)?;
    Ok((ops.process().clone(), file.blocks()))
}

pub(super) fn sys_pidfd_open(cx: &mut Cx<'_>, pid: i32, flags: u32) -> SysResult {
    if pid <= 0 || flags & !NONBLOCK != 0 {
        return Err(Errno::INVAL.into());
    }
    let registry = &cx.kernel.services.registry;
    let id = pid.unsigned_abs();
    let process = registry.process(id).ok_or_else(|| match registry.task(id) {
        // A thread that does not lead its process.
        Some(_) => Errno::INVAL,
        None => Errno::SRCH,
    })?;
    give_event(cx, Arc::new(PidFd::new(process)), NAME, flags | CLOEXEC)
}

pub(super) fn sys_pidfd_send_signal(
    cx: &mut Cx<'_>,
    fd: i32,
    signal: u32,
    info_at: u64,
    flags: u32,
) -> SysResult {
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    let process = match process::of_inode(get(cx, fd)?.inode().as_ref()) {
        Some(process) => process,
        None => process_of(cx, fd)?.0,
    };
    if signal > SIGNAL_MAX {
        return Err(Errno::INVAL.into());
    }
    let info = if info_at == 0 {
        own_info(cx, signal, SI_USER)
    } else {
        if cx.read_u32(info_at)? != signal {
            return Err(Errno::INVAL.into());
        }
        queued_info(cx, process.pid.cast_signed(), signal, info_at)?
    };
    // Its id may be somebody else's by now.
    let known = cx.kernel.services.registry.process(process.pid);
    if !known.is_some_and(|known| Arc::ptr_eq(&known, &process)) {
        return Err(Errno::SRCH.into());
    }
    send(cx, &[process], info)
}

pub(super) fn sys_pidfd_getfd(cx: &mut Cx<'_>, fd: i32, target: i32, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    let (process, _) = process_of(cx, fd)?;
    let task = process.any_thread().ok_or(Errno::SRCH)?;
    if !may_trace(&cx.task, &process) {
        return Err(Errno::PERM.into());
    }
    let files = task.files().ok_or(Errno::SRCH)?;
    let file = files.lock().get(target)?;
    Ok(install(cx, file, true)?)
}
