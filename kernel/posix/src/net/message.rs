// SPDX-License-Identifier: Apache-2.0
//! What travels besides the bytes of a message.

use alloc::vec::Vec;

use super::{Destination, unix::Rights};

/// MSG_OOB.
pub(crate) const MSG_OOB: u32 = 1;
/// MSG_PEEK.
pub(crate) const MSG_PEEK: u32 = 2;
/// MSG_CTRUNC.
pub(crate) const MSG_CTRUNC: u32 = 8;
/// MSG_TRUNC.
pub(crate) const MSG_TRUNC: u32 = 0x20;
/// MSG_DONTWAIT.
pub(crate) const MSG_DONTWAIT: u32 = 0x40;
/// MSG_EOR.
pub(crate) const MSG_EOR: u32 = 0x80;
/// MSG_WAITALL.
pub(crate) const MSG_WAITALL: u32 = 0x100;
/// MSG_ERRQUEUE.
pub(crate) const MSG_ERRQUEUE: u32 = 0x2000;
/// MSG_NOSIGNAL.
pub(crate) const MSG_NOSIGNAL: u32 = 0x4000;
/// MSG_WAITFORONE.
pub(crate) const MSG_WAITFORONE: u32 = 0x1_0000;
/// MSG_CMSG_CLOEXEC.
pub(crate) const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
/// SOL_SOCKET.
pub(crate) const SOL_SOCKET: u32 = 1;
/// SCM_RIGHTS.
pub(crate) const SCM_RIGHTS: u32 = 1;
/// SCM_CREDENTIALS.
pub(crate) const SCM_CREDENTIALS: u32 = 2;

/// Who sent something (`struct ucred`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ucred {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Ucred {
    /// As getsockopt(2) tells where there is nobody.
    pub(crate) const NOBODY: Self = Self { pid: 0, uid: u32::MAX, gid: u32::MAX };

    /// As in memory.
    pub(crate) fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.pid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.uid.to_le_bytes());
        bytes[8..].copy_from_slice(&self.gid.to_le_bytes());
        bytes
    }
}

/// What is sent with the bytes.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Where to, if not to the peer.
    pub(crate) destination: Option<Destination>,
    /// Open files; taken when they are sent.
    pub(crate) rights: Option<Rights>,
    /// Who sends.
    pub(crate) sender: Ucred,
    /// MSG_OOB, MSG_EOR, MSG_MORE.
    pub(crate) flags: u32,
    /// Which message of one call this is.
    pub(crate) sequence: u32,
    /// Control messages of other levels than SOL_SOCKET: level, type, data.
    pub(crate) control: Vec<(u32, u32, Vec<u8>)>,
}

impl Outgoing {
    /// Bytes for the peer, and nothing else.
    pub(crate) fn plain(sender: Ucred) -> Self {
        Self { destination: None, rights: None, sender, flags: 0, sequence: 0, control: Vec::new() }
    }
}

/// How to receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Receive {
    /// Everything stays where it is.
    pub(crate) peek: bool,
    /// Urgent data.
    pub(crate) urgent: bool,
    /// The queue of errors.
    pub(crate) errors: bool,
}

/// What was received besides the bytes that the sink took.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Bytes of the message, which may be more than the sink took.
    pub(crate) bytes: usize,
    /// Where from; empty: nobody says.
    pub(crate) source: Vec<u8>,
    /// Open files.
    pub(crate) rights: Option<Rights>,
    /// Who sent it, if that is asked for.
    pub(crate) sender: Option<Ucred>,
    /// Other control messages: level, type, data.
    pub(crate) control: Vec<(u32, u32, Vec<u8>)>,
    /// MSG_EOR, MSG_TRUNC and the like.
    pub(crate) flags: u32,
}
