// SPDX-License-Identifier: Apache-2.0
//! The image files of a cache: publish, open, evict.
//!
//! Who uses an image holds a shared lock on its open file; who removes one takes the exclusive
//! lock first.  So an image in use is never removed, whatever process uses it, and a crash of
//! either side leaves no lock behind.  (The file would outlive its name anyway; but the cache would
//! no longer count it.)
//!
//! An image is written to a file without a name, and gets its name when it is whole.  It is not
//! forced to the disk then, since a container waits for it: mode 0400 marks it as volatile.  The
//! first use a minute or more later, when the kernel has long written it, makes sure, and sets mode
//! 0444.  After a reboot the volatile ones are removed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use super::{CacheError, CachedImage, lock};
use crate::erofs::ImageDigest;

const PREFIX: &str = "sha256-";
const SUFFIX: &str = ".erofs";
/// Named temporary files, where the file system has no unnamed ones.
const TEMPORARY: &str = "tmp-";

const VOLATILE: u32 = 0o400;
const DURABLE: u32 = 0o444;
/// After this long the kernel has written a file by itself.
const WRITEBACK: Duration = Duration::from_secs(60);
/// How often a publication races with an eviction before it is given up.
const PUBLISH_ATTEMPTS: u32 = 16;

/// Whether a new image must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// It can be built again: do not make a container wait.
    Later,
    /// The user named it.
    Now,
}

/// A stored image, as a listing sees it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) digest: ImageDigest,
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    /// What it takes on the disk.
    pub(super) disk_bytes: u64,
    pub(super) last_used: SystemTime,
}

/// The directory of images.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

/// An image that is being written.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) file: File,
    /// Its temporary name, if it has to have one.
    name: Option<PathBuf>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Should it fail, `Store::open` removes it later.
            let _ = fs::remove_file(name);
        }
    }
}

impl Store {
    /// Opens the directory, and removes what an interrupted build or a power cut spoiled.
    pub(super) fn open(dir: &Path) -> Result<Self, CacheError> {
        let store = Self { dir: dir.into() };
        store.forget_volatile()?;
        store.remove_abandoned()?;
        Ok(store)
    }

    pub(super) fn path_of(&self, digest: &ImageDigest) -> PathBuf {
        self.dir.join(format!("{PREFIX}{}{SUFFIX}", digest.hex()))
    }

    /// Opens an image and holds it; `None` if it is not there.
    pub(super) fn get(&self, digest: &ImageDigest) -> Result<Option<CachedImage>, CacheError> {
        let path = self.path_of(digest);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(CacheError::io("open image", path)(errno)),
        };
        lock::wait(&file, FlockOperation::LockShared, &path)?;
        let metadata = file.metadata().map_err(CacheError::io("read metadata of", &path))?;
        if metadata.nlink() == 0 {
            // Evicted between the open and the lock.
            return Ok(None);
        }
        settle(&file, &metadata);
        // Remembers the use. On a read-only file system nothing is evicted either.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ =
            rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
        let size_bytes = metadata.len();
        Ok(Some(CachedImage { path, file, digest: *digest, size_bytes, report: None }))
    }

    /// Makes a file to write an image into.
    pub(super) fn draft(&self) -> Result<Draft, CacheError> {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlags::TMPFILE.bits() as i32)
            .mode(VOLATILE)
            .open(&self.dir);
        match file {
            Ok(file) => Ok(Draft { file, name: None }),
            Err(error) if is_unsupported(&error) => self.named_draft(),
            Err(source) => Err(CacheError::io("create temporary file in", &self.dir)(source)),
        }
    }

    fn named_draft(&self) -> Result<Draft, CacheError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = self.dir.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        // What an earlier process of the same id left.
        let _ = fs::remove_file(&name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(VOLATILE).open(&name);
        let file = file.map_err(CacheError::io("create temporary file", &name))?;
        lock::wait(&file, FlockOperation::LockShared, &name)?;
        Ok(Draft { file, name: Some(name) })
    }

    /// Gives a finished image its name, and opens it; an equal one that is there already is used
    /// instead.
    pub(super) fn publish(
        &self,
        draft: Draft,
        digest: &ImageDigest,
        durability: Durability,
    ) -> Result<CachedImage, CacheError> {
        let path = self.path_of(digest);
        if durability == Durability::Now {
            make_durable(&draft.file, &path)?;
        }
        // Held until it is opened under its name, so that no eviction comes in between.
        lock::wait(&draft.file, FlockOperation::LockShared, &path)?;
        let source = match &draft.name {
            Some(name) => name.clone(),
            None => PathBuf::from(format!("/proc/self/fd/{}", draft.file.as_raw_fd())),
        };
        for _ in 0..PUBLISH_ATTEMPTS {
            match rustix::fs::linkat(CWD, &source, CWD, &path, AtFlags::SYMLINK_FOLLOW) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(CacheError::io("name image", path)(errno)),
            }
            if let Some(image) = self.get(digest)? {
                return Ok(image);
            }
        }
        let error = io::Error::other("it is removed again and again by another process");
        Err(CacheError::io("name image", path)(error))
    }

    /// Lists the images.
    pub(super) fn list(&self) -> Result<Vec<Stored>, CacheError> {
        let error = || CacheError::io("list", &self.dir);
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(error())? {
            let entry = entry.map_err(error())?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(digest_of) else { continue };
            // Removed meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            images.push(Stored {
                digest,
                path: entry.path(),
                size_bytes: metadata.len(),
                disk_bytes: metadata.blocks() * 512,
                last_used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        Ok(images)
    }

    /// Says whether somebody holds the image at `path`.
    pub(super) fn is_used(&self, path: &Path) -> Result<bool, CacheError> {
        match File::open(path) {
            Ok(file) => Ok(!lock::try_exclusive(&file, path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CacheError::io("open image", path)(error)),
        }
    }

    /// Removes the image at `path` unless somebody holds it; says whether it is gone.
    pub(super) fn remove_unused(&self, path: &Path) -> Result<bool, CacheError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(CacheError::io("open image", path)(error)),
        };
        if !lock::try_exclusive(&file, path)? {
            return Ok(false);
        }
        // Another process may have removed it, and a third have built it again.
        if lock::is_linked(&file, path)? {
            fs::remove_file(path).map_err(CacheError::io("remove image", path))?;
        }
        Ok(true)
    }

    /// Removes images that may have been lost with the page cache at a reboot.
    fn forget_volatile(&self) -> Result<(), CacheError> {
        let marker = self.dir.join("boot");
        let Ok(boot) = fs::read("/proc/sys/kernel/random/boot_id") else { return Ok(()) };
        if fs::read(&marker).is_ok_and(|known| known == boot) {
            return Ok(());
        }
        for image in self.list()? {
            let mode = fs::metadata(&image.path).map(|metadata| metadata.mode() & 0o7777);
            if mode.is_ok_and(|mode| mode != DURABLE) {
                self.remove_unused(&image.path)?;
            }
        }
        fs::write(&marker, boot).map_err(CacheError::io("write", marker))
    }

    /// Removes named temporary files that no process holds.
    fn remove_abandoned(&self) -> Result<(), CacheError> {
        let error = || CacheError::io("list", &self.dir);
        for entry in fs::read_dir(&self.dir).map_err(error())? {
            let entry = entry.map_err(error())?;
            if !entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY)) {
                continue;
            }
            // Its maker may be about to lock it.
            let age = entry.metadata().ok().and_then(|m| m.modified().ok()?.elapsed().ok());
            if age.is_some_and(|age| age > WRITEBACK) {
                self.remove_unused(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Writes an image to the disk, and marks it as durable, unless it is.
pub(super) fn make_durable(file: &File, path: &Path) -> Result<(), CacheError> {
    let metadata = file.metadata().map_err(CacheError::io("read metadata of", path))?;
    if metadata.mode() & 0o7777 != DURABLE {
        file.sync_data().map_err(CacheError::io("write to disk", path))?;
        let mode = fs::Permissions::from_mode(DURABLE);
        file.set_permissions(mode).map_err(CacheError::io("set mode of", path))?;
    }
    Ok(())
}

/// Marks a volatile image as durable, once that costs nothing.
fn settle(file: &File, metadata: &fs::Metadata) {
    if metadata.mode() & 0o7777 == DURABLE {
        return;
    }
    let age = metadata.created().ok().and_then(|created| created.elapsed().ok());
    if age.is_some_and(|age| age > WRITEBACK) && file.sync_data().is_ok() {
        // A failure leaves it volatile, which is safe.
        let _ = file.set_permissions(fs::Permissions::from_mode(DURABLE));
    }
}

fn digest_of(name: &str) -> Option<ImageDigest> {
    ImageDigest::from_hex(name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?)
}

/// `O_TMPFILE` is refused in one of these ways by file systems and kernels without it.
fn is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::OPNOTSUPP, Errno::ISDIR, Errno::INVAL].iter().any(|e| errno == Some(e.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn named_draft_is_published_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let names = || {
            let entries = fs::read_dir(dir.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != "boot").collect::<Vec<_>>()
        };
        drop(store.named_draft().unwrap());
        assert!(names().is_empty());

        let digest = ImageDigest::from_hex(&"5".repeat(64)).unwrap();
        for content in ["first", "equal, by its digest"] {
            let mut draft = store.named_draft().unwrap();
            draft.file.write_all(content.as_bytes()).unwrap();
            let image = store.publish(draft, &digest, Durability::Later).unwrap();
            assert_eq!(fs::read(&image.path).unwrap(), b"first");
            assert_eq!(names(), [format!("{PREFIX}{}{SUFFIX}", digest.hex())]);
        }
    }

    #[test]
    fn abandoned_named_draft_is_removed_at_the_next_open() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(format!("{TEMPORARY}1-1"));
        let old = SystemTime::now() - 2 * WRITEBACK;
        File::create(&left).unwrap().set_modified(old).unwrap();
        let held = File::create(dir.path().join(format!("{TEMPORARY}1-2"))).unwrap();
        held.set_modified(old).unwrap();
        lock::wait(&held, FlockOperation::LockShared, dir.path()).unwrap();
        Store::open(dir.path()).unwrap();
        assert!(!left.exists());
        assert!(lock::is_linked(&held, dir.path()).unwrap());
    }
}
