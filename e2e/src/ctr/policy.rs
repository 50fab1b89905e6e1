// SPDX-License-Identifier: Apache-2.0
//! Policies, with real containers: learnt, compared, reloaded while a container runs, decided by
//! somebody else, narrowed by annotations, and refused when they have a fault.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::tool::{text, trine};
use crate::{
    bed::Bed,
    bundle,
    command::{self, PATIENCE},
    images::BUSYBOX,
    suite::Suite,
};

const BLOCK_KEYS: &str = "version = 1\n[[rule]]\nid = \"keys\"\ncalls = [\"openat\"]\n\
                          paths = [\"/data/*.key\"]\naction = \"block\"\nerrno = \"EACCES\"\n";
const READ: &str = "cat /data/a.key 2>/dev/null || echo refused";

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    bed.vm_case(suite, "policy-learnt-allows-that-and-no-more", || learn(bed));
    bed.vm_case(suite, "policy-reload-while-a-container-runs", || reload(bed));
    bed.vm_case(suite, "policy-decider-decides-and-may-be-gone", || decider(bed));
    bed.vm_case(suite, "policy-limits-bytes-and-delays", || limits(bed));
    bed.vm_case(suite, "policy-annotations-narrow", || annotations(bed));
    bed.vm_case(suite, "policy-fault-stops-the-container", || fault(bed));
    bed.vm_case(suite, "policy-of-the-shim-is-reloaded-by-a-signal", || shim(bed));
}

/// A folder with a volume in it that has two files.
fn folder(bed: &Bed, name: &str) -> Result<(PathBuf, String)> {
    let folder = bed.folder.join(format!("policy-{name}"));
    let volume = folder.join("volume");
    fs::create_dir_all(&volume).with_context(|| format!("create {}", volume.display()))?;
    fs::write(volume.join("a.key"), "key\n")?;
    fs::write(volume.join("b"), "plain\n")?;
    let mount = format!("{}:/data", volume.display());
    Ok((folder, mount))
}

/// `trine run` of a script with a volume and more flags.
fn run(flags: &[&str], mount: &str, script: &str) -> Command {
    let mut run = trine(&["run", "-v", mount]);
    run.args(flags).arg(BUSYBOX.rootfs()).args(["/bin/sh", "-c", script]);
    run
}

fn learn(bed: &Bed) -> Result<()> {
    let (folder, mount) = folder(bed, "learn")?;
    let policy = text(&folder.join("learnt.toml"));
    let script = "cat /data/b; echo new > /data/made";
    let mut learn = trine(&["policy", "learn", "--output", &policy, "-v", &mount]);
    learn.arg(BUSYBOX.rootfs()).args(["--", "/bin/sh", "-c", script]);
    command::run(&mut learn)?.expect("plain")?;
    command::must(&mut trine(&["policy", "check", &policy]), PATIENCE)?;
    let flags = ["--policy", &policy];
    command::run(&mut run(&flags, &mount, script))?.expect("plain")?;
    let more = "cat /data/a.key 2>/dev/null || echo refused; rm /data/b 2>/dev/null || echo kept; \
                nc -w 1 127.0.0.1 9 2>/dev/null || echo alone";
    command::run(&mut run(&flags, &mount, more))?.expect("refused\nkept\nalone")?;

    let wider = folder.join("wider.toml");
    fs::write(&wider, fs::read_to_string(&policy)?.replace("default = \"block\"\n", ""))?;
    let mut diff = trine(&["policy", "diff", "--json", &policy, &text(&wider)]);
    let found = command::run(&mut diff)?.expect_status(1)?.stdout;
    let found: Value = serde_json::from_str(&found).context("parse what policy diff printed")?;
    ensure!(found["settings"] == serde_json::json!(["default"]), "{found}");
    let connects = |call: &&Value| call["call"] == "connect" && call["after"]["action"] == "accept";
    ensure!(found["calls"].as_array().is_some_and(|all| all.iter().any(|c| connects(&c))));
    let same = trine(&["policy", "diff", &policy, &policy]).output()?;
    ensure!(same.status.success() && same.stdout == b"no difference\n", "{same:?}");
    Ok(())
}

/// The policy changes under a container that runs; a file that is open stays open.
fn reload(bed: &Bed) -> Result<()> {
    let (folder, mount) = folder(bed, "reload")?;
    let (file, audit) = (folder.join("policy.toml"), folder.join("audit"));
    fs::write(&file, "version = 1\n")?;
    let script = "exec 3</data/a.key; echo > /data/ready; \
                  until [ -e /data/go ]; do sleep 0.05; done; cat <&3; sleep 1000";
    let name = bed.id("reload");
    let flags = ["--detach", "--name", &name, "--policy", &text(&file), "--audit", &text(&audit)];
    command::must(&mut run(&flags, &mount, script), PATIENCE)?;
    let volume = folder.join("volume");
    command::until("the container is ready", PATIENCE, || Ok(volume.join("ready").exists()))?;
    let read = |expected: &str| -> Result<()> {
        command::run(&mut trine(&["exec", &name, "/bin/sh", "-c", READ]))?.expect(expected)?;
        Ok(())
    };
    read("key")?;
    fs::write(&file, BLOCK_KEYS)?;
    command::must(&mut trine(&["policy", "reload", &name]), PATIENCE)?;
    read("refused")?;
    fs::write(&file, "version = 1\n[[rule]]\ncalls = [\"what\"]\naction = \"block\"\n")?;
    let refused = command::run(&mut trine(&["policy", "reload", &name]))?.expect_status(1)?;
    let place = format!("{}:3: \"what\" is no call", file.display());
    ensure!(refused.stderr.contains(&place), "{refused}");
    read("refused")?;
    let other = folder.join("other.toml");
    fs::write(&other, "version = 1\n")?;
    command::must(&mut trine(&["policy", "reload", &name, &text(&other)]), PATIENCE)?;
    read("key")?;
    let log = fs::read_to_string(&audit)?;
    ensure!(log.matches("policy-reloaded").count() == 2 && log.contains("\"keys\""), "{log}");
    command::must(&mut trine(&["delete", "--force", &name]), PATIENCE)?;
    Ok(())
}

/// A program on a Unix socket is asked: it lets `b` be read, and sends readers of the key there.
fn decider(bed: &Bed) -> Result<()> {
    let (folder, mount) = folder(bed, "decider")?;
    let socket = folder.join("decider");
    let rules = |otherwise: &str| {
        format!(
            "version = 1\n[[rule]]\nid = \"ask\"\ncalls = [\"openat-read\"]\npaths = [\"/data/**\"]\n\
             action = \"intercept\"\nask = {{ socket = \"{}\", deadline-ms = 3000, \
             otherwise = \"{otherwise}\" }}\n",
            socket.display()
        )
    };
    let file = folder.join("policy.toml");
    fs::write(&file, rules("block"))?;
    let policy = text(&file);
    let listener = UnixListener::bind(&socket).context("listen as a decider")?;
    let decider = thread::spawn(move || -> Result<Vec<Value>> {
        let (stream, _) = listener.accept()?;
        let mut asked = Vec::new();
        for line in BufReader::new(stream.try_clone()?).lines() {
            let question: Value = serde_json::from_str(&line?)?;
            let decision = match question["path"].as_str() {
                Some("/data/b") => "\"decision\":\"accept\"",
                Some("/data/a.key") => "\"decision\":\"rewrite\",\"path\":\"/data/b\"",
                _ => "\"decision\":\"block\",\"errno\":\"ENOENT\"",
            };
            writeln!(&stream, "{{\"id\":{},{decision}}}", question["id"])?;
            asked.push(question);
        }
        Ok(asked)
    });
    let flags = ["--policy", &policy];
    let script = "cat /data/b /data/a.key; ls /data 2>/dev/null || echo no list";
    command::run(&mut run(&flags, &mount, script))?.expect("plain\nplain\nno list")?;
    let asked = decider.join().map_err(|_| anyhow::anyhow!("the decider failed"))??;
    ensure!(asked.len() >= 3, "{asked:?}");
    ensure!(asked.iter().all(|one| one["call"] == "openat" && one["rule"] == "ask"), "{asked:?}");
    // Nobody listens any more.
    let script = "cat /data/b 2>/dev/null || echo refused";
    command::run(&mut run(&flags, &mount, script))?.expect("refused")?;
    fs::write(&file, rules("accept"))?;
    command::run(&mut run(&flags, &mount, script))?.expect("plain").map(drop)
}

fn limits(bed: &Bed) -> Result<()> {
    let (folder, mount) = folder(bed, "limits")?;
    let file = folder.join("policy.toml");
    fs::write(
        &file,
        "version = 1\n[[rule]]\nid = \"little\"\ncalls = [\"openat-write\"]\naction = \"accept\"\n\
         limit = { bytes = 100000, errno = \"ENOSPC\" }\n\
         [[rule]]\nid = \"slow\"\ncalls = [\"openat-read\"]\npaths = [\"/data/b\"]\n\
         action = \"accept\"\ndelay-ms = 1500\n",
    )?;
    let script = "dd if=/dev/zero of=/data/big bs=1000 count=200 2>&1 | grep -o 'No space'; \
                  wc -c < /data/big; now() { cut -d ' ' -f 1 /proc/uptime | tr -d .; }; \
                  a=$(now); cat /data/a.key; b=$(now); cat /data/b; c=$(now); \
                  [ $((c - b)) -ge 140 ] && [ $((b - a)) -lt 140 ] && echo slow";
    let policy = text(&file);
    let output = command::run(&mut run(&["--policy", &policy], &mount, script))?;
    output.expect("No space\n100000\nkey\nplain\nslow").map(drop)
}

fn annotations(bed: &Bed) -> Result<()> {
    let (folder, _) = folder(bed, "annotations")?;
    let volume = folder.join("volume");
    let script = format!("{READ}; echo x > /data/new 2>/dev/null || echo no write");
    let base = folder.join("base.toml");
    fs::write(&base, BLOCK_KEYS)?;
    let mut config = bundle::config(&BUSYBOX.rootfs(), &["/bin/sh", "-c", &script]);
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.push(serde_json::json!({ "destination": "/data", "type": "bind",
            "source": volume, "options": ["rbind", "rprivate", "rw"] }));
    }
    let run = |config: &Value, expected: &str| -> Result<()> {
        let path = bundle::write(&folder.join("bundle"), &config.to_string())?;
        let mut run = trine(&["run", "--policy", &text(&base), "--bundle", &text(&path)]);
        command::run(run.arg(bed.id("narrow")))?.expect(expected).map(drop)
    };
    // More than the policy accepts is not to be had.
    let wide = "version = 1\n[[rule]]\ncalls = [\"file\", \"net\"]\naction = \"accept\"";
    config["annotations"] = serde_json::json!({ "dev.trine.policy/rules": wide });
    run(&config, "refused")?;
    ensure!(volume.join("new").exists(), "the policy accepts this, and so does the annotation");
    fs::remove_file(volume.join("new"))?;
    config["annotations"] = serde_json::json!({ "dev.trine.policy/presets": "fs-read-only" });
    run(&config, "refused\nno write")?;

    // The same through containerd.
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", volume.display());
    let annotation = "dev.trine.policy/presets=fs-read-only";
    let flags = ["--rm", "--annotation", annotation, "--mount", &mount];
    let arguments = ["/bin/sh", "-c", &script];
    let mut ctr = bed.ctr_run(&flags, BUSYBOX, &bed.id("narrow"), &arguments);
    command::run(&mut ctr)?.expect("key\nno write")?;
    let flags = ["--rm", "--annotation", "dev.trine.policy/preset=net-none"];
    let mut ctr = bed.ctr_run(&flags, BUSYBOX, &bed.id("narrow"), &["/bin/true"]);
    let output = command::run(&mut ctr)?;
    ensure!(output.status != 0 && output.stderr.contains("there are only"), "{output}");
    Ok(())
}

fn fault(bed: &Bed) -> Result<()> {
    let (folder, mount) = folder(bed, "fault")?;
    let file = folder.join("policy.toml");
    for (rule, place) in [
        ("calls = [\"what\"]\naction = \"block\"", ":3: \"what\" is no call"),
        ("calls = [\"net\"]\naction = \"intercept\"", ":2: action = \"intercept\" needs"),
        (
            "calls = [\"net\"]\naction = \"intercept\"\nask = { interceptor = \"x\" }",
            "it asks interceptor \"x\"",
        ),
    ] {
        fs::write(&file, format!("version = 1\n[[rule]]\n{rule}\n"))?;
        let flags = ["--policy", &text(&file)];
        let output = command::run(&mut run(&flags, &mount, "echo ran"))?.expect_status(125)?;
        let expected = if place.starts_with(':') {
            format!("{}{place}", file.display())
        } else {
            place.to_owned()
        };
        ensure!(output.stderr.contains(&expected) && output.stdout.is_empty(), "{output}");
    }
    Ok(())
}

/// containerd's containers have their policy from the shim's configuration.
fn shim(bed: &Bed) -> Result<()> {
    let (folder, _) = folder(bed, "shim")?;
    let (policy, config) = (folder.join("policy.toml"), folder.join("config.toml"));
    fs::write(&policy, BLOCK_KEYS)?;
    let audit = folder.join("audit");
    fs::write(
        &config,
        format!("policy = \"{}\"\naudit = \"{}\"\n", policy.display(), audit.display()),
    )?;
    let volume = folder.join("volume");
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", volume.display());
    let id = bed.id("shim");
    let config = text(&config);
    let flags = ["--detach", "--null-io", "--runtime-config-path", &config, "--mount", &mount];
    let mut ctr = bed.ctr_run(&flags, BUSYBOX, &id, &["/bin/sleep", "1000"]);
    command::must(&mut ctr, PATIENCE)?;
    let read = |expected: &str| -> Result<()> {
        bed.exec(&id, &["/bin/sh", "-c", READ])?.expect(expected).map(drop)
    };
    read("refused")?;
    fs::write(&policy, "version = 1\n")?;
    hang_up(&shim_of(bed, &id)?)?;
    let has = |word: &str, times: usize| {
        let log = fs::read_to_string(&audit).unwrap_or_default();
        Ok(log.matches(word).count() >= times)
    };
    command::until("the policy is reloaded", PATIENCE, || has("policy-reloaded", 1))?;
    read("key")?;
    fs::write(&policy, "version = 2\n")?;
    hang_up(&shim_of(bed, &id)?)?;
    fs::write(&policy, BLOCK_KEYS)?;
    hang_up(&shim_of(bed, &id)?)?;
    command::until("the policy is reloaded again", PATIENCE, || has("policy-reloaded", 2))?;
    read("refused")?;
    bed.remove(&id)
}

/// The process of the shim: the parent of the container's VMM.
fn shim_of(bed: &Bed, id: &str) -> Result<String> {
    let list = command::must(&mut bed.ctr(&["task", "ls"]), PATIENCE)?;
    let pid = list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(id)).then(|| words.next()).flatten()
    });
    let status = Path::new("/proc").join(pid.context("the task's process")?).join("status");
    let status = fs::read_to_string(&status).with_context(|| format!("read {status:?}"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(parent.context("its parent")?.trim().to_owned())
}

fn hang_up(pid: &str) -> Result<()> {
    command::must(Command::new("kill").args(["-HUP", pid]), PATIENCE).map(drop)
}
