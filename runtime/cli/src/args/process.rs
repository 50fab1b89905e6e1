// SPDX-License-Identifier: Apache-2.0
//! `create` and `exec`, with runc's flags.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use trine::{Landlock, SystemCalls};

/// Flags that `create` and `run --bundle` share.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CreateFlags {
    /// Socket that receives the master of the container's terminal
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write the process id of the VMM to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Policy for what the container forwards to the host (files of volumes, sockets)
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Append what the policy blocks or logs to this file, one JSON object a line [default: the log
    /// of the VM with .audit added, if it has one]
    #[arg(long, value_name = "FILE", requires = "policy")]
    pub(crate) audit: Option<PathBuf>,
    /// Whether the container's processes on the host confine themselves with Landlock: required,
    /// best-effort or off
    #[arg(long, value_name = "MODE", default_value = "required")]
    pub(crate) landlock: Landlock,
    /// How programs enter their VM's kernel: direct (by a jump, where the image's builder could
    /// rewrite their code), or trap
    #[arg(long, value_name = "HOW", default_value = "direct")]
    pub(crate) system_calls: SystemCalls,
    /// The audit log is of all calls, each once; for `policy learn`.
    #[arg(skip)]
    pub(crate) records_calls: bool,
    /// Accepted as in runc; a VM has no pivot_root
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Accepted as in runc; a VM shares no keyring with the host
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Descriptors to pass on; only 0, as host descriptors cannot enter a VM
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
}

/// `trine create`.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// The bundle: the directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    #[command(flatten)]
    pub(crate) flags: CreateFlags,
    /// Id of the new container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `trine exec`.
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Do not wait for the command
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Take the process from an OCI process JSON file instead
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set a variable, as NAME=VALUE; NAME alone takes the caller's
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// User and group, as UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// Write the process id of the container's VMM to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Socket that receives the master of the command's terminal
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Descriptors to pass on; only 0, as host descriptors cannot enter a VM
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Container id and command; everything after the id belongs to the command
    #[arg(
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        value_names = ["ID", "CMD"]
    )]
    pub(crate) target: Vec<OsString>,
}
