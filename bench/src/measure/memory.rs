// SPDX-License-Identifier: Apache-2.0
//! What an idle container costs: memory, and how often it wakes up.

use std::{
    cell::Cell, collections::BTreeMap, path::PathBuf, process::Command, rc::Rc, time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    accounting,
    containerd::{Containerd, shim_of},
    debugfs::Debugfs,
    interleave::{Contender, Outcome, Plan, Sampler, interleave},
    launch::Launcher,
    results::{Measure, Row, Shape, Unit},
    session::Session,
    stats,
    system::System,
};

/// Id of the slope of MemAvailable.
pub(crate) const ID: &str = "idle-memory";

/// Row of ours through containerd.
pub(crate) const TRINE_CTR: &str = "ctr run --detach, trine";

const MIB: f64 = (1 << 20) as f64;

/// How containers are counted.
#[derive(Clone, Copy, Debug)]
struct Method {
    /// Numbers of containers at which memory is looked at.
    levels: [u32; 3],
    /// Time for the last ones to become idle.
    settle: Duration,
    /// Looks at each level.
    looks: u32,
    /// Time for which wake-ups are counted.
    watch: Duration,
    /// Repetitions.
    runs: u32,
}

/// A way to have idle containers.
struct Idlers<'a> {
    start_fn: Box<dyn Fn(u32) -> Command + 'a>,
    stop_fn: Box<dyn Fn(u32) + 'a>,
    ending: Ending,
    /// Repetitions so far: no container has the name of an earlier one.
    generation: Rc<Cell<u32>>,
}

/// How containers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Their runtime is asked to end them.
    Asked,
    /// Their processes are killed, and their records stay: `runsc delete` takes two seconds for each.
    Killed,
}

/// One repetition.
#[derive(Clone, Debug, Default)]
struct Sample {
    slope_mib: f64,
    pss_mib: f64,
    wakeups_per_second: f64,
    exits_to_idle: Option<f64>,
    exits_per_second: Option<f64>,
}

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(
    session: &Session,
    containerd: &Result<Containerd<'_>, String>,
) -> Result<Vec<Measure>> {
    let method = Method::of(session);
    let debugfs = Debugfs::mount(&session.scratch)?;
    let bystander = containerd.as_ref().ok().map(Containerd::id);
    let mut ways = vec![];
    for (system, launcher) in session.launchers()? {
        let idlers = match launcher {
            Ok(launcher) => Ok(through_command_line(session, method, system, launcher)?),
            Err(reason) => Err(reason),
        };
        ways.push((system, format!("{system} run --detach"), idlers));
    }
    for system in [System::Runc, System::Trine] {
        if session.has(system) {
            let available = containerd.as_ref().map_err(Clone::clone);
            let available = available.and_then(|daemon| shim_of(session, system).map(|()| daemon));
            let idlers = available.map(|daemon| through_containerd(session, daemon, system));
            ways.push((system, format!("ctr run --detach, {system}"), idlers));
        }
    }
    let contenders = ways.into_iter().map(|(system, label, idlers): (_, _, Result<_, String>)| {
        let sample = idlers.map(|idlers| sampler(session, method, idlers, bystander, &debugfs));
        Contender { system, label, sample }
    });
    let contenders = contenders.collect();
    let plan = Plan { warmups: 0, runs: method.runs };
    let results = interleave(contenders, plan, || session.runner.is_interrupted())?;
    Ok(report(method, &results))
}

fn through_command_line<'a>(
    session: &'a Session,
    method: Method,
    system: System,
    launcher: Launcher,
) -> Result<Idlers<'a>> {
    let mut bundles: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for number in 0..method.levels[2] {
        let name = format!("idle-{system}-{number}");
        let args = session.rootfs.sleeper.args();
        bundles.insert(number, session.rootfs.bundle(&session.scratch, &name, args)?);
    }
    let generation = Rc::new(Cell::new(0));
    let (starter, started) = (launcher.clone(), Rc::clone(&generation));
    let stopped = Rc::clone(&generation);
    let name = |generation: &Cell<u32>, number| format!("idle-{}-{number}", generation.get());
    Ok(Idlers {
        start_fn: Box::new(move |number| {
            starter.run_detached(&bundles[&number], &name(&started, number))
        }),
        stop_fn: Box::new(move |number| {
            session.runner.tidy(&mut launcher.delete(&name(&stopped, number)));
        }),
        ending: if system == System::Runsc { Ending::Killed } else { Ending::Asked },
        generation,
    })
}

fn through_containerd<'a>(
    session: &'a Session,
    daemon: &'a Containerd<'_>,
    system: System,
) -> Idlers<'a> {
    let generation = Rc::new(Cell::new(0));
    let (started, stopped) = (Rc::clone(&generation), Rc::clone(&generation));
    let name = move |generation: &Cell<u32>, number| {
        format!("idle-{system}-{}-{number}", generation.get())
    };
    let flags = ["--detach", "--null-io"];
    Idlers {
        start_fn: Box::new(move |number| {
            daemon.run(system, &flags, &name(&started, number), session.rootfs.sleeper.args())
        }),
        stop_fn: Box::new(move |number| daemon.delete(&name(&stopped, number))),
        ending: Ending::Asked,
        generation,
    }
}

fn sampler<'a>(
    session: &'a Session,
    method: Method,
    idlers: Idlers<'a>,
    bystander: Option<u32>,
    debugfs: &'a Debugfs,
) -> Sampler<'a, Sample> {
    Box::new(move || fill(session, method, &idlers, bystander, debugfs))
}

/// Starts containers level by level, looks at memory, and ends them.
fn fill(
    session: &Session,
    method: Method,
    idlers: &Idlers<'_>,
    bystander: Option<u32>,
    debugfs: &Debugfs,
) -> Result<Sample> {
    let mut started = 0;
    let result = climb(session, method, idlers, bystander, debugfs, &mut started);
    match idlers.ending {
        Ending::Asked => (0..started).for_each(|number| (idlers.stop_fn)(number)),
        Ending::Killed => session.runner.kill(&of_containers(session, bystander)),
    }
    idlers.generation.set(idlers.generation.get() + 1);
    let left = await_end(session, bystander);
    let sample = result?;
    left?;
    Ok(sample)
}

fn climb(
    session: &Session,
    method: Method,
    idlers: &Idlers<'_>,
    bystander: Option<u32>,
    debugfs: &Debugfs,
    started: &mut u32,
) -> Result<Sample> {
    let runner = &session.runner;
    let mut points = vec![];
    for level in method.levels {
        while *started < level {
            *started += 1;
            runner.succeed(&mut (idlers.start_fn)(*started - 1))?;
        }
        runner.sleep(method.settle)?;
        runner.reap();
        for _ in 0..method.looks {
            let bytes = accounting::memory_available()?;
            points.push((f64::from(level), -(bytes as f64) / MIB));
            runner.sleep(Duration::from_millis(100))?;
        }
    }
    let count = f64::from(method.levels[2]);
    let seconds = method.watch.as_secs_f64();
    let ids = of_containers(session, bystander);
    if ids.len() < method.levels[2] as usize {
        bail!("only {} processes are there for {count} containers: some have ended", ids.len());
    }
    let (wakeups, exits) = (accounting::wakeups(&ids), debugfs.exits(&ids));
    runner.sleep(method.watch)?;
    let wakeups = accounting::wakeups(&ids).saturating_sub(wakeups);
    let more_exits = debugfs.exits(&ids);
    Ok(Sample {
        slope_mib: stats::slope(&points).context("too few looks at memory")?,
        pss_mib: accounting::proportional_bytes(&ids) as f64 / MIB / count,
        wakeups_per_second: wakeups as f64 / seconds / count,
        exits_to_idle: exits.map(|exits| exits as f64 / count),
        exits_per_second: exits
            .zip(more_exits)
            .map(|(before, after)| after.saturating_sub(before) as f64 / seconds / count),
    })
}

/// The processes of all runtimes and containers.
fn of_containers(session: &Session, bystander: Option<u32>) -> Vec<u32> {
    let all = session.runner.descendants();
    all.into_iter().filter(|id| Some(*id) != bystander).collect()
}

/// Waits until the processes of the containers have ended, so that they do not count as the next
/// runtime's.
fn await_end(session: &Session, bystander: Option<u32>) -> Result<()> {
    for _ in 0..100 {
        session.runner.reap();
        if of_containers(session, bystander).is_empty() {
            return Ok(());
        }
        // Interrupted or not: cleaning up comes first.
        std::thread::sleep(Duration::from_millis(50));
    }
    let left = of_containers(session, bystander);
    let name = |id: &u32| format!("{} ({id})", accounting::name(*id).unwrap_or_default());
    let names: Vec<String> = left.iter().map(name).collect();
    session.runner.kill(&left);
    bail!("deleted containers left processes behind: {}", names.join(", "))
}

fn report(method: Method, results: &[(System, String, Outcome<Sample>)]) -> Vec<Measure> {
    let rows = |of: &dyn Fn(&Sample) -> f64| {
        let row = |(system, label, outcome): &(System, String, Outcome<Sample>)| {
            Row::new(*system, label.clone(), outcome.map(of))
        };
        results.iter().map(row).collect()
    };
    // Only what has VMs has exits, and only where the kernel tells.
    let exit_rows = |of: &dyn Fn(&Sample) -> Option<f64>| {
        let of_vms = results.iter().filter(|(system, ..)| *system == System::Trine);
        let row = |(system, label, outcome): &(System, String, Outcome<Sample>)| {
            let found = outcome.map(|sample| of(sample).into_iter().collect()).flatten();
            let outcome = match found {
                Outcome::Measured(samples) if samples.is_empty() => Outcome::Absent(
                    "KVM's counters in debugfs cannot be read on this host".to_owned(),
                ),
                other => other,
            };
            Row::new(*system, label.clone(), outcome)
        };
        of_vms.map(row).collect::<Vec<_>>()
    };
    let [low, middle, high] = method.levels;
    let mut measures = vec![
        Measure {
            id: ID,
            title: "Idle container, memory that the host has less".to_owned(),
            method: format!(
                "Slope of MemAvailable over {low}, {middle} and {high} sleeping containers (Theil \
                 and Sen): kernel memory, page tables and all processes included, containerd's too."
            ),
            unit: Unit::Mebibytes,
            shape: Shape::Compared,
            rows: rows(&|sample| sample.slope_mib),
        },
        Measure {
            id: "idle-pss",
            title: "Idle container, PSS of its processes".to_owned(),
            method: format!(
                "Sum of the proportional set sizes of all processes of the runtime and the \
                 containers, by {high} containers; without containerd and the kernel's memory."
            ),
            unit: Unit::Mebibytes,
            shape: Shape::Compared,
            rows: rows(&|sample| sample.pss_mib),
        },
        Measure {
            id: "idle-wakeups",
            title: "Idle container, wake-ups of its processes".to_owned(),
            method: "Voluntary context switches of the same processes while nothing happens."
                .to_owned(),
            unit: Unit::PerSecond,
            shape: Shape::Compared,
            rows: rows(&|sample| sample.wakeups_per_second),
        },
    ];
    for (id, title, unit, rows) in [
        (
            "exits-to-idle",
            "KVM exits from creation to sleep",
            Unit::Count,
            exit_rows(&|sample| sample.exits_to_idle),
        ),
        (
            "idle-exits",
            "Idle container, KVM exits",
            Unit::PerSecond,
            exit_rows(&|sample| sample.exits_per_second),
        ),
    ] {
        if !rows.is_empty() {
            measures.push(Measure {
                id,
                title: title.to_owned(),
                method: "KVM's own counters in debugfs.".to_owned(),
                unit,
                shape: Shape::Compared,
                rows,
            });
        }
    }
    measures
}

impl Method {
    fn of(session: &Session) -> Self {
        if session.args.quick {
            Self {
                levels: [1, 2, 3],
                settle: Duration::from_millis(200),
                looks: 1,
                watch: Duration::from_millis(200),
                runs: 1,
            }
        } else {
            Self {
                levels: [5, 10, 20],
                settle: Duration::from_millis(700),
                looks: 5,
                watch: Duration::from_secs(1),
                runs: 3,
            }
        }
    }
}
