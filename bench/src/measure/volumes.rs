// SPDX-License-Identifier: Apache-2.0
//! Files on a volume.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::compute::on_debian;
use crate::{
    contest::{self, Arena, Contestant, Figure},
    debian::{CPUS, Debian, MEMORY_BYTES},
    interleave::Plan,
    policy,
    results::{Measure, Unit},
    session::Session,
    system::System,
};

/// Ids of rates, of which more is better, and the shares of runc's that are aimed at.
pub(crate) const RATES: [(&str, f64); 3] =
    [("volume-read", 0.6), ("volume-write", 0.6), ("volume-random", 0.4)];
/// Ids of programs in a large tree, and how many times runc's time is aimed at.
pub(crate) const PROGRAMS: [(&str, f64); 2] = [("volume-git", 3.0), ("volume-tar", 3.0)];

/// What runs with a policy has a tree of its own.
const WITH_POLICY: &str = "tree-policy";
const TREE: &str = include_str!("../guest/tree.sh");
const TREE_MAKE: &str = include_str!("../guest/tree-make.sh");

const RATE_FIGURES: [Figure; 3] = [
    Figure {
        name: "read",
        id: "volume-read",
        title: "Volume: sequential read of 1 MiB blocks (more is better)",
        method: "A file of 128 MiB, in the host's page cache.",
        unit: Unit::MebibytesPerSecond,
    },
    Figure {
        name: "write",
        id: "volume-write",
        title: "Volume: sequential write of 1 MiB blocks (more is better)",
        method: "A new file of 128 MiB, fsync included.",
        unit: Unit::MebibytesPerSecond,
    },
    Figure {
        name: "random",
        id: "volume-random",
        title: "Volume: random reads of 4 KiB, 16 in flight (more is better)",
        method: "Sixteen threads all over a file of 128 MiB in the host's page cache.",
        unit: Unit::PerSecond,
    },
];

const TREE_FIGURES: [Figure; 2] = [
    Figure {
        name: "git",
        id: "volume-git",
        title: "Volume: git status of 10,000 files",
        method: "A clean repository, its index refreshed before.",
        unit: Unit::Nanoseconds,
    },
    Figure {
        name: "tar",
        id: "volume-tar",
        title: "Volume: tar -x of 10,000 files",
        method: "From an archive on the volume to a fresh directory on it.",
        unit: Unit::Nanoseconds,
    },
];

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let mut measures = rates(session)?;
    measures.extend(trees(session)?);
    Ok(measures)
}

fn rates(session: &Session) -> Result<Vec<Measure>> {
    let quick = session.args.quick;
    let (samples, mib, ms, runs) = if quick { ("1", "4", "10", 1) } else { ("3", "128", "300", 4) };
    let arena = move |system| {
        let name = format!("volume-{system}");
        let volume = session.scratch.directory(&format!("volumes/{name}"))?;
        if system == System::Plain {
            let mut command = Command::new(session.rootfs.path.join("workload"));
            command.arg("volume").arg(volume).args([samples, mib, ms]);
            return Ok(command.into());
        }
        let args = ["/workload", "volume", "/volume", samples, mib, ms];
        let container = session.rootfs.container(&name, &args).with_volume(&volume, "/volume");
        Ok(container.with_resources(CPUS, MEMORY_BYTES).into())
    };
    let contestants = contest::contestants(session, arena);
    contest::hold(session, "volume", &RATE_FIGURES, Plan { warmups: 0, runs }, contestants)
}

fn trees(session: &Session) -> Result<Vec<Measure>> {
    let quick = session.args.quick;
    let (files, rounds, runs) = if quick { ("200", "1", 1) } else { ("10000", "1", 2) };
    if let Ok(debian) = &session.debian {
        make_trees(session, debian, files).context("cannot make trees of files")?;
    }
    let args = [rounds];
    let mut contestants = on_debian(session, "tree", TREE, &args);
    if session.has(System::Trine) {
        let policy = policy::write(&session.scratch)?;
        let debian = session.debian.as_ref().map_err(Clone::clone);
        contestants.push(Contestant {
            system: System::Trine,
            label: policy::LABEL.to_owned(),
            arena: debian.map(|debian| -> Box<dyn Fn() -> Result<Arena>> {
                Box::new(move || {
                    let arena = debian.arena(System::Trine, WITH_POLICY, TREE, &args)?;
                    Ok(Arena { policy: Some(policy.clone()), ..arena })
                })
            }),
        });
    }
    let plan = Plan { warmups: 0, runs };
    contest::hold(session, "tree", &TREE_FIGURES, plan, contestants)
}

/// Makes a tree, and a copy for each system: git's index knows the files of its own.
fn make_trees(session: &Session, debian: &Debian, files: &str) -> Result<()> {
    let (_, first) = debian.shared("tree")?;
    let mut make = debian.command("/bin/bash");
    session.runner.succeed(make.args(["-c", TREE_MAKE, "tree-make", &first, files]))?;
    let copies = session.args.systems.iter().map(|system| format!("tree-{system}"));
    let with_policy = session.has(System::Trine).then(|| format!("{WITH_POLICY}-trine"));
    for copy in copies.chain(with_policy) {
        let (_, copy) = debian.shared(&copy)?;
        let source = format!("{first}/.");
        session.runner.succeed(debian.command("/bin/cp").args(["-a", &source, &copy]))?;
    }
    let mut remove = debian.command("/bin/rm");
    session.runner.succeed(remove.args(["-rf", &first]))?;
    Ok(())
}
