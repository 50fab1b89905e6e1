// SPDX-License-Identifier: Apache-2.0
//! `policy diff`.

use anyhow::Result;
use serde_json::{Value, json};
use trine_policy::diff::{self, Difference, Outcome};

use super::load;
use crate::{args::PolicyDiffArgs, output};

/// `trine policy diff`.
///
/// # Errors
/// What is wrong with one of the files.
pub(super) fn diff(arguments: &PolicyDiffArgs) -> Result<u8> {
    let found = diff::difference(&load(&arguments.before)?, &load(&arguments.after)?);
    if arguments.json {
        output::print_json(&as_json(&found))?;
    } else {
        output::print(&as_text(&found))?;
    }
    Ok(u8::from(!found.is_empty()))
}

fn as_json(found: &Difference) -> Value {
    let outcome = |outcome: &Outcome| json!({ "action": outcome.action, "rule": outcome.rule });
    let rules = found.rules.iter().map(|rule| {
        let line = (rule.line > 0).then_some(rule.line);
        json!({ "id": rule.id, "change": rule.change.word(), "line": line })
    });
    let calls = found.calls.iter().map(|call| {
        json!({
            "call": call.call.name(),
            "before": outcome(&call.before),
            "after": outcome(&call.after),
            "example": call.example,
            "examples": call.count,
        })
    });
    json!({
        "settings": found.settings,
        "rules": rules.collect::<Vec<_>>(),
        "calls": calls.collect::<Vec<_>>(),
    })
}

fn as_text(found: &Difference) -> String {
    let mut text = String::new();
    for setting in &found.settings {
        text.push_str(&format!("setting {setting}: changed\n"));
    }
    for rule in &found.rules {
        let line = if rule.line > 0 { format!(" (line {})", rule.line) } else { String::new() };
        text.push_str(&format!("rule {:?}: {}{line}\n", rule.id, rule.change.word()));
    }
    let by = |outcome: &Outcome| match &outcome.rule {
        Some(rule) => format!("{} by {rule:?}", outcome.action),
        None => format!("{} by default", outcome.action),
    };
    for call in &found.calls {
        let example = if call.example.is_empty() { "" } else { " " };
        text.push_str(&format!(
            "call {}{example}{}: {} -> {}\n",
            call.call.name(),
            call.example,
            by(&call.before),
            by(&call.after)
        ));
    }
    if text.is_empty() {
        text.push_str("no difference\n");
    }
    text
}
