// SPDX-License-Identifier: Apache-2.0
//! What is kept of a container.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Owner;

/// Version of the format; another is refused.
pub(crate) const VERSION: u32 = 1;

/// The contents of `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// [`VERSION`], whatever it is before it is written.
    pub(crate) version: u32,
    /// The id.
    pub(crate) id: String,
    /// The process that holds the container.
    pub(crate) owner: Owner,
    /// The VMM; pid 0 until there is one.
    pub(crate) vmm: Owner,
    /// The bundle, or where `run` was called.
    pub(crate) bundle: PathBuf,
    /// The root file system directory or the name of the image.
    pub(crate) rootfs: String,
    /// When it was created, RFC 3339.
    pub(crate) created: String,
    /// Annotations of the OCI spec.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Memory of the VM.
    pub(crate) memory_bytes: u64,
    /// vCPUs of the VM.
    pub(crate) vcpus: u32,
    /// Cgroup directories that were made for it.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Whether nobody will delete it when its owner dies: the next command that comes by does.
    pub(crate) is_ephemeral: bool,
    /// Exit status, once it has ended and its owner with it (`run --keep`).
    pub(crate) exit_code: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as a running container has it, in the format that older processes wrote.
    const GOLDEN: &str = r#"{"version":1,"id":"c1","owner":{"pid":10,"startTicks":20},"vmm":{"pid":30,"startTicks":40},"bundle":"/b","rootfs":"/b/rootfs","created":"2026-01-02T03:04:05.000000006Z","annotations":{"k":"v"},"memoryBytes":268435456,"vcpus":1,"cgroups":["/sys/fs/cgroup/c1"],"isEphemeral":false,"exitCode":null}"#;

    #[test]
    fn record_reads_and_writes_the_golden_form() {
        let record: Record = serde_json::from_str(GOLDEN).expect("golden");
        assert_eq!(record.vmm, Owner { pid: 30, start_ticks: 40 });
        assert_eq!(serde_json::to_string(&record).expect("json"), GOLDEN);
    }
}
