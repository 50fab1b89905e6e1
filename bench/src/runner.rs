// SPDX-License-Identifier: Apache-2.0
//! Starts programs, times them, and sees to it that none is left.
//!
//! This process is the reaper of all that descends from it, daemons too: what a runtime leaves
//! running for its containers can be found, weighed, and ended.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, kill_process_group, pidfd_open,
        set_child_subreaper, waitpid,
    },
    time::{ClockId, clock_gettime},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::failure;

/// How long one program may run.  The slowest takes a few seconds.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often orphans are collected while a program tidies up.
const REAP_INTERVAL: Duration = Duration::from_millis(10);
/// How long the last survivors may take to die.
const DEATH_DEADLINE: Duration = Duration::from_secs(5);

/// Starts programs and ends them.
#[derive(Debug)]
pub(crate) struct Runner {
    is_interrupted: Arc<AtomicBool>,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// CLOCK_MONOTONIC just before it was started, in nanoseconds.
    pub(crate) begun_ns: u64,
    /// CLOCK_MONOTONIC when it was known to have ended.
    pub(crate) ended_ns: u64,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it wrote.
    pub(crate) stdout: Vec<u8>,
    /// What it complained of.
    pub(crate) stderr: Vec<u8>,
}

impl Runner {
    /// Takes charge of signals and orphans.
    ///
    /// # Errors
    /// If the host refuses.
    pub(crate) fn new() -> Result<Self> {
        let is_interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&is_interrupted)).context("cannot catch signals")?;
        }
        set_child_subreaper(Some(getpid())).context("cannot become the reaper of orphans")?;
        Ok(Self { is_interrupted })
    }

    /// Somebody wants this to end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::Relaxed)
    }

    /// Runs a program to its end and times it.  Output goes to memory files rather than pipes, as the
    /// end of a pipe also waits for every process that inherited it.
    ///
    /// # Errors
    /// If it cannot be started, takes too long, or somebody interrupts.
    pub(crate) fn run(&self, command: &mut Command) -> Result<Finished> {
        self.run_with(command, |child| self.await_timed(child))
    }

    /// Runs a program that must succeed.
    ///
    /// # Errors
    /// As [`Self::run`], and if it fails.
    pub(crate) fn succeed(&self, command: &mut Command) -> Result<Finished> {
        let finished = self.run(command)?;
        finished.check(command)?;
        Ok(finished)
    }

    /// Runs a program that tidies up, interrupted or not.  Whether it succeeds tells nothing: there
    /// may be nothing to tidy.  Orphans that end are collected meanwhile, as it may wait for them to
    /// be gone.
    pub(crate) fn tidy(&self, command: &mut Command) {
        if let Err(error) = self.run_with(command, |child| self.await_reaping(child)) {
            eprintln!("bench: {}", failure::one_line(&error));
        }
    }

    /// Starts a program that keeps running, until somebody ends it or this is dropped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn spawn(&self, command: &mut Command, log: &File) -> Result<Child> {
        let name = command.get_program().display().to_string();
        let log = || log.try_clone().context("cannot duplicate a descriptor");
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?).process_group(0);
        command.spawn().with_context(|| format!("cannot start {name}"))
    }

    /// Sleeps.
    ///
    /// # Errors
    /// If somebody interrupts.
    pub(crate) fn sleep(&self, time: Duration) -> Result<()> {
        const SLICE: Duration = Duration::from_millis(50);
        let end = Instant::now() + time;
        loop {
            if self.is_interrupted() {
                bail!("interrupted");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLICE));
        }
    }

    fn run_with(
        &self,
        command: &mut Command,
        await_fn: impl Fn(&Child) -> Result<()>,
    ) -> Result<Finished> {
        let name = command.get_program().display().to_string();
        let (mut stdout, mut stderr) = (memory_file()?, memory_file()?);
        let duplicate = |file: &File| file.try_clone().context("cannot duplicate a descriptor");
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(duplicate(&stdout)?).stderr(duplicate(&stderr)?);

        let begun_ns = monotonic_ns();
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let ended = await_fn(&child);
        let ended_ns = monotonic_ns();
        if let Err(error) = ended {
            // It has not been waited for, so that its number is still its own.
            let _ = kill_process_group(process_id(&child), Signal::KILL);
            let _ = child.wait();
            return Err(error.context(format!("{name} did not end by itself")));
        }
        let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
        let (stdout, stderr) = (read_back(&mut stdout)?, read_back(&mut stderr)?);
        Ok(Finished { begun_ns, ended_ns, status, stdout, stderr })
    }

    /// Waits for a child and does nothing else, so that nothing disturbs what is timed.
    fn await_timed(&self, child: &Child) -> Result<()> {
        let process = watch(child)?;
        let deadline = Instant::now() + DEADLINE;
        while !has_ended(&process, deadline.saturating_duration_since(Instant::now()))? {
            if self.is_interrupted() {
                bail!("interrupted");
            }
            check_deadline(deadline)?;
        }
        Ok(())
    }

    /// Waits for a child, interrupted or not, and collects orphans.
    fn await_reaping(&self, child: &Child) -> Result<()> {
        let process = watch(child)?;
        let deadline = Instant::now() + DEADLINE;
        while !has_ended(&process, REAP_INTERVAL)? {
            self.reap_but(Some(child.id()));
            check_deadline(deadline)?;
        }
        Ok(())
    }

    /// Collects orphans that have ended.  No other child may be waited for at that time.
    pub(crate) fn reap(&self) {
        self.reap_but(None);
    }

    fn reap_but(&self, child: Option<u32>) {
        let own = std::process::id();
        for process in processes() {
            if process.parent == own && process.is_zombie && Some(process.id) != child {
                let _ = waitpid(Pid::from_raw(process.id.cast_signed()), WaitOptions::NOHANG);
            }
        }
    }

    /// Processes that descend from this one and live.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        let all = processes();
        let mut found = vec![std::process::id()];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(all.iter().filter(|one| one.parent == parent).map(|one| one.id));
            next += 1;
        }
        let is_alive = |id: &u32| all.iter().any(|one| one.id == *id && !one.is_zombie);
        found.into_iter().skip(1).filter(is_alive).collect()
    }

    /// Kills processes that descend from this one.
    pub(crate) fn kill(&self, descendants: &[u32]) {
        for id in descendants {
            if let Some(id) = Pid::from_raw(id.cast_signed()) {
                // It may have ended meanwhile.
                let _ = kill_process(id, Signal::KILL);
            }
        }
    }

    /// Ends every process that descends from this one.
    fn end_all(&self) {
        let deadline = Instant::now() + DEATH_DEADLINE;
        loop {
            self.reap();
            let left = self.descendants();
            if left.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                eprintln!("bench: processes {left:?} do not die");
                return;
            }
            self.kill(&left);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.end_all();
    }
}

impl Finished {
    /// Milliseconds from start to exit.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        (self.ended_ns - self.begun_ns) as f64 / 1e6
    }

    /// Makes a failure of the program one of ours.
    ///
    /// # Errors
    /// If its status is not 0.
    pub(crate) fn check(&self, command: &Command) -> Result<()> {
        if !self.status.success() {
            let name = command.get_program().display();
            bail!("{name} failed: {}", failure::last_words(self.status, &self.stderr));
        }
        Ok(())
    }
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

fn watch(child: &Child) -> Result<OwnedFd> {
    pidfd_open(process_id(child), PidfdFlags::empty()).context("cannot watch it")
}

/// Waits until a process has ended; false if it has not in time, or a signal came.
fn has_ended(process: &OwnedFd, patience: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(patience).context("the deadline is too far")?;
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("cannot watch it"),
    }
}

fn check_deadline(deadline: Instant) -> Result<()> {
    if Instant::now() >= deadline {
        bail!("it still runs after {} s", DEADLINE.as_secs());
    }
    Ok(())
}

fn process_id(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn memory_file() -> Result<File> {
    let file: OwnedFd = memfd_create("output", MemfdFlags::CLOEXEC)
        .context("cannot make a memory file for output")?;
    Ok(File::from(file))
}

fn read_back(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context("cannot read output")?;
    Ok(bytes)
}

/// A line of the process table.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    is_zombie: bool,
}

/// The process table; processes that come and go meanwhile may be missing.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return vec![];
    };
    let of_entry = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        parse_stat(id, &fs::read_to_string(entry.path().join("stat")).ok()?)
    };
    entries.flatten().filter_map(of_entry).collect()
}

/// Parses `/proc/ID/stat`: `ID (NAME) STATE PARENT ...`, where NAME may hold anything.
fn parse_stat(id: u32, stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    Some(Process { id, parent: fields.next()?.parse().ok()?, is_zombie })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_parentheses_in_the_name_parses() {
        let parsed = parse_stat(7, "7 (a) Z 9 (b) S 3 7 7 0 -1");

        assert_eq!(parsed, Some(Process { id: 7, parent: 3, is_zombie: false }));
        assert_eq!(parse_stat(7, "7 (a) Z 3"), Some(Process { id: 7, parent: 3, is_zombie: true }));
        assert_eq!(parse_stat(7, ""), None);
    }

    #[test]
    fn orphans_are_found_and_ended_and_output_is_kept() {
        let runner = Runner::new().expect("signals can be caught");
        let script = "echo out; echo err >&2; setsid sleep 1000 </dev/null & exit 3";

        let finished = runner.run(Command::new("sh").args(["-c", script])).expect("sh runs");

        assert_eq!(finished.status.code(), Some(3));
        assert_eq!((&finished.stdout[..], &finished.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert!(finished.ended_ns > finished.begun_ns);
        let orphans = runner.descendants();
        assert_eq!(orphans.len(), 1, "the sleeper is ours now");
        drop(runner);
        assert!(!fs::exists(format!("/proc/{}", orphans[0])).expect("/proc can be asked"));
    }
}
