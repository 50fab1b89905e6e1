// SPDX-License-Identifier: Apache-2.0
//! `trine-kernel`: the guest kernel that the VMM loads.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the entry point takes over the machine")]

mod start;

use trine_machine::{AddressSpace, Access, Frame, Page, Registers, context::Bases, cpu::{self, Cpu}, heap::{self, Heap}};

#[global_allocator]
static HEAP: Heap = heap::new();

unsafe extern "C" {
    static trine_nucleus_start: u8;
}

extern "C" fn main() -> ! {
    extern crate alloc;
    use alloc::boxed::Box;
    core::hint::black_box(&raw const trine_nucleus_start);
    let _ = &trine_nucleus::LINKED;
    let info = unsafe { cpu::boot_info() };
    cpu::clock_start(info);
    // before the heap exists
    static mut ARENA: core::mem::MaybeUninit<trine_machine::Arena> = core::mem::MaybeUninit::uninit();
    let arena: &'static trine_machine::Arena = unsafe { (*(&raw mut ARENA)).write(cpu::arena(info)) };
    heap::init(arena);
    let mut cpu = unsafe { Cpu::new(0, info) };
    let mut space = AddressSpace::new(arena).expect("space");
    let frame = Frame::zeroed(arena).expect("frame");
    // mov $39,%eax; syscall; inc r12; jmp
    frame.write(0, &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x49, 0xff, 0xc4, 0xeb, 0xf4]);
    space.map(0x40_0000, Page::Frame(frame), Access::READ_EXECUTE).expect("map");
    let mut regs = Box::new(Registers { rip: 0x40_0000, rsp: 0x50_0000, ..Registers::default() });
    regs.mxcsr = 0x1f80;
    regs.xmm[3] = 77;
    let mut bases = Bases::default();
    let t0 = cpu::monotonic_ns();
    let mut kicks = 0;
    let mut last = None;
    cpu.set_timers(u64::MAX, true);
    for _ in 0..20000 {
        let t = cpu.run(&mut space, &mut regs, &mut bases);
        if t == trine_machine::context::Trap::Kick { kicks += 1; }
        else if t != trine_machine::context::Trap::SystemCall { panic!("{t:?} {regs:?}"); }
        last = Some(t);
    }
    let t1 = cpu::monotonic_ns();
    regs.rip = 0x40_0800;
    frame_ud(&mut space, arena);
    let e = cpu.run(&mut space, &mut regs, &mut bases);
    regs.rip = 0x60_0000;
    let pf = cpu.run(&mut space, &mut regs, &mut bases);
    let mut area = alloc::vec![0; cpu.fpu_bytes()];
    cpu.save_fpu(&regs, &mut area);
    cpu.load_fpu(&mut regs, &area);
    // spin in user until a kick
    regs.rip = 0x40_0900;
    let k = cpu.run(&mut space, &mut regs, &mut bases);
    panic!("ok {last:?} r12 {} per syscall {} ns, kicks {kicks}, ud {e:?} pf {pf:?} k {k:?} fpu {} xmm3 {}", regs.r12, (t1 - t0) / 20000, cpu.fpu_bytes(), regs.xmm[3]);
}

fn frame_ud(space: &mut AddressSpace, arena: &'static trine_machine::Arena) {
    let frame = Frame::zeroed(arena).expect("frame");
    frame.write(0x800, &[0x0f, 0x0b]);
    frame.write(0x900, &[0xeb, 0xfe]);
    space.map(0x40_0000, Page::Frame(frame), Access::READ_EXECUTE).expect("map");
}
