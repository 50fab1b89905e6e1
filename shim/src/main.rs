// SPDX-License-Identifier: Apache-2.0
//! `containerd-shim-trine-v1`: see the library `trine_shim`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    trine_shim::app::run(trine_shim::app::arguments())
}
