// SPDX-License-Identifier: Apache-2.0
//! `trine-io`: serves one sandbox on the link that is its standard input.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Context;
use trine_link::Link;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trine-io: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    trine_jail::begin()?;
    let link = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .context("cannot take over the link")?;
    let link = Link::from_descriptor(link);
    trine_io::serve(link, trine_jail::network::enter, trine_jail::io::confine)?;
    Ok(())
}
