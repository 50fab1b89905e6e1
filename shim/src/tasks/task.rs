// SPDX-License-Identifier: Apache-2.0
//! One task: its state, its guest, and those who wait for it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use containerd_shim_protos::ttrpc::Code;
use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, watch},
    task::spawn_blocking,
    time,
};
use trine::{Error, ExitStatus, ProcessState, Stdio, oci};
use trine_abi::control::Process;

use super::{
    Exit, Failure, View,
    failure::start_failure_status,
    machine::{KILLED, Machine, Outcome, Refusal},
};
use crate::{
    events::{Queue, StdioPaths},
    host::Guest,
    log, mounts,
    record::{ExitRecord, TaskRecord},
    time::unix_nanos,
};

/// How long execs may keep back the exit of the first process.
const HELD_EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A task.
#[derive(Debug)]
pub struct Task {
    id: String,
    bundle: PathBuf,
    guest: Arc<dyn Guest>,
    queue: Arc<Queue>,
    runtime: Handle,
    memory_bytes: Option<u64>,
    record: Mutex<TaskRecord>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    waits: HashMap<String, watch::Sender<Waited>>,
    /// Excludes operations on one process that must not overlap.
    operations: HashMap<String, Arc<AsyncMutex<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    NotYet,
    Ended(Exit),
    Gone,
}

/// What a task is made from.
#[derive(Debug)]
pub struct NewTask {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its VM, or the sandbox.
    pub guest: Arc<dyn Guest>,
    /// State and events, with the creation in it.
    pub machine: Machine,
    /// What `delete` needs if this process dies.
    pub record: TaskRecord,
    /// Guest RAM in bytes; `None` for the sandbox.
    pub memory_bytes: Option<u64>,
}

impl Task {
    /// Makes a task, reports its creation, and listens for the ends of its processes.  Must be
    /// called within a runtime.
    pub fn new(new: NewTask, queue: Arc<Queue>) -> Arc<Self> {
        let inner =
            Inner { machine: new.machine, waits: HashMap::new(), operations: HashMap::new() };
        let task = Arc::new(Self {
            id: new.id,
            bundle: new.bundle,
            guest: new.guest,
            queue,
            runtime: Handle::current(),
            memory_bytes: new.memory_bytes,
            record: Mutex::new(new.record),
            inner: Mutex::new(inner),
        });
        // The creation is queued before anything else can be.
        task.step(|_| ());
        let listener = Arc::downgrade(&task);
        task.guest.on_exit(Box::new(move |process, status| {
            if let Some(task) = Weak::upgrade(&listener) {
                task.process_exited(process, status);
            }
        }));
        // It may have ended before anyone listened; hearing of it twice does no harm.
        if let Ok(ProcessState::Exited(status)) = task.guest.process_state("") {
            task.process_exited("", status);
        }
        task
    }

    /// Host process id.
    pub fn pid(&self) -> u32 {
        self.lock().machine.pid()
    }

    /// The bundle.
    pub fn bundle(&self) -> &PathBuf {
        &self.bundle
    }

    /// Returns what is known of a process, without asking the guest.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn view(&self, process: &str) -> Result<View, Failure> {
        Ok(self.step(|machine| machine.view(process))?)
    }

    /// Returns the execs that run.
    pub fn running_execs(&self) -> Vec<String> {
        self.step(|machine| machine.running_execs())
    }

    /// Starts a process and returns its host process id.
    ///
    /// # Errors
    /// As the task API.
    pub async fn start(&self, process: &str) -> Result<u32, Failure> {
        let operation = self.operation(process)?;
        let _guard = operation.lock().await;
        self.step(|machine| machine.begin_start(process))?;
        let name = process.to_owned();
        match self.call_guest(move |guest| guest.start(&name)).await {
            Ok(()) => {
                self.step(|machine| machine.started(process));
                Ok(self.pid())
            }
            Err(error) => {
                let exit = Exit { status: start_failure_status(&error), at: SystemTime::now() };
                self.step(|machine| machine.start_failed(process, exit));
                Err(error.into())
            }
        }
    }

    /// Registers an exec.
    ///
    /// # Errors
    /// As the task API.
    pub async fn exec(
        &self,
        exec_id: &str,
        process: Process,
        paths: StdioPaths,
        stdio: Stdio,
    ) -> Result<(), Failure> {
        // Held until the guest has it, so that nobody starts or deletes what is not there yet.
        let operation = Arc::new(AsyncMutex::new(()));
        let _guard = operation.try_lock();
        {
            let mut inner = self.lock();
            inner.machine.begin_exec(exec_id, paths)?;
            inner.operations.insert(exec_id.to_owned(), Arc::clone(&operation));
        }
        let name = exec_id.to_owned();
        match self.call_guest(move |guest| guest.exec(&name, process, stdio)).await {
            Ok(()) => Ok(self.step(|machine| machine.exec_added(exec_id))?),
            Err(error) => {
                self.step(|machine| machine.exec_refused(exec_id));
                Err(error.into())
            }
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// As the task API.
    pub async fn kill(&self, process: &str, signal: u32, all: bool) -> Result<(), Failure> {
        self.step(|machine| machine.check_kill(process))?;
        let name = process.to_owned();
        Ok(self.call_guest(move |guest| guest.kill(&name, signal, all)).await?)
    }

    /// Sets the size of a terminal.
    ///
    /// # Errors
    /// As the task API.
    pub async fn resize(&self, process: &str, rows: u32, columns: u32) -> Result<(), Failure> {
        self.step(|machine| machine.check_not_stopped("resize the terminal of", process))?;
        let name = process.to_owned();
        Ok(self.call_guest(move |guest| guest.resize(&name, rows, columns)).await?)
    }

    /// Ends standard input, after what is under way.
    ///
    /// # Errors
    /// As the task API.
    pub async fn close_stdin(&self, process: &str) -> Result<(), Failure> {
        let view = self.view(process)?;
        if matches!(view.phase, super::Phase::Stopped(_)) {
            return Ok(());
        }
        let name = process.to_owned();
        Ok(self.call_guest(move |guest| guest.close_stdin(&name)).await?)
    }

    /// Stops the VM in its tracks, or lets it go on.
    ///
    /// # Errors
    /// As the task API.
    pub async fn set_paused(&self, paused: bool) -> Result<(), Failure> {
        let operation = self.operation("")?;
        let _guard = operation.lock().await;
        self.step(|machine| machine.check_pause(paused))?;
        self.call_guest(move |guest| if paused { guest.pause() } else { guest.resume() }).await?;
        self.step(|machine| machine.set_paused(paused));
        Ok(())
    }

    /// Applies OCI resources, given as JSON.
    ///
    /// # Errors
    /// As the task API.
    pub async fn update(&self, resources: &[u8]) -> Result<(), Failure> {
        let operation = self.operation("")?;
        let _guard = operation.lock().await;
        self.step(|machine| machine.check_not_stopped("update", ""))?;
        let resources = oci::parse_resources(resources)?;
        let host = oci::update(&resources, self.memory_bytes)?;
        Ok(self.call_guest(move |guest| guest.update(&host)).await?)
    }

    /// Waits for the end of a process.
    ///
    /// # Errors
    /// NOT_FOUND, also when the process is deleted without having run.
    pub async fn wait(&self, process: &str) -> Result<Exit, Failure> {
        self.subscribe(process)?.ended().await
    }

    /// Returns something to wait on that does not keep the task.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn subscribe(&self, process: &str) -> Result<Waiting, Failure> {
        let mut inner = self.lock();
        inner.machine.view(process)?;
        let what = format!("process {process:?} of container {:?}", self.id);
        Ok(Waiting { what, waited: inner.wait(process).subscribe() })
    }

    /// Returns the cgroup directories for statistics.
    pub async fn cgroup_paths(&self) -> Vec<(String, PathBuf)> {
        let guest = Arc::clone(&self.guest);
        spawn_blocking(move || guest.cgroup_paths()).await.unwrap_or_default()
    }

    /// Deletes an exec.
    ///
    /// # Errors
    /// As the task API.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<Exit, Failure> {
        let operation = self.operation(exec_id)?;
        let _guard = operation.lock().await;
        let exit = self.step(|machine| machine.check_delete(exec_id))?;
        let name = exec_id.to_owned();
        match self.call_guest(move |guest| guest.delete(&name)).await {
            // The guest forgets execs by itself when its VM ends.
            Ok(_) | Err(Error::NotFound { .. } | Error::VmEnded { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let exit = exit.unwrap_or(Exit { status: 0, at: SystemTime::now() });
        self.step(|machine| machine.deleted(exec_id, exit));
        Ok(exit)
    }

    /// Deletes the task: its VM, its cgroup, the mount of its root file system; then calls
    /// `release` on a blocking thread, and reports the end.  Can be called again after a failure.
    ///
    /// # Errors
    /// As the task API.
    pub async fn delete(&self, release: impl FnOnce() + Send + 'static) -> Result<Exit, Failure> {
        let operation = self.operation("")?;
        let _guard = operation.lock().await;
        let exit = self.step(|machine| machine.check_delete(""))?;
        match self.call_guest(|guest| guest.delete("")).await {
            // A call before this one came this far.
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.unmount().await?;
        let _ = spawn_blocking(release).await;
        let exit = exit.unwrap_or(Exit { status: KILLED, at: SystemTime::now() });
        self.step(|machine| machine.deleted("", exit));
        Ok(exit)
    }

    async fn unmount(&self) -> Result<(), Failure> {
        let is_mounted = self.record.lock().unwrap_or_else(PoisonError::into_inner).mounted;
        if !is_mounted {
            return Ok(());
        }
        let rootfs = self.bundle.join("rootfs");
        let unmounted = spawn_blocking(move || mounts::unmount_all(&rootfs)).await;
        match unmounted {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(error)) => {
                let message = format!("cannot unmount the rootfs of {:?}: {error}", self.id);
                Err(Failure::new(Code::FAILED_PRECONDITION, message))
            }
        }
    }

    /// Takes note of the end of a process; comes from a thread of the library.
    fn process_exited(self: &Arc<Self>, process: &str, status: ExitStatus) {
        let exit = Exit { status: status.code, at: status.at };
        if process.is_empty() {
            self.record_exit(exit);
        }
        let holds_exit = self.step(|machine| {
            machine.exited(process, exit, status.out_of_memory);
            machine.holds_exit()
        });
        log::info(format!("process {process:?} of {:?} ended with {}", self.id, exit.status));
        if process.is_empty()
            && let Some(reason) = self.guest.end_reason()
        {
            log::warn(format!("the VM of {:?} ended: {reason}", self.id));
        }
        if process.is_empty() && holds_exit {
            let task = Arc::clone(self);
            self.runtime.spawn(async move {
                time::sleep(HELD_EXIT_TIMEOUT).await;
                task.step(|machine| machine.give_up_execs(SystemTime::now()));
            });
        }
    }

    /// Writes the exit down before anyone hears of it, so that `delete` can tell it.
    fn record_exit(&self, exit: Exit) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.exit.is_some() {
            return;
        }
        record.exit = Some(ExitRecord { status: exit.status, at_unix_ns: unix_nanos(exit.at) });
        if let Err(error) = record.save(&self.bundle) {
            log::warn(format!("cannot write down the exit of {:?}: {error}", self.id));
        }
    }

    async fn call_guest<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Guest) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let guest = Arc::clone(&self.guest);
        spawn_blocking(move || call(&*guest))
            .await
            .unwrap_or_else(|error| Err(Error::host("run a call", std::io::Error::other(error))))
    }

    /// Returns what excludes other operations on a process.
    fn operation(&self, process: &str) -> Result<Arc<AsyncMutex<()>>, Failure> {
        let mut inner = self.lock();
        inner.machine.view(process)?;
        Ok(Arc::clone(inner.operations.entry(process.to_owned()).or_default()))
    }

    /// Does one step of the machine, and passes on what it brings about while nobody else can.
    fn step<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        let mut inner = self.lock();
        let result = act(&mut inner.machine);
        for outcome in inner.machine.take_outcomes() {
            match outcome {
                Outcome::Event(event) => self.queue.push(event),
                Outcome::Ended(process, exit) => {
                    inner.wait(&process).send_replace(Waited::Ended(exit));
                }
                Outcome::Gone(process) => {
                    inner.operations.remove(&process);
                    if let Some(wait) = inner.waits.remove(&process) {
                        wait.send_if_modified(|waited| {
                            let is_open = *waited == Waited::NotYet;
                            if is_open {
                                *waited = Waited::Gone;
                            }
                            is_open
                        });
                    }
                }
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of a process.
#[derive(Debug)]
pub struct Waiting {
    what: String,
    waited: watch::Receiver<Waited>,
}

impl Waiting {
    /// Returns how the process ended, at once if it has.
    ///
    /// # Errors
    /// NOT_FOUND if the process is deleted without having run.
    pub async fn ended(mut self) -> Result<Exit, Failure> {
        let waited = self.waited.wait_for(|waited| *waited != Waited::NotYet).await;
        match waited.map(|waited| *waited) {
            Ok(Waited::Ended(exit)) => Ok(exit),
            Ok(Waited::NotYet | Waited::Gone) | Err(_) => {
                Err(Refusal::NotFound { what: self.what }.into())
            }
        }
    }
}

impl Inner {
    fn wait(&mut self, process: &str) -> &watch::Sender<Waited> {
        self.waits.entry(process.to_owned()).or_insert_with(|| watch::Sender::new(Waited::NotYet))
    }
}
