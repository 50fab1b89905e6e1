// SPDX-License-Identifier: Apache-2.0
//! The socket options and control messages that a guest may use; everything else does not exist.
//!
//! Not among them: SO_BINDTODEVICE, SO_MARK, SO_ATTACH_*, IP_TRANSPARENT, IP_OPTIONS, TCP_REPAIR,
//! TCP_ULP and others that reach beyond the socket itself.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use trine_abi::socket::{Control, OPTION_BYTES_MAX};
use trine_jail::socket as host;

use super::errno;

const SOCKET: u32 = 1;
const IP: u32 = 0;
const TCP: u32 = 6;
const IPV6: u32 = 41;
const UDPLITE: u32 = 136;

/// Whether an option may be set, read, or both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Both,
    Get,
}

/// Level, option, use, least and most bytes of a value that is set.
const OPTIONS: &[(u32, u32, Use, usize, usize)] = &[
    (SOCKET, 2, Use::Both, 4, 4),    // SO_REUSEADDR
    (SOCKET, 5, Use::Both, 4, 4),    // SO_DONTROUTE
    (SOCKET, 6, Use::Both, 4, 4),    // SO_BROADCAST
    (SOCKET, 7, Use::Both, 4, 4),    // SO_SNDBUF
    (SOCKET, 8, Use::Both, 4, 4),    // SO_RCVBUF
    (SOCKET, 9, Use::Both, 4, 4),    // SO_KEEPALIVE
    (SOCKET, 10, Use::Both, 4, 4),   // SO_OOBINLINE
    (SOCKET, 12, Use::Both, 4, 4),   // SO_PRIORITY
    (SOCKET, 13, Use::Both, 8, 8),   // SO_LINGER
    (SOCKET, 15, Use::Both, 4, 4),   // SO_REUSEPORT
    (SOCKET, 29, Use::Both, 4, 4),   // SO_TIMESTAMP
    (SOCKET, 30, Use::Get, 0, 0),    // SO_ACCEPTCONN
    (SOCKET, 35, Use::Both, 4, 4),   // SO_TIMESTAMPNS
    (SOCKET, 40, Use::Both, 4, 4),   // SO_RXQ_OVFL
    (SOCKET, 47, Use::Both, 4, 8),   // SO_MAX_PACING_RATE
    (SOCKET, 49, Use::Both, 4, 4),   // SO_INCOMING_CPU
    (IP, 1, Use::Both, 1, 4),        // IP_TOS
    (IP, 2, Use::Both, 1, 4),        // IP_TTL
    (IP, 8, Use::Both, 1, 4),        // IP_PKTINFO
    (IP, 10, Use::Both, 1, 4),       // IP_MTU_DISCOVER
    (IP, 12, Use::Both, 1, 4),       // IP_RECVTTL
    (IP, 13, Use::Both, 1, 4),       // IP_RECVTOS
    (IP, 14, Use::Get, 0, 0),        // IP_MTU
    (IP, 21, Use::Both, 1, 4),       // IP_MINTTL
    (IP, 24, Use::Both, 1, 4),       // IP_BIND_ADDRESS_NO_PORT
    (IP, 32, Use::Both, 4, 12),      // IP_MULTICAST_IF
    (IP, 33, Use::Both, 1, 4),       // IP_MULTICAST_TTL
    (IP, 34, Use::Both, 1, 4),       // IP_MULTICAST_LOOP
    (IP, 35, Use::Both, 8, 12),      // IP_ADD_MEMBERSHIP
    (IP, 36, Use::Both, 8, 12),      // IP_DROP_MEMBERSHIP
    (IP, 39, Use::Both, 12, 12),     // IP_ADD_SOURCE_MEMBERSHIP
    (IP, 40, Use::Both, 12, 12),     // IP_DROP_SOURCE_MEMBERSHIP
    (IP, 42, Use::Both, 136, 136),   // MCAST_JOIN_GROUP
    (IP, 45, Use::Both, 136, 136),   // MCAST_LEAVE_GROUP
    (IP, 49, Use::Both, 1, 4),       // IP_MULTICAST_ALL
    (IP, 51, Use::Both, 4, 4),       // IP_LOCAL_PORT_RANGE
    (TCP, 1, Use::Both, 4, 4),       // TCP_NODELAY
    (TCP, 2, Use::Both, 4, 4),       // TCP_MAXSEG
    (TCP, 3, Use::Both, 4, 4),       // TCP_CORK
    (TCP, 4, Use::Both, 4, 4),       // TCP_KEEPIDLE
    (TCP, 5, Use::Both, 4, 4),       // TCP_KEEPINTVL
    (TCP, 6, Use::Both, 4, 4),       // TCP_KEEPCNT
    (TCP, 7, Use::Both, 4, 4),       // TCP_SYNCNT
    (TCP, 8, Use::Both, 4, 4),       // TCP_LINGER2
    (TCP, 9, Use::Both, 4, 4),       // TCP_DEFER_ACCEPT
    (TCP, 10, Use::Both, 4, 4),      // TCP_WINDOW_CLAMP
    (TCP, 11, Use::Get, 0, 0),       // TCP_INFO
    (TCP, 12, Use::Both, 4, 4),      // TCP_QUICKACK
    (TCP, 13, Use::Both, 1, 16),     // TCP_CONGESTION
    (TCP, 18, Use::Both, 4, 4),      // TCP_USER_TIMEOUT
    (TCP, 23, Use::Both, 4, 4),      // TCP_FASTOPEN
    (TCP, 25, Use::Both, 4, 4),      // TCP_NOTSENT_LOWAT
    (IPV6, 16, Use::Both, 4, 4),     // IPV6_UNICAST_HOPS
    (IPV6, 17, Use::Both, 4, 4),     // IPV6_MULTICAST_IF
    (IPV6, 18, Use::Both, 4, 4),     // IPV6_MULTICAST_HOPS
    (IPV6, 19, Use::Both, 4, 4),     // IPV6_MULTICAST_LOOP
    (IPV6, 20, Use::Both, 20, 20),   // IPV6_ADD_MEMBERSHIP
    (IPV6, 21, Use::Both, 20, 20),   // IPV6_DROP_MEMBERSHIP
    (IPV6, 23, Use::Both, 4, 4),     // IPV6_MTU_DISCOVER
    (IPV6, 24, Use::Get, 0, 0),      // IPV6_MTU
    (IPV6, 26, Use::Both, 4, 4),     // IPV6_V6ONLY
    (IPV6, 42, Use::Both, 136, 136), // MCAST_JOIN_GROUP
    (IPV6, 45, Use::Both, 136, 136), // MCAST_LEAVE_GROUP
    (IPV6, 49, Use::Both, 4, 4),     // IPV6_RECVPKTINFO
    (IPV6, 51, Use::Both, 4, 4),     // IPV6_RECVHOPLIMIT
    (IPV6, 62, Use::Both, 4, 4),     // IPV6_DONTFRAG
    (IPV6, 66, Use::Both, 4, 4),     // IPV6_RECVTCLASS
    (IPV6, 67, Use::Both, 4, 4),     // IPV6_TCLASS
    (IPV6, 70, Use::Both, 4, 4),     // IPV6_AUTOFLOWLABEL
    (IPV6, 72, Use::Both, 4, 4),     // IPV6_ADDR_PREFERENCES
    (UDPLITE, 10, Use::Both, 4, 4),  // UDPLITE_SEND_CSCOV
    (UDPLITE, 11, Use::Both, 4, 4),  // UDPLITE_RECV_CSCOV
];

/// Control messages that may be sent: level, type, least and most bytes.
const CONTROL: &[(u32, u32, usize, usize)] = &[
    (IP, 1, 1, 4),      // IP_TOS
    (IP, 2, 4, 4),      // IP_TTL
    (IP, 8, 12, 12),    // IP_PKTINFO
    (IPV6, 50, 20, 20), // IPV6_PKTINFO
    (IPV6, 52, 4, 4),   // IPV6_HOPLIMIT
    (IPV6, 67, 4, 4),   // IPV6_TCLASS
];

fn find((level, option): (u32, u32)) -> Result<(Use, usize, usize), Errno> {
    let is_it = |entry: &&(u32, u32, Use, usize, usize)| (entry.0, entry.1) == (level, option);
    let found = OPTIONS.iter().find(is_it).ok_or(Errno::NOPROTOOPT)?;
    Ok((found.2, found.3, found.4))
}

/// getsockopt(2).
pub(super) fn get(
    socket: BorrowedFd<'_>,
    option: (u32, u32),
    room: usize,
) -> Result<Vec<u8>, Errno> {
    find(option)?;
    let room = room.min(OPTION_BYTES_MAX);
    host::option(socket, option.0 as i32, option.1 as i32, room).map_err(|error| errno(&error))
}

/// setsockopt(2).
pub(super) fn set(socket: BorrowedFd<'_>, option: (u32, u32), value: &[u8]) -> Result<(), Errno> {
    let (usage, least, most) = find(option)?;
    if usage == Use::Get {
        return Err(Errno::NOPROTOOPT);
    }
    if value.len() < least {
        return Err(Errno::INVAL);
    }
    // What is longer than the value is not looked at, as in Linux.
    let value = value.get(..most).unwrap_or(value);
    host::set_option(socket, option.0 as i32, option.1 as i32, value).map_err(|error| errno(&error))
}

/// Whether these control messages may be sent.
pub(super) fn check_control(control: &[Control]) -> Result<(), Errno> {
    let may = |(level, kind, data): &Control| {
        CONTROL.iter().any(|allowed| {
            (allowed.0, allowed.1) == (*level, *kind)
                && (allowed.2..=allowed.3).contains(&data.len())
        })
    };
    if control.len() <= 8 && control.iter().all(may) { Ok(()) } else { Err(Errno::INVAL) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn options_that_reach_beyond_the_socket_do_not_exist() {
        let socket = host::open(2, 1, 0).expect("socket");
        // SO_BINDTODEVICE, SO_MARK, SO_ATTACH_FILTER, IP_TRANSPARENT, IP_OPTIONS, TCP_REPAIR, TCP_ULP
        for option in [(1, 25), (1, 36), (1, 26), (0, 19), (0, 4), (6, 19), (6, 31), (255, 1)] {
            assert_eq!(set(socket.as_fd(), option, &[1, 0, 0, 0]), Err(Errno::NOPROTOOPT));
            assert_eq!(get(socket.as_fd(), option, 4), Err(Errno::NOPROTOOPT));
        }
        assert_eq!(set(socket.as_fd(), (TCP, 1), &[1, 0, 0]), Err(Errno::INVAL));
        assert_eq!(set(socket.as_fd(), (TCP, 1), &[1, 0, 0, 0, 9]), Ok(()));
        assert_eq!(get(socket.as_fd(), (TCP, 1), 4), Ok(vec![1, 0, 0, 0]));
        assert_eq!(set(socket.as_fd(), (TCP, 11), &[0; 4]), Err(Errno::NOPROTOOPT));
        assert!(get(socket.as_fd(), (TCP, 11), 200).is_ok_and(|info| info.len() > 100));
    }

    #[test]
    fn control_messages_are_checked() {
        assert_eq!(check_control(&[(IP, 2, vec![1, 0, 0, 0])]), Ok(()));
        assert_eq!(check_control(&[(IP, 2, vec![1])]), Err(Errno::INVAL));
        assert_eq!(check_control(&[(SOCKET, 1, vec![1, 0, 0, 0])]), Err(Errno::INVAL));
        assert_eq!(check_control(&vec![(IP, 2, vec![0; 4]); 9]), Err(Errno::INVAL));
    }
}
