// SPDX-License-Identifier: Apache-2.0
//! AF_UNIX (unix(7)): streams, datagrams and packets between processes of the container.
//!
//! | module | what |
//! | --- | --- |
//! | `socket` | the socket: states, ends |
//! | `calls` | what system calls do with it |
//! | `connect` | connecting streams |
//! | `address` | names and paths |
//! | `queue` | messages that wait, and what a sender may have under way |
//! | `rights` | open files in messages |
//! | `transfer` | sending and receiving |
//!
//! Messages lie in the queue of their receiver.  A connected pair refers to each other weakly: an
//! open file keeps its socket, and a listener those that wait to be accepted.
//!
//! No two sockets' states are ever locked at the same time, and nothing is dropped or woken under
//! such a lock.

mod address;
mod calls;
mod connect;
mod queue;
mod rights;
mod socket;
mod transfer;

pub(crate) use self::{
    address::UnixNet,
    rights::{InFlight, MESSAGE_FILES_MAX, Rights},
    socket::{UnixSocket, effective_cred},
};
