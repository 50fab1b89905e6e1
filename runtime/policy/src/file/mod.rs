// SPDX-License-Identifier: Apache-2.0
//! The policy file: TOML, checked whole; every fault names the line.

mod action;
mod rule;

use std::{collections::HashSet, time::Duration};

use serde::Deserialize;
use toml::Spanned;

use self::rule::{FileRule, compile};
use crate::{
    call, presets,
    rule::{Ask, Rule, RuleAction, Target},
};

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
    /// Who may be asked by rules.
    pub targets: Vec<Target>,
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
        let mut policy =
            Self { default: file.default, log_all: file.log_all, ..Self::accept_all() };
        let mut ids = HashSet::new();
        for (index, rule) in file.rule.iter().enumerate() {
            let made = compile(&source, index, rule, &mut policy.targets)?;
            if !ids.insert(made.id.clone()) {
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
        Self {
            rules: Vec::new(),
            default: Default::Accept,
            log_all: false,
            no_exec: false,
            targets: Vec::new(),
        }
    }

    /// Reads a policy that is to narrow another one: its rules accept, block and log, and nothing
    /// else.  Presets of `presets` come after those of the text.  `prefix` begins the ids of its
    /// rules, so that the log tells them from the pod's.
    ///
    /// # Errors
    /// [`PolicyError`] with the line, also for rules that do more.
    pub fn narrowing(
        name: &str,
        prefix: &str,
        text: &str,
        presets: &[String],
    ) -> Result<Self, PolicyError> {
        let refuse = |line, reason| PolicyError { file: name.to_owned(), line, reason };
        let text = if text.trim().is_empty() { "version = 1" } else { text };
        let mut policy = Self::parse(name, text)?;
        for rule in &policy.rules {
            let narrows =
                matches!(rule.action, RuleAction::Accept | RuleAction::Block(_) | RuleAction::Log);
            if !narrows {
                let reason = format!("rule {:?} intercepts, which narrows nothing", rule.id);
                return Err(refuse(rule.line, reason));
            }
        }
        for preset in presets {
            if !presets::apply(preset, &mut policy) {
                let names = presets::NAMES.join(", ");
                return Err(refuse(1, format!("preset {preset:?} is not one of {names}")));
            }
        }
        for rule in &mut policy.rules {
            rule.id.insert_str(0, prefix);
        }
        Ok(policy)
    }

    /// Puts a rule before all others: a function of this program decides about these calls, or
    /// groups of calls.  Without an answer in time the call fails with the errno `otherwise`.
    ///
    /// # Errors
    /// [`PolicyError`] if there are no such calls.
    pub fn intercept(
        &mut self,
        name: &str,
        calls: &[String],
        deadline: Duration,
        otherwise: u16,
    ) -> Result<(), PolicyError> {
        let refuse = |reason| PolicyError { file: name.to_owned(), line: 0, reason };
        let mut set = 0;
        for word in calls {
            set |= call::of_word(word)
                .ok_or_else(|| refuse(format!("{word:?} is no call and no group of calls")))?;
        }
        if set == 0 {
            return Err(refuse("it names no calls".to_owned()));
        }
        let target = self.target(Target::Interceptor(name.to_owned()));
        let ask = Ask { target, deadline, otherwise: Some(otherwise) };
        let rule = Rule::new(format!("interceptor:{name}"), set, RuleAction::Ask(ask));
        self.rules.insert(0, rule);
        Ok(())
    }

    fn target(&mut self, target: Target) -> usize {
        target_of(&mut self.targets, target)
    }
}

/// The index of a target, which is added if it is new.
fn target_of(targets: &mut Vec<Target>, target: Target) -> usize {
    targets.iter().position(|known| *known == target).unwrap_or_else(|| {
        targets.push(target);
        targets.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{errno, rule::FLAGS};

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
            (
                "version = 1\n[[rule]]\ncalls = [\"net\"]\naction = \"accept\"\nlimit = { calls = 0 }",
                "p.toml:5: limit has a budget of 0",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"unlinkat\"]\naction = \"accept\"\nlimit = { bytes = 1 }",
                "p.toml:5: limit in bytes is for calls that move bytes",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"openat\"]\naction = \"intercept\"\nadd-flags = [\"O_NOFOLLOW\"]",
                "p.toml:5: \"O_NOFOLLOW\" is not one of",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"connect\"]\naction = \"intercept\"\nresult = 0",
                "p.toml:5: connect cannot have its result pinned to 0",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"net\"]\naction = \"intercept\"\nask = { socket = \"x\" }",
                "p.toml:5: ask needs an absolute path of a socket",
            ),
            (
                "version = 1\n[[rule]]\ncalls = [\"net\"]\naction = \"accept\"\ndelay-ms = 60001",
                "p.toml:5: delay-ms is over 60000",
            ),
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
        assert_eq!(words("/$defs/errno/enum"), sorted(errnos));
        let flags = FLAGS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(words("/$defs/rule/properties/add-flags/items/enum"), sorted(flags));
    }

    #[test]
    fn narrowing_policies_only_accept_block_and_log() {
        let rules = "version = 1\n[[rule]]\nid = \"a\"\ncalls = [\"openat\"]\n";
        let narrow = |rest: &str| Policy::narrowing("n", "pod:", &format!("{rules}{rest}"), &[]);
        for refused in [
            "action = \"intercept\"\nrewrite = { path = \"/etc\" }",
            "action = \"intercept\"\nadd-flags = [\"O_SYNC\"]",
            "action = \"intercept\"\nask = { socket = \"/run/x\" }",
        ] {
            let error = narrow(refused).expect_err(refused).to_string();
            assert!(error.starts_with("n:2: rule \"a\" intercepts"), "{error}");
        }
        let policy = narrow("action = \"block\"").expect("a policy");
        assert_eq!(policy.rules[0].id, "pod:a");
        let of_preset = Policy::narrowing("n", "pod:", "", &["net-none".into()]).expect("one");
        assert_eq!(of_preset.rules[0].id, "pod:preset:net-none");
        assert!(Policy::narrowing("n", "", "", &["net-som".into()]).is_err());
    }
}
