// SPDX-License-Identifier: Apache-2.0
//! A tree of the host beside a volume, which nothing in a container may read or change.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Dir, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::{
    command::{self, PATIENCE},
    images::write_hex,
};

/// What `secret` begins with, its size and its time: `e2e/guest/escape.c` knows it by these.
const SECRET: &[u8] = b"#!/bin/sh\nexit 77 # host-canary-secret\n";
const SECRET_BYTES: usize = 31337;
const SECRET_SECONDS: u64 = 987_654_321;

/// A file system of its own, in which every access sets a time: `volume` is for the container,
/// `canary` is the host's.
#[derive(Debug)]
pub(crate) struct Ground {
    folder: PathBuf,
    before: Vec<String>,
    _socket: UnixListener,
}

impl Ground {
    /// Makes it; it goes when it is dropped.
    pub(crate) fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "strictatime,mode=755", "tmpfs"]).arg(&folder);
        command::must(&mut mount, PATIENCE)?;
        let canary = folder.join("canary");
        let socket = plant(&canary, &folder)?;
        let before = census(&canary)?;
        Ok(Self { folder, before, _socket: socket })
    }

    /// The directory that the container gets.
    pub(crate) fn volume(&self) -> PathBuf {
        self.folder.join("volume")
    }

    /// The directory that it must not get.
    pub(crate) fn canary(&self) -> PathBuf {
        self.folder.join("canary")
    }

    /// Fails unless the canary is as it was, and nobody has looked at it.
    pub(crate) fn check(&self) -> Result<()> {
        let now = census(&self.canary())?;
        let differs = |from: &[String], to: &[String]| {
            from.iter().find(|line| !to.contains(line)).cloned().unwrap_or_default()
        };
        let (old, new) = (differs(&self.before, &now), differs(&now, &self.before));
        ensure!(now == self.before, "the host's tree was read or changed: {old:?} is now {new:?}");
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        command::run(Command::new("umount").arg("--lazy").arg(&self.folder)).ok();
    }
}

fn plant(canary: &Path, folder: &Path) -> Result<UnixListener> {
    for directory in [canary.join("inner"), folder.join("volume/in")] {
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let mut text = SECRET.to_vec();
    text.resize(SECRET_BYTES, 0);
    let path = canary.join("secret");
    let mut secret = File::create(&path).context("make the secret")?;
    secret.write_all(&text)?;
    secret.set_permissions(fs::Permissions::from_mode(0o755))?;
    secret.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(SECRET_SECONDS))?;
    // Not every kernel has these on a tmpfs.
    let value = SECRET.strip_suffix(b"\n").unwrap_or(SECRET);
    rustix::fs::setxattr(&path, "user.canary", value, rustix::fs::XattrFlags::empty()).ok();
    for name in ["canary-marker", "inner/file"] {
        fs::write(canary.join(name), name)?;
    }
    UnixListener::bind(canary.join("socket")).context("make the socket")
}

/// Everything that can tell of an access, without being one.
pub(crate) fn census(directory: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
    let mut names: Vec<CString> = Vec::new();
    for entry in Dir::new(open(directory).context("open a directory of the census")?)? {
        names.push(entry?.file_name().to_owned());
    }
    names.sort();
    for name in names {
        use std::os::unix::ffi::OsStrExt as _;
        if name.to_bytes() == b".." {
            continue;
        }
        let path = directory.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let stat = rustix::fs::lstat(&path).context("look at a file of the census")?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        let contents = match kind {
            rustix::fs::FileType::RegularFile => {
                let mut bytes = Vec::new();
                File::from(open(&path)?).read_to_end(&mut bytes)?;
                write_hex(&Sha256::digest(bytes))
            }
            _ => String::new(),
        };
        let attribute = &mut [0_u8; 64];
        let attribute = rustix::fs::lgetxattr(&path, "user.canary", &mut attribute[..]).ok();
        lines.push(format!(
            "{path:?} ino {} mode {:o} links {} owner {}:{} size {} atime {}.{} mtime {}.{} \
             ctime {}.{} xattr {attribute:?} {contents}",
            stat.st_ino,
            stat.st_mode,
            stat.st_nlink,
            stat.st_uid,
            stat.st_gid,
            stat.st_size,
            stat.st_atime,
            stat.st_atime_nsec,
            stat.st_mtime,
            stat.st_mtime_nsec,
            stat.st_ctime,
            stat.st_ctime_nsec,
        ));
        if kind == rustix::fs::FileType::Directory && name.to_bytes() != b"." {
            lines.extend(census(&path)?);
        }
    }
    Ok(lines)
}
