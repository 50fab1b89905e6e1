// SPDX-License-Identifier: Apache-2.0
//! containerd's description of a root file system, read without mounting it.

use std::path::{Path, PathBuf};

use super::TreeError;

/// A mount as containerd's snapshotters hand it over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The type: `bind` or `overlay`.
    pub kind: String,
    /// The directory to bind; for an overlay only a label.
    pub source: String,
    /// The mount options, one each.
    pub options: Vec<String>,
}

/// Whether the layers of a [`Plan`] follow overlayfs's conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layering {
    /// One directory, taken as it is.
    Plain,
    /// Directories of an overlay: whiteouts and opaque directories have their meaning.
    Overlay,
}

/// The directories to read, the top one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) layering: Layering,
    pub(crate) upper: Option<PathBuf>,
    pub(crate) lowers: Vec<PathBuf>,
}

/// Overlay options that do not change what a reader sees, or only by what the layers' own
/// attributes say (which the walk refuses where it meets them).
const HARMLESS: &[&str] = &[
    "ro",
    "rw",
    "userxattr",
    "volatile",
    "nouserxattr",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "relatime",
    "index",
    "xino",
    "uuid",
    "nfs_export",
    "workdir",
    "redirect_dir",
    "metacopy",
    "fsync",
    "verity",
];

impl Plan {
    pub(crate) fn for_dir(root: &Path) -> Self {
        Self { layering: Layering::Plain, upper: None, lowers: vec![root.into()] }
    }

    pub(crate) fn for_mounts(mounts: &[Mount]) -> Result<Self, TreeError> {
        match mounts {
            [mount] if mount.kind == "overlay" => overlay(mount),
            [mount] if mount.kind == "bind" || mount.options.iter().any(|o| is_bind(o)) => {
                bind(mount)
            }
            [mount] => Err(unsupported(mount, "only bind and overlay are; mount it first")),
            [] => Err(unsupported(&Mount::default(), "the list of mounts is empty")),
            [_, second, ..] => {
                Err(unsupported(second, "a root of several mounts; mount them first"))
            }
        }
    }

    /// All directories, the top one first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &PathBuf> {
        self.upper.iter().chain(&self.lowers)
    }
}

fn is_bind(option: &str) -> bool {
    option == "bind" || option == "rbind"
}

fn bind(mount: &Mount) -> Result<Plan, TreeError> {
    if let Some(map) = mount.options.iter().find(|o| is_id_map(o)) {
        return Err(unsupported(mount, &format!("option {map:?} maps ids; mount it first")));
    }
    let source = absolute(mount, &mount.source)?;
    Ok(Plan { layering: Layering::Plain, upper: None, lowers: vec![source] })
}

fn overlay(mount: &Mount) -> Result<Plan, TreeError> {
    let mut lowers = Vec::new();
    let mut upper = None;
    for option in &mount.options {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "lowerdir" => {
                for part in split_colons(value) {
                    if part.is_empty() {
                        return Err(unsupported(mount, "data-only layers (`::`); mount it first"));
                    }
                    lowers.push(absolute(mount, &part)?);
                }
            }
            "lowerdir+" => lowers.push(absolute(mount, value)?),
            "upperdir" => upper = Some(absolute(mount, &unescape(value))?),
            _ if HARMLESS.contains(&key) => {}
            _ => {
                let reason = format!("option {option:?} is not understood; mount it first");
                return Err(unsupported(mount, &reason));
            }
        }
    }
    if lowers.is_empty() {
        return Err(unsupported(mount, "it has no lowerdir option"));
    }
    Ok(Plan { layering: Layering::Overlay, upper, lowers })
}

fn is_id_map(option: &str) -> bool {
    option.starts_with("uidmap=") || option.starts_with("gidmap=") || option.starts_with("idmap=")
}

fn absolute(mount: &Mount, path: &str) -> Result<PathBuf, TreeError> {
    if path.starts_with('/') {
        return Ok(path.into());
    }
    Err(unsupported(mount, &format!("path {path:?} is not absolute")))
}

/// Splits at colons that no backslash precedes, and removes the backslashes.
fn split_colons(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => parts.push(String::new()),
            '\\' => parts.last_mut().expect("never empty").extend(chars.next()),
            _ => parts.last_mut().expect("never empty").push(c),
        }
    }
    parts
}

fn unescape(path: &str) -> String {
    let mut chars = path.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

fn unsupported(mount: &Mount, reason: &str) -> TreeError {
    TreeError::UnsupportedMount {
        kind: mount.kind.clone(),
        origin: mount.source.clone(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay_of(options: &[&str]) -> Result<Plan, TreeError> {
        let options = options.iter().map(ToString::to_string).collect();
        Plan::for_mounts(&[Mount { kind: "overlay".into(), source: "overlay".into(), options }])
    }

    #[test]
    fn overlay_with_upper_lists_layers_from_the_top() {
        let plan = overlay_of(&["workdir=/w", "upperdir=/u", "lowerdir=/a:/b\\:c", "index=off"]);
        let plan = plan.unwrap();
        let layers: Vec<_> = plan.layers().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(layers, ["/u", "/a", "/b:c"]);
        assert_eq!(plan.layering, Layering::Overlay);
    }

    #[test]
    fn overlay_with_what_changes_the_view_is_refused() {
        for options in [
            &["lowerdir=/a::/data"][..],
            &["upperdir=/u"],
            &["lowerdir=a"],
            &["lowerdir=/a", "uidmap=0:1000:1"],
            &["lowerdir=/a", "default_permissions"],
        ] {
            let error = overlay_of(options).unwrap_err();
            assert!(matches!(error, TreeError::UnsupportedMount { .. }), "{options:?}: {error}");
        }
    }

    #[test]
    fn mounts_other_than_one_bind_or_overlay_are_refused() {
        let tmpfs = Mount { kind: "tmpfs".into(), source: "tmpfs".into(), options: vec![] };
        let bind =
            Mount { kind: "bind".into(), source: "/r".into(), options: vec!["rbind".into()] };
        assert!(Plan::for_mounts(&[tmpfs]).is_err());
        assert!(Plan::for_mounts(&[]).is_err());
        assert!(Plan::for_mounts(&[bind.clone(), bind.clone()]).is_err());
        assert_eq!(Plan::for_mounts(&[bind]).unwrap().lowers, [PathBuf::from("/r")]);
    }
}
