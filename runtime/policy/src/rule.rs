// SPDX-License-Identifier: Apache-2.0
//! What a rule is once it was checked.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{CallKind, address::Range, glob::Glob};

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// The call is made.
    Accept,
    /// The call fails with this errno.
    Block(u16),
    /// A file call is made for this path instead; with `prefix`, this replaces the part of the path
    /// that the prefix is.
    RewritePath {
        /// What is replaced; empty: the whole path.
        prefix: String,
        /// What it is replaced by.
        to: String,
    },
    /// A socket call is made for this address instead.
    RewriteAddress(SocketAddr),
    /// A file is opened with these flags of open(2) as well.
    AddFlags(u32),
    /// The call is not made, and has this result.
    Pin(Pin),
    /// Somebody else decides.
    Ask(Ask),
    /// The call is logged, and the next rules decide.
    Log,
}

/// The result of a call that is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// 0: it is said to have worked.
    Done,
    /// Bytes: a link's target, or an attribute's value.
    Bytes(Vec<u8>),
}

/// A question to somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whom: index into [`crate::Policy::targets`].
    pub target: usize,
    /// How long an answer may take.
    pub deadline: Duration,
    /// What happens without an answer: the call fails with this errno, or `None`: it is made.
    pub otherwise: Option<u16>,
}

/// Who can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A program that listens on a Unix socket.
    Socket(PathBuf),
    /// A function of the program that uses Trine as a library.
    Interceptor(String),
}

/// How much a rule lets each container do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Calls.
    pub calls: Option<u64>,
    /// Bytes moved by what the calls open or connect.
    pub bytes: Option<u64>,
    /// The budgets fill again in this time; `None`: never.
    pub seconds: Option<u64>,
    /// What happens to calls over it; moving bytes over it always fails with the errno.
    pub over: Over,
    /// The errno of what is over it.
    pub errno: u16,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let budgets = [(self.calls, "calls"), (self.bytes, "bytes")];
        let budgets =
            budgets.iter().filter_map(|(most, what)| Some(format!("{} {what}", (*most)?)));
        f.write_str(&budgets.collect::<Vec<_>>().join(" and "))?;
        if let Some(seconds) = self.seconds {
            write!(f, " in {seconds} s")?;
        }
        match self.over {
            Over::Block => write!(f, ", else {}", crate::errno::name(self.errno)),
            Over::Next => f.write_str(", else the next rules"),
        }
    }
}

/// What happens to calls over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// They fail.
    Block,
    /// The next rules decide, as if the rule did not match.
    Next,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name in the log.
    pub id: String,
    /// Its line in the file; 0 for a preset's.
    pub line: usize,
    /// Set of calls, a bit for each [`CallKind`].
    pub(crate) calls: u32,
    pub(crate) paths: Vec<Glob>,
    pub(crate) addresses: Vec<Range>,
    pub(crate) ports: Vec<(u16, u16)>,
    pub(crate) names: Vec<String>,
    pub(crate) containers: Vec<String>,
    /// What it does.
    pub action: RuleAction,
    /// How often.
    pub limit: Option<Limit>,
    /// How long each call waits first.
    pub delay: Duration,
    /// Whether the calls that it decides are logged.
    pub log: bool,
}

impl Rule {
    /// A rule that matches every call of a set.
    pub(crate) fn new(id: String, calls: u32, action: RuleAction) -> Self {
        Self {
            id,
            line: 0,
            calls,
            paths: Vec::new(),
            addresses: Vec::new(),
            ports: Vec::new(),
            names: Vec::new(),
            containers: Vec::new(),
            action,
            limit: None,
            delay: Duration::ZERO,
            log: false,
        }
    }

    /// Whether it is about a kind of call.
    pub(crate) fn covers(&self, kind: CallKind) -> bool {
        self.calls & 1 << kind as u32 != 0
    }

    /// Whether two rules decide the same about the same calls, wherever they are.
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |rule: &Self| {
            let Rule { calls, paths, addresses, ports, names, containers, .. } = rule.clone();
            let Rule { action, limit, delay, log, .. } = rule.clone();
            ((calls, paths, addresses, ports), (names, containers, action, limit, delay, log))
        };
        key(self) == key(other)
    }
}

/// Flags of open(2) that a rule may add.  O_NOFOLLOW is not among them: the guest's kernel follows
/// links, and what is opened on the host is never one.
pub(crate) const FLAGS: &[(&str, u32)] = &[
    ("O_APPEND", 0o2000),
    ("O_DSYNC", 0o10000),
    ("O_DIRECT", 0o40000),
    ("O_NOATIME", 0o1_000_000),
    ("O_SYNC", 0o4_010_000),
];
