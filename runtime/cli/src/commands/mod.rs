// SPDX-License-Identifier: Apache-2.0
//! The commands, one family a file.

mod check;
mod create;
mod delete;
mod exec;
mod features;
mod foreground;
mod image;
mod list;
mod policy;
mod ps;
mod run;
mod snapshot;
mod spec;
mod state;
mod streams;
mod vms;

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{
    args::{Cli, Command, CompletionShell},
    context::Context,
    doctor, failure, output, supervise,
};

/// Version of the OCI runtime specification.
pub(crate) const OCI_VERSION: &str = "1.2.1";

/// Runs a command; returns the exit status.
///
/// # Errors
/// Why it failed.
pub(crate) fn dispatch(context: &Context, command: Command) -> Result<u8> {
    match command {
        Command::Run(arguments) => return run::run(context, &arguments),
        Command::Exec(arguments) => return exec::exec(context, &arguments),
        Command::Policy(command) => return policy::policy(context, &command),
        Command::Check(arguments) => return check::check(context, &arguments),
        Command::Doctor(arguments) => return doctor::doctor(context, &arguments),
        Command::Create(arguments) => create::create(context, &arguments)?,
        Command::Start(arguments) => state::start(context, &arguments.id)?,
        Command::State(arguments) => state::state(context, &arguments.id)?,
        Command::Kill(arguments) => state::kill(context, &arguments)?,
        Command::Pause(arguments) => state::pause(context, &arguments.id)?,
        Command::Resume(arguments) => state::resume(context, &arguments.id)?,
        Command::Update(arguments) => state::update(context, &arguments)?,
        Command::Delete(arguments) => delete::delete(context, &arguments)?,
        Command::List(arguments) => list::list(context, &arguments)?,
        Command::Ps(arguments) => ps::ps(context, &arguments)?,
        Command::Spec(arguments) => spec::spec(&arguments)?,
        Command::Features => features::features()?,
        Command::Image(command) => image::image(context, &command)?,
        Command::Completion(arguments) => complete(arguments.shell)?,
        Command::Supervise(_) => supervise::run()?,
    }
    Ok(0)
}

/// Exit status of a command when trine itself fails.
pub(crate) fn failure_code(command: &Command) -> u8 {
    let is_own = matches!(command, Command::Run(_) | Command::Check(_));
    if is_own { failure::TRINE_FAILED } else { 1 }
}

/// Prints the version, in the lines that runc's callers look for.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn version() -> Result<()> {
    output::print(&format!("trine version {}\nspec: {OCI_VERSION}\n", env!("CARGO_PKG_VERSION")))
}

fn complete(shell: CompletionShell) -> Result<()> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "trine", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
