// SPDX-License-Identifier: Apache-2.0
//! Containers that run one thing and end.

use std::{fs, thread};

use anyhow::{Result, bail, ensure};

use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::{BUSYBOX, DEBIAN},
    suite::Suite,
};

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("hello", || bed.run(BUSYBOX, &["/usr/bin/hello"])?.expect("hello").map(drop));
    suite.case("hello-dynamic", || {
        bed.run(DEBIAN, &["/bin/echo", "hello"])?.expect("hello").map(drop)
    });
    suite.case("pipeline-of-five", || {
        let script = "seq 1 10000 | grep 7 | sed 's/^/n/' | sort -r | head -n 2";
        for image in [BUSYBOX, DEBIAN] {
            bed.sh(image, script)?.expect("n9997\nn9987")?;
        }
        Ok(())
    });
    suite.case("exit-status", || bed.sh(BUSYBOX, "exit 7")?.expect_status(7).map(drop));
    suite.case("death-by-signal", || {
        // A shell as the first process: it would be immune to its own signals on Linux.
        let script = "sh -c 'kill -TERM $$'; echo $?; sh -c 'kill -KILL $$'; echo $?";
        bed.sh(BUSYBOX, script)?.expect("143\n137").map(drop)
    });
    suite.case("environment-and-directory", || {
        let flags = ["--rm", "--env", "COLOUR=red", "--env", "EMPTY=", "--cwd", "/usr/bin"];
        let script = "echo $COLOUR ${EMPTY-unset} $(pwd)";
        let arguments = ["/bin/sh", "-c", script];
        let mut ctr = bed.ctr_run(&flags, BUSYBOX, &bed.id("env"), &arguments);
        command::run(&mut ctr)?.expect("red /usr/bin").map(drop)
    });
    suite.case("two-at-once", || two_at_once(bed));
    suite.case("processes-and-signals", || {
        for (program, said) in [
            (["/usr/bin/forks", "100"].as_slice(), "forks ok"),
            (&["/usr/bin/signals"], "signals ok"),
            (&["/usr/bin/memory"], "memory ok"),
            (&["/usr/bin/threads"], "threads ok"),
            (&["/usr/bin/preempt", "2"], "preempt ok"),
            (&["/usr/bin/simd", "3"], "simd ok"),
        ] {
            bed.run(BUSYBOX, program)?.expect(said)?;
        }
        Ok(())
    });
    suite.case("writes-stay-in-the-container", || {
        bed.sh(BUSYBOX, "echo mine > /etc/passwd; cat /etc/passwd")?.expect("mine")?;
        bed.sh(BUSYBOX, "head -c 4 /etc/passwd")?.expect("root").map(drop)
    });
    suite.case("read-only-root", || {
        let flags = ["--rm", "--read-only"];
        let arguments = ["/bin/sh", "-c", "echo x > /etc/x || echo refused"];
        let mut ctr = bed.ctr_run(&flags, BUSYBOX, &bed.id("ro"), &arguments);
        command::run(&mut ctr)?.expect("refused").map(drop)
    });
    suite.case("scripts-of-bash", || {
        let script = "set -euo pipefail; declare -A m=([a]=1 [b]=2); s=0; \
                      for k in \"${!m[@]}\"; do s=$((s + m[$k])); done; echo $s; \
                      [ \"$(cat <(seq 3))\" = $'1\\n2\\n3' ] && echo same; \
                      t=$(mktemp); echo text > $t; read -r line < $t; echo $line; \
                      trap 'echo bye' EXIT; [[ abc =~ ^a(.)c$ ]] && echo ${BASH_REMATCH[1]}";
        let output = bed.run(DEBIAN, &["/bin/bash", "-c", script])?;
        output.expect("3\nsame\ntext\nb\nbye").map(drop)
    });
    suite.case("devices", || {
        let script = "head -c 8 /dev/urandom | wc -c; echo x > /dev/null; head -c 3 /dev/zero | \
                      od -An -tx1; echo x > /dev/full 2>/dev/null || echo full; ls -d /dev/fd/1";
        bed.sh(BUSYBOX, script)?.expect("8\n 00 00 00\nfull\n/dev/fd/1").map(drop)
    });
    bed.vm_case(suite, "kernel-is-not-the-hosts", || {
        let host = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let guest = bed.run(BUSYBOX, &["/bin/uname", "-a"])?.expect_status(0)?.stdout;
        ensure!(guest.starts_with("Linux "), "uname -a says {guest:?}");
        ensure!(!guest.contains(host.trim()), "uname -a names the host's kernel: {guest:?}");
        Ok(())
    });
    bed.vm_case(suite, "limits-are-the-vms-size", || limits(bed));
    suite.case("several-processors", || {
        let script = "/usr/bin/forks 200 && /usr/bin/preempt 2 && /usr/bin/simd 2 && \
                      /usr/bin/threads && /usr/bin/shootdown 2";
        let arguments = ["/bin/sh", "-c", script];
        for _ in 0..2 {
            let id = bed.id("several");
            let mut ctr = bed.ctr_run(&["--rm", "--cpus", "2"], BUSYBOX, &id, &arguments);
            command::run(&mut ctr)?
                .expect("forks ok\npreempt ok\nsimd ok\nthreads ok\nshootdown ok")?;
        }
        Ok(())
    });
}

fn two_at_once(bed: &Bed) -> Result<()> {
    let run = |word: &str| {
        let script = format!("for i in 1 2 3 4 5; do echo {word} $i; sleep 0.2; done");
        let expected: String = (1..=5).map(|i| format!("{word} {i}\n")).collect();
        bed.sh(BUSYBOX, &script)?.expect(&expected)
    };
    thread::scope(|scope| {
        // The bed counts ids in a cell, so one of them is started by hand.
        let id = bed.id("other");
        let script = "for i in 1 2 3 4 5; do echo two $i; sleep 0.2; done";
        let arguments = ["/bin/sh", "-c", script];
        let mut ctr = bed.ctr_run(&["--rm"], DEBIAN, &id, &arguments);
        let other = scope.spawn(move || command::run(&mut ctr));
        run("one")?;
        match other.join() {
            Ok(output) => output?.expect("two 1\ntwo 2\ntwo 3\ntwo 4\ntwo 5").map(drop),
            Err(_) => bail!("the thread of the other container panicked"),
        }
    })
}

fn limits(bed: &Bed) -> Result<()> {
    let limit = 64 << 20;
    let flags = ["--rm", "--memory-limit", &format!("{limit}"), "--cpus", "2"];
    let script = "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; nproc";
    let arguments = ["/bin/sh", "-c", script];
    let mut ctr = bed.ctr_run(&flags, BUSYBOX, &bed.id("limits"), &arguments);
    let said = command::must(&mut ctr, PATIENCE)?;
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [memory_kib, processors] = numbers[..] else { bail!("the container printed {said:?}") };
    ensure!(memory_kib << 10 <= limit, "{memory_kib} KiB of memory, with a limit of {limit} bytes");
    ensure!(memory_kib << 10 >= limit / 2, "only {memory_kib} KiB of memory of {limit} bytes");
    ensure!(processors == 2, "{processors} processors instead of 2");
    Ok(())
}
