// SPDX-License-Identifier: Apache-2.0
//! What goes through the pod's I/O process: a volume, sockets, and a policy that decides about both.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{show, step, title};
use crate::{
    bed::Bed,
    command::{self, PATIENCE},
    images::{self, BUSYBOX},
    paths,
    pod::Pod,
};

/// Reads a file and connects to itself, and says what came of it.
const PYTHON: &str = "\
import socket
server = socket.create_server(('127.0.0.1', 8000))
print('read:', open('/data/greeting').read().strip())
try:
    socket.create_connection(server.getsockname(), timeout=5)
    print('connect: connected')
except OSError as error:
    print('connect:', error)
";

/// Accepts everything but connections.
const POLICY: &str = "\
version = 1
default = \"accept\"

[[rule]]
id = \"python-may-not-connect\"
calls = [\"net-out\"]
action = \"block\"
errno = \"EACCES\"
";

/// A container writes to a volume; the host reads it.
pub(super) fn volume(bed: &Bed) -> Result<()> {
    title("A volume: the container writes, the host reads");
    let folder = bed.folder.join("shared");
    fs::create_dir(&folder).context("make a folder for the volume")?;
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", folder.display());
    let script = "echo written by $(uname -s) in $(hostname -s) > /data/letter; ls -l /data";
    let command = ["/bin/sh", "-c", script];
    step(bed.ctr_run(&["--rm", "--mount", &mount], BUSYBOX, &bed.id("writer"), &command))?;
    let mut cat = Command::new("cat");
    cat.arg(folder.join("letter"));
    ensure!(step(cat)?.starts_with("written by"), "the host reads something else");
    Ok(())
}

/// The host, and then another container of the pod, get a page from a container.
pub(super) fn sockets(bed: &Bed) -> Result<()> {
    title("A web server in a container answers the host, through the pod's network namespace");
    let pod = Pod::new(99)?;
    let id =
        pod.detach(bed, "mkdir /www; echo it works > /www/page; exec httpd -f -p 80 -h /www")?;
    let url = format!("http://{}/page", pod.inner());
    let curl = || {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "5", &url]);
        curl
    };
    let answers = || Ok(command::run(&mut curl())?.status == 0);
    command::until("the web server answers", PATIENCE, answers)?;
    ensure!(step(curl())?.trim_end() == "it works", "curl got another page");

    title("Two containers of one pod, two VMs, talk over localhost");
    let inside = step(pod.run(bed, &["--rm"], "wget -q -O- http://127.0.0.1/page"))?;
    ensure!(inside.trim_end() == "it works", "the pod's other container got another page");
    bed.remove(&id)
}

/// The same program with and without a policy.
pub(super) fn policy(bed: &Bed) -> Result<()> {
    title("A policy lets Python read but not connect, and logs what it denies");
    let folder = bed.folder.join("policy");
    let (data, rules, log) =
        (folder.join("data"), folder.join("rules.toml"), folder.join("audit.log"));
    fs::create_dir_all(&data).context("make a folder for the policy")?;
    fs::write(data.join("greeting"), "hello from the host\n")?;
    fs::write(&rules, POLICY)?;
    show(POLICY);
    let python = images::python()?;
    let run = |is_guarded: bool| {
        let mut trine = Command::new(paths::trine());
        trine.args(["run", "--volume", &format!("{}:/data:ro", data.display())]);
        if is_guarded {
            trine.arg("--policy").arg(&rules).arg("--audit").arg(&log);
        }
        trine.arg(&python).args(["/usr/bin/python3.11", "-c", PYTHON]);
        trine
    };
    let free = step(run(false))?;
    ensure!(free.contains("connect: connected"), "Python cannot connect without a policy");
    let guarded = step(run(true))?;
    ensure!(guarded.contains("read: hello from the host"), "Python cannot read");
    ensure!(guarded.contains("connect: [Errno 13]"), "Python connected, or failed otherwise");
    let mut cat = Command::new("cat");
    cat.arg(&log);
    let lines = step(cat)?;
    let line = lines.lines().find(|line| line.contains("\"call\":\"connect\""));
    let line = line.context("the audit log does not tell of the connection")?;
    ensure!(line.contains("python-may-not-connect"), "it names another rule: {line}");
    Ok(())
}
