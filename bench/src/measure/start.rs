// SPDX-License-Identifier: Apache-2.0
//! Start to exit of language runtimes that do nothing, everything warm.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    contest,
    debian::Debian,
    interleave::{Contender, Plan, Sampler, interleave},
    launch::{self, Launcher},
    results::{Measure, Shape, Unit, rows},
    session::Session,
    system::System,
};

/// Id of `python3 -c pass`.
pub(crate) const PYTHON: &str = "start-python";
/// Id of `node -e 0`.
pub(crate) const NODE: &str = "start-node";
/// Row of `trine run IMAGE`.
pub(crate) const TRINE_IMAGE: &str = "trine run IMAGE";

const IMAGE: &str = "bench-programs";
const PROGRAMS: [(&str, &str, [&str; 3]); 2] = [
    (PYTHON, "python3 -c pass", ["/usr/bin/python3", "-c", "pass"]),
    (NODE, "node -e 0", ["/usr/bin/node", "-e", "0"]),
];

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let launchers = session.launchers()?;
    if let (Ok(debian), Ok(Some(launcher))) =
        (&session.debian, launch::of(&launchers, System::Trine))
    {
        let mut build = launcher.build_image(&debian.root, IMAGE);
        session.runner.succeed(&mut build).context("cannot build an image")?;
    }
    let plan = session.args.plan();
    let plan = Plan { warmups: plan.warmups.div_ceil(2), runs: plan.runs.div_ceil(2) };
    let mut measures = vec![];
    for (id, title, args) in PROGRAMS {
        let contenders =
            session.args.systems.iter().map(|system| {
                contender(session, *system, launch::of(&launchers, *system), id, args)
            });
        let contenders = contenders.collect();
        let results = interleave(contenders, plan, || session.runner.is_interrupted())?;
        measures.push(Measure {
            id,
            title: format!("{title}, start to exit"),
            method: "From just before posix_spawn to the exit: of the program itself in the same \
                     root file system, and of the runtimes; images, caches and programs warm. runc \
                     and runsc run an OCI bundle."
                .to_owned(),
            unit: Unit::Milliseconds,
            shape: Shape::Compared,
            rows: rows(results),
        });
    }
    Ok(measures)
}

fn contender<'a>(
    session: &'a Session,
    system: System,
    launcher: Result<Option<&'a Launcher>, String>,
    id: &'static str,
    args: [&'static str; 3],
) -> Contender<'a, f64> {
    let label = match system {
        System::Plain => "plain process".to_owned(),
        System::Runc | System::Runsc => format!("{system} run"),
        System::Trine => TRINE_IMAGE.to_owned(),
    };
    let debian = session.debian.as_ref().map_err(Clone::clone);
    let sample = debian.and_then(|debian| match launcher {
        Ok(None) => Ok(plain(session, debian, args)),
        Ok(Some(launcher)) => Ok(run(session, debian, system, launcher, id, args)),
        Err(reason) => Err(reason),
    });
    Contender { system, label, sample }
}

/// Timed by a program that has changed its root before, as doing so is not part of a start.
fn plain<'a>(
    session: &'a Session,
    debian: &'a Debian,
    args: [&'static str; 3],
) -> Sampler<'a, f64> {
    Box::new(move || {
        let mut command = Command::new(session.rootfs.path.join("workload"));
        command.arg("start").arg(debian.plain()).arg("1").args(args);
        debian.set_up(&mut command);
        let finished = session.runner.succeed(&mut command)?;
        let text = String::from_utf8_lossy(&finished.stdout);
        let ms = text.trim().strip_prefix("start ").context("the workload printed no time")?;
        ms.parse().with_context(|| format!("the workload printed {ms:?} instead of a time"))
    })
}

fn run<'a>(
    session: &'a Session,
    debian: &'a Debian,
    system: System,
    launcher: &'a Launcher,
    id: &'static str,
    args: [&'static str; 3],
) -> Sampler<'a, f64> {
    let mut count = 0;
    Box::new(move || {
        count += 1;
        let id = format!("{id}-{count}");
        let finished = if system == System::Trine {
            let mut run = launcher.run_rootfs(IMAGE.as_ref(), None, &args);
            let finished = session.runner.succeed(&mut run);
            session.runner.reap();
            finished?
        } else {
            let bundle = debian.container(&format!("start-{system}"), &args);
            contest::run_bundle(session, launcher, &bundle.bundle(&session.scratch)?, &id)?
        };
        ensure!(finished.stdout.is_empty(), "it printed something, and should not");
        Ok(finished.elapsed_ms())
    })
}
