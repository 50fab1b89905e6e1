// SPDX-License-Identifier: Apache-2.0
//! Who may do what (path_resolution(7), inode(7)).

use crate::{
    Errno,
    fs::{
        dentry::Location,
        types::{Attr, FileType},
    },
    process::{
        Creds,
        creds::{CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID},
    },
};

/// To read.
pub(crate) const READ: u32 = 4;
/// To write.
pub(crate) const WRITE: u32 = 2;
/// To execute, or to search a directory.
pub(crate) const EXECUTE: u32 = 1;

/// Checks access to an inode by its mode.
pub(crate) fn check(attr: &Attr, creds: &Creds, want: u32) -> Result<(), Errno> {
    let bits = if attr.uid == creds.fsuid {
        attr.mode >> 6
    } else if creds.in_group(attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    };
    if want & !bits & 7 == 0 {
        return Ok(());
    }
    let is_dir = attr.kind == FileType::Directory;
    let any_x = attr.mode & 0o111 != 0;
    if creds.has_cap(CAP_DAC_OVERRIDE) && (is_dir || want & EXECUTE == 0 || any_x) {
        return Ok(());
    }
    let search = if is_dir { READ | EXECUTE } else { READ };
    if creds.has_cap(CAP_DAC_READ_SEARCH) && want & !search == 0 {
        return Ok(());
    }
    Err(Errno::ACCES)
}

/// Checks access to a place, with its mount's flags.
pub(crate) fn check_place(place: &Location, creds: &Creds, want: u32) -> Result<(), Errno> {
    let attr = place.attr();
    let plain = matches!(attr.kind, FileType::Regular | FileType::Directory | FileType::Symlink);
    if want & WRITE != 0 && plain && place.mount.is_readonly() {
        return Err(Errno::ROFS);
    }
    if want & EXECUTE != 0 && attr.kind == FileType::Regular && place.mount.noexec {
        return Err(Errno::ACCES);
    }
    check(&attr, creds, want)
}

/// Checks that entries of a directory may be made or removed.
pub(crate) fn check_parent(place: &Location, creds: &Creds) -> Result<(), Errno> {
    if place.mount.is_readonly() {
        return Err(Errno::ROFS);
    }
    if place.dentry.is_deleted() {
        return Err(Errno::NOENT);
    }
    check(&place.attr(), creds, WRITE | EXECUTE)
}

/// Checks that an entry may be taken out of a directory that may be sticky.
pub(crate) fn check_sticky(dir: &Attr, entry: &Attr, creds: &Creds) -> Result<(), Errno> {
    let free = dir.mode & 0o1000 == 0
        || dir.uid == creds.fsuid
        || entry.uid == creds.fsuid
        || creds.has_cap(CAP_FOWNER);
    if free { Ok(()) } else { Err(Errno::PERM) }
}

/// Checks that attributes may be changed as an owner can.
pub(crate) fn check_owner(attr: &Attr, creds: &Creds) -> Result<(), Errno> {
    if attr.uid == creds.fsuid || creds.has_cap(CAP_FOWNER) { Ok(()) } else { Err(Errno::PERM) }
}

/// Checks a change of owner and group.
pub(crate) fn check_chown(
    attr: &Attr,
    creds: &Creds,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), Errno> {
    if creds.has_cap(CAP_CHOWN) {
        return Ok(());
    }
    let owns = attr.uid == creds.fsuid;
    let uid_ok = uid.is_none_or(|uid| owns && uid == attr.uid);
    let gid_ok = gid.is_none_or(|gid| owns && (gid == attr.gid || creds.in_group(gid)));
    if uid_ok && gid_ok { Ok(()) } else { Err(Errno::PERM) }
}

/// The mode that chmod really gives: set-group-id only for a member of the group.
pub(crate) fn chmod_mode(attr: &Attr, creds: &Creds, mode: u32) -> u32 {
    let keeps =
        attr.kind == FileType::Directory || creds.in_group(attr.gid) || creds.has_cap(CAP_FSETID);
    if keeps { mode } else { mode & !0o2000 }
}

/// The mode of a file after its owner changed or it was written by somebody without privilege.
pub(crate) fn without_set_id(attr: &Attr) -> u32 {
    let group = if attr.mode & 0o010 != 0 { 0o2000 } else { 0 };
    attr.mode & !(0o4000 | group)
}
