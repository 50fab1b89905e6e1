// SPDX-License-Identifier: Apache-2.0
//! The system call filters allow what is used, and nothing more: programs that make every kind of
//! forwarded call run under `e2e/host/tracer.c`, and what the filters allow and was not seen is a
//! fault, unless it is listed here with a reason.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use trine_jail::seccomp::{Filter, Rule};

use super::tool::trine;
use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::BUSYBOX,
    programs,
    suite::Suite,
};

/// What a run may not show.  Numbers are those of `asm/unistd_64.h`.
const UNSEEN: &[(&str, &[u32], &str)] = &[
    ("trine-vmm", &[12, 25], "brk, mremap: the allocator, for more memory than a run may need"),
    ("trine-io", &[12, 25], "brk, mremap: the allocator, for more memory than a run may need"),
    ("trine-vmm", &[228], "clock_gettime: where the vDSO cannot read the clock"),
    ("trine-io", &[228], "clock_gettime: where the vDSO cannot read the clock"),
    ("trine-vmm", &[72], "fcntl: the run-time library looks at descriptors that it closes"),
    ("trine-vmm", &[318], "getrandom: the seed of the first hash table"),
    ("trine-vmm", &[219], "restart_syscall: the kernel, after SIGSTOP and SIGCONT"),
    ("trine-io", &[219], "restart_syscall: the kernel, after SIGSTOP and SIGCONT"),
    ("trine-io", &[15], "rt_sigreturn: the run-time library's handler of SIGSEGV"),
    ("trine-io", &[39, 234], "getpid, tgkill: abort(3)"),
    ("trine-vmm", &[39, 234], "getpid, tgkill: abort(3), and the signal that stops a vCPU"),
    ("trine-io", &[24], "sched_yield: a queue between threads that is just being used"),
    ("trine-vmm", &[24], "sched_yield: a lock that is just being used"),
    ("trine-io", &[271], "ppoll: a sandbox that is slow to read notices"),
    ("trine-io", &[230], "clock_nanosleep: the last bytes for a FIFO without a reader"),
    ("trine-io", &[441], "epoll_pwait2: a wait that is no whole number of milliseconds"),
];

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    bed.vm_case(suite, "seccomp-allows-what-is-used-only", || used(bed));
}

fn used(bed: &Bed) -> Result<()> {
    let tracer = programs::tracer()?;
    let record = bed.folder.join("system-calls");
    let volume = bed.folder.join("system-calls-volume");
    fs::create_dir_all(&volume).context("make a volume")?;
    let rootfs = BUSYBOX.rootfs();
    let network = "cat > /dev/null; ip addr; netstat -an; cat /proc/net/tcp; ping -c 1 127.0.0.1; \
                   sleep 1; escape /data /none brief; stty; echo done";
    for script in ["forward /data && forward /data", network] {
        let mut run = Command::new(&tracer);
        run.arg("record").arg(&record).arg(trine(&[]).get_program());
        run.args(["run", "--cpus", "2", "--volume", &format!("{}:/data", volume.display())]);
        run.arg(&rootfs).args(["/bin/sh", "-c", script]);
        let output = command::start(&mut run, Stdio::null())?.wait(2 * PATIENCE)?;
        let output = output.expect_status(0)?;
        let end = output.stdout.lines().last().unwrap_or_default();
        ensure!(["forward ok", "done"].contains(&end), "{output}");
    }
    let seen = read(&record)?;
    let mut faults = Vec::new();
    for (program, filter) in
        [("trine-vmm", trine_jail::vmm::filter()), ("trine-io", trine_jail::io::filter())]
    {
        faults.extend(compare(program, &filter, &seen));
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// The lines of a record: a program, and a number, or an argument's value as well.
fn read(record: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(record).context("read what the tracer recorded")?;
    ensure!(text.contains("trine-vmm ") && text.contains("trine-io "), "no process was traced");
    Ok(text.lines().map(str::to_owned).collect())
}

fn compare(program: &str, filter: &Filter, seen: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, rule) in filter.rules() {
        // What is refused with an errno is not allowed.
        if matches!(rule, Rule::Fail(_)) {
            continue;
        }
        let excused =
            UNSEEN.iter().any(|(name, numbers, _)| *name == program && numbers.contains(&number));
        if !excused && !seen.contains(&format!("{program} {number}")) {
            faults.push(format!("{program} may make system call {number}, which nothing uses"));
        }
    }
    for line in seen.iter().filter(|line| line.starts_with(program)) {
        let number = line.split(' ').nth(1).and_then(|number| number.parse::<u32>().ok());
        if filter.rules().all(|(known, _)| Some(known) != number) {
            faults.push(format!("{line}: seen although it has no rule"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_finds_what_is_allowed_and_unused() {
        let filter = Filter::new().allow(&[1, 2, 12]).rule(3, Rule::Fail(1));
        let seen: BTreeSet<String> = ["trine-io 1", "trine-io 9"].map(str::to_owned).into();
        let faults = compare("trine-io", &filter, &seen);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("system call 2") && faults[1].contains("trine-io 9"));
    }
}
