// SPDX-License-Identifier: Apache-2.0
//! One socket of the internet families.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    fmt,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use trine_abi::{
    socket::{
        AF_INET, AF_INET6, CREDIT_BYTES, CREDIT_CONNECTIONS, STATE_CONNECTED, STATE_ENDED,
        STATE_ERROR, STATE_HUNG, STATE_URGENT, STATE_WRITABLE, pack_open,
    },
    window::Operation,
};

use super::{
    Handle, Inet, address,
    state::{Phase, State},
    transfer,
};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    forward::{Answer, Call, Owner},
    fs::{file::IoctlMemory, types::Ready},
    io::{Sink, Source},
    net::{
        Destination, Directions, End, Identity, SOCK_DGRAM, SOCK_STREAM, Socket,
        message::{Outgoing, Receive, Received},
        option::Options,
    },
    process::creds::CAP_NET_BIND_SERVICE,
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// Ports below this one are for the privileged.
const PORT_UNPRIVILEGED: u16 = 1024;
const FIONREAD: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;
const SIOCATMARK: u32 = 0x8905;

/// A socket.
pub(crate) struct InetSocket {
    pub(super) inet: Arc<Inet>,
    this: Weak<Self>,
    pub(super) handle: Arc<Handle>,
    pub(super) identity: Identity,
    pub(super) options: Options,
    /// Makes repeated sends of one call differ.
    pub(super) attempt: AtomicU32,
    inode: AtomicU64,
    pub(super) state: Lock<State>,
    pub(super) read_wait: WaitQueue,
    pub(super) write_wait: WaitQueue,
}

impl fmt::Debug for InetSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InetSocket({})", self.handle.number)
    }
}

/// Whether a family is one of these.
pub(crate) fn is_inet(family: u16) -> bool {
    matches!(family, AF_INET | AF_INET6)
}

impl InetSocket {
    /// Makes a socket.
    ///
    /// # Errors
    /// `PENDING`; what the server says.
    pub(crate) fn new(inet: &Arc<Inet>, identity: Identity) -> Result<Arc<Self>, Errno> {
        let Identity { family, kind, protocol } = identity;
        let handle = inet.open(pack_open(family, kind, protocol))?;
        let protocol = match (kind, protocol) {
            (SOCK_STREAM, 0) => 6,
            (SOCK_DGRAM, 0) => 17,
            _ => protocol,
        };
        Ok(Self::make(inet, handle, Identity { protocol, ..identity }))
    }

    fn make(inet: &Arc<Inet>, handle: Arc<Handle>, identity: Identity) -> Arc<Self> {
        let socket = Arc::new_cyclic(|this| Self {
            inet: Arc::clone(inet),
            this: this.clone(),
            handle,
            identity,
            options: Options::new(),
            attempt: AtomicU32::new(0),
            inode: AtomicU64::new(0),
            state: Lock::new(State {
                phase: Phase::Open,
                untold: false,
                input: VecDeque::new(),
                input_bytes: 0,
                datagrams: VecDeque::new(),
                part: Vec::new(),
                accepted: VecDeque::new(),
                consumed: 0,
                ended: false,
                hung: false,
                reset: false,
                urgent: false,
                receive_shut: false,
                send_shut: false,
                error: None,
                flights: VecDeque::new(),
                epoch: 0,
                stalled: false,
                starved: false,
                returned: VecDeque::new(),
                unsent: VecDeque::new(),
                shutdown_due: None,
                closed: false,
                own: None,
                peer: None,
            }),
            read_wait: WaitQueue::new(),
            write_wait: WaitQueue::new(),
        });
        inet.add(&socket);
        socket
    }

    /// The handle's number.
    pub(super) fn number(&self) -> u32 {
        self.handle.number
    }

    /// A request is free to send with.
    pub(super) fn fed(&self) {
        self.state.lock().starved = false;
        self.write_wait.wake_all();
    }

    pub(super) fn this(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    /// Makes a call about this socket.
    pub(super) fn call<T: Any + Send + Sync + fmt::Debug>(
        &self,
        operation: Operation,
        argument: u64,
        input: &[u8],
        decode_fn: impl FnOnce(&Answer) -> Result<T, Errno> + Send + 'static,
    ) -> Result<Arc<T>, Errno> {
        let call = Call::new(operation, self.number(), argument, input);
        self.inet.services.call(&call, decode_fn)
    }

    pub(super) fn call_plain(
        &self,
        operation: Operation,
        argument: u64,
        input: &[u8],
    ) -> Result<(), Errno> {
        self.call(operation, argument, input, |answer| answer.result().map(drop)).map(drop)
    }

    fn call_bytes(&self, operation: Operation, argument: u64) -> Result<Vec<u8>, Errno> {
        self.call(operation, argument, &[], Answer::bytes).map(|bytes| bytes.to_vec())
    }

    /// Gives credit back when that is worth a request.
    pub(super) fn return_credit(&self, consumed: u32) {
        let due = {
            let mut state = self.state.lock();
            state.consumed = state.consumed.saturating_add(consumed);
            let listening = state.phase == Phase::Listening;
            let worth = if listening { CREDIT_CONNECTIONS / 4 } else { CREDIT_BYTES / 4 };
            if state.consumed < worth || state.ended && !listening {
                return;
            }
            core::mem::take(&mut state.consumed)
        };
        self.inet.post(Operation::SocketCredit, self.number(), due.into(), None);
    }

    /// A connection to this listener arrived.
    pub(super) fn connection_arrived(&self, handle: Arc<Handle>, peer: Vec<u8>, own: Vec<u8>) {
        let socket = Self::make(&self.inet, handle, self.identity);
        socket.options.inherit(&self.options);
        {
            let mut state = socket.state.lock();
            state.phase = Phase::Connected;
            (state.own, state.peer) = (Some(own), Some(peer));
        }
        self.state.lock().accepted.push_back(socket);
        self.read_wait.wake_all();
    }

    /// The server tells of a change.
    pub(super) fn changed(&self, bits: u32, error: u32, own: &[u8]) {
        let (mut readable, mut writable) = (false, false);
        {
            let mut state = self.state.lock();
            if bits & STATE_CONNECTED != 0 {
                (state.phase, state.untold) = (Phase::Connected, true);
                state.own = (!own.is_empty()).then(|| own.to_vec());
                writable = true;
            }
            if bits & STATE_ERROR != 0 {
                state.error = Some(Errno::from_host(error));
                if self.is_stream() && state.phase == Phase::Connecting {
                    state.phase = Phase::Open;
                    state.hung = true;
                }
                state.reset |= self.is_stream() && state.phase == Phase::Connected;
                (readable, writable) = (true, true);
            }
            if bits & (STATE_ENDED | STATE_HUNG) != 0 {
                state.ended = true;
                readable = true;
            }
            if bits & STATE_HUNG != 0 {
                state.hung = true;
                writable = true;
            }
            if bits & STATE_URGENT != 0 {
                state.urgent = true;
                readable = true;
            }
            if bits & STATE_WRITABLE != 0 {
                state.stalled = false;
                writable = true;
            }
        }
        if bits & STATE_WRITABLE != 0 {
            self.send_again();
        }
        if readable {
            self.read_wait.wake_all();
        }
        if writable {
            self.write_wait.wake_all();
        }
    }

    /// All sends before now are done: closes or shuts down if that waits for it.
    pub(super) fn drained(&self) {
        let (shutdown, closed) = {
            let mut state = self.state.lock();
            if !state.is_drained() {
                return;
            }
            (state.shutdown_due.take(), state.closed)
        };
        if let Some(how) = shutdown {
            self.inet.post(Operation::SocketShutdown, self.number(), how, None);
        }
        if closed {
            self.inet.let_go(self.number());
        }
    }

    /// Has [`InetSocket::drained`] called when all that is under way is done.
    fn await_drained(&self) {
        self.inet.post(Operation::SocketName, self.number(), 0, self.this());
    }
}

impl Owner for InetSocket {
    fn completed(self: Arc<Self>, answer: Answer) {
        transfer::sent(&self, answer);
    }
}

impl Socket for InetSocket {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, cx: &mut Cx<'_>, given: &[u8]) -> SysResult<()> {
        let given = address::read(self.identity.family, given)?;
        let port = address::port(&given);
        let privileged = cx.creds().has_cap(CAP_NET_BIND_SERVICE);
        if port != 0 && port < PORT_UNPRIVILEGED && !privileged && self.identity.protocol != 1 {
            let first = cx.fs().lock().vfs.net.first_unprivileged_port()?;
            if port < first {
                return Err(Errno::ACCES.into());
            }
        }
        self.call_plain(Operation::SocketBind, 0, &given)?;
        Ok(())
    }

    fn listen(&self, _cx: &mut Cx<'_>, backlog: u32) -> SysResult<()> {
        if !self.is_stream() {
            return Err(Errno::OPNOTSUPP.into());
        }
        if matches!(self.state.lock().phase, Phase::Connecting | Phase::Connected) {
            return Err(Errno::INVAL.into());
        }
        self.call_plain(Operation::SocketListen, backlog.into(), &[])?;
        self.state.lock().phase = Phase::Listening;
        Ok(())
    }

    fn connect(&self, cx: &mut Cx<'_>, given: &[u8], waits: bool) -> SysResult<()> {
        self.connect_to(cx, given, waits)
    }

    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        if !self.is_stream() {
            return Err(Errno::OPNOTSUPP);
        }
        let accepted = {
            let mut state = self.state.lock();
            if state.phase != Phase::Listening {
                return Err(Errno::INVAL);
            }
            match state.accepted.pop_front() {
                Some(accepted) => accepted,
                None if state.receive_shut => return Err(Errno::INVAL),
                None => return Err(state.error.take().unwrap_or(Errno::AGAIN)),
            }
        };
        self.return_credit(1);
        Ok(accepted)
    }

    fn name(&self, _cx: &mut Cx<'_>, end: End) -> SysResult<Vec<u8>> {
        {
            let state = self.state.lock();
            let known = if end == End::Own { &state.own } else { &state.peer };
            if state.phase == Phase::Connected
                && !(state.reset && end == End::Peer)
                && let Some(known) = known
            {
                return Ok(known.clone());
            }
            if end == End::Peer && (state.phase != Phase::Connected || state.reset) {
                return Err(Errno::NOTCONN.into());
            }
        }
        let name = self.call_bytes(Operation::SocketName, u64::from(end == End::Peer))?;
        let mut state = self.state.lock();
        if state.phase == Phase::Connected {
            let known = if end == End::Own { &mut state.own } else { &mut state.peer };
            *known = Some(name.clone());
        }
        Ok(name)
    }

    fn resolve(&self, _cx: &mut Cx<'_>, given: &[u8]) -> SysResult<Destination> {
        Ok(Arc::new(address::read(self.identity.family, given)?))
    }

    fn send(&self, source: &mut dyn Source, message: &mut Outgoing) -> Result<usize, Errno> {
        if self.is_stream() {
            transfer::send_stream(self, source, message)
        } else {
            transfer::send_datagram(self, source, message)
        }
    }

    fn wait_to_send(&self, ticket: &Ticket, _message: &Outgoing) {
        self.write_wait.add(ticket);
        self.inet.services.await_free(ticket);
    }

    fn message_max(&self) -> usize {
        trine_abi::socket::DATAGRAM_BYTES_MAX
    }

    fn receive(&self, sink: &mut dyn Sink, how: Receive) -> Result<Received, Errno> {
        if how.errors {
            return Err(Errno::AGAIN);
        }
        if how.urgent {
            return transfer::receive_urgent(self, sink, how);
        }
        if self.is_stream() {
            transfer::receive_stream(self, sink, how)
        } else {
            transfer::receive_datagram(self, sink, how)
        }
    }

    fn shutdown(&self, cx: &mut Cx<'_>, directions: Directions) -> SysResult<()> {
        let how = match directions {
            Directions { receive: true, send: false } => 0,
            Directions { receive: false, .. } => 1,
            Directions { receive: true, send: true } => 2,
        };
        let drained = self.state.lock().is_drained();
        let done = if drained || !directions.send {
            self.call_plain(Operation::SocketShutdown, how, &[])
        } else {
            self.inet.await_posts(&cx.ticket())?;
            self.state.lock().shutdown_due = Some(how);
            self.await_drained();
            Ok(())
        };
        // Datagram sockets are shut down even where there is no peer, and say so.
        if done == Err(Errno::PENDING) || (done.is_err() && self.is_stream()) {
            return Ok(done?);
        }
        {
            let mut state = self.state.lock();
            state.receive_shut |= directions.receive;
            state.send_shut |= directions.send;
        }
        self.read_wait.wake_all();
        self.write_wait.wake_all();
        Ok(done?)
    }

    fn set_option(&self, cx: &mut Cx<'_>, option: (u32, u32), value: &[u8]) -> SysResult<()> {
        Ok(self.set(cx, option, value)?)
    }

    fn option(&self, _cx: &mut Cx<'_>, option: (u32, u32), room: usize) -> SysResult<Vec<u8>> {
        Ok(self.get(option, room)?)
    }

    fn ioctl(&self, command: u32, memory: &mut IoctlMemory<'_>) -> Result<u64, Errno> {
        let value = match command {
            FIONREAD => {
                let state = self.state.lock();
                if state.phase == Phase::Listening {
                    return Err(Errno::INVAL);
                }
                let first = state.datagrams.front().map_or(0, |datagram| datagram.data.len());
                (state.input_bytes + first) as u64
            }
            SIOCOUTQ | SIOCATMARK => {
                let waiting = {
                    let state = self.state.lock();
                    let unsent = state.unsent.iter().chain(&state.returned).map(Vec::len);
                    let flying = state.flights.iter().map(|flight| flight.bytes);
                    unsent.chain(flying).sum::<usize>()
                };
                let call = |answer: &Answer| answer.result();
                let value = *self.call(Operation::SocketIoctl, command.into(), &[], call)?;
                if command == SIOCOUTQ { value + waiting as u64 } else { value }
            }
            _ => return Err(Errno::NOTTY),
        };
        memory.write_int(i32::try_from(value).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.read_wait.add(ticket);
            self.write_wait.add(ticket);
        }
        let state = self.state.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::ERR, state.error.is_some());
        ready.set(Ready::PRI, state.urgent);
        if !self.is_stream() {
            ready.set(Ready::READABLE, !state.datagrams.is_empty() || state.error.is_some());
            ready.set(Ready::READABLE | Ready::RDHUP, state.receive_shut);
            ready.set(
                Ready::READABLE,
                ready.contains(Ready::READABLE) || !state.datagrams.is_empty(),
            );
            ready.set(Ready::HUP, state.receive_shut && state.send_shut);
            ready.set(Ready::WRITABLE, !state.stalled);
            return ready;
        }
        match state.phase {
            Phase::Listening => {
                let any = !state.accepted.is_empty() || state.receive_shut;
                ready.set(Ready::READABLE, any || state.error.is_some());
                return ready;
            }
            Phase::Connecting => return ready,
            Phase::Open => {
                ready |= Ready::HUP | Ready::WRITABLE;
                ready.set(Ready::READABLE | Ready::RDHUP, state.hung);
                return ready;
            }
            Phase::Connected => {}
        }
        let over = state.ended || state.receive_shut;
        ready.set(Ready::READABLE, over || state.input_bytes > 0 || state.error.is_some());
        ready.set(Ready::RDHUP, over);
        ready.set(Ready::HUP, state.hung || (over && state.send_shut));
        ready.set(Ready::WRITABLE, transfer::is_writable(&state) || state.send_shut || state.hung);
        ready
    }

    fn close(&self) {
        let (drained, accepted) = {
            let mut state = self.state.lock();
            state.closed = true;
            (state.input, state.datagrams) = (VecDeque::new(), VecDeque::new());
            (state.is_drained(), core::mem::take(&mut state.accepted))
        };
        drop(accepted);
        if !drained && let Some(this) = self.this() {
            self.inet.linger(this);
            self.await_drained();
        }
        self.read_wait.wake_all();
        self.write_wait.wake_all();
    }

    fn numbered(&self, number: u64) {
        self.inode.store(number, Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
