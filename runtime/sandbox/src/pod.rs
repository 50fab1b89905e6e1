// SPDX-License-Identifier: Apache-2.0
//! A pod: the I/O process and the containers that share it.

use std::{path::PathBuf, sync::Arc};

use crate::{Container, ContainerSpec, Error};

/// How a pod is set up.
#[derive(Clone, Debug, Default)]
pub struct PodOptions {
    /// Name, for process titles and logs.
    pub name: String,
    /// Network namespace of the I/O process; `None` = a fresh one with loopback only.
    pub network_namespace: Option<PathBuf>,
    /// Where `trine-vmm`, `trine-io` and `trine-kernel` lie; `None` = `TRINE_LIBEXEC`, beside the
    /// running program, `../libexec/trine` from it, or `/usr/local/libexec/trine`.
    pub libexec: Option<PathBuf>,
    /// Cgroup of the I/O process, as in [`crate::Limits::cgroup`].
    pub cgroup: Option<String>,
    /// Where VMM and I/O process write their logs; `None` = discarded.
    pub log: Option<PathBuf>,
}

/// A pod.  Dropping the last reference ends its processes.
#[derive(Debug)]
pub struct Pod {}

impl Pod {
    /// Starts the I/O process.
    ///
    /// # Errors
    /// If a program is missing or does not start.
    pub fn create(_options: PodOptions) -> Result<Arc<Self>, Error> {
        todo!()
    }

    /// Process id of the I/O process.
    pub fn io_pid(&self) -> u32 {
        todo!()
    }

    /// Makes the VM, boots it and loads the container's program, which does not run yet.
    ///
    /// # Errors
    /// With everything undone.
    pub fn create_container(
        self: &Arc<Self>,
        _spec: ContainerSpec,
    ) -> Result<Arc<Container>, Error> {
        todo!()
    }

    /// Ends the I/O process (every container must be gone).
    ///
    /// # Errors
    /// If a container is left.
    pub fn stop(&self) -> Result<(), Error> {
        todo!()
    }

    /// Waits until the I/O process has ended, for whatever reason.
    pub fn wait(&self) {
        todo!()
    }
}
