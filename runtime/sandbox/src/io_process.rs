// SPDX-License-Identifier: Apache-2.0
//! The sandbox's side of `trine-io`: its link, and what it has answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use trine_io::protocol::{NOTICE, Narrowing, Notice, REQUEST, Request};
use trine_jail::Landlock;
use trine_link::{Link, LinkError};

use crate::{
    Error,
    cgroup::Cgroup,
    launch::{HostProcess, Launch},
    policy::{Asker, Checked, Interceptor, PodPolicy},
    stdio::OpenStdio,
    volume::OpenVolume,
};

/// How long the I/O process may take to read a request, and to answer one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to end when its link is closed.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What the I/O process has said.
#[derive(Debug, Default)]
struct Answers {
    ready: bool,
    attached: BTreeSet<u32>,
    added: BTreeSet<(u32, u32)>,
    detached: BTreeSet<u32>,
    failed: BTreeMap<u32, String>,
    /// Policies that were taken over, or why not.
    policies: BTreeMap<u64, Option<String>>,
    /// It has ended, and why.
    ended: Option<String>,
}

/// What an I/O process is told first.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The pod's name.
    pub(crate) name: &'a str,
    /// Its network namespace.
    pub(crate) network: Option<OwnedFd>,
    /// Its policy, and what came of checking it.
    pub(crate) rules: (&'a PodPolicy, Checked),
    /// Whether it confines itself with Landlock.
    pub(crate) landlock: Landlock,
}

/// The I/O process of a pod.
#[derive(Debug)]
pub(crate) struct IoProcess {
    process: HostProcess,
    sender: Arc<Mutex<Link>>,
    receiver: Link,
    asker: Asker,
    answers: Mutex<Answers>,
    changed: Condvar,
}

/// What the reader thread tells of.
pub(crate) enum Trouble {
    /// One VM cannot be served any more.
    Vm(u32, String),
    /// None can.
    All(String),
}

impl IoProcess {
    /// Starts the process; it confines itself meanwhile.
    pub(crate) fn start(
        folder: &Path,
        setup: Setup<'_>,
        log: &File,
        cgroup: Option<&Cgroup>,
    ) -> Result<Self, Error> {
        let Setup { name, network, rules: (policy, checked), landlock } = setup;
        let host = |error: LinkError| Error::host("make a link to trine-io", into_io(error));
        let (sender, theirs) = Link::pair().map_err(host)?;
        let receiver = sender.try_clone().map_err(host)?;
        sender.set_send_timeout(PATIENCE).map_err(host)?;
        let program = folder.join("trine-io");
        let launch = Launch { program: &program, name, link: theirs, log, cgroup };
        let audit = policy.open_log()?;
        let process = launch.start()?;
        let started = Self::new(process, sender, receiver, (name, policy.interceptors()));
        started.asker.allow(0, checked.targets);
        let setup = Request::Setup {
            name: name.to_owned(),
            network: network.is_some(),
            policy: checked.spec,
            narrowing: policy.narrowing.clone(),
            audit: audit.is_some(),
            record: policy.records,
            landlock,
        };
        let files: Vec<_> = network.iter().chain(&audit).map(AsFd::as_fd).collect();
        started.send(&setup, &files)?;
        Ok(started)
    }

    /// Takes over a process and the two owners of our end of its link.
    pub(crate) fn new(
        process: HostProcess,
        sender: Link,
        receiver: Link,
        (name, interceptors): (&str, &[Interceptor]),
    ) -> Self {
        let sender = Arc::new(Mutex::new(sender));
        let answers = Arc::clone(&sender);
        // A process that is gone needs no answer.
        let answer_fn = move |vm, question, verdict| {
            let _ = send(&answers, &Request::Verdict { vm, question, verdict }, &[]);
        };
        Self {
            process,
            sender,
            receiver,
            asker: Asker::new(name, interceptors, Arc::new(answer_fn)),
            answers: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn send(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        send(&self.sender, request, files)
    }

    /// Hands over a VM's window and its first streams.  Answered by [`Self::await_attached`].
    pub(crate) fn attach(
        &self,
        vm: u32,
        (container, narrowing): (&str, Option<Narrowing>),
        window: [BorrowedFd<'_>; 3],
        stdio: &OpenStdio,
        volumes: &[OpenVolume],
    ) -> Result<(), Error> {
        let roots = volumes.iter().map(|volume| volume.root.as_fd());
        let files: Vec<_> = window.into_iter().chain(stdio.files()).chain(roots).collect();
        let volumes = volumes.iter().map(|volume| volume.spec.clone()).collect();
        self.send(
            &Request::Attach {
                vm,
                container: container.to_owned(),
                streams: stdio.specs.clone(),
                volumes,
                narrowing,
            },
            &files,
        )
    }

    /// Has the pod's policy replaced, and waits until calls are decided by the new one.
    pub(crate) fn set_policy(&self, generation: u64, policy: Checked) -> Result<(), Error> {
        self.asker.allow(generation, policy.targets);
        let policy = policy.spec.unwrap_or_default();
        self.send(&Request::Policy { generation, policy }, &[])?;
        let mut refused = None;
        self.wait_for(None, PATIENCE, |answers| {
            let answer = answers.policies.remove(&generation);
            refused = answer.clone().flatten();
            answer.is_some()
        })?;
        match refused {
            None => Ok(()),
            Some(reason) => Err(Error::Invalid { what: "policy".to_owned(), reason }),
        }
    }

    /// Waits until a VM is served.
    pub(crate) fn await_attached(&self, vm: u32) -> Result<(), Error> {
        self.wait_for(Some(vm), PATIENCE, |answers| answers.attached.remove(&vm))
    }

    /// Hands over more streams, and waits until they can be used.
    pub(crate) fn add(&self, vm: u32, ticket: u32, stdio: &OpenStdio) -> Result<(), Error> {
        let files: Vec<_> = stdio.files().collect();
        self.send(&Request::AddStreams { vm, ticket, streams: stdio.specs.clone() }, &files)?;
        self.wait_for(Some(vm), PATIENCE, |answers| answers.added.remove(&(vm, ticket)))
    }

    /// Ends an input, or closes an output.
    pub(crate) fn close(&self, vm: u32, handle: u32) -> Result<(), Error> {
        self.send(&Request::CloseStream { vm, handle }, &[])
    }

    /// Drops a stream.
    pub(crate) fn remove(&self, vm: u32, handle: u32) -> Result<(), Error> {
        self.send(&Request::RemoveStream { vm, handle }, &[])
    }

    /// Has what the VM submitted written, and its streams closed; waits for that.  True if it was
    /// done in time.
    pub(crate) fn detach(&self, vm: u32, patience: Duration) -> bool {
        let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        let patience = patience + Duration::from_secs(1);
        self.send(&Request::Detach { vm, milliseconds }, &[]).is_ok()
            && self.wait_for(Some(vm), patience, |answers| answers.detached.remove(&vm)).is_ok()
    }

    /// Waits until the process is confined and serves.
    pub(crate) fn await_ready(&self) -> Result<(), Error> {
        self.wait_for(None, PATIENCE, |answers| answers.ready)
    }

    /// Waits until the process has ended.
    pub(crate) fn await_end(&self) {
        let mut answers = self.lock();
        while answers.ended.is_none() {
            answers = self.changed.wait(answers).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why the process has ended, if it has.
    pub(crate) fn end_reason(&self) -> Option<String> {
        self.lock().ended.clone()
    }

    /// Closes the link, which ends the process, and reaps it.
    pub(crate) fn stop(&self) {
        self.receiver.shut_down();
        self.process.wait(END_PATIENCE);
        self.process.reap();
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(
        &self,
        vm: Option<u32>,
        patience: Duration,
        mut answered_fn: impl FnMut(&mut Answers) -> bool,
    ) -> Result<(), Error> {
        let until = Instant::now() + patience;
        let mut answers = self.lock();
        loop {
            if answered_fn(&mut answers) {
                return Ok(());
            }
            let failure = vm.and_then(|vm| answers.failed.get(&vm)).or(answers.ended.as_ref());
            if let Some(reason) = failure {
                let source = std::io::Error::other(reason.clone());
                return Err(Error::host("serve the container's streams", source));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = patience.as_secs();
                return Err(Error::Timeout { what: "trine-io".into(), seconds });
            }
            let waited = self.changed.wait_timeout(answers, left);
            answers = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The reader thread: takes answers until the process has ended, and tells of trouble.
    pub(crate) fn read(&self, mut trouble_fn: impl FnMut(Trouble)) {
        let reason = loop {
            let notice = match self.receiver.receive() {
                Ok(Some(message)) if message.kind == NOTICE => {
                    serde_json::from_slice::<Notice>(&message.payload)
                }
                Ok(Some(message)) => break format!("sent a frame of kind {}", message.kind),
                Ok(None) => break self.describe_end(),
                Err(error) => break error.to_string(),
            };
            let Ok(notice) = notice else {
                break "sent a malformed notice".to_owned();
            };
            match notice {
                Notice::Ready => self.answer(|answers| answers.ready = true),
                Notice::Attached { vm } => {
                    self.answer(|answers| {
                        answers.attached.insert(vm);
                    });
                }
                Notice::Added { vm, ticket } => {
                    self.answer(|answers| {
                        answers.added.insert((vm, ticket));
                    });
                }
                Notice::Detached { vm, lost_bytes: _ } => self.answer(|answers| {
                    answers.detached.insert(vm);
                    answers.failed.remove(&vm);
                }),
                Notice::Policy { generation, refused } => {
                    self.answer(|answers| drop(answers.policies.insert(generation, refused)));
                }
                Notice::Ask { vm, question, generation, target, what } => {
                    self.asker.ask((generation, target), vm, question, what);
                }
                Notice::Violation { vm, reason } => {
                    let reason = format!("guest broke the rules of its window: {reason}");
                    self.answer(|answers| drop(answers.failed.insert(vm, reason.clone())));
                    trouble_fn(Trouble::Vm(vm, reason));
                }
                Notice::Failed { vm: Some(vm), reason } => {
                    let reason = format!("trine-io: {reason}");
                    self.answer(|answers| drop(answers.failed.insert(vm, reason.clone())));
                    trouble_fn(Trouble::Vm(vm, reason));
                }
                Notice::Failed { vm: None, reason } => break reason,
            }
        };
        // Whatever it was: a process that does not keep to the protocol is of no use.
        self.process.kill();
        let reason = format!("trine-io: {reason}");
        self.answer(|answers| answers.ended = Some(reason.clone()));
        trouble_fn(Trouble::All(reason));
    }

    fn describe_end(&self) -> String {
        if self.process.wait(END_PATIENCE)
            && let Some(end) = self.process.end()
        {
            return format!("the process {end}");
        }
        "the process closed its link".to_owned()
    }

    fn answer(&self, change_fn: impl FnOnce(&mut Answers)) {
        change_fn(&mut self.lock());
        self.changed.notify_all();
    }
}

fn send(sender: &Mutex<Link>, request: &Request, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let refuse = |source| Error::host("send a request to trine-io", source);
    let payload =
        serde_json::to_vec(request).map_err(|error| refuse(std::io::Error::other(error)))?;
    let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
    sender.send(REQUEST, &payload, files).map_err(|error| refuse(into_io(error)))
}

/// The I/O error behind a failed link.
pub(crate) fn into_io(error: LinkError) -> std::io::Error {
    match error {
        LinkError::Io(error) => error,
        other => std::io::Error::other(other),
    }
}
