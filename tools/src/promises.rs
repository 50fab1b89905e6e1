// SPDX-License-Identifier: Apache-2.0
//! Tests that documents name exist: `path/to/file.rs::name` in a code span is a function or a case of
//! that name in that file.  Every row of the threat model's promises names one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The page whose section "Promises" is a table with tests.
const PAGE: &str = "docs/threat-model.md";
/// What a path without a test's name must begin with to be one of the tree.
const FOLDERS: &[&str] = &["kernel/", "runtime/", "e2e/", "fuzz/", "shim/", "tools/", "bench/"];

/// Returns the tests that are named and not there, and the promises that name none.
pub(crate) fn check(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|it| it == "md")) {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let is_there = |path: &str, name: Option<&str>| exists(Path::new(path), name);
        faults.extend(missing(&text, is_there).map(|it| format!("{}: {it}", file.display())));
        if file == Path::new(PAGE) {
            faults.extend(empty_promises(&text).map(|it| format!("{PAGE}: {it}")));
        }
    }
    Ok(faults)
}

fn exists(path: &Path, name: Option<&str>) -> bool {
    let Ok(text) = fs::read_to_string(path) else { return false };
    name.is_none_or(|name| {
        text.contains(&format!("fn {name}(")) || text.contains(&format!("\"{name}\""))
    })
}

/// Tests in code spans: the path of a source file below a folder of the tree, and a name.
fn tests(line: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    // Pieces between back quotes: the odd ones are code.
    line.split('`').skip(1).step_by(2).filter_map(|span| {
        let (path, name) = match span.split_once("::") {
            Some((path, name)) => (path, Some(name)),
            None => (span, None),
        };
        let is_path = path.ends_with(".rs") && path.contains('/') && !path.contains(['*', ' ']);
        // Documents about one crate name its files from there.
        let is_ours = name.is_some() || FOLDERS.iter().any(|folder| path.starts_with(folder));
        (is_path && is_ours).then_some((path, name))
    })
}

fn missing<'a>(
    text: &'a str,
    is_there_fn: impl Fn(&str, Option<&str>) -> bool + 'a,
) -> impl Iterator<Item = String> + 'a {
    let named = text.lines().flat_map(tests);
    named.filter(move |(path, name)| !is_there_fn(path, *name)).map(|(path, name)| match name {
        Some(name) => format!("{path} has no test or case {name}"),
        None => format!("{path} does not exist"),
    })
}

fn empty_promises(text: &str) -> impl Iterator<Item = String> {
    let section = text.split("\n## Promises\n").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let none = rows.is_empty().then(|| "no promises".to_owned());
    let bare = rows
        .into_iter()
        .filter(|row| !row.starts_with("| ---") && tests(row).next().is_none())
        .map(|row| format!("no test for: {row}"))
        .collect::<Vec<_>>();
    none.into_iter().chain(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_are_not_there_are_reported() {
        let text = "`a/b.rs::here` and `a/b.rs::gone`, `e2e/c.rs`, `a/d.rs`\n`std::fs` `x::y.rs`\n";
        let there = |path: &str, name: Option<&str>| path == "a/b.rs" && name != Some("gone");
        let faults: Vec<_> = missing(text, there).collect();
        assert_eq!(faults, ["a/b.rs has no test or case gone", "e2e/c.rs does not exist"]);
    }

    #[test]
    fn promises_without_a_test_are_reported() {
        let text = "# T\n\n## Promises\n\n| promise | shown by |\n| --- | --- |\n\
                    | one | `a/b.rs::c` |\n| two | nothing |\n\n## More\n\n| x | y |\n";
        let faults: Vec<_> = empty_promises(text).collect();
        assert_eq!(faults, ["no test for: | two | nothing |"]);
        assert_eq!(empty_promises("nothing").count(), 1);
    }
}
