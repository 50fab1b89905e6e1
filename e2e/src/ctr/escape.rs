// SPDX-License-Identifier: Apache-2.0
//! Attempts to get out of a volume, from a real container, as root: see `e2e/guest/escape.c`.  The
//! host's tree beside the volume must stay unread and unchanged.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    fs::{CWD, FileType, Mode, RenameFlags},
    io::Errno,
};

use super::volumes::bind;
use crate::{
    bed::Bed,
    canary::{Ground, census},
    command::{self, Output, Running},
    images::BUSYBOX,
    programs,
    suite::Suite,
};

/// How long one container may take for all shapes and calls.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("escape-every-shape-through-every-call", || every_shape(bed));
    suite.case("escape-is-noticed-where-there-is-one", || planted(bed));
    bed.vm_case(suite, "escape-read-only-is-so-by-every-route", || read_only(bed));
    suite.case("escape-race-of-renames", || race(bed));
    bed.vm_case(suite, "escape-names-swapped-at-every-call", || held(bed));
    bed.vm_case(suite, "escape-special-files-are-never-opened", || special_files(bed));
}

/// A `ctr run` of the program on a volume; the mount at `/data/in` is a volume in it.
fn escape(bed: &Bed, ground: &Ground, options: &str, more: &[&str]) -> Result<Running> {
    let volume = ground.volume();
    let inner = bed.folder.join("escape-inner");
    fs::create_dir_all(&inner).context("make the inner volume")?;
    let mounts = [bind(&volume, "/data", options), bind(&inner, "/data/in", options)];
    let planted = bind(&ground.canary(), "/planted", "ro");
    let mut flags = vec!["--rm", "--mount", &mounts[0], "--mount", &mounts[1]];
    if more.contains(&"planted") {
        flags.extend(["--mount", &planted]);
    }
    let canary = ground.canary().display().to_string();
    let words: Vec<&str> =
        ["/usr/bin/escape", "/data", &canary].into_iter().chain(more.iter().copied()).collect();
    let mut ctr = bed.ctr_run(&flags, BUSYBOX, &bed.id("escape"), &words);
    command::start(&mut ctr, Stdio::null())
}

fn must_hold(output: Output) -> Result<Output> {
    let output = output.expect_status(0)?;
    ensure!(output.stdout.trim_end().ends_with("escape ok"), "{output}");
    Ok(output)
}

fn ground(bed: &Bed, name: &str) -> Result<Ground> {
    Ground::new(bed.folder.join(format!("escape-{name}")))
}

fn every_shape(bed: &Bed) -> Result<()> {
    let ground = ground(bed, "shapes")?;
    let output = must_hold(escape(bed, &ground, "rw", &[])?.wait(PATIENCE)?)?;
    let shapes = output.stdout.split(' ').next().and_then(|number| number.parse().ok());
    ensure!(shapes >= Some(60), "too few shapes: {output}");
    ground.check()
}

/// The suite can fail: with the canary mounted into the container, it is seen by every means.
fn planted(bed: &Bed) -> Result<()> {
    let ground = ground(bed, "planted")?;
    let output = escape(bed, &ground, "rw", &["planted", "/planted/secret"])?.wait(PATIENCE)?;
    ensure!(output.status == 1, "the program does not notice a secret: {output}");
    for (what, call) in [
        ("contents", "open"),
        ("contents", "openat"),
        ("attributes", "stat"),
        ("attributes", "statx"),
        ("attributes", "open_path"),
        ("a program", "execve"),
    ] {
        let line = format!("LEAK {what}: /planted/secret through {call}\n");
        ensure!(output.stdout.contains(&line), "not noticed: {line}{output}");
    }
    ground.check().context("a read-only mount was written to")?;
    fs::read(ground.canary().join("secret"))?;
    ensure!(ground.check().is_err(), "the host does not notice that the canary was read");
    Ok(())
}

fn read_only(bed: &Bed) -> Result<()> {
    let ground = ground(bed, "read-only")?;
    // The first run makes what the second one finds.
    must_hold(escape(bed, &ground, "rw", &["quick"])?.wait(PATIENCE)?)?;
    let written = |lines: Vec<String>| -> Vec<String> {
        // Reading a volume may set the time of its last access or not.
        lines.iter().map(|line| without_access_time(line)).collect()
    };
    let before = written(census(&ground.volume())?);
    must_hold(escape(bed, &ground, "ro", &[])?.wait(PATIENCE)?)?;
    let after = written(census(&ground.volume())?);
    ensure!(before.len() > 90 && before == after, "a read-only volume changed: {after:?}");
    ground.check()
}

fn without_access_time(line: &str) -> String {
    let words = line.split(' ');
    let mut after_atime = false;
    words
        .filter(|word| {
            let keep = !std::mem::replace(&mut after_atime, *word == "atime");
            keep && *word != "atime"
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// `swap` is a directory, and in turns a link to the canary.
fn prepare_swap(ground: &Ground) -> Result<(PathBuf, PathBuf)> {
    let (swap, other) = (ground.volume().join("swap"), ground.volume().join("other"));
    fs::create_dir(&swap)?;
    fs::write(swap.join("secret"), "inside")?;
    symlink("../canary", &other)?;
    Ok((swap, other))
}

fn exchange(one: &Path, two: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE)
}

/// The numbers that the program prints: how often the directory was there, and how often not.
fn both_ways(output: &Output) -> Result<()> {
    let numbers: Vec<u64> = output
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("race: "))
        .map(|line| line.split(' ').filter_map(|word| word.parse().ok()).collect())
        .with_context(|| format!("no numbers: {output}"))?;
    ensure!(
        matches!(numbers[..], [1..=u64::MAX, 1..=u64::MAX]),
        "one side was never seen: {output}"
    );
    Ok(())
}

fn race(bed: &Bed) -> Result<()> {
    let ground = ground(bed, "race")?;
    let (swap, other) = prepare_swap(&ground)?;
    let stop = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Fails now and then, when the container removes a directory on the way.
                exchange(&swap, &other).ok();
                thread::yield_now();
            }
        });
        let output = escape(bed, &ground, "rw", &["race", "3"]).and_then(|run| run.wait(PATIENCE));
        stop.store(true, Ordering::Relaxed);
        output
    })?;
    both_ways(&must_hold(output)?)?;
    ground.check()
}

/// Every call of the I/O process that takes a name is held at its entry while the name is swapped.
fn held(bed: &Bed) -> Result<()> {
    let tracer = programs::tracer()?;
    let ground = ground(bed, "held")?;
    let (swap, other) = prepare_swap(&ground)?;
    let container = escape(bed, &ground, "rw", &["race", "6"])?;
    let mut pid = None;
    command::until("the I/O process runs", PATIENCE, || {
        pid = io_process()?;
        Ok(pid.is_some())
    })?;
    let pid = pid.unwrap_or_default().to_string();
    let mut hold = Command::new(tracer);
    hold.args(["swap", &pid]).arg(&swap).arg(&other);
    let mut hold = hold
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run the tracer of the tests")?;
    let end = hold.stdin.take();
    let output = container.wait(PATIENCE);
    drop(end);
    let said = hold.wait_with_output().context("wait for the tracer of the tests")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    both_ways(&must_hold(output?)?)?;
    let swaps = said.lines().find_map(|line| line.strip_suffix(" swaps")?.parse::<u64>().ok());
    ensure!(swaps >= Some(100), "the names were hardly swapped: {said:?}");
    ground.check()
}

/// The only `trine-io` of this namespace, when it has a VM.
fn io_process() -> Result<Option<u32>> {
    for entry in fs::read_dir("/proc").context("list the processes")? {
        let path = entry?.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let threads = fs::read_dir(path.join("task")).map_or(0, Iterator::count);
        if name.trim_end() == "trine-io" && threads > 1 {
            return Ok(path.file_name().and_then(|pid| pid.to_str()?.parse().ok()));
        }
    }
    Ok(None)
}

fn special_files(bed: &Bed) -> Result<()> {
    let ground = ground(bed, "special")?;
    let volume = ground.volume();
    for (name, kind, device) in [
        // Numbers of which the guest's kernel has no device of its own.
        ("control", FileType::CharacterDevice, rustix::fs::makedev(10, 237)),
        ("loop", FileType::BlockDevice, rustix::fs::makedev(7, 0)),
        ("fifo", FileType::Fifo, 0),
    ] {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, volume.join(name), kind, mode, device)
            .with_context(|| format!("make {name}"))?;
    }
    let listener = std::os::unix::net::UnixListener::bind(volume.join("socket"))?;
    listener.set_nonblocking(true)?;
    let script = "cd /data; for f in control loop socket; do \
                    head -c 1 $f > /tmp/o 2> /dev/null && [ -s /tmp/o ] && echo read $f; \
                    (echo x > $f) 2> /dev/null && echo wrote $f; \
                    truncate -s 0 $f 2> /dev/null && echo cut $f; \
                  done; \
                  (timeout 1 cat fifo > /dev/null) & (echo x 1<> fifo) 2> /dev/null; \
                  nc -U socket < /dev/null 2> /dev/null && echo connected; \
                  mknod d c 1 3 2> /dev/null && echo made; wait; echo done";
    let mount = bind(&volume, "/data", "rw");
    let mut ctr = bed.ctr_run(
        &["--rm", "--mount", &mount],
        BUSYBOX,
        &bed.id("special"),
        &["/bin/sh", "-c", script],
    );
    let mut container = command::start(&mut ctr, Stdio::null())?;
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    while container.is_running() {
        match rustix::fs::open(volume.join("fifo"), flags, Mode::empty()) {
            Err(Errno::NXIO) => thread::sleep(Duration::from_millis(1)),
            other => bail!("somebody on the host has the FIFO open: {other:?}"),
        }
    }
    container.wait(PATIENCE)?.expect("done")?;
    ensure!(!volume.join("d").exists(), "a device node was made");
    ensure!(listener.accept().is_err(), "somebody connected to the host's socket");
    ground.check()
}
