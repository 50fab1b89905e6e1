// SPDX-License-Identifier: Apache-2.0
//! Memory that a VM or another process may change at any time.
//!
//! A window is a memfd of a fixed size, sealed so that nobody can shrink it under a reader (which
//! would be SIGBUS).  Whoever has it open may write to it at any time, so there is never a
//! reference into it: bytes are copied out and in, index words are atomics, and stream data goes
//! between the memory and a descriptor by system calls that take an address.
#![expect(unsafe_code, reason = "maps shared memory and hands its address to the kernel")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    io::Errno,
    mm::{MapFlags, ProtFlags},
};

/// The seals that a shared memory file must have.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// What can go wrong with shared memory.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The kernel refused.
    #[error("cannot {action} shared memory of {bytes} bytes")]
    Host {
        /// What was being done.
        action: &'static str,
        /// The size that was wanted.
        bytes: usize,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file could be resized under us, or is not a memfd.
    #[error("shared memory is not sealed against resizing")]
    NotSealed,
    /// The file has another size than the protocol says.
    #[error("shared memory has {found} bytes instead of {wanted}")]
    Size {
        /// Its size.
        found: u64,
        /// The size that was wanted.
        wanted: usize,
    },
    /// An access is not inside the memory, or not aligned.
    #[error("access of {bytes} bytes at offset {offset} is outside shared memory")]
    OutOfBounds {
        /// Offset of the access.
        offset: usize,
        /// Bytes of the access.
        bytes: usize,
    },
}

/// Makes a zeroed memfd of `bytes` bytes, sealed against resizing for good.
///
/// # Errors
/// [`SharedError::Host`] if the host is out of descriptors or memory.
pub fn create(name: &str, bytes: usize) -> Result<OwnedFd, SharedError> {
    let host = |action| {
        move |source: Errno| SharedError::Host { action, bytes, source: io::Error::from(source) }
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(name, flags).map_err(host("create"))?;
    rustix::fs::ftruncate(&file, bytes as u64).map_err(host("size"))?;
    rustix::fs::fcntl_add_seals(&file, SEALS).map_err(host("seal"))?;
    Ok(file)
}

/// A mapping of a sealed memfd.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and lives as long as the value.
unsafe impl Send for SharedMemory {}
// SAFETY: every access is volatile, atomic or by the kernel, as concurrent writers exist anyway.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps all `bytes` bytes of `file`, which must be sealed and have exactly that size.
    ///
    /// # Errors
    /// [`SharedError::NotSealed`], [`SharedError::Size`], or [`SharedError::Host`].
    pub fn map(file: BorrowedFd<'_>, bytes: usize) -> Result<Self, SharedError> {
        // Not a memfd: EINVAL, which says the same.
        let seals = rustix::fs::fcntl_get_seals(file).map_err(|_| SharedError::NotSealed)?;
        if !seals.contains(SEALS) {
            return Err(SharedError::NotSealed);
        }
        let host = |action| {
            move |source: Errno| SharedError::Host { action, bytes, source: source.into() }
        };
        let found = rustix::fs::fstat(file).map_err(host("stat"))?.st_size;
        let found = u64::try_from(found).unwrap_or_default();
        if found != bytes as u64 {
            return Err(SharedError::Size { found, wanted: bytes });
        }
        // SAFETY: a fresh mapping at an address that the kernel chooses aliases nothing; the file
        // is sealed at this size, so that every page of it stays accessible.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }
        .map_err(host("map"))?;
        let base = NonNull::new(base.cast()).ok_or(SharedError::NotSealed)?;
        Ok(Self { base, bytes })
    }

    /// Bytes of the mapping.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn at(&self, offset: usize, bytes: usize) -> Result<*mut u8, SharedError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => {
                // SAFETY: the offset is inside the mapping, as just checked.
                Ok(unsafe { self.base.as_ptr().add(offset) })
            }
            _ => Err(SharedError::OutOfBounds { offset, bytes }),
        }
    }

    fn word(&self, offset: usize) -> Result<&AtomicU32, SharedError> {
        let word = self.at(offset, size_of::<u32>())?.cast::<u32>();
        if !word.is_aligned() {
            return Err(SharedError::OutOfBounds { offset, bytes: size_of::<u32>() });
        }
        // SAFETY: in bounds and aligned as checked; the mapping outlives the borrow of self; and
        // an atomic may change under its reference.
        Ok(unsafe { AtomicU32::from_ptr(word) })
    }

    /// Copies bytes out, each read exactly once.
    ///
    /// # Errors
    /// [`SharedError::OutOfBounds`].
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), SharedError> {
        let from = self.at(offset, to.len())?;
        for (index, byte) in to.iter_mut().enumerate() {
            // SAFETY: `index` is below the length that `at` checked; volatile, so that it is read
            // once whoever else writes.
            *byte = unsafe { from.wrapping_add(index).read_volatile() };
        }
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`SharedError::OutOfBounds`].
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), SharedError> {
        let to = self.at(offset, from.len())?;
        for (index, byte) in from.iter().enumerate() {
            // SAFETY: as in `read`.
            unsafe { to.wrapping_add(index).write_volatile(*byte) };
        }
        Ok(())
    }

    /// Loads an aligned word; what its writer stored before it is visible after.
    ///
    /// # Errors
    /// [`SharedError::OutOfBounds`].
    pub fn load_acquire(&self, offset: usize) -> Result<u32, SharedError> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    /// Stores an aligned word; what was stored before it is visible to who sees it.
    ///
    /// # Errors
    /// [`SharedError::OutOfBounds`].
    pub fn store_release(&self, offset: usize, value: u32) -> Result<(), SharedError> {
        self.word(offset)?.store(value, Ordering::Release);
        Ok(())
    }

    /// read(2) from a descriptor straight into the memory; returns bytes read.
    ///
    /// # Errors
    /// The system call's; EFAULT if the range is outside.
    pub fn fill_from(
        &self,
        offset: usize,
        bytes: usize,
        from: BorrowedFd<'_>,
    ) -> io::Result<usize> {
        let to = self.at(offset, bytes).map_err(|_| fault())?;
        // SAFETY: the kernel writes at most `bytes` bytes there, which `at` checked.
        result(unsafe { libc::read(from.as_raw_fd(), to.cast(), bytes) })
    }

    /// write(2) to a descriptor straight from the memory; returns bytes written.
    ///
    /// # Errors
    /// The system call's; EFAULT if the range is outside.
    pub fn drain_to(&self, offset: usize, bytes: usize, to: BorrowedFd<'_>) -> io::Result<usize> {
        let from = self.at(offset, bytes).map_err(|_| fault())?;
        // SAFETY: the kernel reads at most `bytes` bytes there, which `at` checked.
        result(unsafe { libc::write(to.as_raw_fd(), from.cast(), bytes) })
    }

    /// preadv2(2) from a file at `position` straight into the memory; with `no_wait` only what is
    /// in the page cache: EAGAIN if nothing is, EOPNOTSUPP if the file system cannot tell.
    ///
    /// # Errors
    /// The system call's; EFAULT if the range is outside.
    pub fn fill_at(
        &self,
        offset: usize,
        bytes: usize,
        from: BorrowedFd<'_>,
        position: u64,
        no_wait: bool,
    ) -> io::Result<usize> {
        let to = self.at(offset, bytes).map_err(|_| fault())?;
        let vector = libc::iovec { iov_base: to.cast(), iov_len: bytes };
        let flags = if no_wait { libc::RWF_NOWAIT } else { 0 };
        let position = i64::try_from(position).map_err(|_| invalid())?;
        // SAFETY: the kernel writes at most `bytes` bytes there, which `at` checked.
        result(unsafe { libc::preadv2(from.as_raw_fd(), &raw const vector, 1, position, flags) })
    }

    /// pwritev2(2) to a file at `position`, or at its end if there is none, straight from the
    /// memory.  An appending write moves the file's own position to the end of what it wrote.
    ///
    /// # Errors
    /// The system call's; EFAULT if the range is outside.
    pub fn drain_at(
        &self,
        offset: usize,
        bytes: usize,
        to: BorrowedFd<'_>,
        position: Option<u64>,
    ) -> io::Result<usize> {
        let from = self.at(offset, bytes).map_err(|_| fault())?;
        let vector = libc::iovec { iov_base: from.cast(), iov_len: bytes };
        let (position, flags) = match position {
            Some(position) => (i64::try_from(position).map_err(|_| invalid())?, 0),
            None => (-1, libc::RWF_APPEND),
        };
        // SAFETY: the kernel reads at most `bytes` bytes there, which `at` checked.
        result(unsafe { libc::pwritev2(to.as_raw_fd(), &raw const vector, 1, position, flags) })
    }

    /// recv(2) without blocking, whatever the socket's own mode; else as [`Self::fill_from`].
    ///
    /// # Errors
    /// The system call's; EFAULT if the range is outside.
    pub fn receive_from(
        &self,
        offset: usize,
        bytes: usize,
        from: BorrowedFd<'_>,
    ) -> io::Result<usize> {
        let to = self.at(offset, bytes).map_err(|_| fault())?;
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: as in `fill_from`.
        result(unsafe { libc::recv(from.as_raw_fd(), to.cast(), bytes, flags) })
    }

    /// send(2) without blocking or SIGPIPE; else as [`Self::drain_to`].
    ///
    /// # Errors
    /// The system call's; EFAULT if the range is outside.
    pub fn send_to(&self, offset: usize, bytes: usize, to: BorrowedFd<'_>) -> io::Result<usize> {
        let from = self.at(offset, bytes).map_err(|_| fault())?;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `drain_to`.
        result(unsafe { libc::send(to.as_raw_fd(), from.cast(), bytes, flags) })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made; no reference into it can outlive self.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping a mapping of ours cannot fail");
    }
}

fn fault() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

fn result(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn memory() -> SharedMemory {
        let file = create("test", 8192).expect("memfd");
        SharedMemory::map(file.as_fd(), 8192).expect("mapping")
    }

    #[test]
    fn access_outside_is_an_error_and_inside_round_trips() {
        let memory = memory();
        let mut bytes = [0; 4];
        memory.write(8188, b"tail").expect("inside");
        memory.read(8188, &mut bytes).expect("inside");
        assert_eq!(&bytes, b"tail");
        assert!(memory.write(8189, b"tail").is_err());
        assert!(memory.read(usize::MAX, &mut bytes).is_err());
        assert!(memory.load_acquire(8190).is_err());
        assert!(memory.load_acquire(2).is_err(), "not aligned");
        memory.store_release(4, 7).expect("inside");
        assert_eq!(memory.load_acquire(4).expect("inside"), 7);
    }

    #[test]
    fn map_unsealed_or_wrong_size_is_refused() {
        let plain = rustix::fs::memfd_create("plain", MemfdFlags::ALLOW_SEALING).expect("memfd");
        rustix::fs::ftruncate(&plain, 8192).expect("size");
        assert!(matches!(SharedMemory::map(plain.as_fd(), 8192), Err(SharedError::NotSealed)));
        let sealed = create("sealed", 4096).expect("memfd");
        assert!(matches!(
            SharedMemory::map(sealed.as_fd(), 8192),
            Err(SharedError::Size { found: 4096, wanted: 8192 })
        ));
        assert!(rustix::fs::ftruncate(&sealed, 0).is_err(), "sealed");
    }

    #[test]
    fn transfers_move_bytes_and_refuse_ranges_outside() {
        let memory = memory();
        let (reader, writer) = io::pipe().expect("pipe");
        memory.write(100, b"hello").expect("inside");
        assert_eq!(memory.drain_to(100, 5, writer.as_fd()).expect("write"), 5);
        assert_eq!(memory.fill_from(4096, 100, reader.as_fd()).expect("read"), 5);
        let mut bytes = [0; 5];
        memory.read(4096, &mut bytes).expect("inside");
        assert_eq!(&bytes, b"hello");
        let error = memory.fill_from(8000, 1000, reader.as_fd()).expect_err("outside");
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn receive_on_a_blocking_socket_does_not_block() {
        let memory = memory();
        let (one, two) = std::os::unix::net::UnixStream::pair().expect("pair");
        let error = memory.receive_from(0, 10, one.as_fd()).expect_err("empty");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(memory.send_to(0, 10, two.as_fd()).expect("send"), 10);
        assert_eq!(memory.receive_from(0, 10, one.as_fd()).expect("receive"), 10);
    }
}
