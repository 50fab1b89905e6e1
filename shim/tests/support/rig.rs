// SPDX-License-Identifier: Apache-2.0
//! The task service on a fake host, behind a real ttrpc connection.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, PauseRequest,
        ResumeRequest, StartRequest, StateRequest, Status, WaitRequest, WaitResponse,
    },
    protobuf::{MessageField, well_known_types::any::Any},
    shim_async::{Client, TaskClient},
    ttrpc::{
        Code,
        r#async::{
            Server,
            transport::{Listener, Socket},
        },
        context::{self, Context},
    },
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use trine::{Landlock, SystemCalls, oci::Defaults};
use trine_shim::{
    events::{Event, Queue},
    serve::Closer,
    service::Service,
    tasks::{Registry, Settings},
};

use crate::{
    fake::{Behaviour, FakeHost},
    order::{self, Step},
};

/// A served registry on a fake host.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) closer: Arc<Closer>,
    events: Arc<Mutex<Vec<Event>>>,
    pub(crate) client: TaskClient,
    /// Behind a lock only because it is not `Sync`.
    _server: Mutex<Server>,
}

impl Rig {
    pub(crate) async fn new(behaviour: Behaviour) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(FakeHost::default());
        host.behave(behaviour);
        let queue = Arc::new(Queue::default());
        let settings = Settings {
            defaults: Defaults::default(),
            libexec: None,
            policy: None,
            audit: None,
            landlock: Landlock::default(),
            system_calls: SystemCalls::default(),
        };
        let registry = Arc::new(Registry::new(host.clone(), settings, Arc::clone(&queue)));
        let socket = dir.path().join("socket");
        let closer = Arc::new(Closer::new(Arc::clone(&registry), socket.clone()));

        let service = Service::new(Arc::clone(&registry), Arc::clone(&closer));
        let listener = Listener::try_from(UnixListener::bind(&socket).unwrap()).unwrap();
        let mut server =
            Server::new().add_listener(listener).register_service(service.into_ttrpc());
        server.start().await.unwrap();
        let stream = UnixStream::connect(&socket).await.unwrap();
        let client = TaskClient::new(Client::new(Socket::from(stream)));

        let events = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&events);
        tokio::spawn(async move {
            loop {
                let first = queue.first().await;
                taken.lock().unwrap().push(first.event.clone());
                queue.done(&first);
            }
        });
        Self { dir, host, registry, closer, events, client, _server: Mutex::new(server) }
    }

    pub(crate) fn bundle(&self, id: &str, annotations: &str) -> PathBuf {
        let bundle = self.dir.path().join("bundles").join(id);
        fs::create_dir_all(&bundle).unwrap();
        let spec = format!(
            r#"{{"ociVersion": "1.0.2",
                "process": {{"user": {{}}, "cwd": "/", "args": ["/bin/app"]}},
                "root": {{"path": "rootfs"}}, "annotations": {{ {annotations} }},
                "linux": {{"cgroupsPath": "/x/{id}", "resources": {{"memory": {{"limit": 67108864}}}},
                    "namespaces": [{{"type": "pid"}}, {{"type": "ipc"}}]}}}}"#
        );
        // At once: another call may be reading it.
        trine_shim::record::write_atomically(&bundle.join("config.json"), spec.as_bytes()).unwrap();
        bundle
    }

    pub(crate) async fn create_as(&self, id: &str, annotations: &str) -> ttrpc::Result<u32> {
        let request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: self.bundle(id, annotations).to_str().unwrap().to_owned(),
            stdout: "/run/out".to_owned(),
            ..CreateTaskRequest::default()
        };
        self.client.create(ctx(), &request).await.map(|response| response.pid)
    }

    pub(crate) async fn create(&self, id: &str) -> u32 {
        self.create_as(id, "").await.unwrap()
    }

    pub(crate) async fn start(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let request = StartRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..StartRequest::default()
        };
        self.client.start(ctx(), &request).await.map(|response| response.pid)
    }

    pub(crate) async fn exec(&self, id: &str, exec_id: &str, program: &str) -> ttrpc::Result<()> {
        let json = format!(r#"{{"user": {{}}, "cwd": "/", "args": ["{program}"]}}"#);
        let request = ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            spec: MessageField::some(Any { value: json.into_bytes(), ..Any::default() }),
            ..ExecProcessRequest::default()
        };
        self.client.exec(ctx(), &request).await.map(drop)
    }

    pub(crate) async fn kill(&self, id: &str, exec_id: &str, signal: u32) -> ttrpc::Result<()> {
        let request = KillRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            ..KillRequest::default()
        };
        self.client.kill(ctx(), &request).await.map(drop)
    }

    pub(crate) async fn wait(&self, id: &str, exec_id: &str) -> ttrpc::Result<WaitResponse> {
        let request = WaitRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..WaitRequest::default()
        };
        self.client.wait(ctx(), &request).await
    }

    pub(crate) async fn delete(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        self.delete_within(ctx(), id, exec_id).await
    }

    pub(crate) async fn delete_within(
        &self,
        ctx: Context,
        id: &str,
        exec_id: &str,
    ) -> ttrpc::Result<u32> {
        let request = DeleteRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..DeleteRequest::default()
        };
        self.client.delete(ctx, &request).await.map(|response| response.exit_status)
    }

    pub(crate) async fn status(&self, id: &str, exec_id: &str) -> Status {
        let request = StateRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..StateRequest::default()
        };
        self.client.state(ctx(), &request).await.unwrap().status.unwrap()
    }

    pub(crate) async fn pause(&self, id: &str) -> ttrpc::Result<()> {
        let request = PauseRequest { id: id.to_owned(), ..PauseRequest::default() };
        self.client.pause(ctx(), &request).await.map(drop)
    }

    pub(crate) async fn resume(&self, id: &str) -> ttrpc::Result<()> {
        let request = ResumeRequest { id: id.to_owned(), ..ResumeRequest::default() };
        self.client.resume(ctx(), &request).await.map(drop)
    }

    /// A container that runs.
    pub(crate) async fn running(&self, id: &str) {
        self.create(id).await;
        self.start(id, "").await.unwrap();
    }

    /// All events so far, after those that are under way.
    pub(crate) async fn steps(&self) -> Vec<Step> {
        assert!(self.registry.queue().flushed(Duration::from_secs(5)).await);
        let events = self.events.lock().unwrap();
        events.iter().map(step).collect()
    }

    pub(crate) async fn assert_order(&self) {
        let steps = self.steps().await;
        assert_eq!(order::check(&steps), Ok(()), "{steps:#?}");
    }

    /// Topics of all events so far, without their common part.
    pub(crate) async fn topics(&self) -> Vec<String> {
        let steps = self.steps().await;
        steps.iter().map(|step| step.topic.trim_start_matches("/tasks/").to_owned()).collect()
    }
}

fn step(event: &Event) -> Step {
    let (container, exec) = match event {
        Event::Create { id, .. }
        | Event::Start { id, .. }
        | Event::OutOfMemory { id }
        | Event::Paused { id }
        | Event::Resumed { id }
        | Event::Delete { id, .. } => (id, ""),
        Event::ExecAdded { id, exec_id }
        | Event::ExecStarted { id, exec_id, .. }
        | Event::Exit { id, exec_id, .. } => (id, exec_id.as_str()),
    };
    let (container, exec) = (container.clone(), exec.to_owned());
    Step { topic: event.topic().to_owned(), container, exec }
}

pub(crate) fn ctx() -> Context {
    context::with_duration(Duration::from_secs(20))
}

pub(crate) fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => status.code(),
        other => panic!("expected a status, got {other:?}"),
    }
}
