// SPDX-License-Identifier: Apache-2.0
//! `trine run`, in both of its forms.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use super::CreateFlags;

/// `trine run`, in both of its forms.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Run the OCI bundle in this directory; the argument is then the container's id
    #[arg(short, long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) create: CreateFlags,
    /// Do not wait for the container
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep the state of the container after it has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Accepted as in runc; orphans of a VM are its kernel's
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
    /// Give up and kill the VM after this many seconds (exit status 124)
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds, conflicts_with = "detach")]
    pub(crate) timeout: Option<u64>,
    /// Write the result as JSON to FILE, or as the last line of stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// Image or root file system and the command to run in it, or the id of a bundle's container;
    /// everything after the first belongs to the command
    #[arg(
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        value_names = ["IMAGE|ROOTFS|ID", "CMD"]
    )]
    pub(crate) target: Vec<OsString>,
    // Last, for its heading holds for all that comes after it.
    #[command(flatten)]
    pub(crate) embedded: EmbeddedFlags,
}

/// Flags that only make sense without a bundle, whose config.json says these things.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Without a bundle")]
pub(crate) struct EmbeddedFlags {
    /// Id of the container [default: a random one]
    #[arg(long, value_name = "ID")]
    pub(crate) name: Option<String>,
    /// Memory of the VM, with unit k, m or g [default: 256m]
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// vCPUs of the VM [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// Show a directory or file of the host in the container; options are ro, noexec, nosuid
    #[arg(short, long, value_name = "SOURCE:DESTINATION[:OPTIONS]")]
    pub(crate) volume: Vec<String>,
    /// Set a variable; NAME alone takes the caller's
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Read variables from a file, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User and group, by number or, for a ROOTFS directory, by name
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Host name in the container [default: the id]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Accepted as in docker; standard input is always connected
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Run this program instead of the image's entry point; "" removes the entry point
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Let nothing write to the root file system
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Accepted as in docker; the container is always deleted when it ends
    #[arg(long)]
    pub(crate) rm: bool,
}

impl EmbeddedFlags {
    /// Returns the first flag that was given, if any.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.name.is_some(), "--name"),
            (self.memory.is_some(), "--memory"),
            (self.cpus.is_some(), "--cpus"),
            (!self.volume.is_empty(), "--volume"),
            (!self.env.is_empty(), "--env"),
            (!self.env_file.is_empty(), "--env-file"),
            (self.workdir.is_some(), "--workdir"),
            (self.user.is_some(), "--user"),
            (self.hostname.is_some(), "--hostname"),
            (self.tty, "--tty"),
            (self.interactive, "--interactive"),
            (self.entrypoint.is_some(), "--entrypoint"),
            (self.read_only, "--read-only"),
            (self.rm, "--rm"),
        ];
        given.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }
}

fn positive_seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number of seconds, 1 or more".to_owned()),
        Ok(seconds) => Ok(seconds),
    }
}
