// SPDX-License-Identifier: Apache-2.0
//! Decisions.
//!
//! An engine has layers: the pod's policy, and others that may only narrow it, such as that of an
//! annotation.  A call must be accepted by all of them; the first decides what it is changed to.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    Call, CallKind, Policy, Rule, RuleAction,
    case::{Case, Mark, Question, Verdict, Wait},
    layer::{Circumstances, Found, Layer, Place},
    meter::Meters,
    rule::{Ask, Limit, Pin},
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
    /// It opens with these flags of open(2) as well.
    AddFlags(u32),
    /// It is not made, and has this result.
    Pin(Pin),
    /// Somebody else is asked.  A call is never left at that: see [`Engine::proceed`].
    Ask(Ask),
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
    /// It depends on a limit, or on time, too.
    pub is_conditional: bool,
    /// Why, if the rule does not say it.
    pub reason: Option<String>,
}

/// A compiled policy, and those that narrow it.
#[derive(Clone, Debug)]
pub struct Engine {
    layers: Vec<Arc<Layer>>,
    /// Tells policies of one pod apart.
    generation: u64,
}

impl Engine {
    /// Compiles a policy.
    pub fn new(policy: &Policy) -> Self {
        Self::of_layers(0, vec![Arc::new(Layer::new(policy))])
    }

    /// Puts layers together: the first may change calls, the others accept and block only.
    /// `generation` differs from that of every engine whose answers are not to count for this one.
    pub fn of_layers(generation: u64, layers: Vec<Arc<Layer>>) -> Self {
        Self { layers, generation }
    }

    /// Whether any call of a kind is other than accepted, or logged: if not, there is no need to ask.
    pub fn cares_about(&self, kind: CallKind) -> bool {
        self.layers.iter().any(|layer| layer.cares_about(kind))
    }

    /// Whether decisions depend on DNS names: who decides about addresses must learn them.
    pub fn uses_names(&self) -> bool {
        self.layers.iter().any(|layer| layer.uses_names())
    }

    /// Programs do not run from volumes.
    pub fn no_exec(&self) -> bool {
        self.layers.iter().any(|layer| layer.no_exec())
    }

    /// Which policy of the pod it is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it has a rule of this name.
    pub fn has_rule(&self, id: &str) -> bool {
        self.layers.iter().any(|layer| layer.has_rule(id))
    }

    /// Decides about a call by the rules alone: as if no limit was reached and no time passed.
    /// Where somebody else is asked, that is the decision.
    pub fn decide(&self, call: &Call<'_>) -> Decision<'_> {
        let mut still = Still { is_conditional: false };
        let decided = self.run(call, &mut still);
        let decision = decided.unwrap_or_else(|rule| {
            let action = match &rule.action {
                RuleAction::Ask(ask) => Action::Ask(ask.clone()),
                _ => Action::Block(EPERM),
            };
            self.decision(action, Some(rule), None, Vec::new())
        });
        Decision { is_conditional: still.is_conditional, ..decision }
    }

    /// Decides about a call of a request; `None` if that has to wait for what
    /// [`Case::waits_for`] says.
    pub fn proceed(
        &self,
        call: &Call<'_>,
        case: &mut Case,
        meters: &mut Meters,
    ) -> Option<Decision<'_>> {
        if case.is_full() {
            let reason = Some("the request asks for too many decisions".to_owned());
            return Some(self.decision(Action::Block(EPERM), None, reason, Vec::new()));
        }
        self.run(call, &mut Live { case, meters, generation: self.generation }).ok()
    }

    /// Asks all layers; the rule that makes the call wait if one does.
    fn run(
        &self,
        call: &Call<'_>,
        circumstances: &mut impl Circumstances,
    ) -> Result<Decision<'_>, &Rule> {
        let mut logged_by = Vec::new();
        let mut decided = None;
        let mut logs = false;
        for (number, layer) in self.layers.iter().enumerate() {
            match layer.find(number, call, circumstances, &mut logged_by) {
                Found::Waits(rule) => return Err(rule),
                Found::Action { action: Action::Block(errno), rule, reason } => {
                    return Ok(self.decision(Action::Block(errno), rule, reason, logged_by));
                }
                // The first is the one that may change the call.
                Found::Action { action, rule, reason } if number == 0 => {
                    decided = Some((action, rule, reason));
                }
                Found::Action { rule, .. } => logs |= rule.is_some_and(|rule| rule.log),
            }
            // What the call is changed to must be accepted as well.
            let Some(changed) = decided.as_ref().and_then(|(action, ..)| changed(call, action))
            else {
                continue;
            };
            if number == 0 {
                continue;
            }
            match layer.find(number, &changed, circumstances, &mut logged_by) {
                Found::Waits(rule) => return Err(rule),
                Found::Action { action: Action::Block(errno), rule, reason } => {
                    return Ok(self.decision(Action::Block(errno), rule, reason, logged_by));
                }
                Found::Action { rule, .. } => logs |= rule.is_some_and(|rule| rule.log),
            }
        }
        let (action, rule, reason) = decided.unwrap_or((Action::Block(EPERM), None, None));
        let mut decision = self.decision(action, rule, reason, logged_by);
        decision.log |= logs;
        Ok(decision)
    }

    fn decision<'a>(
        &self,
        action: Action,
        rule: Option<&'a Rule>,
        reason: Option<String>,
        logged_by: Vec<&'a str>,
    ) -> Decision<'a> {
        // Every denial is visible, and so is every answer that was none.
        let log = rule.is_some_and(|rule| rule.log)
            || self.layers.iter().any(|layer| layer.logs_all())
            || !logged_by.is_empty()
            || reason.is_some()
            || matches!(action, Action::Block(_));
        let rule = rule.map(|rule| rule.id.as_str());
        Decision { action, rule, logged_by, log, is_conditional: false, reason }
    }
}

/// The call that is made instead of another, if it is about another file or address.
fn changed<'a>(call: &Call<'a>, action: &'a Action) -> Option<Call<'a>> {
    match action {
        Action::RewritePath(path) => Some(Call { path: Some(path), ..*call }),
        // Names of the address that was given say nothing about the other one.
        Action::RewriteAddress(address) => {
            Some(Call { address: Some(*address), names: &[], ..*call })
        }
        _ => None,
    }
}

/// No limit is reached, no time passes, and nobody answers.
struct Still {
    is_conditional: bool,
}

impl Circumstances for Still {
    fn charge(&mut self, _: Place, _: &Rule, _: Limit, _: &Call<'_>) -> bool {
        self.is_conditional = true;
        true
    }

    fn has_paused(&mut self, _: Place, _: &Rule, _: &Call<'_>) -> bool {
        self.is_conditional = true;
        true
    }

    fn verdict(&mut self, _: Place, _: &Rule, _: &Ask, _: &Call<'_>) -> Option<Verdict> {
        self.is_conditional = true;
        None
    }
}

/// A real call of a container.
struct Live<'a> {
    case: &'a mut Case,
    meters: &'a mut Meters,
    generation: u64,
}

impl Live<'_> {
    fn mark(&mut self, (layer, index): Place, call: &Call<'_>) -> Mark {
        self.case.mark((self.generation, layer, index), call)
    }
}

impl Circumstances for Live<'_> {
    fn charge(&mut self, place: Place, rule: &Rule, limit: Limit, call: &Call<'_>) -> bool {
        let mark = self.mark(place, call);
        let meter = if self.case.is_charged(mark) {
            Some(self.meters.of(&rule.id, limit))
        } else {
            self.meters.charge(rule, limit)
        };
        let Some(meter) = meter else { return false };
        self.case.charged(mark);
        self.case.budget.add(meter);
        true
    }

    fn has_paused(&mut self, place: Place, rule: &Rule, call: &Call<'_>) -> bool {
        let mark = self.mark(place, call);
        if self.case.is_paused(mark) {
            return true;
        }
        self.case.wait(mark, Wait::Pause(rule.delay));
        false
    }

    fn verdict(
        &mut self,
        place: Place,
        rule: &Rule,
        ask: &Ask,
        call: &Call<'_>,
    ) -> Option<Verdict> {
        let mark = self.mark(place, call);
        if let Some(verdict) = self.case.verdict(mark) {
            return Some(verdict.clone());
        }
        let question = Question::new(&rule.id, call);
        let (target, deadline) = (ask.target, ask.deadline);
        self.case.wait(mark, Wait::Answer { target, question, deadline });
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    fn live<'a>(engine: &'a Engine, call: &Call<'_>, case: &mut Case) -> Option<Decision<'a>> {
        engine.proceed(call, case, &mut Meters::default())
    }

    #[test]
    fn limits_count_calls_and_go_on_with_the_next_rules_or_block() {
        let engine = engine(
            r#"
            [[rule]]
            id = "some"
            calls = ["connect"]
            ports = [80]
            action = "accept"
            limit = { calls = 2, over = "next" }
            [[rule]]
            id = "rest"
            calls = ["connect"]
            action = "accept"
            limit = { calls = 1, errno = "ECONNREFUSED" }
            "#,
        );
        let mut meters = Meters::default();
        let call = net(CallKind::Connect, "1.2.3.4:80");
        let mut rules = Vec::new();
        for _ in 0..4 {
            let decision = engine.proceed(&call, &mut Case::default(), &mut meters).expect("one");
            rules.push((decision.rule, decision.action, decision.reason.is_some()));
        }
        let accepted = |rule| (Some(rule), Action::Accept, false);
        assert_eq!(rules[..3], [accepted("some"), accepted("some"), accepted("rest")]);
        assert_eq!(rules[3], (Some("rest"), Action::Block(111), true));
        assert!(engine.decide(&call).is_conditional);
    }

    #[test]
    fn a_request_that_waited_is_charged_once_and_has_its_budget() {
        let engine = engine(
            r#"
            [[rule]]
            calls = ["connect"]
            action = "accept"
            delay-ms = 20
            limit = { calls = 1, bytes = 10 }
            "#,
        );
        let (mut case, mut meters) = (Case::default(), Meters::default());
        let call = net(CallKind::Connect, "1.2.3.4:80");
        assert_eq!(engine.proceed(&call, &mut case, &mut meters), None);
        assert_eq!(case.waits_for(), Some(&Wait::Pause(Duration::from_millis(20))));
        case.resume(None);
        let decision = engine.proceed(&call, &mut case, &mut meters).expect("a decision");
        assert_eq!(decision.action, Action::Accept);
        assert_eq!(case.take_budget().take(100), Ok(10));
        let second = engine.proceed(&call, &mut Case::default(), &mut meters);
        assert_eq!(second.expect("a decision").action, Action::Block(122));
    }

    const ASKING: &str = r#"
        [[rule]]
        id = "ask"
        calls = ["openat"]
        action = "intercept"
        ask = { socket = "/run/decider", deadline-ms = 300, errno = "EACCES" }
        [[rule]]
        id = "later"
        calls = ["openat"]
        action = "block"
        errno = "ENOENT"
        "#;

    #[test]
    fn an_answer_counts_for_the_very_call_and_policy_only() {
        let first = engine(ASKING);
        let mut case = Case::default();
        let a = file(CallKind::OpenRead, "/data/a");
        assert_eq!(live(&first, &a, &mut case), None);
        let Some(Wait::Answer { target: 0, question, deadline }) = case.waits_for() else {
            panic!("waits for {:?}", case.waits_for());
        };
        assert_eq!(question.path.as_deref(), Some(&b"/data/a"[..]));
        assert_eq!(*deadline, Duration::from_millis(300));
        case.resume(Some(Verdict::Accept));
        assert_eq!(live(&first, &a, &mut case).expect("a decision").action, Action::Accept);
        // Meanwhile the file is at another path, or is to be written to: asked again.
        assert_eq!(live(&first, &file(CallKind::OpenRead, "/data/b"), &mut case), None);
        assert_eq!(live(&first, &file(CallKind::OpenWrite, "/data/a"), &mut case), None);
        let reloaded = Engine { generation: 1, ..first.clone() };
        assert_eq!(live(&reloaded, &a, &mut case), None);
    }

    #[test]
    fn verdicts_are_obeyed_as_far_as_they_make_sense() {
        let engine = engine(ASKING);
        let call = file(CallKind::OpenRead, "/data/a");
        let address = "1.2.3.4:5".parse().expect("an address");
        for (verdict, action, rule) in [
            (Verdict::Block(2), Action::Block(2), "ask"),
            (Verdict::Block(0), Action::Block(1), "ask"),
            (Verdict::Next, Action::Block(2), "later"),
            (Verdict::RewritePath(b"/d".into()), Action::RewritePath(b"/d".into()), "ask"),
            (Verdict::RewritePath(b"d".into()), Action::Block(13), "ask"),
            (Verdict::RewriteAddress(address), Action::Block(13), "ask"),
            (Verdict::None("late".into()), Action::Block(13), "ask"),
        ] {
            let mut case = Case::default();
            assert_eq!(live(&engine, &call, &mut case), None);
            case.resume(Some(verdict.clone()));
            let decision = live(&engine, &call, &mut case).expect("a decision");
            assert_eq!((decision.action, decision.rule), (action, Some(rule)), "{verdict:?}");
        }
        let question = engine.decide(&call);
        assert!(matches!(question.action, Action::Ask(_)) && question.rule == Some("ask"));
    }

    #[test]
    fn layers_narrow_also_what_a_call_is_changed_to() {
        let base = engine(
            r#"
            default = "block"
            [[rule]]
            id = "live"
            calls = ["openat"]
            paths = ["/data/live/**"]
            action = "intercept"
            rewrite = { prefix = "/data/live", path = "/data/frozen" }
            [[rule]]
            id = "data"
            calls = ["openat"]
            paths = ["/data/**"]
            action = "accept"
            "#,
        );
        let text = r#"
            version = 1
            [[rule]]
            id = "secret"
            calls = ["file"]
            paths = ["/data/frozen/secret", "/data/own"]
            action = "block"
            errno = "ENOENT"
            [[rule]]
            calls = ["file", "net"]
            action = "accept"
            "#;
        let narrow = Policy::narrowing("annotation", "pod:", text, &[]).expect("a policy");
        let layers = vec![Arc::clone(&base.layers[0]), Arc::new(Layer::new(&narrow))];
        let engine = Engine::of_layers(0, layers);
        for (path, errno, rule) in [
            ("/data/x", None, "data"),
            ("/data/own", Some(2), "pod:secret"),
            ("/data/live/secret", Some(2), "pod:secret"),
            ("/data/live/x", None, "live"),
        ] {
            let decision = engine.decide(&file(CallKind::OpenRead, path));
            assert_eq!(decision.rule, Some(rule), "{path}");
            match errno {
                Some(errno) => assert_eq!(decision.action, Action::Block(errno), "{path}"),
                None => assert!(!matches!(decision.action, Action::Block(_)), "{path}"),
            }
        }
        // What the pod's policy does not accept stays so, whatever the annotation says.
        let out = engine.decide(&file(CallKind::OpenRead, "/etc/passwd"));
        assert_eq!((out.action, out.rule), (Action::Block(1), None));
        let out = engine.decide(&net(CallKind::Connect, "1.2.3.4:5"));
        assert_eq!(out.action, Action::Block(1));
    }

    #[test]
    fn binding_to_every_address_is_not_binding_to_loopback() {
        let engine = engine(
            r#"
            default = "block"
            [[rule]]
            calls = ["bind", "connect"]
            addresses = ["loopback"]
            action = "accept"
            "#,
        );
        for (kind, address, accepted) in [
            (CallKind::Bind, "127.0.0.1:80", true),
            (CallKind::Bind, "0.0.0.0:80", false),
            (CallKind::Bind, "[::]:80", false),
            (CallKind::Bind, "[::ffff:0.0.0.0]:80", false),
            (CallKind::Bind, "[::1]:80", true),
            (CallKind::Connect, "0.0.0.0:80", true),
        ] {
            let decision = engine.decide(&net(kind, address));
            assert_eq!(decision.action == Action::Accept, accepted, "{kind:?} {address}");
        }
    }
}
