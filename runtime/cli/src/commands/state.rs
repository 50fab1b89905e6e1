// SPDX-License-Identifier: Apache-2.0
//! Commands that ask one thing of one container.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, bail};

use super::snapshot::Snapshot;
use crate::{
    args::{KillArgs, UpdateArgs},
    context::Context,
    control::{Client, Request},
    output, values,
};

/// `trine state`.
///
/// # Errors
/// If there is no such container.
pub(crate) fn state(context: &Context, id: &str) -> Result<()> {
    output::print_json(&Snapshot::of(context, id)?.oci_state())
}

/// `trine start`.
///
/// # Errors
/// If it does not start.
pub(crate) fn start(context: &Context, id: &str) -> Result<()> {
    ask(context, id, "start", &Request::Start)
}

/// `trine kill`.
///
/// # Errors
/// If there is no such signal or container, or it has stopped.
pub(crate) fn kill(context: &Context, arguments: &KillArgs) -> Result<()> {
    let signal = values::parse_signal(&arguments.signal)?;
    let request = Request::Kill { process: String::new(), signal, all: arguments.all };
    ask(context, &arguments.id, "signal", &request)
}

/// `trine pause`.
///
/// # Errors
/// If it does not run.
pub(crate) fn pause(context: &Context, id: &str) -> Result<()> {
    ask(context, id, "pause", &Request::Pause)
}

/// `trine resume`.
///
/// # Errors
/// If it is not paused.
pub(crate) fn resume(context: &Context, id: &str) -> Result<()> {
    ask(context, id, "resume", &Request::Resume)
}

/// `trine update`.
///
/// # Errors
/// If the limits cannot be read or applied.
pub(crate) fn update(context: &Context, arguments: &UpdateArgs) -> Result<()> {
    let path = &arguments.resources;
    let read = || match path == Path::new("-") {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(path),
    };
    let resources = read().with_context(|| format!("cannot read resources {}", path.display()))?;
    trine::oci::parse_resources(resources.as_bytes())
        .with_context(|| format!("in {}", path.display()))?;
    ask(context, &arguments.id, "update", &Request::Update { resources })
}

/// Asks the process that holds a container for something that is answered with "done".
///
/// # Errors
/// If nobody holds it, or it fails.
pub(super) fn ask(context: &Context, id: &str, action: &str, request: &Request) -> Result<()> {
    let directory = context.root.open(id)?;
    match Client::connect(&directory)? {
        Some(client) => client.ask(request),
        None => {
            bail!("cannot {action} container {id:?}: it is not running: `trine delete` removes it")
        }
    }
}
