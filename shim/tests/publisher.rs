// SPDX-License-Identifier: Apache-2.0
//! Events on their way to a containerd that comes and goes.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::Empty,
    events::task::TaskOOM,
    protobuf::Message,
    shim::events::ForwardRequest,
    shim_async::{Events, create_events},
    ttrpc::{
        Code,
        r#async::{Server, TtrpcContext},
    },
};
use trine_shim::events::{self, Event, Queue};

#[derive(Default)]
struct Recorder {
    ids: Mutex<Vec<String>>,
    refused: Mutex<Option<String>>,
}

#[async_trait]
impl Events for Recorder {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = &request.envelope;
        assert_eq!((&*envelope.namespace, &*envelope.topic), ("ns", "/tasks/oom"));
        assert_eq!(envelope.event.type_url, "containerd.events.TaskOOM");
        let id = TaskOOM::parse_from_bytes(&envelope.event.value).unwrap().container_id;
        if self.refused.lock().unwrap().as_ref() == Some(&id) {
            let status = ttrpc::get_status(Code::INVALID_ARGUMENT, "no");
            return Err(ttrpc::Error::RpcStatus(status));
        }
        self.ids.lock().unwrap().push(id);
        Ok(Empty::default())
    }
}

async fn serve(path: &Path, recorder: &Arc<Recorder>) -> Server {
    let address = format!("unix://{}", path.display());
    let service = create_events(recorder.clone());
    let mut server = Server::new().bind(&address).unwrap().register_service(service);
    server.start().await.unwrap();
    server
}

fn push(queue: &Queue, numbers: std::ops::Range<u32>) -> Vec<String> {
    let ids: Vec<_> = numbers.map(|number| number.to_string()).collect();
    for id in &ids {
        queue.push(Event::OutOfMemory { id: id.clone() });
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn events_survive_a_restart_of_containerd_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.sock");
    let recorder = Arc::new(Recorder::default());
    let queue = Arc::new(Queue::default());
    let address = path.to_str().unwrap().to_owned();
    tokio::spawn(events::publish(Arc::clone(&queue), address, "ns".to_owned()));

    // Nobody is there yet.
    let mut expected = push(&queue, 0..20);
    assert!(!queue.flushed(Duration::from_millis(100)).await);
    let mut server = serve(&path, &recorder).await;
    assert!(queue.flushed(Duration::from_secs(5)).await);

    // containerd goes, and comes back.
    for round in 1..4 {
        server.shutdown().await.unwrap();
        fs::remove_file(&path).unwrap();
        expected.extend(push(&queue, round * 100..round * 100 + 50));
        tokio::time::sleep(Duration::from_millis(120)).await;
        server = serve(&path, &recorder).await;
        expected.extend(push(&queue, round * 100 + 50..round * 100 + 60));
        assert!(queue.flushed(Duration::from_secs(5)).await);
    }
    assert_eq!(*recorder.ids.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_that_containerd_refuses_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.sock");
    let recorder = Arc::new(Recorder::default());
    *recorder.refused.lock().unwrap() = Some("1".to_owned());
    let _server = serve(&path, &recorder).await;
    let queue = Arc::new(Queue::default());
    let address = format!("unix://{}", path.display());
    tokio::spawn(events::publish(Arc::clone(&queue), address, "ns".to_owned()));
    push(&queue, 0..3);
    assert!(queue.flushed(Duration::from_secs(5)).await);
    assert_eq!(*recorder.ids.lock().unwrap(), ["0", "2"]);
}
