// SPDX-License-Identifier: Apache-2.0
//! The server's socket: one per pod, found again from the pod's name.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::FlockOperation,
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use sha2::{Digest, Sha256};

/// Where containerd's shims have their sockets.
pub const DEFAULT_DIR: &str = "/run/containerd/s";

/// Longest path of a socket, in bytes.
const PATH_MAX_BYTES: usize = 106;

/// Returns the path of a pod's socket.
pub fn path(dir: &Path, containerd: &str, namespace: &str, group: &str) -> PathBuf {
    // None of the three can contain the separator.
    let mut digest = Sha256::new();
    for part in [containerd, namespace, group] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let name: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    dir.join(name)
}

/// Returns the address of a socket, as containerd wants it.
pub fn address(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// Returns the socket of an address.
pub fn from_address(address: &str) -> Option<PathBuf> {
    address.trim().strip_prefix("unix://").filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// Listens on a socket, whose directory is made if need be.
///
/// # Errors
/// If the path is too long or cannot be bound.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    let bytes = socket.as_os_str().as_bytes().len();
    if bytes > PATH_MAX_BYTES {
        let message = format!("{bytes} bytes is too long for a socket, at most {PATH_MAX_BYTES}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Makes the directory of sockets, for root alone; one that is there is left as it is.
///
/// # Errors
/// If it cannot be made.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Says whether a server listens on a socket.
pub fn is_served(socket: &Path) -> bool {
    let connect = || -> Result<(), Errno> {
        let address = SocketAddrUnix::new(socket)?;
        // Not blocking: a server that is stopped, with a full queue, counts as there (EAGAIN).
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let stream =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&stream, &address)
    };
    matches!(connect(), Ok(()) | Err(Errno::AGAIN))
}

/// Excludes other `start` and `delete` of the same pod; released when dropped.
///
/// The file is removed on release, so nothing stays behind; whoever waited for the removed file
/// notices that and begins again.
#[derive(Debug)]
pub struct GroupLock {
    path: PathBuf,
    _file: File,
}

impl GroupLock {
    /// Waits for the lock of a socket.
    ///
    /// # Errors
    /// If the lock file cannot be made.
    pub fn acquire(socket: &Path) -> io::Result<Self> {
        let path = socket.with_extension("lock");
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            let is_current = fs::metadata(&path)
                .is_ok_and(|named| file.metadata().is_ok_and(|ours| named.ino() == ours.ino()));
            if is_current {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for GroupLock {
    fn drop(&mut self) {
        // Before the close, which is what lets the next one in.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn path_depends_on_each_part_and_on_their_borders() {
        let dir = Path::new(DEFAULT_DIR);
        let paths = [
            path(dir, "/c.sock", "ns", "id"),
            path(dir, "/d.sock", "ns", "id"),
            path(dir, "/c.sock", "nsi", "d"),
            path(dir, "/c.sock", "ns", "id2"),
        ];
        for (index, path) in paths.iter().enumerate() {
            assert!(path.as_os_str().len() < PATH_MAX_BYTES);
            assert!(!paths[..index].contains(path));
        }
        assert_eq!(path(dir, "/c.sock", "ns", "id"), paths[0]);
        assert_eq!(from_address(&address(&paths[0])).unwrap(), paths[0]);
    }

    #[test]
    fn served_only_while_someone_listens() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        assert!(!is_served(&socket));
        let listener = bind(&socket).unwrap();
        assert!(is_served(&socket));
        assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!is_served(&socket), "a socket without a listener is stale");
    }

    #[test]
    fn bind_too_long_path_says_so() {
        let socket = Path::new("/tmp").join("x".repeat(110));
        assert!(bind(&socket).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn lock_excludes_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = GroupLock::acquire(&socket).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
