// SPDX-License-Identifier: Apache-2.0
//! Two network namespaces with a cable between them: what a container listens on in the one is
//! reached from the other, whatever kind of container it is.

use std::{
    cell::Cell,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};

use crate::session::Session;

/// Address of the end that the container has.
pub(crate) const INNER: &str = "10.77.0.2";
/// Address of the other end.
pub(crate) const OUTER: &str = "10.77.0.1";

/// Makes the namespaces `$1` and `$2`; `$3` and `$4` are their addresses.
const LAY: &str = "\
    : > $1; : > $2; unshare --net=$1 true; unshare --net=$2 true; \
    nsenter --net=$2 ip link add eth0 type veth peer name eth0 netns $1; \
    for side in $1=$3 $2=$4; do \
      nsenter --net=${side%=*} sh -ec \"ip link set lo up; ip addr add ${side#*=}/24 dev eth0; \
        ip link set eth0 up\"; \
    done; \
    nsenter --net=$1 ip route add default via $4";

/// The namespaces.  They go, with what was started in them here, when this is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    pod: PathBuf,
    outside: PathBuf,
    log: File,
    processes: Vec<Child>,
}

/// An end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The container's namespace.
    Pod,
    /// The other one.
    Outside,
}

impl Wire {
    /// Makes namespaces that nothing else has been in.
    ///
    /// # Errors
    /// If the host has no such devices, or lacks `ip`.
    pub(crate) fn lay(session: &Session) -> Result<Self> {
        thread_local! {
            static LAID: Cell<u32> = const { Cell::new(0) };
        }
        let number = LAID.get();
        LAID.set(number + 1);
        let directory = session.scratch.directory("wires")?;
        let log = File::create(directory.join("log")).context("cannot make a log")?;
        let (pod, outside) =
            (directory.join(format!("pod-{number}")), directory.join(format!("out-{number}")));
        let wire = Self { pod, outside, log, processes: vec![] };
        let mut lay = Command::new("sh");
        lay.args(["-ec", LAY, "lay"]).args([&wire.pod, &wire.outside]).args([INNER, OUTER]);
        let laid = session.runner.succeed(&mut lay);
        laid.context("cannot make network namespaces (Debian packages iproute2, util-linux)")?;
        Ok(wire)
    }

    /// The namespace of the container.
    pub(crate) fn pod(&self) -> &Path {
        &self.pod
    }

    /// A command in one of the namespaces.
    pub(crate) fn command(&self, end: End, program: &Path) -> Command {
        let namespace = match end {
            End::Pod => &self.pod,
            End::Outside => &self.outside,
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.display())).arg("--").arg(program);
        command
    }

    /// Starts something that keeps running as long as this is there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn spawn(&mut self, session: &Session, command: &mut Command) -> Result<()> {
        self.processes.push(session.runner.spawn(command, &self.log)?);
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself, and been collected.
            let _ = process.kill();
            let _ = process.wait();
        }
        for namespace in [&self.pod, &self.outside] {
            if unmount(namespace, UnmountFlags::DETACH).is_ok() {
                let _ = std::fs::remove_file(namespace);
            }
        }
    }
}
