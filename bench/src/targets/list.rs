// SPDX-License-Identifier: Apache-2.0
//! The targets.

use super::{Figure, Kind, Relation, Target};
use crate::{
    args::Subject,
    measure::{
        compute, ctr, forward, hello, idle, memory, micro, network, pod, size, stages, start,
        volumes,
    },
    policy,
    system::System,
};

const MUST: Kind = Kind::Must;
const AIM: Kind = Kind::Aim;

/// All of them, in the order in which they are shown.
pub(super) fn all() -> Vec<Target> {
    let mut targets = vec![];
    starts(&mut targets);
    idle(&mut targets);
    loops(&mut targets);
    programs(&mut targets);
    outside(&mut targets);
    targets
}

fn target(
    kind: Kind,
    about: Subject,
    subject: impl Into<String>,
    figure: Figure,
    relation: Relation,
    bound: f64,
    unit: &'static str,
) -> Target {
    Target { kind, about, subject: subject.into(), figure, relation, bound, unit }
}

/// A target about a ratio of medians.
fn times(
    kind: Kind,
    about: Subject,
    subject: impl Into<String>,
    figure: Figure,
    relation: Relation,
    bound: f64,
) -> Target {
    target(kind, about, subject, figure, relation, bound, "x")
}

fn starts(targets: &mut Vec<Target>) {
    let vm_start = Figure::Own { id: stages::ID_VM };
    let title = "VM creation to the first instruction";
    targets.push(target(MUST, Subject::Stages, title, vm_start, Relation::AtMost, 5.0, "ms"));
    for (kind, bound) in [(MUST, 1.0), (AIM, 0.33)] {
        for label in [hello::TRINE_BUNDLE, hello::TRINE_ROOTFS] {
            let figure = Figure::LabelledRatio { id: hello::ID, label, to: System::Runc };
            let title = format!("{label}, hello, of runc run's time");
            targets.push(times(kind, Subject::Hello, title, figure, Relation::AtMost, bound));
        }
    }
    for (kind, bound) in [(MUST, 1.0), (AIM, 0.6)] {
        for (id, label) in [(ctr::ID_OUTPUT, "ctr run"), (ctr::ID_NULL, "ctr run --null-io")] {
            let figure = Figure::Ratio { id, to: System::Runc };
            let title = format!("{label}, hello, of runc's time");
            targets.push(times(kind, Subject::Ctr, title, figure, Relation::AtMost, bound));
        }
    }
    for (kind, bound) in [(MUST, 3.0), (AIM, 1.5)] {
        for (id, label) in [(start::PYTHON, "python3 -c pass"), (start::NODE, "node -e 0")] {
            let figure = Figure::Ratio { id, to: System::Plain };
            let title = format!("trine run, {label}, of a plain process's time");
            targets.push(times(kind, Subject::Start, title, figure, Relation::AtMost, bound));
        }
    }
}

fn idle(targets: &mut Vec<Target>) {
    for (kind, bound) in [(MUST, 5.0), (AIM, 2.0)] {
        let run = Figure::Own { id: memory::ID };
        // The shim is part of what a container costs there.
        let ctr = Figure::Labelled { id: memory::ID, label: memory::TRINE_CTR };
        for (title, figure) in
            [("idle container, trine run", run), ("idle container, ctr run, with its shim", ctr)]
        {
            let (about, relation) = (Subject::Memory, Relation::AtMost);
            targets.push(target(kind, about, title, figure, relation, bound, "MiB"));
        }
    }
    let server = Figure::Own { id: pod::ID };
    let title = "I/O process of a pod of two idle containers";
    targets.push(target(MUST, Subject::Memory, title, server, Relation::AtMost, 4.0, "MiB"));
    let kernel = Figure::Own { id: size::ID };
    let title = "guest kernel image";
    targets.push(target(MUST, Subject::Size, title, kernel, Relation::AtMost, 1.5, "MiB"));
    // Less than one tick of the clock that processes are usually accounted by.
    let minute = Figure::Own { id: idle::ID };
    let title = "idle container, time of processors in a minute";
    targets.push(target(MUST, Subject::Idle, title, minute, Relation::Below, 10.0, "ms"));
}

fn loops(targets: &mut Vec<Target>) {
    let mut push = |kind, id: &'static str, to: System, relation, bound| {
        let title = format!("{id}, of {to}'s time");
        let figure = Figure::Ratio { id, to };
        targets.push(times(kind, Subject::Micro, title, figure, relation, bound));
    };
    for id in micro::CALLS {
        push(MUST, id, System::Runsc, Relation::Below, 1.0);
        push(AIM, id, System::Runc, Relation::Below, 1.0);
    }
    for id in micro::SWITCHES {
        push(MUST, id, System::Runsc, Relation::Below, 1.0);
        push(AIM, id, System::Runc, Relation::AtMost, 4.0);
    }
    let cpu = Figure::Ratio { id: micro::CPU, to: System::Plain };
    let title = "CPU-bound loop, of a plain process's time";
    targets.push(times(MUST, Subject::Micro, title, cpu, Relation::AtMost, 1.03));
}

fn programs(targets: &mut Vec<Target>) {
    for (kind, share) in [(MUST, 0.9), (AIM, 0.97)] {
        for id in compute::PROGRAMS {
            let figure = Figure::Ratio { id, to: System::Runc };
            let title = format!("{id}, of runc's time ({:.0} % of its speed)", share * 100.0);
            // Rounded, as it is shown.
            let bound = (1000.0_f64 / share).round() / 1000.0;
            targets.push(times(kind, Subject::Compute, title, figure, Relation::AtMost, bound));
        }
    }
    let scale = Figure::Own { id: compute::SCALE };
    let title = "two processors, of one's throughput";
    targets.push(times(MUST, Subject::Compute, title, scale, Relation::AtLeast, 1.8));
}

fn outside(targets: &mut Vec<Target>) {
    for (kind, bound) in [(MUST, 40_000.0), (AIM, 15_000.0)] {
        for (id, label) in [
            (forward::FSTAT, "fstat on a volume"),
            (forward::FCHMOD, "fchmod on a volume"),
            (forward::ECHO, "one byte by TCP and back"),
        ] {
            let title = format!("forwarded call, {label}, p50");
            let (about, figure) =
                (Subject::Forward, Figure::Labelled { id, label: forward::TRINE });
            targets.push(target(kind, about, title, figure, Relation::AtMost, bound, "ns"));
        }
    }
    let calls = [forward::FSTAT, forward::FCHMOD, forward::OPEN, forward::ECHO];
    let calls = calls.map(|id| (id, Subject::Forward));
    let programs = volumes::PROGRAMS.map(|(id, _)| (id, Subject::Volumes));
    for (id, about) in calls.into_iter().chain(programs) {
        let figure = Figure::Rows { id, label: policy::LABEL, to: forward::TRINE };
        let title = format!("policy of 100 rules, {id}, of none's time");
        targets.push(times(MUST, about, title, figure, Relation::Below, 1.05));
    }
    let mut push = |kind, about, id: &'static str, to: System, relation, bound| {
        let what =
            if matches!(relation, Relation::Above | Relation::AtLeast) { "rate" } else { "time" };
        let title = format!("{id}, of {to}'s {what}");
        targets.push(times(kind, about, title, Figure::Ratio { id, to }, relation, bound));
    };
    for (id, share) in volumes::RATES {
        push(MUST, Subject::Volumes, id, System::Runsc, Relation::Above, 1.0);
        push(AIM, Subject::Volumes, id, System::Runc, Relation::AtLeast, share);
    }
    for (id, bound) in volumes::PROGRAMS {
        push(MUST, Subject::Volumes, id, System::Runsc, Relation::Below, 1.0);
        push(AIM, Subject::Volumes, id, System::Runc, Relation::AtMost, bound);
    }
    for id in network::RATES {
        push(MUST, Subject::Network, id, System::Runsc, Relation::Above, 1.0);
        push(AIM, Subject::Network, id, System::Runc, Relation::AtLeast, 0.5);
    }
}
