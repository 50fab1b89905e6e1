// SPDX-License-Identifier: Apache-2.0
//! Sending and receiving on AF_UNIX.

use alloc::{sync::Arc, vec, vec::Vec};

use super::{
    Rights, UnixSocket,
    address::encode,
    queue::{DATAGRAMS_MAX, Packet},
    socket::Phase,
};
use crate::{
    Errno,
    io::{Sink, Source},
    net::{
        SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM,
        message::{MSG_OOB, Outgoing, Receive, Received},
        option::SO_PASSCRED,
    },
};

/// Bytes of one piece of a stream.
const PIECE_BYTES: usize = 32 << 10;

/// The socket that a message names.
pub(super) fn destination(message: &Outgoing) -> Option<Arc<UnixSocket>> {
    Arc::clone(message.destination.as_ref()?).downcast().ok()
}

/// Takes `bytes` bytes, or fewer if the source's memory is not resident.
fn take(source: &mut dyn Source, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    let taken = source.take(&mut data);
    data.truncate(taken);
    data
}

pub(super) fn send(
    socket: &UnixSocket,
    source: &mut dyn Source,
    message: &mut Outgoing,
) -> Result<usize, Errno> {
    if message.flags & MSG_OOB != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    if message.rights.is_some() && socket.net.in_flight.has_many_sockets() {
        UnixSocket::collect(&socket.net);
    }
    let (name, connected, ended) = {
        let mut state = socket.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        (state.name.clone(), matches!(state.phase, Phase::Connected), state.send_ended)
    };
    if socket.kind != SOCK_DGRAM {
        if ended {
            return Err(Errno::PIPE);
        }
        if !connected {
            return Err(Errno::NOTCONN);
        }
    } else if ended {
        return Err(Errno::PIPE);
    }
    let limit = socket.options.send_bytes();
    if socket.kind == SOCK_STREAM {
        let peer = socket.peer().ok_or(Errno::PIPE)?;
        let mut total = 0;
        while source.left() > 0 {
            if !socket.sending.has_room(limit) {
                break;
            }
            let wanted = source.left().min(PIECE_BYTES);
            let data = take(source, wanted);
            let taken = data.len();
            if taken > 0 {
                let rights = message.rights.take();
                let packet =
                    Packet::new(&socket.sending, data, name.clone(), message.sender, rights);
                peer.state.lock().queue.push(packet);
                total += taken;
            }
            if taken < wanted {
                break;
            }
        }
        if total > 0 {
            peer.read_wait.wake_all();
            return Ok(total);
        }
        return if source.left() > 0 && !socket.sending.has_room(limit) {
            Err(Errno::AGAIN)
        } else {
            Ok(0)
        };
    }
    send_message(socket, source, message, name, limit)
}

fn send_message(
    socket: &UnixSocket,
    source: &mut dyn Source,
    message: &mut Outgoing,
    name: Option<Arc<[u8]>>,
    limit: usize,
) -> Result<usize, Errno> {
    let target = match destination(message) {
        Some(target) => target,
        None if socket.state.lock().peer.is_none() => return Err(Errno::NOTCONN),
        None => match socket.peer() {
            Some(peer) => peer,
            None if socket.kind == SOCK_SEQPACKET => return Err(Errno::PIPE),
            None => return Err(Errno::CONNREFUSED),
        },
    };
    if source.left() > socket.options.send_bytes().saturating_sub(32) {
        return Err(Errno::MSGSIZE);
    }
    if !socket.sending.has_room(limit) {
        return Err(Errno::AGAIN);
    }
    {
        let state = target.state.lock();
        if socket.kind == SOCK_DGRAM {
            if state.closed {
                return Err(Errno::CONNREFUSED);
            }
            if !state.accepts_from(socket) {
                return Err(Errno::PERM);
            }
            let own = core::ptr::eq(Arc::as_ptr(&target), socket);
            if !own && state.queue.len() >= DATAGRAMS_MAX {
                return Err(Errno::AGAIN);
            }
        }
        if state.receive_ended {
            return Err(Errno::PIPE);
        }
    }
    let bytes = source.left();
    let data = take(source, bytes);
    let rights = message.rights.take();
    let packet = Packet::new(&socket.sending, data, name, message.sender, rights);
    target.state.lock().queue.push(packet);
    target.read_wait.wake_all();
    Ok(bytes)
}

pub(super) fn receive(
    socket: &UnixSocket,
    sink: &mut dyn Sink,
    how: Receive,
) -> Result<Received, Errno> {
    if how.urgent {
        return Err(if socket.kind == SOCK_STREAM { Errno::INVAL } else { Errno::OPNOTSUPP });
    }
    if how.errors {
        return Err(Errno::AGAIN);
    }
    let mut state = socket.state.lock();
    match state.phase {
        Phase::Listening { .. } => return Err(Errno::INVAL),
        Phase::Open if socket.kind == SOCK_STREAM && !state.closed => return Err(Errno::INVAL),
        Phase::Open if socket.kind == SOCK_SEQPACKET => return Err(Errno::NOTCONN),
        Phase::Open | Phase::Connected => {}
    }
    if state.queue.is_empty() {
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        return if state.receive_ended { Ok(Received::default()) } else { Err(Errno::AGAIN) };
    }
    drop(state);
    if socket.kind == SOCK_STREAM {
        receive_stream(socket, sink, how)
    } else {
        receive_message(socket, sink, how)
    }
}

fn receive_stream(
    socket: &UnixSocket,
    sink: &mut dyn Sink,
    how: Receive,
) -> Result<Received, Errno> {
    let shows_sender = socket.options.is_on(SO_PASSCRED);
    let mut received = Received::default();
    let mut read = Vec::new();
    let mut sender = None;
    let mut state = socket.state.lock();
    if how.peek {
        let mut skip = usize::try_from(state.peek_offset).unwrap_or(0);
        let mut shown = None;
        for packet in state.queue.iter() {
            if sink.room() == 0 || sender.is_some_and(|s| shows_sender && s != packet.sender) {
                break;
            }
            let left = packet.left();
            let passed = skip.min(left.len());
            skip -= passed;
            if passed == left.len() {
                continue;
            }
            sender = Some(packet.sender);
            let wanted = left[passed..].len().min(sink.room());
            let taken = sink.put(&left[passed..passed + wanted]);
            received.bytes += taken;
            if packet.rights.is_some() {
                shown = packet.rights.as_ref().map(|rights| rights.files().to_vec());
                break;
            }
            if taken < wanted {
                break;
            }
        }
        if state.peek_offset >= 0 {
            state.peek_offset += i32::try_from(received.bytes).unwrap_or(0);
        }
        drop(state);
        if let Some(files) = shown {
            received.rights = Some(Rights::new(&socket.net.in_flight, files)?);
        }
    } else {
        while let Some(packet) = state.queue.front() {
            if sink.room() == 0 || sender.is_some_and(|s| shows_sender && s != packet.sender) {
                break;
            }
            let wanted = packet.left().len().min(sink.room());
            let taken = sink.put(&packet.left()[..wanted]);
            if taken > 0 {
                sender = Some(packet.sender);
            }
            received.bytes += taken;
            let rights = if taken > 0 { state.queue.take_rights() } else { None };
            read.extend(state.queue.pass(taken));
            if rights.is_some() {
                received.rights = rights;
                break;
            }
            if taken < wanted {
                break;
            }
        }
        if state.peek_offset > 0 {
            let left = state.peek_offset - i32::try_from(received.bytes).unwrap_or(0);
            state.peek_offset = left.max(0);
        }
        drop(state);
    }
    drop(read);
    received.sender = sender.filter(|_| shows_sender);
    Ok(received)
}

fn receive_message(
    socket: &UnixSocket,
    sink: &mut dyn Sink,
    how: Receive,
) -> Result<Received, Errno> {
    let mut state = socket.state.lock();
    let Some(packet) = state.queue.front() else { return Err(Errno::AGAIN) };
    let mut received = Received { bytes: packet.left().len(), ..Received::default() };
    if let Some(source) = &packet.source
        && socket.kind == SOCK_DGRAM
    {
        received.source = encode(Some(source));
    }
    received.sender = socket.options.is_on(SO_PASSCRED).then_some(packet.sender);
    let wanted = packet.left().len().min(sink.room());
    sink.put(&packet.left()[..wanted]);
    if how.peek {
        let files = packet.rights.as_ref().map(|rights| rights.files().to_vec());
        drop(state);
        if let Some(files) = files {
            received.rights = Some(Rights::new(&socket.net.in_flight, files)?);
        }
        return Ok(received);
    }
    received.rights = state.queue.take_rights();
    let packet = state.queue.pop();
    drop(state);
    drop(packet);
    socket.room_wait.wake_all();
    Ok(received)
}
