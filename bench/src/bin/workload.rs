// SPDX-License-Identifier: Apache-2.0
//! Small loops that run inside a container and say what one turn of each costs.
//!
//! `workload micro SAMPLES TARGET_MS` prints lines of `NAME NANOSECONDS`: every loop is measured
//! SAMPLES times, each time for about TARGET_MS milliseconds, after one round that is thrown away.
//! `workload nop` ends at once and `workload idle` never does.
//!
//! It uses basic system calls only, so that a young kernel can run it, and none that the C library
//! could answer from a cache.  Its entry is C's `main`, so that executing it anew costs what a C
//! program costs.
#![no_main]

use std::{
    env,
    ffi::c_int,
    hint::black_box,
    io::{self, Write as _},
    os::fd::OwnedFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    pipe::pipe,
    process::{Pid, WaitOptions, getpid, waitpid},
};

const PAGE_BYTES: usize = 4096;
/// What the page-fault loop touches.
const FAULT_BYTES: usize = 64 << 20;

/// Does a number of turns and returns that number and the time they took.
type Loop = fn() -> io::Result<(u64, Duration)>;

const LOOPS: [(&str, Loop); 6] = [
    ("getpid", getpid_loop),
    ("pipe", pipe_loop),
    ("fork", fork_loop),
    ("vfork", vfork_loop),
    ("fault", fault_loop),
    ("cpu", cpu_loop),
];

/// Does what the arguments say.
#[expect(unsafe_code, reason = "the C library finds main by its name")]
#[unsafe(no_mangle)]
pub extern "C" fn main() -> c_int {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["nop"] => Ok(()),
        ["idle"] => loop {
            thread::sleep(Duration::from_secs(1 << 20));
        },
        ["micro", samples, target_ms] => micro(samples, target_ms),
        _ => Err(io::Error::other("usage: workload nop | idle | micro SAMPLES TARGET_MS")),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("workload: {error}");
            1
        }
    }
}

fn micro(samples: &str, target_ms: &str) -> io::Result<()> {
    let samples: u32 = samples.parse().map_err(io::Error::other)?;
    let target = Duration::from_millis(target_ms.parse().map_err(io::Error::other)?);
    let mut output = io::stdout().lock();
    for round in 0..=samples {
        for (name, turns) in LOOPS {
            let ns = measure(turns, target)
                .map_err(|error| io::Error::other(format!("the {name} loop failed: {error}")))?;
            // The first round warms up caches, page tables and clocks.
            if round > 0 {
                writeln!(output, "{name} {ns:.3}")?;
            }
        }
    }
    output.flush()
}

/// Returns the nanoseconds of one turn.
fn measure(turns: Loop, target: Duration) -> io::Result<f64> {
    let (mut count, mut time) = (0, Duration::ZERO);
    while time < target || count == 0 {
        let (more, took) = turns()?;
        count += more;
        time += took;
    }
    Ok(time.as_secs_f64() * 1e9 / count as f64)
}

fn getpid_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 1000;
    let begun = Instant::now();
    for _ in 0..TURNS {
        black_box(getpid());
    }
    Ok((TURNS, begun.elapsed()))
}

/// A byte to another process and back.
fn pipe_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 200;
    let (child_reads, we_write) = pipe()?;
    let (we_read, child_writes) = pipe()?;
    let Some(child) = fork()? else {
        // Or the child would hold its own input open and never see its end.
        drop(we_write);
        echo(&child_reads, &child_writes);
    };
    drop((child_reads, child_writes));
    let mut byte = [0_u8; 1];
    let begun = Instant::now();
    for _ in 0..TURNS {
        rustix::io::write(&we_write, &byte)?;
        if rustix::io::read(&we_read, &mut byte)? != 1 {
            return Err(io::Error::other("the other process is gone"));
        }
    }
    let took = begun.elapsed();
    drop(we_write);
    wait_for(child)?;
    Ok((TURNS, took))
}

fn echo(from: &OwnedFd, to: &OwnedFd) -> ! {
    let mut byte = [0_u8; 1];
    loop {
        match rustix::io::read(from, &mut byte) {
            Ok(1) if rustix::io::write(to, &byte) == Ok(1) => {}
            Ok(0) => exit_now(0),
            _ => exit_now(1),
        }
    }
}

fn fork_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 4;
    let begun = Instant::now();
    for _ in 0..TURNS {
        match fork()? {
            Some(child) => wait_for(child)?,
            None => exit_now(0),
        }
    }
    Ok((TURNS, begun.elapsed()))
}

/// What shells and `posix_spawn` do: `clone(CLONE_VM | CLONE_VFORK)`, then execve of this program.
fn vfork_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 2;
    let program = env::args_os().next().ok_or_else(|| io::Error::other("no argv[0]"))?;
    let begun = Instant::now();
    for _ in 0..TURNS {
        let status = Command::new(&program).arg("nop").status()?;
        if !status.success() {
            return Err(io::Error::other(format!("the new program ended with {status}")));
        }
    }
    Ok((TURNS, begun.elapsed()))
}

/// The first touch of every page of fresh memory; making and freeing it is not counted.
fn fault_loop() -> io::Result<(u64, Duration)> {
    // So large that the C library maps it anew each time.
    let mut memory = vec![0_u8; FAULT_BYTES];
    let begun = Instant::now();
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
        black_box(&*page);
    }
    let took = begun.elapsed();
    Ok(((FAULT_BYTES / PAGE_BYTES) as u64, took))
}

/// A chain of dependent multiplications and shifts: nothing but the processor.
fn cpu_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 1_000_000;
    let mut value = black_box(0x9e37_79b9_7f4a_7c15_u64);
    let begun = Instant::now();
    for _ in 0..TURNS {
        value ^= value >> 29;
        value = value.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    black_box(value);
    Ok((TURNS, begun.elapsed()))
}

fn wait_for(child: Pid) -> io::Result<()> {
    match waitpid(Some(child), WaitOptions::empty())? {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        other => Err(io::Error::other(format!("the child ended with {other:?}"))),
    }
}

/// Forks; `None` in the child.
#[expect(unsafe_code, reason = "fork(2) is what is measured, and has no safe wrapper")]
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this program has one thread, so that the child may go on as the parent would.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Ends a forked child, without the buffers and handlers that it shares with its parent.
#[expect(unsafe_code, reason = "_exit(2) has no safe wrapper: std::process::exit runs handlers")]
fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process; there is nothing after it that could rely on memory.
    unsafe { libc::_exit(status) }
}
