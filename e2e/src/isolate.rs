// SPDX-License-Identifier: Apache-2.0
//! Runs a part of the harness in mount and pid namespaces of its own.
//!
//! There `/run` and Trine's other folders are empty and private, every process is one that the test
//! started, and all end with the first one: a leak check sees nothing that is not the test's, tests
//! of two source trees can run at once, and an interrupted test leaves nothing behind.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::census;

/// Names the working folder to the process inside.
const FOLDER: &str = "TRINE_E2E_FOLDER";

/// `$1` is a folder on disk for what Trine keeps; the rest is the command.  The shell stays, as the
/// first process of the namespace, because it reaps orphans.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /var/lib/trine
mount --bind "$1" /var/lib/trine
if [ -d /etc/trine ]; then mount -t tmpfs -o mode=755 tmpfs /etc/trine; fi
shift
set +e
"$@"
exit $?
"#;

/// Runs this program again with other arguments, isolated; says whether it succeeded.
pub(crate) fn run(arguments: &[&str]) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("containerd and mounts need root: run this as root");
    }
    let folder = tempfile::Builder::new().prefix("trine-e2e.").tempdir()?;
    let state = folder.path().join("trine");
    fs::create_dir(&state)?;
    let program = env::current_exe().context("find this program")?;
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .args(["sh", "-c", SCRIPT, "isolate"])
        .arg(&state)
        .arg(program)
        .args(arguments)
        .env(FOLDER, folder.path())
        .stdin(Stdio::null())
        .status()
        .context("run unshare (Debian package util-linux)")?;
    census::remove_cgroups(&name_of(folder.path()))?;
    folder.close().context("remove the working folder")?;
    Ok(status.success())
}

/// Returns the working folder, inside.
pub(crate) fn folder() -> Result<std::path::PathBuf> {
    env::var_os(FOLDER).map(Into::into).context("not in namespaces of its own")
}

/// Returns a name that nothing else on this host has: containerd's namespace, and so the folder of
/// the cgroups of its containers.
pub(crate) fn name_of(folder: &Path) -> String {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("trine-e2e");
    name.replace('.', "-").to_lowercase()
}
