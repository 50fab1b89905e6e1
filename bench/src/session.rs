// SPDX-License-Identifier: Apache-2.0
//! Everything that one run of the benchmark holds.

use anyhow::Result;

use crate::{
    args::Args, bundle::Rootfs, cgroups::Cgroups, debian::Debian, launch::Launcher,
    programs::Programs, runner::Runner, scratch::Scratch, system::System, tools::Tools,
};

/// One run.  The fields are dropped in this order: processes end before their directories go.
#[derive(Debug)]
pub(crate) struct Session {
    /// What was asked for.
    pub(crate) args: Args,
    /// What is compared.
    pub(crate) tools: Tools,
    /// What the containers have.
    pub(crate) rootfs: Rootfs,
    /// A larger root file system, or why there is none.
    pub(crate) debian: Result<Debian, String>,
    /// Starts programs.
    pub(crate) runner: Runner,
    /// Where things lie.
    pub(crate) scratch: Scratch,
    /// Holds this process in a cgroup, and removes all of them at the end.
    _cgroups: Cgroups,
}

impl Session {
    /// Gets everything ready.
    ///
    /// # Errors
    /// If something is missing that nothing can be measured without.
    pub(crate) fn begin(args: Args) -> Result<Self> {
        let runner = Runner::new()?;
        let programs = Programs::find(&runner)?;
        let tools = Tools::find(&args, &runner)?;
        let scratch = Scratch::make(args.scratch.as_deref())?;
        let rootfs = Rootfs::make(&scratch, &programs)?;
        let debian = Debian::find(&args, &scratch)?;
        let cgroups = Cgroups::enter(scratch.name());
        Ok(Self { args, tools, rootfs, debian, runner, scratch, _cgroups: cgroups })
    }

    /// The runtimes that were asked for.
    ///
    /// # Errors
    /// If their directories cannot be made.
    pub(crate) fn launchers(&self) -> Result<Vec<(System, Result<Launcher, String>)>> {
        let runtimes = self.args.systems.iter().filter(|system| **system != System::Plain);
        runtimes
            .map(|system| Ok((*system, Launcher::make(*system, &self.tools, &self.scratch)?)))
            .collect()
    }

    /// Tells whether a system was asked for.
    pub(crate) fn has(&self, system: System) -> bool {
        self.args.systems.contains(&system)
    }
}
