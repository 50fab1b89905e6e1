// SPDX-License-Identifier: Apache-2.0
//! What system calls do with a socket of AF_UNIX.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::{any::Any, sync::atomic::Ordering};

use super::{
    UnixSocket,
    address::{Address, encode},
    effective_cred,
    queue::DATAGRAMS_MAX,
    socket::Phase,
    transfer,
};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::{file::IoctlMemory, types::Ready},
    io::{Sink, Source},
    net::{
        AF_UNIX, AF_UNSPEC, Destination, Directions, End, Identity, SOCK_DGRAM, SOCK_STREAM,
        Socket,
        message::{Outgoing, Receive, Received, SOL_SOCKET, Ucred},
        option::{Options, SO_ACCEPTCONN, SO_ERROR, SO_PASSCRED, SO_PEEK_OFF, SO_PEERCRED},
    },
    wait::Ticket,
};

/// Longest queue of a listener (net.core.somaxconn).
const BACKLOG_MAX: u32 = 4096;
const FIONREAD: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;

impl Socket for UnixSocket {
    fn identity(&self) -> Identity {
        Identity { family: AF_UNIX, kind: self.kind, protocol: 0 }
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, cx: &mut Cx<'_>, address: &[u8]) -> SysResult<()> {
        let address = Address::parse(address)?;
        let this = self.this()?;
        if address == Address::Unnamed {
            return Ok(self.name_self()?);
        }
        if self.state.lock().name.is_some() {
            return Err(Errno::INVAL.into());
        }
        match address {
            Address::Unnamed => {}
            Address::Abstract(name) => {
                self.net.take_name(&this, &name)?;
                let mut state = self.state.lock();
                state.name = Some(name.into());
                state.owns_name = true;
            }
            Address::Path(mut path) => {
                let node = self.net.make_node(cx, &this, &path)?;
                path.push(0);
                let mut state = self.state.lock();
                state.name = Some(path.into());
                state.owns_name = true;
                state.node = Some(node);
            }
        }
        Ok(())
    }

    fn listen(&self, cx: &mut Cx<'_>, backlog: u32) -> SysResult<()> {
        if self.kind == SOCK_DGRAM {
            return Err(Errno::OPNOTSUPP.into());
        }
        let limit = backlog.min(BACKLOG_MAX) as usize;
        let cred = effective_cred(cx);
        let mut state = self.state.lock();
        if state.name.is_none() {
            return Err(Errno::INVAL.into());
        }
        match &mut state.phase {
            Phase::Connected => return Err(Errno::INVAL.into()),
            Phase::Listening { backlog, .. } => *backlog = limit,
            phase => *phase = Phase::Listening { backlog: limit, pending: VecDeque::new() },
        }
        state.own_cred = Some(cred);
        drop(state);
        self.room_wait.wake_all();
        Ok(())
    }

    fn connect(&self, cx: &mut Cx<'_>, address: &[u8], waits: bool) -> SysResult<()> {
        let family = address.first_chunk::<2>().map(|family| u16::from_le_bytes(*family));
        if self.kind == SOCK_DGRAM && family == Some(AF_UNSPEC) {
            let mut state = self.state.lock();
            (state.peer, state.peer_name) = (None, None);
            return Ok(());
        }
        let address = Address::parse(address)?;
        let target = self.net.find(cx, &address, self.kind)?;
        if self.options.is_on(SO_PASSCRED) {
            self.name_self()?;
        }
        if self.kind != SOCK_DGRAM {
            return self.connect_stream(cx, &target, waits);
        }
        let (name, accepts) = {
            let state = target.state.lock();
            (state.name.clone(), state.accepts_from(self))
        };
        if !accepts {
            return Err(Errno::PERM.into());
        }
        let mut state = self.state.lock();
        state.peer = Some(Arc::downgrade(&target));
        state.peer_name = name;
        drop(state);
        self.sending.wait.wake_all();
        Ok(())
    }

    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        if self.kind == SOCK_DGRAM {
            return Err(Errno::OPNOTSUPP);
        }
        let accepted = {
            let mut state = self.state.lock();
            let ended = state.receive_ended;
            let Phase::Listening { pending, .. } = &mut state.phase else {
                return Err(Errno::INVAL);
            };
            match pending.pop_front() {
                Some(socket) => socket,
                None if ended => return Err(Errno::INVAL),
                None => return Err(Errno::AGAIN),
            }
        };
        self.room_wait.wake_all();
        Ok(accepted)
    }

    fn name(&self, _cx: &mut Cx<'_>, end: End) -> SysResult<Vec<u8>> {
        let state = self.state.lock();
        Ok(match end {
            End::Own => encode(state.name.as_ref()),
            End::Peer if state.peer.is_none() => return Err(Errno::NOTCONN.into()),
            End::Peer => encode(state.peer_name.as_ref()),
        })
    }

    fn resolve(&self, cx: &mut Cx<'_>, address: &[u8]) -> SysResult<Destination> {
        if self.kind != SOCK_DGRAM {
            let connected = matches!(self.state.lock().phase, Phase::Connected);
            return Err(if connected { Errno::ISCONN } else { Errno::OPNOTSUPP }.into());
        }
        let found = self.net.find(cx, &Address::parse(address)?, self.kind)?;
        Ok(found)
    }

    fn before_send(&self, _cx: &mut Cx<'_>) -> SysResult<()> {
        if self.options.is_on(SO_PASSCRED) {
            self.name_self()?;
        }
        Ok(())
    }

    fn send(&self, source: &mut dyn Source, message: &mut Outgoing) -> Result<usize, Errno> {
        transfer::send(self, source, message)
    }

    fn wait_to_send(&self, ticket: &Ticket, message: &Outgoing) {
        self.sending.wait.add(ticket);
        let target = transfer::destination(message).or_else(|| self.peer());
        if let Some(target) = target {
            target.room_wait.add(ticket);
        }
    }

    fn message_max(&self) -> usize {
        self.options.send_bytes().saturating_sub(32)
    }

    fn receive(&self, sink: &mut dyn Sink, how: Receive) -> Result<Received, Errno> {
        transfer::receive(self, sink, how)
    }

    fn shutdown(&self, _cx: &mut Cx<'_>, directions: Directions) -> SysResult<()> {
        let peer = self.peer().filter(|_| self.kind != SOCK_DGRAM);
        if directions.receive {
            self.end_receiving();
            if let Some(peer) = &peer {
                peer.end_sending();
            }
        }
        if directions.send {
            self.end_sending();
            if let Some(peer) = &peer {
                peer.end_receiving();
            }
        }
        Ok(())
    }

    fn set_option(&self, _cx: &mut Cx<'_>, option: (u32, u32), value: &[u8]) -> SysResult<()> {
        match option {
            (SOL_SOCKET, SO_PEEK_OFF) => {
                let bytes = value.first_chunk::<4>().ok_or(Errno::INVAL)?;
                self.state.lock().peek_offset = i32::from_le_bytes(*bytes);
                Ok(())
            }
            (SOL_SOCKET, _) => Err(Errno::NOPROTOOPT.into()),
            _ => Err(Errno::OPNOTSUPP.into()),
        }
    }

    fn option(&self, _cx: &mut Cx<'_>, option: (u32, u32), _room: usize) -> SysResult<Vec<u8>> {
        let mut state = self.state.lock();
        match option {
            (SOL_SOCKET, SO_ERROR) => {
                let error = state.error.take().map_or(0, Errno::number);
                Ok(error.to_le_bytes().to_vec())
            }
            (SOL_SOCKET, SO_PEERCRED) => {
                Ok(state.peer_cred.unwrap_or(Ucred::NOBODY).encode().to_vec())
            }
            (SOL_SOCKET, SO_PEEK_OFF) => Ok(state.peek_offset.to_le_bytes().to_vec()),
            (SOL_SOCKET, SO_ACCEPTCONN) => {
                let listens = matches!(state.phase, Phase::Listening { .. });
                Ok(u32::from(listens).to_le_bytes().to_vec())
            }
            (SOL_SOCKET, _) => Err(Errno::NOPROTOOPT.into()),
            _ => Err(Errno::OPNOTSUPP.into()),
        }
    }

    fn ioctl(&self, command: u32, memory: &mut IoctlMemory<'_>) -> Result<u64, Errno> {
        let bytes = match command {
            FIONREAD => {
                let state = self.state.lock();
                if matches!(state.phase, Phase::Listening { .. }) {
                    return Err(Errno::INVAL);
                }
                if self.kind == SOCK_STREAM {
                    state.queue.bytes()
                } else {
                    state.queue.front().map_or(0, |packet| packet.left().len())
                }
            }
            SIOCOUTQ => self.sending.bytes(),
            _ => return Err(Errno::NOTTY),
        };
        memory.write_int(i32::try_from(bytes).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        let peer = self.peer();
        if let Some(ticket) = ticket {
            self.read_wait.add(ticket);
            self.sending.wait.add(ticket);
            if self.kind == SOCK_DGRAM
                && let Some(peer) = &peer
            {
                peer.room_wait.add(ticket);
            }
        }
        // The peer's queue matters to the sender of datagrams only.
        let peer_full = self.kind == SOCK_DGRAM
            && peer.is_some_and(|peer| peer.state.lock().queue.len() >= DATAGRAMS_MAX);
        let state = self.state.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::ERR, state.error.is_some());
        ready.set(Ready::RDHUP | Ready::READABLE, state.receive_ended);
        ready.set(Ready::HUP, state.receive_ended && state.send_ended);
        if let Phase::Listening { pending, .. } = &state.phase {
            if !pending.is_empty() {
                ready |= Ready::READABLE;
            }
            return ready;
        }
        if !state.queue.is_empty() {
            ready |= Ready::READABLE;
        }
        if self.kind != SOCK_DGRAM && matches!(state.phase, Phase::Open) {
            ready |= Ready::HUP;
        }
        let writable = self.sending.is_writable(self.options.send_bytes()) && !peer_full;
        ready.set(Ready::WRITABLE, writable || state.send_ended);
        ready
    }

    fn close(&self) {
        let (name, node, phase, queue, peer) = {
            let mut state = self.state.lock();
            state.closed = true;
            (state.receive_ended, state.send_ended) = (true, true);
            (
                state.name.take().filter(|_| state.owns_name),
                state.node.take(),
                core::mem::replace(&mut state.phase, Phase::Open),
                core::mem::take(&mut state.queue),
                state.peer.take().and_then(|peer| peer.upgrade()),
            )
        };
        if let Some(name) = name {
            self.net.drop_name(self.kind, &name, node.as_ref().map(|node| node.0));
        }
        if let Some(peer) = peer.filter(|_| self.kind != SOCK_DGRAM) {
            if !queue.is_empty() {
                peer.state.lock().error = Some(Errno::CONNRESET);
            }
            peer.end_sending();
            peer.end_receiving();
        }
        drop(queue);
        self.read_wait.wake_all();
        self.room_wait.wake_all();
        if let Phase::Listening { pending, .. } = phase {
            for socket in pending {
                // Nobody accepted it: its client's connection is reset.
                if let Some(client) = socket.peer() {
                    client.state.lock().error = Some(Errno::CONNRESET);
                }
                socket.close();
            }
        }
        Self::collect(&self.net);
    }

    fn numbered(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
