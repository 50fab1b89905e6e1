// SPDX-License-Identifier: Apache-2.0
//! Terminals.  The line discipline of a container's terminal runs in its guest, so the host's pty
//! pair is raw: a pipe in two directions that a caller may treat as a terminal.

mod console;
mod proxy;
mod pty;

pub(crate) use self::{
    console::send_master,
    proxy::Proxy,
    pty::{Pty, RawMode, caller_size, watch_size},
};
