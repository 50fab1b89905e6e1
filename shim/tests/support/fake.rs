// SPDX-License-Identifier: Apache-2.0
//! A host without VMs: guests that live in memory, keep the library's promises, and can be told to
//! be slow, fast or broken.

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use trine::{ContainerSpec, Error, ExitStatus, PodOptions, ProcessState, Stdio};
use trine_abi::control::Process;
use trine_shim::{
    host::{Guest, Host, OnExit, Pod, Rootfs},
    mounts::Mount,
};

/// How the guests behave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    /// How long each call takes.
    pub(crate) delay: Duration,
    /// The first process exits before its start is answered.
    pub(crate) exits_at_once: bool,
    /// Execs of this program cannot be started.
    pub(crate) missing_program: Vec<u8>,
    /// Directory that passes for the cgroup of every container.
    pub(crate) cgroup: Option<PathBuf>,
}

/// A host without VMs.
#[derive(Debug, Default)]
pub(crate) struct FakeHost {
    pub(crate) behaviour: Mutex<Behaviour>,
    pub(crate) pods: Mutex<Vec<Arc<FakePod>>>,
    next_pid: AtomicU32,
}

impl FakeHost {
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// The guest of a container that was created last.
    pub(crate) fn guest(&self, id: &str) -> Arc<FakeGuest> {
        let pods = self.pods.lock().unwrap();
        let guests = pods.last().unwrap().guests.lock().unwrap();
        guests[id].clone()
    }

    /// Pods that were not stopped.
    pub(crate) fn live_pods(&self) -> usize {
        self.pods.lock().unwrap().iter().filter(|pod| !*pod.ended.lock().unwrap()).count()
    }
}

impl Host for FakeHost {
    fn create_pod(&self, _options: PodOptions) -> Result<Arc<dyn Pod>, Error> {
        let pod = Arc::new(FakePod {
            behaviour: self.behaviour.lock().unwrap().clone(),
            pid: 1_000_000 + self.next_pid.fetch_add(1, Ordering::Relaxed),
            guests: Mutex::default(),
            ended: Mutex::new(false),
            end: Condvar::new(),
        });
        thread::sleep(pod.behaviour.delay);
        self.pods.lock().unwrap().push(Arc::clone(&pod));
        Ok(pod)
    }

    fn reads_mounts(&self, _mounts: &[Mount]) -> bool {
        true
    }

    fn image(&self, _rootfs: &Rootfs) -> Result<File, Error> {
        File::open("/dev/null").map_err(|error| Error::host("open /dev/null", error))
    }
}

/// A pod without an I/O process.
#[derive(Debug)]
pub(crate) struct FakePod {
    behaviour: Behaviour,
    pid: u32,
    pub(crate) guests: Mutex<HashMap<String, Arc<FakeGuest>>>,
    ended: Mutex<bool>,
    end: Condvar,
}

impl FakePod {
    /// The I/O process dies, and with it every guest.
    pub(crate) fn die(&self) {
        for guest in self.guests.lock().unwrap().values() {
            guest.end_all(137);
        }
        self.finish();
    }

    fn finish(&self) {
        *self.ended.lock().unwrap() = true;
        self.end.notify_all();
    }
}

impl Pod for FakePod {
    fn io_pid(&self) -> u32 {
        self.pid
    }

    fn create_container(&self, spec: ContainerSpec) -> Result<Arc<dyn Guest>, Error> {
        thread::sleep(self.behaviour.delay);
        let mut guests = self.guests.lock().unwrap();
        let guest = Arc::new(FakeGuest {
            id: spec.id.clone(),
            pid: self.pid + 1000 + u32::try_from(guests.len()).unwrap(),
            behaviour: self.behaviour.clone(),
            state: Mutex::new(State {
                processes: HashMap::from([(String::new(), Fake::created(&spec.process))]),
                ..State::default()
            }),
            notify: Mutex::default(),
        });
        guests.insert(spec.id, Arc::clone(&guest));
        Ok(guest)
    }

    fn stop(&self) -> Result<(), Error> {
        let left = self.guests.lock().unwrap().values().any(|guest| !guest.lock().is_deleted);
        assert!(!left, "the pod is stopped with containers in it");
        self.finish();
        Ok(())
    }

    fn wait(&self) {
        drop(self.end.wait_while(self.ended.lock().unwrap(), |ended| !*ended).unwrap());
    }

    fn reload_policy(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct State {
    processes: HashMap<String, Fake>,
    is_paused: bool,
    is_deleted: bool,
}

#[derive(Debug)]
struct Fake {
    program: Vec<u8>,
    state: ProcessState,
}

impl Fake {
    fn created(process: &Process) -> Self {
        Self { program: process.args[0].clone(), state: ProcessState::Created }
    }
}

/// A guest without a VM.
pub(crate) struct FakeGuest {
    id: String,
    pid: u32,
    behaviour: Behaviour,
    state: Mutex<State>,
    notify: Mutex<Vec<OnExit>>,
}

impl std::fmt::Debug for FakeGuest {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("FakeGuest").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FakeGuest {
    /// Ends one process; the first one's end is that of all, execs first, as the library has it.
    pub(crate) fn end(&self, process: &str, code: u32) {
        if process.is_empty() {
            return self.end_all(code);
        }
        self.tell(process, code, false);
    }

    /// Ends the container because its memory ran out.
    pub(crate) fn run_out_of_memory(&self) {
        self.tell("", 137, true);
    }

    fn end_all(&self, code: u32) {
        let execs: Vec<_> =
            self.lock().processes.keys().filter(|key| !key.is_empty()).cloned().collect();
        for exec in execs {
            self.tell(&exec, 137, false);
        }
        self.tell("", code, false);
    }

    fn tell(&self, process: &str, code: u32, out_of_memory: bool) {
        let status = ExitStatus { code, at: SystemTime::now(), out_of_memory };
        {
            let mut state = self.lock();
            let Some(found) = state.processes.get_mut(process) else { return };
            let ran = found.state == ProcessState::Running;
            if matches!(found.state, ProcessState::Exited(_)) {
                return;
            }
            found.state = ProcessState::Exited(status);
            if !ran && !process.is_empty() {
                return;
            }
        }
        for notify in &*self.notify.lock().unwrap() {
            notify(process, status);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn wrong(&self, action: &'static str, state: &'static str) -> Error {
        Error::WrongState { action, what: self.id.clone(), state }
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound { kind: "exec", id: id.to_owned() }
}

impl Guest for FakeGuest {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn process_state(&self, process: &str) -> Result<ProcessState, Error> {
        let state = self.lock();
        state.processes.get(process).map(|found| found.state.clone()).ok_or(not_found(process))
    }

    fn start(&self, process: &str) -> Result<(), Error> {
        thread::sleep(self.behaviour.delay);
        {
            let mut state = self.lock();
            if !process.is_empty() && state.processes[""].state != ProcessState::Running {
                return Err(self.wrong("start an exec in", "not running"));
            }
            let found = state.processes.get_mut(process).ok_or_else(|| not_found(process))?;
            if found.state != ProcessState::Created {
                return Err(self.wrong("start", "started"));
            }
            if !process.is_empty() && found.program == self.behaviour.missing_program {
                found.state = ProcessState::Exited(ExitStatus {
                    code: 127,
                    at: SystemTime::now(),
                    out_of_memory: false,
                });
                let program = String::from_utf8_lossy(&found.program).into_owned();
                let reason = "not there".to_owned();
                return Err(Error::Program { program, errno: 2, reason });
            }
            found.state = ProcessState::Running;
        }
        if process.is_empty() && self.behaviour.exits_at_once {
            self.end_all(0);
        }
        Ok(())
    }

    fn exec(&self, exec_id: &str, process: Process, _stdio: Stdio) -> Result<(), Error> {
        thread::sleep(self.behaviour.delay);
        let mut state = self.lock();
        if state.processes[""].state != ProcessState::Running {
            return Err(self.wrong("exec", "not running"));
        }
        if state.processes.contains_key(exec_id) {
            return Err(Error::AlreadyExists { kind: "exec", id: exec_id.to_owned() });
        }
        state.processes.insert(exec_id.to_owned(), Fake::created(&process));
        Ok(())
    }

    fn kill(&self, process: &str, signal: u32, _all: bool) -> Result<(), Error> {
        thread::sleep(self.behaviour.delay);
        match self.process_state(process)? {
            ProcessState::Exited(_) => return Err(not_found(process)),
            ProcessState::Created if !process.is_empty() => {
                return Err(self.wrong("kill", "created"));
            }
            ProcessState::Created | ProcessState::Running => {}
        }
        if signal == 9 || signal == 15 {
            self.end(process, 128 + signal);
        }
        Ok(())
    }

    fn resize(&self, process: &str, _rows: u32, _columns: u32) -> Result<(), Error> {
        self.process_state(process).map(drop)
    }

    fn close_stdin(&self, process: &str) -> Result<(), Error> {
        self.process_state(process).map(drop)
    }

    fn pause(&self) -> Result<(), Error> {
        thread::sleep(self.behaviour.delay);
        self.lock().is_paused = true;
        Ok(())
    }

    fn resume(&self) -> Result<(), Error> {
        thread::sleep(self.behaviour.delay);
        self.lock().is_paused = false;
        Ok(())
    }

    fn cgroup_paths(&self) -> Vec<(String, PathBuf)> {
        self.behaviour.cgroup.iter().map(|path| ("memory".to_owned(), path.clone())).collect()
    }

    fn update(&self, resources: &str) -> Result<(), Error> {
        assert!(resources.starts_with('{'));
        Ok(())
    }

    fn delete(&self, process: &str) -> Result<Option<ExitStatus>, Error> {
        thread::sleep(self.behaviour.delay);
        let mut state = self.lock();
        let found = state.processes.get(process).ok_or_else(|| not_found(process))?;
        let status = match found.state {
            ProcessState::Running => return Err(self.wrong("delete", "running")),
            ProcessState::Created => None,
            ProcessState::Exited(status) => Some(status),
        };
        if !process.is_empty() {
            state.processes.remove(process);
            return Ok(status);
        }
        if std::mem::replace(&mut state.is_deleted, true) {
            return Err(Error::NotFound { kind: "container", id: self.id.clone() });
        }
        Ok(status)
    }

    fn on_exit(&self, notify: OnExit) {
        self.notify.lock().unwrap().push(notify);
    }
}
