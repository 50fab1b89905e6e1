// SPDX-License-Identifier: Apache-2.0
//! Clocks and sleeping.

use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    process::creds::CAP_SYS_TIME,
};

/// Nanoseconds of a second.
pub(super) const SECOND_NS: u64 = 1_000_000_000;

const REALTIME: i32 = 0;
const MONOTONIC: i32 = 1;
const PROCESS_CPUTIME: i32 = 2;
const THREAD_CPUTIME: i32 = 3;
const MONOTONIC_RAW: i32 = 4;
const REALTIME_COARSE: i32 = 5;
const MONOTONIC_COARSE: i32 = 6;
const BOOTTIME: i32 = 7;
const REALTIME_ALARM: i32 = 8;
const BOOTTIME_ALARM: i32 = 9;
const TAI: i32 = 11;
const TIMER_ABSTIME: u32 = 1;

/// Reads a struct timespec as nanoseconds; what is too large for 64 bits is for ever.
///
/// # Errors
/// EFAULT; EINVAL if it is not a time.
pub(crate) fn read_timespec(cx: &Cx<'_>, at: u64) -> Result<u64, Errno> {
    let mut raw = [0; 16];
    cx.read_bytes(at, &mut raw)?;
    let (seconds, ns) = raw.split_at(8);
    let seconds = i64::from_le_bytes(seconds.try_into().unwrap_or_default());
    let ns = i64::from_le_bytes(ns.try_into().unwrap_or_default());
    let (Ok(seconds), Ok(ns)) = (u64::try_from(seconds), u64::try_from(ns)) else {
        return Err(Errno::INVAL);
    };
    if ns >= SECOND_NS {
        return Err(Errno::INVAL);
    }
    Ok(seconds.saturating_mul(SECOND_NS).saturating_add(ns))
}

/// Writes nanoseconds as a struct timespec.
///
/// # Errors
/// EFAULT.
pub(crate) fn write_timespec(cx: &Cx<'_>, at: u64, ns: u64) -> Result<(), Errno> {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&(ns / SECOND_NS).to_le_bytes());
    raw[8..].copy_from_slice(&(ns % SECOND_NS).to_le_bytes());
    cx.write_bytes(at, &raw)
}

/// Whether a clock is CLOCK_REALTIME or counts as it.
pub(super) fn is_realtime(clock: i32) -> bool {
    matches!(clock, REALTIME | REALTIME_COARSE | REALTIME_ALARM | TAI)
}

/// Reads a clock in nanoseconds.
pub(super) fn read_clock(cx: &Cx<'_>, clock: i32) -> Result<u64, Errno> {
    let services = &cx.kernel.services;
    match clock {
        clock if is_realtime(clock) => {
            Ok(services.monotonic_ns().wrapping_add(services.realtime_offset_ns))
        }
        MONOTONIC | MONOTONIC_RAW | MONOTONIC_COARSE | BOOTTIME | BOOTTIME_ALARM => {
            Ok(services.monotonic_ns())
        }
        PROCESS_CPUTIME => {
            let (user, system) = cx.task.process.cpu_ns();
            Ok(user + system)
        }
        THREAD_CPUTIME => {
            Ok(cx.task.user_ns.load(Ordering::Relaxed) + cx.task.system_ns.load(Ordering::Relaxed))
        }
        clock if clock < 0 => cpu_clock(cx, clock),
        _ => Err(Errno::INVAL),
    }
}

/// The CPU time of another process or thread (clock_getcpuclockid(3)): `!pid << 3 | kind`.
fn cpu_clock(cx: &Cx<'_>, clock: i32) -> Result<u64, Errno> {
    let id = (!(clock >> 3)).cast_unsigned();
    let is_thread = clock & 4 != 0;
    let registry = &cx.kernel.services.registry;
    if clock & 3 > 2 {
        return Err(Errno::INVAL);
    }
    if is_thread {
        let task = if id == 0 { Some(cx.task.clone()) } else { registry.task(id) };
        let task = task.ok_or(Errno::INVAL)?;
        return Ok(task.user_ns.load(Ordering::Relaxed) + task.system_ns.load(Ordering::Relaxed));
    }
    let process = if id == 0 { Some(cx.process()) } else { registry.process(id) };
    let (user, system) = process.ok_or(Errno::INVAL)?.cpu_ns();
    Ok(user + system)
}

pub(super) fn sys_clock_gettime(cx: &mut Cx<'_>, clock: i32, at: u64) -> SysResult {
    let ns = read_clock(cx, clock)?;
    write_timespec(cx, at, ns)?;
    Ok(0)
}

pub(super) fn sys_clock_getres(cx: &mut Cx<'_>, clock: i32, at: u64) -> SysResult {
    read_clock(cx, clock)?;
    let coarse = matches!(clock, REALTIME_COARSE | MONOTONIC_COARSE);
    if at != 0 {
        write_timespec(cx, at, if coarse { 4_000_000 } else { 1 })?;
    }
    Ok(0)
}

fn refuse_setting(cx: &Cx<'_>) -> SysResult {
    // The host's clock is not the container's to set, whatever it may do inside.
    let _ = cx.creds().has_cap(CAP_SYS_TIME);
    Err(Errno::PERM.into())
}

pub(super) fn sys_clock_settime(cx: &mut Cx<'_>, _clock: i32, _at: u64) -> SysResult {
    refuse_setting(cx)
}

/// Reads how the clock is disciplined, as if it were in step; changes nothing.
pub(super) fn sys_adjtimex(cx: &mut Cx<'_>, at: u64) -> SysResult {
    sys_clock_adjtime(cx, REALTIME, at)
}

pub(super) fn sys_clock_adjtime(cx: &mut Cx<'_>, clock: i32, at: u64) -> SysResult {
    const TIMEX_BYTES: usize = 208;
    const ADJ_OFFSET_SS_READ: u32 = 0xa001;
    read_clock(cx, clock)?;
    if clock != REALTIME {
        return Err(Errno::OPNOTSUPP.into());
    }
    if !matches!(cx.read_u32(at)?, 0 | ADJ_OFFSET_SS_READ) {
        return refuse_setting(cx);
    }
    let ns = read_clock(cx, REALTIME)?;
    let mut raw = [0; TIMEX_BYTES];
    let mut put = |at: usize, value: u64| raw[at..at + 8].copy_from_slice(&value.to_le_bytes());
    // maxerror and esterror in microseconds, constant, precision, tolerance, time, tick.
    put(24, 16_000_000);
    put(32, 16_000_000);
    put(48, 2);
    put(56, 1);
    put(64, 32_768_000);
    put(72, ns / SECOND_NS);
    put(80, ns % SECOND_NS / 1000);
    put(88, 10_000);
    cx.write_bytes(at, &raw)?;
    Ok(0)
}

pub(super) fn sys_settimeofday(cx: &mut Cx<'_>, _time: u64, _zone: u64) -> SysResult {
    refuse_setting(cx)
}

pub(super) fn sys_gettimeofday(cx: &mut Cx<'_>, time_at: u64, zone_at: u64) -> SysResult {
    let ns = read_clock(cx, REALTIME)?;
    if time_at != 0 {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&(ns / SECOND_NS).to_le_bytes());
        raw[8..].copy_from_slice(&(ns % SECOND_NS / 1000).to_le_bytes());
        cx.write_bytes(time_at, &raw)?;
    }
    if zone_at != 0 {
        cx.write_bytes(zone_at, &[0; 8])?;
    }
    Ok(0)
}

pub(super) fn sys_time(cx: &mut Cx<'_>, at: u64) -> SysResult {
    let seconds = read_clock(cx, REALTIME)? / SECOND_NS;
    if at != 0 {
        cx.write_u64(at, seconds)?;
    }
    Ok(seconds)
}

pub(super) fn sys_nanosleep(cx: &mut Cx<'_>, request_at: u64, rest_at: u64) -> SysResult {
    sleep(cx, MONOTONIC, 0, request_at, rest_at)
}

pub(super) fn sys_clock_nanosleep(
    cx: &mut Cx<'_>,
    clock: i32,
    flags: u32,
    request_at: u64,
    rest_at: u64,
) -> SysResult {
    match clock {
        THREAD_CPUTIME => return Err(Errno::INVAL.into()),
        MONOTONIC_RAW | REALTIME_COARSE | MONOTONIC_COARSE => {
            return Err(Errno::OPNOTSUPP.into());
        }
        clock if clock == PROCESS_CPUTIME || clock < 0 => {
            return cpu_sleep(cx, clock, flags, request_at);
        }
        _ => read_clock(cx, clock)?,
    };
    sleep(cx, clock, flags, request_at, rest_at)
}

fn sleep(cx: &mut Cx<'_>, clock: i32, flags: u32, request_at: u64, rest_at: u64) -> SysResult {
    let services = cx.services();
    let now = services.monotonic_ns();
    let is_absolute = flags & TIMER_ABSTIME != 0;
    let deadline = match cx.progress().deadline_ns {
        Some(deadline) => deadline,
        None => {
            let ns = read_timespec(cx, request_at)?;
            let deadline = match (is_absolute, is_realtime(clock)) {
                (true, true) => ns.saturating_sub(services.realtime_offset_ns),
                (true, false) => ns,
                (false, _) => now.saturating_add(ns),
            };
            cx.progress().deadline_ns = Some(deadline);
            deadline
        }
    };
    if now >= deadline {
        return Ok(0);
    }
    if cx.interrupted() {
        if rest_at != 0 && !is_absolute {
            write_timespec(cx, rest_at, deadline - now)?;
        }
        return Err(Errno::INTR.into());
    }
    Err(cx.block(Some(deadline), Restart::NoHandler))
}

/// Sleeps until a process has used so much CPU time.
fn cpu_sleep(cx: &mut Cx<'_>, clock: i32, flags: u32, request_at: u64) -> SysResult {
    let now = read_clock(cx, clock)?;
    let id = if clock < 0 { (!(clock >> 3)).cast_unsigned() } else { 0 };
    // A thread that sleeps uses none of its own.
    if clock < 0 && clock & 4 != 0 {
        return Err(Errno::INVAL.into());
    }
    let process = if id == 0 {
        cx.process()
    } else {
        cx.kernel.services.registry.process(id).ok_or(Errno::INVAL)?
    };
    let target = match cx.progress().value {
        0 => {
            let ns = read_timespec(cx, request_at)?;
            if flags & TIMER_ABSTIME != 0 { ns } else { now.saturating_add(ns) }
        }
        target => target,
    };
    if now >= target {
        return Ok(0);
    }
    cx.progress().value = target;
    let ticket = cx.ticket();
    let mut sleeps = process.cpu_sleeps.lock();
    sleeps.retain(|(_, other)| other.waiter.is_current(other.generation));
    sleeps.push((target, ticket));
    drop(sleeps);
    process.counts_cpu.store(true, Ordering::Relaxed);
    Err(cx.block(None, Restart::NoHandler))
}
