// SPDX-License-Identifier: Apache-2.0
//! Sending and receiving on sockets of the internet families.

use alloc::{sync::Arc, vec, vec::Vec};
use core::sync::atomic::Ordering;

use trine_abi::{
    socket::{DATAGRAM_OVERHEAD, DatagramHead, SEND_QUIET},
    window::Operation,
};
use trine_machine::window::BUFFER_BYTES;

use super::{
    InetSocket,
    state::{Datagram, Flight, Phase, Piece, State},
};
use crate::{
    Errno,
    forward::{Answer, Buffer, Owner},
    io::{Sink, Source},
    net::{
        Socket,
        message::{MSG_OOB, MSG_TRUNC, Outgoing, Receive, Received},
    },
};

/// Sends of one socket that are under way.
const FLIGHTS_MAX: usize = 4;
const MSG_MORE: u32 = 0x8000;
/// Flags of a send that the server acts on.
const FLAGS: u32 = MSG_OOB | MSG_MORE;

/// Whether a send would take something.
pub(super) fn is_writable(state: &State) -> bool {
    !state.stalled
        && !state.starved
        && state.unsent.is_empty()
        && state.returned.is_empty()
        && state.flights.len() < FLIGHTS_MAX
}

/// Fills a request's buffer; returns how many bytes.
fn fill(buffer: &Buffer, source: &mut dyn Source) -> usize {
    let wanted = source.left().min(buffer.capacity());
    let mut part = [0; 4096];
    let mut done = 0;
    while done < wanted {
        let room = (wanted - done).min(part.len());
        let taken = source.take(&mut part[..room]);
        buffer.write(done, &part[..taken]);
        done += taken;
        if taken < room {
            break;
        }
    }
    done
}

impl InetSocket {
    /// Submits a send.
    fn launch(&self, buffer: Buffer, bytes: usize, flags: u32) {
        let Some(this) = self.this() else { return };
        let argument = {
            let mut state = self.state.lock();
            // Somebody waits only when there are many: then the last ones tell.
            let quiet = state.flights.len() < FLIGHTS_MAX / 2 && !state.closed;
            let epoch = state.epoch;
            state.flights.push_back(Flight { id: buffer.id(), bytes, epoch });
            let quiet = if quiet { SEND_QUIET } else { 0 };
            u64::from(epoch) << 32 | quiet | u64::from(flags & FLAGS)
        };
        let owner: Arc<dyn Owner> = this;
        buffer.submit(owner, Operation::SocketSend, self.number(), (bytes, 0), argument);
    }

    /// Sends what came back, now that the host's socket takes more.
    pub(super) fn send_again(&self) {
        loop {
            {
                let mut state = self.state.lock();
                if state.stalled || !state.flights.is_empty() && !state.returned.is_empty() {
                    return;
                }
                while let Some(last) = state.returned.pop_back() {
                    state.unsent.push_front(last);
                }
                if state.unsent.is_empty() || state.flights.len() >= FLIGHTS_MAX {
                    return;
                }
            }
            let Some(buffer) = self.inet.services.begin_bulk() else {
                // One of the others' completions brings us here again.
                self.inet.post(Operation::SocketName, self.number(), 0, self.this());
                return;
            };
            let Some(mut piece) = self.state.lock().unsent.pop_front() else { return };
            let bytes = piece.len().min(buffer.capacity());
            buffer.write(0, &piece[..bytes]);
            if bytes < piece.len() {
                piece.drain(..bytes);
                self.state.lock().unsent.push_front(piece);
            }
            self.launch(buffer, bytes, 0);
        }
    }

    /// Bytes of a stream arrived.
    pub(super) fn arrived(&self, bytes: Vec<u8>) {
        {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            state.input_bytes += bytes.len();
            state.input.push_back(Piece { bytes, at: 0 });
        }
        self.read_wait.wake_all();
    }

    /// A datagram arrived, or a part of one.
    pub(super) fn part_arrived(&self, mut bytes: Vec<u8>, more: bool) {
        {
            let mut state = self.state.lock();
            if more || !state.part.is_empty() {
                state.part.append(&mut bytes);
                if more {
                    return;
                }
                bytes = core::mem::take(&mut state.part);
            }
            let Ok((head, data)) = DatagramHead::split(&bytes) else { return };
            if state.closed {
                return;
            }
            let data = data.to_vec();
            state.datagrams.push_back(Datagram { head, data });
        }
        self.read_wait.wake_all();
    }
}

/// A send is done, or as much of it as the host's socket took.
pub(super) fn sent(socket: &Arc<InetSocket>, answer: Answer) {
    let id = answer.completion.id;
    let result = answer.result();
    let (was_writable, flight) = {
        let mut state = socket.state.lock();
        let was_writable = is_writable(&state);
        let at = state.flights.iter().position(|flight| flight.id == id);
        (was_writable, at.and_then(|at| state.flights.remove(at)))
    };
    let Some(flight) = flight else { return };
    match result {
        Ok(taken) if (taken as usize) < flight.bytes => {
            let mut rest = vec![0; flight.bytes - taken as usize];
            answer.buffer.read(taken as usize, &mut rest);
            let mut state = socket.state.lock();
            state.returned.push_back(rest);
            if flight.epoch == state.epoch {
                state.epoch = state.epoch.wrapping_add(1);
                state.stalled = true;
            }
        }
        Ok(_) => {}
        Err(errno) => {
            let mut state = socket.state.lock();
            state.error.get_or_insert(errno);
            // What waits will not be sent either.
            state.returned.clear();
            state.unsent.clear();
        }
    }
    drop(answer);
    socket.send_again();
    socket.drained();
    let writable = is_writable(&socket.state.lock());
    if (writable && !was_writable) || result.is_err() {
        socket.write_wait.wake_all();
    }
}

pub(super) fn send_stream(
    socket: &InetSocket,
    source: &mut dyn Source,
    message: &mut Outgoing,
) -> Result<usize, Errno> {
    let mut done = 0;
    loop {
        {
            let mut state = socket.state.lock();
            let refused = if let Some(error) = state.error {
                // What came from the network is told once, and then the end.
                if error != Errno::PIPE {
                    state.error = None;
                    state.hung |= state.phase == Phase::Connected;
                }
                Some(error)
            } else if state.send_shut || (state.hung && state.phase == Phase::Connected) {
                Some(Errno::PIPE)
            } else {
                match state.phase {
                    Phase::Connected => None,
                    Phase::Connecting => Some(Errno::AGAIN),
                    Phase::Open | Phase::Listening => Some(Errno::PIPE),
                }
            };
            if let Some(errno) = refused {
                return if done > 0 { Ok(done) } else { Err(errno) };
            }
            if !is_writable(&state) {
                break;
            }
        }
        if source.left() == 0 {
            return Ok(done);
        }
        let large = source.left() > BUFFER_BYTES;
        let services = &socket.inet.services;
        let Some(buffer) = (if large { services.begin_bulk() } else { services.begin() }) else {
            let was_starved = core::mem::replace(&mut socket.state.lock().starved, true);
            if !was_starved {
                socket.inet.starve(socket.this().as_ref().map(Arc::downgrade).unwrap_or_default());
            }
            break;
        };
        let wanted = source.left().min(buffer.capacity());
        let bytes = fill(&buffer, source);
        if bytes > 0 {
            socket.launch(buffer, bytes, message.flags);
            done += bytes;
        }
        if bytes < wanted {
            return Ok(done);
        }
    }
    if done == 0 && source.left() > 0 { Err(Errno::AGAIN) } else { Ok(done) }
}

pub(super) fn send_datagram(
    socket: &InetSocket,
    source: &mut dyn Source,
    message: &mut Outgoing,
) -> Result<usize, Errno> {
    let address = match &message.destination {
        Some(destination) => destination.downcast_ref::<Vec<u8>>().cloned().ok_or(Errno::INVAL)?,
        None => Vec::new(),
    };
    {
        let mut state = socket.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.send_shut {
            return Err(Errno::PIPE);
        }
        if address.is_empty() && state.phase != Phase::Connected {
            return Err(Errno::DESTADDRREQ);
        }
    }
    if message.flags & MSG_OOB != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let bytes = source.left();
    let control = message.control.clone();
    let head = DatagramHead { address, control, flags: 0, bytes: bytes as u32 };
    let mut input = head.encode();
    let start = input.len();
    input.resize(start + bytes, 0);
    if source.take(&mut input[start..]) < bytes {
        return Err(Errno::FAULT);
    }
    // Sends of one system call must differ, or the answer to one is taken for the next one's.
    let tag = socket.attempt.load(Ordering::Relaxed).wrapping_add(message.sequence);
    let argument = u64::from(tag & 0x3ff) << 16;
    let sent = socket.call(Operation::SocketSend, argument, &input, |answer| answer.result());
    match sent {
        Ok(sent) => Ok((*sent as usize).min(bytes)),
        Err(Errno::AGAIN) => {
            socket.attempt.fetch_add(1, Ordering::Relaxed);
            Err(Errno::AGAIN)
        }
        Err(errno) => Err(errno),
    }
}

pub(super) fn receive_stream(
    socket: &InetSocket,
    sink: &mut dyn Sink,
    how: Receive,
) -> Result<Received, Errno> {
    let mut received = Received::default();
    let mut state = socket.state.lock();
    match state.phase {
        Phase::Open if state.error.is_none() => return Err(Errno::NOTCONN),
        Phase::Listening => return Err(Errno::NOTCONN),
        _ => {}
    }
    if state.input_bytes == 0 {
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let over = state.ended || state.receive_shut;
        return if over { Ok(received) } else { Err(Errno::AGAIN) };
    }
    if how.peek {
        for piece in &state.input {
            let left = &piece.bytes[piece.at..];
            let wanted = left.len().min(sink.room());
            let taken = sink.put(&left[..wanted]);
            received.bytes += taken;
            if taken < left.len() {
                break;
            }
        }
        return Ok(received);
    }
    let mut read = Vec::new();
    while let Some(piece) = state.input.front_mut() {
        let left = &piece.bytes[piece.at..];
        let wanted = left.len().min(sink.room());
        let taken = sink.put(&left[..wanted]);
        piece.at += taken;
        received.bytes += taken;
        if piece.at < piece.bytes.len() {
            break;
        }
        read.extend(state.input.pop_front());
    }
    state.input_bytes -= received.bytes;
    drop(state);
    drop(read);
    socket.return_credit(received.bytes as u32);
    Ok(received)
}

pub(super) fn receive_datagram(
    socket: &InetSocket,
    sink: &mut dyn Sink,
    how: Receive,
) -> Result<Received, Errno> {
    let mut state = socket.state.lock();
    if let Some(error) = state.error.take() {
        return Err(error);
    }
    let Some(datagram) = state.datagrams.front() else {
        return if state.receive_shut { Ok(Received::default()) } else { Err(Errno::AGAIN) };
    };
    let wanted = datagram.data.len().min(sink.room());
    sink.put(&datagram.data[..wanted]);
    let received = Received {
        bytes: datagram.head.bytes as usize,
        source: datagram.head.address.clone(),
        control: datagram.head.control.clone(),
        flags: datagram.head.flags & MSG_TRUNC,
        ..Received::default()
    };
    if how.peek {
        return Ok(received);
    }
    let datagram = state.datagrams.pop_front();
    drop(state);
    let bytes = datagram.map_or(0, |datagram| datagram.data.len());
    socket.return_credit(bytes as u32 + DATAGRAM_OVERHEAD);
    Ok(received)
}

/// recv(2) with MSG_OOB.
pub(super) fn receive_urgent(
    socket: &InetSocket,
    sink: &mut dyn Sink,
    how: Receive,
) -> Result<Received, Errno> {
    if !socket.is_stream() {
        return Err(Errno::OPNOTSUPP);
    }
    let peek = u64::from(how.peek);
    let data = socket.call(Operation::SocketUrgent, peek, &[], Answer::bytes)?;
    if !how.peek {
        socket.state.lock().urgent = false;
    }
    let wanted = data.len().min(sink.room());
    sink.put(&data[..wanted]);
    Ok(Received { bytes: wanted, flags: MSG_OOB, ..Received::default() })
}
