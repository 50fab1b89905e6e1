// SPDX-License-Identifier: Apache-2.0
//! The page that one vCPU and the VMM share, and the calls to the VMM.
//!
//! A VMM call is a 4-byte write to [`crate::layout::MMIO_CALL`] from ring 3: an exit that needs no
//! privilege and no ring 0.  Its arguments lie in the vCPU's page.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// What a write to the call register asks of the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// Nothing is runnable: sleep until [`VcpuPage::deadline_ns`], a kick or a command.
    Idle = 1,
    /// The kernel put events on the control ring, or took commands from it.
    Control = 2,
    /// The VM ends; every event was put on the control ring before.
    PowerOff = 3,
    /// The kernel failed; [`VcpuPage::text`] of vCPU 0 says why in one line.
    Panic = 4,
    /// The first application instruction is about to run (for measurement and readiness).
    Ready = 5,
    /// Free memory: [`VcpuPage::args`] hold a guest-physical address and a length in bytes, both
    /// 2 MiB aligned; the contents are lost and read as zero.
    Release = 6,
    /// The first of [`VcpuPage::args`] is a set of vCPUs by bit: each is kicked if it runs, or woken
    /// if it idles.
    Kick = 7,
    /// This vCPU waits for another one: let other threads of the host run.
    Yield = 8,
    /// The other vCPUs may start; their entry point is that of vCPU 0.
    StartOthers = 9,
    /// [`VcpuPage::deadline_ns`] is due before the VMM would look ([`VcpuPage::next_look_ns`]).
    Timer = 10,
}

impl Call {
    /// Reads a call number, which comes from the guest.
    pub fn from_guest(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Idle,
            2 => Self::Control,
            3 => Self::PowerOff,
            4 => Self::Panic,
            5 => Self::Ready,
            6 => Self::Release,
            7 => Self::Kick,
            8 => Self::Yield,
            9 => Self::StartOthers,
            10 => Self::Timer,
            _ => return None,
        })
    }
}

/// Bytes of [`VcpuPage::text`].
pub const TEXT_BYTES: usize = 2048;

/// The shared page of one vCPU, at `layout::VCPU_PAGES + 4096 * index`.
///
/// Preemption: the VMM sets `kick` to 1 and injects [`crate::layout::VECTOR_KICK`].  It injects no
/// second time while `kick` is 1, unless that was long ago and the vCPU is in application code: the
/// injection was lost then.  (Two that overlap would destroy each other's interrupt frame.)  The kernel clears `kick` when the interrupt has been delivered
/// and seen: at once if it met the application, before the next return to it if it met the kernel.
#[derive(Debug)]
#[repr(C)]
pub struct VcpuPage {
    /// 1 from the injection of a kick until the kernel has seen it.
    pub kick: AtomicU32,
    /// 1 while application code of this vCPU shares it with another runnable task: the VMM then
    /// kicks at every tick.
    pub wants_tick: AtomicU32,
    /// CLOCK_MONOTONIC (guest's) of the next timer in nanoseconds; `u64::MAX` = none.  Read by the
    /// VMM at ticks and in [`Call::Idle`].
    pub deadline_ns: AtomicU64,
    /// Arguments of a call.
    pub args: [AtomicU64; 4],
    /// Written by the VMM: when it looks at the deadlines of running vCPUs next (CLOCK_MONOTONIC in
    /// nanoseconds); 0 while it waits for a vCPU to leave [`Call::Idle`], which makes it look.
    pub next_look_ns: AtomicU64,
    /// Bytes used of `text`.
    pub text_bytes: AtomicU32,
    /// Keeps `text` aligned.
    pub reserved: AtomicU32,
    /// Text of [`Call::Panic`] (on vCPU 0's page), UTF-8 if the kernel is sound.
    pub text: [AtomicU64; TEXT_BYTES / 8],
}

const _: () = assert!(size_of::<VcpuPage>() <= 4096);
