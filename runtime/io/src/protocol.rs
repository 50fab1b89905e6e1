// SPDX-License-Identifier: Apache-2.0
//! What a sandbox and its I/O process say to each other, over a `trine_link::Link` on the I/O
//! process's standard input.
//!
//! ```text
//! sandbox                                          trine-io
//!  Setup       [network namespace] [audit log]  ->  confines itself
//!                                               <-  Ready
//!  Attach      [window, doorbell, notify, ...]  ->  a thread serves the window
//!                                               <-  Attached
//!  AddStreams  [...]                            ->  more handles
//!                                               <-  Added
//!  CloseStream                                  ->  end of input, or end of a stream
//!  RemoveStream                                 ->  the handle is gone
//!  Detach                                       ->  what was submitted is written, all is closed
//!                                               <-  Detached
//!  Policy                                       ->  another policy, from now on
//!                                               <-  Policy
//!                                               <-  Ask
//!  Verdict                                      ->  a call goes on
//!                                               <-  Violation, Failed
//! ```
//!
//! Every message is one frame of kind [`REQUEST`] or [`NOTICE`] with a JSON payload, and its
//! descriptors travel with it, in the order shown; `...` stands for those of its streams, in their
//! order: the stream itself and, if [`StreamSpec::held`], the other end of the FIFO.
//!
//! VM numbers and handles are the sandbox's choice, and requests are executed in order, so that it
//! can send them before the process has even started.  It must have seen `Attached` or `Added`
//! before it lets a guest use the streams.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use trine_jail::Landlock;
use trine_policy::{
    Policy, PolicyError,
    case::{Question, Verdict},
};

/// Kind of a frame that carries a [`Request`].
pub const REQUEST: u8 = 1;
/// Kind of a frame that carries a [`Notice`].
pub const NOTICE: u8 = 2;

/// Most streams that one VM may have at a time.
pub const MAX_STREAMS: usize = 1024;

/// Which way the bytes of a stream go, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// The guest reads: standard input.
    In,
    /// The guest writes: standard output and error.
    Out,
}

/// What a stream's descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamKind {
    /// Anything that read(2) and write(2) work on, in non-blocking mode where it can block.
    Plain,
    /// As `Plain`, but the open file is shared with others, who expect it in blocking mode:
    /// non-blocking mode is set now and taken back when the stream ends.
    Borrowed,
    /// A socket, in whatever mode.
    Socket,
}

/// One stream of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// A handle that this VM never had.
    pub handle: u32,
    /// Which way.
    pub direction: Direction,
    /// What it is.
    pub kind: StreamKind,
    /// A second descriptor follows, the other end of the FIFO.  It is held open so that peers may
    /// come and go: until `CloseStream` for an input, until the bytes are read for an output.
    pub held: bool,
}

/// One volume of a VM.  Its descriptor, an `O_PATH` one of a directory or regular file that is the
/// root of a mount of its own, comes after those of the streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// The handle of its root.
    pub handle: u32,
    /// It takes no writes; its mount is read-only as well.
    pub readonly: bool,
    /// Where it is in the container, for the policy and its log.
    pub destination: String,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    /// The file's name, for messages.
    pub name: String,
    /// The text of the file; empty = everything is accepted.
    pub text: String,
    /// Functions of the sandbox that decide before its rules do.
    pub interceptors: Vec<InterceptorSpec>,
}

/// A function of the sandbox that decides about calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterceptorSpec {
    /// Its name.
    pub name: String,
    /// The calls, or groups of calls, that it is asked about.
    pub calls: Vec<String>,
    /// How long it may take.
    pub milliseconds: u32,
    /// The errno of calls that it does not decide about in time.
    pub otherwise: u16,
}

impl PolicySpec {
    /// Checks the policy.
    ///
    /// # Errors
    /// [`PolicyError`] with the line.
    pub fn parse(&self) -> Result<Policy, PolicyError> {
        let mut policy = match self.text.trim() {
            "" => Policy::accept_all(),
            _ => Policy::parse(&self.name, &self.text)?,
        };
        for interceptor in self.interceptors.iter().rev() {
            let deadline = Duration::from_millis(interceptor.milliseconds.into());
            policy.intercept(
                &interceptor.name,
                &interceptor.calls,
                deadline,
                interceptor.otherwise,
            )?;
        }
        Ok(policy)
    }
}

/// What narrows a policy: rules that accept, block and log only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Narrowing {
    /// A policy file's text; empty = no rules.
    pub text: String,
    /// Names of presets.
    pub presets: Vec<String>,
}

impl Narrowing {
    /// Checks it; the ids of its rules begin with `prefix`.
    ///
    /// # Errors
    /// [`PolicyError`] with the line.
    pub fn parse(&self, name: &str, prefix: &str) -> Result<Policy, PolicyError> {
        Policy::narrowing(name, prefix, &self.text, &self.presets)
    }
}

/// What the sandbox asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first request.  Without a network namespace there is a fresh one that has a loopback
    /// interface and nothing else.
    Setup {
        /// The pod's name, for messages.
        name: String,
        /// A descriptor comes along: the network namespace to live in.
        network: bool,
        /// The pod's policy.
        policy: Option<PolicySpec>,
        /// What narrows it for the whole pod.
        narrowing: Option<Narrowing>,
        /// A descriptor comes along, after the namespace: a file that takes the policy's log.
        audit: bool,
        /// Whether the process confines itself with Landlock.
        landlock: Landlock,
        /// The log is of all calls, each once.
        record: bool,
    },
    /// A VM to serve: its window (memfd), doorbell and notification (eventfds), and first streams.
    /// Answered by [`Notice::Attached`].
    Attach {
        /// A number that no VM of this process ever had.
        vm: u32,
        /// The container's id, for the policy and its log.
        container: String,
        /// Its streams.
        streams: Vec<StreamSpec>,
        /// Its volumes.
        volumes: Vec<VolumeSpec>,
        /// What narrows the pod's policy for this container.
        narrowing: Option<Narrowing>,
    },
    /// More streams of a VM.  Answered by [`Notice::Added`].
    AddStreams {
        /// The VM.
        vm: u32,
        /// Comes back in the answer.
        ticket: u32,
        /// The streams.
        streams: Vec<StreamSpec>,
    },
    /// For an input: the guest sees its end after the bytes that are under way.  For an output:
    /// closed after the writes before it.
    CloseStream {
        /// The VM.
        vm: u32,
        /// The stream.
        handle: u32,
    },
    /// Drops a stream, and what waits for it.
    RemoveStream {
        /// The VM.
        vm: u32,
        /// The stream; nothing happens if there is none.
        handle: u32,
    },
    /// The pod has another policy from now on: calls that come after the answer, a
    /// [`Notice::Policy`], are decided by it.  What is open or connected stays so.
    Policy {
        /// A number that no policy of this process ever had; the first one has 0.
        generation: u64,
        /// The policy.
        policy: PolicySpec,
    },
    /// Answers [`Notice::Ask`].
    Verdict {
        /// The VM.
        vm: u32,
        /// From the question.
        question: u64,
        /// The answer.
        verdict: Verdict,
    },
    /// Writes what the VM has submitted and answers [`Notice::Detached`] when that is done, at the
    /// latest after `milliseconds`.
    Detach {
        /// The VM.
        vm: u32,
        /// How long to wait for slow readers.
        milliseconds: u32,
    },
}

/// What the I/O process tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// Confined, and serving.
    Ready,
    /// Answers [`Request::Attach`].
    Attached {
        /// The VM.
        vm: u32,
    },
    /// Answers [`Request::AddStreams`].
    Added {
        /// The VM.
        vm: u32,
        /// From the request.
        ticket: u32,
    },
    /// Answers [`Request::Detach`].
    Detached {
        /// The VM.
        vm: u32,
        /// Bytes that were submitted and could not be written in time.
        lost_bytes: u64,
    },
    /// Answers [`Request::Policy`].
    Policy {
        /// From the request.
        generation: u64,
        /// Why the old one stays, if it does.
        refused: Option<String>,
    },
    /// A rule asks somebody whom the sandbox knows.  There need not be an answer.
    Ask {
        /// The VM.
        vm: u32,
        /// A number that no other question of this VM has.
        question: u64,
        /// Which policy asks.
        generation: u64,
        /// Whom it asks: index into its targets.
        target: usize,
        /// What.
        what: Question,
    },
    /// A guest broke the rules of the window, which is not served any more.
    Violation {
        /// The VM.
        vm: u32,
        /// Which rule, one line.
        reason: String,
    },
    /// Something failed on the host's side.
    Failed {
        /// The VM that is not served because of it; `None`: the whole process ends.
        vm: Option<u32>,
        /// What, one line.
        reason: String,
    },
}
