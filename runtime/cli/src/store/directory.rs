// SPDX-License-Identifier: Apache-2.0
//! One container's directory.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::{Owner, Record, record};
use crate::failure::WithRemedy as _;

const RECORD: &str = "state.json";
const RECORD_NEXT: &str = "state.json.next";
const SOCKET: &str = "control.sock";

/// An existing `<root>/<id>`.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    handle: OwnedFd,
}

impl Directory {
    /// Opens the directory at a path; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn open(path: PathBuf) -> Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(handle) => Ok(Some(Self { path, handle })),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error)
                .with_context(|| format!("cannot open state directory {}", path.display())),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a second owner.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let handle = self.handle.try_clone().context("cannot duplicate a descriptor")?;
        Ok(Self { path: self.path.clone(), handle })
    }

    /// Reads the record; `None` if none was written yet.
    ///
    /// # Errors
    /// If it cannot be read or is not a record.
    pub(crate) fn read_record(&self) -> Result<Option<Record>> {
        let path = self.path.join(RECORD);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.handle, RECORD, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        let text = io::read_to_string(file);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        let parsed: Record = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", path.display()))
            .remedy("remove its directory, after a look for leftovers")?;
        if parsed.version != record::VERSION {
            bail!(
                "{} has version {}, not {}: use the trine that wrote it",
                path.display(),
                parsed.version,
                record::VERSION
            );
        }
        Ok(Some(parsed))
    }

    /// Replaces the record; a reader sees the old one or the new one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        let record = Record { version: record::VERSION, ..record.clone() };
        let text = serde_json::to_vec(&record).context("cannot format the state")?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let write = || -> io::Result<()> {
            let file = openat(&self.handle, RECORD_NEXT, flags, Mode::RUSR | Mode::WUSR)?;
            File::from(file).write_all(&text)?;
            trine::replace(&self.handle, RECORD_NEXT, RECORD)
        };
        write().with_context(|| format!("cannot write {}", self.path.join(RECORD).display()))
    }

    /// Makes the control socket.  Only the owner of the directory can reach it.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub(crate) fn listen(&self) -> Result<UnixListener> {
        let listener = UnixListener::bind(self.socket_path());
        let listener = listener.with_context(|| {
            format!("cannot make control socket {}", self.path.join(SOCKET).display())
        })?;
        fs::set_permissions(
            self.socket_path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .context("cannot protect the control socket")?;
        Ok(listener)
    }

    /// Connects to the process that holds the container; `None` if it is gone.
    ///
    /// # Errors
    /// If the socket is there but cannot be used.
    pub(crate) fn connect(&self) -> Result<Option<UnixStream>> {
        match UnixStream::connect(self.socket_path()) {
            Ok(stream) => Ok(Some(stream)),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot connect to {}", self.path.join(SOCKET).display())),
        }
    }

    /// Removes the control socket; fine if it is gone already.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(crate) fn remove_socket(&self) -> Result<()> {
        self.unlink(SOCKET)
    }

    /// Removes the directory and what is in it; fine if it is gone already.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        for name in [SOCKET, RECORD_NEXT, RECORD] {
            self.unlink(name)?;
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn unlink(&self, name: &str) -> Result<()> {
        match unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error)
                .with_context(|| format!("cannot remove {}", self.path.join(name).display())),
        }
    }

    /// A path to the socket that fits into a socket address, however long the root's path is.
    fn socket_path(&self) -> String {
        format!("/proc/self/fd/{}/{SOCKET}", self.handle.as_raw_fd())
    }
}

/// A new container's directory, removed again unless it is kept.
#[derive(Debug)]
pub(crate) struct Claim {
    directory: Option<Directory>,
}

impl Claim {
    /// Makes the directory of a new id, and a first record, owned by this process.
    ///
    /// # Errors
    /// If the id is taken, or the directory cannot be made.
    pub(super) fn new(path: PathBuf, record: &Record) -> Result<Self> {
        let directory = Directory::open(path)?.context("state directory vanished")?;
        let claim = Self { directory: Some(directory) };
        claim.directory().write_record(&Record { owner: Owner::current(), ..record.clone() })?;
        Ok(claim)
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Directory {
        self.directory.as_ref().expect("only `keep` takes it, and `keep` consumes the claim")
    }

    /// Leaves the directory in place for the container's life.
    pub(crate) fn keep(mut self) -> Directory {
        self.directory.take().expect("only `keep` takes it, and `keep` consumes the claim")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            // The error that brought us here is the one to report.
            let _ = directory.remove();
        }
    }
}
