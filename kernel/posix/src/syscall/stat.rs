// SPDX-License-Identifier: Apache-2.0
//! `struct stat`, `struct statx` and `struct statfs`, as the x86-64 ABI has them.

use crate::{
    fs::{
        Location,
        types::{Attr, NAME_MAX, split_device},
    },
    services::Timestamp,
};

/// STATX_BASIC_STATS and STATX_MNT_ID.
const STATX_GIVEN: u32 = 0x7ff | 0x1000;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn time(&mut self, time: Timestamp) {
        self.u64(time.seconds.cast_unsigned());
        self.u64(time.nanoseconds.into());
    }

    fn statx_time(&mut self, time: Timestamp) {
        self.u64(time.seconds.cast_unsigned());
        self.u32(time.nanoseconds);
        self.u32(0);
    }
}

/// `struct stat`.
pub(super) fn encode(attr: &Attr) -> [u8; 144] {
    let mut bytes = [0; 144];
    let mut to = Writer { bytes: &mut bytes, at: 0 };
    to.u64(attr.device);
    to.u64(attr.ino);
    to.u64(attr.links.into());
    to.u32(attr.full_mode());
    to.u32(attr.uid);
    to.u32(attr.gid);
    to.u32(0);
    to.u64(attr.rdev);
    to.u64(attr.size);
    to.u64(4096);
    to.u64(attr.blocks);
    to.time(attr.atime);
    to.time(attr.mtime);
    to.time(attr.ctime);
    bytes
}

/// `struct statx`.
pub(super) fn encode_statx(attr: &Attr, mount: u64, is_mount_root: bool) -> [u8; 256] {
    let mut bytes = [0; 256];
    let mut to = Writer { bytes: &mut bytes, at: 0 };
    to.u32(STATX_GIVEN);
    to.u32(4096);
    to.u64(if is_mount_root { STATX_ATTR_MOUNT_ROOT } else { 0 });
    to.u32(attr.links);
    to.u32(attr.uid);
    to.u32(attr.gid);
    to.u32(attr.full_mode());
    to.u64(attr.ino);
    to.u64(attr.size);
    to.u64(attr.blocks);
    to.u64(STATX_ATTR_MOUNT_ROOT);
    to.statx_time(attr.atime);
    to.statx_time(Timestamp::default());
    to.statx_time(attr.ctime);
    to.statx_time(attr.mtime);
    for device in [attr.rdev, attr.device] {
        let (major, minor) = split_device(device);
        to.u32(major);
        to.u32(minor);
    }
    to.u64(mount);
    bytes
}

/// `struct statfs`.
pub(super) fn encode_statfs(place: &Location) -> [u8; 120] {
    let stat = place.mount.fs.stat();
    let mut bytes = [0; 120];
    let mut to = Writer { bytes: &mut bytes, at: 0 };
    to.u64(stat.magic);
    to.u64(4096);
    to.u64(stat.blocks);
    to.u64(stat.free_blocks);
    to.u64(stat.free_blocks);
    to.u64(stat.files);
    to.u64(stat.free_files);
    to.u64(place.mount.fs.device());
    to.u64(NAME_MAX as u64);
    to.u64(4096);
    // ST_VALID, ST_RDONLY, ST_NOSUID, ST_NOEXEC.
    let flags = 0x20
        | u64::from(place.mount.is_readonly())
        | u64::from(place.mount.nosuid) << 1
        | u64::from(place.mount.noexec) << 3;
    to.u64(flags);
    bytes
}
