// SPDX-License-Identifier: Apache-2.0
//! Single calls that the host answers for a container.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    contest::{self, Arena, Contestant, Figure, Place},
    debian::{CPUS, MEMORY_BYTES},
    interleave::Plan,
    policy,
    results::{Measure, Unit},
    session::Session,
    system::System,
    wire::{End, OUTER, Wire},
};

/// Id of fstat of a file on a volume.
pub(crate) const FSTAT: &str = "forward-fstat";
/// Id of fchmod of a file on a volume.
pub(crate) const FCHMOD: &str = "forward-fchmod";
/// Id of opening a file on a volume.
pub(crate) const OPEN: &str = "forward-open";
/// Id of a byte on a TCP connection, there and back.
pub(crate) const ECHO: &str = "forward-echo";
/// Row of ours without a policy.
pub(crate) const TRINE: &str = "trine";

const PORT: u16 = 4007;
const FIGURES: [Figure; 5] = [
    Figure {
        name: "fstat",
        id: FSTAT,
        title: "Forwarded call: fstat of a volume's file, p50",
        method: "Median of single calls, one at a time, in one container. A kernel that knows the \
                 answer need not ask.",
        unit: Unit::Nanoseconds,
    },
    Figure {
        name: "fchmod",
        id: FCHMOD,
        title: "Forwarded call: fchmod of a volume's file, p50",
        method: "Median of single calls, one at a time, in one container. No kernel can answer it \
                 by itself.",
        unit: Unit::Nanoseconds,
    },
    Figure {
        name: "stat",
        id: "forward-stat",
        title: "Forwarded call: stat of a name on a volume, p50",
        method: "Median of single calls, one at a time, in one container.",
        unit: Unit::Nanoseconds,
    },
    Figure {
        name: "open",
        id: OPEN,
        title: "Forwarded calls: open and close of a volume's file, p50",
        method: "Median of single pairs of calls, one at a time, in one container.",
        unit: Unit::Nanoseconds,
    },
    Figure {
        name: "echo",
        id: ECHO,
        title: "One byte on a TCP connection and back, p50",
        method: "The peer is a process of the host in the pod's namespace; for runsc, whose loopback \
                 is its own, at the other end of a veth.",
        unit: Unit::Nanoseconds,
    },
];

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let quick = session.args.quick;
    let (samples, calls, runs) = if quick { ("1", "20", 1) } else { ("4", "500", 5) };
    let args = ["forward", samples, calls];
    let mut contestants =
        contest::contestants(session, move |system| arena(session, system, args, None));
    if session.has(System::Trine) {
        let policy = policy::write(&session.scratch)?;
        contestants.push(Contestant {
            system: System::Trine,
            label: policy::LABEL.to_owned(),
            arena: Ok(Box::new(move || arena(session, System::Trine, args, Some(policy.clone())))),
        });
    }
    contest::hold(session, "forward", &FIGURES, Plan { warmups: 0, runs }, contestants)
}

fn arena(
    session: &Session,
    system: System,
    [command, samples, calls]: [&str; 3],
    policy: Option<PathBuf>,
) -> Result<Arena> {
    let mut wire = Wire::lay(session)?;
    let (end, address) = match system {
        System::Runsc => (End::Outside, OUTER),
        System::Plain | System::Runc | System::Trine => (End::Pod, "127.0.0.1"),
    };
    let address = format!("{address}:{PORT}");
    let workload = session.rootfs.path.join("workload");
    let mut peer = wire.command(end, &workload);
    wire.spawn(session, peer.args(["echo", &address]))?;

    let name = format!("forward-{system}");
    let volume = session.scratch.directory(&format!("volumes/{name}"))?;
    let place = if system == System::Plain {
        let mut process = wire.command(End::Pod, &workload);
        process.arg(command).arg(&volume).args([&address, samples, calls]);
        Place::Process(process)
    } else {
        let args = ["/workload", command, "/volume", &address, samples, calls];
        let container = session.rootfs.container(&name, &args).with_volume(&volume, "/volume");
        Place::Container(container.with_network(wire.pod()).with_resources(CPUS, MEMORY_BYTES))
    };
    Ok(Arena { place, wire: Some(wire), policy })
}
