// SPDX-License-Identifier: Apache-2.0
//! `root` and `mounts`: what the guest mounts itself, and what the host hands in.
//!
//! | in the spec | in the guest |
//! | --- | --- |
//! | `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup` | a file system of the guest's own |
//! | `bind` at `/dev/shm` | a tmpfs of the guest |
//! | `bind` of a directory or regular file | a volume, served by the I/O process |
//! | any other `bind` | refused |

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use crate::{Error, Volume};
use oci_spec::runtime::{Mount as OciMount, Spec};
use trine_abi::control::{Config, Mount};

use super::{byte_strings, bytes, invalid, unsupported};

pub(super) fn translate(
    spec: &Spec,
    bundle: &Path,
    warnings: &mut Vec<String>,
) -> Result<(Config, Vec<Volume>), Error> {
    let mut volumes = Vec::new();
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
        add(mount, bundle, &mut config, &mut volumes, warnings)?;
    }
    Ok((config, volumes))
}

fn add(
    mount: &OciMount,
    bundle: &Path,
    config: &mut Config,
    volumes: &mut Vec<Volume>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let destination = destination(mount.destination())?;
    let options = mount.options().as_deref().unwrap_or_default();
    let kind = mount.typ().as_deref().unwrap_or("none");
    let is_bind =
        kind == "bind" || options.iter().any(|option| matches!(&**option, "bind" | "rbind"));

    if is_bind && destination == Path::new("/dev/shm") {
        // The pod's /dev/shm is a tmpfs on the host; what is mapped from it must be shared memory,
        // which VMs do not have.
        warnings.push("/dev/shm is not shared with the other containers of the pod".to_owned());
        config.mounts.push(guest_shm());
        return Ok(());
    }
    if is_bind {
        return add_bind(mount, &destination, options, bundle, config, volumes);
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
                volume: None,
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
        volume: None,
    }
}

fn add_bind(
    mount: &OciMount,
    destination: &Path,
    options: &[String],
    bundle: &Path,
    config: &mut Config,
    volumes: &mut Vec<Volume>,
) -> Result<(), Error> {
    let at = || format!("bind mount at {}", destination.display());
    for option in options {
        match &**option {
            "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {
                return Err(unsupported(
                    format!("{} with propagation {option:?}", at()),
                    "use \"rprivate\" (mountPropagation: None), mounts do not cross the boundary \
                     of a VM",
                ));
            }
            "idmap" | "ridmap" => {
                return Err(unsupported(format!("{} with {option:?}", at()), "remove the option"));
            }
            _ => {}
        }
    }
    let source = mount.source().as_deref().ok_or_else(|| invalid(at(), "the source is missing"))?;
    let has = |name: &str| options.iter().any(|option| option == name);
    let volume = Volume {
        source: bundle.join(source),
        recursive: has("rbind"),
        readonly: has("ro") || has("rro"),
    };
    fs::metadata(&volume.source).map_err(|error| {
        Error::host(format!("use {} for the {}", volume.source.display(), at()), error)
    })?;
    let path = bytes("mount destination", &destination.to_string_lossy())?;
    config.mounts.push(volume.mount(volumes.len(), &path, options));
    volumes.push(volume);
    Ok(())
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

    fn config_of(mounts: &str, bundle: &Path) -> Result<(Config, Vec<Volume>, Vec<String>), Error> {
        let text = format!(
            r#"{{"ociVersion": "1.0.2", "process": {{"user": {{}}, "cwd": "/", "args": ["a"]}},
                "root": {{"path": "rootfs", "readonly": true}}, "mounts": [{mounts}]}}"#
        );
        let mut warnings = Vec::new();
        let spec = serde_json::from_str(&text).unwrap();
        translate(&spec, bundle, &mut warnings).map(|(config, volumes)| (config, volumes, warnings))
    }

    #[test]
    fn guest_file_systems_keep_their_order_and_options() {
        let (config, _, warnings) = config_of(
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
    fn binds_become_volumes_and_the_rest_is_refused() {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("hosts"), "127.0.0.1 x").unwrap();
        fs::create_dir(bundle.path().join("dir")).unwrap();
        let bind = |source: &str, options: &str| {
            config_of(
                &format!(
                    r#"{{"destination": "/data/{source}", "type": "bind", "source": "{source}",
                        "options": ["rprivate" {options}]}}"#
                ),
                bundle.path(),
            )
        };

        let (config, volumes, warnings) = bind("hosts", r#", "ro", "bind""#).unwrap();
        let wanted =
            Volume { source: bundle.path().join("hosts"), recursive: false, readonly: true };
        assert_eq!(volumes, [wanted]);
        assert_eq!(config.mounts[0].destination, b"/data/hosts");
        assert_eq!(config.mounts[0].volume, Some(trine_abi::file::FIRST_VOLUME));
        assert!(warnings.is_empty());
        let (_, volumes, _) = bind("dir", r#", "rbind""#).unwrap();
        assert!(volumes[0].recursive && !volumes[0].readonly);

        for (source, options, expected) in [
            ("gone", "", "cannot use"),
            ("dir", r#", "rshared""#, "bind mount at /data/dir with propagation \"rshared\""),
            ("dir", r#", "idmap""#, "bind mount at /data/dir with \"idmap\""),
        ] {
            let error = bind(source, options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn pod_shm_becomes_a_tmpfs_of_the_guest() {
        let (config, _, warnings) = config_of(
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
