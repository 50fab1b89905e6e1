// SPDX-License-Identifier: Apache-2.0
//! The program: chooses the action and says how it went.

use std::{
    env,
    error::Error,
    ffi::OsString,
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
};

use crate::{
    delete,
    flags::{Action, Flags},
    info, serve, start,
    tasks::chain,
};

/// Runs the program with the arguments that follow its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = Flags::parse(arguments).map_err(Box::from).and_then(|flags| act(&flags));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The only line that is ever written to standard error.  containerd puts it into the
            // middle of its own, so it ends only where a person reads it.
            let end = if io::stderr().is_terminal() { "\n" } else { "" };
            eprint!("containerd-shim-trine-v1: {}{end}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn act(flags: &Flags) -> Result<(), Box<dyn Error>> {
    match flags.action {
        Action::Version => write(info::version_text().as_bytes()),
        Action::Info => {
            drain_stdin();
            write(&info::runtime_info())
        }
        Action::Start => write(&start::run(flags)?),
        Action::Delete => write(&delete::run(flags)?),
        Action::Serve => Ok(serve::run(flags)?),
        Action::None => Err(Box::from(
            "no action, expected start or delete: containerd runs this program, not you",
        )),
    }
}

fn write(bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Reads the options that containerd may send, so that it never sees a broken pipe.
fn drain_stdin() {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let _ = stdin.lock().take(4 << 20).read_to_end(&mut Vec::new());
    }
}

/// Returns the arguments that follow the program's name.
pub fn arguments() -> impl Iterator<Item = OsString> {
    env::args_os().skip(1)
}
