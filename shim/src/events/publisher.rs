// SPDX-License-Identifier: Apache-2.0
//! Sends events to containerd's ttrpc socket, one at a time, for as long as it takes.

use std::{io, sync::Arc, time::Duration};

use containerd_shim_protos::{
    protobuf::MessageField,
    shim::{event::Envelope, events::ForwardRequest},
    shim_async::{Client, EventsClient},
    ttrpc::{Code, r#async::transport::Socket, context},
};
use tokio::{net::UnixStream, time};

use super::{Queue, Queued};
use crate::{log, time::timestamp};

/// How long containerd may take for one event.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between attempts.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Publishes events until it is dropped.
///
/// An event that did not get through is sent again before any other, over a new connection: so the
/// order holds, and an event whose answer was lost may arrive twice.
pub async fn publish(queue: Arc<Queue>, address: String, namespace: String) {
    let mut connection = None;
    let mut pause = RETRY_FIRST;
    loop {
        let first = queue.first().await;
        match send(&mut connection, &address, &namespace, &first).await {
            Ok(()) => {
                queue.done(&first);
                pause = RETRY_FIRST;
            }
            Err(Failure::Refused(reason)) => {
                log::error(format!("containerd refused event {}: {reason}", first.event.topic()));
                queue.done(&first);
            }
            Err(Failure::Away(reason)) => {
                log::debug(format!("cannot send event {}: {reason}", first.event.topic()));
                connection = None;
                time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Why an event did not get through.
enum Failure {
    /// There is no containerd, for now.
    Away(String),
    /// containerd does not want it, now or later.
    Refused(String),
}

async fn send(
    connection: &mut Option<EventsClient>,
    address: &str,
    namespace: &str,
    queued: &Queued,
) -> Result<(), Failure> {
    let client = match connection {
        Some(client) => client,
        None => {
            let client = connect(address).await.map_err(|e| Failure::Away(e.to_string()))?;
            connection.insert(client)
        }
    };
    let envelope = Envelope {
        timestamp: MessageField::some(timestamp(queued.at)),
        namespace: namespace.to_owned(),
        topic: queued.event.topic().to_owned(),
        event: MessageField::some(queued.event.clone().encode()),
        ..Envelope::default()
    };
    let request =
        ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
    match client.forward(context::with_duration(FORWARD_TIMEOUT), &request).await {
        Ok(_) => Ok(()),
        Err(ttrpc::Error::RpcStatus(status)) if !is_transient(status.code()) => {
            Err(Failure::Refused(status.message))
        }
        Err(error) => Err(Failure::Away(error.to_string())),
    }
}

/// Not ttrpc's own connect, which blocks its thread while the queue of containerd's socket is full.
async fn connect(address: &str) -> io::Result<EventsClient> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let stream = UnixStream::connect(path).await?;
    Ok(EventsClient::new(Client::new(Socket::from(stream))))
}

fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED | Code::RESOURCE_EXHAUSTED | Code::ABORTED
    )
}
