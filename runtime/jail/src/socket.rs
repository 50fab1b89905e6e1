// SPDX-License-Identifier: Apache-2.0
//! System calls on sockets with addresses, options and control messages as plain bytes.
//!
//! The I/O server passes on what a guest says after it has checked it; typed interfaces do not fit
//! that.  Lengths are the slices' own.
#![expect(unsafe_code, reason = "sockets calls on raw addresses, options and control messages")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// Room for any address.
const ADDRESS_BYTES: usize = 128;
/// Room for the control messages of one receive.
const CONTROL_BYTES: usize = 1024;

/// A control message: level, type, data.
pub type Control = (u32, u32, Vec<u8>);

/// A datagram's circumstances.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes of the datagram, at most those that there was room for.
    pub bytes: usize,
    /// Where it comes from.
    pub address: Vec<u8>,
    /// Control messages.
    pub control: Vec<Control>,
    /// `MSG_*`.
    pub flags: i32,
}

fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

fn length(bytes: &[u8]) -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn own(descriptor: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// socket(2), non-blocking.
///
/// # Errors
/// The system call's.
pub fn open(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved.
    check(unsafe { libc::socket(family, kind, protocol) }).map(own)
}

/// bind(2).
///
/// # Errors
/// The system call's.
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let bytes = length(address)?;
    // SAFETY: the kernel reads `bytes` bytes of the slice.
    check(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), bytes) }).map(drop)
}

/// connect(2).
///
/// # Errors
/// The system call's.
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let bytes = length(address)?;
    // SAFETY: the kernel reads `bytes` bytes of the slice.
    check(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), bytes) }).map(drop)
}

/// listen(2).
///
/// # Errors
/// The system call's.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// shutdown(2).
///
/// # Errors
/// The system call's.
pub fn shutdown(socket: BorrowedFd<'_>, how: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), how) }).map(drop)
}

type NameFn =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name(socket: BorrowedFd<'_>, name_fn: NameFn) -> io::Result<Vec<u8>> {
    let mut address = vec![0; ADDRESS_BYTES];
    let mut bytes = length(&address)?;
    // SAFETY: the kernel writes at most `bytes` bytes, which the vector has.
    check(unsafe { name_fn(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut bytes) })?;
    address.truncate(bytes as usize);
    Ok(address)
}

/// getsockname(2).
///
/// # Errors
/// The system call's.
pub fn own_name(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    name(socket, libc::getsockname)
}

/// getpeername(2).
///
/// # Errors
/// The system call's.
pub fn peer_name(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    name(socket, libc::getpeername)
}

/// accept4(2), non-blocking; the connection and its peer's address.
///
/// # Errors
/// The system call's.
pub fn accept(socket: BorrowedFd<'_>) -> io::Result<(OwnedFd, Vec<u8>)> {
    let mut address = vec![0; ADDRESS_BYTES];
    let mut bytes = length(&address)?;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes at most `bytes` bytes, which the vector has.
    let accepted = check(unsafe {
        let to = address.as_mut_ptr().cast();
        libc::accept4(socket.as_raw_fd(), to, &raw mut bytes, flags)
    })?;
    address.truncate(bytes as usize);
    Ok((own(accepted), address))
}

/// setsockopt(2).
///
/// # Errors
/// The system call's.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let bytes = length(value)?;
    let from = value.as_ptr().cast();
    // SAFETY: the kernel reads `bytes` bytes of the slice.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, from, bytes) }).map(drop)
}

/// getsockopt(2); a value of at most `room` bytes.
///
/// # Errors
/// The system call's.
pub fn option(socket: BorrowedFd<'_>, level: i32, option: i32, room: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; room];
    let mut bytes = length(&value)?;
    let to = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `bytes` bytes, which the vector has.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, to, &raw mut bytes) })?;
    value.truncate(bytes as usize);
    Ok(value)
}

/// The pending error of a socket, which this takes; 0: none.
///
/// # Errors
/// The system call's.
pub fn take_error(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let value = option(socket, libc::SOL_SOCKET, libc::SO_ERROR, 4)?;
    Ok(value.first_chunk::<4>().map_or(0, |word| u32::from_ne_bytes(*word)))
}

/// ioctl(2) whose argument is an int that the kernel writes.
///
/// # Errors
/// The system call's.
pub fn ioctl_int(socket: BorrowedFd<'_>, command: u32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    // SAFETY: the caller names a command that writes an int, and the kernel writes it there.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), command.into(), &raw mut value) })?;
    Ok(value)
}

/// recv(2) into private memory.
///
/// # Errors
/// The system call's.
pub fn receive(socket: BorrowedFd<'_>, to: &mut [u8], flags: i32) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most as many bytes as the slice has.
    let got = unsafe { libc::recv(socket.as_raw_fd(), to.as_mut_ptr().cast(), to.len(), flags) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// send(2) from private memory; never SIGPIPE.
///
/// # Errors
/// The system call's.
pub fn send(socket: BorrowedFd<'_>, from: &[u8], flags: i32) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads at most as many bytes as the slice has.
    let sent = unsafe { libc::send(socket.as_raw_fd(), from.as_ptr().cast(), from.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// sendmsg(2) from private memory; never SIGPIPE.
///
/// # Errors
/// The system call's; `InvalidInput` for control messages that are too long.
pub fn send_message(
    socket: BorrowedFd<'_>,
    data: &[u8],
    address: &[u8],
    control: &[Control],
    flags: i32,
) -> io::Result<usize> {
    let mut raw = Vec::new();
    for (level, kind, data) in control {
        let header = size_of::<libc::cmsghdr>();
        raw.extend_from_slice(&(header + data.len()).to_ne_bytes());
        raw.extend_from_slice(&level.to_ne_bytes());
        raw.extend_from_slice(&kind.to_ne_bytes());
        raw.extend_from_slice(data);
        raw.resize(raw.len().next_multiple_of(align_of::<libc::cmsghdr>()), 0);
    }
    if raw.len() > CONTROL_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let header = libc::msghdr {
        msg_name: if address.is_empty() {
            ptr::null_mut()
        } else {
            address.as_ptr().cast_mut().cast()
        },
        msg_namelen: length(address)?,
        msg_iov: &raw mut iov,
        msg_iovlen: 1,
        msg_control: if raw.is_empty() { ptr::null_mut() } else { raw.as_mut_ptr().cast() },
        msg_controllen: raw.len(),
        msg_flags: 0,
    };
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer of the header is to memory of the length beside it, which the kernel
    // only reads.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// recvmsg(2) into private memory.
///
/// # Errors
/// The system call's.
pub fn receive_message(socket: BorrowedFd<'_>, to: &mut [u8], flags: i32) -> io::Result<Received> {
    let mut address = vec![0; ADDRESS_BYTES];
    let mut control = vec![0_u8; CONTROL_BYTES];
    let mut iov = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let mut header = libc::msghdr {
        msg_name: address.as_mut_ptr().cast(),
        msg_namelen: length(&address)?,
        msg_iov: &raw mut iov,
        msg_iovlen: 1,
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: control.len(),
        msg_flags: 0,
    };
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: every pointer of the header is to memory of ours of the length beside it.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let bytes = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    address.truncate(header.msg_namelen as usize);
    control.truncate(header.msg_controllen);
    Ok(Received { bytes, address, control: split(&control), flags: header.msg_flags })
}

/// Splits control messages.
fn split(mut raw: &[u8]) -> Vec<Control> {
    let mut list = Vec::new();
    while let Some((header, rest)) = raw.split_first_chunk::<16>() {
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        // The upper half of the length is zero: the buffer is small.
        let length = word(0) as usize;
        let Some(data) = length.checked_sub(16).and_then(|bytes| rest.get(..bytes)) else { break };
        list.push((word(8), word(12), data.to_vec()));
        raw = raw.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    list
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn loopback() -> Vec<u8> {
        let mut address = vec![0; 16];
        address[0] = 2;
        address[4..8].copy_from_slice(&[127, 0, 0, 1]);
        address
    }

    #[test]
    fn datagrams_carry_addresses_and_control_messages() {
        let receiver = open(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
        bind(receiver.as_fd(), &loopback()).expect("bound");
        let to = own_name(receiver.as_fd()).expect("name");
        // IP_RECVTTL
        set_option(receiver.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, &1_i32.to_ne_bytes())
            .expect("option");
        let sender = open(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
        let ttl = (libc::IPPROTO_IP as u32, libc::IP_TTL as u32, 9_i32.to_ne_bytes().to_vec());
        let sent = send_message(sender.as_fd(), b"hello", &to, &[ttl], 0).expect("sent");
        assert_eq!(sent, 5);
        let mut room = [0; 3];
        let got = receive_message(receiver.as_fd(), &mut room, libc::MSG_TRUNC).expect("received");
        assert_eq!((got.bytes, &room), (5, b"hel"));
        assert_eq!(got.address, own_name_as_peer(&sender));
        assert_eq!(got.control, [(0, libc::IP_TTL as u32, 9_i32.to_ne_bytes().to_vec())]);
        let again = receive_message(receiver.as_fd(), &mut room, 0);
        assert_eq!(again.expect_err("empty").kind(), io::ErrorKind::WouldBlock);
    }

    fn own_name_as_peer(socket: &OwnedFd) -> Vec<u8> {
        let mut name = own_name(socket.as_fd()).expect("name");
        name[4..8].copy_from_slice(&[127, 0, 0, 1]);
        name
    }
}
