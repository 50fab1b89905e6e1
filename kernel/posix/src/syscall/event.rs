// SPDX-License-Identifier: Apache-2.0
//! eventfd, timerfd, signalfd, epoll.

use alloc::{sync::Arc, vec::Vec};

use super::{
    file::get,
    path::install,
    poll::{deadline, mask_signals, read_span},
};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    fs::{
        FileRef,
        event::{self, Epoll, EventFd, SignalFd, TimerFd, TimerSetting, epoll::Event},
        file::FileOps,
        types::OpenFlags,
    },
    process::signal::UNBLOCKABLE,
};

const CLOEXEC: u32 = OpenFlags::CLOEXEC.bits();
const NONBLOCK: u32 = OpenFlags::NONBLOCK.bits();

/// Gives an event object a descriptor.
pub(super) fn give(cx: &Cx<'_>, ops: Arc<dyn FileOps>, name: &str, flags: u32) -> SysResult {
    let vfs = cx.fs().lock().vfs.clone();
    let kept = OpenFlags::from_bits_retain(flags & NONBLOCK);
    let file = event::file(&vfs, ops, name, kept);
    Ok(install(cx, file, flags & CLOEXEC != 0)?)
}

pub(super) fn sys_eventfd(cx: &mut Cx<'_>, count: u32) -> SysResult {
    sys_eventfd2(cx, count, 0)
}

pub(super) fn sys_eventfd2(cx: &mut Cx<'_>, count: u32, flags: u32) -> SysResult {
    const SEMAPHORE: u32 = 1;
    if flags & !(SEMAPHORE | CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let ops = Arc::new(EventFd::new(count.into(), flags & SEMAPHORE != 0));
    give(cx, ops, "anon_inode:[eventfd]", flags)
}

pub(super) fn sys_signalfd(cx: &mut Cx<'_>, fd: i32, mask: u64, bytes: u64) -> SysResult {
    sys_signalfd4(cx, fd, mask, bytes, 0)
}

pub(super) fn sys_signalfd4(
    cx: &mut Cx<'_>,
    fd: i32,
    mask: u64,
    bytes: u64,
    flags: u32,
) -> SysResult {
    if bytes != 8 || flags & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let mask = cx.read_u64(mask)? & !UNBLOCKABLE;
    if fd != -1 {
        let file = get(cx, fd)?;
        let ops = file.ops().as_any().downcast_ref::<SignalFd>().ok_or(Errno::INVAL)?;
        ops.set_mask(mask);
        return Ok(fd as u64);
    }
    let ops = Arc::new(SignalFd::new(&cx.services(), mask));
    give(cx, ops, "anon_inode:[signalfd]", flags)
}

pub(super) fn sys_timerfd_create(cx: &mut Cx<'_>, clock: u32, flags: u32) -> SysResult {
    if flags & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let realtime = match clock {
        0 => true,
        // MONOTONIC, BOOTTIME: there is no suspend.
        1 | 7 => false,
        8 | 9 => return Err(Errno::PERM.into()),
        _ => return Err(Errno::INVAL.into()),
    };
    let ops = TimerFd::new(&cx.services(), realtime);
    give(cx, ops, "anon_inode:[timerfd]", flags)
}

fn write_setting(cx: &Cx<'_>, to: u64, setting: TimerSetting) -> Result<(), Errno> {
    let now = cx.services().monotonic_ns();
    let left = setting.next_ns.map_or(0, |next| next.saturating_sub(now).max(1));
    for (at, span) in [setting.interval_ns, left].into_iter().enumerate() {
        cx.write_u64(to + at as u64 * 16, span / 1_000_000_000)?;
        cx.write_u64(to + at as u64 * 16 + 8, span % 1_000_000_000)?;
    }
    Ok(())
}

fn with_timer<R>(
    cx: &Cx<'_>,
    fd: i32,
    timer_fn: impl FnOnce(&TimerFd) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let file = get(cx, fd)?;
    timer_fn(file.ops().as_any().downcast_ref::<TimerFd>().ok_or(Errno::INVAL)?)
}

pub(super) fn sys_timerfd_settime(
    cx: &mut Cx<'_>,
    fd: i32,
    flags: u32,
    new: u64,
    old: u64,
) -> SysResult {
    const ABSTIME: u32 = 1;
    const CANCEL_ON_SET: u32 = 2;
    if flags & !(ABSTIME | CANCEL_ON_SET) != 0 {
        return Err(Errno::INVAL.into());
    }
    let interval_ns = read_span(cx, new, 1)?.ok_or(Errno::FAULT)?;
    let value = read_span(cx, new + 16, 1)?.ok_or(Errno::FAULT)?;
    let services = cx.services();
    let before = with_timer(cx, fd, |timer| {
        let before = timer.setting();
        let next = match (value, flags & ABSTIME != 0) {
            (0, _) => None,
            (value, false) => Some(services.monotonic_ns().saturating_add(value)),
            (value, true) if timer.realtime => {
                Some(value.saturating_sub(services.realtime_offset_ns).max(1))
            }
            (value, true) => Some(value),
        };
        timer.set(TimerSetting { next_ns: next, interval_ns });
        Ok(before)
    })?;
    if old != 0 {
        write_setting(cx, old, before)?;
    }
    Ok(0)
}

pub(super) fn sys_timerfd_gettime(cx: &mut Cx<'_>, fd: i32, to: u64) -> SysResult {
    let setting = with_timer(cx, fd, |timer| Ok(timer.setting()))?;
    write_setting(cx, to, setting)?;
    Ok(0)
}

pub(super) fn sys_epoll_create(cx: &mut Cx<'_>, size: i32) -> SysResult {
    if size <= 0 {
        return Err(Errno::INVAL.into());
    }
    sys_epoll_create1(cx, 0)
}

pub(super) fn sys_epoll_create1(cx: &mut Cx<'_>, flags: u32) -> SysResult {
    if flags & !CLOEXEC != 0 {
        return Err(Errno::INVAL.into());
    }
    give(cx, Epoll::new(), "anon_inode:[eventpoll]", flags)
}

fn with_epoll<R>(
    cx: &Cx<'_>,
    fd: i32,
    epoll_fn: impl FnOnce(&Epoll) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let file: FileRef = get(cx, fd)?;
    epoll_fn(file.ops().as_any().downcast_ref::<Epoll>().ok_or(Errno::INVAL)?)
}

pub(super) fn sys_epoll_ctl(
    cx: &mut Cx<'_>,
    fd: i32,
    operation: u32,
    target: i32,
    event: u64,
) -> SysResult {
    let file = get(cx, target)?;
    let event = if operation == 2 {
        Event { events: 0, data: 0 }
    } else {
        // Packed: 12 bytes.
        Event { events: cx.read_u32(event)?, data: cx.read_u64(event + 4)? }
    };
    with_epoll(cx, fd, |epoll| match operation {
        1 => epoll.add(target, &file, event),
        2 => epoll.remove(target, &file),
        3 => epoll.modify(target, &file, event),
        _ => Err(Errno::INVAL),
    })?;
    Ok(0)
}

fn wait(cx: &mut Cx<'_>, fd: i32, to: u64, max: i32, timeout_ns: Option<u64>) -> SysResult {
    let max = usize::try_from(max).ok().filter(|max| *max > 0).ok_or(Errno::INVAL)?;
    let max = max.min(65_536);
    let mut events = with_epoll(cx, fd, |epoll| Ok(epoll.take(max)))?;
    if events.is_empty() && timeout_ns != Some(0) {
        let deadline = deadline(cx, timeout_ns);
        if !cx.timed_out() {
            let ticket = cx.ticket();
            events = with_epoll(cx, fd, |epoll| {
                epoll.wait(&ticket);
                Ok(epoll.take(max))
            })?;
            if events.is_empty() {
                return Err(cx.block(deadline, Restart::NoHandler));
            }
        }
    }
    let mut raw = Vec::with_capacity(events.len() * 12);
    for event in &events {
        raw.extend_from_slice(&event.events.to_le_bytes());
        raw.extend_from_slice(&event.data.to_le_bytes());
    }
    cx.write_bytes(to, &raw)?;
    Ok(events.len() as u64)
}

pub(super) fn sys_epoll_wait(
    cx: &mut Cx<'_>,
    fd: i32,
    to: u64,
    max: i32,
    timeout_ms: i32,
) -> SysResult {
    let timeout = u64::try_from(timeout_ms).ok().map(|ms| ms * 1_000_000);
    wait(cx, fd, to, max, timeout)
}

pub(super) fn sys_epoll_pwait(
    cx: &mut Cx<'_>,
    fd: i32,
    to: u64,
    max: i32,
    timeout_ms: i32,
    mask: u64,
    mask_bytes: u64,
) -> SysResult {
    mask_signals(cx, mask, mask_bytes)?;
    sys_epoll_wait(cx, fd, to, max, timeout_ms)
}

pub(super) fn sys_epoll_pwait2(
    cx: &mut Cx<'_>,
    fd: i32,
    to: u64,
    max: i32,
    timeout: u64,
    mask: u64,
    mask_bytes: u64,
) -> SysResult {
    let timeout = read_span(cx, timeout, 1)?;
    mask_signals(cx, mask, mask_bytes)?;
    wait(cx, fd, to, max, timeout)
}
