// SPDX-License-Identifier: Apache-2.0
//! OCI bundles for the command line tool.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Returns a configuration that runs a command in a root file system.
pub(crate) fn config(rootfs: &Path, arguments: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": arguments,
            "env": ["PATH=/bin:/usr/bin"],
            "cwd": "/",
        },
        "root": { "path": rootfs },
        "hostname": "bundle",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        ],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }] },
    })
}

/// Makes a bundle with this text as its configuration.
pub(crate) fn write(folder: &Path, config: &str) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(folder.join("config.json"), config).context("write config.json")?;
    Ok(folder.to_owned())
}
