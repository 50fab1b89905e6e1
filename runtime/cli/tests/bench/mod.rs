// SPDX-License-Identifier: Apache-2.0
//! A scratch directory to run `trine` in, with its own state and image cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// The directory.
#[derive(Debug)]
pub(crate) struct Bench {
    scratch: TempDir,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { scratch: TempDir::new().expect("scratch directory") }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.scratch.path().join(path)
    }

    pub(crate) fn make_directory(&self, path: &str) {
        fs::create_dir_all(self.path(path)).expect("mkdir");
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("in the scratch directory")).expect("mkdir");
        fs::write(path, text).expect("write");
    }

    /// Runs `trine` with the words of a line.
    pub(crate) fn run(&self, line: &str) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_trine"))
            .arg("--root")
            .arg(self.path("run"))
            .arg("--images")
            .arg(self.path("images"))
            .args(line.split_whitespace())
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .output()
            .expect("trine runs");
        Said {
            code: output.status.code().expect("no signal"),
            stdout: String::from_utf8(output.stdout).expect("utf-8"),
            stderr: String::from_utf8(output.stderr).expect("utf-8"),
        }
    }

    /// Runs `trine`, which must refuse: with this exit status, with one line on stderr that says
    /// `expected`, with nothing on stdout, and with no container left.
    pub(crate) fn refused(&self, line: &str, code: i32, expected: &str) {
        let said = self.run(line);
        assert_eq!(said.code, code, "{line}: {said:?}");
        assert_eq!(said.stderr.lines().count(), 1, "{line}: {said:?}");
        assert!(said.stderr.starts_with("trine: "), "{line}: {said:?}");
        assert!(said.stderr.contains(expected), "{line}: {said:?}");
        assert_eq!(said.stdout, "", "{line}");
        self.assert_empty();
    }

    /// Checks that no container is left on disk, and no temporary file in the image cache.
    pub(crate) fn assert_empty(&self) {
        assert_eq!(names_in(&self.path("run")), [""; 0]);
        let images = names_in(&self.path("images"));
        assert!(images.iter().all(|name| !name.starts_with("tmp-")), "{images:?}");
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return vec![];
    };
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}
