// SPDX-License-Identifier: Apache-2.0
//! Control messages (cmsg(3)).

use alloc::vec::Vec;

use crate::{
    Errno,
    cx::Cx,
    fs::{FileRef, types::OpenFlags},
    net::{
        message::{
            MSG_CMSG_CLOEXEC, MSG_CTRUNC, Received, SCM_CREDENTIALS, SCM_RIGHTS, SOL_SOCKET, Ucred,
        },
        unix::MESSAGE_FILES_MAX,
    },
    process::{
        creds::{CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN},
        group::RLIMIT_NOFILE,
    },
};

/// Bytes of a `struct cmsghdr`.
const HEADER_BYTES: usize = 16;
/// Most bytes of control messages of one call (net.core.optmem_max).
const CONTROL_BYTES_MAX: usize = 20_480;

/// What a caller sends besides bytes.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) files: Vec<FileRef>,
    pub(super) sender: Option<Ucred>,
    pub(super) others: Vec<(u32, u32, Vec<u8>)>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().unwrap_or_default()))
}

fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// Whether the caller may say that it is this.
fn check_sender(cx: &Cx<'_>, claimed: Ucred) -> Result<(), Errno> {
    let creds = cx.creds();
    let pid_ok = claimed.pid == cx.process().pid || creds.has_cap(CAP_SYS_ADMIN);
    let uid_ok = creds.is_own_uid(claimed.uid) || creds.has_cap(CAP_SETUID);
    let gid_ok = creds.is_own_gid(claimed.gid) || creds.has_cap(CAP_SETGID);
    if pid_ok && uid_ok && gid_ok { Ok(()) } else { Err(Errno::PERM) }
}

/// Reads the control messages of a send.
///
/// # Errors
/// `EINVAL` if they are malformed, `ENOBUFS` if they are too long, `EBADF`, `EPERM`.
pub(super) fn read(cx: &Cx<'_>, at: u64, bytes: usize) -> Result<Control, Errno> {
    let mut control = Control::default();
    if bytes < HEADER_BYTES {
        return Ok(control);
    }
    if bytes > CONTROL_BYTES_MAX {
        return Err(Errno::NOBUFS);
    }
    let mut raw = alloc::vec![0; bytes];
    cx.read_bytes(at, &mut raw)?;
    let mut at = 0;
    while at + HEADER_BYTES <= raw.len() {
        let length = word(&raw, at) as usize;
        if length < HEADER_BYTES || word(&raw, at + 4) != 0 || length > raw.len() - at {
            return Err(Errno::INVAL);
        }
        let data = &raw[at + HEADER_BYTES..at + length];
        match (word(&raw, at + 8), word(&raw, at + 12)) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                let count = data.len() / 4;
                if control.files.len() + count > MESSAGE_FILES_MAX {
                    return Err(Errno::INVAL);
                }
                let files = cx.files();
                let files = files.lock();
                for fd in data.chunks_exact(4) {
                    let file = files.get(word(fd, 0).cast_signed())?;
                    if file.flags().contains(OpenFlags::PATH)
                        && file.location().kind() == crate::fs::types::FileType::Socket
                    {
                        return Err(Errno::BADF);
                    }
                    control.files.push(file);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => {
                if data.len() != 12 {
                    return Err(Errno::INVAL);
                }
                let claimed = Ucred { pid: word(data, 0), uid: word(data, 4), gid: word(data, 8) };
                check_sender(cx, claimed)?;
                control.sender = Some(claimed);
            }
            (SOL_SOCKET, _) => return Err(Errno::INVAL),
            (level, kind) => control.others.push((level, kind, data.to_vec())),
        }
        at += align(length);
    }
    Ok(control)
}

/// The control messages of a receive as they are laid out for the caller.
struct Layout {
    bytes: Vec<u8>,
    room: usize,
    flags: u32,
}

impl Layout {
    /// Adds a message, cut where the room ends.
    fn push(&mut self, level: u32, kind: u32, data: &[u8]) {
        let left = self.room - self.bytes.len();
        if left < HEADER_BYTES {
            self.flags |= MSG_CTRUNC;
            return;
        }
        let shown = data.len().min(left - HEADER_BYTES);
        if shown < data.len() {
            self.flags |= MSG_CTRUNC;
        }
        self.bytes.extend_from_slice(&((HEADER_BYTES + shown) as u64).to_le_bytes());
        self.bytes.extend_from_slice(&level.to_le_bytes());
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(&data[..shown]);
        let padded = align(self.bytes.len()).min(self.room);
        self.bytes.resize(padded, 0);
    }
}

/// Writes what came with a message; returns how many bytes, and flags for the caller.
///
/// # Errors
/// `EFAULT`; the descriptors are given already then, as in Linux.
pub(super) fn write(
    cx: &Cx<'_>,
    at: u64,
    room: usize,
    flags: u32,
    received: &mut Received,
) -> Result<(usize, u32), Errno> {
    let mut layout = Layout { bytes: Vec::new(), room: room.min(CONTROL_BYTES_MAX), flags: 0 };
    for (level, kind, data) in core::mem::take(&mut received.control) {
        layout.push(level, kind, &data);
    }
    if let Some(sender) = received.sender {
        layout.push(SOL_SOCKET, SCM_CREDENTIALS, &sender.encode());
    }
    if let Some(rights) = received.rights.take() {
        let left = layout.room - layout.bytes.len();
        let fit = left.saturating_sub(HEADER_BYTES) / 4;
        let limit = cx.process().limits.lock().soft(RLIMIT_NOFILE);
        let mut numbers = Vec::new();
        for file in rights.files().iter().take(fit) {
            let cloexec = flags & MSG_CMSG_CLOEXEC != 0;
            match cx.files().lock().insert(file.clone(), cloexec, 0, limit) {
                Ok(fd) => numbers.extend_from_slice(&fd.to_le_bytes()),
                Err(_) => break,
            }
        }
        if numbers.len() < rights.files().len() * 4 {
            layout.flags |= MSG_CTRUNC;
        }
        if !numbers.is_empty() {
            layout.push(SOL_SOCKET, SCM_RIGHTS, &numbers);
        }
    }
    cx.write_bytes(at, &layout.bytes)?;
    Ok((layout.bytes.len(), layout.flags))
}
