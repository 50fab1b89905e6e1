// SPDX-License-Identifier: Apache-2.0
//! `kill -9` of each process there is, at rest and under load: containerd reports the task's end,
//! `ctr` can delete it, and nothing stays.

use std::{process::Stdio, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    bed::Bed,
    census::{self, Census},
    command::{self, PATIENCE},
    images::BUSYBOX,
    suite::Suite,
};

const REST: &str = "sleep 1000";
/// Processes, files and output without end.
const LOAD: &str = "while :; do seq 1 2000 | sort -rn > /tmp/f; cat /tmp/f; done";

pub(super) fn cases(bed: &mut Bed, suite: &mut Suite) {
    let victims: &[&str] = if bed.is_trine() {
        &["trine-vmm", "trine-io", "containerd-shim-trine-v1"]
    } else {
        &["busybox", "containerd-shim-runc-v2"]
    };
    suite.case("kill-of-a-frozen-container", || kill_frozen(bed, victims[0]));
    for (how, script) in [("at-rest", REST), ("under-load", LOAD)] {
        for victim in victims {
            suite.case(&format!("kill-9-{victim}-{how}"), || kill_part(bed, victim, script));
        }
        suite.case(&format!("kill-9-containerd-{how}"), || kill_containerd(bed, script));
    }
}

fn kill_part(bed: &Bed, victim: &str, script: &str) -> Result<()> {
    warm_up(bed)?;
    let scope = bed.scope(false);
    let before = Census::take(&scope)?;
    let events = bed.events()?;

    let id = bed.id("victim");
    // A ctr that is attached to a shim that dies leaves its fifos, whatever the runtime.
    let is_attached = !victim.starts_with("containerd-shim");
    let flags =
        if is_attached { ["--null-io=false"].as_slice() } else { &["--detach", "--null-io"] };
    let mut ctr = bed.ctr_run(flags, BUSYBOX, &id, &["/bin/sh", "-c", script]);
    let running = command::start(&mut ctr, Stdio::null())?;
    bed.until_status(&id, "RUNNING")?;
    thread::sleep(Duration::from_millis(500));

    let pids = census::pids_of(victim)?;
    ensure!(!pids.is_empty(), "no process runs {victim}");
    for pid in pids {
        signal(pid, Signal::KILL)?;
    }
    command::until("the task's end is reported", Duration::from_secs(15), || {
        Ok(bed.status(&id)?.is_none_or(|status| status == "STOPPED"))
    })?;
    // A client that is attached comes back as well.
    let output = running.wait(PATIENCE)?;
    ensure!(!is_attached || output.status != 0, "ctr run says that all went well: {output}");
    bed.delete(&id).or_else(|error| {
        // `ctr run` may have deleted it, if it lived to see the end.
        let list = command::must(&mut bed.ctr(&["container", "ls", "-q"]), PATIENCE)?;
        if list.lines().any(|line| line == id) { Err(error) } else { Ok(()) }
    })?;

    thread::sleep(Duration::from_millis(200));
    let seen = events.stop()?.stdout;
    let exits = seen.lines().filter(|line| line.contains("/tasks/exit") && line.contains(&id));
    ensure!(exits.count() == 1, "not one /tasks/exit: {seen}");
    bed.run(BUSYBOX, &["/usr/bin/hello"])?.expect("hello")?;
    bed.collect_garbage()?;
    before.expect_same(&scope)
}

/// A container that does not answer, as its VM is stopped, is killed all the same.
fn kill_frozen(bed: &Bed, victim: &str) -> Result<()> {
    let id = bed.detach(BUSYBOX, &["/bin/sh", "-c", REST])?;
    for pid in census::pids_of(victim)? {
        signal(pid, Signal::STOP)?;
    }
    bed.remove(&id)
}

fn kill_containerd(bed: &mut Bed, script: &str) -> Result<()> {
    warm_up(bed)?;
    let log = bed.folder.join("kill.log");
    let uri = format!("file://{}", log.display());
    let id = bed.id("survivor");
    let scope = bed.scope(false);

    let arguments = ["/bin/sh", "-c", script];
    command::must(
        &mut bed.ctr_run(&["--detach", "--log-uri", &uri], BUSYBOX, &id, &arguments),
        PATIENCE,
    )?;
    bed.kill_daemon()?;
    thread::sleep(Duration::from_millis(500));
    bed.start_daemon()?;
    // The container has not noticed.
    ensure!(bed.status(&id)?.as_deref() == Some("RUNNING"), "status {:?}", bed.status(&id)?);
    bed.exec(&id, &["/bin/echo", "alive"])?.expect("alive")?;
    bed.remove(&id)?;

    bed.collect_garbage()?;
    // Its own process id has changed, so that of the new daemon is the base; what the container
    // left would be found beside it.
    let leftovers = Census::take(&scope)?;
    std::fs::remove_file(&log).ok();
    bed.run(BUSYBOX, &["/usr/bin/hello"])?.expect("hello")?;
    bed.collect_garbage()?;
    leftovers.expect_same(&scope)?;
    for program in ["trine-vmm", "trine-io", "containerd-shim-trine-v1", "containerd-shim-runc-v2"]
    {
        let pids = census::pids_of(program)?;
        ensure!(pids.is_empty(), "{program} still runs as {pids:?}");
    }
    Ok(())
}

fn warm_up(bed: &Bed) -> Result<()> {
    bed.run(BUSYBOX, &["/usr/bin/hello"])?.expect("hello")?;
    bed.collect_garbage()
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("process id")?;
    match kill_process(pid, signal) {
        // One of several may have ended with the first.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno).context("send a signal"),
    }
}
