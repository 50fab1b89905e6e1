// SPDX-License-Identifier: Apache-2.0
//! Reading `config.json`: every fault of the file is one line that names it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::Error;
use oci_spec::runtime::Spec;
use serde_json::Value;

use super::invalid;

/// Longest `config.json` that is read, in bytes: far above any real one, far below what hurts.
const SPEC_MAX_BYTES: u64 = 16 << 20;

/// Reads and checks a spec.
///
/// # Errors
/// As [`parse_spec`]; [`Error::Host`] if the file cannot be read.
pub fn load_spec(path: &Path) -> Result<Spec, Error> {
    let text = read_bounded(path)
        .map_err(|error| Error::host(format!("read {}", path.display()), error))?;
    parse_spec(&text, path)
}

/// Checks the text of a spec; `path` is for messages.
///
/// # Errors
/// [`Error::Invalid`] if it is not JSON, not a spec, of another version than 1, or has no process
/// or arguments; [`Error::Unsupported`] if it is for another system.
pub fn parse_spec(text: &[u8], path: &Path) -> Result<Spec, Error> {
    let what = || path.display().to_string();
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| invalid(what(), format!("not valid JSON: {error}")))?;
    let object =
        value.as_object().ok_or_else(|| invalid(what(), "the top level must be a JSON object"))?;

    check_version(object.get("ociVersion")).map_err(|reason| invalid(what(), reason))?;
    for system in ["windows", "solaris", "vm", "zos"] {
        if object.get(system).is_some_and(|section| !section.is_null()) {
            return Err(super::unsupported(
                format!("section {system:?} of {}", path.display()),
                "remove it, Trine runs Linux containers",
            ));
        }
    }
    check_process(object.get("process")).map_err(|reason| invalid(what(), reason))?;

    // Parsed from the text once more, not from the value: only so errors have line and column.
    serde_json::from_slice(text).map_err(|error| invalid(what(), error.to_string()))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(SPEC_MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > SPEC_MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {SPEC_MAX_BYTES} bytes"),
        ));
    }
    Ok(text)
}

fn check_version(version: Option<&Value>) -> Result<(), String> {
    let Some(version) = version.and_then(Value::as_str).filter(|version| !version.is_empty())
    else {
        return Err("ociVersion is missing, expected \"1.x\"".to_owned());
    };
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(1)), Some(Ok(_))) => Ok(()),
        _ => Err(format!("ociVersion {version:?} is not supported, expected \"1.x\"")),
    }
}

fn check_process(process: Option<&Value>) -> Result<(), String> {
    let process = match process {
        None | Some(Value::Null) => return Err("process is missing".to_owned()),
        Some(process) => process,
    };
    match process.get("args") {
        None | Some(Value::Null) => Err("process.args is missing".to_owned()),
        Some(Value::Array(args)) if args.is_empty() => Err("process.args is empty".to_owned()),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        parse_spec(text.as_bytes(), Path::new("/b/config.json")).unwrap_err().to_string()
    }

    #[test]
    fn spec_faults_are_one_line_that_names_them() {
        let process = r#""process": {"user": {}, "cwd": "/", "args": ["a"]}"#;
        let cases = [
            ("", "not valid JSON: EOF while parsing a value at line 1 column 0"),
            ("{\n\"a\": }", "not valid JSON: expected value at line 2 column 6"),
            ("[]", "must be a JSON object"),
            ("{}", "ociVersion is missing"),
            (r#"{"ociVersion": 1}"#, "ociVersion is missing"),
            (r#"{"ociVersion": "2.0.0"}"#, "ociVersion \"2.0.0\" is not supported"),
            (r#"{"ociVersion": "1"}"#, "ociVersion \"1\" is not supported"),
            (r#"{"ociVersion": "1.0.2"}"#, "process is missing"),
            (r#"{"ociVersion": "1.0.2", "process": {}}"#, "process.args is missing"),
            (r#"{"ociVersion": "1.0.2", "process": {"args": []}}"#, "process.args is empty"),
            (r#"{"ociVersion": "1.0.2", "process": {"args": [1]}}"#, "at line 1 column"),
            (&format!(r#"{{"ociVersion": "1.0.2", {process}, "windows": {{}}}}"#), "\"windows\""),
        ];
        for (text, expected) in cases {
            let reason = reason(text);
            assert!(reason.contains(expected), "{text}: {reason}");
            assert!(reason.contains("/b/config.json"), "{reason}");
            assert!(!reason.contains('\n'), "{reason}");
        }
    }

    #[test]
    fn spec_of_any_1_x_is_accepted() {
        for version in ["1.0.0", "1.0.2-dev", "1.2.1+x", "1.3.0-rc.1"] {
            let text = format!(
                r#"{{"ociVersion": "{version}",
                    "process": {{"user": {{}}, "cwd": "/", "args": ["a"]}}}}"#
            );
            assert!(parse_spec(text.as_bytes(), Path::new("c")).is_ok(), "{version}");
        }
    }

    #[test]
    fn load_spec_missing_file_names_it() {
        let error = load_spec(Path::new("/nonexistent/config.json")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/config.json");
    }
}
