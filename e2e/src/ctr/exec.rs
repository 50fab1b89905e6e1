// SPDX-License-Identifier: Apache-2.0
//! Commands in a running container.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};

use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::{BUSYBOX, DEBIAN},
    suite::Suite,
    terminal::Session,
};

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("exec", || {
        let id = bed.detach(DEBIAN, &["/bin/sleep", "1000"])?;
        bed.exec(&id, &["/bin/echo", "in the container"])?.expect("in the container")?;
        bed.exec(&id, &["/bin/bash", "-c", "exit 9"])?.expect_status(9)?;
        // It is the same container: the same files, the same processes.
        bed.exec(&id, &["/bin/bash", "-c", "echo here > /tmp/file"])?.expect_status(0)?;
        bed.exec(&id, &["/bin/cat", "/tmp/file"])?.expect("here")?;
        let script = "tr '\\0' ' ' < /proc/1/cmdline";
        bed.exec(&id, &["/bin/bash", "-c", script])?.expect("/bin/sleep 1000")?;
        bed.remove(&id)
    });
    suite.case("exec-stdin", || {
        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        let mut echo = Command::new("seq").arg("50000").stdout(Stdio::piped()).spawn()?;
        let Some(pipe) = echo.stdout.take() else { bail!("no pipe") };
        let mut ctr =
            bed.ctr(&["task", "exec", "--exec-id", &bed.id("exec"), &id, "/bin/wc", "-l"]);
        command::start(&mut ctr, pipe.into())?.wait(PATIENCE)?.expect("50000")?;
        echo.wait()?;
        bed.remove(&id)
    });
    suite.case("exec-terminal", || {
        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        let exec_id = bed.id("exec");
        let mut ctr = bed.ctr(&["task", "exec", "--tty", "--exec-id", &exec_id, &id, "/bin/sh"]);
        let mut session = Session::start(&mut ctr, 25, 85)?;
        // What is typed before ctr has made its terminal raw is ctr's to lose.
        session.expect("/ # ", PATIENCE)?;
        session.send("until stty size | grep -q '^25 [8]5'; do sleep 0.1; done; stty size; echo $((6 * 7))\n")?;
        session.expect("25 85", PATIENCE)?;
        session.expect("42", PATIENCE)?;
        session.send("exit 4\n")?;
        ensure!(session.wait(PATIENCE)? == 4, "exit status: {}", session.screen());
        bed.remove(&id)
    });
    suite.case("exec-many", || many(bed));
    suite.case("exec-of-nothing", || {
        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        let output = bed.exec(&id, &["/bin/no-such-program"])?;
        ensure!(output.status != 0, "it succeeded: {output}");
        ensure!(output.stderr.contains("no-such-program"), "it is not named: {output}");
        // The container is none the worse for it.
        bed.exec(&id, &["/bin/echo", "alive"])?.expect("alive")?;
        bed.remove(&id)
    });
    suite.case("exec-in-a-stopped-container", || {
        let id = bed.detach(BUSYBOX, &["/bin/true"])?;
        bed.until_status(&id, "STOPPED")?;
        let output = bed.exec(&id, &["/bin/echo", "no"])?;
        ensure!(output.status != 0 && !output.stdout.contains("no"), "it ran: {output}");
        bed.delete(&id)
    });
    suite.case("exec-ends-with-the-container", || {
        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        let exec_id = bed.id("exec");
        let mut ctr = bed.ctr(&["task", "exec", "--exec-id", &exec_id, &id, "/bin/sleep", "500"]);
        let running = command::start(&mut ctr, Stdio::null())?;
        thread::sleep(Duration::from_millis(500));
        bed.kill(&id, "SIGKILL")?;
        let output = running.wait(PATIENCE)?;
        ensure!(output.status == 137, "the command ended otherwise: {output}");
        bed.until_status(&id, "STOPPED")?;
        bed.delete(&id)
    });
}

fn many(bed: &Bed) -> Result<()> {
    let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
    let commands: Vec<(String, Command)> = (0..8)
        .map(|number| {
            let word = format!("word{number}");
            let exec_id = bed.id("exec");
            let arguments = [
                "task",
                "exec",
                "--exec-id",
                &exec_id,
                &id,
                "/bin/sh",
                "-c",
                &format!("echo {word}"),
            ];
            (word.clone(), bed.ctr(&arguments))
        })
        .collect();
    thread::scope(|scope| {
        let threads: Vec<_> = commands
            .into_iter()
            .map(|(word, mut ctr)| scope.spawn(move || command::run(&mut ctr)?.expect(&word)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => drop(outcome?),
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })?;
    bed.remove(&id)
}
