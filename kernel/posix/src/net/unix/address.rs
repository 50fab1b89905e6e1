// SPDX-License-Identifier: Apache-2.0
//! Addresses and names of AF_UNIX (unix(7)).

use alloc::{
    collections::BTreeMap,
    format,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::AtomicU32;

use super::{InFlight, UnixSocket};
use crate::{
    Errno,
    cx::Cx,
    fs::{
        inode::InodeRef,
        permission::{self, WRITE},
        types::FileType,
        walk::{Special, Walk},
    },
    net::{AF_UNIX, Net},
    sync::Lock,
};

/// Bytes of `sun_path`.
const PATH_BYTES: usize = 108;

/// What an address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// None: a name is made up.
    Unnamed,
    /// A name that is no path, with its leading NUL.
    Abstract(Vec<u8>),
    /// A path, without NUL.
    Path(Vec<u8>),
}

impl Address {
    /// Reads a `struct sockaddr_un`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Errno> {
        let (family, path) = bytes.split_first_chunk::<2>().ok_or(Errno::INVAL)?;
        if u16::from_le_bytes(*family) != AF_UNIX || path.len() > PATH_BYTES {
            return Err(Errno::INVAL);
        }
        Ok(match path.first() {
            None => Self::Unnamed,
            Some(0) => Self::Abstract(path.to_vec()),
            Some(_) => {
                let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
                Self::Path(path[..end].to_vec())
            }
        })
    }
}

/// A `struct sockaddr_un` with this `sun_path`.
pub(super) fn encode(path: Option<&Arc<[u8]>>) -> Vec<u8> {
    let mut bytes = AF_UNIX.to_le_bytes().to_vec();
    if let Some(path) = path {
        bytes.extend_from_slice(path);
    }
    bytes
}

/// What a socket with an abstract name is found by: kind and name.
type NameKey = (u32, Vec<u8>);

/// What a path-bound socket is found by: file system and inode.
pub(super) type NodeKey = (u64, u64);

/// What all AF_UNIX sockets share.
#[derive(Debug)]
pub(crate) struct UnixNet {
    /// By kind and name.
    names: Lock<BTreeMap<NameKey, Weak<UnixSocket>>>,
    nodes: Lock<BTreeMap<NodeKey, Weak<UnixSocket>>>,
    /// All, for /proc/net/unix.
    pub(super) all: Lock<Vec<Weak<UnixSocket>>>,
    pub(crate) in_flight: Arc<InFlight>,
    next_name: AtomicU32,
}

impl UnixNet {
    /// No sockets yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            names: Lock::default(),
            nodes: Lock::default(),
            all: Lock::default(),
            in_flight: Arc::default(),
            next_name: AtomicU32::new(0),
        })
    }

    /// Takes an abstract name.
    pub(super) fn take_name(&self, socket: &Arc<UnixSocket>, name: &[u8]) -> Result<(), Errno> {
        let mut names = self.names.lock();
        let key = (socket.kind, name.to_vec());
        if names.get(&key).is_some_and(|owner| owner.strong_count() > 0) {
            return Err(Errno::ADDRINUSE);
        }
        names.insert(key, Arc::downgrade(socket));
        Ok(())
    }

    /// Takes an abstract name that nobody has: five hexadecimal digits.
    pub(super) fn make_name(&self, socket: &Arc<UnixSocket>) -> Result<Vec<u8>, Errno> {
        for _ in 0..1 << 20 {
            let number = self.next_name.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            let name = format!("\0{:05x}", number & 0xf_ffff).into_bytes();
            if self.take_name(socket, &name).is_ok() {
                return Ok(name);
            }
        }
        Err(Errno::NOSPC)
    }

    /// Gives a name back.
    pub(super) fn drop_name(&self, kind: u32, name: &[u8], node: Option<NodeKey>) {
        if let Some(key) = node {
            self.nodes.lock().remove(&key);
        } else {
            self.names.lock().remove(&(kind, name.to_vec()));
        }
    }

    /// Finds the socket of an address.
    ///
    /// # Errors
    /// `ECONNREFUSED` if there is none, `EPROTOTYPE` if it is of another kind; those of a path.
    pub(super) fn find(
        &self,
        cx: &Cx<'_>,
        address: &Address,
        kind: u32,
    ) -> Result<Arc<UnixSocket>, Errno> {
        let found = match address {
            Address::Unnamed => return Err(Errno::INVAL),
            Address::Abstract(name) => {
                self.names.lock().get(&(kind, name.clone())).and_then(Weak::upgrade)
            }
            Address::Path(path) => {
                let (fs, creds) = (cx.fs().lock().clone(), cx.creds());
                let place = fs.find(&creds, &fs.cwd, path, Walk::FOLLOW)?;
                permission::check_place(&place, &creds, WRITE)?;
                if place.kind() != FileType::Socket {
                    return Err(Errno::CONNREFUSED);
                }
                let attr = place.attr();
                self.nodes.lock().get(&(attr.device, attr.ino)).and_then(Weak::upgrade)
            }
        };
        let found = found.ok_or(Errno::CONNREFUSED)?;
        if found.kind != kind {
            return Err(Errno::PROTOTYPE);
        }
        Ok(found)
    }

    /// Makes the inode of a path and gives it to a socket.
    ///
    /// # Errors
    /// `EADDRINUSE` if the path is there; those of a path.
    pub(super) fn make_node(
        &self,
        cx: &Cx<'_>,
        socket: &Arc<UnixSocket>,
        path: &[u8],
    ) -> Result<(NodeKey, InodeRef), Errno> {
        let (fs, creds) = (cx.fs().lock().clone(), cx.creds());
        let special = |_: Special| Errno::ADDRINUSE;
        let (parent, name, slash) = fs.parent_of(&creds, &fs.cwd, path, special)?;
        if slash {
            return Err(Errno::NOENT);
        }
        let new = fs.new_inode(&creds, FileType::Socket, 0o777);
        let made = match fs.vfs.child(&parent, &name) {
            Ok(_) => return Err(Errno::ADDRINUSE),
            Err(Errno::NOENT) => fs.create(&creds, &parent, &name, &new),
            Err(errno) => return Err(errno),
        };
        let inode = Arc::clone(
            made.map_err(|errno| match errno {
                Errno::EXIST => Errno::ADDRINUSE,
                errno => errno,
            })?
            .inode(),
        );
        let attr = inode.attr();
        let key = (attr.device, attr.ino);
        self.nodes.lock().insert(key, Arc::downgrade(socket));
        Ok((key, inode))
    }
}

impl Net {
    /// /proc/net/unix.
    pub(crate) fn unix_table(&self) -> Vec<u8> {
        let mut text = b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec();
        let sockets: Vec<_> = {
            let mut all = self.unix.all.lock();
            all.retain(|socket| socket.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        for socket in sockets {
            socket.describe(&mut text);
        }
        text
    }
}
