// SPDX-License-Identifier: Apache-2.0
//! Pseudo-terminals: /dev/ptmx and /dev/pts (pty(7)).

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::any::Any;

use super::{Far, Tty, discipline::INPUT_MAX};
use crate::{
    Errno,
    fs::{
        devices,
        file::{File, FileOps, IoctlMemory},
        inode::{FileSystem, Inode, InodeRef},
        mount::Vfs,
        types::{
            Attr, DirEntry, DirSink, FileType, FsStat, OpenFlags, Ready, SetAttr, device_number,
        },
    },
    io::{Sink, Source},
    sync::Lock,
    wait::Ticket,
};

const DEVPTS_MAGIC: u64 = 0x1cd1;
/// Most pseudo-terminals at once.
const PTYS_MAX: u32 = 4096;
const PTMX: &[u8] = b"ptmx";

/// The terminals of /dev/pts.
#[derive(Debug, Default)]
pub(crate) struct PtyTable {
    ptys: Lock<BTreeMap<u32, Weak<Tty>>>,
}

impl PtyTable {
    /// Makes a terminal with the lowest free number.
    fn make(&self, vfs: &Vfs) -> Result<Arc<Tty>, Errno> {
        let index = {
            let mut ptys = self.ptys.lock();
            ptys.retain(|_, tty| tty.strong_count() > 0);
            (0..PTYS_MAX).find(|index| !ptys.contains_key(index)).ok_or(Errno::NOSPC)?
        };
        Ok(self.add(vfs, index, [0; 4], Far::Master))
    }

    pub(super) fn add(&self, vfs: &Vfs, index: u32, size: [u16; 4], far: Far) -> Arc<Tty> {
        let services = Arc::clone(&vfs.services);
        let tty = Arc::new(Tty::new(services, Arc::clone(&vfs.signals), index, size, far));
        self.ptys.lock().insert(index, Arc::downgrade(&tty));
        tty
    }

    /// Makes a terminal with the lowest free number and a console's wire behind it.
    pub(super) fn make_console(&self, vfs: &Vfs, size: [u16; 4], far: Far) -> Arc<Tty> {
        let index = {
            let ptys = self.ptys.lock();
            let used = |index: &u32| ptys.get(index).is_some_and(|tty| tty.strong_count() > 0);
            (0..PTYS_MAX).find(|index| !used(index)).unwrap_or(PTYS_MAX)
        };
        self.add(vfs, index, size, far)
    }

    /// The terminal with a number.
    pub(crate) fn get(&self, index: u32) -> Option<Arc<Tty>> {
        self.ptys.lock().get(&index).and_then(Weak::upgrade)
    }

    fn from(&self, index: u32) -> Option<(u32, Arc<Tty>)> {
        let ptys = self.ptys.lock();
        ptys.range(index..).find_map(|(index, tty)| Some((*index, tty.upgrade()?)))
    }
}

/// Opens /dev/ptmx.
pub(crate) fn open_master(vfs: &Vfs) -> Result<Arc<dyn FileOps>, Errno> {
    let tty = vfs.ptys.make(vfs)?;
    tty.state.lock().locked = true;
    Ok(Arc::new(Master { tty }))
}

/// The master's open file.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) tty: Arc<Tty>,
}

impl FileOps for Master {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let (packet, closed) = {
            let state = self.tty.state.lock();
            (state.packet, state.was_open && state.slaves == 0)
        };
        let room = sink.room().saturating_sub(usize::from(packet));
        let bytes = self.tty.peek_output(room);
        if bytes.is_empty() {
            return match (sink.room(), closed) {
                (0, _) => Ok(0),
                (_, true) => Err(Errno::IO),
                (_, false) => Err(Errno::AGAIN),
            };
        }
        if packet && sink.put(&[0]) == 0 {
            return Ok(0);
        }
        let taken = sink.put(&bytes);
        self.tty.took_output(taken);
        Ok(taken + usize::from(packet))
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        let mut done = 0;
        let mut buffer = [0; 256];
        loop {
            let room = {
                let state = self.tty.state.lock();
                if state.discipline.termios.has_local(super::termios::ICANON) {
                    INPUT_MAX
                } else {
                    state.discipline.input_room()
                }
            };
            let wanted = source.left().min(buffer.len()).min(room);
            if wanted == 0 {
                let full = source.left() > 0 && done == 0;
                return if full { Err(Errno::AGAIN) } else { Ok(done) };
            }
            let taken = source.take(&mut buffer[..wanted]);
            self.tty.receive(&buffer[..taken]);
            done += taken;
            if taken < wanted {
                return Ok(done);
            }
        }
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.tty.master_wait.add(ticket);
        }
        let mut state = self.tty.state.lock();
        let mut ready = Ready::empty();
        let closed = state.was_open && state.slaves == 0;
        let stopped = state.discipline.stopped;
        let has_output = !stopped && !state.discipline.output().is_empty();
        ready.set(Ready::READABLE, has_output);
        ready.set(Ready::WRITABLE, state.discipline.input_room() > 0);
        ready.set(Ready::HUP, closed);
        ready
    }

    fn ioctl(
        &self,
        _file: &File,
        command: u32,
        memory: &mut IoctlMemory<'_>,
    ) -> Result<u64, Errno> {
        self.tty.ioctl(command, memory, true)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.tty.hang_up();
    }
}

/// devpts as a file system.
#[derive(Debug)]
pub(crate) struct Devpts {
    device: u64,
}

/// Makes a devpts; returns it and its root.
pub(crate) fn devpts(vfs: &Arc<Vfs>, device: u64) -> (Arc<Devpts>, InodeRef) {
    let root = Root { vfs: Arc::downgrade(vfs), ptys: Arc::clone(&vfs.ptys), device };
    (Arc::new(Devpts { device }), Arc::new(root))
}

impl FileSystem for Devpts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn stat(&self) -> FsStat {
        FsStat { magic: DEVPTS_MAGIC, ..FsStat::default() }
    }

    fn device(&self) -> u64 {
        self.device
    }
}

#[derive(Debug)]
struct Root {
    vfs: Weak<Vfs>,
    ptys: Arc<PtyTable>,
    device: u64,
}

impl Inode for Root {
    fn attr(&self) -> Attr {
        Attr::new(self.device, 1, FileType::Directory, 0o755)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_stable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        if name == PTMX {
            return Ok(Arc::new(Multiplexer { vfs: Weak::clone(&self.vfs), device: self.device }));
        }
        let index = core::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        let tty = index.and_then(|index| self.ptys.get(index)).ok_or(Errno::NOENT)?;
        Ok(Arc::new(Slave { tty, device: self.device }))
    }

    fn read_dir(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let kind = FileType::CharDevice;
        if cursor <= 2 && !sink(DirEntry { ino: 2, next: 3, kind, name: PTMX }) {
            return Ok(());
        }
        let mut index = cursor.max(3) as u32 - 3;
        while let Some((at, _)) = self.ptys.from(index) {
            let name: Vec<u8> = alloc::format!("{at}").into_bytes();
            let next = u64::from(at) + 4;
            if !sink(DirEntry { ino: next, next, kind, name: &name }) {
                break;
            }
            index = at + 1;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Multiplexer {
    vfs: Weak<Vfs>,
    device: u64,
}

impl Inode for Multiplexer {
    fn attr(&self) -> Attr {
        let attr = Attr::new(self.device, 2, FileType::CharDevice, 0o666);
        Attr { rdev: device_number(5, 2), ..attr }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        let vfs = self.vfs.upgrade().ok_or(Errno::NXIO)?;
        devices::open(&vfs, FileType::CharDevice, device_number(5, 2), flags).map(Some)
    }
}

#[derive(Debug)]
struct Slave {
    tty: Arc<Tty>,
    device: u64,
}

impl Inode for Slave {
    fn attr(&self) -> Attr {
        let (uid, gid, mode) = self.tty.ownership();
        let ino = u64::from(self.tty.index) + 4;
        let now = self.tty.services.now();
        let attr = Attr::new(self.device, ino, FileType::CharDevice, mode);
        Attr { uid, gid, rdev: self.tty.device(), atime: now, mtime: now, ctime: now, ..attr }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.tty.set_ownership(change.uid, change.gid, change.mode);
        Ok(())
    }

    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        Ok(Some(self.tty.open(flags)?))
    }
}

/// An inode for a terminal outside of /dev/pts.
pub(crate) fn inode(tty: &Arc<Tty>, device: u64) -> InodeRef {
    Arc::new(Slave { tty: Arc::clone(tty), device })
}
