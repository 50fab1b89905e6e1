// SPDX-License-Identifier: Apache-2.0
//! What basic operations cost inside a container.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    interleave::{Contender, Outcome, Plan, Sampler, interleave},
    results::{Measure, Row, Shape, Unit},
    runner::Finished,
    session::Session,
    system::System,
};

/// Loops of the workload program: its name for it, our id, title and method.
const LOOPS: [(&str, &str, &str, &str); 6] = [
    ("getpid", "getpid", "getpid", "One system call that does nothing."),
    (
        "pipe",
        "pipe",
        "Pipe ping-pong between two processes",
        "One byte to another process and back.",
    ),
    ("fork", FORK, "fork, exit, wait", "A small process; the child ends at once."),
    (
        "vfork",
        VFORK,
        "vfork, exec, exit, wait",
        "posix_spawn of the workload program itself, static, which ends at once.",
    ),
    (
        "fault",
        "fault",
        "Page fault",
        "First touch of each 4 KiB page of 64 MiB of fresh memory, per page.",
    ),
    ("cpu", CPU, "CPU-bound loop", "A dependent xorshift and multiplication; per turn."),
];
/// Id of fork, exit, wait.
pub(crate) const FORK: &str = "fork";
/// Id of vfork, exec, exit, wait.
pub(crate) const VFORK: &str = "vfork";
/// Id of the CPU-bound loop.
pub(crate) const CPU: &str = "cpu";

/// Samples that one container takes of each loop.
const SAMPLES_PER_CONTAINER: u32 = 5;

/// Nanoseconds by loop.
type Samples = BTreeMap<String, Vec<f64>>;

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let runner = &session.runner;
    let (samples, target_ms) =
        if session.args.quick { (1, 2) } else { (SAMPLES_PER_CONTAINER, 20) };
    let (samples, target_ms) = (samples.to_string(), target_ms.to_string());
    let args = ["/workload", "micro", &samples, &target_ms];

    let mut contenders: Vec<Contender<'_, Samples>> = vec![];
    if session.has(System::Plain) {
        let program = session.rootfs.path.join("workload");
        let args = [samples.clone(), ["micro"].concat(), target_ms.clone()];
        contenders.push(Contender {
            system: System::Plain,
            label: "plain process".to_owned(),
            sample: Ok(Box::new(move || {
                let [samples, micro, target_ms] = &args;
                let mut command = Command::new(&program);
                read(&runner.succeed(command.args([micro, samples, target_ms]))?)
            })),
        });
    }
    for (system, launcher) in session.launchers()? {
        let bundle = session.rootfs.bundle(&session.scratch, &format!("micro-{system}"), &args)?;
        let sample = launcher.map(|launcher| -> Sampler<'_, Samples> {
            let mut count = 0;
            Box::new(move || {
                count += 1;
                let id = format!("micro-{count}");
                let finished = runner.succeed(&mut launcher.run(&bundle, &id));
                if finished.is_err() {
                    runner.tidy(&mut launcher.delete(&id));
                }
                runner.reap();
                read(&finished?)
            })
        });
        contenders.push(Contender { system, label: system.to_string(), sample });
    }
    // The program warms itself up, so that no whole container needs to be thrown away.
    let runs = session.args.plan().runs.div_ceil(SAMPLES_PER_CONTAINER);
    let results = interleave(contenders, Plan { warmups: 0, runs }, || runner.is_interrupted())?;
    Ok(LOOPS.iter().map(|one| of_loop(*one, &results)).collect())
}

fn of_loop(
    (name, id, title, method): (&str, &'static str, &str, &str),
    results: &[(System, String, Outcome<Samples>)],
) -> Measure {
    let rows = results.iter().map(|(system, label, outcome)| {
        let samples = outcome.map(|samples| samples[name].clone()).flatten();
        Row::new(*system, label.clone(), samples)
    });
    Measure {
        id,
        title: format!("In the container: {title}"),
        method: format!("{method} The same static program everywhere."),
        unit: Unit::Nanoseconds,
        shape: Shape::Compared,
        rows: rows.collect(),
    }
}

fn read(finished: &Finished) -> Result<Samples> {
    parse(&String::from_utf8_lossy(&finished.stdout))
}

/// Parses lines of `NAME NANOSECONDS`; every loop must be there.
fn parse(output: &str) -> Result<Samples> {
    let mut samples = Samples::new();
    for line in output.lines() {
        let (name, ns) = line.split_once(' ').with_context(|| format!("odd output {line:?}"))?;
        let ns: f64 = ns.parse().with_context(|| format!("odd output {line:?}"))?;
        ensure!(ns.is_finite() && ns > 0.0, "{name} took {ns} ns, which cannot be");
        samples.entry(name.to_owned()).or_default().push(ns);
    }
    for (name, ..) in LOOPS {
        ensure!(samples.contains_key(name), "the workload said nothing of {name}");
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "getpid 1.5\npipe 2\nfork 3\nvfork 4\nfault 5\ncpu 6\ngetpid 7\n";

    #[test]
    fn output_is_sorted_by_loop() {
        let samples = parse(OUTPUT).expect("it is sound");

        assert_eq!(samples["getpid"], [1.5, 7.0]);
        assert_eq!(samples["cpu"], [6.0]);
    }

    #[test]
    fn incomplete_or_impossible_output_is_refused() {
        assert!(parse(&OUTPUT.replace("cpu 6\n", "")).is_err());
        assert!(parse(&OUTPUT.replace("cpu 6", "cpu 0")).is_err());
        assert!(parse(&OUTPUT.replace("cpu 6", "cpu")).is_err());
        assert!(parse(&OUTPUT.replace("cpu 6", "cpu NaN")).is_err());
    }
}
