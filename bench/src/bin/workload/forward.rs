// SPDX-License-Identifier: Apache-2.0
//! Calls that the host answers, one at a time: files of a volume, and a socket.

use std::{
    fs::{self, File},
    hint::black_box,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, fchmod, fstat, stat};

use crate::report;

/// How long the peer may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints the median nanoseconds of so many calls of each kind, `samples` times.
pub(crate) fn run(directory: &Path, address: &str, samples: u32, calls: usize) -> io::Result<()> {
    let path = directory.join("forward");
    fs::write(&path, b"one line\n")?;
    let file = File::open(&path)?;
    let mut stream = connect(address)?;
    stream.set_nodelay(true)?;
    for round in 0..=samples {
        let medians = [
            ("fstat", median(calls, || call(fstat(&file)))?),
            ("stat", median(calls, || call(stat(&path)))?),
            ("fchmod", median(calls, || call(fchmod(&file, Mode::from(0o644))))?),
            ("open", median(calls, || call(File::open(&path)))?),
            ("echo", median(calls, || exchange(&mut stream))?),
        ];
        // The first round warms up.
        for (name, ns) in medians.into_iter().filter(|_| round > 0) {
            report(name, ns)?;
        }
    }
    fs::remove_file(&path)
}

fn median(calls: usize, mut call: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls.max(1) {
        let begun = Instant::now();
        call()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2].as_secs_f64() * 1e9)
}

/// Keeps the compiler from leaving out a call whose result nobody wants.
fn call<T, E: Into<io::Error>>(result: Result<T, E>) -> io::Result<()> {
    black_box(result.map_err(Into::into)?);
    Ok(())
}

/// One byte to the peer and back.
fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [7_u8];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Connects as soon as somebody listens.
pub(crate) fn connect(address: &str) -> io::Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Err(error) if begun.elapsed() > PATIENCE => {
                return Err(io::Error::other(format!("cannot connect to {address}: {error}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
            Ok(stream) => return Ok(stream),
        }
    }
}

/// Sends back whatever comes, one connection after the other.
pub(crate) fn echo(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut bytes = [0_u8; 4096];
        // A client that is gone is no fault of the peer's.
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
    }
}
