// SPDX-License-Identifier: Apache-2.0
//! The policy file: TOML, checked whole; every fault names the line.

use std::net::SocketAddr;

use serde::Deserialize;
use toml::Spanned;

use crate::{address::Range, call, errno, glob::Glob, presets};

/// Version of the format.
const VERSION: u32 = 1;
/// Longest file, in bytes.
const FILE_MAX: usize = 1 << 20;
/// Most rules.
const RULES_MAX: usize = 10_000;

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct PolicyError {
    /// The file's name, as it was given.
    pub file: String,
    /// Line, from 1 on.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// What happens to calls that no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Default {
    /// They are made.
    #[default]
    Accept,
    /// They fail with EPERM.
    Block,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// The call is made.
    Accept,
    /// The call fails with this errno.
    Block(u16),
    /// A file call is made for this path instead; with `prefix`, this replaces the part of the path
    /// that the prefix is.
    RewritePath {
        /// What is replaced; empty: the whole path.
        prefix: String,
        /// What it is replaced by.
        to: String,
    },
    /// A socket call is made for this address instead.
    RewriteAddress(SocketAddr),
    /// The call is logged, and the next rules decide.
    Log,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name in the log.
    pub id: String,
    /// Its line in the file; 0 for a preset's.
    pub line: usize,
    /// Set of calls, a bit for each [`crate::CallKind`].
    pub(crate) calls: u32,
    pub(crate) paths: Vec<Glob>,
    pub(crate) addresses: Vec<Range>,
    pub(crate) ports: Vec<(u16, u16)>,
    pub(crate) names: Vec<String>,
    pub(crate) containers: Vec<String>,
    /// What it does.
    pub action: RuleAction,
    /// Whether the calls that it decides are logged.
    pub log: bool,
}

/// A policy that was checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// What happens to other calls.
    pub default: Default,
    /// Log every call, not only those that are blocked or that a rule logs.
    pub log_all: bool,
    /// Programs do not run from volumes.  The guest's kernel enforces this one.
    pub no_exec: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    version: Spanned<u32>,
    #[serde(default)]
    default: Default,
    #[serde(default)]
    log_all: bool,
    #[serde(default)]
    presets: Vec<Spanned<String>>,
    #[serde(default)]
    rule: Vec<Spanned<FileRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileRule {
    id: Option<String>,
    calls: Vec<Spanned<String>>,
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
    action: FileAction,
    errno: Option<Spanned<String>>,
    rewrite: Option<Spanned<Rewrite>>,
    #[serde(default)]
    log: bool,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum FileAction {
    Accept,
    Block,
    Intercept,
    Log,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    One(u16),
    Range(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Rewrite {
    path: Option<String>,
    prefix: Option<String>,
    address: Option<String>,
}

/// The file that is being read, for messages.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn refuse(&self, offset: usize, reason: impl Into<String>) -> PolicyError {
        PolicyError { file: self.name.to_owned(), line: self.line(offset), reason: reason.into() }
    }

    fn refuse_at<T>(&self, value: &Spanned<T>, reason: impl Into<String>) -> PolicyError {
        self.refuse(value.span().start, reason)
    }
}

impl Policy {
    /// Reads a policy; `name` is the file's, for messages.
    ///
    /// # Errors
    /// [`PolicyError`] with the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyError> {
        let source = Source { name, text };
        if text.len() > FILE_MAX {
            return Err(source.refuse(0, format!("the file is longer than {FILE_MAX} bytes")));
        }
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            source.refuse(at, error.message().to_owned())
        })?;
        if *file.version.get_ref() != VERSION {
            let reason = format!("version {} is not {VERSION}", file.version.get_ref());
            return Err(source.refuse_at(&file.version, reason));
        }
        if file.rule.len() > RULES_MAX {
            return Err(source.refuse(0, format!("there are more than {RULES_MAX} rules")));
        }
        let mut policy = Self {
            rules: Vec::new(),
            default: file.default,
            log_all: file.log_all,
            no_exec: false,
        };
        for (index, rule) in file.rule.iter().enumerate() {
            let made = compile(&source, index, rule)?;
            if policy.rules.iter().any(|known| known.id == made.id) {
                return Err(source.refuse_at(rule, format!("id {:?} is used twice", made.id)));
            }
            policy.rules.push(made);
        }
        for preset in &file.presets {
            if !presets::apply(preset.get_ref(), &mut policy) {
                let names = presets::NAMES.join(", ");
                let reason = format!("preset {:?} is not one of {names}", preset.get_ref());
                return Err(source.refuse_at(preset, reason));
            }
        }
        Ok(policy)
    }

    /// A policy that accepts everything.
    pub fn accept_all() -> Self {
        Self { rules: Vec::new(), default: Default::Accept, log_all: false, no_exec: false }
    }
}

fn compile(
    source: &Source<'_>,
    index: usize,
    spanned: &Spanned<FileRule>,
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
    Ok(Rule {
        id: rule.id.clone().unwrap_or_else(|| format!("rule-{}", index + 1)),
        line: source.line(spanned.span().start),
        calls,
        paths: paths.collect::<Result<_, _>>()?,
        addresses: addresses.collect::<Result<_, _>>()?,
        ports: ports.collect::<Result<_, _>>()?,
        names: names.collect::<Result<_, _>>()?,
        containers: rule.containers.clone(),
        action: action(source, spanned)?,
        log: rule.log || rule.action == FileAction::Log,
    })
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

fn action(source: &Source<'_>, spanned: &Spanned<FileRule>) -> Result<RuleAction, PolicyError> {
    let rule = spanned.get_ref();
    if let Some(errno) = rule.errno.as_ref().filter(|_| rule.action != FileAction::Block) {
        return Err(source.refuse_at(errno, "errno is for action = \"block\""));
    }
    if let Some(rewrite) = rule.rewrite.as_ref().filter(|_| rule.action != FileAction::Intercept) {
        return Err(source.refuse_at(rewrite, "rewrite is for action = \"intercept\""));
    }
    Ok(match rule.action {
        FileAction::Accept => RuleAction::Accept,
        FileAction::Log => RuleAction::Log,
        FileAction::Block => match &rule.errno {
            None => RuleAction::Block(1),
            Some(name) => RuleAction::Block(errno::number(name.get_ref()).ok_or_else(|| {
                let reason = format!("{:?} is not one of {}", name.get_ref(), errno::names());
                source.refuse_at(name, reason)
            })?),
        },
        FileAction::Intercept => {
            let Some(rewrite) = &rule.rewrite else {
                return Err(source.refuse_at(spanned, "action = \"intercept\" needs a rewrite"));
            };
            match rewrite.get_ref() {
                Rewrite { path: Some(to), prefix, address: None } => {
                    let prefix = prefix.clone().unwrap_or_default();
                    let is_absolute = |path: &str| path.starts_with('/');
                    if !is_absolute(to) || !(prefix.is_empty() || is_absolute(&prefix)) {
                        return Err(source.refuse_at(rewrite, "rewrite needs absolute paths"));
                    }
                    RuleAction::RewritePath { prefix, to: to.clone() }
                }
                Rewrite { path: None, prefix: None, address: Some(address) } => {
                    let parsed = address.parse().map_err(|_| {
                        let reason = format!("{address:?} is not ADDRESS:PORT");
                        source.refuse_at(rewrite, reason)
                    })?;
                    RuleAction::RewriteAddress(parsed)
                }
                _ => {
                    let reason = "rewrite has either a path (and prefix) or an address";
                    return Err(source.refuse_at(rewrite, reason));
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Policy::parse("p.toml", text).expect_err(text).to_string()
    }

    #[test]
    fn faults_name_file_line_and_reason() {
        let cases = [
            ("version = 2", "p.toml:1: version 2 is not 1"),
            ("version = 1\nfoo = 3", "p.toml:2: unknown field `foo`"),
            (
                "version = 1\npresets = [\n \"net-some\"]",
                "p.toml:3: preset \"net-some\" is not one of",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"ptrace\"]\naction = \"block\"",
                "p.toml:3: \"ptrace\" is no call and no group",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"file\"]\naction = \"block\"\nerrno = \"EWHAT\"",
                "p.toml:5: \"EWHAT\" is not one of EPERM",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"net\"]\naddresses = [\"10.0.0.1/8\"]\naction = \"block\"",
                "p.toml:4: \"10.0.0.1/8\" is no address",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"file\"]\npaths = [\"etc/*\"]\naction = \"block\"",
                "p.toml:4: pattern \"etc/*\" is not an absolute path",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"file\"]\naction = \"intercept\"",
                "p.toml:2: action = \"intercept\" needs a rewrite",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"net\"]\naction = \"accept\"\nerrno = \"EIO\"",
                "p.toml:5: errno is for action",
            ),
            (
                "version = 1\n[[rule]]\nid = \"a\"\ncalls = [\"net\"]\naction = \"accept\"\n\
                 [[rule]]\nid = \"a\"\ncalls = [\"net\"]\naction = \"accept\"",
                "p.toml:6: id \"a\" is used twice",
            ),
            ("version = 1\n[[rule]]\naction = \"accept\"", "missing field `calls`"),
            ("version = ", "p.toml:1: "),
        ];
        for (text, expected) in cases {
            let found = refusal(text);
            assert!(found.contains(expected), "{found:?} instead of {expected:?}");
        }
    }

    /// What the schema lists is what there is.
    #[test]
    fn schema_knows_every_word() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.schema.json");
        let text = std::fs::read_to_string(path).expect("the schema");
        let schema: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let words = |pointer: &str| -> Vec<String> {
            let list = schema.pointer(pointer).and_then(|list| list.as_array()).expect(pointer);
            let mut words: Vec<_> =
                list.iter().map(|word| word.as_str().expect(pointer).to_owned()).collect();
            words.sort();
            words
        };
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list.dedup();
            list
        };
        let kinds = crate::CallKind::ALL.iter().map(|kind| kind.name());
        let calls = kinds.chain(call::GROUPS.iter().copied()).map(str::to_owned).collect();
        assert_eq!(words("/$defs/rule/properties/calls/items/enum"), sorted(calls));
        let presets = presets::NAMES.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(words("/properties/presets/items/enum"), sorted(presets));
        let errnos = errno::names().split(", ").map(str::to_owned).collect();
        assert_eq!(words("/$defs/rule/properties/errno/enum"), sorted(errnos));
    }
}
