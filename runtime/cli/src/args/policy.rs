// SPDX-License-Identifier: Apache-2.0
//! `trine policy`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

/// What to do with a policy.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check a policy file
    Check(PolicyCheckArgs),
    /// Say what a policy does about a call, and which rule decides
    Explain(PolicyExplainArgs),
    /// Run a container without restrictions, and write the smallest policy that allows what it did
    ///
    /// Everything that it forwards to the host is allowed by the policy, as it was: these paths,
    /// addresses, names and ports, and nothing else. With --from, the calls come from audit logs
    /// instead (of a policy with `log-all = true`, or of another `learn`).
    Learn(PolicyLearnArgs),
    /// Say which rules differ, and which calls are decided differently
    ///
    /// The calls are examples made of what the rules speak of. Exit status 1 if anything differs.
    Diff(PolicyDiffArgs),
    /// Load the policy of a running container anew
    ///
    /// If it has a fault, the old one stays in force. What is open or connected stays so.
    Reload(PolicyReloadArgs),
}

/// `trine policy learn`.
#[derive(Args, Debug)]
pub(crate) struct PolicyLearnArgs {
    /// Write the policy here; with --from, standard output if not given
    #[arg(short, long, value_name = "FILE", required_unless_present = "from")]
    pub(crate) output: Option<PathBuf>,
    /// Learn from this audit log instead of running anything
    #[arg(long, value_name = "LOG", conflicts_with = "run")]
    pub(crate) from: Vec<PathBuf>,
    /// With --from: allow what was blocked, too
    #[arg(long, requires = "from")]
    pub(crate) denied: bool,
    /// Allow a whole directory if more than N of its files were used in the same way
    #[arg(long, value_name = "N")]
    pub(crate) wildcards: Option<usize>,
    /// Arguments of `trine run`: its flags, the image or root file system, and the command
    #[arg(
        value_name = "IMAGE|ROOTFS",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "from"
    )]
    pub(crate) run: Vec<OsString>,
}

/// `trine policy diff`.
#[derive(Args, Debug)]
pub(crate) struct PolicyDiffArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The policy file before
    #[arg(value_name = "BEFORE")]
    pub(crate) before: PathBuf,
    /// The policy file after
    #[arg(value_name = "AFTER")]
    pub(crate) after: PathBuf,
}

/// `trine policy reload`.
#[derive(Args, Debug)]
pub(crate) struct PolicyReloadArgs {
    /// Container id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Load it from this file from now on [default: the file that it was loaded from]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
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
