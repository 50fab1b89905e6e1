// SPDX-License-Identifier: Apache-2.0
//! `root` and `mounts`: what the guest mounts itself, and what the host hands in.
//!
//! | in the spec | in the guest |
//! | --- | --- |
//! | `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup` | a file system of the guest's own |
//! | `bind` at `/dev/shm` | a tmpfs of the guest |
//! | `bind` of a regular file of at most 1 MiB | its contents, at the start |
//! | any other `bind` | refused: volumes come later |

use std::{
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use crate::Error;
use oci_spec::runtime::{Mount as OciMount, Spec};
use trine_abi::control::{Config, Mount};

use super::{byte_strings, bytes, invalid, unsupported};

/// Largest file that is handed in by its contents, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Most bytes of all such files, so that the configuration fits in one message to the guest.
const FILES_MAX_BYTES: usize = 8 << 20;

pub(super) fn translate(
    spec: &Spec,
    bundle: &Path,
    warnings: &mut Vec<String>,
) -> Result<Config, Error> {
    let mut config = Config {
        readonly_root: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        ..Config::default()
    };
    if let Some(linux) = spec.linux() {
        let masked = linux.masked_paths().as_deref().unwrap_or_default();
        let readonly = linux.readonly_paths().as_deref().unwrap_or_default();
        config.masked_paths = byte_strings("linux.maskedPaths", masked)?;
        config.readonly_paths = byte_strings("linux.readonlyPaths", readonly)?;
    }
    for mount in spec.mounts().as_deref().unwrap_or_default() {
        add(mount, bundle, &mut config, warnings)?;
    }
    Ok(config)
}

fn add(
    mount: &OciMount,
    bundle: &Path,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let destination = destination(mount.destination())?;
    let options = mount.options().as_deref().unwrap_or_default();
    let kind = mount.typ().as_deref().unwrap_or("none");
    let is_bind =
        kind == "bind" || options.iter().any(|option| matches!(&**option, "bind" | "rbind"));

    if is_bind && destination == Path::new("/dev/shm") {
        // The pod's /dev/shm is a tmpfs on the host; sharing it between VMs needs volumes.
        warnings.push("/dev/shm is not shared with the other containers of the pod".to_owned());
        config.mounts.push(guest_shm());
        return Ok(());
    }
    if is_bind {
        return add_bind(mount, &destination, options, bundle, config, warnings);
    }
    match kind {
        "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2" => {
            // Guests have one kind of cgroup tree, whatever the host's.
            let kind = if kind == "cgroup2" { "cgroup" } else { kind };
            let source = mount.source().as_deref().unwrap_or(Path::new(kind));
            config.mounts.push(Mount {
                destination: destination.as_os_str().as_bytes().to_vec(),
                kind: kind.as_bytes().to_vec(),
                source: source.as_os_str().as_bytes().to_vec(),
                options: byte_strings("mount options", options)?,
            });
            Ok(())
        }
        _ => Err(unsupported(
            format!("mount of type {kind:?} at {}", destination.display()),
            "use tmpfs, or put the files into the image",
        )),
    }
}

fn guest_shm() -> Mount {
    let options = ["nosuid", "nodev", "noexec", "mode=1777", "size=65536k"];
    Mount {
        destination: b"/dev/shm".to_vec(),
        kind: b"tmpfs".to_vec(),
        source: b"shm".to_vec(),
        options: options.map(|option| option.as_bytes().to_vec()).to_vec(),
    }
}

fn add_bind(
    mount: &OciMount,
    destination: &Path,
    options: &[String],
    bundle: &Path,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let at = || format!("bind mount at {}", destination.display());
    let source = mount.source().as_deref().ok_or_else(|| invalid(at(), "the source is missing"))?;
    let source = bundle.join(source);
    let kind = fs::metadata(&source).map_err(|error| {
        Error::host(format!("use {} for the {}", source.display(), at()), error)
    })?;
    if !kind.is_file() || kind.len() > FILE_MAX_BYTES {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_file() {
            "a file of more than 1 MiB"
        } else {
            "neither a file nor a directory"
        };
        return Err(unsupported(
            format!("{} of {}, {what},", at(), source.display()),
            "volumes are not supported yet by this version, put the files into the image",
        ));
    }

    let contents = read_file(&source).map_err(|error| {
        Error::host(format!("read {} for the {}", source.display(), at()), error)
    })?;
    let total: usize = config.files.iter().map(|(_, contents)| contents.len()).sum();
    if total + contents.len() > FILES_MAX_BYTES {
        return Err(unsupported(
            format!("{}: more than 8 MiB of files in all", at()),
            "put the files into the image",
        ));
    }
    let path = bytes("mount destination", &destination.to_string_lossy())?;
    if options.iter().any(|option| matches!(&**option, "ro" | "rro")) {
        config.readonly_paths.push(path.clone());
    } else {
        warnings.push(format!(
            "{} is a copy: what the container writes to it stays in the VM",
            destination.display()
        ));
    }
    config.files.push((path, contents));
    Ok(())
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    // Bounded, for the file may have grown since it was looked at.
    File::open(path)?.take(FILE_MAX_BYTES).read_to_end(&mut contents)?;
    Ok(contents)
}

/// Returns the destination without `.` and `..`, which can then not lead out of the root.
fn destination(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid("mount destination", format!("{path:?} is not an absolute path")));
    }
    if path.to_str().is_none() {
        return Err(invalid("mount destination", format!("{path:?} is not UTF-8")));
    }
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(mounts: &str, bundle: &Path) -> Result<(Config, Vec<String>), Error> {
        let text = format!(
            r#"{{"ociVersion": "1.0.2", "process": {{"user": {{}}, "cwd": "/", "args": ["a"]}},
                "root": {{"path": "rootfs", "readonly": true}}, "mounts": [{mounts}]}}"#
        );
        let mut warnings = Vec::new();
        let spec = serde_json::from_str(&text).unwrap();
        translate(&spec, bundle, &mut warnings).map(|config| (config, warnings))
    }

    #[test]
    fn guest_file_systems_keep_their_order_and_options() {
        let (config, warnings) = config_of(
            r#"{"destination": "/proc", "type": "proc", "source": "proc"},
               {"destination": "/run/../tmp/./x", "type": "tmpfs", "options": ["size=1m", "ro"]},
               {"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup"}"#,
            Path::new("/"),
        )
        .unwrap();
        let kinds: Vec<_> = config.mounts.iter().map(|mount| mount.kind.as_slice()).collect();
        assert_eq!(kinds, [b"proc".as_slice(), b"tmpfs", b"cgroup"]);
        assert_eq!(config.mounts[1].destination, b"/tmp/x");
        assert_eq!(config.mounts[1].options, [b"size=1m".to_vec(), b"ro".to_vec()]);
        assert!(config.readonly_root && warnings.is_empty());
    }

    #[test]
    fn small_files_are_handed_in_and_the_rest_is_refused() {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("hosts"), "127.0.0.1 x").unwrap();
        fs::write(bundle.path().join("big"), vec![0; FILE_MAX_BYTES as usize + 1]).unwrap();
        fs::create_dir(bundle.path().join("dir")).unwrap();
        let bind = |source: &str, options: &str| {
            config_of(
                &format!(
                    r#"{{"destination": "/etc/{source}", "type": "bind", "source": "{source}",
                        "options": ["rbind", "rprivate" {options}]}}"#
                ),
                bundle.path(),
            )
        };

        let (config, warnings) = bind("hosts", r#", "ro""#).unwrap();
        assert_eq!(config.files, [(b"/etc/hosts".to_vec(), b"127.0.0.1 x".to_vec())]);
        assert_eq!(config.readonly_paths, [b"/etc/hosts".to_vec()]);
        assert!(warnings.is_empty());
        assert!(bind("hosts", "").unwrap().1[0].contains("/etc/hosts is a copy"));

        for (source, expected) in [
            ("dir", "a directory, is not supported: volumes are not supported yet"),
            ("big", "a file of more than 1 MiB, is not supported: volumes"),
            ("gone", "cannot use"),
        ] {
            let error = bind(source, "").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains(&format!("bind mount at /etc/{source}")), "{error}");
        }
    }

    #[test]
    fn pod_shm_becomes_a_tmpfs_of_the_guest() {
        let (config, warnings) = config_of(
            r#"{"destination": "/dev/shm", "type": "bind", "source": "/no/such/shm",
                "options": ["rbind", "ro"]}"#,
            Path::new("/"),
        )
        .unwrap();
        assert_eq!(config.mounts, [guest_shm()]);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn bad_destinations_and_types_are_refused() {
        for (mount, expected) in [
            (r#"{"destination": "relative", "type": "tmpfs"}"#, "\"relative\""),
            (r#"{"destination": "/x", "type": "nfs", "source": "a:/b"}"#, "type \"nfs\" at /x"),
            (r#"{"destination": "/x", "type": "bind"}"#, "the source is missing"),
        ] {
            let error = config_of(mount, Path::new("/")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
