// SPDX-License-Identifier: Apache-2.0
//! Commands from the VMM to the kernel, and events from the kernel to the VMM.
//!
//! ```text
//! VMM                         kernel
//!  Configure, Spawn(init)  ->   mounts, loads the program; does not run it
//!                          <-   Spawned | SpawnFailed
//!  Start                   ->   runs it
//!  Spawn(exec), Start, ... ->   more processes, one key each
//!                          <-   Exited(key, status) ... Exited(init), then the VM powers off
//! ```
//!
//! Events come from a hostile guest: the host decodes them with [`Event::decode`] and believes
//! nothing else.

use alloc::vec::Vec;

use crate::wire::{Malformed, Reader, Writer};

/// The key of the container's first process; execs have others.
pub const INIT_KEY: u32 = 0;
/// A stream handle that is not there (`/dev/null` in its place).
pub const NO_HANDLE: u32 = u32::MAX;

/// A mount of the container, in the order of the OCI spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Where, an absolute path in the container.
    pub destination: Vec<u8>,
    /// File system type: `proc`, `tmpfs`, `devpts`, `sysfs`, `mqueue`, `cgroup`, `volume`.
    pub kind: Vec<u8>,
    /// Source, as in mount(2).
    pub source: Vec<u8>,
    /// Options, as in fstab(5).
    pub options: Vec<Vec<u8>>,
    /// Handle of a volume's root, for `volume`.
    pub volume: Option<u32>,
}

/// What the container as a whole is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// UTS host name.
    pub hostname: Vec<u8>,
    /// UTS domain name.
    pub domainname: Vec<u8>,
    /// The root file system takes no writes.
    pub readonly_root: bool,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Paths that read as empty.
    pub masked_paths: Vec<Vec<u8>>,
    /// Paths that take no writes.
    pub readonly_paths: Vec<Vec<u8>>,
    /// The filter on the system calls of its processes, each instruction as the little-endian number
    /// that a `struct sock_filter` is; empty = none.
    pub seccomp: Vec<u64>,
    /// Files whose contents the host supplies at start (path, bytes): `/etc/resolv.conf` and such.
    pub files: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A resource limit, as in getrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_*` number.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A process to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Names the process on this channel.
    pub key: u32,
    /// Arguments; the first is looked up in PATH unless it has a slash.
    pub args: Vec<Vec<u8>>,
    /// Environment, `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Working directory; created if it is not there.
    pub cwd: Vec<u8>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// Capability sets as bit masks: effective, permitted, inheritable, bounding, ambient.
    pub capabilities: [u64; 5],
    /// execve grants no privileges.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// A terminal: stdin and stdout are its two directions, stderr is unused.
    pub terminal: bool,
    /// Terminal rows; 0 = 24.
    pub rows: u32,
    /// Terminal columns; 0 = 80.
    pub columns: u32,
    /// Window handles of stdin, stdout, stderr; [`NO_HANDLE`] = none.
    pub stdio: [u32; 3],
}

/// What the VMM asks of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sets the container up; comes first and once.
    Configure(Config),
    /// Loads a process, which then waits for `Start`.
    Spawn(Process),
    /// Lets a loaded process run.
    Start {
        /// Which.
        key: u32,
    },
    /// Sends a signal.
    Kill {
        /// To which process.
        key: u32,
        /// Signal number, 1 to 64.
        signal: u32,
        /// To every process of the container instead.
        all: bool,
    },
    /// Sets a terminal's size and sends SIGWINCH.
    Resize {
        /// Whose terminal.
        key: u32,
        /// Rows.
        rows: u32,
        /// Columns.
        columns: u32,
    },
    /// Asks for [`Event::Processes`].
    ListProcesses {
        /// Comes back in the answer.
        request: u32,
    },
}

/// One process of the guest, for `ps`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id in the container.
    pub pid: u32,
    /// Parent.
    pub parent: u32,
    /// User.
    pub uid: u32,
    /// State letter, as in proc(5).
    pub state: u8,
    /// Command line, arguments separated by NUL.
    pub command: Vec<u8>,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

/// What the kernel tells the VMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process is loaded.
    Spawned {
        /// Which.
        key: u32,
        /// Its process id in the container.
        pid: u32,
    },
    /// A process could not be loaded.
    SpawnFailed {
        /// Which.
        key: u32,
        /// Linux errno.
        errno: u32,
        /// What failed, one line.
        reason: Vec<u8>,
    },
    /// A process ended and all it wrote to its streams was handed over.
    Exited {
        /// Which.
        key: u32,
        /// Wait status as in wait(2): exit code << 8, or signal number (| 0x80 for a core dump).
        status: u32,
    },
    /// The kernel killed a process because memory ran out.
    OutOfMemory {
        /// Its process id.
        pid: u32,
    },
    /// A line for the log, e.g. the first use of a system call that is not there.
    Log {
        /// The line, without a newline.
        text: Vec<u8>,
    },
    /// Answer to [`Command::ListProcesses`].
    Processes {
        /// From the command.
        request: u32,
        /// All processes.
        list: Vec<ProcessInfo>,
    },
}

fn write_strings(to: &mut Writer, list: &[Vec<u8>]) {
    to.list(list, |to, item| to.bytes(item));
}

fn read_strings(from: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    from.list(Reader::bytes)
}

impl Config {
    fn write(&self, to: &mut Writer) {
        to.bytes(&self.hostname);
        to.bytes(&self.domainname);
        to.flag(self.readonly_root);
        to.list(&self.mounts, |to, mount| {
            to.bytes(&mount.destination);
            to.bytes(&mount.kind);
            to.bytes(&mount.source);
            write_strings(to, &mount.options);
            to.u32(mount.volume.unwrap_or(NO_HANDLE));
        });
        write_strings(to, &self.masked_paths);
        write_strings(to, &self.readonly_paths);
        to.list(&self.seccomp, |to, instruction| to.u64(*instruction));
        to.list(&self.files, |to, (path, contents)| {
            to.bytes(path);
            to.bytes(contents);
        });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            hostname: from.bytes()?,
            domainname: from.bytes()?,
            readonly_root: from.flag()?,
            mounts: from.list(|from| {
                Ok(Mount {
                    destination: from.bytes()?,
                    kind: from.bytes()?,
                    source: from.bytes()?,
                    options: read_strings(from)?,
                    volume: Some(from.u32()?).filter(|&handle| handle != NO_HANDLE),
                })
            })?,
            masked_paths: read_strings(from)?,
            readonly_paths: read_strings(from)?,
            seccomp: from.list(Reader::u64)?,
            files: from.list(|from| Ok((from.bytes()?, from.bytes()?)))?,
        })
    }
}

impl Process {
    fn write(&self, to: &mut Writer) {
        to.u32(self.key);
        write_strings(to, &self.args);
        write_strings(to, &self.env);
        to.bytes(&self.cwd);
        to.u32(self.uid);
        to.u32(self.gid);
        to.list(&self.groups, |to, group| to.u32(*group));
        to.u32(self.umask);
        for set in self.capabilities {
            to.u64(set);
        }
        to.flag(self.no_new_privileges);
        to.list(&self.rlimits, |to, limit| {
            to.u32(limit.resource);
            to.u64(limit.soft);
            to.u64(limit.hard);
        });
        to.flag(self.terminal);
        to.u32(self.rows);
        to.u32(self.columns);
        for handle in self.stdio {
            to.u32(handle);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            key: from.u32()?,
            args: read_strings(from)?,
            env: read_strings(from)?,
            cwd: from.bytes()?,
            uid: from.u32()?,
            gid: from.u32()?,
            groups: from.list(Reader::u32)?,
            umask: from.u32()?,
            capabilities: [from.u64()?, from.u64()?, from.u64()?, from.u64()?, from.u64()?],
            no_new_privileges: from.flag()?,
            rlimits: from.list(|from| {
                Ok(Rlimit { resource: from.u32()?, soft: from.u64()?, hard: from.u64()? })
            })?,
            terminal: from.flag()?,
            rows: from.u32()?,
            columns: from.u32()?,
            stdio: [from.u32()?, from.u32()?, from.u32()?],
        })
    }
}

impl Command {
    /// Encodes the command.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        match self {
            Self::Configure(config) => {
                to.u8(1);
                config.write(&mut to);
            }
            Self::Spawn(process) => {
                to.u8(2);
                process.write(&mut to);
            }
            Self::Start { key } => {
                to.u8(3);
                to.u32(*key);
            }
            Self::Kill { key, signal, all } => {
                to.u8(4);
                to.u32(*key);
                to.u32(*signal);
                to.flag(*all);
            }
            Self::Resize { key, rows, columns } => {
                to.u8(5);
                to.u32(*key);
                to.u32(*rows);
                to.u32(*columns);
            }
            Self::ListProcesses { request } => {
                to.u8(6);
                to.u32(*request);
            }
        }
        to.finish()
    }

    /// Decodes a command.
    ///
    /// # Errors
    /// [`Malformed`] if it is not exactly one command.
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(message);
        let command = match from.u8()? {
            1 => Self::Configure(Config::read(&mut from)?),
            2 => Self::Spawn(Process::read(&mut from)?),
            3 => Self::Start { key: from.u32()? },
            4 => Self::Kill { key: from.u32()?, signal: from.u32()?, all: from.flag()? },
            5 => Self::Resize { key: from.u32()?, rows: from.u32()?, columns: from.u32()? },
            6 => Self::ListProcesses { request: from.u32()? },
            _ => return Err(Malformed),
        };
        from.end()?;
        Ok(command)
    }
}

impl Event {
    /// Encodes the event.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        match self {
            Self::Spawned { key, pid } => {
                to.u8(1);
                to.u32(*key);
                to.u32(*pid);
            }
            Self::SpawnFailed { key, errno, reason } => {
                to.u8(2);
                to.u32(*key);
                to.u32(*errno);
                to.bytes(reason);
            }
            Self::Exited { key, status } => {
                to.u8(3);
                to.u32(*key);
                to.u32(*status);
            }
            Self::OutOfMemory { pid } => {
                to.u8(4);
                to.u32(*pid);
            }
            Self::Log { text } => {
                to.u8(5);
                to.bytes(text);
            }
            Self::Processes { request, list } => {
                to.u8(6);
                to.u32(*request);
                to.list(list, |to, process| {
                    to.u32(process.pid);
                    to.u32(process.parent);
                    to.u32(process.uid);
                    to.u8(process.state);
                    to.bytes(&process.command);
                    to.u64(process.cpu_ns);
                    to.u64(process.resident_bytes);
                });
            }
        }
        to.finish()
    }

    /// Decodes an event.
    ///
    /// # Errors
    /// [`Malformed`] if it is not exactly one event.
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(message);
        let event = match from.u8()? {
            1 => Self::Spawned { key: from.u32()?, pid: from.u32()? },
            2 => Self::SpawnFailed { key: from.u32()?, errno: from.u32()?, reason: from.bytes()? },
            3 => Self::Exited { key: from.u32()?, status: from.u32()? },
            4 => Self::OutOfMemory { pid: from.u32()? },
            5 => Self::Log { text: from.bytes()? },
            6 => Self::Processes {
                request: from.u32()?,
                list: from.list(|from| {
                    Ok(ProcessInfo {
                        pid: from.u32()?,
                        parent: from.u32()?,
                        uid: from.u32()?,
                        state: from.u8()?,
                        command: from.bytes()?,
                        cpu_ns: from.u64()?,
                        resident_bytes: from.u64()?,
                    })
                })?,
            },
            _ => return Err(Malformed),
        };
        from.end()?;
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn command_round_trip_returns_the_same() {
        let process = Process {
            key: 3,
            args: vec![b"/bin/sh".to_vec(), b"-c".to_vec(), vec![]],
            groups: vec![4, 5],
            capabilities: [1, 2, 3, 4, 5],
            rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: u64::MAX }],
            terminal: true,
            stdio: [0, 1, NO_HANDLE],
            ..Process::default()
        };
        let config = Config {
            hostname: b"h".to_vec(),
            mounts: vec![Mount { destination: b"/proc".to_vec(), ..Mount::default() }],
            files: vec![(b"/etc/hosts".to_vec(), b"127.0.0.1".to_vec())],
            ..Config::default()
        };
        for command in [
            Command::Configure(config),
            Command::Spawn(process),
            Command::Kill { key: 1, signal: 9, all: true },
            Command::Resize { key: 1, rows: 2, columns: 3 },
        ] {
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn event_every_truncation_is_malformed() {
        let event = Event::Processes {
            request: 1,
            list: vec![ProcessInfo { pid: 1, command: b"sh".to_vec(), ..ProcessInfo::default() }],
        };
        let bytes = event.encode();
        for end in 0..bytes.len() {
            assert_eq!(Event::decode(&bytes[..end]), Err(Malformed));
        }
        assert_eq!(Event::decode(&bytes), Ok(event));
    }

    #[test]
    fn list_with_a_huge_count_is_malformed_without_allocating() {
        let mut message = vec![6, 0, 0, 0, 0];
        message.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Event::decode(&message), Err(Malformed));
    }
}
