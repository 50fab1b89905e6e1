// SPDX-License-Identifier: Apache-2.0
//! The actions `-version` and `-info`: what this runtime is and can do.

use containerd_shim_protos::{
    protobuf::{Message, MessageField, well_known_types::any::Any},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};
use serde_json::json;

/// Name of the runtime in containerd.
pub const RUNTIME_NAME: &str = "io.containerd.trine.v1";
/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, where the build says so.
const REVISION: &str = match option_env!("TRINE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
/// Type of OCI runtime features in containerd.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Returns the text of `-version`.
pub fn version_text() -> String {
    format!("containerd-shim-trine-v1:\n  Version:  {VERSION}\n  Revision: {REVISION}\n")
}

/// Returns the encoded `RuntimeInfo` of `-info`.
pub fn runtime_info() -> Vec<u8> {
    let version = RuntimeVersion {
        version: VERSION.to_owned(),
        revision: REVISION.to_owned(),
        ..RuntimeVersion::default()
    };
    let features = Any {
        type_url: FEATURES_TYPE.to_owned(),
        value: features().to_string().into_bytes(),
        ..Any::default()
    };
    let info = RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        version: MessageField::some(version),
        features: MessageField::some(features),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes().expect("a message of short strings always encodes")
}

/// Returns the OCI features: what the translation of specs accepts, no more.
fn features() -> serde_json::Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": [],
        "mountOptions": [
            "bind", "mode", "nodev", "noexec", "nosuid", "rbind", "ro", "rprivate", "rslave", "rw",
            "size", "strictatime",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_X86_64"],
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } },
        },
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Features;

    use super::*;

    #[test]
    fn info_decodes_and_claims_no_more_than_there_is() {
        let info = RuntimeInfo::parse_from_bytes(&runtime_info()).unwrap();
        assert_eq!(info.name, "io.containerd.trine.v1");
        assert_eq!(info.version.version, VERSION);
        assert_eq!(info.features.type_url, FEATURES_TYPE);
        let features: Features = serde_json::from_slice(&info.features.value).unwrap();
        let linux = features.linux().as_ref().unwrap();
        let idmap = linux.mount_extensions().as_ref().unwrap().idmap().as_ref().unwrap();
        assert_eq!(idmap.enabled(), &Some(false));
        let names = linux.namespaces().as_ref().unwrap();
        assert!(!names.contains(&oci_spec::runtime::LinuxNamespaceType::User));
    }
}
