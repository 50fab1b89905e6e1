// SPDX-License-Identifier: Apache-2.0
//! `trine policy`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

/// What to do with a policy.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check a policy file
    Check(PolicyCheckArgs),
    /// Say what a policy does about a call, and which rule decides
    Explain(PolicyExplainArgs),
}

/// `trine policy check`.
#[derive(Args, Debug)]
pub(crate) struct PolicyCheckArgs {
    /// The policy file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `trine policy explain`.
#[derive(Args, Debug)]
pub(crate) struct PolicyExplainArgs {
    /// Path of the file, in the container
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Address of the socket
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) address: Option<SocketAddr>,
    /// DNS name that the address was resolved from
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Vec<String>,
    /// Id of the container
    #[arg(long, value_name = "ID", default_value = "")]
    pub(crate) container: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The policy file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The call: a Linux name, or read or write for openat
    #[arg(value_name = "CALL")]
    pub(crate) call: String,
}
