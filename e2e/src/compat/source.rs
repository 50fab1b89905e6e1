// SPDX-License-Identifier: Apache-2.0
//! Where cases come from, and how they are run and compared.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    engine::Outcome,
    list::{self, Case},
    roots::{self, Root},
};
use crate::paths;

/// A source of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Programs as users run them: scripts of `e2e/compat/programs`.
    Programs,
    /// The same with Java.
    Java,
    /// The same with Go.
    Go,
    /// CPython's own tests, a case a module.
    Cpython,
    /// The tests of Go's standard library, a case a package.
    GoStandard,
    /// stress-ng, a case a stressor.
    Stress,
}

/// All of them, the quick ones first.
pub(crate) const ALL: &[Source] = &[
    Source::Programs,
    Source::Java,
    Source::Go,
    Source::Stress,
    Source::GoStandard,
    Source::Cpython,
];

/// Runs a module of CPython's tests and prints how many tests ran and were skipped, without the
/// times.  What else the tests print goes to standard error.
const CPYTHON: &str = r#"cd /tmp
python3 -u -m test --verbose "$1" >log 2>&1 </dev/null
status=$?
grep -aE '^Ran [0-9]+ test|^OK|^FAILED \(|^Result: ' log | sed -E 's/ in [0-9.]+s$//'
[ $status = 0 ] || tail -n 120 log >&2
exit $status"#;

/// Runs the tests of a package, as they are installed, and prints which passed.
const GO: &str = r#"export GOCACHE=/tmp/go-cache GO111MODULE=off HOME=/tmp PATH=/usr/lib/go-1.19/bin:$PATH
cd "/usr/lib/go-1.19/src/$1" || exit 9
go test -short -count=1 -v "$1" >/tmp/log 2>&1 </dev/null
status=$?
grep -aE '^(--- (PASS|SKIP|FAIL)|PASS|FAIL|ok)' /tmp/log | sed -E 's/[ \t]+\(?[0-9.]+s\)?$//' | sort
[ $status = 0 ] || tail -n 120 /tmp/log >&2
exit $status"#;

/// Runs a stressor for two seconds, which checks what it does.
const STRESS: &str = r#"cd /tmp
stress-ng --verify --timeout 2s --oomable --vm-bytes 64m --temp-path /tmp "--$1" 2 >log 2>&1
status=$?
grep -aE 'skipped|fail|not supported|unsuccessful' log | sed -E 's/\[[0-9]+\] ?//g' >&2
[ $status = 0 ] || tail -n 40 log >&2
exit $status"#;

impl Source {
    /// Its name, and that of its list.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::Java => "java",
            Self::Go => "go",
            Self::Cpython => "cpython",
            Self::GoStandard => "go-std",
            Self::Stress => "stress-ng",
        }
    }

    /// What it is, for the document.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Programs => "programs as users run them",
            Self::Java => "Java, the same way",
            Self::Go => "Go, the same way",
            Self::Cpython => "CPython's own test suite, by module",
            Self::GoStandard => "Go's standard library tests, by package",
            Self::Stress => "stress-ng, checking itself, by stressor",
        }
    }

    /// The root file system that its cases run in.
    pub(crate) fn root(self) -> Root {
        match self {
            Self::Programs => roots::PROGRAMS,
            Self::Java => roots::JAVA,
            Self::Go | Self::GoStandard => roots::GO,
            Self::Cpython => roots::CPYTHON,
            Self::Stress => roots::STRESS,
        }
    }

    /// Its cases.
    pub(crate) fn cases(self) -> Result<Vec<Case>> {
        let file = folder().join(format!("{}.list", self.name()));
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        list::parse(&text).with_context(|| file.display().to_string())
    }

    /// The command of a case.
    pub(crate) fn command(self, case: &Case) -> Result<Vec<String>> {
        let shell_fn = |script: &str| {
            vec!["/bin/bash".to_owned(), "-c".to_owned(), script.to_owned(), case.name.clone()]
        };
        let with_name_fn = |script: &str| {
            let mut command = shell_fn(script);
            command.push(case.name.clone());
            command
        };
        match self {
            Self::Programs | Self::Java | Self::Go => {
                let file = folder().join(self.name()).join(format!("{}.sh", case.name));
                let script = fs::read_to_string(&file)
                    .with_context(|| format!("read {}", file.display()))?;
                Ok(shell_fn(&script))
            }
            Self::Cpython => Ok(with_name_fn(CPYTHON)),
            Self::GoStandard => Ok(with_name_fn(GO)),
            Self::Stress => Ok(with_name_fn(STRESS)),
        }
    }

    /// Whether what runc did can be the measure.
    pub(crate) fn is_usable(self, truth: &Outcome) -> bool {
        truth.status == Some(0)
    }

    /// Whether Trine did what runc did.
    pub(crate) fn is_same(self, truth: &Outcome, outcome: &Outcome) -> bool {
        let is_equal = match self {
            // Tests that Trine can run and runc cannot are no difference.
            Self::Cpython => {
                let (truth, other) = (Skips::of(&truth.stdout), Skips::of(&outcome.stdout));
                truth.text == other.text && other.count <= truth.count
            }
            _ => truth.stdout == outcome.stdout,
        };
        truth.status == outcome.status && is_equal
    }
}

/// What a run of CPython's tests prints, with the numbers of skipped tests taken out and added up.
#[derive(Debug, Default)]
struct Skips {
    text: String,
    count: u64,
}

impl Skips {
    fn of(stdout: &str) -> Self {
        let mut skips = Self::default();
        for line in stdout.lines() {
            let Some((before, after)) = line.split_once("(skipped=") else {
                skips.text += line;
                skips.text.push('\n');
                continue;
            };
            skips.count += after.trim_end_matches(')').parse().unwrap_or(0);
            skips.text += before.trim_end();
            skips.text.push('\n');
        }
        skips
    }
}

fn folder() -> PathBuf {
    paths::root().join("e2e/compat")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_list_is_readable_and_every_case_has_its_script() {
        for source in ALL {
            let cases = source.cases().unwrap();
            assert!(!cases.is_empty(), "{}", source.name());
            for case in cases {
                source.command(&case).unwrap();
            }
        }
    }

    #[test]
    fn fewer_skipped_tests_are_no_difference() {
        let outcome = |stdout: &str| Outcome {
            status: Some(0),
            stdout: stdout.to_owned(),
            stderr: String::new(),
            seconds: 0.0,
        };
        let truth = outcome("Ran 5 tests\nOK (skipped=2)\n");
        for (stdout, is_same) in [
            ("Ran 5 tests\nOK (skipped=1)\n", true),
            ("Ran 5 tests\nOK\n", true),
            ("Ran 5 tests\nOK (skipped=3)\n", false),
            ("Ran 4 tests\nOK (skipped=2)\n", false),
        ] {
            assert_eq!(Source::Cpython.is_same(&truth, &outcome(stdout)), is_same, "{stdout}");
        }
    }

    #[test]
    fn every_script_is_in_its_list() {
        for source in [Source::Programs, Source::Java, Source::Go] {
            let names: BTreeSet<String> =
                source.cases().unwrap().into_iter().map(|case| case.name).collect();
            for entry in fs::read_dir(folder().join(source.name())).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let name = name.strip_suffix(".sh").unwrap();
                assert!(names.contains(name), "{name}");
            }
        }
    }
}
