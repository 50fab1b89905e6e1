// SPDX-License-Identifier: Apache-2.0
//! Small cases that need no containerd: an image, a command, and what must come of it.  They run
//! through `trine run` on this host, and in the standard-KVM lane.

use crate::images::{BUSYBOX, DEBIAN, Image};

/// One case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Its name.
    pub(crate) name: &'static str,
    /// The image it runs.
    pub(crate) image: Image,
    /// The command.
    pub(crate) command: &'static [&'static str],
    /// The exit status that must come of it.
    pub(crate) status: i32,
    /// What it must print, but for space at the end.
    pub(crate) stdout: &'static str,
    /// vCPUs of its VM.
    pub(crate) vcpus: u32,
    /// It has a volume at `/data`, beside which the host has a tree that must stay as it is.
    pub(crate) has_volume: bool,
}

/// Programs that mean harm; too long for the standard-KVM lane.  Each is process 1 of its VM, so that
/// it is told of what becomes of the others, and nothing that they send reaches it.
pub(crate) const HOSTILE: &[Case] = &[
    case("bad-pointers", BUSYBOX, &["/usr/bin/faults"], 0, "faults ok"),
    case("wild-calls", BUSYBOX, &["/usr/bin/wild"], 0, "wild ok"),
    parallel("wild-calls-on-two-vcpus", &["/usr/bin/wild", "0", "120"], "wild ok"),
    case("corrupt-programs", BUSYBOX, &["/usr/bin/elves"], 0, "elves ok"),
    case("bombs", BUSYBOX, &["/usr/bin/bombs"], 0, "bombs ok"),
];

const fn case(
    name: &'static str,
    image: Image,
    command: &'static [&'static str],
    status: i32,
    stdout: &'static str,
) -> Case {
    Case { name, image, command, status, stdout, vcpus: 1, has_volume: false }
}

/// A case of busybox's image on two vCPUs.
const fn parallel(
    name: &'static str,
    command: &'static [&'static str],
    stdout: &'static str,
) -> Case {
    Case { name, image: BUSYBOX, command, status: 0, stdout, vcpus: 2, has_volume: false }
}

/// All cases.
pub(crate) const CASES: &[Case] = &[
    case("hello", BUSYBOX, &["/usr/bin/hello"], 0, "hello"),
    case("exit-status", BUSYBOX, &["/bin/sh", "-c", "exit 7"], 7, ""),
    case("death-by-signal", BUSYBOX, &["/bin/sh", "-c", "sh -c 'kill -9 $$'; echo $?"], 0, "137"),
    case("not-found", BUSYBOX, &["/bin/no-such-program"], 127, ""),
    case("not-executable", BUSYBOX, &["/etc/passwd"], 126, ""),
    case(
        "pipeline",
        BUSYBOX,
        &["/bin/sh", "-c", "seq 1 2000 | grep 7 | sort -rn | head -n 3 | tr '\\n' ' '"],
        0,
        "1997 1987 1979",
    ),
    case("fork-and-exec", BUSYBOX, &["/usr/bin/forks", "60"], 0, "forks ok"),
    case("signals", BUSYBOX, &["/usr/bin/signals"], 0, "signals ok"),
    case("threads", BUSYBOX, &["/usr/bin/threads"], 0, "threads ok"),
    case("memory", BUSYBOX, &["/usr/bin/memory"], 0, "memory ok"),
    case("preemption", BUSYBOX, &["/usr/bin/preempt", "3"], 0, "preempt ok"),
    case("vector-registers", BUSYBOX, &["/usr/bin/simd", "3"], 0, "simd ok"),
    parallel("threads-on-two-vcpus", &["/usr/bin/threads"], "threads ok"),
    parallel("fork-and-exec-on-two-vcpus", &["/usr/bin/forks", "60"], "forks ok"),
    parallel("vector-registers-on-two-vcpus", &["/usr/bin/simd", "2"], "simd ok"),
    parallel("stale-translations", &["/usr/bin/shootdown", "2"], "shootdown ok"),
    Case {
        name: "escape",
        image: BUSYBOX,
        command: &["/bin/sh", "-c", "escape /data /beside/canary brief | tail -n 1; ls -d /data/d"],
        status: 0,
        stdout: "escape ok\n/data/d",
        vcpus: 1,
        has_volume: true,
    },
    Case {
        name: "forwarded-calls",
        image: BUSYBOX,
        // In a directory of its own: other cases leave their files on the volume.
        command: &["/bin/sh", "-c", "mkdir -p /data/forward && forward /data/forward"],
        status: 0,
        stdout: "forward ok",
        vcpus: 1,
        has_volume: true,
    },
    case(
        "files",
        BUSYBOX,
        &[
            "/bin/sh",
            "-c",
            "set -e; mkdir -p /data/a; echo one > /data/a/f; echo two >> /data/a/f; \
             ln -s a/f /data/l; mv /data/a/f /data/a/g; ln -sf a/g /data/l; cat /data/l; \
             rm -r /data; ls /data 2>/dev/null || echo gone",
        ],
        0,
        "one\ntwo\ngone",
    ),
    case(
        "writable-image",
        BUSYBOX,
        &[
            "/bin/sh",
            "-c",
            "set -e; echo new >> /etc/group; tail -n 1 /etc/group; rm /etc/passwd; \
             [ ! -e /etc/passwd ] && ls /etc/group",
        ],
        0,
        "new\n/etc/group",
    ),
    case(
        "clock",
        BUSYBOX,
        &[
            "/bin/sh",
            "-c",
            "a=$(date +%s); sleep 2; b=$(date +%s); [ $((b - a)) -ge 2 ] && [ $a -gt 1700000000 ] \
             && echo ok",
        ],
        0,
        "ok",
    ),
    case(
        "proc",
        BUSYBOX,
        &[
            "/bin/sh",
            "-c",
            "grep -c MemTotal /proc/meminfo; ls -d /proc/self/fd /proc/1; \
             cat /proc/self/cmdline | tr '\\0' ' '",
        ],
        0,
        "1\n/proc/1\n/proc/self/fd\ncat /proc/self/cmdline",
    ),
    case("system", BUSYBOX, &["/bin/uname", "-s", "-m"], 0, "Linux x86_64"),
    case(
        "bash",
        DEBIAN,
        &["/bin/bash", "-c", "for i in {1..5}; do printf '%d ' $((i * i)); done; echo ${BASH##*/}"],
        0,
        "1 4 9 16 25 bash",
    ),
    case(
        "coreutils",
        DEBIAN,
        &[
            "/bin/bash",
            "-c",
            "set -eo pipefail; seq 1000 | shuf --random-source=<(yes) | sort -n | md5sum; \
             mkdir /d; touch /d/{a,b,c}; ls -l /d | tail -n +2 | wc -l; du -s /d > /dev/null; \
             stat -c %F /d; head -c 100000 /dev/zero | sha256sum | cut -c 1-16; mktemp -d > /dev/null",
        ],
        0,
        "53d025127ae99ab79e8502aae2d9bea6  -\n3\ndirectory\n9192c25b734fcbad",
    ),
    case(
        "background-jobs",
        DEBIAN,
        &[
            "/bin/bash",
            "-c",
            "for i in 1 2 3; do (sleep 0.$i; exit $i) & pids+=($!); done; \
             for p in ${pids[@]}; do wait $p; printf '%d ' $?; done",
        ],
        0,
        "1 2 3",
    ),
];
