// SPDX-License-Identifier: Apache-2.0
//! Guest-physical memory: RAM, the images, the window.

use std::os::fd::{AsFd, OwnedFd};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use trine_abi::{
    boot::{ImageSlot, MAX_IMAGES, bookkeeping_bytes},
    layout::{HUGE_PAGE_SIZE, MEMORY_END, RAM_MIN},
    window::WINDOW_BYTES,
};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
    mmap::MmapRegionBuilder,
};

use crate::Error;

/// A range of this process' addresses that holds all of guest-physical memory.
#[derive(Debug)]
struct Reservation {
    pointer: *mut core::ffi::c_void,
    bytes: usize,
}

// SAFETY: only an address range that is unmapped once, on drop.
unsafe impl Send for Reservation {}
// SAFETY: as above; nothing is accessed through a shared reference.
unsafe impl Sync for Reservation {}

impl Reservation {
    fn new(bytes: u64) -> Result<Self, Error> {
        // Room to begin at a large page: else the host could not back the guest's with its own.
        let bytes = (bytes + HUGE_PAGE_SIZE) as usize;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the host's kernel chooses.
        let pointer = unsafe {
            rustix::mm::mmap_anonymous(core::ptr::null_mut(), bytes, ProtFlags::empty(), flags)
        }
        .map_err(|error| Error::host(format!("reserve {bytes} bytes of addresses"), error))?;
        Ok(Self { pointer, bytes })
    }

    /// Where guest-physical address 0 is.
    fn base(&self) -> *mut u8 {
        let skip = (self.pointer as u64).next_multiple_of(HUGE_PAGE_SIZE) - self.pointer as u64;
        self.pointer.cast::<u8>().wrapping_add(skip as usize)
    }

    /// Maps a file, or fresh memory, at a guest-physical address.
    fn place(&self, at: u64, bytes: u64, source: Option<(&OwnedFd, bool)>) -> Result<(), Error> {
        let inside = at.checked_add(bytes + HUGE_PAGE_SIZE).is_some_and(|e| e <= self.bytes as u64);
        if !inside {
            return Err(Error::Request(format!(
                "{bytes} bytes at {at:#x} leave the address space"
            )));
        }
        let pointer = self.base().wrapping_add(at as usize).cast();
        let (bytes, read_write) = (bytes as usize, ProtFlags::READ | ProtFlags::WRITE);
        let mapped = match source {
            // SAFETY: replaces a part of our own reservation that nothing refers to yet.
            None => unsafe {
                let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
                rustix::mm::mmap_anonymous(pointer, bytes, read_write, flags)
            },
            Some((file, writable)) => {
                let protection = if writable { read_write } else { ProtFlags::READ };
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                // SAFETY: as above.
                unsafe { rustix::mm::mmap(pointer, bytes, protection, flags, file, 0) }
            }
        };
        mapped.map(drop).map_err(|error| Error::host(format!("map {bytes} bytes"), error))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which no VM uses any more: the VM is dropped first.
        let _ = unsafe { rustix::mm::munmap(self.pointer, self.bytes) };
    }
}

/// All guest-physical memory, contiguous here as it is there: one memory slot holds it, since each
/// further slot makes KVM wait for its readers, which takes milliseconds on a busy host.
#[derive(Debug)]
pub struct Memory {
    /// RAM from guest-physical 0.
    pub ram: GuestMemoryMmap<()>,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// Images with their guest-physical places.
    pub images: Vec<ImageSlot>,
    /// Bytes from the start of RAM to the end of the last image.
    pub bytes: u64,
    reservation: Reservation,
}

impl Memory {
    /// Maps everything.  Images must be open read-only: their mappings are, and so must be their
    /// descriptors.
    ///
    /// # Errors
    /// If a size is out of range, an image is empty or writable, or memory cannot be had.
    pub fn new(ram_bytes: u64, window: &OwnedFd, images: &[OwnedFd]) -> Result<Self, Error> {
        if ram_bytes < RAM_MIN {
            return Err(Error::Request(format!(
                "memory of {ram_bytes} bytes is below the minimum of {RAM_MIN}"
            )));
        }
        let too_large = || Error::Request(format!("memory of {ram_bytes} bytes is too large"));
        let ram_bytes = ram_bytes.checked_next_multiple_of(HUGE_PAGE_SIZE).ok_or_else(too_large)?;
        let window_bytes = size_of_file(window, "window")?;
        if window_bytes < WINDOW_BYTES {
            return Err(Error::Request(format!("window of {window_bytes} bytes is too small")));
        }
        let first_image = ram_bytes.saturating_add(WINDOW_BYTES.next_multiple_of(HUGE_PAGE_SIZE));
        let slots = image_slots(first_image, images)?;
        let bytes = slots.last().map_or(first_image, |slot| slot.base + slot.bytes);
        if bytes > MEMORY_END {
            return Err(Error::Request(format!(
                "memory and images of {bytes} bytes are over {MEMORY_END}"
            )));
        }
        let reservation = Reservation::new(bytes)?;
        reservation.place(0, ram_bytes, None)?;
        reservation.place(ram_bytes, WINDOW_BYTES, Some((window, true)))?;
        for (slot, image) in slots.iter().zip(images) {
            reservation.place(slot.base, slot.bytes, Some((image, false)))?;
        }
        let memory = Self {
            ram: ram(&reservation, ram_bytes)?,
            ram_bytes,
            images: slots,
            bytes,
            reservation,
        };
        memory.advise_huge()?;
        Ok(memory)
    }

    /// Address of guest-physical 0 in this process.
    pub fn host_address(&self) -> u64 {
        self.reservation.base() as u64
    }

    fn advise_huge(&self) -> Result<(), Error> {
        // Not the end, where the kernel keeps its bookkeeping: it touches little of it.
        let bytes = self.ram_bytes - bookkeeping_bytes(self.ram_bytes).min(self.ram_bytes / 2);
        let pointer = self.ram.get_host_address(GuestAddress(0))?.cast();
        let (bytes, advice) = (bytes as usize, Advice::LinuxHugepage);
        // Without huge pages the guest is slower and nothing else.
        // SAFETY: our own mapping; the advice changes no contents.
        let _ = unsafe { rustix::mm::madvise(pointer, bytes, advice) };
        Ok(())
    }

    /// Gives a range of RAM back to the host; it reads as zero afterwards.  Ranges that are not
    /// wholly RAM or not aligned to 2 MiB are ignored: they come from the guest.
    pub fn release(&self, start: u64, bytes: u64) {
        let aligned = start.is_multiple_of(HUGE_PAGE_SIZE) && bytes.is_multiple_of(HUGE_PAGE_SIZE);
        let inside = start.checked_add(bytes).is_some_and(|end| end <= self.ram_bytes);
        if !aligned || !inside || bytes == 0 {
            return;
        }
        let Ok(pointer) = self.ram.get_host_address(GuestAddress(start)) else { return };
        let (bytes, advice) = (bytes as usize, Advice::LinuxDontNeed);
        // SAFETY: a range of our own anonymous mapping, which only the guest uses.
        let _ = unsafe { rustix::mm::madvise(pointer.cast(), bytes, advice) };
    }

    /// Writes to RAM.
    ///
    /// # Errors
    /// If the range is not RAM.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.ram.write_slice(bytes, GuestAddress(address))?)
    }

    /// Guest-physical place of the window.
    pub fn window_base(&self) -> u64 {
        self.ram_bytes
    }
}

/// RAM as the crate `vm-memory` sees it.
fn ram(reservation: &Reservation, bytes: u64) -> Result<GuestMemoryMmap<()>, Error> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let builder = MmapRegionBuilder::new(bytes as usize)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags);
    // SAFETY: mapped by the caller for that length, and as long as the reservation, which `Memory`
    // drops last.
    let builder = unsafe { builder.with_raw_mmap_pointer(reservation.base()) };
    let refused = |why: String| Error::Request(format!("{bytes} bytes of memory: {why}"));
    let region = builder.build().map_err(|error| refused(error.to_string()))?;
    let region = GuestRegionMmap::new(region, GuestAddress(0))
        .ok_or_else(|| refused("beyond the end of addresses".into()))?;
    GuestMemoryMmap::from_regions(vec![region]).map_err(|error| refused(error.to_string()))
}

fn size_of_file(descriptor: &OwnedFd, what: &str) -> Result<u64, Error> {
    let stat = rustix::fs::fstat(descriptor.as_fd())
        .map_err(|error| Error::host(format!("look at the {what}"), error))?;
    u64::try_from(stat.st_size).map_err(|_| Error::Request(format!("{what} has no size")))
}

/// The places of the images, from `base` on.
fn image_slots(mut base: u64, images: &[OwnedFd]) -> Result<Vec<ImageSlot>, Error> {
    if images.is_empty() || images.len() > MAX_IMAGES {
        return Err(Error::Request(format!("{} images, but 1 to {MAX_IMAGES} fit", images.len())));
    }
    let mut slots = Vec::new();
    for image in images {
        let bytes = size_of_file(image, "image")?;
        let writable = rustix::fs::fcntl_getfl(image)
            .map_err(|error| Error::host("look at the image's mode", error))?
            .contains(rustix::fs::OFlags::RDWR);
        if writable || bytes == 0 || !bytes.is_multiple_of(4096) {
            return Err(Error::Request(format!(
                "image of {bytes} bytes must be open read-only and whole pages long"
            )));
        }
        slots.push(ImageSlot { base, bytes });
        base = base
            .checked_add(bytes)
            .and_then(|end| end.checked_next_multiple_of(HUGE_PAGE_SIZE))
            .ok_or_else(|| Error::Request("images are larger than the address space".into()))?;
    }
    Ok(slots)
}

/// A file that is mapped for reading.
#[derive(Debug)]
pub struct MappedFile {
    pointer: *mut core::ffi::c_void,
    bytes: usize,
}

impl MappedFile {
    /// Maps a file whole.
    ///
    /// # Errors
    /// If it is empty or cannot be mapped.
    pub fn new(descriptor: &OwnedFd, what: &str) -> Result<Self, Error> {
        let bytes = size_of_file(descriptor, what)? as usize;
        let (protection, flags) = (ProtFlags::READ, MapFlags::PRIVATE | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address that the host's kernel chooses.
        let pointer = unsafe {
            rustix::mm::mmap(core::ptr::null_mut(), bytes, protection, flags, descriptor, 0)
        }
        .map_err(|error| Error::host(format!("map the {what}"), error))?;
        Ok(Self { pointer, bytes })
    }

    /// Its contents.
    pub fn contents(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self`; the file is a part of the installation, which is
        // replaced as a whole and not written while it is used.
        unsafe { core::slice::from_raw_parts(self.pointer.cast(), self.bytes) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the contents were borrowed from `self`.
        let _ = unsafe { rustix::mm::munmap(self.pointer, self.bytes) };
    }
}
