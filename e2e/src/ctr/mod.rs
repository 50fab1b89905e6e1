// SPDX-License-Identifier: Apache-2.0
//! Tests through `ctr` and a containerd of our own.
//!
//! Most cases hold for every runtime: what io.containerd.runc.v2 fails is a wrong case.  Those that
//! only make sense for VMs, or test `trine` itself, are skipped for others.

mod basic;
mod escape;
mod exec;
mod faults;
mod hostile;
mod kills;
mod leaks;
mod lifecycle;
mod network;
mod policy;
mod posture;
mod streams;
mod syscalls;
mod tool;
mod volumes;

use std::path::Path;

use anyhow::Result;

use crate::{TRINE, bed::Bed, suite::Suite};

/// Says why this suite cannot run on this host, if so.
pub(crate) fn cannot_run(runtime: &str) -> Option<String> {
    if runtime == TRINE && !Path::new("/dev/kvm").exists() {
        return Some("this host has no /dev/kvm, so that no VM can run here".to_owned());
    }
    None
}

/// Runs the suite, in namespaces of its own.
pub(crate) fn run(runtime: &str, words: Vec<String>) -> Result<bool> {
    let name = if runtime == TRINE { "e2e-ctr".to_owned() } else { format!("e2e-ctr {runtime}") };
    let mut suite = Suite::new(&name, words);
    let mut bed = Bed::new(runtime)?;
    suite.on_failure(bed.sweeper());

    basic::cases(&bed, &mut suite);
    streams::cases(&bed, &mut suite);
    exec::cases(&bed, &mut suite);
    lifecycle::cases(&bed, &mut suite);
    network::cases(&bed, &mut suite);
    faults::cases(&bed, &mut suite);
    volumes::cases(&bed, &mut suite);
    escape::cases(&bed, &mut suite);
    posture::cases(&bed, &mut suite);
    syscalls::cases(&bed, &mut suite);
    hostile::cases(&bed, &mut suite);
    policy::cases(&bed, &mut suite);
    tool::cases(&bed, &mut suite);
    leaks::cases(&bed, &mut suite);
    kills::cases(&mut bed, &mut suite);

    let log = bed.keep_log()?;
    let is_good = suite.finish();
    if !is_good {
        println!("containerd's log: {}", log.display());
    }
    Ok(is_good)
}

impl Bed {
    /// Says whether the runtime under test is Trine.
    pub(crate) fn is_trine(&self) -> bool {
        self.runtime == TRINE
    }

    /// Runs a case that is about VMs, or about Trine's own tools; skips it for other runtimes.
    fn vm_case(&self, suite: &mut Suite, name: &str, run_fn: impl FnOnce() -> Result<()>) {
        if self.is_trine() {
            suite.case(name, run_fn);
        } else {
            suite.skip(name, "about VMs");
        }
    }
}
