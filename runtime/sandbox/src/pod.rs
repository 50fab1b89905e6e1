// SPDX-License-Identifier: Apache-2.0
//! A pod: the I/O process and the containers that share it.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use rustix::event::EventfdFlags;
use trine_abi::{
    control::{Command, INIT_KEY},
    layout::{MAX_VCPUS, RAM_MIN},
    window::WINDOW_BYTES,
};
use trine_jail::Landlock;
use trine_link::{Link, LinkError};
use trine_vmm::protocol::{BOOT, BootRequest, COMMAND, SystemCalls};

use crate::{
    Container, ContainerSpec, Error,
    cgroup::{Cgroup, Resources},
    container::LOAD_PATIENCE,
    io_process::{IoProcess, Setup, Trouble, into_io},
    kvm,
    launch::Launch,
    libexec,
    policy::{self, Interceptor, Narrowing, PodPolicy},
    reader,
    state::{Load, State},
    stdio::OpenStdio,
    vm::{Parts, SEND_PATIENCE, Vm},
    volume::{self, OpenVolume},
};

/// Longest container id: it becomes the name of directories and processes.
const MAX_ID: usize = 128;
/// Stack of the reader threads; callbacks of the user run on them.
const STACK_BYTES: usize = 512 << 10;

/// How a pod is set up.
#[derive(Clone, Debug, Default)]
pub struct PodOptions {
    /// Name, for process titles and logs.
    pub name: String,
    /// Network namespace of the I/O process; `None` = a fresh one, in which
    /// only the loopback interface is up.
    pub network_namespace: Option<PathBuf>,
    /// Where `trine-vmm`, `trine-io` and `trine-kernel` lie; `None` = `TRINE_LIBEXEC`, beside the
    /// running program, `../libexec/trine` from it, or `/usr/local/libexec/trine`.
    pub libexec: Option<PathBuf>,
    /// Cgroup of the I/O process, as in [`crate::Limits::cgroup`].
    pub cgroup: Option<String>,
    /// Where VMM and I/O process write their logs; `None` = discarded.
    pub log: Option<PathBuf>,
    /// The policy of the pod; `None` = everything is accepted.
    pub policy: Option<policy::Source>,
    /// Functions of this program that decide before the policy's rules do, in order.
    pub interceptors: Vec<Interceptor>,
    /// What narrows the policy for the whole pod.
    pub narrowing: Option<Narrowing>,
    /// Where the policy's log goes, one JSON object a line; `None` = beside `log`, with `.audit` at
    /// the end of its name, or nowhere.
    pub audit: Option<PathBuf>,
    /// Whether VMM and I/O process confine themselves with Landlock.
    pub landlock: Landlock,
    /// How programs enter their VM's kernel.
    pub system_calls: SystemCalls,
    /// The log is of all calls, each once: to learn a policy from.
    pub record: bool,
}

/// A pod.  Dropping the last reference ends its processes.
#[derive(Debug)]
pub struct Pod {
    shared: Arc<Shared>,
}

/// What the pod, its containers and its reader thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    name: String,
    libexec: PathBuf,
    kernel: OnceLock<File>,
    /// The log, or /dev/null.
    output: File,
    has_log: bool,
    io: Arc<IoProcess>,
    io_cgroup: Option<Cgroup>,
    /// The policy, and the generation of the one in force.
    policy: Mutex<(u64, PodPolicy)>,
    /// The policy lets no programs run from volumes.
    no_exec: AtomicBool,
    landlock: Landlock,
    system_calls: SystemCalls,
    next_vm: AtomicU32,
    /// By id; `None` while a container is being created.
    vms: Mutex<BTreeMap<String, Option<Arc<Vm>>>>,
}

impl Pod {
    /// Starts the I/O process.
    ///
    /// # Errors
    /// If a program is missing or does not start.
    pub fn create(options: PodOptions) -> Result<Arc<Self>, Error> {
        let policy = PodPolicy::new(&options, options.log.as_deref());
        let checked = policy.check(None)?;
        let no_exec = checked.no_exec;
        let libexec = libexec::find(options.libexec.as_deref())?;
        let network = options.network_namespace.as_ref().map(|path| {
            File::open(path).map(OwnedFd::from).map_err(|source| {
                Error::host(format!("open network namespace {}", path.display()), source)
            })
        });
        let network = network.transpose()?;
        let has_log = options.log.is_some();
        let log: PathBuf = options.log.unwrap_or_else(|| "/dev/null".into());
        let output = File::options().append(true).create(has_log).open(&log);
        let output =
            output.map_err(|source| Error::host(format!("open log {}", log.display()), source))?;
        let io_cgroup =
            options.cgroup.map(|name| Cgroup::create(&name, &Resources::default())).transpose()?;
        let name = options.name;
        let landlock = options.landlock;
        let setup = Setup { name: &name, network, rules: (&policy, checked), landlock };
        let io = IoProcess::start(&libexec, setup, &output, io_cgroup.as_ref())?;
        let shared = Arc::new(Shared {
            name,
            libexec,
            kernel: OnceLock::new(),
            output,
            has_log,
            io: Arc::new(io),
            io_cgroup,
            policy: Mutex::new((0, policy)),
            no_exec: AtomicBool::new(no_exec),
            landlock,
            system_calls: options.system_calls,
            next_vm: AtomicU32::new(0),
            vms: Mutex::default(),
        });
        let (io, pod) = (Arc::clone(&shared.io), Arc::downgrade(&shared));
        spawn("trine-pod", move || io.read(|trouble| Shared::on_trouble(&pod, trouble)))?;
        Ok(Arc::new(Self { shared }))
    }

    /// Process id of the I/O process, valid until [`Pod::stop`].
    pub fn io_pid(&self) -> u32 {
        self.shared.io.pid()
    }

    /// Waits until the I/O process has confined itself and serves.  Nobody needs to: a container
    /// waits for what it needs.
    ///
    /// # Errors
    /// If it ended, or did not get there within 10 s.
    pub fn ready(&self) -> Result<(), Error> {
        self.shared.io.await_ready()
    }

    /// Makes the VM, boots it and loads the container's program, which does not run yet.
    ///
    /// # Errors
    /// With everything undone.
    pub fn create_container(
        self: &Arc<Self>,
        spec: ContainerSpec,
    ) -> Result<Arc<Container>, Error> {
        check(&spec)?;
        kvm::check()?;
        let id = spec.id.clone();
        self.shared.reserve(&id)?;
        let created = self.shared.boot(spec);
        if created.is_err() {
            self.shared.forget(&id);
        }
        created.map(Arc::new)
    }

    /// Loads the policy anew, from `source` or from where it was, and returns when calls are decided
    /// by it.  What is open or connected stays so, and budgets go on where the rule and its limit
    /// are the same.  Whether programs run from volumes is settled when a container is created.
    ///
    /// # Errors
    /// [`Error::Invalid`] with file, line and reason, and the old policy stays in force.
    pub fn reload_policy(&self, source: Option<policy::Source>) -> Result<(), Error> {
        let mut policy = self.shared.policy.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, policy) = &mut *policy;
        if source.is_none() && !policy.has_source() {
            let (what, reason) = ("policy".to_owned(), "the pod has none: give one".to_owned());
            return Err(Error::Invalid { what, reason });
        }
        let checked = policy.check(source.as_ref())?;
        let no_exec = checked.no_exec;
        // Also if it fails: its answer may come late.
        *generation += 1;
        self.shared.io.set_policy(*generation, checked)?;
        self.shared.no_exec.store(no_exec, Ordering::Relaxed);
        if let Some(source) = source {
            policy.set_source(source);
        }
        Ok(())
    }

    /// Ends the I/O process (every container must be gone).
    ///
    /// # Errors
    /// If a container is left.
    pub fn stop(&self) -> Result<(), Error> {
        if let Some(id) = self.shared.lock().keys().next() {
            return Err(Error::WrongState {
                action: "stop",
                what: format!("pod {:?} with container {id:?}", self.shared.name),
                state: "in use",
            });
        }
        self.shared.io.stop();
        self.shared.io_cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.remove())
    }

    /// Waits until the I/O process has ended, for whatever reason.
    pub fn wait(&self) {
        self.shared.io.await_end();
    }

    /// Why the I/O process has ended, one line, if it has.
    pub fn end_reason(&self) -> Option<String> {
        self.shared.io.end_reason()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let vms = std::mem::take(&mut *self.shared.lock());
        for vm in vms.into_values().flatten() {
            vm.fail("its pod was dropped");
            vm.process.reap();
        }
        self.shared.io.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<Vm>>>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, id: &str) -> Result<(), Error> {
        let mut vms = self.lock();
        if vms.contains_key(id) {
            return Err(Error::AlreadyExists { kind: "container", id: id.to_owned() });
        }
        vms.insert(id.to_owned(), None);
        Ok(())
    }

    /// Forgets a container.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn on_trouble(pod: &Weak<Self>, trouble: Trouble) {
        let Some(pod) = pod.upgrade() else {
            return;
        };
        let vms: Vec<_> = pod.lock().values().flatten().cloned().collect();
        match trouble {
            Trouble::All(reason) => vms.iter().for_each(|vm| vm.fail(&reason)),
            Trouble::Vm(number, reason) => {
                vms.iter().filter(|vm| vm.number == number).for_each(|vm| vm.fail(&reason));
            }
        }
    }

    fn kernel(&self) -> Result<&File, Error> {
        if let Some(kernel) = self.kernel.get() {
            return Ok(kernel);
        }
        let path = self.libexec.join("trine-kernel");
        let kernel = File::open(&path)
            .map_err(|source| Error::host(format!("open {}", path.display()), source))?;
        Ok(self.kernel.get_or_init(|| kernel))
    }

    /// Everything from the cgroup to the loaded program.
    fn boot(self: &Arc<Self>, spec: ContainerSpec) -> Result<Container, Error> {
        let cgroup = make_cgroup(&spec)?;
        let kernel = self.kernel()?;
        let volumes = volume::open_all(&spec.volumes, &spec.config.mounts)?;
        let link = |error: LinkError| Error::host("make a link to trine-vmm", into_io(error));
        let (sender, theirs) = Link::pair().map_err(link)?;
        let receiver = sender.try_clone().map_err(link)?;
        let program = self.libexec.join("trine-vmm");
        let (name, log, cgroup_ref) = (&*spec.id, &self.output, cgroup.as_ref());
        let launch = Launch { program: &program, name, link: theirs, log, cgroup: cgroup_ref };
        let process = launch.start()?;

        // From here on the VMM starts up on its own, and what follows costs nothing.
        let mut next_number = 1;
        let stdio = OpenStdio::open(spec.stdio, spec.process.terminal, || {
            next_number += 1;
            next_number - 1
        })?;
        let window = trine_jail::shared::create("trine-window", WINDOW_BYTES as usize)
            .map_err(|error| Error::host("make a window", io::Error::other(error)))?;
        let (doorbell, notify) = (eventfd()?, eventfd()?);
        let boot = BootRequest {
            id: spec.id.clone(),
            memory_bytes: spec.limits.memory_bytes,
            vcpus: spec.limits.vcpus,
            images: 1,
            landlock: self.landlock,
            system_calls: self.system_calls,
        };
        let boot = serde_json::to_vec(&boot)
            .map_err(|error| Error::host("encode a boot request", io::Error::other(error)))?;
        let mut init = spec.process;
        (init.key, init.stdio) = (INIT_KEY, stdio.handles);
        let state = State::new(spec.id.clone(), &init, stdio.handles);
        let mut config = spec.config;
        let narrowed = spec.narrowing.as_ref().map_or(Ok(false), policy::check_narrowing)?;
        if narrowed || self.no_exec.load(Ordering::Relaxed) {
            for mount in config.mounts.iter_mut().filter(|mount| mount.volume.is_some()) {
                mount.options.push(b"noexec".to_vec());
            }
        }
        let commands = [Command::Configure(config), Command::Spawn(init)];
        sender.set_send_timeout(LOAD_PATIENCE).map_err(link)?;
        let files =
            [kernel.as_fd(), window.as_fd(), doorbell.as_fd(), notify.as_fd(), spec.image.as_fd()];
        let mut sent = sender.send(BOOT, &boot, &files);
        for command in &commands {
            sent = sent.and_then(|()| sender.send(COMMAND, &command.encode(), &[]));
        }
        sender.set_send_timeout(SEND_PATIENCE).map_err(link)?;
        if let Err(error @ LinkError::TooLong(_)) = sent {
            let what = "container's configuration".into();
            return Err(Error::Invalid { what, reason: error.to_string() });
        }
        // Any other failure means that the VMM has ended, or will be: the reader says why.

        let number = self.next_vm.fetch_add(1, Ordering::Relaxed);
        let log = self.has_log.then(|| self.output.try_clone()).transpose();
        let log = log.map_err(|source| Error::host("open the log once more", source))?;
        let vm = Arc::new(Vm::new(Parts {
            number,
            process,
            io: Arc::clone(&self.io),
            cgroup,
            log,
            receiver,
            sender,
            state,
            next_number,
        }));
        let container = Container::new(spec.id.clone(), Arc::clone(&vm), Arc::downgrade(self));
        self.lock().insert(spec.id.clone(), Some(Arc::clone(&vm)));
        let window = [&window, &doorbell, &notify];
        let attached = (&*spec.id, spec.narrowing);
        let result = self.see_it_loaded(&vm, attached, &stdio, &volumes, window);
        if result.is_err() {
            container.discard(true);
        }
        result.map(|()| container)
    }

    fn see_it_loaded(
        &self,
        vm: &Arc<Vm>,
        container: (&str, Option<Narrowing>),
        stdio: &OpenStdio,
        volumes: &[OpenVolume],
        window: [&OwnedFd; 3],
    ) -> Result<(), Error> {
        let reading = Arc::clone(vm);
        spawn("trine-container", move || reader::run(&reading))?;
        self.io.attach(vm.number, container, window.map(AsFd::as_fd), stdio, volumes)?;
        let loaded = vm.wait_for(Some(LOAD_PATIENCE), |state| {
            let record = state.record("").ok()?;
            match &record.load {
                Load::Loaded => Some(Some(Ok(()))),
                Load::Failed { errno, reason } => {
                    Some(Some(Err(record.load_error(*errno, reason))))
                }
                Load::Pending => state.is_vm_gone.then_some(None),
            }
        });
        match loaded {
            Some(Some(result)) => result?,
            Some(None) => return Err(self.explain_end(vm)),
            None => {
                let what = format!("container {:?}", vm.lock().id);
                return Err(Error::Timeout { what, seconds: LOAD_PATIENCE.as_secs() });
            }
        }
        self.io.await_attached(vm.number)
    }

    /// Why a VM ended before it had loaded anything.
    fn explain_end(&self, vm: &Vm) -> Error {
        // The reader has the reason a moment after it saw the end.
        vm.wait_for(Some(LOAD_PATIENCE), |state| state.end_reason.is_some().then_some(()));
        kvm::diagnose().err().unwrap_or_else(|| vm.ended())
    }
}

fn spawn(name: &str, run_fn: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run_fn)
        .map(drop)
        .map_err(|source| Error::host("start a thread", source))
}

fn eventfd() -> Result<OwnedFd, Error> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Error::host("make an eventfd", errno))
}

fn make_cgroup(spec: &ContainerSpec) -> Result<Option<Cgroup>, Error> {
    let resources = spec.limits.resources.as_deref().map(Resources::parse).transpose()?;
    let resources = resources.unwrap_or_default();
    let Some(name) = &spec.limits.cgroup else {
        if resources != Resources::default() {
            return Err(Error::Invalid {
                what: "limits".into(),
                reason: "resources need a cgroup to be applied to; name one".into(),
            });
        }
        return Ok(None);
    };
    Cgroup::create(name, &resources).map(Some)
}

fn check(spec: &ContainerSpec) -> Result<(), Error> {
    let refuse = |what: String, reason: String| Err(Error::Invalid { what, reason });
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    let id = &spec.id;
    if id.is_empty() || id.len() > MAX_ID || id == "." || id == ".." || !id.bytes().all(is_plain) {
        let reason = format!("use 1 to {MAX_ID} of A-Z a-z 0-9 . _ + -");
        return refuse(format!("container id {id:?}"), reason);
    }
    if spec.process.args.is_empty() {
        return refuse("process.args".into(), "it is empty".into());
    }
    let memory = spec.limits.memory_bytes;
    if memory < RAM_MIN {
        let reason = format!("give at least {} MiB", RAM_MIN >> 20);
        return refuse(format!("memory of {memory} bytes"), reason);
    }
    if !(1..=MAX_VCPUS).contains(&(spec.limits.vcpus as usize)) {
        return refuse(format!("{} vcpus", spec.limits.vcpus), format!("use 1 to {MAX_VCPUS}"));
    }
    Ok(())
}
