// SPDX-License-Identifier: Apache-2.0
//! `trine-vmm`: started by a sandbox with its link as standard input; not for people.

use std::process::ExitCode;

use trine_link::Link;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--version") {
        println!("trine-vmm {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Err(error) = trine_jail::begin() {
        eprintln!("trine-vmm: {:#}", anyhow::Error::from(error));
        return ExitCode::FAILURE;
    }
    let link = match rustix::io::dup(rustix::stdio::stdin()) {
        Ok(descriptor) => Link::from_descriptor(descriptor),
        Err(error) => {
            eprintln!("trine-vmm: standard input is not a link to a sandbox: {error}");
            return ExitCode::FAILURE;
        }
    };
    match trine_vmm::server::serve(&link) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trine-vmm: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}
