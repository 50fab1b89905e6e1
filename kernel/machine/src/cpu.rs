// SPDX-License-Identifier: Apache-2.0
//! This vCPU: running application code, VMM calls, the clock, floating-point state.
//!
//! Meaningful in the guest only; a host build compiles it and never makes a [`Cpu`].

use core::{
    arch::asm,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use trine_abi::{
    boot::{BootInfo, FEATURE_FSGSBASE, MAGIC},
    layout::{
        BOOT_INFO, DIRECT_MAP, MMIO_CALL, MMIO_DOORBELL, NUCLEUS_BASE, NUCLEUS_STRIDE, USER_END,
        VCPU_PAGES,
    },
    nucleus::{DATA_PAGE, Data, EXCEPTION_STACK, Header, gate_base, trap},
    vcpu::{Call, TEXT_BYTES, VcpuPage},
};

use crate::{
    Arena, Registers, Translations,
    context::{Bases, Trap},
    shootdown,
};

/// TSC value at [`clock_start`].
static TSC_BASE: AtomicU64 = AtomicU64::new(0);
static TSC_MULT: AtomicU64 = AtomicU64::new(0);
static MONOTONIC_BASE: AtomicU64 = AtomicU64::new(0);

/// Reads the boot information.
///
/// # Safety
/// Only in the guest, where the VMM filled the page in.
///
/// # Panics
/// If the VMM and this kernel are not of one version.
pub unsafe fn boot_info() -> &'static BootInfo {
    // SAFETY: the caller vouches that the page is there; the VMM never writes it again.
    let info = unsafe { &*((DIRECT_MAP + BOOT_INFO) as *const BootInfo) };
    assert!(info.magic == MAGIC, "vmm and kernel are of different versions");
    info
}

/// Makes the arena from the boot information.
///
/// # Safety
/// Only in the guest, and once.
pub unsafe fn arena(info: &BootInfo) -> &'static Arena {
    static ARENA: spin::Once<Arena> = spin::Once::new();
    let images = info.images.map(|slot| (slot, (DIRECT_MAP + slot.base) as *const u8));
    let base = DIRECT_MAP as *mut u8;
    // SAFETY: the VMM mapped RAM at DIRECT_MAP, zeroed from `free_start` on, and the images.
    let arena = unsafe { Arena::new(base, info.ram_bytes, info.free_start, images) };
    arena.set_kernel_root(info.page_table);
    ARENA.call_once(|| arena)
}

/// Starts the clock.
pub fn clock_start(info: &BootInfo) {
    TSC_BASE.store(read_tsc(), Ordering::Relaxed);
    TSC_MULT.store(info.tsc_mult, Ordering::Relaxed);
    MONOTONIC_BASE.store(info.monotonic_ns, Ordering::Relaxed);
}

/// TSC value, multiplier and CLOCK_MONOTONIC nanoseconds at the clock's start, for the vDSO.
pub fn clock_parameters() -> (u64, u64, u64) {
    (
        TSC_BASE.load(Ordering::Relaxed),
        TSC_MULT.load(Ordering::Relaxed),
        MONOTONIC_BASE.load(Ordering::Relaxed),
    )
}

/// Reads the time-stamp counter.
fn read_tsc() -> u64 {
    // SAFETY: RDTSC has no effect on memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let (base, mult, start) = clock_parameters();
    let ticks = u128::from(read_tsc().saturating_sub(base));
    start.wrapping_add(((ticks * u128::from(mult)) >> 32) as u64)
}

/// Rings the doorbell of the I/O server.
pub fn doorbell() {
    // SAFETY: a store to a device address that the VMM reserved; it reaches no memory.
    unsafe { ((DIRECT_MAP + MMIO_DOORBELL) as *mut u32).write_volatile(1) };
}

/// Largest XSAVE area: x87, SSE, AVX and AVX-512 state in standard format.
const FPU_BYTES: usize = 2752;

#[repr(C, align(64))]
struct FpuArea([u8; FPU_BYTES]);

/// One vCPU.
pub struct Cpu {
    index: usize,
    data: *mut Data,
    page: &'static VcpuPage,
    run_fn: extern "C" fn(*mut Registers) -> u64,
    load_root_fn: extern "C" fn(u64),
    /// What is loaded, and what must be loaded before application code runs.
    loaded: Translations,
    wanted: Translations,
    kernel: Translations,
    has_bases: bool,
    xsave_mask: u64,
    fpu_bytes: usize,
    fpu: FpuArea,
}

// SAFETY: a `Cpu` is used by its own vCPU only; the pointer is to that vCPU's nucleus page.
unsafe impl Send for Cpu {}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Cpu {
    /// Takes over vCPU `index`.
    ///
    /// # Safety
    /// Only in the guest, on that vCPU, and once.
    ///
    /// # Panics
    /// If the vector state of this machine is larger than the kernel knows.
    pub unsafe fn new(index: u64, info: &BootInfo) -> Self {
        let nucleus = NUCLEUS_BASE + index * NUCLEUS_STRIDE;
        let data = (nucleus + DATA_PAGE) as *mut Data;
        // SAFETY: the VMM mapped this vCPU's nucleus pages and checked the header.
        let header = unsafe { (nucleus as *const Header).read() };
        let run = (nucleus + u64::from(header.run)) as *const ();
        let load_root = (nucleus + u64::from(header.privileged)) as *const ();
        // SAFETY: the VMM mapped the vCPU pages; they are atomics throughout.
        let page = unsafe { &*((DIRECT_MAP + VCPU_PAGES + index * 4096) as *const VcpuPage) };
        let fpu_bytes = if info.xsave_mask == 0 { 512 } else { info.xsave_bytes as usize };
        assert!(fpu_bytes <= FPU_BYTES, "vector state of {fpu_bytes} bytes is unknown");
        let kernel = Translations { root: info.page_table, generation: 0 };
        Self {
            index: index as usize,
            data,
            page,
            // SAFETY: the nucleus has a function of this type at that offset.
            run_fn: unsafe {
                core::mem::transmute::<*const (), extern "C" fn(*mut Registers) -> u64>(run)
            },
            // SAFETY: as above.
            load_root_fn: unsafe {
                core::mem::transmute::<*const (), extern "C" fn(u64)>(load_root)
            },
            loaded: kernel,
            wanted: kernel,
            kernel,
            has_bases: info.features & FEATURE_FSGSBASE != 0,
            xsave_mask: info.xsave_mask,
            fpu_bytes,
            fpu: FpuArea([0; FPU_BYTES]),
        }
    }

    /// Decides, under the kernel's lock, which space [`Cpu::run`] will run application code in.  It
    /// must live until then, and until this vCPU has left it.
    pub fn enter(&mut self, space: Translations) {
        self.wanted = space;
        shootdown::enter(self.index, space.root);
    }

    /// Runs application code in the space of the last [`Cpu::enter`] until it traps; needs no lock.
    /// The registers, and the segment bases, are the application's on entry and on return.
    pub fn run(&mut self, registers: &mut Registers, bases: &mut Bases) -> Trap {
        let trap = self.run_until_trap(registers, bases);
        shootdown::leave(self.index);
        trap
    }

    fn run_until_trap(&mut self, registers: &mut Registers, bases: &mut Bases) -> Trap {
        const CANONICAL_END: u64 = 1 << 47;
        if registers.rip >= CANONICAL_END {
            return Trap::Exception { vector: 13, code: 0 };
        }
        self.load();
        // Only what POPF changes in ring 3, and the bits that are always one: IOPL, NT, VM stay 0.
        registers.rflags = registers.rflags & 0x0024_0dd5 | 0x202;
        self.load_bases(bases);
        let reason = (self.run_fn)(registers);
        self.save_bases(bases);
        match reason {
            trap::SYSTEM_CALL => Trap::SystemCall,
            trap::KICK => {
                let delivered = core::mem::offset_of!(Data, delivered);
                let word = self.data.cast::<u8>().wrapping_add(delivered).cast::<u64>();
                // SAFETY: an aligned word of this vCPU's data page.
                unsafe { word.write_volatile(0) };
                self.page.kick.store(0, Ordering::Release);
                Trap::Kick
            }
            trap::PAGE_FAULT => {
                let code = self.error_code(registers);
                let address = self.data_word(core::mem::offset_of!(Data, fault_address));
                Trap::PageFault { address, code }
            }
            _ => {
                let code = self.error_code(registers);
                let vector = self.data_word(core::mem::offset_of!(Data, vector));
                Trap::Exception { vector: vector as u8, code }
            }
        }
    }

    /// The GS base with which rewritten code (see [`trine_abi::text`]) enters the kernel on this vCPU.
    pub fn gate_base(&self) -> u64 {
        gate_base(self.data as u64)
    }

    /// Loads the page tables of the last [`Cpu::enter`], if they are not loaded yet.
    pub fn load(&mut self) {
        if self.loaded != self.wanted {
            self.loaded = self.wanted;
            (self.load_root_fn)(self.loaded.root);
        }
    }

    /// Leaves the application's page tables for the kernel's own.  A space must not be dropped
    /// while this vCPU uses it: its tables are recycled at once.
    pub fn leave_space(&mut self) {
        if self.loaded != self.kernel {
            self.loaded = self.kernel;
            (self.load_root_fn)(self.loaded.root);
        }
    }

    /// The error code that the CPU pushed; also ends the kernel if it was its own fault.  The kernel
    /// is always on a stack of its own: without one, it is a program that jumped here.
    fn error_code(&self, registers: &Registers) -> u64 {
        assert!(
            registers.rip < USER_END || registers.rsp < USER_END,
            "exception in the kernel at {:#x}, rsp {:#x}, fault address {:#x}",
            registers.rip,
            registers.rsp,
            self.data_word(core::mem::offset_of!(Data, fault_address)),
        );
        self.data_word((EXCEPTION_STACK - DATA_PAGE) as usize - 48) & 0xffff_ffff
    }

    /// A word of the nucleus' data page, which the nucleus or the CPU wrote.
    fn data_word(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8) && offset < 4096);
        let word = self.data.cast::<u8>().wrapping_add(offset).cast::<u64>();
        // SAFETY: an aligned word of this vCPU's data page.
        unsafe { word.read_volatile() }
    }

    fn load_bases(&self, bases: &Bases) {
        if self.has_bases {
            // SAFETY: the kernel itself uses neither FS nor GS.
            unsafe {
                asm!("wrfsbase {}", "wrgsbase {}", in(reg) bases.fs, in(reg) bases.gs,
                     options(nostack, nomem, preserves_flags));
            }
        }
    }

    fn save_bases(&self, bases: &mut Bases) {
        if self.has_bases {
            // SAFETY: reads two registers.
            unsafe {
                asm!("rdfsbase {}", "rdgsbase {}", out(reg) bases.fs, out(reg) bases.gs,
                     options(nostack, nomem, preserves_flags));
            }
        }
    }

    /// Saves the floating-point and vector state of the thread that ran last.  The low halves of
    /// the vector registers and MXCSR are in its [`Registers`], which take their place.
    pub fn save_fpu(&mut self, registers: &Registers, to: &mut [u8]) {
        let area = self.fpu.0.as_mut_ptr();
        if self.xsave_mask == 0 {
            // SAFETY: the area is 64-byte aligned and large enough.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: the area is 64-byte aligned and has room for every component of the mask.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") self.xsave_mask as u32,
                     in("edx") (self.xsave_mask >> 32) as u32, options(nostack, preserves_flags));
            }
            // The SSE state is in use whatever the CPU thinks of its own registers.
            self.fpu.0[512] |= 2;
        }
        self.fpu.0[24..28].copy_from_slice(&registers.mxcsr.to_le_bytes());
        for (index, xmm) in registers.xmm.iter().enumerate() {
            let at = 160 + 16 * index;
            self.fpu.0[at..at + 16].copy_from_slice(&xmm.to_le_bytes());
        }
        let bytes = to.len().min(self.fpu_bytes);
        to[..bytes].copy_from_slice(&self.fpu.0[..bytes]);
    }

    /// Loads the floating-point and vector state of the thread that runs next; an empty area is the
    /// initial state.  The low halves of the vector registers and MXCSR come from its [`Registers`]
    /// when it runs.
    pub fn load_fpu(&mut self, from: &[u8]) {
        self.fpu.0.fill(0);
        if from.is_empty() {
            self.fpu.0[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
            self.fpu.0[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        }
        let bytes = from.len().min(self.fpu_bytes);
        self.fpu.0[..bytes].copy_from_slice(&from[..bytes]);
        // Reserved MXCSR bits would fault (SDM volume 1, 10.2.3).
        self.fpu.0[26..28].fill(0);
        let area = self.fpu.0.as_mut_ptr();
        if self.xsave_mask == 0 {
            // SAFETY: the area is aligned; reserved bits are clear.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        } else {
            // Only components of the mask, standard format, reserved header bytes zero.
            for at in 512..520 {
                self.fpu.0[at] &= (self.xsave_mask >> (8 * (at - 512))) as u8;
            }
            self.fpu.0[520..576].fill(0);
            // SAFETY: the area is aligned and its header was made valid above.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") self.xsave_mask as u32,
                     in("edx") (self.xsave_mask >> 32) as u32, options(nostack, preserves_flags));
            }
        }
    }

    /// Bytes of a thread's floating-point area.
    pub fn fpu_bytes(&self) -> usize {
        self.fpu_bytes
    }

    /// Tells the VMM when the next timer is due (CLOCK_MONOTONIC; `u64::MAX`: never), and whether
    /// to kick at every tick.
    pub fn set_timers(&self, deadline_ns: u64, wants_tick: bool) {
        self.page.deadline_ns.store(deadline_ns, Ordering::Relaxed);
        self.page.wants_tick.store(u32::from(wants_tick), Ordering::Relaxed);
    }

    /// Makes the VMM look at the deadline now if it would look too late.
    pub fn hurry_timers(&self) {
        if self.page.deadline_ns.load(Ordering::Relaxed)
            < self.page.next_look_ns.load(Ordering::Relaxed)
        {
            vmm_call(Call::Timer);
        }
    }

    /// Calls the VMM.
    pub fn call(&self, call: Call) {
        vmm_call(call);
    }

    /// Makes other vCPUs, by bit, leave application code or wake from idling.
    pub fn kick(&self, vcpus: u32) {
        self.page.args[0].store(u64::from(vcpus), Ordering::Relaxed);
        vmm_call(Call::Kick);
    }
}

/// Ends the VM with one line, from anywhere; the line goes to the page of vCPU 0.
///
/// # Safety
/// Only in the guest.
pub unsafe fn panic(text: &str) -> ! {
    // SAFETY: the caller vouches that this is the guest.
    panic_on(unsafe { &*((DIRECT_MAP + VCPU_PAGES) as *const VcpuPage) }, text)
}

/// Waits for another vCPU, which may be waiting for the host's CPU: call it again and again.
pub fn relax(turn: u32) {
    /// Turns after which the other may well need this vCPU's host CPU.
    const YIELD_AFTER: u32 = 2000;
    if turn % YIELD_AFTER == YIELD_AFTER - 1 {
        vmm_call(Call::Yield);
    } else {
        core::hint::spin_loop();
    }
}

fn panic_on(page: &VcpuPage, text: &str) -> ! {
    let bytes = text.len().min(TEXT_BYTES);
    for (word, chunk) in page.text.iter().zip(text.as_bytes()[..bytes].chunks(8)) {
        let mut value = [0; 8];
        value[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(value), Ordering::Relaxed);
    }
    page.text_bytes.store(bytes as u32, Ordering::Release);
    loop {
        vmm_call(Call::Panic);
    }
}

fn vmm_call(call: Call) {
    // SAFETY: a store to a device address that the VMM reserved; it reaches no memory.
    unsafe {
        asm!("mov [{}], {:e}", in(reg) DIRECT_MAP + MMIO_CALL, in(reg) call as u32,
             options(nostack, preserves_flags));
    }
}
