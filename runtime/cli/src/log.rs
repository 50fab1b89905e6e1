// SPDX-License-Identifier: Apache-2.0
//! The log file of `--log`, in the formats that runc's callers read.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    args::{Global, LogFormat},
    failure::WithRemedy as _,
    values,
};

/// Where errors and, with `--debug`, steps are written besides stderr.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    format: LogFormat,
    is_debug: bool,
    /// Where VMM and I/O process log: their lines are not of the log's format.
    pub(crate) vm_path: Option<PathBuf>,
}

impl Log {
    /// Opens the log that the flags ask for.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(crate) fn open(global: &Global) -> Result<Self> {
        let file = global.log.as_ref().map(|path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
                .with_context(|| format!("cannot open log file {}", path.display()))
                .remedy("give --log a file you may write")
        });
        Ok(Self {
            file: file.transpose()?,
            format: global.log_format,
            is_debug: global.debug,
            vm_path: global.log.as_deref().filter(|_| global.debug).and_then(vm_path),
        })
    }

    /// Logs what is being done; nothing without `--debug`.
    pub(crate) fn debug(&self, message: impl FnOnce() -> String) {
        if !self.is_debug {
            return;
        }
        let message = message();
        if self.file.is_none() {
            // Like every line to stderr: if it is gone, there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "trine: debug: {message}");
        }
        self.write("debug", &message);
    }

    /// Logs an error.  It is printed elsewhere.
    pub(crate) fn error(&self, message: &str) {
        self.write("error", message);
    }

    fn write(&self, level: &str, message: &str) {
        let Some(mut file) = self.file.as_ref() else {
            return;
        };
        let line = format_line(self.format, level, message, SystemTime::now());
        // A log on a full disk must not change what the command does.
        let _ = file.write_all(line.as_bytes());
    }
}

fn vm_path(log: &Path) -> Option<PathBuf> {
    let mut path = std::path::absolute(log).ok()?.into_os_string();
    path.push(".vm");
    Some(path.into())
}

fn format_line(format: LogFormat, level: &str, message: &str, now: SystemTime) -> String {
    let time = values::format_rfc3339(now);
    match format {
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        LogFormat::Json => format!("{}\n", json!({"level": level, "msg": message, "time": time})),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn format_line_json_is_what_go_runc_reads() {
        let line = format_line(LogFormat::Json, "error", "a \"b\"", UNIX_EPOCH);
        let expected =
            r#"{"level":"error","msg":"a \"b\"","time":"1970-01-01T00:00:00.000000000Z"}"#;
        assert_eq!(line, format!("{expected}\n"));
    }

    #[test]
    fn format_line_text_quotes_the_message() {
        let line = format_line(LogFormat::Text, "error", "a \"b\"", UNIX_EPOCH);
        assert!(line.ends_with(" level=error msg=\"a \\\"b\\\"\"\n"), "{line}");
    }
}
