// SPDX-License-Identifier: Apache-2.0
//! Memory of the application: areas, faults, copies to and from it, ELF images.
//!
//! Lock order: `areas`, then whatever a file locks to find a page, then `space`.

mod areas;
pub mod elf;
mod fault;
mod fork;
mod map;
mod shared;
mod stale;
mod user;
pub mod vdso;

use alloc::{sync::Arc, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use trine_machine::AddressSpace;

pub(crate) use self::stale::{Stale, StalePages};
pub use self::{
    areas::{Area, AreaKind, Areas, Protection},
    fault::{Fault, FaultKind},
    map::{MapRequest, Placement},
    shared::SharedMemory,
    user::{UserSink, UserSource},
};
use crate::{Errno, fs::FileRef, services::ServicesRef, sync::Lock};

/// Bytes of a page.
pub use trine_abi::layout::PAGE_SIZE;

/// Lowest address that can be mapped.
pub const LOWEST: u64 = 0x1_0000;
/// End of what can be mapped.  The gap under the system half is so wide because block operations
/// write the end of a block first: one on the stack with a wrong length must fault, as on Linux, and
/// not reach the kernel.
pub const HIGHEST: u64 = trine_abi::layout::USER_END - (64 << 30);

/// Where the parts of a program lie (for /proc, brk and mmap).
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// First address of the heap.
    pub brk_start: u64,
    /// Current break.
    pub brk: u64,
    /// mmap goes down from here.
    pub mmap_base: u64,
    /// Stack pointer at the start.
    pub stack_start: u64,
    /// The argument strings.
    pub arguments: (u64, u64),
    /// The environment strings.
    pub environment: (u64, u64),
    /// First and last address of the program's code.
    pub code: (u64, u64),
    /// First and last address of the program's data.
    pub data: (u64, u64),
    /// The auxiliary vector as it was put on the stack.
    pub auxv: Vec<u8>,
    /// Base of the vDSO.
    pub vdso: u64,
}

/// The memory of one or more processes.
pub struct Mm {
    /// The page tables, for the machine to load.
    pub space: Lock<AddressSpace>,
    /// What is mapped where.
    pub areas: Lock<Areas>,
    /// Where the parts of the program lie.
    pub layout: Lock<Layout>,
    /// The program (`/proc/self/exe`).
    pub exe: Lock<Option<FileRef>>,
    /// Never used again.
    pub id: u64,
    /// How large a stack may grow, in bytes (RLIMIT_STACK).
    pub stack_limit: AtomicU64,
    /// How much may be mapped, in bytes (RLIMIT_AS), and how much of data (RLIMIT_DATA).
    pub limits: [AtomicU64; 2],
    services: ServicesRef,
}

/// Memory is shared by threads and vfork children.
pub type MmRef = Arc<Mm>;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Mm {
    /// Makes an empty memory.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(services: &ServicesRef) -> Result<Self, Errno> {
        let space = AddressSpace::new(services.arena).ok_or(Errno::NOMEM)?;
        Ok(Self {
            space: Lock::new(space),
            areas: Lock::new(Areas::default()),
            layout: Lock::new(Layout { mmap_base: HIGHEST, ..Layout::default() }),
            exe: Lock::new(None),
            stack_limit: AtomicU64::new(8 << 20),
            limits: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            services: services.clone(),
        })
    }

    /// Pages that are mapped.
    pub fn resident_pages(&self) -> u64 {
        self.space.lock().resident_pages()
    }

    /// Pages that areas span.
    pub fn virtual_pages(&self) -> u64 {
        self.areas.lock().pages()
    }

    /// A copy of the list of areas (for /proc/self/maps: made before anything is printed).
    pub fn list(&self) -> Vec<Area> {
        self.areas.lock().iter().cloned().collect()
    }

    /// Physical address of the top page table.
    pub fn root(&self) -> u64 {
        self.space.lock().root()
    }
}

impl fmt::Debug for Mm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mm").field("id", &self.id).finish_non_exhaustive()
    }
}
