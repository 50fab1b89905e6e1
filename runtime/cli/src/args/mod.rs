// SPDX-License-Identifier: Apache-2.0
//! The command line: what can be said, and the help that says so.

mod check;
mod container;
mod image;
mod policy;
mod process;
mod run;
#[cfg(test)]
mod tests;

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::{
    check::CheckArgs,
    container::{DeleteArgs, IdArgs, KillArgs, ListArgs, ListFormat, PsArgs, SpecArgs, UpdateArgs},
    image::{ImageBuildArgs, ImageCommand, ImageListArgs, ImagePruneArgs, ImageRemoveArgs},
    policy::{PolicyCommand, PolicyDiffArgs, PolicyExplainArgs, PolicyLearnArgs, PolicyReloadArgs},
    process::{CreateArgs, CreateFlags, ExecArgs},
    run::{EmbeddedFlags, RunArgs},
};

/// Runs containers, each in a micro-VM of its own.
///
/// `trine run IMAGE CMD...` needs nothing else: no daemon, no containerd. The commands create,
/// start, state, kill, delete and exec are those of an OCI runtime, with runc's flags.
#[derive(Debug, Parser)]
#[command(
    name = "trine",
    disable_version_flag = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

impl Cli {
    /// Parses the command line of this process.
    ///
    /// # Errors
    /// What is wrong with it, or the help that was asked for.
    pub(crate) fn from_process() -> Result<Self, clap::Error> {
        let words: Vec<_> = std::env::args_os().collect();
        // A container starts in milliseconds: building what clap knows of all the other commands
        // would be a noticeable part of that.
        if words.iter().any(|word| word == "run")
            && let Ok(RunCli { global, command: RunCommand::Run(run) }) =
                RunCli::try_parse_from(&words)
            && !global.version
        {
            return Ok(Self { global, command: Some(Command::Run(run)) });
        }
        Self::try_parse_from(words)
    }
}

/// Parses what comes after `trine run`.
///
/// # Errors
/// What is wrong with it, or the help that was asked for.
pub(crate) fn parse_run(arguments: &[OsString]) -> Result<RunArgs, clap::Error> {
    let words = ["trine", "run"].map(OsString::from).into_iter().chain(arguments.iter().cloned());
    let RunCommand::Run(run) = RunCli::try_parse_from(words)?.command;
    Ok(*run)
}

/// A command line whose command is `run`.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true, disable_help_subcommand = true)]
struct RunCli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: RunCommand,
}

/// See [`Command::Run`].
#[derive(Debug, Subcommand)]
enum RunCommand {
    Run(Box<RunArgs>),
}

/// Flags before the command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Where the state of containers is kept [default: /run/trine, or trine in $XDG_RUNTIME_DIR
    /// for other users than root]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Append errors, and with --debug what is being done, to this file as well
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Format of the log file
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Log what is being done; VMM and I/O process log to the file of --log with .vm added
    #[arg(long)]
    pub(crate) debug: bool,
    /// Read cgroupsPath as systemd's SLICE:PREFIX:NAME
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Where images are kept [default: /var/lib/trine/images, or trine/images in the cache directory
    /// of other users than root]
    #[arg(long, value_name = "DIR")]
    pub(crate) images: Option<PathBuf>,
    /// Print the version of trine and of the OCI runtime spec
    #[arg(short = 'v', long, action = ArgAction::SetTrue)]
    pub(crate) version: bool,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// `time="..." level=... msg="..."`
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a new container and wait for it
    ///
    /// Two forms: `trine run [OPTIONS] IMAGE|ROOTFS [CMD...]` runs a command in an image, in an
    /// image archive or in a root file system directory; `trine run --bundle DIR ID` runs an OCI
    /// bundle, as runc does. The second is also taken when ./config.json exists and the only
    /// argument is neither a known image nor a path.
    ///
    /// Standard input is always connected. The container is deleted when it ends.
    ///
    /// Exit status: that of the command; 128 + n if signal n ended it; 124 after --timeout; 125 if
    /// trine failed; 126 if the command cannot be executed; 127 if it was not found; 2 for a wrong
    /// command line.
    Run(Box<RunArgs>),
    /// Create a container from a bundle; `start` then runs it
    Create(CreateArgs),
    /// Run what `create` loaded
    Start(IdArgs),
    /// Print the state of a container as OCI JSON
    State(IdArgs),
    /// Send a signal to a container
    Kill(KillArgs),
    /// Delete a container that has stopped
    Delete(DeleteArgs),
    /// Run another command in a running container
    Exec(Box<ExecArgs>),
    /// List the containers under --root
    List(ListArgs),
    /// Show VMs, and the processes inside one
    Ps(PsArgs),
    /// Stop the vCPUs of a container
    Pause(IdArgs),
    /// Let the vCPUs of a paused container run again
    Resume(IdArgs),
    /// Change the host resource limits of a container
    Update(UpdateArgs),
    /// Write a config.json to start from
    Spec(SpecArgs),
    /// Print what this runtime supports as OCI features JSON
    Features,
    /// Build, list and remove images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Say which system calls a program or an image needs that are not there
    ///
    /// Decodes the code of programs and of what they reach of their libraries, and finds the system
    /// calls in it. What cannot be known so: calls of code that is made or loaded at run time, and
    /// whether a program copes with the error that it gets. Places whose call could not be told are
    /// counted.
    ///
    /// Exit status: 0 if nothing is lacking; 1 if a system call is lacking, or a program would be
    /// refused at once (another architecture, an interpreter that is not there); 125 if the check
    /// failed; 2 for a wrong command line.
    Check(CheckArgs),
    /// Check, explain, learn and compare policies, and reload a container's
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Check this host, and say how to mend what is wrong
    Doctor(DoctorArgs),
    /// Print a shell completion script
    Completion(CompletionArgs),
    /// Hold one container (started by `create`; not for people)
    #[command(hide = true)]
    Supervise(IdArgs),
}

/// `trine doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `trine completion`.
#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: CompletionShell,
}

/// Shells that have completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}
