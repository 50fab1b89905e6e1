// SPDX-License-Identifier: Apache-2.0
//! Sockets.
//!
//! | module | what |
//! | --- | --- |
//! | this one | what every socket can do ([`Socket`]), and what all of them share ([`Net`]) |
//! | [`file`] | sockets as open files |
//! | [`message`] | what travels besides the bytes: addresses, control messages, flags |
//! | [`option`] | the options of SOL_SOCKET that are only kept |
//! | [`unix`] | AF_UNIX: within the guest |
//! | [`inet`] | AF_INET and AF_INET6: the I/O server's, in the pod's network namespace |
//! | [`interface`] | what there is in that namespace: netlink messages, ioctls, /proc/net |
//! | [`netlink`] | AF_NETLINK: questions about it |
//!
//! As with all files, nothing in here blocks: what cannot be done now is `EAGAIN`, and the system
//! call waits where [`Socket::poll`] puts its ticket.

pub(crate) mod file;
pub(crate) mod inet;
pub(crate) mod interface;
pub(crate) mod message;
pub(crate) mod netlink;
pub(crate) mod option;
#[cfg(test)]
mod tests;
pub(crate) mod unix;

use alloc::{sync::Arc, vec::Vec};
use core::{any::Any, fmt};

use self::{
    inet::Inet,
    message::{Outgoing, Receive, Received},
    option::Options,
    unix::UnixNet,
};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::{file::IoctlMemory, types::Ready},
    io::{Sink, Source},
    services::ServicesRef,
    wait::Ticket,
};

/// AF_UNSPEC.
pub(crate) const AF_UNSPEC: u16 = 0;
/// AF_UNIX.
pub(crate) const AF_UNIX: u16 = 1;
/// AF_NETLINK.
pub(crate) const AF_NETLINK: u16 = 16;
/// SOCK_STREAM.
pub(crate) const SOCK_STREAM: u32 = 1;
/// SOCK_DGRAM.
pub(crate) const SOCK_DGRAM: u32 = 2;
/// SOCK_RAW.
pub(crate) const SOCK_RAW: u32 = 3;
/// SOCK_SEQPACKET.
pub(crate) const SOCK_SEQPACKET: u32 = 5;
/// Longest address, as in Linux (`struct sockaddr_storage`).
pub(crate) const ADDRESS_BYTES_MAX: usize = 128;

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `AF_*`.
    pub(crate) family: u16,
    /// `SOCK_*`, without flags.
    pub(crate) kind: u32,
    /// Protocol number.
    pub(crate) protocol: u32,
}

/// Which end's address is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// getsockname(2).
    Own,
    /// getpeername(2).
    Peer,
}

/// Which directions shutdown(2) ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Directions {
    /// Receiving.
    pub(crate) receive: bool,
    /// Sending.
    pub(crate) send: bool,
}

/// A destination that a family has resolved.
pub(crate) type Destination = Arc<dyn Any + Send + Sync>;

/// What a socket can do.  Addresses are as in `struct sockaddr`, without padding.
pub(crate) trait Socket: Send + Sync + fmt::Debug {
    /// What it is.
    fn identity(&self) -> Identity;

    /// The options that all sockets keep.
    fn options(&self) -> &Options;

    /// Whether messages have no boundaries.
    fn is_stream(&self) -> bool {
        self.identity().kind == SOCK_STREAM
    }

    /// bind(2).
    fn bind(&self, cx: &mut Cx<'_>, address: &[u8]) -> SysResult<()>;

    /// listen(2).
    fn listen(&self, _cx: &mut Cx<'_>, _backlog: u32) -> SysResult<()> {
        Err(Errno::OPNOTSUPP.into())
    }

    /// connect(2); `waits`: until it is done.
    fn connect(&self, cx: &mut Cx<'_>, address: &[u8], waits: bool) -> SysResult<()>;

    /// Takes a connection that waits to be accepted.
    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// getsockname(2) and getpeername(2).
    fn name(&self, cx: &mut Cx<'_>, end: End) -> SysResult<Vec<u8>>;

    /// Finds what an address of a send means.
    fn resolve(&self, cx: &mut Cx<'_>, address: &[u8]) -> SysResult<Destination>;

    /// Before anything is sent: what the socket needs first (a name of its own, say).
    fn before_send(&self, _cx: &mut Cx<'_>) -> SysResult<()> {
        Ok(())
    }

    /// Sends; a message whole or not at all, a stream as much as there is room for.
    fn send(&self, source: &mut dyn Source, message: &mut Outgoing) -> Result<usize, Errno>;

    /// Puts a ticket where it is woken when a send may go on.
    fn wait_to_send(&self, ticket: &Ticket, _message: &Outgoing) {
        self.poll(Some(ticket));
    }

    /// Largest message, for sockets that keep boundaries.
    fn message_max(&self) -> usize {
        usize::MAX
    }

    /// Receives; of a message, what does not fit is lost unless it is peeked at.
    fn receive(&self, sink: &mut dyn Sink, how: Receive) -> Result<Received, Errno>;

    /// shutdown(2).
    fn shutdown(&self, cx: &mut Cx<'_>, directions: Directions) -> SysResult<()>;

    /// Sets an option that [`Options`] does not know.
    fn set_option(&self, _cx: &mut Cx<'_>, _option: (u32, u32), _value: &[u8]) -> SysResult<()> {
        Err(Errno::NOPROTOOPT.into())
    }

    /// Reads an option that [`Options`] does not know.
    fn option(&self, _cx: &mut Cx<'_>, _option: (u32, u32), _room: usize) -> SysResult<Vec<u8>> {
        Err(Errno::NOPROTOOPT.into())
    }

    /// ioctl(2).
    fn ioctl(&self, _command: u32, _memory: &mut IoctlMemory<'_>) -> Result<u64, Errno> {
        Err(Errno::NOTTY)
    }

    /// What the socket is ready for; a ticket is put where any change of that wakes it.
    fn poll(&self, ticket: Option<&Ticket>) -> Ready;

    /// Its last descriptor is gone.
    fn close(&self);

    /// Its number was allotted (`socket:[7]`).
    fn numbered(&self, _number: u64) {}

    /// For families that must know their own sockets again.
    fn as_any(&self) -> &dyn Any;
}

/// What all sockets of the container share.
#[derive(Debug)]
pub(crate) struct Net {
    /// AF_UNIX.
    pub(crate) unix: Arc<UnixNet>,
    /// AF_INET and AF_INET6.
    pub(crate) inet: Arc<Inet>,
    services: ServicesRef,
}

impl Net {
    /// No sockets yet.
    pub(crate) fn new(services: &ServicesRef) -> Arc<Self> {
        Arc::new(Self {
            unix: UnixNet::new(),
            inet: Inet::new(services),
            services: Arc::clone(services),
        })
    }
}
