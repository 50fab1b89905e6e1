// SPDX-License-Identifier: Apache-2.0
//! What came of a case.

use std::fmt;

use super::{
    engine::Outcome,
    list::{Case, Expected},
    source::Source,
};
use crate::{command::shorten, suite::paint};

/// What came of a case.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// It was to do as runc, and did.
    Passed(f64),
    /// It was to do as runc, and did not.
    Failed(Difference),
    /// It is known not to.
    FailedAsKnown(String),
    /// It is known not to, but did.
    PassedUnexpectedly,
    /// runc itself does not do it.
    BadCase(Outcome),
    /// It was not run.
    NotApplicable(String),
}

/// What runc did, and what Trine did.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    truth: Outcome,
    outcome: Outcome,
}

/// Compares what Trine did with what runc did, and with what is expected.
pub(crate) fn judge(source: Source, case: &Case, truth: &Outcome, outcome: Outcome) -> Verdict {
    let is_same = source.is_same(truth, &outcome);
    match (&case.expected, is_same) {
        (Expected::NotApplicable(why), _) => Verdict::NotApplicable(why.clone()),
        (Expected::Must, true) => Verdict::Passed(outcome.seconds),
        (Expected::Must, false) => Verdict::Failed(Difference { truth: truth.clone(), outcome }),
        (Expected::KnownFail(why), false) => Verdict::FailedAsKnown(why.clone()),
        (Expected::KnownFail(_), true) => Verdict::PassedUnexpectedly,
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { truth, outcome } = self;
        if truth.status != outcome.status {
            write!(f, "status {} instead of {}, ", outcome.status_text(), truth.status_text())?;
        }
        if truth.stdout != outcome.stdout {
            let (number, wrong, right) = first_difference(&outcome.stdout, &truth.stdout);
            let [wrong, right] = [wrong, right].map(|line| line.map(shorten));
            write!(f, "line {number} of what it printed is {wrong:?} instead of {right:?}, ")?;
        }
        write!(f, "stderr {:?}", shorten(&outcome.stderr))
    }
}

/// The first line in which two texts differ, and its number.
fn first_difference<'a>(one: &'a str, other: &'a str) -> (usize, Option<&'a str>, Option<&'a str>) {
    let (mut ones, mut others) = (one.split_inclusive('\n'), other.split_inclusive('\n'));
    for number in 1.. {
        let (a, b) = (ones.next(), others.next());
        if a != b || a.is_none() {
            return (number, a, b);
        }
    }
    (0, None, None)
}

impl Verdict {
    /// The line that is printed for it.
    pub(crate) fn line(&self, source: Source, case: &Case) -> String {
        let name = format!("{}/{}", source.name, case.name);
        let fail = paint("FAIL", "31");
        match self {
            Self::Passed(seconds) => format!("{} {name} ({seconds:.2} s)", paint("ok  ", "32")),
            Self::Failed(difference) => format!("{fail} {name}: {difference}"),
            Self::FailedAsKnown(why) => format!("{} {name}: {why}", paint("know", "33")),
            Self::PassedUnexpectedly => {
                format!("{fail} {name}: is known to fail, but passes: mend its line")
            }
            Self::BadCase(truth) => format!(
                "{fail} {name}: fails under runc: status {}, printed {:?}, stderr {:?}",
                truth.status_text(),
                shorten(&truth.stdout),
                shorten(&truth.stderr)
            ),
            Self::NotApplicable(why) => format!("{} {name}: {why}", paint("n/a ", "33")),
        }
    }
}

/// Counts of verdicts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    passed: u32,
    known: u32,
    not_applicable: u32,
    failed: Vec<String>,
}

impl Totals {
    /// Counts one more.
    pub(crate) fn add(&mut self, name: &str, verdict: &Verdict) {
        match verdict {
            Verdict::Passed(_) => self.passed += 1,
            Verdict::FailedAsKnown(_) => self.known += 1,
            Verdict::NotApplicable(_) => self.not_applicable += 1,
            Verdict::Failed(_) | Verdict::PassedUnexpectedly | Verdict::BadCase(_) => {
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Whether nothing was as it should not be.
    pub(crate) fn is_good(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, known, not_applicable, failed } = self;
        let skipped = known + not_applicable;
        write!(f, "{passed} passed, {} failed, {skipped} skipped", failed.len())?;
        write!(f, " ({known} known to fail, {not_applicable} not applicable)")?;
        if !failed.is_empty() {
            let mut names = failed.clone();
            names.sort();
            write!(f, "; failed: {}", names.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(status: Option<i32>, stdout: &str) -> Outcome {
        Outcome { status, stdout: stdout.to_owned(), stderr: String::new(), seconds: 0.0 }
    }

    fn case(expected: Expected) -> Case {
        Case { name: "x".to_owned(), is_fast: false, timeout: Duration::ZERO, cpus: 1, expected }
    }

    #[test]
    fn first_difference_is_found() {
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), (2, Some("b\n"), Some("c\n")));
        assert_eq!(first_difference("a\n", "a\nc"), (2, None, Some("c")));
    }

    #[test]
    fn must_fails_when_it_differs_and_known_fail_when_it_does_not() {
        let (truth, source) = (outcome(Some(0), "a"), source::PROGRAMS);
        let judge_fn = |expected: &Expected, other: Outcome| {
            let mut totals = Totals::default();
            totals.add("x", &judge(source, &case(expected.clone()), &truth, other));
            (
                totals.is_good(),
                totals.passed + totals.known + u32::try_from(totals.failed.len()).unwrap(),
            )
        };
        let known = Expected::KnownFail("why".to_owned());
        assert_eq!(judge_fn(&Expected::Must, outcome(Some(0), "a")), (true, 1));
        assert_eq!(judge_fn(&Expected::Must, outcome(Some(0), "b")), (false, 1));
        assert_eq!(judge_fn(&Expected::Must, outcome(Some(1), "a")), (false, 1));
        assert_eq!(judge_fn(&Expected::Must, outcome(None, "a")), (false, 1));
        assert_eq!(judge_fn(&known, outcome(Some(0), "b")), (true, 1));
        assert_eq!(judge_fn(&known, outcome(Some(0), "a")), (false, 1));
        let not_applicable = Expected::NotApplicable("why".to_owned());
        assert_eq!(judge_fn(&not_applicable, outcome(Some(0), "b")), (true, 0));
    }
}
