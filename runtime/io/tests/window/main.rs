// SPDX-License-Identifier: Apache-2.0
//! The I/O server over real windows; the tests play the sandbox and the guest kernel.

mod common;
mod escapes;
mod files;
mod hostile;
mod policy;
mod sockets;
mod streams;
mod volume;
