// SPDX-License-Identifier: Apache-2.0
//! containerd's names for standard streams: the path of a FIFO, or a URI.

use std::path::PathBuf;

use trine::{Error, Stdio, Stream};

use crate::events::StdioPaths;

/// Returns the streams of a process.
///
/// # Errors
/// [`Error::Unsupported`] for a URI that is neither `fifo` nor `file`; [`Error::Invalid`] for a path
/// that is not absolute.
pub fn streams(paths: &StdioPaths) -> Result<Stdio, Error> {
    Ok(Stdio {
        stdin: stream("stdin", &paths.stdin)?,
        stdout: stream("stdout", &paths.stdout)?,
        stderr: stream("stderr", &paths.stderr)?,
    })
}

fn stream(name: &str, text: &str) -> Result<Stream, Error> {
    if text.is_empty() {
        return Ok(Stream::Null);
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("fifo", text));
    // What follows a question mark in a URI is for containerd's own logger.
    let path = match text.contains("://") {
        true => PathBuf::from(rest.split('?').next().unwrap_or_default()),
        false => PathBuf::from(rest),
    };
    match scheme {
        "fifo" | "file" if !path.is_absolute() => Err(Error::Invalid {
            what: format!("{name} {text:?}"),
            reason: "the path is not absolute".to_owned(),
        }),
        "fifo" => Ok(Stream::Fifo(path)),
        "file" => Ok(Stream::File(path)),
        _ => Err(Error::Unsupported {
            what: format!("{name} {text:?}"),
            hint: "use a FIFO or a file:// URI".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_by_scheme() {
        assert!(matches!(stream("stdin", ""), Ok(Stream::Null)));
        for (text, expected) in [("/run/a?b", "/run/a?b"), ("fifo:///run/a", "/run/a")] {
            let Ok(Stream::Fifo(path)) = stream("stdin", text) else { panic!("{text}") };
            assert_eq!(path, PathBuf::from(expected));
        }
        let Ok(Stream::File(path)) = stream("stdout", "file:///log?x=y") else { panic!() };
        assert_eq!(path, PathBuf::from("/log"));
        for text in ["binary:///bin/logger", "ttrpc+unix:///s"] {
            assert!(matches!(stream("stdout", text), Err(Error::Unsupported { .. })), "{text}");
        }
        assert!(matches!(stream("stdin", "relative"), Err(Error::Invalid { .. })));
    }
}
