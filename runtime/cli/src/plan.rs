// SPDX-License-Identifier: Apache-2.0
//! Everything that is needed to create a container, wherever it was said.

use std::{fs::File, path::PathBuf};

use serde::{Deserialize, Serialize};
use trine::{
    ContainerSpec, Landlock, Limits, PodOptions, Stdio, SystemCalls, Volume,
    policy::{Narrowing, Source},
};
use trine_abi::control::{Config, Process};

use crate::store::Record;

/// A container to create.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The part that is plain data.
    pub(crate) outline: Outline,
    /// Root file system image.
    pub(crate) image: File,
    /// What the container is like.
    pub(crate) config: Config,
    /// Its first process.
    pub(crate) process: Process,
}

/// The part of a [`Plan`] that travels to a supervisor as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outline {
    /// What will be on disk.
    pub(crate) record: Record,
    /// Network namespace of the I/O process; `None` = loopback only.
    pub(crate) network_namespace: Option<PathBuf>,
    /// Host cgroup of the VM.
    pub(crate) cgroup: Option<String>,
    /// OCI `linux.resources` for it, as JSON.
    pub(crate) resources: Option<String>,
    /// Volumes of the container.
    pub(crate) volumes: Vec<Volume>,
    /// The policy file.
    pub(crate) policy: Option<PathBuf>,
    /// What narrows it.
    pub(crate) narrowing: Option<Narrowing>,
    /// Where the policy's log goes.
    pub(crate) audit: Option<PathBuf>,
    /// Whether VMM and I/O process confine themselves with Landlock.
    pub(crate) landlock: Landlock,
    /// How programs enter their VM's kernel.
    pub(crate) system_calls: SystemCalls,
    /// The log is of all calls, each once.
    pub(crate) records_calls: bool,
    /// Where VMM and I/O process log.
    pub(crate) log: Option<PathBuf>,
}

impl Plan {
    /// How the pod is set up: each container of the command line has one of its own.
    pub(crate) fn pod_options(&self) -> PodOptions {
        PodOptions {
            name: self.outline.record.id.clone(),
            network_namespace: self.outline.network_namespace.clone(),
            libexec: None,
            // The VM's cgroup must be empty when the VM is deleted: the I/O process stays outside.
            cgroup: None,
            log: self.outline.log.clone(),
            policy: self.outline.policy.clone().map(Source::File),
            narrowing: self.outline.narrowing.clone(),
            audit: self.outline.audit.clone(),
            landlock: self.outline.landlock,
            system_calls: self.outline.system_calls,
            record: self.outline.records_calls,
            interceptors: Vec::new(),
        }
    }

    /// How the container is set up.
    pub(crate) fn container_spec(self, stdio: Stdio) -> ContainerSpec {
        let Self { outline, image, config, process } = self;
        ContainerSpec {
            id: outline.record.id,
            image,
            config,
            volumes: outline.volumes,
            process,
            stdio,
            limits: Limits {
                memory_bytes: outline.record.memory_bytes,
                vcpus: outline.record.vcpus,
                cgroup: outline.cgroup,
                resources: outline.resources,
            },
            // The pod has no other container.
            narrowing: None,
        }
    }
}
