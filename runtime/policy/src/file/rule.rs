// SPDX-License-Identifier: Apache-2.0
//! One rule of the file.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{
    PolicyError, Source,
    action::{Errno, FileAction, FileAsk, Rewrite, Value, action, number},
};
use crate::{
    CallKind,
    address::Range,
    call,
    glob::Glob,
    rule::{Limit, Over, Rule, Target},
};

/// Longest delay, in milliseconds.
const DELAY_MAX: u64 = 60_000;
/// Longest time in which a budget fills again, in seconds.
const SECONDS_MAX: u64 = 366 * 86_400;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FileRule {
    pub(super) id: Option<String>,
    pub(super) calls: Vec<Spanned<String>>,
    #[serde(default)]
    paths: Vec<Spanned<String>>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    #[serde(default)]
    ports: Vec<Spanned<Port>>,
    #[serde(default)]
    names: Vec<Spanned<String>>,
    #[serde(default)]
    containers: Vec<String>,
    pub(super) action: FileAction,
    pub(super) errno: Option<Errno>,
    pub(super) rewrite: Option<Spanned<Rewrite>>,
    pub(super) add_flags: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) result: Option<Spanned<Value>>,
    pub(super) ask: Option<Spanned<FileAsk>>,
    limit: Option<Spanned<FileLimit>>,
    delay_ms: Option<Spanned<u64>>,
    #[serde(default)]
    log: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    One(u16),
    Range(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileLimit {
    calls: Option<u64>,
    bytes: Option<u64>,
    seconds: Option<u64>,
    over: Option<FileOver>,
    errno: Option<Errno>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileOver {
    Block,
    Next,
}

/// Checks a rule; whom it asks is added to `targets`.
pub(super) fn compile(
    source: &Source<'_>,
    index: usize,
    spanned: &Spanned<FileRule>,
    targets: &mut Vec<Target>,
) -> Result<Rule, PolicyError> {
    let rule = spanned.get_ref();
    let mut calls = 0;
    for word in &rule.calls {
        calls |= call::of_word(word.get_ref()).ok_or_else(|| {
            let reason = format!("{:?} is no call and no group of calls", word.get_ref());
            source.refuse_at(word, reason)
        })?;
    }
    if calls == 0 {
        return Err(source.refuse_at(spanned, "calls is empty: the rule would match nothing"));
    }
    let paths = rule.paths.iter().map(|text| {
        Glob::new(text.get_ref()).map_err(|error| source.refuse_at(text, error.to_string()))
    });
    let addresses = rule.addresses.iter().map(|text| {
        Range::parse(text.get_ref()).map_err(|error| source.refuse_at(text, error.to_string()))
    });
    let ports = rule.ports.iter().map(|port| {
        ports(port.get_ref()).ok_or_else(|| {
            source.refuse_at(port, "a port is a number or a range such as \"8000-8999\"")
        })
    });
    let names = rule.names.iter().map(|name| {
        let text = name.get_ref();
        let is_good = !text.is_empty() && !text.contains(['/', ' ']);
        is_good
            .then(|| text.trim_end_matches('.').to_ascii_lowercase())
            .ok_or_else(|| source.refuse_at(name, format!("{text:?} is no DNS name")))
    });
    let id = rule.id.clone().unwrap_or_else(|| format!("rule-{}", index + 1));
    let made = Rule {
        line: source.line(spanned.span().start),
        paths: paths.collect::<Result<_, _>>()?,
        addresses: addresses.collect::<Result<_, _>>()?,
        ports: ports.collect::<Result<_, _>>()?,
        names: names.collect::<Result<_, _>>()?,
        containers: rule.containers.clone(),
        limit: rule.limit.as_ref().map(|given| limit(source, given, calls)).transpose()?,
        delay: rule.delay_ms.as_ref().map_or(Ok(Duration::ZERO), |given| delay(source, given))?,
        log: rule.log || rule.action == FileAction::Log,
        ..Rule::new(id, calls, action(source, spanned, calls, targets)?)
    };
    if rule.action == FileAction::Log && (made.limit.is_some() || !made.delay.is_zero()) {
        let reason = "action = \"log\" decides nothing that could be limited or delayed";
        return Err(source.refuse_at(spanned, reason));
    }
    Ok(made)
}

fn ports(port: &Port) -> Option<(u16, u16)> {
    match port {
        Port::One(port) => Some((*port, *port)),
        Port::Range(text) => {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some((first, last))
        }
    }
}

fn limit(
    source: &Source<'_>,
    spanned: &Spanned<FileLimit>,
    calls: u32,
) -> Result<Limit, PolicyError> {
    let given = spanned.get_ref();
    let refuse = |reason: &str| Err(source.refuse_at(spanned, reason));
    if given.calls.is_none() && given.bytes.is_none() {
        return refuse("limit has neither calls nor bytes");
    }
    if given.calls == Some(0) || given.bytes == Some(0) {
        return refuse("limit has a budget of 0: action = \"block\" says that");
    }
    if given.seconds.is_some_and(|seconds| seconds == 0 || seconds > SECONDS_MAX) {
        return refuse("limit has seconds that are not between 1 and a year");
    }
    let moves = |kind: &CallKind| calls & 1 << *kind as u32 != 0 && kind.moves_bytes();
    if given.bytes.is_some() && !CallKind::ALL.iter().any(moves) {
        return refuse(
            "limit in bytes is for calls that move bytes: openat, connect, sendto, accept4",
        );
    }
    Ok(Limit {
        calls: given.calls,
        bytes: given.bytes,
        seconds: given.seconds,
        over: match given.over {
            None | Some(FileOver::Block) => Over::Block,
            Some(FileOver::Next) => Over::Next,
        },
        errno: number(source, given.errno.as_ref(), "EDQUOT")?,
    })
}

fn delay(source: &Source<'_>, given: &Spanned<u64>) -> Result<Duration, PolicyError> {
    if *given.get_ref() > DELAY_MAX {
        return Err(source.refuse_at(given, format!("delay-ms is over {DELAY_MAX}")));
    }
    Ok(Duration::from_millis(*given.get_ref()))
}
