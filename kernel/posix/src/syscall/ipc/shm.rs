// SPDX-License-Identifier: Apache-2.0
//! Shared memory segments.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};

use super::{IPC_64, IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, Object, Perm, READ, WRITE, now, put};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    mm::{AreaKind, MapRequest, PAGE_SIZE, Placement, Protection, SharedMemory},
    process::creds::CAP_IPC_LOCK,
};

const SEGMENTS_MAX: usize = 4096;
/// kernel.shmmax.
const BYTES_MAX: u64 = 0xffff_ffff_feff_ffff;
const SHM_HUGETLB: u32 = 0o4000;
const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100000;
const SHM_LOCK: u32 = 11;
const SHM_UNLOCK: u32 = 12;
const SHM_STAT: u32 = 13;
const SHM_INFO: u32 = 14;
const SHM_STAT_ANY: u32 = 15;
/// Bits of the mode: it goes with its last user; it is locked.
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;
/// What /proc/self/maps shows.
const NAME: &str = "/SYSV00000000 (deleted)";

/// The pages: kept by the segment until it is removed, then only by those who have it mapped.
#[derive(Debug)]
enum Memory {
    Held(Arc<SharedMemory>),
    Doomed(Weak<SharedMemory>),
}

/// A segment.
#[derive(Debug)]
pub(crate) struct Segment {
    perm: Perm,
    bytes: u64,
    memory: Memory,
    attached: i64,
    detached: i64,
    changed: i64,
    creator: u32,
    last: u32,
}

impl Segment {
    fn memory(&self) -> Option<Arc<SharedMemory>> {
        match &self.memory {
            Memory::Held(memory) => Some(memory.clone()),
            Memory::Doomed(memory) => memory.upgrade(),
        }
    }

    /// How many areas of all memories map it.
    fn users(&self) -> usize {
        match &self.memory {
            Memory::Held(memory) => Arc::strong_count(memory) - 1,
            Memory::Doomed(memory) => memory.strong_count(),
        }
    }

    fn pages(&self) -> u64 {
        self.bytes.div_ceil(PAGE_SIZE)
    }

    /// struct shmid64_ds.
    fn encode(&self) -> [u8; 112] {
        let mut raw = [0; 112];
        self.perm.encode(&mut raw[..48]);
        put(&mut raw, 48, self.bytes);
        for (at, time) in [(56, self.attached), (64, self.detached), (72, self.changed)] {
            put(&mut raw, at, time.cast_unsigned());
        }
        put(&mut raw, 80, u64::from(self.creator) | u64::from(self.last) << 32);
        put(&mut raw, 88, self.users() as u64);
        raw
    }
}

impl Object for Segment {
    fn perm(&self) -> &Perm {
        &self.perm
    }

    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }

    fn is_gone(&self) -> bool {
        matches!(self.memory, Memory::Doomed(_)) && self.users() == 0
    }

    fn has_key(&self) -> bool {
        matches!(self.memory, Memory::Held(_))
    }
}

pub(in crate::syscall) fn sys_shmget(
    cx: &mut Cx<'_>,
    key: i32,
    bytes: u64,
    flags: u32,
) -> SysResult {
    if flags & SHM_HUGETLB != 0 {
        // No pages are set aside for that.
        return Err(Errno::NOMEM.into());
    }
    let ram = cx.kernel.services.arena.ram_bytes();
    let (pid, time) = (cx.task.process.pid, now(cx));
    let mut segments = core::mem::take(&mut cx.kernel.ipc.segments);
    let id = segments.get(
        cx,
        key,
        flags,
        SEGMENTS_MAX,
        |found| if bytes > found.bytes { Err(Errno::INVAL) } else { Ok(()) },
        |perm| {
            if bytes == 0 || bytes > BYTES_MAX {
                return Err(Errno::INVAL);
            }
            if bytes > ram {
                return Err(Errno::NOMEM);
            }
            Ok(Segment {
                perm,
                bytes,
                memory: Memory::Held(SharedMemory::new()),
                attached: 0,
                detached: 0,
                changed: time,
                creator: pid,
                last: 0,
            })
        },
    );
    cx.kernel.ipc.segments = segments;
    Ok(id? as u64)
}

pub(in crate::syscall) fn sys_shmat(
    cx: &mut Cx<'_>,
    id: i32,
    address: u64,
    flags: u32,
) -> SysResult {
    let creds = cx.creds();
    let (time, pid) = (now(cx), cx.task.process.pid);
    let mm = cx.mm();
    let segment = cx.kernel.ipc.segments.find(id)?;
    let read_only = flags & SHM_RDONLY != 0;
    segment.perm.check(&creds, if read_only { READ } else { READ | WRITE })?;
    let memory = segment.memory().ok_or(Errno::IDRM)?;
    let placement = match address {
        0 if flags & SHM_REMAP != 0 => return Err(Errno::INVAL.into()),
        0 => Placement::Hint(0),
        address => {
            let rounds = flags & SHM_RND != 0;
            let at = if rounds { address & !(PAGE_SIZE - 1) } else { address };
            if !at.is_multiple_of(PAGE_SIZE) {
                return Err(Errno::INVAL.into());
            }
            if flags & SHM_REMAP != 0 { Placement::Fixed(at) } else { Placement::FixedIfFree(at) }
        }
    };
    let protection = Protection { read: true, write: !read_only, execute: flags & SHM_EXEC != 0 };
    let kind = AreaKind::SharedAnonymous(memory, 0);
    let mut request = MapRequest::new(placement, segment.bytes, protection, kind);
    request.name = NAME;
    let start = mm.map(request).map_err(|errno| match errno {
        Errno::EXIST | Errno::PERM => Errno::INVAL,
        other => other,
    })?;
    (segment.attached, segment.last) = (time, pid);
    Ok(start)
}

pub(in crate::syscall) fn sys_shmdt(cx: &mut Cx<'_>, address: u64) -> SysResult {
    let mm = cx.mm();
    let first = mm.areas.lock().find(address).cloned().ok_or(Errno::INVAL)?;
    let AreaKind::SharedAnonymous(memory, 0) = &first.kind else {
        return Err(Errno::INVAL.into());
    };
    if first.start != address || first.name != NAME {
        return Err(Errno::INVAL.into());
    }
    // It may be in several pieces by now (mprotect), with others between them.
    let pieces: Vec<(u64, u64)> = mm
        .areas
        .lock()
        .iter()
        .filter(|area| match &area.kind {
            AreaKind::SharedAnonymous(other, page) => {
                Arc::ptr_eq(memory, other)
                    && area.start >= address
                    && *page == (area.start - address) / PAGE_SIZE
            }
            _ => false,
        })
        .map(|area| (area.start, area.end - area.start))
        .collect();
    for (start, bytes) in pieces {
        mm.unmap(start, bytes)?;
    }
    let (time, pid) = (now(cx), cx.task.process.pid);
    let segment = cx
        .kernel
        .ipc
        .segments
        .iter_mut()
        .find(|segment| segment.memory().is_some_and(|own| Arc::ptr_eq(&own, memory)));
    if let Some(segment) = segment {
        (segment.detached, segment.last) = (time, pid);
    }
    Ok(0)
}

pub(in crate::syscall) fn sys_shmctl(cx: &mut Cx<'_>, id: i32, command: u32, at: u64) -> SysResult {
    let creds = cx.creds();
    let time = now(cx);
    match command & !IPC_64 {
        IPC_STAT => {
            let segment = cx.kernel.ipc.segments.find(id)?;
            segment.perm.check(&creds, READ)?;
            let raw = segment.encode();
            cx.write_bytes(at, &raw)?;
            Ok(0)
        }
        command @ (SHM_STAT | SHM_STAT_ANY) => {
            let (found, segment) = cx.kernel.ipc.segments.at(id)?;
            if command == SHM_STAT {
                segment.perm.check(&creds, READ)?;
            }
            let raw = segment.encode();
            cx.write_bytes(at, &raw)?;
            Ok(found as u64)
        }
        IPC_SET => {
            let mut raw = [0; 48];
            cx.read_bytes(at, &mut raw)?;
            let segment = cx.kernel.ipc.segments.find(id)?;
            segment.perm.check_owner(&creds)?;
            segment.perm.set(&raw);
            segment.changed = time;
            Ok(0)
        }
        IPC_RMID => {
            let segment = cx.kernel.ipc.segments.find(id)?;
            segment.perm.check_owner(&creds)?;
            if let Memory::Held(memory) = &segment.memory {
                segment.memory = Memory::Doomed(Arc::downgrade(memory));
                segment.perm.mode |= SHM_DEST;
            }
            Ok(0)
        }
        command @ (SHM_LOCK | SHM_UNLOCK) => {
            let segment = cx.kernel.ipc.segments.find(id)?;
            if !creds.has_cap(CAP_IPC_LOCK) {
                segment.perm.check_owner(&creds)?;
            }
            // Nothing is ever swapped out.
            segment.perm.mode &= !SHM_LOCKED;
            segment.perm.mode |= if command == SHM_LOCK { SHM_LOCKED } else { 0 };
            Ok(0)
        }
        IPC_INFO => {
            let mut raw = [0; 72];
            for (index, value) in
                [BYTES_MAX, 1, SEGMENTS_MAX as u64, SEGMENTS_MAX as u64, BYTES_MAX]
                    .into_iter()
                    .enumerate()
            {
                put(&mut raw, index * 8, value);
            }
            cx.write_bytes(at, &raw)?;
            Ok(cx.kernel.ipc.segments.highest())
        }
        SHM_INFO => {
            let mut raw = [0; 48];
            let segments = &cx.kernel.ipc.segments;
            put(&mut raw, 0, segments.iter().count() as u64);
            put(&mut raw, 8, segments.iter().map(Segment::pages).sum());
            let resident = segments.iter().filter_map(Segment::memory).map(|memory| memory.pages());
            put(&mut raw, 16, resident.sum());
            cx.write_bytes(at, &raw)?;
            Ok(cx.kernel.ipc.segments.highest())
        }
        _ => Err(Errno::INVAL.into()),
    }
}
