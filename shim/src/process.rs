// SPDX-License-Identifier: Apache-2.0
//! Host processes, named so that a reused process id is never mistaken for the process.

use std::{
    fs, io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};
use serde::{Deserialize, Serialize};

/// A process: its id and when it started, in clock ticks since the boot of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl ProcessId {
    /// Names the process that has this id now.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed stat"))?;
        Ok(Self { pid, start_time })
    }

    /// Returns a descriptor of the process if it still is there, as a zombie at least.
    pub fn open(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Compared after the open: from here on the descriptor cannot mean another process.
        (Self::of(self.pid).ok()? == self).then_some(descriptor)
    }

    /// Waits until the process has ended; says whether it has.
    pub fn ended_within(self, timeout: Duration) -> bool {
        self.open().is_none_or(|descriptor| ended_within(&descriptor, timeout))
    }

    /// Kills the process and waits until it has ended; says whether it has.
    pub fn kill(self, timeout: Duration) -> bool {
        let Some(descriptor) = self.open() else { return true };
        // ESRCH: it has ended.
        let _ = rustix::process::pidfd_send_signal(&descriptor, Signal::KILL);
        ended_within(&descriptor, timeout)
    }
}

/// Waits until the process behind a pidfd has ended; says whether it has.
fn ended_within(descriptor: &OwnedFd, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&left)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn start_time(stat: &str) -> Option<u64> {
    // The name, in parentheses, may contain anything, parentheses too.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn start_time_is_found_behind_hostile_names() {
        let stat = "12 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time("12 (a"), None);
    }

    #[test]
    fn kill_ends_the_process_that_was_named() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.kill(Duration::from_secs(5)));
        child.wait().unwrap();
        assert!(process.open().is_none());
        assert!(process.kill(Duration::ZERO), "a process that is gone counts as ended");
    }

    #[test]
    fn kill_leaves_a_process_with_a_reused_id_alone() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let mut process = ProcessId::of(child.id()).unwrap();
        process.start_time -= 1;
        assert!(process.kill(Duration::from_secs(1)));
        assert!(child.try_wait().unwrap().is_none(), "it was another process");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
