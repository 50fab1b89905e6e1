// SPDX-License-Identifier: Apache-2.0
//! What there is of processes, mounts, sockets, cgroups, descriptors and files, to be compared
//! before and after a test.
//!
//! It looks at the namespaces that it runs in (see [`crate::isolate`]), so all that it finds is the
//! test's own.  Only cgroups are shared with the rest of the host: those count whose path contains
//! the test's name.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long what was stopped may take to go away.
const SETTLE: Duration = Duration::from_secs(10);

/// What is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// Part of the paths of the test's cgroups.
    pub(crate) name: String,
    /// Folders whose files count.
    pub(crate) folders: Vec<PathBuf>,
    /// A folder in one of them whose files do not.
    pub(crate) ignored: Option<PathBuf>,
    /// A daemon whose descriptors count.
    pub(crate) daemon: Option<u32>,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    things: BTreeSet<String>,
}

impl Census {
    /// Looks.
    pub(crate) fn take(scope: &Scope) -> Result<Self> {
        let mut things = BTreeSet::new();
        processes(&mut things)?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        for line in mounts.lines() {
            let target = line.split(' ').nth(4).unwrap_or(line);
            things.insert(format!("mount {target}"));
        }
        for folder in &scope.folders {
            files(folder, scope.ignored.as_deref(), &mut things)?;
        }
        for cgroup in cgroups(&scope.name) {
            things.insert(format!("cgroup {}", cgroup.display()));
        }
        if let Some(pid) = scope.daemon {
            descriptors(pid, &mut things)?;
        }
        Ok(Self { things })
    }

    /// Fails if, when things have settled, there is more than in this census, or less of anything
    /// but files.
    pub(crate) fn expect_same(&self, scope: &Scope) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = Self::take(scope)?;
            if now.adds_nothing_to(self) {
                return Ok(());
            }
            if start.elapsed() > SETTLE {
                bail!("not as before after {} s:{}", SETTLE.as_secs(), self.compare(&now));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether everything but files is as before, and no file is new: containerd collects the
    /// snapshots of earlier containers when it sees fit.
    fn adds_nothing_to(&self, before: &Self) -> bool {
        let is_collected = |thing: &&String| thing.starts_with("file ");
        self.things.is_subset(&before.things)
            && before.things.difference(&self.things).all(|thing| is_collected(&thing))
    }

    fn compare<'a>(&'a self, now: &'a Self) -> Difference<'a> {
        Difference { before: self, now }
    }
}

struct Difference<'a> {
    before: &'a Census,
    now: &'a Census,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        let new = self.now.things.difference(&self.before.things).map(|it| ("new", it));
        let gone = self.before.things.difference(&self.now.things).map(|it| ("gone", it));
        let all: Vec<_> = new.chain(gone).collect();
        for (how, thing) in all.iter().take(SHOWN) {
            write!(f, "\n    {how}: {thing}")?;
        }
        if all.len() > SHOWN {
            write!(f, "\n    and {} more", all.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// Processes of this pid namespace, zombies too, but for kernel threads.
fn processes(things: &mut BTreeSet<String>) -> Result<()> {
    for pid in pids()? {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        // A process may end while it is looked at.
        let Ok(status) = fs::read_to_string(folder.join("status")) else { continue };
        let name = status.lines().next().unwrap_or_default().replace("Name:\t", "");
        let program = fs::read_link(folder.join("exe")).unwrap_or_default();
        let is_zombie = status.contains("State:\tZ");
        let note = if is_zombie { " (zombie)" } else { "" };
        things.insert(format!("process {pid} {name} {}{note}", program.display()));
    }
    Ok(())
}

/// Returns the processes of this pid namespace.
fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// Returns the processes that run the program with this file name.
pub(crate) fn pids_of(program: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for pid in pids()? {
        let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if path.file_name().is_some_and(|name| name == program) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn files(folder: &Path, ignored: Option<&Path>, things: &mut BTreeSet<String>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("read {}", folder.display()));
        }
    };
    if Some(folder) == ignored {
        return Ok(());
    }
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        things.insert(format!("file {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path, ignored, things)?;
        }
    }
    Ok(())
}

/// Returns the cgroups, of every hierarchy, whose path contains this name.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if path.to_string_lossy().contains(name) {
                found.push(path.clone());
            }
            folders.push(path);
        }
    }
    found
}

/// Removes the cgroups that a test that failed has left, the deepest first.
pub(crate) fn remove_cgroups(name: &str) -> Result<()> {
    let mut left = cgroups(name);
    left.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in left {
        fs::remove_dir(&path).with_context(|| format!("remove cgroup {}", path.display()))?;
    }
    Ok(())
}

/// How many descriptors of each class a process has.
fn descriptors(pid: u32, things: &mut BTreeSet<String>) -> Result<()> {
    let folder = format!("/proc/{pid}/fd");
    let mut classes = std::collections::BTreeMap::<String, u32>::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        // Numbers differ from one socket to the next; the class counts.
        let class = target.split(":[").next().unwrap_or_default().to_owned();
        *classes.entry(class).or_default() += 1;
    }
    for (class, count) in classes {
        things.insert(format!("{count} descriptors of process {pid}: {class}"));
    }
    Ok(())
}
