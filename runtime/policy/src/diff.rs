// SPDX-License-Identifier: Apache-2.0
//! What two policies have, and what they decide differently.
//!
//! Rules are told apart by their ids.  Calls to try are made of what the rules of both speak of:
//! paths that fit the patterns, addresses in the ranges and next to them, ports, names and
//! containers.  So each difference is real and comes with an example, but no proof that there are
//! no others: for that, compare the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::{Action, Call, CallKind, Engine, Policy, Rule, RuleAction, glob, rule::Pin};

/// Most values of one kind that are tried.
const EXAMPLES_MAX: usize = 400;
/// Most calls that are tried, of one kind.
const CALLS_MAX: usize = 200_000;

/// What became of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is in the second policy only.
    Added,
    /// It is in the first policy only.
    Removed,
    /// It says something else.
    Changed,
    /// It says the same, before or after others than it was.
    Moved,
}

impl Change {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Moved => "moved",
        }
    }
}

/// A rule that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleChange {
    /// Its id.
    pub id: String,
    /// What became of it.
    pub change: Change,
    /// Its line in the second policy, or in the first if it is gone; 0 for a preset's.
    pub line: usize,
}

/// What one policy does about a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// In words.
    pub action: String,
    /// The rule that decides; `None`: the default.
    pub rule: Option<String>,
}

/// Calls that are decided differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallChange {
    /// The call.
    pub call: CallKind,
    /// What the first policy does.
    pub before: Outcome,
    /// What the second does.
    pub after: Outcome,
    /// An example, in words: its path, or its address and name.
    pub example: String,
    /// How many of the calls that were tried.
    pub count: usize,
}

/// The difference of two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rules.
    pub rules: Vec<RuleChange>,
    /// Decisions.
    pub calls: Vec<CallChange>,
    /// Other keys of the file that differ.
    pub settings: Vec<&'static str>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares two policies.
pub fn difference(before: &Policy, after: &Policy) -> Difference {
    let settings = [
        ("default", before.default != after.default),
        ("log-all", before.log_all != after.log_all),
        ("fs-no-exec", before.no_exec != after.no_exec),
    ];
    Difference {
        rules: rules(before, after),
        calls: calls(before, after),
        settings: settings.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect(),
    }
}

fn is_same(before: (&Policy, &Rule), after: (&Policy, &Rule)) -> bool {
    // Whom a rule asks is a number that each policy gives out by itself.
    let asks = |(policy, rule): (&Policy, &Rule)| match &rule.action {
        RuleAction::Ask(ask) => policy.targets.get(ask.target).cloned(),
        _ => None,
    };
    let mut rule = before.1.clone();
    if let (RuleAction::Ask(own), RuleAction::Ask(other)) = (&mut rule.action, &after.1.action) {
        own.target = other.target;
    }
    rule.is_same(after.1) && asks(before) == asks(after)
}

fn rules(before: &Policy, after: &Policy) -> Vec<RuleChange> {
    let index = |policy: &Policy, id: &str| policy.rules.iter().position(|rule| rule.id == id);
    let find =
        |policy: &Policy, id: &str| index(policy, id).and_then(|at| policy.rules.get(at).cloned());
    // In the order of the first policy, those that both have: one that is out of order was moved.
    let mut last = 0;
    let mut changes = Vec::new();
    for rule in &after.rules {
        let (id, line) = (rule.id.clone(), rule.line);
        let change = match find(before, &id) {
            None => Some(Change::Added),
            Some(old) => {
                let at = index(before, &id).unwrap_or(0);
                let is_moved = at < last;
                last = last.max(at);
                if !is_same((before, &old), (after, rule)) {
                    Some(Change::Changed)
                } else {
                    is_moved.then_some(Change::Moved)
                }
            }
        };
        changes.extend(change.map(|change| RuleChange { id, change, line }));
    }
    for rule in before.rules.iter().filter(|rule| find(after, &rule.id).is_none()) {
        let (id, line) = (rule.id.clone(), rule.line);
        changes.push(RuleChange { id, change: Change::Removed, line });
    }
    changes
}

/// Values to make calls of.
struct Examples {
    paths: Vec<Vec<u8>>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    names: Vec<Vec<String>>,
    containers: Vec<String>,
}

fn bounded<T: Ord>(values: BTreeSet<T>) -> Vec<T> {
    values.into_iter().take(EXAMPLES_MAX).collect()
}

impl Examples {
    fn of(policies: [&Policy; 2]) -> Self {
        let mut paths = BTreeSet::from([b"/".to_vec(), b"/other/file".to_vec()]);
        let usual = [[127, 0, 0, 1], [10, 9, 8, 7], [93, 184, 216, 34]];
        let mut addresses: BTreeSet<IpAddr> = usual.map(IpAddr::from).into();
        let mut ports = BTreeSet::from([53, 80, 443]);
        let mut names = BTreeSet::from([Vec::new()]);
        let mut containers = BTreeSet::from(["other".to_owned()]);
        let text = |pattern: &String| {
            String::from_utf8_lossy(&glob::example(pattern.as_bytes())).into_owned()
        };
        for rule in policies.iter().flat_map(|policy| &policy.rules) {
            for path in &rule.paths {
                let example = path.example();
                paths.insert([&example, &b"/below"[..]].concat());
                paths.insert(example);
            }
            if let RuleAction::RewritePath { prefix, .. } = &rule.action
                && !prefix.is_empty()
            {
                paths.insert(format!("{}/below", prefix.trim_end_matches('/')).into_bytes());
            }
            addresses.extend(rule.addresses.iter().flat_map(|range| range.examples()));
            for &(first, last) in &rule.ports {
                ports.extend([first, last, first.saturating_sub(1), last.saturating_add(1)]);
            }
            names.extend(rule.names.iter().map(|name| vec![text(name)]));
            containers.extend(rule.containers.iter().map(text));
        }
        Self {
            paths: bounded(paths),
            addresses: bounded(addresses),
            ports: bounded(ports),
            names: bounded(names),
            containers: bounded(containers),
        }
    }

    /// Calls `try_fn` with calls of a kind, up to a bound.
    fn each(&self, kind: CallKind, mut try_fn: impl FnMut(&Call<'_>)) {
        let calls = self.containers.iter().flat_map(|container| {
            let call = Call::new(kind, container);
            let is_file = kind.is_file();
            let has_address = !is_file && !matches!(kind, CallKind::Socket | CallKind::Listen);
            let alone = (!is_file && !has_address).then_some(call);
            let files = self.paths.iter().filter(move |_| is_file);
            let files = files.map(move |path| Call { path: Some(path), ..call });
            let sockets = self.addresses.iter().filter(move |_| has_address);
            let sockets = sockets.flat_map(move |&ip| {
                self.ports.iter().flat_map(move |&port| {
                    self.names.iter().map(move |names| Call {
                        address: Some(SocketAddr::new(ip, port)),
                        names,
                        ..call
                    })
                })
            });
            alone.into_iter().chain(files).chain(sockets)
        });
        calls.take(CALLS_MAX).for_each(|call| try_fn(&call));
    }
}

fn calls(before: &Policy, after: &Policy) -> Vec<CallChange> {
    let (old, new) = (Engine::new(before), Engine::new(after));
    let examples = Examples::of([before, after]);
    let mut changes = Vec::new();
    for &kind in CallKind::ALL {
        let mut found: BTreeMap<(Outcome, Outcome), (String, usize)> = BTreeMap::new();
        examples.each(kind, |call| {
            let first = outcome(before, &old, call);
            let second = outcome(after, &new, call);
            if first.action != second.action {
                let entry = found.entry((first, second)).or_insert_with(|| (describe(call), 0));
                entry.1 += 1;
            }
        });
        changes.extend(found.into_iter().map(|((before, after), (example, count))| CallChange {
            call: kind,
            before,
            after,
            example,
            count,
        }));
    }
    changes
}

fn outcome(policy: &Policy, engine: &Engine, call: &Call<'_>) -> Outcome {
    let decision = engine.decide(call);
    let rule = decision.rule.map(str::to_owned);
    let of_rule = decision.rule.and_then(|id| policy.rules.iter().find(|rule| rule.id == id));
    let mut action = in_words(policy, &decision.action);
    if let Some(limit) = of_rule.and_then(|rule| rule.limit) {
        action.push_str(&format!(", within {limit}"));
    }
    if let Some(rule) = of_rule.filter(|rule| !rule.delay.is_zero()) {
        action.push_str(&format!(", after {:?}", rule.delay));
    }
    Outcome { action, rule }
}

/// What is done about a call, in words.
pub fn in_words(policy: &Policy, action: &Action) -> String {
    match action {
        Action::Accept => "accept".to_owned(),
        Action::Block(errno) => format!("block with {}", crate::errno::name(*errno)),
        Action::RewritePath(path) => format!("rewrite to {}", String::from_utf8_lossy(path)),
        Action::RewriteAddress(address) => format!("rewrite to {address}"),
        Action::AddFlags(flags) => {
            let names = crate::rule::FLAGS.iter().filter(|(_, flag)| flags & flag == *flag);
            let names: Vec<_> = names.map(|(name, _)| *name).collect();
            format!("add {}", names.join(", "))
        }
        Action::Pin(Pin::Done) => "do nothing, with result 0".to_owned(),
        Action::Pin(Pin::Bytes(bytes)) => {
            format!("do nothing, with result {:?}", String::from_utf8_lossy(bytes))
        }
        Action::Ask(ask) => {
            let otherwise = match ask.otherwise {
                None => "accept".to_owned(),
                Some(errno) => format!("block with {}", crate::errno::name(errno)),
            };
            let whom = match policy.targets.get(ask.target) {
                Some(crate::rule::Target::Socket(path)) => path.display().to_string(),
                Some(crate::rule::Target::Interceptor(name)) => format!("interceptor {name}"),
                None => "nobody".to_owned(),
            };
            format!("ask {whom} for {:?}, else {otherwise}", ask.deadline)
        }
    }
}

fn describe(call: &Call<'_>) -> String {
    let mut words = Vec::new();
    words.extend(call.path.map(|path| String::from_utf8_lossy(path).into_owned()));
    words.extend(call.address.map(|address| address.to_string()));
    words.extend(call.names.iter().cloned());
    if call.container != "other" {
        words.push(format!("in container {:?}", call.container));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse("p", &format!("version = 1\n{text}")).expect(text)
    }

    const KEYS: &str = "[[rule]]\nid = \"keys\"\ncalls = [\"openat\"]\npaths = [\"/d/*.key\"]\n\
                        action = \"block\"\n";
    const WEB: &str = "[[rule]]\nid = \"web\"\ncalls = [\"connect\"]\nports = [80]\n\
                       action = \"block\"\n";

    #[test]
    fn difference_of_equals_is_none() {
        let (a, b) = (policy(&format!("{KEYS}{WEB}")), policy(&format!("{KEYS}\n\n{WEB}")));
        assert!(difference(&a, &b).is_empty());
    }

    #[test]
    fn difference_names_rules_and_calls_with_an_example() {
        let other = WEB.replace("[80]", "[\"80-81\"]");
        let both = difference(&policy(&format!("{KEYS}{WEB}")), &policy(&other));
        let rules: Vec<_> = both.rules.iter().map(|rule| (&*rule.id, rule.change)).collect();
        assert_eq!(rules, [("web", Change::Changed), ("keys", Change::Removed)]);
        let calls: Vec<_> = both
            .calls
            .iter()
            .map(|call| (call.call, &*call.before.action, &*call.after.action))
            .collect();
        assert_eq!(
            calls,
            [
                (CallKind::OpenRead, "block with EPERM", "accept"),
                (CallKind::OpenWrite, "block with EPERM", "accept"),
                (CallKind::Connect, "accept", "block with EPERM"),
            ]
        );
        assert_eq!(both.calls[0].example, "/d/x.key");
        assert!(both.calls[2].example.ends_with(":81"), "{}", both.calls[2].example);
    }

    #[test]
    fn difference_sees_order_defaults_and_whom_is_asked() {
        let swapped = difference(
            &policy(&format!("{KEYS}{WEB}")),
            &policy(&format!("default = \"block\"\n{WEB}{KEYS}")),
        );
        assert_eq!(swapped.settings, ["default"]);
        assert_eq!(swapped.rules.len(), 1);
        assert_eq!(swapped.rules[0].change, Change::Moved);
        assert!(!swapped.calls.is_empty());
        let ask = |socket: &str| {
            policy(&format!(
                "[[rule]]\nid = \"a\"\ncalls = [\"listen\"]\naction = \"intercept\"\n\
                 ask = {{ socket = \"{socket}\" }}\n"
            ))
        };
        let asks = difference(&ask("/run/a"), &ask("/run/b"));
        assert_eq!((asks.rules.len(), asks.calls.len()), (1, 1));
    }
}
