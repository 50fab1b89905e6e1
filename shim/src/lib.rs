// SPDX-License-Identifier: Apache-2.0
//! containerd-shim-trine-v1
#![forbid(unsafe_code)]

pub mod translate;
