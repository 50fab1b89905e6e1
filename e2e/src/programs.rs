// SPDX-License-Identifier: Apache-2.0
//! The programs of `e2e/guest`, compiled for guests, and broken ones made of them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{command, paths};

/// Names of the programs, and of their sources without `.c`.
pub(crate) const NAMES: &[&str] = &[
    "bombs",
    "direct",
    "elves",
    "escape",
    "faults",
    "forks",
    "forward",
    "hello",
    "memory",
    "preempt",
    "shootdown",
    "signals",
    "simd",
    "terminal",
    "threads",
    "wild",
];

/// What they include.
const HEADER: &str = "e2e/guest/check.h";

/// Names of programs, in `/broken` of the busybox image, that no system can run, with what is wrong
/// with them.
pub(crate) const BROKEN: &[(&str, &str)] = &[
    ("wrong-architecture", "an executable for 64-bit ARM"),
    ("corrupt", "an ELF header that points nowhere"),
    ("empty", "nothing in it"),
    ("no-loader", "a dynamic executable whose interpreter is missing"),
    ("no-interpreter", "a script whose interpreter is missing"),
    ("not-executable", "a program without execute permission"),
];

/// The sources, so that a change of one makes the images anew.
pub(crate) fn sources() -> Result<String> {
    let mut text = include_str!("programs.rs").to_owned();
    let files = NAMES.iter().map(|name| source(name)).chain([paths::root().join(HEADER)]);
    for file in files {
        text += &fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    }
    Ok(text)
}

fn source(name: &str) -> PathBuf {
    paths::root().join(format!("e2e/guest/{name}.c"))
}

/// Compiles the programs and returns their folder, with one folder `broken` in it.
pub(crate) fn build() -> Result<PathBuf> {
    let folder = paths::cache().join("guest");
    let broken = folder.join("broken");
    fs::create_dir_all(&broken).with_context(|| format!("create {}", broken.display()))?;
    for name in NAMES {
        compile(&source(name), &["-static"], &folder.join(name))?;
    }
    let good = fs::read(folder.join("hello")).context("read a program")?;

    compile(&source("hello"), &[], &broken.join("no-loader"))?;
    // e_machine of the ELF header: EM_AARCH64.
    let mut arm = good.clone();
    arm[18..20].copy_from_slice(&183_u16.to_le_bytes());
    write(&broken.join("wrong-architecture"), &arm, 0o755)?;
    // e_phoff: far behind the end of the file.
    let mut corrupt = good[..4096].to_vec();
    corrupt[32..40].copy_from_slice(&0x7fff_ffff_u64.to_le_bytes());
    write(&broken.join("corrupt"), &corrupt, 0o755)?;
    write(&broken.join("empty"), b"", 0o755)?;
    write(&broken.join("no-interpreter"), b"#!/no/such/interpreter\n", 0o755)?;
    write(&broken.join("not-executable"), &good, 0o644)?;
    Ok(folder)
}

/// Compiles the tracer, `e2e/host/tracer.c`, which runs on this host; returns its path.
pub(crate) fn tracer() -> Result<PathBuf> {
    let program = paths::cache().join("tracer");
    compile(&paths::root().join("e2e/host/tracer.c"), &[], &program)?;
    Ok(program)
}

fn compile(source: &Path, flags: &[&str], program: &Path) -> Result<()> {
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-pthread", "-O2", "-Wall", "-Wextra", "-Werror", "-s"]).args(flags);
    command::must(gcc.arg("-o").arg(program).arg(source), Duration::from_secs(120))?;
    Ok(())
}

fn write(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}
