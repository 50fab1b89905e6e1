// SPDX-License-Identifier: Apache-2.0
//! The pod's policy, as the services of one VM ask it.

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::io::Errno;
use trine_policy::{Action, Call, CallKind, Engine, audit::Audit};

/// What all VMs of the pod share.
#[derive(Debug)]
pub(crate) struct PodGuard {
    engine: Option<Engine>,
    log: Option<Mutex<(Audit, File)>>,
}

impl PodGuard {
    /// The policy of a pod, and where its log goes.
    pub(crate) fn new(pod: &str, engine: Option<Engine>, log: Option<OwnedFd>) -> Arc<Self> {
        let log = log.map(|file| Mutex::new((Audit::new(pod), File::from(file))));
        Arc::new(Self { engine, log })
    }
}

/// The policy for one container.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pod: Arc<PodGuard>,
    container: Arc<str>,
}

impl Guard {
    /// That of a container.
    pub(crate) fn new(pod: Arc<PodGuard>, container: &str) -> Self {
        Self { pod, container: container.into() }
    }

    /// Whether there is anything to ask about a kind of call.
    pub(crate) fn cares_about(&self, kind: CallKind) -> bool {
        self.pod.engine.as_ref().is_some_and(|engine| engine.cares_about(kind))
    }

    /// Whether decisions depend on DNS names.
    pub(crate) fn uses_names(&self) -> bool {
        self.pod.engine.as_ref().is_some_and(Engine::uses_names)
    }

    /// Whether a call is simply accepted: neither blocked, nor changed, nor logged.
    pub(crate) fn accepts_quietly(&self, call: &Call<'_>) -> bool {
        let Some(engine) = &self.pod.engine else { return true };
        let decision = engine.decide(&Call { container: &self.container, ..*call });
        decision.action == Action::Accept && !decision.log
    }

    /// Decides about a call, and logs it if the policy says so.
    ///
    /// # Errors
    /// The errno that the policy gives the program.
    pub(crate) fn decide(&self, call: &Call<'_>) -> Result<Action, Errno> {
        let Some(engine) = &self.pod.engine else { return Ok(Action::Accept) };
        let call = &Call { container: &self.container, ..*call };
        let decision = engine.decide(call);
        if decision.log
            && let Some(log) = &self.pod.log
        {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let (audit, file) = &mut *log;
            if let Some(mut line) = audit.line(call, &decision) {
                line.push('\n');
                // A full disk must not stop the pod.
                let _ = file.write_all(line.as_bytes());
            }
        }
        match decision.action {
            Action::Block(errno) => Err(Errno::from_raw_os_error(errno.into())),
            action => Ok(action),
        }
    }
}
