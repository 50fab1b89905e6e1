// SPDX-License-Identifier: Apache-2.0
//! The programs that run inside the containers.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{runner::Runner, tools};

/// Static programs, the same bytes for every system.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Prints a line.
    pub(crate) hello: PathBuf,
    /// The loops.
    pub(crate) workload: PathBuf,
    /// A static busybox, if this host has one.
    pub(crate) busybox: Option<PathBuf>,
}

/// What the hello program prints.
pub(crate) const HELLO_OUTPUT: &[u8] = b"hello from a container\n";

impl Programs {
    /// Finds the programs beside this one.  Under `cargo run`, which builds this one only, builds
    /// them first.
    ///
    /// # Errors
    /// If they are not there.
    pub(crate) fn find(runner: &Runner) -> Result<Self> {
        let own = env::current_exe().context("cannot tell which program this is")?;
        let directory = own.parent().context("this program has no directory")?;
        if let (Some(cargo), Some(crate_directory)) =
            (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR"))
        {
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--bins", "--manifest-path"]);
            build.arg(Path::new(&crate_directory).join("Cargo.toml"));
            if directory.ends_with("release") {
                build.arg("--release");
            }
            runner.succeed(&mut build)?;
        }
        let program = |name: &str| {
            let path = directory.join(name);
            if !path.is_file() {
                bail!("{} is missing: cargo build --release -p trine-bench", path.display());
            }
            Ok(path)
        };
        Ok(Self {
            hello: program("trine-bench-hello")?,
            workload: program("trine-bench-workload")?,
            busybox: tools::in_path("busybox").filter(|path| is_static(path)),
        })
    }
}

fn is_static(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| !has_interpreter(&bytes))
}

/// Tells whether an ELF file has a PT_INTERP header; what is no 64-bit ELF file counts as if it had.
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |offset: usize, length: usize| -> Option<usize> {
        let bytes = elf.get(offset..offset.checked_add(length)?)?;
        let value = bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    let headers = || {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(table.checked_add(index * size)?, 4))
            .collect::<Option<Vec<_>>>()
    };
    let is_elf64 = elf.starts_with(b"\x7fELF\x02\x01");
    match headers() {
        Some(kinds) if is_elf64 => kinds.contains(&(PT_INTERP as usize)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kinds: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56 * kinds.len()];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (bytes[32], bytes[54], bytes[56]) = (64, 56, kinds.len() as u8);
        for (index, kind) in kinds.iter().enumerate() {
            bytes[64 + 56 * index] = *kind;
        }
        bytes
    }

    #[test]
    fn interpreter_is_found_in_any_header() {
        assert!(has_interpreter(&elf(&[6, 3, 1])));
        assert!(!has_interpreter(&elf(&[1, 1, 2])));
    }

    #[test]
    fn what_is_no_elf_file_is_not_static() {
        assert!(has_interpreter(b"#!/bin/sh\n"));
        let mut cut = elf(&[1, 1]);
        cut.truncate(100);
        assert!(has_interpreter(&cut));
    }
}
