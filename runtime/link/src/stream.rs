// SPDX-License-Identifier: Apache-2.0
//! The link itself.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};

/// Longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 16 << 20;
/// Most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 16;
const HEADER_BYTES: usize = 5;

/// A message that arrived.
#[derive(Debug)]
pub struct Message {
    /// What it is, by the protocol.
    pub kind: u8,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// What can go wrong on a link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed.
    #[error("link to the peer process failed")]
    Io(#[from] io::Error),
    /// A frame is longer than the protocol allows.
    #[error("message of {0} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLong(usize),
    /// More descriptors than allowed, or some were lost.
    #[error("message carries too many descriptors")]
    Descriptors,
    /// The peer closed in the middle of a frame.
    #[error("peer process closed the link in the middle of a message")]
    Truncated,
}

/// One end of a link.  Sending and receiving may be done by different threads; two senders must
/// exclude each other.
#[derive(Debug)]
pub struct Link {
    socket: UnixStream,
}

impl Link {
    /// Makes a link and the descriptor to hand to the child as its standard input.
    ///
    /// # Errors
    /// If the socket pair cannot be made.
    pub fn pair() -> Result<(Self, OwnedFd), LinkError> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self { socket: ours }, OwnedFd::from(theirs)))
    }

    /// Takes over the child's end.
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self { socket: UnixStream::from(descriptor) }
    }

    /// Returns a second owner of the same end.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub fn try_clone(&self) -> Result<Self, LinkError> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Bounds how long [`Link::send`] may wait for a peer that does not read.  After a failed send
    /// the link may have half a message in it and is good for nothing but shutting down.
    ///
    /// # Errors
    /// If the socket refuses, which it does not for a timeout above zero.
    pub fn set_send_timeout(&self, timeout: Duration) -> Result<(), LinkError> {
        Ok(self.socket.set_write_timeout(Some(timeout))?)
    }

    /// Waits until a message, or the end, can be received; false if `timeout` passed before that.
    ///
    /// # Errors
    /// If the socket cannot be polled.
    pub fn wait(&self, timeout: Duration) -> Result<bool, LinkError> {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Err(Errno::INTR) => {}
                other => return Ok(other.map_err(io::Error::from)? > 0),
            }
        }
    }

    /// Closes both directions; a blocked receiver sees the end.
    pub fn shut_down(&self) {
        // An error means that the peer is gone already, which is what we want.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Sends one message, whole.
    ///
    /// # Errors
    /// If it is too long, or the peer is gone.
    pub fn send(
        &self,
        kind: u8,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), LinkError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(LinkError::TooLong(payload.len()));
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(LinkError::Descriptors);
        }
        let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
        frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        frame.push(kind);
        frame.extend_from_slice(payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let sent = loop {
            match rustix::net::sendmsg(
                &self.socket,
                &[IoSlice::new(&frame)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Err(Errno::INTR) => {}
                other => break other.map_err(io::Error::from)?,
            }
        };
        (&self.socket).write_all(frame.get(sent..).unwrap_or_default())?;
        Ok(())
    }

    /// Receives one message; `None` when the peer has closed the link.
    ///
    /// # Errors
    /// If the peer breaks the framing, or the socket fails.
    pub fn receive(&self) -> Result<Option<Message>, LinkError> {
        let mut header = [0; HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut header)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other.map_err(io::Error::from)?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(LinkError::Descriptors);
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        self.fill(header.get_mut(received.bytes..).unwrap_or_default())?;
        let [a, b, c, d, kind] = header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_PAYLOAD {
            return Err(LinkError::TooLong(length));
        }
        let mut payload = vec![0; length];
        self.fill(&mut payload)?;
        Ok(Some(Message { kind, payload, descriptors }))
    }

    fn fill(&self, buffer: &mut [u8]) -> Result<(), LinkError> {
        (&self.socket).read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => LinkError::Truncated,
            _ => LinkError::Io(error),
        })
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn message_with_descriptor_arrives_whole() {
        let (ours, theirs) = Link::pair().expect("socket pair");
        let peer = Link::from_descriptor(theirs);
        let (reader, writer) = io::pipe().expect("pipe");
        let big = vec![7; 3 << 20];
        let sender = thread::spawn(move || {
            ours.send(9, &big, &[writer.as_fd()]).expect("send");
        });
        let message = peer.receive().expect("receive").expect("a message");
        sender.join().expect("sender");
        assert_eq!((message.kind, message.payload.len()), (9, 3 << 20));
        let [descriptor] = <[OwnedFd; 1]>::try_from(message.descriptors).expect("one descriptor");
        std::fs::File::from(descriptor).write_all(b"x").expect("write");
        let mut got = [0];
        (&reader).read_exact(&mut got).expect("read");
        assert_eq!(&got, b"x");
        assert!(peer.receive().expect("end").is_none());
    }

    #[test]
    fn send_to_a_peer_that_does_not_read_times_out() {
        let (ours, _theirs) = Link::pair().expect("socket pair");
        ours.set_send_timeout(Duration::from_millis(20)).expect("timeout");
        let error = ours.send(1, &vec![0; 8 << 20], &[]).expect_err("nobody reads");
        assert!(matches!(error, LinkError::Io(_)), "{error:?}");
    }

    #[test]
    fn wait_tells_a_message_from_silence() {
        let (ours, theirs) = Link::pair().expect("socket pair");
        let peer = Link::from_descriptor(theirs);
        assert!(!peer.wait(Duration::from_millis(1)).expect("poll"));
        ours.send(1, b"x", &[]).expect("send");
        assert!(peer.wait(Duration::from_secs(10)).expect("poll"));
        drop(ours);
        assert!(peer.wait(Duration::from_secs(10)).expect("poll"));
    }

    #[test]
    fn receive_oversized_length_is_refused() {
        let (ours, theirs) = Link::pair().expect("socket pair");
        let peer = Link::from_descriptor(theirs);
        (&ours.socket).write_all(&[0xff, 0xff, 0xff, 0xff, 0]).expect("write");
        assert!(matches!(peer.receive(), Err(LinkError::TooLong(_))));
    }
}
