// SPDX-License-Identifier: Apache-2.0
//! Whom rules ask: interceptors and deciders, each on a thread of its own.
//!
//! ```text
//! trine-io --Ask--> reader thread --bounded queue--> thread of the one who is asked
//!          <-----------------Verdict--------------------┘
//! ```
//!
//! The reader thread never waits: a question that there is no room for is dropped, and the I/O
//! process does without an answer when its time is over.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

use trine_policy::{
    case::{Question, Verdict},
    rule::Target,
};

use super::{Interceptor, decider};

/// Questions that wait for one who is asked.
const QUEUE_MAX: usize = 256;
/// Most who are asked at a time, over all reloads of a pod's policy.
const TARGETS_MAX: usize = 64;

/// Sends the verdict on a question of a VM.
pub(crate) type AnswerFn = dyn Fn(u32, u64, Verdict) + Send + Sync;

/// A question, and where its answer goes.
pub(super) struct Asked {
    pub(super) vm: u32,
    pub(super) number: u64,
    pub(super) question: Question,
}

/// All who can be asked by a pod's policies.
pub(crate) struct Asker {
    pod: String,
    interceptors: HashMap<String, Interceptor>,
    answer_fn: Arc<AnswerFn>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the policy in force and the one before it, by generation: calls that were under way when
    /// the policy changed are still asked about.
    targets: VecDeque<(u64, Vec<Target>)>,
    threads: Vec<(Target, SyncSender<Asked>)>,
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("pod", &self.pod).finish_non_exhaustive()
    }
}

impl Asker {
    /// Nobody is asked yet; answers go to `answer_fn`.
    pub(crate) fn new(pod: &str, interceptors: &[Interceptor], answer_fn: Arc<AnswerFn>) -> Self {
        let by_name = |known: &Interceptor| (known.name.clone(), known.clone());
        Self {
            pod: pod.to_owned(),
            interceptors: interceptors.iter().map(by_name).collect(),
            answer_fn,
            state: Mutex::default(),
        }
    }

    /// A policy of this generation may ask these.
    pub(crate) fn allow(&self, generation: u64, targets: Vec<Target>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.targets.push_back((generation, targets));
        while state.targets.len() > 2 {
            state.targets.pop_front();
        }
        let State { targets, threads } = &mut *state;
        threads.retain(|(known, _)| targets.iter().any(|(_, list)| list.contains(known)));
    }

    /// Has somebody asked, by the number that a policy gives him.
    pub(crate) fn ask(
        &self,
        (generation, target): (u64, usize),
        vm: u32,
        number: u64,
        question: Question,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let of_policy = state.targets.iter().find(|(known, _)| *known == generation);
        let Some(target) = of_policy.and_then(|(_, list)| list.get(target)).cloned() else {
            return;
        };
        let asked = Asked { vm, number, question };
        let known = state.threads.iter().find(|(known, _)| *known == target);
        let sender = match known.map(|(_, sender)| sender.clone()) {
            Some(sender) => sender,
            None if state.threads.len() < TARGETS_MAX => {
                let Some(sender) = self.start(&target) else { return };
                state.threads.push((target, sender.clone()));
                sender
            }
            None => return,
        };
        // Full: there will be no answer.
        let _ = sender.try_send(asked);
    }

    fn start(&self, target: &Target) -> Option<SyncSender<Asked>> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE_MAX);
        let answer_fn = Arc::clone(&self.answer_fn);
        let run: Box<dyn FnOnce() + Send> = match target {
            Target::Interceptor(name) => {
                let interceptor = self.interceptors.get(name)?.clone();
                Box::new(move || intercept(&interceptor, &receiver, &*answer_fn))
            }
            Target::Socket(path) => {
                let (pod, path) = (self.pod.clone(), path.clone());
                Box::new(move || decider::serve(&pod, &path, &receiver, &answer_fn))
            }
        };
        let thread = thread::Builder::new().name("policy-asks".to_owned()).spawn(run);
        thread.is_ok().then_some(sender)
    }
}

/// Asks a function until the pod is gone.
fn intercept(interceptor: &Interceptor, questions: &Receiver<Asked>, answer_fn: &AnswerFn) {
    for asked in questions {
        let verdict = (interceptor.decide_fn)(&asked.question);
        answer_fn(asked.vm, asked.number, verdict);
    }
}
