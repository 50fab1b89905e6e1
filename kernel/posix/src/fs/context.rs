// SPDX-License-Identifier: Apache-2.0
//! Where a process stands: root, current directory, file mode creation mask.

use alloc::{sync::Arc, vec::Vec};

use crate::fs::{dentry::Location, mount::Vfs};

/// What `clone(CLONE_FS)` shares.
#[derive(Clone, Debug)]
pub struct FsContext {
    /// The file systems.
    pub vfs: Arc<Vfs>,
    /// What `/` means.
    pub root: Location,
    /// What `.` means.
    pub cwd: Location,
    /// File mode creation mask.
    pub umask: u32,
}

impl FsContext {
    /// Stands at the root.
    pub(crate) fn new(vfs: Arc<Vfs>, root: Location) -> Self {
        Self { vfs, cwd: root.clone(), root, umask: 0o022 }
    }

    /// The path of a place as this process sees it, for /proc.
    pub fn path(&self, place: &Location) -> Vec<u8> {
        place.path_from(&self.root).0
    }
}
