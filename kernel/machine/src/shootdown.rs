// SPDX-License-Identifier: Apache-2.0
//! Stale translations on other vCPUs.
//!
//! Page tables change only under the kernel's one lock, and a vCPU enters application code only from
//! there ([`enter`]), so whoever holds the lock knows which vCPUs may use a space's old translations:
//! those that run application code in it.  A change that leaves stale translations there asks for
//! them to be stopped ([`request`]), and the pages that went away are kept ([`retire`]).  Before the
//! holder lets go of the lock, it kicks these vCPUs, waits until each has left its application
//! ([`is_over`]), and frees the pages ([`finish`]).  A vCPU that was stopped waits for the lock, and
//! loads the space again before it goes on, because its generation has changed.
//!
//! On a host nothing ever runs, so nothing ever waits.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use trine_abi::layout::MAX_VCPUS;

use crate::frame::Page;

/// The space in which each vCPU runs application code: its top table, or 0.
static RUNNING: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];
/// vCPUs that there are.
static VCPUS: AtomicU32 = AtomicU32::new(1);
/// vCPUs that have to leave application code, by bit.
static REQUESTED: AtomicU32 = AtomicU32::new(0);
/// Pages that they may still reach.
static RETIRED: Mutex<Vec<Page>> = Mutex::new(Vec::new());
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// A number that no space had before.
pub(crate) fn new_generation() -> u64 {
    GENERATION.fetch_add(1, Ordering::Relaxed)
}

/// Sets how many vCPUs there are.
pub fn set_vcpus(count: u32) {
    VCPUS.store(count.clamp(1, MAX_VCPUS as u32), Ordering::Relaxed);
}

fn running() -> impl Iterator<Item = (u32, &'static AtomicU64)> {
    (0..).zip(RUNNING.iter().take(VCPUS.load(Ordering::Relaxed) as usize))
}

/// Which vCPUs run application code in the space with this top table, by bit.
fn running_in(root: u64) -> u32 {
    running()
        .filter(|(_, space)| space.load(Ordering::SeqCst) == root)
        .fold(0, |mask, (index, _)| mask | 1 << index)
}

/// Whether a vCPU runs application code in the space with this top table.
pub(crate) fn is_running(root: u64) -> bool {
    running_in(root) != 0
}

/// This vCPU is about to run application code in a space.  Called under the kernel's lock.
pub(crate) fn enter(index: usize, root: u64) {
    if let Some(space) = RUNNING.get(index) {
        space.store(root, Ordering::SeqCst);
    }
}

/// This vCPU has left application code.
pub(crate) fn leave(index: usize) {
    enter(index, 0);
}

/// Asks for every vCPU to be stopped that runs in the space with this top table.
pub(crate) fn request(root: u64) {
    let mask = running_in(root);
    if mask != 0 {
        REQUESTED.fetch_or(mask, Ordering::SeqCst);
    }
}

/// Lets go of a page that was mapped in the space with this top table: at once if no vCPU runs in
/// it, else when they were stopped.
pub(crate) fn retire(root: u64, page: Page) {
    let mask = running_in(root);
    if mask == 0 {
        drop(page);
        return;
    }
    REQUESTED.fetch_or(mask, Ordering::SeqCst);
    RETIRED.lock().push(page);
}

/// vCPUs that must leave application code before the kernel's lock is given up, by bit.
pub fn requested() -> u32 {
    REQUESTED.load(Ordering::SeqCst)
}

/// Whether all of them have left it.
pub fn is_over(mask: u32) -> bool {
    running().all(|(index, space)| mask >> index & 1 == 0 || space.load(Ordering::SeqCst) == 0)
}

/// Frees what they could reach.  Called under the kernel's lock, once [`is_over`].
pub fn finish() {
    REQUESTED.store(0, Ordering::SeqCst);
    let pages = core::mem::take(&mut *RETIRED.lock());
    drop(pages);
}
