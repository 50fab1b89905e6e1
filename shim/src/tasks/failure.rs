// SPDX-License-Identifier: Apache-2.0
//! Errors as containerd gets them: a status code that it acts on, and one line that people read.

use std::{error::Error as StdError, io};

use containerd_shim_protos::ttrpc::Code;
use trine::Error;

use super::machine::Refusal;
use crate::ids::IdError;

/// Linux errno of a missing file.
const ENOENT: u32 = 2;
/// Linux errno of a file that may not be executed.
const EACCES: u32 = 13;

/// A failed call.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What containerd acts on.
    pub code: Code,
    /// What people read.
    pub message: String,
}

impl Failure {
    /// A failure with a code and a line.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// There is no such container.
    pub fn no_container(id: &str) -> Self {
        Self::new(Code::NOT_FOUND, format!("container {id:?} not found"))
    }

    /// A call that this version does not have.
    pub fn unimplemented(what: &str, hint: &str) -> Self {
        Self::new(Code::UNIMPLEMENTED, format!("{what} is not supported: {hint}"))
    }
}

impl From<Failure> for ttrpc::Error {
    fn from(failure: Failure) -> Self {
        Self::RpcStatus(ttrpc::get_status(failure.code, failure.message))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NotFound { .. } => Code::NOT_FOUND,
            Refusal::AlreadyExists { .. } => Code::ALREADY_EXISTS,
            Refusal::State { .. } => Code::FAILED_PRECONDITION,
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<IdError> for Failure {
    fn from(error: IdError) -> Self {
        Self::new(Code::INVALID_ARGUMENT, error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::AlreadyExists { .. } => Code::ALREADY_EXISTS,
            Error::NotFound { .. } => Code::NOT_FOUND,
            Error::WrongState { .. } => Code::FAILED_PRECONDITION,
            Error::Invalid { .. } | Error::Program { .. } => Code::INVALID_ARGUMENT,
            Error::Unsupported { .. } => Code::UNIMPLEMENTED,
            Error::VmEnded { .. } | Error::Kvm { .. } => Code::UNAVAILABLE,
            Error::Timeout { .. } => Code::DEADLINE_EXCEEDED,
            Error::Host { source, .. } => host_code(source),
        };
        let message = match &error {
            Error::Program { program, errno, reason } => program_message(program, *errno, reason),
            _ => chain(&error),
        };
        Self::new(code, message)
    }
}

fn host_code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::OutOfMemory
        | io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::FileTooLarge => Code::RESOURCE_EXHAUSTED,
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Code::INVALID_ARGUMENT
        }
        _ => Code::INTERNAL,
    }
}

/// Words the failure to load a program as runc does: tools look for these phrases, to tell 127
/// from 126.
fn program_message(program: &str, errno: u32, reason: &str) -> String {
    let phrase = match errno {
        ENOENT if !program.contains('/') => "executable file not found in $PATH",
        ENOENT => "no such file or directory",
        EACCES => "permission denied",
        _ => "",
    };
    if reason.contains(phrase) {
        return if reason.starts_with("exec") {
            reason.to_owned()
        } else {
            format!("exec: {program:?}: {reason}")
        };
    }
    format!("exec: {program:?}: {phrase}: {reason}")
}

/// Returns the exit status of a process that could not be started.
pub fn start_failure_status(error: &Error) -> u32 {
    match error {
        Error::Program { errno: ENOENT, .. } => 127,
        Error::Program { .. } => 126,
        _ => 255,
    }
}

/// Returns an error and its causes as one line.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_code_that_containerd_acts_on() {
        let id = || "c".to_owned();
        let host = |kind: io::ErrorKind| Error::host("x", io::Error::from(kind));
        for (error, code) in [
            (Error::AlreadyExists { kind: "exec", id: id() }, Code::ALREADY_EXISTS),
            (Error::NotFound { kind: "exec", id: id() }, Code::NOT_FOUND),
            (
                Error::WrongState { action: "start", what: id(), state: "x" },
                Code::FAILED_PRECONDITION,
            ),
            (Error::Invalid { what: id(), reason: id() }, Code::INVALID_ARGUMENT),
            (Error::Unsupported { what: id(), hint: id() }, Code::UNIMPLEMENTED),
            (Error::VmEnded { id: id(), reason: id() }, Code::UNAVAILABLE),
            (Error::Kvm { reason: id() }, Code::UNAVAILABLE),
            (Error::Timeout { what: id(), seconds: 2 }, Code::DEADLINE_EXCEEDED),
            (host(io::ErrorKind::OutOfMemory), Code::RESOURCE_EXHAUSTED),
            (host(io::ErrorKind::StorageFull), Code::RESOURCE_EXHAUSTED),
            (host(io::ErrorKind::NotFound), Code::INVALID_ARGUMENT),
            (host(io::ErrorKind::BrokenPipe), Code::INTERNAL),
        ] {
            assert_eq!(Failure::from(error).code, code);
        }
    }

    #[test]
    fn program_failures_read_as_tools_expect() {
        for (program, errno, phrase, status) in [
            ("nope", 2, "executable file not found in $PATH", 127),
            ("/bin/nope", 2, "no such file or directory", 127),
            ("/etc", 13, "permission denied", 126),
            ("/bin/arm", 8, "exec format", 126),
        ] {
            let error = || Error::Program {
                program: program.to_owned(),
                errno,
                reason: "exec format".to_owned(),
            };
            assert_eq!(start_failure_status(&error()), status);
            let failure = Failure::from(error());
            assert!(failure.message.contains(phrase), "{}", failure.message);
            assert_eq!(failure.code, Code::INVALID_ARGUMENT);
        }
        let reason = "exec: \"/x\": no such file or directory";
        assert_eq!(program_message("/x", ENOENT, reason), reason, "what the guest says, once");
    }

    #[test]
    fn causes_are_in_the_line() {
        let error = Error::host("open /x", io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(Failure::from(error).message, "cannot open /x: entity not found");
    }
}
