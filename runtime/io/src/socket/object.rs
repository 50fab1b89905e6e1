// SPDX-License-Identifier: Apache-2.0
//! One socket of a guest.

use std::{
    collections::VecDeque,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use rustix::{event::epoll::EventFlags, io::Errno};
use trine_abi::{
    socket::{
        ADDRESS_BYTES_MAX, CREDIT_BYTES, CREDIT_CONNECTIONS, Control, DATAGRAM_BYTES_MAX,
        DATAGRAM_OVERHEAD, DatagramHead, EVENT_BYTES, EVENT_PART, EventHead, EventKind,
        STATE_CONNECTED, STATE_ENDED, STATE_ERROR, STATE_HUNG, STATE_URGENT, STATE_WRITABLE,
    },
    window::Submission,
};
use trine_jail::socket as host;
use trine_policy::meter::Budget;

use super::{Address, accept::Incoming, errno, names::Names};
use crate::{service::Context, window::WindowError};

const MSG_OOB: i32 = 1;
const MSG_PEEK: i32 = 2;
const MSG_TRUNC: i32 = 0x20;
const MSG_MORE: i32 = 0x8000;
const SHUT_RD: i32 = 0;
const DNS_PORT: u16 = 53;
/// Name servers that a socket may ask, for their answers to be looked at.
const ASKED_MAX: usize = 8;
/// Below this, a piece of a stream waits for the next buffer.
const LEAST_BYTES: usize = 512;
/// Bytes of the payload of a state event.
const STATE_BYTES: usize = 8;

/// The buffer of a request for events, as it is filled.
#[derive(Debug)]
pub(super) struct Page {
    offset: usize,
    at: usize,
    end: usize,
}

impl Page {
    pub(super) fn new(_context: &Context<'_>, request: &Submission) -> Self {
        Self { offset: Context::offset(request), at: 0, end: request.bytes as usize }
    }

    /// Whether hardly anything fits any more.
    pub(super) fn is_full(&self) -> bool {
        self.room() < LEAST_BYTES
    }

    /// Bytes of payload that fit in one more event.
    fn room(&self) -> usize {
        (self.end - self.at).saturating_sub(EVENT_BYTES)
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.end - self.at >= EVENT_BYTES + bytes
    }

    pub(super) fn written(&self) -> usize {
        self.at
    }

    /// Where the payload of the next event goes.
    fn payload(&self) -> usize {
        self.offset + self.at + EVENT_BYTES
    }

    /// Makes an event of a payload that is in its place.
    fn push(&mut self, context: &Context<'_>, head: &EventHead) -> Result<(), WindowError> {
        context.memory().write(self.offset + self.at, &head.encode())?;
        self.at += EVENT_BYTES + head.bytes as usize;
        Ok(())
    }

    /// Adds an event; the caller made sure that it fits.
    pub(super) fn put(
        &mut self,
        context: &Context<'_>,
        handle: u32,
        kind: EventKind,
        payload: &[u8],
    ) -> Result<(), WindowError> {
        context.memory().write(self.payload(), payload)?;
        self.push(context, &EventHead { handle, kind, flags: 0, bytes: payload.len() as u32 })
    }
}

/// What receiving datagrams needs.
pub(super) struct Room<'a> {
    pub(super) scratch: &'a mut Vec<u8>,
    /// Where names are learnt, if that is of use.
    pub(super) names: Option<&'a mut Names>,
}

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All was taken.
    Taken(usize),
    /// Less was taken; the rest has to wait.
    Short(usize),
    Failed(Errno),
}

/// A datagram that does not fit the buffer it was to go to.
#[derive(Debug)]
struct Rest {
    bytes: Vec<u8>,
    at: usize,
}

/// A socket.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) file: OwnedFd,
    pub(super) family: u16,
    pub(super) is_stream: bool,
    pub(super) watched: bool,
    pub(super) listening: bool,
    /// It is in the queue of those that tell.
    pub(super) queued: bool,
    /// There may be something to receive or to accept.
    pub(super) readable: bool,
    connecting: bool,
    /// No more data after what is there; or data is not in one piece.
    short_means_nothing: bool,
    ended: bool,
    credit: u32,
    epoch: u32,
    stalled: bool,
    /// `STATE_*` to tell.
    news: u32,
    error: u32,
    rest: Option<Rest>,
    /// Connections that were decided about, and are not told of yet.
    pub(super) admitted: VecDeque<Incoming>,
    /// Bytes that may still be moved.
    pub(super) budget: Budget,
    /// Name servers that it sent questions to, which only then are believed.
    asked: Vec<IpAddr>,
}

impl Object {
    pub(super) fn new(file: OwnedFd, family: u16, is_stream: bool) -> Self {
        Self {
            file,
            family,
            is_stream,
            watched: false,
            listening: false,
            queued: false,
            readable: false,
            connecting: false,
            short_means_nothing: false,
            ended: false,
            credit: CREDIT_BYTES,
            epoch: 0,
            stalled: false,
            news: 0,
            error: 0,
            rest: None,
            admitted: VecDeque::new(),
            budget: Budget::default(),
            asked: Vec::new(),
        }
    }

    /// It sends to this address: if that is a name server's, its answers are looked at.
    pub(super) fn asks(&mut self, address: &Address) {
        let is_server = !self.is_stream && address.port == DNS_PORT;
        if is_server && !self.asked.contains(&address.ip) {
            if self.asked.len() >= ASKED_MAX {
                self.asked.remove(0);
            }
            self.asked.push(address.ip);
        }
    }

    pub(super) fn begin_listening(&mut self) {
        if !self.listening {
            self.listening = true;
            self.credit = CREDIT_CONNECTIONS;
        }
    }

    pub(super) fn is_connected(&mut self) {
        self.connecting = false;
        self.ended = false;
    }

    pub(super) fn is_connecting(&mut self) {
        self.connecting = true;
        self.ended = false;
    }

    pub(super) fn is_waiting_to_connect(&self) -> bool {
        self.connecting
    }

    pub(super) fn has_credit(&self) -> bool {
        self.credit > 0
    }

    pub(super) fn use_credit(&mut self, amount: u32) {
        self.credit = self.credit.saturating_sub(amount);
    }

    pub(super) fn add_credit(&mut self, amount: u32) {
        let most = if self.listening { CREDIT_CONNECTIONS } else { CREDIT_BYTES };
        self.credit = self.credit.saturating_add(amount).min(most);
    }

    pub(super) fn error_once(&mut self, errno: Errno) {
        self.error = errno.raw_os_error().unsigned_abs();
        self.news |= STATE_ERROR;
    }

    /// Whether there is something to tell that may be told.
    pub(super) fn has_news(&self) -> bool {
        let has_more = self.readable || !self.admitted.is_empty();
        self.news != 0 || self.rest.is_some() || (has_more && self.credit > 0)
    }

    /// Takes note of what epoll says.
    pub(super) fn notice(&mut self, events: EventFlags) {
        if events.contains(EventFlags::ERR) {
            let error = host::take_error(self.file.as_fd()).unwrap_or(0);
            if error != 0 {
                self.error = error;
                self.news |= STATE_ERROR;
                self.connecting = false;
            }
        }
        if self.connecting {
            if events.contains(EventFlags::HUP) && !events.contains(EventFlags::ERR) {
                // It was not connecting yet when this event was made.
                return;
            }
            if !events.contains(EventFlags::OUT) {
                return;
            }
            self.connecting = false;
            self.news |= STATE_CONNECTED;
        }
        if events.contains(EventFlags::OUT) && self.stalled {
            self.stalled = false;
            self.news |= STATE_WRITABLE;
        }
        if events.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP) {
            self.readable = !self.ended;
        }
        if events.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::PRI) {
            self.short_means_nothing = true;
        }
        if events.contains(EventFlags::HUP) && self.is_stream {
            self.news |= STATE_HUNG;
        }
        if events.contains(EventFlags::PRI) {
            self.news |= STATE_URGENT;
        }
    }

    /// Tells what there is to tell, at most `turn` bytes of data.
    pub(super) fn tell(
        &mut self,
        handle: u32,
        page: &mut Page,
        context: &Context<'_>,
        room: Room<'_>,
        turn: usize,
    ) -> Result<(), WindowError> {
        // That it is connected comes before data, that it is over after it.
        if self.news & STATE_CONNECTED != 0 {
            self.tell_state(handle, page, context)?;
        }
        if self.is_stream {
            self.tell_bytes(handle, page, context, turn)?;
        } else {
            self.tell_datagrams(handle, page, context, room)?;
        }
        self.tell_state(handle, page, context)
    }

    pub(super) fn tell_state(
        &mut self,
        handle: u32,
        page: &mut Page,
        context: &Context<'_>,
    ) -> Result<(), WindowError> {
        if self.news == 0 || !page.has_room(STATE_BYTES + ADDRESS_BYTES_MAX) {
            return Ok(());
        }
        let mut bits = self.news;
        // Not before the data that came first.
        if self.readable && !self.ended && self.is_stream && !self.listening {
            bits &= !(STATE_HUNG | STATE_ENDED);
            if bits & STATE_CONNECTED == 0 {
                bits &= !STATE_ERROR;
            }
        }
        if bits == 0 {
            return Ok(());
        }
        self.news &= !bits;
        let error = if bits & STATE_ERROR != 0 { std::mem::take(&mut self.error) } else { 0 };
        let mut payload = [bits.to_le_bytes(), error.to_le_bytes()].concat();
        if bits & STATE_CONNECTED != 0 {
            // Saves the guest the question.
            payload.extend(host::own_name(self.file.as_fd()).unwrap_or_default());
        }
        page.put(context, handle, EventKind::State, &payload)
    }

    fn tell_bytes(
        &mut self,
        handle: u32,
        page: &mut Page,
        context: &Context<'_>,
        mut turn: usize,
    ) -> Result<(), WindowError> {
        while self.readable && self.credit > 0 && turn > 0 && !page.is_full() {
            let wanted = page.room().min(self.credit as usize).min(turn);
            let wanted = match self.budget.take(wanted as u64) {
                Ok(granted) => granted as usize,
                Err(errno) => {
                    self.cut(Errno::from_raw_os_error(errno.into()));
                    return Ok(());
                }
            };
            let got = context.memory().receive_from(page.payload(), wanted, self.file.as_fd());
            let unused = wanted - got.as_ref().map_or(0, |&bytes| bytes.min(wanted));
            self.budget.give_back(unused as u64);
            match got {
                Ok(0) => {
                    self.readable = false;
                    self.ended = true;
                    self.news |= STATE_ENDED;
                }
                Ok(bytes) => {
                    let kind = EventKind::Data;
                    let bytes_sent = bytes as u32;
                    page.push(context, &EventHead { handle, kind, flags: 0, bytes: bytes_sent })?;
                    self.use_credit(bytes_sent);
                    turn -= bytes;
                    // A short read has emptied it; what comes now is a new event.
                    if bytes < wanted && !self.short_means_nothing {
                        self.readable = false;
                    }
                }
                Err(error) => match errno(&error) {
                    Errno::INTR => {}
                    Errno::AGAIN => self.readable = false,
                    // Not connected: nothing will come.
                    Errno::NOTCONN => self.readable = false,
                    errno => {
                        self.readable = false;
                        self.ended = true;
                        self.error_once(errno);
                        self.news |= STATE_ENDED;
                    }
                },
            }
        }
        Ok(())
    }

    /// Nothing comes any more: what could be received is used up.
    fn cut(&mut self, errno: Errno) {
        self.readable = false;
        self.ended = true;
        self.error_once(errno);
        self.news |= STATE_ENDED;
        // The peer must not go on sending to nobody.
        let _ = host::shutdown(self.file.as_fd(), SHUT_RD);
    }

    fn tell_datagrams(
        &mut self,
        handle: u32,
        page: &mut Page,
        context: &Context<'_>,
        room: Room<'_>,
    ) -> Result<(), WindowError> {
        let Room { scratch, mut names } = room;
        loop {
            if self.rest.is_some() {
                self.tell_rest(handle, page, context)?;
                if self.rest.is_some() {
                    return Ok(());
                }
            }
            if !self.readable || self.credit == 0 || page.is_full() {
                return Ok(());
            }
            scratch.resize(DATAGRAM_BYTES_MAX, 0);
            match host::receive_message(self.file.as_fd(), scratch, MSG_TRUNC) {
                Ok(got) => {
                    let bytes = got.bytes.min(scratch.len());
                    if let Some(names) = &mut names
                        && Address::parse(&got.address).is_ok_and(|from| {
                            from.port == DNS_PORT && self.asked.contains(&from.ip)
                        })
                    {
                        names.learn(scratch.get(..bytes).unwrap_or_default(), Instant::now());
                    }
                    // What is over the budget is lost, as datagrams may be.
                    if let Err(errno) = self.budget.take_all(bytes as u64) {
                        self.error_once(Errno::from_raw_os_error(errno.into()));
                        continue;
                    }
                    let head = DatagramHead {
                        address: got.address,
                        control: got.control,
                        flags: got.flags as u32,
                        bytes: got.bytes as u32,
                    };
                    let mut payload = head.encode();
                    payload.extend_from_slice(scratch.get(..bytes).unwrap_or_default());
                    self.use_credit(bytes as u32 + DATAGRAM_OVERHEAD);
                    self.rest = Some(Rest { bytes: payload, at: 0 });
                }
                Err(error) => match errno(&error) {
                    Errno::INTR => {}
                    Errno::AGAIN => self.readable = false,
                    // What an earlier datagram ran into: told, and the next is looked for.
                    errno => self.error_once(errno),
                },
            }
        }
    }

    fn tell_rest(
        &mut self,
        handle: u32,
        page: &mut Page,
        context: &Context<'_>,
    ) -> Result<(), WindowError> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        let left = rest.bytes.get(rest.at..).unwrap_or_default();
        // One that fits the next buffer whole is not cut.
        if page.is_full() || (left.len() > page.room() && page.at > 0) {
            return Ok(());
        }
        let part = left.get(..page.room()).unwrap_or(left);
        context.memory().write(page.payload(), part)?;
        let (bytes, more) = (part.len(), part.len() < left.len());
        let flags = if more { EVENT_PART } else { 0 };
        let kind = EventKind::Datagram;
        page.push(context, &EventHead { handle, kind, flags, bytes: bytes as u32 })?;
        rest.at += bytes;
        if !more {
            self.rest = None;
        }
        Ok(())
    }

    /// Sends the data of a request, unless an earlier request has to be repeated first.
    pub(super) fn send_stream(
        &mut self,
        request: &Submission,
        context: &Context<'_>,
    ) -> Result<Sent, WindowError> {
        if (request.argument >> 32) as u32 != self.epoch {
            return Ok(Sent::Short(0));
        }
        let (offset, bytes) = (Context::offset(request), request.bytes as usize);
        let flags = request.argument as i32 & (MSG_OOB | MSG_MORE);
        let file = self.file.as_fd();
        let granted = match self.budget.take(bytes as u64) {
            Ok(granted) => granted as usize,
            Err(errno) => return Ok(Sent::Failed(Errno::from_raw_os_error(errno.into()))),
        };
        let sent = if flags == 0 {
            context.memory().send_to(offset, granted, file)
        } else {
            let mut data = vec![0; granted];
            context.memory().read(offset, &mut data)?;
            host::send(file, &data, flags)
        };
        let unused = granted - sent.as_ref().map_or(0, |&sent| sent.min(granted));
        self.budget.give_back(unused as u64);
        Ok(match sent {
            Ok(sent) if sent == bytes => Sent::Taken(sent),
            Ok(sent) => {
                let short = self.stall(sent);
                if sent == granted {
                    // There is room for the rest: it fails when it comes, for its budget.
                    self.stalled = false;
                    self.news |= STATE_WRITABLE;
                }
                short
            }
            Err(error) => match errno(&error) {
                Errno::AGAIN | Errno::INTR => self.stall(0),
                errno => Sent::Failed(errno),
            },
        })
    }

    fn stall(&mut self, sent: usize) -> Sent {
        self.epoch = self.epoch.wrapping_add(1);
        self.stalled = true;
        Sent::Short(sent)
    }

    pub(super) fn send_datagram(
        &mut self,
        data: &[u8],
        address: Option<&Address>,
        control: &[Control],
    ) -> Result<usize, Errno> {
        let address = address.map(Address::bytes).unwrap_or_default();
        let sent = host::send_message(self.file.as_fd(), data, address, control, 0);
        sent.map_err(|error| {
            let errno = errno(&error);
            if errno == Errno::AGAIN {
                self.stalled = true;
            }
            errno
        })
    }

    /// recv(2) with MSG_OOB.
    pub(super) fn take_urgent(&mut self, room: usize, peek: bool) -> Result<Vec<u8>, Errno> {
        let mut data = vec![0; room.min(LEAST_BYTES)];
        let flags = MSG_OOB | if peek { MSG_PEEK } else { 0 };
        let got = host::receive(self.file.as_fd(), &mut data, flags);
        let got = got.map_err(|error| errno(&error))?;
        data.truncate(got);
        Ok(data)
    }
}
