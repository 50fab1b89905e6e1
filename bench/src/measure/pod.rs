// SPDX-License-Identifier: Apache-2.0
//! What the I/O process of a pod takes.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    accounting,
    containerd::{Containerd, shim_of},
    interleave::{Contender, Plan, Sampler, interleave},
    results::{Measure, Shape, Unit, rows},
    session::Session,
    system::System,
};

/// Id of the measurement.
pub(crate) const ID: &str = "pod-io-memory";

const SERVER: &str = "trine-io";
const SETTLE: Duration = Duration::from_millis(700);

/// Measures.
///
/// # Errors
/// If it is interrupted.
pub(crate) fn measure(
    session: &Session,
    containerd: &Result<Containerd<'_>, String>,
) -> Result<Vec<Measure>> {
    if !session.has(System::Trine) {
        return Ok(vec![]);
    }
    let available = containerd.as_ref().map_err(Clone::clone);
    let available = available.and_then(|daemon| shim_of(session, System::Trine).map(|()| daemon));
    let sample = available.map(|daemon| -> Sampler<'_, f64> {
        let mut count = 0;
        Box::new(move || {
            count += 1;
            sample(session, daemon, count)
        })
    });
    let contender = Contender { system: System::Trine, label: SERVER.to_owned(), sample };
    let plan = Plan { warmups: 0, runs: if session.args.quick { 1 } else { 5 } };
    let results = interleave(vec![contender], plan, || session.runner.is_interrupted())?;
    Ok(vec![Measure {
        id: ID,
        title: "I/O process of a pod of two idle containers, private memory".to_owned(),
        method: "Private_Clean and Private_Dirty of trine-io, the pod made through containerd as \
                 the kubelet does."
            .to_owned(),
        unit: Unit::Mebibytes,
        shape: Shape::Compared,
        rows: rows(results),
    }])
}

fn sample(session: &Session, daemon: &Containerd<'_>, count: u32) -> Result<f64> {
    let pod = format!("pod-{count}");
    let members = [
        (pod.clone(), "sandbox"),
        (format!("{pod}-a"), "container"),
        (format!("{pod}-b"), "container"),
    ];
    let result = fill(session, daemon, &pod, &members);
    for (id, _) in members.iter().rev() {
        daemon.delete(id);
    }
    session.runner.reap();
    result
}

fn fill(
    session: &Session,
    daemon: &Containerd<'_>,
    pod: &str,
    members: &[(String, &str)],
) -> Result<f64> {
    let sandbox = format!("io.kubernetes.cri.sandbox-id={pod}");
    for (id, kind) in members {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let flags = ["--detach", "--null-io", "--annotation", &kind, "--annotation", &sandbox];
        let args = session.rootfs.sleeper.args();
        session.runner.succeed(&mut daemon.run(System::Trine, &flags, id, args))?;
    }
    session.runner.sleep(SETTLE)?;
    let is_server = |id: &u32| accounting::name(*id).as_deref() == Some(SERVER);
    let servers: Vec<u32> = session.runner.descendants().into_iter().filter(is_server).collect();
    anyhow::ensure!(servers.len() == 1, "a pod has {} processes {SERVER}", servers.len());
    let bytes = accounting::private_bytes(servers[0]).context("the I/O process has ended")?;
    Ok(bytes as f64 / f64::from(1 << 20))
}
