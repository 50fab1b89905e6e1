// SPDX-License-Identifier: Apache-2.0
//! The log: logfmt lines into the FIFO `log` of the bundle, which containerd copies to its own.
//!
//! The FIFO is opened for reading and writing, without blocking: so the open never waits for
//! containerd, its restart causes no EPIPE, and a full pipe drops lines instead of stopping a call.

use std::{
    fmt::Display,
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::time::rfc3339;

/// A write of at most this many bytes (PIPE_BUF) is not torn by other writers.
const LINE_MAX_BYTES: usize = 4096;

/// How grave a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What happens to containers.
    #[default]
    Info,
    /// Every call.
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            // The name that containerd's logger has for it.
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// Where lines go.
#[derive(Debug)]
struct Logger {
    fifo: File,
    level: Level,
    dropped: AtomicU64,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Sends the log of this process to the FIFO at `path` from now on; before, and if this fails, lines
/// vanish, for standard error belongs to the `start` protocol.
///
/// # Errors
/// If it cannot be opened.
pub fn open(path: &Path, level: Level) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fifo = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    // A second call loses: there is one log per process.
    let _ = LOGGER.set(Logger { fifo, level, dropped: AtomicU64::new(0) });
    Ok(())
}

/// Logs a failure.
pub fn error(message: impl Display) {
    write(Level::Error, &message);
}

/// Logs something that is not as it should be.
pub fn warn(message: impl Display) {
    write(Level::Warn, &message);
}

/// Logs what happens to containers.
pub fn info(message: impl Display) {
    write(Level::Info, &message);
}

/// Logs details.
pub fn debug(message: impl Display) {
    write(Level::Debug, &message);
}

fn write(level: Level, message: &dyn Display) {
    let Some(logger) = LOGGER.get() else { return };
    if level > logger.level {
        return;
    }
    let dropped = logger.dropped.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        let text = format!("{dropped} lines of the log were lost, it was not read fast enough");
        logger.put(&line(Level::Warn, SystemTime::now(), &text), dropped);
    }
    logger.put(&line(level, SystemTime::now(), &message.to_string()), 1);
}

impl Logger {
    fn put(&self, line: &[u8], lines: u64) {
        // EAGAIN, or anything else: there is no better place to say so.
        if (&self.fifo).write(line).is_err() {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

/// Formats one line, newline included.
fn line(level: Level, at: SystemTime, message: &str) -> Vec<u8> {
    let mut line = format!("time=\"{}\" level={} msg=\"", rfc3339(at), level.name());
    for character in message.chars() {
        // Room for the longest escape, the quote and the newline.
        if line.len() + 12 > LINE_MAX_BYTES {
            break;
        }
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            '\n' => line.push_str("\\n"),
            character if character.is_control() => line.extend(character.escape_unicode()),
            character => line.push(character),
        }
    }
    line.push_str("\"\n");
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_logfmt() {
        let line = line(Level::Warn, SystemTime::UNIX_EPOCH, "a \"b\"\\\n\x1b[0m é");
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "time=\"1970-01-01T00:00:00.000000000Z\" level=warning \
             msg=\"a \\\"b\\\"\\\\\\n\\u{1b}[0m é\"\n"
        );
    }

    #[test]
    fn line_fits_in_one_atomic_write() {
        for message in ["x".repeat(5000), "\x01".repeat(5000), "é".repeat(5000)] {
            let line = line(Level::Error, SystemTime::now(), &message);
            assert!(line.len() <= LINE_MAX_BYTES && line.ends_with(b"\"\n"));
        }
    }
}
