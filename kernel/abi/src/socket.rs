// SPDX-License-Identifier: Apache-2.0
//! Arguments, answers and events of forwarded sockets, as they lie in a request's buffer.
//!
//! The server owns real sockets, always non-blocking; the guest has their handles.  No request of a
//! socket waits for the network: what is not possible now is `EAGAIN` or `EINPROGRESS`, and an
//! **event** tells when it is.  Events answer the requests [`SocketEvents`] that the guest keeps in
//! flight for that, a few for all its sockets.
//!
//! **Receiving** needs no request: events carry the data.  A socket has *credit*, in bytes, which
//! what is sent to the guest uses up and [`SocketCredit`] gives back as programs read.  A
//! listener's credit is in connections.
//!
//! **Sending** is one request, which the guest need not wait for.  When the host's socket takes
//! less than it was given, the server counts the socket's *epoch* up and takes nothing more for the
//! old one, so that bytes which are under way behind that request cannot overtake; the guest keeps
//! what was not taken, and sends it again under the new epoch when an event says [`STATE_WRITABLE`].
//!
//! Addresses are `struct sockaddr_in` and `struct sockaddr_in6` as Linux has them, exact in length.
//!
//! [`SocketEvents`]: crate::window::Operation::SocketEvents
//! [`SocketCredit`]: crate::window::Operation::SocketCredit

use alloc::vec::Vec;

use crate::wire::{Malformed, Reader, Writer};

/// Credit of a stream or of datagrams at first, in bytes.
pub const CREDIT_BYTES: u32 = 256 << 10;
/// Credit of a listener at first, in connections.
pub const CREDIT_CONNECTIONS: u32 = 16;
/// Most bytes of a datagram.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;
/// What a datagram costs besides its bytes, so that empty ones are bounded, too.
pub const DATAGRAM_OVERHEAD: u32 = 256;
/// Longest address.
pub const ADDRESS_BYTES_MAX: usize = 28;
/// Most bytes of encoded control messages.
pub const CONTROL_BYTES_MAX: usize = 1024;
/// Longest option value.
pub const OPTION_BYTES_MAX: usize = 512;
/// Bytes of the header of an event.
pub const EVENT_BYTES: usize = 16;

/// AF_INET.
pub const AF_INET: u16 = 2;
/// AF_INET6.
pub const AF_INET6: u16 = 10;

/// The connection is made.
pub const STATE_CONNECTED: u32 = 1;
/// A send that was refused may go on.
pub const STATE_WRITABLE: u32 = 2;
/// Nothing more comes.
pub const STATE_ENDED: u32 = 4;
/// Both directions are over.
pub const STATE_HUNG: u32 = 8;
/// There is urgent data.
pub const STATE_URGENT: u32 = 0x10;
/// The error in the record is the socket's.
pub const STATE_ERROR: u32 = 0x20;

/// The bit of a send's argument that asks for no notification if all is well.
pub const SEND_QUIET: u64 = 1 << 31;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum EventKind {
    /// Bytes of a stream.
    Data = 1,
    /// A datagram, or a part of one ([`EVENT_PART`]); the payload of the first part begins with a
    /// [`DatagramHead`].
    Datagram = 2,
    /// A connection: a [`Accepted`].
    Accepted = 3,
    /// The state changed: `STATE_*` bits and an errno, two `u32`; with [`STATE_CONNECTED`] its own
    /// address follows.
    State = 4,
}

/// Flag of an event: the next one goes on with the same datagram.
pub const EVENT_PART: u16 = 1;

/// The header of an event; its payload follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// The socket.
    pub handle: u32,
    /// What it is about.
    pub kind: EventKind,
    /// [`EVENT_PART`].
    pub flags: u16,
    /// Bytes of the payload.
    pub bytes: u32,
}

impl EventHead {
    /// As it lies in the buffer.
    pub fn encode(&self) -> [u8; EVENT_BYTES] {
        let mut bytes = [0; EVENT_BYTES];
        bytes[..4].copy_from_slice(&self.handle.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`Malformed`] if there is no such kind.
    pub fn decode(bytes: &[u8; EVENT_BYTES]) -> Result<Self, Malformed> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let kind = match u16::from_le_bytes([bytes[4], bytes[5]]) {
            1 => EventKind::Data,
            2 => EventKind::Datagram,
            3 => EventKind::Accepted,
            4 => EventKind::State,
            _ => return Err(Malformed),
        };
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        Ok(Self { handle: word(0), kind, flags, bytes: word(8) })
    }
}

/// A control message: level, type, data (cmsg(3)).
pub type Control = (u32, u32, Vec<u8>);

fn put_control(to: &mut Writer, control: &[Control]) {
    to.list(control, |to, (level, kind, data)| {
        to.u32(*level);
        to.u32(*kind);
        to.bytes(data);
    });
}

fn take_control(from: &mut Reader<'_>) -> Result<Vec<Control>, Malformed> {
    from.list(|from| Ok((from.u32()?, from.u32()?, from.bytes()?)))
}

/// What comes before the bytes of a datagram, in both directions, with its own length before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatagramHead {
    /// Where it comes from or goes to; empty: the peer.
    pub address: Vec<u8>,
    /// Control messages.
    pub control: Vec<Control>,
    /// `MSG_*` flags of a received one.
    pub flags: u32,
    /// Bytes of the whole datagram.
    pub bytes: u32,
}

impl DatagramHead {
    /// Encodes it, its length first.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.bytes(&self.address);
        put_control(&mut writer, &self.control);
        writer.u32(self.flags);
        writer.u32(self.bytes);
        let body = writer.finish();
        let mut whole = (body.len() as u32).to_le_bytes().to_vec();
        whole.extend_from_slice(&body);
        whole
    }

    /// Splits a payload into this and the bytes after it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn split(payload: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (length, rest) = payload.split_first_chunk::<4>().ok_or(Malformed)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (body, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        let mut reader = Reader::new(body);
        let head = Self {
            address: reader.bytes()?,
            control: take_control(&mut reader)?,
            flags: reader.u32()?,
            bytes: reader.u32()?,
        };
        reader.end()?;
        if head.address.len() > ADDRESS_BYTES_MAX {
            return Err(Malformed);
        }
        Ok((head, rest))
    }
}

/// A connection that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The handle of the new socket.
    pub handle: u32,
    /// Its peer's address.
    pub peer: Vec<u8>,
    /// Its own.
    pub own: Vec<u8>,
}

impl Accepted {
    /// Encodes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u32(self.handle);
        writer.bytes(&self.peer);
        writer.bytes(&self.own);
        writer.finish()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let accepted = Self { handle: reader.u32()?, peer: reader.bytes()?, own: reader.bytes()? };
        reader.end()?;
        Ok(accepted)
    }
}

/// The argument of `SocketOpen`.
pub fn pack_open(family: u16, kind: u32, protocol: u32) -> u64 {
    u64::from(family) | u64::from(kind & 0xffff) << 16 | u64::from(protocol) << 32
}

/// Family, kind and protocol in the argument of `SocketOpen`.
pub fn unpack_open(argument: u64) -> (u16, u32, u32) {
    (argument as u16, (argument >> 16) as u32 & 0xffff, (argument >> 32) as u32)
}

/// A question about the network namespace, answered with netlink messages as Linux sends them
/// (rtnetlink(7)); as the argument of `NetworkDump`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// `RTM_GETLINK`, `RTM_GETADDR`, `RTM_GETROUTE`, `RTM_GETRULE` or `RTM_GETNEIGH`.
    pub kind: u16,
    /// `AF_*`, or 0 for all.
    pub family: u8,
    /// Messages to pass over, because an earlier answer had them.
    pub skip: u32,
}

impl Dump {
    /// As an argument.
    pub fn pack(self) -> u64 {
        u64::from(self.kind) | u64::from(self.family) << 16 | u64::from(self.skip) << 32
    }

    /// From an argument.
    pub fn unpack(argument: u64) -> Self {
        let skip = (argument >> 32) as u32;
        Self { kind: argument as u16, family: (argument >> 16) as u8, skip }
    }
}

/// Files of /proc/net, and of /proc/sys/net/ipv4 and /proc/sys/net/core, that the server has, by the
/// number that `NetworkFile` uses.
pub const NETWORK_FILES: [&str; 20] = [
    "dev",
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "route",
    "ipv6_route",
    "if_inet6",
    "arp",
    "snmp",
    "snmp6",
    "netstat",
    "sockstat",
    "sockstat6",
    "igmp",
    "dev_mcast",
    "ip_unprivileged_port_start",
    "ip_local_port_range",
    "ping_group_range",
    "somaxconn",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_round_trip_and_cut_ones_are_malformed() {
        let head = EventHead { handle: 7, kind: EventKind::State, flags: 1, bytes: 9 };
        assert_eq!(EventHead::decode(&head.encode()), Ok(head));
        let mut bad = head.encode();
        bad[4] = 9;
        assert_eq!(EventHead::decode(&bad), Err(Malformed));
        let head = DatagramHead {
            address: alloc::vec![2; 16],
            control: alloc::vec![(0, 8, alloc::vec![1, 2, 3])],
            flags: 32,
            bytes: 5,
        };
        let mut payload = head.encode();
        payload.extend_from_slice(b"hello");
        assert_eq!(DatagramHead::split(&payload), Ok((head, &b"hello"[..])));
        for end in 0..payload.len() - 5 {
            assert!(DatagramHead::split(&payload[..end]).is_err());
        }
        let long = DatagramHead { address: alloc::vec![2; 29], ..DatagramHead::default() };
        assert!(DatagramHead::split(&long.encode()).is_err());
        let accepted = Accepted { handle: 1, peer: alloc::vec![1; 16], own: alloc::vec![2; 28] };
        assert_eq!(Accepted::decode(&accepted.encode()), Ok(accepted));
    }

    #[test]
    fn arguments_round_trip() {
        assert_eq!(unpack_open(pack_open(10, 2, 58)), (10, 2, 58));
        let dump = Dump { kind: 18, family: 10, skip: 77 };
        assert_eq!(Dump::unpack(dump.pack()), dump);
    }
}
