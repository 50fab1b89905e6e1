// SPDX-License-Identifier: Apache-2.0
//! End-to-end tests of Trine, and its demonstration.
//!
//! | command | what |
//! | --- | --- |
//! | `fetch` | gets Debian packages, builds the images and programs that guests run |
//! | `ctr` | runs containers through a containerd of its own; also against runc |
//! | `kvm` | boots Debian's kernel in QEMU with an emulated AMD-V, and runs VMs on its KVM |
//! | `compat` | runs programs and test suites from Debian under runc and under Trine |
//! | `bench-root` | makes the root file system of programs that the benchmark runs |
//! | `demo` | shows the main things, step by step |
//!
//! `ctr`, `compat` and `demo` re-execute themselves in mount and pid namespaces of their own: whatever they
//! start ends with them, and what a leak check finds there is theirs.
#![forbid(unsafe_code)]

mod bed;
mod bundle;
mod canary;
mod census;
mod command;
mod compat;
mod ctr;
mod demo;
mod images;
mod isolate;
mod lane;
mod packages;
mod paths;
mod pod;
mod programs;
mod smoke;
mod suite;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// The runtime that is tested unless another is named.
pub(crate) const TRINE: &str = "io.containerd.trine.v1";

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get Debian packages, build the images and programs that guests run
    Fetch,
    /// Test through a private containerd
    Ctr(CtrArguments),
    /// Test under a standard KVM, emulated by QEMU
    Kvm(KvmArguments),
    /// Compare what programs from Debian do under runc and under Trine
    Compat(compat::Arguments),
    /// Make the root file system of programs that the benchmark runs, and print its directory
    BenchRoot,
    /// Show the main things, step by step
    Demo,
    /// The part of `ctr` that runs in namespaces of its own
    #[command(hide = true)]
    CtrInside(CtrArguments),
    /// The part of `compat` that runs in namespaces of its own
    #[command(hide = true)]
    CompatInside(compat::Arguments),
    /// The part of `demo` that runs in namespaces of its own
    #[command(hide = true)]
    DemoInside,
}

#[derive(Args, Debug)]
struct CtrArguments {
    /// Runtime to test; a case that io.containerd.runc.v2 fails is a wrong case
    #[arg(long, default_value = TRINE)]
    runtime: String,
    #[command(flatten)]
    words: Words,
}

#[derive(Args, Debug)]
struct KvmArguments {
    /// Run each case so many times, for what happens now and then only
    #[arg(long, default_value_t = 1)]
    repeat: u8,
    #[command(flatten)]
    words: Words,
}

#[derive(Args, Debug)]
struct Words {
    /// Run only the cases whose names contain one of these
    words: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    match Arguments::parse().command {
        Command::Fetch => {
            images::prepare()?;
            images::python()?;
            lane::prepare()?;
            Ok(true)
        }
        Command::Ctr(arguments) => {
            if let Some(reason) = ctr::cannot_run(&arguments.runtime) {
                return Ok(suite::skip_all("e2e-ctr", &reason));
            }
            images::prepare()?;
            let mut inside = vec!["ctr-inside", "--runtime", &arguments.runtime];
            inside.extend(arguments.words.words.iter().map(String::as_str));
            isolate::run(&inside)
        }
        Command::Kvm(arguments) => lane::run(&arguments.words.words, usize::from(arguments.repeat)),
        Command::Compat(arguments) => compat::run(&arguments),
        Command::BenchRoot => {
            println!("{}", compat::bench_root()?.display());
            Ok(true)
        }
        Command::Demo => {
            images::prepare()?;
            images::python()?;
            isolate::run(&["demo-inside"])
        }
        Command::CtrInside(arguments) => ctr::run(&arguments.runtime, arguments.words.words),
        Command::CompatInside(arguments) => compat::run_inside(&arguments),
        Command::DemoInside => demo::run(),
    }
}
