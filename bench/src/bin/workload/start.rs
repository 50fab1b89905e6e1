// SPDX-License-Identifier: Apache-2.0
//! Programs of another root file system as plain processes, from here: what changes the root is not
//! part of what they cost.

use std::{
    io,
    process::{Command, Stdio},
    time::Instant,
};

use crate::report;

/// Prints the milliseconds from just before posix_spawn to the exit, `samples` times.
pub(crate) fn run(root: &str, samples: u32, program: &str, arguments: &[&str]) -> io::Result<()> {
    rustix::process::chroot(root)?;
    rustix::process::chdir("/")?;
    for _ in 0..samples {
        let begun = Instant::now();
        let mut command = Command::new(program);
        let status = command.args(arguments).stdin(Stdio::null()).status()?;
        let took = begun.elapsed();
        if !status.success() {
            return Err(io::Error::other(format!("{program} ended with {status}")));
        }
        report("start", took.as_secs_f64() * 1e3)?;
    }
    Ok(())
}
