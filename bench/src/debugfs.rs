// SPDX-License-Identifier: Apache-2.0
//! KVM's counters of each VM, where the kernel has debugfs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rustix::mount::{MountFlags, mount};

use crate::scratch::Scratch;

/// A debugfs, mounted for this run; it goes with its mount namespace.
#[derive(Debug)]
pub(crate) struct Debugfs {
    kvm: PathBuf,
}

impl Debugfs {
    /// Mounts it.  Without it nothing is counted.
    ///
    /// # Errors
    /// If its directory cannot be made.
    pub(crate) fn mount(scratch: &Scratch) -> Result<Self> {
        let directory = scratch.directory("debugfs")?;
        // A kernel without debugfs, or a lockdown of it, is no reason to stop.
        let _ = mount("debugfs", &directory, "debugfs", MountFlags::empty(), None);
        Ok(Self { kvm: directory.join("kvm") })
    }

    /// Exits of all vCPUs of these processes so far; `None` if nothing counts them.
    pub(crate) fn exits(&self, ids: &[u32]) -> Option<u64> {
        exits_below(&self.kvm, ids).ok().flatten()
    }
}

/// Adds up `PID-FD/exits`.
fn exits_below(kvm: &Path, ids: &[u32]) -> io::Result<Option<u64>> {
    let mut sum = None;
    for entry in fs::read_dir(kvm)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.split_once('-')?.0.parse::<u32>().ok());
        if id.is_some_and(|id| ids.contains(&id)) {
            // A VM may end between the two calls.
            if let Ok(text) = fs::read_to_string(entry.path().join("exits"))
                && let Ok(exits) = text.trim().parse::<u64>()
            {
                *sum.get_or_insert(0) += exits;
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_of_the_given_processes_are_added_up() {
        let kvm = tempfile::tempdir().expect("a directory can be made");
        for (name, exits) in [("12-5", "100\n"), ("12-9", "20\n"), ("120-5", "7\n")] {
            fs::create_dir(kvm.path().join(name)).expect("a directory can be made");
            fs::write(kvm.path().join(name).join("exits"), exits).expect("a file can be written");
        }
        fs::write(kvm.path().join("exits"), "999\n").expect("a file can be written");

        assert_eq!(exits_below(kvm.path(), &[12]).expect("it can be read"), Some(120));
        assert_eq!(exits_below(kvm.path(), &[13]).expect("it can be read"), None);
    }
}
