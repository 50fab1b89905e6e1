// SPDX-License-Identifier: Apache-2.0
//! What the guest kernel has of each system call.

mod table;

use trine_abi::names;

/// How much of a system call there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// All of it.
    Full,
    /// Some of it; what is missing.
    Partial(&'static str),
    /// Nothing; what happens instead, if that is not ENOSYS.
    None(&'static str),
}

/// Says how much of a system call there is.
pub fn support(number: u32) -> Support {
    match table::CALLS.binary_search_by_key(&number, |call| call.0) {
        Ok(at) => table::CALLS[at].1,
        Err(_) => Support::None(""),
    }
}

/// The name of a system call; `None` if Linux has no such call on x86-64.
pub fn name(number: u32) -> Option<&'static str> {
    Some(names::of(number.into())).filter(|name| *name != "unknown")
}
