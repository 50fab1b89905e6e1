// SPDX-License-Identifier: Apache-2.0
//! What is written down in the bundle, so that `delete` can clean up when the server is gone.
//!
//! | file | by | says |
//! | --- | --- | --- |
//! | `address` | `start` | the server's address; containerd reads it when it restarts |
//! | `trine-shim.json` | `start` | [`ShimRecord`], in the bundle of the pod's first container only |
//! | `trine-task.json` | the server | [`TaskRecord`] |
//!
//! Each is replaced as a whole, so that a reader never sees half of one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::process::ProcessId;

/// File with the server's address.
pub const ADDRESS_FILE: &str = "address";
const SHIM_FILE: &str = "trine-shim.json";
const TASK_FILE: &str = "trine-task.json";

/// The server of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRecord {
    /// The process.
    pub process: ProcessId,
    /// Its socket.
    pub socket: PathBuf,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskRecord {
    /// The VMM.
    pub vmm: Option<ProcessId>,
    /// The I/O process, in the record of the container that the pod belongs to.
    pub io: Option<ProcessId>,
    /// Directories of cgroups that were made for it.
    pub cgroups: Vec<PathBuf>,
    /// The root file system is, or was about to be, mounted on `rootfs` of the bundle.
    pub mounted: bool,
    /// How it ended.
    pub exit: Option<ExitRecord>,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 0 to 255.
    pub status: u32,
    /// Nanoseconds since 1970.
    pub at_unix_ns: u64,
}

impl ShimRecord {
    /// Reads the record of a bundle, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(bundle: &Path) -> io::Result<Option<Self>> {
        load(&bundle.join(SHIM_FILE))
    }

    /// Writes the record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, bundle: &Path) -> io::Result<()> {
        save(&bundle.join(SHIM_FILE), self)
    }

    /// Removes the record of a bundle.
    pub fn remove(bundle: &Path) {
        // Not being there is what is wanted.
        let _ = fs::remove_file(bundle.join(SHIM_FILE));
    }
}

impl TaskRecord {
    /// Reads the record of a bundle, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(bundle: &Path) -> io::Result<Option<Self>> {
        load(&bundle.join(TASK_FILE))
    }

    /// Writes the record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, bundle: &Path) -> io::Result<()> {
        save(&bundle.join(TASK_FILE), self)
    }

    /// Removes the record of a bundle.
    pub fn remove(bundle: &Path) {
        // Not being there is what is wanted.
        let _ = fs::remove_file(bundle.join(TASK_FILE));
    }
}

/// Writes a file so that its readers see all of it or the file before.
///
/// # Errors
/// If it cannot be written.
pub fn write_atomically(path: &Path, contents: &[u8]) -> io::Result<()> {
    // Distinct between threads as well as between processes.
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let next = format!(".{name}.{}.{count}", process::id());
    let temporary = path.with_file_name(&next);
    let replace = || {
        fs::write(&temporary, contents)?;
        let directory = fs::File::open(path.parent().unwrap_or_else(|| Path::new("/")))?;
        trine::replace(&directory, &next, &name)
    };
    replace().inspect_err(|_| {
        // The error that is returned says more than a failure to remove.
        let _ = fs::remove_file(&temporary);
    })
}

fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn save<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(record)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trips_and_tolerates_older_ones() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(TaskRecord::load(bundle.path()).unwrap(), None);

        let record = TaskRecord {
            vmm: Some(ProcessId { pid: 1, start_time: 2 }),
            cgroups: vec![PathBuf::from("/sys/fs/cgroup/x")],
            exit: Some(ExitRecord { status: 7, at_unix_ns: 8 }),
            ..TaskRecord::default()
        };
        record.save(bundle.path()).unwrap();
        assert_eq!(TaskRecord::load(bundle.path()).unwrap(), Some(record));

        fs::write(bundle.path().join(TASK_FILE), "{}").unwrap();
        assert_eq!(TaskRecord::load(bundle.path()).unwrap(), Some(TaskRecord::default()));
        fs::write(bundle.path().join(TASK_FILE), "{").unwrap();
        assert!(TaskRecord::load(bundle.path()).is_err());
        TaskRecord::remove(bundle.path());
        assert_eq!(fs::read_dir(bundle.path()).unwrap().count(), 0, "no temporary file is left");
    }
}
