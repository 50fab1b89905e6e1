// SPDX-License-Identifier: Apache-2.0
//! From an error to one line for a person and an exit status for a script.

use std::fmt::{self, Display, Formatter};

use anyhow::{Error, Result};

use crate::control::RemoteError;

/// Exit status of `run` when trine itself failed, as in docker; `check` has 1 for its answer.
pub(crate) const TRINE_FAILED: u8 = 125;
/// Exit status when the program is there but cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit status when there is no such program.
const NOT_FOUND: u8 = 127;
/// Exit status of `run` after `--timeout`, as of timeout(1).
pub(crate) const TIMED_OUT: u8 = 124;

/// Linux error numbers with which execve(2) says that a file cannot be executed: EPERM, ENOEXEC,
/// EACCES, ENOTDIR, EISDIR, EINVAL, ETXTBSY, ELOOP, ELIBBAD.
const EXEC_ERRORS: [u32; 9] = [1, 8, 13, 20, 21, 22, 26, 40, 80];
const ENOENT: u32 = 2;
const ENOEXEC: u32 = 8;
const EACCES: u32 = 13;
const ELIBBAD: u32 = 80;

/// How to mend what went wrong, attached to an error: printed after all its causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remedy(&'static str);

impl Display for Remedy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Adds a [`Remedy`] to an error.
pub(crate) trait WithRemedy<T> {
    /// Says what to do about the error.
    ///
    /// # Errors
    /// The same, with the remedy.
    fn remedy(self, text: &'static str) -> Result<T>;
}

impl<T> WithRemedy<T> for Result<T> {
    fn remedy(self, text: &'static str) -> Result<T> {
        self.map_err(|error| error.context(Remedy(text)))
    }
}

/// Formats an error, its causes and its remedy as one line.
pub(crate) fn one_line(error: &Error) -> String {
    let remedy = error.downcast_ref::<Remedy>().map(ToString::to_string);
    let mut line = String::new();
    for cause in error.chain().map(|cause| without_number(&cause.to_string())) {
        // Some errors print their source in their own message: say it once.
        if line.ends_with(&cause) || Some(&cause) == remedy.as_ref() {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    if let Some(remedy) = remedy.or_else(|| program_remedy(error)) {
        line = format!("{line}: {remedy}");
    }
    flatten(&line)
}

/// Says what to do about a program that cannot be loaded.  (What a holder says of one already does.)
fn program_remedy(error: &Error) -> Option<String> {
    let is_remote = error.chain().any(|cause| cause.downcast_ref::<RemoteError>().is_some());
    let errno = program_errno(error).filter(|_| !is_remote)?;
    let remedy = match errno {
        ENOENT => "check the name, and that the program and its interpreter are in the image",
        ENOEXEC | ELIBBAD => "use a program for Linux on x86-64",
        EACCES => "make it an executable file, for this user too",
        _ => return None,
    };
    Some(remedy.to_owned())
}

/// Removes the number that the standard library adds to the system's words.
fn without_number(text: &str) -> String {
    let is_number = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    let number = text.strip_suffix(')').and_then(|text| text.rsplit_once(" (os error "));
    match number {
        Some((words, number)) if is_number(number) => words.to_owned(),
        _ => text.to_owned(),
    }
}

/// Makes one printable line of a text: runs of white space and control characters become a space.
pub(crate) fn flatten(text: &str) -> String {
    let printable = text.replace(|c: char| c.is_control(), " ");
    printable.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the exit status for an error: 126 or 127 if it was the program's fault, else `other`.
pub(crate) fn exit_code(error: &Error, other: u8) -> u8 {
    match program_errno(error) {
        Some(ENOENT) => NOT_FOUND,
        Some(errno) if EXEC_ERRORS.contains(&errno) => NOT_EXECUTABLE,
        _ => other,
    }
}

/// Returns the Linux error number with which the program could not be loaded, if that is the error.
pub(crate) fn program_errno(error: &Error) -> Option<u32> {
    error.chain().find_map(|cause| {
        if let Some(trine::Error::Program { errno, .. }) = cause.downcast_ref() {
            return Some(*errno);
        }
        cause.downcast_ref::<RemoteError>().and_then(|remote| remote.program_errno)
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

    fn program(errno: u32) -> Error {
        let reason = "no such file or directory".to_owned();
        Error::from(trine::Error::Program { program: "/x".to_owned(), errno, reason })
    }

    #[test]
    fn one_line_prints_each_cause_once() {
        let cause = trine::Error::host("open \"/x\"", io::Error::from_raw_os_error(2));
        let error = Error::from(cause).context("cannot read bundle");
        let expected = "cannot read bundle: cannot open \"/x\": No such file or directory";
        assert_eq!(one_line(&error), expected);
        assert_eq!(one_line(&anyhow::anyhow!("a: b").context("c: a: b")), "c: a: b");
    }

    #[test]
    fn one_line_ends_with_the_remedy() {
        let failed = Err::<(), _>(io::Error::from_raw_os_error(13)).context("cannot open /x");
        let error = failed.remedy("run as root").context("cannot start").expect_err("an error");
        assert_eq!(
            one_line(&error),
            "cannot start: cannot open /x: Permission denied: run as root"
        );
    }

    #[test]
    fn one_line_of_a_program_error_has_one_remedy_also_from_afar() {
        let near = one_line(&program(2));
        assert!(
            near.ends_with(
                ": check the name, and that the program and its interpreter are in the image"
            ),
            "{near}"
        );
        let remote = RemoteError { message: near.clone(), program_errno: Some(2) };
        assert_eq!(one_line(&Error::from(remote)), near);
    }

    #[test]
    fn one_line_of_many_lines_is_one() {
        assert_eq!(one_line(&anyhow::anyhow!("a\n  b\tc\x1b[1m")), "a b c [1m");
    }

    #[test]
    fn exit_code_of_program_errors_follows_the_shell() {
        for (errno, code) in [(2, 127), (13, 126), (8, 126), (80, 126), (21, 126), (12, 125)] {
            assert_eq!(exit_code(&program(errno), 125), code, "errno {errno}");
            let remote = RemoteError { message: "x".to_owned(), program_errno: Some(errno) };
            assert_eq!(exit_code(&Error::from(remote), 125), code, "errno {errno}");
        }
    }

    #[test]
    fn exit_code_sees_through_context() {
        let error = Err::<(), _>(program(2)).context("cannot start").expect_err("an error");
        assert_eq!(exit_code(&error, 1), 127);
        assert_eq!(exit_code(&anyhow::anyhow!("other"), 1), 1);
    }
}
