// SPDX-License-Identifier: Apache-2.0
//! A root file system of Debian's packages, with the programs that people run.  The end-to-end tests
//! make it (`trine-e2e bench-root`).

use std::{
    ffi::CStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount};

use crate::{args::Args, bundle::Container, contest::Arena, scratch::Scratch, system::System};

/// Where containers see what they share with the host.
pub(crate) const SHARED: &str = "/srv";

/// Processors of the containers.
pub(crate) const CPUS: u32 = 2;
/// Memory of the containers.
pub(crate) const MEMORY_BYTES: u64 = 1 << 30;

const NO_DATA: Option<&CStr> = None;

/// The root file system.
#[derive(Debug)]
pub(crate) struct Debian {
    /// What containers are made of.
    pub(crate) root: PathBuf,
    /// The same, ready for plain processes.
    plain: PathBuf,
    /// On the host, what is at [`SHARED`] for plain processes.
    shared: PathBuf,
}

impl Debian {
    /// Finds it; the reason if it is not there.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub(crate) fn find(args: &Args, scratch: &Scratch) -> Result<Result<Self, String>> {
        let root = &args.programs;
        if !root.join("usr/bin/bash").is_file() {
            let root = root.display();
            return Ok(Err(format!("{root} is not there: cargo run -p trine-e2e -- bench-root")));
        }
        let root =
            fs::canonicalize(root).with_context(|| format!("cannot use {}", root.display()))?;
        let (plain, shared) = (scratch.directory("debian")?, scratch.directory("shared")?);
        let prepare = || -> rustix::io::Result<()> {
            mount_bind(&root, &plain)?;
            mount_remount(&plain, MountFlags::BIND | MountFlags::RDONLY, "")?;
            mount_bind_recursive("/dev", plain.join("dev"))?;
            mount_bind(&shared, plain.join("srv"))?;
            mount("proc", plain.join("proc"), "proc", MountFlags::empty(), NO_DATA)?;
            mount("tmpfs", plain.join("tmp"), "tmpfs", MountFlags::empty(), Some(c"mode=1777"))
        };
        prepare().with_context(|| format!("cannot mount {}", root.display()))?;
        Ok(Ok(Self { root, plain, shared }))
    }

    /// Its root for plain processes, which sees the directories of [`Self::shared`].
    pub(crate) fn plain(&self) -> &Path {
        &self.plain
    }

    /// Makes a directory that plain processes see as the path that is returned beside it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn shared(&self, name: &str) -> Result<(PathBuf, String)> {
        let path = self.shared.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok((path, format!("{SHARED}/{name}")))
    }

    /// Where a script of bash runs that gets a directory, shared with the host, as its first
    /// argument.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub(crate) fn arena(
        &self,
        system: System,
        name: &str,
        script: &str,
        args: &[&str],
    ) -> Result<Arena> {
        let name = format!("{name}-{system}");
        let (directory, seen) = self.shared(&name)?;
        if system == System::Plain {
            let mut command = self.command("/bin/bash");
            command.args(["-c", script, &name, &seen]).args(args);
            return Ok(command.into());
        }
        let args = [&["/bin/bash", "-c", script, &name, SHARED], args].concat();
        let container = self.container(&name, &args);
        Ok(container.with_volume(&directory, SHARED).into())
    }

    /// A container of it.
    pub(crate) fn container(&self, name: &str, args: &[&str]) -> Container {
        let container = Container::new(name, &self.root, args);
        container.with_tmp().with_resources(CPUS, MEMORY_BYTES)
    }

    /// A program of it as a plain process.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        self.set_up(&mut command);
        command.arg(&self.plain).arg(program);
        command
    }

    /// Gives a command the variables that containers have.
    pub(crate) fn set_up(&self, command: &mut Command) {
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/tmp"),
            ("LC_ALL", "C"),
        ]);
    }
}
