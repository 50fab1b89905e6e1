// SPDX-License-Identifier: Apache-2.0
//! Decisions.

use std::net::SocketAddr;

use crate::{
    Call, CallKind, Policy, Rule, RuleAction, address::canonical, file::Default, glob::matches_one,
};

const EPERM: u16 = 1;

/// What is done about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Accept,
    /// It fails with this errno.
    Block(u16),
    /// It is made for this path.
    RewritePath(Vec<u8>),
    /// It is made for this address.
    RewriteAddress(SocketAddr),
}

/// A decision, and what it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// What is done.
    pub action: Action,
    /// The rule that decided; `None`: the default.
    pub rule: Option<&'a str>,
    /// Rules that only log, and matched before.
    pub logged_by: Vec<&'a str>,
    /// Whether it belongs in the log.
    pub log: bool,
}

/// A compiled policy.
#[derive(Debug)]
pub struct Engine {
    rules: Vec<Rule>,
    /// For each kind of call, the rules that can match it, in order.
    by_kind: Vec<Vec<usize>>,
    default: Default,
    log_all: bool,
    no_exec: bool,
    uses_paths: bool,
    uses_names: bool,
}

impl Engine {
    /// Compiles a policy.
    pub fn new(policy: &Policy) -> Self {
        let rules = policy.rules.clone();
        let of_kind = |kind: &CallKind| {
            let can = |(_, rule): &(usize, &Rule)| rule.calls & 1 << *kind as u32 != 0;
            rules.iter().enumerate().filter(can).map(|(index, _)| index).collect()
        };
        Self {
            by_kind: CallKind::ALL.iter().map(of_kind).collect(),
            default: policy.default,
            log_all: policy.log_all,
            no_exec: policy.no_exec,
            uses_paths: rules.iter().any(|rule| !rule.paths.is_empty()),
            uses_names: rules.iter().any(|rule| !rule.names.is_empty()),
            rules,
        }
    }

    /// Whether any call of a kind is other than accepted, or logged: if not, there is no need to ask.
    pub fn cares_about(&self, kind: CallKind) -> bool {
        self.log_all || self.default == Default::Block || !self.rules_for(kind).is_empty()
    }

    /// Whether decisions depend on DNS names: who decides about addresses must learn them.
    pub fn uses_names(&self) -> bool {
        self.uses_names
    }

    /// Whether decisions depend on paths, or paths are logged.
    pub fn uses_paths(&self) -> bool {
        self.uses_paths || self.log_all
    }

    /// Programs do not run from volumes.
    pub fn no_exec(&self) -> bool {
        self.no_exec
    }

    fn rules_for(&self, kind: CallKind) -> &[usize] {
        self.by_kind.get(kind as usize).map_or(&[], Vec::as_slice)
    }

    /// Decides about a call.
    pub fn decide(&self, call: &Call<'_>) -> Decision<'_> {
        let mut logged_by = Vec::new();
        for rule in self.rules_for(call.kind).iter().filter_map(|&index| self.rules.get(index)) {
            if !matches(rule, call) {
                continue;
            }
            let action = match &rule.action {
                RuleAction::Log => {
                    logged_by.push(rule.id.as_str());
                    continue;
                }
                RuleAction::Accept => Action::Accept,
                RuleAction::Block(errno) => Action::Block(*errno),
                RuleAction::RewriteAddress(address) => Action::RewriteAddress(*address),
                RuleAction::RewritePath { prefix, to } => {
                    match rewrite(call.path.unwrap_or_default(), prefix, to) {
                        Some(path) => Action::RewritePath(path),
                        // The path is not below the prefix: the rule does not mean it.
                        None => continue,
                    }
                }
            };
            return self.decision(action, Some(&rule.id), rule.log, logged_by);
        }
        let action = match self.default {
            Default::Accept => Action::Accept,
            Default::Block => Action::Block(EPERM),
        };
        self.decision(action, None, false, logged_by)
    }

    fn decision<'a>(
        &self,
        action: Action,
        rule: Option<&'a str>,
        log: bool,
        logged_by: Vec<&'a str>,
    ) -> Decision<'a> {
        // Every denial is visible.
        let log =
            log || self.log_all || !logged_by.is_empty() || matches!(action, Action::Block(_));
        Decision { action, rule, logged_by, log }
    }
}

fn matches(rule: &Rule, call: &Call<'_>) -> bool {
    let any = |list_is_empty: bool, found: bool| list_is_empty || found;
    let container = call.container.as_bytes();
    let by_container =
        rule.containers.iter().any(|pattern| matches_one(pattern.as_bytes(), container));
    let by_path = call.path.is_some_and(|path| rule.paths.iter().any(|glob| glob.matches(path)));
    let address = call.address.map(|address| canonical(address.ip()));
    let by_address =
        address.is_some_and(|address| rule.addresses.iter().any(|range| range.contains(address)));
    let by_port = call.address.is_some_and(|address| {
        rule.ports.iter().any(|&(first, last)| (first..=last).contains(&address.port()))
    });
    let by_name = call.names.iter().any(|name| {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        rule.names.iter().any(|pattern| matches_one(pattern.as_bytes(), name.as_bytes()))
    });
    any(rule.containers.is_empty(), by_container)
        && any(rule.paths.is_empty(), by_path)
        && any(rule.addresses.is_empty(), by_address)
        && any(rule.ports.is_empty(), by_port)
        && any(rule.names.is_empty(), by_name)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(text: &str) -> Engine {
        Engine::new(&Policy::parse("test", &format!("version = 1\n{text}")).expect(text))
    }

    fn file(kind: CallKind, path: &str) -> Call<'_> {
        Call { path: Some(path.as_bytes()), ..Call::new(kind, "c1") }
    }

    fn net(kind: CallKind, address: &str) -> Call<'_> {
        Call { address: Some(address.parse().expect(address)), ..Call::new(kind, "c1") }
    }

    #[test]
    fn first_match_decides_and_denials_are_logged() {
        let engine = engine(
            r#"
            default = "block"
            [[rule]]
            id = "keys"
            calls = ["file"]
            paths = ["/data/**/*.key"]
            action = "block"
            errno = "EACCES"
            [[rule]]
            id = "watch"
            calls = ["file-write"]
            action = "log"
            [[rule]]
            id = "data"
            calls = ["file"]
            paths = ["/data/**"]
            action = "accept"
            "#,
        );
        let decision = engine.decide(&file(CallKind::OpenRead, "/data/a/b.key"));
        assert_eq!((decision.action, decision.rule), (Action::Block(13), Some("keys")));
        let decision = engine.decide(&file(CallKind::OpenRead, "/data/a"));
        assert!(!decision.log && decision.action == Action::Accept);
        let decision = engine.decide(&file(CallKind::OpenWrite, "/data/a"));
        assert_eq!((decision.rule, decision.log), (Some("data"), true));
        assert_eq!(decision.logged_by, ["watch"]);
        let decision = engine.decide(&file(CallKind::OpenRead, "/etc/passwd"));
        assert_eq!((decision.action, decision.rule, decision.log), (Action::Block(1), None, true));
    }

    #[test]
    fn presets_come_after_rules_and_cannot_be_gone_around_by_form() {
        let engine = engine(
            r#"
            presets = ["net-public-only", "fs-read-only", "fs-no-exec"]
            [[rule]]
            calls = ["net-out"]
            addresses = ["10.1.2.3"]
            ports = [53, "8000-8010"]
            action = "accept"
            "#,
        );
        assert!(engine.no_exec());
        for (address, accepted) in [
            ("8.8.8.8:53", true),
            ("10.1.2.3:53", true),
            ("10.1.2.3:8005", true),
            ("10.1.2.3:80", false),
            ("[::ffff:10.1.2.4]:53", false),
            ("[64:ff9b::a9fe:a9fe]:80", false),
            ("0.0.0.0:80", false),
        ] {
            let decision = engine.decide(&net(CallKind::Connect, address));
            assert_eq!(decision.action == Action::Accept, accepted, "{address}");
        }
        assert_eq!(engine.decide(&file(CallKind::Unlink, "/data/x")).action, Action::Block(30));
        assert!(!engine.cares_about(CallKind::Stat) && engine.cares_about(CallKind::Connect));
    }

    #[test]
    fn rewrites_names_and_containers() {
        let engine = engine(
            r#"
            [[rule]]
            id = "redirect"
            calls = ["openat"]
            containers = ["c*"]
            action = "intercept"
            rewrite = { prefix = "/data/live", path = "/data/frozen" }
            [[rule]]
            id = "proxy"
            calls = ["connect"]
            names = ["*.example.com"]
            action = "intercept"
            rewrite = { address = "127.0.0.1:3128" }
            "#,
        );
        assert_eq!(
            engine.decide(&file(CallKind::OpenRead, "/data/live/a")).action,
            Action::RewritePath(b"/data/frozen/a".to_vec())
        );
        assert_eq!(engine.decide(&file(CallKind::OpenRead, "/data/lively")).action, Action::Accept);
        let other = Call { container: "x", ..file(CallKind::OpenRead, "/data/live/a") };
        assert_eq!(engine.decide(&other).action, Action::Accept);
        let names = ["API.Example.com.".to_owned()];
        let call = Call { names: &names, ..net(CallKind::Connect, "93.184.216.34:443") };
        assert_eq!(
            engine.decide(&call).action,
            Action::RewriteAddress("127.0.0.1:3128".parse().expect("an address"))
        );
        assert!(engine.uses_names());
    }
}
