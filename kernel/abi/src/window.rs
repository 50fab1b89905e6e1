// SPDX-License-Identifier: Apache-2.0
//! The window: rings and buffers that the kernel and the I/O server share, and nothing else.
//!
//! ```text
//! 0x00000  sq_tail u32   submissions made; the kernel writes it
//! 0x00040  sq_head u32   submissions taken; the I/O server writes it
//! 0x00080  cq_tail u32   completions made; the I/O server writes it
//! 0x000c0  cq_head u32   completions taken; the kernel writes it
//! 0x00100  server_sleeps u32   1: ring the doorbell after a submission; the server writes it
//! 0x00140  kernel_sleeps u32   1: notify after a completion; the kernel writes it
//! 0x01000  submissions   ENTRIES x 64 bytes
//! 0x02000  completions   ENTRIES x 32 bytes
//! 0x10000  data          DATA_BYTES; the kernel allots it
//! ```
//!
//! The kernel cuts the data area into one small buffer a request id, and a few large ones for bulk
//! transfers; the server only checks that a request stays inside the area.
//!
//! Indices run freely and wrap at 2^32.  Geometry is these constants: neither side ever reads it
//! from shared memory.  The memory is a memfd sealed against resizing.
//!
//! A request: the kernel writes a [`Submission`], publishes `sq_tail` (release) and rings the
//! doorbell if `server_sleeps`.  The server copies the entry out whole, checks it
//! ([`Submission::check`]), puts its id in its own table of requests in flight, and some time later
//! writes a [`Completion`] with that id and publishes `cq_tail`.  An id is free again when the
//! kernel has taken its completion; at most [`ENTRIES`] are in flight, so the completion ring never
//! overflows.  A forwarded call ([`Operation::family`] other than streams) has its arguments encoded
//! in the first `input` bytes of its buffer, and the answer replaces them; the completion's result
//! is then the length of the answer unless the operation says otherwise.
//!
//! An id in flight used again, an index that moves by more than the ring holds, or a
//! reserved field that is not zero is a violation: the server ends that VM's window.

/// Entries of each ring, and requests in flight.
pub const ENTRIES: u32 = 64;
/// Offset of the word that counts submissions made.
pub const SQ_TAIL: usize = 0x000;
/// Offset of the word that counts submissions taken.
pub const SQ_HEAD: usize = 0x040;
/// Offset of the word that counts completions made.
pub const CQ_TAIL: usize = 0x080;
/// Offset of the word that counts completions taken.
pub const CQ_HEAD: usize = 0x0c0;
/// Offset of the word that asks for doorbells.
pub const SERVER_SLEEPS: usize = 0x100;
/// Offset of the word that asks for notifications.
pub const KERNEL_SLEEPS: usize = 0x140;
/// Offset of the submissions.
pub const SUBMISSIONS: usize = 0x1000;
/// Offset of the completions.
pub const COMPLETIONS: usize = 0x2000;
/// Offset of the data area.
pub const DATA: usize = 0x10000;
/// Bytes of the small buffer of one request.
pub const SMALL_BYTES: u32 = 16 << 10;
/// Bytes of one large buffer.
pub const BULK_BYTES: u32 = 128 << 10;
/// Large buffers.
pub const BULK_BUFFERS: u32 = 8;
/// Bytes of the data area: a small buffer a request id, then the large ones.
pub const DATA_BYTES: u32 = ENTRIES * SMALL_BYTES + BULK_BUFFERS * BULK_BYTES;
/// Bytes of the window.
pub const WINDOW_BYTES: u64 = DATA as u64 + DATA_BYTES as u64;
/// Bytes of an encoded [`Submission`].
pub const SUBMISSION_BYTES: usize = 64;
/// Bytes of an encoded [`Completion`].
pub const COMPLETION_BYTES: usize = 32;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a request asks for.  1 to 15 are for streams, 16 to 63 for files
        /// ([`crate::file`]), 64 and more for sockets.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Operation {
            $($(#[$doc])* $name = $number,)*
        }

        impl Operation {
            /// Every operation there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Reads an operation number, which comes from the guest.
            pub fn from_guest(raw: u16) -> Option<Self> {
                Some(match raw {
                    $($number => Self::$name,)*
                    _ => return None,
                })
            }
        }
    };
}

operations! {
    /// read(2) from a stream: up to `bytes` into the data area; completes when there is at least
    /// one byte, at the end of the stream (result 0), or on an error.
    Read = 1,
    /// write(2) to a stream: all `bytes` from the data area; completes when all are written or on
    /// an error (result: bytes written before it).
    Write = 2,
    /// Closes a handle after the writes before it.
    Close = 3,
    /// Cancels the request whose id is in `argument`; that request completes with ECANCELED if it
    /// had not completed already, then this one completes.
    Cancel = 4,

    /// Walks names from a directory; see [`crate::file::Walk`].
    FileWalk = 16,
    /// Attributes of a node; answer: [`crate::file::Attr`].
    FileAttr = 17,
    /// Changes attributes ([`crate::file::SetAttr`]); answer: [`crate::file::Attr`].
    FileSetAttr = 18,
    /// Opens a node, `argument` = Linux open flags; answer: [`crate::file::Opened`].
    FileOpen = 19,
    /// Reads an open file at offset `argument`, up to `bytes`; result: bytes read, 0 at the end.
    FileRead = 20,
    /// Writes `bytes` to an open file at offset `argument`; result: bytes written.
    FileWrite = 21,
    /// Writes the first `argument` bytes of the buffer, which has at least 8, at the end of an open
    /// file; result: bytes written; the offset after them replaces the first 8 bytes.
    FileAppend = 22,
    /// Reads an open directory from cookie `argument` on; answer: [`crate::file::Entry`] list.
    FileReadDir = 23,
    /// Makes something in a directory ([`crate::file::Create`]); answer: [`crate::file::Created`].
    FileCreate = 24,
    /// Gives a node one more name ([`crate::file::Link`]).
    FileLink = 25,
    /// Removes a name; input: the name; `argument` 1: a directory's.
    FileUnlink = 26,
    /// Renames ([`crate::file::Rename`]).
    FileRename = 27,
    /// Reads a symbolic link; answer: its target.
    FileReadLink = 28,
    /// fsync(2) of an open file; `argument` 1: fdatasync(2).
    FileSync = 29,
    /// fallocate(2) of an open file ([`crate::file::Allocate`]).
    FileAllocate = 30,
    /// statfs(2) of a node's file system; answer: [`crate::file::Space`].
    FileSpace = 31,
    /// Reads an extended attribute of a node; input: its name; answer: its value.
    FileGetXattr = 32,
    /// Names of the extended attributes of a node; answer: each with a NUL after it.
    FileListXattr = 33,
    /// Sets or removes an extended attribute of a node ([`crate::file::SetXattr`]).
    FileSetXattr = 34,
    /// lseek(2) of an open file to data or a hole ([`crate::file::Seek`]); result: the offset.
    FileSeek = 35,
    /// Locks an open file ([`crate::file::Lock`]).
    FileLock = 36,
    /// Gives handles back: `argument` references of a node, or an open file; for handle 0, those of
    /// [`crate::file::Forget`].
    FileForget = 37,

    /// Makes a socket; `argument`: [`crate::socket::pack_open`]; result: its handle.
    SocketOpen = 64,
    /// bind(2); input: the address; answer: the address that it has now.
    SocketBind = 65,
    /// listen(2); `argument`: the backlog.
    SocketListen = 66,
    /// connect(2); input: the address, or AF_UNSPEC alone; EINPROGRESS: an event tells the end.
    SocketConnect = 67,
    /// Sends; the first `input` bytes are a [`crate::socket::DatagramHead`] (none of a stream), the
    /// others data; `argument`: epoch << 32, [`crate::socket::SEND_QUIET`], any tag << 16, `MSG_*`;
    /// result: bytes taken.
    SocketSend = 68,
    /// shutdown(2); `argument`: 0 to 2.
    SocketShutdown = 69,
    /// getsockname(2), or getpeername(2) with `argument` 1; answer: the address.
    SocketName = 70,
    /// getsockopt(2); `argument`: level << 32, option; answer: the value, at most `bytes`.
    SocketGetOption = 71,
    /// setsockopt(2); `argument`: level << 32, option; input: the value.
    SocketSetOption = 72,
    /// recv(2) with MSG_OOB; `argument` 1: and MSG_PEEK; answer: the bytes.
    SocketUrgent = 73,
    /// Waits for events of any socket ([`crate::socket::EventHead`]); result: bytes of events.
    SocketEvents = 74,
    /// `argument` more credit.
    SocketCredit = 75,
    /// Closes a socket; what was sent before is delivered.
    SocketClose = 76,
    /// Asks about the network namespace; `argument`: [`crate::socket::Dump`]; answer: messages.
    NetworkDump = 77,
    /// Reads a file of [`crate::socket::NETWORK_FILES`]; `argument`: its number << 32, offset;
    /// answer: bytes, fewer than `bytes` at the end.
    NetworkFile = 78,
    /// ioctl(2) SIOCATMARK (`argument` 0x8905), SIOCOUTQ (0x5411) or SIOCINQ (0x541b); result: the
    /// int.
    SocketIoctl = 79,
}

/// Who executes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Streams: 1 to 15.
    Stream,
    /// Files: 16 to 63.
    File,
    /// Sockets: 64 and more.
    Socket,
}

impl Operation {
    /// Who executes it.
    pub fn family(self) -> Family {
        match self as u16 {
            0..=15 => Family::Stream,
            16..=63 => Family::File,
            64.. => Family::Socket,
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    /// What to do.
    pub operation: Operation,
    /// Chosen by the kernel, below [`ENTRIES`]; not in flight.
    pub id: u32,
    /// The object, a handle that the I/O server gave.
    pub handle: u32,
    /// Bytes of the data area that the request may use.
    pub bytes: u32,
    /// Where in the data area they begin.
    pub data: u32,
    /// How many of them, from the first on, are encoded arguments.
    pub input: u32,
    /// Depends on the operation.
    pub argument: u64,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The request's.
    pub id: u32,
    /// 0, or a Linux errno.
    pub errno: u32,
    /// Bytes transferred.
    pub result: u64,
}

/// Why the I/O server stops a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The submission index moved back or by more than the ring holds.
    Index,
    /// An operation number that does not exist.
    Operation,
    /// A request id that is out of range or in flight.
    Id,
    /// A buffer that is not in the data area, or arguments that are not in the buffer.
    Buffer,
    /// A reserved field that is not zero.
    Reserved,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    if let Some(source) = bytes.get(at..at + 4) {
        word.copy_from_slice(source);
    }
    u32::from_le_bytes(word)
}

impl Submission {
    /// Encodes the request as it lies in the ring.
    pub fn encode(&self) -> [u8; SUBMISSION_BYTES] {
        let mut entry = [0; SUBMISSION_BYTES];
        entry[0..2].copy_from_slice(&(self.operation as u16).to_le_bytes());
        entry[4..8].copy_from_slice(&self.id.to_le_bytes());
        entry[8..12].copy_from_slice(&self.handle.to_le_bytes());
        entry[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        entry[16..20].copy_from_slice(&self.data.to_le_bytes());
        entry[20..24].copy_from_slice(&self.input.to_le_bytes());
        entry[24..32].copy_from_slice(&self.argument.to_le_bytes());
        entry
    }

    /// Decodes and checks a private copy of a ring entry.
    ///
    /// # Errors
    /// The [`Violation`], if the entry is not a well-formed request.
    pub fn check(entry: &[u8; SUBMISSION_BYTES]) -> Result<Self, Violation> {
        let operation = Operation::from_guest(u16::from_le_bytes([entry[0], entry[1]]))
            .ok_or(Violation::Operation)?;
        let reserved = entry[2..4].iter().chain(&entry[32..]);
        if reserved.into_iter().any(|&byte| byte != 0) {
            return Err(Violation::Reserved);
        }
        let request = Self {
            operation,
            id: u32_at(entry, 4),
            handle: u32_at(entry, 8),
            bytes: u32_at(entry, 12),
            data: u32_at(entry, 16),
            input: u32_at(entry, 20),
            argument: u64::from(u32_at(entry, 24)) | u64::from(u32_at(entry, 28)) << 32,
        };
        if request.id >= ENTRIES {
            return Err(Violation::Id);
        }
        match request.data.checked_add(request.bytes) {
            Some(end) if end <= DATA_BYTES && request.input <= request.bytes => Ok(request),
            _ => Err(Violation::Buffer),
        }
    }
}

impl Completion {
    /// Encodes the answer as it lies in the ring.
    pub fn encode(&self) -> [u8; COMPLETION_BYTES] {
        let mut entry = [0; COMPLETION_BYTES];
        entry[0..4].copy_from_slice(&self.id.to_le_bytes());
        entry[4..8].copy_from_slice(&self.errno.to_le_bytes());
        entry[8..16].copy_from_slice(&self.result.to_le_bytes());
        entry
    }

    /// Decodes a private copy of a ring entry.
    pub fn decode(entry: &[u8; COMPLETION_BYTES]) -> Self {
        Self {
            id: u32_at(entry, 0),
            errno: u32_at(entry, 4),
            result: u64::from(u32_at(entry, 8)) | u64::from(u32_at(entry, 12)) << 32,
        }
    }
}

/// Entries that wait in a ring, or `None` if the two words cannot be true.
pub fn waiting(head: u32, tail: u32) -> Option<u32> {
    let waiting = tail.wrapping_sub(head);
    (waiting <= ENTRIES).then_some(waiting)
}

/// Offset in the window of ring entry `index`, for the ring at `base` with entries of `bytes`.
pub fn entry_offset(base: usize, index: u32, bytes: usize) -> usize {
    base + (index % ENTRIES) as usize * bytes
}

const _: () = assert!(SUBMISSIONS + ENTRIES as usize * SUBMISSION_BYTES <= COMPLETIONS);
const _: () = assert!(COMPLETIONS + ENTRIES as usize * COMPLETION_BYTES <= DATA);
const _: () = assert!(ENTRIES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Submission = Submission {
        operation: Operation::Write,
        id: 63,
        handle: 7,
        bytes: 4096,
        data: DATA_BYTES - 4096,
        input: 4096,
        argument: u64::MAX - 1,
    };

    #[test]
    fn submission_round_trip_returns_the_same() {
        assert_eq!(Submission::check(&GOOD.encode()), Ok(GOOD));
    }

    #[test]
    fn check_bad_fields_returns_the_violation() {
        let bad = [
            (Submission { id: 64, ..GOOD }, Violation::Id),
            (Submission { bytes: 4097, ..GOOD }, Violation::Buffer),
            (Submission { data: u32::MAX, ..GOOD }, Violation::Buffer),
            (Submission { bytes: 4095, ..GOOD }, Violation::Buffer),
        ];
        for (request, violation) in bad {
            assert_eq!(Submission::check(&request.encode()), Err(violation));
        }
        for at in (2..4).chain(32..64) {
            let mut entry = GOOD.encode();
            entry[at] = 1;
            assert_eq!(Submission::check(&entry), Err(Violation::Reserved));
        }
        let mut entry = GOOD.encode();
        entry[0] = 15;
        assert_eq!(Submission::check(&entry), Err(Violation::Operation));
    }
}
