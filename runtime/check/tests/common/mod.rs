// SPDX-License-Identifier: Apache-2.0
//! A folder, and a C compiler.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use trine_check::report::Call;

pub(crate) const HELLO: &str =
    "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n";

/// A folder for programs.
pub(crate) struct Bed {
    folder: TempDir,
}

impl Bed {
    /// `None`, and a message, without a compiler.
    pub(crate) fn new() -> Option<Self> {
        if Command::new("gcc").arg("--version").output().is_err() {
            eprintln!("skipped: no gcc (Debian: gcc libc6-dev)");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().expect("a folder") })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Compiles a C program.
    #[track_caller]
    pub(crate) fn compile(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        let program = self.folder().join(name);
        let file = self.folder().join(format!("{name}.c"));
        fs::write(&file, source).expect("written");
        let mut gcc = Command::new("gcc");
        gcc.arg("-D_GNU_SOURCE").arg(&file).args(flags).arg("-o").arg(&program);
        let output = gcc.output().expect("gcc runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program
    }

    /// Writes a program.
    pub(crate) fn write(&self, name: &str, contents: &[u8]) -> PathBuf {
        let program = self.folder().join(name);
        fs::write(&program, contents).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("made executable");
        program
    }
}

/// Names of calls.
pub(crate) fn names(calls: &[Call]) -> Vec<&'static str> {
    calls.iter().map(|call| call.name).collect()
}
