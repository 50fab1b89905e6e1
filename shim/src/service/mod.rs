// SPDX-License-Identifier: Apache-2.0
//! The task API (`containerd.task.v2.Task`, and v3, which differs in its name only).
//!
//! ttrpc drops the future of a handler when the caller's deadline passes or its connection ends, so
//! each call that changes something runs as a task of its own, to its end, and the handler waits
//! for it.  A call without an implementation here would answer NOT_FOUND, which containerd takes
//! for "the task is gone": hence every method of the API has one.

mod messages;

use std::{collections::HashMap, fmt::Debug, process, sync::Arc};

use crate::{
    events::StdioPaths,
    ids, log,
    serve::Closer,
    stats, stdio,
    tasks::{Failure, Registry},
};
use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
        StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
        UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    shim_async::{Task as TaskApi, create_task},
    ttrpc::{
        Code,
        r#async::{Service as TtrpcService, TtrpcContext},
    },
};
use trine::oci;

/// Names of the API on the wire.
const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";
/// Version of the API, for `Connect`.
const API_VERSION: &str = "2";

/// The task API over the tasks of a pod.
#[derive(Clone, Debug)]
pub struct Service {
    registry: Arc<Registry>,
    closer: Arc<Closer>,
}

/// What a call answers.
type Answer<T> = ttrpc::Result<T>;

impl Service {
    /// The API over these tasks; `closer` is asked when containerd wants the server to end.
    pub fn new(registry: Arc<Registry>, closer: Arc<Closer>) -> Self {
        Self { registry, closer }
    }

    /// Returns the services for the server: the same one, under both of its names.
    pub fn into_ttrpc(self) -> HashMap<String, TtrpcService> {
        let service = Arc::new(self);
        let mut services = create_task(service.clone());
        if let Some(v3) = services.remove(TASK_V3) {
            services.insert(TASK_V2.to_owned(), v3);
        }
        services.extend(create_task(service));
        services
    }
}

/// Runs a call to its end, whatever becomes of the caller.
async fn detached<T: Send + 'static>(
    name: &'static str,
    request: impl Debug,
    call: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Answer<T> {
    log::debug(format!("{name}: {request:?}"));
    let result = match tokio::spawn(call).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(Code::INTERNAL, format!("{name}: {error}"))),
    };
    result.map_err(|failure| {
        log::info(format!("{name} failed with {:?}: {}", failure.code, failure.message));
        failure.into()
    })
}

#[async_trait]
impl TaskApi for Service {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Answer<StateResponse> {
        let task = self.registry.get(&request.id)?;
        let view = task.view(&request.exec_id)?;
        Ok(messages::state(&request, &task, view))
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> Answer<CreateTaskResponse> {
        let registry = Arc::clone(&self.registry);
        let request = messages::create(request);
        detached("Create", request.clone(), async move {
            let pid = registry.create(request).await?;
            Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
        })
        .await
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        let registry = Arc::clone(&self.registry);
        detached("Start", request.clone(), async move {
            let pid = registry.get(&request.id)?.start(&request.exec_id).await?;
            Ok(StartResponse { pid, ..StartResponse::default() })
        })
        .await
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<DeleteResponse> {
        let registry = Arc::clone(&self.registry);
        detached("Delete", request.clone(), async move {
            let (pid, exit) = registry.delete(&request.id, &request.exec_id).await?;
            Ok(messages::deleted(pid, exit))
        })
        .await
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Answer<PidsResponse> {
        let task = self.registry.get(&request.id)?;
        Ok(messages::pids(&task))
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Answer<Empty> {
        let registry = Arc::clone(&self.registry);
        detached("Pause", request.clone(), async move {
            registry.get(&request.id)?.set_paused(true).await?;
            Ok(Empty::default())
        })
        .await
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Answer<Empty> {
        let registry = Arc::clone(&self.registry);
        detached("Resume", request.clone(), async move {
            registry.get(&request.id)?.set_paused(false).await?;
            Ok(Empty::default())
        })
        .await
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> Answer<Empty> {
        let registry = Arc::clone(&self.registry);
        detached("Checkpoint", request.clone(), async move {
            registry.get(&request.id)?;
            Err(Failure::unimplemented("Checkpoint", "this version cannot save a running VM"))
        })
        .await
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Answer<Empty> {
        let registry = Arc::clone(&self.registry);
        detached("Kill", request.clone(), async move {
            let task = registry.get(&request.id)?;
            if !(1..=64).contains(&request.signal) {
                let message = format!("signal {} does not exist, expected 1 to 64", request.signal);
                return Err(Failure::new(Code::INVALID_ARGUMENT, message));
            }
            task.kill(&request.exec_id, request.signal, request.all).await?;
            Ok(Empty::default())
        })
        .await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Answer<Empty> {
        let registry = Arc::clone(&self.registry);
        // Not all of the request: an environment may have secrets.
        let name = format!("{:?} in {:?}", request.exec_id, request.id);
        detached("Exec", name, async move {
            ids::check("exec id", &request.exec_id)?;
            let task = registry.get(&request.id)?;
            let spec = oci::parse_process(&request.spec.value)?;
            let (mut process, warnings) = oci::process(&spec)?;
            for warning in warnings {
                log::warn(format!("exec {:?} in {:?}: {warning}", request.exec_id, request.id));
            }
            process.terminal = request.terminal;
            let paths = StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            };
            let streams = stdio::streams(&paths)?;
            task.exec(&request.exec_id, process, paths, streams).await?;
            Ok(Empty::default())
        })
        .await
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Answer<Empty> {
        let registry = Arc::clone(&self.registry);
        detached("ResizePty", request.clone(), async move {
            let task = registry.get(&request.id)?;
            task.resize(&request.exec_id, request.height, request.width).await?;
            Ok(Empty::default())
        })
        .await
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Answer<Empty> {
        let registry = Arc::clone(&self.registry);
        detached("CloseIO", request.clone(), async move {
            let task = registry.get(&request.id)?;
            task.view(&request.exec_id)?;
            if request.stdin {
                task.close_stdin(&request.exec_id).await?;
            }
            Ok(Empty::default())
        })
        .await
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Answer<Empty> {
        let registry = Arc::clone(&self.registry);
        detached("Update", request.id.clone(), async move {
            let task = registry.get(&request.id)?;
            task.update(&request.resources.value).await?;
            Ok(Empty::default())
        })
        .await
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        // Changes nothing, so it may be dropped with the caller; it does not keep the task either.
        let waiting = self.registry.get(&request.id)?.subscribe(&request.exec_id)?;
        Ok(messages::waited(waiting.ended().await?))
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Answer<StatsResponse> {
        let registry = Arc::clone(&self.registry);
        detached("Stats", request.clone(), async move {
            let paths = registry.get(&request.id)?.cgroup_paths().await;
            let stats = tokio::task::spawn_blocking(move || stats::collect(&paths))
                .await
                .unwrap_or_default();
            let no_cgroup = || format!("container {:?} has no cgroup of its own", request.id);
            let stats = stats.ok_or_else(|| Failure::new(Code::NOT_FOUND, no_cgroup()))?;
            Ok(messages::stats(stats))
        })
        .await
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Answer<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: process::id(),
            task_pid: self.registry.get(&request.id).map_or(0, |task| task.pid()),
            version: API_VERSION.to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> Answer<Empty> {
        log::debug(format!("Shutdown: {request:?}"));
        self.closer.close_if_empty();
        Ok(Empty::default())
    }
}
