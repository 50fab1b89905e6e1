// SPDX-License-Identifier: Apache-2.0
//! Licences and sources of dependencies are those that deny.toml allows.
//!
//! `cargo deny` checks the same file, and advisories too, but takes long to build; this check needs
//! nothing but cargo itself, so that every run of CI makes it.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};

use crate::metadata::{Metadata, Package};

const POLICY: &str = "deny.toml";
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Returns the dependencies that the policy does not allow.
pub(crate) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let policy = fs::read_to_string(POLICY).with_context(|| format!("read {POLICY}"))?;
    let allowed = allowed(&policy)?;
    let mut faults = Vec::new();
    for package in &metadata.others {
        let Package { name, version, licence, source, .. } = package;
        if source != REGISTRY {
            faults.push(format!("{name} {version}: comes from {source}, not from crates.io"));
        }
        if !is_allowed(licence, &allowed) {
            faults.push(format!("{name} {version}: licence {licence:?} is not in {POLICY}"));
        }
    }
    for (name, package) in &metadata.members {
        if package.licence != "Apache-2.0" {
            faults.push(format!("{name}: licence {:?} is not Apache-2.0", package.licence));
        }
    }
    Ok(faults)
}

/// Reads `allow = [...]` of the section `[licenses]`.
fn allowed(policy: &str) -> Result<BTreeSet<String>> {
    let section = policy.split("\n[licenses]").nth(1).context("deny.toml has no [licenses]")?;
    let section = section.split("\n[").next().unwrap_or_default();
    let list = section
        .split("allow = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .context("[licenses] of deny.toml has no allow list")?;
    let names: BTreeSet<String> = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        bail!("the allow list of deny.toml is empty");
    }
    Ok(names)
}

/// Evaluates a licence expression: `OR` binds weaker than `AND`; `/` is the old way to say `OR`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut position = 0;
    let value = alternatives(&tokens, &mut position, allowed);
    value == Some(true) && position == tokens.len()
}

fn alternatives(tokens: &[&str], position: &mut usize, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut value = conjunction(tokens, position, allowed)?;
    while tokens.get(*position) == Some(&"OR") {
        *position += 1;
        value |= conjunction(tokens, position, allowed)?;
    }
    Some(value)
}

fn conjunction(tokens: &[&str], position: &mut usize, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut value = term(tokens, position, allowed)?;
    while tokens.get(*position) == Some(&"AND") {
        *position += 1;
        value &= term(tokens, position, allowed)?;
    }
    Some(value)
}

fn term(tokens: &[&str], position: &mut usize, allowed: &BTreeSet<String>) -> Option<bool> {
    let token = *tokens.get(*position)?;
    *position += 1;
    if token == "(" {
        let value = alternatives(tokens, position, allowed)?;
        (tokens.get(*position) == Some(&")")).then(|| *position += 1)?;
        return Some(value);
    }
    let mut name = token.to_owned();
    if tokens.get(*position) == Some(&"WITH") {
        name = format!("{name} WITH {}", tokens.get(*position + 1)?);
        *position += 2;
    }
    Some(allowed.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "x = 1\n[licenses]\nversion = 2\nallow = [\n  \"MIT\", # why\n  \
                          \"Apache-2.0\",\n  \"Apache-2.0 WITH LLVM-exception\",\n]\n[bans]\n";

    #[test]
    fn allow_list_is_read() {
        let names = allowed(SAMPLE).unwrap();
        assert_eq!(names.len(), 3);
        assert!(names.contains("MIT"));
        assert!(allowed("[bans]\n").is_err());
    }

    #[test]
    fn expressions_are_evaluated() {
        let names = allowed(SAMPLE).unwrap();
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "MIT AND Apache-2.0",
            "GPL-3.0 OR (MIT AND Apache-2.0)",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(good, &names), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT GPL-3.0", "MIT WITH X"] {
            assert!(!is_allowed(bad, &names), "{bad}");
        }
    }
}
