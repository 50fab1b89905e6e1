// SPDX-License-Identifier: Apache-2.0
//! Connecting.

use trine_abi::window::Operation;

use super::{InetSocket, address, state::Phase};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    net::{AF_UNSPEC, Socket},
};

impl InetSocket {
    /// connect(2).
    pub(super) fn connect_to(&self, cx: &mut Cx<'_>, given: &[u8], waits: bool) -> SysResult<()> {
        let family = given.first_chunk::<2>().map(|family| u16::from_le_bytes(*family));
        if family == Some(AF_UNSPEC) {
            self.call_plain(Operation::SocketConnect, 0, &AF_UNSPEC.to_le_bytes())?;
            let mut state = self.state.lock();
            (state.phase, state.own, state.peer) = (Phase::Open, None, None);
            return Ok(());
        }
        let given = address::read(self.identity.family, given)?;
        if !self.is_stream() {
            self.call_plain(Operation::SocketConnect, 0, &given)?;
            let mut state = self.state.lock();
            (state.phase, state.own, state.peer) = (Phase::Connected, None, Some(given));
            return Ok(());
        }
        // This call has started or waited before.
        let mine = cx.progress().value != 0;
        {
            let mut state = self.state.lock();
            match state.phase {
                Phase::Listening => return Err(Errno::ISCONN.into()),
                Phase::Connected if mine || state.untold => {
                    state.untold = false;
                    return Ok(());
                }
                Phase::Connected => return Err(Errno::ISCONN.into()),
                Phase::Connecting if !waits => return Err(Errno::ALREADY.into()),
                Phase::Connecting => {
                    drop(state);
                    return self.await_connection(cx);
                }
                Phase::Open => {
                    if let Some(error) = state.error.take() {
                        return Err(error.into());
                    }
                    if mine && cx.progress().value == 1 {
                        return Err(Errno::CONNABORTED.into());
                    }
                    (state.ended, state.hung, state.own) = (false, false, None);
                    state.reset = false;
                    (state.receive_shut, state.send_shut) = (false, false);
                }
            }
        }
        // Whatever the server tells from now on is about this attempt.
        cx.progress().value = 2;
        match self.call_plain(Operation::SocketConnect, 0, &given) {
            Ok(()) => {
                let mut state = self.state.lock();
                state.phase = Phase::Connected;
                Ok(())
            }
            Err(Errno::INPROGRESS) => {
                {
                    let mut state = self.state.lock();
                    if state.phase == Phase::Connected {
                        state.untold = !waits;
                        return if waits { Ok(()) } else { Err(Errno::INPROGRESS.into()) };
                    }
                    if let Some(error) = state.error {
                        state.hung = true;
                        if waits {
                            state.error = None;
                            return Err(error.into());
                        }
                        return Err(Errno::INPROGRESS.into());
                    }
                    state.phase = Phase::Connecting;
                }
                if waits { self.await_connection(cx) } else { Err(Errno::INPROGRESS.into()) }
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for a connection that is being made.
    fn await_connection(&self, cx: &mut Cx<'_>) -> SysResult<()> {
        cx.progress().value = 1;
        let timeout = self.options.send_timeout_ns();
        let now = cx.services().monotonic_ns();
        let deadline = timeout
            .map(|timeout| *cx.progress().deadline_ns.get_or_insert(now.saturating_add(timeout)));
        if timeout.is_some() && cx.timed_out() {
            return Err(Errno::INPROGRESS.into());
        }
        self.write_wait.add(&cx.ticket());
        let restart = if timeout.is_some() { Restart::Never } else { Restart::Always };
        Err(cx.block(deadline, restart))
    }
}
