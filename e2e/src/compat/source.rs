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
pub(crate) struct Source {
    /// Its name, and that of its list.
    pub(crate) name: &'static str,
    /// What it is, for the document.
    pub(crate) title: &'static str,
    /// The root file system that its cases run in.
    pub(crate) root: Root,
    script: Script,
    measure: Measure,
}

/// What is run for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// The script of its name, in the folder named as the source.
    OfCase,
    /// This one, which takes the name of the case; what it prints is compared.
    Shared(&'static str),
}

/// What of the output must be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// All of it.
    Whole,
    /// All but numbers of skipped tests, which may be smaller: tests that Trine can run and runc
    /// cannot are no difference.
    FewerSkips,
}

/// Programs as users run them.
pub(crate) const PROGRAMS: Source = Source {
    name: "programs",
    title: "programs as users run them",
    root: roots::PROGRAMS,
    script: Script::OfCase,
    measure: Measure::Whole,
};

/// Java, the same way.
const JAVA: Source =
    Source { name: "java", title: "Java, the same way", root: roots::JAVA, ..PROGRAMS };

/// Go, the same way.
const GO: Source = Source { name: "go", title: "Go, the same way", root: roots::GO, ..PROGRAMS };

/// stress-ng, a case a stressor.
const STRESS: Source = Source {
    name: "stress-ng",
    title: "stress-ng, checking itself, by stressor",
    root: roots::STRESS,
    script: Script::Shared(include_str!("../../compat/run/stress-ng.sh")),
    measure: Measure::Whole,
};

/// The tests of Go's standard library, a case a package.
const GO_STANDARD: Source = Source {
    name: "go-std",
    title: "Go's standard library tests, by package",
    root: roots::GO,
    script: Script::Shared(include_str!("../../compat/run/go-std.sh")),
    measure: Measure::Whole,
};

/// CPython's own tests, a case a module.
const CPYTHON: Source = Source {
    name: "cpython",
    title: "CPython's own test suite, by module",
    root: roots::CPYTHON,
    script: Script::Shared(include_str!("../../compat/run/cpython.sh")),
    measure: Measure::FewerSkips,
};

/// busybox's own tests, a case an applet.
const BUSYBOX: Source = Source {
    name: "busybox",
    title: "busybox's own test suite, by applet",
    root: roots::SUITES,
    script: Script::Shared(include_str!("../../compat/run/busybox.sh")),
    measure: Measure::Whole,
};

/// redis's own tests, a case a file.
const REDIS: Source = Source {
    name: "redis",
    title: "redis's own test suite, by file",
    script: Script::Shared(include_str!("../../compat/run/redis.sh")),
    ..BUSYBOX
};

/// sqlite's own tests, a case a file.
const SQLITE: Source = Source {
    name: "sqlite",
    title: "sqlite's own test suite, by file",
    script: Script::Shared(include_str!("../../compat/run/sqlite.sh")),
    ..BUSYBOX
};

/// Node's own tests, a case a file.
const NODE: Source = Source {
    name: "node",
    title: "Node's own test suite, by file",
    script: Script::Shared(include_str!("../../compat/run/node.sh")),
    ..BUSYBOX
};

/// postgres's regression tests, a case a script.
const POSTGRES: Source = Source {
    name: "postgres",
    title: "postgres's regression tests (pg_regress), by script",
    script: Script::Shared(include_str!("../../compat/run/postgres.sh")),
    ..BUSYBOX
};

/// The Linux kernel's own tests, a case a program.
const KSELFTEST: Source = Source {
    name: "kselftest",
    title: "Linux's own tests (kselftest, static), by program",
    root: roots::KSELFTEST,
    script: Script::Shared(include_str!("../../compat/run/kselftest.sh")),
    measure: Measure::Whole,
};

/// All of them, those of one root file system in a row.
pub(crate) const ALL: &[Source] = &[
    PROGRAMS,
    STRESS,
    BUSYBOX,
    REDIS,
    SQLITE,
    NODE,
    POSTGRES,
    KSELFTEST,
    CPYTHON,
    JAVA,
    GO,
    GO_STANDARD,
];

impl Source {
    /// Its cases.
    pub(crate) fn cases(self) -> Result<Vec<Case>> {
        let file = folder().join(format!("{}.list", self.name));
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        list::parse(&text).with_context(|| file.display().to_string())
    }

    /// The command of a case.
    pub(crate) fn command(self, case: &Case) -> Result<Vec<String>> {
        let mut command = vec!["/bin/bash".to_owned(), "-c".to_owned()];
        match self.script {
            Script::OfCase => {
                let file = folder().join(self.name).join(format!("{}.sh", case.name));
                let script = fs::read_to_string(&file)
                    .with_context(|| format!("read {}", file.display()))?;
                command.extend([script, case.name.clone()]);
            }
            Script::Shared(script) => {
                command.extend([without_comment(script), case.name.clone(), case.name.clone()]);
            }
        }
        Ok(command)
    }

    /// Whether what runc did can be the measure.
    pub(crate) fn is_usable(self, truth: &Outcome) -> bool {
        truth.status == Some(0)
    }

    /// Whether Trine did what runc did.
    pub(crate) fn is_same(self, truth: &Outcome, outcome: &Outcome) -> bool {
        let is_equal = match self.measure {
            Measure::FewerSkips => {
                let (truth, other) = (Skips::of(&truth.stdout), Skips::of(&outcome.stdout));
                truth.text == other.text && other.count <= truth.count
            }
            Measure::Whole => truth.stdout == outcome.stdout,
        };
        truth.status == outcome.status && is_equal
    }
}

/// A script without the comment at its top, which says nothing to a shell: what runc did is kept by
/// what was run.
fn without_comment(script: &str) -> String {
    let lines: Vec<&str> = script.lines().skip_while(|line| line.starts_with('#')).collect();
    lines.join("\n")
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
            assert!(!cases.is_empty(), "{}", source.name);
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
            assert_eq!(CPYTHON.is_same(&truth, &outcome(stdout)), is_same, "{stdout}");
        }
    }

    #[test]
    fn every_script_is_in_its_list() {
        for source in [PROGRAMS, JAVA, GO] {
            let names: BTreeSet<String> =
                source.cases().unwrap().into_iter().map(|case| case.name).collect();
            for entry in fs::read_dir(folder().join(source.name)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let name = name.strip_suffix(".sh").unwrap();
                assert!(names.contains(name), "{name}");
            }
        }
    }
}
