// SPDX-License-Identifier: Apache-2.0
//! Shows the main things, step by step, and checks each.

mod boundary;

use std::{
    fs::File,
    io::{Write as _, stdout},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{
    TRINE,
    bed::Bed,
    command::{self, PATIENCE},
    images::{BUSYBOX, DEBIAN, write_hex},
    paths,
    suite::paint,
    terminal::Session,
};

const BIG: usize = 100_000_000;

/// Runs the demonstration, in namespaces of its own.
pub(crate) fn run() -> Result<bool> {
    let start = Instant::now();
    title("A containerd of its own, with two images made of Debian packages");
    let bed = Bed::new(TRINE)?;
    show(&command::must(&mut bed.ctr(&["images", "ls"]), PATIENCE)?);

    let outcome = steps(&bed);
    if outcome.is_err() {
        println!("containerd's log: {}", bed.keep_log()?.display());
    }
    outcome?;
    let seconds = start.elapsed().as_secs();
    println!("\n{}", paint(&format!("demo: success ({seconds} s)"), "1;32"));
    Ok(true)
}

fn steps(bed: &Bed) -> Result<()> {
    title("hello, from a static program and from bash");
    container(bed, &["/usr/bin/hello"], Some("hello"))?;
    let mut ctr = bed.ctr_run(
        &["--rm"],
        DEBIAN,
        &bed.id("bash"),
        &["/bin/bash", "-c", "echo hello from bash $BASH_VERSION"],
    );
    say(&ctr);
    show(&command::must(&mut ctr, PATIENCE)?);

    boundary::volume(bed)?;
    boundary::sockets(bed)?;
    boundary::policy(bed)?;

    title("A pipeline of five processes");
    let script = "seq 1 10000 | grep 7 | sed 's/^/n/' | sort -r | head -n 3";
    container(bed, &["/bin/sh", "-c", script], Some("n9997\nn9987\nn9979"))?;

    title("An interactive terminal, driven by a script");
    let arguments = ["/bin/bash", "--norc"];
    let flags = ["--rm", "--tty", "--env", "PS1=demo> "];
    let mut ctr = bed.ctr_run(&flags, DEBIAN, &bed.id("terminal"), &arguments);
    say(&ctr);
    let mut session = Session::start(&mut ctr, 24, 80)?;
    session.expect("demo> ", PATIENCE)?;
    for (line, answer) in
        [("tty", "/dev/"), ("stty size", "24 80"), ("echo $((6 * 7))", "42"), ("exit 3", "exit")]
    {
        session.send(&format!("{line}\n"))?;
        session.expect(answer, PATIENCE)?;
        if line != "exit 3" {
            session.expect("demo> ", PATIENCE)?;
        }
    }
    let status = session.wait(PATIENCE)?;
    // Without the sequences that switch a terminal's paste mode.
    let screen = session.screen().replace("\u{1b}[?2004h", "").replace("\u{1b}[?2004l", "");
    show(&screen.replace('\r', ""));
    ensure!(status == 3, "exit status {status} instead of 3");

    title("Exit status 7 passed through");
    let mut ctr = bed.ctr_run(&["--rm"], BUSYBOX, &bed.id("seven"), &["/bin/sh", "-c", "exit 7"]);
    say(&ctr);
    let status = command::run(&mut ctr)?.status;
    show(&format!("exit status {status}"));
    ensure!(status == 7, "exit status {status} instead of 7");

    hundred_megabytes(bed)?;
    two_at_once(bed)
}

fn hundred_megabytes(bed: &Bed) -> Result<()> {
    title("100 MB through standard input: counted, and the checksum equal");
    let path = bed.folder.join("input");
    let mut file = File::create(&path)?;
    let mut hash = Sha256::new();
    for number in 0..BIG / 1000 {
        let block: Vec<u8> =
            format!("{number:08} ").into_bytes().into_iter().cycle().take(1000).collect();
        hash.update(&block);
        file.write_all(&block)?;
    }
    let expected = write_hex(&hash.finalize());
    for (arguments, answer) in
        [(["/usr/bin/wc", "-c"], BIG.to_string()), (["/usr/bin/sha256sum", "-"], expected)]
    {
        let mut cat = Command::new("cat").arg(&path).stdout(Stdio::piped()).spawn()?;
        let pipe = cat.stdout.take().context("the pipe")?;
        let mut ctr = bed.ctr_run(&["--rm"], DEBIAN, &bed.id("stdin"), &arguments);
        say(&ctr);
        let said =
            command::start(&mut ctr, pipe.into())?.wait(4 * PATIENCE)?.expect_status(0)?.stdout;
        cat.wait()?;
        show(&said);
        ensure!(said.starts_with(&answer), "expected {answer}");
    }
    println!("  host: {}", expected_line(&path)?);
    Ok(())
}

fn expected_line(path: &std::path::Path) -> Result<String> {
    Ok(command::must(Command::new("sha256sum").arg(path), PATIENCE)?.trim_end().to_owned())
}

fn two_at_once(bed: &Bed) -> Result<()> {
    title("Two containers at once: each is a VM");
    let first = bed.detach(BUSYBOX, &["/bin/sleep", "1000"])?;
    let second = bed.detach(DEBIAN, &["/bin/sleep", "1000"])?;
    thread::sleep(Duration::from_secs(1));
    let list = bed.ctr(&["task", "ls"]);
    step(list)?;
    let mut trine = Command::new(paths::trine());
    trine.arg("ps");
    let said = step(trine)?;
    ensure!(said.contains(&first) && said.contains(&second), "trine ps does not list both");
    let mut uname = Command::new("uname");
    uname.arg("-a");
    step(uname)?;

    title("Commands in a running container");
    let exec_id = bed.id("exec");
    let exec = |words: &[&str]| {
        let mut ctr = bed.ctr(&["task", "exec", "--exec-id", &exec_id, &first]);
        ctr.args(words);
        ctr
    };
    let guest = step(exec(&["/bin/uname", "-a"]))?;
    let host = command::must(Command::new("uname").arg("-r"), PATIENCE)?;
    ensure!(!guest.contains(host.trim()), "the container runs on the host's kernel");
    step(exec(&["/bin/ps"]))?;

    title("Killed");
    for id in [&first, &second] {
        let kill = bed.ctr(&["task", "kill", "--signal", "SIGKILL", id]);
        step(kill)?;
        bed.until_status(id, "STOPPED")?;
    }
    let list = bed.ctr(&["task", "ls"]);
    step(list)?;
    bed.delete(&first)?;
    bed.delete(&second)
}

/// Runs a container and shows what it prints.
fn container(bed: &Bed, arguments: &[&str], expected: Option<&str>) -> Result<()> {
    let mut ctr = bed.ctr_run(&["--rm"], BUSYBOX, &bed.id("demo"), arguments);
    say(&ctr);
    let output = command::run(&mut ctr)?;
    show(&output.stdout);
    match expected {
        Some(expected) => output.expect(expected).map(drop),
        None => output.expect_status(0).map(drop),
    }
}

/// Runs a command that must succeed, and shows what it prints.
fn step(mut command: Command) -> Result<String> {
    say(&command);
    let said = command::must(&mut command, PATIENCE)?;
    show(&said);
    Ok(said)
}

fn title(text: &str) {
    println!("\n{}", paint(&format!("== {text}"), "1;36"));
}

/// Prints a command, without where our containerd is.
fn say(command: &Command) {
    let program = std::path::Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut words = command.get_args().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if word == "--address" || word == "--namespace" {
            words.next();
        } else if word.contains([' ', '|', '>', '$', '\n']) {
            line += &format!(" '{word}'");
        } else {
            line += &format!(" {word}");
        }
    }
    println!("{}", paint(&format!("$ {line}"), "33"));
    stdout().flush().ok();
}

fn show(text: &str) {
    for line in text.trim_end().lines() {
        println!("  {line}");
    }
}
