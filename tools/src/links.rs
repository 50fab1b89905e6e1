// SPDX-License-Identifier: Apache-2.0
//! Relative links in documents lead to files, and their anchors to headings.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Returns the links that lead nowhere.
pub(crate) fn check(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|it| it == "md")) {
        let text = read(file)?;
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().unwrap_or(Path::new("")).join(path),
            };
            if !target.exists() {
                faults.push(format!("{}: {link} does not exist", file.display()));
            } else if !anchor.is_empty() && !anchors(&read(&target)?).iter().any(|it| it == anchor)
            {
                faults.push(format!("{}: {link} has no such heading", file.display()));
            }
        }
    }
    Ok(faults)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

/// Returns the targets of `[text](target)` outside of code blocks and code spans.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in prose(text) {
        // Pieces between back quotes: the odd ones are code.
        for piece in line.split('`').step_by(2) {
            let targets = piece.split("](").skip(1);
            found.extend(targets.filter_map(|rest| rest.split(')').next()));
        }
    }
    found
}

fn anchors(text: &str) -> Vec<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_nothing_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("a.md");
        fs::write(folder.path().join("b.md"), "# The Title, here\n").unwrap();
        let text = "[1](b.md) [2](c.md) [3](b.md#the-title-here) [4](b.md#none) [5](https://x.y)\n\
                    `[6](code.md)`\n```\n[7](block.md)\n```\n";
        fs::write(&page, text).unwrap();
        let faults = check(&[page]).unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("c.md") && faults[1].contains("b.md#none"), "{faults:?}");
    }
}
