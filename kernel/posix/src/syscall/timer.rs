// SPDX-License-Identifier: Apache-2.0
//! Interval timers, alarm, POSIX timers.

use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    process::{
        signal::{SIGALRM, SIGNAL_MAX, SIGPROF, SIGVTALRM},
        timers::{ITIMER_PROF, ITIMER_REAL, ITIMER_VIRTUAL, Notify, Timer, TimerClock},
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

/// What the clock of a timer says, in nanoseconds.
fn now_of(cx: &Cx<'_>, clock: TimerClock) -> u64 {
    match clock {
        TimerClock::Monotonic | TimerClock::Realtime => cx.kernel.services.monotonic_ns(),
        clock => cx.task.process.read_cpu_clock(clock),
    }
}

/// An interval timer: its number, clock and signal.
fn interval_timer(which: u32) -> Result<(u32, TimerClock, u32), Errno> {
    Ok(match which {
        0 => (ITIMER_REAL, TimerClock::Monotonic, SIGALRM),
        1 => (ITIMER_VIRTUAL, TimerClock::User, SIGVTALRM),
        2 => (ITIMER_PROF, TimerClock::Process, SIGPROF),
        _ => return Err(Errno::INVAL),
    })
}

/// Sets an interval timer; returns what was left, and the old interval.
fn set_interval(
    cx: &Cx<'_>,
    which: u32,
    value_ns: u64,
    interval_ns: u64,
) -> Result<(u64, u64), Errno> {
    let (number, clock, signal) = interval_timer(which)?;
    let process = cx.process();
    let now = now_of(cx, clock);
    let mut timers = process.timers.lock();
    let timer = timers.0.entry(number).or_insert_with(|| {
        let notify = Notify::Process(signal, 0);
        let mut timer = Timer::new(&cx.kernel.services, process.pid, number, notify);
        timer.clock = clock;
        timer
    });
    let old = timer.remaining(now);
    let deadline = if value_ns == 0 { 0 } else { now.saturating_add(value_ns) };
    timer.arm(deadline, interval_ns);
    drop(timers);
    if clock.is_cpu() && value_ns != 0 {
        process.counts_cpu.store(true, Ordering::Relaxed);
    }
    Ok(old)
}

pub(super) fn sys_alarm(cx: &mut Cx<'_>, seconds: u32) -> SysResult {
    let (left, _) = set_interval(cx, 0, u64::from(seconds) * SECOND_NS, 0)?;
    // Rounded, but never to 0 while it is armed.
    Ok(if left == 0 { 0 } else { (left.saturating_add(SECOND_NS / 2) / SECOND_NS).max(1) })
}

pub(super) fn sys_setitimer(cx: &mut Cx<'_>, which: u32, new_at: u64, old_at: u64) -> SysResult {
    let (interval, value) = if new_at == 0 {
        (0, 0)
    } else {
        (read_timeval(cx, new_at)?, read_timeval(cx, new_at.wrapping_add(16))?)
    };
    let old = set_interval(cx, which, value, interval)?;
    if old_at != 0 {
        write_timeval(cx, old_at, old.1)?;
        write_timeval(cx, old_at.wrapping_add(16), old.0)?;
    }
    Ok(0)
}

pub(super) fn sys_getitimer(cx: &mut Cx<'_>, which: u32, at: u64) -> SysResult {
    let (number, clock, _) = interval_timer(which)?;
    let now = now_of(cx, clock);
    let process = cx.process();
    let left = process.timers.lock().0.get(&number).map_or((0, 0), |timer| timer.remaining(now));
    write_timeval(cx, at, left.1)?;
    write_timeval(cx, at.wrapping_add(16), left.0)?;
    Ok(0)
}

/// What a timer of a clock goes by.
fn timer_clock(cx: &Cx<'_>, clock: i32) -> Result<TimerClock, Errno> {
    const PROCESS_CPUTIME: i32 = 2;
    const THREAD_CPUTIME: i32 = 3;
    const RAW_AND_COARSE: [i32; 3] = [4, 5, 6];
    read_clock(cx, clock)?;
    if RAW_AND_COARSE.contains(&clock) {
        return Err(Errno::OPNOTSUPP);
    }
    if clock >= 0 {
        return Ok(match clock {
            PROCESS_CPUTIME => TimerClock::Process,
            THREAD_CPUTIME => TimerClock::Thread(cx.task.tid()),
            clock if is_realtime(clock) => TimerClock::Realtime,
            _ => TimerClock::Monotonic,
        });
    }
    // `!id << 3 | kind` (clock_getcpuclockid(3)), of the caller's own process.
    let id = (!(clock >> 3)).cast_unsigned();
    let process = cx.process();
    if clock & 4 != 0 {
        let tid = if id == 0 { cx.task.tid() } else { id };
        let own = process.threads.lock().iter().any(|task| task.tid() == tid);
        return if own { Ok(TimerClock::Thread(tid)) } else { Err(Errno::INVAL) };
    }
    match clock & 3 {
        _ if id != 0 && id != process.pid => Err(Errno::INVAL),
        1 => Ok(TimerClock::User),
        _ => Ok(TimerClock::Process),
    }
}

pub(super) fn sys_timer_create(
    cx: &mut Cx<'_>,
    clock: u32,
    event_at: u64,
    id_at: u64,
) -> SysResult {
    let clock = timer_clock(cx, clock.cast_signed())?;
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
    timer.clock = clock;
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
    let clock = with_timer(cx, id, |timer| timer.clock)?;
    let now = now_of(cx, clock);
    let old = with_timer(cx, id, |timer| {
        let old = timer.remaining(now);
        let deadline = match (value, flags & TIMER_ABSTIME != 0) {
            (0, _) => 0,
            (ns, true) if clock == TimerClock::Realtime => {
                ns.saturating_sub(services.realtime_offset_ns).max(1)
            }
            (ns, true) => ns,
            (ns, false) => now.saturating_add(ns),
        };
        timer.overrun = 0;
        timer.arm(deadline, interval);
        old
    })?;
    if clock.is_cpu() && value != 0 {
        cx.task.process.counts_cpu.store(true, Ordering::Relaxed);
    }
    if old_at != 0 {
        write_timespec(cx, old_at, old.1)?;
        write_timespec(cx, old_at.wrapping_add(16), old.0)?;
    }
    Ok(0)
}

pub(super) fn sys_timer_gettime(cx: &mut Cx<'_>, id: u32, at: u64) -> SysResult {
    let clock = with_timer(cx, id, |timer| timer.clock)?;
    let now = now_of(cx, clock);
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
