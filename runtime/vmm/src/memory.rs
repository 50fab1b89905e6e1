// SPDX-License-Identifier: Apache-2.0
//! Guest-physical memory: RAM, the images, the window.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use trine_abi::{
    boot::{ImageSlot, MAX_IMAGES},
    layout::{HUGE_PAGE_SIZE, IMAGE_BASE, PHYS_END, RAM_LIMIT, RAM_MIN, WINDOW_BASE},
    window::WINDOW_BYTES,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::Error;

/// A mapping of this process that backs a memory slot.
#[derive(Debug)]
pub struct Mapping {
    pointer: *mut core::ffi::c_void,
    /// Bytes, as given to KVM.
    pub bytes: u64,
}

// SAFETY: the mapping is only an address range that is unmapped once, on drop.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is accessed through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(
        descriptor: &OwnedFd,
        bytes: u64,
        protection: ProtFlags,
        what: &str,
    ) -> Result<Self, Error> {
        // SAFETY: a new mapping at an address that the host's kernel chooses.
        let pointer = unsafe {
            rustix::mm::mmap(
                core::ptr::null_mut(),
                bytes as usize,
                protection,
                MapFlags::SHARED,
                descriptor,
                0,
            )
        }
        .map_err(|error| Error::host(format!("map {what} of {bytes} bytes"), error))?;
        Ok(Self { pointer, bytes })
    }

    /// Address in this process.
    pub fn host_address(&self) -> u64 {
        self.pointer as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which no VM uses any more: the VM is dropped first.
        let _ = unsafe { rustix::mm::munmap(self.pointer, self.bytes as usize) };
    }
}

/// All guest-physical memory.
#[derive(Debug)]
pub struct Memory {
    /// RAM from guest-physical 0.
    pub ram: GuestMemoryMmap<()>,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// The window to the I/O server.
    pub window: Mapping,
    /// Images with their guest-physical places.
    pub images: Vec<(ImageSlot, Mapping)>,
}

impl Memory {
    /// Maps everything.  Images must be open read-only: their slots are, their mappings are, and so
    /// must be their descriptors.
    ///
    /// # Errors
    /// If a size is out of range, an image is empty or writable, or memory cannot be had.
    pub fn new(ram_bytes: u64, window: &OwnedFd, images: &[OwnedFd]) -> Result<Self, Error> {
        if ram_bytes < RAM_MIN {
            return Err(Error::Request(format!(
                "memory of {ram_bytes} bytes is below the minimum of {RAM_MIN}"
            )));
        }
        let ram_bytes = ram_bytes.next_multiple_of(HUGE_PAGE_SIZE);
        if ram_bytes > RAM_LIMIT {
            return Err(Error::Request(format!("memory of {ram_bytes} bytes is over {RAM_LIMIT}")));
        }
        let window_bytes = size_of_file(window, "window")?;
        if window_bytes < WINDOW_BYTES {
            return Err(Error::Request(format!("window of {window_bytes} bytes is too small")));
        }
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), ram_bytes as usize)])
            .map_err(|error| Error::Request(format!("{ram_bytes} bytes of memory: {error}")))?;
        let memory = Self {
            ram,
            ram_bytes,
            window: Mapping::of(
                window,
                WINDOW_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                "the window",
            )?,
            images: map_images(images)?,
        };
        memory.advise_huge()?;
        Ok(memory)
    }

    /// Address of RAM in this process.
    ///
    /// # Errors
    /// Never for RAM that was mapped; the type asks for it.
    pub fn ram_host_address(&self) -> Result<u64, Error> {
        Ok(self.ram.get_host_address(GuestAddress(0))? as u64)
    }

    fn advise_huge(&self) -> Result<(), Error> {
        let pointer = self.ram.get_host_address(GuestAddress(0))?.cast();
        // SAFETY: our own mapping; the advice changes no contents.
        let advised =
            unsafe { rustix::mm::madvise(pointer, self.ram_bytes as usize, Advice::LinuxHugepage) };
        // Without huge pages the guest is slower and nothing else.
        let _ = advised;
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
        // SAFETY: a range of our own anonymous mapping, which only the guest uses.
        let _ =
            unsafe { rustix::mm::madvise(pointer.cast(), bytes as usize, Advice::LinuxDontNeed) };
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
        WINDOW_BASE
    }
}

fn size_of_file(descriptor: &OwnedFd, what: &str) -> Result<u64, Error> {
    let stat = rustix::fs::fstat(descriptor.as_fd())
        .map_err(|error| Error::host(format!("look at the {what}"), error))?;
    u64::try_from(stat.st_size).map_err(|_| Error::Request(format!("{what} has no size")))
}

fn map_images(images: &[OwnedFd]) -> Result<Vec<(ImageSlot, Mapping)>, Error> {
    if images.is_empty() || images.len() > MAX_IMAGES {
        return Err(Error::Request(format!("{} images, but 1 to {MAX_IMAGES} fit", images.len())));
    }
    let mut base = IMAGE_BASE;
    let mut mapped = Vec::new();
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
        let slot = ImageSlot { base, bytes };
        base = (base + bytes).next_multiple_of(HUGE_PAGE_SIZE);
        if base > PHYS_END {
            return Err(Error::Request("images are larger than guest-physical memory".into()));
        }
        mapped.push((slot, Mapping::of(image, bytes, ProtFlags::READ, "an image")?));
    }
    Ok(mapped)
}

/// Reads a file whole, from its start: other VMs may share the descriptor's position.
///
/// # Errors
/// If it cannot be read.
pub fn read_file(descriptor: OwnedFd, what: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; size_of_file(&descriptor, what)? as usize];
    File::from(descriptor)
        .read_exact_at(&mut bytes, 0)
        .map_err(|error| Error::host(format!("read the {what}"), error))?;
    Ok(bytes)
}
