// SPDX-License-Identifier: Apache-2.0
//! The programs that run inside the containers.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{elf, runner::Runner, tools};

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
    fs::read(path).is_ok_and(|bytes| elf::is_static(&bytes))
}
