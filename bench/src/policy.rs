// SPDX-License-Identifier: Apache-2.0
//! The policy whose cost is measured.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::scratch::Scratch;

/// Row of ours with the policy.
pub(crate) const LABEL: &str = "trine, policy of 100 rules";

/// Rules about files, and as many about addresses.
const RULES: usize = 50;

/// Writes it to a file.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write(scratch: &Scratch) -> Result<PathBuf> {
    let path = scratch.path().join("policy.toml");
    fs::write(&path, rules()).context("cannot write a policy")?;
    Ok(path)
}

/// Rules that are all looked at, and none of which matches.
fn rules() -> String {
    let mut text = "version = 1\ndefault = \"accept\"\n".to_owned();
    for number in 0..RULES {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[[rule]]\nid = \"files-{number}\"\ncalls = [\"file\"]\n\
             paths = [\"/*/private-{number}/**\"]\naction = \"block\"\n\
             \n[[rule]]\nid = \"net-{number}\"\ncalls = [\"net\"]\n\
             addresses = [\"10.200.{number}.0/24\"]\naction = \"block\"\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_has_a_hundred_rules_of_different_names() {
        let text = rules();

        let mut names: Vec<_> = text.lines().filter(|line| line.starts_with("id = ")).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 100);
    }
}
