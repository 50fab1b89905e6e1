// SPDX-License-Identifier: Apache-2.0
//! The host's end of the control rings (`trine_abi::ring`).  The guest is hostile: positions are
//! read once, checked, and kept in private memory; messages are bounded.

use std::{collections::VecDeque, sync::atomic::Ordering};

use trine_abi::{
    layout::CONTROL_RINGS,
    ring::{
        DATA_OFFSET, HEAD_OFFSET, MAX_MESSAGE, RING_BYTES, RING_STRIDE, TAIL_OFFSET, pieces, used,
    },
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The guest wrote something that a sound kernel does not.
#[derive(Debug, PartialEq, Eq)]
pub struct BrokenRing;

/// The control rings.
#[derive(Debug)]
pub struct Control {
    ram: GuestMemoryMmap<()>,
    to_guest: u64,
    from_guest: u64,
    /// Our own position: the guest cannot move it.
    tail: u32,
    head: u32,
    queued: VecDeque<u8>,
    partial: Vec<u8>,
}

impl Control {
    /// Starts with empty rings.
    pub fn new(ram: GuestMemoryMmap<()>) -> Self {
        Self {
            ram,
            to_guest: CONTROL_RINGS,
            from_guest: CONTROL_RINGS + RING_STRIDE,
            tail: 0,
            head: 0,
            queued: VecDeque::new(),
            partial: Vec::new(),
        }
    }

    fn load(&self, address: u64) -> Result<u32, BrokenRing> {
        self.ram.load(GuestAddress(address), Ordering::Acquire).map_err(|_| BrokenRing)
    }

    fn store(&self, address: u64, value: u32) -> Result<(), BrokenRing> {
        self.ram.store(value, GuestAddress(address), Ordering::Release).map_err(|_| BrokenRing)
    }

    /// Queues a message and moves what fits into the ring; says whether anything was moved.
    ///
    /// # Errors
    /// If the guest's positions are impossible.
    pub fn send(&mut self, message: &[u8]) -> Result<bool, BrokenRing> {
        self.queued.extend((message.len() as u32).to_le_bytes());
        self.queued.extend(message);
        self.pump()
    }

    /// Moves queued bytes into the ring; says whether any were moved.
    ///
    /// # Errors
    /// If the guest's positions are impossible.
    pub fn pump(&mut self) -> Result<bool, BrokenRing> {
        if self.queued.is_empty() {
            return Ok(false);
        }
        let head = self.load(self.to_guest + HEAD_OFFSET)?;
        let room = RING_BYTES - used(head, self.tail).ok_or(BrokenRing)?;
        let bytes = room.min(u32::try_from(self.queued.len()).unwrap_or(u32::MAX));
        let data: Vec<u8> = self.queued.drain(..bytes as usize).collect();
        let mut rest = data.as_slice();
        for (offset, length) in pieces(self.tail, bytes) {
            let (now, later) = rest.split_at(length as usize);
            let address = self.to_guest + DATA_OFFSET + u64::from(offset);
            self.ram.write_slice(now, GuestAddress(address)).map_err(|_| BrokenRing)?;
            rest = later;
        }
        self.tail = self.tail.wrapping_add(bytes);
        self.store(self.to_guest + TAIL_OFFSET, self.tail)?;
        Ok(bytes > 0)
    }

    /// Takes every complete message from the guest.
    ///
    /// # Errors
    /// If the guest's positions are impossible or a message is too long.
    pub fn receive(&mut self) -> Result<Vec<Vec<u8>>, BrokenRing> {
        let tail = self.load(self.from_guest + TAIL_OFFSET)?;
        let bytes = used(self.head, tail).ok_or(BrokenRing)?;
        for (offset, length) in pieces(self.head, bytes) {
            let at = self.partial.len();
            self.partial.resize(at + length as usize, 0);
            let address = self.from_guest + DATA_OFFSET + u64::from(offset);
            let target = self.partial.get_mut(at..).unwrap_or_default();
            self.ram.read_slice(target, GuestAddress(address)).map_err(|_| BrokenRing)?;
        }
        self.head = tail;
        self.store(self.from_guest + HEAD_OFFSET, self.head)?;
        let mut messages = Vec::new();
        while let Some((length, rest)) = self.partial.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            if length > MAX_MESSAGE {
                return Err(BrokenRing);
            }
            let Some(message) = rest.get(..length as usize) else { break };
            messages.push(message.to_vec());
            self.partial.drain(..4 + length as usize);
        }
        Ok(messages)
    }
}
