// SPDX-License-Identifier: Apache-2.0
//! One run: measure, show, judge.

use std::{fs, path::Path, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    args::{Args, Subject},
    containerd::Containerd,
    facts::Facts,
    measure::{
        compute, ctr, forward, hello, idle, memory, micro, network, pod, size, stages, start,
        volumes,
    },
    report::{chart, table},
    results::{Measure, Results},
    session::Session,
    system::System,
    targets,
};

/// Exit status if a target is missed, or Trine failed.
const MISSED: u8 = 1;

/// Runs the benchmark.
///
/// # Errors
/// If it cannot be run, or is interrupted; what it started is gone then.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let out = args.out.clone();
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let is_checked = args.check;
    let results = {
        let session = Session::begin(args)?;
        if session.has(System::Trine)
            && let Err(reason) = &session.tools.trine
        {
            bail!("{reason} (or compare the others only: --systems plain,runc,runsc)");
        }
        measure(&session)?
    };
    show(&results, &out)?;

    let failures = results.failures();
    for (_, failure) in &failures {
        eprintln!("bench: failed: {failure}");
    }
    let missed = if is_checked { targets::missed(&results.targets) } else { vec![] };
    for verdict in &missed {
        eprintln!("bench: missed: {}", verdict.line());
    }
    let is_broken = failures.iter().any(|(system, _)| *system == System::Trine);
    let is_good = !is_broken && missed.is_empty();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(MISSED) })
}

fn measure(session: &Session) -> Result<Results> {
    let begun = Instant::now();
    let mut facts = Facts::gather(session);
    let wants = |subject| session.args.only.contains(&subject);
    let mut measures: Vec<Measure> = vec![];
    let progress = |what: &str| eprintln!("bench: {:4.0} s  {what}", begun.elapsed().as_secs_f64());

    if wants(Subject::Size) {
        measures.extend(size::measure(session));
    }
    if wants(Subject::Hello) {
        progress("hello through the command lines");
        measures.extend(hello::measure(session)?);
    }
    if wants(Subject::Stages) {
        progress("stages of trine run");
        measures.extend(stages::measure(session)?);
    }
    if wants(Subject::Micro) {
        progress("loops in containers");
        measures.extend(micro::measure(session)?);
    }
    if wants(Subject::Start) {
        progress("starts of python3 and node");
        measures.extend(start::measure(session)?);
    }
    if wants(Subject::Compute) {
        progress("compilers, hashes, Python");
        measures.extend(compute::measure(session)?);
    }
    if wants(Subject::Forward) {
        progress("forwarded calls");
        measures.extend(forward::measure(session)?);
    }
    if wants(Subject::Volumes) {
        progress("volumes");
        measures.extend(volumes::measure(session)?);
    }
    if wants(Subject::Network) {
        progress("servers");
        measures.extend(network::measure(session)?);
    }
    if wants(Subject::Idle) {
        progress("idle containers, time of processors");
        measures.extend(idle::measure(session)?);
    }
    if wants(Subject::Ctr) || wants(Subject::Memory) {
        progress("starting containerd");
        let containerd = Containerd::start(session)?;
        if wants(Subject::Ctr) {
            progress("hello through containerd");
            measures.extend(ctr::measure(session, &containerd)?);
        }
        if wants(Subject::Memory) {
            progress("idle containers, memory");
            measures.extend(memory::measure(session, &containerd)?);
            measures.extend(pod::measure(session, &containerd)?);
        }
    }
    progress("done");
    facts.finish(begun.elapsed().as_secs_f64());
    let targets = if session.has(System::Trine) {
        targets::judge(&measures, &session.args.only)
    } else {
        vec![]
    };
    measures.sort_by_key(|measure| place(measure.id));
    Ok(Results { facts, measures, targets })
}

/// The order in which results are read, which is not that in which they are best measured.
fn place(id: &str) -> usize {
    const ORDER: [&str; 5] = [hello::ID, ctr::ID_OUTPUT, ctr::ID_NULL, stages::ID, stages::ID_VM];
    let last = if id == size::ID { ORDER.len() + 1 } else { ORDER.len() };
    ORDER.iter().position(|one| *one == id).unwrap_or(last)
}

fn show(results: &Results, out: &Path) -> Result<()> {
    let write = |name: &str, text: String| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    let json = serde_json::to_string_pretty(results).context("cannot make JSON of the results")?;
    let json = write("results.json", json + "\n")?;
    let chart = write("chart.svg", chart::draw(&results.facts, &results.measures))?;

    println!("{}\n", results.facts.lines().join("\n"));
    print!("{}", table::text(&results.measures));
    if results.facts.is_quick {
        println!("--quick: everything ran, but too little to mean anything; no target was judged.");
    } else if !results.targets.is_empty() {
        print!("{}", targets::text(&results.targets));
    }
    println!("{} and {} hold the rest.", json.display(), chart.display());
    Ok(())
}
