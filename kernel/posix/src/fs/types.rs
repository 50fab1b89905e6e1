// SPDX-License-Identifier: Apache-2.0
//! The words that all file systems share: kinds, attributes, flags.

use alloc::vec::Vec;

use bitflags::bitflags;

use crate::services::Timestamp;

/// Permission bits of a mode, with set-id and sticky bits.
pub const PERMISSIONS: u32 = 0o7777;
/// Bytes of the longest file name.
pub const NAME_MAX: usize = 255;
/// Bytes of the longest path, with its NUL.
pub const PATH_MAX: usize = 4096;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A FIFO or a pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Something without a name: epoll, eventfd and the like.
    Anonymous,
}

impl FileType {
    /// The type in a mode.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode >> 12 & 0xf {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// The bits of a mode that say the type.
    pub fn mode_bits(self) -> u32 {
        u32::from(self.dirent()) << 12
    }

    /// `d_type` of a directory entry.
    pub fn dirent(self) -> u8 {
        match self {
            Self::Fifo => 1,
            Self::CharDevice => 2,
            Self::Directory => 4,
            Self::BlockDevice => 6,
            Self::Regular => 8,
            Self::Symlink => 10,
            Self::Socket => 12,
            Self::Anonymous => 0,
        }
    }
}

/// What stat(2) tells.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// File system.
    pub device: u64,
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub kind: FileType,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of a device, as in `st_rdev`.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that are in use.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
}

impl Attr {
    /// Attributes of something that the kernel makes up.
    pub fn new(device: u64, ino: u64, kind: FileType, mode: u32) -> Self {
        Self {
            device,
            ino,
            kind,
            mode,
            links: if kind == FileType::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
        }
    }

    /// `st_mode`.
    pub fn full_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode
    }
}

/// Attributes to change; `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of contents.
    pub mtime: Option<Timestamp>,
}

/// What to make in a directory.
#[derive(Clone, Debug)]
pub struct NewInode {
    /// Type.
    pub kind: FileType,
    /// Permission bits, without the umask's.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
    /// A symbolic link's contents.
    pub target: Vec<u8>,
}

/// One entry of a directory, as it is read.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where reading goes on after this entry.
    pub next: u64,
    /// Type.
    pub kind: FileType,
    /// Name.
    pub name: &'a [u8],
}

/// Takes entries; false: no room, this one was not taken.
pub type DirSink<'a> = dyn FnMut(DirEntry<'_>) -> bool + 'a;

/// What statfs(2) tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsStat {
    /// Magic number of the file system type.
    pub magic: u64,
    /// Blocks of 4096 bytes.
    pub blocks: u64,
    /// Free ones.
    pub free_blocks: u64,
    /// Inodes.
    pub files: u64,
    /// Free ones.
    pub free_files: u64,
}

/// A device number as in `st_rdev`.
pub const fn device_number(major: u32, minor: u32) -> u64 {
    (minor & 0xff) as u64 | ((major & 0xfff) as u64) << 8 | ((minor & !0xff) as u64) << 12
}

/// Splits a device number into major and minor.
pub const fn split_device(number: u64) -> (u32, u32) {
    ((number >> 8 & 0xfff) as u32, (number & 0xff) as u32 | (number >> 12) as u32 & !0xff)
}

bitflags! {
    /// Flags of open(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// Only for writing.
        const WRONLY = 1;
        /// For reading and writing.
        const RDWR = 2;
        /// Make it if it is not there.
        const CREAT = 0o100;
        /// It must not be there.
        const EXCL = 0o200;
        /// It does not become the controlling terminal.
        const NOCTTY = 0o400;
        /// Cut it to nothing.
        const TRUNC = 0o1000;
        /// Writes go to the end.
        const APPEND = 0o2000;
        /// Nothing blocks.
        const NONBLOCK = 0o4000;
        /// Data is on its medium when a write returns.
        const DSYNC = 0o10000;
        /// Signals when ready.
        const ASYNC = 0o20000;
        /// No page cache.
        const DIRECT = 0o40000;
        /// 64-bit offsets.
        const LARGEFILE = 0o100000;
        /// It must be a directory.
        const DIRECTORY = 0o200000;
        /// It must not be a symbolic link.
        const NOFOLLOW = 0o400000;
        /// Reading does not change the access time.
        const NOATIME = 0o1000000;
        /// The descriptor closes at exec.
        const CLOEXEC = 0o2000000;
        /// `DSYNC` for attributes too.
        const SYNC = 0o4000000;
        /// A place only: neither read nor written.
        const PATH = 0o10000000;
        /// A file without a name.
        const TMPFILE = 0o20000000;
        /// Others.
        const _ = !0;
    }

    /// What a file is ready for: the bits of poll(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Ready: u32 {
        /// A read would not block.
        const IN = 1;
        /// Urgent.
        const PRI = 2;
        /// A write would not block.
        const OUT = 4;
        /// Something is wrong.
        const ERR = 8;
        /// The other end is gone.
        const HUP = 0x10;
        /// Not a descriptor.
        const NVAL = 0x20;
        /// As `IN`.
        const RDNORM = 0x40;
        /// As `OUT`.
        const WRNORM = 0x100;
        /// The other end stopped writing.
        const RDHUP = 0x2000;
        /// Others.
        const _ = !0;
    }
}

impl Ready {
    /// Readable, in both notations.
    pub const READABLE: Self = Self::IN.union(Self::RDNORM);
    /// Writable, in both notations.
    pub const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
}

impl OpenFlags {
    /// Whether the access mode lets one read.
    pub fn reads(self) -> bool {
        !self.contains(Self::WRONLY) && !self.contains(Self::PATH)
    }

    /// Whether the access mode lets one write.
    pub fn writes(self) -> bool {
        self.intersects(Self::WRONLY | Self::RDWR) && !self.contains(Self::PATH)
    }
}
