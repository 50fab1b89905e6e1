// SPDX-License-Identifier: Apache-2.0
//! `exec`.

use std::{
    ffi::OsString,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use trine_abi::control::Process;

use super::{
    create,
    snapshot::Snapshot,
    streams::{self, Attach, Session, Streams},
};
use crate::{
    args::ExecArgs,
    bundle,
    context::Context,
    control::{Client, Request},
    signals::{Event, Forwarder},
    store::Directory,
    values,
};

/// `trine exec`.
///
/// # Errors
/// If the command does not start.
pub(crate) fn exec(context: &Context, arguments: &ExecArgs) -> Result<u8> {
    create::check_preserved(arguments.preserve_fds)?;
    let Some((id, command)) = arguments.target.split_first() else {
        bail!("no container given: give its id and a command");
    };
    let id = id.to_str().with_context(|| format!("container id {} is not UTF-8", id.display()))?;
    let directory = context.root.open(id)?;
    let Some(client) = Client::connect(&directory)? else {
        bail!("cannot exec in container {id:?}: it is not running: delete it with `trine delete`");
    };
    let mut process = process(arguments, command, client.first_process()?)?;
    let attach = match (arguments.detach, &arguments.console_socket) {
        (true, socket) => Attach::Socket(socket.as_deref()),
        (false, None) => Attach::Caller,
        (false, Some(socket)) => {
            bail!("--console-socket {} needs --detach: add it", socket.display())
        }
    };
    let signals = Forwarder::catch()?;
    let streams = Streams::make(&mut process, attach)?;
    let request =
        Request::Exec { detach: arguments.detach, watch_terminal: streams.is_handed_over };
    let (descriptors, master) = streams.split();
    let [stdin, stdout, stderr] = &descriptors;
    let session = match &master {
        Some(master) => Some(Session::begin(master)?),
        None => None,
    };
    let exec_id =
        client.exec(&request, process, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    // The I/O process has its own now: ours would keep the terminal open.
    drop(descriptors);

    if let Some(path) = &arguments.pid_file {
        create::write_pid_file(path, Snapshot::of(context, id)?.pid())?;
    }
    if arguments.detach {
        return Ok(0);
    }
    pass_signals_on(&directory, exec_id, signals, master)?;
    let code = client.wait_exec();
    if let Some(session) = session {
        session.end();
    }
    Ok(code? as u8)
}

/// Makes the process from the container's first one and the flags.
fn process(arguments: &ExecArgs, command: &[OsString], first: Process) -> Result<Process> {
    let mut process = match &arguments.process {
        Some(path) if command.is_empty() => bundle::load_process(path)?,
        Some(_) => bail!("both --process and a command: give one of them"),
        None if command.is_empty() => bail!("no command given: add one after the container id"),
        None => Process {
            args: command.iter().cloned().map(OsString::into_vec).collect(),
            terminal: false,
            rows: 0,
            columns: 0,
            ..first
        },
    };
    process.terminal |= arguments.tty;
    if let Some(cwd) = &arguments.cwd {
        if !cwd.starts_with('/') {
            bail!("working directory {cwd:?} is not absolute: begin it with /");
        }
        process.cwd = cwd.clone().into_bytes();
    }
    for assignment in &arguments.env {
        values::merge(&mut process.env, values::parse_assignment(assignment)?);
    }
    if let Some(user) = &arguments.user {
        become_user(&mut process, user)?;
    }
    process.groups.extend(&arguments.additional_gids);
    Ok(process)
}

/// Changes the user as setuid(2) would: one who is not root holds no capabilities.
fn become_user(process: &mut Process, user: &str) -> Result<()> {
    let (uid, gid) = values::parse_numeric(user)?;
    (process.uid, process.gid) = (uid, gid.unwrap_or(0));
    process.groups.clear();
    let [effective, permitted, inheritable, bounding, ambient] = &mut process.capabilities;
    if uid == 0 {
        (*effective, *permitted) = (*bounding, *bounding);
    } else {
        (*effective, *permitted, *inheritable, *ambient) = (0, 0, 0, 0);
    }
    Ok(())
}

fn pass_signals_on(
    directory: &Directory,
    process: String,
    signals: Forwarder,
    master: Option<Arc<OwnedFd>>,
) -> Result<()> {
    // The first connection waits for the end: signals need another.
    let client = Client::connect(directory)?;
    signals.start(move |event| {
        let process = process.clone();
        let request = match event {
            Event::Signal(signal) => Request::Kill { process, signal, all: false },
            Event::Resized => match master.as_deref().and_then(streams::follow_size) {
                Some((rows, columns)) => Request::Resize { process, rows, columns },
                None => return,
            },
        };
        // Whoever sent a signal to a process that has just ended missed it by no fault of ours.
        let _ = client.as_ref().map(|client| client.ask(&request));
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn first() -> Process {
        Process {
            args: vec![b"/init".to_vec()],
            env: vec![b"A=1".to_vec()],
            cwd: b"/srv".to_vec(),
            groups: vec![9],
            capabilities: [3, 3, 0, 7, 0],
            terminal: true,
            rows: 5,
            ..Process::default()
        }
    }

    fn made(line: &str) -> Result<Process> {
        let words = ["trine", "exec"].into_iter().chain(line.split(' '));
        let Some(Command::Exec(arguments)) = Cli::try_parse_from(words).expect("parses").command
        else {
            panic!("not an exec");
        };
        process(&arguments, &arguments.target[1..], first())
    }

    #[test]
    fn process_inherits_what_no_flag_says_but_the_terminal() {
        let got = made("c1 ps -t").expect("valid");
        let args = vec![b"ps".to_vec(), b"-t".to_vec()];
        assert_eq!(got, Process { args, terminal: false, rows: 0, ..first() });
    }

    #[test]
    fn process_flags_win() {
        let got = made("-t --cwd / -e A=2 -e B=3 -u 5:6 -g 7 c1 sh").expect("valid");
        assert_eq!((got.terminal, got.cwd.as_slice()), (true, b"/".as_slice()));
        assert_eq!(got.env, [b"A=2".to_vec(), b"B=3".to_vec()]);
        assert_eq!((got.uid, got.gid, got.groups), (5, 6, vec![7]));
        assert_eq!(got.capabilities, [0, 0, 0, 7, 0]);
    }

    #[test]
    fn process_without_or_with_two_commands_is_refused() {
        assert!(made("c1").is_err());
        assert!(made("-p /f c1 sh").is_err());
        assert!(made("--cwd x c1 sh").is_err());
        assert!(made("-u web c1 sh").is_err());
    }
}
