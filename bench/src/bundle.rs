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
        for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
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
        let directory = scratch.directory(&format!("bundles/{name}"))?;
        let cgroup = format!("/{}/{name}", scratch.name());
        let file = directory.join("config.json");
        fs::write(&file, config(&self.path, &cgroup, args).to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(directory)
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
/// host that a hello has no use for), and with a cgroup under our own name.
fn config(rootfs: &Path, cgroup: &str, args: &[&str]) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
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
            "cgroupsPath": cgroup,
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
