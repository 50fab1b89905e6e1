// SPDX-License-Identifier: Apache-2.0
//! The audit log: a JSON object a line, in a bounded number of them.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{Action, Call, CallKind, Decision, errno};

/// Lines that may come at once.
const BURST: u32 = 200;
/// Lines a second, on average.
const RATE: u32 = 20;
/// Most lines of a recording: each is another call.
pub const RECORDED_MAX: usize = 100_000;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Seconds since 1970, with microseconds.
    pub time: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// The call's Linux name.
    pub call: String,
    /// `accept`, `block` or `intercept`.
    pub action: String,
    /// The rule that decided; none: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The errno that the program got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// The file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// DNS names of the address, as far as they were seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// `true` if `openat` opens for writing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writes: bool,
    /// Why, if the rule does not say it: a limit, or what somebody who was asked gave as a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Rules that asked for this line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logged_by: Vec<String>,
    /// Lines before this one that were left out because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A line about the policy itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970, with microseconds.
    pub time: String,
    /// The pod.
    pub pod: String,
    /// `policy-reloaded` or `policy-refused`.
    pub event: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Makes lines, no more than a guest may cause.
#[derive(Debug)]
pub struct Audit {
    pod: String,
    tokens: u32,
    filled: Instant,
    left_out: u64,
    /// Each call once, instead of each time up to a rate.
    recorded: Option<(RandomState, HashSet<u64>)>,
}

fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{}.{:06}", now.as_secs(), now.subsec_micros())
}

impl Audit {
    /// The log of a pod.
    pub fn new(pod: &str) -> Self {
        let (tokens, filled) = (BURST, Instant::now());
        Self { pod: pod.to_owned(), tokens, filled, left_out: 0, recorded: None }
    }

    /// The log of a pod whose calls are recorded: all of them, each once.
    pub fn recording(pod: &str) -> Self {
        Self { recorded: Some(<_>::default()), ..Self::new(pod) }
    }

    /// The line for something that happened to the policy.
    pub fn event(&self, event: &str, detail: Option<&str>) -> Option<String> {
        let (event, detail) = (event.to_owned(), detail.map(str::to_owned));
        let line = Event { time: now(), pod: self.pod.clone(), event, detail };
        serde_json::to_string(&line).ok()
    }

    /// Whether a call is to be recorded, and was not yet.
    fn is_new(&mut self, call: &Call<'_>) -> bool {
        let Some((state, known)) = &mut self.recorded else { return false };
        // Peers that connect come from another port each time.
        let address = call.address.map(|address| match call.kind {
            CallKind::Accept => (address.ip(), 0),
            _ => (address.ip(), address.port()),
        });
        let key = state.hash_one((call.container, call.kind as u8, call.path, address, call.names));
        known.len() < RECORDED_MAX && known.insert(key)
    }

    /// The line for a decision that belongs in the log; `None` if it does not, or if there were too
    /// many.
    pub fn line(&mut self, call: &Call<'_>, decision: &Decision<'_>) -> Option<String> {
        let takes = match self.recorded {
            Some(_) => self.is_new(call),
            None => decision.log && self.take(),
        };
        if !takes {
            return None;
        }
        let (action, code) = match &decision.action {
            Action::Accept => ("accept", None),
            Action::Block(number) => ("block", Some(errno::name(*number).to_owned())),
            _ => ("intercept", None),
        };
        let line = Line {
            time: now(),
            pod: self.pod.clone(),
            container: call.container.to_owned(),
            call: call.kind.name().to_owned(),
            action: action.to_owned(),
            rule: decision.rule.map(str::to_owned),
            errno: code,
            path: call.path.map(|path| String::from_utf8_lossy(path).into_owned()),
            address: call.address.map(|address| address.to_string()),
            names: call.names.to_vec(),
            writes: call.kind == CallKind::OpenWrite,
            reason: decision.reason.clone(),
            logged_by: decision.logged_by.iter().map(|rule| (*rule).to_owned()).collect(),
            left_out: std::mem::take(&mut self.left_out),
        };
        serde_json::to_string(&line).ok()
    }

    fn take(&mut self) -> bool {
        let earned = self.filled.elapsed().as_millis() * u128::from(RATE) / 1000;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned.min(BURST.into()) as u32).min(BURST);
            self.filled = Instant::now();
        }
        if self.tokens == 0 {
            self.left_out += 1;
            return false;
        }
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, Policy};

    #[test]
    fn lines_name_the_rule_and_are_bounded() {
        let policy = Policy::parse("t", "version = 1\npresets = [\"net-none\"]").expect("a policy");
        let engine = Engine::new(&policy);
        let call = Call {
            address: Some("1.2.3.4:5".parse().expect("an address")),
            ..Call::new(CallKind::Connect, "web")
        };
        let decision = engine.decide(&call);
        let mut audit = Audit::new("pod");
        let line = audit.line(&call, &decision).expect("a line");
        let line: Line = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line.rule.as_deref(), Some("preset:net-none"));
        assert_eq!(line.errno.as_deref(), Some("EPERM"));
        assert_eq!(line.address.as_deref(), Some("1.2.3.4:5"));
        assert!(!line.call.contains('\n'));
        let lines = (0..10_000).filter_map(|_| audit.line(&call, &decision)).count();
        assert!(lines < 2 * BURST as usize, "{lines} lines");
        std::thread::sleep(Duration::from_millis(200));
        let line = audit.line(&call, &decision).expect("a line");
        assert!(line.contains("\"left_out\":"), "{line}");
    }

    #[test]
    fn recording_has_each_call_once() {
        let engine = Engine::new(&Policy::accept_all());
        let mut audit = Audit::recording("pod");
        let mut count = |kind, address: &str| {
            let address = Some(address.parse().expect("an address"));
            let call = Call { address, ..Call::new(kind, "web") };
            audit.line(&call, &engine.decide(&call)).is_some()
        };
        assert!(count(CallKind::Connect, "1.2.3.4:5"));
        assert!(!count(CallKind::Connect, "1.2.3.4:5"));
        assert!(count(CallKind::Connect, "1.2.3.4:6"));
        assert!(count(CallKind::Accept, "1.2.3.4:5"));
        assert!(!count(CallKind::Accept, "1.2.3.4:6"));
    }
}
