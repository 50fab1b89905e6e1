// SPDX-License-Identifier: Apache-2.0
//! Gets gVisor's `runsc`: bookworm's package is too old to have the systrap platform, trixie's has
//! it and is one static file.  Nothing is installed: the package is unpacked into the output
//! directory and stays there for the next run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{args::Args, failure, runner::Runner, tools::Found};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Finds `runsc`, or downloads it.
pub(crate) fn find(args: &Args, runner: &Runner) -> Found {
    if let Some(path) = &args.runsc {
        return fs::canonicalize(path)
            .map_err(|error| format!("--runsc {}: {error}", path.display()));
    }
    let cache = args.out.join("runsc");
    let program = cache.join("usr/bin/runsc");
    if !program.is_file() {
        if args.offline {
            return Err("it was never downloaded, and --offline was given".to_owned());
        }
        eprintln!("bench: downloading runsc (Debian trixie)");
        download(&cache, runner).map_err(|error| failure::one_line(&error))?;
    }
    fs::canonicalize(&program).map_err(|error| format!("{}: {error}", program.display()))
}

fn download(cache: &Path, runner: &Runner) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("there is a package for x86_64 only");
    }
    let work = tempfile::tempdir().context("cannot make a directory")?;
    for directory in ["lists/partial", "archives/partial", "unpacked"] {
        fs::create_dir_all(work.path().join(directory)).context("cannot make a directory")?;
    }
    let sources = work.path().join("sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYRING}] {MIRROR} trixie main\n"))
        .context("cannot write a list of package sources")?;

    runner.succeed(apt(work.path()).args(["-q", "update"]))?;
    runner.succeed(apt(work.path()).args(["-q", "download", "runsc"]).current_dir(&work))?;
    let package = package_in(work.path())?;
    let unpacked = work.path().join("unpacked");
    runner.succeed(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;

    // Copied under another name first: an interrupted copy must not look like the program.
    let directory = cache.join("usr/bin");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make directory {}", directory.display()))?;
    let partial = directory.join("runsc.partial");
    fs::copy(unpacked.join("usr/bin/runsc"), &partial)
        .and_then(|_| fs::rename(&partial, directory.join("runsc")))
        .with_context(|| format!("cannot write {}", directory.display()))?;
    Ok(())
}

/// apt-get with package lists and sources of its own, so that the host's do not change.
fn apt(work: &Path) -> Command {
    let mut command = Command::new("apt-get");
    for (option, path) in [
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::State::lists", "lists"),
        ("Dir::Cache", "."),
        ("Dir::Cache::archives", "archives"),
    ] {
        command.arg("-o").arg(format!("{option}={}", work.join(path).display()));
    }
    command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]);
    command
}

fn package_in(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).context("cannot read the download directory")?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(is_package)
        .context("apt-get downloaded nothing")
}
