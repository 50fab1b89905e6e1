// SPDX-License-Identifier: Apache-2.0
//! A guest kernel that breaks the rules of its window: its VM ends, with a reason, and the other VM of
//! the pod does not notice.
//!
//! The kernel's part is played from outside: this test maps nothing, but writes to the window's
//! memory through the VMM's mappings, while the container uses it.  To the I/O server that is a guest
//! whose memory changes while it is being served.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use trine_abi::window::{ENTRIES, SUBMISSION_BYTES, SUBMISSIONS};

use super::volumes::bind;
use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::BUSYBOX,
    suite::Suite,
};

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    bed.vm_case(suite, "hostile-window-ends-its-vm-and-no-other", || broken_window(bed));
}

/// Starts a container of a pod, as the kubelet would.
fn member(bed: &Bed, pod: &str, id: &str, kind: &str, mount: &str, script: &str) -> Result<()> {
    let kind = format!("io.kubernetes.cri.container-type={kind}");
    let sandbox = format!("io.kubernetes.cri.sandbox-id={pod}");
    let flags = [
        "--detach",
        "--null-io",
        "--annotation",
        &kind,
        "--annotation",
        &sandbox,
        "--mount",
        mount,
    ];
    let mut ctr = bed.ctr_run(&flags, BUSYBOX, id, &["/bin/sh", "-c", script]);
    command::start(&mut ctr, Stdio::null())?.wait(PATIENCE)?.expect_status(0).map(drop)
}

fn broken_window(bed: &Bed) -> Result<()> {
    let volume = bed.folder.join("hostile");
    fs::create_dir_all(&volume).context("make a volume")?;
    let mount = bind(&volume, "/data", "rw");
    let [pod, bad, good] = ["pod", "bad", "good"].map(|word| bed.id(word));
    member(bed, &pod, &pod, "sandbox", &mount, "sleep 1000")?;
    let beat = "while :; do echo x >> /data/good; sleep 0.05; done";
    member(bed, &pod, &good, "container", &mount, beat)?;
    member(bed, &pod, &bad, "container", &mount, "while :; do cat /data/good > /data/bad; done")?;
    let beats = || fs::metadata(volume.join("good")).map_or(0, |attributes| attributes.len());
    command::until("both containers work", PATIENCE, || {
        Ok(beats() > 0 && volume.join("bad").exists())
    })?;

    let window = window(task_pid(bed, &bad)?)?;
    let deadline = Instant::now() + PATIENCE;
    while bed.status(&bad)?.as_deref() != Some("STOPPED") {
        ensure!(Instant::now() < deadline, "the VM goes on with a broken window");
        // Reserved bytes of every entry of the submission ring; more often than it is filled.
        for _ in 0..2000 {
            for index in 0..ENTRIES as usize {
                let at = SUBMISSIONS + index * SUBMISSION_BYTES + SUBMISSION_BYTES - 8;
                window.write_at(&[0xff; 8], at as u64).context("write to the window")?;
            }
        }
    }
    let before = beats();
    command::until("the other container goes on", Duration::from_secs(10), || {
        Ok(beats() > before + 10)
    })?;
    ensure!(bed.status(&good)?.as_deref() == Some("RUNNING"), "the other container ended");
    bed.exec(&good, &["/bin/echo", "alive"])?.expect("alive")?;
    let log = fs::read_to_string(bed.log()).context("read containerd's log")?;
    ensure!(
        log.contains("broke the rules of its window") && log.contains(&bad),
        "nothing says why the VM ended"
    );
    bed.delete(&bad)?;
    bed.remove(&good)?;
    bed.remove(&pod)
}

fn task_pid(bed: &Bed, id: &str) -> Result<u32> {
    let list = command::must(&mut bed.ctr(&["task", "ls"]), PATIENCE)?;
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
    let pid = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    pid.with_context(|| format!("no task {id} in {list}"))
}

/// The memory of a VM's window.
fn window(pid: u32) -> Result<File> {
    let folder = PathBuf::from(format!("/proc/{pid}/map_files"));
    for entry in fs::read_dir(&folder).context("list the mappings of the VMM")? {
        let path = entry?.path();
        let target = fs::read_link(&path).unwrap_or_default();
        if target.to_string_lossy().contains("trine-window") {
            return File::options().write(true).open(&path).context("open the window");
        }
    }
    bail!("the VMM {pid} has no window mapped")
}
