// SPDX-License-Identifier: Apache-2.0
//! Arguments and answers of forwarded file calls, as they lie in a request's buffer.
//!
//! A **node** is a handle of a file, directory or symbolic link of a volume; nodes are counted, and
//! the same file has the same node as long as the guest holds it.  An **open file** is a handle of
//! its own.  Names are single components: the kernel follows symbolic links and `..`, and the
//! server refuses names that are more than that.

use alloc::vec::Vec;

use crate::wire::{Malformed, Reader, Writer};

/// Handle of the root of a container's first volume; the others follow.
pub const FIRST_VOLUME: u32 = 0x4000_0000;
/// Handle of the first node that the server gives.
pub const FIRST_NODE: u32 = 0x5000_0000;
/// Most names of one walk.
pub const WALK_MAX: usize = 16;
/// Bytes of the longest name.
pub const NAME_MAX: usize = 255;

/// A value that has an encoding.
pub trait Wire: Sized {
    /// Appends it to a message.
    fn put(&self, to: &mut Writer);

    /// Takes it from a message.
    ///
    /// # Errors
    /// [`Malformed`].
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed>;

    /// Encodes it alone.
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.put(&mut writer);
        writer.finish()
    }

    /// Decodes a message that is nothing else.
    ///
    /// # Errors
    /// [`Malformed`].
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let value = Self::take(&mut reader)?;
        reader.end()?;
        Ok(value)
    }
}

impl Wire for u32 {
    fn put(&self, to: &mut Writer) {
        to.u32(*self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.u32()
    }
}

impl Wire for u64 {
    fn put(&self, to: &mut Writer) {
        to.u64(*self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.u64()
    }
}

impl Wire for bool {
    fn put(&self, to: &mut Writer) {
        to.flag(*self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.flag()
    }
}

/// A byte string.
impl Wire for Vec<u8> {
    fn put(&self, to: &mut Writer) {
        to.bytes(self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.bytes()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut Writer) {
        to.flag(self.is_some());
        if let Some(value) = self {
            value.put(to);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(if from.flag()? { Some(T::take(from)?) } else { None })
    }
}

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Eq)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl Wire for $name {
                fn put(&self, to: &mut Writer) {
                    $(self.$field.put(to);)*
                }
                fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
                    Ok(Self { $($field: Wire::take(from)?,)* })
                }
            }
        )*
    };
}

wire! {
    /// A point in time.
    Time {
        /// Seconds since 1970, as two's complement.
        seconds: u64,
        /// Nanoseconds, below 10^9.
        nanoseconds: u32,
    }

    /// Attributes, as statx(2) has them.
    Attr {
        /// Inode number.
        ino: u64,
        /// Device number of the host's file system; only its being equal means anything.
        device: u64,
        /// Type and permission bits.
        mode: u32,
        /// Names.
        links: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number of a device.
        rdev: u64,
        /// Bytes.
        size: u64,
        /// Units of 512 bytes in use.
        blocks: u64,
        /// Last access.
        atime: Time,
        /// Last change of contents.
        mtime: Time,
        /// Last change of attributes.
        ctime: Time,
    }

    /// A node and its attributes.
    Found {
        /// The node; the guest holds one reference more.
        node: u32,
        /// Its attributes.
        attr: Attr,
    }

    /// Attributes to change.
    SetAttr {
        /// Permission bits.
        mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
        /// Size.
        size: Option<u64>,
        /// Last access.
        atime: Option<Time>,
        /// Last change of contents.
        mtime: Option<Time>,
    }

    /// What to make.
    Create {
        /// Name.
        name: Vec<u8>,
        /// Type and permission bits: a regular file, directory, symbolic link or FIFO.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// A symbolic link's target.
        target: Vec<u8>,
        /// Open it at once, with these flags of open(2).
        open: Option<u32>,
    }

    /// What was made.
    Created {
        /// Its node.
        found: Found,
        /// The open file, if it was to be opened and could be.
        file: Option<u32>,
    }

    /// A further name.
    Link {
        /// The directory.
        directory: u32,
        /// The name.
        name: Vec<u8>,
    }

    /// A rename; the request's handle is the directory of the old name.
    Rename {
        /// The old name.
        old: Vec<u8>,
        /// The directory of the new name.
        directory: u32,
        /// The new name.
        new: Vec<u8>,
        /// Flags of renameat2(2).
        flags: u32,
    }

    /// What was opened.
    Opened {
        /// The open file.
        file: u32,
        /// Its attributes.
        attr: Attr,
    }

    /// A range to allocate.
    Allocate {
        /// Mode of fallocate(2).
        mode: u32,
        /// First byte.
        offset: u64,
        /// Bytes.
        bytes: u64,
    }

    /// Room in a file system, as statfs(2) tells.
    Space {
        /// Bytes of a block.
        block_bytes: u64,
        /// Blocks.
        blocks: u64,
        /// Free ones.
        free_blocks: u64,
        /// Those that anybody may use.
        available_blocks: u64,
        /// Inodes.
        files: u64,
        /// Free ones.
        free_files: u64,
    }

    /// An extended attribute.
    SetXattr {
        /// Name.
        name: Vec<u8>,
        /// Value; none removes it.
        value: Option<Vec<u8>>,
        /// Flags of setxattr(2).
        flags: u32,
    }

    /// A search for data.
    Seek {
        /// From here on.
        offset: u64,
        /// A hole instead of data.
        hole: bool,
    }

    /// References to give back.
    Forgotten {
        /// The node.
        node: u32,
        /// How many references.
        references: u64,
    }

    /// A lock.
    Lock {
        /// flock(2) instead of a range.
        whole: bool,
        /// 0 read, 1 write, 2 unlock, as in fcntl(2).
        kind: u32,
        /// First byte.
        start: u64,
        /// Bytes; 0: to the end.
        bytes: u64,
        /// Only asks whether it could be had.
        test: bool,
    }

    /// One entry of a directory.
    Entry {
        /// Inode number.
        ino: u64,
        /// Where to go on after it.
        next: u64,
        /// Type, as in `d_type`.
        kind: u32,
        /// Name.
        name: Vec<u8>,
    }
}

/// Nodes to give back, for a forget of handle 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forget {
    /// The nodes.
    pub nodes: Vec<Forgotten>,
}

impl Wire for Forget {
    fn put(&self, to: &mut Writer) {
        to.list(&self.nodes, |to, node| node.put(to));
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { nodes: from.list(Forgotten::take)? })
    }
}

/// Arguments of a walk: names, each looked up in what the name before it found.
///
/// It ends early at what is no directory.  The answer is [`Walked`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The names, at most [`WALK_MAX`].
    pub names: Vec<Vec<u8>>,
    /// Open what the last name is at once, if it is a file or directory, with these flags of
    /// open(2).
    pub open: Option<u32>,
}

impl Wire for Walk {
    fn put(&self, to: &mut Writer) {
        to.list(&self.names, |to, name| to.bytes(name));
        self.open.put(to);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let names = from.list(Reader::bytes)?;
        if names.is_empty() || names.len() > WALK_MAX {
            return Err(Malformed);
        }
        Ok(Self { names, open: <Option<u32> as Wire>::take(from)? })
    }
}

/// Answer of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Attributes of where it began.
    pub start: Attr,
    /// What was found, in order.
    pub found: Vec<Found>,
    /// Why it ended, 0 if all names were found.
    pub errno: u32,
    /// The open file, if it was to be opened and could be.
    pub file: Option<u32>,
}

impl Wire for Walked {
    fn put(&self, to: &mut Writer) {
        self.start.put(to);
        to.list(&self.found, |to, found| found.put(to));
        to.u32(self.errno);
        self.file.put(to);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            start: Attr::take(from)?,
            found: from.list(Found::take)?,
            errno: from.u32()?,
            file: <Option<u32> as Wire>::take(from)?,
        })
    }
}

/// Whether a name may be a directory's entry: one component, and not `.` or `..`.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn round_trip_returns_the_same_and_cut_is_malformed() {
        let create = Create {
            name: b"n".to_vec(),
            mode: 0o100_644,
            uid: 1,
            gid: 2,
            target: vec![],
            open: Some(2),
        };
        let bytes = create.encode();
        assert_eq!(Create::decode(&bytes), Ok(create));
        for end in 0..bytes.len() {
            assert!(Create::decode(&bytes[..end]).is_err());
        }
        let walked = Walked {
            start: Attr::default(),
            found: vec![Found::default(); 3],
            errno: 2,
            file: Some(9),
        };
        assert_eq!(Walked::decode(&walked.encode()), Ok(walked));
        let set = SetAttr { size: Some(7), mtime: Some(Time::default()), ..SetAttr::default() };
        assert_eq!(SetAttr::decode(&set.encode()), Ok(set));
    }

    #[test]
    fn walk_without_or_with_too_many_names_is_malformed() {
        assert!(Walk::decode(&Walk::default().encode()).is_err());
        let many = Walk { names: vec![b"a".to_vec(); WALK_MAX + 1], open: None };
        assert!(Walk::decode(&many.encode()).is_err());
    }

    #[test]
    fn is_name_refuses_what_is_more_than_one_component() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'a'; 256]] {
            assert!(!is_name(bad), "{}", bad.escape_ascii());
        }
        for good in [&b"a"[..], b"...", b"..a", b"\xff\n", &[b'a'; 255]] {
            assert!(is_name(good));
        }
    }
}
