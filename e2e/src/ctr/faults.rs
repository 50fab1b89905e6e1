// SPDX-License-Identifier: Apache-2.0
//! Bad input through containerd: an error that names the thing, and nothing left behind.

use anyhow::{Result, ensure};

use crate::{bed::Bed, census::Census, command, images::BUSYBOX, programs, suite::Suite};

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("fault-not-found", || refused(bed, "/no/such/program"));
    suite.case("fault-directory", || refused(bed, "/usr/bin"));
    for (name, _) in programs::BROKEN {
        suite.case(&format!("fault-{name}"), || refused(bed, &format!("/broken/{name}")));
    }
    bed.vm_case(suite, "fault-memory-too-small", || {
        let mut ctr = bed.ctr_run(
            &["--rm", "--memory-limit", "1048576"],
            BUSYBOX,
            &bed.id("small"),
            &["/bin/true"],
        );
        let output = command::run(&mut ctr)?;
        ensure!(output.status != 0, "it ran: {output}");
        ensure!(output.stderr.contains("memory"), "the error does not say memory: {output}");
        Ok(())
    });
}

/// Runs a program that cannot run.
fn refused(bed: &Bed, program: &str) -> Result<()> {
    // One that can, so that all that stays between containers is there before.
    bed.run(BUSYBOX, &["/bin/true"])?.expect_status(0)?;
    bed.collect_garbage()?;
    let scope = bed.scope(false);
    let before = Census::take(&scope)?;
    let output = bed.run(BUSYBOX, &[program])?;
    ensure!(output.status != 0, "it ran: {output}");
    ensure!(output.stderr.contains(program), "the error does not name it: {output}");
    // ctr keeps a container whose task could not be made, whatever the runtime.
    let list = command::must(&mut bed.ctr(&["container", "ls", "-q"]), command::PATIENCE)?;
    for id in list.lines() {
        bed.delete(id)?;
    }
    bed.collect_garbage()?;
    before.expect_same(&scope)
}
