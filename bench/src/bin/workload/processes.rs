// SPDX-License-Identifier: Apache-2.0
//! Processes and threads that come and go.

use std::{
    env, io,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, WaitOptions, waitpid};

pub(crate) fn fork_loop() -> io::Result<(u64, Duration)> {
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
pub(crate) fn vfork_loop() -> io::Result<(u64, Duration)> {
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

/// A thread that ends at once, and waiting for it.
pub(crate) fn thread_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 20;
    let begun = Instant::now();
    for _ in 0..TURNS {
        let thread = thread::Builder::new().spawn(|| ())?;
        thread.join().map_err(|_| io::Error::other("the thread panicked"))?;
    }
    Ok((TURNS, begun.elapsed()))
}

pub(crate) fn wait_for(child: Pid) -> io::Result<()> {
    match waitpid(Some(child), WaitOptions::empty())? {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        other => Err(io::Error::other(format!("the child ended with {other:?}"))),
    }
}

/// Forks; `None` in the child.
#[expect(unsafe_code, reason = "fork(2) is what is measured, and has no safe wrapper")]
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this program has one thread whenever it forks (those of other loops have been waited
    // for), so that the child may go on as the parent would.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Ends a forked child, without the buffers and handlers that it shares with its parent.
#[expect(unsafe_code, reason = "_exit(2) has no safe wrapper: std::process::exit runs handlers")]
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process; there is nothing after it that could rely on memory.
    unsafe { libc::_exit(status) }
}
