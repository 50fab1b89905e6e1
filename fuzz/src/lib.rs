// SPDX-License-Identifier: Apache-2.0
//! Mutated input for everything that reads what a guest or a file says.
//!
//! A target is a function of bytes (`tests/`): errors are fine, a panic, a hang or a broken invariant
//! is a bug.  [`fuzz`] gives it every file of `corpus/TARGET`, and then mutations of them, for
//! `TRINE_FUZZ_SECONDS` (3 if not given), from the seed `TRINE_FUZZ_SEED`.  Mutations depend on the
//! seed alone, so that a run can be repeated; there is no feedback from coverage, for which stable
//! Rust has no instrumentation.  An input that fails is kept in `target/fuzz/TARGET`, and belongs
//! into the corpus with the fix.
//!
//! | module | what |
//! | --- | --- |
//! | [`mutate`] | mutations |
//! | [`guest`] | a guest's kernel whose calls are bytes, in front of an I/O server |
#![forbid(unsafe_code)]

pub mod guest;
pub mod mutate;

use std::{
    env, fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::mutate::Mutator;

/// Seconds for one target unless the environment says otherwise.
const SECONDS: u64 = 3;
const SEED: u64 = 0x7472_696e_6521;

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Runs a target on its corpus and on mutations of it.
///
/// # Panics
/// If the target does, with the input kept in a file; or if there is no corpus.
pub fn fuzz(target: &str, mut run_fn: impl FnMut(&[u8])) {
    let folder = root().join("corpus").join(target);
    let mut corpus: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry of the corpus").path())
        .map(|path| (path.clone(), fs::read(path).expect("a file of the corpus")))
        .collect();
    corpus.sort();
    assert!(!corpus.is_empty(), "{} is empty", folder.display());

    let seed = number("TRINE_FUZZ_SEED", SEED);
    let end = Instant::now() + Duration::from_secs(number("TRINE_FUZZ_SECONDS", SECONDS));
    let mut mutator = Mutator::new(seed);
    let mut runs = 0_u64;
    let mut run = |bytes: &[u8]| {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| run_fn(bytes)));
        if let Err(cause) = outcome {
            let kept = keep(target, bytes);
            eprintln!("{target}: seed {seed}: the input is in {}", kept.display());
            panic::resume_unwind(cause);
        }
    };
    for (_, bytes) in &corpus {
        run(bytes);
    }
    while Instant::now() < end {
        let inputs: Vec<&[u8]> = corpus.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        run(&mutator.input(&inputs));
        runs += 1;
    }
    println!("{target}: {} inputs of the corpus, {runs} mutations", corpus.len());
}

fn keep(target: &str, bytes: &[u8]) -> PathBuf {
    let folder = root().join("../target/fuzz").join(target);
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder.join(format!("{sum:016x}"));
    // The panic that follows is what matters.
    let _ = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, bytes));
    path
}
