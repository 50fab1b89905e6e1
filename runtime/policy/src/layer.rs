// SPDX-License-Identifier: Apache-2.0
//! One policy, compiled: which of its rules decides a call.

use std::{net::IpAddr, time::Duration};

use crate::{
    Call, CallKind, Policy, Rule, RuleAction,
    address::{canonical, canonical_to_bind},
    case::Verdict,
    engine::Action,
    file::Default,
    glob::matches_one,
    rule::{Ask, Limit, Over},
};

const EPERM: u16 = 1;

/// A compiled policy.
#[derive(Debug)]
pub struct Layer {
    rules: Vec<Rule>,
    /// For each kind of call, the rules that can match it, in order.
    by_kind: Vec<Vec<usize>>,
    default: Default,
    log_all: bool,
    no_exec: bool,
    uses_names: bool,
}

/// What a call runs into: rules that have more to them than a match.
pub(crate) trait Circumstances {
    /// Counts a call under the limit of a rule; false if it is over it.
    fn charge(&mut self, place: Place, rule: &Rule, limit: Limit, call: &Call<'_>) -> bool;

    /// Whether the delay of a rule is over.
    fn has_paused(&mut self, place: Place, rule: &Rule, call: &Call<'_>) -> bool;

    /// What somebody else said.
    fn verdict(&mut self, place: Place, rule: &Rule, ask: &Ask, call: &Call<'_>)
    -> Option<Verdict>;
}

/// Which rule of which layer.
pub(crate) type Place = (usize, usize);

/// What a layer says about a call.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// This, by a rule or the default.
    Action { action: Action, rule: Option<&'a Rule>, reason: Option<String> },
    /// Nothing yet, because of this rule.
    Waits(&'a Rule),
}

impl Layer {
    /// Compiles a policy.
    pub fn new(policy: &Policy) -> Self {
        let rules = policy.rules.clone();
        let of_kind = |kind: &CallKind| {
            let can = |(_, rule): &(usize, &Rule)| rule.covers(*kind);
            rules.iter().enumerate().filter(can).map(|(index, _)| index).collect()
        };
        Self {
            by_kind: CallKind::ALL.iter().map(of_kind).collect(),
            default: policy.default,
            log_all: policy.log_all,
            no_exec: policy.no_exec,
            uses_names: rules
                .iter()
                .any(|rule| !rule.names.is_empty() || matches!(rule.action, RuleAction::Ask(_))),
            rules,
        }
    }

    pub(crate) fn cares_about(&self, kind: CallKind) -> bool {
        self.log_all || self.default == Default::Block || !self.rules_for(kind).is_empty()
    }

    pub(crate) fn uses_names(&self) -> bool {
        self.uses_names
    }

    pub(crate) fn no_exec(&self) -> bool {
        self.no_exec
    }

    pub(crate) fn logs_all(&self) -> bool {
        self.log_all
    }

    pub(crate) fn has_rule(&self, id: &str) -> bool {
        self.rules.iter().any(|rule| rule.id == id)
    }

    fn rules_for(&self, kind: CallKind) -> &[usize] {
        self.by_kind.get(kind as usize).map_or(&[], Vec::as_slice)
    }

    /// Finds what decides a call; rules that log, and match before, are added to `logged_by`.
    pub(crate) fn find<'a>(
        &'a self,
        layer: usize,
        call: &Call<'_>,
        circumstances: &mut impl Circumstances,
        logged_by: &mut Vec<&'a str>,
    ) -> Found<'a> {
        let address = canonical_of(call);
        for &index in self.rules_for(call.kind) {
            let Some(rule) = self.rules.get(index) else { continue };
            let place = (layer, index);
            if !matches(rule, call, address) {
                continue;
            }
            let by = |action, reason| Found::Action { action, rule: Some(rule), reason };
            let rewritten = match &rule.action {
                RuleAction::RewritePath { prefix, to } => {
                    match rewrite(call.path.unwrap_or_default(), prefix, to) {
                        Some(path) => Some(path),
                        // The path is not below the prefix: the rule does not mean it.
                        None => continue,
                    }
                }
                _ => None,
            };
            if let Some(limit) = rule.limit
                && !circumstances.charge(place, rule, limit, call)
            {
                match limit.over {
                    Over::Next => continue,
                    Over::Block => {
                        return by(Action::Block(limit.errno), Some("over the limit".to_owned()));
                    }
                }
            }
            if rule.delay > Duration::ZERO && !circumstances.has_paused(place, rule, call) {
                return Found::Waits(rule);
            }
            let action = match &rule.action {
                RuleAction::Log => {
                    logged_by.push(&rule.id);
                    continue;
                }
                RuleAction::Accept => Action::Accept,
                RuleAction::Block(errno) => Action::Block(*errno),
                RuleAction::RewriteAddress(address) => Action::RewriteAddress(*address),
                RuleAction::AddFlags(flags) => Action::AddFlags(*flags),
                RuleAction::Pin(pin) => Action::Pin(pin.clone()),
                RuleAction::RewritePath { .. } => {
                    Action::RewritePath(rewritten.unwrap_or_default())
                }
                RuleAction::Ask(ask) => match circumstances.verdict(place, rule, ask, call) {
                    None => return Found::Waits(rule),
                    Some(Verdict::Next) => continue,
                    Some(verdict) => {
                        let (action, reason) = obey(verdict, call.kind, ask);
                        return by(action, reason);
                    }
                },
            };
            return by(action, None);
        }
        let action = match self.default {
            Default::Accept => Action::Accept,
            Default::Block => Action::Block(EPERM),
        };
        Found::Action { action, rule: None, reason: None }
    }
}

/// What a verdict comes to; one that makes no sense for the call is none.
fn obey(verdict: Verdict, kind: CallKind, ask: &Ask) -> (Action, Option<String>) {
    let reason = match verdict {
        Verdict::Accept => return (Action::Accept, None),
        Verdict::Block(errno) => return (Action::Block(errno.clamp(1, 133)), None),
        Verdict::RewritePath(path) if kind.can_rewrite_path() && path.starts_with(b"/") => {
            return (Action::RewritePath(path), None);
        }
        Verdict::RewriteAddress(address) if kind.can_rewrite_address() => {
            return (Action::RewriteAddress(address), None);
        }
        Verdict::RewritePath(_) | Verdict::RewriteAddress(_) => {
            "the answer rewrites what this call does not have".to_owned()
        }
        Verdict::Next => "the answer is none".to_owned(),
        Verdict::None(reason) => reason,
    };
    (ask.otherwise.map_or(Action::Accept, Action::Block), Some(reason))
}

/// The one form of a call's address, and its port.
fn canonical_of(call: &Call<'_>) -> Option<(IpAddr, u16)> {
    let address = call.address?;
    let ip = match call.kind {
        CallKind::Bind => canonical_to_bind(address.ip()),
        _ => canonical(address.ip()),
    };
    Some((ip, address.port()))
}

fn matches(rule: &Rule, call: &Call<'_>, address: Option<(IpAddr, u16)>) -> bool {
    let container = call.container.as_bytes();
    let by_container =
        || rule.containers.iter().any(|pattern| matches_one(pattern.as_bytes(), container));
    let by_path = || call.path.is_some_and(|path| rule.paths.iter().any(|glob| glob.matches(path)));
    let by_address =
        || address.is_some_and(|(ip, _)| rule.addresses.iter().any(|range| range.contains(ip)));
    let by_port = || {
        address.is_some_and(|(_, port)| {
            rule.ports.iter().any(|&(first, last)| (first..=last).contains(&port))
        })
    };
    let by_name = || {
        call.names.iter().any(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            rule.names.iter().any(|pattern| matches_one(pattern.as_bytes(), name.as_bytes()))
        })
    };
    (rule.containers.is_empty() || by_container())
        && (rule.ports.is_empty() || by_port())
        && (rule.addresses.is_empty() || by_address())
        && (rule.paths.is_empty() || by_path())
        && (rule.names.is_empty() || by_name())
}

fn rewrite(path: &[u8], prefix: &str, to: &str) -> Option<Vec<u8>> {
    if prefix.is_empty() {
        return Some(to.as_bytes().to_vec());
    }
    let rest = path.strip_prefix(prefix.trim_end_matches('/').as_bytes())?;
    if !(rest.is_empty() || rest.starts_with(b"/")) {
        return None;
    }
    Some([to.trim_end_matches('/').as_bytes(), rest].concat())
}
