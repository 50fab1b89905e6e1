// SPDX-License-Identifier: Apache-2.0
//! Options of sockets, of which most are the host's.

use alloc::vec::Vec;

use trine_abi::{socket::OPTION_BYTES_MAX, window::Operation};

use super::{InetSocket, state::Phase};
use crate::{
    Errno,
    cx::Cx,
    forward::{Answer, Call},
    net::{
        Socket,
        message::{SOL_SOCKET, Ucred},
        option::{
            SO_ACCEPTCONN, SO_ERROR, SO_PASSCRED, SO_PEERCRED, SO_RCVLOWAT, SO_RCVTIMEO,
            SO_SNDLOWAT, SO_SNDTIMEO,
        },
    },
};

/// IP_RECVERR and IPV6_RECVERR: there is no queue of errors, but programs that ask for one do
/// without it.
const RECVERR: [(u32, u32); 2] = [(0, 11), (41, 25)];
/// Options that the server is never asked about.
const LOCAL: [u32; 9] =
    [SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVLOWAT, SO_SNDLOWAT, SO_PASSCRED, 66, 67, 1, SO_ACCEPTCONN];

/// Switches of streams that every host can set at any time: nobody waits for them.
/// SO_REUSEADDR, SO_KEEPALIVE, TCP_NODELAY, TCP_CORK, TCP_QUICKACK.
const CERTAIN: [(u32, u32); 5] = [(SOL_SOCKET, 2), (SOL_SOCKET, 9), (6, 1), (6, 3), (6, 12)];

impl InetSocket {
    /// setsockopt(2), for what is not the same for all sockets.
    pub(super) fn set(
        &self,
        cx: &mut Cx<'_>,
        option: (u32, u32),
        value: &[u8],
    ) -> Result<(), Errno> {
        if option.0 == SOL_SOCKET && LOCAL.contains(&option.1) {
            return Err(Errno::NOPROTOOPT);
        }
        if RECVERR.contains(&option) {
            return Ok(());
        }
        let argument = u64::from(option.0) << 32 | u64::from(option.1);
        let value = &value[..value.len().min(OPTION_BYTES_MAX)];
        if value.len() >= 4 && self.is_stream() && CERTAIN.contains(&option) {
            self.inet.await_posts(&cx.ticket())?;
            self.inet.post_with(Operation::SocketSetOption, self.number(), argument, value, None);
            return Ok(());
        }
        self.call_plain(Operation::SocketSetOption, argument, value)
    }

    /// getsockopt(2), for what is not the same for all sockets.
    pub(super) fn get(&self, option: (u32, u32), room: usize) -> Result<Vec<u8>, Errno> {
        let word = |word: u32| Ok(word.to_le_bytes().to_vec());
        match option {
            (SOL_SOCKET, SO_ERROR) => {
                let error = self.state.lock().error.take();
                return word(error.map_or(0, Errno::number));
            }
            (SOL_SOCKET, SO_ACCEPTCONN) => {
                return word((self.state.lock().phase == Phase::Listening).into());
            }
            (SOL_SOCKET, SO_PEERCRED) => return Ok(Ucred::NOBODY.encode().to_vec()),
            (SOL_SOCKET, local) if LOCAL.contains(&local) => return Err(Errno::NOPROTOOPT),
            option if RECVERR.contains(&option) => return word(0),
            _ => {}
        }
        let argument = u64::from(option.0) << 32 | u64::from(option.1);
        let call = Call {
            operation: Operation::SocketGetOption,
            handle: self.number(),
            argument,
            input: &[],
            room: room.min(OPTION_BYTES_MAX),
        };
        Ok(self.inet.services.call(&call, Answer::bytes)?.to_vec())
    }
}
