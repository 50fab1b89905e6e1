// SPDX-License-Identifier: Apache-2.0
//! Semaphore sets.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use super::{
    IPC_64, IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, Object, Perm, READ, WRITE, now, put,
};
use crate::{
    Errno, Kernel,
    cx::{Cx, Restart, SysResult},
    syscall::time::read_timespec,
    wait::Ticket,
};

const SETS_MAX: usize = 32000;
const SEMS_MAX: usize = 32000;
const OPS_MAX: u64 = 500;
const VALUE_MAX: i32 = 32767;
const SEM_UNDO: u32 = 0x1000;
const GETPID: u32 = 11;
const GETVAL: u32 = 12;
const GETALL: u32 = 13;
const GETNCNT: u32 = 14;
const GETZCNT: u32 = 15;
const SETVAL: u32 = 16;
const SETALL: u32 = 17;
const SEM_STAT: u32 = 18;
const SEM_INFO: u32 = 19;
const SEM_STAT_ANY: u32 = 20;

#[derive(Clone, Copy, Debug, Default)]
struct Sem {
    value: i32,
    /// Who changed it last.
    pid: u32,
}

/// Somebody who waits for a semaphore.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    index: u16,
    for_zero: bool,
}

/// A set.
#[derive(Debug)]
pub(crate) struct Set {
    perm: Perm,
    sems: Vec<Sem>,
    waiting: Vec<Waiting>,
    /// What is undone when a process ends, by process.
    undo: BTreeMap<u32, BTreeMap<u16, i32>>,
    operated: i64,
    changed: i64,
}

impl Object for Set {
    fn perm(&self) -> &Perm {
        &self.perm
    }

    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }
}

/// One operation (struct sembuf).
#[derive(Clone, Copy, Debug)]
struct Op {
    index: u16,
    change: i16,
    flags: u32,
}

/// Why operations do not happen now.
enum Obstacle {
    /// They would have to wait for this one.
    Wait(Op),
    Errno(Errno),
}

impl Set {
    /// Does all operations, or none.
    fn operate(&mut self, pid: u32, ops: &[Op]) -> Result<(), Obstacle> {
        let before = self.sems.clone();
        let mut undo = self.undo.get(&pid).cloned().unwrap_or_default();
        for op in ops {
            let Some(sem) = self.sems.get_mut(usize::from(op.index)) else {
                self.sems = before;
                return Err(Obstacle::Errno(Errno::FBIG));
            };
            let after = sem.value + i32::from(op.change);
            let waits = if op.change == 0 { sem.value != 0 } else { after < 0 };
            let obstacle = if waits {
                Some(Obstacle::Wait(*op))
            } else if after > VALUE_MAX {
                Some(Obstacle::Errno(Errno::RANGE))
            } else {
                None
            };
            if let Some(obstacle) = obstacle {
                self.sems = before;
                return Err(obstacle);
            }
            (sem.value, sem.pid) = (after, pid);
            if op.flags & SEM_UNDO != 0 {
                *undo.entry(op.index).or_default() -= i32::from(op.change);
            }
        }
        undo.retain(|_, change| *change != 0);
        if undo.is_empty() {
            self.undo.remove(&pid);
        } else {
            self.undo.insert(pid, undo);
        }
        Ok(())
    }

    fn wake(&mut self) {
        for waiting in core::mem::take(&mut self.waiting) {
            waiting.ticket.waiter.wake(waiting.ticket.generation);
        }
    }

    fn count(&self, index: u16, for_zero: bool) -> usize {
        self.waiting
            .iter()
            .filter(|waiting| waiting.index == index && waiting.for_zero == for_zero)
            .filter(|waiting| waiting.ticket.waiter.is_current(waiting.ticket.generation))
            .count()
    }

    /// struct semid64_ds.
    fn encode(&self) -> [u8; 104] {
        let mut raw = [0; 104];
        self.perm.encode(&mut raw[..48]);
        put(&mut raw, 48, self.operated.cast_unsigned());
        put(&mut raw, 64, self.changed.cast_unsigned());
        put(&mut raw, 80, self.sems.len() as u64);
        raw
    }
}

impl Kernel {
    /// Undoes what a process that ends did with SEM_UNDO.
    pub(crate) fn undo_semaphores(&mut self, pid: u32) {
        for set in self.ipc.sets.iter_mut() {
            let Some(changes) = set.undo.remove(&pid) else { continue };
            for (index, change) in changes {
                if let Some(sem) = set.sems.get_mut(usize::from(index)) {
                    sem.value = (sem.value + change).clamp(0, VALUE_MAX);
                    sem.pid = pid;
                }
            }
            set.wake();
        }
    }
}

pub(in crate::syscall) fn sys_semget(
    cx: &mut Cx<'_>,
    key: i32,
    count: i32,
    flags: u32,
) -> SysResult {
    let count = usize::try_from(count).ok().filter(|n| *n <= SEMS_MAX).ok_or(Errno::INVAL)?;
    let time = now(cx);
    let mut sets = core::mem::take(&mut cx.kernel.ipc.sets);
    let id = sets.get(
        cx,
        key,
        flags,
        SETS_MAX,
        |found| if count > found.sems.len() { Err(Errno::INVAL) } else { Ok(()) },
        |perm| {
            if count == 0 {
                return Err(Errno::INVAL);
            }
            Ok(Set {
                perm,
                sems: vec![Sem::default(); count],
                waiting: Vec::new(),
                undo: BTreeMap::new(),
                operated: 0,
                changed: time,
            })
        },
    );
    cx.kernel.ipc.sets = sets;
    Ok(id? as u64)
}

pub(in crate::syscall) fn sys_semop(cx: &mut Cx<'_>, id: i32, ops: u64, count: u64) -> SysResult {
    sys_semtimedop(cx, id, ops, count, 0)
}

pub(in crate::syscall) fn sys_semtimedop(
    cx: &mut Cx<'_>,
    id: i32,
    ops_at: u64,
    count: u64,
    timeout_at: u64,
) -> SysResult {
    if count == 0 {
        return Err(Errno::INVAL.into());
    }
    if count > OPS_MAX {
        return Err(Errno::TOO_BIG.into());
    }
    let mut raw = vec![0; count as usize * 6];
    cx.read_bytes(ops_at, &mut raw)?;
    let ops: Vec<Op> = raw
        .chunks_exact(6)
        .map(|op| Op {
            index: u16::from_le_bytes([op[0], op[1]]),
            change: i16::from_le_bytes([op[2], op[3]]),
            flags: u32::from(u16::from_le_bytes([op[4], op[5]])),
        })
        .collect();
    let waited = cx.progress().value != 0;
    if !waited && timeout_at != 0 {
        let ns = read_timespec(cx, timeout_at)?;
        let deadline = cx.kernel.services.monotonic_ns().saturating_add(ns);
        cx.progress().deadline_ns = Some(deadline);
    }
    let (creds, time, pid, ticket) = (cx.creds(), now(cx), cx.task.process.pid, cx.ticket());
    let set = match cx.kernel.ipc.sets.find(id) {
        // Removed while the caller waited for it.
        Err(_) if waited => return Err(Errno::IDRM.into()),
        found => found?,
    };
    let alters = ops.iter().any(|op| op.change != 0);
    set.perm.check(&creds, if alters { WRITE } else { READ })?;
    match set.operate(pid, &ops) {
        Ok(()) => {
            set.operated = time;
            if alters {
                set.wake();
            }
            Ok(0)
        }
        Err(Obstacle::Errno(errno)) => Err(errno.into()),
        Err(Obstacle::Wait(op)) if op.flags & IPC_NOWAIT != 0 => Err(Errno::AGAIN.into()),
        Err(Obstacle::Wait(op)) => {
            if cx.timed_out() {
                return Err(Errno::AGAIN.into());
            }
            let deadline = cx.progress().deadline_ns;
            if deadline.is_some_and(|at| at <= cx.kernel.services.monotonic_ns()) {
                return Err(Errno::AGAIN.into());
            }
            let set = cx.kernel.ipc.sets.find(id)?;
            set.waiting.retain(|w| w.ticket.waiter.is_current(w.ticket.generation));
            set.waiting.push(Waiting { ticket, index: op.index, for_zero: op.change == 0 });
            cx.progress().value = 1;
            Err(cx.block(deadline, Restart::Never))
        }
    }
}

pub(in crate::syscall) fn sys_semctl(
    cx: &mut Cx<'_>,
    id: i32,
    index: i32,
    command: u32,
    argument: u64,
) -> SysResult {
    let (creds, time, pid) = (cx.creds(), now(cx), cx.task.process.pid);
    let command = command & !IPC_64;
    match command {
        IPC_INFO | SEM_INFO => return info(cx, command, argument),
        SEM_STAT | SEM_STAT_ANY => {
            let (found, set) = cx.kernel.ipc.sets.at(id)?;
            if command == SEM_STAT {
                set.perm.check(&creds, READ)?;
            }
            let raw = set.encode();
            cx.write_bytes(argument, &raw)?;
            return Ok(found as u64);
        }
        IPC_RMID => {
            cx.kernel.ipc.sets.find(id)?.perm.check_owner(&creds)?;
            cx.kernel.ipc.sets.remove(id)?.wake();
            return Ok(0);
        }
        IPC_SET => {
            let mut raw = [0; 48];
            cx.read_bytes(argument, &mut raw)?;
            let set = cx.kernel.ipc.sets.find(id)?;
            set.perm.check_owner(&creds)?;
            set.perm.set(&raw);
            set.changed = time;
            return Ok(0);
        }
        IPC_STAT | GETALL => {
            let set = cx.kernel.ipc.sets.find(id)?;
            set.perm.check(&creds, READ)?;
            let raw: Vec<u8> = if command == IPC_STAT {
                set.encode().to_vec()
            } else {
                set.sems.iter().flat_map(|sem| (sem.value as u16).to_le_bytes()).collect()
            };
            cx.write_bytes(argument, &raw)?;
            return Ok(0);
        }
        SETALL => {
            let count = cx.kernel.ipc.sets.find(id)?.sems.len();
            let mut raw = vec![0; count * 2];
            cx.read_bytes(argument, &mut raw)?;
            let values: Vec<i32> = raw
                .chunks_exact(2)
                .map(|value| i32::from(u16::from_le_bytes([value[0], value[1]])))
                .collect();
            if values.iter().any(|value| *value > VALUE_MAX) {
                return Err(Errno::RANGE.into());
            }
            let set = cx.kernel.ipc.sets.find(id)?;
            set.perm.check(&creds, WRITE)?;
            for (sem, value) in set.sems.iter_mut().zip(values) {
                *sem = Sem { value, pid };
            }
            set.undo.clear();
            set.changed = time;
            set.wake();
            return Ok(0);
        }
        GETPID..=GETVAL | GETNCNT..=SETVAL => {}
        _ => return Err(Errno::INVAL.into()),
    }
    let set = cx.kernel.ipc.sets.find(id)?;
    set.perm.check(&creds, if command == SETVAL { WRITE } else { READ })?;
    let index = u16::try_from(index).map_err(|_| Errno::INVAL)?;
    let (none_waiting, zero_waiting) = (set.count(index, false), set.count(index, true));
    let sem = set.sems.get_mut(usize::from(index)).ok_or(Errno::INVAL)?;
    Ok(match command {
        GETPID => u64::from(sem.pid),
        GETVAL => sem.value as u64,
        GETNCNT => none_waiting as u64,
        GETZCNT => zero_waiting as u64,
        _ => {
            let value = (argument as u32).cast_signed();
            if !(0..=VALUE_MAX).contains(&value) {
                return Err(Errno::RANGE.into());
            }
            *sem = Sem { value, pid };
            for undo in set.undo.values_mut() {
                undo.remove(&index);
            }
            set.changed = time;
            set.wake();
            0
        }
    })
}

/// struct seminfo.
fn info(cx: &mut Cx<'_>, command: u32, at: u64) -> SysResult {
    let (sets, sems) = (SETS_MAX as u32, SEMS_MAX as u32);
    let total = sets * 500;
    let mut words = [total, sets, total, total, sems, OPS_MAX as u32, 500, 20, 32767, 32767];
    if command == SEM_INFO {
        let table = &cx.kernel.ipc.sets;
        words[7] = table.iter().count() as u32;
        words[9] = table.iter().map(|set| set.sems.len() as u32).sum();
    }
    let raw: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    cx.write_bytes(at, &raw)?;
    Ok(cx.kernel.ipc.sets.highest())
}
