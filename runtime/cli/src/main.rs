// SPDX-License-Identifier: Apache-2.0
//! (doc)
fn main() {}
