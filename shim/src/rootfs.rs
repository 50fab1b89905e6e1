// SPDX-License-Identifier: Apache-2.0
//! Images of root file systems, from the node's cache.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use trine::Error;
use trine_rootfs_builder::{Cache, Mount as BuilderMount, Quiet};

use crate::{host::Rootfs, mounts::Mount};

/// The image cache.  It is opened when it is first needed, so that a pod's sandbox never waits for
/// it.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    max_bytes: u64,
}

impl Images {
    /// The cache in a directory that may grow to `max_bytes`.
    pub fn new(dir: &Path, max_bytes: u64) -> Self {
        Self { dir: dir.to_owned(), max_bytes }
    }

    /// Says whether the image builder can read these mounts without mounting them.
    pub fn reads(mounts: &[Mount]) -> bool {
        matches!(mounts, [mount] if matches!(&*mount.kind, "bind" | "overlay"))
    }

    /// Returns the image of a root file system.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no root file system there; [`Error::Host`].
    pub fn image(&self, rootfs: &Rootfs) -> Result<File, Error> {
        let (what, image) = match rootfs {
            Rootfs::Directory(path) => {
                check_directory(path)?;
                let image = self.open()?.image_for_dir(path, &Quiet);
                (path.display().to_string(), image)
            }
            Rootfs::Mounts(mounts) => {
                let mounts: Vec<_> = mounts.iter().map(builder_mount).collect();
                let what = mounts.iter().map(describe).collect::<Vec<_>>().join(", ");
                let image = self.open()?.image_for_mounts(&mounts, &Quiet);
                (what, image)
            }
        };
        let image =
            image.map_err(|error| Error::host(format!("make an image of {what}"), flat(&error)))?;
        Ok(image.file)
    }

    fn open(&self) -> Result<Cache, Error> {
        Cache::open(&self.dir, self.max_bytes).map_err(|error| {
            Error::host(format!("open the image cache {}", self.dir.display()), flat(&error))
        })
    }
}

fn check_directory(path: &Path) -> Result<(), Error> {
    let fault = |reason: &str| {
        Err(Error::Invalid {
            what: format!("rootfs {}", path.display()),
            reason: reason.to_owned(),
        })
    };
    match path.read_dir().map(|mut entries| entries.next().is_none()) {
        Ok(false) => Ok(()),
        Ok(true) => fault("the directory is empty"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fault("it does not exist"),
        Err(error) => Err(Error::host(format!("read rootfs {}", path.display()), error)),
    }
}

fn builder_mount(mount: &Mount) -> BuilderMount {
    BuilderMount {
        kind: mount.kind.clone(),
        source: mount.source.to_string_lossy().into_owned(),
        options: mount.options.clone(),
    }
}

fn describe(mount: &BuilderMount) -> String {
    format!("{} mount of {}", mount.kind, mount.source)
}

/// Returns an error with all its causes as one that has none, for [`Error::Host`].
fn flat(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let kind = std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map_or(io::ErrorKind::Other, io::Error::kind);
    io::Error::new(kind, crate::tasks::chain(error))
}
