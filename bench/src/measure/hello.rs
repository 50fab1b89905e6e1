// SPDX-License-Identifier: Apache-2.0
//! Start to exit of a static hello, through the command lines of the runtimes.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    interleave::{Contender, Sampler, interleave},
    programs::HELLO_OUTPUT,
    results::{Measure, Shape, Unit, rows},
    runner::{Finished, Runner},
    session::Session,
    system::System,
};

/// Id of the measurement.
pub(crate) const ID: &str = "hello-cli";
/// Row of `trine run --bundle`.
pub(crate) const TRINE_BUNDLE: &str = "trine run --bundle";
/// Row of `trine run ROOTFS`.
pub(crate) const TRINE_ROOTFS: &str = "trine run ROOTFS";

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let runner = &session.runner;
    let mut contenders: Vec<Contender<'_, f64>> = vec![];
    if session.has(System::Plain) {
        let program = session.rootfs.path.join("hello");
        contenders.push(Contender {
            system: System::Plain,
            label: "plain process".to_owned(),
            sample: Ok(Box::new(move || {
                Ok(say_hello(runner, &mut Command::new(&program))?.elapsed_ms())
            })),
        });
    }
    for (system, launcher) in session.launchers()? {
        let bundle =
            session.rootfs.bundle(&session.scratch, &format!("hello-{system}"), &["/hello"])?;
        let label = match system {
            System::Trine => TRINE_BUNDLE.to_owned(),
            other => format!("{other} run"),
        };
        let sample = launcher.clone().map(|launcher| -> Sampler<'_, f64> {
            let mut count = 0;
            Box::new(move || {
                count += 1;
                let id = format!("hello-{count}");
                let finished = say_hello(runner, &mut launcher.run(&bundle, &id));
                if finished.is_err() {
                    runner.tidy(&mut launcher.delete(&id));
                }
                Ok(finished?.elapsed_ms())
            })
        });
        contenders.push(Contender { system, label, sample });
        if system == System::Trine {
            let rootfs = &session.rootfs.path;
            let sample = launcher.map(|launcher| -> Sampler<'_, f64> {
                Box::new(move || {
                    let mut command = launcher.run_rootfs(rootfs, None, &["/hello"]);
                    Ok(say_hello(runner, &mut command)?.elapsed_ms())
                })
            });
            contenders.push(Contender { system, label: TRINE_ROOTFS.to_owned(), sample });
        }
    }
    let results = interleave(contenders, session.args.plan(), || runner.is_interrupted())?;
    Ok(vec![Measure {
        id: ID,
        title: "Hello through the command line, start to exit".to_owned(),
        method: "From just before posix_spawn of the runtime to its exit, create and delete included; \
                 images, caches and programs warm; the output is compared. All but the plain process \
                 and `trine run ROOTFS` run the same OCI bundle."
            .to_owned(),
        unit: Unit::Milliseconds,
        shape: Shape::Compared,
        rows: rows(results),
    }])
}

/// Runs a command that must do nothing but print the line.
///
/// # Errors
/// If it does anything else.
pub(crate) fn say_hello(runner: &Runner, command: &mut Command) -> Result<Finished> {
    let finished = runner.succeed(command)?;
    let printed = String::from_utf8_lossy(&finished.stdout);
    ensure!(
        finished.stdout == HELLO_OUTPUT,
        "{} printed {printed:?} instead of the hello's line",
        command.get_program().display()
    );
    // What a runtime leaves running for a moment must not count as ours for ever.
    runner.reap();
    Ok(finished)
}
