// SPDX-License-Identifier: Apache-2.0
//! Commands of the VMM: configure, load processes, start and signal them; and their ends.

use alloc::{
    format,
    string::{String, ToString},
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::Ordering;

use trine_abi::control::{self, Command, Config, Event, INIT_KEY, NO_HANDLE, ProcessInfo, Rlimit};

use super::Kernel;
use crate::{
    Errno,
    fs::{self, FdTable, FileRef, FsContext, memory::root_directory, tty::console::Console},
    process::{
        Creds, Limits, Process, Task, TaskRef,
        creds::{CAP_ALL, Capabilities},
        exec::Request,
        group::RLIMIT_CPU,
        seccomp::{Filter, Instruction},
        signal::{SI_USER, SIGKILL, SIGSTOP, SigInfo, bit},
        task::{Phase, Resources},
    },
    sync::Lock,
    syscall::seccomp,
};

/// The first process of the container.
const INIT_PID: u32 = 1;

/// A process that the VMM started.
#[derive(Debug)]
pub(crate) struct Spawned {
    key: u32,
    process: Arc<Process>,
    console: Option<Console>,
    /// Handles that it writes to.
    outputs: Vec<u32>,
    status: Option<u32>,
}

/// What failed, and how to say it.
type Failure = (Errno, String);

fn text(bytes: &[u8]) -> String {
    format!("{}", bytes.escape_ascii())
}

/// What an errno means, in the words of strerror(3).
fn describe(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory",
        Errno::ACCES => "permission denied",
        Errno::NOEXEC => "exec format error",
        Errno::NOTDIR => "not a directory",
        Errno::ISDIR => "is a directory",
        Errno::NOMEM => "cannot allocate memory",
        Errno::TOO_BIG => "argument list too long",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::LIBBAD => "accessing a corrupted shared library",
        Errno::INVAL => "invalid argument",
        Errno::NAMETOOLONG => "file name too long",
        Errno::IO => "input/output error",
        other => return format!("error {} (E{})", other.number(), other.name()),
    }
    .to_string()
}

impl Kernel {
    /// Obeys a command.
    pub fn command(&mut self, command: Command) {
        self.services.heard();
        match command {
            Command::Configure(config) => self.configure(&config),
            Command::Spawn(spec) => {
                let key = spec.key;
                match self.spawn(spec) {
                    Ok(pid) => self.events.push(Event::Spawned { key, pid }),
                    Err((errno, reason)) => self.events.push(Event::SpawnFailed {
                        key,
                        errno: errno.number(),
                        reason: reason.into_bytes(),
                    }),
                }
            }
            Command::Start { key } => self.start(key),
            Command::Kill { key, signal, all } => self.kill(key, signal, all),
            Command::Resize { key, rows, columns } => {
                let found = self.spawned.iter().find(|spawned| spawned.key == key);
                if let Some(console) = found.and_then(|spawned| spawned.console.as_ref()) {
                    console.resize(rows, columns);
                }
            }
            Command::ListProcesses { request } => {
                let list = self.list();
                self.events.push(Event::Processes { request, list });
            }
        }
        self.send_terminal_signals();
    }

    fn configure(&mut self, config: &Config) {
        if self.container.is_some() {
            self.services.log(format_args!("configure: the container is configured already"));
            return;
        }
        let program: Vec<_> = config.seccomp.iter().map(|raw| Instruction::decode(*raw)).collect();
        if !program.is_empty() {
            match Filter::new(program, None) {
                Ok(filter) => self.filter = Some(filter),
                Err(errno) => {
                    let reason = "the filter of system calls is not valid".to_string();
                    self.configure_error = Some((errno, reason));
                    return;
                }
            }
        }
        match fs::mount_all(&self.services, config, self.options.vcpus.max(1)) {
            Ok(context) => self.container = Some(context),
            Err((errno, reason)) => {
                let reason = format!("{reason}: {}", describe(errno));
                self.services.log(format_args!("configure: {reason}"));
                self.configure_error = Some((errno, reason));
            }
        }
    }

    fn spawn(&mut self, spec: control::Process) -> Result<u32, Failure> {
        let Some(context) = self.container.clone() else {
            let unconfigured = || (Errno::INVAL, "the container is not configured".to_string());
            return Err(self.configure_error.clone().unwrap_or_else(unconfigured));
        };
        if self.spawned.iter().any(|spawned| spawned.key == spec.key) {
            return Err((Errno::EXIST, format!("process key {} is in use", spec.key)));
        }
        let is_init = spec.key == INIT_KEY;
        if !is_init && (self.init_status.is_some() || !self.has_init()) {
            return Err((Errno::SRCH, "the container is not running".to_string()));
        }
        let creds = creds_of(&spec);
        let limits = limits_of(&spec.rlimits);
        let place = self.enter(&context, &creds, &spec)?;
        let Some(first) = spec.args.first().filter(|first| !first.is_empty()) else {
            return Err((Errno::INVAL, "no program is given".to_string()));
        };
        let (file, path) = find_program(&place, &creds, first, &spec.env)?;
        let shown = text(&path);
        let request = Request {
            file,
            path,
            args: spec.args.clone(),
            env: spec.env.clone(),
            is_fixed: false,
            is_traced: false,
        };
        let loaded = self
            .load_program(&place, &creds, &limits, request)
            .map_err(|errno| (errno, format!("exec: \"{shown}\": {}", describe(errno))))?;
        let pid = if is_init { Some(INIT_PID) } else { self.services.registry.allot_id() };
        let pid = pid.ok_or_else(|| (Errno::AGAIN, "no process id is free".to_string()))?;
        let now = self.services.monotonic_ns();
        let process = Arc::new(Process::new(pid, Weak::new(), now, Some(spec.key)));
        let has_limit = limits.soft(RLIMIT_CPU) != u64::MAX;
        process.counts_cpu.store(has_limit, Ordering::Relaxed);
        *process.limits.lock() = limits;
        process.uid.store(spec.uid, Ordering::Relaxed);
        let (table, console) = self.stdio(&place, &spec, &process)?;
        let mm = Arc::new(crate::mm::Mm::new(&self.services).map_err(no_memory)?);
        let resources =
            Resources { mm, files: Arc::new(Lock::new(table)), fs: Arc::new(Lock::new(place)) };
        let creds = Arc::new(creds);
        let task = Arc::new(Task::new(pid, &self.services, process.clone(), resources, creds));
        process.threads.lock().push(task.clone());
        self.services.registry.add_process(&process);
        self.services.registry.add_task(&task);
        self.become_program(&task, loaded);
        if let Some(filter) = &self.filter {
            seccomp::install(&task, filter);
        }
        // The parent's side of setpgid has nothing to say here, and a fresh process no past.
        process.has_execed.store(true, Ordering::Relaxed);
        let outputs = if spec.terminal { &spec.stdio[1..2] } else { &spec.stdio[1..] };
        let outputs = outputs.iter().copied().filter(|&handle| handle != NO_HANDLE).collect();
        self.spawned.push(Spawned { key: spec.key, process, console, outputs, status: None });
        Ok(pid)
    }

    fn has_init(&self) -> bool {
        self.services.registry.process(INIT_PID).is_some()
    }

    /// Stands in the working directory, which is made if it is not there.
    fn enter(
        &self,
        context: &FsContext,
        creds: &Creds,
        spec: &control::Process,
    ) -> Result<FsContext, Failure> {
        let mut place = context.clone();
        place.umask = spec.umask & 0o777;
        let root = Creds::root();
        let mut at = place.root.clone();
        let mut so_far = Vec::new();
        for name in spec.cwd.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            so_far.push(b'/');
            so_far.extend_from_slice(name);
            let found = match place.lookup(&root, &so_far) {
                Err(Errno::NOENT) => {
                    let new = root_directory(0o755, spec.uid, spec.gid);
                    place.create(&root, &at, name, &new)
                }
                found => found,
            };
            at = found.map_err(|errno| {
                (errno, format!("cannot enter {}: {}", text(&spec.cwd), describe(errno)))
            })?;
        }
        fs::permission::check_place(&at, creds, fs::permission::EXECUTE).map_err(|errno| {
            (errno, format!("cannot enter {}: {}", text(&spec.cwd), describe(errno)))
        })?;
        place.cwd = at;
        Ok(place)
    }

    fn stdio(
        &self,
        place: &FsContext,
        spec: &control::Process,
        process: &Process,
    ) -> Result<(FdTable, Option<Console>), Failure> {
        let failed = |errno| (errno, format!("cannot open standard streams: {}", describe(errno)));
        let mut table = FdTable::new();
        let [input, output, error] = spec.stdio;
        let mut console = None;
        let files: [FileRef; 3] = if spec.terminal {
            let made = Console::new(&place.vfs, input, output, spec.rows, spec.columns);
            let file = made.open(process, spec.uid).map_err(failed)?;
            console = Some(made);
            [file.clone(), file.clone(), file]
        } else {
            [
                place.vfs.open_stream(input, false).map_err(failed)?,
                place.vfs.open_stream(output, true).map_err(failed)?,
                place.vfs.open_stream(error, true).map_err(failed)?,
            ]
        };
        for file in files {
            table.insert(file, false, 0, 3).map_err(failed)?;
        }
        Ok((table, console))
    }

    fn find_spawned(&self, key: u32) -> Option<&Spawned> {
        self.spawned.iter().find(|spawned| spawned.key == key && spawned.status.is_none())
    }

    fn start(&mut self, key: u32) {
        let Some(process) = self.find_spawned(key).map(|spawned| spawned.process.clone()) else {
            return;
        };
        let threads: Vec<TaskRef> = process.threads.lock().clone();
        for task in threads {
            {
                let mut run = task.run.lock();
                if run.phase != Phase::New {
                    continue;
                }
                run.phase = Phase::Runnable;
            }
            self.enqueue(&task, true);
        }
    }

    fn kill(&mut self, key: u32, signal: u32, all: bool) {
        if bit(signal) == 0 {
            return;
        }
        let targets: Vec<Arc<Process>> = if all {
            self.services.registry.processes()
        } else {
            self.find_spawned(key).map(|spawned| spawned.process.clone()).into_iter().collect()
        };
        for process in targets {
            // From outside, these two reach init, too (pid_namespaces(7)).
            match signal {
                SIGKILL => self.kill_process(&process, SIGKILL),
                SIGSTOP => self.stop_process(&process, SIGSTOP),
                _ => {
                    let info = SigInfo::from_sender(signal, SI_USER, 0, 0);
                    self.signal_process(&process, info);
                }
            }
        }
    }

    fn list(&self) -> Vec<ProcessInfo> {
        let mut list = Vec::new();
        for process in self.services.registry.processes() {
            let task = process.any_thread();
            let mm = task.as_ref().and_then(|task| task.mm());
            let mut command = Vec::new();
            if let Some(mm) = &mm {
                let (start, end) = mm.layout.lock().arguments;
                command.resize(end.saturating_sub(start).min(4096) as usize, 0);
                let got = mm.space.lock().read(start, &mut command);
                command.truncate(got);
                while command.last() == Some(&0) {
                    command.pop();
                }
            }
            if command.is_empty() {
                let name = task.as_ref().map(|task| *task.name.lock()).unwrap_or_default();
                command = name.iter().copied().take_while(|&byte| byte != 0).collect();
            }
            let (user, system) = process.cpu_ns();
            list.push(ProcessInfo {
                pid: process.pid,
                parent: process.parent_pid(),
                uid: process.uid.load(Ordering::Relaxed),
                state: process.state_letter(),
                command,
                cpu_ns: user + system,
                resident_bytes: mm.map_or(0, |mm| mm.resident_pages() * 4096),
            });
        }
        list
    }

    /// A process that the VMM started is over.
    pub(crate) fn key_ended(&mut self, key: u32, status: u32) {
        if let Some(spawned) = self.spawned.iter_mut().find(|spawned| spawned.key == key) {
            spawned.status = Some(status);
        }
    }

    /// Reports the ends of processes whose streams are handed over.
    pub(crate) fn report_exits(&mut self) {
        let Some(context) = &self.container else { return };
        let streams = context.vfs.streams.clone();
        let events = &mut self.events;
        self.spawned.retain(|spawned| {
            let Some(status) = spawned.status else { return true };
            if !streams.all_written(&spawned.outputs) {
                return true;
            }
            events.push(Event::Exited { key: spawned.key, status });
            false
        });
    }

    /// Whether every process that the VMM started has ended, and what it wrote is handed over.
    pub(crate) fn all_ended(&self) -> bool {
        let Some(context) = &self.container else { return true };
        self.spawned.iter().all(|spawned| {
            spawned.status.is_some() && context.vfs.streams.all_written(&spawned.outputs)
        }) && context.vfs.net.inet.is_idle()
    }

    /// Sends the signals that terminals asked for.
    pub(crate) fn send_terminal_signals(&mut self) {
        let Some(context) = &self.container else { return };
        let queue = context.vfs.signals.clone();
        loop {
            let Some((pgid, signal)) = queue.lock().pop() else { return };
            self.signal_group(pgid, signal);
        }
    }
}

fn no_memory(errno: Errno) -> Failure {
    (errno, "out of memory".to_string())
}

fn creds_of(spec: &control::Process) -> Creds {
    let [effective, permitted, inheritable, bounding, ambient] =
        spec.capabilities.map(|set| set & CAP_ALL);
    let mut groups = spec.groups.clone();
    groups.sort_unstable();
    Creds {
        uid: spec.uid,
        euid: spec.uid,
        suid: spec.uid,
        fsuid: spec.uid,
        gid: spec.gid,
        egid: spec.gid,
        sgid: spec.gid,
        fsgid: spec.gid,
        groups,
        caps: Capabilities { effective, permitted, inheritable, bounding, ambient },
        securebits: 0,
        no_new_privileges: spec.no_new_privileges,
    }
}

fn limits_of(given: &[Rlimit]) -> Limits {
    let mut limits = Limits::default();
    for limit in given {
        if let Some(slot) = limits.0.get_mut(limit.resource as usize) {
            *slot = (limit.soft.min(limit.hard), limit.hard);
        }
    }
    limits
}

/// Finds a program as execvp(3) does; the messages are those that other runtimes give.
fn find_program(
    place: &FsContext,
    creds: &Creds,
    name: &[u8],
    env: &[Vec<u8>],
) -> Result<(FileRef, Vec<u8>), Failure> {
    let quoted = text(name);
    if name.contains(&b'/') {
        return match fs::open_executable(place, creds, name) {
            Ok(file) => Ok((file, name.to_vec())),
            Err(errno) => Err((errno, format!("exec: \"{quoted}\": {}", describe(errno)))),
        };
    }
    let default = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = env.iter().find_map(|entry| entry.strip_prefix(b"PATH="));
    let path = path.unwrap_or(default);
    let mut denied = false;
    for dir in path.split(|&byte| byte == b':') {
        let dir = if dir.is_empty() { &b"."[..] } else { dir };
        let full = [dir, b"/", name].concat();
        match fs::open_executable(place, creds, &full) {
            Ok(file) => return Ok((file, full)),
            Err(Errno::ACCES) => denied = true,
            Err(_) => {}
        }
    }
    Err(if denied {
        (Errno::ACCES, format!("exec: \"{quoted}\": permission denied"))
    } else {
        (Errno::NOENT, format!("exec: \"{quoted}\": executable file not found in $PATH"))
    })
}
