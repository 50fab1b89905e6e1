// SPDX-License-Identifier: Apache-2.0
//! Moving bytes between files and the caller's memory: retrying, faulting, blocking.

use alloc::vec::Vec;

use crate::{
    Errno,
    cx::{Cx, Restart, Stop, SysResult},
    fs::{
        FileRef, permission,
        tty::{Touch, TtyFile, Verdict},
        types::{FileType, SetAttr},
    },
    io::{Sink, Source},
    mm::{UserSink, UserSource},
    process::{
        creds::CAP_FSETID,
        group::RLIMIT_FSIZE,
        signal::{SIGPIPE, SIGXFSZ},
    },
};

/// Most bytes of one transfer, as in Linux.
pub(super) const TRANSFER_MAX: usize = 0x7fff_f000;

/// Notices that a sink or source stopped because memory is not resident.
pub(super) struct Watched<'a, T> {
    inner: &'a mut T,
    limit: usize,
    short: bool,
}

impl<'a, T> Watched<'a, T> {
    pub(super) fn new(inner: &'a mut T, limit: usize) -> Self {
        Self { inner, limit, short: false }
    }

    /// Whether it stopped because memory is not resident.
    pub(super) fn short(&self) -> bool {
        self.short
    }
}

impl Sink for Watched<'_, UserSink> {
    fn room(&self) -> usize {
        self.inner.room().min(self.limit)
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let wanted = bytes.len().min(self.room());
        let taken = self.inner.put(&bytes[..wanted]);
        self.short |= taken < wanted;
        self.limit -= taken;
        taken
    }
}

impl Source for Watched<'_, UserSource> {
    fn left(&self) -> usize {
        self.inner.left().min(self.limit)
    }

    fn take(&mut self, to: &mut [u8]) -> usize {
        let wanted = to.len().min(self.left());
        let taken = self.inner.take(&mut to[..wanted]);
        self.short |= taken < wanted;
        self.limit -= taken;
        taken
    }
}

/// Waits until a file may be ready, if its calls block; `EAGAIN` if they do not.
pub(super) fn wait_for(
    cx: &mut Cx<'_>,
    file: &FileRef,
    deadline_ns: Option<u64>,
    restart: Restart,
) -> Stop {
    if !file.blocks() {
        return Errno::AGAIN.into();
    }
    cx.block(deadline_ns, restart)
}

/// Checks that the caller may touch a terminal now (job control).
pub(super) fn touch(cx: &mut Cx<'_>, file: &FileRef, touch: Touch) -> SysResult<()> {
    let Some(tty) = file.tty() else { return Ok(()) };
    match tty.judge(touch) {
        Verdict::Go => Ok(()),
        Verdict::Fail(errno) => Err(errno.into()),
        Verdict::Signal(signal) => {
            let group = cx.process().pgid();
            cx.kernel.signal_group(group, signal);
            Err(cx.block(None, Restart::Always))
        }
    }
}

/// Sends what terminals want to be sent.
pub(super) fn send_signals(cx: &mut Cx<'_>) {
    let vfs = cx.fs().lock().vfs.clone();
    for (group, signal) in vfs.take_signals() {
        cx.kernel.signal_group(group, signal);
    }
}

/// Reads without blocking, as much as one read gives.
fn read_once(file: &FileRef, sink: &mut UserSink, offset: Option<u64>) -> Result<usize, Errno> {
    let mut total = 0;
    loop {
        let mut watched = Watched::new(sink, TRANSFER_MAX - total);
        let done = match offset {
            Some(offset) => file.read_at(offset.saturating_add(total as u64), &mut watched),
            None => file.read(&mut watched),
        };
        let short = watched.short;
        match done {
            Ok(done) => total += done,
            Err(_) if total > 0 => return Ok(total),
            Err(errno) => return Err(errno),
        }
        if !short {
            return Ok(total);
        }
        match sink.fault() {
            Ok(()) => {}
            Err(_) if total > 0 => return Ok(total),
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads from a file that gives what was asked for in parts, up to its end.
fn read_parts(
    cx: &mut Cx<'_>,
    file: &FileRef,
    mut sink: UserSink,
    offset: Option<u64>,
) -> SysResult {
    let mut total = cx.progress().done as usize;
    sink.skip(total);
    while sink.room() > 0 {
        let mut watched = Watched::new(&mut sink, TRANSFER_MAX);
        let done = match offset {
            Some(offset) => file.read_at(offset.saturating_add(total as u64), &mut watched),
            None => file.read(&mut watched),
        };
        let short = watched.short;
        match done {
            Ok(0) if !short => break,
            Ok(done) => total += done,
            Err(Errno::PENDING) => {
                cx.progress().done = total as u64;
                return Err(Errno::PENDING.into());
            }
            Err(_) if total > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
        if short && let Err(errno) = sink.fault() {
            if total > 0 {
                break;
            }
            return Err(errno.into());
        }
    }
    Ok(total as u64)
}

/// Reads, blocking as the file does.
pub(super) fn read(
    cx: &mut Cx<'_>,
    file: &FileRef,
    mut sink: UserSink,
    offset: Option<u64>,
) -> SysResult {
    if file.ops().takes_all() {
        return read_parts(cx, file, sink, offset);
    }
    touch(cx, file, Touch::Read)?;
    match read_once(file, &mut sink, offset) {
        Err(Errno::AGAIN) if file.blocks() => {}
        result => return Ok(result? as u64),
    }
    let mut deadline = None;
    if let Some(tty) = file.tty() {
        let now = cx.services().monotonic_ns();
        let progress = cx.progress();
        if progress.value == 0 {
            progress.value = now;
        }
        deadline = tty.read_deadline(progress.value);
        if deadline.is_some_and(|deadline| deadline <= now)
            && let Some(ops) = file.ops().as_any().downcast_ref::<TtyFile>()
        {
            let mut watched = Watched::new(&mut sink, TRANSFER_MAX);
            return Ok(ops.read_elapsed(&mut watched)? as u64);
        }
    }
    // With the ticket in place, once more: it may have become ready in between.
    file.poll(Some(&cx.ticket()));
    match read_once(file, &mut sink, offset) {
        Err(Errno::AGAIN) => Err(wait_for(cx, file, deadline, Restart::Always)),
        result => Ok(result? as u64),
    }
}

/// How many bytes RLIMIT_FSIZE lets a write at an offset have.
fn size_limit(cx: &mut Cx<'_>, file: &FileRef, offset: Option<u64>) -> Result<usize, Errno> {
    if file.location().kind() != FileType::Regular {
        return Ok(TRANSFER_MAX);
    }
    let limit = cx.process().limits.lock().soft(RLIMIT_FSIZE);
    if limit == u64::MAX {
        return Ok(TRANSFER_MAX);
    }
    let at = match offset {
        Some(offset) => offset,
        None if file.flags().contains(crate::fs::types::OpenFlags::APPEND) => file.size(),
        None => *file.position().lock(),
    };
    if at >= limit {
        cx.send_signal_to_self(SIGXFSZ);
        return Err(Errno::FBIG);
    }
    Ok((limit - at).min(TRANSFER_MAX as u64) as usize)
}

/// Writes all of a source, blocking as the file does; `ranges` is what the caller gave, of which
/// an earlier round of the same call may have written a part.
pub(super) fn write(
    cx: &mut Cx<'_>,
    file: &FileRef,
    mut ranges: Vec<(u64, usize)>,
    offset: Option<u64>,
) -> SysResult {
    touch(cx, file, Touch::Write)?;
    let mut total = cx.progress().done as usize;
    skip(&mut ranges, total);
    let mut source = UserSource::vector(cx.mm(), ranges);
    let end =
        |total: usize, errno: Errno| if total > 0 { Ok(total as u64) } else { Err(errno.into()) };
    let limit = match size_limit(cx, file, offset) {
        Ok(limit) => limit,
        Err(errno) => return end(total, errno),
    };
    let mut waited = false;
    loop {
        let mut watched = Watched::new(&mut source, limit.saturating_sub(total));
        let at = offset.map(|offset| offset.saturating_add(total as u64));
        let done = match at {
            Some(at) => file.write_at(at, &mut watched),
            None => file.write(&mut watched),
        };
        let (short, left) = (watched.short, watched.left());
        match done {
            Ok(done) => {
                total += done;
                if left == 0 || (done == 0 && !short) {
                    break;
                }
                waited = false;
            }
            Err(Errno::AGAIN) if file.blocks() => {
                // With the ticket in place, once more: it may have become ready in between.
                if !waited {
                    waited = true;
                    file.poll(Some(&cx.ticket()));
                    continue;
                }
                send_signals(cx);
                cx.progress().done = total as u64;
                return Err(wait_for(cx, file, None, Restart::Always));
            }
            Err(Errno::PENDING) => {
                cx.progress().done = total as u64;
                return Err(Errno::PENDING.into());
            }
            Err(errno) => {
                if errno == Errno::PIPE {
                    cx.send_signal_to_self(SIGPIPE);
                }
                return end(total, errno);
            }
        }
        if short && let Err(errno) = source.fault() {
            return end(total, errno);
        }
    }
    match file.location().kind() {
        FileType::CharDevice => send_signals(cx),
        FileType::Regular if total > 0 => drop_privileges(cx, file),
        _ => {}
    }
    Ok(total as u64)
}

/// Takes bytes off the front of a list of ranges.
pub(super) fn skip(ranges: &mut Vec<(u64, usize)>, mut bytes: usize) {
    for range in ranges.iter_mut() {
        let part = range.1.min(bytes);
        range.0 = range.0.wrapping_add(part as u64);
        range.1 -= part;
        bytes -= part;
    }
    ranges.retain(|range| range.1 > 0);
}

/// A write by somebody without privilege takes set-id bits and capabilities from a program.
fn drop_privileges(cx: &Cx<'_>, file: &FileRef) {
    let attr = file.attr();
    let has_bits = attr.mode & 0o4000 != 0 || attr.mode & 0o2010 == 0o2010;
    if has_bits && !cx.creds().has_cap(CAP_FSETID) {
        let mode = Some(permission::without_set_id(&attr));
        // The write is done: that this fails cannot be told any more.
        let _ = file.inode().set_attr(&SetAttr { mode, ..SetAttr::default() });
    }
    if attr.mode & 0o111 != 0 {
        let _ = file.inode().set_xattr(b"security.capability", None);
    }
}
