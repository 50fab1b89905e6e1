// SPDX-License-Identifier: Apache-2.0
//! AF_UNIX (unix(7)): streams, datagrams and packets between processes of the container.
//!
//! | module | what |
//! | --- | --- |
//! | this one | the socket: states, connecting, ends |
//! | `address` | names and paths |
//! | `queue` | messages that wait, and what a sender may have under way |
//! | `rights` | open files in messages |
//! | `transfer` | sending and receiving |
//!
//! Messages lie in the queue of their receiver.  A connected pair refers to each other weakly: an
//! open file keeps its socket, and a listener those that wait to be accepted.
//!
//! No two sockets' states are ever locked at the same time, and nothing is dropped or woken under
//! such a lock.

mod address;
mod queue;
mod rights;
mod transfer;

use alloc::{
    collections::VecDeque,
    format,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

pub(crate) use self::{
    address::UnixNet,
    rights::{InFlight, MESSAGE_FILES_MAX, Rights},
};
use self::{
    address::{Address, NodeKey, encode},
    queue::{Queue, Sending},
};
use super::{
    AF_UNIX, AF_UNSPEC, Destination, Directions, End, Identity, SOCK_DGRAM, SOCK_SEQPACKET,
    SOCK_STREAM, Socket,
    message::{Outgoing, Receive, Received, SOL_SOCKET, Ucred},
    option::{Options, SO_ERROR, SO_PASSCRED, SO_PEEK_OFF, SO_PEERCRED},
};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    fs::{FileRef, file::IoctlMemory, inode::InodeRef, types::Ready},
    io::{Sink, Source},
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// Longest queue of a listener (net.core.somaxconn).
const BACKLOG_MAX: u32 = 4096;
/// Messages that wait in a datagram socket (net.unix.max_dgram_qlen).
const DATAGRAMS_MAX: usize = 512;
const FIONREAD: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;

#[derive(Debug)]
enum Phase {
    /// Not connected; a datagram socket stays so, and may have a peer.
    Open,
    Listening {
        backlog: usize,
        pending: VecDeque<Arc<UnixSocket>>,
    },
    Connected,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    name: Option<Arc<[u8]>>,
    /// The name is its own, not its listener's.
    owns_name: bool,
    node: Option<(NodeKey, InodeRef)>,
    queue: Queue,
    peer: Option<Weak<UnixSocket>>,
    peer_name: Option<Arc<[u8]>>,
    peer_cred: Option<Ucred>,
    /// Of the process that called listen.
    own_cred: Option<Ucred>,
    /// Nothing more comes.
    receive_ended: bool,
    /// Nothing more is sent.
    send_ended: bool,
    error: Option<Errno>,
    /// SO_PEEK_OFF; negative: peeking starts at the front.
    peek_offset: i32,
    closed: bool,
}

/// A socket.
pub(crate) struct UnixSocket {
    kind: u32,
    net: Arc<UnixNet>,
    this: Weak<Self>,
    number: AtomicU64,
    options: Options,
    state: Lock<State>,
    /// What this one sent and is not read.
    sending: Arc<Sending>,
    /// Woken when something comes.
    read_wait: WaitQueue,
    /// Woken when there is room in this one's queue.
    room_wait: WaitQueue,
}

impl fmt::Debug for UnixSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnixSocket({})", self.number.load(Ordering::Relaxed))
    }
}

/// Who the caller is, as its peers see it.
pub(crate) fn effective_cred(cx: &Cx<'_>) -> Ucred {
    let creds = cx.creds();
    Ucred { pid: cx.process().pid, uid: creds.euid, gid: creds.egid }
}

impl UnixSocket {
    /// Makes a socket.
    ///
    /// # Errors
    /// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
    pub(crate) fn new(net: &Arc<UnixNet>, kind: u32, protocol: u32) -> Result<Arc<Self>, Errno> {
        if !matches!(protocol, 0 | 1) {
            return Err(Errno::PROTONOSUPPORT);
        }
        match kind {
            SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET => Ok(Self::make(net, kind)),
            _ => Err(Errno::SOCKTNOSUPPORT),
        }
    }

    fn make(net: &Arc<UnixNet>, kind: u32) -> Arc<Self> {
        let socket = Arc::new_cyclic(|this| Self {
            kind,
            net: Arc::clone(net),
            this: this.clone(),
            number: AtomicU64::new(0),
            options: Options::new(),
            state: Lock::new(State {
                phase: Phase::Open,
                name: None,
                owns_name: false,
                node: None,
                queue: Queue::default(),
                peer: None,
                peer_name: None,
                peer_cred: None,
                own_cred: None,
                receive_ended: false,
                send_ended: false,
                error: None,
                peek_offset: -1,
                closed: false,
            }),
            sending: Arc::default(),
            read_wait: WaitQueue::new(),
            room_wait: WaitQueue::new(),
        });
        let mut all = net.all.lock();
        if all.len() >= 64 && all.len().is_power_of_two() {
            all.retain(|socket| socket.strong_count() > 0);
        }
        all.push(Arc::downgrade(&socket));
        drop(all);
        socket
    }

    /// Makes a connected pair (socketpair(2)).
    ///
    /// # Errors
    /// As [`UnixSocket::new`].
    pub(crate) fn pair(
        net: &Arc<UnixNet>,
        kind: u32,
        protocol: u32,
        cred: Ucred,
    ) -> Result<[Arc<Self>; 2], Errno> {
        let pair = [Self::new(net, kind, protocol)?, Self::new(net, kind, protocol)?];
        for (at, socket) in pair.iter().enumerate() {
            let mut state = socket.state.lock();
            if kind != SOCK_DGRAM {
                state.phase = Phase::Connected;
            }
            state.peer = Some(Arc::downgrade(&pair[1 - at]));
            state.peer_cred = Some(cred);
        }
        Ok(pair)
    }

    fn this(&self) -> Result<Arc<Self>, Errno> {
        self.this.upgrade().ok_or(Errno::BADF)
    }

    fn peer(&self) -> Option<Arc<Self>> {
        self.state.lock().peer.as_ref().and_then(Weak::upgrade)
    }

    /// Calls for every file that waits in this socket, or in one that waits to be accepted.
    fn visit_rights(&self, visit_fn: &mut dyn FnMut(&FileRef)) {
        let state = self.state.lock();
        let rights = state.queue.iter().filter_map(|packet| packet.rights.as_ref());
        rights.flat_map(Rights::files).for_each(&mut *visit_fn);
        if let Phase::Listening { pending, .. } = &state.phase {
            for socket in pending {
                socket.visit_rights(visit_fn);
            }
        }
    }

    /// Makes up a name if there is none.
    fn name_self(&self) -> Result<(), Errno> {
        if self.state.lock().name.is_some() {
            return Ok(());
        }
        let name = self.net.make_name(&self.this()?)?;
        let mut state = self.state.lock();
        state.name = Some(name.into());
        state.owns_name = true;
        Ok(())
    }

    fn connect_stream(&self, cx: &mut Cx<'_>, target: &Arc<Self>, waits: bool) -> SysResult<()> {
        match self.state.lock().phase {
            Phase::Open => {}
            Phase::Connected => return Err(Errno::ISCONN.into()),
            Phase::Listening { .. } => return Err(Errno::INVAL.into()),
        }
        let own_name = self.state.lock().name.clone();
        let cred = effective_cred(cx);
        let server = Self::make(&self.net, self.kind);
        server.options.inherit(&target.options);
        {
            let mut state = server.state.lock();
            state.phase = Phase::Connected;
            state.peer = Some(self.this.clone());
            state.peer_name = own_name;
            state.peer_cred = Some(cred);
        }
        let (name, target_cred) = {
            let mut state = target.state.lock();
            let (name, target_cred) = (state.name.clone(), state.own_cred);
            if state.closed || state.receive_ended {
                return Err(Errno::CONNREFUSED.into());
            }
            let Phase::Listening { backlog, pending } = &mut state.phase else {
                return Err(Errno::CONNREFUSED.into());
            };
            if pending.len() > *backlog {
                drop(state);
                if !waits {
                    return Err(Errno::AGAIN.into());
                }
                let deadline = deadline(cx, self.options.send_timeout_ns());
                if cx.timed_out() {
                    return Err(Errno::AGAIN.into());
                }
                target.room_wait.add(&cx.ticket());
                return Err(cx.block(deadline, Restart::Always));
            }
            server.state.lock().name.clone_from(&name);
            pending.push_back(Arc::clone(&server));
            (name, target_cred)
        };
        {
            let mut state = self.state.lock();
            state.phase = Phase::Connected;
            state.peer = Some(Arc::downgrade(&server));
            state.peer_name = name;
            state.peer_cred = target_cred;
        }
        target.read_wait.wake_all();
        self.sending.wait.wake_all();
        Ok(())
    }

    /// A directed end: `self` receives nothing more, and its peer sends nothing more.
    fn end_receiving(&self) {
        self.state.lock().receive_ended = true;
        self.read_wait.wake_all();
        self.room_wait.wake_all();
    }

    fn end_sending(&self) {
        self.state.lock().send_ended = true;
        self.sending.wait.wake_all();
        self.read_wait.wake_all();
    }

    /// Frees what only messages refer to that nobody can receive.
    fn collect(net: &Arc<UnixNet>) {
        if !net.in_flight.has_sockets() {
            return;
        }
        let lost = net.in_flight.unreachable();
        for file in &lost {
            if let Some(socket) = file
                .ops()
                .as_any()
                .downcast_ref::<super::file::SocketFile>()
                .and_then(|file| file.socket().as_any().downcast_ref::<Self>())
            {
                let queue = core::mem::take(&mut socket.state.lock().queue);
                drop(queue);
            }
        }
    }

    /// A line of /proc/net/unix.
    fn describe(&self, text: &mut Vec<u8>) {
        let state = self.state.lock();
        if state.closed {
            return;
        }
        let (flags, shown) = match state.phase {
            Phase::Open => (0, 1),
            Phase::Listening { .. } => (0x1_0000, 1),
            Phase::Connected => (0, 3),
        };
        let number = self.number.load(Ordering::Relaxed);
        let kind = self.kind;
        let line =
            format!("{:016x}: 00000002 00000000 {flags:08x} {kind:04x} {shown:02x} {number}", 0);
        text.extend_from_slice(line.as_bytes());
        if let Some(name) = &state.name {
            text.push(b' ');
            let end = name.len() - usize::from(name.first() != Some(&0));
            text.extend(name[..end].iter().map(|&byte| if byte == 0 { b'@' } else { byte }));
        }
        text.push(b'\n');
    }
}

/// The point at which a wait that began some time ago times out.
fn deadline(cx: &mut Cx<'_>, timeout_ns: Option<u64>) -> Option<u64> {
    let now = cx.services().monotonic_ns();
    let timeout = timeout_ns?;
    Some(*cx.progress().deadline_ns.get_or_insert(now.saturating_add(timeout)))
}

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
            (SOL_SOCKET, super::option::SO_ACCEPTCONN) => {
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

impl State {
    /// Whether a datagram of `sender` is taken: a connected socket hears its peer only.
    fn accepts_from(&self, sender: &UnixSocket) -> bool {
        self.peer.as_ref().is_none_or(|peer| core::ptr::eq(peer.as_ptr(), sender))
    }
}
