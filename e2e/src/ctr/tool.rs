// SPDX-License-Identifier: Apache-2.0
//! The command line tool `trine`: without containerd, as an OCI runtime, and on bad input.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    bed::Bed,
    bundle,
    canary::Ground,
    census::Census,
    command::{self, Output, PATIENCE},
    images::{self, BUSYBOX, Layer, write_archive},
    paths,
    smoke::{CASES, Case, HOSTILE},
    suite::Suite,
};

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    if !bed.is_trine() {
        return suite.skip("tool", "about trine itself");
    }
    // Most of what follows runs them.
    if let Err(error) = build_images() {
        return suite.fail("tool-image", &format!("{error:#}"));
    }
    suite.case("tool-image", || {
        let list = command::must(&mut trine(&["image", "ls"]), PATIENCE)?;
        ensure!(images::ALL.iter().all(|image| list.contains(image.name)), "listed: {list}");
        Ok(())
    });
    for (cases, patience) in [(CASES, PATIENCE), (HOSTILE, 4 * PATIENCE)] {
        for case in cases {
            suite.case(&format!("tool-{}", case.name), || small_case(bed, case, patience));
        }
    }
    suite.case("tool-rootfs-directory", || {
        let rootfs = BUSYBOX.rootfs();
        let mut run = trine(&["run"]);
        command::run(run.arg(rootfs).args(["--", "/usr/bin/hello"]))?.expect("hello").map(drop)
    });
    suite.case("tool-ps", || {
        let id = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
        let text = command::must(&mut trine(&["ps", "--format", "json"]), PATIENCE)?;
        let list: Value = serde_json::from_str(&text).context("parse what trine ps printed")?;
        ensure!(list.to_string().contains(&id), "containerd's container is not listed: {text}");
        let table = command::must(&mut trine(&["ps"]), PATIENCE)?;
        ensure!(table.contains(&id), "containerd's container is not listed: {table}");
        bed.remove(&id)
    });
    suite.case("tool-oci-runtime", || oci_runtime(bed));
    suite.case("tool-check", check);
    suite.case("tool-trapped-calls", trapped_calls);
    suite.case("tool-doctor", || {
        let text = command::must(&mut trine(&["doctor", "--json"]), PATIENCE)?;
        serde_json::from_str::<Value>(&text).context("parse what trine doctor printed").map(drop)
    });
    faults(bed, suite);
}

fn small_case(bed: &Bed, case: &Case, patience: Duration) -> Result<()> {
    let ground = case.has_volume.then(|| Ground::new(bed.folder.join("beside"))).transpose()?;
    let mut run = trine(&["run", "--cpus", &case.vcpus.to_string()]);
    if let Some(ground) = &ground {
        run.arg("-v").arg(format!("{}:/data", ground.volume().display()));
    }
    let run = run.arg(case.image.name).args(case.command);
    let running = command::start(run, Stdio::null())?;
    let output = running.wait(patience)?.expect_status(case.status)?;
    ensure!(output.stdout.trim_end() == case.stdout, "printed otherwise: {output}");
    ground.map_or(Ok(()), |ground| ground.check())
}

fn build_images() -> Result<()> {
    for image in images::ALL {
        let mut build = trine(&["image", "build", "--tag", image.name]);
        command::must(build.arg(image.archive()), Duration::from_secs(120))?;
    }
    Ok(())
}

/// What programs of an image need that is not there: busybox would mount swap space.
fn check() -> Result<()> {
    let check = |more: &[&str]| command::run(trine(&["check", BUSYBOX.name]).args(more));
    check(&["--program", "/usr/bin/hello"])?.expect_status(0)?;
    let all = check(&["--json"])?.expect_status(1)?;
    let report: Value = serde_json::from_str(&all.stdout).context("parse what it printed")?;
    let lacking = report["lacking"].as_array().context("no list")?;
    ensure!(lacking.iter().any(|call| call["name"] == "swapon"), "{}", all.stdout);
    let refused = report["refused"].to_string();
    ensure!(refused.contains("/broken/wrong-architecture"), "{refused}");
    ensure!(refused.contains("/broken/no-loader"), "{refused}");
    fault_of(&check(&["--program", "/no/such/program"])?, 125, "/no/such/program")?;
    fault_of(&command::run(&mut trine(&["check", "/no/such/image"]))?, 125, "/no/such/image")
}

/// Without rewritten text, programs run as with it.
fn trapped_calls() -> Result<()> {
    for (how, areas) in [("direct", "1"), ("trap", "0")] {
        let mut run = trine(&["run", "--system-calls", how, BUSYBOX.name, "--"]);
        let script = "grep -c '\\[syscalls\\]' /proc/self/maps; threads";
        let output = command::run(run.args(["/bin/sh", "-c", script]))?.expect_status(0)?;
        ensure!(output.stdout.trim() == format!("{areas}\nthreads ok"), "{how}: {output}");
    }
    Ok(())
}

fn oci_runtime(bed: &Bed) -> Result<()> {
    let script = "trap 'exit 6' TERM; while :; do sleep 0.1; done";
    let config = bundle::config(&BUSYBOX.rootfs(), &["/bin/sh", "-c", script]);
    let folder = bundle::write(&bed.folder.join("bundle"), &config.to_string())?;
    // The image of the directory is made once, and kept.
    let mut once = trine(&["run"]);
    command::must(once.arg(BUSYBOX.rootfs()).arg("/bin/true"), PATIENCE)?;
    let scope = bed.scope(false);
    let before = Census::take(&scope)?;
    let state = || -> Result<Value> {
        let text = command::must(&mut trine(&["state", "oci"]), PATIENCE)?;
        serde_json::from_str(&text).context("parse what trine state printed")
    };
    command::must(trine(&["create", "--bundle"]).arg(&folder).arg("oci"), PATIENCE)?;
    ensure!(state()?["status"] == "created", "{}", state()?);
    command::must(&mut trine(&["start", "oci"]), PATIENCE)?;
    ensure!(state()?["status"] == "running", "{}", state()?);
    command::run(&mut trine(&["exec", "oci", "/bin/echo", "in it"]))?.expect("in it")?;
    command::run(&mut trine(&["exec", "oci", "/bin/sh", "-c", "exit 8"]))?.expect_status(8)?;
    let list = command::must(&mut trine(&["list"]), PATIENCE)?;
    ensure!(list.contains("oci"), "listed: {list}");
    let second = command::run(trine(&["create", "--bundle"]).arg(&folder).arg("oci"))?;
    fault_of(&second, 1, "oci")?;
    let early = command::run(&mut trine(&["delete", "oci"]))?;
    fault_of(&early, 1, "oci")?;
    command::must(&mut trine(&["kill", "oci", "TERM"]), PATIENCE)?;
    command::until("the container stops", PATIENCE, || Ok(state()?["status"] == "stopped"))?;
    command::must(&mut trine(&["delete", "oci"]), PATIENCE)?;
    ensure!(command::run(&mut trine(&["state", "oci"]))?.status != 0, "it is still there");
    fs::remove_dir_all(&folder)?;
    before.expect_same(&scope)
}

/// A way to fail: its name, the exit status (0 = any but 0), a word that the error must contain, and
/// the command.
type Fault = (&'static str, i32, String, Command);

fn faults(bed: &Bed, suite: &mut Suite) {
    let list = match all_faults(&bed.folder.join("faults")) {
        Ok(list) => list,
        Err(error) => return suite.fail("tool-fault", &format!("{error:#}")),
    };
    for (name, status, word, mut trine) in list {
        suite.case(&format!("tool-fault-{name}"), || {
            let scope = bed.scope(false);
            let before = Census::take(&scope)?;
            let output = command::run(&mut trine)?;
            // Folders in which a user keeps what he runs are his, and stay.
            fs::remove_dir_all("/run/nobody/trine").ok();
            fault_of(&output, status, &word)?;
            before.expect_same(&scope)
        });
    }
}

/// Checks that a command failed as it should: exit status, and one line that names the thing.
fn fault_of(output: &Output, status: i32, word: &str) -> Result<()> {
    let is_expected = if status == 0 { output.status != 0 } else { output.status == status };
    ensure!(is_expected, "exit status {} instead of {status}: {output}", output.status);
    // The command line parser adds how to get help, in lines of its own.
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    ensure!(status == 2 || lines.len() == 1, "not one line: {output}");
    ensure!(output.stderr.contains(word), "the error does not name {word:?}: {output}");
    ensure!(output.stdout.is_empty(), "it printed something: {output}");
    Ok(())
}

fn all_faults(folder: &Path) -> Result<Vec<Fault>> {
    fs::create_dir_all(folder)?;
    let mut faults: Vec<Fault> = Vec::new();
    let mut add = |name, status, word: &str, trine| {
        faults.push((name, status, word.to_owned(), trine));
    };

    add("unknown-flag", 2, "--no-such-flag", trine(&["run", "--no-such-flag", "busybox"]));
    add("unknown-image", 125, "no-such-image", trine(&["run", "no-such-image", "true"]));
    add("memory", 125, "1k", trine(&["run", "--memory", "1k", "busybox", "/bin/true"]));
    add("unknown-id", 1, "no-such-id", trine(&["state", "no-such-id"]));
    add("bad-id", 1, "a/b", trine(&["state", "a/b"]));
    for (name, status) in [
        ("wrong-architecture", 126),
        ("corrupt", 126),
        ("empty", 126),
        ("not-executable", 126),
        ("no-loader", 127),
        ("no-interpreter", 127),
    ] {
        let program = format!("/broken/{name}");
        add(name, status, &program, trine(&["run", "busybox", &program]));
    }

    let empty = folder.join("empty-root");
    fs::create_dir_all(&empty)?;
    add("rootfs-empty", 0, "empty-root", trine(&["run", &text(&empty), "/bin/true"]));
    let missing = text(&folder.join("missing-root"));
    add("rootfs-missing", 0, "missing-root", trine(&["run", &missing, "/bin/true"]));

    let mut bundle = |name: &'static str, word: &str, config: &str| -> Result<()> {
        let path = bundle::write(&folder.join(name), config)?;
        faults.push((name, 0, word.to_owned(), trine(&["run", "--bundle", &text(&path), name])));
        Ok(())
    };
    let good = bundle::config(&BUSYBOX.rootfs(), &["/bin/true"]);
    bundle("config-malformed", "config.json", "{ \"ociVersion\": ")?;
    let mut other = good.clone();
    other["ociVersion"] = "9.0.0".into();
    bundle("config-version", "9.0.0", &other.to_string())?;
    let mut other = good.clone();
    other["process"]["args"] = Value::Null;
    bundle("config-no-args", "process.args", &other.to_string())?;
    let mut other = good.clone();
    other["root"]["path"] = "/no/such/root".into();
    bundle("config-rootfs-missing", "/no/such/root", &other.to_string())?;
    let nothing = folder.join("no-config");
    fs::create_dir_all(&nothing)?;
    let run = trine(&["run", "--bundle", &text(&nothing), "no-config"]);
    faults.push(("config-missing", 0, "config.json".to_owned(), run));

    archives(folder, &mut faults)?;
    without_kvm(&mut faults)?;
    Ok(faults)
}

const REFERENCE: &str = "trine.test/fault:1";

/// Image archives that must not be taken.
fn archives(folder: &Path, faults: &mut Vec<Fault>) -> Result<()> {
    let mut add = |name: &'static str, word: &str, path: &PathBuf| {
        let build = trine(&["image", "build", "--tag", "fault", &text(path)]);
        faults.push((name, 0, word.to_owned(), build));
    };
    let whole = fs::read(BUSYBOX.archive()).context("read an archive")?;
    let path = folder.join("truncated.tar");
    fs::write(&path, &whole[..whole.len() / 2])?;
    add("archive-truncated", "truncated.tar", &path);

    let path = folder.join("digest.tar");
    // Of its own, or the image would be known already and its layers not read.
    let mark = b"contents that will change";
    write_archive(&path, REFERENCE, &[Layer::with_file("etc/file", mark)?], &["/bin/sh"])?;
    let mut wrong = fs::read(&path)?;
    let Some(at) = wrong.windows(mark.len()).position(|window| window == mark) else {
        bail!("the file is not in the archive");
    };
    wrong[at] = b'C';
    fs::write(&path, &wrong)?;
    add("archive-digest", "digest", &path);

    let path = folder.join("bomb.tar");
    let bomb = Layer::with_file("zeros", &vec![0; 256 << 20])?.compressed()?;
    write_archive(&path, REFERENCE, &[bomb], &["/bin/sh"])?;
    add("archive-bomb", "bomb.tar", &path);

    for (name, file, entry) in [
        ("archive-dot-dot", "dot-dot.tar", "a/../../escaped"),
        ("archive-absolute", "absolute.tar", "/escaped"),
    ] {
        let path = folder.join(file);
        let layer = Layer::with_file(entry, b"contents")?;
        write_archive(&path, REFERENCE, &[layer], &["/bin/sh"])?;
        add(name, "escaped", &path);
    }
    Ok(())
}

/// Hosts without KVM: no device, or no permission to use it.
fn without_kvm(faults: &mut Vec<Fault>) -> Result<()> {
    let script = "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && \
                  mknod -m 666 /dev/urandom c 1 9 && mknod -m 666 /dev/zero c 1 5 && exec \"$@\"";
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-c", script, "hidden"]).arg(paths::trine());
    hidden.args(["run", "busybox", "/bin/true"]);
    faults.push(("no-kvm", 125, "/dev/kvm".to_owned(), hidden));

    // A user who may write its own state, but not use the device.
    let folder = Path::new("/run/nobody");
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(paths::trine());
    nobody.arg("run").arg(BUSYBOX.rootfs()).arg("/bin/true");
    nobody.env("XDG_RUNTIME_DIR", folder).env("XDG_CACHE_HOME", folder).current_dir("/");
    faults.push(("kvm-permission", 125, "/dev/kvm".to_owned(), nobody));
    Ok(())
}

/// A command of the tool.
pub(super) fn trine(arguments: &[&str]) -> Command {
    let mut trine = Command::new(paths::trine());
    trine.args(arguments);
    trine
}

/// A path as text.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
