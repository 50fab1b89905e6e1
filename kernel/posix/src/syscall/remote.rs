// SPDX-License-Identifier: Apache-2.0
//! Calls on the memory of another process.

use alloc::{vec, vec::Vec};

use super::{memory::advise, pidfd::process_of};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    mm::MmRef,
    process::access::may_trace,
};

/// Bytes that are copied at a time.
const CHUNK: usize = 16384;

/// The memory of a process that the caller may look into.
fn memory(cx: &Cx<'_>, pid: i32) -> Result<MmRef, Errno> {
    let pid = u32::try_from(pid).map_err(|_| Errno::SRCH)?;
    let task = cx.kernel.services.registry.task(pid).ok_or(Errno::SRCH)?;
    if !may_trace(&cx.task, &task.process) {
        return Err(Errno::PERM);
    }
    task.mm().ok_or(Errno::SRCH)
}

/// Copies between two lists of ranges; returns how many bytes until something could not be reached.
fn copy(from: (&MmRef, Vec<(u64, usize)>), to: (&MmRef, Vec<(u64, usize)>)) -> Result<u64, Errno> {
    let (mut sources, mut targets) = (from.1.into_iter(), to.1.into_iter());
    let (mut source, mut target) = ((0, 0), (0, 0));
    let mut done = 0;
    let mut buffer = vec![0; CHUNK];
    loop {
        while source.1 == 0 {
            let Some(next) = sources.next() else { return Ok(done) };
            source = next;
        }
        while target.1 == 0 {
            let Some(next) = targets.next() else { return Ok(done) };
            target = next;
        }
        // Not over a page: what was copied before one that is not there counts.
        let to_end = |address: u64| (4096 - address % 4096) as usize;
        let part = source.1.min(target.1).min(to_end(source.0)).min(to_end(target.0)).min(CHUNK);
        let moved = from.0.read_bytes(source.0, &mut buffer[..part]);
        let moved = moved.and_then(|()| to.0.write_bytes(target.0, &buffer[..part]));
        match moved {
            Ok(()) => {}
            Err(_) if done > 0 => return Ok(done),
            Err(errno) => return Err(errno),
        }
        done += part as u64;
        source = (source.0.wrapping_add(part as u64), source.1 - part);
        target = (target.0.wrapping_add(part as u64), target.1 - part);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    FromRemote,
    ToRemote,
}

fn transfer(
    cx: &mut Cx<'_>,
    pid: i32,
    (local, local_count): (u64, usize),
    (remote, remote_count): (u64, usize),
    flags: u64,
    direction: Direction,
) -> SysResult {
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    let local = cx.read_iovec(local, local_count)?;
    let remote = cx.read_iovec(remote, remote_count)?;
    let (other, own) = (memory(cx, pid)?, cx.mm());
    other.use_own_text();
    Ok(match direction {
        Direction::FromRemote => copy((&other, remote), (&own, local)),
        Direction::ToRemote => copy((&own, local), (&other, remote)),
    }?)
}

pub(super) fn sys_process_vm_readv(
    cx: &mut Cx<'_>,
    pid: i32,
    local: u64,
    local_count: usize,
    remote: u64,
    remote_count: usize,
    flags: u64,
) -> SysResult {
    transfer(cx, pid, (local, local_count), (remote, remote_count), flags, Direction::FromRemote)
}

pub(super) fn sys_process_vm_writev(
    cx: &mut Cx<'_>,
    pid: i32,
    local: u64,
    local_count: usize,
    remote: u64,
    remote_count: usize,
    flags: u64,
) -> SysResult {
    transfer(cx, pid, (local, local_count), (remote, remote_count), flags, Direction::ToRemote)
}

pub(super) fn sys_process_madvise(
    cx: &mut Cx<'_>,
    pidfd: i32,
    iov: u64,
    count: usize,
    advice: u32,
    flags: u32,
) -> SysResult {
    /// WILLNEED, COLD, PAGEOUT, COLLAPSE: what cannot destroy anything.
    const ALLOWED: [u32; 4] = [3, 20, 21, 25];
    if flags != 0 || !ALLOWED.contains(&advice) {
        return Err(Errno::INVAL.into());
    }
    let ranges = cx.read_iovec(iov, count)?;
    let (process, _) = process_of(cx, pidfd)?;
    if !may_trace(&cx.task, &process) {
        return Err(Errno::PERM.into());
    }
    let mm = process.any_thread().and_then(|task| task.mm()).ok_or(Errno::SRCH)?;
    let mut done = 0;
    for (start, bytes) in ranges {
        advise(&mm, start, bytes as u64, advice)?;
        done += bytes as u64;
    }
    Ok(done)
}
