// SPDX-License-Identifier: Apache-2.0
//! What Trine must reach, and what it aims at.

mod list;

use serde::Serialize;

use crate::{
    args::Subject,
    interleave::Outcome,
    results::{Measure, Row, find},
    system::System,
};

/// How binding a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A release that misses it has a defect.
    Must,
    /// Missing it calls for a profile.
    Aim,
}

/// How what was measured and the bound must relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Relation {
    #[serde(rename = "<=")]
    AtMost,
    /// "Faster than" is not reached by being as fast.
    #[serde(rename = "<")]
    Below,
    #[serde(rename = ">=")]
    AtLeast,
    #[serde(rename = ">")]
    Above,
}

/// What is compared with the bound.
#[derive(Clone, Copy, Debug)]
enum Figure {
    /// Our median.
    Own { id: &'static str },
    /// The median of one of our rows.
    Labelled { id: &'static str, label: &'static str },
    /// Our median, of that of another system.
    Ratio { id: &'static str, to: System },
    /// The median of one of our rows, of that of another system.
    LabelledRatio { id: &'static str, label: &'static str, to: System },
    /// The median of one of our rows, of that of another of ours.
    Rows { id: &'static str, label: &'static str, to: &'static str },
}

/// A target.
#[derive(Clone, Debug)]
struct Target {
    kind: Kind,
    about: Subject,
    subject: String,
    figure: Figure,
    relation: Relation,
    bound: f64,
    unit: &'static str,
}

/// A target and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// How binding it is.
    kind: Kind,
    /// What it is about.
    subject: String,
    /// How what was measured and the bound must relate.
    relation: Relation,
    /// The bound.
    bound: f64,
    /// Unit of both numbers; "x" is a ratio.
    unit: &'static str,
    /// The median that was measured, if it was.
    measured: Option<f64>,
    /// Why what it is to be compared with is not there, if it is not.
    absent: Option<String>,
}

impl Verdict {
    /// Tells whether it was reached.  What was not measured was not reached.
    fn is_met(&self) -> bool {
        self.measured.is_some_and(|measured| match self.relation {
            Relation::AtMost => measured <= self.bound,
            Relation::Below => measured < self.bound,
            Relation::AtLeast => measured >= self.bound,
            Relation::Above => measured > self.bound,
        })
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let verdict = match (self.measured, &self.absent) {
            (None, Some(reason)) => format!("NOT JUDGED: {reason}"),
            (None, None) => "NOT MEASURED".to_owned(),
            (Some(measured), _) if self.is_met() => format!("met     {measured:.2} {}", self.unit),
            (Some(measured), _) => format!("MISSED  {measured:.2} {}", self.unit),
        };
        let relation = match self.relation {
            Relation::AtMost => "<=",
            Relation::Below => "<",
            Relation::AtLeast => ">=",
            Relation::Above => ">",
        };
        let bound = format!("{relation} {} {}", self.bound, self.unit);
        format!("{:<52} {bound:<12} {verdict}", self.subject)
    }
}

/// Judges the measurements, by the targets that are about what was asked for.
pub(crate) fn judge(measures: &[Measure], asked: &[Subject]) -> Vec<Verdict> {
    let targets = list::all().into_iter().filter(|target| asked.contains(&target.about));
    targets
        .map(|target| {
            let (measured, absent) = target.figure.look_up(measures);
            let Target { kind, subject, relation, bound, unit, .. } = target;
            Verdict { kind, subject, relation, bound, unit, measured, absent }
        })
        .collect()
}

impl Figure {
    /// The number, or why there is nothing to compare with.
    fn look_up(self, measures: &[Measure]) -> (Option<f64>, Option<String>) {
        let of = |id, is_row: &dyn Fn(&Row) -> bool| {
            find(measures, id)?.rows.iter().find(|row| is_row(row))
        };
        let ours = |id| of(id, &|row: &Row| row.system == System::Trine);
        let labelled = |id, label: &str| of(id, &|row: &Row| row.label == label);
        let theirs = |id, system| of(id, &|row: &Row| row.system == system);
        match self {
            Self::Own { id } => (ours(id).and_then(Row::median), None),
            Self::Labelled { id, label } => (labelled(id, label).and_then(Row::median), None),
            Self::Ratio { id, to } => ratio(ours(id), theirs(id, to)),
            Self::LabelledRatio { id, label, to } => ratio(labelled(id, label), theirs(id, to)),
            Self::Rows { id, label, to } => ratio(labelled(id, label), labelled(id, to)),
        }
    }
}

fn ratio(value: Option<&Row>, to: Option<&Row>) -> (Option<f64>, Option<String>) {
    let Some(value) = value.and_then(Row::median) else {
        return (None, None);
    };
    match to {
        Some(Row { outcome: Outcome::Absent(reason), label, .. }) => {
            (None, Some(format!("no {label}: {reason}")))
        }
        Some(to) => (to.median().map(|to| value / to), None),
        None => (None, Some("what it is compared with was not asked for".to_owned())),
    }
}

/// The targets as text, musts first.
pub(crate) fn text(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for (kind, title) in [(Kind::Must, "Targets: musts"), (Kind::Aim, "Targets: aims")] {
        text.push_str(&format!("{title}\n"));
        for verdict in verdicts.iter().filter(|verdict| verdict.kind == kind) {
            text.push_str(&format!("  {}\n", verdict.line()));
        }
        text.push('\n');
    }
    text
}

/// The musts that were not reached, other than for want of something to compare with.
pub(crate) fn missed(verdicts: &[Verdict]) -> Vec<&Verdict> {
    let is_missed =
        |one: &&Verdict| one.kind == Kind::Must && one.absent.is_none() && !one.is_met();
    verdicts.iter().filter(is_missed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        measure::{compute, forward, hello, micro, network},
        policy,
        results::{Shape, Unit},
    };

    fn measure(id: &'static str, rows: &[(System, &str, f64)]) -> Measure {
        let row = |(system, label, value): &(System, &str, f64)| {
            Row::new(*system, *label, Outcome::Measured(vec![*value]))
        };
        Measure {
            id,
            title: id.to_owned(),
            method: String::new(),
            unit: Unit::Milliseconds,
            shape: Shape::Compared,
            rows: rows.iter().map(row).collect(),
        }
    }

    fn found(verdicts: &[Verdict], subject: &str, kind: Kind) -> (Option<f64>, bool) {
        let found =
            verdicts.iter().find(|one| one.subject.starts_with(subject) && one.kind == kind);
        let found = found.expect("there is such a target");
        (found.measured, found.is_met())
    }

    #[test]
    fn targets_compare_with_the_right_rows() {
        let measures = [
            measure(
                hello::ID,
                &[
                    (System::Plain, "plain process", 1.0),
                    (System::Runc, "runc run", 16.0),
                    (System::Runsc, "runsc run", 100.0),
                    (System::Trine, hello::TRINE_BUNDLE, 8.0),
                    (System::Trine, hello::TRINE_ROOTFS, 4.0),
                ],
            ),
            measure("fork", &[(System::Runsc, "runsc", 5.0), (System::Trine, "trine", 5.0)]),
            measure(micro::CPU, &[(System::Plain, "plain", 100.0), (System::Trine, "t", 103.0)]),
            measure(
                forward::FSTAT,
                &[(System::Trine, forward::TRINE, 100.0), (System::Trine, policy::LABEL, 110.0)],
            ),
            measure(
                network::RATES[0],
                &[
                    (System::Runc, "runc", 100.0),
                    (System::Runsc, "runsc", 10.0),
                    (System::Trine, "trine", 50.0),
                ],
            ),
            measure(compute::SCALE, &[(System::Trine, "trine", 1.7)]),
        ];

        let verdicts = judge(&measures, &Subject::ALL);

        assert_eq!(found(&verdicts, "trine run --bundle", Kind::Must), (Some(0.5), true));
        assert_eq!(found(&verdicts, "trine run --bundle", Kind::Aim), (Some(0.5), false));
        assert_eq!(found(&verdicts, "trine run ROOTFS", Kind::Aim), (Some(0.25), true));
        assert_eq!(found(&verdicts, "fork, of", Kind::Must), (Some(1.0), false));
        assert_eq!(found(&verdicts, "CPU-bound", Kind::Must), (Some(1.03), true));
        assert_eq!(found(&verdicts, "guest kernel", Kind::Must), (None, false));
        assert_eq!(found(&verdicts, "policy of 100 rules, forward-fstat", Kind::Must).0, Some(1.1));
        assert_eq!(found(&verdicts, "redis-1, of runsc", Kind::Must), (Some(5.0), true));
        assert_eq!(found(&verdicts, "redis-1, of runc", Kind::Aim), (Some(0.5), true));
        assert_eq!(found(&verdicts, "two processors", Kind::Must), (Some(1.7), false));
    }

    #[test]
    fn what_was_not_measured_is_missed_and_said() {
        let verdicts = judge(&[], &Subject::ALL);

        let musts = list::all().iter().filter(|target| target.kind == Kind::Must).count();
        assert!(musts > 40);
        assert_eq!(missed(&verdicts).len(), musts);
        assert!(text(&verdicts).contains("NOT MEASURED"));
    }

    #[test]
    fn what_was_not_asked_for_is_not_judged() {
        let verdicts = judge(&[], &[Subject::Size]);

        assert_eq!(verdicts.len(), 1);
    }

    #[test]
    fn want_of_a_reference_is_said_and_no_miss() {
        let mut measure = measure("fork", &[(System::Trine, "trine", 5.0)]);
        let absent = Outcome::Absent("no package".to_owned());
        measure.rows.push(Row::new(System::Runsc, "runsc", absent));

        let verdicts = judge(&[measure], &[Subject::Micro]);

        let fork = |one: &&Verdict| one.subject.starts_with("fork, of runsc");
        let line = verdicts.iter().find(fork).expect("there is such a target").line();
        assert!(line.ends_with("NOT JUDGED: no runsc: no package"));
        assert!(!missed(&verdicts).iter().any(fork));
    }
}
