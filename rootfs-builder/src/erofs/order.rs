// SPDX-License-Identifier: Apache-2.0
//! The order of inodes in an image, and what the directories say of each.

use crate::tree::{InodeId, ROOT, Tree};

/// The inodes that can be reached, each once, a directory before its children.
pub(super) struct Order<'a> {
    pub(super) ids: Vec<InodeId>,
    /// By inode: how many links it has, as `st_nlink` counts them.
    pub(super) links: Vec<u32>,
    /// By inode: the directory of its first name; the root's is the root.
    pub(super) parents: Vec<InodeId>,
    /// By inode: its first name, without directories.
    pub(super) names: Vec<&'a [u8]>,
}

impl<'a> Order<'a> {
    /// Walks `tree` depth first, by sorted names.
    pub(super) fn of(tree: &'a Tree) -> Self {
        let count = tree.inodes.len();
        let mut order = Self {
            ids: Vec::with_capacity(count),
            links: vec![0; count],
            parents: vec![ROOT; count],
            names: vec![b"/"; count],
        };
        // A stack of our own: depth is the source's to choose.
        let mut todo = vec![ROOT];
        order.links[ROOT] = 1;
        while let Some(id) = todo.pop() {
            order.ids.push(id);
            let Some(entries) = tree.entries(id) else { continue };
            // Its `.`; and each child directory's `..`.
            order.links[id] += 1;
            let first = todo.len();
            for (name, child) in entries {
                if order.links[*child] == 0 {
                    order.parents[*child] = id;
                    order.names[*child] = name;
                    todo.push(*child);
                }
                order.links[*child] += 1;
                if tree.entries(*child).is_some() {
                    order.links[id] += 1;
                }
            }
            todo[first..].reverse();
        }
        order
    }
}
