// SPDX-License-Identifier: Apache-2.0
//! What basic operations cost inside a container.

use std::process::Command;

use anyhow::Result;

use crate::{
    contest::{self, Figure},
    interleave::Plan,
    results::{Measure, Unit},
    session::Session,
    system::System,
};

/// Id of the CPU-bound loop.
pub(crate) const CPU: &str = "cpu";
/// Ids of loops that need not leave ring 3.
pub(crate) const CALLS: [&str; 5] = ["getpid", "clock", "read", "open", "epoll"];
/// Ids of loops that switch, or that change what is mapped.
pub(crate) const SWITCHES: [&str; 8] =
    ["fork", "vfork", "thread", "pipe", "futex", "signal", "mmap", "fault"];

/// Samples that one container takes of each loop.
const SAMPLES_PER_CONTAINER: u32 = 5;

const FIGURES: [Figure; 14] = [
    of_loop("getpid", "In the container: getpid", "One system call that does nothing."),
    of_loop(
        "clock",
        "In the container: clock_gettime",
        "CLOCK_MONOTONIC, as the C library reads it.",
    ),
    of_loop(
        "read",
        "In the container: read of a cached file",
        "pread of the first 4 KiB of the program's own file.",
    ),
    of_loop(
        "open",
        "In the container: open, fstat, close",
        "The program's own file, which is on the image.",
    ),
    of_loop(
        "epoll",
        "In the container: epoll_wait",
        "Eight eventfds, all of them ready; epoll_wait returns them all.",
    ),
    of_loop(
        "pipe",
        "In the container: pipe ping-pong of two processes",
        "One byte to another process and back.",
    ),
    of_loop(
        "futex",
        "In the container: futex ping-pong of two threads",
        "Each wakes the other and goes to sleep; there and back.",
    ),
    of_loop(
        "signal",
        "In the container: signal round trip",
        "kill of the process itself, the handler, and the return from it.",
    ),
    of_loop(
        "fork",
        "In the container: fork, exit, wait",
        "A small process; the child ends at once.",
    ),
    of_loop(
        "vfork",
        "In the container: vfork, exec, exit, wait",
        "posix_spawn of the workload program itself, static, which ends at once.",
    ),
    of_loop("thread", "In the container: thread, create and join", "A thread that ends at once."),
    of_loop(
        "fault",
        "In the container: page fault",
        "First touch of each 4 KiB page of 64 MiB of fresh memory, per page.",
    ),
    of_loop(
        "mmap",
        "In the container: mmap, touch, munmap",
        "64 MiB of anonymous memory, of which one page is touched.",
    ),
    of_loop(
        CPU,
        "In the container: CPU-bound loop",
        "A dependent xorshift and multiplication; per turn.",
    ),
];

const fn of_loop(id: &'static str, title: &'static str, method: &'static str) -> Figure {
    Figure { name: id, id, title, method, unit: Unit::Nanoseconds }
}

/// Measures.
///
/// # Errors
/// If it is interrupted, or nothing can be prepared.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    let (samples, ms) = if session.args.quick { (1, 2) } else { (SAMPLES_PER_CONTAINER, 20) };
    let (samples, ms) = (samples.to_string(), ms.to_string());
    let args = ["micro", &samples, &ms];
    let arena = move |system| {
        if system == System::Plain {
            let mut command = Command::new(session.rootfs.path.join("workload"));
            command.args(args);
            return Ok(command.into());
        }
        let args = [&["/workload"], &args[..]].concat();
        Ok(session.rootfs.container(&format!("micro-{system}"), &args).into())
    };
    // The program warms itself up, so that no whole container needs to be thrown away.
    let runs = session.args.plan().runs.div_ceil(SAMPLES_PER_CONTAINER);
    let plan = Plan { warmups: 0, runs };
    contest::hold(session, "micro", &FIGURES, plan, contest::contestants(session, arena))
}
