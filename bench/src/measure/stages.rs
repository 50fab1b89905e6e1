// SPDX-License-Identifier: Apache-2.0
//! Where the time of `trine run` goes, by the clock that it stamps its own stages with.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::hello::say_hello;
use crate::{
    interleave::{Contender, Outcome, Plan, Sampler, interleave},
    launch::Launcher,
    results::{Measure, Row, Shape, Unit},
    runner::Finished,
    session::Session,
    stats,
    system::System,
};

/// Id of the stages.
pub(crate) const ID: &str = "stages";
/// Id of the time from the VM's creation to the application's first instruction.
pub(crate) const ID_VM: &str = "vm-start";

const CREATE: &str = "create_ns";
const READY: &str = "ready_ns";
/// Our own name for the moment when the command has ended.
const ENDED: &str = "ended_ns";

/// What goes on before each stamp.
const LABELS: [(&str, &str); 10] = [
    ("begun_ns", "trine's process starts"),
    ("planned_ns", "arguments, image from the cache"),
    (CREATE, "I/O process, VMM process"),
    ("loaded_ns", "VM made, kernel and image mapped"),
    ("created_ns", "kernel boots, program is loaded"),
    ("started_ns", "start is asked and answered"),
    (READY, "to the first instruction"),
    ("exited_ns", "program runs and ends"),
    ("deleted_ns", "VM and I/O process end"),
    (ENDED, "trine's process ends"),
];

/// Nanoseconds since the command was started, by stamp.
type Offsets = BTreeMap<String, f64>;

/// Measures.
///
/// # Errors
/// If it is interrupted.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let Some((system, launcher)) =
        session.launchers()?.into_iter().find(|(system, _)| *system == System::Trine)
    else {
        return Ok(vec![]);
    };
    let sample = launcher
        .map(|launcher| -> Sampler<'_, Offsets> { Box::new(move || sample(session, &launcher)) });
    let contender = Contender { system, label: "trine run --json".to_owned(), sample };
    let plan = Plan { warmups: session.args.plan().warmups, ..session.args.plan() };
    let is_interrupted = || session.runner.is_interrupted();
    let mut results = interleave(vec![contender], plan, is_interrupted)?;
    let outcome = results.pop().map(|(_, _, outcome)| outcome).context("there is one contender")?;

    Ok(vec![
        Measure {
            id: ID_VM,
            title: "VM creation to the first instruction of the application".to_owned(),
            method:
                "ready_ns - create_ns of `trine run --json`: from just before KVM_CREATE_VM to \
                     just before the kernel enters the program."
                    .to_owned(),
            unit: Unit::Milliseconds,
            shape: Shape::Compared,
            rows: vec![Row::new(system, "trine", vm_start(&outcome))],
        },
        Measure {
            id: ID,
            title: "Where the time of `trine run` goes".to_owned(),
            method: "Differences of consecutive stamps of `trine run --json ROOTFS`, between the \
                     start and the exit of its process."
                .to_owned(),
            unit: Unit::Milliseconds,
            shape: Shape::Sequence,
            rows: rows(system, &outcome),
        },
    ])
}

fn sample(session: &Session, launcher: &Launcher) -> Result<Offsets> {
    let file = session.scratch.path().join("stages.json");
    let mut command = launcher.run_rootfs(&session.rootfs.path, Some(&file), &["/hello"]);
    let finished = say_hello(&session.runner, &mut command)?;
    read(&file, &finished)
}

fn read(file: &Path, finished: &Finished) -> Result<Offsets> {
    let text = fs::read(file).with_context(|| format!("trine did not write {}", file.display()))?;
    let report: Value = serde_json::from_slice(&text).context("what --json wrote is no JSON")?;
    offsets(&report["stages"], finished.begun_ns, finished.ended_ns)
}

fn offsets(stages: &Value, begun_ns: u64, ended_ns: u64) -> Result<Offsets> {
    let stages = stages.as_object().context("what --json wrote has no stages")?;
    let mut offsets = Offsets::new();
    for (name, stamp) in stages {
        let stamp = stamp.as_u64().with_context(|| format!("stage {name} is no number"))?;
        anyhow::ensure!(
            (begun_ns..=ended_ns).contains(&stamp),
            "stage {name} was at {stamp}, but the command ran from {begun_ns} to {ended_ns}"
        );
        offsets.insert(name.clone(), (stamp - begun_ns) as f64);
    }
    for name in [CREATE, READY] {
        anyhow::ensure!(offsets.contains_key(name), "what --json wrote has no stage {name}");
    }
    offsets.insert(ENDED.to_owned(), (ended_ns - begun_ns) as f64);
    Ok(offsets)
}

fn vm_start(outcome: &Outcome<Offsets>) -> Outcome<f64> {
    outcome.map(|offsets| (offsets[READY] - offsets[CREATE]) / 1e6)
}

/// One row per stage, in the order in which they usually come.
fn rows(system: System, outcome: &Outcome<Offsets>) -> Vec<Row> {
    let samples = match outcome {
        Outcome::Measured(samples) => samples,
        other => return vec![Row::new(system, "trine run", other.map(|_| 0.0))],
    };
    let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, offset) in samples.iter().flatten() {
        by_name.entry(name).or_default().push(*offset);
    }
    let mut order: Vec<(&str, f64)> = by_name
        .iter()
        .filter_map(|(name, offsets)| Some((*name, stats::median(offsets)?)))
        .collect();
    order.sort_by(|left, right| left.1.total_cmp(&right.1));

    let mut before: Option<&str> = None;
    let mut rows = vec![];
    for (name, _) in order {
        let lengths = samples.iter().filter_map(|offsets| {
            let from = before.map_or(Some(0.0), |before| offsets.get(before).copied());
            Some((offsets.get(name)? - from?) / 1e6)
        });
        let label =
            LABELS.iter().find(|(stamp, _)| *stamp == name).map_or(name, |(_, label)| label);
        rows.push(Row::new(system, label, Outcome::Measured(lengths.collect())));
        before = Some(name);
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(create: u64, ready: u64) -> Offsets {
        let stages = json!({ "create_ns": 1_000_000 + create, "ready_ns": 1_000_000 + ready });
        offsets(&stages, 1_000_000, 9_000_000).expect("the stages are sound")
    }

    #[test]
    fn stages_follow_each_other() {
        let outcome = Outcome::Measured(vec![run(2_000_000, 5_000_000), run(3_000_000, 5_000_000)]);

        let rows = rows(System::Trine, &outcome);

        let found: Vec<_> = rows.iter().map(|row| (row.label.as_str(), row.median())).collect();
        assert_eq!(
            found,
            [
                ("I/O process, VMM process", Some(2.5)),
                ("to the first instruction", Some(2.5)),
                ("trine's process ends", Some(3.0)),
            ]
        );
        assert_eq!(vm_start(&outcome), Outcome::Measured(vec![3.0, 2.0]));
    }

    #[test]
    fn stamps_that_cannot_be_are_refused() {
        let early = json!({ "create_ns": 5, "ready_ns": 20 });
        let incomplete = json!({ "create_ns": 15 });

        assert!(offsets(&early, 10, 30).is_err());
        assert!(offsets(&incomplete, 10, 30).is_err());
        assert!(offsets(&Value::Null, 10, 30).is_err());
    }
}
