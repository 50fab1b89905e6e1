// SPDX-License-Identifier: Apache-2.0
//! Work that needs little but the processor.

use std::process::Command;

use anyhow::Result;

use crate::{
    contest::{self, Contestant, Figure},
    debian::{CPUS, MEMORY_BYTES},
    interleave::Plan,
    results::{Measure, Unit},
    session::Session,
    system::System,
};

/// Id of the throughput of two processors.
pub(crate) const SCALE: &str = "scale";
/// Ids of what Debian's programs do.
pub(crate) const PROGRAMS: [&str; 5] = ["compile", "hash", "loops", "json", "regex"];

const SCRIPT: &str = include_str!("../guest/compute.sh");
const PYTHON: &str = include_str!("../guest/compute.py");

const FIGURES: [Figure; 5] = [
    of_program(
        "compile",
        "gcc, project of 20 files",
        "gcc -O1 of each file, link, run; on a tmpfs.",
    ),
    of_program("hash", "openssl speed, sha256", "Blocks of 16 KiB, one second; per MiB."),
    of_program("loops", "python3, loops", "A sieve and n-queens."),
    of_program("json", "python3, JSON", "dumps and loads of 100 objects, 25 times."),
    of_program(
        "regex",
        "python3, regular expressions",
        "findall and sub over 4,000 lines, 8 times.",
    ),
];

const fn of_program(id: &'static str, title: &'static str, method: &'static str) -> Figure {
    Figure { name: id, id, title, method, unit: Unit::Nanoseconds }
}

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let mut measures = scale(session)?;
    // The programs warm themselves up.
    let (rounds, runs) = if session.args.quick { ("1", 1) } else { ("2", 3) };
    let plan = Plan { warmups: 0, runs };
    let args = [rounds, PYTHON];
    let contestants = on_debian(session, "compute", SCRIPT, &args);
    measures.extend(contest::hold(session, "compute", &FIGURES, plan, contestants)?);
    Ok(measures)
}

/// One contestant for each system that was asked for, with a script of bash.
pub(crate) fn on_debian<'a>(
    session: &'a Session,
    name: &'a str,
    script: &'a str,
    args: &'a [&'a str],
) -> Vec<Contestant<'a>> {
    let debian = session.debian.as_ref();
    let of_system = |system: &System| {
        let system = *system;
        let arena = debian.map_err(Clone::clone).map(|debian| -> Box<dyn Fn() -> Result<_>> {
            Box::new(move || debian.arena(system, name, script, args))
        });
        Contestant { system, label: contest::label(system), arena }
    };
    session.args.systems.iter().map(of_system).collect()
}

fn scale(session: &Session) -> Result<Vec<Measure>> {
    const FIGURE: Figure = Figure {
        name: "scale",
        id: SCALE,
        title: "Two processes on two processors, of the work of one (more is better)",
        method: "A CPU-bound loop in one process, then in two at once, in the same container.",
        unit: Unit::Times,
    };
    let (ms, runs) = if session.args.quick { ("20", 1) } else { ("500", 5) };
    let arena = move |system| {
        if system == System::Plain {
            let mut command = Command::new(session.rootfs.path.join("workload"));
            command.args(["scale", ms]);
            return Ok(command.into());
        }
        let name = format!("scale-{system}");
        let container = session.rootfs.container(&name, &["/workload", "scale", ms]);
        Ok(container.with_resources(CPUS, MEMORY_BYTES).into())
    };
    let contestants = contest::contestants(session, arena);
    contest::hold(session, "scale", &[FIGURE], Plan { warmups: 0, runs }, contestants)
}
