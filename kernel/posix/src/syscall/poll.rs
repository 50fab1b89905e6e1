// SPDX-License-Identifier: Apache-2.0
//! poll(2), select(2) and their relatives.

use alloc::{vec, vec::Vec};

use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    fs::{FileRef, types::Ready},
    process::group::RLIMIT_NOFILE,
};

/// One descriptor that is waited for.
struct Watch {
    file: Option<FileRef>,
    events: Ready,
}

impl Watch {
    fn new(cx: &Cx<'_>, fd: i32, events: u32) -> Self {
        let events = Ready::from_bits_retain(events) | Ready::ERR | Ready::HUP;
        Self { file: cx.files().lock().get(fd).ok(), events }
    }
}

/// Reads a time span: seconds and a part of a second, of which `unit` nanoseconds are one.
pub(super) fn read_span(cx: &Cx<'_>, address: u64, unit: u64) -> Result<Option<u64>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let (seconds, part) = (cx.read_u64(address)?, cx.read_u64(address + 8)?);
    if seconds > i64::MAX.cast_unsigned() || part >= 1_000_000_000 / unit {
        return Err(Errno::INVAL);
    }
    Ok(Some(seconds.saturating_mul(1_000_000_000).saturating_add(part * unit)))
}

/// Applies the signal mask of a p-call for as long as the call lasts.
pub(super) fn mask_signals(cx: &mut Cx<'_>, address: u64, bytes: u64) -> Result<(), Errno> {
    if address == 0 {
        return Ok(());
    }
    if bytes != 8 {
        return Err(Errno::INVAL);
    }
    let mask = cx.read_u64(address)?;
    cx.set_temporary_mask(mask);
    Ok(())
}

/// Waits until something is ready; returns what is, per watch.
fn wait(cx: &mut Cx<'_>, watches: &[Watch], timeout_ns: Option<u64>) -> SysResult<Vec<Ready>> {
    let look = |ticket: Option<&crate::wait::Ticket>| -> Vec<Ready> {
        let each = |watch: &Watch| {
            watch.file.as_ref().map_or(Ready::empty(), |file| file.poll(ticket) & watch.events)
        };
        watches.iter().map(each).collect()
    };
    let any = |ready: &[Ready]| ready.iter().any(|ready| !ready.is_empty());
    let ready = look(None);
    if any(&ready) || timeout_ns == Some(0) {
        return Ok(ready);
    }
    let deadline = deadline(cx, timeout_ns);
    if cx.timed_out() {
        return Ok(ready);
    }
    let ready = look(Some(&cx.ticket()));
    if any(&ready) {
        return Ok(ready);
    }
    Err(cx.block(deadline, Restart::NoHandler))
}

/// The point at which a call that began some time ago times out.
pub(super) fn deadline(cx: &mut Cx<'_>, timeout_ns: Option<u64>) -> Option<u64> {
    let now = cx.services().monotonic_ns();
    let timeout = timeout_ns?;
    let progress = cx.progress();
    Some(*progress.deadline_ns.get_or_insert(now.saturating_add(timeout)))
}

fn poll(cx: &mut Cx<'_>, fds: u64, count: u64, timeout_ns: Option<u64>) -> SysResult {
    if count > cx.process().limits.lock().soft(RLIMIT_NOFILE) || count > 1 << 20 {
        return Err(Errno::INVAL.into());
    }
    let mut raw = vec![0; count as usize * 8];
    cx.read_bytes(fds, &mut raw)?;
    let mut watches = Vec::with_capacity(count as usize);
    let mut bad = 0;
    for entry in raw.chunks_exact_mut(8) {
        let fd = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let events = u32::from(u16::from_le_bytes([entry[4], entry[5]]));
        entry[6..8].fill(0);
        let watch = if fd < 0 {
            Watch { file: None, events: Ready::empty() }
        } else {
            Watch::new(cx, fd, events)
        };
        if fd >= 0 && watch.file.is_none() {
            entry[6] = Ready::NVAL.bits() as u8;
            bad += 1;
        }
        watches.push(watch);
    }
    let ready = wait(cx, &watches, if bad > 0 { Some(0) } else { timeout_ns })?;
    let mut found = bad;
    for (entry, ready) in raw.chunks_exact_mut(8).zip(ready) {
        if !ready.is_empty() {
            found += 1;
            entry[6..8].copy_from_slice(&(ready.bits() as u16).to_le_bytes());
        }
    }
    cx.write_bytes(fds, &raw)?;
    Ok(found)
}

pub(super) fn sys_poll(cx: &mut Cx<'_>, fds: u64, count: u64, timeout_ms: i32) -> SysResult {
    let timeout = u64::try_from(timeout_ms).ok().map(|ms| ms * 1_000_000);
    poll(cx, fds, count, timeout)
}

pub(super) fn sys_ppoll(
    cx: &mut Cx<'_>,
    fds: u64,
    count: u64,
    timeout: u64,
    mask: u64,
    mask_bytes: u64,
) -> SysResult {
    let timeout = read_span(cx, timeout, 1)?;
    mask_signals(cx, mask, mask_bytes)?;
    poll(cx, fds, count, timeout)
}

/// The three sets of select: for reading, for writing, for exceptions.
const EVENTS: [Ready; 3] = [
    Ready::IN.union(Ready::RDNORM).union(Ready::HUP).union(Ready::ERR),
    Ready::OUT.union(Ready::WRNORM).union(Ready::ERR),
    Ready::PRI,
];

fn select(cx: &mut Cx<'_>, count: i32, sets: [u64; 3], timeout_ns: Option<u64>) -> SysResult {
    let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
    let count = count.min(1 << 20);
    let bytes = count.div_ceil(64) * 8;
    let mut bits: [Vec<u8>; 3] = Default::default();
    for (bits, address) in bits.iter_mut().zip(sets) {
        bits.resize(bytes, 0);
        if address != 0 {
            cx.read_bytes(address, bits)?;
        }
    }
    let mut watches = Vec::new();
    let mut places = Vec::new();
    for fd in 0..count {
        for which in 0..3 {
            if bits[which][fd / 8] >> (fd % 8) & 1 == 1 {
                let watch =
                    Watch { file: Some(cx.files().lock().get(fd as i32)?), events: EVENTS[which] };
                watches.push(watch);
                places.push((fd, which));
            }
        }
    }
    let ready = wait(cx, &watches, timeout_ns)?;
    for bits in &mut bits {
        bits.fill(0);
    }
    let mut found = 0;
    for ((fd, which), ready) in places.into_iter().zip(ready) {
        if !ready.is_empty() {
            bits[which][fd / 8] |= 1 << (fd % 8);
            found += 1;
        }
    }
    for (bits, address) in bits.iter().zip(sets) {
        if address != 0 {
            cx.write_bytes(address, bits)?;
        }
    }
    Ok(found)
}

pub(super) fn sys_select(
    cx: &mut Cx<'_>,
    count: i32,
    read: u64,
    write: u64,
    except: u64,
    timeout: u64,
) -> SysResult {
    let span = read_span(cx, timeout, 1000)?;
    let found = select(cx, count, [read, write, except], span)?;
    // Linux tells how much time was left.
    if let Some(span) = span {
        let now = cx.services().monotonic_ns();
        let left = cx.progress().deadline_ns.map_or(span, |deadline| deadline.saturating_sub(now));
        cx.write_u64(timeout, left / 1_000_000_000)?;
        cx.write_u64(timeout + 8, left % 1_000_000_000 / 1000)?;
    }
    Ok(found)
}

pub(super) fn sys_pselect6(
    cx: &mut Cx<'_>,
    count: i32,
    read: u64,
    write: u64,
    except: u64,
    timeout: u64,
    mask: u64,
) -> SysResult {
    let span = read_span(cx, timeout, 1)?;
    if mask != 0 {
        let (address, bytes) = (cx.read_u64(mask)?, cx.read_u64(mask + 8)?);
        mask_signals(cx, address, bytes)?;
    }
    select(cx, count, [read, write, except], span)
}
