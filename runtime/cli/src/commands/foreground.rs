// SPDX-License-Identifier: Apache-2.0
//! `run` in the foreground: this process holds the container, without a supervisor.
//!
//! What must be ready when the program runs comes before its start; the threads that serve the
//! control socket, pass signals on and watch the time begin when it already runs.

use std::{
    io::Write as _,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use trine::{ExitStatus, Stdio, Stream};

use super::{
    create,
    streams::{self, Attach, Session, Streams},
};
use crate::{
    context::Context,
    control, failure,
    held::{Held, Remover, SIGKILL},
    plan::Plan,
    signals::{Event, Forwarder},
    store::{Claim, Owner, Record},
    values,
};

/// How to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a> {
    /// Kill the VM after this time.
    pub(crate) timeout_seconds: Option<u64>,
    /// Leave the record in place.
    pub(crate) keep: bool,
    /// Where to write the VMM's process id.
    pub(crate) pid_file: Option<&'a Path>,
    /// CLOCK_MONOTONIC when the command began.
    pub(crate) begun_ns: u64,
    /// CLOCK_MONOTONIC when image and configuration were ready.
    pub(crate) planned_ns: u64,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Ended {
    id: String,
    /// Exit status of the command line.
    pub(crate) code: u8,
    reason: String,
    stages: Value,
}

impl Ended {
    /// Makes the result of a container that still runs.
    pub(crate) fn detached(id: String) -> Self {
        Self { id, code: 0, reason: "detached".to_owned(), stages: json!({}) }
    }

    /// Makes the report of `--json`.
    pub(crate) fn report(&self) -> Value {
        json!({
            "id": self.id,
            "exit_code": self.code,
            "reason": self.reason,
            "stages": self.stages,
        })
    }
}

/// Runs a container until it ends.
///
/// # Errors
/// With nothing left behind.
pub(crate) fn run(context: &Context, mut plan: Plan, options: Options<'_>) -> Result<Ended> {
    let record = plan.outline.record.clone();
    let signals = Forwarder::catch()?;
    let claim = super::snapshot::claim(&context.root, &record)?;
    let streams = Streams::make(&mut plan.process, Attach::Caller)?;
    let ([stdin, stdout, stderr], master) = streams.split();
    let [stdin, stdout, stderr] = [stdin, stdout, stderr].map(Stream::Descriptor);
    let stdio = Stdio { stdin, stdout, stderr };

    let directory = claim.directory().try_clone()?;
    let held = Arc::new(Held::create(plan, stdio, directory, Remover::Foreground)?);
    let created_ns = values::monotonic_ns();
    context.log.debug(|| format!("created, the VMM is process {}", held.container().pid()));

    let is_timed_out = Arc::new(AtomicBool::new(false));
    let running = || -> Result<(ExitStatus, u64, u64)> {
        let session = match &master {
            Some(master) => Some(Session::begin(master)?),
            None => None,
        };
        if let Some(path) = options.pid_file {
            create::write_pid_file(path, held.container().pid())?;
        }
        held.container().start("")?;
        let started_ns = values::monotonic_ns();
        let resize_of = master.clone();
        attend(&held, signals, resize_of, options.timeout_seconds, &is_timed_out)?;
        let status = held.wait()?;
        let exited_ns = values::monotonic_ns();
        held.end()?;
        // Its last output is on the way until the I/O process has closed its end.
        if let Some(session) = session {
            session.end();
        }
        Ok((status, started_ns, exited_ns))
    };
    let (status, started_ns, exited_ns) = match running() {
        Ok(ended) => ended,
        Err(error) => {
            return Err(match held.end() {
                Ok(()) => error,
                Err(cleanup) => {
                    let cleanup = failure::one_line(&cleanup);
                    error.context(format!("cleanup failed too ({cleanup})"))
                }
            });
        }
    };
    let is_timed_out = is_timed_out.load(Ordering::Relaxed);
    let failure = held.failure_reason().filter(|_| !is_timed_out);
    if let Some(reason) = &failure {
        let line = format!("trine: the vm of container {:?} ended: {reason}\n", record.id);
        // If stderr is gone, the exit status has to do.
        let _ = std::io::stderr().write_all(line.as_bytes());
        context.log.error(line.trim_end());
    }
    let stages = held.container().stages();
    let ended = Ended {
        id: record.id.clone(),
        code: if is_timed_out { failure::TIMED_OUT } else { status.code as u8 },
        reason: failure.unwrap_or_else(|| reason(&status, is_timed_out).to_owned()),
        stages: json!({
            "begun_ns": options.begun_ns,
            "planned_ns": options.planned_ns,
            "create_ns": stages.create_ns,
            "loaded_ns": stages.loaded_ns,
            "created_ns": created_ns,
            "started_ns": started_ns,
            "ready_ns": stages.ready_ns,
            "exited_ns": exited_ns,
            "deleted_ns": values::monotonic_ns(),
        }),
    };
    if options.keep {
        keep(claim, record, status.code)?;
    }
    Ok(ended)
}

/// Starts what goes on beside the container.
fn attend(
    held: &Arc<Held>,
    signals: Forwarder,
    master: Option<Arc<OwnedFd>>,
    timeout_seconds: Option<u64>,
    is_timed_out: &Arc<AtomicBool>,
) -> Result<()> {
    let target = Arc::clone(held);
    signals.start(move |event| {
        // Whoever sent a signal to a container that has just ended missed it by no fault of ours.
        match event {
            Event::Signal(signal) => drop(target.kill("", signal, false)),
            Event::Resized => {
                if let Some((rows, columns)) = master.as_deref().and_then(streams::follow_size) {
                    let _ = target.container().resize("", rows, columns);
                }
            }
        }
    })?;
    let listener = held.directory().listen()?;
    let server = Arc::clone(held);
    spawn("accept", move || control::serve(&listener, &server))?;
    if let Some(seconds) = timeout_seconds {
        let (target, is_timed_out) = (Arc::clone(held), Arc::clone(is_timed_out));
        spawn("timeout", move || {
            thread::sleep(Duration::from_secs(seconds));
            is_timed_out.store(true, Ordering::Relaxed);
            if target.kill("", SIGKILL, false).is_err() {
                // It ended by itself in the last moment.
                is_timed_out.store(false, Ordering::Relaxed);
            }
        })?;
    }
    Ok(())
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .with_context(|| format!("cannot start thread {name:?}"))?;
    Ok(())
}

fn reason(status: &ExitStatus, is_timed_out: bool) -> &'static str {
    match (is_timed_out, status.out_of_memory) {
        (true, _) => "timeout",
        (false, true) => "out of memory",
        (false, false) => "exited",
    }
}

/// Leaves the record, so that `state` and `delete` know the container.
fn keep(claim: Claim, record: Record, exit_code: u32) -> Result<()> {
    let directory = claim.keep();
    directory.remove_socket()?;
    directory.write_record(&Record {
        owner: Owner::default(),
        exit_code: Some(exit_code),
        ..record
    })
}
