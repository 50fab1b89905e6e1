// SPDX-License-Identifier: Apache-2.0
//! Mounts, and what all of them share.

use alloc::{sync::Arc, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use crate::{
    Errno,
    fs::{
        anonymous,
        dentry::{Dentry, Location, Recent},
        file::{File, FileRef},
        inode::{FileSystem, InodeRef},
        locks::LockTable,
        memory::{MemFs, Node, root_directory},
        mqueue::Queues,
        notify::NotifyTable,
        pipe::Pipe,
        stream::Streams,
        tty::pty::PtyTable,
        types::{FileType, NewInode, OpenFlags},
    },
    mm::MmRef,
    net::Net,
    process::Creds,
    services::ServicesRef,
    sync::Lock,
};

/// A file system (or a part of it) at a place.
pub struct Mount {
    /// Number, as in mountinfo.
    pub id: u64,
    root: Arc<Dentry>,
    point: Lock<Option<Location>>,
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// What was mounted, for /proc/mounts.
    pub source: Vec<u8>,
    readonly: AtomicBool,
    /// Programs do not run from it.
    pub noexec: bool,
    /// Set-id bits have no effect.
    pub nosuid: bool,
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mount({}, {})", self.id, self.fs.name())
    }
}

impl Mount {
    /// Its topmost directory.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// What it is mounted on.
    pub fn point(&self) -> Option<Location> {
        self.point.lock().clone()
    }

    /// Whether it takes no writes.
    pub fn is_readonly(&self) -> bool {
        self.readonly.load(Ordering::Relaxed)
    }
}

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountFlags {
    /// No writes.
    pub readonly: bool,
    /// No programs.
    pub noexec: bool,
    /// No set-id bits.
    pub nosuid: bool,
}

/// Signals to process groups that wait to be sent: (process group, signal).
pub(crate) type SignalQueue = Arc<Lock<Vec<(u32, u32)>>>;

/// Names of the container (uname(2)).
#[derive(Clone, Debug)]
pub struct Names {
    /// Host name.
    pub host: Vec<u8>,
    /// Domain name.
    pub domain: Vec<u8>,
}

impl Default for Names {
    fn default() -> Self {
        Self { host: b"localhost".to_vec(), domain: b"(none)".to_vec() }
    }
}

/// The file systems of the container.
pub struct Vfs {
    /// Clock, frames, window.
    pub services: ServicesRef,
    mounts: Lock<Vec<Arc<Mount>>>,
    recent: Lock<Recent>,
    next_id: AtomicU64,
    next_device: AtomicU64,
    /// Locks on files.
    pub(crate) locks: Arc<LockTable>,
    /// The mount of what has no name.
    nameless: Arc<Mount>,
    /// Signals that terminals want to send: (process group, signal).
    pub(crate) signals: SignalQueue,
    /// The window's streams.
    pub(crate) streams: Arc<Streams>,
    /// Sockets.
    pub(crate) net: Arc<Net>,
    /// What the container is like: names, and the root of all.
    pub(crate) names: Lock<Names>,
    cpus: AtomicU32,
    /// Where memfd_create(2) makes its files.
    memory: Lock<Option<InodeRef>>,
    /// Who is told what happens to files.
    pub(crate) notify: Arc<NotifyTable>,
    /// POSIX message queues.
    pub(crate) queues: Arc<Queues>,
    /// Terminals of /dev/pts.
    pub(crate) ptys: Arc<PtyTable>,
}

impl fmt::Debug for Vfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vfs").finish_non_exhaustive()
    }
}

impl Vfs {
    /// Makes an empty one.
    pub(crate) fn new(services: ServicesRef) -> Arc<Self> {
        let fs: Arc<dyn FileSystem> = Arc::new(anonymous::Nameless);
        let root = Dentry::root(anonymous::plain(0, FileType::Directory), b"");
        let nameless = Arc::new(Mount {
            id: 0,
            root,
            point: Lock::new(None),
            fs,
            source: b"none".to_vec(),
            readonly: AtomicBool::new(false),
            noexec: false,
            nosuid: false,
        });
        Arc::new(Self {
            signals: SignalQueue::default(),
            streams: Streams::new(Arc::clone(&services)),
            net: Net::new(&services),
            names: Lock::new(Names::default()),
            mounts: Lock::new(Vec::new()),
            recent: Lock::new(Recent::default()),
            next_id: AtomicU64::new(20),
            next_device: AtomicU64::new(0x20),
            locks: Arc::new(LockTable::default()),
            nameless,
            cpus: AtomicU32::new(1),
            memory: Lock::new(None),
            notify: Arc::new(NotifyTable::default()),
            queues: Arc::new(Queues::default()),
            ptys: Arc::new(PtyTable::default()),
            services,
        })
    }

    /// Takes the signals that terminals want to send.
    pub fn take_signals(&self) -> Vec<(u32, u32)> {
        core::mem::take(&mut *self.signals.lock())
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> u32 {
        self.cpus.load(Ordering::Relaxed)
    }

    /// Sets how many CPUs there are.
    pub fn set_cpus(&self, cpus: u32) {
        self.cpus.store(cpus, Ordering::Relaxed);
    }

    /// Opens a new pipe: its reading and its writing end.
    pub(crate) fn open_pipe(&self, flags: OpenFlags) -> [FileRef; 2] {
        let number = self.number();
        let pipe = Pipe::fifo();
        let name = alloc::format!("pipe:[{number}]");
        let place = self.nameless(anonymous::pipe(number, Arc::clone(&pipe)), name.as_bytes());
        let flags = flags & OpenFlags::NONBLOCK;
        [OpenFlags::empty(), OpenFlags::WRONLY]
            .map(|mode| File::new(self, place.clone(), pipe.end(flags | mode), flags | mode))
    }

    /// Makes a file in memory that has no name (memfd_create(2)).
    pub(crate) fn memory_file(
        &self,
        creds: &Creds,
        sealable: bool,
        executable: bool,
    ) -> Result<InodeRef, Errno> {
        let fs = self.memory.lock().clone();
        let root = match fs {
            Some(root) => root,
            None => {
                let (device, new) = (self.new_device(), root_directory(0o700, 0, 0));
                let services = Arc::clone(&self.services);
                let (_, root) = MemFs::tmpfs(services, device, "tmpfs", u64::MAX, &new);
                *self.memory.lock() = Some(Arc::clone(&root));
                root
            }
        };
        let new = NewInode {
            kind: FileType::Regular,
            mode: if executable { 0o777 } else { 0o666 },
            uid: creds.fsuid,
            gid: creds.fsgid,
            rdev: 0,
            target: Vec::new(),
        };
        let inode = root.create(None, &new)?;
        if sealable && let Some(node) = inode.as_any().downcast_ref::<Node>() {
            node.unseal();
        }
        Ok(inode)
    }

    /// Checks that nobody runs a file as a program.
    ///
    /// # Errors
    /// `ETXTBSY`.
    pub(crate) fn check_not_running(&self, place: &Location) -> Result<(), Errno> {
        let attr = place.attr();
        if attr.mode & 0o111 == 0 {
            return Ok(());
        }
        let runs = |mm: MmRef| {
            let exe = mm.exe.lock().clone();
            exe.is_some_and(|exe| {
                let other = exe.attr();
                (other.device, other.ino) == (attr.device, attr.ino)
            })
        };
        let mut memories = self.services.registry.tasks().into_iter().filter_map(|task| task.mm());
        if memories.any(runs) { Err(Errno::TXTBSY) } else { Ok(()) }
    }

    /// A number that was not given before: of a mount, a pipe, a terminal.
    pub(crate) fn number(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A device number for a file system.
    pub(crate) fn new_device(&self) -> u64 {
        self.next_device.fetch_add(1, Ordering::Relaxed)
    }

    /// Mounts `root` of `fs` at `point`; without one, as the root of all.
    pub(crate) fn mount(
        &self,
        point: Option<Location>,
        fs: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        source: &[u8],
        flags: &MountFlags,
    ) -> Arc<Mount> {
        if let Some(point) = &point {
            point.dentry.mounts.fetch_add(1, Ordering::Relaxed);
        }
        let mount = Arc::new(Mount {
            id: self.number(),
            root,
            point: Lock::new(point),
            fs,
            source: source.to_vec(),
            readonly: AtomicBool::new(flags.readonly),
            noexec: flags.noexec,
            nosuid: flags.nosuid,
        });
        self.mounts.lock().push(Arc::clone(&mount));
        mount
    }

    /// Changes whether a mount takes writes.
    pub(crate) fn remount(&self, mount: &Mount, readonly: bool) {
        mount.readonly.store(readonly, Ordering::Relaxed);
    }

    /// Takes a mount away.
    ///
    /// # Errors
    /// `EINVAL` if it is not a mount's root or the root of all, `EBUSY` if something is mounted
    /// below it.
    pub(crate) fn unmount(&self, place: &Location) -> Result<(), Errno> {
        if !Arc::ptr_eq(&place.dentry, place.mount.root()) {
            return Err(Errno::INVAL);
        }
        let point = place.mount.point().ok_or(Errno::INVAL)?;
        let is_below = |mount: &Arc<Mount>| {
            mount.point().is_some_and(|point| Arc::ptr_eq(&point.mount, &place.mount))
        };
        let mut mounts = self.mounts.lock();
        if mounts.iter().any(is_below) {
            return Err(Errno::BUSY);
        }
        let at = mounts.iter().position(|mount| Arc::ptr_eq(mount, &place.mount));
        let removed = mounts.remove(at.ok_or(Errno::INVAL)?);
        drop(mounts);
        point.dentry.mounts.fetch_sub(1, Ordering::Relaxed);
        *removed.point.lock() = None;
        let forgotten = self.recent.lock().clear();
        drop(forgotten);
        Ok(())
    }

    /// All mounts, oldest first.
    pub(crate) fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.lock().clone()
    }

    /// Goes on to what is mounted on a place, if anything.
    pub(crate) fn cross(&self, mut place: Location) -> Location {
        while place.dentry.is_mount_point() {
            let found = self.mounts.lock().iter().rev().find_map(|mount| {
                let point = mount.point.lock();
                point.as_ref().is_some_and(|point| point.is(&place)).then(|| Arc::clone(mount))
            });
            match found {
                Some(mount) => {
                    let dentry = Arc::clone(mount.root());
                    place = Location { mount, dentry };
                }
                None => break,
            }
        }
        place
    }

    /// Finds a name in a directory, and goes on to what is mounted there.
    pub(crate) fn child(&self, place: &Location, name: &[u8]) -> Result<Location, Errno> {
        let (dentry, new) = place.dentry.child(name)?;
        if new {
            self.remember(&dentry);
        }
        Ok(self.cross(Location { mount: Arc::clone(&place.mount), dentry }))
    }

    /// Keeps a dentry for a while.
    pub(crate) fn remember(&self, dentry: &Arc<Dentry>) {
        let gone = self.recent.lock().add(Arc::clone(dentry));
        drop(gone);
    }

    /// Forgets a name that was removed.
    pub(crate) fn forget(&self, parent: &Dentry, name: &[u8]) {
        if let Some(dentry) = parent.forget(name) {
            self.let_go(&dentry);
        }
    }

    /// Does not keep a dentry any longer.
    pub(crate) fn let_go(&self, dentry: &Arc<Dentry>) {
        let gone = self.recent.lock().remove(dentry);
        drop(gone);
    }

    /// A place for an inode that has no name; `name` shows in /proc/self/fd.
    pub(crate) fn nameless(&self, inode: InodeRef, name: &[u8]) -> Location {
        Location { mount: Arc::clone(&self.nameless), dentry: Dentry::root(inode, name) }
    }
}
