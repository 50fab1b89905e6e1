// SPDX-License-Identifier: Apache-2.0
//! Compares Trine with runc and gVisor, side by side in one run.
//!
//! ```text
//! session ── runner      starts and times programs, reaps and ends all that is left
//!         ├─ scratch     a mount namespace and a directory
//!         ├─ cgroups     one over all
//!         ├─ tools       what is compared, or why it is absent
//!         ├─ rootfs      what small containers have
//!         └─ debian      what containers have that run Debian's programs
//! measure ── interleave  samples in turns
//!         └─ contest     programs that print their samples, in turns
//! results ── targets, report (table, chart), results.json
//! ```
#![forbid(unsafe_code)]

mod accounting;
mod args;
mod bundle;
mod cgroups;
mod containerd;
mod contest;
mod debian;
mod debugfs;
mod elf;
mod facts;
mod failure;
mod image;
mod interleave;
mod launch;
mod measure;
mod policy;
mod programs;
mod report;
mod results;
mod run;
mod runner;
mod runsc;
mod scratch;
mod session;
mod stats;
mod system;
mod targets;
mod tools;
mod wire;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match scratch::enter_namespace().and_then(|()| run::run(args)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {}", failure::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
