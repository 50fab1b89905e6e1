// SPDX-License-Identifier: Apache-2.0
//! What the VMM tells the kernel once, in the page at [`crate::layout::BOOT_INFO`].

use crate::layout::{HUGE_PAGE_SIZE, PAGE_SIZE};

/// Value of [`BootInfo::magic`]: "TRINEBT1", little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"TRINEBT1");
/// Most images that one VM maps.
pub const MAX_IMAGES: usize = 8;

/// One read-only image in guest-physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ImageSlot {
    /// Guest-physical address, 2 MiB aligned.
    pub base: u64,
    /// Bytes; a multiple of 4096; 0 = none.
    pub bytes: u64,
}

/// The boot information page.  The address is passed in RDI to the kernel's entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// Bytes of RAM from guest-physical 0; a multiple of 2 MiB.
    pub ram_bytes: u64,
    /// Guest-physical address of the first byte that nobody uses yet, page aligned.
    pub free_start: u64,
    /// Guest-physical address of the first page table (PML4).
    pub page_table: u64,
    /// vCPUs that this VM has.
    pub vcpus: u32,
    /// [`FEATURE_FSGSBASE`] and [`FEATURE_REWRITTEN_TEXT`].
    pub features: u32,
    /// TSC ticks to nanoseconds: `ns = (ticks * tsc_mult) >> 32`.
    pub tsc_mult: u64,
    /// CLOCK_REALTIME at kernel entry, in nanoseconds since 1970.
    pub realtime_ns: u64,
    /// CLOCK_MONOTONIC of the host at kernel entry, in nanoseconds.
    pub monotonic_ns: u64,
    /// Guest-physical base of the window; [`crate::window::WINDOW_BYTES`] long; 0 = none.
    pub window: u64,
    /// State components that XSAVE saves for a thread (XCR0 bits); 0 = FXSAVE only.
    pub xsave_mask: u64,
    /// Bytes of such an XSAVE area in standard format.
    pub xsave_bytes: u32,
    /// CPUID.1:EDX, for AT_HWCAP.
    pub hwcap: u32,
    /// Fresh random bytes.
    pub seed: [u8; 32],
    /// The images; the first is the root file system.
    pub images: [ImageSlot; MAX_IMAGES],
}

/// Bytes at the end of RAM in which the kernel keeps account of its frames, whole large pages.  It
/// touches them thinly, so the host should back them with small pages.
pub const fn bookkeeping_bytes(ram_bytes: u64) -> u64 {
    let frames = ram_bytes / PAGE_SIZE;
    let blocks = ram_bytes / HUGE_PAGE_SIZE;
    (frames * COUNT_BYTES + blocks * BLOCK_BYTES).next_multiple_of(HUGE_PAGE_SIZE)
}

/// Bytes that the kernel keeps for each frame.
pub const COUNT_BYTES: u64 = 4;
/// Bytes that the kernel keeps for each large page of RAM.
pub const BLOCK_BYTES: u64 = 72;

/// [`BootInfo::features`]: the FS and GS base instructions work in ring 3.
pub const FEATURE_FSGSBASE: u32 = 1;
/// [`BootInfo::features`]: programs may use the image's rewritten text ([`crate::text`]); needs
/// [`FEATURE_FSGSBASE`].
pub const FEATURE_REWRITTEN_TEXT: u32 = 2;

const _: () = assert!(size_of::<BootInfo>() <= 4096);
