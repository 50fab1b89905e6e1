// SPDX-License-Identifier: Apache-2.0
//! Sockets: sending and receiving.

use alloc::{vec, vec::Vec};

use super::{control, read_address, socket, write_address};
use crate::{
    Errno,
    cx::{Cx, IOV_MAX, Restart, Stop, SysResult},
    fs::FileRef,
    io::{Sink, SliceSource, Source, VecSink},
    mm::{UserSink, UserSource},
    net::{
        Socket,
        message::{
            MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_EOR, MSG_ERRQUEUE, MSG_NOSIGNAL,
            MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_WAITFORONE, Outgoing, Receive, Received,
            Ucred,
        },
        unix::Rights,
    },
    process::signal::SIGPIPE,
    syscall::{
        poll::{deadline, read_span},
        transfer::{self, TRANSFER_MAX, Watched},
    },
};

/// Most messages of one sendmmsg or recvmmsg.
const MESSAGES_MAX: u32 = 1024;
/// Most bytes of one message that keeps boundaries.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const HEADER_BYTES: u64 = 56;
const MULTI_BYTES: u64 = 64;

/// A `struct msghdr`.
struct Header {
    name: u64,
    name_bytes: u32,
    ranges: Vec<(u64, usize)>,
    control: u64,
    control_bytes: usize,
}

impl Header {
    fn read(cx: &Cx<'_>, at: u64) -> Result<Self, Errno> {
        let mut raw = [0; HEADER_BYTES as usize];
        cx.read_bytes(at, &mut raw)?;
        let long = |at: usize| {
            let word = raw.get(at..at + 8).and_then(|word| word.try_into().ok());
            u64::from_le_bytes(word.unwrap_or_default())
        };
        let count = long(24) as usize;
        if count > IOV_MAX {
            return Err(Errno::MSGSIZE);
        }
        let name = long(0);
        let name_bytes = long(8) as u32;
        if name_bytes > i32::MAX as u32 {
            return Err(Errno::INVAL);
        }
        let ranges = cx.read_iovec(long(16), count)?;
        let control = long(32);
        let control_bytes = if control == 0 { 0 } else { long(40) as usize };
        if control_bytes > i32::MAX as usize {
            return Err(Errno::NOBUFS);
        }
        let name_bytes = if name == 0 { 0 } else { name_bytes };
        Ok(Self { name, name_bytes, ranges, control, control_bytes })
    }
}

fn total(ranges: &[(u64, usize)]) -> usize {
    ranges.iter().fold(0, |sum: usize, range| sum.saturating_add(range.1))
}

/// How a call waits: not at all, or for as long as the socket says.
fn waits(file: &FileRef, flags: u32) -> bool {
    file.blocks() && flags & MSG_DONTWAIT == 0
}

fn block(cx: &mut Cx<'_>, timeout_ns: Option<u64>) -> Stop {
    let deadline = deadline(cx, timeout_ns);
    let restart = if timeout_ns.is_some() { Restart::Never } else { Restart::Always };
    cx.block(deadline, restart)
}

fn own_cred(cx: &Cx<'_>) -> Ucred {
    let creds = cx.creds();
    Ucred { pid: cx.process().pid, uid: creds.uid, gid: creds.gid }
}

/// Copies a whole message from the caller.
fn gather(cx: &Cx<'_>, ranges: Vec<(u64, usize)>) -> Result<Vec<u8>, Errno> {
    let bytes = total(&ranges);
    let mut data = vec![0; bytes];
    let mut source = UserSource::vector(cx.mm(), ranges);
    let mut done = 0;
    while done < bytes {
        let taken = source.take(&mut data[done..]);
        done += taken;
        if done < bytes && taken == 0 {
            source.fault()?;
        }
    }
    Ok(data)
}

/// Copies to the caller, faulting pages in.
fn scatter(sink: &mut UserSink, data: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < data.len() {
        let taken = sink.put(&data[done..]);
        done += taken;
        if done < data.len() && taken == 0 {
            sink.fault()?;
        }
    }
    Ok(())
}

/// Sends; `ranges` is what the caller gave, of which an earlier round may have sent a part.
fn send(
    cx: &mut Cx<'_>,
    file: &FileRef,
    socket: &dyn Socket,
    ranges: Vec<(u64, usize)>,
    flags: u32,
    message: &mut Outgoing,
) -> SysResult {
    socket.before_send(cx)?;
    message.flags = flags;
    let sent = if socket.is_stream() {
        send_stream(cx, file, socket, ranges, message)
    } else {
        send_message(cx, file, socket, ranges, message)
    };
    if let Err(Stop::Errno(Errno::PIPE)) = sent
        && socket.is_stream()
        && flags & MSG_NOSIGNAL == 0
    {
        cx.send_signal_to_self(SIGPIPE);
    }
    sent
}

fn send_stream(
    cx: &mut Cx<'_>,
    file: &FileRef,
    socket: &dyn Socket,
    mut ranges: Vec<(u64, usize)>,
    message: &mut Outgoing,
) -> SysResult {
    let mut done = cx.progress().done as usize;
    if done > 0 {
        // They went with the first part.
        message.rights = None;
    }
    transfer::skip(&mut ranges, done);
    let mut source = UserSource::vector(cx.mm(), ranges);
    let end =
        |done: usize, errno: Errno| if done > 0 { Ok(done as u64) } else { Err(errno.into()) };
    let mut waited = false;
    loop {
        let mut watched = Watched::new(&mut source, TRANSFER_MAX.saturating_sub(done));
        let sent = socket.send(&mut watched, message);
        let (short, left) = (watched.short(), watched.left());
        match sent {
            Ok(sent) => {
                done += sent;
                if left == 0 {
                    return Ok(done as u64);
                }
                if sent > 0 {
                    waited = false;
                } else if !short {
                    return Ok(done as u64);
                }
            }
            Err(Errno::AGAIN) if waits(file, message.flags) => {
                cx.progress().done = done as u64;
                if !await_room(cx, socket, message, &mut waited)? {
                    return end(done, Errno::AGAIN);
                }
                continue;
            }
            Err(errno) => return end(done, errno),
        }
        if short && let Err(errno) = source.fault() {
            return end(done, errno);
        }
    }
}

/// A send found no room: whether to try once more, now that the socket tells when there is some, or
/// the time for that is over.
///
/// # Errors
/// Blocks, when it was tried once more.
fn await_room(
    cx: &mut Cx<'_>,
    socket: &dyn Socket,
    message: &Outgoing,
    waited: &mut bool,
) -> SysResult<bool> {
    if !*waited {
        *waited = true;
        socket.wait_to_send(&cx.ticket(), message);
        return Ok(true);
    }
    let timeout = socket.options().send_timeout_ns();
    if timeout.is_some() && cx.timed_out() {
        return Ok(false);
    }
    Err(block(cx, timeout))
}

fn send_message(
    cx: &mut Cx<'_>,
    file: &FileRef,
    socket: &dyn Socket,
    ranges: Vec<(u64, usize)>,
    message: &mut Outgoing,
) -> SysResult {
    if total(&ranges) > socket.message_max().min(MESSAGE_BYTES_MAX) {
        return Err(Errno::MSGSIZE.into());
    }
    let data = gather(cx, ranges)?;
    let mut waited = false;
    loop {
        match socket.send(&mut SliceSource(&data), message) {
            Err(Errno::AGAIN) if waits(file, message.flags) => {
                if !await_room(cx, socket, message, &mut waited)? {
                    return Err(Errno::AGAIN.into());
                }
            }
            result => return Ok(result? as u64),
        }
    }
}

/// Receives without blocking; a stream as much as one receive gives.
fn receive_once(socket: &dyn Socket, sink: &mut UserSink, how: Receive) -> Result<Received, Errno> {
    if !socket.is_stream() || how.errors || how.peek || how.urgent {
        let mut whole = VecSink::new(sink.room().min(MESSAGE_BYTES_MAX));
        let received = socket.receive(&mut whole, how)?;
        scatter(sink, &whole.bytes)?;
        return Ok(received);
    }
    let mut total = Received::default();
    loop {
        let mut watched = Watched::new(sink, TRANSFER_MAX - total.bytes);
        let part = socket.receive(&mut watched, how);
        let short = watched.short();
        match part {
            Ok(part) => {
                let bytes = total.bytes + part.bytes;
                if part.bytes > 0 || total.bytes == 0 {
                    total = part;
                }
                total.bytes = bytes;
            }
            Err(_) if total.bytes > 0 => return Ok(total),
            Err(errno) => return Err(errno),
        }
        if !short || total.rights.is_some() || total.sender.is_some() && total.bytes > 0 {
            return Ok(total);
        }
        match sink.fault() {
            Ok(()) => {}
            Err(_) if total.bytes > 0 => return Ok(total),
            Err(errno) => return Err(errno),
        }
    }
}

/// Receives, blocking as the file does.
fn receive(
    cx: &mut Cx<'_>,
    file: &FileRef,
    socket: &dyn Socket,
    mut ranges: Vec<(u64, usize)>,
    flags: u32,
) -> SysResult<Received> {
    let how = Receive {
        peek: flags & MSG_PEEK != 0,
        urgent: flags & MSG_OOB != 0,
        errors: flags & MSG_ERRQUEUE != 0,
    };
    let wanted = total(&ranges);
    let before = cx.progress().done as usize;
    transfer::skip(&mut ranges, before);
    let mut sink = UserSink::vector(cx.mm(), ranges);
    let all = flags & MSG_WAITALL != 0 && socket.is_stream() && !how.peek && !how.urgent;
    let least = if all { wanted } else { socket.options().receive_least().min(wanted) };
    let stream = socket.is_stream() && !how.peek && !how.urgent && !how.errors;
    let mut done = Received { bytes: before, ..Received::default() };
    let mut waited = false;
    loop {
        match receive_once(socket, &mut sink, how) {
            Ok(mut part) => {
                let ended = part.bytes == 0;
                part.bytes += done.bytes;
                done = part;
                let enough = done.bytes >= least || done.rights.is_some() || done.sender.is_some();
                if ended || !stream || enough {
                    return Ok(done);
                }
            }
            Err(Errno::PENDING) => return Err(Errno::PENDING.into()),
            Err(Errno::AGAIN) if waits(file, flags) && !how.errors && !how.urgent => {
                // With the ticket in place, once more: it may have become ready in between.
                if !waited {
                    waited = true;
                    socket.poll(Some(&cx.ticket()));
                    continue;
                }
                let timeout = socket.options().receive_timeout_ns();
                if timeout.is_some() && cx.timed_out() {
                    return if done.bytes > 0 { Ok(done) } else { Err(Errno::AGAIN.into()) };
                }
                cx.progress().done = done.bytes as u64;
                return Err(block(cx, timeout));
            }
            Err(_) if done.bytes > 0 => return Ok(done),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// read(2) of a socket.
pub(in crate::syscall) fn transfer_read(
    cx: &mut Cx<'_>,
    file: &FileRef,
    socket: &dyn Socket,
    ranges: Vec<(u64, usize)>,
) -> SysResult {
    if total(&ranges) == 0 {
        return Ok(0);
    }
    let wanted = total(&ranges);
    Ok(receive(cx, file, socket, ranges, 0)?.bytes.min(wanted) as u64)
}

/// write(2) of a socket.
pub(in crate::syscall) fn transfer_write(
    cx: &mut Cx<'_>,
    file: &FileRef,
    socket: &dyn Socket,
    ranges: Vec<(u64, usize)>,
) -> SysResult {
    let mut message = Outgoing::plain(own_cred(cx));
    send(cx, file, socket, ranges, 0, &mut message)
}

pub(in crate::syscall) fn sys_sendto(
    cx: &mut Cx<'_>,
    fd: i32,
    at: u64,
    bytes: usize,
    flags: u32,
    name: u64,
    name_bytes: u32,
) -> SysResult {
    let (file, socket) = socket(cx, fd)?;
    let mut message = Outgoing::plain(own_cred(cx));
    if name != 0 && name_bytes > 0 {
        let address = read_address(cx, name, name_bytes)?;
        message.destination = Some(socket.resolve(cx, &address)?);
    }
    let ranges = Vec::from([(at, bytes.min(TRANSFER_MAX))]);
    send(cx, &file, &*socket, ranges, flags, &mut message)
}

fn send_header(
    cx: &mut Cx<'_>,
    file: &FileRef,
    socket: &dyn Socket,
    at: u64,
    flags: u32,
    sequence: u32,
) -> SysResult {
    let header = Header::read(cx, at)?;
    let control = control::read(cx, header.control, header.control_bytes)?;
    let mut message = Outgoing::plain(control.sender.unwrap_or_else(|| own_cred(cx)));
    message.control = control.others;
    message.sequence = sequence;
    if !control.files.is_empty() {
        let net = super::vfs(cx).net.clone();
        if socket.identity().family == crate::net::AF_UNIX {
            message.rights = Some(Rights::new(&net.unix.in_flight, control.files)?);
        }
    }
    if header.name_bytes > 0 {
        let address = read_address(cx, header.name, header.name_bytes)?;
        message.destination = Some(socket.resolve(cx, &address)?);
    }
    send(cx, file, socket, header.ranges, flags, &mut message)
}

pub(in crate::syscall) fn sys_sendmsg(cx: &mut Cx<'_>, fd: i32, at: u64, flags: u32) -> SysResult {
    let (file, socket) = socket(cx, fd)?;
    send_header(cx, &file, &*socket, at, flags, 0)
}

pub(in crate::syscall) fn sys_sendmmsg(
    cx: &mut Cx<'_>,
    fd: i32,
    at: u64,
    count: u32,
    flags: u32,
) -> SysResult {
    let (file, socket) = socket(cx, fd)?;
    let first = cx.progress().value as u32;
    for index in first..count.min(MESSAGES_MAX) {
        let header = at + u64::from(index) * MULTI_BYTES;
        // Only the first message is waited for: what was sent is told.
        let flags = if index > 0 { flags | MSG_DONTWAIT } else { flags };
        match send_header(cx, &file, &*socket, header, flags, index) {
            Ok(sent) => cx.write_u32(header + HEADER_BYTES, sent as u32)?,
            // The answer is on its way: this message is gone on with.
            Err(Stop::Errno(Errno::PENDING)) => {
                cx.progress().value = index.into();
                return Err(Errno::PENDING.into());
            }
            Err(Stop::Errno(_)) if index > 0 => return Ok(index.into()),
            Err(stop) => return Err(stop),
        }
    }
    Ok(count.min(MESSAGES_MAX).into())
}

pub(in crate::syscall) fn sys_recvfrom(
    cx: &mut Cx<'_>,
    fd: i32,
    at: u64,
    bytes: usize,
    flags: u32,
    name: u64,
    name_length_at: u64,
) -> SysResult {
    let (file, socket) = socket(cx, fd)?;
    let room = bytes.min(TRANSFER_MAX);
    let received = receive(cx, &file, &*socket, Vec::from([(at, room)]), flags)?;
    if name != 0 && !(socket.is_stream() && received.source.is_empty()) {
        write_address(cx, name, name_length_at, &received.source)?;
    }
    Ok(result_bytes(&*socket, &received, room, flags) as u64)
}

/// What a receive returns: of a cut message the whole length only if MSG_TRUNC asks for it.
fn result_bytes(socket: &dyn Socket, received: &Received, room: usize, flags: u32) -> usize {
    if !socket.is_stream() && flags & MSG_TRUNC != 0 {
        received.bytes
    } else {
        received.bytes.min(room)
    }
}

fn receive_header(
    cx: &mut Cx<'_>,
    file: &FileRef,
    socket: &dyn Socket,
    at: u64,
    flags: u32,
) -> SysResult {
    let header = Header::read(cx, at)?;
    let room = total(&header.ranges);
    let mut received = receive(cx, file, socket, header.ranges, flags)?;
    let (control_bytes, more) = if header.control_bytes == 0 {
        let lost =
            received.rights.is_some() || received.sender.is_some() || !received.control.is_empty();
        (0, if lost { MSG_CTRUNC } else { 0 })
    } else {
        control::write(cx, header.control, header.control_bytes, flags, &mut received)?
    };
    let mut shown = received.flags | more | flags & (MSG_CMSG_CLOEXEC | MSG_ERRQUEUE);
    shown &= !MSG_EOR | received.flags;
    if !socket.is_stream() && received.bytes > room {
        shown |= MSG_TRUNC;
    }
    if header.name != 0 {
        let bytes = received.source.len().min(header.name_bytes as usize);
        cx.write_bytes(header.name, &received.source[..bytes])?;
        cx.write_u32(at + 8, received.source.len() as u32)?;
    }
    cx.write_u64(at + 40, control_bytes as u64)?;
    cx.write_u32(at + 48, shown)?;
    Ok(result_bytes(socket, &received, room, flags) as u64)
}

pub(in crate::syscall) fn sys_recvmsg(cx: &mut Cx<'_>, fd: i32, at: u64, flags: u32) -> SysResult {
    let (file, socket) = socket(cx, fd)?;
    receive_header(cx, &file, &*socket, at, flags)
}

pub(in crate::syscall) fn sys_recvmmsg(
    cx: &mut Cx<'_>,
    fd: i32,
    at: u64,
    count: u32,
    flags: u32,
    timeout: u64,
) -> SysResult {
    let (file, socket) = socket(cx, fd)?;
    // The time-out is looked at between messages, as in Linux.
    let span = read_span(cx, timeout, 1)?;
    let until = deadline(cx, span);
    let first = cx.progress().value as u32;
    cx.progress().done = 0;
    let mut index = first;
    while index < count.min(MESSAGES_MAX) {
        let header = at + u64::from(index) * MULTI_BYTES;
        let late = until.is_some_and(|until| cx.services().monotonic_ns() >= until);
        let no_wait = index > 0 && (flags & MSG_WAITFORONE != 0 || late);
        let how = if no_wait { flags | MSG_DONTWAIT } else { flags };
        match receive_header(cx, &file, &*socket, header, how & !MSG_WAITFORONE) {
            Ok(bytes) => cx.write_u32(header + HEADER_BYTES, bytes as u32)?,
            Err(Stop::Block) => {
                cx.progress().value = index.into();
                cx.progress().done = index.into();
                return Err(Stop::Block);
            }
            Err(Stop::Errno(_)) if index > 0 => break,
            Err(stop) => return Err(stop),
        }
        index += 1;
    }
    Ok(index.into())
}
