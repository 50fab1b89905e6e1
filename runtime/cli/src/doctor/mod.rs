// SPDX-License-Identifier: Apache-2.0
//! `doctor`: what this host has, what it lacks, and how to mend it.

mod cgroups;
mod containerd;
mod install;
mod kernel;
mod kvm;
mod memory;

use std::io::{IsTerminal as _, stdout};

use anyhow::Result;
use serde::Serialize;

use crate::{args::DoctorArgs, context::Context, output};

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// As it should be.
    Ok,
    /// Trine runs, but something is missing that may be wanted.
    Warn,
    /// Trine does not run.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    grade: Grade,
    /// What was looked at.
    name: &'static str,
    /// What was found.
    found: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { grade: Grade::Ok, name, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { grade: Grade::Warn, name, found: found.into(), remedy }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { grade: Grade::Fail, name, found: found.into(), remedy }
    }
}

/// `trine doctor`; returns 1 if anything fails.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn doctor(context: &Context, arguments: &DoctorArgs) -> Result<u8> {
    let mut findings = kvm::check();
    findings.extend(kernel::check());
    findings.extend(memory::check());
    findings.extend(cgroups::check());
    findings.extend(install::check(context));
    findings.extend(containerd::check());
    if arguments.json {
        output::print_json(&findings)?;
    } else {
        output::print(&report(&findings, stdout().is_terminal()))?;
    }
    let has_failed = findings.iter().any(|finding| finding.grade == Grade::Fail);
    Ok(u8::from(has_failed))
}

fn report(findings: &[Finding], has_colour: bool) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (word, colour) = match finding.grade {
            Grade::Ok => ("ok  ", "32"),
            Grade::Warn => ("warn", "33"),
            Grade::Fail => ("fail", "31"),
        };
        let word =
            if has_colour { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() };
        text.push_str(&format!("{word}  {:<width$}  {}", finding.name, finding.found));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!(": {remedy}"));
        }
        text.push('\n');
    }
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let (warnings, failures) = (count(Grade::Warn), count(Grade::Fail));
    text.push_str(&match (failures, warnings) {
        (0, 0) => "\nall is well\n".to_owned(),
        (0, _) => format!("\ntrine runs here; warnings: {warnings}\n"),
        _ => format!("\ntrine does not run here; failures: {failures}, warnings: {warnings}\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_a_line_a_finding_and_a_verdict() {
        let findings = [
            Finding::ok("kvm", "/dev/kvm"),
            Finding::warn("thp", "never", "write madvise"),
            Finding::fail("openat2", "is missing", "use Linux 5.6"),
        ];
        let expected = "ok    kvm      /dev/kvm\n\
                        warn  thp      never: write madvise\n\
                        fail  openat2  is missing: use Linux 5.6\n\
                        \n\
                        trine does not run here; failures: 1, warnings: 1\n";
        assert_eq!(report(&findings, false), expected);
        assert!(report(&findings[..1], false).ends_with("\nall is well\n"));
        assert!(report(&findings[..2], true).contains("\x1b[33mwarn\x1b[0m"));
    }
}
