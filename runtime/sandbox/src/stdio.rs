// SPDX-License-Identifier: Apache-2.0
//! Opens the standard streams of a process for the I/O process, which has no paths.
//!
//! Nothing here blocks, and nobody else's open file is changed: a pipe or a terminal that came as
//! a descriptor is opened once more, so that non-blocking mode is ours alone.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use trine_abi::control::NO_HANDLE;
use trine_io::protocol::{Direction, StreamKind, StreamSpec};

use crate::{Error, Stdio, Stream};

/// Device number of `/dev/ptmx`: opening it once more would make another terminal.
const PTMX: (u32, u32) = (5, 2);

/// An open stream.
#[derive(Debug)]
struct Opened {
    kind: StreamKind,
    file: OwnedFd,
    hold: Option<OwnedFd>,
}

/// The open streams of one process, ready to be sent to the I/O process.
#[derive(Debug)]
pub(crate) struct OpenStdio {
    /// Handles of stdin, stdout and stderr; `NO_HANDLE` = none.
    pub(crate) handles: [u32; 3],
    /// One for each stream that is there.
    pub(crate) specs: Vec<StreamSpec>,
    files: Vec<OwnedFd>,
}

impl OpenStdio {
    /// Opens `stdio`; handles are taken from `next_handle`.  With a terminal, stderr is ignored.
    pub(crate) fn open(
        stdio: Stdio,
        has_terminal: bool,
        mut next_handle: impl FnMut() -> u32,
    ) -> Result<Self, Error> {
        let mut opened = Self { handles: [NO_HANDLE; 3], specs: Vec::new(), files: Vec::new() };
        let stderr = if has_terminal { Stream::Null } else { stdio.stderr };
        let streams = [
            (stdio.stdin, Direction::In),
            (stdio.stdout, Direction::Out),
            (stderr, Direction::Out),
        ];
        for (slot, (stream, direction)) in opened.handles.iter_mut().zip(streams) {
            let Some(Opened { kind, file, hold }) = open(stream, direction)? else {
                continue;
            };
            *slot = next_handle();
            let held = hold.is_some();
            opened.specs.push(StreamSpec { handle: *slot, direction, kind, held });
            opened.files.push(file);
            opened.files.extend(hold);
        }
        Ok(opened)
    }

    /// The descriptors, in the order that the protocol wants.
    pub(crate) fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(AsFd::as_fd)
    }
}

fn open(stream: Stream, direction: Direction) -> Result<Option<Opened>, Error> {
    match stream {
        Stream::Null => Ok(None),
        Stream::Descriptor(file) => take(file, direction).map(Some),
        Stream::Fifo(path) => open_fifo(&path, direction).map(Some),
        Stream::File(path) => open_file(path, direction).map(Some),
    }
}

/// Opens both ends: the reader first, for a writer without one is refused (ENXIO).
fn open_fifo(path: &Path, direction: Direction) -> Result<Opened, Error> {
    let open = |mode| {
        let flags = mode | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::host(format!("open fifo {}", path.display()), errno))
    };
    let reader = open(OFlags::RDONLY)?;
    if kind_of(&reader)? != FileType::Fifo {
        return Err(Error::Invalid {
            what: format!("stream {}", path.display()),
            reason: "it is not a fifo".into(),
        });
    }
    let writer = open(OFlags::WRONLY)?;
    let (file, hold) = match direction {
        Direction::In => (reader, writer),
        Direction::Out => (writer, reader),
    };
    Ok(Opened { kind: StreamKind::Plain, file, hold: Some(hold) })
}

fn open_file(path: PathBuf, direction: Direction) -> Result<Opened, Error> {
    let flags = match direction {
        Direction::In => OFlags::RDONLY,
        Direction::Out => OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
    };
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = rustix::fs::open(&path, flags, mode)
        .map_err(|errno| Error::host(format!("open {}", path.display()), errno))?;
    if kind_of(&file)? != FileType::RegularFile {
        return Err(Error::Invalid {
            what: format!("stream {}", path.display()),
            reason: "it is not a regular file".into(),
        });
    }
    Ok(Opened { kind: StreamKind::Plain, file, hold: None })
}

fn take(file: OwnedFd, direction: Direction) -> Result<Opened, Error> {
    let stat = stat(&file)?;
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let (kind, again) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => (StreamKind::Socket, None),
        // Never blocks, and must keep the offset that it shares with others.
        FileType::RegularFile => (StreamKind::Plain, None),
        FileType::CharacterDevice if number == PTMX => (StreamKind::Borrowed, None),
        FileType::CharacterDevice | FileType::Fifo => match open_again(&file, direction) {
            Ok(again) => (StreamKind::Plain, Some(again)),
            // Somebody else's terminal, a pipe whose other end is closed, or no /proc.
            Err(_) => (StreamKind::Borrowed, None),
        },
        other => {
            return Err(Error::Invalid {
                what: "stream".into(),
                reason: format!("cannot read or write a {other:?}"),
            });
        }
    };
    Ok(Opened { kind, file: again.unwrap_or(file), hold: None })
}

fn open_again(file: &OwnedFd, direction: Direction) -> Result<OwnedFd, Errno> {
    let mode = match direction {
        Direction::In => OFlags::RDONLY,
        Direction::Out => OFlags::WRONLY,
    };
    let flags = mode | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty())
}

fn stat(file: &OwnedFd) -> Result<rustix::fs::Stat, Error> {
    rustix::fs::fstat(file).map_err(|errno| Error::host("stat a stream", errno))
}

fn kind_of(file: &OwnedFd) -> Result<FileType, Error> {
    Ok(FileType::from_raw_mode(stat(file)?.st_mode))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Seek, io::Write, os::unix::net::UnixStream};

    use super::*;

    fn is_nonblocking(file: impl AsFd) -> bool {
        rustix::fs::fcntl_getfl(file).expect("flags").contains(OFlags::NONBLOCK)
    }

    #[test]
    fn open_gives_handles_to_streams_that_are_there() {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let stdio = Stdio {
            stdin: Stream::Descriptor(reader.into()),
            stdout: Stream::Null,
            stderr: Stream::Descriptor(writer.into()),
        };
        let mut next = 6;
        let opened = OpenStdio::open(stdio, false, || {
            next += 1;
            next
        });
        let opened = opened.expect("open");
        assert_eq!(opened.handles, [7, NO_HANDLE, 8]);
        assert_eq!(opened.files().count(), 2);
    }

    #[test]
    fn pipe_is_opened_again_and_its_owner_keeps_blocking_mode() {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let owner = reader.try_clone().expect("clone");
        let opened = take(reader.into(), Direction::In).expect("open");
        assert!(opened.kind == StreamKind::Plain && is_nonblocking(&opened.file));
        assert!(!is_nonblocking(&owner));
        drop(writer);
    }

    #[test]
    fn regular_file_keeps_its_offset() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"before").expect("write");
        let opened = take(file.try_clone().expect("clone").into(), Direction::Out).expect("open");
        rustix::io::write(&opened.file, b" after").expect("write");
        assert_eq!(file.stream_position().expect("position"), 12);
    }

    #[test]
    fn sockets_and_terminal_masters_are_taken_as_they_are() {
        let (socket, _peer) = UnixStream::pair().expect("pair");
        assert_eq!(take(socket.into(), Direction::In).expect("open").kind, StreamKind::Socket);
        let master = File::options().read(true).write(true).open("/dev/ptmx").expect("terminal");
        assert_eq!(take(master.into(), Direction::In).expect("open").kind, StreamKind::Borrowed);
    }

    #[test]
    fn fifo_opens_at_once_and_is_held_at_both_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).expect("fifo");
        for direction in [Direction::In, Direction::Out] {
            let opened = open_fifo(&path, direction).expect("open");
            assert!(opened.hold.is_some());
        }
        let missing = open_fifo(&folder.path().join("no"), Direction::In).expect_err("missing");
        assert!(missing.to_string().contains("/no"), "{missing}");
        std::fs::write(folder.path().join("file"), "x").expect("file");
        let wrong = open_fifo(&folder.path().join("file"), Direction::In).expect_err("a file");
        assert!(wrong.to_string().contains("not a fifo"), "{wrong}");
    }

    #[test]
    fn file_is_appended_to() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        for word in ["one ", "two"] {
            let opened = open_file(path.clone(), Direction::Out).expect("open");
            rustix::io::write(&opened.file, word.as_bytes()).expect("write");
        }
        assert_eq!(std::fs::read_to_string(path).expect("read"), "one two");
        assert!(open_file(folder.path().join("none"), Direction::In).is_err());
        assert!(open_file("/dev/null".into(), Direction::Out).is_err());
    }
}
