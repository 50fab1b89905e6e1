// SPDX-License-Identifier: Apache-2.0
//! What the processes of a running pod hold, thread by thread, compared whole with a written
//! expectation: `e2e/posture/*.txt`.  A line that is not expected fails, and so does one that is
//! expected and missing.
//!
//! A line of an expectation is `KEY: VALUE`.  VALUE `*` is anything; a KEY that begins with `?` is of
//! newer or other kernels and may be missing.  The `[threads]` section names the kinds of threads,
//! and how many there are (`+`: one or more, `?`: none or more).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::volumes::bind;
use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::BUSYBOX,
    paths,
    suite::Suite,
};

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    bed.vm_case(suite, "posture-of-every-process-and-thread", || posture(bed));
}

fn posture(bed: &Bed) -> Result<()> {
    let volume = bed.folder.join("posture");
    fs::create_dir_all(&volume).context("make a volume")?;
    let mounts = [bind(&volume, "/data", "rw"), bind(Path::new("/etc"), "/host", "ro")];
    let id = bed.id("posture");
    // At work: files, fsync on a worker, sockets, computing, on two vCPUs.
    let script = "nc -l -p 4000 > /dev/null & while :; do echo x > /data/f; sync /data/f; \
                  cat /host/hostname > /dev/null; done & while :; do :; done";
    let flags =
        ["--detach", "--null-io", "--cpus", "2", "--mount", &mounts[0], "--mount", &mounts[1]];
    let mut ctr = bed.ctr_run(&flags, BUSYBOX, &id, &["/bin/sh", "-c", script]);
    command::start(&mut ctr, Stdio::null())?.wait(PATIENCE)?.expect_status(0)?;
    command::until("the container works", PATIENCE, || Ok(volume.join("f").exists()))?;
    // Its VM's thread starts a worker when it first has something to wait for.
    command::until("a worker of the I/O process", PATIENCE, || {
        let threads =
            |process: &PathBuf| fs::read_dir(process.join("task")).map_or(0, Iterator::count);
        Ok(processes("trine-io")?.iter().any(|process| threads(process) > 2))
    })?;
    let mut faults = Vec::new();
    for name in ["trine-vmm", "trine-io"] {
        let found = processes(name)?;
        ensure!(found.len() == 1, "{} processes are called {name}", found.len());
        for process in found {
            faults.extend(compare(name, &process, &id)?);
        }
    }
    bed.remove(&id)?;
    if !faults.is_empty() {
        bail!("not as written in e2e/posture:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// The `/proc` folders of the processes with a name.
fn processes(name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list the processes")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Sections with their lines.
type Sections = BTreeMap<String, Vec<String>>;

fn compare(name: &str, process: &Path, id: &str) -> Result<Vec<String>> {
    let file = paths::root().join(format!("e2e/posture/{name}.txt"));
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let expected = parse(&text);
    let mut faults = Vec::new();
    let mut fault =
        |section: &str, what: String| faults.push(format!("{name} [{section}]: {what}"));
    let mut check = |section: &str, lines: Vec<String>| {
        let wanted = expected.get(section).cloned().unwrap_or_default();
        differences(&wanted, &lines).into_iter().for_each(|what| fault(section, what));
    };

    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for task in fs::read_dir(process.join("task")).context("list the threads")? {
        let task = task?.path();
        let Ok(comm) = fs::read_to_string(task.join("comm")) else { continue };
        let kind = without_numbers(comm.trim_end());
        let status = fs::read_to_string(task.join("status")).context("read a thread's status")?;
        check("status", status.lines().map(tidy).collect());
        check("namespaces", namespaces(&task.join("ns"))?);
        *kinds.entry(kind).or_default() += 1;
    }
    let counts = kinds.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
    check("threads", counts);
    let limits = fs::read_to_string(process.join("limits")).context("read the limits")?;
    check("limits", limits.lines().skip(1).map(limit).collect());
    check("descriptors", descriptors(process)?);
    check("places", places(process, id)?);
    Ok(faults)
}

fn parse(text: &str) -> Sections {
    let mut sections = Sections::new();
    let mut section = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name.to_owned(),
            None => sections.entry(section.clone()).or_default().push(line.to_owned()),
        }
    }
    sections
}

fn differences(wanted: &[String], found: &[String]) -> Vec<String> {
    let split = |line: &str| -> (String, String) {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        (key.to_owned(), value.trim().to_owned())
    };
    let mut faults = Vec::new();
    let found: BTreeMap<_, _> = found.iter().map(|line| split(line)).collect();
    let mut known = BTreeSet::new();
    for line in wanted {
        let (key, value) = split(line);
        let optional = key.starts_with('?') || value == "?";
        let key = key.trim_start_matches('?').to_owned();
        match found.get(&key) {
            None if optional => {}
            None => faults.push(format!("{key} is missing")),
            Some(now) if matches!(&*value, "*" | "+" | "?") || *now == value => {}
            Some(now) => faults.push(format!("{key} is {now:?} instead of {value:?}")),
        }
        known.insert(key);
    }
    let unknown = found.iter().filter(|(key, _)| !known.contains(*key));
    faults.extend(unknown.map(|(key, value)| format!("{key} is {value:?} and not expected")));
    faults
}

fn without_numbers(name: &str) -> String {
    let mut kind = String::new();
    for character in name.chars() {
        match character {
            '0'..='9' if kind.ends_with('N') => {}
            '0'..='9' => kind.push('N'),
            other => kind.push(other),
        }
    }
    kind
}

fn tidy(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `Max core file size: 0 0`.
fn limit(line: &str) -> String {
    let (name, values) = line.split_at(line.len().min(26));
    let values: Vec<_> = values.split_whitespace().take(2).collect();
    format!("{}: {}", name.trim(), values.join(" "))
}

/// Which namespaces are this process's, which stand for the host here.
fn namespaces(folder: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).context("list the namespaces")? {
        let entry = entry?;
        let name = entry.file_name();
        let own = fs::read_link(entry.path())?;
        let host = fs::read_link(Path::new("/proc/self/ns").join(&name))?;
        let whose = if own == host { "host" } else { "own" };
        lines.push(format!("{}: {whose}", name.to_string_lossy()));
    }
    Ok(lines)
}

/// Descriptors by what they are, and how many of each.
fn descriptors(process: &Path) -> Result<Vec<String>> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for entry in fs::read_dir(process.join("fd")).context("list the descriptors")? {
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let target = target.strip_suffix(" (deleted)").unwrap_or(&target);
        let kind = match target.split_once(":[") {
            Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
            Some(("anon_inode", kind)) => kind.trim_end_matches(']').to_owned(),
            _ if target.starts_with("anon_inode:") => without_numbers(&target[11..]),
            _ if target.starts_with("/memfd:") => target[1..].replace(':', " "),
            _ if target.contains("/images/") => "image".to_owned(),
            _ if target.ends_with("/trine.log") || target.ends_with(".log") => "log".to_owned(),
            _ => without_numbers(target),
        };
        *counts.entry(kind.replace(':', " ")).or_default() += 1;
    }
    Ok(counts.into_iter().map(|(kind, count)| format!("{kind}: {count}")).collect())
}

/// Root and current directory, cgroup, session.
fn places(process: &Path, id: &str) -> Result<Vec<String>> {
    let list = |name: &str| -> Result<Vec<String>> {
        let entries = fs::read_dir(process.join(name)).with_context(|| format!("list {name}"))?;
        Ok(entries
            .filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
            .collect())
    };
    let root = list("root/")?;
    let is_writable = fs::write(process.join("root/x"), "x").is_ok();
    let own = list("fd")?;
    let cwd: Vec<_> = list("cwd/")?;
    let cwd = match cwd.is_empty() {
        true => "empty",
        false if cwd.iter().all(|name| own.contains(name)) => "own descriptors",
        false => "files",
    };
    let cgroups = fs::read_to_string(process.join("cgroup")).context("read the cgroups")?;
    let cgroup = if cgroups.lines().any(|line| line.contains(id)) { "container" } else { "pod" };
    let stat = fs::read_to_string(process.join("stat")).context("read the stat line")?;
    let session = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(3));
    let pid = process.file_name().and_then(|pid| pid.to_str());
    let environment = fs::read(process.join("environ")).context("read the environment")?;
    Ok(vec![
        format!("root: {}", if root.is_empty() { "empty" } else { "files" }),
        format!("root is writable: {is_writable}"),
        format!("current directory: {cwd}"),
        format!("cgroup: {cgroup}"),
        format!("session: {}", if session == pid { "own" } else { "another" }),
        format!("environment bytes: {}", environment.len()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_what_is_new_missing_or_other() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let wanted = lines("A: 1\nB: *\n?C: 3\nworker: ?");
        assert!(differences(&wanted, &lines("A: 1\nB: 7")).is_empty());
        assert!(differences(&wanted, &lines("A: 1\nB: 7\nC: 3\nworker: 2")).is_empty());
        let faults = differences(&wanted, &lines("A: 2\nC: 4\nD: 5"));
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[3].contains("D is \"5\" and not expected"), "{faults:?}");
    }
}
