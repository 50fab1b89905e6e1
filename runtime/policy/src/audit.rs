// SPDX-License-Identifier: Apache-2.0
//! The audit log: a JSON object a line, in a bounded number of them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Action, Call, Decision, errno};

/// Lines that may come at once.
const BURST: u32 = 200;
/// Lines a second, on average.
const RATE: u32 = 20;

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

/// Makes lines, no more than a guest may cause.
#[derive(Debug)]
pub struct Audit {
    pod: String,
    tokens: u32,
    filled: Instant,
    left_out: u64,
}

impl Audit {
    /// The log of a pod.
    pub fn new(pod: &str) -> Self {
        Self { pod: pod.to_owned(), tokens: BURST, filled: Instant::now(), left_out: 0 }
    }

    /// The line for a decision that belongs in the log; `None` if it does not, or if there were too
    /// many.
    pub fn line(&mut self, call: &Call<'_>, decision: &Decision<'_>) -> Option<String> {
        if !decision.log || !self.take() {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (action, code) = match &decision.action {
            Action::Accept => ("accept", None),
            Action::Block(number) => ("block", Some(errno::name(*number).to_owned())),
            Action::RewritePath(_) | Action::RewriteAddress(_) => ("intercept", None),
        };
        let line = Line {
            time: format!("{}.{:06}", now.as_secs(), now.subsec_micros()),
            pod: self.pod.clone(),
            container: call.container.to_owned(),
            call: call.kind.name().to_owned(),
            action: action.to_owned(),
            rule: decision.rule.map(str::to_owned),
            errno: code,
            path: call.path.map(|path| String::from_utf8_lossy(path).into_owned()),
            address: call.address.map(|address| address.to_string()),
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
    use crate::{CallKind, Engine, Policy};

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
}
