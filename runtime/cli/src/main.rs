// SPDX-License-Identifier: Apache-2.0
//! `trine`: run containers, each in a micro-VM of its own, from the command line.
//!
//! - [`args`] says what can be said, [`commands`] does it.
//! - `run` in the foreground holds its container in this process; for `create` a [`supervise`]d
//!   process does. Either serves a [`control`] socket in the container's directory of the [`store`].
//! - A [`plan`] is a container to create: from a [`bundle`], or from flags and an image
//!   ([`embedded`]).
#![forbid(unsafe_code)]

mod args;
mod bundle;
mod commands;
mod context;
mod control;
mod doctor;
mod embedded;
mod failure;
mod held;
mod images;
mod log;
mod output;
mod plan;
mod remains;
mod signals;
mod store;
mod supervise;
mod target;
mod terminal;
mod usage;
mod values;

use std::{io::Write as _, process::ExitCode};

use anyhow::Error;

use crate::{args::Cli, context::Context};

fn main() -> ExitCode {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error),
    };
    ExitCode::from(run(cli))
}

fn run(cli: Cli) -> u8 {
    if cli.global.version {
        return commands::version().map_or_else(|error| fail(&error, 1), |()| 0);
    }
    let Some(command) = cli.command else {
        return usage::missing_command();
    };
    let failure_code = commands::failure_code(&command);
    let context = match Context::new(&cli.global) {
        Ok(context) => context,
        Err(error) => return fail(&error, failure_code),
    };
    commands::dispatch(&context, command).unwrap_or_else(|error| {
        context.log.error(&failure::one_line(&error));
        fail(&error, failure_code)
    })
}

fn fail(error: &Error, otherwise: u8) -> u8 {
    // If stderr is gone, the exit status has to do.
    let line = format!("trine: {}\n", failure::one_line(error));
    let _ = std::io::stderr().write_all(line.as_bytes());
    failure::exit_code(error, otherwise)
}
