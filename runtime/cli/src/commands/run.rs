// SPDX-License-Identifier: Apache-2.0
//! `run`: from arguments to a plan, then in the foreground or detached.

use std::{env, fs::File, io::Write as _, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{create, foreground};
use crate::{
    args::RunArgs,
    bundle,
    context::Context,
    control::{Client, Request},
    embedded::{self, Source},
    failure,
    images::Images,
    output,
    plan::Plan,
    target::{self, Target},
    values,
};

/// `trine run`.
///
/// # Errors
/// With nothing left behind.
pub(crate) fn run(context: &Context, arguments: &RunArgs) -> Result<u8> {
    let begun_ns = values::monotonic_ns();
    let Some(path) = &arguments.json else {
        return execute(context, arguments, begun_ns).map(|ended| ended.code);
    };
    let result = execute(context, arguments, begun_ns);
    let report = match &result {
        Ok(ended) => ended.report(),
        Err(error) => json!({
            "exit_code": failure::exit_code(error, failure::TRINE_FAILED),
            "reason": "error",
            "error": failure::one_line(error),
        }),
    };
    write_report(path, &report)?;
    result.map(|ended| ended.code)
}

fn execute(context: &Context, arguments: &RunArgs, begun_ns: u64) -> Result<foreground::Ended> {
    create::check_flags(&arguments.create)?;
    if !arguments.detach
        && let Some(socket) = &arguments.create.console_socket
    {
        bail!("--console-socket {} needs --detach: add it", socket.display());
    }
    let mut plan = plan(context, arguments)?;
    create::set_policy(&mut plan, &arguments.create)?;
    let planned_ns = values::monotonic_ns();
    plan.outline.record.is_ephemeral = !arguments.keep && !arguments.detach;
    if arguments.detach {
        return detach(context, plan, arguments);
    }
    let options = foreground::Options {
        timeout_seconds: arguments.timeout,
        keep: arguments.keep,
        pid_file: arguments.create.pid_file.as_deref(),
        begun_ns,
        planned_ns,
    };
    foreground::run(context, plan, options)
}

fn detach(context: &Context, plan: Plan, arguments: &RunArgs) -> Result<foreground::Ended> {
    let id = plan.outline.record.id.clone();
    let directory = create::detached(context, plan, &arguments.create)?;
    let client = Client::connect(&directory)?.context("the supervisor ended")?;
    if let Err(error) = client.ask(&Request::Start) {
        client.ask(&Request::Delete { force: true })?;
        client.wait_closed()?;
        return Err(error);
    }
    if arguments.bundle.is_none() && arguments.embedded.name.is_none() {
        output::print(&format!("{id}\n"))?;
    }
    Ok(foreground::Ended::detached(id))
}

fn plan(context: &Context, arguments: &RunArgs) -> Result<Plan> {
    let here = env::current_dir().context("cannot tell the working directory")?;
    let mut found = None;
    let images = Images::open(&context.images);
    let is_image = |name: &str| {
        // A cache that cannot be opened has no images; if one is needed, that is said below.
        if let Ok(images) = &images {
            found = images.find(name)?;
        }
        Ok(found.is_some())
    };
    let (target, command) = target::decide(arguments, &here, is_image)?;
    let (name, directory, image) = match target {
        Target::Bundle { bundle, id } => return bundle::load(context, &bundle, &id),
        Target::Image(name) => (name, None, found.context("the image vanished")?),
        Target::Archive(path) => {
            let image = images?.import(&path, None)?;
            (path.display().to_string(), None, image)
        }
        Target::Directory(path) => {
            let image = images?.of_directory(&path)?;
            (path.display().to_string(), Some(path), image)
        }
    };
    let source = Source { name: &name, directory: directory.as_deref() };
    embedded::plan(context, &arguments.embedded, source, image, command)
}

fn write_report(path: &Path, report: &Value) -> Result<()> {
    let line = format!("{report}\n");
    let written = if path == Path::new("-") {
        std::io::stderr().write_all(line.as_bytes())
    } else {
        File::create(path).and_then(|mut file| file.write_all(line.as_bytes()))
    };
    written.with_context(|| format!("cannot write the result to {}", path.display()))
}
