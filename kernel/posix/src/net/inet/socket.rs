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
        AF_INET, AF_INET6, CREDIT_BYTES, CREDIT_CONNECTIONS, DatagramHead, OPTION_BYTES_MAX,
        STATE_CONNECTED, STATE_ENDED, STATE_ERROR, STATE_HUNG, STATE_URGENT, STATE_WRITABLE,
        pack_open,
    },
    window::Operation,
};

use super::{Handle, Inet, address, transfer};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    forward::{Answer, Call, Owner},
    fs::{file::IoctlMemory, types::Ready},
    io::{Sink, Source},
    net::{
        AF_UNSPEC, Destination, Directions, End, Identity, SOCK_DGRAM, SOCK_STREAM, Socket,
        message::{Outgoing, Receive, Received, SOL_SOCKET, Ucred},
        option::{
            Options, SO_ACCEPTCONN, SO_ERROR, SO_PASSCRED, SO_PEERCRED, SO_RCVLOWAT, SO_RCVTIMEO,
            SO_SNDLOWAT, SO_SNDTIMEO,
        },
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
/// IP_RECVERR and IPV6_RECVERR: there is no queue of errors, but programs that ask for one do
/// without it.
const RECVERR: [(u32, u32); 2] = [(0, 11), (41, 25)];
/// Options that the server is never asked about.
const LOCAL: [u32; 9] =
    [SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVLOWAT, SO_SNDLOWAT, SO_PASSCRED, 66, 67, 1, SO_ACCEPTCONN];

/// Switches of streams that every host can set at any time: nobody waits for them.
/// SO_REUSEADDR, SO_KEEPALIVE, TCP_NODELAY, TCP_CORK, TCP_QUICKACK.
const CERTAIN: [(u32, u32); 5] = [(SOL_SOCKET, 2), (SOL_SOCKET, 9), (6, 1), (6, 3), (6, 12)];

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
    accepted: VecDeque<Arc<InetSocket>>,
    /// What was read, and is to be given back as credit.
    pub(super) consumed: u32,
    pub(super) ended: bool,
    pub(super) hung: bool,
    /// The network ended the connection: it has no peer any more.
    reset: bool,
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
    own: Option<Vec<u8>>,
    peer: Option<Vec<u8>>,
}

/// A socket.
pub(crate) struct InetSocket {
    pub(super) inet: Arc<Inet>,
    this: Weak<Self>,
    pub(super) handle: Arc<Handle>,
    identity: Identity,
    options: Options,
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

    fn call_plain(&self, operation: Operation, argument: u64, input: &[u8]) -> Result<(), Errno> {
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

    /// Waits for a connection that is being made.
    fn await_connection(&self, cx: &mut Cx<'_>) -> SysResult<()> {
        cx.progress().value = 1;
        let timeout = self.options.send_timeout_ns();
        let now = cx.services().monotonic_ns();
        let deadline = timeout
            .map(|timeout| *cx.progress().deadline_ns.get_or_insert(now.saturating_add(timeout)));
        if timeout.is_some() && cx.timed_out() {
            return Err(Errno::INPROGRESS.into());
        }
        self.write_wait.add(&cx.ticket());
        let restart = if timeout.is_some() { Restart::Never } else { Restart::Always };
        Err(cx.block(deadline, restart))
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

impl State {
    /// Whether nothing is left to be sent.
    pub(super) fn is_drained(&self) -> bool {
        self.flights.is_empty() && self.unsent.is_empty() && self.returned.is_empty()
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
        let family = given.first_chunk::<2>().map(|family| u16::from_le_bytes(*family));
        if family == Some(AF_UNSPEC) {
            self.call_plain(Operation::SocketConnect, 0, &AF_UNSPEC.to_le_bytes())?;
            let mut state = self.state.lock();
            (state.phase, state.own, state.peer) = (Phase::Open, None, None);
            return Ok(());
        }
        let given = address::read(self.identity.family, given)?;
        if !self.is_stream() {
            self.call_plain(Operation::SocketConnect, 0, &given)?;
            let mut state = self.state.lock();
            (state.phase, state.own, state.peer) = (Phase::Connected, None, Some(given));
            return Ok(());
        }
        // This call has started or waited before.
        let mine = cx.progress().value != 0;
        {
            let mut state = self.state.lock();
            match state.phase {
                Phase::Listening => return Err(Errno::ISCONN.into()),
                Phase::Connected if mine || state.untold => {
                    state.untold = false;
                    return Ok(());
                }
                Phase::Connected => return Err(Errno::ISCONN.into()),
                Phase::Connecting if !waits => return Err(Errno::ALREADY.into()),
                Phase::Connecting => {
                    drop(state);
                    return self.await_connection(cx);
                }
                Phase::Open => {
                    if let Some(error) = state.error.take() {
                        return Err(error.into());
                    }
                    if mine && cx.progress().value == 1 {
                        return Err(Errno::CONNABORTED.into());
                    }
                    (state.ended, state.hung, state.own) = (false, false, None);
                    state.reset = false;
                    (state.receive_shut, state.send_shut) = (false, false);
                }
            }
        }
        // Whatever the server tells from now on is about this attempt.
        cx.progress().value = 2;
        match self.call_plain(Operation::SocketConnect, 0, &given) {
            Ok(()) => {
                let mut state = self.state.lock();
                state.phase = Phase::Connected;
                Ok(())
            }
            Err(Errno::INPROGRESS) => {
                {
                    let mut state = self.state.lock();
                    if state.phase == Phase::Connected {
                        state.untold = !waits;
                        return if waits { Ok(()) } else { Err(Errno::INPROGRESS.into()) };
                    }
                    if let Some(error) = state.error {
                        state.hung = true;
                        if waits {
                            state.error = None;
                            return Err(error.into());
                        }
                        return Err(Errno::INPROGRESS.into());
                    }
                    state.phase = Phase::Connecting;
                }
                if waits { self.await_connection(cx) } else { Err(Errno::INPROGRESS.into()) }
            }
            Err(errno) => Err(errno.into()),
        }
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

    fn shutdown(&self, _cx: &mut Cx<'_>, directions: Directions) -> SysResult<()> {
        let how = match directions {
            Directions { receive: true, send: false } => 0,
            Directions { receive: false, .. } => 1,
            Directions { receive: true, send: true } => 2,
        };
        let drained = self.state.lock().is_drained();
        let done = if drained || !directions.send {
            self.call_plain(Operation::SocketShutdown, how, &[])
        } else {
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

    fn set_option(&self, _cx: &mut Cx<'_>, option: (u32, u32), value: &[u8]) -> SysResult<()> {
        if option.0 == SOL_SOCKET && LOCAL.contains(&option.1) {
            return Err(Errno::NOPROTOOPT.into());
        }
        if RECVERR.contains(&option) {
            return Ok(());
        }
        let argument = u64::from(option.0) << 32 | u64::from(option.1);
        let value = &value[..value.len().min(OPTION_BYTES_MAX)];
        if value.len() >= 4 && self.is_stream() && CERTAIN.contains(&option) {
            self.inet.post_with(Operation::SocketSetOption, self.number(), argument, value, None);
            return Ok(());
        }
        self.call_plain(Operation::SocketSetOption, argument, value)?;
        Ok(())
    }

    fn option(&self, _cx: &mut Cx<'_>, option: (u32, u32), room: usize) -> SysResult<Vec<u8>> {
        let word = |word: u32| Ok(word.to_le_bytes().to_vec());
        match option {
            (SOL_SOCKET, SO_ERROR) => {
                let error = self.state.lock().error.take();
                return word(error.map_or(0, Errno::number));
            }
            (SOL_SOCKET, SO_ACCEPTCONN) => {
                return word((self.state.lock().phase == Phase::Listening).into());
            }
            (SOL_SOCKET, SO_PEERCRED) => return Ok(Ucred::NOBODY.encode().to_vec()),
            (SOL_SOCKET, local) if LOCAL.contains(&local) => return Err(Errno::NOPROTOOPT.into()),
            option if RECVERR.contains(&option) => return word(0),
            _ => {}
        }
        let argument = u64::from(option.0) << 32 | u64::from(option.1);
        let call = Call {
            operation: Operation::SocketGetOption,
            handle: self.number(),
            argument,
            input: &[],
            room: room.min(OPTION_BYTES_MAX),
        };
        Ok(self.inet.services.call(&call, Answer::bytes)?.to_vec())
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
