// SPDX-License-Identifier: Apache-2.0
//! The programs of `e2e/guest`, compiled statically for guests.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use crate::{command, paths};

/// Names of the programs, and of their sources without `.c`.
pub(crate) const NAMES: &[&str] =
    &["forks", "hello", "memory", "preempt", "signals", "simd", "terminal"];

/// The sources, so that a change of one makes the images anew.
pub(crate) fn sources() -> Result<String> {
    let folder = paths::root().join("e2e/guest");
    let mut text = String::new();
    for name in NAMES {
        let file = folder.join(format!("{name}.c"));
        text += &fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    }
    Ok(text)
}

/// Compiles the programs and returns their folder.
pub(crate) fn build() -> Result<PathBuf> {
    let folder = paths::cache().join("guest");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for name in NAMES {
        let source = paths::root().join(format!("e2e/guest/{name}.c"));
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o"]);
        command::must(gcc.arg(folder.join(name)).arg(source), Duration::from_secs(120))?;
    }
    Ok(folder)
}
