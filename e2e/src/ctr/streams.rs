// SPDX-License-Identifier: Apache-2.0
//! Standard streams: files of any size arrive whole, in both directions, and ends are seen.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{
    bed::Bed,
    command::{self, Output},
    images::{BUSYBOX, DEBIAN, Image, write_hex},
    suite::Suite,
    terminal::Session,
};

const BIG: usize = 100 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn cases(bed: &Bed, suite: &mut Suite) {
    suite.case("stdin-100-mb", || {
        let file = bed.folder.join("stdin");
        let hash = write_noise(&file, BIG)?;
        let size = BIG.to_string();
        piped(bed, DEBIAN, &file, &["/usr/bin/wc", "-c"])?.expect(&size)?;
        piped(bed, DEBIAN, &file, &["/usr/bin/sha256sum"])?.expect(&format!("{hash}  -"))?;
        fs::remove_file(&file).context("remove the input")
    });
    suite.case("stdin-through-and-back", || {
        let file = bed.folder.join("stdin");
        let hash = write_noise(&file, 8 << 20)?;
        let id = bed.id("cat");
        let mut ctr = bed.ctr_run(&["--rm"], BUSYBOX, &id, &["/bin/cat"]);
        let pipe = cat(&file)?;
        let copy = bed.folder.join("copy");
        let mut child = ctr.stdin(pipe).stdout(File::create(&copy)?).spawn()?;
        ensure!(child.wait()?.success(), "cat failed");
        ensure!(write_hex(&Sha256::digest(fs::read(&copy)?)) == hash, "the copy differs");
        fs::remove_file(&file)?;
        fs::remove_file(&copy).context("remove the copy")
    });
    suite.case("stdin-empty", || {
        // An end that comes before the task is there, ctr of containerd 1.6 forgets to pass on.
        let mut late = Command::new("sleep").arg("2").stdout(Stdio::piped()).spawn()?;
        let pipe = late.stdout.take().context("the pipe")?;
        let mut ctr = bed.ctr_run(&["--rm"], BUSYBOX, &bed.id("empty"), &["/bin/wc", "-c"]);
        command::start(&mut ctr, pipe.into())?.wait(PATIENCE)?.expect("0")?;
        late.wait().context("wait for sleep").map(drop)
    });
    suite.case("stdout-and-stderr-apart", || {
        let output = bed.sh(BUSYBOX, "echo to out; echo to err >&2")?.expect("to out")?;
        ensure!(output.stderr.trim_end() == "to err", "stderr: {output}");
        Ok(())
    });
    suite.case("stdout-last-bytes", || {
        let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
        for _ in 0..5 {
            bed.run(BUSYBOX, &["/bin/seq", "1", "20000"])?.expect(&expected)?;
        }
        Ok(())
    });
    suite.case("stdout-slow-reader", || {
        let id = bed.id("slow");
        let ctr = bed.ctr_run(&["--rm"], BUSYBOX, &id, &["/bin/seq", "1", "1000000"]);
        let mut words = vec![ctr.get_program().to_owned()];
        words.extend(ctr.get_args().map(ToOwned::to_owned));
        let mut shell = Command::new("bash");
        shell.args(["-c", r#""$@" | (sleep 1; md5sum)"#, "slow"]).args(words);
        let sum =
            command::must(Command::new("bash").args(["-c", "seq 1 1000000 | md5sum"]), PATIENCE)?;
        command::start(&mut shell, Stdio::null())?.wait(PATIENCE)?.expect(&sum).map(drop)
    });
    suite.case("stdout-to-log-file", || {
        let log = bed.folder.join("task.log");
        let uri = format!("file://{}", log.display());
        let id = bed.id("log");
        let flags = ["--detach", "--log-uri", &uri];
        let arguments = ["/bin/sh", "-c", "echo to out; echo to err >&2"];
        command::must(&mut bed.ctr_run(&flags, BUSYBOX, &id, &arguments), command::PATIENCE)?;
        bed.until_status(&id, "STOPPED")?;
        let text = fs::read_to_string(&log)?;
        ensure!(text.contains("to out\n") && text.contains("to err\n"), "the log says {text:?}");
        bed.delete(&id)?;
        fs::remove_file(&log).context("remove the log")
    });
    suite.case("terminal-interactive", || interactive(bed));
    suite.case("terminal-interrupt", || {
        let mut session = shell_on_terminal(bed, BUSYBOX)?;
        session.send("sleep 100; echo st=$?\n")?;
        session.expect("sleep 100", command::PATIENCE)?;
        std::thread::sleep(Duration::from_millis(500));
        session.send("\x03")?;
        session.send("echo ali''ve\n")?;
        session.expect("alive", command::PATIENCE)?;
        session.send("exit 5\n")?;
        ensure!(session.wait(command::PATIENCE)? == 5, "exit status: {}", session.screen());
        Ok(())
    });
}

fn interactive(bed: &Bed) -> Result<()> {
    for image in [BUSYBOX, DEBIAN] {
        let mut session = shell_on_terminal(bed, image)?;
        for (line, answer) in [
            ("tty && echo is''-tty", "is-tty"),
            ("echo $((6 * 7))", "42\r"),
            ("stty size", "30 90\r"),
        ] {
            type_line(&mut session, line, answer)?;
        }
        session.resize(41, 101)?;
        std::thread::sleep(Duration::from_millis(300));
        type_line(&mut session, "stty size", "41 101\r")?;
        // A program that reads lines gets them from the terminal, and its end by Ctrl-D.
        session.send("echo go; tr a-z A-Z\n")?;
        session.expect("go\r", command::PATIENCE)?;
        session.send("a line\n")?;
        session.expect("A LINE", command::PATIENCE)?;
        session.send("\x04")?;
        session.expect("> ", command::PATIENCE)?;
        session.send("exit 3\n")?;
        let status = session.wait(command::PATIENCE)?;
        ensure!(status == 3, "exit status {status}: {}", session.screen());
    }
    Ok(())
}

/// Types a line, waits for its answer and for the next prompt.
fn type_line(session: &mut Session, line: &str, answer: &str) -> Result<()> {
    session.send(&format!("{line}\n"))?;
    session.expect(answer, command::PATIENCE)?;
    session.expect("> ", command::PATIENCE)
}

fn shell_on_terminal(bed: &Bed, image: Image) -> Result<Session> {
    let id = bed.id("terminal");
    // Start-up files of a shell would set the prompt.
    let shell: &[&str] =
        if image.name == DEBIAN.name { &["/bin/bash", "--norc"] } else { &["/bin/sh"] };
    let mut ctr = bed.ctr_run(&["--rm", "--tty", "--env", "PS1=> "], image, &id, shell);
    let mut session = Session::start(&mut ctr, 30, 90)?;
    session.expect("> ", command::PATIENCE)?;
    Ok(session)
}

/// Runs a container with a file piped into it.
fn piped(bed: &Bed, image: Image, file: &Path, arguments: &[&str]) -> Result<Output> {
    let mut ctr = bed.ctr_run(&["--rm"], image, &bed.id("stdin"), arguments);
    command::start(&mut ctr, cat(file)?)?.wait(PATIENCE)
}

/// A pipe with the contents of a file.
fn cat(file: &Path) -> Result<Stdio> {
    let mut cat = Command::new("cat").arg(file).stdout(Stdio::piped()).spawn()?;
    Ok(cat.stdout.take().context("the pipe")?.into())
}

/// Writes a file that does not compress, and returns its SHA-256.
fn write_noise(path: &Path, size: usize) -> Result<String> {
    let mut file = File::create(path)?;
    let mut hash = Sha256::new();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut block = vec![0_u8; 1 << 20];
    for _ in 0..size / block.len() {
        for word in block.chunks_exact_mut(8) {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hash.update(&block);
        file.write_all(&block)?;
    }
    Ok(write_hex(&hash.finalize()))
}
