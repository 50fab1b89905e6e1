// SPDX-License-Identifier: Apache-2.0
//! Directory blocks: sorted entries of 12 bytes, then their names.

use super::BLOCK_BYTES;
use crate::tree::{Entries, Kind};

const BLOCK: usize = BLOCK_BYTES as usize;
/// Size of an entry: node id (8), offset of the name (2), type (1), reserved (1).
const ENTRY: usize = 12;

/// A name, and what it stands for.
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: u64,
    pub(super) kind: &'a Kind,
}

/// Returns how many bytes the directory of `entries` takes.
pub(super) fn size_of(entries: &Entries) -> u64 {
    let mut lengths = entries.keys().map(|name| name.len()).collect::<Vec<_>>();
    // `.` and `..` where they sort, the later one first.
    for link in [&b".."[..], b"."] {
        let position = entries.keys().take_while(|name| ***name < *link).count();
        lengths.insert(position, link.len());
    }
    let mut full_blocks = 0;
    let mut used = 0;
    for len in lengths {
        if used + ENTRY + len > BLOCK {
            full_blocks += 1;
            used = 0;
        }
        used += ENTRY + len;
    }
    full_blocks * BLOCK_BYTES + used as u64
}

/// Writes a directory; `dirents` must have `.` and `..`.
pub(super) fn encode(mut dirents: Vec<Dirent<'_>>) -> Vec<u8> {
    dirents.sort_unstable_by(|a, b| a.name.cmp(b.name));
    let mut bytes = Vec::new();
    let mut rest = dirents.as_slice();
    while !rest.is_empty() {
        // The first entry that does not fit begins the next block.
        let mut used = 0;
        let fits = rest.iter().take_while(|dirent| {
            used += ENTRY + dirent.name.len();
            used <= BLOCK
        });
        let (block, next) = rest.split_at(fits.count());
        encode_block(block, &mut bytes);
        rest = next;
        if !rest.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
    }
    bytes
}

fn encode_block(dirents: &[Dirent<'_>], bytes: &mut Vec<u8>) {
    let mut name_offset = dirents.len() * ENTRY;
    for dirent in dirents {
        bytes.extend(dirent.nid.to_le_bytes());
        // Below 4096 by construction.
        bytes.extend((name_offset as u16).to_le_bytes());
        bytes.extend([file_type(dirent.kind), 0]);
        name_offset += dirent.name.len();
    }
    for dirent in dirents {
        bytes.extend(dirent.name);
    }
}

fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[String]) {
        let entries: Entries = names.iter().map(|n| (n.as_bytes().into(), 1)).collect();
        let kind = Kind::Fifo;
        let all = entries.keys().map(|name| &**name).chain([&b"."[..], b".."]);
        let bytes = encode(all.map(|name| Dirent { name, nid: 7, kind: &kind }).collect());
        assert_eq!(bytes.len() as u64, size_of(&entries), "{} names", names.len());

        // Read it back the way Linux does.
        let mut seen = Vec::new();
        for block in bytes.chunks(BLOCK) {
            let offset = |i: usize| {
                usize::from(u16::from_le_bytes([block[i * ENTRY + 8], block[i * ENTRY + 9]]))
            };
            let count = offset(0) / ENTRY;
            for i in 0..count {
                let end = if i + 1 < count { offset(i + 1) } else { block.len() };
                let name = &block[offset(i)..end];
                seen.push(name.split(|b| *b == 0).next().unwrap().to_vec());
            }
        }
        assert_eq!(seen.len(), names.len() + 2);
        assert!(seen.is_sorted(), "names are sorted across blocks");
    }

    #[test]
    fn size_of_matches_encode_for_all_fill_levels() {
        // '!' and '-' sort before '.', letters after.
        for prefix in ["!", "-", "..", "x"] {
            for count in [0, 1, 2, 100, 290, 291, 292, 293, 1000] {
                check(&(0..count).map(|i| format!("{prefix}{i:03}")).collect::<Vec<_>>());
            }
            for len in 200..=252 {
                check(
                    &(0..40)
                        .map(|i| format!("{prefix}{i:02}{}", "n".repeat(len - 2)))
                        .collect::<Vec<_>>(),
                );
            }
        }
    }
}
