// SPDX-License-Identifier: Apache-2.0
//! `trine-kernel`: the guest kernel that the VMM loads.  It links nucleus, machine and personality,
//! and is the loop between them.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the entry point takes over the machine")]

extern crate alloc;

mod fpu;
mod run;
mod start;

use core::sync::atomic::Ordering;

use trine_abi::boot::{FEATURE_FSGSBASE, FEATURE_REWRITTEN_TEXT};
use trine_machine::{
    channel::Channel,
    cpu::{self, Cpu},
    heap::{self, Heap},
    window::Window,
};
use trine_posix::{
    kernel::{BootOptions, FpuOps, Kernel, TscClock},
    services::Services,
};

use crate::run::Machine;

#[global_allocator]
static HEAP: Heap = heap::new();

/// The entry point's first call on vCPU 0.
extern "C" fn main() -> ! {
    let () = trine_nucleus::LINKED;
    // SAFETY: this is the guest.
    let info = unsafe { cpu::boot_info() };
    // SAFETY: this is the guest, and this the only call.
    let arena = unsafe { cpu::arena(info) };
    cpu::clock_start(info);
    heap::init(arena);
    // SAFETY: the VMM mapped the window; nobody else takes it over.
    let window = unsafe { Window::of_guest(info) };
    // SAFETY: vCPU 0 runs this, once.
    let cpu = unsafe { Cpu::new(0, info) };
    // SAFETY: this is the guest, and this the only call.
    let channel = unsafe { Channel::new() };
    let (tsc_base, mult, base_ns) = cpu::clock_parameters();
    let services = Services::new(
        arena,
        cpu::monotonic_ns,
        info.realtime_ns.wrapping_sub(info.monotonic_ns),
        window,
        info.seed,
    );
    let needed = FEATURE_FSGSBASE | FEATURE_REWRITTEN_TEXT;
    services.rewritten_text.store(info.features & needed == needed, Ordering::Relaxed);
    let options = BootOptions {
        vcpus: info.vcpus,
        hwcap: info.hwcap,
        // HWCAP2_FSGSBASE.
        hwcap2: u32::from(info.features & FEATURE_FSGSBASE != 0) << 1,
        clock: TscClock { tsc_base, mult, base_ns },
        fpu: FpuOps {
            save_fn: fpu::save_task,
            changed_fn: fpu::forget,
            bytes: cpu.fpu_bytes(),
            mask: info.xsave_mask,
        },
    };
    fpu::give(0, cpu);
    run::init(Machine { kernel: Kernel::new(services, options), channel, info, is_ready: false });
    run::run(0)
}

/// The entry point's first call on the other vCPUs.
extern "C" fn main_of_other(index: usize) -> ! {
    // SAFETY: this is the guest.
    let info = unsafe { cpu::boot_info() };
    // SAFETY: this vCPU runs this, once.
    fpu::give(index, unsafe { Cpu::new(index as u64, info) });
    run::run(index)
}
