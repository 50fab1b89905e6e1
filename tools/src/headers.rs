// SPDX-License-Identifier: Apache-2.0
//! Every source file says its licence in the first lines.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const HEADER: &str = "SPDX-License-Identifier: Apache-2.0";
const EXTENSIONS: &[&str] =
    &["rs", "S", "c", "h", "ld", "sh", "py", "toml", "yaml", "yml", "mk", "proto"];
const NAMES: &[&str] = &["Makefile", "run"];
/// `rustup` and `rustfmt` read these two; they hold settings and no work.
const EXEMPT: &[&str] = &["rust-toolchain.toml", "rustfmt.toml"];

/// Returns the source files without a licence header.
pub(crate) fn check(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| is_source(file)) {
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let text = String::from_utf8_lossy(&text);
        // The second line, when the first one says which interpreter runs the file.
        if !text.lines().take(2).any(|line| line.contains(HEADER)) {
            faults.push(format!("{}: no {HEADER:?} in the first two lines", file.display()));
        }
    }
    Ok(faults)
}

fn is_source(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let is_named = EXTENSIONS.contains(&extension) || NAMES.contains(&name);
    is_named && !EXEMPT.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_missing_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (folder.path().join("a.rs"), folder.path().join("b.rs"));
        fs::write(&good, format!("// {HEADER}\n")).unwrap();
        fs::write(&bad, "fn main() {}\n").unwrap();
        let other = folder.path().join("c.png");
        fs::write(&other, "").unwrap();
        let faults = check(&[good, bad, other]).unwrap();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("b.rs"), "{faults:?}");
    }

    #[test]
    fn header_may_follow_the_interpreter() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("x.sh");
        fs::write(&script, format!("#!/bin/sh\n# {HEADER}\n")).unwrap();
        assert!(check(&[script]).unwrap().is_empty());
    }
}
