// SPDX-License-Identifier: Apache-2.0
//! What can go wrong in a VMM.

use std::io;

/// An error that ends the VMM.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A KVM call failed.
    #[error("kvm cannot {action}")]
    Kvm {
        /// What was asked of it.
        action: &'static str,
        /// The cause.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// /dev/kvm cannot be opened.
    #[error("cannot open /dev/kvm (run `trine doctor`)")]
    NoKvm(#[source] kvm_ioctls::Error),
    /// A host call failed.
    #[error("cannot {action}")]
    Host {
        /// What was being done.
        action: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel image cannot be used.
    #[error("kernel image is unusable: {0}")]
    Kernel(String),
    /// The boot request cannot be used.
    #[error("boot request is unusable: {0}")]
    Request(String),
    /// The process cannot be confined.
    #[error("cannot confine the vmm")]
    Jail(#[from] trine_jail::JailError),
    /// The link to the sandbox failed.
    #[error("link to the sandbox failed")]
    Link(#[from] trine_link::LinkError),
    /// Guest memory was addressed outside of RAM.
    #[error("guest memory access failed")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

impl Error {
    /// Wraps a host error.
    pub fn host(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Host { action: action.into(), source: source.into() }
    }

    /// Wraps a KVM error.
    pub fn kvm(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { action, source }
    }
}
