// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::{interleave::Plan, system::System};

/// Compares Trine with runc and gVisor, side by side in one run: start times, memory, what operations
/// and programs cost inside a container, volumes and network.
///
/// Needs root, and Trine built beforehand (`make build`). Prints a table; writes results.json and
/// chart.svg. Everything that it starts and mounts is gone when it ends.
#[derive(Clone, Debug, Parser)]
#[command(name = "trine-bench", max_term_width = 100)]
pub(crate) struct Args {
    /// Only see whether everything runs: few repetitions, numbers that mean nothing
    #[arg(long)]
    pub(crate) quick: bool,
    /// Exit with status 1 if a target that must be met is missed
    #[arg(long, conflicts_with = "quick")]
    pub(crate) check: bool,
    /// Repetitions of each measurement, after the warm-ups [default: 40, with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) runs: Option<u32>,
    /// Where results.json and chart.svg go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub(crate) out: PathBuf,
    /// Systems to compare
    #[arg(
        long,
        value_name = "SYSTEM,...",
        value_delimiter = ',',
        default_values_t = System::ALL,
        value_enum
    )]
    pub(crate) systems: Vec<System>,
    /// What to measure
    #[arg(
        long,
        value_name = "WHAT,...",
        value_delimiter = ',',
        default_values_t = Subject::ALL,
        value_enum
    )]
    pub(crate) only: Vec<Subject>,
    /// The `trine` to measure [default: the one beside this program, else the one in PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) trine: Option<PathBuf>,
    /// The `runsc` to measure [default: Debian trixie's package, downloaded once into --out]
    #[arg(long, value_name = "FILE")]
    pub(crate) runsc: Option<PathBuf>,
    /// Download nothing
    #[arg(long)]
    pub(crate) offline: bool,
    /// The root file system of Debian's programs, as `trine-e2e bench-root` makes it
    #[arg(long, value_name = "DIR", default_value = "target/e2e/rootfs/bench")]
    pub(crate) programs: PathBuf,
    /// Put images, root file systems and state on the file system of this directory [default: a
    /// tmpfs of its own, so that the disk is not what is measured]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// A static hello through each command line.
    Hello,
    /// A static hello through containerd.
    Ctr,
    /// Where the time of a start goes.
    Stages,
    /// Memory of idle containers.
    Memory,
    /// Loops inside a container.
    Micro,
    /// Starts of python3 and node.
    Start,
    /// Compilers, hashes and Python, and what a second processor brings.
    Compute,
    /// Time of the processors that an idle container takes.
    Idle,
    /// Single calls that the host answers.
    Forward,
    /// Files on volumes.
    Volumes,
    /// Servers in containers.
    Network,
    /// The guest kernel's size.
    Size,
}

impl Subject {
    pub(crate) const ALL: [Self; 12] = [
        Self::Hello,
        Self::Ctr,
        Self::Stages,
        Self::Memory,
        Self::Micro,
        Self::Start,
        Self::Compute,
        Self::Idle,
        Self::Forward,
        Self::Volumes,
        Self::Network,
        Self::Size,
    ];
}

impl std::fmt::Display for Subject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Hello => "hello",
            Self::Ctr => "ctr",
            Self::Stages => "stages",
            Self::Memory => "memory",
            Self::Micro => "micro",
            Self::Start => "start",
            Self::Compute => "compute",
            Self::Idle => "idle",
            Self::Forward => "forward",
            Self::Volumes => "volumes",
            Self::Network => "network",
            Self::Size => "size",
        })
    }
}

impl Args {
    /// How often start times are measured.
    pub(crate) fn plan(&self) -> Plan {
        let (warmups, runs) = if self.quick { (1, 3) } else { (5, 40) };
        Plan { warmups, runs: self.runs.unwrap_or(runs) }
    }
}
