// SPDX-License-Identifier: Apache-2.0
//! A guest whose calls are bytes in front of an I/O server: rings, walks, files, socket addresses.
#![forbid(unsafe_code)]

use trine_fuzz::{fuzz, guest::Ground};

#[test]
fn calls_of_any_kind_harm_nothing() {
    let Some(mut ground) = Ground::new() else {
        println!("skipped: needs root, for mounts and a network namespace");
        return;
    };
    fuzz("server", |bytes| ground.run(bytes));
}
