// SPDX-License-Identifier: Apache-2.0
//! The smallest container there is: prints one line and ends.
//!
//! Its entry is C's `main`, as what Rust's own does beforehand (an alternate stack, signal
//! handlers, reading `/proc/self/maps`) is not what a start costs.
#![no_main]

use std::ffi::c_int;

/// Prints the line.
#[expect(unsafe_code, reason = "the C library finds main by its name")]
#[unsafe(no_mangle)]
pub extern "C" fn main() -> c_int {
    let line = b"hello from a container\n";
    match rustix::io::write(rustix::stdio::stdout(), line) {
        Ok(written) if written == line.len() => 0,
        _ => 1,
    }
}
