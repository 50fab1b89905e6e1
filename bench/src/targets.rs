// SPDX-License-Identifier: Apache-2.0
//! What Trine must reach, and what it aims at.

use serde::Serialize;

use crate::{
    measure::{ctr, hello, memory, micro, size, stages},
    results::{Measure, find},
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

/// A target and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// How binding it is.
    pub(crate) kind: Kind,
    /// What it is about.
    pub(crate) subject: String,
    /// The largest value that meets it.
    pub(crate) bound: f64,
    /// Whether reaching the bound itself is enough.
    pub(crate) is_inclusive: bool,
    /// Unit of both numbers; "x" is a ratio.
    pub(crate) unit: &'static str,
    /// The median that was measured, if it was.
    pub(crate) measured: Option<f64>,
}

impl Verdict {
    /// Tells whether it was reached.  What was not measured was not reached.
    pub(crate) fn is_met(&self) -> bool {
        self.measured.is_some_and(|measured| {
            measured < self.bound || (self.is_inclusive && measured <= self.bound)
        })
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let relation = if self.is_inclusive { "<=" } else { "<" };
        let verdict = match (self.measured, self.is_met()) {
            (None, _) => "NOT MEASURED".to_owned(),
            (Some(measured), true) => format!("met     {measured:.2} {}", self.unit),
            (Some(measured), false) => format!("MISSED  {measured:.2} {}", self.unit),
        };
        let bound = format!("{relation} {} {}", self.bound, self.unit);
        format!("{:<46} {bound:<10} {verdict}", self.subject)
    }
}

/// Judges the measurements.
pub(crate) fn judge(measures: &[Measure]) -> Vec<Verdict> {
    let median = |id: &str, system| find(measures, id)?.median(system);
    let ratio = |value: Option<f64>, to: Option<f64>| Some(value? / to?);
    let trine = |id: &str| median(id, System::Trine);
    let against = |id: &str, system| ratio(trine(id), median(id, system));
    let hello = |label: &str| {
        let value = find(measures, hello::ID)?.median_of(label);
        ratio(value, median(hello::ID, System::Runc))
    };
    // The shim is part of what a container costs there.
    let idle_ctr = find(measures, memory::ID).and_then(|it| it.median_of(memory::TRINE_CTR));
    let verdict = |kind, subject: &str, bound, unit, measured| Verdict {
        kind,
        subject: subject.to_owned(),
        bound,
        is_inclusive: true,
        unit,
        measured,
    };
    // "Faster than" is not reached by being as fast.
    let strictly = |verdict| Verdict { is_inclusive: false, ..verdict };
    let (must, aim) = (Kind::Must, Kind::Aim);
    let (bundle, rootfs) = (hello(hello::TRINE_BUNDLE), hello(hello::TRINE_ROOTFS));
    let (ctr, ctr_null) =
        (against(ctr::ID_OUTPUT, System::Runc), against(ctr::ID_NULL, System::Runc));
    let (fork, vfork) = (against(micro::FORK, System::Runsc), against(micro::VFORK, System::Runsc));
    vec![
        verdict(must, "VM creation to the first instruction", 5.0, "ms", trine(stages::ID_VM)),
        verdict(must, "trine run --bundle, hello, of runc run's time", 1.0, "x", bundle),
        verdict(must, "trine run ROOTFS, hello, of runc run's time", 1.0, "x", rootfs),
        verdict(must, "ctr run, hello, of runc's time", 1.0, "x", ctr),
        verdict(must, "ctr run --null-io, hello, of runc's time", 1.0, "x", ctr_null),
        verdict(must, "idle container, trine run", 5.0, "MiB", trine(memory::ID)),
        verdict(must, "idle container, ctr run, with its shim", 5.0, "MiB", idle_ctr),
        verdict(must, "guest kernel image", 1.5, "MiB", trine(size::ID)),
        strictly(verdict(must, "fork+exit, of runsc's time", 1.0, "x", fork)),
        strictly(verdict(must, "vfork+exec, of runsc's time", 1.0, "x", vfork)),
        verdict(
            must,
            "CPU-bound loop, of a plain process's time",
            1.03,
            "x",
            against(micro::CPU, System::Plain),
        ),
        verdict(aim, "trine run --bundle, hello, of runc run's time", 0.33, "x", bundle),
        verdict(aim, "trine run ROOTFS, hello, of runc run's time", 0.33, "x", rootfs),
        verdict(aim, "ctr run, hello, of runc's time", 0.6, "x", ctr),
        verdict(aim, "ctr run --null-io, hello, of runc's time", 0.6, "x", ctr_null),
        verdict(aim, "idle container, trine run", 2.0, "MiB", trine(memory::ID)),
        verdict(aim, "idle container, ctr run, with its shim", 2.0, "MiB", idle_ctr),
    ]
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

/// The musts that were not reached.
pub(crate) fn missed(verdicts: &[Verdict]) -> Vec<&Verdict> {
    verdicts.iter().filter(|one| one.kind == Kind::Must && !one.is_met()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        interleave::Outcome,
        results::{Row, Shape, Unit},
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
            measure(micro::FORK, &[(System::Runsc, "runsc", 5.0), (System::Trine, "trine", 5.0)]),
            measure(micro::CPU, &[(System::Plain, "plain", 100.0), (System::Trine, "t", 103.0)]),
        ];

        let verdicts = judge(&measures);

        assert_eq!(found(&verdicts, "trine run --bundle", Kind::Must), (Some(0.5), true));
        assert_eq!(found(&verdicts, "trine run --bundle", Kind::Aim), (Some(0.5), false));
        assert_eq!(found(&verdicts, "trine run ROOTFS", Kind::Aim), (Some(0.25), true));
        assert_eq!(found(&verdicts, "fork+exit", Kind::Must), (Some(1.0), false));
        assert_eq!(found(&verdicts, "CPU-bound", Kind::Must), (Some(1.03), true));
        assert_eq!(found(&verdicts, "guest kernel", Kind::Must), (None, false));
    }

    #[test]
    fn what_was_not_measured_is_missed_and_said() {
        let verdicts = judge(&[]);

        assert_eq!(missed(&verdicts).len(), 11);
        assert!(text(&verdicts).contains("NOT MEASURED"));
    }
}
