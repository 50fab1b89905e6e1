// SPDX-License-Identifier: Apache-2.0
//! A program that prints lines of `NAME NUMBER`, run to its end by every system in turns.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bundle::Container,
    interleave::{Contender, Outcome, Plan, Sampler, interleave},
    launch::{self, Launcher},
    results::{Measure, Row, Shape, Unit},
    runner::Finished,
    session::Session,
    system::System,
    wire::Wire,
};

/// Numbers by name.
pub(crate) type Samples = BTreeMap<String, Vec<f64>>;

/// A name that is printed, and the measurement that its numbers make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// The name.
    pub(crate) name: &'static str,
    /// Id of the measurement.
    pub(crate) id: &'static str,
    /// Title of the measurement.
    pub(crate) title: &'static str,
    /// Exactly what was measured.
    pub(crate) method: &'static str,
    /// Unit of the numbers.
    pub(crate) unit: Unit,
}

/// Where the program is run.
#[derive(Debug)]
pub(crate) enum Place {
    /// Here.
    Process(Command),
    /// In a container.
    Container(Container),
}

/// Everything that one run needs, made before it and gone after it.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Where.
    pub(crate) place: Place,
    /// The network namespace that it has, if not one of its own.
    pub(crate) wire: Option<Wire>,
    /// The policy that it has: ours only.
    pub(crate) policy: Option<PathBuf>,
}

impl From<Place> for Arena {
    fn from(place: Place) -> Self {
        Self { place, wire: None, policy: None }
    }
}

impl From<Command> for Arena {
    fn from(command: Command) -> Self {
        Place::Process(command).into()
    }
}

impl From<Container> for Arena {
    fn from(container: Container) -> Self {
        Place::Container(container).into()
    }
}

/// A row.
pub(crate) struct Contestant<'a> {
    /// Which system.
    pub(crate) system: System,
    /// What the row is called.
    pub(crate) label: String,
    /// Prepares a run, or says why there is none.
    pub(crate) arena: Result<Box<dyn Fn() -> Result<Arena> + 'a>, String>,
}

/// One contestant for each system that was asked for, under the names that they have.
pub(crate) fn contestants<'a>(
    session: &Session,
    arena_fn: impl Fn(System) -> Result<Arena> + Clone + 'a,
) -> Vec<Contestant<'a>> {
    let of_system = |system: &System| {
        let (system, arena_fn) = (*system, arena_fn.clone());
        Contestant { system, label: label(system), arena: Ok(Box::new(move || arena_fn(system))) }
    };
    session.args.systems.iter().map(of_system).collect()
}

/// What a system's row is called.
pub(crate) fn label(system: System) -> String {
    if system == System::Plain { "plain process".to_owned() } else { system.to_string() }
}

/// Lets all of them run in turns.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn hold(
    session: &Session,
    name: &str,
    figures: &[Figure],
    plan: Plan,
    contestants: Vec<Contestant<'_>>,
) -> Result<Vec<Measure>> {
    let launchers = session.launchers()?;
    let mut contenders: Vec<Contender<'_, Samples>> = vec![];
    for (number, Contestant { system, label, arena }) in contestants.into_iter().enumerate() {
        let sample = launch::of(&launchers, system).and_then(|launcher| Ok((launcher, arena?)));
        let mut count = 0;
        contenders.push(Contender {
            system,
            label,
            sample: sample.map(|(launcher, arena_fn)| -> Sampler<'_, Samples> {
                Box::new(move || {
                    count += 1;
                    let id = format!("{name}-{number}-{count}");
                    parse(&run(session, launcher, arena_fn()?, &id)?, figures)
                })
            }),
        });
    }
    let results = interleave(contenders, plan, || session.runner.is_interrupted())?;
    Ok(measures(figures, &results))
}

/// Measurements of what was printed, in the order of the figures.
pub(crate) fn measures(
    figures: &[Figure],
    results: &[(System, String, Outcome<Samples>)],
) -> Vec<Measure> {
    let of_figure = |figure: &Figure| Measure {
        id: figure.id,
        title: figure.title.to_owned(),
        method: figure.method.to_owned(),
        unit: figure.unit,
        shape: Shape::Compared,
        rows: results
            .iter()
            .map(|(system, label, outcome)| {
                let samples = outcome.map(|samples| samples[figure.name].clone()).flatten();
                Row::new(*system, label.clone(), samples)
            })
            .collect(),
    };
    figures.iter().map(of_figure).collect()
}

fn run(session: &Session, launcher: Option<&Launcher>, arena: Arena, id: &str) -> Result<Finished> {
    let Arena { place, wire, policy } = arena;
    let container = match place {
        Place::Process(mut command) => return session.runner.succeed(&mut command),
        Place::Container(container) => container,
    };
    let mut launcher = launcher.context("a plain process has no container")?.clone();
    if wire.is_some() {
        launcher = launcher.with_network();
    }
    if let Some(policy) = &policy {
        launcher = launcher.with_policy(policy);
    }
    run_bundle(session, &launcher, &container.bundle(&session.scratch)?, id)
}

/// Runs a bundle to its end, and leaves nothing of it if it fails.
///
/// # Errors
/// If it fails.
pub(crate) fn run_bundle(
    session: &Session,
    launcher: &Launcher,
    bundle: &Path,
    id: &str,
) -> Result<Finished> {
    let runner = &session.runner;
    let finished = runner.succeed(&mut launcher.run(bundle, id));
    if finished.is_err() {
        runner.tidy(&mut launcher.delete(id));
    }
    runner.reap();
    finished
}

fn parse(finished: &Finished, figures: &[Figure]) -> Result<Samples> {
    let names: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
    parse_text(&String::from_utf8_lossy(&finished.stdout), &names)
}

/// Parses lines of `NAME NUMBER`; every name must be there.
fn parse_text(output: &str, names: &[&str]) -> Result<Samples> {
    let mut samples = Samples::new();
    for line in output.lines() {
        let (name, number) =
            line.split_once(' ').with_context(|| format!("odd output {line:?}"))?;
        let number: f64 = number.parse().with_context(|| format!("odd output {line:?}"))?;
        ensure!(number.is_finite() && number > 0.0, "{name} was {number}, which cannot be");
        samples.entry(name.to_owned()).or_default().push(number);
    }
    for name in names {
        ensure!(samples.contains_key(*name), "the program said nothing of {name}");
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "getpid 1.5\ncpu 6\ngetpid 7\n";

    #[test]
    fn output_is_sorted_by_name() {
        let samples = parse_text(OUTPUT, &["getpid", "cpu"]).expect("it is sound");

        assert_eq!(samples["getpid"], [1.5, 7.0]);
        assert_eq!(samples["cpu"], [6.0]);
    }

    #[test]
    fn incomplete_or_impossible_output_is_refused() {
        let parse = |output: &str| parse_text(output, &["getpid", "cpu"]);

        assert!(parse(&OUTPUT.replace("cpu 6\n", "")).is_err());
        assert!(parse(&OUTPUT.replace("cpu 6", "cpu 0")).is_err());
        assert!(parse(&OUTPUT.replace("cpu 6", "cpu")).is_err());
        assert!(parse(&OUTPUT.replace("cpu 6", "cpu NaN")).is_err());
    }
}
