// SPDX-License-Identifier: Apache-2.0
//! Volumes: directories and files of the host that a container sees.

use std::{
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::PathBuf,
};

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use trine_abi::{control::Mount, file::FIRST_VOLUME};
use trine_io::protocol::VolumeSpec;

use crate::Error;

/// Most volumes of one container.
const VOLUMES_MAX: usize = 1024;

/// A directory or regular file of the host at a place in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// What it is on the host; symbolic links are followed.
    pub source: PathBuf,
    /// With what is mounted below the source.
    pub recursive: bool,
    /// The container cannot write to it.
    pub readonly: bool,
}

impl Volume {
    /// The mount of a container that shows this as its volume number `index`, with options as in
    /// fstab(5).
    pub fn mount(&self, index: usize, destination: &[u8], options: &[String]) -> Mount {
        let handle = u32::try_from(index).ok().and_then(|index| FIRST_VOLUME.checked_add(index));
        Mount {
            destination: destination.to_vec(),
            kind: b"volume".to_vec(),
            source: self.source.as_os_str().as_bytes().to_vec(),
            options: options.iter().map(|option| option.as_bytes().to_vec()).collect(),
            volume: handle,
        }
    }
}

/// A volume that was opened, and how the I/O process is told of it.
#[derive(Debug)]
pub(crate) struct OpenVolume {
    pub(crate) root: OwnedFd,
    pub(crate) spec: VolumeSpec,
}

/// Opens the volumes that a container's mounts refer to.
pub(crate) fn open_all(volumes: &[Volume], mounts: &[Mount]) -> Result<Vec<OpenVolume>, Error> {
    if volumes.len() > VOLUMES_MAX {
        let reason = format!("a container can have {VOLUMES_MAX}");
        return Err(Error::Invalid { what: format!("{} volumes", volumes.len()), reason });
    }
    let open = |(handle, volume): (u32, &Volume)| {
        let mount = mounts.iter().find(|mount| mount.volume == Some(handle));
        let destination =
            mount.map(|mount| String::from_utf8_lossy(&mount.destination).into_owned());
        open(volume, handle, destination.unwrap_or_default())
    };
    (FIRST_VOLUME..).zip(volumes).map(open).collect()
}

fn open(volume: &Volume, handle: u32, destination: String) -> Result<OpenVolume, Error> {
    let source = volume.source.display();
    let refuse = |error: io::Error| {
        Error::host(format!("use {source} for the bind mount at {destination}"), error)
    };
    let root = trine_jail::mount::detached(&volume.source, volume.recursive, volume.readonly)
        .map_err(refuse)?;
    let stat = rustix::fs::fstat(&root).map_err(|errno| refuse(errno.into()))?;
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::RegularFile)
    {
        return Err(Error::Unsupported {
            what: format!("bind mount at {destination} of {source}, a special file,"),
            hint: "mount a directory or a regular file; sockets and devices of the host cannot be \
                   reached from a VM"
                .into(),
        });
    }
    let spec = VolumeSpec { handle, readonly: volume.readonly, destination };
    Ok(OpenVolume { root, spec })
}
