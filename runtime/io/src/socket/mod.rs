// SPDX-License-Identifier: Apache-2.0
//! Forwarded sockets (`trine_abi::socket`): the sockets of one VM.
//!
//! | module | what |
//! | --- | --- |
//! | this one | requests, and which sockets there are |
//! | `object` | one socket: what it has to tell, receiving and sending |
//! | `accept` | connections that come in |
//! | `address` | what an address is before anything is decided about it |
//! | `option` | the options that a guest may use |
//! | `gate` | the one place where a call is decided about |
//! | `names` | DNS names, for rules that speak of them |
//! | `network` | questions about the network namespace |
//!
//! Nothing in here waits.  A socket that has something to tell is in a queue; the guest's
//! `SocketEvents` requests are in another; [`Sockets::pump`] brings them together.

mod accept;
mod address;
mod gate;
mod names;
mod network;
mod object;
mod option;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{event::epoll::EventFlags, io::Errno};
use trine_abi::{
    socket::{self as abi, AF_INET, AF_INET6, DatagramHead, Dump},
    window::{Operation, Submission},
};
use trine_jail::socket as host;
use trine_policy::{CallKind, case::Case};

pub(crate) use self::network::Network;
use self::{
    address::Address,
    gate::Permit,
    names::Names,
    object::{Object, Sent},
};
use crate::{
    service::{Context, Service},
    stream::errno_of,
    window::WindowError,
};

/// Most sockets of one VM.
const SOCKETS_MAX: usize = 16_384;
/// Most bytes that one socket tells before another one's turn.
const TURN_BYTES: usize = 96 << 10;
const EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::PRI);

/// What an operation comes to: a result, bytes, or an errno.
enum Outcome {
    Result(u64),
    Bytes(Vec<u8>),
}

/// The sockets of one VM.
#[derive(Debug)]
pub(crate) struct Sockets {
    objects: BTreeMap<u32, Object>,
    next_handle: u32,
    /// Those that may have something to tell.
    telling: VecDeque<u32>,
    /// Requests for events.
    waiting: VecDeque<Submission>,
    names: Names,
    network: Arc<Network>,
    /// Room for a datagram.
    scratch: Vec<u8>,
    accepting: accept::Waiting,
}

fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw_os_error(number),
        None => Errno::INVAL,
    }
}

/// Which kinds of sockets a guest may have.
fn check_kind(family: u16, kind: u32, protocol: u32) -> Result<i32, Errno> {
    const STREAM: u32 = libc_kind(rustix::net::SocketType::STREAM);
    const DGRAM: u32 = libc_kind(rustix::net::SocketType::DGRAM);
    const RAW: u32 = libc_kind(rustix::net::SocketType::RAW);
    const ICMP: u32 = 1;
    const TCP: u32 = 6;
    const UDP: u32 = 17;
    const ICMPV6: u32 = 58;
    const UDPLITE: u32 = 136;
    match (family, kind, protocol) {
        (AF_INET | AF_INET6, STREAM, 0 | TCP) | (AF_INET | AF_INET6, DGRAM, 0 | UDP | UDPLITE) => {}
        (AF_INET, DGRAM, ICMP) | (AF_INET6, DGRAM, ICMPV6) => {}
        (AF_INET | AF_INET6, RAW, _) => return Err(Errno::PERM),
        (AF_INET | AF_INET6, STREAM | DGRAM, _) => return Err(Errno::PROTONOSUPPORT),
        (AF_INET | AF_INET6, _, _) => return Err(Errno::SOCKTNOSUPPORT),
        _ => return Err(Errno::AFNOSUPPORT),
    }
    Ok(kind as i32)
}

const fn libc_kind(kind: rustix::net::SocketType) -> u32 {
    kind.as_raw()
}

impl Sockets {
    /// No sockets yet.
    pub(crate) fn new(network: Arc<Network>) -> Self {
        Self {
            objects: BTreeMap::new(),
            next_handle: 1,
            telling: VecDeque::new(),
            waiting: VecDeque::new(),
            names: Names::default(),
            network,
            scratch: Vec::new(),
            accepting: accept::Waiting::default(),
        }
    }

    fn object(&mut self, handle: u32) -> Result<&mut Object, Errno> {
        self.objects.get_mut(&handle).ok_or(Errno::BADF)
    }

    /// Takes a socket into the table.
    fn insert(&mut self, file: OwnedFd, family: u16, is_stream: bool) -> Result<u32, Errno> {
        if self.objects.len() >= SOCKETS_MAX {
            return Err(Errno::NFILE);
        }
        // Not used again soon: events of an old socket may still be on their way.
        while self.next_handle == 0 || self.objects.contains_key(&self.next_handle) {
            self.next_handle = self.next_handle.wrapping_add(1);
        }
        let handle = self.next_handle;
        self.next_handle = handle.wrapping_add(1);
        self.objects.insert(handle, Object::new(file, family, is_stream));
        Ok(handle)
    }

    /// Checks an address and decides about a call with it.
    fn decide(
        &self,
        context: &Context<'_>,
        kind: CallKind,
        family: u16,
        address: &[u8],
    ) -> Result<Permit, Errno> {
        let address = Address::parse(address)?;
        let call = (kind, family);
        gate::decide_address(context.guard, call, address, &self.names, &context.case)
    }

    /// Watches a socket from now on.
    fn watch(&mut self, handle: u32, context: &Context<'_>) -> Result<(), Errno> {
        let object = self.object(handle)?;
        if !object.watched {
            context.watch(&object.file, handle, EVENTS)?;
            object.watched = true;
        }
        Ok(())
    }

    fn tell(&mut self, handle: u32) {
        if let Some(object) = self.objects.get_mut(&handle)
            && !object.queued
        {
            object.queued = true;
            self.telling.push_back(handle);
        }
    }

    fn run(&mut self, request: &Submission, context: &Context<'_>) -> Result<Outcome, Errno> {
        let input = &context.input[..];
        let handle = request.handle;
        let argument = request.argument;
        let pair = ((argument >> 32) as u32, argument as u32);
        match request.operation {
            Operation::SocketOpen => self.open(argument, context).map(Outcome::Result),
            Operation::SocketBind => self.bind(handle, input, context).map(Outcome::Bytes),
            Operation::SocketListen => {
                gate::decide(context.guard, CallKind::Listen, &context.case)?;
                let object = self.object(handle)?;
                let backlog = i32::try_from(argument.min(4096)).unwrap_or(4096);
                host::listen(object.file.as_fd(), backlog).map_err(|error| errno(&error))?;
                object.begin_listening();
                self.watch(handle, context)?;
                Ok(Outcome::Result(0))
            }
            Operation::SocketConnect => self.connect(handle, input, context),
            Operation::SocketShutdown => {
                let how = i32::try_from(argument).map_err(|_| Errno::INVAL)?;
                let object = self.object(handle)?;
                host::shutdown(object.file.as_fd(), how).map_err(|error| errno(&error))?;
                Ok(Outcome::Result(0))
            }
            Operation::SocketName => {
                let file = self.object(handle)?.file.as_fd();
                let name = if argument == 1 { host::peer_name(file) } else { host::own_name(file) };
                name.map(Outcome::Bytes).map_err(|error| errno(&error))
            }
            Operation::SocketGetOption => {
                let room = (request.bytes as usize).min(abi::OPTION_BYTES_MAX);
                let file = self.object(handle)?.file.as_fd();
                option::get(file, pair, room).map(Outcome::Bytes)
            }
            Operation::SocketSetOption => {
                option::set(self.object(handle)?.file.as_fd(), pair, input)?;
                Ok(Outcome::Result(0))
            }
            Operation::SocketUrgent => {
                let object = self.object(handle)?;
                object.take_urgent(request.bytes as usize, argument == 1).map(Outcome::Bytes)
            }
            Operation::SocketCredit => {
                let object = self.object(handle)?;
                object.add_credit(u32::try_from(argument).unwrap_or(u32::MAX));
                self.tell(handle);
                Ok(Outcome::Result(0))
            }
            Operation::SocketClose => {
                self.objects.remove(&handle).ok_or(Errno::BADF)?;
                Ok(Outcome::Result(0))
            }
            Operation::SocketIoctl => {
                // SIOCATMARK, SIOCOUTQ, SIOCINQ
                let command = match u32::try_from(argument) {
                    Ok(command @ (0x8905 | 0x5411 | 0x541b)) => command,
                    _ => return Err(Errno::NOTTY),
                };
                let value = host::ioctl_int(self.object(handle)?.file.as_fd(), command);
                let value = value.map_err(|error| errno(&error))?;
                Ok(Outcome::Result(u64::from(value.unsigned_abs())))
            }
            Operation::NetworkDump => self
                .network
                .dump(Dump::unpack(argument), request.bytes as usize)
                .map(Outcome::Bytes),
            Operation::NetworkFile => {
                let (number, offset) = pair;
                let bytes = request.bytes as usize;
                self.network.read(number, offset, bytes).map(Outcome::Bytes)
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn open(&mut self, argument: u64, context: &Context<'_>) -> Result<u64, Errno> {
        let (family, kind, protocol) = abi::unpack_open(argument);
        let raw_kind = check_kind(family, kind, protocol)?;
        gate::decide(context.guard, CallKind::Socket, &context.case)?;
        let protocol = i32::try_from(protocol).map_err(|_| Errno::PROTONOSUPPORT)?;
        let file = host::open(family.into(), raw_kind, protocol).map_err(|error| errno(&error))?;
        let is_stream = kind == libc_kind(rustix::net::SocketType::STREAM);
        self.insert(file, family, is_stream).map(u64::from)
    }

    fn bind(&mut self, handle: u32, input: &[u8], context: &Context<'_>) -> Result<Vec<u8>, Errno> {
        let family = self.object(handle)?.family;
        let Permit { address, .. } = self.decide(context, CallKind::Bind, family, input)?;
        let object = self.object(handle)?;
        host::bind(object.file.as_fd(), address.bytes()).map_err(|error| errno(&error))?;
        let name = host::own_name(object.file.as_fd()).map_err(|error| errno(&error))?;
        if !object.is_stream {
            self.watch(handle, context)?;
        }
        Ok(name)
    }

    fn connect(
        &mut self,
        handle: u32,
        input: &[u8],
        context: &Context<'_>,
    ) -> Result<Outcome, Errno> {
        let family = self.object(handle)?.family;
        if input == [0, 0] {
            // AF_UNSPEC: no peer any longer.
            let mut address = [0; 16];
            address[..2].copy_from_slice(&[0, 0]);
            let object = self.object(handle)?;
            host::connect(object.file.as_fd(), &address).map_err(|error| errno(&error))?;
            return Ok(Outcome::Result(0));
        }
        let permit = self.decide(context, CallKind::Connect, family, input)?;
        let address = permit.address;
        let object = self.object(handle)?;
        object.budget = permit.budget;
        object.asks(&address);
        let connected = host::connect(object.file.as_fd(), address.bytes());
        match connected {
            Ok(()) => object.is_connected(),
            Err(error) => {
                let errno = errno(&error);
                if errno != Errno::INPROGRESS {
                    return Err(errno);
                }
                object.is_connecting();
            }
        }
        self.watch(handle, context)?;
        if self.object(handle)?.is_waiting_to_connect() {
            return Err(Errno::INPROGRESS);
        }
        Ok(Outcome::Result(0))
    }

    fn send(&mut self, request: &Submission, context: &mut Context<'_>) -> Result<(), WindowError> {
        let sent = if request.input == 0 {
            match self.objects.get_mut(&request.handle) {
                Some(object) if object.is_stream => object.send_stream(request, context)?,
                Some(_) => Sent::Failed(Errno::INVAL),
                None => Sent::Failed(Errno::BADF),
            }
        } else {
            match self.send_datagram(request, &context.input, context) {
                Ok(bytes) => Sent::Taken(bytes),
                Err(_) if context.must_hold() => {
                    context.hold(request);
                    return Ok(());
                }
                Err(errno) => Sent::Failed(errno),
            }
        };
        match sent {
            Sent::Taken(bytes) if request.argument & abi::SEND_QUIET != 0 => {
                context.window.complete_quietly(request.id, 0, bytes as u64)
            }
            Sent::Taken(bytes) => context.answer(request, bytes as u64),
            Sent::Short(bytes) => {
                context.answer(request, bytes as u64)?;
                if self.objects.get(&request.handle).is_some_and(Object::has_news) {
                    self.tell(request.handle);
                }
                Ok(())
            }
            Sent::Failed(errno) => context.refuse(request, errno),
        }
    }

    fn send_datagram(
        &mut self,
        request: &Submission,
        input: &[u8],
        context: &Context<'_>,
    ) -> Result<usize, Errno> {
        let (head, data) = DatagramHead::split(input).map_err(|_| Errno::INVAL)?;
        let family = self.object(request.handle)?.family;
        let permit = if head.address.is_empty() {
            None
        } else {
            Some(self.decide(context, CallKind::SendTo, family, &head.address)?)
        };
        option::check_control(&head.control)?;
        if permit.as_ref().is_some_and(|permit| permit.is_pinned) {
            return Ok(data.len());
        }
        self.watch(request.handle, context)?;
        let object = self.object(request.handle)?;
        let (address, budget) = match &permit {
            Some(permit) => (Some(&permit.address), permit.budget.clone()),
            None => (None, object.budget.clone()),
        };
        let bytes = data.len() as u64;
        budget.take_all(bytes).map_err(|errno| Errno::from_raw_os_error(errno.into()))?;
        if let Some(address) = address {
            object.asks(address);
        }
        let sent = object.send_datagram(data, address, &head.control);
        budget.give_back(bytes.saturating_sub(*sent.as_ref().unwrap_or(&0) as u64));
        sent
    }

    /// Answers requests for events as long as there are both.
    fn pump(&mut self, context: &mut Context<'_>) -> Result<(), WindowError> {
        while !self.telling.is_empty()
            && let Some(request) = self.waiting.pop_front()
        {
            let written = self.fill(&request, context)?;
            if written == 0 {
                self.waiting.push_front(request);
                return Ok(());
            }
            context.answer(&request, written as u64)?;
        }
        Ok(())
    }

    /// Fills a request's buffer with events; returns how many bytes.
    fn fill(
        &mut self,
        request: &Submission,
        context: &mut Context<'_>,
    ) -> Result<usize, WindowError> {
        let mut page = object::Page::new(context, request);
        for _ in 0..self.telling.len() {
            if page.is_full() {
                break;
            }
            let Some(handle) = self.telling.pop_front() else { break };
            let Some(object) = self.objects.get_mut(&handle) else { continue };
            object.queued = false;
            if object.listening {
                self.accept_all(handle, &mut page, context)?;
            } else {
                let names = context.guard.uses_names().then_some(&mut self.names);
                let room = object::Room { scratch: &mut self.scratch, names };
                object.tell(handle, &mut page, context, room, TURN_BYTES)?;
            }
            if self.objects.get(&handle).is_some_and(Object::has_news) {
                self.tell(handle);
            }
        }
        Ok(page.written())
    }
}

impl Service for Sockets {
    fn submit(
        &mut self,
        request: &Submission,
        context: &mut Context<'_>,
    ) -> Result<(), WindowError> {
        match request.operation {
            Operation::SocketSend => self.send(request, context)?,
            Operation::SocketEvents => self.waiting.push_back(*request),
            _ => match self.run(request, context) {
                Ok(Outcome::Result(result)) => context.answer(request, result)?,
                Ok(Outcome::Bytes(bytes)) => context.answer_bytes(request, &bytes)?,
                Err(_) if context.must_hold() => context.hold(request),
                Err(errno) => context.refuse(request, errno)?,
            },
        }
        self.pump(context)
    }

    fn ready(
        &mut self,
        token: u32,
        events: EventFlags,
        context: &mut Context<'_>,
    ) -> Result<(), WindowError> {
        if let Some(object) = self.objects.get_mut(&token) {
            object.notice(events);
            self.tell(token);
        }
        self.pump(context)
    }

    fn resume(
        &mut self,
        token: u32,
        case: Case,
        context: &mut Context<'_>,
    ) -> Result<(), WindowError> {
        self.resume_accept(token, case, context);
        self.pump(context)
    }

    fn cancel(&mut self, id: u32, context: &mut Context<'_>) -> Result<(), WindowError> {
        if let Some(at) = self.waiting.iter().position(|request| request.id == id) {
            self.waiting.remove(at);
            context.window.complete(id, errno_of(Errno::CANCELED), 0)?;
        }
        Ok(())
    }
}
