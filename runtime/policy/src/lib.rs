// SPDX-License-Identifier: Apache-2.0
//! Policies: which forwarded calls are accepted, blocked or changed.
//!
//! A policy is an ordered list of rules in TOML; the first rule that matches a call decides it, and
//! the default decides the rest.  `docs/policy.md` describes the file, `docs/policy.schema.json` is
//! its schema.  [`Policy::parse`] checks a file, [`Engine::new`] compiles it, and
//! [`Engine::decide`] is called for each forwarded call by `trine-io`, where nothing that a guest
//! does can go around it.
//!
//! ```
//! use trine_policy::{Action, Call, CallKind, Engine, Policy};
//!
//! let policy = Policy::parse("rules", r#"
//!     version = 1
//!     [[rule]]
//!     id = "no-metadata"
//!     calls = ["net-out"]
//!     addresses = ["169.254.169.254"]
//!     action = "block"
//!     errno = "ECONNREFUSED"
//! "#)?;
//! let engine = Engine::new(&policy);
//! let call = Call {
//!     address: Some("169.254.169.254:80".parse()?),
//!     ..Call::new(CallKind::Connect, "web")
//! };
//! let decision = engine.decide(&call);
//! assert_eq!(decision.action, Action::Block(111));
//! assert_eq!(decision.rule, Some("no-metadata"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`call`] | calls and their groups |
//! | `file`, [`rule`] | the policy file, parsed and checked; its rules |
//! | `presets` | rules that have a name |
//! | [`glob`], [`address`] | path patterns, address ranges |
//! | `engine`, [`layer`] | decisions; one policy among those that decide together |
//! | [`case`], [`meter`] | calls that have to wait; what is left of limits |
//! | [`audit`] | the log |
//! | [`learn`], [`diff`] | policies from logs, and what two policies decide differently |
#![forbid(unsafe_code)]

pub mod address;
pub mod audit;
pub mod call;
pub mod case;
pub mod diff;
mod engine;
pub mod errno;
mod file;
pub mod glob;
pub mod layer;
pub mod learn;
pub mod meter;
mod presets;
pub mod rule;

pub use call::{Call, CallKind};
pub use engine::{Action, Decision, Engine};
pub use file::{Default, Policy, PolicyError};
pub use rule::{Rule, RuleAction};
