// SPDX-License-Identifier: Apache-2.0
//! What runs inside the containers and says what things cost there.
//!
//! | command | what |
//! | --- | --- |
//! | `nop`, `idle` | ends at once; never ends |
//! | `micro SAMPLES MS` | small loops, each SAMPLES times for about MS milliseconds |
//! | `scale MS` | what a second processor brings |
//! | `forward DIRECTORY ADDRESS SAMPLES CALLS` | single calls that concern files of a volume, and sockets |
//! | `volume DIRECTORY SAMPLES MIB MS` | reads and writes on a volume |
//! | `await ADDRESS` | ends when somebody listens there |
//! | `echo ADDRESS` | the peer of `forward`, outside of the container |
//! | `start ROOT SAMPLES PROGRAM [ARGUMENT...]` | starts a program of another root file system |
//!
//! Those that measure print lines of `NAME NUMBER`.  It uses basic system calls only,
//! so that a young kernel can run it, and none that the C library could answer from a cache.  Its
//! entry is C's `main`, so that executing it anew costs what a C program costs.
#![no_main]

mod calls;
mod exchange;
mod forward;
mod memory;
mod micro;
mod processes;
mod processor;
mod start;
mod volume;

use std::{env, ffi::c_int, io, str::FromStr, thread, time::Duration};

const USAGE: &str = "usage: workload nop | idle | micro SAMPLES MS | scale MS | \
                     forward DIRECTORY ADDRESS SAMPLES CALLS | volume DIRECTORY SAMPLES MIB MS | \
                     await ADDRESS | echo ADDRESS | start ROOT SAMPLES PROGRAM [ARGUMENT...]";

/// Does what the arguments say.
#[expect(unsafe_code, reason = "the C library finds main by its name")]
#[unsafe(no_mangle)]
pub extern "C" fn main() -> c_int {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("workload: {error}");
            1
        }
    }
}

fn run(arguments: &[&str]) -> io::Result<()> {
    match arguments {
        ["nop"] => Ok(()),
        ["idle"] => loop {
            thread::sleep(Duration::from_secs(1 << 20));
        },
        ["micro", samples, ms] => micro::run(number(samples)?, milliseconds(ms)?),
        ["scale", ms] => processor::scale(milliseconds(ms)?),
        ["forward", directory, address, samples, calls] => {
            forward::run(directory.as_ref(), address, number(samples)?, number(calls)?)
        }
        ["volume", directory, samples, mib, ms] => {
            volume::run(directory.as_ref(), number(samples)?, number(mib)?, milliseconds(ms)?)
        }
        ["await", address] => forward::connect(address).map(drop),
        ["echo", address] => forward::echo(address),
        ["start", root, samples, program, arguments @ ..] => {
            start::run(root, number(samples)?, program, arguments)
        }
        _ => Err(io::Error::other(USAGE)),
    }
}

fn number<T: FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is not a number")))
}

fn milliseconds(text: &str) -> io::Result<Duration> {
    Ok(Duration::from_millis(number(text)?))
}

/// Prints a sample.
fn report(name: &str, value: f64) -> io::Result<()> {
    use io::Write as _;

    writeln!(io::stdout(), "{name} {value:.3}")
}
