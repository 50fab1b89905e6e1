// SPDX-License-Identifier: Apache-2.0
//! Requests whose decision has to wait: for a time, or for somebody's answer.
//!
//! There are no more than the window has ids, and a few accepted connections, so that the list is
//! short.  What waits holds up nothing else: the thread goes on with other requests.

use std::time::Instant;

use trine_abi::window::Submission;
use trine_policy::case::{Case, Verdict, Wait};

use crate::{guard::Guard, service::Kind};

/// What goes on when the wait is over.
#[derive(Debug)]
pub(crate) enum What {
    /// A request, with the private copy of its arguments that is decided about.
    Request(Submission, Vec<u8>),
    /// Something of a service's own.
    Token(u32),
}

/// Something that waits.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) kind: Kind,
    pub(crate) what: What,
    pub(crate) case: Case,
    until: Instant,
    /// Waits for the answer to this question until then.
    question: Option<u64>,
    /// What it is taken for if nothing comes.
    otherwise: Option<Verdict>,
}

/// All that waits.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    held: Vec<Held>,
    next_question: u64,
}

impl Holds {
    /// Begins to wait for what a case waits for.
    pub(crate) fn hold(&mut self, vm: u32, guard: &Guard, kind: Kind, what: What, case: Case) {
        let now = Instant::now();
        let (until, question, otherwise) = match case.waits_for() {
            Some(Wait::Pause(time)) => (now + *time, None, None),
            Some(Wait::Answer { target, question, deadline }) => {
                let number = self.next_question;
                self.next_question += 1;
                let silence = |reason: &str| Some(Verdict::None(reason.to_owned()));
                if guard.ask(vm, number, *target, question.clone()) {
                    let late = format!("no answer within {} ms", deadline.as_millis());
                    (now + *deadline, Some(number), silence(&late))
                } else {
                    (now, None, silence("there are too many questions"))
                }
            }
            // It was resumed already: it goes on at once.
            None => (now, None, None),
        };
        self.held.push(Held { kind, what, case, until, question, otherwise });
    }

    /// When [`Holds::next_due`] has something, if nothing comes before that.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.until).min()
    }

    /// Takes something whose time is over, ready to go on.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Held> {
        let at = self.held.iter().position(|held| held.until <= now)?;
        let mut held = self.held.remove(at);
        let otherwise = held.otherwise.take();
        held.case.resume(otherwise);
        Some(held)
    }

    /// An answer came; it is nothing if its question is no longer open.
    pub(crate) fn answer(&mut self, question: u64, verdict: Verdict) {
        if let Some(held) = self.held.iter_mut().find(|held| held.question == Some(question)) {
            held.until = Instant::now();
            held.otherwise = Some(verdict);
            held.question = None;
        }
    }

    /// Takes out a request that the guest does not want to wait for; true if it was there.
    pub(crate) fn cancel(&mut self, id: u32) -> bool {
        let is_it =
            |held: &Held| matches!(&held.what, What::Request(request, _) if request.id == id);
        let at = self.held.iter().position(is_it);
        if let Some(at) = at {
            self.held.remove(at);
        }
        at.is_some()
    }
}
