// SPDX-License-Identifier: Apache-2.0
//! `trine-vmm`.
fn main() {}
