// SPDX-License-Identifier: Apache-2.0
//! What a caller says of a container.

use std::{fs::File, os::fd::OwnedFd, path::PathBuf};

use trine_abi::control::{Config, Process};

use crate::{Volume, policy::Narrowing};

/// One standard stream, as the I/O server gets it.
#[derive(Debug)]
pub enum Stream {
    /// Nothing: reads end, writes vanish.
    Null,
    /// An open descriptor: pipe, socket, file or terminal.
    Descriptor(OwnedFd),
    /// A FIFO, by path, as containerd gives it: opened without blocking, held open on both sides,
    /// so that a reader that comes and goes loses nothing.
    Fifo(PathBuf),
    /// A regular file that is appended to (containerd's `file://`).
    File(PathBuf),
}

/// The three standard streams of a process.  With a terminal, stdin and stdout are its two
/// directions and stderr is ignored.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Stream,
    /// Standard output.
    pub stdout: Stream,
    /// Standard error.
    pub stderr: Stream,
}

/// What the host cgroup of a container is given beyond its memory limit: the VMM itself, and what
/// KVM needs for the VM, so that the limit is the guest's alone.
pub const VMM_OVERHEAD_BYTES: u64 = 32 << 20;

/// Sizes and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// The host cgroup of the VM: a cgroupfs path such as `/default/x` or systemd's
    /// `slice:prefix:name`; `None` = stay in the caller's.  The latter form becomes a directory
    /// under the slice, `prefix-name.scope`, made by Trine itself and unknown to systemd: tell
    /// systemd to leave it alone (`Delegate=yes` on the slice's unit).
    pub cgroup: Option<String>,
    /// The OCI `linux.resources` as JSON, applied to that cgroup, with [`VMM_OVERHEAD_BYTES`] on
    /// top of a memory limit.
    pub resources: Option<String>,
}

/// A container to create.
#[derive(Debug)]
pub struct ContainerSpec {
    /// Its id.
    pub id: String,
    /// The root file system image (EROFS), read-only.
    pub image: File,
    /// What the container is like.
    pub config: Config,
    /// Its volumes, in the order of the handles in `config.mounts`.
    pub volumes: Vec<Volume>,
    /// Its first process; `stdio` and `key` are filled in by the library.
    pub process: Process,
    /// The streams of the first process.
    pub stdio: Stdio,
    /// Sizes and limits.
    pub limits: Limits,
    /// What narrows the pod's policy for this container.
    pub narrowing: Option<Narrowing>,
}
