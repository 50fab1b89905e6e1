// SPDX-License-Identifier: Apache-2.0
//! `policy`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use trine_policy::{Action, Call, CallKind, Engine, Policy};

use crate::{
    args::{PolicyCommand, PolicyExplainArgs},
    output,
};

/// `trine policy`.
///
/// # Errors
/// What is wrong with the file, with its line.
pub(crate) fn policy(command: &PolicyCommand) -> Result<()> {
    match command {
        PolicyCommand::Check(arguments) => {
            let policy = load(&arguments.file)?;
            let rules = policy.rules.len();
            output::print(&format!("{}: good, {rules} rules\n", arguments.file.display()))
        }
        PolicyCommand::Explain(arguments) => explain(arguments),
    }
}

fn load(file: &Path) -> Result<Policy> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Policy::parse(&file.display().to_string(), &text)?)
}

fn kind(word: &str) -> Result<CallKind> {
    let found = match word {
        "read" | "openat" => Some(CallKind::OpenRead),
        "write" => Some(CallKind::OpenWrite),
        word => CallKind::ALL.iter().copied().find(|kind| kind.name() == word),
    };
    let names = || CallKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    match found {
        Some(kind) => Ok(kind),
        None => bail!("{word:?} is no call: give read, write, or one of {}", names()),
    }
}

fn explain(arguments: &PolicyExplainArgs) -> Result<()> {
    let policy = load(&arguments.file)?;
    let engine = Engine::new(&policy);
    let call = Call {
        path: arguments.path.as_deref().map(str::as_bytes),
        address: arguments.address,
        names: &arguments.name,
        ..Call::new(kind(&arguments.call)?, &arguments.container)
    };
    let decision = engine.decide(&call);
    let line = decision
        .rule
        .and_then(|id| policy.rules.iter().find(|rule| rule.id == id))
        .map_or(0, |rule| rule.line);
    let action = match &decision.action {
        Action::Accept => "accept".to_owned(),
        Action::Block(errno) => {
            format!("block with {}", std::io::Error::from_raw_os_error(i32::from(*errno)))
        }
        Action::RewritePath(path) => format!("intercept: {}", String::from_utf8_lossy(path)),
        Action::RewriteAddress(address) => format!("intercept: {address}"),
    };
    if arguments.json {
        return output::print_json(&json!({
            "call": call.kind.name(),
            "action": action,
            "rule": decision.rule,
            "line": (line > 0).then_some(line),
            "logged": decision.log,
        }));
    }
    let by = match (decision.rule, line) {
        (None, _) => "the default".to_owned(),
        (Some(rule), 0) => format!("rule {rule:?}"),
        (Some(rule), line) => format!("rule {rule:?} at {}:{line}", arguments.file.display()),
    };
    let log = if decision.log { ", logged" } else { "" };
    output::print(&format!("{}: {action}, by {by}{log}\n", call.kind.name()))
}
