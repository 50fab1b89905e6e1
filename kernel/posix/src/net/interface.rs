// SPDX-License-Identifier: Apache-2.0
//! What there is in the pod's network namespace: interfaces, addresses, routes.
//!
//! The I/O server answers with the netlink messages of its own kernel (rtnetlink(7)); ioctls are
//! answered out of them, and files of /proc/net are passed on as they are.

use alloc::{string::String, vec::Vec};

use trine_abi::{
    socket::{AF_INET, Dump, NETWORK_FILES},
    window::Operation,
};
use trine_machine::window::BULK_BUFFER_BYTES;

use super::Net;
use crate::{
    Errno,
    forward::{Answer, Call},
    fs::file::IoctlMemory,
};

pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_GETADDR: u16 = 22;
const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
/// Bytes of a `struct nlmsghdr`.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes of an interface's name, with its NUL.
const NAME_BYTES: usize = 16;
/// Bytes of a `struct ifreq`.
const REQUEST_BYTES: usize = 40;
/// Most rounds of one dump.
const ROUNDS_MAX: usize = 64;

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().unwrap_or_default()))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |half| u16::from_le_bytes([half[0], half[1]]))
}

/// The messages of an answer.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let length = word(bytes, 0) as usize;
        let message = bytes.get(..length).filter(|_| length >= HEADER_BYTES)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message, which begin at `at`.
pub(crate) fn attributes(message: &[u8], at: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(at..).unwrap_or_default();
    core::iter::from_fn(move || {
        let length = usize::from(half(rest, 0));
        let attribute = rest.get(4..length)?;
        let kind = half(rest, 2) & 0x3fff;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, attribute))
    })
}

fn attribute(message: &[u8], at: usize, kind: u16) -> Option<&[u8]> {
    attributes(message, at).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: Vec<u8>,
    pub(crate) flags: u32,
    /// ARPHRD_*.
    pub(crate) kind: u16,
    pub(crate) address: Vec<u8>,
    pub(crate) broadcast: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) queue: u32,
}

/// An IPv4 address of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Address {
    index: u32,
    label: Vec<u8>,
    prefix: u8,
    local: [u8; 4],
    peer: [u8; 4],
    broadcast: Option<[u8; 4]>,
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

impl Net {
    /// Asks about the namespace; all messages that answer it.
    ///
    /// # Errors
    /// `PENDING`; what the server says.
    pub(crate) fn dump(&self, kind: u16, family: u8) -> Result<Vec<u8>, Errno> {
        let mut all = Vec::new();
        let mut skip = 0;
        for _ in 0..ROUNDS_MAX {
            let call = Call {
                operation: Operation::NetworkDump,
                handle: 0,
                argument: Dump { kind, family, skip }.pack(),
                input: &[],
                room: BULK_BUFFER_BYTES,
            };
            let part = self.services.call(&call, Answer::bytes)?;
            let count = messages(&part).count() as u32;
            if count == 0 {
                break;
            }
            all.extend_from_slice(&part);
            all.resize(all.len().next_multiple_of(4), 0);
            skip += count;
        }
        Ok(all)
    }

    /// The interfaces.
    ///
    /// # Errors
    /// `PENDING`; what the server says.
    pub(crate) fn links(&self) -> Result<Vec<Link>, Errno> {
        let dump = self.dump(RTM_GETLINK, 0)?;
        let link = |message: &[u8]| {
            let find = |kind| attribute(message, HEADER_BYTES + 16, kind).unwrap_or_default();
            Link {
                index: word(message, HEADER_BYTES + 4),
                name: until_nul(find(IFLA_IFNAME)).to_vec(),
                flags: word(message, HEADER_BYTES + 8),
                kind: half(message, HEADER_BYTES + 2),
                address: find(IFLA_ADDRESS).to_vec(),
                broadcast: find(IFLA_BROADCAST).to_vec(),
                mtu: word(find(IFLA_MTU), 0),
                queue: word(find(IFLA_TXQLEN), 0),
            }
        };
        Ok(messages(&dump).map(link).collect())
    }

    fn addresses(&self) -> Result<Vec<Address>, Errno> {
        let dump = self.dump(RTM_GETADDR, AF_INET as u8)?;
        let address = |message: &[u8]| {
            let find = |kind| attribute(message, HEADER_BYTES + 8, kind);
            let ip = |kind| find(kind).and_then(|ip| ip.try_into().ok());
            let peer = ip(IFA_ADDRESS).unwrap_or_default();
            Address {
                index: word(message, HEADER_BYTES + 4),
                label: until_nul(find(IFA_LABEL).unwrap_or_default()).to_vec(),
                prefix: message.get(HEADER_BYTES + 1).copied().unwrap_or(0),
                local: ip(IFA_LOCAL).unwrap_or(peer),
                peer,
                broadcast: ip(IFA_BROADCAST),
            }
        };
        Ok(messages(&dump).map(address).collect())
    }

    /// A file of /proc/net.
    ///
    /// # Errors
    /// `PENDING`; `ENOENT`; what the server says.
    pub(crate) fn file(&self, name: &str) -> Result<Vec<u8>, Errno> {
        let number = NETWORK_FILES.iter().position(|known| *known == name).ok_or(Errno::NOENT)?;
        let mut text = Vec::new();
        if !self.services.has_window() {
            // Without an I/O server there is no network.
            return Ok(text);
        }
        loop {
            let call = Call {
                operation: Operation::NetworkFile,
                handle: 0,
                argument: (number as u64) << 32 | text.len() as u64,
                input: &[],
                room: BULK_BUFFER_BYTES,
            };
            let part = self.services.call(&call, Answer::bytes)?;
            text.extend_from_slice(&part);
            // A buffer may have been a small one: only nothing is the end.
            if part.is_empty() || text.len() > 8 << 20 {
                return Ok(text);
            }
        }
    }

    /// The first port that is not for the privileged.
    ///
    /// # Errors
    /// `PENDING`.
    pub(crate) fn first_unprivileged_port(&self) -> Result<u16, Errno> {
        match self.file("ip_unprivileged_port_start") {
            Err(Errno::PENDING) => Err(Errno::PENDING),
            Err(_) => Ok(1024),
            Ok(text) => {
                let text = String::from_utf8(text).unwrap_or_default();
                Ok(text.trim().parse().unwrap_or(1024))
            }
        }
    }

    /// Answers the ioctls of netdevice(7) that ask for something.
    ///
    /// # Errors
    /// `ENOTTY` if it is none of them, `EPERM` if it changes something, `ENODEV` if there is no
    /// such interface, `EADDRNOTAVAIL` if it has no address.
    pub(crate) fn ioctl(&self, command: u32, memory: &mut IoctlMemory<'_>) -> Result<u64, Errno> {
        match command {
            0x8912 => return self.list(memory),
            // Setting things, and the ones that route.
            0x890b..=0x890d
            | 0x8911
            | 0x8914
            | 0x8916
            | 0x8918
            | 0x891a
            | 0x891c
            | 0x891e
            | 0x8922..=0x8926
            | 0x8936
            | 0x8943 => return Err(Errno::PERM),
            0x8910 | 0x8913 | 0x8915 | 0x8917 | 0x8919 | 0x891b | 0x891d | 0x8921 | 0x8927
            | 0x8933 | 0x8942 => {}
            _ => return Err(Errno::NOTTY),
        }
        let mut request = [0; REQUEST_BYTES];
        memory.read_to(&mut request)?;
        let links = self.links()?;
        if command == 0x8910 {
            // SIOCGIFNAME
            let index = word(&request, NAME_BYTES);
            let link = links.iter().find(|link| link.index == index).ok_or(Errno::NODEV)?;
            request[..NAME_BYTES].fill(0);
            let length = link.name.len().min(NAME_BYTES - 1);
            request[..length].copy_from_slice(&link.name[..length]);
            memory.write_from(&request)?;
            return Ok(0);
        }
        let label = until_nul(&request[..NAME_BYTES]).to_vec();
        let name = label.split(|&byte| byte == b':').next().unwrap_or_default();
        let link = links.iter().find(|link| link.name == name).ok_or(Errno::NODEV)?;
        let mut value = [0; REQUEST_BYTES - NAME_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            let room = value.len() - at;
            let bytes = &bytes[..bytes.len().min(room)];
            value[at..at + bytes.len()].copy_from_slice(bytes);
        };
        match command {
            // SIOCGIFFLAGS: a short; SIOCGIFMETRIC, SIOCGIFMTU, SIOCGIFINDEX, SIOCGIFTXQLEN: ints.
            0x8913 => put(0, &(link.flags as u16).to_le_bytes()),
            0x891d => put(0, &[0; 4]),
            0x8921 => put(0, &link.mtu.to_le_bytes()),
            0x8933 => put(0, &link.index.to_le_bytes()),
            0x8942 => put(0, &link.queue.to_le_bytes()),
            // SIOCGIFHWADDR
            0x8927 => {
                put(0, &link.kind.to_le_bytes());
                put(2, &link.address);
            }
            _ => {
                let addresses = self.addresses()?;
                let mine = |address: &&Address| {
                    address.index == link.index
                        && (address.label == label || address.label.is_empty())
                };
                let address = addresses.iter().find(mine).ok_or(Errno::ADDRNOTAVAIL)?;
                let mask = (u64::from(u32::MAX) << (32 - u32::from(address.prefix.min(32)))) as u32;
                let ip = match command {
                    0x8915 => address.local,
                    0x8917 => address.peer,
                    0x8919 => address.broadcast.unwrap_or_default(),
                    _ => mask.to_be_bytes(),
                };
                put(0, &AF_INET.to_le_bytes());
                put(4, &ip);
            }
        }
        request[NAME_BYTES..].copy_from_slice(&value);
        memory.write_from(&request)?;
        Ok(0)
    }

    /// SIOCGIFCONF: interfaces that have an IPv4 address.
    fn list(&self, memory: &mut IoctlMemory<'_>) -> Result<u64, Errno> {
        let mut header = [0; 16];
        memory.read_to(&mut header)?;
        let room = word(&header, 0).cast_signed().max(0) as usize;
        let to = u64::from(word(&header, 8)) | u64::from(word(&header, 12)) << 32;
        let mut list = Vec::new();
        let links = self.links()?;
        for address in self.addresses()? {
            let mut entry = [0; REQUEST_BYTES];
            let link = links.iter().find(|link| link.index == address.index);
            let name = if address.label.is_empty() {
                link.map(|link| link.name.clone()).unwrap_or_default()
            } else {
                address.label
            };
            let length = name.len().min(NAME_BYTES - 1);
            entry[..length].copy_from_slice(&name[..length]);
            entry[NAME_BYTES..NAME_BYTES + 2].copy_from_slice(&AF_INET.to_le_bytes());
            entry[NAME_BYTES + 4..NAME_BYTES + 8].copy_from_slice(&address.local);
            if to != 0 && list.len() + REQUEST_BYTES > room {
                break;
            }
            list.extend_from_slice(&entry);
        }
        if to != 0 {
            (memory.write)(to, &list)?;
        }
        memory.write_int(list.len() as i32)?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_stop_at_nonsense() {
        let mut message = [0; 32];
        message[0] = 28;
        message[16..].copy_from_slice(&[7, 0, 3, 0, b'l', b'o', 0, 0, 4, 0, 9, 0, 99, 0, 1, 0]);
        let found: Vec<_> = messages(&message).collect();
        assert_eq!(found, [&message[..28]]);
        let list: Vec<_> = attributes(&message, 16).collect();
        assert_eq!(list, [(3, &b"lo\0"[..]), (9, &[][..])]);
        assert_eq!(messages(&message[..20]).count(), 0);
    }
}
