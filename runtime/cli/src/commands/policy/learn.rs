// SPDX-License-Identifier: Apache-2.0
//! `policy learn`.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use trine_policy::{audit::RECORDED_MAX, learn::Learnt};

use crate::{
    args::{self, PolicyLearnArgs},
    commands::run,
    context::Context,
    output, values,
};

/// `trine policy learn`.
///
/// # Errors
/// If a log cannot be read, the container cannot be run, or the policy cannot be written.
pub(super) fn learn(context: &Context, arguments: &PolicyLearnArgs) -> Result<u8> {
    let mut learnt = Learnt::default();
    let mut code = 0;
    if arguments.from.is_empty() {
        let log = Log::new()?;
        let mut run = match args::parse_run(&arguments.run) {
            Ok(run) => run,
            // Says what is wrong, or the help that was asked for.
            Err(error) => error.exit(),
        };
        if run.create.policy.is_some() || run.create.audit.is_some() {
            bail!("--policy and --audit have no meaning here: nothing is restricted");
        }
        if run.detach {
            bail!("--detach has no meaning here: the policy is written when the container ends");
        }
        (run.create.audit, run.create.records_calls) = (Some(log.0.clone()), true);
        code = run::run(context, &run)?;
        take(&mut learnt, &log.0, false)?;
    }
    for log in &arguments.from {
        take(&mut learnt, log, arguments.denied)?;
    }
    let policy = learnt.policy(arguments.wildcards);
    match &arguments.output {
        Some(path) => {
            fs::write(path, &policy).with_context(|| format!("cannot write {}", path.display()))?
        }
        None => output::print(&policy)?,
    }
    let rules = policy.matches("[[rule]]").count();
    eprintln!("trine: learnt {rules} rules");
    if learnt.lines >= RECORDED_MAX {
        eprintln!("trine: only the first {RECORDED_MAX} different calls were recorded");
    }
    if learnt.passed_over > 0 {
        eprintln!("trine: {} lines are no calls that were accepted", learnt.passed_over);
    }
    if learnt.unwritable > 0 {
        eprintln!(
            "trine: {} calls have paths that no pattern stands for (not text, or with * or ?), and \
             are not allowed",
            learnt.unwritable
        );
    }
    Ok(code)
}

fn take(learnt: &mut Learnt, log: &Path, with_denied: bool) -> Result<()> {
    let context = || format!("cannot read {}", log.display());
    let file = File::open(log).with_context(context)?;
    for line in BufReader::new(file).split(b'\n') {
        learnt.take(&String::from_utf8_lossy(&line.with_context(context)?), with_denied);
    }
    Ok(())
}

/// A log that goes with this command.
struct Log(PathBuf);

impl Log {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("trine-learn-{}", values::random_id()?));
        // Nobody else's file is written to, and nobody else reads this one.
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = File::options();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
