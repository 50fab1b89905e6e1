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
//! | `file` | the policy file, parsed and checked |
//! | `presets` | rules that have a name |
//! | [`glob`], [`address`] | path patterns, address ranges |
//! | `engine` | decisions |
//! | [`audit`] | the log |
#![forbid(unsafe_code)]

pub mod address;
pub mod audit;
pub mod call;
mod engine;
mod errno;
mod file;
pub mod glob;
mod presets;

pub use call::{Call, CallKind};
pub use engine::{Action, Decision, Engine};
pub use file::{Default, Policy, PolicyError, Rule, RuleAction};
