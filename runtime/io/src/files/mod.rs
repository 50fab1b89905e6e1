// SPDX-License-Identifier: Apache-2.0
//! Forwarded file calls: the volumes of one VM.
//!
//! The guest's kernel walks paths, follows symbolic links and decides what the container's users
//! may do; what comes here are single names in directories that the guest found before.  Nothing of
//! the host's is reachable except below a volume's root: see [`node`].
//!
//! A volume that is read-only is so by its mount on the host, and by a check here.

mod change;
mod node;
mod policy;
mod transfer;

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{FileType, OFlags},
    io::Errno,
};
use trine_abi::{
    file::{Entry, Forget, Found, Opened, Space, Walk, Walked, Wire},
    window::{Operation, Submission},
    wire::Writer,
};
use trine_policy::meter::Budget;

use self::{
    node::{Handles, OpenFile},
    policy::Permit,
};
use crate::{
    protocol::VolumeSpec,
    service::{Context, Service},
    window::WindowError,
};

/// Longest extended attribute, in bytes: what fits a small buffer.
const XATTR_MAX: usize = 16 << 10;

/// One volume of a VM.
#[derive(Debug)]
pub(crate) struct Volume {
    /// It takes no writes.
    pub(crate) is_readonly: bool,
    /// Calls on its file system do not wait for anything but local media.
    pub(crate) is_local: bool,
    /// Its file system is in memory: reading never waits.
    pub(crate) is_memory: bool,
    /// Where it is in the container.
    pub(crate) destination: Vec<u8>,
}

/// The volumes of one VM, and what its guest has found on them.
#[derive(Debug)]
pub(crate) struct Files {
    volumes: Vec<Volume>,
    handles: Handles,
    /// Nodes that the policy found for the request under way, and the guest does not know of.
    borrowed: Vec<u32>,
}

/// How a request is answered.
enum Reply {
    /// With a result.
    Result(u64),
    /// With bytes.
    Bytes(Vec<u8>),
    /// Later, by a worker.
    Later,
}

/// Why a request was not executed.
enum Refusal {
    /// The guest is told this errno.
    Errno(Errno),
    /// The window is broken.
    Window(WindowError),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<WindowError> for Refusal {
    fn from(error: WindowError) -> Self {
        Self::Window(error)
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl Files {
    /// No volumes.
    pub(crate) fn new() -> Self {
        Self { volumes: Vec::new(), handles: Handles::new(), borrowed: Vec::new() }
    }

    /// Adds a volume, whose root is an `O_PATH` descriptor of a directory or regular file.
    pub(crate) fn add(&mut self, spec: &VolumeSpec, root: OwnedFd) -> Result<(), Errno> {
        // From linux/magic.h.
        const LOCAL: [u64; 7] = [
            0xef53,      // ext4
            0x5846_5342, // xfs
            0x9123_683e, // btrfs
            0x0102_1994, // tmpfs
            0x794c_7630, // overlayfs
            0xf2f5_2010, // f2fs
            0x2fc1_2fc1, // zfs
        ];
        let magic = rustix::fs::fstatfs(&root)?.f_type.cast_unsigned();
        let volume = Volume {
            is_readonly: spec.readonly,
            destination: spec.destination.clone().into_bytes(),
            is_local: LOCAL.contains(&magic),
            is_memory: magic == 0x0102_1994,
        };
        self.handles.add_root(spec.handle, root, self.volumes.len())?;
        self.volumes.push(volume);
        Ok(())
    }

    fn volume(&self, index: usize) -> Result<&Volume, Errno> {
        self.volumes.get(index).ok_or(Errno::STALE)
    }

    fn writable(&self, index: usize) -> Result<(), Errno> {
        if self.volume(index)?.is_readonly { Err(Errno::ROFS) } else { Ok(()) }
    }

    fn execute(
        &mut self,
        request: &Submission,
        context: &mut Context<'_>,
    ) -> Result<Reply, Refusal> {
        let (request, flags) = match self.permit(request, context)? {
            Permit::Make { request, flags } => (request, flags),
            Permit::Change(change) => return self.set_attr(request.handle, &change),
            Permit::Done(reply) => return Ok(reply),
        };
        let request = &request;
        match request.operation {
            Operation::FileWalk => self.walk(request, &arguments(context)?, context),
            Operation::FileAttr => self.attributes(request.handle),
            Operation::FileOpen => self.open(request, flags, context),
            Operation::FileRead => self.read(request, context),
            Operation::FileWrite => self.write(request, context, Some(request.argument)),
            Operation::FileAppend => self.write(request, context, None),
            Operation::FileReadDir => self.read_dir(request),
            Operation::FileReadLink => {
                let node = self.handles.node(request.handle)?;
                if node.kind != FileType::Symlink {
                    return Err(Errno::INVAL.into());
                }
                let target = rustix::fs::readlinkat(&node.descriptor, "", Vec::new())?;
                Ok(Reply::Bytes(target.into_bytes()))
            }
            Operation::FileSync => self.sync(request, context),
            Operation::FileAllocate => self.allocate(request, &arguments(context)?, context),
            Operation::FileSpace => self.space(request.handle),
            Operation::FileSeek => self.seek(request.handle, &arguments(context)?),
            Operation::FileLock => self.lock(request.handle, &arguments(context)?),
            Operation::FileForget => {
                self.handles.forget(request.handle, request.argument);
                if request.handle == 0 {
                    let forget: Forget = arguments(context)?;
                    for node in forget.nodes {
                        self.handles.forget(node.node, node.references);
                    }
                }
                Ok(Reply::Result(0))
            }
            Operation::FileGetXattr => self.get_xattr(request.handle, &context.input),
            Operation::FileListXattr => self.list_xattr(request.handle),
            Operation::FileSetXattr => self.set_xattr(request.handle, &arguments(context)?),
            Operation::FileSetAttr => self.set_attr(request.handle, &arguments(context)?),
            Operation::FileCreate => self.create(request.handle, &arguments(context)?, context),
            Operation::FileLink => self.link(request.handle, &arguments(context)?),
            Operation::FileUnlink => {
                self.unlink(request.handle, &context.input, request.argument == 1)
            }
            Operation::FileRename => self.rename(request.handle, &arguments(context)?),
            _ => Err(Errno::NOSYS.into()),
        }
    }

    fn walk(
        &mut self,
        request: &Submission,
        walk: &Walk,
        context: &Context<'_>,
    ) -> Result<Reply, Refusal> {
        let start = self.handles.directory(request.handle)?;
        let start = node::attributes(&rustix::fs::fstat(&start.descriptor)?);
        let mut walked = Walked { start, ..Walked::default() };
        let mut at = request.handle;
        for name in &walk.names {
            let permitted = self.permit_step(at, name, context);
            match permitted.and_then(|()| self.step(at, name)) {
                Ok(found) => {
                    at = found.node;
                    let is_directory = found.attr.mode & 0o170_000 == 0o040_000;
                    walked.found.push(found);
                    if !is_directory {
                        break;
                    }
                }
                Err(errno) if context.must_hold() => {
                    // Walked from the start when it goes on: the guest never learns of these.
                    for found in &walked.found {
                        self.handles.forget(found.node, 1);
                    }
                    return Err(errno.into());
                }
                Err(errno) => {
                    walked.errno = crate::stream::errno_of(errno);
                    break;
                }
            }
        }
        if let Some(flags) = walk.open
            && walked.errno == 0
            && walked.found.len() == walk.names.len()
        {
            walked.file = self.open_found(at, flags, context);
        }
        Ok(Reply::Bytes(walked.encode()))
    }

    fn step(&mut self, directory: u32, bytes: &[u8]) -> Result<Found, Errno> {
        let directory = self.handles.directory(directory)?;
        let volume = directory.volume;
        let descriptor = node::look_up(directory.descriptor.as_fd(), node::name(bytes)?)?;
        self.found(descriptor, volume)
    }

    /// A node for a descriptor.
    fn found(&mut self, descriptor: OwnedFd, volume: usize) -> Result<Found, Errno> {
        let stat = rustix::fs::fstat(&descriptor)?;
        let attr = node::attributes(&stat);
        Ok(Found { node: self.handles.add_node(descriptor, &stat, volume)?, attr })
    }

    /// Attributes of a node or an open file.
    fn attributes(&self, handle: u32) -> Result<Reply, Refusal> {
        let stat = match self.handles.node(handle) {
            Ok(node) => rustix::fs::fstat(&node.descriptor)?,
            Err(_) => rustix::fs::fstat(&*self.handles.file(handle)?.descriptor)?,
        };
        Ok(Reply::Bytes(node::attributes(&stat).encode()))
    }

    /// Opens a node as a favour: whatever is in the way is told when it is asked for alone.
    fn open_found(&mut self, node: u32, flags: u32, context: &Context<'_>) -> Option<u32> {
        if !self.may_open_quietly(node, flags, context) {
            return None;
        }
        self.open_node(node, flags, 0, Budget::default()).ok().map(|opened| opened.file)
    }

    fn open(
        &mut self,
        request: &Submission,
        added: u32,
        context: &Context<'_>,
    ) -> Result<Reply, Refusal> {
        let wanted = u32::try_from(request.argument).map_err(|_| Errno::INVAL)?;
        let budget = context.case.borrow_mut().take_budget();
        Ok(Reply::Bytes(self.open_node(request.handle, wanted, added, budget)?.encode()))
    }

    /// Opens a node with flags that the guest wants, and others that the policy adds.
    fn open_node(
        &mut self,
        node: u32,
        wanted: u32,
        added: u32,
        budget: Budget,
    ) -> Result<Opened, Errno> {
        let node = self.handles.node(node)?;
        let wanted = OFlags::from_bits_retain(wanted);
        let access = wanted & OFlags::ACCMODE;
        if access != OFlags::RDONLY {
            self.writable(node.volume)?;
        }
        let is_directory = node.kind == FileType::Directory;
        let mut flags =
            access | wanted & (OFlags::DIRECT | OFlags::SYNC | OFlags::DSYNC | OFlags::NOATIME);
        if is_directory {
            flags |= OFlags::DIRECTORY;
        } else {
            flags |= OFlags::from_bits_retain(added);
        }
        let volume = node.volume;
        let descriptor = node::open(node, flags)?;
        let attr = node::attributes(&rustix::fs::fstat(&descriptor)?);
        let file = self.handles.add_file(OpenFile {
            descriptor: descriptor.into(),
            volume,
            is_synchronous: flags.intersects(OFlags::DIRECT | OFlags::SYNC | OFlags::DSYNC),
            cookie: 0,
            is_directory,
            is_append_only: flags.contains(OFlags::APPEND),
            budget,
        })?;
        Ok(Opened { file, attr })
    }

    fn read_dir(&mut self, request: &Submission) -> Result<Reply, Refusal> {
        let file = self.handles.file(request.handle)?;
        if !file.is_directory {
            return Err(Errno::NOTDIR.into());
        }
        let descriptor = std::sync::Arc::clone(&file.descriptor);
        if file.cookie != request.argument {
            let to = rustix::fs::SeekFrom::Start(request.argument);
            rustix::fs::seek(&*descriptor, to)?;
        }
        let mut at = request.argument;
        let mut read_until = at;
        let mut writer = Writer::new();
        let mut bytes = 0;
        // Less than what fits: an entry is a little longer in our form than in the kernel's.
        let mut space = vec![std::mem::MaybeUninit::uninit(); 8 << 10];
        let mut entries = rustix::fs::RawDir::new(&*descriptor, &mut space);
        let mut is_full = false;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            read_until = entry.next_entry_cookie();
            let name = entry.file_name().to_bytes();
            let encoded = Entry {
                ino: entry.ino(),
                next: entry.next_entry_cookie(),
                kind: entry_kind(entry.file_type()),
                name: name.to_vec(),
            };
            if name == b"." || name == b".." {
                at = encoded.next;
            } else {
                let encoded_bytes = encoded.encode();
                if bytes + encoded_bytes.len() > request.bytes as usize {
                    is_full = true;
                    break;
                }
                bytes += encoded_bytes.len();
                encoded.put(&mut writer);
                at = encoded.next;
            }
            // One system call's worth is enough, unless it was `.` and `..` only.
            if entries.is_buffer_empty() && bytes > 0 {
                break;
            }
        }
        if is_full && bytes == 0 {
            return Err(Errno::INVAL.into());
        }
        // What was read from the kernel and not passed on is read again.
        let cookie = if is_full { u64::MAX } else { read_until };
        self.handles.set_cookie(request.handle, if at == read_until { cookie } else { u64::MAX });
        Ok(Reply::Bytes(writer.finish()))
    }

    fn space(&self, handle: u32) -> Result<Reply, Refusal> {
        let stat = rustix::fs::fstatfs(&self.handles.node(handle)?.descriptor)?;
        let space = Space {
            block_bytes: stat.f_bsize.cast_unsigned(),
            blocks: stat.f_blocks,
            free_blocks: stat.f_bfree,
            available_blocks: stat.f_bavail,
            files: stat.f_files,
            free_files: stat.f_ffree,
        };
        Ok(Reply::Bytes(space.encode()))
    }
}

fn entry_kind(kind: FileType) -> u32 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}

fn arguments<T: Wire>(context: &Context<'_>) -> Result<T, Errno> {
    context.arguments().ok_or(Errno::INVAL)
}

impl Service for Files {
    fn submit(
        &mut self,
        request: &Submission,
        context: &mut Context<'_>,
    ) -> Result<(), WindowError> {
        let done = self.execute(request, context);
        self.give_back_borrowed();
        if done.is_err() && context.must_hold() {
            context.hold(request);
            return Ok(());
        }
        match done {
            Ok(Reply::Result(result)) => context.answer(request, result),
            Ok(Reply::Bytes(bytes)) => context.answer_bytes(request, &bytes),
            Ok(Reply::Later) => Ok(()),
            Err(Refusal::Errno(errno)) => context.refuse(request, errno),
            Err(Refusal::Window(error)) => Err(error),
        }
    }
}
