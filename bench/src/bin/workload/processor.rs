// SPDX-License-Identifier: Apache-2.0
//! Work that needs nothing but the processor.

use std::{
    hint::black_box,
    io,
    time::{Duration, Instant},
};

use rustix::pipe::pipe;

use crate::{
    processes::{exit_now, fork, wait_for},
    report,
};

/// A chain of dependent multiplications and shifts.
pub(crate) fn dependent_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 1_000_000;
    let begun = Instant::now();
    work(TURNS);
    Ok((TURNS, begun.elapsed()))
}

fn work(turns: u64) {
    let mut value = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..turns {
        value ^= value >> 29;
        value = value.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    black_box(value);
}

/// How many times the work of one process two processes do in the same time.
pub(crate) fn scale(time: Duration) -> io::Result<()> {
    // One of each first, to wake up what sleeps.
    together(1, time / 4)?;
    together(2, time / 4)?;
    let (one, two) = (together(1, time)?, together(2, time)?);
    report("scale", two / one)
}

/// Turns per second of so many processes together.
fn together(processes: usize, time: Duration) -> io::Result<f64> {
    let mut children = vec![];
    for _ in 0..processes {
        let (results, result) = pipe()?;
        match fork()? {
            Some(child) => children.push((child, results)),
            None => {
                let rate = rate(time).to_le_bytes();
                exit_now(i32::from(rustix::io::write(&result, &rate) != Ok(rate.len())));
            }
        }
    }
    let mut sum = 0.0;
    for (child, results) in children {
        let mut rate = [0_u8; 8];
        if rustix::io::read(&results, &mut rate)? != rate.len() {
            return Err(io::Error::other("a worker ended early"));
        }
        sum += f64::from_le_bytes(rate);
        wait_for(child)?;
    }
    Ok(sum)
}

fn rate(time: Duration) -> f64 {
    const BATCH: u64 = 100_000;
    let begun = Instant::now();
    let mut turns = 0;
    while begun.elapsed() < time {
        work(BATCH);
        turns += BATCH;
    }
    turns as f64 / begun.elapsed().as_secs_f64()
}
