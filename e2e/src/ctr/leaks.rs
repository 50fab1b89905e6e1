// SPDX-License-Identifier: Apache-2.0
//! Many containers leave nothing behind.

use std::{env, process::Stdio, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    bed::Bed,
    census::Census,
    command::{self, Running},
    images::BUSYBOX,
    suite::Suite,
};

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("leaks-sequential", || {
        let count = count("TRINE_E2E_SEQUENTIAL", 200)?;
        unchanged(bed, || {
            for number in 0..count {
                let word = format!("run {number}");
                bed.run(BUSYBOX, &["/bin/echo", &word])?.expect(&word)?;
            }
            Ok(())
        })
    });
    suite.case("leaks-parallel", || {
        let count = count("TRINE_E2E_PARALLEL", 20)?;
        unchanged(bed, || at_once(bed, count))
    });
}

fn count(variable: &str, default: u32) -> Result<u32> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is {text:?}")),
        Err(_) => Ok(default),
    }
}

/// Takes a census before and after.
fn unchanged(bed: &Bed, run_fn: impl Fn() -> Result<()>) -> Result<()> {
    // What is made once (the image in the cache, containerd's pools) is made now.
    for _ in 0..3 {
        at_once(bed, 2)?;
    }
    bed.collect_garbage()?;
    let scope = bed.scope(true);
    let before = Census::take(&scope)?;
    run_fn()?;
    bed.collect_garbage()?;
    before.expect_same(&scope)
}

fn at_once(bed: &Bed, count: u32) -> Result<()> {
    let mut started: Vec<(String, Running)> = Vec::new();
    for number in 0..count {
        let word = format!("run {number}");
        let mut ctr = bed.ctr_run(&["--rm"], BUSYBOX, &bed.id("leak"), &["/bin/echo", &word]);
        started.push((word, command::start(&mut ctr, Stdio::null())?));
    }
    for (word, running) in started {
        running.wait(Duration::from_secs(120))?.expect(&word)?;
    }
    Ok(())
}
