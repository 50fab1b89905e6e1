// SPDX-License-Identifier: Apache-2.0
//! What a rule of the file does.

use std::{path::Path, time::Duration};

use serde::Deserialize;
use toml::Spanned;

use super::{PolicyError, Source, rule::FileRule, target_of};
use crate::{
    CallKind, errno,
    rule::{Ask, FLAGS, Pin, RuleAction, Target},
};

/// Longest time that an answer may take, in milliseconds.
const DEADLINE_MAX: u64 = 60_000;
/// Time that an answer may take if the rule does not say, in milliseconds.
const DEADLINE: u64 = 1000;
/// Longest pinned result, in bytes.
const RESULT_MAX: usize = 4095;

/// The name of an errno.
pub(super) type Errno = Spanned<String>;

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FileAction {
    Accept,
    Block,
    Intercept,
    Log,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Rewrite {
    path: Option<String>,
    prefix: Option<String>,
    address: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Value {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FileAsk {
    socket: Option<String>,
    interceptor: Option<String>,
    deadline_ms: Option<u64>,
    otherwise: Option<Otherwise>,
    errno: Option<Errno>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Otherwise {
    Accept,
    Block,
}

/// The number of an errno that was given, or of another.
pub(super) fn number(
    source: &Source<'_>,
    given: Option<&Errno>,
    otherwise: &str,
) -> Result<u16, PolicyError> {
    let Some(name) = given else { return Ok(errno::number(otherwise).unwrap_or(1)) };
    errno::number(name.get_ref()).ok_or_else(|| {
        let reason = format!("{:?} is not one of {}", name.get_ref(), errno::names());
        source.refuse_at(name, reason)
    })
}

/// The calls of a set that are not of a kind, by name; none if all are.
fn others(calls: u32, is_one_fn: impl Fn(CallKind) -> bool) -> Option<&'static str> {
    let of_set = CallKind::ALL.iter().filter(|kind| calls & 1 << **kind as u32 != 0);
    of_set.copied().find(|kind| !is_one_fn(*kind)).map(CallKind::name)
}

pub(super) fn action(
    source: &Source<'_>,
    spanned: &Spanned<FileRule>,
    calls: u32,
    targets: &mut Vec<Target>,
) -> Result<RuleAction, PolicyError> {
    let rule = spanned.get_ref();
    if let Some(errno) = rule.errno.as_ref().filter(|_| rule.action != FileAction::Block) {
        return Err(source.refuse_at(errno, "errno is for action = \"block\""));
    }
    let given = [
        ("rewrite", rule.rewrite.as_ref().map(Spanned::span)),
        ("add-flags", rule.add_flags.as_ref().map(Spanned::span)),
        ("result", rule.result.as_ref().map(Spanned::span)),
        ("ask", rule.ask.as_ref().map(Spanned::span)),
    ];
    let mut given = given.into_iter().filter_map(|(name, span)| Some((name, span?)));
    let first = given.next();
    if let (Some((name, span)), false) = (&first, rule.action == FileAction::Intercept) {
        let reason = format!("{name} is for action = \"intercept\"");
        return Err(source.refuse(span.start, reason));
    }
    if let (Some((first, _)), Some((name, span))) = (&first, given.next()) {
        let reason = format!("a rule has one of {first} and {name}");
        return Err(source.refuse(span.start, reason));
    }
    match rule.action {
        FileAction::Accept => return Ok(RuleAction::Accept),
        FileAction::Log => return Ok(RuleAction::Log),
        FileAction::Block => {
            return number(source, rule.errno.as_ref(), "EPERM").map(RuleAction::Block);
        }
        FileAction::Intercept => {}
    }
    if let Some(given) = &rule.rewrite {
        rewrite(source, given)
    } else if let Some(given) = &rule.add_flags {
        flags(source, given, calls)
    } else if let Some(given) = &rule.result {
        pin(source, given, calls)
    } else if let Some(given) = &rule.ask {
        ask(source, given, targets)
    } else {
        let reason = "action = \"intercept\" needs a rewrite, add-flags, a result or ask";
        Err(source.refuse_at(spanned, reason))
    }
}

fn rewrite(source: &Source<'_>, given: &Spanned<Rewrite>) -> Result<RuleAction, PolicyError> {
    let refuse = |reason: String| Err(source.refuse_at(given, reason));
    match given.get_ref() {
        Rewrite { path: Some(to), prefix, address: None } => {
            let prefix = prefix.clone().unwrap_or_default();
            let is_absolute = |path: &str| path.starts_with('/');
            if !is_absolute(to) || !(prefix.is_empty() || is_absolute(&prefix)) {
                return refuse("rewrite needs absolute paths".to_owned());
            }
            Ok(RuleAction::RewritePath { prefix, to: to.clone() })
        }
        Rewrite { path: None, prefix: None, address: Some(address) } => match address.parse() {
            Ok(address) => Ok(RuleAction::RewriteAddress(address)),
            Err(_) => refuse(format!("{address:?} is not ADDRESS:PORT")),
        },
        _ => refuse("rewrite has either a path (and prefix) or an address".to_owned()),
    }
}

fn flags(
    source: &Source<'_>,
    given: &Spanned<Vec<Spanned<String>>>,
    calls: u32,
) -> Result<RuleAction, PolicyError> {
    let opens = |kind| matches!(kind, CallKind::OpenRead | CallKind::OpenWrite);
    if let Some(other) = others(calls, opens) {
        return Err(source.refuse_at(given, format!("{other} has no flags to add to")));
    }
    let mut set = 0;
    for name in given.get_ref() {
        let Some((_, flag)) = FLAGS.iter().find(|(known, _)| known == name.get_ref()) else {
            let names: Vec<_> = FLAGS.iter().map(|(name, _)| *name).collect();
            let reason = format!("{:?} is not one of {}", name.get_ref(), names.join(", "));
            return Err(source.refuse_at(name, reason));
        };
        set |= flag;
    }
    if set == 0 {
        return Err(source.refuse_at(given, "add-flags is empty"));
    }
    Ok(RuleAction::AddFlags(set))
}

fn pin(source: &Source<'_>, given: &Spanned<Value>, calls: u32) -> Result<RuleAction, PolicyError> {
    let refuse = |reason: String| Err(source.refuse_at(given, reason));
    match given.get_ref() {
        Value::Number(0) => match others(calls, CallKind::can_be_pinned) {
            Some(other) => refuse(format!("{other} cannot have its result pinned to 0")),
            None => Ok(RuleAction::Pin(Pin::Done)),
        },
        Value::Number(_) => refuse("result is 0 or a text".to_owned()),
        Value::Text(text) if text.is_empty() || text.len() > RESULT_MAX => {
            refuse(format!("result has not 1 to {RESULT_MAX} bytes"))
        }
        Value::Text(text) => match others(calls, CallKind::has_bytes) {
            Some(other) => refuse(format!("{other} has no text as its result")),
            None => Ok(RuleAction::Pin(Pin::Bytes(text.as_bytes().to_vec()))),
        },
    }
}

fn ask(
    source: &Source<'_>,
    spanned: &Spanned<FileAsk>,
    targets: &mut Vec<Target>,
) -> Result<RuleAction, PolicyError> {
    let given = spanned.get_ref();
    let refuse = |reason: &str| Err(source.refuse_at(spanned, reason));
    let target = match (&given.socket, &given.interceptor) {
        (Some(path), None) if Path::new(path).is_absolute() && path.len() < 108 => {
            Target::Socket(path.into())
        }
        (Some(_), None) => {
            return refuse("ask needs an absolute path of a socket, below 108 bytes");
        }
        (None, Some(name)) if !name.is_empty() => Target::Interceptor(name.clone()),
        _ => return refuse("ask has either a socket or an interceptor"),
    };
    let deadline = given.deadline_ms.unwrap_or(DEADLINE);
    if !(1..=DEADLINE_MAX).contains(&deadline) {
        return refuse("ask has a deadline-ms that is not between 1 and 60000");
    }
    let otherwise = match (given.otherwise, &given.errno) {
        (Some(Otherwise::Accept), Some(errno)) => {
            return Err(source.refuse_at(errno, "errno is for otherwise = \"block\""));
        }
        (Some(Otherwise::Accept), None) => None,
        (_, errno) => Some(number(source, errno.as_ref(), "EPERM")?),
    };
    let target = target_of(targets, target);
    Ok(RuleAction::Ask(Ask { target, deadline: Duration::from_millis(deadline), otherwise }))
}
