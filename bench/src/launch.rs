// SPDX-License-Identifier: Apache-2.0
//! The command lines of the runtimes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{scratch::Scratch, system::System, tools::Tools};

/// runsc takes a namespace in which this file exists for the host's own, and refuses to touch its
/// interfaces; on newer kernels (6.18 is one) all namespaces have it.
const HIDE_ROOT_SYSCTLS: &str = "[ ! -e /proc/sys/net/core/rmem_default ] || mount -t tmpfs tmpfs /proc/sys/net; \
     exec \"$@\"";

/// How one runtime is told what to do.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    system: System,
    program: PathBuf,
    state: PathBuf,
    images: PathBuf,
    has_network: bool,
    policy: Option<PathBuf>,
}

impl Launcher {
    /// Prepares a runtime, with state of its own; the reason if it is not there.
    ///
    /// # Errors
    /// If directories cannot be made.
    pub(crate) fn make(
        system: System,
        tools: &Tools,
        scratch: &Scratch,
    ) -> Result<Result<Self, String>> {
        let program = match tools.of(system) {
            Ok(program) => program,
            Err(reason) => return Ok(Err(reason)),
        };
        let state = scratch.directory(&format!("state/{system}"))?;
        let images = scratch.directory("images")?;
        Ok(Ok(Self { system, program, state, images, has_network: false, policy: None }))
    }

    /// The same for bundles that name a network namespace.
    pub(crate) fn with_network(self) -> Self {
        Self { has_network: true, ..self }
    }

    /// The same with a policy: ours only.
    pub(crate) fn with_policy(self, policy: &Path) -> Self {
        Self { policy: Some(policy.to_owned()), ..self }
    }

    /// Runs a bundle to its end.
    pub(crate) fn run(&self, bundle: &Path, id: &str) -> Command {
        let mut command = self.command();
        command.arg("run");
        if let Some(policy) = &self.policy {
            command.arg("--policy").arg(policy);
        }
        command.arg(bundle_flag(self.system)).arg(bundle).arg(id);
        command
    }

    /// Makes an image of a root file system and names it: ours only.
    pub(crate) fn build_image(&self, rootfs: &Path, name: &str) -> Command {
        let mut command = self.command();
        command.args(["image", "build", "--tag", name]).arg(rootfs);
        command
    }

    /// Runs a bundle and returns when it runs.
    pub(crate) fn run_detached(&self, bundle: &Path, id: &str) -> Command {
        let detach = if self.system == System::Runsc { "-detach" } else { "--detach" };
        let mut command = self.command();
        command.args(["run", detach, bundle_flag(self.system)]).arg(bundle).arg(id);
        command
    }

    /// Runs a command in a root file system or an image with a name, without a bundle: ours only.
    pub(crate) fn run_rootfs(&self, rootfs: &Path, json: Option<&Path>, args: &[&str]) -> Command {
        let mut command = self.command();
        command.arg("run");
        if let Some(file) = json {
            command.arg(format!("--json={}", file.display()));
        }
        command.arg(rootfs).arg("--").args(args);
        command
    }

    /// Deletes a container, running or not.
    pub(crate) fn delete(&self, id: &str) -> Command {
        let force = if self.system == System::Runsc { "-force" } else { "--force" };
        let mut command = self.command();
        command.args(["delete", force, id]);
        command
    }

    fn command(&self) -> Command {
        let mut command = if self.system == System::Runsc && self.has_network {
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "--", "sh", "-ec", HIDE_ROOT_SYSCTLS, "runsc"]);
            unshare.arg(&self.program);
            unshare
        } else {
            Command::new(&self.program)
        };
        command.arg("--root").arg(&self.state);
        match self.system {
            // Its sandbox cannot use cgroups in hybrid mode, and its own network stack takes over
            // the interfaces that it finds in its namespace.
            System::Runsc => {
                let network = if self.has_network { "sandbox" } else { "none" };
                command.args(["--network", network, "--ignore-cgroups"]);
            }
            System::Trine => {
                command.arg("--images").arg(&self.images);
            }
            System::Plain | System::Runc => {}
        }
        command
    }
}

/// The launcher of a system that was asked for: none for plain processes, or why it is not there.
///
/// # Errors
/// The reason.
pub(crate) fn of(
    launchers: &[(System, Result<Launcher, String>)],
    system: System,
) -> Result<Option<&Launcher>, String> {
    match launchers.iter().find(|(one, _)| *one == system) {
        Some((_, launcher)) => launcher.as_ref().map(Some).map_err(Clone::clone),
        None => Ok(None),
    }
}

fn bundle_flag(system: System) -> &'static str {
    if system == System::Runsc { "-bundle" } else { "--bundle" }
}
