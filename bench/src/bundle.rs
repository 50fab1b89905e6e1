// SPDX-License-Identifier: Apache-2.0
//! The root file system that every container has, and OCI bundles of it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{programs::Programs, scratch::Scratch};

/// What an idle container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleeper {
    /// busybox's `sleep`.
    Busybox,
    /// The workload program, where there is no static busybox.
    Workload,
}

/// The root file system.
#[derive(Debug)]
pub(crate) struct Rootfs {
    /// Its directory.
    pub(crate) path: PathBuf,
    /// What sleeps in it.
    pub(crate) sleeper: Sleeper,
}

impl Rootfs {
    /// Makes it of the programs.
    ///
    /// # Errors
    /// If something cannot be copied.
    pub(crate) fn make(scratch: &Scratch, programs: &Programs) -> Result<Self> {
        let path = scratch.directory("rootfs")?;
        for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "volume"] {
            scratch.directory(&format!("rootfs/{directory}"))?;
        }
        install(&programs.hello, &path.join("hello"))?;
        install(&programs.workload, &path.join("workload"))?;
        let mut sleeper = Sleeper::Workload;
        if let Some(busybox) = &programs.busybox {
            install(busybox, &path.join("bin/busybox"))?;
            for name in ["sh", "sleep"] {
                symlink("busybox", path.join("bin").join(name))
                    .with_context(|| format!("cannot link {name}"))?;
            }
            sleeper = Sleeper::Busybox;
        }
        Ok(Self { path, sleeper })
    }

    /// Makes a bundle of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn bundle(&self, scratch: &Scratch, name: &str, args: &[&str]) -> Result<PathBuf> {
        self.container(name, args).bundle(scratch)
    }

    /// A container of it.
    pub(crate) fn container(&self, name: &str, args: &[&str]) -> Container {
        Container::new(name, &self.path, args)
    }
}

/// What a bundle says.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    name: String,
    config: Value,
}

impl Container {
    /// A command in a read-only root file system, in namespaces of its own.
    pub(crate) fn new(name: &str, rootfs: &Path, args: &[&str]) -> Self {
        Self { name: name.to_owned(), config: config(rootfs, args) }
    }

    /// Shows it a directory of the host, which it may write to.
    pub(crate) fn with_volume(self, source: &Path, destination: &str) -> Self {
        self.with_mount(json!({
            "destination": destination, "type": "bind", "source": source,
            "options": ["rbind", "rw", "rprivate"],
        }))
    }

    /// Gives it a `/tmp` in memory.
    pub(crate) fn with_tmp(self) -> Self {
        self.with_mount(json!({
            "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=1777"],
        }))
    }

    /// Gives it so many processors, and so much memory.
    pub(crate) fn with_resources(mut self, cpus: u32, memory_bytes: u64) -> Self {
        const PERIOD_US: u32 = 100_000;
        let resources = &mut self.config["linux"]["resources"];
        resources["cpu"] = json!({ "quota": cpus * PERIOD_US, "period": PERIOD_US });
        resources["memory"] = json!({ "limit": memory_bytes });
        self
    }

    /// Puts it into a network namespace that is there.
    pub(crate) fn with_network(mut self, namespace: &Path) -> Self {
        if let Some(namespaces) = self.config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|one| one["type"] != "network");
            namespaces.push(json!({ "type": "network", "path": namespace }));
        }
        self
    }

    /// Writes it into a directory.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn bundle(mut self, scratch: &Scratch) -> Result<PathBuf> {
        let directory = scratch.directory(&format!("bundles/{}", self.name))?;
        self.config["linux"]["cgroupsPath"] =
            Value::from(format!("/{}/{}", scratch.name(), self.name));
        let file = directory.join("config.json");
        fs::write(&file, self.config.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(directory)
    }

    fn with_mount(mut self, mount: Value) -> Self {
        if let Some(mounts) = self.config["mounts"].as_array_mut() {
            mounts.push(mount);
        }
        self
    }
}

impl Sleeper {
    /// Its command line.
    pub(crate) fn args(self) -> &'static [&'static str] {
        match self {
            Self::Busybox => &["/bin/sleep", "1000000"],
            Self::Workload => &["/workload", "idle"],
        }
    }
}

fn install(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// What `runc spec` writes, without its terminal and its cgroup mount (a dozen mounts on a cgroup v1
/// host that a hello has no use for).
fn config(rootfs: &Path, args: &[&str]) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/tmp",
                "LC_ALL=C",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": rootfs, "readonly": true },
        "hostname": "bench",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": [
                    "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
                ],
            },
            {
                "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            },
            {
                "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"],
            },
            {
                "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_what_it_was_given() {
        let container = Container::new("x", Path::new("/root"), &["/hello"])
            .with_volume(Path::new("/data"), "/volume")
            .with_tmp()
            .with_resources(2, 1 << 30)
            .with_network(Path::new("/net"));

        let config = &container.config;
        let linux = &config["linux"];
        assert_eq!(config["process"]["args"], json!(["/hello"]));
        assert_eq!(linux["resources"]["cpu"], json!({ "quota": 200_000, "period": 100_000 }));
        let namespaces = linux["namespaces"].as_array().expect("there are namespaces");
        let networks: Vec<_> = namespaces.iter().filter(|one| one["type"] == "network").collect();
        assert_eq!(networks, [&json!({ "type": "network", "path": "/net" })]);
        let mounts = config["mounts"].as_array().expect("there are mounts");
        let destinations: Vec<_> = mounts.iter().map(|mount| &mount["destination"]).collect();
        assert_eq!(destinations[destinations.len() - 2..], ["/volume", "/tmp"]);
    }
}
