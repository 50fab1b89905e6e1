// SPDX-License-Identifier: Apache-2.0
//! Rules that have a name.  They come after the file's own rules, in the order that it names them.

use crate::{
    address::Range,
    call::of_word,
    file::Policy,
    rule::{Rule, RuleAction},
};

/// Names of all presets.
pub(crate) const NAMES: &[&str] =
    &["net-none", "net-public-only", "net-private-only", "fs-read-only", "fs-no-exec"];

const EPERM: u16 = 1;
const EROFS: u16 = 30;
const ENETUNREACH: u16 = 101;

fn rule(preset: &str, calls: &str, addresses: Vec<Range>, errno: u16) -> Rule {
    let (id, calls) = (format!("preset:{preset}"), of_word(calls).unwrap_or(0));
    Rule { addresses, ..Rule::new(id, calls, RuleAction::Block(errno)) }
}

/// Adds the rules of a preset; false if there is none of that name.
pub(crate) fn apply(name: &str, policy: &mut Policy) -> bool {
    let rules = match name {
        "net-none" => vec![rule(name, "net", Vec::new(), EPERM)],
        "net-public-only" => vec![rule(name, "net-out", vec![Range::Private], ENETUNREACH)],
        "net-private-only" => vec![rule(name, "net-out", vec![Range::Public], ENETUNREACH)],
        "fs-read-only" => vec![rule(name, "file-write", Vec::new(), EROFS)],
        "fs-no-exec" => {
            policy.no_exec = true;
            Vec::new()
        }
        _ => return false,
    };
    policy.rules.extend(rules);
    true
}
