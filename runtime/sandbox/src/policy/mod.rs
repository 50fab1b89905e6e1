// SPDX-License-Identifier: Apache-2.0
//! Policies of pods: what containers may forward to the host, and who decides about it.
//!
//! The I/O process decides, by the rules of a policy file (`docs/policy.md`).  A program can put
//! functions of its own before the rules, [`Interceptor`]s, and annotations can narrow what the
//! rules accept ([`narrowing`]).
//!
//! ```no_run
//! use trine::{
//!     Pod, PodOptions,
//!     policy::{Interceptor, Source, Verdict},
//! };
//!
//! const EACCES: u16 = 13;
//! let policy = r#"
//!     version = 1
//!     presets = ["net-private-only"]
//! "#;
//! let no_keys = Interceptor::new("no-keys", &["openat"], |call| match &call.path {
//!     Some(path) if path.ends_with(b".key") => Verdict::Block(EACCES),
//!     Some(path) if path == b"/data/live" => Verdict::RewritePath(b"/data/frozen".to_vec()),
//!     // What this function has no opinion about, the rules decide.
//!     _ => Verdict::Next,
//! });
//! let pod = Pod::create(PodOptions {
//!     name: "web".into(),
//!     policy: Some(Source::Text(policy.into())),
//!     interceptors: vec![no_keys],
//!     ..PodOptions::default()
//! })?;
//! # Ok::<(), trine::Error>(())
//! ```

mod annotations;
mod asker;
mod decider;

use std::{
    fmt,
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use trine_io::protocol::Narrowing;
use trine_io::protocol::{InterceptorSpec, PolicySpec};
use trine_policy::rule::Target;
pub use trine_policy::{
    Policy,
    case::{Question, Verdict},
};

pub use self::annotations::narrowing;
pub(crate) use self::asker::Asker;
use crate::{Error, PodOptions};

/// How long an interceptor may take if it does not say.
const DEADLINE: Duration = Duration::from_secs(5);
const EPERM: u16 = 1;

/// Where a policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file, which is read when the pod is created, and whenever the policy is loaded anew.
    File(PathBuf),
    /// Here.
    Text(String),
}

impl Source {
    /// Its name, for messages.
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Text(_) => "policy".to_owned(),
        }
    }

    fn read(&self) -> Result<String, Error> {
        match self {
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|source| Error::host(format!("read policy {}", self.name()), source)),
            Self::Text(text) => Ok(text.clone()),
        }
    }
}

type DecideFn = dyn Fn(&Question) -> Verdict + Send + Sync;

/// A function of this program that decides about calls, before the rules of the policy do.
#[derive(Clone)]
pub struct Interceptor {
    name: String,
    calls: Vec<String>,
    deadline: Duration,
    otherwise: u16,
    decide_fn: Arc<DecideFn>,
}

impl fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interceptor")
            .field("name", &self.name)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl Interceptor {
    /// Has a function asked about calls, or groups of calls, which wait for it; others do not.  The
    /// function runs on a thread of its interceptor, one call after the other, and a call that is
    /// not decided about within 5 s fails with EPERM.
    pub fn new(
        name: &str,
        calls: &[&str],
        decide_fn: impl Fn(&Question) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            calls: calls.iter().map(|call| (*call).to_owned()).collect(),
            deadline: DEADLINE,
            otherwise: EPERM,
            decide_fn: Arc::new(decide_fn),
        }
    }

    /// Sets how long it may take, and the errno of calls that it does not decide about by then.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration, otherwise: u16) -> Self {
        Self { deadline, otherwise, ..self }
    }

    fn spec(&self) -> InterceptorSpec {
        InterceptorSpec {
            name: self.name.clone(),
            calls: self.calls.clone(),
            milliseconds: u32::try_from(self.deadline.as_millis()).unwrap_or(u32::MAX),
            otherwise: self.otherwise,
        }
    }
}

/// What a pod was given as its policy.
#[derive(Debug, Default)]
pub(crate) struct PodPolicy {
    source: Option<Source>,
    interceptors: Vec<Interceptor>,
    pub(crate) narrowing: Option<Narrowing>,
    /// The log is of all calls, each once.
    pub(crate) records: bool,
    audit: Option<PathBuf>,
}

/// A policy that was read and checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    /// What the I/O process is told; `None` = everything is accepted.
    pub(crate) spec: Option<PolicySpec>,
    /// Whom it may ask.
    pub(crate) targets: Vec<Target>,
    /// It lets no programs run from volumes.
    pub(crate) no_exec: bool,
}

impl PodPolicy {
    /// What the options say; `log` is that of the pod's processes, if it has one.
    pub(crate) fn new(options: &PodOptions, log: Option<&Path>) -> Self {
        let is_wanted = options.policy.is_some()
            || options.narrowing.is_some()
            || !options.interceptors.is_empty();
        let beside = log.filter(|_| is_wanted).map(|log| {
            let mut path = log.as_os_str().to_owned();
            path.push(".audit");
            path.into()
        });
        Self {
            source: options.policy.clone(),
            interceptors: options.interceptors.clone(),
            narrowing: options.narrowing.clone(),
            records: options.record,
            audit: options.audit.clone().or(beside),
        }
    }

    /// Whether there is a file or text to load.
    pub(crate) fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// Takes another source from now on.
    pub(crate) fn set_source(&mut self, source: Source) {
        self.source = Some(source);
    }

    /// The functions that can be asked.
    pub(crate) fn interceptors(&self) -> &[Interceptor] {
        &self.interceptors
    }

    /// Opens the log.
    pub(crate) fn open_log(&self) -> Result<Option<OwnedFd>, Error> {
        let open = |path: &PathBuf| {
            let file = File::options().append(true).create(true).open(path);
            file.map(OwnedFd::from)
                .map_err(|source| Error::host(format!("open audit log {}", path.display()), source))
        };
        self.audit.as_ref().map(open).transpose()
    }

    /// Reads and checks the policy from `source`, or from where it was.
    ///
    /// # Errors
    /// [`Error::Invalid`] with file, line and reason.
    pub(crate) fn check(&self, source: Option<&Source>) -> Result<Checked, Error> {
        let source = source.or(self.source.as_ref());
        let (name, text) = match source {
            Some(source) => (source.name(), source.read()?),
            None => ("policy".to_owned(), String::new()),
        };
        // The reason begins with the file's name.
        let refuse = |reason: String| Error::Invalid { what: "policy".to_owned(), reason };
        if source.is_some() && text.trim().is_empty() {
            return Err(refuse(format!("{name}:1: it is empty: give it version = 1")));
        }
        let interceptors = self.interceptors.iter().map(Interceptor::spec).collect();
        let spec = PolicySpec { name: name.clone(), text, interceptors };
        let policy = spec.parse().map_err(|error| refuse(error.to_string()))?;
        let has = |wanted: &str| self.interceptors.iter().any(|known| known.name == wanted);
        for target in &policy.targets {
            if let Target::Interceptor(wanted) = target
                && !has(wanted)
            {
                let reason =
                    format!("{name}: it asks interceptor {wanted:?}, which this program has not");
                return Err(refuse(reason));
            }
        }
        let narrowed = match &self.narrowing {
            Some(narrowing) => check_narrowing(narrowing)?,
            None => false,
        };
        let is_empty = source.is_none() && self.interceptors.is_empty();
        Ok(Checked {
            spec: (!is_empty).then_some(spec),
            no_exec: policy.no_exec || narrowed,
            targets: policy.targets,
        })
    }
}

/// Checks what narrows a policy; true if it lets no programs run from volumes.
pub(crate) fn check_narrowing(narrowing: &Narrowing) -> Result<bool, Error> {
    let policy = narrowing.parse("annotation", "").map_err(|error| Error::Invalid {
        what: "annotations of the policy".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(policy.no_exec)
}
