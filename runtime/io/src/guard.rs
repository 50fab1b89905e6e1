// SPDX-License-Identifier: Apache-2.0
//! The pod's policy, as the services of one VM ask it.

use std::{
    cell::RefCell,
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
};

use rustix::io::Errno;
use trine_policy::{
    Action, Call, CallKind, Decision, Engine, Policy, PolicyError,
    audit::Audit,
    case::{Case, Question},
    layer::Layer,
    meter::Meters,
};

use crate::{
    host::Notices,
    protocol::{Narrowing, Notice, PolicySpec},
};

/// Questions that wait for the link; beyond that there is no answer.
const QUESTIONS_MAX: usize = 256;
/// Stack of the thread that passes questions on.
const STACK_BYTES: usize = 64 << 10;

/// What a call that has to wait seems to fail with: the request is held then, and made again.  No
/// system call fails with it.
pub(crate) const WAITS: Errno = Errno::RESTART;

/// What all VMs of the pod share.
#[derive(Debug)]
pub(crate) struct PodGuard {
    /// The pod's policy, and its generation.
    base: RwLock<(u64, Option<Arc<Layer>>)>,
    /// The generation once more, to look at without the lock.
    generation: AtomicU64,
    narrowing: Option<Arc<Layer>>,
    log: Option<Mutex<(Audit, File)>>,
    records: bool,
    notices: Notices,
    questions: OnceLock<SyncSender<Notice>>,
}

/// What a pod's policy is made of.
#[derive(Debug, Default)]
pub(crate) struct PodSpec {
    pub(crate) name: String,
    pub(crate) policy: Option<PolicySpec>,
    pub(crate) narrowing: Option<Narrowing>,
    /// Where the log goes.
    pub(crate) log: Option<OwnedFd>,
    /// The log is of all calls, each once.
    pub(crate) records: bool,
}

fn layer(mut policy: Policy, records: bool) -> Arc<Layer> {
    policy.log_all |= records;
    Arc::new(Layer::new(&policy))
}

impl PodGuard {
    /// The policy of a pod.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(spec: PodSpec, notices: Notices) -> Result<Arc<Self>, PolicyError> {
        let PodSpec { name, policy, narrowing, log, records } = spec;
        let base = policy.map(|policy| policy.parse()).transpose()?;
        let base = base.or_else(|| records.then(Policy::accept_all));
        let narrowing = narrowing.map(|rules| rules.parse("annotation", "pod:")).transpose()?;
        let audit = if records { Audit::recording(&name) } else { Audit::new(&name) };
        Ok(Arc::new(Self {
            base: RwLock::new((0, base.map(|policy| layer(policy, records)))),
            generation: AtomicU64::new(0),
            narrowing: narrowing.map(|policy| layer(policy, false)),
            log: log.map(|file| Mutex::new((audit, File::from(file)))),
            records,
            notices,
            questions: OnceLock::new(),
        }))
    }

    /// Puts another policy in the place of the pod's.
    ///
    /// # Errors
    /// What is wrong with it; the old one stays.
    pub(crate) fn replace(&self, generation: u64, spec: &PolicySpec) -> Result<(), PolicyError> {
        let policy = match spec.parse() {
            Ok(policy) => policy,
            Err(error) => {
                self.log_event("policy-refused", &error.to_string());
                return Err(error);
            }
        };
        let detail = format!("generation {generation}, {} rules", policy.rules.len());
        let made = layer(policy, self.records);
        *self.base.write().unwrap_or_else(PoisonError::into_inner) = (generation, Some(made));
        self.generation.store(generation, Ordering::Release);
        self.log_event("policy-reloaded", &detail);
        Ok(())
    }

    fn write(&self, line_fn: impl FnOnce(&mut Audit) -> Option<String>) {
        let Some(log) = &self.log else { return };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let (audit, file) = &mut *log;
        if let Some(mut line) = line_fn(audit) {
            line.push('\n');
            // A full disk must not stop the pod.
            let _ = file.write_all(line.as_bytes());
        }
    }

    fn log_event(&self, event: &str, detail: &str) {
        self.write(|audit| audit.event(event, Some(detail)));
    }

    fn log(&self, call: &Call<'_>, decision: &Decision<'_>) {
        if decision.log {
            self.write(|audit| audit.line(call, decision));
        }
    }

    /// Passes a question on, without waiting for the link; false if there are too many.
    fn ask(&self, notice: Notice) -> bool {
        let questions = self.questions.get_or_init(|| {
            let (sender, receiver) = mpsc::sync_channel::<Notice>(QUESTIONS_MAX);
            let notices = self.notices.clone();
            let pass_on = move || receiver.iter().for_each(|notice| notices.send(&notice));
            // Without the thread the channel is closed, and nobody is asked.
            let _ = thread::Builder::new()
                .name("questions".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(pass_on);
            sender
        });
        questions.try_send(notice).is_ok()
    }
}

/// The policy for one container; used by the thread that serves it.
#[derive(Debug)]
pub(crate) struct Guard {
    pod: Arc<PodGuard>,
    container: Box<str>,
    narrowing: Option<Arc<Layer>>,
    /// What decides; `None`: everything is accepted.
    engine: Option<Engine>,
    /// The generation of `engine`.
    generation: u64,
    meters: RefCell<Meters>,
}

impl Guard {
    /// That of a container.
    ///
    /// # Errors
    /// What is wrong with what narrows it.
    pub(crate) fn new(
        pod: Arc<PodGuard>,
        container: &str,
        narrowing: Option<&Narrowing>,
    ) -> Result<Self, PolicyError> {
        let narrowing =
            narrowing.map(|rules| rules.parse("annotation", "container:")).transpose()?;
        let mut guard = Self {
            pod,
            container: container.into(),
            narrowing: narrowing.map(|policy| layer(policy, false)),
            engine: None,
            generation: 0,
            meters: RefCell::default(),
        };
        guard.rebuild();
        Ok(guard)
    }

    /// Takes over the pod's policy if it is another one by now.
    pub(crate) fn refresh(&mut self) {
        if self.pod.generation.load(Ordering::Acquire) != self.generation {
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        let base = self.pod.base.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (generation, base) = base;
        self.generation = generation;
        let others = [&self.pod.narrowing, &self.narrowing].into_iter().flatten().cloned();
        let mut layers: Vec<_> = others.collect();
        if base.is_none() && layers.is_empty() {
            self.engine = None;
            return;
        }
        layers.insert(0, base.unwrap_or_else(|| layer(Policy::accept_all(), false)));
        let engine = Engine::of_layers(generation, layers);
        self.meters.get_mut().retain(|rule| engine.has_rule(rule));
        self.engine = Some(engine);
    }

    /// Whether there is anything to ask about a kind of call.
    pub(crate) fn cares_about(&self, kind: CallKind) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.cares_about(kind))
    }

    /// Whether decisions depend on DNS names.
    pub(crate) fn uses_names(&self) -> bool {
        self.pod.records || self.engine.as_ref().is_some_and(Engine::uses_names)
    }

    /// Whether a call is simply accepted: neither blocked, nor changed, nor logged, nor counted.
    pub(crate) fn accepts_quietly(&self, call: &Call<'_>) -> bool {
        let Some(engine) = &self.engine else { return true };
        let decision = engine.decide(&Call { container: &self.container, ..*call });
        decision.action == Action::Accept && !decision.log && !decision.is_conditional
    }

    /// Decides about a call of a request, and logs it if the policy says so.
    ///
    /// # Errors
    /// The errno that the policy gives the program; [`WAITS`] if the request has to be held until
    /// [`Case::waits_for`] is over.
    pub(crate) fn decide(&self, call: &Call<'_>, case: &RefCell<Case>) -> Result<Action, Errno> {
        let Some(engine) = &self.engine else { return Ok(Action::Accept) };
        let call = &Call { container: &self.container, ..*call };
        let mut meters = self.meters.borrow_mut();
        let Some(decision) = engine.proceed(call, &mut case.borrow_mut(), &mut meters) else {
            return Err(WAITS);
        };
        self.pod.log(call, &decision);
        match decision.action {
            Action::Block(errno) => Err(Errno::from_raw_os_error(errno.into())),
            // Nobody is left to ask.
            Action::Ask(_) => Err(Errno::PERM),
            action => Ok(action),
        }
    }

    /// Has a question asked; false if it cannot be.
    pub(crate) fn ask(&self, vm: u32, question: u64, target: usize, what: Question) -> bool {
        let generation = self.generation;
        self.pod.ask(Notice::Ask { vm, question, generation, target, what })
    }
}
