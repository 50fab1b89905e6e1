// SPDX-License-Identifier: Apache-2.0
//! `spec`: a config.json to start from.

use std::{fs::File, io::ErrorKind, io::Write as _};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::OCI_VERSION;
use crate::args::SpecArgs;

/// `trine spec`.
///
/// # Errors
/// If there is a config.json already, or it cannot be written.
pub(crate) fn spec(arguments: &SpecArgs) -> Result<()> {
    let path = arguments.bundle.join("config.json");
    let text = serde_json::to_string_pretty(&template(arguments.rootless))?;
    let mut file = match File::create_new(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists: remove it first", path.display())
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    };
    writeln!(file, "{text}").with_context(|| format!("cannot write {}", path.display()))
}

/// The same container as runc's template, less what a VM has no use for: device rules (the guest has
/// its own devices), and masked paths (its /proc and /sys show nothing of the host).
fn template(is_rootless: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut linux = json!({
        "namespaces": [
            {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
            {"type": "mount"}, {"type": "cgroup"},
        ],
    });
    if !is_rootless {
        // Becomes the memory of the VM.
        linux["resources"] = json!({"memory": {"limit": 256 << 20}});
    }
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "trine",
        "mounts": mounts(),
        "linux": linux,
    })
}

fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
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
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;
    use tempfile::TempDir;
    use trine::oci::{self, Defaults};

    use super::*;
    use crate::{args::Cli, bundle, context::Context};

    #[test]
    fn template_is_a_spec_that_trine_accepts_without_a_warning() {
        let cli = Cli::try_parse_from(["trine", "list"]).expect("parses");
        let context = Context::new(&cli.global).expect("no log to open");
        for is_rootless in [false, true] {
            let text = serde_json::to_vec(&template(is_rootless)).expect("json");
            let mut spec = oci::parse_spec(&text, Path::new("config.json")).expect("a spec");
            bundle::settle_cgroup(&context, &mut spec, "c1").expect("settled");
            let made = oci::container(
                &spec,
                Path::new("/"),
                &Defaults { host_memory_bytes: 1 << 30, ..Defaults::default() },
            );
            let made = made.expect("accepted");
            assert_eq!(made.warnings, [""; 0]);
            assert_eq!(made.limits.memory_bytes, 256 << 20);
            assert_eq!(made.process.args, [b"sh".to_vec()]);
            assert_eq!(made.limits.cgroup.is_some(), !is_rootless);
        }
    }

    #[test]
    fn spec_never_replaces_a_file() {
        let scratch = TempDir::new().expect("scratch directory");
        let arguments = SpecArgs { bundle: scratch.path().to_owned(), rootless: false };
        spec(&arguments).expect("written");
        let error = spec(&arguments).expect_err("exists").to_string();
        assert!(error.contains("config.json exists"), "{error}");
    }
}
