// SPDX-License-Identifier: Apache-2.0
//! Linear axes that begin at zero and have round numbers.

/// An axis from 0 to `end`, in steps of `step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    /// Distance between two marks.
    pub(crate) step: f64,
    /// Last mark.
    pub(crate) end: f64,
    /// Digits after the point that marks need.
    decimals: usize,
}

impl Axis {
    /// An axis that reaches at least to `most`, with three to six marks beside 0.
    pub(crate) fn to(most: f64) -> Self {
        const MARKS_MAX: f64 = 6.0;
        let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        let power = (most / MARKS_MAX).log10().floor();
        let unit = 10_f64.powf(power);
        let fits = |step: &f64| most / step <= MARKS_MAX;
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * unit);
        let step = steps.into_iter().find(fits).unwrap_or(10.0 * unit);
        // A little slack, as a quotient may be a hair above a whole number.
        let end = (most / step - 1e-9).ceil() * step;
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        Self { step, end, decimals }
    }

    /// The marks and their labels.
    pub(crate) fn marks(&self) -> Vec<(f64, String)> {
        let count = (self.end / self.step).round() as u32;
        let label = |value: f64| format!("{value:.decimals$}", decimals = self.decimals);
        (0..=count).map(|mark| f64::from(mark) * self.step).map(|v| (v, label(v))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_on_round_numbers() {
        for (most, step, end) in
            [(104.0, 20.0, 120.0), (6.0, 1.0, 6.0), (0.37, 0.1, 0.4), (1163.0, 200.0, 1200.0)]
        {
            let axis = Axis::to(most);
            assert!((axis.step - step).abs() < 1e-9 && (axis.end - end).abs() < 1e-9, "{axis:?}");
        }
    }

    #[test]
    fn marks_are_few_and_labelled_without_noise() {
        let labels = |most| -> Vec<String> {
            Axis::to(most).marks().into_iter().map(|(_, label)| label).collect()
        };

        assert_eq!(labels(0.29), ["0.00", "0.05", "0.10", "0.15", "0.20", "0.25", "0.30"]);
        assert_eq!(labels(104.0), ["0", "20", "40", "60", "80", "100", "120"]);
        assert_eq!(labels(f64::NAN), labels(0.0));
        for exponent in -6..9 {
            for digit in 1..100 {
                let most = f64::from(digit) * 10_f64.powi(exponent);
                let axis = Axis::to(most);
                let marks = axis.marks().len();
                assert!(
                    (3..=7).contains(&marks) && axis.end >= most * 0.999_999,
                    "{most} {axis:?}"
                );
            }
        }
    }
}
