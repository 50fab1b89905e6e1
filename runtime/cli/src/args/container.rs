// SPDX-License-Identifier: Apache-2.0
//! Commands that name a container, or none.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// A command that takes an id and nothing else.
#[derive(Args, Debug)]
pub(crate) struct IdArgs {
    /// Container id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `trine kill`.
#[derive(Args, Debug)]
pub(crate) struct KillArgs {
    /// Send the signal to every process in the container
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Container id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Signal, by name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    pub(crate) signal: String,
}

/// `trine delete`.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Kill the container if it runs; no error if there is none
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Container id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Formats of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// `trine list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `trine ps`.
#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
    /// Container id: show its VM and the processes inside. Without one: every Trine VM of this
    /// host, also containerd's
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
}

/// `trine update`.
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// File with the OCI `linux.resources` JSON; - reads it from stdin
    #[arg(short, long, value_name = "FILE", required = true)]
    pub(crate) resources: PathBuf,
    /// Container id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `trine spec`.
#[derive(Args, Debug)]
pub(crate) struct SpecArgs {
    /// The bundle: where config.json is written
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Ask for nothing that only root may give (no cgroup)
    #[arg(long)]
    pub(crate) rootless: bool,
}
