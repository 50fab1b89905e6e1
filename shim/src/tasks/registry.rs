// SPDX-License-Identifier: Apache-2.0
//! All tasks of a pod, and the pod that they share.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use containerd_shim_protos::ttrpc::Code;
use tokio::{sync::watch, task::spawn_blocking};
use trine::{Error, Landlock, PodOptions, SystemCalls, oci::Defaults};

use super::{CreateRequest, Exit, Failure, Task, create};
use crate::{
    events::Queue,
    host::{Host, Pod},
    log,
};

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Sizes of VMs where the spec says nothing.
    pub defaults: Defaults,
    /// Where the library's programs lie.
    pub libexec: Option<PathBuf>,
    /// The policy of pods.
    pub policy: Option<PathBuf>,
    /// Where the policy's log goes.
    pub audit: Option<PathBuf>,
    /// Whether the processes of pods confine themselves with Landlock.
    pub landlock: Landlock,
    /// How programs enter their VM's kernel.
    pub system_calls: SystemCalls,
}

/// All tasks.
#[derive(Debug)]
pub struct Registry {
    /// The machine below.
    pub(super) host: Arc<dyn Host>,
    /// What does not change.
    pub(super) settings: Settings,
    queue: Arc<Queue>,
    tasks: Mutex<HashMap<String, Entry>>,
    /// Locked on blocking threads only, and while the pod starts or stops.
    pod: Mutex<SharedPod>,
    had_tasks: AtomicBool,
    /// Changed while `tasks` is locked only.
    is_closed: AtomicBool,
}

#[derive(Clone, Debug)]
enum Entry {
    /// Being created; the sender goes when that is over.
    Creating(watch::Receiver<()>),
    Live(Arc<Task>),
}

#[derive(Debug, Default)]
struct SharedPod {
    pod: Option<Arc<dyn Pod>>,
    /// Tasks that use it.
    members: usize,
}

impl Registry {
    /// No tasks yet.
    pub fn new(host: Arc<dyn Host>, settings: Settings, queue: Arc<Queue>) -> Self {
        Self {
            host,
            settings,
            queue,
            tasks: Mutex::default(),
            pod: Mutex::default(),
            had_tasks: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        }
    }

    /// The queue of events.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Says whether there is no task, nor one being created.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Says whether there ever was a task.
    pub fn had_tasks(&self) -> bool {
        self.had_tasks.load(Ordering::Relaxed)
    }

    /// Calls `close` if there is no task, and refuses to create any from then on; says whether.
    pub fn close_if_empty(&self, close: impl FnOnce()) -> bool {
        let tasks = self.lock();
        if !tasks.is_empty() {
            return false;
        }
        self.is_closed.store(true, Ordering::Relaxed);
        close();
        true
    }

    /// Returns a task.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn get(&self, id: &str) -> Result<Arc<Task>, Failure> {
        match self.lock().get(id) {
            Some(Entry::Live(task)) => Ok(Arc::clone(task)),
            Some(Entry::Creating(_)) | None => Err(Failure::no_container(id)),
        }
    }

    /// Creates a task and returns its host process id.
    ///
    /// # Errors
    /// As the task API, with everything undone.
    pub async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<u32, Failure> {
        let id = request.id.clone();
        let (done, creating) = watch::channel(());
        {
            let mut tasks = self.lock();
            if self.is_closed.load(Ordering::Relaxed) {
                return Err(Failure::new(Code::UNAVAILABLE, "the shim is shutting down"));
            }
            if tasks.contains_key(&id) {
                let message = format!("container {id:?} already exists");
                return Err(Failure::new(Code::ALREADY_EXISTS, message));
            }
            tasks.insert(id.clone(), Entry::Creating(creating));
        }
        let registry = Arc::clone(self);
        let created = spawn_blocking(move || create::create(&registry, request))
            .await
            .unwrap_or_else(|error| Err(Failure::new(Code::INTERNAL, error.to_string())));
        let result = {
            let mut tasks = self.lock();
            tasks.remove(&id);
            created.map(|new| {
                let task = Task::new(new, Arc::clone(&self.queue));
                let pid = task.pid();
                tasks.insert(id, Entry::Live(task));
                self.had_tasks.store(true, Ordering::Relaxed);
                pid
            })
        };
        drop(done);
        result
    }

    /// Deletes a task, or, if `exec_id` is not empty, an exec; returns its process id and end.
    ///
    /// # Errors
    /// As the task API.
    pub async fn delete(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<(u32, Exit), Failure> {
        let task = self.created(id).await?;
        let pid = task.pid();
        if !exec_id.is_empty() {
            return Ok((pid, task.delete_exec(exec_id).await?));
        }
        let registry = Arc::clone(self);
        let exit = task.delete(move || registry.leave_pod()).await?;
        // Last, so that a call that was given up on can be repeated until all is done.
        self.lock().remove(id);
        Ok((pid, exit))
    }

    /// Returns a task, after its creation if that is under way.
    async fn created(&self, id: &str) -> Result<Arc<Task>, Failure> {
        loop {
            let entry = self.lock().get(id).cloned();
            match entry {
                Some(Entry::Live(task)) => return Ok(task),
                // An error means that it is over.
                Some(Entry::Creating(mut creating)) => drop(creating.changed().await),
                None => return Err(Failure::no_container(id)),
            }
        }
    }

    /// Returns the pod, which is made with `options` if there is none; for each success,
    /// [`Registry::leave_pod`] is to be called once.
    pub(super) fn join_pod(&self, options: PodOptions) -> Result<Arc<dyn Pod>, Error> {
        let mut shared = self.lock_pod();
        let pod = match &shared.pod {
            Some(pod) => Arc::clone(pod),
            None => self.host.create_pod(options)?,
        };
        shared.pod = Some(Arc::clone(&pod));
        shared.members += 1;
        Ok(pod)
    }

    /// Returns the pod if there is one, as [`Registry::join_pod`].
    pub(super) fn join_existing_pod(&self) -> Option<Arc<dyn Pod>> {
        let mut shared = self.lock_pod();
        let pod = shared.pod.clone()?;
        shared.members += 1;
        Some(pod)
    }

    /// Loads the pod's policy anew; false if there is no pod, or the configuration names no policy.
    ///
    /// # Errors
    /// As [`trine::Pod::reload_policy`]; the old policy stays in force.
    pub fn reload_policy(&self) -> Result<bool, Error> {
        let Some(pod) = self.lock_pod().pod.clone().filter(|_| self.settings.policy.is_some())
        else {
            return Ok(false);
        };
        pod.reload_policy().map(|()| true)
    }

    /// Gives the pod up; the last one stops it.
    pub(super) fn leave_pod(&self) {
        let mut shared = self.lock_pod();
        shared.members = shared.members.saturating_sub(1);
        if shared.members > 0 {
            return;
        }
        if let Some(pod) = shared.pod.take()
            && let Err(error) = pod.stop()
        {
            log::warn(format!("the pod did not stop: {}", super::chain(&error)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pod(&self) -> MutexGuard<'_, SharedPod> {
        self.pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
