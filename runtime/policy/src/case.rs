// SPDX-License-Identifier: Apache-2.0
//! A call whose decision takes more than the rules: it waits, or somebody else is asked.
//!
//! Such a call is decided anew when it can go on, from the first rule, with what was found out so
//! far.  An answer counts for the very call that was asked about, under the very policy: if a file
//! has another path by then, or the policy is another, the question is put again.

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{Call, CallKind, meter::Budget};

/// Most findings of one case: a request has at most some dozen calls.
const PAST_MAX: usize = 256;

/// What somebody else says about a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is made.
    Accept,
    /// It fails with this errno.
    Block(u16),
    /// It is made for this path.
    RewritePath(Vec<u8>),
    /// It is made for this address.
    RewriteAddress(SocketAddr),
    /// The next rules decide.
    Next,
    /// There is no answer: why.
    None(String),
}

/// A call that somebody else is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The rule that asks.
    pub rule: String,
    /// The container.
    pub container: String,
    /// The call's Linux name.
    pub call: String,
    /// Whether it opens for writing.
    pub writes: bool,
    /// The file's path in the container.
    pub path: Option<Vec<u8>>,
    /// The socket's address.
    pub address: Option<SocketAddr>,
    /// DNS names of the address.
    pub names: Vec<String>,
}

impl Question {
    pub(crate) fn new(rule: &str, call: &Call<'_>) -> Self {
        Self {
            rule: rule.to_owned(),
            container: call.container.to_owned(),
            call: call.kind.name().to_owned(),
            writes: call.kind == CallKind::OpenWrite,
            path: call.path.map(<[u8]>::to_vec),
            address: call.address,
            names: call.names.to_vec(),
        }
    }
}

/// Why a decision has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It was told to, for so long.
    Pause(Duration),
    /// For an answer.
    Answer {
        /// Whom to ask: index into [`crate::Policy::targets`].
        target: usize,
        /// What.
        question: Question,
        /// How long the answer may take.
        deadline: Duration,
    },
}

/// Stands for a call under a rule of a policy; nobody outside can find two that are alike.
pub(crate) type Mark = (u64, u64);

#[derive(Debug)]
enum Past {
    Charged,
    Paused,
    Answered(Verdict),
}

/// What is known of one request of a guest.
#[derive(Debug, Default)]
pub struct Case {
    keys: Option<(RandomState, RandomState)>,
    past: Vec<(Mark, Past)>,
    open: Option<(Mark, Wait)>,
    pub(crate) budget: Budget,
}

impl Case {
    /// Ends the wait that the last decision began with what came of it; `None` if it was a pause.
    pub fn resume(&mut self, verdict: Option<Verdict>) {
        self.budget = Budget::default();
        if let Some((mark, _)) = self.open.take() {
            self.past.push((mark, verdict.map_or(Past::Paused, Past::Answered)));
        }
    }

    /// What the last decision waits for.
    pub fn waits_for(&self) -> Option<&Wait> {
        self.open.as_ref().map(|(_, wait)| wait)
    }

    /// Takes what limits the bytes of the calls that were accepted since the last time.
    pub fn take_budget(&mut self) -> Budget {
        std::mem::take(&mut self.budget)
    }

    /// Whether it has gone on for longer than any real request does.
    pub(crate) fn is_full(&self) -> bool {
        self.past.len() >= PAST_MAX
    }

    pub(crate) fn mark(&mut self, place: (u64, usize, usize), call: &Call<'_>) -> Mark {
        let keys = self.keys.get_or_insert_with(Default::default);
        let one = |key: &RandomState| {
            let mut hasher = key.build_hasher();
            (place, call.kind as u8, call.path, call.address, call.names).hash(&mut hasher);
            hasher.finish()
        };
        (one(&keys.0), one(&keys.1))
    }

    pub(crate) fn is_charged(&self, mark: Mark) -> bool {
        self.past.iter().any(|(at, past)| *at == mark && matches!(past, Past::Charged))
    }

    pub(crate) fn is_paused(&self, mark: Mark) -> bool {
        self.past.iter().any(|(at, past)| *at == mark && matches!(past, Past::Paused))
    }

    pub(crate) fn verdict(&self, mark: Mark) -> Option<&Verdict> {
        self.past.iter().find_map(|(at, past)| match past {
            Past::Answered(verdict) if *at == mark => Some(verdict),
            _ => None,
        })
    }

    pub(crate) fn charged(&mut self, mark: Mark) {
        if !self.is_charged(mark) {
            self.past.push((mark, Past::Charged));
        }
    }

    pub(crate) fn wait(&mut self, mark: Mark, wait: Wait) {
        self.open = Some((mark, wait));
    }
}
