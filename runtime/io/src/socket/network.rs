// SPDX-License-Identifier: Apache-2.0
//! Questions about the network namespace: rtnetlink dumps, and files of /proc/net.
//!
//! The process cannot open anything once it is confined, so the netlink socket and the files are
//! opened before that, and shared by all VMs.  A guest never speaks netlink to the host: it chooses
//! one of a few questions, which are put together here.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{Mutex, PoisonError},
};

use rustix::io::Errno;
use trine_abi::socket::{Dump, NETWORK_FILES};
use trine_jail::socket as host;

use super::errno;

const AF_NETLINK: i32 = 16;
const SOCK_RAW: i32 = 3;
const NETLINK_ROUTE: i32 = 0;
const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;
/// NLM_F_REQUEST | NLM_F_DUMP.
const DUMP_FLAGS: u16 = 0x301;
/// Most bytes of one whole dump.
const DUMP_BYTES_MAX: usize = 4 << 20;

/// What is known of the network namespace.
#[derive(Debug)]
pub(crate) struct Network {
    netlink: Mutex<Option<OwnedFd>>,
    files: Vec<Option<File>>,
}

fn half(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..at + 2).and_then(|word| word.try_into().ok());
    u16::from_ne_bytes(word.unwrap_or_default())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    u32::from_ne_bytes(word.unwrap_or_default())
}

impl Network {
    /// Opens what there is in the namespace that the calling thread is in.
    pub(crate) fn open() -> Self {
        let netlink = host::open(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE).ok();
        let open = |name: &&str| {
            let places = ["/proc/thread-self/net", "/proc/sys/net/ipv4", "/proc/sys/net/core"];
            places.iter().find_map(|place| File::open(format!("{place}/{name}")).ok())
        };
        Self { netlink: Mutex::new(netlink), files: NETWORK_FILES.iter().map(open).collect() }
    }

    /// Reads a file at an offset.
    pub(super) fn read(&self, number: u32, offset: u32, bytes: usize) -> Result<Vec<u8>, Errno> {
        let file = self.files.get(number as usize).and_then(Option::as_ref).ok_or(Errno::NOENT)?;
        let mut data = vec![0; bytes];
        let mut done = 0;
        while let Some(room) = data.get_mut(done..).filter(|room| !room.is_empty()) {
            match file.read_at(room, u64::from(offset) + done as u64) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
        data.truncate(done);
        Ok(data)
    }

    /// Answers a question with as many whole messages as fit.
    pub(super) fn dump(&self, question: Dump, room: usize) -> Result<Vec<u8>, Errno> {
        // What each question has after its header, all zero but the family.
        let body = match question.kind {
            RTM_GETLINK => 16,
            RTM_GETADDR => 8,
            RTM_GETROUTE | RTM_GETRULE | RTM_GETNEIGH => 12,
            _ => return Err(Errno::OPNOTSUPP),
        };
        let mut request = vec![0; HEADER_BYTES + body];
        let length = request.len() as u32;
        for (at, bytes) in [
            (0, &length.to_ne_bytes()[..]),
            (4, &question.kind.to_ne_bytes()),
            (6, &DUMP_FLAGS.to_ne_bytes()),
            (HEADER_BYTES, &[question.family]),
        ] {
            if let Some(to) = request.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        }
        let netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let netlink = netlink.as_ref().ok_or(Errno::OPNOTSUPP)?;
        host::send(netlink.as_fd(), &request, 0).map_err(|error| errno(&error))?;
        let mut answer = Vec::new();
        let mut passed = 0;
        let mut full = false;
        let mut total = 0;
        let mut part = vec![0; 64 << 10];
        'dump: loop {
            let got = host::receive(netlink.as_fd(), &mut part, 0);
            let got = got.map_err(|error| errno(&error))?;
            total += got;
            if total > DUMP_BYTES_MAX {
                return Err(Errno::OVERFLOW);
            }
            let mut rest = part.get(..got).unwrap_or_default();
            while rest.len() >= HEADER_BYTES {
                let length = (word(rest, 0) as usize).max(HEADER_BYTES);
                match half(rest, 4) {
                    NLMSG_DONE => break 'dump,
                    NLMSG_ERROR => {
                        let error = word(rest, HEADER_BYTES).cast_signed();
                        return Err(Errno::from_raw_os_error(-error));
                    }
                    _ => {}
                }
                let message = rest.get(..length).unwrap_or(rest);
                // The whole dump is read even if no more fits: the next one must start afresh.
                if passed < question.skip {
                    passed += 1;
                    rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                    continue;
                }
                full |= answer.len() + message.len() > room;
                if !full {
                    answer.extend_from_slice(message);
                    answer.resize(answer.len().next_multiple_of(4), 0);
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        answer.truncate(room);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dump_tells_of_the_loopback_interface_and_passes_over_messages() {
        let network = Network::open();
        let question = Dump { kind: RTM_GETLINK, family: 0, skip: 0 };
        let links = network.dump(question, 128 << 10).expect("links");
        assert!(links.windows(3).any(|name| name == b"lo\0"));
        let after = network.dump(Dump { skip: 10_000, ..question }, 128 << 10);
        assert_eq!(after.map(|rest| rest.len()), Ok(0));
        assert_eq!(network.dump(Dump { kind: 16, ..question }, 100), Err(Errno::OPNOTSUPP));
    }

    #[test]
    fn read_goes_on_at_an_offset() {
        let network = Network::open();
        let whole = network.read(0, 0, 1 << 16).expect("dev");
        assert!(whole.starts_with(b"Inter-|"));
        let rest = network.read(0, 6, 10).expect("dev");
        assert_eq!(rest, whole.get(6..16).expect("long enough"));
        assert_eq!(network.read(99, 0, 10), Err(Errno::NOENT));
    }
}
