// SPDX-License-Identifier: Apache-2.0
//! Connecting streams and packets.

use alloc::sync::Arc;

use super::{UnixSocket, effective_cred, socket::Phase};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
};

impl UnixSocket {
    /// Connects to a listener.
    pub(super) fn connect_stream(
        &self,
        cx: &mut Cx<'_>,
        target: &Arc<Self>,
        waits: bool,
    ) -> SysResult<()> {
        match self.state.lock().phase {
            Phase::Open => {}
            Phase::Connected => return Err(Errno::ISCONN.into()),
            Phase::Listening { .. } => return Err(Errno::INVAL.into()),
        }
        let own_name = self.state.lock().name.clone();
        let cred = effective_cred(cx);
        let server = Self::make(&self.net, self.kind);
        server.options.inherit(&target.options);
        {
            let mut state = server.state.lock();
            state.phase = Phase::Connected;
            state.peer = Some(self.this.clone());
            state.peer_name = own_name;
            state.peer_cred = Some(cred);
        }
        let (name, target_cred) = {
            let mut state = target.state.lock();
            let (name, target_cred) = (state.name.clone(), state.own_cred);
            if state.closed || state.receive_ended {
                return Err(Errno::CONNREFUSED.into());
            }
            let Phase::Listening { backlog, pending } = &mut state.phase else {
                return Err(Errno::CONNREFUSED.into());
            };
            if pending.len() > *backlog {
                drop(state);
                if !waits {
                    return Err(Errno::AGAIN.into());
                }
                let deadline = deadline(cx, self.options.send_timeout_ns());
                if cx.timed_out() {
                    return Err(Errno::AGAIN.into());
                }
                target.room_wait.add(&cx.ticket());
                return Err(cx.block(deadline, Restart::Always));
            }
            server.state.lock().name.clone_from(&name);
            pending.push_back(Arc::clone(&server));
            (name, target_cred)
        };
        {
            let mut state = self.state.lock();
            state.phase = Phase::Connected;
            state.peer = Some(Arc::downgrade(&server));
            state.peer_name = name;
            state.peer_cred = target_cred;
        }
        target.read_wait.wake_all();
        self.sending.wait.wake_all();
        Ok(())
    }
}

/// The point at which a wait that began some time ago times out.
fn deadline(cx: &mut Cx<'_>, timeout_ns: Option<u64>) -> Option<u64> {
    let now = cx.services().monotonic_ns();
    let timeout = timeout_ns?;
    Some(*cx.progress().deadline_ns.get_or_insert(now.saturating_add(timeout)))
}
