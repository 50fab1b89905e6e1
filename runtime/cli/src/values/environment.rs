// SPDX-License-Identifier: Apache-2.0
//! Environment variables from flags, files and images.

use std::{env, fs, os::unix::ffi::OsStrExt as _, path::Path};

use anyhow::{Context as _, Result, bail};

/// Variables as `NAME=value`, each name once.
pub(crate) type Variables = Vec<Vec<u8>>;

/// Parses a flag's `NAME=value`.  `NAME` alone takes the value of the caller's variable, and is
/// dropped if there is none.
///
/// # Errors
/// If there is no name, or a NUL byte.
pub(crate) fn parse_assignment(text: &str) -> Result<Option<Vec<u8>>> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    if name.is_empty() {
        bail!("variable {text:?} has no name: give NAME=VALUE");
    }
    if text.contains('\0') {
        bail!("variable {name:?} has a NUL byte: remove it");
    }
    if name.len() < text.len() {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    Ok(env::var_os(name).map(|value| [name.as_bytes(), b"=", value.as_bytes()].concat()))
}

/// Reads a file of `NAME=value` lines; empty lines and those that begin with `#` do not count.
///
/// # Errors
/// If it cannot be read, or a line is wrong (named by its number).
pub(crate) fn read_file(path: &Path) -> Result<Variables> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read environment file {}", path.display()))?;
    parse_lines(&text).with_context(|| format!("environment file {}", path.display()))
}

fn parse_lines(text: &str) -> Result<Variables> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = parse_assignment(line).with_context(|| format!("line {}", index + 1))?;
        variables.extend(parsed);
    }
    Ok(variables)
}

/// Adds variables; those of the same name are replaced where they stand.
pub(crate) fn merge(into: &mut Variables, more: impl IntoIterator<Item = Vec<u8>>) {
    for variable in more {
        match into.iter_mut().find(|old| name_of(old) == name_of(&variable)) {
            Some(old) => *old = variable,
            None => into.push(variable),
        }
    }
}

fn name_of(variable: &[u8]) -> &[u8] {
    variable.split(|byte| *byte == b'=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(variables: &Variables) -> Vec<&str> {
        variables.iter().map(|bytes| str::from_utf8(bytes).expect("utf-8")).collect()
    }

    #[test]
    fn parse_assignment_of_name_alone_takes_the_callers() {
        // PATH is set wherever tests run; the other is not set anywhere.
        let path = parse_assignment("PATH").expect("valid").expect("set");
        assert!(path.starts_with(b"PATH=") && path.len() > 5);
        assert_eq!(parse_assignment("TRINE_SURELY_UNSET").expect("valid"), None);
    }

    #[test]
    fn parse_assignment_keeps_later_equal_signs() {
        assert_eq!(parse_assignment("A=b=c").expect("valid"), Some(b"A=b=c".to_vec()));
        assert_eq!(parse_assignment("A=").expect("valid"), Some(b"A=".to_vec()));
    }

    #[test]
    fn parse_assignment_without_name_is_refused() {
        assert!(parse_assignment("=x").is_err());
        assert!(parse_assignment("").is_err());
        assert!(parse_assignment("A=\0").is_err());
    }

    #[test]
    fn parse_lines_skips_comments_and_names_the_bad_line() {
        let good = parse_lines("# head\n\nA=1\n  B= two \nTRINE_SURELY_UNSET\n").expect("valid");
        assert_eq!(strings(&good), ["A=1", "B= two "]);
        let error = format!("{:#}", parse_lines("A=1\n=2\n").expect_err("no name"));
        assert!(error.starts_with("line 2: "), "{error}");
    }

    #[test]
    fn merge_replaces_in_place_and_appends() {
        let mut variables = vec![b"A=1".to_vec(), b"B=2".to_vec()];
        merge(&mut variables, [b"B=3".to_vec(), b"C=4".to_vec(), b"AA=5".to_vec()]);
        assert_eq!(strings(&variables), ["A=1", "B=3", "C=4", "AA=5"]);
    }
}
