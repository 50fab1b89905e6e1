// SPDX-License-Identifier: Apache-2.0
//! Names of images, each with its image's configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CacheError;
use crate::erofs::{ImageDigest, hex};

/// What a name stands for; stored as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Tag {
    pub(super) name: String,
    /// `sha256:…`
    pub(super) image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<ImageConfiguration>,
}

impl Tag {
    pub(super) fn digest(&self) -> Option<ImageDigest> {
        self.image.parse().ok()
    }
}

/// The directory of names.
#[derive(Debug)]
pub(super) struct Names {
    dir: PathBuf,
}

impl Names {
    pub(super) fn open(dir: PathBuf) -> Result<Self, CacheError> {
        fs::create_dir_all(&dir).map_err(CacheError::io("create directory", &dir))?;
        Ok(Self { dir })
    }

    /// Makes `tag.name` stand for `tag`, also if it stood for another image.
    pub(super) fn set(&self, tag: &Tag) -> Result<(), CacheError> {
        check(&tag.name)?;
        let path = self.path_of(&tag.name);
        let json = serde_json::to_vec_pretty(tag).map_err(CacheError::io("encode", &path))?;
        replace(&path, &json)
    }

    pub(super) fn get(&self, name: &str) -> Result<Option<Tag>, CacheError> {
        let path = self.path_of(name);
        match fs::read(&path) {
            // A file that a power cut left torn names nothing.
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CacheError::io("read", path)(error)),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), CacheError> {
        let path = self.path_of(name);
        fs::remove_file(&path).map_err(CacheError::io("remove", path))
    }

    /// Lists all names, sorted.
    pub(super) fn list(&self) -> Result<Vec<Tag>, CacheError> {
        let error = || CacheError::io("list", &self.dir);
        let mut tags = Vec::<Tag>::new();
        for entry in fs::read_dir(&self.dir).map_err(error())? {
            let path = entry.map_err(error())?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let json = fs::read(&path).unwrap_or_default();
                tags.extend(serde_json::from_slice::<Tag>(&json).ok());
            }
        }
        tags.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(tags)
    }

    /// A name may have slashes and be long: its hash is the file's name.
    fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}.json", hex(&Sha256::digest(name))))
    }
}

/// Writes a small file so that a reader sees the old or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".new-{}-{:?}", std::process::id(), std::thread::current().id()));
    let new = PathBuf::from(new);
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        // The error at hand says more than that of the clean-up.
        let _ = fs::remove_file(&new);
        CacheError::io("write", path)(error)
    })
}

/// Refuses what cannot be a name.
pub(super) fn check(name: &str) -> Result<(), CacheError> {
    if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(CacheError::BadName { name: name.into() })
}
