// SPDX-License-Identifier: Apache-2.0
//! Compatibility: programs and test suites from Debian, under runc and then under Trine.
//!
//! Each source has a list in `e2e/compat`, one line a case, which says what is expected of Trine.
//! runc is the oracle: a case is good if it does under Trine what it does under runc.  A `must` that
//! differs fails the run; so does a `known-fail` that does not, since its line is then wrong.
//!
//! | module | what |
//! | --- | --- |
//! | [`list`] | the lists |
//! | [`source`] | where cases come from, and how they are run and compared |
//! | [`roots`] | the root file systems, made of Debian packages |
//! | [`engine`] | runc and Trine as ways to run a command |
//! | [`oracle`] | what runc did, kept |
//! | [`judge`] | what came of a case |
//! | [`document`] | the summary in `docs/compatibility.md` |

mod document;
mod engine;
mod judge;
mod list;
mod oracle;
mod roots;
mod source;

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use clap::Args;

use self::{
    engine::{Engine, Runc, Trine},
    judge::{Totals, Verdict},
    list::{Case, Expected},
    oracle::Oracle,
    source::Source,
};
use crate::{isolate, paths, suite};

/// What `compat` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Run only the cases that are marked `fast`
    #[arg(long)]
    fast: bool,
    /// Run only this source
    #[arg(long)]
    source: Option<String>,
    /// Ask runc again, although it was asked before
    #[arg(long)]
    ask_again: bool,
    /// Run so many cases at once [default: the number of CPUs]
    #[arg(long)]
    jobs: Option<usize>,
    /// Give cases so many times the time that their lines say, on a busy host
    #[arg(long, default_value_t = 1)]
    patience: u32,
    /// Remove each root file system and its image once its cases ran, for hosts with little disk
    #[arg(long)]
    tidy: bool,
    /// Run no case; write the summary of the lists into docs/compatibility.md
    #[arg(long)]
    document: bool,
    /// Run only the cases whose names contain one of these, or are one of these behind `=`
    words: Vec<String>,
}

impl Arguments {
    fn wants(&self, source: Source, case: &Case) -> bool {
        self.source.as_deref().is_none_or(|name| name == source.name)
            && (!self.fast || case.is_fast)
            && (self.words.is_empty() || self.words.iter().any(|word| is_named(&case.name, word)))
    }

    /// The command line that runs the cases of a source.
    fn words(&self, source: Source) -> Vec<String> {
        let mut words = vec!["compat-inside".to_owned()];
        words.extend(self.fast.then(|| "--fast".to_owned()));
        words.extend(self.ask_again.then(|| "--ask-again".to_owned()));
        words.push(format!("--source={}", source.name));
        words.extend(self.jobs.iter().map(|jobs| format!("--jobs={jobs}")));
        words.push(format!("--patience={}", self.patience));
        words.push("--".to_owned());
        words.extend(self.words.iter().cloned());
        words
    }
}

/// Whether a word names a case: it is part of its name, or all of it behind `=`.
fn is_named(name: &str, word: &str) -> bool {
    match word.strip_prefix('=') {
        Some(whole) => name == whole,
        None => name.contains(word),
    }
}

/// Makes what the cases need, then runs them in namespaces of their own.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.document {
        document::write()?;
        return Ok(true);
    }
    if !Path::new("/dev/kvm").exists() {
        return Ok(suite::skip_all("compat", "this host has no /dev/kvm, so no VM can run here"));
    }
    let mut sources = Vec::new();
    for source in source::ALL {
        let cases = source.cases()?;
        if cases.iter().any(|case| case.is_run() && arguments.wants(*source, case)) {
            sources.push(*source);
        }
    }
    if sources.is_empty() {
        return Ok(suite::skip_all("compat", "no case of that name is run"));
    }
    let mut is_good = true;
    for group in sources.chunk_by(|one, other| one.root == other.root) {
        for source in group {
            is_good &= run_outside(arguments, *source)?;
        }
        if arguments.tidy {
            group.first().map_or(Ok(()), |source| roots::remove(source.root))?;
            remove_images()?;
        }
    }
    Ok(is_good)
}

/// Makes what the cases of a source need, then runs them in namespaces of their own.
fn run_outside(arguments: &Arguments, source: Source) -> Result<bool> {
    if let Err(error) = roots::prepare(source.root) {
        println!("suite compat {}: 0 passed, 1 failed, 0 skipped: {error:#}", source.name);
        return Ok(false);
    }
    let words = arguments.words(source);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    isolate::run(&words)
}

/// Makes the root file system that the benchmark runs programs in, and returns its directory.
pub(crate) fn bench_root() -> Result<PathBuf> {
    roots::prepare(roots::BENCH)?;
    Ok(roots::BENCH.path())
}

/// Removes the images: they are made again of the root file systems.
fn remove_images() -> Result<()> {
    let folder = engine::images();
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Runs the cases.
pub(crate) fn run_inside(arguments: &Arguments) -> Result<bool> {
    let folder = isolate::folder()?;
    let mut is_good = true;
    for source in source::ALL {
        let cases: Vec<Case> =
            source.cases()?.into_iter().filter(|case| arguments.wants(*source, case)).collect();
        if cases.is_empty() {
            continue;
        }
        let root = source.root;
        let runc = Runc::new(&folder.join("runc"), root)?;
        let trine = Trine::new(&folder.join("trine-state"), root)?;
        let oracle = Oracle::new(runc, arguments.ask_again, root)?;
        let totals = run_source(*source, &cases, &oracle, &trine, arguments)?;
        println!("suite compat {}: {totals}", source.name);
        is_good &= totals.is_good();
    }
    Ok(is_good)
}

fn run_source(
    source: Source,
    cases: &[Case],
    oracle: &Oracle,
    trine: &Trine,
    arguments: &Arguments,
) -> Result<Totals> {
    let jobs =
        arguments.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let next = AtomicUsize::new(0);
    let totals = Mutex::new(Totals::default());
    let work_fn = || -> Result<()> {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let verdict = run_case(source, case, oracle, trine, arguments.patience)?;
            let mut totals = totals.lock().ok().context("another worker failed")?;
            println!("{}", verdict.line(source, case));
            totals.add(&case.name, &verdict);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work_fn)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("a worker panicked"),
        })
    })?;
    totals.into_inner().ok().context("a worker failed")
}

fn run_case(
    source: Source,
    case: &Case,
    oracle: &Oracle,
    trine: &Trine,
    patience: u32,
) -> Result<Verdict> {
    if let Expected::NotApplicable(why) = &case.expected {
        return Ok(Verdict::NotApplicable(why.clone()));
    }
    let command = source.command(case)?;
    let timeout = case.timeout.saturating_mul(patience);
    let truth = oracle.ask(source, case, &command, timeout)?;
    if !source.is_usable(&truth) {
        return Ok(Verdict::BadCase(truth));
    }
    let outcome = trine.run(&command, timeout, case.cpus)?;
    keep_log(source, case, &outcome)?;
    Ok(judge::judge(source, case, &truth, outcome))
}

/// Keeps what a case printed under Trine, for whoever looks into it.
fn keep_log(source: Source, case: &Case, outcome: &engine::Outcome) -> Result<()> {
    let folder = paths::cache().join("compat/logs").join(source.name);
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let file = folder.join(case.name.replace('/', "-"));
    std::fs::write(&file, outcome.to_string()).with_context(|| format!("write {}", file.display()))
}
