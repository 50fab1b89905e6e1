// SPDX-License-Identifier: Apache-2.0
//! AF_NETLINK, protocol NETLINK_ROUTE: questions about interfaces, addresses and routes
//! (rtnetlink(7)).  Nothing can be changed through it.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::{
    any::Any,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    AF_NETLINK, Destination, Directions, End, Identity, Net, SOCK_DGRAM, SOCK_RAW, Socket,
    interface::{HEADER_BYTES, RTM_GETADDR, RTM_GETLINK, attributes, messages},
    message::{Outgoing, Receive, Received},
    option::Options,
};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::types::Ready,
    io::{Sink, Source},
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

const NETLINK_ROUTE: u32 = 0;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const IFLA_IFNAME: u16 = 3;
const IFLA_ALT_IFNAME: u16 = 53;
/// Bytes of one packet of a dump, as Linux makes them for small buffers.
const PACKET_BYTES: usize = 8192;
/// Bytes of answers that may wait.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a `struct sockaddr_nl`.
const ADDRESS_BYTES: usize = 12;

/// Numbers of sockets that have not chosen one.
static NEXT_PORT: AtomicU32 = AtomicU32::new(1);

#[derive(Debug, Default)]
struct State {
    port: u32,
    groups: u32,
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// A socket.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    net: Arc<Net>,
    kind: u32,
    options: Options,
    state: Lock<State>,
    wait: WaitQueue,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().unwrap_or_default()))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |half| u16::from_le_bytes([half[0], half[1]]))
}

fn encode(port: u32, groups: u32) -> Vec<u8> {
    let mut address = [0; ADDRESS_BYTES];
    address[..2].copy_from_slice(&AF_NETLINK.to_le_bytes());
    address[4..8].copy_from_slice(&port.to_le_bytes());
    address[8..].copy_from_slice(&groups.to_le_bytes());
    address.to_vec()
}

/// A message of our own.
fn message(kind: u16, flags: u16, request: &[u8], port: u32, body: &[u8]) -> Vec<u8> {
    let mut message = ((HEADER_BYTES + body.len()) as u32).to_le_bytes().to_vec();
    message.extend_from_slice(&kind.to_le_bytes());
    message.extend_from_slice(&flags.to_le_bytes());
    message.extend_from_slice(&word(request, 8).to_le_bytes());
    message.extend_from_slice(&port.to_le_bytes());
    message.extend_from_slice(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// NLMSG_ERROR: an errno, or 0 as an acknowledgement.
fn error(errno: u32, request: &[u8], port: u32) -> Vec<u8> {
    let mut body = errno.wrapping_neg().to_le_bytes().to_vec();
    body.extend_from_slice(&request[..HEADER_BYTES]);
    message(NLMSG_ERROR, 0, request, port, &body)
}

impl NetlinkSocket {
    /// Makes a socket.
    ///
    /// # Errors
    /// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
    pub(crate) fn new(net: &Arc<Net>, kind: u32, protocol: u32) -> Result<Arc<Self>, Errno> {
        if !matches!(kind, SOCK_RAW | SOCK_DGRAM) {
            return Err(Errno::SOCKTNOSUPPORT);
        }
        if protocol != NETLINK_ROUTE {
            return Err(Errno::PROTONOSUPPORT);
        }
        Ok(Arc::new(Self {
            net: Arc::clone(net),
            kind,
            options: Options::new(),
            state: Lock::default(),
            wait: WaitQueue::new(),
        }))
    }

    fn port(&self) -> u32 {
        let mut state = self.state.lock();
        if state.port == 0 {
            let own = self.net.services.current().map_or(0, |task| task.process.pid);
            let number = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
            // The first socket of a process is known by its pid, by custom.
            state.port = if number == 1 { own } else { own | number << 22 | 1 << 31 };
        }
        state.port
    }

    /// The answer to one request, as packets.
    fn answer(&self, request: &[u8], port: u32) -> Result<Vec<Vec<u8>>, Errno> {
        let (kind, flags) = (half(request, 4), half(request, 6));
        if flags & NLM_F_REQUEST == 0 || kind <= NLMSG_NOOP {
            return Ok(Vec::new());
        }
        let mut packets = Vec::new();
        let failed = match kind {
            RTM_GETLINK | RTM_GETADDR | RTM_GETROUTE | RTM_GETNEIGH | RTM_GETRULE => {
                let family = request.get(HEADER_BYTES).copied().unwrap_or(0);
                let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
                match (dump, kind) {
                    (true, _) => self.dump(request, (kind, family), port, &mut packets)?,
                    (false, RTM_GETLINK) => self.link(request, port, &mut packets)?,
                    (false, _) => Some(Errno::OPNOTSUPP),
                }
            }
            // Every other message changes something.
            _ if kind >= 16 && kind & 3 != 2 => Some(Errno::PERM),
            _ => Some(Errno::OPNOTSUPP),
        };
        match failed {
            Some(errno) => packets.push(error(errno.number(), request, port)),
            None if flags & NLM_F_ACK != 0 && flags & NLM_F_DUMP != NLM_F_DUMP => {
                packets.push(error(0, request, port));
            }
            None => {}
        }
        Ok(packets)
    }

    fn dump(
        &self,
        request: &[u8],
        (kind, family): (u16, u8),
        port: u32,
        packets: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Errno>, Errno> {
        let dump = match self.net.dump(kind, family) {
            Ok(dump) => dump,
            Err(Errno::PENDING) => return Err(Errno::PENDING),
            Err(errno) => return Ok(Some(errno)),
        };
        let mut packet = Vec::new();
        for found in messages(&dump) {
            let mut found = found.to_vec();
            let flags = half(&found, 6) | NLM_F_MULTI;
            found[6..8].copy_from_slice(&flags.to_le_bytes());
            found[8..12].copy_from_slice(&word(request, 8).to_le_bytes());
            found[12..16].copy_from_slice(&port.to_le_bytes());
            found.resize(found.len().next_multiple_of(4), 0);
            if !packet.is_empty() && packet.len() + found.len() > PACKET_BYTES {
                packets.push(core::mem::take(&mut packet));
            }
            packet.extend_from_slice(&found);
        }
        if !packet.is_empty() {
            packets.push(packet);
        }
        packets.push(message(NLMSG_DONE, NLM_F_MULTI, request, port, &[0; 4]));
        Ok(None)
    }

    /// RTM_GETLINK of one interface, by number or name.
    fn link(
        &self,
        request: &[u8],
        port: u32,
        packets: &mut Vec<Vec<u8>>,
    ) -> Result<Option<Errno>, Errno> {
        let index = word(request, HEADER_BYTES + 4);
        let name = attributes(request, HEADER_BYTES + 16)
            .find(|(kind, _)| matches!(*kind, IFLA_IFNAME | IFLA_ALT_IFNAME))
            .map(|(_, name)| name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec());
        let dump = match self.net.dump(RTM_GETLINK, 0) {
            Ok(dump) => dump,
            Err(Errno::PENDING) => return Err(Errno::PENDING),
            Err(errno) => return Ok(Some(errno)),
        };
        let is_it = |found: &&[u8]| match (&name, index) {
            (_, index) if index != 0 => word(found, HEADER_BYTES + 4) == index,
            (Some(name), _) => attributes(found, HEADER_BYTES + 16).any(|(kind, value)| {
                kind == IFLA_IFNAME && value.split(|&byte| byte == 0).next() == Some(&name[..])
            }),
            _ => false,
        };
        let Some(found) = messages(&dump).find(is_it) else { return Ok(Some(Errno::NODEV)) };
        packets.push(message(half(found, 4), 0, request, port, &found[HEADER_BYTES..]));
        Ok(None)
    }
}

impl Socket for NetlinkSocket {
    fn identity(&self) -> Identity {
        Identity { family: AF_NETLINK, kind: self.kind, protocol: NETLINK_ROUTE }
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, _cx: &mut Cx<'_>, address: &[u8]) -> SysResult<()> {
        if address.len() < ADDRESS_BYTES || half(address, 0) != AF_NETLINK {
            return Err(Errno::INVAL.into());
        }
        let (port, groups) = (word(address, 4), word(address, 8));
        {
            let mut state = self.state.lock();
            if port != 0 && state.port != 0 && state.port != port {
                return Err(Errno::INVAL.into());
            }
            if port != 0 {
                state.port = port;
            }
            // Changes are not told: a group is joined, and nothing comes.
            state.groups = groups;
        }
        self.port();
        Ok(())
    }

    fn connect(&self, _cx: &mut Cx<'_>, address: &[u8], _waits: bool) -> SysResult<()> {
        if address.len() < ADDRESS_BYTES || half(address, 0) != AF_NETLINK {
            return Err(Errno::INVAL.into());
        }
        if word(address, 4) != 0 {
            return Err(Errno::CONNREFUSED.into());
        }
        self.port();
        Ok(())
    }

    fn name(&self, _cx: &mut Cx<'_>, end: End) -> SysResult<Vec<u8>> {
        let state = self.state.lock();
        Ok(match end {
            End::Own => encode(state.port, state.groups),
            End::Peer => encode(0, 0),
        })
    }

    fn resolve(&self, _cx: &mut Cx<'_>, address: &[u8]) -> SysResult<Destination> {
        if address.len() < ADDRESS_BYTES || half(address, 0) != AF_NETLINK {
            return Err(Errno::INVAL.into());
        }
        // Only the kernel is there to be spoken to.
        if word(address, 4) != 0 {
            return Err(Errno::CONNREFUSED.into());
        }
        Ok(Arc::new(()))
    }

    fn send(&self, source: &mut dyn Source, _message: &mut Outgoing) -> Result<usize, Errno> {
        let mut data = alloc::vec![0; source.left()];
        let taken = source.take(&mut data);
        data.truncate(taken);
        let port = self.port();
        let mut packets = Vec::new();
        for request in messages(&data) {
            packets.append(&mut self.answer(request, port)?);
        }
        {
            let mut state = self.state.lock();
            for packet in packets {
                if state.bytes + packet.len() > QUEUE_BYTES_MAX {
                    return Err(Errno::NOBUFS);
                }
                state.bytes += packet.len();
                state.packets.push_back(packet);
            }
        }
        self.wait.wake_all();
        Ok(taken)
    }

    fn receive(&self, sink: &mut dyn Sink, how: Receive) -> Result<Received, Errno> {
        if how.urgent {
            return Err(Errno::OPNOTSUPP);
        }
        let mut state = self.state.lock();
        let Some(packet) = state.packets.front() else { return Err(Errno::AGAIN) };
        let wanted = packet.len().min(sink.room());
        sink.put(&packet[..wanted]);
        let bytes = packet.len();
        let received = Received { bytes, source: encode(0, 0), ..Received::default() };
        if !how.peek {
            state.bytes -= bytes;
            let packet = state.packets.pop_front();
            drop(state);
            drop(packet);
        }
        Ok(received)
    }

    fn shutdown(&self, _cx: &mut Cx<'_>, _directions: Directions) -> SysResult<()> {
        Err(Errno::OPNOTSUPP.into())
    }

    fn set_option(&self, _cx: &mut Cx<'_>, option: (u32, u32), _value: &[u8]) -> SysResult<()> {
        // SOL_NETLINK: membership, extended acknowledgements, strict checks and the like are hints.
        match option {
            (270, 1..=12) => Ok(()),
            _ => Err(Errno::NOPROTOOPT.into()),
        }
    }

    fn option(&self, _cx: &mut Cx<'_>, option: (u32, u32), _room: usize) -> SysResult<Vec<u8>> {
        match option {
            (1, super::option::SO_ERROR) => Ok(alloc::vec![0; 4]),
            _ => Err(Errno::NOPROTOOPT.into()),
        }
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.wait.add(ticket);
        }
        let mut ready = Ready::WRITABLE;
        ready.set(Ready::READABLE, !self.state.lock().packets.is_empty());
        ready
    }

    fn close(&self) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}
