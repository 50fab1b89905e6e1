// SPDX-License-Identifier: Apache-2.0
//! The node's cache of images.
//!
//! ```text
//! <dir>/sha256-<hex>.erofs    images, named by their content
//! <dir>/keys/<hex>            a source's state -> digest, so that a second start reads no data
//! <dir>/keys/<hex>.lock       held while that source is being built
//! <dir>/names/<hex>.json      a name -> digest and configuration
//! <dir>/boot                  the boot that wrote last
//! ```
//!
//! Any number of processes may use one directory at a time.  Images that the user named stay until
//! they are removed; others may be evicted, the least recently used first, when the cache is larger
//! than its bound and nobody uses them.

mod error;
mod identity;
mod lock;
mod names;
mod store;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::image::ImageConfiguration;

pub use self::error::CacheError;

use self::identity::{Identity, Key};
use self::lock::BuildLock;
use self::names::{Names, Tag};
use self::store::{Durability, Store};
use crate::archive::{Archive, Limits, Select};
use crate::erofs::{self, BuildReport, ImageDigest, hex};
use crate::progress::Progress;
use crate::tree::{Mount, Plan, Tree, WalkOptions};

/// Where images are kept unless the caller says otherwise.
pub const DEFAULT_DIR: &str = "/var/lib/trine/images";

/// An image of the cache, held against eviction as long as `file` is open anywhere.
#[derive(Debug)]
pub struct CachedImage {
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading, with a shared lock that duplicates of the descriptor, also in other
    /// processes, keep alive.
    pub file: File,
    /// Its content's name.
    pub digest: ImageDigest,
    /// Its size, a multiple of 4096.
    pub size_bytes: u64,
    /// What the build said, if it was built for this call.
    pub report: Option<BuildReport>,
}

/// An image that came with a configuration.
#[derive(Debug)]
pub struct NamedImage {
    /// The root file system.
    pub image: CachedImage,
    /// What the image says of how to run it; `None` for one built from a directory.
    pub config: Option<ImageConfiguration>,
}

/// A line of [`Cache::list`].
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// Its content's name.
    pub digest: ImageDigest,
    /// The names it was given, sorted.
    pub names: Vec<String>,
    /// The size of the image.
    pub size_bytes: u64,
    /// When it was last handed out.
    pub last_used: SystemTime,
    /// Whether somebody holds it now.
    pub in_use: bool,
}

/// What [`Cache::remove`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that stand for nothing any more.
    pub names: Vec<String>,
    /// The image, if no other name keeps it.
    pub image: Option<ImageDigest>,
}

/// The node's cache of images.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    names: Names,
    keys: PathBuf,
    dir: PathBuf,
    max_bytes: u64,
    walk: WalkOptions,
    limits: Limits,
}

impl Cache {
    /// Opens the cache in `dir`, made if it is missing, that may take `max_bytes` of disk.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn open(dir: &Path, max_bytes: u64) -> Result<Self, CacheError> {
        let keys = dir.join("keys");
        // Images have what the containers' users may not see.
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&keys).map_err(CacheError::io("create directory", &keys))?;
        let names_dir = dir.join("names");
        let names = Names::open(names_dir.clone())?;
        for part in [&keys, &names_dir] {
            lock::remove_abandoned(part)?;
        }
        Ok(Self {
            store: Store::open(dir)?,
            names,
            keys,
            dir: dir.into(),
            max_bytes,
            walk: WalkOptions::default(),
            limits: Limits::default(),
        })
    }

    /// Sets how directories are walked, and what archives may contain.
    #[must_use]
    pub fn with_limits(mut self, walk: WalkOptions, limits: Limits) -> Self {
        self.walk = walk;
        self.limits = limits;
        self
    }

    /// Returns the image of the directory `root`; builds it if no image of its present state is
    /// there.
    ///
    /// # Errors
    /// See [`Tree::from_dir`] and [`erofs::write`]; or the cache cannot be written.
    pub fn image_for_dir(
        &self,
        root: &Path,
        progress: &dyn Progress,
    ) -> Result<CachedImage, CacheError> {
        self.image_for_plan(&Plan::for_dir(root), progress)
    }

    /// Returns the image of what `mounts` would show; builds it if it is not there.
    ///
    /// For an overlay whose upper directory is empty this costs a system call for each layer and
    /// a dozen more: lower directories are containerd's committed snapshots, which never change.
    ///
    /// # Errors
    /// See [`Tree::from_mounts`] and [`erofs::write`]; or the cache cannot be written.
    pub fn image_for_mounts(
        &self,
        mounts: &[Mount],
        progress: &dyn Progress,
    ) -> Result<CachedImage, CacheError> {
        self.image_for_plan(&Plan::for_mounts(mounts)?, progress)
    }

    /// Reads an image archive (an OCI layout, a tar of one, or the output of `docker save`), and
    /// returns its image; `name`, if given, stands for it from now on.
    ///
    /// # Errors
    /// The archive is damaged, hostile or for another platform; or the cache cannot be written.
    pub fn import_archive(
        &self,
        archive: &Path,
        select: &Select,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<NamedImage, CacheError> {
        // Before the work.
        name.map_or(Ok(()), names::check)?;
        let archive = Archive::open(archive, select, &self.dir, &self.limits)?;
        let key = Key::of_archive(archive.id());
        let image = self.find_or_build(
            &key,
            Durability::Now,
            || Ok((archive.unpack(progress)?, true)),
            progress,
        )?;
        let config = Some(archive.into_config());
        if let Some(name) = name {
            self.name_image(name, &image, config.clone())?;
        }
        Ok(NamedImage { image, config })
    }

    /// Returns the image with this content, if it is there.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn get(&self, digest: &ImageDigest) -> Result<Option<CachedImage>, CacheError> {
        self.store.get(digest)
    }

    /// Makes `name` stand for an image of the cache, with `config`.
    ///
    /// # Errors
    /// The name is not valid, or the image is not there.
    pub fn tag(
        &self,
        name: &str,
        digest: &ImageDigest,
        config: Option<ImageConfiguration>,
    ) -> Result<(), CacheError> {
        // Held while it gets its name, so that it is not evicted before.
        match self.store.get(digest)? {
            Some(held) => self.name_image(name, &held, config),
            None => Err(CacheError::NotFound { name: digest.to_string() }),
        }
    }

    /// Returns the image that `name` (or a digest, or at least 8 of its first digits) stands for.
    ///
    /// # Errors
    /// [`CacheError::NotFound`]; or the cache cannot be read.
    pub fn resolve(&self, name: &str) -> Result<NamedImage, CacheError> {
        let not_found = || CacheError::NotFound { name: name.into() };
        let tag = self.names.get(name)?;
        let digest = match &tag {
            Some(tag) => tag.digest(),
            None => self.by_digits(name)?,
        };
        let image = self.store.get(&digest.ok_or_else(not_found)?)?.ok_or_else(not_found)?;
        let config = match tag {
            Some(tag) => tag.config,
            // By digest: any name of it knows the configuration.
            None => {
                let tags = self.names.list()?;
                let same = |tag: &Tag| tag.digest() == Some(image.digest);
                tags.into_iter().find(same).and_then(|tag| tag.config)
            }
        };
        Ok(NamedImage { image, config })
    }

    /// Lists the images, those used last first.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn list(&self) -> Result<Vec<ImageInfo>, CacheError> {
        let tags = self.names.list()?;
        let mut images = Vec::new();
        for image in self.store.list()? {
            let same = tags.iter().filter(|tag| tag.digest() == Some(image.digest));
            images.push(ImageInfo {
                digest: image.digest,
                names: same.map(|tag| tag.name.clone()).collect(),
                size_bytes: image.size_bytes,
                last_used: image.last_used,
                in_use: self.store.is_used(&image.path)?,
            });
        }
        images.sort_by_key(|image| std::cmp::Reverse(image.last_used));
        Ok(images)
    }

    /// Removes a name, and its image when it was the last; or an image by digest, with its names.
    ///
    /// # Errors
    /// [`CacheError::NotFound`]; [`CacheError::InUse`], and nothing is removed then.
    pub fn remove(&self, name: &str) -> Result<Removed, CacheError> {
        let not_found = || CacheError::NotFound { name: name.into() };
        let tags = self.names.list()?;
        let (digest, going) = match self.names.get(name)? {
            Some(tag) => (tag.digest(), vec![tag.name]),
            None => {
                let digest = self.by_digits(name)?.ok_or_else(not_found)?;
                let same = tags.iter().filter(|tag| tag.digest() == Some(digest));
                (Some(digest), same.map(|tag| tag.name.clone()).collect())
            }
        };
        let kept = tags.iter().any(|tag| tag.digest() == digest && !going.contains(&tag.name));
        let image = digest.filter(|_| !kept);
        if let Some(digest) = &image
            && !self.store.remove_unused(&self.store.path_of(digest))?
        {
            return Err(CacheError::InUse { name: name.into() });
        }
        for name in &going {
            self.names.remove(name)?;
        }
        self.sweep_keys()?;
        Ok(Removed { names: going, image })
    }

    /// Removes all images that have no name and that nobody uses; returns the bytes freed.
    ///
    /// # Errors
    /// The cache cannot be read or written.
    pub fn prune(&self) -> Result<u64, CacheError> {
        self.evict_to(0)
    }

    /// Gives a held image a name; from now on it must survive a power cut.
    fn name_image(
        &self,
        name: &str,
        image: &CachedImage,
        config: Option<ImageConfiguration>,
    ) -> Result<(), CacheError> {
        names::check(name)?;
        store::make_durable(&image.file, &image.path)?;
        self.names.set(&Tag { name: name.into(), image: image.digest.to_string(), config })
    }

    fn image_for_plan(
        &self,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<CachedImage, CacheError> {
        let Identity { key, plan, settled } = Identity::of(plan.clone(), &self.walk)?;
        let build_fn = || {
            let tree = Tree::from_plan(&plan, &self.walk, progress)?;
            // A source that changed while it was read has another state by now.
            Ok((tree, settled))
        };
        self.find_or_build(&key, Durability::Later, build_fn, progress)
    }

    /// Returns the image of `key`; else builds it from the tree that `tree_fn` reads, which also
    /// says whether `key` is worth remembering.
    fn find_or_build(
        &self,
        key: &Key,
        durability: Durability,
        tree_fn: impl FnOnce() -> Result<(Tree, bool), CacheError>,
        progress: &dyn Progress,
    ) -> Result<CachedImage, CacheError> {
        if let Some(image) = self.lookup(key)? {
            return Ok(image);
        }
        let key_path = self.key_path(key);
        let _lock = BuildLock::acquire(&key_path.with_extension("lock"))?;
        // Who held the lock before us may have built it.
        if let Some(image) = self.lookup(key)? {
            return Ok(image);
        }
        let (tree, remember) = tree_fn()?;
        let draft = self.store.draft()?;
        let report = erofs::write(&tree, &draft.file, progress)?;
        let image = self.store.publish(draft, &report.digest, durability)?;
        let image = CachedImage { report: Some(report), ..image };
        if remember {
            names::replace(&key_path, image.digest.hex().as_bytes())?;
        }
        self.evict_to(self.max_bytes)?;
        Ok(image)
    }

    fn key_path(&self, key: &Key) -> PathBuf {
        self.keys.join(hex(&key.0))
    }

    fn lookup(&self, key: &Key) -> Result<Option<CachedImage>, CacheError> {
        let path = self.key_path(key);
        let digits = match fs::read_to_string(&path) {
            Ok(digits) => digits,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CacheError::io("read", path)(error)),
        };
        // A torn entry is no entry.
        match ImageDigest::from_hex(&digits) {
            Some(digest) => self.store.get(&digest),
            None => Ok(None),
        }
    }

    /// Finds the image whose digest is, or begins with, `name`.
    fn by_digits(&self, name: &str) -> Result<Option<ImageDigest>, CacheError> {
        const MIN_DIGITS: usize = 8;
        let digits = name.strip_prefix("sha256:").or(name.strip_prefix("sha256-")).unwrap_or(name);
        let is_digest = digits.len() >= MIN_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_digest {
            return Ok(None);
        }
        let images = self.store.list()?;
        let mut matches = images.iter().filter(|image| image.digest.hex().starts_with(digits));
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => Err(CacheError::Ambiguous { name: name.into() }),
            (found, _) => Ok(found.map(|image| image.digest)),
        }
    }

    /// Removes unused, unnamed images, the least recently used first, until at most `bound` bytes
    /// are taken; returns the bytes freed.
    fn evict_to(&self, bound: u64) -> Result<u64, CacheError> {
        let mut images = self.store.list()?;
        let mut total = images.iter().map(|image| image.disk_bytes).sum::<u64>();
        if total <= bound {
            return Ok(0);
        }
        let named: Vec<_> = self.names.list()?.iter().filter_map(Tag::digest).collect();
        images.retain(|image| !named.contains(&image.digest));
        images.sort_by_key(|image| image.last_used);
        let mut freed = 0;
        for image in images {
            if total <= bound {
                break;
            }
            if self.store.remove_unused(&image.path)? {
                total -= image.disk_bytes;
                freed += image.disk_bytes;
            }
        }
        self.sweep_keys()?;
        Ok(freed)
    }

    /// Forgets the keys of images that are gone.
    fn sweep_keys(&self) -> Result<(), CacheError> {
        for entry in fs::read_dir(&self.keys).map_err(CacheError::io("list", &self.keys))? {
            let path = entry.map_err(CacheError::io("list", &self.keys))?.path();
            if path.extension().is_some() {
                continue;
            }
            let digest =
                fs::read_to_string(&path).ok().and_then(|digits| ImageDigest::from_hex(&digits));
            if !digest.is_some_and(|digest| self.store.path_of(&digest).exists()) {
                // Gone already is as good.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}
