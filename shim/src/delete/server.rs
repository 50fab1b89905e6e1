// SPDX-License-Identifier: Apache-2.0
//! Asking a server that still listens to let go of a container.
//!
//! containerd 1.6 runs `delete` whenever its connection to a server ends, thus also for a container
//! that it has just deleted, while others of the pod run on: so a server that answers must live.

use std::{
    thread,
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    api::{ConnectRequest, DeleteRequest, KillRequest, ShutdownRequest},
    shim_sync::{Client, TaskClient},
    ttrpc::{Code, context},
};

/// How long a server may take to say that it is there.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long it may take to end and delete a container.
const DELETE_TIMEOUT: Duration = Duration::from_secs(2);
const DELETE_INTERVAL: Duration = Duration::from_millis(10);
const SIGKILL: u32 = 9;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The server has nothing of the container any more.
    LetGo,
    /// The server lives, but does not delete the container.
    Refused,
    /// The server does not answer.
    Silent,
}

/// Has the server end and delete a container, and end itself if that was the last one.
pub(super) fn let_go(address: &str, id: &str) -> Answer {
    let Ok(client) = Client::connect(address) else { return Answer::Silent };
    let client = TaskClient::new(client);
    let answer = || context::with_duration(ANSWER_TIMEOUT);
    let connect = ConnectRequest { id: id.to_owned(), ..ConnectRequest::default() };
    if client.connect(answer(), &connect).is_err() {
        return Answer::Silent;
    }

    let kill =
        KillRequest { id: id.to_owned(), signal: SIGKILL, all: true, ..KillRequest::default() };
    // It may have ended, or be unknown.
    let _ = client.kill(answer(), &kill);
    let let_go = delete(&client, id);
    // Refused without effect while there are other containers.
    let _ = client.shutdown(answer(), &ShutdownRequest { id: id.to_owned(), ..Default::default() });
    if let_go { Answer::LetGo } else { Answer::Refused }
}

fn delete(client: &TaskClient, id: &str) -> bool {
    let request = DeleteRequest { id: id.to_owned(), ..DeleteRequest::default() };
    let deadline = Instant::now() + DELETE_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match client.delete(context::with_duration(left), &request) {
            Ok(_) => return true,
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::NOT_FOUND => {
                return true;
            }
            // Its end is not known yet, or something else will pass.
            Err(_) => thread::sleep(DELETE_INTERVAL),
        }
    }
}
