// SPDX-License-Identifier: Apache-2.0
//! Starts the host processes, and ends them.
//!
//! Nothing here makes `std` fork: no code between fork and exec, no ids, no working directory; so
//! it uses posix_spawn, whose cost does not depend on the size of this process.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};

use crate::{Error, cgroup::Cgroup};

/// A child of ours.  It stays a zombie, and its process id valid, until it is reaped or the value
/// is dropped, either of which kills it if need be.
#[derive(Debug)]
pub(crate) struct HostProcess {
    pid: u32,
    child: Mutex<Child>,
    handle: OwnedFd,
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// Its argument, for `ps`.
    pub(crate) name: &'a str,
    /// Its end of the link.
    pub(crate) link: OwnedFd,
    /// Where its output goes.
    pub(crate) log: &'a File,
    /// Where it is accounted.
    pub(crate) cgroup: Option<&'a Cgroup>,
}

impl Launch<'_> {
    /// Starts the process, inside its cgroup.
    pub(crate) fn start(self) -> Result<HostProcess, Error> {
        let action = || format!("start {}", self.program.display());
        let log = || self.log.try_clone().map_err(|source| Error::host(action(), source));
        let mut command = Command::new(self.program);
        command.arg(self.name).env_clear().stdout(log()?).stderr(log()?);
        command.stdin(Stdio::from(self.link));
        let spawned = match self.cgroup {
            Some(cgroup) if cgroup.is_per_thread() => spawn_inside(cgroup, &mut command)?,
            _ => command.spawn(),
        };
        let child = spawned.map_err(|source| Error::host(action(), source))?;
        let pid = Pid::from_child(&child);
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(errno) => {
                abandon(child);
                return Err(Error::host(format!("watch process {pid:?}"), errno));
            }
        };
        let process = HostProcess { pid: child.id(), child: Mutex::new(child), handle };
        if let Some(cgroup) = self.cgroup.filter(|cgroup| !cgroup.is_per_thread()) {
            cgroup.adopt(process.pid())?;
        }
        Ok(process)
    }
}

/// Starts a process from a thread that has moved itself into the cgroup, so that the child is
/// born there.  On cgroup v1, a thread that moves itself is ten microseconds; moving another
/// process takes a lock that waits for an RCU grace period, ten milliseconds and more.
fn spawn_inside(cgroup: &Cgroup, command: &mut Command) -> Result<io::Result<Child>, Error> {
    thread::scope(|scope| {
        let spawner = thread::Builder::new().name("spawn".into()).spawn_scoped(scope, || {
            cgroup.enter_thread()?;
            Ok(command.spawn())
        });
        let spawner = spawner.map_err(|source| Error::host("start a thread", source))?;
        spawner.join().unwrap_or_else(|_| {
            Err(Error::host("start a process", io::Error::other("the starting thread failed")))
        })
    })
}

fn abandon(mut child: Child) {
    // The child is ours and not reaped, so that both can only fail if it is gone.
    let _ = child.kill();
    let _ = child.wait();
}

impl HostProcess {
    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the process at once; nothing happens if it has ended.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Waits until the process has ended; false if `timeout` passed before that.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(&self.handle, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Err(Errno::INTR) => {}
                other => return other.is_ok_and(|ready| ready > 0),
            }
        }
    }

    /// Makes sure that the process has ended, and frees its process id.
    pub(crate) fn reap(&self) {
        self.kill();
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else may wait for our children; if somebody did, it is gone as well.
        let _ = child.wait();
    }

    /// Tells how the process ended; `None` if it has not, or was reaped.
    pub(crate) fn end(&self) -> Option<End> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status =
            rustix::process::waitid(WaitId::PidFd(self.handle.as_fd()), options).ok()??;
        Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exited(code),
            (None, signal) => End::Killed(signal.unwrap_or_default()),
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl std::fmt::Display for End {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(to, "exited with code {code}"),
            Self::Killed(31) => write!(to, "was killed by signal 31 (a forbidden system call)"),
            Self::Killed(signal) => write!(to, "was killed by signal {signal}"),
        }
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(program: &str, cgroup: Option<&Cgroup>) -> Result<(HostProcess, OwnedFd), Error> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
        let log = File::options().write(true).open("/dev/null").expect("/dev/null");
        let (program, link) = (Path::new(program), theirs.into());
        let launch = Launch { program, name: "-", link, log: &log, cgroup };
        Ok((launch.start()?, ours.into()))
    }

    #[test]
    fn end_of_a_process_is_told_without_reaping_it() {
        // `cat -` ends when its standard input does.
        let (process, link) = launch("/bin/cat", None).expect("started");
        assert!(!process.wait(Duration::from_millis(10)));
        assert_eq!(process.end(), None);
        drop(link);
        assert!(process.wait(Duration::from_secs(10)));
        assert_eq!(process.end(), Some(End::Exited(0)));
        assert_eq!(process.end(), Some(End::Exited(0)), "again");
        let path = format!("/proc/{}", process.pid());
        assert!(Path::new(&path).exists(), "the process id is still taken");
        process.reap();
        assert!(!Path::new(&path).exists());
        process.reap();
    }

    #[test]
    fn kill_and_drop_end_a_process() {
        let (process, _link) = launch("/bin/cat", None).expect("started");
        process.kill();
        assert!(process.wait(Duration::from_secs(10)));
        assert_eq!(process.end(), Some(End::Killed(9)));
        let (process, _link) = launch("/bin/cat", None).expect("started");
        let path = format!("/proc/{}", process.pid());
        drop(process);
        assert!(!Path::new(&path).exists());
    }

    #[test]
    fn start_missing_program_names_it() {
        let error = launch("/no/such/program", None).expect_err("missing");
        assert_eq!(error.to_string(), "cannot start /no/such/program");
    }
}
