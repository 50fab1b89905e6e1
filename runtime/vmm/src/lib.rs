// SPDX-License-Identifier: Apache-2.0
//! `trine-vmm`: the process that owns one VM.
//!
//! The library part is what the sandbox needs to talk to it: [`protocol`].

pub mod protocol;
