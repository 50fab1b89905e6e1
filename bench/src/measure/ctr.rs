// SPDX-License-Identifier: Apache-2.0
//! Start to exit of a static hello, through containerd.

use anyhow::Result;

use super::hello::say_hello;
use crate::{
    containerd::{Containerd, shim_of},
    interleave::{Contender, Sampler, interleave},
    results::{Measure, Row, Shape, Unit},
    session::Session,
    system::System,
};

/// Id of the measurement without output.
pub(crate) const ID_NULL: &str = "hello-ctr-null";
/// Id of the measurement with output.
pub(crate) const ID_OUTPUT: &str = "hello-ctr";

/// What happens to the container's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// `ctr` prints it.
    Printed,
    /// It goes nowhere, and no pipe is made for it.
    Discarded,
}

/// Measures.
///
/// # Errors
/// If it is interrupted, or containerd does not work.
pub(crate) fn measure(
    session: &Session,
    containerd: &Result<Containerd<'_>, String>,
) -> Result<Vec<Measure>> {
    let runner = &session.runner;
    let mut contenders = vec![];
    let systems = [System::Runc, System::Trine].into_iter().filter(|system| session.has(*system));
    for system in systems {
        for output in [Output::Discarded, Output::Printed] {
            let available = containerd.as_ref().map_err(Clone::clone);
            let available = available.and_then(|daemon| shim_of(session, system).map(|()| daemon));
            contenders.push(Contender {
                system,
                label: format!("{output:?} ctr run, {system}"),
                sample: available.map(|daemon| sampler(session, daemon, system, output)),
            });
        }
    }
    let results = interleave(contenders, session.args.plan(), || runner.is_interrupted())?;
    let rows = |output: Output| {
        let prefix = format!("{output:?} ");
        let of_output = results.iter().filter_map(|(system, label, outcome)| {
            Some(Row::new(*system, label.strip_prefix(&prefix)?, outcome.clone()))
        });
        of_output.collect()
    };
    let measure = |id, title: &str, output| Measure {
        id,
        title: title.to_owned(),
        method:
            "From just before posix_spawn of `ctr run --rm` to its exit, through a containerd of \
                 this run's own, the image unpacked."
                .to_owned(),
        unit: Unit::Milliseconds,
        shape: Shape::Compared,
        rows: rows(output),
    };
    Ok(vec![
        measure(ID_OUTPUT, "Hello through ctr run, start to exit", Output::Printed),
        measure(ID_NULL, "Hello through ctr run --null-io, start to exit", Output::Discarded),
    ])
}

fn sampler<'a>(
    session: &'a Session,
    daemon: &'a Containerd<'_>,
    system: System,
    output: Output,
) -> Sampler<'a, f64> {
    let runner = &session.runner;
    let mut count = 0;
    Box::new(move || {
        count += 1;
        let id = format!("hello-{system}-{output:?}-{count}").to_lowercase();
        let finished = match output {
            Output::Printed => {
                say_hello(runner, &mut daemon.run(system, &["--rm"], &id, &["/hello"]))
            }
            Output::Discarded => {
                let flags = ["--rm", "--null-io"];
                runner.succeed(&mut daemon.run(system, &flags, &id, &["/hello"]))
            }
        };
        if finished.is_err() {
            daemon.delete(&id);
        }
        runner.reap();
        Ok(finished?.elapsed_ms())
    })
}
