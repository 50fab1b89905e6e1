// SPDX-License-Identifier: Apache-2.0
//! Bind mounts: directories and files that a container shares with the host and with others.

use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};

use crate::{
    bed::Bed,
    command::{self, Output, PATIENCE, Running},
    images::{BUSYBOX, DEBIAN, Image},
    suite::Suite,
};

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("volume-is-shared-with-the-host", || shared(bed));
    suite.case("volume-shows-changes-of-the-host", || changes(bed));
    suite.case("volume-read-only", || read_only(bed));
    suite.case("volume-of-a-file", || single_file(bed));
    suite.case("volume-in-a-volume", || nested(bed));
    suite.case("volume-of-two-containers", || two_containers(bed));
    suite.case("volume-with-a-tree", || tree(bed));
    suite.case("volume-holds-the-program", || program(bed));
    suite.case("volume-ends-at-its-root", || contained(bed));
    bed.vm_case(suite, "volume-of-a-device-is-refused", || {
        let output = with_mounts(bed, BUSYBOX, &["type=bind,src=/dev/null,dst=/n"], "true")?;
        ensure!(output.status != 0, "it ran");
        ensure!(output.stderr.contains("special file"), "{}", output.stderr);
        Ok(())
    });
}

fn with_mounts(bed: &Bed, image: Image, mounts: &[&str], script: &str) -> Result<Output> {
    start(bed, image, mounts, script)?.wait(PATIENCE)
}

fn start(bed: &Bed, image: Image, mounts: &[&str], script: &str) -> Result<Running> {
    let mut flags = vec!["--rm"];
    for mount in mounts {
        flags.extend(["--mount", mount]);
    }
    let mut ctr = bed.ctr_run(&flags, image, &bed.id("volume"), &["/bin/sh", "-c", script]);
    command::start(&mut ctr, Stdio::null())
}

/// A directory of the host for one case.
fn directory(bed: &Bed, name: &str) -> Result<std::path::PathBuf> {
    let path = bed.folder.join(format!("volume-{name}"));
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

pub(super) fn bind(source: &Path, destination: &str, options: &str) -> String {
    format!("type=bind,src={},dst={destination},options=rbind:{options}", source.display())
}

fn shared(bed: &Bed) -> Result<()> {
    let volume = directory(bed, "shared")?;
    fs::write(volume.join("from-host"), "from the host\n")?;
    let script = "cat /data/from-host; echo from the guest > /data/from-guest; \
                  mkdir -p /data/a/b; chmod 750 /data/a; chown 7:8 /data/a/b; \
                  ln -s /data/from-host /data/link; cat /data/link; \
                  cp /data/from-host /data/copy; mv /data/copy /data/a/b/moved; \
                  echo more >> /data/a/b/moved; wc -l < /data/a/b/moved; rm /data/from-host";
    let output = with_mounts(bed, BUSYBOX, &[&bind(&volume, "/data", "rw")], script)?;
    output.expect("from the host\nfrom the host\n2")?;
    ensure!(fs::read_to_string(volume.join("from-guest"))? == "from the guest\n");
    ensure!(fs::read_to_string(volume.join("a/b/moved"))? == "from the host\nmore\n");
    ensure!(!volume.join("from-host").exists());
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (fs::metadata(volume.join("a"))?, fs::metadata(volume.join("a/b"))?);
    ensure!(a.mode() & 0o7777 == 0o750 && (b.uid(), b.gid()) == (7, 8), "{a:?} {b:?}");
    Ok(())
}

/// As the kubelet changes a ConfigMap: a link is replaced.
fn changes(bed: &Bed) -> Result<()> {
    let volume = directory(bed, "changes")?;
    for version in ["v1", "v2"] {
        fs::create_dir(volume.join(version))?;
        fs::write(volume.join(version).join("key"), version)?;
    }
    symlink("v1", volume.join("..data"))?;
    symlink("..data/key", volume.join("key"))?;
    let script = "cat /etc/config/key; echo; touch /etc/config/seen; \
                  until [ -e /etc/config/go ]; do sleep 0.05; done; cat /etc/config/key";
    let mount = bind(&volume, "/etc/config", "rw");
    let container = start(bed, BUSYBOX, &[&mount], script)?;
    command::until("the first version is read", PATIENCE, || Ok(volume.join("seen").exists()))?;
    symlink("v2", volume.join("..next"))?;
    fs::rename(volume.join("..next"), volume.join("..data"))?;
    fs::write(volume.join("go"), "")?;
    container.wait(PATIENCE)?.expect("v1\nv2").map(drop)
}

fn read_only(bed: &Bed) -> Result<()> {
    let volume = directory(bed, "read-only")?;
    fs::write(volume.join("file"), "same")?;
    let script = "cat /data/file; for c in 'echo x > /data/file' 'rm /data/file' \
                  'touch /data/new' 'mkdir /data/d' 'chmod 0 /data/file' \
                  'mv /data/file /data/other' 'ln /data/file /data/link' \
                  'mount -o remount,rw /data && echo x > /data/file'; do \
                  sh -c \"$c\" 2>/dev/null && echo \"did: $c\"; done; echo; cat /data/file";
    let output = with_mounts(bed, BUSYBOX, &[&bind(&volume, "/data", "ro")], script)?;
    output.expect("same\nsame")?;
    ensure!(fs::read_dir(&volume)?.count() == 1 && fs::read(volume.join("file"))? == b"same");
    Ok(())
}

fn single_file(bed: &Bed) -> Result<()> {
    let volume = directory(bed, "file")?;
    let (hosts, log) = (volume.join("hosts"), volume.join("log"));
    fs::write(&hosts, "10.1.2.3 somewhere\n")?;
    fs::write(&log, "")?;
    let mounts = [bind(&hosts, "/etc/hosts", "ro"), bind(&log, "/dev/termination-log", "rw")];
    let mounts: Vec<&str> = mounts.iter().map(String::as_str).collect();
    let script = "cat /etc/hosts; echo bye > /dev/termination-log; echo x > /etc/hosts || echo no";
    with_mounts(bed, BUSYBOX, &mounts, script)?.expect("10.1.2.3 somewhere\nno")?;
    ensure!(fs::read_to_string(&log)? == "bye\n");
    Ok(())
}

fn nested(bed: &Bed) -> Result<()> {
    let (outer, inner) = (directory(bed, "outer")?, directory(bed, "inner")?);
    fs::create_dir(outer.join("in"))?;
    fs::write(outer.join("in/hidden"), "")?;
    fs::write(inner.join("file"), "inner\n")?;
    let mounts = [bind(&outer, "/data", "ro"), bind(&inner, "/data/in", "rw")];
    let mounts: Vec<&str> = mounts.iter().map(String::as_str).collect();
    let script = "ls /data/in; cat /data/in/file; echo x > /data/in/new; \
                  touch /data/new 2>/dev/null || echo no; cd /data/in; ls -d ../in";
    with_mounts(bed, BUSYBOX, &mounts, script)?.expect("file\ninner\nno\n../in")?;
    ensure!(inner.join("new").exists() && !outer.join("in/new").exists());
    Ok(())
}

fn two_containers(bed: &Bed) -> Result<()> {
    let volume = directory(bed, "two")?;
    let mount = bind(&volume, "/data", "rw");
    let write = "until [ -e /data/ask ]; do sleep 0.05; done; echo answer > /data/.a; \
                 mv /data/.a /data/answer";
    let ask = "echo > /data/ask; until [ -e /data/answer ]; do sleep 0.05; done; cat /data/answer";
    let writer = start(bed, BUSYBOX, &[&mount], write)?;
    with_mounts(bed, BUSYBOX, &[&mount], ask)?.expect("answer")?;
    writer.wait(PATIENCE)?.expect_status(0).map(drop)
}

/// A tree of 300 files and links through tar and back, compared; and files of a few MiB.
fn tree(bed: &Bed) -> Result<()> {
    let volume = directory(bed, "tree")?;
    let script = "cd /data; mkdir t; for d in 1 2 3 4 5 6; do mkdir t/$d; \
                  for f in $(seq 50); do echo $d $f > t/$d/$f; done; ln -s 1 t/$d/link; done; \
                  head -c 3000000 /dev/urandom > t/large; truncate -s 5000000 t/large; \
                  tar cf t.tar t && mkdir u && tar xf t.tar -C u && ls -R t | wc -l && \
                  cd u && find . -type f | sort | xargs cat | cksum > ../sum; cd ../t; \
                  cd ..; mkdir w; cp -a t w/; cd w; find . -type f | sort | xargs cat | cksum > \
                  ../sum2; cd ..; [ \"$(cat sum)\" = \"$(cat sum2)\" ] && rm -r u w && ls";
    let output = with_mounts(bed, DEBIAN, &[&bind(&volume, "/data", "rw")], script)?;
    output.expect("326\nsum\nsum2\nt\nt.tar")?;
    ensure!(fs::metadata(volume.join("t/large"))?.len() == 5_000_000);
    let sum = std::process::Command::new("sh")
        .args([
            "-c",
            "cd t && find . -type f | sort | sed 's,^./,t/,' | (cd ..; xargs cat) | cksum",
        ])
        .current_dir(&volume)
        .output()?;
    let seen = fs::read(volume.join("sum"))?;
    ensure!(sum.stdout == seen, "the host reads {sum:?}");
    Ok(())
}

fn program(bed: &Bed) -> Result<()> {
    let volume = directory(bed, "program")?;
    let script = "cp /bin/busybox /data/busybox; /data/busybox echo runs; \
                  printf '#!/data/busybox sh\\necho script\\n' > /data/s; chmod +x /data/s; /data/s";
    let mount = bind(&volume, "/data", "rw");
    with_mounts(bed, BUSYBOX, &[&mount], script)?.expect("runs\nscript")?;
    let mut ctr = bed.ctr_run(
        &["--rm", "--mount", &mount],
        BUSYBOX,
        &bed.id("volume"),
        &["/data/busybox", "echo", "first"],
    );
    command::run(&mut ctr)?.expect("first").map(drop)
}

/// Links lead to where they lead in the container, and nothing leads to the host.
fn contained(bed: &Bed) -> Result<()> {
    let around = directory(bed, "contained")?;
    let volume = around.join("volume");
    fs::create_dir(&volume)?;
    fs::write(around.join("canary"), "secret")?;
    fs::create_dir(volume.join("d"))?;
    symlink(around.join("canary"), volume.join("absolute"))?;
    symlink("../canary", volume.join("relative"))?;
    symlink("../../../../../../../../etc/passwd", volume.join("up"))?;
    symlink("/proc/self/root/etc/passwd", volume.join("magic"))?;
    let script = "cd /data; for p in absolute relative d/../../canary ../canary \
                  d/../../../canary /data/../canary; do cat $p 2>/dev/null && echo \"read $p\"; \
                  done; ln absolute hard; cat hard 2>/dev/null && echo read; \
                  mv d /data/../gone; mknod n b 8 0 2>/dev/null && echo made; \
                  for p in up magic; do cmp $p /etc/passwd && echo own; done; \
                  echo x > relative; cat /canary";
    let mount = bind(&volume, "/data", "rw");
    with_mounts(bed, BUSYBOX, &[&mount], script)?.expect("own\nown\nx")?;
    ensure!(fs::read_to_string(around.join("canary"))? == "secret");
    Ok(())
}
