// SPDX-License-Identifier: Apache-2.0
//! The directory of all containers.

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};

use super::{Claim, Directory, Record};
use crate::{failure::WithRemedy as _, values};

const WRITABLE: &str = "give --root a directory you may write";

/// The `--root` directory.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    path: PathBuf,
}

impl Root {
    /// Names the directory; it need not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Claims the record's id for a new container.
    ///
    /// # Errors
    /// If the id is not valid or taken, or nothing can be written here.
    pub(crate) fn claim(&self, record: &Record) -> Result<Claim> {
        values::check_id(&record.id)?;
        let path = self.path.join(&record.id);
        let make = || DirBuilder::new().mode(0o700).create(&path);
        let made = match make() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.create()?;
                make()
            }
            other => other,
        };
        match made {
            Ok(()) => Claim::new(path, record),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                "container id {:?} is already in use: delete it with `trine delete`, or choose \
                 another id",
                record.id
            ),
            Err(error) => Err(error)
                .with_context(|| format!("cannot create {}", path.display()))
                .remedy(WRITABLE),
        }
    }

    /// Opens a container's directory.
    ///
    /// # Errors
    /// If there is no such container.
    pub(crate) fn open(&self, id: &str) -> Result<Directory> {
        match self.find(id)? {
            Some(directory) => Ok(directory),
            None => bail!(
                "container {id:?} does not exist under {}: see `trine list`",
                self.path.display()
            ),
        }
    }

    /// Opens a container's directory, if there is such a container.
    ///
    /// # Errors
    /// If the id is not valid, or the directory cannot be opened.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Directory>> {
        values::check_id(id)?;
        Directory::open(self.path.join(id))
    }

    /// Opens all directories, in the order of their ids.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(crate) fn all(&self) -> Result<Vec<Directory>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot list {}", self.path.display()));
            }
        };
        let mut names: Vec<_> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        let valid = names.iter().filter(|name| values::check_id(name).is_ok());
        // One that vanishes meanwhile was deleted.
        Ok(valid.filter_map(|name| Directory::open(self.path.join(name)).ok().flatten()).collect())
    }

    fn create(&self) -> Result<()> {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.path)
            .with_context(|| format!("cannot create state directory {}", self.path.display()))
            .remedy(WRITABLE)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::fs::PermissionsExt as _,
    };

    use tempfile::TempDir;

    use super::*;

    fn root() -> (TempDir, Root) {
        let scratch = TempDir::new().expect("scratch directory");
        let root = Root::new(scratch.path().join("deep/run"));
        (scratch, root)
    }

    fn record(id: &str) -> Record {
        Record { id: id.to_owned(), ..Record::default() }
    }

    #[test]
    fn claim_twice_is_refused_and_leaves_the_first() {
        let (_scratch, root) = root();
        let first = root.claim(&record("a")).expect("first").keep();
        let error = root.claim(&record("a")).expect_err("taken").to_string();
        assert!(error.contains("\"a\" is already in use"), "{error}");
        assert_eq!(first.read_record().expect("read").expect("a record").id, "a");
    }

    #[test]
    fn claim_dropped_leaves_nothing() {
        let (scratch, root) = root();
        drop(root.claim(&record("a")).expect("claim"));
        let left = fs::read_dir(scratch.path().join("deep/run")).expect("list").count();
        assert_eq!(left, 0);
        assert!(root.find("a").expect("find").is_none());
    }

    #[test]
    fn claim_of_a_path_is_refused() {
        let (_scratch, root) = root();
        for id in ["..", "a/b", ""] {
            assert!(root.claim(&record(id)).is_err(), "{id:?}");
            assert!(root.find(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn directory_and_socket_are_private_and_reachable_under_a_long_root() {
        let scratch = TempDir::new().expect("scratch directory");
        let root = Root::new(scratch.path().join("x".repeat(150)));
        let directory = root.claim(&record("a")).expect("claim").keep();
        assert!(directory.connect().expect("nobody listens yet").is_none());
        let listener = directory.listen().expect("listen");
        let mut ours = directory.connect().expect("connect").expect("a listener");
        let (mut theirs, _) = listener.accept().expect("accept");
        ours.write_all(b"x").expect("write");
        let mut got = [0];
        theirs.read_exact(&mut got).expect("read");

        let mode = |name: &str| {
            let path = directory.path().join(name);
            fs::metadata(path).expect("metadata").permissions().mode() & 0o777
        };
        assert_eq!((mode(""), mode("control.sock"), mode("state.json")), (0o700, 0o600, 0o600));
        drop(listener);
        assert!(directory.connect().expect("listener is gone").is_none());
        directory.remove().expect("remove");
        assert!(!directory.path().exists());
    }

    #[test]
    fn read_record_damaged_or_of_another_version_names_the_file() {
        let (_scratch, root) = root();
        let directory = root.claim(&record("a")).expect("claim").keep();
        let path = directory.path().join("state.json");
        let future = fs::read_to_string(&path).expect("read").replace(":1,", ":99,");
        for contents in [future.as_str(), "{\"version\":1", ""] {
            fs::write(&path, contents).expect("write");
            let error = format!("{:#}", directory.read_record().expect_err("not a record"));
            assert!(error.contains("state.json"), "{error}");
        }
    }

    #[test]
    fn all_lists_by_id_and_ignores_strangers() {
        let (scratch, root) = root();
        assert!(root.all().expect("no root yet").is_empty());
        let _b = root.claim(&record("b")).expect("claim").keep();
        let _a = root.claim(&record("a")).expect("claim").keep();
        fs::write(scratch.path().join("deep/run/file"), "").expect("write");
        fs::create_dir(scratch.path().join("deep/run/not an id")).expect("mkdir");
        let ids: Vec<_> = root
            .all()
            .expect("list")
            .iter()
            .map(|directory| directory.read_record().expect("read").expect("a record").id)
            .collect();
        assert_eq!(ids, ["a", "b"]);
    }
}
