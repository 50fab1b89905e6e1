// SPDX-License-Identifier: Apache-2.0
//! What can go wrong in a sandbox.

use std::io;

/// An error of the sandbox library.  Shim and CLI map it to their own codes by variant.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::error_impl_error, reason = "the one error of the library")]
pub enum Error {
    /// The id is taken.
    #[error("{kind} {id:?} already exists")]
    AlreadyExists {
        /// "container" or "exec".
        kind: &'static str,
        /// The id.
        id: String,
    },
    /// No such container or exec.
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// "container" or "exec".
        kind: &'static str,
        /// The id.
        id: String,
    },
    /// The process is in another state than the call needs.
    #[error("cannot {action}: {what} is {state}")]
    WrongState {
        /// What was asked.
        action: &'static str,
        /// What it was asked of.
        what: String,
        /// The state it is in.
        state: &'static str,
    },
    /// The spec or a parameter cannot be used.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// Field or parameter.
        what: String,
        /// Why not, and what would do.
        reason: String,
    },
    /// A feature that Trine does not have.
    #[error("{what} is not supported: {hint}")]
    Unsupported {
        /// The feature.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// The guest could not load the program; `errno` tells which exit code (2: 127, 13: 126, ...).
    #[error("cannot run {program:?}: {reason}")]
    Program {
        /// `args[0]`.
        program: String,
        /// Linux errno.
        errno: u32,
        /// One line.
        reason: String,
    },
    /// The VM ended before it answered.
    #[error("vm of container {id:?} ended: {reason}")]
    VmEnded {
        /// Container.
        id: String,
        /// One line from the VMM.
        reason: String,
    },
    /// The guest did not answer in time.
    #[error("{what} did not answer within {seconds} s")]
    Timeout {
        /// Who.
        what: String,
        /// Deadline.
        seconds: u64,
    },
    /// /dev/kvm cannot be used.
    #[error("cannot use /dev/kvm: {reason}")]
    Kvm {
        /// Why, with the remedy.
        reason: String,
    },
    /// A host operation failed.
    #[error("cannot {action}")]
    Host {
        /// What was being done, with the value.
        action: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Wraps an I/O error with what was being done.
    pub fn host(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Host { action: action.into(), source: source.into() }
    }
}
