// SPDX-License-Identifier: Apache-2.0
//! The KVM VM, put together.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, Msrs,
    kvm_enable_cap, kvm_fpu, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use trine_abi::{
    boot::{BootInfo, FEATURE_FSGSBASE, FEATURE_REWRITTEN_TEXT, ImageSlot, MAGIC, MAX_IMAGES},
    layout::{
        BOOT_INFO, DIRECT_MAP, MMIO_DOORBELL, PAGE_SIZE, SELECTOR_CODE0, SELECTOR_CODE3,
        SELECTOR_DATA3, SELECTOR_TSS, VCPU_PAGES,
    },
    vcpu::VcpuPage,
};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    Error,
    loader::{self, Kernel},
    memory::Memory,
    protocol::{BootRequest, SystemCalls},
    tables::{self, CpuArea, Descriptors, GDT_LIMIT, IDT_LIMIT, PageTables, TSS_LIMIT},
};

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
/// Flags that SYSCALL clears: AC, NT, IOPL, DF, TF.  Not IF: on a PVM host SYSCALL stays in ring 3,
/// where nothing could set it again; and a kick may meet the stub, since it has a stack of its own.
const SYSCALL_MASK: u64 = 0x4_7500;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;

/// A VM that is ready to run.
#[derive(Debug)]
pub struct Machine {
    // Fields drop in order: vCPUs and VM before the memory behind their slots.
    /// One per vCPU.
    pub vcpus: Vec<VcpuFd>,
    /// The VM; keeps it alive.
    pub vm: VmFd,
    /// Guest-physical memory.
    pub memory: Memory,
    /// Guest-physical address of each vCPU's nucleus pages.
    pub nucleus: Vec<u64>,
}

/// What this host's CPUs offer to a guest.
struct Features {
    cpuid: CpuId,
    cr4: u64,
    xcr0: Option<u64>,
    boot: u32,
    xsave_mask: u64,
    xsave_bytes: u32,
    hwcap: u32,
}

impl Machine {
    /// Makes a VM: memory, kernel, tables, vCPUs.
    ///
    /// # Errors
    /// If KVM or the host refuses, or an input cannot be used.
    pub fn new(
        request: &BootRequest,
        memory: Memory,
        kernel: &[u8],
        doorbell: OwnedFd,
    ) -> Result<Self, Error> {
        let vcpus = request.vcpus;
        let kvm = Kvm::new().map_err(Error::NoKvm)?;
        let vm = kvm.create_vm().map_err(Error::kvm("create a vm"))?;
        // A split irqchip makes creating a vCPU cheaper; the guest never sees it.
        let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        split.args[0] = 24;
        if vm.check_extension(Cap::SplitIrqchip) {
            vm.enable_cap(&split).map_err(Error::kvm("split the irqchip"))?;
        }
        add_slot(&vm, &memory)?;
        // SAFETY: the descriptor is ours alone and is given away.
        let doorbell = unsafe { EventFd::from_raw_fd(doorbell.into_raw_fd()) };
        vm.register_ioevent(&doorbell, &IoEventAddress::Mmio(MMIO_DOORBELL), NoDatamatch)
            .map_err(Error::kvm("register the doorbell"))?;

        let loaded = loader::load(kernel, &memory)?;
        let areas = CpuArea::all(loaded.end, vcpus);
        let tables_start = loaded.end + u64::from(vcpus) * CpuArea::BYTES;
        let tables = PageTables::build(&memory, tables_start, areas.clone())?;
        let (root, free_start) = (tables.root(), tables.end());
        let mut features = Features::of(&kvm)?;
        if request.system_calls == SystemCalls::Direct {
            features.boot |= FEATURE_REWRITTEN_TEXT;
        }
        let mut fds = Vec::new();
        for area in areas.clone() {
            let vcpu = vm.create_vcpu(area.index).map_err(Error::kvm("create a vcpu"))?;
            let descriptors = tables::descriptors(&memory, area, &loaded.nucleus, &loaded.header)?;
            setup(&vcpu, area.index, &features, &loaded, (&descriptors, root))?;
            if area.index > 0 {
                // With an interrupt controller in KVM, others than the first wait to be started by it.
                let runs = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
                vcpu.set_mp_state(runs).map_err(Error::kvm("let a vcpu run"))?;
                accept_kicks(&vcpu)?;
            }
            fds.push(vcpu);
        }
        let nucleus = areas.map(CpuArea::nucleus).collect();
        let tsc_khz = fds.first().and_then(|vcpu| vcpu.get_tsc_khz().ok()).unwrap_or(0);
        let info = boot_info(&memory, &features, vcpus, root, free_start, tsc_khz)?;
        memory.write(BOOT_INFO, &encode(&info))?;
        for index in 0..u64::from(vcpus) {
            let deadline = core::mem::offset_of!(VcpuPage, deadline_ns) as u64;
            memory.write(VCPU_PAGES + index * PAGE_SIZE + deadline, &u64::MAX.to_le_bytes())?;
        }
        Ok(Self { vcpus: fds, vm, memory, nucleus })
    }
}

fn add_slot(vm: &VmFd, memory: &Memory) -> Result<(), Error> {
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: memory.bytes,
        userspace_addr: memory.host_address(),
    };
    // SAFETY: the mapping is as long as the slot and outlives the VM (see `Machine`).
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("add the memory slot"))
}

impl Features {
    /// On a PVM host ring 3 runs with the host's own control registers, and KVM's CPUID hides what
    /// works there: what the host's user mode has, the guest has.  Elsewhere KVM's CPUID says it.
    fn of(kvm: &Kvm) -> Result<Self, Error> {
        let cpuid =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("list its cpuid"))?;
        let leaf = |function, index| {
            cpuid.as_slice().iter().find(|e| e.function == function && e.index == index)
        };
        let leaf1 = leaf(1, 0).copied().unwrap_or_default();
        let offers_xsave = leaf1.ecx >> 26 & 1 == 1;
        let offers_bases = leaf(7, 0).is_some_and(|e| e.ebx & 1 == 1);
        // SAFETY: getauxval reads this process's auxiliary vector; bit 1 is HWCAP2_FSGSBASE.
        let host_bases = unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0;
        if !host_bases && !offers_bases {
            return Err(Error::Request(
                "this host has no FSGSBASE instructions: a cpu of 2012 or later and linux 5.9 \
                 are needed"
                    .into(),
            ));
        }
        let host1 = core::arch::x86_64::__cpuid(1);
        let host_xcr0 = if host1.ecx >> 27 & 1 == 1 { xgetbv() } else { 0 };
        // x87, SSE, AVX, AVX-512; the rest (AMX, PKRU) is not an application's to use here.
        let xsave_mask = host_xcr0 & 0xe7;
        let hidden = !offers_xsave;
        let mask = if offers_xsave || hidden && host_xcr0 != 0 { xsave_mask } else { 0 };
        let mut cr4 = 0x6a0;
        if offers_bases {
            cr4 |= CR4_FSGSBASE;
        }
        if offers_xsave {
            cr4 |= CR4_OSXSAVE;
        }
        Ok(Self {
            cr4,
            xcr0: offers_xsave.then_some(mask),
            boot: FEATURE_FSGSBASE,
            xsave_mask: mask,
            xsave_bytes: xsave_bytes(mask),
            hwcap: leaf1.edx,
            cpuid,
        })
    }
}

fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller has checked OSXSAVE, so XGETBV exists.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
                         options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Bytes of an XSAVE area in standard format: legacy area, header, then each component where
/// CPUID leaf 0xd says (SDM volume 1, 13.4).
fn xsave_bytes(mask: u64) -> u32 {
    (2..63)
        .filter(|component| mask >> component & 1 == 1)
        .map(|component| {
            let leaf = core::arch::x86_64::__cpuid_count(0xd, component);
            leaf.eax + leaf.ebx
        })
        .fold(576, u32::max)
}

fn setup(
    vcpu: &VcpuFd,
    index: u64,
    features: &Features,
    kernel: &Kernel,
    (descriptors, root): (&Descriptors, u64),
) -> Result<(), Error> {
    vcpu.set_cpuid2(&features.cpuid).map_err(Error::kvm("set the cpuid"))?;
    let mut sregs = vcpu.get_sregs().map_err(Error::kvm("read the segment registers"))?;
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = root;
    sregs.cr4 = features.cr4;
    sregs.efer = 0xd01;
    let flat = |selector: u16, kind: u8, long: bool| kvm_segment {
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 3,
        s: 1,
        l: u8::from(long),
        db: u8::from(!long),
        g: 1,
        ..Default::default()
    };
    sregs.cs = flat(SELECTOR_CODE3, 11, true);
    let data = flat(SELECTOR_DATA3, 3, false);
    (sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: descriptors.tss,
        limit: TSS_LIMIT,
        selector: SELECTOR_TSS,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    (sregs.gdt.base, sregs.gdt.limit) = (descriptors.gdt, GDT_LIMIT);
    (sregs.idt.base, sregs.idt.limit) = (descriptors.idt, IDT_LIMIT);
    vcpu.set_sregs(&sregs).map_err(Error::kvm("set the segment registers"))?;
    if let Some(xcr0) = features.xcr0 {
        let mut xcrs = kvm_bindings::kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = xcr0;
        vcpu.set_xcrs(&xcrs).map_err(Error::kvm("set the extended control register"))?;
    }
    // SYSCALL loads CS from bits 32-47 (ring 0 code, and the data segment after it).
    let star = u64::from(SELECTOR_CODE0) << 32 | u64::from(SELECTOR_CODE3 - 0x10) << 48;
    let entries = [
        (MSR_STAR, star),
        (MSR_LSTAR, descriptors.nucleus + u64::from(kernel.header.syscall)),
        (MSR_SYSCALL_MASK, SYSCALL_MASK),
    ]
    .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries)
        .map_err(|error| Error::Request(format!("model-specific registers: {error:?}")))?;
    let set = vcpu.set_msrs(&msrs).map_err(Error::kvm("set model-specific registers"))?;
    if set != entries.len() {
        return Err(Error::Request("kvm refuses a system call register".into()));
    }
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(Error::kvm("set the floating-point state"))?;
    let regs = kvm_regs {
        rip: kernel.entry,
        rdi: DIRECT_MAP + BOOT_INFO,
        rsi: index,
        rflags: 0x202,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(Error::kvm("set the registers"))
}

fn boot_info(
    memory: &Memory,
    features: &Features,
    vcpus: u32,
    page_table: u64,
    free_start: u64,
    tsc_khz: u32,
) -> Result<BootInfo, Error> {
    if tsc_khz == 0 {
        return Err(Error::Request("kvm does not know the frequency of the tsc".into()));
    }
    let mut seed = [0; 32];
    let filled = rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::host("get random bytes", error))?;
    debug_assert_eq!(filled, seed.len());
    let mut images = [ImageSlot::default(); MAX_IMAGES];
    for (to, slot) in images.iter_mut().zip(&memory.images) {
        *to = *slot;
    }
    Ok(BootInfo {
        magic: MAGIC,
        ram_bytes: memory.ram_bytes,
        free_start,
        page_table,
        vcpus,
        features: features.boot,
        tsc_mult: (1_000_000_u64 << 32) / u64::from(tsc_khz),
        realtime_ns: clock_ns(rustix::time::ClockId::Realtime),
        monotonic_ns: clock_ns(rustix::time::ClockId::Monotonic),
        window: memory.window_base(),
        xsave_mask: features.xsave_mask,
        xsave_bytes: features.xsave_bytes,
        hwcap: features.hwcap,
        seed,
        images,
    })
}

/// Reads a clock, in nanoseconds.
pub fn clock_ns(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// The boot information as bytes.
fn encode(info: &BootInfo) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<BootInfo>());
    let mut word = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
    word(info.magic);
    word(info.ram_bytes);
    word(info.free_start);
    word(info.page_table);
    word(u64::from(info.vcpus) | u64::from(info.features) << 32);
    word(info.tsc_mult);
    word(info.realtime_ns);
    word(info.monotonic_ns);
    word(info.window);
    word(info.xsave_mask);
    word(u64::from(info.xsave_bytes) | u64::from(info.hwcap) << 32);
    bytes.extend_from_slice(&info.seed);
    for image in info.images {
        bytes.extend_from_slice(&image.base.to_le_bytes());
        bytes.extend_from_slice(&image.bytes.to_le_bytes());
    }
    debug_assert_eq!(bytes.len(), size_of::<BootInfo>());
    bytes
}

/// Makes KVM take a vector from us for a vCPU other than the first, as it does for that: its LINT0
/// must be open for an external interrupt controller (SDM volume 3, 11.5.1).
fn accept_kicks(vcpu: &VcpuFd) -> Result<(), Error> {
    const LVT_LINT0: usize = 0x350;
    const EXTERNAL: u32 = 7 << 8;
    let mut apic = vcpu.get_lapic().map_err(Error::kvm("read the interrupt controller"))?;
    for (register, byte) in apic.regs.iter_mut().skip(LVT_LINT0).zip(EXTERNAL.to_le_bytes()) {
        *register = byte.cast_signed() as _;
    }
    vcpu.set_lapic(&apic).map_err(Error::kvm("set the interrupt controller"))
}

/// Injects the kick vector.  KVM_INTERRUPT is not in the bindings.
///
/// # Errors
/// If KVM refuses.
pub fn inject(vcpu: &VcpuFd, vector: u8) -> Result<(), Error> {
    const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;
    let irq = u32::from(vector);
    // SAFETY: the descriptor is a vCPU, and the argument a `struct kvm_interrupt` (one u32).
    let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT as _, &raw const irq) };
    if result < 0 {
        return Err(Error::Kvm { action: "inject a kick", source: kvm_ioctls::Error::last() });
    }
    Ok(())
}
