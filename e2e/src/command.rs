// SPDX-License-Identifier: Apache-2.0
//! Runs a program with a deadline and takes what it prints.

use std::{
    fmt,
    fs::File,
    io::{Read as _, Seek as _},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a command may take unless a test says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// What a program did.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Its exit status, or 128 + the signal that ended it.
    pub(crate) status: i32,
    /// What it wrote to standard output.
    pub(crate) stdout: String,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
    line: String,
}

impl Output {
    /// Fails unless the exit status is this one.
    pub(crate) fn expect_status(self, status: i32) -> Result<Self> {
        if self.status != status {
            bail!("exit status {} instead of {status}: {self}", self.status);
        }
        Ok(self)
    }

    /// Fails unless the program succeeded and printed exactly this, but for space at the end.
    pub(crate) fn expect(self, stdout: &str) -> Result<Self> {
        let output = self.expect_status(0)?;
        if output.stdout.trim_end() != stdout.trim_end() {
            bail!("printed {:?} instead of {stdout:?}: {output}", shorten(&output.stdout));
        }
        Ok(output)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, stdout, stderr, .. } = self;
        write!(f, "`{line}`, stdout {:?}, stderr {:?}", shorten(stdout), shorten(stderr))
    }
}

/// Returns the text, without its middle if it is long.
pub(crate) fn shorten(text: &str) -> String {
    const KEPT: usize = 600;
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= 2 * KEPT {
        return text.to_owned();
    }
    let first: String = characters[..KEPT].iter().collect();
    let last: String = characters[characters.len() - KEPT..].iter().collect();
    format!("{first} [...] {last}")
}

/// A running program whose output goes to temporary files: a daemon that inherits them cannot hold
/// up the reader, as it would with pipes.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    line: String,
    started: Instant,
}

/// Starts a command.  Standard input is what the command says, else nothing.
pub(crate) fn start(command: &mut Command, stdin: Stdio) -> Result<Running> {
    let line = show(command);
    let stdout = tempfile::tempfile().context("create a file for output")?;
    let stderr = tempfile::tempfile().context("create a file for output")?;
    let child = command
        .stdin(stdin)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .with_context(|| format!("run `{line}`"))?;
    Ok(Running { child, stdout, stderr, line, started: Instant::now() })
}

/// Runs a command to its end, with nothing on standard input.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    start(command, Stdio::null())?.wait(PATIENCE)
}

/// Runs a command that is to succeed, and returns what it printed.
pub(crate) fn must(command: &mut Command, patience: Duration) -> Result<String> {
    Ok(start(command, Stdio::null())?.wait(patience)?.expect_status(0)?.stdout)
}

impl Running {
    /// Waits for the end of the program; kills it if it takes longer than `patience`.
    pub(crate) fn wait(mut self, patience: Duration) -> Result<Output> {
        let status = loop {
            if let Some(status) = self.child.try_wait().context("wait for a program")? {
                break status;
            }
            if self.started.elapsed() > patience {
                self.child.kill().ok();
                self.child.wait().ok();
                let output = self.output(137)?;
                bail!("not done after {} s: {output}", patience.as_secs());
            }
            thread::sleep(POLL);
        };
        use std::os::unix::process::ExitStatusExt as _;
        let status = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        self.output(status.unwrap_or(-1))
    }

    /// Says whether the program still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the program and returns what it has printed.
    pub(crate) fn stop(mut self) -> Result<Output> {
        self.child.kill().ok();
        self.child.wait().context("wait for a program")?;
        self.output(137)
    }

    fn output(&mut self, status: i32) -> Result<Output> {
        let line = self.line.clone();
        Ok(Output {
            status,
            stdout: read(&mut self.stdout)?,
            stderr: read(&mut self.stderr)?,
            line,
        })
    }
}

fn read(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes).context("read the output of a program")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn show(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Polls until the condition holds; fails with `what` after `patience`.
pub(crate) fn until(
    what: &str,
    patience: Duration,
    mut is_so_fn: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !is_so_fn()? {
        if start.elapsed() > patience {
            bail!("{what}: not within {} s", patience.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_taken() {
        let output = run(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 7"])).unwrap();
        assert_eq!(
            (output.status, output.stdout.as_str(), output.stderr.as_str()),
            (7, "a\n", "b\n")
        );
        assert!(output.clone().expect("a").is_err());
        assert!(output.expect_status(7).is_ok());
    }

    #[test]
    fn signal_counts_from_128() {
        assert_eq!(run(Command::new("sh").args(["-c", "kill -9 $$"])).unwrap().status, 137);
    }

    #[test]
    fn program_past_its_deadline_is_killed() {
        let running = start(Command::new("sleep").arg("100"), Stdio::null()).unwrap();
        let error = running.wait(Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("sleep 100"), "{error}");
    }
}
