// SPDX-License-Identifier: Apache-2.0
//! Finds the programs that are compared, and says what is missing and why.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{args::Args, failure, runner::Runner, runsc, system::System};

/// A program, or why there is none.
pub(crate) type Found = Result<PathBuf, String>;

/// What there is on this host.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The OCI runtime that others are measured by.
    pub(crate) runc: Found,
    /// gVisor.
    pub(crate) runsc: Found,
    /// Our command line.
    pub(crate) trine: Found,
    /// Our shim.
    pub(crate) shim: Found,
    /// Our guest kernel.
    pub(crate) kernel: Found,
    /// containerd and its client.
    pub(crate) containerd: Found,
    /// The client.
    pub(crate) ctr: Found,
    /// containerd's shim for runc.
    pub(crate) runc_shim: Found,
}

impl Tools {
    /// Looks for everything; downloads runsc if it is wanted and not there.
    ///
    /// # Errors
    /// If somebody interrupts.
    pub(crate) fn find(args: &Args, runner: &Runner) -> Result<Self> {
        let is_wanted = |system| args.systems.contains(&system);
        let wanted = |system, find: &dyn Fn() -> Found| match is_wanted(system) {
            true => find(),
            false => Err("not asked for".to_owned()),
        };
        let trine = wanted(System::Trine, &|| trine(args.trine.as_deref()));
        let beside = |name: &str| {
            let directory = trine.as_ref()?.parent().unwrap_or(Path::new("/"));
            Ok(directory.join(name)).map(|path: PathBuf| path.is_file().then_some(path))
        };
        let shim_name = "containerd-shim-trine-v1";
        let shim = beside(shim_name).map_err(|reason: &String| reason.clone());
        let shim =
            shim.and_then(|found| found.map_or_else(|| installed(shim_name, "make build"), Ok));
        let kernel = match &trine {
            Ok(trine) => kernel(trine),
            Err(reason) => Err(reason.clone()),
        };
        let tools = Self {
            runc: wanted(System::Runc, &|| installed("runc", "apt-get install runc")),
            runsc: wanted(System::Runsc, &|| runsc::find(args, runner)),
            trine,
            shim,
            kernel,
            containerd: installed("containerd", "apt-get install containerd"),
            ctr: installed("ctr", "apt-get install containerd"),
            runc_shim: installed("containerd-shim-runc-v2", "apt-get install containerd"),
        };
        anyhow::ensure!(!runner.is_interrupted(), "interrupted");
        Ok(tools)
    }

    /// The program of a system that has one.
    pub(crate) fn of(&self, system: System) -> Found {
        match system {
            System::Plain => Err("a plain process has no runtime".to_owned()),
            System::Runc => self.runc.clone(),
            System::Runsc => self.runsc.clone(),
            System::Trine => self.trine.clone(),
        }
    }

    /// Names and versions of what was found.
    pub(crate) fn versions(&self, runner: &Runner) -> Vec<(String, String)> {
        let programs = [
            ("runc", &self.runc),
            ("runsc", &self.runsc),
            ("trine", &self.trine),
            ("containerd", &self.containerd),
        ];
        let version = |(name, found): (&str, &Found)| {
            let version = match found {
                Ok(path) => version(path, runner).unwrap_or_else(|error| failure::one_line(&error)),
                Err(reason) => format!("absent: {reason}"),
            };
            (name.to_owned(), version)
        };
        programs.into_iter().map(version).collect()
    }
}

/// Looks a program up in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn installed(name: &str, remedy: &str) -> Found {
    in_path(name).ok_or_else(|| format!("{name} is not in PATH: {remedy}"))
}

fn trine(given: Option<&Path>) -> Found {
    if let Some(path) = given {
        return fs::canonicalize(path)
            .map_err(|error| format!("--trine {}: {error}", path.display()));
    }
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|directory| directory.join("trine"));
    match beside.filter(|path| is_program(path)) {
        Some(path) => Ok(path),
        None => installed("trine", "make build"),
    }
}

/// The guest kernel, where the runtime looks for it.
fn kernel(trine: &Path) -> Found {
    let beside = trine.parent().unwrap_or(Path::new("/"));
    let mut directories: Vec<PathBuf> =
        env::var_os("TRINE_LIBEXEC").map(PathBuf::from).into_iter().collect();
    directories.push(beside.to_owned());
    directories.push(beside.join("../libexec/trine"));
    directories.push(PathBuf::from("/usr/local/libexec/trine"));
    let found = directories.iter().map(|directory| directory.join("trine-kernel"));
    let mut found = found.filter(|path| path.is_file());
    found.next().ok_or_else(|| {
        format!("no trine-kernel in any of {directories:?}: make build, or set TRINE_LIBEXEC")
    })
}

fn version(program: &Path, runner: &Runner) -> Result<String> {
    let finished = runner.succeed(Command::new(program).arg(OsStr::new("--version")))?;
    let text = String::from_utf8_lossy(&finished.stdout);
    let line = text.lines().next().context("it prints no version")?;
    Ok(line.trim().to_owned())
}
