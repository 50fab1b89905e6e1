// SPDX-License-Identifier: Apache-2.0
//! Extended attributes behind an inode: `struct erofs_xattr_ibody_header` and its entries.

use super::WriteError;
use super::order::Order;
use crate::tree::{Tree, Xattrs};

/// Header: name filter (unused), count of shared attributes (0), reserved.
const HEADER: usize = 12;
/// `i_xattr_icount` has 16 bits and counts words beyond the header, plus one.
const MAX_BYTES: usize = HEADER + 4 * (u16::MAX as usize - 1);

/// Name prefixes that have a number; a name must have one of them.
const PREFIXES: &[(&[u8], u8)] = &[
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Encodes the attributes of every inode (empty where there are none), and counts those that
/// cannot be stored.
pub(super) fn encode_all(
    tree: &Tree,
    order: &Order<'_>,
) -> Result<(Vec<Vec<u8>>, u64), WriteError> {
    let mut skipped = tree.skipped_xattrs;
    let mut bodies = vec![Vec::new(); tree.inodes.len()];
    for &id in &order.ids {
        let body = encode(&tree.inodes[id].meta.xattrs, &mut skipped);
        if body.len() > MAX_BYTES {
            let path = String::from_utf8_lossy(order.names[id]).into_owned();
            return Err(WriteError::XattrsTooLarge { path, bytes: body.len() });
        }
        bodies[id] = body;
    }
    Ok((bodies, skipped))
}

/// Returns the value of `i_xattr_icount` for a body of `bytes`.
pub(super) fn count_field(bytes: usize) -> u16 {
    // In range: `encode_all` checked.
    if bytes == 0 { 0 } else { ((bytes - HEADER) / 4 + 1) as u16 }
}

fn encode(xattrs: &Xattrs, skipped: &mut u64) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in xattrs {
        let (Some((index, suffix)), Ok(value_len)) = (split(name), u16::try_from(value.len()))
        else {
            *skipped += 1;
            continue;
        };
        if body.is_empty() {
            body.resize(HEADER, 0);
        }
        // A suffix fits a byte: the kernel allows 255 bytes for the whole name.
        body.extend([suffix.len() as u8, index]);
        body.extend(value_len.to_le_bytes());
        body.extend(suffix);
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    body
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let (prefix, index) = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))?;
    let suffix = &name[prefix.len()..];
    let is_acl = !prefix.ends_with(b".");
    (suffix.is_empty() == is_acl && suffix.len() <= 255).then_some((*index, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_known_names_gives_index_and_suffix() {
        assert_eq!(split(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(split(b"system.posix_acl_default"), Some((3, &b""[..])));
        assert_eq!(split(b"security.capability"), Some((6, &b"capability"[..])));
        for name in [&b"user."[..], b"system.nfs4_acl", b"system.posix_acl_accessx", b"btrfs.c"] {
            assert_eq!(split(name), None);
        }
    }

    #[test]
    fn encode_counts_words_and_what_it_skips() {
        let xattrs = [(b"user.a".to_vec(), b"12345".to_vec()), (b"odd.b".to_vec(), vec![])];
        let mut skipped = 0;
        let body = encode(&xattrs.into(), &mut skipped);
        assert_eq!(skipped, 1);
        // Header, then 4 + 1 + 5 bytes, padded to 12.
        assert_eq!(body.len(), 24);
        assert_eq!(count_field(body.len()), 4);
        assert_eq!(&body[12..22], b"\x01\x01\x05\x00a12345");
    }
}
