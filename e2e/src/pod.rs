// SPDX-License-Identifier: Apache-2.0
//! Network namespaces of pods, as a container network would make them.

use std::process::{self, Command};

use anyhow::{Context as _, Result};

use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::BUSYBOX,
};

/// A network namespace with an interface whose other end is on the host.
#[derive(Debug)]
pub(crate) struct Pod {
    name: String,
    number: u8,
}

impl Pod {
    /// Makes it; pods of one process have different numbers.
    pub(crate) fn new(number: u8) -> Result<Self> {
        let pod = Self { name: format!("te{}x{number}", process::id() % 100_000), number };
        let name = &pod.name;
        let (inner, outer) = (pod.inner(), pod.outer());
        for line in [
            format!("netns add {name}"),
            format!("link add {name} type veth peer name eth0 netns {name}"),
            format!("addr add {outer}/24 dev {name}"),
            format!("link set {name} up"),
            format!("-n {name} addr add {inner}/24 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} route add default via {outer}"),
        ] {
            command::must(Command::new("ip").args(line.split(' ')), PATIENCE)
                .context("make a network namespace (Debian package iproute2)")?;
        }
        Ok(pod)
    }

    /// The address in the namespace.
    pub(crate) fn inner(&self) -> String {
        format!("10.231.{}.2", self.number)
    }

    /// The address of the host's end.
    pub(crate) fn outer(&self) -> String {
        format!("10.231.{}.1", self.number)
    }

    /// A `ctr run` of a script in the namespace.
    pub(crate) fn run(&self, bed: &Bed, flags: &[&str], script: &str) -> Command {
        let namespace = format!("network:/run/netns/{}", self.name);
        let mut flags = flags.to_vec();
        flags.extend(["--with-ns", &namespace]);
        bed.ctr_run(&flags, BUSYBOX, &bed.id("pod"), &["/bin/sh", "-c", script])
    }

    /// Starts a script in the namespace and leaves it running; returns the container's id.
    pub(crate) fn detach(&self, bed: &Bed, script: &str) -> Result<String> {
        let mut run = self.run(bed, &["--detach", "--null-io"], script);
        // The id comes right before the command.
        let words: Vec<_> =
            run.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let id = words.len().checked_sub(4).and_then(|at| words.get(at)).cloned();
        command::must(&mut run, PATIENCE)?;
        id.context("the id among the arguments of ctr")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The interface goes with its other end.
        command::run(Command::new("ip").args(["link", "delete", &self.name])).ok();
        command::run(Command::new("ip").args(["netns", "delete", &self.name])).ok();
    }
}
