// SPDX-License-Identifier: Apache-2.0
//! What a sandbox and its VMM say to each other, over a `trine_link::Link` on the VMM's standard
//! input.
//!
//! ```text
//! sandbox                             trine-vmm
//!  BOOT {BootRequest} + descriptors ->  makes the VM, runs the kernel
//!  COMMAND {abi Command}            ->  to the kernel's control ring, as it is
//!  REQUEST {Request}                ->
//!                                   <-  EVENT {abi Event}: from the kernel; a hostile guest's bytes
//!                                   <-  NOTICE {Notice}
//! ```
//!
//! BOOT comes first, with the descriptors in this order: kernel image, window memfd, doorbell
//! eventfd (guest to I/O server), notify eventfd (I/O server to guest), then one per image.  The
//! VMM ends by itself when the VM ends, and when the link closes: a sandbox that dies takes its VMs
//! with it.

use serde::{Deserialize, Serialize};
use trine_jail::Landlock;

/// Kind of a [`BootRequest`].
pub const BOOT: u8 = 1;
/// Kind of an encoded `trine_abi::control::Command`.
pub const COMMAND: u8 = 2;
/// Kind of a [`Request`].
pub const REQUEST: u8 = 3;
/// Kind of an encoded `trine_abi::control::Event`.
pub const EVENT: u8 = 4;
/// Kind of a [`Notice`].
pub const NOTICE: u8 = 5;

/// How programs enter the guest's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemCalls {
    /// Those of the image that were rewritten jump; all others trap.
    #[default]
    Direct,
    /// All trap.
    Trap,
}

impl std::str::FromStr for SystemCalls {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "direct" => Ok(Self::Direct),
            "trap" => Ok(Self::Trap),
            _ => Err("must be direct or trap"),
        }
    }
}

/// What the VM is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRequest {
    /// Container id, for the process title and the log.
    pub id: String,
    /// Guest RAM in bytes; rounded up to 2 MiB; at least `trine_abi::layout::RAM_MIN`.
    pub memory_bytes: u64,
    /// vCPUs, 1 to `trine_abi::layout::MAX_VCPUS`.
    pub vcpus: u32,
    /// Image descriptors that follow the first four.
    pub images: u32,
    /// Whether the process confines itself with Landlock.
    pub landlock: Landlock,
    /// How programs enter the guest's kernel.
    pub system_calls: SystemCalls,
}

/// What the sandbox asks of a running VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Stops the vCPUs.  Answered by [`Notice::Paused`].
    Pause,
    /// Lets them run again.  Answered by [`Notice::Resumed`].
    Resume,
    /// Ends the VM at once.
    Stop,
}

/// Stages of a start, in nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// The VMM began to make the VM (just before KVM_CREATE_VM).
    pub create_ns: u64,
    /// The VM was made and loaded.
    pub loaded_ns: u64,
    /// The application's first instruction was about to run.
    pub ready_ns: u64,
}

/// Why a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The kernel powered off: the container's first process ended.
    PowerOff,
    /// [`Request::Stop`], or the link closed.
    Stopped,
    /// The kernel reported a failure of its own.
    Panic,
    /// The guest did something that a sound kernel never does (triple fault, unknown exit, a broken
    /// control ring).
    BadGuest,
    /// The host ran out of memory for the guest.
    OutOfMemory,
    /// KVM or the host failed.
    Host,
}

/// What the VMM tells the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The VM exists and the kernel is about to run.
    Booted,
    /// The first application instruction is about to run.
    Ready(Stages),
    /// The vCPUs stand still.
    Paused,
    /// The vCPUs run again.
    Resumed,
    /// The VM ended; the last message.
    Ended {
        /// Why.
        cause: Cause,
        /// One line, for a person.
        reason: String,
    },
}
