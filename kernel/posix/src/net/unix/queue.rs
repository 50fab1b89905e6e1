// SPDX-License-Identifier: Apache-2.0
//! Messages that wait in a socket, and who pays for them.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::Rights;
use crate::{net::message::Ucred, wait::WaitQueue};

/// Messages that wait in a datagram socket (net.unix.max_dgram_qlen).
pub(super) const DATAGRAMS_MAX: usize = 512;

/// What a message costs its sender besides its bytes.
const OVERHEAD_BYTES: usize = 256;

/// What a socket has under way, in the queues of others.
#[derive(Debug, Default)]
pub(super) struct Sending {
    bytes: AtomicUsize,
    limit: AtomicUsize,
    /// Woken when there is room again.
    pub(super) wait: WaitQueue,
}

impl Sending {
    /// Bytes under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a message may be sent; `limit` is the socket's SO_SNDBUF.
    pub(super) fn has_room(&self, limit: usize) -> bool {
        self.limit.store(limit, Ordering::Relaxed);
        self.bytes() < limit
    }

    /// Whether there is so much room that it is worth telling.
    pub(super) fn is_writable(&self, limit: usize) -> bool {
        self.bytes() * 4 <= limit
    }

    fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let bytes = bytes + OVERHEAD_BYTES;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Charge { sending: Arc::clone(self), bytes }
    }
}

/// A message's cost, paid back when it is gone.
#[derive(Debug)]
struct Charge {
    sending: Arc<Sending>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.sending.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.sending.is_writable(self.sending.limit.load(Ordering::Relaxed)) {
            self.sending.wait.wake_all();
        }
    }
}

/// A message, or a part of a stream.
#[derive(Debug)]
pub(super) struct Packet {
    data: Vec<u8>,
    at: usize,
    /// The sender's name.
    pub(super) source: Option<Arc<[u8]>>,
    pub(super) sender: Ucred,
    pub(super) rights: Option<Rights>,
    _charge: Charge,
}

impl Packet {
    pub(super) fn new(
        sending: &Arc<Sending>,
        data: Vec<u8>,
        source: Option<Arc<[u8]>>,
        sender: Ucred,
        rights: Option<Rights>,
    ) -> Self {
        let _charge = sending.charge(data.len());
        Self { data, at: 0, source, sender, rights, _charge }
    }

    /// What is not read yet.
    pub(super) fn left(&self) -> &[u8] {
        &self.data[self.at..]
    }

    /// Passes over bytes that were read.
    pub(super) fn pass(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

/// The messages of one socket.
#[derive(Debug, Default)]
pub(super) struct Queue {
    packets: VecDeque<Packet>,
    bytes: usize,
}

impl Queue {
    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages that wait.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The messages, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter()
    }

    /// Adds a message.
    pub(super) fn push(&mut self, packet: Packet) {
        self.bytes += packet.left().len();
        self.packets.push_back(packet);
    }

    /// The oldest message.
    pub(super) fn front(&self) -> Option<&Packet> {
        self.packets.front()
    }

    /// The rights of the oldest message.
    pub(super) fn take_rights(&mut self) -> Option<Rights> {
        self.packets.front_mut().and_then(|packet| packet.rights.take())
    }

    /// Passes over bytes of the oldest message; returns it if it is read whole, to be dropped
    /// without locks.
    pub(super) fn pass(&mut self, bytes: usize) -> Option<Packet> {
        let packet = self.packets.front_mut()?;
        packet.pass(bytes);
        self.bytes -= bytes;
        if packet.left().is_empty() { self.packets.pop_front() } else { None }
    }

    /// Takes the oldest message.
    pub(super) fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.left().len();
        Some(packet)
    }
}
