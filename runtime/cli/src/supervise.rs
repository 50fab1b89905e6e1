// SPDX-License-Identifier: Apache-2.0
//! The process that holds a container between `create` and `delete`.
//!
//! `create` starts the program again as `trine supervise`, with one end of a link as its standard
//! input, and hands it the container.  The supervisor leaves the caller's session, creates the VM,
//! answers, and serves the control socket until the container is deleted.  If its maker dies before
//! the answer, everything is undone.

use std::{
    fs::File,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio as Redirect},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Error, Result, bail};
use trine::{Stdio, Stream};
use trine_link::{Link, Message};

use crate::{
    control::{
        self, CONFIG, PROCESS, REPLY, REQUEST, Reply, Request, decode_config, decode_process,
        encode_config, encode_process, receive, receive_reply, send_json,
    },
    held::{Held, Remover},
    log::Log,
    plan::Plan,
    store::Root,
    terminal,
};

/// Streams of a first process that outlive the command which gives them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams<'a> {
    /// stdin, stdout, stderr.
    pub(crate) descriptors: [BorrowedFd<'a>; 3],
    /// They are a terminal, the size of which is to be watched.
    pub(crate) watch_terminal: bool,
}

/// Starts a supervisor that creates a container; returns the process id of its VMM.
///
/// # Errors
/// What the supervisor says, with everything undone but the directory.
pub(crate) fn start(plan: Plan, root: &Path, streams: Streams<'_>, log: &Log) -> Result<u32> {
    let (link, theirs) = Link::pair()?;
    spawn(theirs, &plan.outline.record.id, log)?;

    let request = Request::Hold {
        root: root.to_owned(),
        outline: Box::new(plan.outline),
        watch_terminal: streams.watch_terminal,
    };
    let [stdin, stdout, stderr] = streams.descriptors;
    send_json(&link, REQUEST, &request, &[plan.image.as_fd(), stdin, stdout, stderr])?;
    link.send(CONFIG, &encode_config(plan.config), &[])?;
    link.send(PROCESS, &encode_process(plan.process), &[])?;
    let reply = receive_reply(&link).context("cannot create the container")?;
    match reply {
        Reply::Held { pid } => Ok(pid),
        other => bail!("the supervisor gave an unexpected answer: {other:?}"),
    }
}

fn spawn(link: OwnedFd, id: &str, log: &Log) -> Result<()> {
    let stderr = match &log.vm_path {
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            Redirect::from(file.with_context(|| format!("cannot open {}", path.display()))?)
        }
        None => Redirect::null(),
    };
    // A descriptor that the caller left open would stay open as long as the container lives: a
    // script that waits for the end of a pipe would wait for that.
    close_fds::set_fds_cloexec(3, &[]);
    // By /proc/self/exe the supervisor is of this version, whatever was installed meanwhile.
    Command::new("/proc/self/exe")
        .arg0("trine")
        .args(["supervise", id])
        .stdin(Redirect::from(link))
        .stdout(Redirect::null())
        .stderr(stderr)
        .current_dir("/")
        .spawn()
        .context("cannot start the supervisor")?;
    Ok(())
}

/// Is a supervisor.
///
/// # Errors
/// If standard input is no link to a `create`.
pub(crate) fn run() -> Result<()> {
    // Leaves the caller's terminal and its signals.  It cannot fail: a child leads no group.
    rustix::process::setsid().context("cannot leave the caller's session")?;
    let stdin = std::io::stdin();
    let link = Link::from_descriptor(stdin.as_fd().try_clone_to_owned()?);
    replace_stdin()?;

    let held = match hold(&link) {
        Ok(held) => held,
        Err(error) => return answer(&link, Err(error)),
    };
    if let Err(error) = answer(&link, Ok(Reply::Held { pid: held.container().pid() })) {
        // Whoever wanted the container is gone.
        held.delete(true).context("cannot undo what nobody waits for")?;
        return Err(error);
    }
    drop(link);
    held.wait_deleted();
    Ok(())
}

/// Creates the container and serves its socket.
fn hold(link: &Link) -> Result<Arc<Held>> {
    let message = receive(link, REQUEST)?.context("nobody says what to supervise")?;
    let (root, plan, streams, watch_terminal) = receive_plan(link, message)?;
    let id = plan.outline.record.id.clone();
    let directory = Root::new(root).open(&id)?;
    let terminal = if watch_terminal { Some(streams[0].try_clone()?) } else { None };
    let [stdin, stdout, stderr] = streams.map(Stream::Descriptor);

    let held = Held::create(plan, Stdio { stdin, stdout, stderr }, directory, Remover::Server)?;
    let held = Arc::new(held);
    if let Err(error) = serve(&held, terminal) {
        // The error to report is why it cannot be served.
        let _ = held.end();
        return Err(error);
    }
    Ok(held)
}

fn receive_plan(link: &Link, message: Message) -> Result<(PathBuf, Plan, [OwnedFd; 3], bool)> {
    let request = serde_json::from_slice(&message.payload).context("malformed request")?;
    let Request::Hold { root, outline, watch_terminal } = request else {
        bail!("the first request to a supervisor must be to hold a container");
    };
    let descriptors = <[OwnedFd; 4]>::try_from(message.descriptors);
    let [image, stdin, stdout, stderr] =
        descriptors.map_err(|_| Error::msg("a container needs an image and three streams"))?;
    let config = receive(link, CONFIG)?.context("the configuration did not follow")?;
    let process = receive(link, PROCESS)?.context("the process did not follow")?;
    let plan = Plan {
        outline: *outline,
        image: File::from(image),
        config: decode_config(&config.payload)?,
        process: decode_process(&process.payload)?,
    };
    Ok((root, plan, [stdin, stdout, stderr], watch_terminal))
}

fn serve(held: &Arc<Held>, terminal: Option<OwnedFd>) -> Result<()> {
    let listener = held.directory().listen()?;
    if let Some(terminal) = terminal {
        terminal::watch_size(held, "", terminal)?;
    }
    let server = Arc::clone(held);
    thread::Builder::new()
        .name("accept".to_owned())
        .spawn(move || control::serve(&listener, &server))
        .context("cannot start the thread that serves the control socket")?;
    Ok(())
}

fn answer(link: &Link, result: Result<Reply>) -> Result<()> {
    send_json(link, REPLY, &control::reply_of(result), &[])
}

/// Puts /dev/null in the place of the link, which would stay open there.
fn replace_stdin() -> Result<()> {
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("cannot replace standard input")?;
    Ok(())
}
