// SPDX-License-Identifier: Apache-2.0
//! One socket of AF_UNIX.

use alloc::{
    collections::VecDeque,
    format,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    Rights,
    address::{NodeKey, UnixNet},
    queue::{Queue, Sending},
};
use crate::{
    Errno,
    cx::Cx,
    fs::{FileRef, inode::InodeRef},
    net::{
        SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, file::SocketFile, message::Ucred, option::Options,
    },
    sync::Lock,
    wait::WaitQueue,
};

#[derive(Debug)]
pub(super) enum Phase {
    /// Not connected; a datagram socket stays so, and may have a peer.
    Open,
    Listening {
        backlog: usize,
        pending: VecDeque<Arc<UnixSocket>>,
    },
    Connected,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) name: Option<Arc<[u8]>>,
    /// The name is its own, not its listener's.
    pub(super) owns_name: bool,
    pub(super) node: Option<(NodeKey, InodeRef)>,
    pub(super) queue: Queue,
    pub(super) peer: Option<Weak<UnixSocket>>,
    pub(super) peer_name: Option<Arc<[u8]>>,
    pub(super) peer_cred: Option<Ucred>,
    /// Of the process that called listen.
    pub(super) own_cred: Option<Ucred>,
    /// Nothing more comes.
    pub(super) receive_ended: bool,
    /// Nothing more is sent.
    pub(super) send_ended: bool,
    pub(super) error: Option<Errno>,
    /// SO_PEEK_OFF; negative: peeking starts at the front.
    pub(super) peek_offset: i32,
    pub(super) closed: bool,
}

/// A socket.
pub(crate) struct UnixSocket {
    pub(super) kind: u32,
    pub(super) net: Arc<UnixNet>,
    pub(super) this: Weak<Self>,
    pub(super) number: AtomicU64,
    pub(super) options: Options,
    pub(super) state: Lock<State>,
    /// What this one sent and is not read.
    pub(super) sending: Arc<Sending>,
    /// Woken when something comes.
    pub(super) read_wait: WaitQueue,
    /// Woken when there is room in this one's queue.
    pub(super) room_wait: WaitQueue,
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

    pub(super) fn make(net: &Arc<UnixNet>, kind: u32) -> Arc<Self> {
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

    pub(super) fn this(&self) -> Result<Arc<Self>, Errno> {
        self.this.upgrade().ok_or(Errno::BADF)
    }

    pub(super) fn peer(&self) -> Option<Arc<Self>> {
        self.state.lock().peer.as_ref().and_then(Weak::upgrade)
    }

    /// Calls for every file that waits in this socket, or in one that waits to be accepted.
    pub(super) fn visit_rights(&self, visit_fn: &mut dyn FnMut(&FileRef)) {
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
    pub(super) fn name_self(&self) -> Result<(), Errno> {
        if self.state.lock().name.is_some() {
            return Ok(());
        }
        let name = self.net.make_name(&self.this()?)?;
        let mut state = self.state.lock();
        state.name = Some(name.into());
        state.owns_name = true;
        Ok(())
    }

    /// A directed end: `self` receives nothing more, and its peer sends nothing more.
    pub(super) fn end_receiving(&self) {
        self.state.lock().receive_ended = true;
        self.read_wait.wake_all();
        self.room_wait.wake_all();
    }

    pub(super) fn end_sending(&self) {
        self.state.lock().send_ended = true;
        self.sending.wait.wake_all();
        self.read_wait.wake_all();
    }

    /// Frees what only messages refer to that nobody can receive.
    pub(super) fn collect(net: &Arc<UnixNet>) {
        if !net.in_flight.has_sockets() {
            return;
        }
        let lost = net.in_flight.unreachable();
        for file in &lost {
            if let Some(socket) = file
                .ops()
                .as_any()
                .downcast_ref::<SocketFile>()
                .and_then(|file| file.socket().as_any().downcast_ref::<Self>())
            {
                let queue = core::mem::take(&mut socket.state.lock().queue);
                drop(queue);
            }
        }
    }

    /// A line of /proc/net/unix.
    pub(super) fn describe(&self, text: &mut Vec<u8>) {
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

impl State {
    /// Whether a datagram of `sender` is taken: a connected socket hears its peer only.
    pub(super) fn accepts_from(&self, sender: &UnixSocket) -> bool {
        self.peer.as_ref().is_none_or(|peer| core::ptr::eq(peer.as_ptr(), sender))
    }
}
