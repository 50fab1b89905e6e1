// SPDX-License-Identifier: Apache-2.0
//! Create, start, kill, pause, resume, delete, and what containerd is told of them.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::BUSYBOX,
    suite::Suite,
};

const TRAP: &str = "trap 'exit 5' TERM; while :; do sleep 0.1; done";

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("kill", || {
        let id = bed.detach(BUSYBOX, &["/bin/sh", "-c", TRAP])?;
        thread::sleep(Duration::from_millis(500));
        bed.kill(&id, "SIGTERM")?;
        bed.until_status(&id, "STOPPED")?;
        deleted_with(bed, &id, 5)?;

        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        bed.kill(&id, "SIGKILL")?;
        bed.until_status(&id, "STOPPED")?;
        deleted_with(bed, &id, 137)
    });
    suite.case("kill-of-a-stopped-task", || {
        let id = bed.detach(BUSYBOX, &["/bin/true"])?;
        bed.until_status(&id, "STOPPED")?;
        let output = command::run(&mut bed.ctr(&["task", "kill", &id]))?;
        ensure!(output.status != 0, "it succeeded: {output}");
        bed.delete(&id)
    });
    suite.case("delete-of-a-running-task", || {
        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        let output = command::run(&mut bed.ctr(&["task", "delete", &id]))?;
        ensure!(output.status != 0, "it succeeded: {output}");
        ensure!(bed.status(&id)?.as_deref() == Some("RUNNING"), "it runs no more");
        bed.remove(&id)
    });
    suite.case("pause-and-resume", || pause(bed));
    suite.case("processes-are-listed", || {
        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        let list = command::must(&mut bed.ctr(&["task", "ps", &id]), PATIENCE)?;
        ensure!(list.lines().count() >= 2, "ctr task ps printed {list:?}");
        bed.remove(&id)
    });
    suite.case("metrics", || metrics(bed));
    suite.case("events-in-order", || {
        let mut events = bed.events()?;
        thread::sleep(Duration::from_millis(500));
        ensure!(events.is_running(), "ctr events ended");
        bed.sh(BUSYBOX, "exit 7")?.expect_status(7)?;
        thread::sleep(Duration::from_millis(500));
        let seen = events.stop()?.stdout;
        let topics = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
        let places: Vec<_> = topics.iter().map(|topic| seen.find(topic)).collect();
        ensure!(places.iter().all(Option::is_some) && places.is_sorted(), "events: {seen}");
        for topic in topics {
            let count = seen.matches(topic).count();
            ensure!(count == 1, "{topic} came {count} times: {seen}");
        }
        Ok(())
    });
    suite.case("same-id-twice", || {
        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        let mut again = bed.ctr_run(&["--detach", "--null-io"], BUSYBOX, &id, &["/bin/true"]);
        let output = command::run(&mut again)?;
        ensure!(output.status != 0 && output.stderr.contains(&id), "{output}");
        ensure!(bed.status(&id)?.as_deref() == Some("RUNNING"), "the first one runs no more");
        bed.remove(&id)
    });
    suite.case("same-id-again-after-delete", || {
        for _ in 0..3 {
            let mut ctr = bed.ctr_run(&["--rm"], BUSYBOX, "again", &["/usr/bin/hello"]);
            command::run(&mut ctr)?.expect("hello")?;
        }
        Ok(())
    });
}

/// Deletes a stopped task, whose exit status `ctr task delete` takes as its own.
fn deleted_with(bed: &Bed, id: &str, status: i32) -> Result<()> {
    let output = command::run(&mut bed.ctr(&["task", "delete", id]))?;
    let said = output.stderr.contains(&format!("exit with non-zero exit code {status}"));
    ensure!(said || output.status == status, "not exit status {status}: {output}");
    bed.delete(id)
}

fn pause(bed: &Bed) -> Result<()> {
    let log = bed.folder.join("pause.log");
    let uri = format!("file://{}", log.display());
    let id = bed.id("pause");
    let arguments = ["/bin/sh", "-c", "while :; do echo x; sleep 0.02; done"];
    let flags = ["--detach", "--log-uri", &uri];
    command::must(&mut bed.ctr_run(&flags, BUSYBOX, &id, &arguments), PATIENCE)?;
    let size = || Ok::<_, anyhow::Error>(fs::metadata(&log).context("look at the log")?.len());
    command::until("the container writes", PATIENCE, || Ok(size()? > 0))?;

    command::must(&mut bed.ctr(&["task", "pause", &id]), PATIENCE)?;
    ensure!(bed.status(&id)?.as_deref() == Some("PAUSED"), "status {:?}", bed.status(&id)?);
    // What was under way may still arrive.
    thread::sleep(Duration::from_millis(300));
    let before = size()?;
    thread::sleep(Duration::from_millis(500));
    ensure!(size()? == before, "it runs while it is paused");

    command::must(&mut bed.ctr(&["task", "resume", &id]), PATIENCE)?;
    ensure!(bed.status(&id)?.as_deref() == Some("RUNNING"), "status {:?}", bed.status(&id)?);
    command::until("the container goes on", PATIENCE, || Ok(size()? > before))?;
    bed.remove(&id)?;
    fs::remove_file(&log).context("remove the log")
}

fn metrics(bed: &Bed) -> Result<()> {
    let id = bed.detach(BUSYBOX, &["/bin/sh", "-c", "while :; do :; done"])?;
    let cpu_ns = || {
        let text = command::must(&mut bed.ctr(&["task", "metrics", &id]), PATIENCE)?;
        let value = |key: &str| {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        };
        let Some(memory) = value("memory.usage_in_bytes").or_else(|| value("memory.usage")) else {
            bail!("no memory in {text:?}");
        };
        ensure!((1 << 16..1 << 30).contains(&memory), "{memory} bytes of memory");
        let usage = value("cpuacct.usage").or_else(|| Some(value("cpu.usage_usec")? * 1000));
        usage.with_context(|| format!("no CPU time in {text:?}"))
    };
    let before = cpu_ns()?;
    thread::sleep(Duration::from_secs(1));
    let used = cpu_ns()?.saturating_sub(before);
    // A loop on a host that may be busy otherwise.
    ensure!((100_000_000..3_000_000_000).contains(&used), "{used} ns of CPU time in one second");
    bed.remove(&id)
}
