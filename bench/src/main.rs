// SPDX-License-Identifier: Apache-2.0
//! x
fn main(){}
