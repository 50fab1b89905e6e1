// SPDX-License-Identifier: Apache-2.0
//! POSIX message queues.

use alloc::{sync::Arc, vec, vec::Vec};

use super::{file::get, path::install};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    fs::{
        File,
        mqueue::{DEFAULTS, Notify, OpenQueue, Queue, QueueInode},
        permission::{self, READ, WRITE},
        types::OpenFlags,
    },
    process::{
        creds::CAP_SYS_RESOURCE,
        group::RLIMIT_MSGQUEUE,
        signal::{SI_MESGQ, SIGNAL_MAX, SigInfo},
    },
    syscall::time::read_timespec,
    wait::Ticket,
};

const NAME_MAX: usize = 255;
const PRIORITY_MAX: u32 = 32768;
/// What anybody may ask for: messages, bytes of one (fs.mqueue.msg_max, msgsize_max).
const LIMITS: (u64, u64) = (10, 8192);
/// What CAP_SYS_RESOURCE may ask for.
const HARD_LIMITS: (u64, u64) = (65536, 16 << 20);
const SIGEV_SIGNAL: u32 = 0;
const SIGEV_NONE: u32 = 1;

fn read_name(cx: &Cx<'_>, at: u64) -> Result<Vec<u8>, Errno> {
    let name = cx.read_string(at, NAME_MAX + 1)?;
    if name.is_empty() {
        return Err(Errno::NOENT);
    }
    if name.contains(&b'/') || name == b"." || name == b".." {
        return Err(Errno::ACCES);
    }
    Ok(name)
}

fn read_limits(cx: &Cx<'_>, at: u64) -> Result<(u64, u64), Errno> {
    if at == 0 {
        return Ok(DEFAULTS);
    }
    let (count, bytes) = (cx.read_u64(at.wrapping_add(8))?, cx.read_u64(at.wrapping_add(16))?);
    let max = if cx.creds().has_cap(CAP_SYS_RESOURCE) { HARD_LIMITS } else { LIMITS };
    let good = (1..=max.0).contains(&count) && (1..=max.1).contains(&bytes);
    if good { Ok((count, bytes)) } else { Err(Errno::INVAL) }
}

pub(super) fn sys_mq_open(
    cx: &mut Cx<'_>,
    name_at: u64,
    flags: u32,
    mode: u32,
    attr_at: u64,
) -> SysResult {
    let name = read_name(cx, name_at)?;
    let flags = OpenFlags::from_bits_retain(flags);
    let (creds, fs) = (cx.creds(), cx.fs().lock().clone());
    let queues = &fs.vfs.queues;
    let queue = match queues.find(&name) {
        Ok(_) if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) => {
            return Err(Errno::EXIST.into());
        }
        Ok(queue) => {
            let wanted =
                if flags.reads() { READ } else { 0 } | if flags.writes() { WRITE } else { 0 };
            let inode = QueueInode::of(queue.clone());
            permission::check(&inode.attr(), &creds, wanted)?;
            queue
        }
        Err(_) if flags.contains(OpenFlags::CREAT) => {
            let limits = read_limits(cx, attr_at)?;
            let mode = mode & 0o777 & !fs.umask;
            let room = cx.process().limits.lock().soft(RLIMIT_MSGQUEUE);
            queues.make(&name, mode, &creds, limits, room)?
        }
        Err(errno) => return Err(errno.into()),
    };
    let place = fs.vfs.nameless(QueueInode::of(queue.clone()), &[b"/", &name[..]].concat());
    let kept = flags & (OpenFlags::WRONLY | OpenFlags::RDWR | OpenFlags::NONBLOCK);
    let file = File::new(&fs.vfs, place, Arc::new(OpenQueue(queue)), kept);
    Ok(install(cx, file, true)?)
}

pub(super) fn sys_mq_unlink(cx: &mut Cx<'_>, name_at: u64) -> SysResult {
    let name = read_name(cx, name_at)?;
    let vfs = cx.fs().lock().vfs.clone();
    vfs.queues.unlink(&name, &cx.creds())?;
    Ok(0)
}

/// The queue of a descriptor, its flags, and when a call on it gives up.
fn open_queue(
    cx: &mut Cx<'_>,
    fd: i32,
    timeout_at: u64,
) -> Result<(Arc<Queue>, OpenFlags, Option<u64>), Errno> {
    let file = get(cx, fd)?;
    let ops = file.ops().as_any().downcast_ref::<OpenQueue>().ok_or(Errno::BADF)?;
    let deadline = if timeout_at == 0 {
        None
    } else {
        let offset = cx.kernel.services.realtime_offset_ns;
        Some(read_timespec(cx, timeout_at)?.saturating_sub(offset))
    };
    Ok((ops.0.clone(), file.flags(), deadline))
}

/// Waits, unless the descriptor or the time says otherwise.
fn wait(
    cx: &mut Cx<'_>,
    flags: OpenFlags,
    deadline: Option<u64>,
    add_fn: impl FnOnce(&Ticket),
) -> SysResult {
    if flags.contains(OpenFlags::NONBLOCK) {
        return Err(Errno::AGAIN.into());
    }
    if deadline.is_some_and(|at| at <= cx.kernel.services.monotonic_ns()) {
        return Err(Errno::TIMEDOUT.into());
    }
    add_fn(&cx.ticket());
    Err(cx.block(deadline, Restart::Always))
}

pub(super) fn sys_mq_timedsend(
    cx: &mut Cx<'_>,
    fd: i32,
    text_at: u64,
    bytes: u64,
    priority: u32,
    timeout_at: u64,
) -> SysResult {
    if priority >= PRIORITY_MAX {
        return Err(Errno::INVAL.into());
    }
    let (queue, flags, deadline) = open_queue(cx, fd, timeout_at)?;
    if !flags.writes() {
        return Err(Errno::BADF.into());
    }
    if bytes > queue.bytes_max {
        return Err(Errno::MSGSIZE.into());
    }
    let mut text = vec![0; bytes as usize];
    cx.read_bytes(text_at, &mut text)?;
    let told = match queue.send(priority, text) {
        Err(_) => return wait(cx, flags, deadline, |ticket| queue.wait_for_room(ticket)),
        Ok(told) => told,
    };
    if let Some(notify) = told.filter(|notify| notify.signal != 0)
        && let Some(process) = notify.process.upgrade()
    {
        let (pid, uid) = (cx.task.process.pid, cx.creds().uid);
        let info = SigInfo::queued(notify.signal, SI_MESGQ, pid, uid, notify.value);
        cx.kernel.signal_process(&process, info);
    }
    Ok(0)
}

pub(super) fn sys_mq_timedreceive(
    cx: &mut Cx<'_>,
    fd: i32,
    text_at: u64,
    bytes: u64,
    priority_at: u64,
    timeout_at: u64,
) -> SysResult {
    let (queue, flags, deadline) = open_queue(cx, fd, timeout_at)?;
    if !flags.reads() {
        return Err(Errno::BADF.into());
    }
    if bytes < queue.bytes_max {
        return Err(Errno::MSGSIZE.into());
    }
    match queue.receive() {
        Err(_) => wait(cx, flags, deadline, |ticket| queue.wait_for_message(ticket)),
        Ok((priority, text)) => {
            cx.write_bytes(text_at, &text)?;
            if priority_at != 0 {
                cx.write_u32(priority_at, priority)?;
            }
            Ok(text.len() as u64)
        }
    }
}

pub(super) fn sys_mq_notify(cx: &mut Cx<'_>, fd: i32, event_at: u64) -> SysResult {
    let notify = if event_at == 0 {
        None
    } else {
        let value = cx.read_u64(event_at)?;
        let signal = cx.read_u32(event_at.wrapping_add(8))?;
        let signal = match cx.read_u32(event_at.wrapping_add(12))? {
            SIGEV_NONE => 0,
            SIGEV_SIGNAL if (1..=SIGNAL_MAX).contains(&signal) => signal,
            // SIGEV_THREAD comes as a netlink socket that the C library listens on.
            _ => return Err(Errno::INVAL.into()),
        };
        Some(Notify { process: Arc::downgrade(&cx.task.process), signal, value })
    };
    let (queue, _, _) = open_queue(cx, fd, 0)?;
    queue.set_notify(&cx.process(), notify)?;
    Ok(0)
}

pub(super) fn sys_mq_getsetattr(cx: &mut Cx<'_>, fd: i32, new_at: u64, old_at: u64) -> SysResult {
    let (queue, flags, _) = open_queue(cx, fd, 0)?;
    let nonblock = u64::from(OpenFlags::NONBLOCK.bits());
    let old = [u64::from(flags.bits()) & nonblock, queue.count_max, queue.bytes_max, queue.count()];
    if new_at != 0 {
        let new = cx.read_u64(new_at)?;
        if new & !nonblock != 0 {
            return Err(Errno::INVAL.into());
        }
        let mut flags = flags;
        flags.set(OpenFlags::NONBLOCK, new != 0);
        get(cx, fd)?.set_flags(flags);
    }
    if old_at != 0 {
        let mut raw = [0; 64];
        for (slot, word) in raw.chunks_exact_mut(8).zip(old) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        cx.write_bytes(old_at, &raw)?;
    }
    Ok(0)
}
