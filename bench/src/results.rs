// SPDX-License-Identifier: Apache-2.0
//! What was found out.

use serde::Serialize;

use crate::{facts::Facts, interleave::Outcome, stats::Summary, system::System, targets::Verdict};

/// Unit of the samples of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// 2^20 bytes.
    #[serde(rename = "MiB")]
    Mebibytes,
    /// A number of things.
    #[serde(rename = "count")]
    Count,
    /// A number of things per second.
    #[serde(rename = "1/s")]
    PerSecond,
    /// 2^20 bytes per second.
    #[serde(rename = "MiB/s")]
    MebibytesPerSecond,
    /// How many times something else.
    #[serde(rename = "x")]
    Times,
}

/// How rows relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// Each stands for itself, and can be compared with the others.
    Compared,
    /// Each begins where the one before it ends.
    Sequence,
}

/// One measurement of several systems.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measure {
    /// Name for machines.
    pub(crate) id: &'static str,
    /// Name for people.
    pub(crate) title: String,
    /// Exactly what was measured.
    pub(crate) method: String,
    /// Unit of the samples.
    pub(crate) unit: Unit,
    /// How rows relate.
    pub(crate) shape: Shape,
    /// One per system, or per way to run it.
    pub(crate) rows: Vec<Row>,
}

/// The samples of one system.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// Which.
    pub(crate) system: System,
    /// How it was run.
    pub(crate) label: String,
    /// What came of it.
    pub(crate) outcome: Outcome<f64>,
    /// The samples in short.
    pub(crate) summary: Option<Summary>,
}

/// All of it, as in results.json.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    /// The machine.
    pub(crate) facts: Facts,
    /// What was measured.
    pub(crate) measures: Vec<Measure>,
    /// Targets, met and missed.
    pub(crate) targets: Vec<Verdict>,
}

impl Unit {
    /// As in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Nanoseconds => "ns",
            Self::Mebibytes => "MiB",
            Self::Count => "count",
            Self::PerSecond => "1/s",
            Self::MebibytesPerSecond => "MiB/s",
            Self::Times => "x",
        }
    }
}

impl Row {
    /// Makes a row of what came of it.
    pub(crate) fn new(system: System, label: impl Into<String>, outcome: Outcome<f64>) -> Self {
        let summary = match &outcome {
            Outcome::Measured(samples) => Summary::of(samples),
            Outcome::Absent(_) | Outcome::Failed(_) => None,
        };
        Self { system, label: label.into(), outcome, summary }
    }

    /// The median, if there is one.
    pub(crate) fn median(&self) -> Option<f64> {
        self.summary.map(|summary| summary.median)
    }
}

/// Makes a row of each contender.
pub(crate) fn rows(results: Vec<(System, String, Outcome<f64>)>) -> Vec<Row> {
    results.into_iter().map(|(system, label, outcome)| Row::new(system, label, outcome)).collect()
}

impl Measure {
    /// What numbers are divided by to be readable, and the unit that they then have.
    pub(crate) fn scale(&self) -> (f64, &'static str) {
        let summaries = self.rows.iter().filter_map(|row| row.summary);
        let largest = summaries.map(|summary| summary.median).fold(0.0, f64::max);
        match self.unit {
            Unit::Nanoseconds if largest >= 1e6 => (1e6, "ms"),
            Unit::Nanoseconds if largest >= 1e3 => (1e3, "us"),
            unit => (1.0, unit.name()),
        }
    }

    /// The median of the first row of a system.
    pub(crate) fn median(&self, system: System) -> Option<f64> {
        self.rows.iter().find(|row| row.system == system)?.median()
    }
}

/// Finds a measurement by its id.
pub(crate) fn find<'a>(measures: &'a [Measure], id: &str) -> Option<&'a Measure> {
    measures.iter().find(|measure| measure.id == id)
}

impl Results {
    /// What failed although it was there, as `ROW: REASON`; once, if it spoilt several measurements.
    /// What Trine is compared with may fail: it is absent then, as if it were not installed.
    pub(crate) fn failures(&self) -> Vec<(System, String)> {
        let rows = self.measures.iter().flat_map(|measure| &measure.rows);
        let failure = |row: &Row| match &row.outcome {
            Outcome::Failed(reason) => Some((row.system, format!("{}: {reason}", row.label))),
            Outcome::Measured(_) | Outcome::Absent(_) => None,
        };
        let mut failures = vec![];
        for failure in rows.filter_map(failure) {
            if !failures.contains(&failure) {
                failures.push(failure);
            }
        }
        failures
    }
}
