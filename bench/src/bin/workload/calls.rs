// SPDX-License-Identifier: Apache-2.0
//! Single system calls that wait for nothing.

use std::{
    env,
    fs::File,
    hint::black_box,
    io,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    fs::{Mode, OFlags, fstat, open},
    io::{Errno, pread},
    process::getpid,
};

/// Descriptors that are ready at once.
const READY: u64 = 8;
const BLOCK_BYTES: usize = 4096;

pub(crate) fn getpid_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 1000;
    let begun = Instant::now();
    for _ in 0..TURNS {
        black_box(getpid());
    }
    Ok((TURNS, begun.elapsed()))
}

/// CLOCK_MONOTONIC, as the C library reads it: from the vDSO, if there is one.
pub(crate) fn clock_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 1000;
    let begun = Instant::now();
    for _ in 0..TURNS {
        black_box(Instant::now());
    }
    Ok((TURNS, begun.elapsed()))
}

/// The first block of this program, which is in every cache there is.
pub(crate) fn read_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 200;
    let file = File::open(own_path()?)?;
    let mut block = [0_u8; BLOCK_BYTES];
    let begun = Instant::now();
    for _ in 0..TURNS {
        if pread(&file, &mut block, 0)? != BLOCK_BYTES {
            return Err(io::Error::other("a short read"));
        }
        black_box(&block);
    }
    Ok((TURNS, begun.elapsed()))
}

/// open, fstat and close of this program's file.
pub(crate) fn open_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 100;
    let path = own_path()?;
    let begun = Instant::now();
    for _ in 0..TURNS {
        let file = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        black_box(fstat(&file)?);
    }
    Ok((TURNS, begun.elapsed()))
}

/// epoll_wait that finds all of its descriptors ready.
pub(crate) fn epoll_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 200;
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut counters = vec![];
    for number in 0..READY {
        let counter = eventfd(1, EventfdFlags::CLOEXEC)?;
        epoll::add(&set, &counter, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        counters.push(counter);
    }
    let mut events = Vec::with_capacity(READY as usize);
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let begun = Instant::now();
    for _ in 0..TURNS {
        events.clear();
        let found =
            match epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), Some(&at_once)) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
        if found != READY as usize {
            return Err(io::Error::other(format!("{found} descriptors are ready, not {READY}")));
        }
    }
    Ok((TURNS, begun.elapsed()))
}

fn own_path() -> io::Result<String> {
    env::args().next().ok_or_else(|| io::Error::other("no argv[0]"))
}
