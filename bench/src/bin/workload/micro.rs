// SPDX-License-Identifier: Apache-2.0
//! All small loops, in turns.

use std::{io, time::Duration};

use crate::{calls, exchange, memory, processes, processor, report};

/// Does a number of turns and returns that number and the time they took.
pub(crate) type Loop = fn() -> io::Result<(u64, Duration)>;

const LOOPS: [(&str, Loop); 14] = [
    ("getpid", calls::getpid_loop),
    ("clock", calls::clock_loop),
    ("read", calls::read_loop),
    ("open", calls::open_loop),
    ("epoll", calls::epoll_loop),
    ("pipe", exchange::pipe_loop),
    ("futex", exchange::futex_loop),
    ("signal", exchange::signal_loop),
    ("fork", processes::fork_loop),
    ("vfork", processes::vfork_loop),
    ("thread", processes::thread_loop),
    ("fault", memory::fault_loop),
    ("mmap", memory::mmap_loop),
    ("cpu", processor::dependent_loop),
];

/// Measures every loop `samples` times, after one round that is thrown away.
pub(crate) fn run(samples: u32, target: Duration) -> io::Result<()> {
    for round in 0..=samples {
        for (name, turns) in LOOPS {
            let ns = measure(turns, target)
                .map_err(|error| io::Error::other(format!("the {name} loop failed: {error}")))?;
            // The first round warms up caches, page tables and clocks.
            if round > 0 {
                report(name, ns)?;
            }
        }
    }
    Ok(())
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
