// SPDX-License-Identifier: Apache-2.0
//! Message queues.

use alloc::{collections::VecDeque, vec, vec::Vec};

use super::{
    IPC_64, IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, Object, Perm, READ, WRITE, now, put,
};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    process::creds::CAP_SYS_RESOURCE,
    wait::WaitQueue,
};

const QUEUES_MAX: usize = 32000;
/// kernel.msgmax.
const MESSAGE_MAX: u64 = 8192;
/// kernel.msgmnb.
const QUEUE_BYTES: u64 = 16384;
const MSG_NOERROR: u32 = 0o10000;
const MSG_EXCEPT: u32 = 0o20000;
const MSG_COPY: u32 = 0o40000;
const MSG_STAT: u32 = 11;
const MSG_INFO: u32 = 12;
const MSG_STAT_ANY: u32 = 13;

#[derive(Clone, Debug)]
struct Message {
    kind: i64,
    text: Vec<u8>,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    perm: Perm,
    messages: VecDeque<Message>,
    bytes: u64,
    bytes_max: u64,
    sent: i64,
    received: i64,
    changed: i64,
    last_sender: u32,
    last_receiver: u32,
    wait: WaitQueue,
}

impl Object for Queue {
    fn perm(&self) -> &Perm {
        &self.perm
    }

    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }
}

impl Queue {
    /// The place of the message that a receiver asks for.
    fn find(&self, kind: i64, flags: u32) -> Option<usize> {
        if flags & MSG_COPY != 0 {
            return usize::try_from(kind).ok().filter(|at| *at < self.messages.len());
        }
        match kind {
            0 => (!self.messages.is_empty()).then_some(0),
            kind if kind > 0 => {
                let except = flags & MSG_EXCEPT != 0;
                self.messages.iter().position(|message| (message.kind == kind) != except)
            }
            // The lowest kind up to the absolute value; the oldest of these.
            kind => {
                let highest = kind.checked_neg().unwrap_or(i64::MAX);
                let lowest =
                    self.messages.iter().map(|m| m.kind).min().filter(|k| *k <= highest)?;
                self.messages.iter().position(|message| message.kind == lowest)
            }
        }
    }

    /// struct msqid64_ds.
    fn encode(&self) -> [u8; 120] {
        let mut raw = [0; 120];
        self.perm.encode(&mut raw[..48]);
        for (at, time) in [(48, self.sent), (56, self.received), (64, self.changed)] {
            put(&mut raw, at, time.cast_unsigned());
        }
        put(&mut raw, 72, self.bytes);
        put(&mut raw, 80, self.messages.len() as u64);
        put(&mut raw, 88, self.bytes_max);
        put(&mut raw, 96, u64::from(self.last_sender) | u64::from(self.last_receiver) << 32);
        raw
    }
}

pub(in crate::syscall) fn sys_msgget(cx: &mut Cx<'_>, key: i32, flags: u32) -> SysResult {
    let time = now(cx);
    let mut queues = core::mem::take(&mut cx.kernel.ipc.queues);
    let id = queues.get(
        cx,
        key,
        flags,
        QUEUES_MAX,
        |_| Ok(()),
        |perm| {
            Ok(Queue {
                perm,
                messages: VecDeque::new(),
                bytes: 0,
                bytes_max: QUEUE_BYTES,
                sent: 0,
                received: 0,
                changed: time,
                last_sender: 0,
                last_receiver: 0,
                wait: WaitQueue::new(),
            })
        },
    );
    cx.kernel.ipc.queues = queues;
    Ok(id? as u64)
}

/// The queue of a call that may have waited already.
fn queue<'a>(cx: &'a mut Cx<'_>, id: i32, rights: u32) -> Result<&'a mut Queue, Errno> {
    let (creds, waited) = (cx.creds(), cx.progress().value != 0);
    let queue = cx.kernel.ipc.queues.find(id);
    let queue = queue.map_err(|errno| if waited { Errno::IDRM } else { errno })?;
    queue.perm.check(&creds, rights)?;
    Ok(queue)
}

pub(in crate::syscall) fn sys_msgsnd(
    cx: &mut Cx<'_>,
    id: i32,
    at: u64,
    bytes: u64,
    flags: u32,
) -> SysResult {
    let kind = cx.read_u64(at)?.cast_signed();
    if bytes > MESSAGE_MAX || kind < 1 || id < 0 {
        return Err(Errno::INVAL.into());
    }
    let mut text = vec![0; bytes as usize];
    cx.read_bytes(at.wrapping_add(8), &mut text)?;
    let (time, pid, ticket) = (now(cx), cx.task.process.pid, cx.ticket());
    let queue = queue(cx, id, WRITE)?;
    let fits =
        queue.bytes + bytes <= queue.bytes_max && (queue.messages.len() as u64) < queue.bytes_max;
    if !fits {
        if flags & IPC_NOWAIT != 0 {
            return Err(Errno::AGAIN.into());
        }
        queue.wait.add(&ticket);
        cx.progress().value = 1;
        return Err(cx.block(None, Restart::Never));
    }
    queue.bytes += bytes;
    queue.messages.push_back(Message { kind, text });
    (queue.sent, queue.last_sender) = (time, pid);
    queue.wait.wake_all();
    Ok(0)
}

pub(in crate::syscall) fn sys_msgrcv(
    cx: &mut Cx<'_>,
    id: i32,
    at: u64,
    bytes: u64,
    kind: i64,
    flags: u32,
) -> SysResult {
    let copies = flags & MSG_COPY != 0;
    let bad_copy = copies && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0);
    if bytes > i64::MAX.cast_unsigned() || id < 0 || bad_copy {
        return Err(Errno::INVAL.into());
    }
    let (time, pid, ticket) = (now(cx), cx.task.process.pid, cx.ticket());
    let queue = queue(cx, id, READ)?;
    let Some(place) = queue.find(kind, flags) else {
        if flags & IPC_NOWAIT != 0 {
            return Err(Errno::NOMSG.into());
        }
        queue.wait.add(&ticket);
        cx.progress().value = 1;
        return Err(cx.block(None, Restart::Never));
    };
    let long = queue.messages.get(place).is_some_and(|m| m.text.len() as u64 > bytes);
    if long && flags & MSG_NOERROR == 0 {
        return Err(Errno::TOO_BIG.into());
    }
    let message =
        if copies { queue.messages.get(place).cloned() } else { queue.messages.remove(place) };
    let message = message.ok_or(Errno::NOMSG)?;
    if !copies {
        queue.bytes -= message.text.len() as u64;
        (queue.received, queue.last_receiver) = (time, pid);
        queue.wait.wake_all();
    }
    let given = message.text.len().min(bytes as usize);
    cx.write_u64(at, message.kind.cast_unsigned())?;
    cx.write_bytes(at.wrapping_add(8), &message.text[..given])?;
    Ok(given as u64)
}

pub(in crate::syscall) fn sys_msgctl(cx: &mut Cx<'_>, id: i32, command: u32, at: u64) -> SysResult {
    let (creds, time) = (cx.creds(), now(cx));
    match command & !IPC_64 {
        IPC_STAT => {
            let queue = cx.kernel.ipc.queues.find(id)?;
            queue.perm.check(&creds, READ)?;
            let raw = queue.encode();
            cx.write_bytes(at, &raw)?;
            Ok(0)
        }
        command @ (MSG_STAT | MSG_STAT_ANY) => {
            let (found, queue) = cx.kernel.ipc.queues.at(id)?;
            if command == MSG_STAT {
                queue.perm.check(&creds, READ)?;
            }
            let raw = queue.encode();
            cx.write_bytes(at, &raw)?;
            Ok(found as u64)
        }
        IPC_SET => {
            let mut raw = [0; 96];
            cx.read_bytes(at, &mut raw)?;
            let bytes_max =
                raw[88..96].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            let queue = cx.kernel.ipc.queues.find(id)?;
            queue.perm.check_owner(&creds)?;
            if bytes_max > QUEUE_BYTES && !creds.has_cap(CAP_SYS_RESOURCE) {
                return Err(Errno::PERM.into());
            }
            queue.perm.set(&raw[..48]);
            queue.bytes_max = bytes_max;
            queue.changed = time;
            queue.wait.wake_all();
            Ok(0)
        }
        IPC_RMID => {
            cx.kernel.ipc.queues.find(id)?.perm.check_owner(&creds)?;
            cx.kernel.ipc.queues.remove(id)?.wait.wake_all();
            Ok(0)
        }
        command @ (IPC_INFO | MSG_INFO) => {
            let queues = &cx.kernel.ipc.queues;
            let (mut pool, mut map, mut total) = (QUEUES_MAX as u32 * 16, 16384, 16384);
            if command == MSG_INFO {
                pool = queues.iter().count() as u32;
                map = queues.iter().map(|queue| queue.messages.len() as u32).sum();
                total = queues.iter().map(|queue| queue.bytes as u32).sum();
            }
            let (message, bytes) = (MESSAGE_MAX as u32, QUEUE_BYTES as u32);
            let words = [pool, map, message, bytes, QUEUES_MAX as u32, 16, total, 0xffff];
            let raw: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            cx.write_bytes(at, &raw)?;
            Ok(cx.kernel.ipc.queues.highest())
        }
        _ => Err(Errno::INVAL.into()),
    }
}
