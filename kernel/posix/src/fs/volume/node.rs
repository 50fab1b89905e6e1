// SPDX-License-Identifier: Apache-2.0
//! Files, directories and symbolic links of a volume as inodes.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use trine_abi::{
    file::{self as wire, WALK_MAX, Wire, is_name},
    window::Operation,
};

use super::{
    VolumeFs,
    file::{Handle, OPEN_FLAGS, VolumeFile},
    map::Pages,
};
use crate::{
    Errno,
    forward::{Answer, Call},
    fs::{
        file::FileOps,
        inode::{Inode, InodeRef},
        pipe::Pipe,
        types::{Attr, FileType, NewInode, OpenFlags, PERMISSIONS, SetAttr},
    },
    process::TaskRef,
    services::Timestamp,
    sync::Lock,
};

/// How long attributes are taken to be up to date while nothing comes from outside, in nanoseconds.
const KNOWN_NS: u64 = 1_000_000;

/// A node.
pub(crate) struct Node {
    pub(super) fs: Arc<VolumeFs>,
    pub(super) handle: u32,
    /// References that the host counts.
    references: AtomicU64,
    attr: Lock<Attr>,
    /// When the attributes came: epoch, CLOCK_MONOTONIC.
    known: Lock<(u64, u64)>,
    /// A FIFO's, which is this container's own.
    pipe: Lock<Option<Arc<Pipe>>>,
    pub(super) pages: Lock<Pages>,
    /// Through which what mappings change is written back.
    writer: Lock<Weak<Handle>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({:#x})", self.handle)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.fs.forget(self.handle, *self.references.get_mut());
    }
}

/// What a walk found, in order, and what ended it.
#[derive(Debug)]
struct Steps {
    /// Attributes of where it began.
    start: Attr,
    found: Vec<Arc<Node>>,
    errno: Option<Errno>,
    /// What the last one was opened as.
    file: Option<Arc<Handle>>,
}

fn same_file(inode: &InodeRef) -> Result<&Node, Errno> {
    inode.as_any().downcast_ref::<Node>().ok_or(Errno::XDEV)
}

impl Node {
    pub(super) fn new(fs: Arc<VolumeFs>, handle: u32, attr: Attr) -> Self {
        let known = Lock::new((fs.services.epoch(), fs.services.monotonic_ns()));
        Self {
            fs,
            handle,
            references: AtomicU64::new(1),
            known,
            attr: Lock::new(attr),
            pipe: Lock::new(None),
            pages: Lock::new(Pages::default()),
            writer: Lock::new(Weak::new()),
        }
    }

    /// The host found it once more.
    pub(super) fn found_again(&self, attr: Attr) {
        self.references.fetch_add(1, Ordering::Relaxed);
        self.set(attr);
    }

    pub(super) fn set(&self, attr: Attr) {
        *self.attr.lock() = attr;
        let services = &self.fs.services;
        *self.known.lock() = (services.epoch(), services.monotonic_ns());
    }

    /// Whether nobody can tell that the attributes are not those of this moment.
    fn is_up_to_date(&self) -> bool {
        let (epoch, at) = *self.known.lock();
        let services = &self.fs.services;
        epoch == services.epoch() && services.monotonic_ns().saturating_sub(at) < KNOWN_NS
    }

    /// Sets through which open file what mappings change is written back.
    pub(super) fn set_writer(&self, handle: &Arc<Handle>) {
        if handle.writes {
            *self.writer.lock() = Arc::downgrade(handle);
        }
    }

    /// Writes to the host what mappings changed in a range.
    pub(super) fn write_back(&self, start: u64, end: u64) -> Result<(), Errno> {
        let writer = self.writer.lock().upgrade();
        writer.map_or(Ok(()), |writer| writer.write_back(start, end))
    }

    /// A call whose answer is attributes.
    pub(super) fn update(
        &self,
        operation: Operation,
        handle: u32,
        input: &[u8],
    ) -> Result<(), Errno> {
        let attr = self.fs.call(operation, handle, 0, input, Answer::value::<wire::Attr>)?;
        self.set(self.fs.attr(&attr)?);
        Ok(())
    }

    fn walk(&self, names: Vec<Vec<u8>>, open: Option<OpenFlags>) -> Result<Arc<Steps>, Errno> {
        let fs = Arc::clone(&self.fs);
        let open = open.map(|flags| (flags & OPEN_FLAGS).bits());
        let input = wire::Walk { names, open }.encode();
        self.fs.call(Operation::FileWalk, self.handle, 0, &input, move |answer| {
            let walked = answer.value::<wire::Walked>()?;
            let found: Result<Vec<_>, Errno> =
                walked.found.iter().map(|found| fs.found(found)).collect();
            let found = found?;
            let opened = walked.file.zip(found.last()).zip(open);
            let file = opened.map(|((number, node), flags)| Handle::new(node, number, flags));
            let errno = (walked.errno != 0).then(|| Errno::from_host(walked.errno));
            Ok(Steps { start: fs.attr(&walked.start)?, found, errno, file })
        })
    }

    fn set_attributes(&self, change: &wire::SetAttr) -> Result<(), Errno> {
        self.update(Operation::FileSetAttr, self.handle, &change.encode())
    }

    fn made(&self, new: &wire::Create) -> Result<Arc<Self>, Errno> {
        let fs = Arc::clone(&self.fs);
        let flags = new.open;
        let made =
            self.fs.call(Operation::FileCreate, self.handle, 0, &new.encode(), move |answer| {
                let created = answer.value::<wire::Created>()?;
                let node = fs.found(&created.found)?;
                let opened = created.file.zip(flags);
                let file = opened.map(|(number, flags)| Handle::new(&node, number, flags));
                Ok((node, file))
            })?;
        if let Some(task) = self.fs.services.current() {
            keep_open(&task, made.1.as_ref());
        }
        Ok(Arc::clone(&made.0))
    }
}

fn time(time: Timestamp) -> wire::Time {
    wire::Time { seconds: time.seconds.cast_unsigned(), nanoseconds: time.nanoseconds }
}

/// Keeps an open file that came along with its node, for the open that is under way.
fn keep_open(task: &TaskRef, file: Option<&Arc<Handle>>) {
    if let Some(file) = file {
        let before = task.journal.lock().opened.replace(Arc::clone(file));
        drop(before);
    }
}

fn of_new(name: &[u8], new: &NewInode, open: Option<u32>) -> wire::Create {
    wire::Create {
        name: name.to_vec(),
        mode: new.kind.mode_bits() | new.mode & PERMISSIONS,
        uid: new.uid,
        gid: new.gid,
        target: new.target.clone(),
        open,
    }
}

fn done(answer: &Answer) -> Result<(), Errno> {
    answer.result().map(drop)
}

impl Inode for Node {
    fn attr(&self) -> Attr {
        *self.attr.lock()
    }

    fn refresh(&self) -> Result<(), Errno> {
        if self.is_up_to_date() {
            return Ok(());
        }
        self.update(Operation::FileAttr, self.handle, &[])
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.set_attributes(&wire::SetAttr {
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            size: None,
            atime: change.atime.map(time),
            mtime: change.mtime.map(time),
        })
    }

    fn expect_walk(&self, rest: &[u8], open: Option<OpenFlags>) -> Result<(), Errno> {
        let Some(task) = self.fs.services.current() else { return Ok(()) };
        let names = rest.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        let count = names.clone().count();
        let names: Vec<Vec<u8>> =
            names.take_while(|name| is_name(name)).take(WALK_MAX).map(<[u8]>::to_vec).collect();
        let Some(first) = names.first() else { return Ok(()) };
        if task.journal.lock().step(self.handle, first).is_some() {
            return Ok(());
        }
        // A file that takes writes may need more rights than the caller has.
        let open = open.filter(|_| names.len() == count);
        let steps = self.walk(names.clone(), open)?;
        keep_open(&task, steps.file.as_ref());
        self.set(steps.start);
        let mut journal = task.journal.lock();
        let mut at = self.handle;
        for (index, name) in names.iter().enumerate() {
            match steps.found.get(index) {
                Some(node) => {
                    journal.add_step(at, name, Ok(Arc::clone(node)));
                    at = node.handle;
                }
                None => {
                    if let Some(errno) = steps.errno {
                        journal.add_step(at, name, Err(errno));
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        let known =
            self.fs.services.current().and_then(|task| task.journal.lock().step(self.handle, name));
        if let Some(known) = known {
            return known.map(|node| node as InodeRef);
        }
        let steps = self.walk(Vec::from([name.to_vec()]), None)?;
        match (steps.found.first(), steps.errno) {
            (Some(node), _) => Ok(Arc::clone(node) as InodeRef),
            (None, errno) => Err(errno.unwrap_or(Errno::IO)),
        }
    }

    fn is_stable(&self) -> bool {
        false
    }

    fn create(&self, name: Option<&[u8]>, new: &NewInode) -> Result<InodeRef, Errno> {
        // A file without a name would need O_TMPFILE, which not every file system has.
        let name = name.ok_or(Errno::OPNOTSUPP)?;
        match new.kind {
            FileType::Regular | FileType::Directory | FileType::Symlink | FileType::Fifo => {}
            // Device nodes and sockets of one container mean nothing to the others.
            _ => return Err(Errno::PERM),
        }
        Ok(self.made(&of_new(name, new, None))? as InodeRef)
    }

    fn create_to_open(
        &self,
        name: &[u8],
        new: &NewInode,
        flags: OpenFlags,
    ) -> Result<InodeRef, Errno> {
        Ok(self.made(&of_new(name, new, Some((flags & OPEN_FLAGS).bits())))? as InodeRef)
    }

    fn link(&self, name: &[u8], inode: &InodeRef) -> Result<(), Errno> {
        let node = same_file(inode)?;
        let link = wire::Link { directory: self.handle, name: name.to_vec() };
        self.fs.call(Operation::FileLink, node.handle, 0, &link.encode(), done).map(drop)
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        self.fs.call(Operation::FileUnlink, self.handle, 0, name, done).map(drop)
    }

    fn rmdir(&self, name: &[u8]) -> Result<(), Errno> {
        self.fs.call(Operation::FileUnlink, self.handle, 1, name, done).map(drop)
    }

    fn rename(&self, old: &[u8], to: &InodeRef, new: &[u8], exchange: bool) -> Result<(), Errno> {
        const RENAME_EXCHANGE: u32 = 2;
        let rename = wire::Rename {
            old: old.to_vec(),
            directory: same_file(to)?.handle,
            new: new.to_vec(),
            flags: if exchange { RENAME_EXCHANGE } else { 0 },
        };
        self.fs.call(Operation::FileRename, self.handle, 0, &rename.encode(), done).map(drop)
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        let target = self.fs.call(Operation::FileReadLink, self.handle, 0, &[], Answer::bytes)?;
        Ok((*target).clone())
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.set_attributes(&wire::SetAttr { size: Some(size), ..wire::SetAttr::default() })?;
        self.pages.lock().cut(size);
        Ok(())
    }

    fn is_mappable(&self) -> bool {
        self.kind() == FileType::Regular
    }

    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        if !matches!(self.kind(), FileType::Regular | FileType::Directory) {
            return Ok(None);
        }
        let node = self.fs.nodes.lock().get(&self.handle).and_then(Weak::upgrade);
        let file = VolumeFile::open(node.ok_or(Errno::STALE)?, flags)?;
        Ok(Some(file))
    }

    fn pipe(&self) -> Option<Arc<Pipe>> {
        (self.kind() == FileType::Fifo)
            .then(|| Arc::clone(self.pipe.lock().get_or_insert_with(Pipe::fifo)))
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let value = self.fs.call(Operation::FileGetXattr, self.handle, 0, name, Answer::bytes)?;
        Ok((*value).clone())
    }

    fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let list = self.fs.call(Operation::FileListXattr, self.handle, 0, &[], Answer::bytes)?;
        let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn set_xattr(&self, name: &[u8], value: Option<&[u8]>) -> Result<(), Errno> {
        let change =
            wire::SetXattr { name: name.to_vec(), value: value.map(<[u8]>::to_vec), flags: 0 };
        let input = change.encode();
        if input.len() > trine_machine::window::BUFFER_BYTES {
            return Err(Errno::NOSPC);
        }
        let call = Call::new(Operation::FileSetXattr, self.handle, 0, &input);
        self.fs.services.call(&call, done).map(drop)
    }
}
