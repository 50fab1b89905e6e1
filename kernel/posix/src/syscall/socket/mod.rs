// SPDX-License-Identifier: Apache-2.0
//! Sockets: making, naming, connecting and setting them up.

mod control;
mod message;

use alloc::{sync::Arc, vec, vec::Vec};

pub(super) use self::message::{
    sys_recvfrom, sys_recvmmsg, sys_recvmsg, sys_sendmmsg, sys_sendmsg, sys_sendto, transfer_read,
    transfer_write,
};
use super::{file::get, path::install};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    fs::{FileRef, Vfs, types::OpenFlags},
    net::{
        self, ADDRESS_BYTES_MAX, AF_NETLINK, AF_UNIX, Directions, End, Identity, Socket,
        file::socket_of,
        inet::{self, InetSocket},
        message::SOL_SOCKET,
        netlink::NetlinkSocket,
        option::{SO_DOMAIN, SO_PROTOCOL, SO_TYPE},
        unix::{UnixSocket, effective_cred},
    },
};

const CLOEXEC: u32 = OpenFlags::CLOEXEC.bits();
const NONBLOCK: u32 = OpenFlags::NONBLOCK.bits();
/// The bits of a type that say the kind.
const KIND_MASK: u32 = 0xf;
/// Longest option value.
const OPTION_BYTES_MAX: usize = 4096;

/// The socket of a descriptor, with its open file.
fn socket(cx: &Cx<'_>, fd: i32) -> Result<(FileRef, Arc<dyn Socket>), Errno> {
    let file = get(cx, fd)?;
    let socket = socket_of(&file)?;
    Ok((file, socket))
}

fn vfs(cx: &Cx<'_>) -> Arc<Vfs> {
    cx.fs().lock().vfs.clone()
}

/// Gives a socket a descriptor.
fn give(cx: &Cx<'_>, socket: Arc<dyn Socket>, flags: u32) -> Result<u64, Errno> {
    let kept = OpenFlags::from_bits_retain(flags & NONBLOCK);
    let file = net::file::open(&vfs(cx), socket, kept);
    install(cx, file, flags & CLOEXEC != 0)
}

/// Splits a type into kind and flags.
fn split(kind: u32) -> Result<(u32, u32), Errno> {
    let flags = kind & !KIND_MASK;
    if flags & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    Ok((kind & KIND_MASK, flags))
}

pub(super) fn sys_socket(cx: &mut Cx<'_>, family: u32, kind: u32, protocol: u32) -> SysResult {
    let (kind, flags) = split(kind)?;
    let net = vfs(cx).net.clone();
    let made: Arc<dyn Socket> = match u16::try_from(family) {
        Ok(AF_UNIX) => UnixSocket::new(&net.unix, kind, protocol)?,
        Ok(family) if inet::is_inet(family) => {
            InetSocket::new(&net.inet, Identity { family, kind, protocol })?
        }
        Ok(AF_NETLINK) => NetlinkSocket::new(&net, kind, protocol)?,
        _ => return Err(Errno::AFNOSUPPORT.into()),
    };
    Ok(give(cx, made, flags)?)
}

pub(super) fn sys_socketpair(
    cx: &mut Cx<'_>,
    family: u32,
    kind: u32,
    protocol: u32,
    to: u64,
) -> SysResult {
    let (kind, flags) = split(kind)?;
    let net = vfs(cx).net.clone();
    if family != u32::from(AF_UNIX) {
        let known = matches!(family, 2 | 10);
        return Err(if known { Errno::OPNOTSUPP } else { Errno::AFNOSUPPORT }.into());
    }
    let [first, second] = UnixSocket::pair(&net.unix, kind, protocol, effective_cred(cx))?;
    let first = give(cx, first, flags)?;
    let second = give(cx, second, flags);
    let written = second.and_then(|second| {
        cx.write_bytes(to, &(first | second << 32).to_le_bytes())?;
        Ok(())
    });
    if let Err(errno) = written {
        let files = cx.files();
        let first = files.lock().close(first as i32);
        let second = second.map(|second| files.lock().close(second as i32));
        drop((first, second));
        return Err(errno.into());
    }
    Ok(0)
}

/// Reads an address.
fn read_address(cx: &Cx<'_>, at: u64, bytes: u32) -> Result<Vec<u8>, Errno> {
    let bytes = bytes as usize;
    if bytes > ADDRESS_BYTES_MAX {
        return Err(Errno::INVAL);
    }
    let mut address = vec![0; bytes];
    cx.read_bytes(at, &mut address)?;
    Ok(address)
}

/// Writes an address, as much of it as fits, and its length.
fn write_address(cx: &Cx<'_>, at: u64, length_at: u64, address: &[u8]) -> Result<(), Errno> {
    let room = cx.read_u32(length_at)?;
    if room > i32::MAX as u32 {
        return Err(Errno::INVAL);
    }
    let shown = address.len().min(room as usize);
    cx.write_bytes(at, &address[..shown])?;
    cx.write_u32(length_at, address.len() as u32)
}

pub(super) fn sys_bind(cx: &mut Cx<'_>, fd: i32, at: u64, bytes: u32) -> SysResult {
    let (_, socket) = socket(cx, fd)?;
    let address = read_address(cx, at, bytes)?;
    socket.bind(cx, &address)?;
    Ok(0)
}

pub(super) fn sys_listen(cx: &mut Cx<'_>, fd: i32, backlog: i32) -> SysResult {
    let (_, socket) = socket(cx, fd)?;
    // Linux takes a negative number as a very large one.
    socket.listen(cx, backlog.cast_unsigned())?;
    Ok(0)
}

pub(super) fn sys_connect(cx: &mut Cx<'_>, fd: i32, at: u64, bytes: u32) -> SysResult {
    let (file, socket) = socket(cx, fd)?;
    let address = read_address(cx, at, bytes)?;
    socket.connect(cx, &address, file.blocks())?;
    Ok(0)
}

pub(super) fn sys_accept(cx: &mut Cx<'_>, fd: i32, at: u64, length_at: u64) -> SysResult {
    sys_accept4(cx, fd, at, length_at, 0)
}

pub(super) fn sys_accept4(
    cx: &mut Cx<'_>,
    fd: i32,
    at: u64,
    length_at: u64,
    flags: u32,
) -> SysResult {
    if flags & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let (file, listener) = socket(cx, fd)?;
    // A connection is taken only if there is a descriptor for it.
    let limit = cx.process().limits.lock().soft(crate::process::group::RLIMIT_NOFILE);
    if !cx.files().lock().has_room(limit) {
        return Err(Errno::MFILE.into());
    }
    let accepted = match listener.accept() {
        Err(Errno::AGAIN) if file.blocks() => {
            let timeout = listener.options().receive_timeout_ns();
            let deadline = super::poll::deadline(cx, timeout);
            listener.poll(Some(&cx.ticket()));
            match listener.accept() {
                Err(Errno::AGAIN) if cx.timed_out() => return Err(Errno::AGAIN.into()),
                Err(Errno::AGAIN) => {
                    let restart = if timeout.is_some() { Restart::Never } else { Restart::Always };
                    return Err(cx.block(deadline, restart));
                }
                result => result?,
            }
        }
        result => result?,
    };
    if at != 0 {
        let named = accepted.name(cx, End::Peer).and_then(|address| {
            write_address(cx, at, length_at, &address)?;
            Ok(())
        });
        if let Err(stop) = named {
            accepted.close();
            return Err(stop);
        }
    }
    Ok(give(cx, accepted, flags)?)
}

fn name(cx: &mut Cx<'_>, fd: i32, at: u64, length_at: u64, end: End) -> SysResult {
    let (_, socket) = socket(cx, fd)?;
    let address = socket.name(cx, end)?;
    write_address(cx, at, length_at, &address)?;
    Ok(0)
}

pub(super) fn sys_getsockname(cx: &mut Cx<'_>, fd: i32, at: u64, length_at: u64) -> SysResult {
    name(cx, fd, at, length_at, End::Own)
}

pub(super) fn sys_getpeername(cx: &mut Cx<'_>, fd: i32, at: u64, length_at: u64) -> SysResult {
    name(cx, fd, at, length_at, End::Peer)
}

pub(super) fn sys_shutdown(cx: &mut Cx<'_>, fd: i32, how: u32) -> SysResult {
    let (_, socket) = socket(cx, fd)?;
    let directions = match how {
        0 => Directions { receive: true, send: false },
        1 => Directions { receive: false, send: true },
        2 => Directions { receive: true, send: true },
        _ => return Err(Errno::INVAL.into()),
    };
    // Only what is connected has an end; a listener is woken by it.
    if socket.identity().family == AF_UNIX && socket.is_stream() {
        match socket.name(cx, End::Peer) {
            Ok(_) => {}
            Err(_) if socket.option(cx, (SOL_SOCKET, net::option::SO_ACCEPTCONN), 4)?[0] == 1 => {}
            Err(stop) => return Err(stop),
        }
    }
    socket.shutdown(cx, directions)?;
    Ok(0)
}

pub(super) fn sys_setsockopt(
    cx: &mut Cx<'_>,
    fd: i32,
    level: u32,
    option: u32,
    at: u64,
    bytes: i32,
) -> SysResult {
    let (_, socket) = socket(cx, fd)?;
    let bytes = usize::try_from(bytes).map_err(|_| Errno::INVAL)?;
    let mut value = vec![0; bytes.min(OPTION_BYTES_MAX)];
    cx.read_bytes(at, &mut value)?;
    let kept = level == SOL_SOCKET && socket.options().set(option, &value)?;
    match socket.set_option(cx, (level, option), &value) {
        Err(crate::cx::Stop::Errno(Errno::NOPROTOOPT)) if kept => {}
        result => result?,
    }
    Ok(0)
}

pub(super) fn sys_getsockopt(
    cx: &mut Cx<'_>,
    fd: i32,
    level: u32,
    option: u32,
    at: u64,
    length_at: u64,
) -> SysResult {
    let (_, socket) = socket(cx, fd)?;
    let room = cx.read_u32(length_at)?;
    if room > i32::MAX as u32 {
        return Err(Errno::INVAL.into());
    }
    let room = room as usize;
    let identity = socket.identity();
    let value = match (level, option) {
        (SOL_SOCKET, SO_TYPE) => identity.kind.to_le_bytes().to_vec(),
        (SOL_SOCKET, SO_DOMAIN) => u32::from(identity.family).to_le_bytes().to_vec(),
        (SOL_SOCKET, SO_PROTOCOL) => identity.protocol.to_le_bytes().to_vec(),
        option => match socket.option(cx, option, room.min(OPTION_BYTES_MAX)) {
            Err(crate::cx::Stop::Errno(Errno::NOPROTOOPT)) if level == SOL_SOCKET => {
                socket.options().get(option.1).ok_or(Errno::NOPROTOOPT)?
            }
            result => result?,
        },
    };
    let shown = value.len().min(room);
    cx.write_bytes(at, &value[..shown])?;
    cx.write_u32(length_at, shown as u32)?;
    Ok(0)
}
