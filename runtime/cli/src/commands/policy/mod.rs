// SPDX-License-Identifier: Apache-2.0
//! `policy`.

mod diff;
mod learn;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use trine_policy::{Call, CallKind, Engine, Policy, diff::in_words};

use super::state;
use crate::{
    args::{PolicyCommand, PolicyExplainArgs, PolicyReloadArgs},
    context::Context,
    control::Request,
    output,
};

/// `trine policy`.
///
/// # Errors
/// What is wrong with the file, with its line.
pub(crate) fn policy(context: &Context, command: &PolicyCommand) -> Result<u8> {
    match command {
        PolicyCommand::Check(arguments) => {
            let policy = load(&arguments.file)?;
            let rules = policy.rules.len();
            output::print(&format!("{}: good, {rules} rules\n", arguments.file.display()))?;
        }
        PolicyCommand::Explain(arguments) => explain(arguments)?,
        PolicyCommand::Learn(arguments) => return learn::learn(context, arguments),
        PolicyCommand::Diff(arguments) => return diff::diff(arguments),
        PolicyCommand::Reload(arguments) => reload(context, arguments)?,
    }
    Ok(0)
}

fn reload(context: &Context, arguments: &PolicyReloadArgs) -> Result<()> {
    let file = arguments.file.as_ref().map(std::path::absolute).transpose();
    let file = file.context("cannot use the path of the policy")?;
    let request = Request::ReloadPolicy { file };
    state::ask(context, &arguments.id, "reload the policy of", &request)
}

fn load(file: &Path) -> Result<Policy> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Policy::parse(&file.display().to_string(), &text)?)
}

fn kind(word: &str) -> Result<CallKind> {
    let found = match word {
        "read" | "openat" | "openat-read" => Some(CallKind::OpenRead),
        "write" | "openat-write" => Some(CallKind::OpenWrite),
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
    let rule = decision.rule.and_then(|id| policy.rules.iter().find(|rule| rule.id == id));
    let line = rule.map_or(0, |rule| rule.line);
    let action = in_words(&policy, &decision.action);
    let limit = rule.and_then(|rule| rule.limit).map(|limit| limit.to_string());
    let delay_ms = rule.map_or(0, |rule| rule.delay.as_millis());
    if arguments.json {
        return output::print_json(&json!({
            "call": call.kind.name(),
            "action": action,
            "rule": decision.rule,
            "line": (line > 0).then_some(line),
            "logged": decision.log,
            "limit": limit,
            "delay_ms": delay_ms,
        }));
    }
    let by = match (decision.rule, line) {
        (None, _) => "the default".to_owned(),
        (Some(rule), 0) => format!("rule {rule:?}"),
        (Some(rule), line) => format!("rule {rule:?} at {}:{line}", arguments.file.display()),
    };
    let mut more = limit.map_or(String::new(), |limit| format!(", within {limit}"));
    if delay_ms > 0 {
        more.push_str(&format!(", after {delay_ms} ms"));
    }
    if decision.log {
        more.push_str(", logged");
    }
    output::print(&format!("{}: {action}, by {by}{more}\n", call.kind.name()))
}
