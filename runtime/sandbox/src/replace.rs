// SPDX-License-Identifier: Apache-2.0
//! Replacing a small file of the node's state.

use std::{io, os::fd::AsFd};

use rustix::{
    fs::{AtFlags, RenameFlags, renameat, renameat_with, unlinkat},
    io::Errno,
};

/// Puts the file `new` of a directory in the place of `old`; readers see the one or the other.
///
/// Neither survives a crash of the host, so nothing is synced.  A plain rename over a file makes ext4
/// write the new one out at once (`auto_da_alloc`), which costs milliseconds where /run is on a disk;
/// exchanging the two does not.
///
/// # Errors
/// Of renameat2(2) and unlinkat(2).
pub fn replace(directory: impl AsFd, new: &str, old: &str) -> io::Result<()> {
    let directory = directory.as_fd();
    match renameat_with(directory, new, directory, old, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(unlinkat(directory, new, AtFlags::empty())?),
        // Nothing is there yet, or the file system cannot exchange.
        Err(Errno::NOENT | Errno::INVAL) => Ok(renameat(directory, new, directory, old)?),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_leaves_one_file_whether_or_not_there_was_one() {
        let folder = tempfile::tempdir().expect("a directory");
        let handle = std::fs::File::open(folder.path()).expect("its handle");
        for text in ["one", "two", "three"] {
            std::fs::write(folder.path().join("next"), text).expect("write");
            replace(&handle, "next", "state").expect("replace");
            assert_eq!(std::fs::read_to_string(folder.path().join("state")).expect("read"), text);
            assert!(!folder.path().join("next").exists());
        }
        replace(&handle, "next", "state").expect_err("there is no new file");
    }
}
