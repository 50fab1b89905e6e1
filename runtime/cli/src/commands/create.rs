// SPDX-License-Identifier: Apache-2.0
//! `create`, and `run --detach`.

use std::{
    fs,
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::streams::{Attach, Streams};
use crate::{
    args::{CreateArgs, CreateFlags},
    bundle,
    context::Context,
    control::{Client, Request},
    plan::Plan,
    store::{Claim, Directory},
    supervise,
};

/// `trine create`.
///
/// # Errors
/// With nothing left behind.
pub(crate) fn create(context: &Context, arguments: &CreateArgs) -> Result<()> {
    check_flags(&arguments.flags)?;
    let mut plan = bundle::load(context, &arguments.bundle, &arguments.id)?;
    set_policy(&mut plan, &arguments.flags)?;
    detached(context, plan, &arguments.flags)?;
    Ok(())
}

/// Adds the policy of the flags, and how the processes are confined, to a plan; paths are made
/// absolute, for others open them.
///
/// # Errors
/// If a path cannot be made absolute.
pub(crate) fn set_policy(plan: &mut Plan, flags: &CreateFlags) -> Result<()> {
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    plan.outline.policy = absolute(&flags.policy).context("cannot use the path of the policy")?;
    plan.outline.landlock = flags.landlock;
    plan.outline.system_calls = flags.system_calls;
    plan.outline.audit = absolute(&flags.audit).context("cannot use the path of the audit log")?;
    plan.outline.records_calls = flags.records_calls;
    Ok(())
}

/// Refuses what has no meaning for a VM.
///
/// # Errors
/// If descriptors are to be passed on.
pub(crate) fn check_flags(flags: &CreateFlags) -> Result<()> {
    check_preserved(flags.preserve_fds)
}

/// Refuses to pass descriptors on.
///
/// # Errors
/// If there is one to pass on.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    if count > 0 {
        bail!(
            "--preserve-fds {count} is not supported, as host descriptors cannot enter a VM: use \
             the standard streams"
        );
    }
    Ok(())
}

/// Creates a container that a supervisor holds.
///
/// # Errors
/// With nothing left behind.
pub(crate) fn detached(
    context: &Context,
    mut plan: Plan,
    flags: &CreateFlags,
) -> Result<Directory> {
    let socket = flags.console_socket.as_deref();
    let claim = context.root.claim(&plan.outline.record)?;
    let streams = Streams::make(&mut plan.process, Attach::Socket(socket))?;
    let is_terminal = streams.is_handed_over;
    let (descriptors, _) = streams.split();
    let [stdin, stdout, stderr] = &descriptors;
    let streams = supervise::Streams {
        descriptors: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        watch_terminal: is_terminal,
    };
    let pid = supervise::start(plan, &context.root_path, streams, &context.log)?;
    context.log.debug(|| format!("created, the VMM is process {pid}"));
    finish(claim, pid, flags.pid_file.as_deref())
}

/// From here on the supervisor is there, and an error must end it.
fn finish(claim: Claim, pid: u32, pid_file: Option<&Path>) -> Result<Directory> {
    let directory = claim.keep();
    let Some(path) = pid_file else {
        return Ok(directory);
    };
    if let Err(error) = write_pid_file(path, pid) {
        if let Some(client) = Client::connect(&directory)? {
            client.ask(&Request::Delete { force: true })?;
            client.wait_closed()?;
        }
        return Err(error);
    }
    Ok(directory)
}

/// Writes a process id to a file, which appears whole.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write_pid_file(path: &Path, pid: u32) -> Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(format!(".{}", std::process::id()));
    let next = PathBuf::from(next);
    let write = || -> std::io::Result<()> {
        fs::File::create_new(&next)?.write_all(pid.to_string().as_bytes())?;
        fs::rename(&next, path)
    };
    write()
        .inspect_err(|_| {
            // The error to report is the first.
            let _ = fs::remove_file(&next);
        })
        .with_context(|| format!("cannot write pid file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn write_pid_file_replaces_and_has_no_newline() {
        let scratch = TempDir::new().expect("scratch directory");
        let path = scratch.path().join("pid");
        fs::write(&path, "old and longer").expect("write");
        write_pid_file(&path, 4711).expect("write");
        assert_eq!(fs::read_to_string(&path).expect("read"), "4711");
        assert_eq!(fs::read_dir(scratch.path()).expect("list").count(), 1);
    }

    #[test]
    fn write_pid_file_to_nowhere_names_it_and_leaves_nothing() {
        let scratch = TempDir::new().expect("scratch directory");
        let directory = scratch.path().join("directory");
        fs::create_dir(&directory).expect("mkdir");
        let error = write_pid_file(&directory, 1).expect_err("a directory").to_string();
        assert!(error.contains("directory"), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).expect("list").count(), 1);
    }
}
