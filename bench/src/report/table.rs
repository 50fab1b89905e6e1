// SPDX-License-Identifier: Apache-2.0
//! Results as text.

use crate::{
    interleave::Outcome,
    results::{Measure, Row, Shape},
    system::System,
};

const LABEL_WIDTH: usize = 34;

/// The tables of all measurements.
pub(crate) fn text(measures: &[Measure]) -> String {
    measures.iter().map(|measure| format!("{}\n", of_measure(measure))).collect()
}

fn of_measure(measure: &Measure) -> String {
    let columns = ["median", "p10", "p90", "MAD", "n", "vs runc", "vs runsc"];
    let columns: Vec<&str> = match measure.shape {
        Shape::Compared => columns.to_vec(),
        Shape::Sequence => columns[..5].to_vec(),
    };
    let (divisor, unit) = measure.scale();
    let title = format!("{} [{unit}]", measure.title);
    let head: String = columns.iter().map(|column| format!("{column:>10}")).collect();
    let mut text = format!("{title}\n  {:LABEL_WIDTH$}{head}\n", "");
    for row in &measure.rows {
        text.push_str(&format!("  {:LABEL_WIDTH$}{}\n", row.label, cells(measure, row)));
    }
    if measure.shape == Shape::Sequence {
        let sum: f64 = measure.rows.iter().filter_map(Row::median).sum();
        let sum = number(sum / divisor);
        text.push_str(&format!("  {:LABEL_WIDTH$}{sum:>10}\n", "sum of medians"));
    }
    text
}

fn cells(measure: &Measure, row: &Row) -> String {
    let summary = match (&row.outcome, row.summary) {
        (Outcome::Absent(reason), _) => return format!("    absent: {reason}"),
        // The reason is said at the end of the run, and is in results.json.
        (Outcome::Failed(_), _) => return "    FAILED".to_owned(),
        (Outcome::Measured(_), None) => return "    no samples".to_owned(),
        (Outcome::Measured(_), Some(summary)) => summary,
    };
    let values = [summary.median, summary.p10, summary.p90, summary.mad];
    let (divisor, _) = measure.scale();
    let mut cells = values.map(|value| number(value / divisor)).to_vec();
    cells.push(summary.count.to_string());
    if measure.shape == Shape::Compared {
        for system in [System::Runc, System::Runsc] {
            let reference = measure.median(system);
            cells.push(ratio(summary.median, reference));
        }
    }
    cells.iter().map(|cell| format!("{cell:>10}")).collect()
}

/// How many times the reference, if there is one to compare with.
fn ratio(value: f64, reference: Option<f64>) -> String {
    match reference {
        Some(reference) if reference > 0.0 => {
            let ratio = value / reference;
            let decimals = if ratio < 0.1 { 3 } else { 2 };
            format!("{ratio:.decimals$}x")
        }
        _ => "-".to_owned(),
    }
}

/// A value with about three significant digits.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Unit;

    #[test]
    fn table_shows_medians_ratios_and_what_is_absent() {
        let measure = Measure {
            id: "x",
            title: "A thing".to_owned(),
            method: String::new(),
            unit: Unit::Milliseconds,
            shape: Shape::Compared,
            rows: vec![
                Row::new(System::Runc, "runc run", Outcome::Measured(vec![10.0, 20.0, 30.0])),
                Row::new(System::Runsc, "runsc run", Outcome::Absent("no network".to_owned())),
                Row::new(System::Trine, "trine run", Outcome::Measured(vec![5.0])),
            ],
        };

        let text = text(&[measure]);

        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["A", "thing", "[ms]"]);
        assert_eq!(lines[2][2..], ["20.00", "12.00", "28.00", "10.00", "3", "1.00x", "-"]);
        assert_eq!(lines[3][2..], ["absent:", "no", "network"]);
        assert_eq!(lines[4][2..], ["5.00", "5.00", "5.00", "0.000", "1", "0.25x", "-"]);
    }

    #[test]
    fn sequence_ends_with_its_sum() {
        let rows = [1.0, 2.5].map(|value| {
            Row::new(System::Trine, format!("stage {value}"), Outcome::Measured(vec![value]))
        });
        let measure = Measure {
            id: "x",
            title: "Stages".to_owned(),
            method: String::new(),
            unit: Unit::Milliseconds,
            shape: Shape::Sequence,
            rows: rows.to_vec(),
        };

        let text = text(&[measure]);

        assert!(text.lines().any(|line| line.contains("sum of medians") && line.ends_with("3.50")));
        assert!(!text.contains("vs runc"));
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.1234, 1.234, 123.45, 12345.6].map(number);

        assert_eq!(shown, ["0.123", "1.23", "123.5", "12346"]);
    }
}
