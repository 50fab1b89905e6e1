// SPDX-License-Identifier: Apache-2.0
//! Time of the processors that an idle container takes.

use std::{process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    accounting, contest, failure,
    interleave::Outcome,
    launch::{self, Launcher},
    results::{Measure, Row, Shape, Unit},
    session::Session,
    system::System,
};

/// Id of the measurement.
pub(crate) const ID: &str = "idle-cpu";

const ID_OF_CONTAINER: &str = "idle-cpu";
const SETTLE: Duration = Duration::from_secs(2);

/// Measures: all systems at the same time, as a minute for each would be long.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let watch = Duration::from_secs(if session.args.quick { 1 } else { 60 });
    let launchers = session.launchers()?;
    let mut idlers = vec![];
    let mut rows = vec![];
    for system in &session.args.systems {
        let launcher = match launch::of(&launchers, *system) {
            Ok(launcher) => launcher,
            Err(reason) => {
                rows.push(row(*system, Outcome::Absent(reason)));
                continue;
            }
        };
        let before = session.runner.descendants();
        let started = match launcher {
            Some(launcher) => start(session, *system, launcher),
            None => start_plain(session),
        };
        if let Err(error) = started {
            rows.push(row(*system, Outcome::Failed(failure::one_line(&error))));
            continue;
        }
        let mut ids = session.runner.descendants();
        ids.retain(|id| !before.contains(id));
        idlers.push((*system, launcher, ids));
    }

    let watched = watch_all(session, watch, &idlers);
    for (_, launcher, ids) in &idlers {
        match launcher {
            Some(launcher) => session.runner.tidy(&mut launcher.delete(ID_OF_CONTAINER)),
            None => session.runner.kill(ids),
        }
    }
    session.runner.reap();
    rows.extend(watched?);
    rows.sort_by_key(|row| row.system);
    Ok(vec![Measure {
        id: ID,
        title: "Idle container, time of processors in a minute".to_owned(),
        method: format!(
            "Of all processes and threads of the runtime and the container, by the scheduler's own \
             count, over {} s; all systems at once.",
            watch.as_secs()
        ),
        unit: Unit::Milliseconds,
        shape: Shape::Compared,
        rows,
    }])
}

fn start(session: &Session, system: System, launcher: &Launcher) -> Result<()> {
    let args = session.rootfs.sleeper.args();
    let bundle = session.rootfs.bundle(&session.scratch, &format!("idle-cpu-{system}"), args)?;
    session.runner.succeed(&mut launcher.run_detached(&bundle, ID_OF_CONTAINER))?;
    Ok(())
}

fn start_plain(session: &Session) -> Result<()> {
    // As a container is: a child of nobody's.
    let program = session.rootfs.path.join("workload");
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" idle < /dev/null > /dev/null 2>&1 &"]).arg(program);
    session.runner.succeed(&mut command)?;
    Ok(())
}

fn watch_all(
    session: &Session,
    watch: Duration,
    idlers: &[(System, Option<&Launcher>, Vec<u32>)],
) -> Result<Vec<Row>> {
    session.runner.sleep(SETTLE)?;
    session.runner.reap();
    let look = || idlers.iter().map(|(_, _, ids)| accounting::running_ns(ids)).collect::<Vec<_>>();
    let before = look();
    session.runner.sleep(watch)?;
    let after = look();
    let alive = session.runner.descendants();
    let mut rows = vec![];
    for ((system, _, ids), (before, after)) in idlers.iter().zip(before.into_iter().zip(after)) {
        if before == 0 || !ids.iter().any(|id| alive.contains(id)) {
            bail!("the idle container of {system} has ended");
        }
        let ms = after.saturating_sub(before) as f64 / 1e6;
        rows.push(row(*system, Outcome::Measured(vec![ms * 60.0 / watch.as_secs_f64()])));
    }
    Ok(rows)
}

fn row(system: System, outcome: Outcome<f64>) -> Row {
    Row::new(system, contest::label(system), outcome)
}
