// SPDX-License-Identifier: Apache-2.0
//! Lays out and writes the metadata area: inodes, their attributes, and what sits behind them.

use super::appender::Appender;
use super::content::ContentReader;
use super::data::Placement;
use super::digest::DigestBuilder;
use super::dirent::{self, Dirent};
use super::order::Order;
use super::{BLOCK_BYTES, WriteError, xattr};
use crate::tree::{InodeId, Kind, Tree};

/// Size of an extended inode.
const INODE_BYTES: u64 = 64;
/// Node ids count in units of this.
const SLOT_BYTES: u64 = 32;
/// The first inode is not at 0, since programs take inode number 0 for a deleted entry.
const FIRST_OFFSET: u64 = ROOT_NID as u64 * SLOT_BYTES;
/// Node id of the root, the first inode of the metadata area.
pub(super) const ROOT_NID: u16 = 2;

/// `i_format`: extended inode.
const EXTENDED: u16 = 1;
const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;
const LAYOUT_CHUNKS: u16 = 4;

/// Says whether `tail_bytes` fit into one block with their inode.
pub(super) fn fits_behind(xattr_bytes: usize, tail_bytes: u64) -> bool {
    INODE_BYTES + xattr_bytes as u64 + tail_bytes <= BLOCK_BYTES
}

/// Writes the metadata area.
pub(super) struct MetaWriter<'a, 'i> {
    tree: &'a Tree,
    order: &'a Order<'a>,
    xattrs: &'a [Vec<u8>],
    placements: Vec<Placement>,
    image: &'a mut Appender<'i>,
    digest: &'a mut DigestBuilder,
    /// By inode: byte offset in the metadata area.
    offsets: Vec<u64>,
    /// By inode: size of the directory, link or file.
    sizes: Vec<u64>,
    reader: ContentReader,
}

impl<'a, 'i> MetaWriter<'a, 'i> {
    pub(super) fn new(
        tree: &'a Tree,
        order: &'a Order<'a>,
        xattrs: &'a [Vec<u8>],
        placements: Vec<Placement>,
        image: &'a mut Appender<'i>,
        digest: &'a mut DigestBuilder,
    ) -> Self {
        let sizes = tree.inodes.iter().map(|inode| match &inode.kind {
            Kind::Directory(entries) => dirent::size_of(entries),
            Kind::File(content) => content.size,
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        });
        Self {
            tree,
            order,
            xattrs,
            placements,
            image,
            digest,
            offsets: vec![0; tree.inodes.len()],
            sizes: sizes.collect(),
            reader: ContentReader::default(),
        }
    }

    /// Writes everything, and returns the first block of the metadata area.
    pub(super) fn write_all(&mut self) -> Result<u32, WriteError> {
        // Node ids first: directories contain them.
        self.lay_out();
        self.write_long_tails()?;

        let meta_block = self.image.block()?;
        let start = self.image.position();
        let order = self.order;
        let mut bytes = Vec::new();
        for &id in &order.ids {
            bytes.clear();
            // The gap that alignment left before this inode.
            bytes.resize((self.offsets[id] - (self.image.position() - start)) as usize, 0);
            self.encode(id, &mut bytes);
            bytes.extend(&self.xattrs[id]);
            self.encode_tail(id, &mut bytes)?;
            self.put(&bytes)?;
        }
        Ok(meta_block)
    }

    /// Gives every inode its offset, and the tails of directories and links their place.
    fn lay_out(&mut self) {
        let mut offset = FIRST_OFFSET;
        for &id in &self.order.ids {
            if let Kind::Directory(_) | Kind::Symlink(_) = self.tree.inodes[id].kind {
                // An empty link has no data, which `Inline` of nothing would say as well.
                let inline = fits_behind(self.xattrs[id].len(), self.sizes[id]);
                // The block is set when the tail is written.
                self.placements[id] =
                    if inline { Placement::Inline(None) } else { Placement::Plain { block: 0 } };
            }
            let head = INODE_BYTES + self.xattrs[id].len() as u64;
            let (together, bytes) = match &self.placements[id] {
                Placement::Inline(_) => (head + self.sizes[id], head + self.sizes[id]),
                Placement::Chunks { chunks, .. } => (INODE_BYTES, head + chunks.map_bytes()),
                Placement::Nothing | Placement::Plain { .. } => (INODE_BYTES, head),
            };
            if offset % BLOCK_BYTES + together > BLOCK_BYTES {
                offset = offset.next_multiple_of(BLOCK_BYTES);
            }
            self.offsets[id] = offset;
            offset = (offset + bytes).next_multiple_of(SLOT_BYTES);
        }
    }

    /// Writes directories and links that do not fit behind their inode.
    fn write_long_tails(&mut self) -> Result<(), WriteError> {
        let order = self.order;
        for &id in &order.ids {
            let bytes = match (&self.tree.inodes[id].kind, &self.placements[id]) {
                (Kind::Directory(_), Placement::Plain { .. }) => self.encode_directory(id),
                (Kind::Symlink(target), Placement::Plain { .. }) => target.to_vec(),
                _ => continue,
            };
            self.placements[id] = Placement::Plain { block: self.image.block()? };
            self.put(&bytes)?;
            self.image.pad()?;
        }
        Ok(())
    }

    /// Encodes `struct erofs_inode_extended`.
    fn encode(&self, id: InodeId, bytes: &mut Vec<u8>) {
        let inode = &self.tree.inodes[id];
        let (layout, data) = match &self.placements[id] {
            Placement::Nothing => (LAYOUT_PLAIN, device_number(&inode.kind)),
            Placement::Inline(_) => (LAYOUT_INLINE, 0),
            Placement::Plain { block } => (LAYOUT_PLAIN, *block),
            Placement::Chunks { chunks, .. } => {
                (LAYOUT_CHUNKS, u32::from(chunks.bits) - BLOCK_BYTES.trailing_zeros())
            }
        };
        bytes.extend((EXTENDED | layout << 1).to_le_bytes());
        bytes.extend(xattr::count_field(self.xattrs[id].len()).to_le_bytes());
        bytes.extend((file_type(&inode.kind) | inode.meta.mode).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.sizes[id].to_le_bytes());
        bytes.extend(data.to_le_bytes());
        // A 32-bit inode number, unused by Linux; node ids fit in 4 bytes up to 128 GiB of metadata.
        bytes.extend((self.nid(id) as u32).to_le_bytes());
        bytes.extend(inode.meta.uid.to_le_bytes());
        bytes.extend(inode.meta.gid.to_le_bytes());
        bytes.extend(inode.meta.mtime_s.to_le_bytes());
        bytes.extend(inode.meta.mtime_ns.to_le_bytes());
        bytes.extend(self.order.links[id].to_le_bytes());
        bytes.extend([0; 16]);
    }

    /// Appends what sits behind the inode and its attributes.
    fn encode_tail(&mut self, id: InodeId, bytes: &mut Vec<u8>) -> Result<(), WriteError> {
        match (&self.tree.inodes[id].kind, &self.placements[id]) {
            (_, Placement::Chunks { chunks, blocks }) => chunks.encode(blocks, bytes),
            (Kind::Directory(_), Placement::Inline(_)) => bytes.extend(self.encode_directory(id)),
            (Kind::Symlink(target), Placement::Inline(_)) => bytes.extend(target),
            (Kind::File(_), Placement::Inline(Some(data))) => bytes.extend(data),
            (Kind::File(content), Placement::Inline(None)) => {
                let start = bytes.len();
                bytes.resize(start + content.size as usize, 0);
                self.reader.open(content)?.read(&mut bytes[start..], 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn encode_directory(&self, id: InodeId) -> Vec<u8> {
        let entries = self.tree.entries(id).expect("the caller saw a directory");
        let links = [(&b"."[..], id), (b"..", self.order.parents[id])];
        let names = entries.iter().map(|(name, child)| (&**name, *child));
        let dirents = names.chain(links).map(|(name, child)| Dirent {
            name,
            nid: self.nid(child),
            kind: &self.tree.inodes[child].kind,
        });
        dirent::encode(dirents.collect())
    }

    /// The node id of an inode that was written.
    pub(super) fn nid(&self, id: InodeId) -> u64 {
        self.offsets[id] / SLOT_BYTES
    }

    /// Appends metadata, which is part of the digest.
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.digest.update(bytes);
        self.image.append(bytes)
    }
}

fn file_type(kind: &Kind) -> u16 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::CharDevice { .. } => 0o020_000,
        Kind::Directory(_) => 0o040_000,
        Kind::BlockDevice { .. } => 0o060_000,
        Kind::File(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Socket => 0o140_000,
    }
}

/// Linux's `new_encode_dev`; 0 for what is no device.
fn device_number(kind: &Kind) -> u32 {
    match *kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
        }
        _ => 0,
    }
}
