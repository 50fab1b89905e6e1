// SPDX-License-Identifier: Apache-2.0
//! Processes by id and start time: an id alone may be somebody else's by now.

use std::{fs, process};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process that may have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner {
    /// Process id.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn current() -> Self {
        Self::of(process::id())
    }

    /// The process that has this id now.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, start_ticks: start_ticks(pid).unwrap_or(0) }
    }

    /// Tells whether the process is still there (a zombie is not).
    pub(crate) fn is_alive(self) -> bool {
        self.pid != 0 && self.start_ticks != 0 && start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Kills the process, and no other that took its id.
    pub(crate) fn kill(self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(handle) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return;
        };
        // The handle is of this process for good if the check comes after the opening.
        if self.is_alive() {
            // It may have ended in between, which is what we want.
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}

/// Reads a process's start time; `None` if it is gone or a zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    parse_start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Takes field 22 of proc(5) `stat`; field 2 may hold anything, but ends at the last parenthesis.
pub(crate) fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn parse_start_ticks_survives_a_hostile_name() {
        let rest = "1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(parse_start_ticks(&format!("9 (a) S 1 (b)) S {rest}")), Some(4711));
        assert_eq!(parse_start_ticks(&format!("9 (sh) Z {rest}")), None);
        assert_eq!(parse_start_ticks("9 (sh) S 1"), None);
    }

    #[test]
    fn owner_of_this_process_is_alive_until_its_start_differs() {
        let owner = Owner::current();
        assert!(owner.is_alive());
        assert!(!Owner { start_ticks: owner.start_ticks + 1, ..owner }.is_alive());
        assert!(!Owner::default().is_alive());
    }

    #[test]
    fn owner_kill_ends_the_process_it_names_only() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        let owner = Owner::of(child.id());
        Owner { start_ticks: owner.start_ticks + 1, ..owner }.kill();
        assert!(owner.is_alive());
        owner.kill();
        child.wait().expect("reap");
        assert!(!owner.is_alive());
    }
}
