// SPDX-License-Identifier: Apache-2.0
//! `features`: what this runtime supports, as the OCI runtime specification has it.

use anyhow::Result;
use serde_json::{Value, json};
use trine::oci::CAPABILITIES;

use super::OCI_VERSION;
use crate::output;

/// `trine features`.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn features() -> Result<()> {
    output::print_json(&document())
}

fn document() -> Value {
    let capabilities: Vec<_> = CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
    let off = || json!({"enabled": false});
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": [],
        "mountOptions": [
            "atime", "bind", "dev", "exec", "noatime", "nodev", "noexec", "nosuid", "rbind",
            "relatime", "ro", "rw", "strictatime", "suid",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "capabilities": capabilities,
            "cgroup": {
                "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false,
            },
            // The VM is the boundary: none of these is applied inside or around it.
            "seccomp": off(),
            "apparmor": off(),
            "selinux": off(),
            "intelRdt": off(),
            "mountExtensions": {"idmap": off()},
            "netDevices": off(),
        },
        "annotations": {
            "io.trine.version": env!("CARGO_PKG_VERSION"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_claims_neither_hooks_nor_seccomp() {
        let document = document();
        assert_eq!(document["hooks"], json!([]));
        assert_eq!(document["linux"]["seccomp"]["enabled"], json!(false));
        // CAP_LAST_CAP of Linux 5.9 and later is number 40.
        assert_eq!(document["linux"]["capabilities"][40], json!("CAP_CHECKPOINT_RESTORE"));
    }
}
