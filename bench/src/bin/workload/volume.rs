// SPDX-License-Identifier: Apache-2.0
//! Reads and writes of a large file on a volume.

use std::{
    fs::{self, File},
    hint::black_box,
    io,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::io::{pread, pwrite};

use crate::report;

const MIB: usize = 1 << 20;
const SMALL_BYTES: usize = 4096;
/// Random reads that are in flight at once.
const IN_FLIGHT: u64 = 16;

/// Prints MiB per second of sequential writes and reads of 1 MiB, and random reads of 4 KiB per
/// second, `samples` times.
pub(crate) fn run(directory: &Path, samples: u32, mib: usize, time: Duration) -> io::Result<()> {
    let path = directory.join("large");
    for round in 0..=samples {
        let rates = [
            ("write", write(&path, mib)?),
            ("read", read(&path, mib)?),
            ("random", random(&path, mib, time)?),
        ];
        // The first round warms up.
        for (name, rate) in rates.into_iter().filter(|_| round > 0) {
            report(name, rate)?;
        }
    }
    fs::remove_file(&path)
}

/// A new file each time; it is written when fsync says so.
fn write(path: &Path, mib: usize) -> io::Result<f64> {
    let block = vec![0xa5_u8; MIB];
    let file = File::create(path)?;
    let begun = Instant::now();
    for number in 0..mib {
        whole(pwrite(&file, &block, (number * MIB) as u64)?, MIB)?;
    }
    file.sync_all()?;
    Ok(mib as f64 / begun.elapsed().as_secs_f64())
}

fn read(path: &Path, mib: usize) -> io::Result<f64> {
    let mut block = vec![0_u8; MIB];
    let file = File::open(path)?;
    let begun = Instant::now();
    for number in 0..mib {
        whole(pread(&file, &mut block[..], (number * MIB) as u64)?, MIB)?;
        black_box(&block);
    }
    Ok(mib as f64 / begun.elapsed().as_secs_f64())
}

/// Threads that each read blocks all over the file.
fn random(path: &Path, mib: usize, time: Duration) -> io::Result<f64> {
    let file = File::open(path)?;
    let (blocks, is_over, count) =
        ((mib * MIB / SMALL_BYTES) as u64, AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        let reader = |seed: u64| {
            let (file, is_over, count) = (&file, &is_over, &count);
            scope.spawn(move || -> io::Result<()> {
                let mut block = [0_u8; SMALL_BYTES];
                let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                while !is_over.load(Ordering::Relaxed) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let offset = state % blocks * SMALL_BYTES as u64;
                    whole(pread(file, &mut block, offset)?, SMALL_BYTES)?;
                    black_box(&block);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let readers: Vec<_> = (1..=IN_FLIGHT).map(reader).collect();
        thread::sleep(time);
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().try_for_each(|reader| {
            reader.join().unwrap_or_else(|_| Err(io::Error::other("a reader panicked")))
        })
    })?;
    Ok(count.into_inner() as f64 / begun.elapsed().as_secs_f64())
}

fn whole(done: usize, wanted: usize) -> io::Result<()> {
    if done == wanted { Ok(()) } else { Err(io::Error::other(format!("{done} of {wanted} bytes"))) }
}
