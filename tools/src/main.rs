// SPDX-License-Identifier: Apache-2.0
//! Checks of the source tree that compilers do not make, and the sum of test results.
//!
//! `make lint` runs `check`, `make test` ends with `totals`.
#![forbid(unsafe_code)]

mod calls;
mod crates;
mod headers;
mod licences;
mod links;
mod metadata;
mod promises;
mod totals;
mod tree;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::metadata::Metadata;

/// Checks the source tree.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check licence headers, the crate graph, licences of dependencies, links and tests in documents
    Check,
    /// Write the table of system calls into docs/compatibility.md
    Calls,
    /// Sum up the test results in logs, and print them as the last line
    Totals {
        /// Output of `cargo test` and of the e2e harness
        #[arg(required = true)]
        logs: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Check => check(),
        Command::Calls => calls::write(),
        Command::Totals { logs } => totals::print(&logs),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every check and prints all that is wrong, not only the first.
fn check() -> Result<bool> {
    let files = tree::files()?;
    let metadata = Metadata::read()?;
    let checks = [
        ("licence headers", headers::check(&files)?),
        ("crate graph", crates::check(&metadata)?),
        ("licences of dependencies", licences::check(&metadata)?),
        ("table of system calls", calls::check()?),
        ("links in documents", links::check(&files)?),
        ("tests named in documents", promises::check(&files)?),
    ];
    let mut is_clean = true;
    for (name, faults) in checks {
        println!("{name}: {}", if faults.is_empty() { "clean" } else { "faults" });
        for fault in faults {
            is_clean = false;
            println!("  {fault}");
        }
    }
    Ok(is_clean)
}
