// SPDX-License-Identifier: Apache-2.0
//! The tasks of a pod: what the task API means, without the API.
//!
//! | module | |
//! | --- | --- |
//! | [`machine`] | state and order of events of one task, without any waiting |
//! | [`task`] | one task: the machine, its guest, and those who wait |
//! | [`registry`] | all tasks, and the pod they share |
//! | [`create`] | from a bundle to a task |
//! | [`sandbox`] | the "container" that is the pod itself |
//! | [`failure`] | errors and their status codes |
//!
//! Calls of the library below block, so they run on threads for that; nothing is locked meanwhile.

pub mod create;
pub mod failure;
pub mod machine;
pub mod registry;
pub mod sandbox;
pub mod task;

pub use create::CreateRequest;
pub use failure::{Failure, chain};
pub use machine::{Exit, Phase, View};
pub use registry::{Registry, Settings};
pub use task::{Task, Waiting};
