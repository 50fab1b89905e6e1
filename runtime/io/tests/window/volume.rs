// SPDX-License-Identifier: Apache-2.0
//! A confined process that serves a volume, and a kernel that asks for its files.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
};

use rustix::io::Errno;
use tempfile::TempDir;
use trine_abi::{
    file::{Create, Created, FIRST_VOLUME, Found, Opened, Walk, Walked, Wire},
    window::{DATA, Operation, Submission},
};
use trine_io::protocol::{Narrowing, Notice, Request, VolumeSpec};
use trine_link::Link;

use crate::common::{Kernel, Sandbox};

pub(crate) const ROOT: u32 = FIRST_VOLUME;

/// A confined process that serves one volume to one kernel.
pub(crate) struct Bed {
    pub(crate) kernel: Kernel,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) process: Child,
    pub(crate) tree: TempDir,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.sandbox = None;
        let _ = self.process.wait();
    }
}

impl Bed {
    /// `tree/volume` is the volume; what else is in `tree` is the host's.
    pub(crate) fn new(readonly: bool, policy: Option<&str>) -> Self {
        Self::narrowed(readonly, policy, None)
    }

    /// With a policy that something narrows for the container.
    pub(crate) fn narrowed(
        readonly: bool,
        policy: Option<&str>,
        narrowing: Option<Narrowing>,
    ) -> Self {
        let tree = tempfile::tempdir().expect("a directory");
        fs::create_dir(tree.path().join("volume")).expect("mkdir");
        let (link, theirs) = Link::pair().expect("socket pair");
        let process = Command::new(env!("CARGO_BIN_EXE_trine-io"))
            .stdin(Stdio::from(theirs))
            .spawn()
            .expect("trine-io");
        let log = fs::File::create(tree.path().join("audit")).expect("a log");
        let files: Vec<_> = policy.iter().map(|_| log.as_fd()).collect();
        let sandbox = Sandbox::with_policy(link, policy, &files);
        let root: OwnedFd =
            trine_jail::mount::detached(&tree.path().join("volume"), true, readonly)
                .expect("a mount of its own (needs root)");
        let kernel = Kernel::new();
        let spec = VolumeSpec { handle: ROOT, readonly, destination: "/data".into() };
        let mut files = kernel.files();
        files.push(root.as_fd());
        let attach = Request::Attach {
            vm: 1,
            container: "c".into(),
            streams: vec![],
            volumes: vec![spec],
            narrowing,
        };
        sandbox.send(&attach, &files);
        assert_eq!(sandbox.notice(), Notice::Attached { vm: 1 });
        Self { kernel, sandbox: Some(sandbox), process, tree }
    }

    pub(crate) fn volume(&self) -> std::path::PathBuf {
        self.tree.path().join("volume")
    }

    /// Makes a call; `Err` is an errno.
    pub(crate) fn call(
        &mut self,
        operation: Operation,
        handle: u32,
        argument: u64,
        input: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let request = self.kernel.carry(operation, handle, argument, input);
        self.kernel.submit(request);
        let completion = self.kernel.completion();
        self.kernel.answer(&completion).map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }

    pub(crate) fn walk(&mut self, from: u32, names: &[&[u8]]) -> Result<Walked, Errno> {
        let names = names.iter().map(|name| name.to_vec()).collect();
        let walk = Walk { names, open: None };
        let answer = self.call(Operation::FileWalk, from, 0, &walk.encode())?;
        Ok(Walked::decode(&answer).expect("an answer"))
    }

    pub(crate) fn find(&mut self, names: &[&[u8]]) -> Found {
        let walked = self.walk(ROOT, names).expect("walked");
        assert_eq!(walked.found.len(), names.len(), "errno {}", walked.errno);
        walked.found.into_iter().next_back().expect("a node")
    }

    pub(crate) fn open(&mut self, node: u32, flags: i32) -> Result<u32, Errno> {
        let answer = self.call(Operation::FileOpen, node, flags as u64, &[])?;
        Ok(Opened::decode(&answer).expect("an answer").file)
    }

    pub(crate) fn create(
        &mut self,
        directory: u32,
        name: &[u8],
        mode: u32,
        target: &[u8],
    ) -> Result<Found, Errno> {
        let new = Create {
            name: name.to_vec(),
            mode,
            uid: 0,
            gid: 0,
            target: target.to_vec(),
            open: None,
        };
        let answer = self.call(Operation::FileCreate, directory, 0, &new.encode())?;
        Ok(Created::decode(&answer).expect("an answer").found)
    }

    /// Reads a file of the volume, whole.
    pub(crate) fn contents(&mut self, node: u32) -> Result<Vec<u8>, Errno> {
        let file = self.open(node, libc_flags::RDONLY)?;
        let read = self.call(Operation::FileRead, file, 0, &[]);
        self.call(Operation::FileForget, file, 1, &[])?;
        read
    }

    pub(crate) fn put(&mut self, file: u32, offset: u64, bytes: &[u8]) -> Result<u64, Errno> {
        self.kernel.memory.write(DATA, bytes).expect("in the window");
        self.kernel.submit(Submission {
            operation: Operation::FileWrite,
            id: 0,
            handle: file,
            bytes: bytes.len() as u32,
            data: 0,
            input: 0,
            argument: offset,
        });
        let completion = self.kernel.completion();
        match completion.errno {
            0 => Ok(completion.result),
            errno => Err(Errno::from_raw_os_error(errno as i32)),
        }
    }
}

/// Flags of open(2), which rustix has under another type.
pub(crate) mod libc_flags {
    pub(crate) const RDONLY: i32 = 0;
    pub(crate) const RDWR: i32 = 2;
}

pub(crate) const REGULAR: u32 = 0o100_644;
pub(crate) const DIRECTORY: u32 = 0o040_755;
