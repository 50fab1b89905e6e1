// SPDX-License-Identifier: Apache-2.0
//! The state of a socket.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

use trine_abi::socket::DatagramHead;

use super::InetSocket;
use crate::Errno;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not connected.
    Open,
    /// An event will tell.
    Connecting,
    /// It has a peer.
    Connected,
    Listening,
}

/// A send that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) id: u32,
    pub(super) bytes: usize,
    pub(super) epoch: u32,
}

/// A piece of a stream that arrived.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) at: usize,
}

/// A datagram that arrived.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) head: DatagramHead,
    pub(super) data: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// A connection that nobody was told of yet.
    pub(super) untold: bool,
    pub(super) input: VecDeque<Piece>,
    pub(super) input_bytes: usize,
    pub(super) datagrams: VecDeque<Datagram>,
    /// What came of a datagram whose rest has not come.
    pub(super) part: Vec<u8>,
    pub(super) accepted: VecDeque<Arc<InetSocket>>,
    /// What was read, and is to be given back as credit.
    pub(super) consumed: u32,
    pub(super) ended: bool,
    pub(super) hung: bool,
    /// The network ended the connection: it has no peer any more.
    pub(super) reset: bool,
    pub(super) urgent: bool,
    pub(super) receive_shut: bool,
    pub(super) send_shut: bool,
    pub(super) error: Option<Errno>,
    pub(super) flights: VecDeque<Flight>,
    pub(super) epoch: u32,
    pub(super) stalled: bool,
    /// No request was free to send with.
    pub(super) starved: bool,
    /// What came back from flights, and has to go first.
    pub(super) returned: VecDeque<Vec<u8>>,
    pub(super) unsent: VecDeque<Vec<u8>>,
    /// shutdown(2) is to be made when all is sent.
    pub(super) shutdown_due: Option<u64>,
    pub(super) closed: bool,
    pub(super) own: Option<Vec<u8>>,
    pub(super) peer: Option<Vec<u8>>,
}

impl State {
    /// Whether nothing is left to be sent.
    pub(super) fn is_drained(&self) -> bool {
        self.flights.is_empty() && self.unsent.is_empty() && self.returned.is_empty()
    }
}
