// SPDX-License-Identifier: Apache-2.0
//! Mounting what a container's configuration asks for.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use trine_abi::control::{Config, Mount as MountSpec, NO_HANDLE};

use crate::{
    Errno,
    fs::{
        anonymous,
        context::FsContext,
        dentry::{Dentry, Location},
        erofs::Erofs,
        file::{File, FileRef},
        inode::{FileSystem, Inode, InodeRef},
        memory::{MemFs, root_directory},
        mount::{MountFlags, Vfs},
        mqueue,
        open::{How, Opener},
        proc,
        stream::Stream,
        sysfs,
        tty::{Tty, pty},
        types::{FileType, NewInode, OpenFlags, device_number},
        volume::VolumeFs,
        walk::Walk,
    },
    io::SliceSource,
    process::Creds,
    services::ServicesRef,
};

/// What failed, and how.
pub type BootError = (Errno, String);

/// Devices that every container has (config-linux.md of the OCI runtime specification).
const DEVICES: [(&[u8], u32, u32); 8] = [
    (b"null", 1, 3),
    (b"zero", 1, 5),
    (b"full", 1, 7),
    (b"random", 1, 8),
    (b"urandom", 1, 9),
    (b"tty", 5, 0),
    (b"console", 5, 1),
    (b"ptmx", 5, 2),
];
const LINKS: [(&[u8], &[u8]); 5] = [
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
    (b"core", b"/proc/kcore"),
];

fn failed<'a>(what: &'a str, path: &'a [u8]) -> impl FnOnce(Errno) -> BootError + 'a {
    move |errno| (errno, format!("cannot {what} {}", path.escape_ascii()))
}

/// Mounts the root (image 0, under a writable file system in memory) and everything else that the
/// configuration names; returns the place where the first process starts.
///
/// # Errors
/// What failed, with the path that it failed for.
pub fn mount_all(
    services: &ServicesRef,
    config: &Config,
    cpus: u32,
) -> Result<FsContext, BootError> {
    let vfs = Vfs::new(Arc::clone(services));
    vfs.set_cpus(cpus);
    {
        let mut names = vfs.names.lock();
        if !config.hostname.is_empty() {
            names.host.clone_from(&config.hostname);
        }
        if !config.domainname.is_empty() {
            names.domain.clone_from(&config.domainname);
        }
    }
    let image = Erofs::open(services.arena.image(0)).map_err(|why| (Errno::UCLEAN, why.into()))?;
    let (fs, root) = MemFs::overlay(Arc::clone(services), vfs.new_device(), image)
        .map_err(failed("mount", b"/"))?;
    let mount = vfs.mount(None, fs, Dentry::root(root, b""), b"overlay", &MountFlags::default());
    let root = Location { dentry: Arc::clone(mount.root()), mount };
    let context = FsContext::new(vfs, root);
    let boot = Boot { context: &context, creds: Creds::root() };
    boot.mounts(&config.mounts)?;
    for (path, contents) in &config.files {
        boot.file(path, contents).map_err(failed("write", path))?;
    }
    for path in &config.readonly_paths {
        boot.readonly(path).map_err(failed("make read-only", path))?;
    }
    for path in &config.masked_paths {
        boot.mask(path).map_err(failed("mask", path))?;
    }
    if config.readonly_root {
        context.vfs.remount(&context.root.mount, true);
    }
    Ok(context)
}

struct Boot<'a> {
    context: &'a FsContext,
    creds: Creds,
}

impl Boot<'_> {
    fn find(&self, path: &[u8]) -> Result<Location, Errno> {
        self.context.find(&self.creds, &self.context.root, path, Walk::FOLLOW)
    }

    /// Makes an inode unless there is one.
    fn make(&self, dir: &Location, name: &[u8], new: &NewInode) -> Result<Location, Errno> {
        match self.context.vfs.child(dir, name) {
            Err(Errno::NOENT) => self.context.create(&self.creds, dir, name, new),
            found => found,
        }
    }

    /// Finds a directory, making it and those above it if they are not there.
    fn directory(&self, path: &[u8]) -> Result<Location, Errno> {
        let mut at = self.context.root.clone();
        let mut so_far = Vec::new();
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            so_far.push(b'/');
            so_far.extend_from_slice(name);
            at = match self.find(&so_far) {
                Err(Errno::NOENT) if name != b".." => {
                    self.make(&at, name, &root_directory(0o755, 0, 0))?
                }
                found => found?,
            };
        }
        Ok(at)
    }

    fn file(&self, path: &[u8], contents: &[u8]) -> Result<(), Errno> {
        let at = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        self.directory(&path[..at])?;
        let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC;
        let how = How { flags, mode: 0o644, walk: Walk::empty() };
        let opener = Opener { ticket: None, task: 0 };
        let file = self.context.open(&self.creds, &self.context.root, path, how, &opener)?;
        let mut source = SliceSource(contents);
        while !source.0.is_empty() {
            file.write(&mut source)?;
        }
        Ok(())
    }

    fn mounts(&self, mounts: &[MountSpec]) -> Result<(), BootError> {
        for spec in mounts {
            self.mount(spec).map_err(failed("mount", &spec.destination))?;
        }
        // A container without these could not run much: what the specification does not give, we do.
        for (path, kind) in [(&b"/proc"[..], &b"proc"[..]), (b"/dev", b"tmpfs")] {
            let given = mounts.iter().any(|spec| {
                let end = spec.destination.iter().rposition(|&byte| byte != b'/');
                end.is_some_and(|end| &spec.destination[..=end] == path)
            });
            if !given {
                let options = Vec::from([b"nosuid".to_vec(), b"mode=755".to_vec()]);
                let spec = MountSpec {
                    destination: path.to_vec(),
                    kind: kind.to_vec(),
                    source: kind.to_vec(),
                    options,
                    volume: None,
                };
                self.mount(&spec).map_err(failed("mount", path))?;
            }
        }
        self.devices().map_err(failed("set up", b"/dev"))
    }

    fn mount(&self, spec: &MountSpec) -> Result<(), Errno> {
        let options = Options::parse(&spec.options);
        if let Some(root) = spec.volume {
            return self.volume(spec, root, &options);
        }
        let point = self.directory(&spec.destination)?;
        mount_kind(self.context, point, &spec.kind, &spec.source, &options)
    }

    /// Mounts a volume, a directory or a file of the host, on something of the same type.
    fn volume(&self, spec: &MountSpec, root: u32, options: &Options) -> Result<(), Errno> {
        let vfs = &self.context.vfs;
        let (fs, node) = VolumeFs::open(&vfs.services, root, vfs.new_device())?;
        let point = if node.kind() == FileType::Directory {
            self.directory(&spec.destination)?
        } else {
            match self.find(&spec.destination) {
                Err(Errno::NOENT) => {
                    self.file(&spec.destination, b"")?;
                    self.find(&spec.destination)?
                }
                found => found?,
            }
        };
        if (point.kind() == FileType::Directory) != (node.kind() == FileType::Directory) {
            return Err(Errno::NOTDIR);
        }
        vfs.mount(Some(point), fs, Dentry::root(node, b""), &spec.source, &options.flags);
        Ok(())
    }

    fn devices(&self) -> Result<(), Errno> {
        let dev = self.find(b"/dev")?;
        let pts = self.make(&dev, b"pts", &root_directory(0o755, 0, 0))?;
        if pts.mount.fs.name() != "devpts" {
            let options = Options::default();
            mount_kind(self.context, pts, b"devpts", b"devpts", &options)?;
        }
        let shm = self.make(&dev, b"shm", &root_directory(0o1777, 0, 0))?;
        if Arc::ptr_eq(&shm.mount, &dev.mount) {
            let options = Options { mode: Some(0o1777), ..Options::default() };
            mount_kind(self.context, shm, b"tmpfs", b"shm", &options)?;
        }
        for (name, major, minor) in DEVICES {
            let new = NewInode {
                kind: FileType::CharDevice,
                mode: 0o666,
                uid: 0,
                gid: if major == 5 && minor < 2 { 5 } else { 0 },
                rdev: device_number(major, minor),
                target: Vec::new(),
            };
            self.make(&dev, name, &new)?;
        }
        for (name, target) in LINKS {
            let new = NewInode {
                kind: FileType::Symlink,
                mode: 0o777,
                uid: 0,
                gid: 0,
                rdev: 0,
                target: target.to_vec(),
            };
            self.make(&dev, name, &new)?;
        }
        Ok(())
    }

    fn readonly(&self, path: &[u8]) -> Result<(), Errno> {
        match self.find(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno),
            Ok(place) => {
                let flags = MountFlags { readonly: true, ..MountFlags::default() };
                bind(self.context, &place.clone(), place, &flags);
                Ok(())
            }
        }
    }

    /// Puts something empty over a path.
    fn mask(&self, path: &[u8]) -> Result<(), Errno> {
        match self.find(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno),
            Ok(place) if place.kind() == FileType::Directory => {
                let options = Options {
                    flags: MountFlags { readonly: true, ..MountFlags::default() },
                    bytes: Some(0),
                    mode: Some(0o755),
                    ..Options::default()
                };
                mount_kind(self.context, place, b"tmpfs", b"tmpfs", &options)
            }
            Ok(place) => {
                let null = self.find(b"/dev/null")?;
                bind(self.context, &null, place, &MountFlags::default());
                Ok(())
            }
        }
    }
}

/// Mounts a part of the tree at another place, too.
pub(crate) fn bind(context: &FsContext, from: &Location, to: Location, flags: &MountFlags) {
    let (fs, root) = (Arc::clone(&from.mount.fs), Arc::clone(&from.dentry));
    context.vfs.mount(Some(to), fs, root, &from.mount.source, flags);
}

/// Mount options.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) flags: MountFlags,
    bytes: Option<u64>,
    mode: Option<u32>,
    uid: u32,
    gid: u32,
}

impl Options {
    /// Reads options as in fstab(5); those that make no difference here are passed over.
    pub(crate) fn parse(options: &[Vec<u8>]) -> Self {
        let mut parsed = Self::default();
        let words = options.iter().flat_map(|option| option.split(|&byte| byte == b','));
        for word in words {
            let text = core::str::from_utf8(word).unwrap_or("");
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            match name {
                "ro" => parsed.flags.readonly = true,
                "rw" => parsed.flags.readonly = false,
                "noexec" => parsed.flags.noexec = true,
                "nosuid" => parsed.flags.nosuid = true,
                "size" => parsed.bytes = parse_size(value),
                "mode" => parsed.mode = u32::from_str_radix(value, 8).ok(),
                "uid" => parsed.uid = value.parse().unwrap_or(0),
                "gid" => parsed.gid = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        parsed
    }
}

/// A size as tmpfs has it: a number with k, m or g.  A percentage is of RAM, and left out here.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Mounts a file system of a kind.
///
/// # Errors
/// `ENODEV` if there is no such kind.
pub(crate) fn mount_kind(
    context: &FsContext,
    point: Location,
    kind: &[u8],
    source: &[u8],
    options: &Options,
) -> Result<(), Errno> {
    let vfs = &context.vfs;
    let device = vfs.new_device();
    let in_memory = |name, mode| {
        let new = root_directory(options.mode.unwrap_or(mode), options.uid, options.gid);
        // Half of RAM, as Linux has it.
        let bytes = options.bytes.unwrap_or(vfs.services.arena.ram_bytes() / 2);
        MemFs::tmpfs(Arc::clone(&vfs.services), device, name, bytes, &new)
    };
    let (fs, root): (Arc<dyn FileSystem>, InodeRef) = match kind {
        b"tmpfs" => {
            let (fs, root) = in_memory("tmpfs", 0o1777);
            (fs, root)
        }
        b"mqueue" => mqueue::new(&vfs.queues, device),
        b"proc" => proc::new(context, device),
        b"sysfs" => sysfs::sys(vfs.cpus(), device),
        b"cgroup" | b"cgroup2" => sysfs::cgroup(&vfs.services, device),
        b"devpts" => {
            let (fs, root) = pty::devpts(vfs, device);
            (fs, root)
        }
        _ => return Err(Errno::NODEV),
    };
    if point.kind() != root.kind() {
        return Err(Errno::NOTDIR);
    }
    vfs.mount(Some(point), fs, Dentry::root(root, b""), source, &options.flags);
    Ok(())
}

impl Vfs {
    /// Opens a standard stream; without a handle it is /dev/null.
    ///
    /// # Errors
    /// As opening /dev/null.
    pub fn open_stream(self: &Arc<Self>, handle: u32, write: bool) -> Result<FileRef, Errno> {
        let flags = if write { OpenFlags::WRONLY } else { OpenFlags::empty() };
        if handle == NO_HANDLE {
            let rdev = device_number(1, 3);
            let ops = crate::fs::devices::open(self, FileType::CharDevice, rdev, flags)?;
            let inode = anonymous::reopens(1, FileType::CharDevice, rdev, Arc::clone(&ops));
            return Ok(File::new(self, self.nameless(inode, b"/dev/null"), ops, flags));
        }
        let ops = if write {
            Stream::output(&self.streams, handle)
        } else {
            Stream::input(&self.streams, handle)
        };
        let number = self.number();
        let inode = anonymous::reopens(number, FileType::Fifo, 0, Arc::clone(&ops) as _);
        let name = format!("pipe:[{number}]");
        Ok(File::new(self, self.nameless(inode, name.as_bytes()), ops, flags))
    }

    /// The place of a terminal in /dev/pts, or one of its own.
    pub(crate) fn find_pts(&self, tty: &Arc<Tty>) -> Location {
        let name = format!("{}", tty.index);
        let mounts = self.mounts();
        let found = mounts.iter().find(|mount| mount.fs.name() == "devpts").and_then(|mount| {
            let root = Location { dentry: Arc::clone(mount.root()), mount: Arc::clone(mount) };
            self.child(&root, name.as_bytes()).ok()
        });
        found.unwrap_or_else(|| {
            let inode = pty::inode(tty, 0);
            self.nameless(inode, format!("/dev/pts/{name}").as_bytes())
        })
    }
}
