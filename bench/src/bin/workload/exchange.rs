// SPDX-License-Identifier: Apache-2.0
//! Processes and threads that wake each other, and signals.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    pipe::pipe,
    process::{Signal, getpid, kill_process},
    thread::futex,
};
use signal_hook::{consts::SIGUSR1, flag};

use crate::processes::{exit_now, fork, wait_for};

/// A byte to another process and back.
pub(crate) fn pipe_loop() -> io::Result<(u64, Duration)> {
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

/// Two threads that wake each other, each asleep while the other runs.
pub(crate) fn futex_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u32 = 200;
    // Even: it is our turn; odd: it is the other's.
    let turn = Arc::new(AtomicU32::new(0));
    let other = Arc::clone(&turn);
    let thread = thread::spawn(move || play(&other, 1, TURNS));
    let begun = Instant::now();
    let played = play(&turn, 0, TURNS);
    let took = begun.elapsed();
    let other_played =
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the other thread panicked")));
    played.and(other_played)?;
    Ok((u64::from(TURNS), took))
}

/// Waits for one's turn and hands it over, so many times.
fn play(turn: &AtomicU32, own: u32, turns: u32) -> io::Result<()> {
    for _ in 0..turns {
        loop {
            let now = turn.load(Ordering::Acquire);
            if now % 2 == own {
                break;
            }
            match futex::wait(turn, futex::Flags::PRIVATE, now, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        turn.fetch_add(1, Ordering::Release);
        futex::wake(turn, futex::Flags::PRIVATE, 1)?;
    }
    Ok(())
}

/// A signal to this process itself: kill, the handler, and the return from it.
pub(crate) fn signal_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 100;
    static CAUGHT: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let caught = CAUGHT.get_or_init(Arc::default);
    let handler = flag::register(SIGUSR1, Arc::clone(caught))?;
    let begun = Instant::now();
    for _ in 0..TURNS {
        kill_process(getpid(), Signal::USR1)?;
        // With one thread it is delivered before kill returns.
        if !caught.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("the handler did not run"));
        }
    }
    let took = begun.elapsed();
    signal_hook::low_level::unregister(handler);
    Ok((TURNS, took))
}
