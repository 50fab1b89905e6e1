// SPDX-License-Identifier: Apache-2.0
//! Interval timers, alarm, POSIX timers.

use crate::{
    Errno,
    cx::{Cx, SysResult},
    process::{
        signal::{SIGALRM, SIGNAL_MAX},
        timers::{ITIMER_REAL, Notify, Timer},
    },
    syscall::time::{SECOND_NS, is_realtime, read_clock, read_timespec, write_timespec},
};

/// Most POSIX timers of a process.
const TIMERS_MAX: u32 = 1024;

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;
const SIGEV_THREAD_ID: i32 = 4;

fn read_timeval(cx: &Cx<'_>, at: u64) -> Result<u64, Errno> {
    let (seconds, micros) = (cx.read_u64(at)?, cx.read_u64(at.wrapping_add(8))?);
    if seconds > i64::MAX.cast_unsigned() || micros >= 1_000_000 {
        return Err(Errno::INVAL);
    }
    Ok(seconds.saturating_mul(SECOND_NS).saturating_add(micros * 1000))
}

fn write_timeval(cx: &Cx<'_>, at: u64, ns: u64) -> Result<(), Errno> {
    let micros = ns.div_ceil(1000);
    cx.write_u64(at, micros / 1_000_000)?;
    cx.write_u64(at.wrapping_add(8), micros % 1_000_000)
}

/// Sets ITIMER_REAL; returns what was left, and the old interval.
fn set_real(cx: &Cx<'_>, value_ns: u64, interval_ns: u64) -> (u64, u64) {
    let process = cx.process();
    let now = cx.kernel.services.monotonic_ns();
    let mut timers = process.timers.lock();
    let timer = timers.0.entry(ITIMER_REAL).or_insert_with(|| {
        Timer::new(&cx.kernel.services, process.pid, ITIMER_REAL, Notify::Process(SIGALRM, 0))
    });
    let old = timer.remaining(now);
    let deadline = if value_ns == 0 { 0 } else { now.saturating_add(value_ns) };
    timer.arm(deadline, interval_ns);
    old
}

pub(super) fn sys_alarm(cx: &mut Cx<'_>, seconds: u32) -> SysResult {
    let (left, _) = set_real(cx, u64::from(seconds) * SECOND_NS, 0);
    // Rounded, but never to 0 while it is armed.
    Ok(if left == 0 { 0 } else { (left.saturating_add(SECOND_NS / 2) / SECOND_NS).max(1) })
}

pub(super) fn sys_setitimer(cx: &mut Cx<'_>, which: u32, new_at: u64, old_at: u64) -> SysResult {
    let (interval, value) = if new_at == 0 {
        (0, 0)
    } else {
        (read_timeval(cx, new_at)?, read_timeval(cx, new_at.wrapping_add(16))?)
    };
    let old = match which {
        0 => set_real(cx, value, interval),
        // ITIMER_VIRTUAL and ITIMER_PROF would need a check at every slice of CPU time.
        1 | 2 if value == 0 => (0, 0),
        1 | 2 => {
            cx.kernel.services.log(format_args!(
                "setitimer: timers of CPU time are not supported, use ITIMER_REAL"
            ));
            return Err(Errno::INVAL.into());
        }
        _ => return Err(Errno::INVAL.into()),
    };
    if old_at != 0 {
        write_timeval(cx, old_at, old.1)?;
        write_timeval(cx, old_at.wrapping_add(16), old.0)?;
    }
    Ok(0)
}

pub(super) fn sys_getitimer(cx: &mut Cx<'_>, which: u32, at: u64) -> SysResult {
    if which > 2 {
        return Err(Errno::INVAL.into());
    }
    let now = cx.kernel.services.monotonic_ns();
    let process = cx.process();
    let (left, interval) = match which {
        0 => process.timers.lock().0.get(&ITIMER_REAL).map_or((0, 0), |t| t.remaining(now)),
        _ => (0, 0),
    };
    write_timeval(cx, at, interval)?;
    write_timeval(cx, at.wrapping_add(16), left)?;
    Ok(0)
}

pub(super) fn sys_timer_create(
    cx: &mut Cx<'_>,
    clock: u32,
    event_at: u64,
    id_at: u64,
) -> SysResult {
    let clock = clock.cast_signed();
    read_clock(cx, clock)?;
    if matches!(clock, 2 | 3) || clock < 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    let process = cx.process();
    let number = {
        let timers = process.timers.lock();
        (1..=TIMERS_MAX).find(|number| !timers.0.contains_key(number)).ok_or(Errno::AGAIN)?
    };
    let id = number - 1;
    let notify = if event_at == 0 {
        Notify::Process(SIGALRM, u64::from(id))
    } else {
        let value = cx.read_u64(event_at)?;
        let signal = cx.read_u32(event_at.wrapping_add(8))?;
        let kind = cx.read_u32(event_at.wrapping_add(12))?.cast_signed();
        let good = (1..=SIGNAL_MAX).contains(&signal);
        match kind {
            SIGEV_NONE => Notify::Nothing,
            SIGEV_SIGNAL | SIGEV_THREAD if good => Notify::Process(signal, value),
            SIGEV_THREAD_ID if good => {
                let tid = cx.read_u32(event_at.wrapping_add(16))?;
                let own = process.threads.lock().iter().any(|task| task.tid() == tid);
                if !own {
                    return Err(Errno::INVAL.into());
                }
                Notify::Thread(signal, value, tid)
            }
            _ => return Err(Errno::INVAL.into()),
        }
    };
    cx.write_u32(id_at, id)?;
    let mut timer = Timer::new(&cx.kernel.services, process.pid, number, notify);
    timer.is_realtime = is_realtime(clock);
    process.timers.lock().0.insert(number, timer);
    Ok(0)
}

fn with_timer<T>(cx: &Cx<'_>, id: u32, act: impl FnOnce(&mut Timer) -> T) -> Result<T, Errno> {
    let number = id.checked_add(1).ok_or(Errno::INVAL)?;
    let process = cx.process();
    let mut timers = process.timers.lock();
    timers.0.get_mut(&number).map(act).ok_or(Errno::INVAL)
}

pub(super) fn sys_timer_settime(
    cx: &mut Cx<'_>,
    id: u32,
    flags: u32,
    new_at: u64,
    old_at: u64,
) -> SysResult {
    const TIMER_ABSTIME: u32 = 1;
    let interval = read_timespec(cx, new_at)?;
    let value = read_timespec(cx, new_at.wrapping_add(16))?;
    let services = cx.services();
    let now = services.monotonic_ns();
    let old = with_timer(cx, id, |timer| {
        let old = timer.remaining(now);
        let deadline = match (value, flags & TIMER_ABSTIME != 0) {
            (0, _) => 0,
            (ns, true) if timer.is_realtime => {
                ns.saturating_sub(services.realtime_offset_ns).max(1)
            }
            (ns, true) => ns,
            (ns, false) => now.saturating_add(ns),
        };
        timer.overrun = 0;
        timer.arm(deadline, interval);
        old
    })?;
    if old_at != 0 {
        write_timespec(cx, old_at, old.1)?;
        write_timespec(cx, old_at.wrapping_add(16), old.0)?;
    }
    Ok(0)
}

pub(super) fn sys_timer_gettime(cx: &mut Cx<'_>, id: u32, at: u64) -> SysResult {
    let now = cx.kernel.services.monotonic_ns();
    let (left, interval) = with_timer(cx, id, |timer| timer.remaining(now))?;
    write_timespec(cx, at, interval)?;
    write_timespec(cx, at.wrapping_add(16), left)?;
    Ok(0)
}

pub(super) fn sys_timer_getoverrun(cx: &mut Cx<'_>, id: u32) -> SysResult {
    Ok(with_timer(cx, id, |timer| u64::from(timer.overrun))?)
}

pub(super) fn sys_timer_delete(cx: &mut Cx<'_>, id: u32) -> SysResult {
    let number = id.checked_add(1).ok_or(Errno::INVAL)?;
    let removed = cx.process().timers.lock().0.remove(&number);
    if removed.is_some() { Ok(0) } else { Err(Errno::INVAL.into()) }
}
