// SPDX-License-Identifier: Apache-2.0
//! Robust statistics: on a shared machine the mean says more about the neighbours than about us.

use serde::Serialize;

/// What a set of samples is like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many.
    pub(crate) count: usize,
    /// Smallest.
    pub(crate) min: f64,
    /// 10 % are below.
    pub(crate) p10: f64,
    /// Half are below.
    pub(crate) median: f64,
    /// 90 % are below.
    pub(crate) p90: f64,
    /// Largest.
    pub(crate) max: f64,
    /// Median distance from the median.
    pub(crate) mad: f64,
}

impl Summary {
    /// Summarizes samples, which must be finite; `None` if there are none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let median = quantile(&sorted, 0.5);
        let distances: Vec<f64> = sorted.iter().map(|sample| (sample - median).abs()).collect();
        Some(Self {
            count: sorted.len(),
            min,
            p10: quantile(&sorted, 0.1),
            median,
            p90: quantile(&sorted, 0.9),
            max,
            mad: self::median(&distances)?,
        })
    }
}

/// The median; `None` if there are no samples.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    (!samples.is_empty()).then(|| quantile(&sorted(samples), 0.5))
}

/// The median of the slopes of all pairs of points (Theil and Sen): up to 29 % of the points may be
/// wrong without moving it far.  `None` unless two points differ in x.
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let mut slopes = vec![];
    for (index, (x, y)) in points.iter().enumerate() {
        for (other_x, other_y) in &points[index + 1..] {
            if other_x != x {
                slopes.push((other_y - y) / (other_x - x));
            }
        }
    }
    median(&slopes)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The quantile of sorted samples, interpolated between the two nearest.
fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let position = fraction * (sorted.len() - 1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (position - position.floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_one_sample_is_that_sample() {
        let summary = Summary::of(&[7.0]).expect("there is a sample");

        assert_eq!((summary.count, summary.median, summary.mad), (1, 7.0, 0.0));
        assert_eq!((summary.min, summary.p10, summary.p90, summary.max), (7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn summary_of_unsorted_samples_orders_them() {
        let summary = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0, 100.0]).expect("there are samples");

        assert_eq!((summary.min, summary.max), (1.0, 100.0));
        assert_eq!(summary.median, 3.5);
        assert_eq!((summary.p10, summary.p90), (1.5, 52.5));
        assert_eq!(summary.mad, 1.5, "an outlier must not move it");
    }

    #[test]
    fn summary_of_nothing_is_none() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn slope_ignores_an_outlier() {
        let mut points: Vec<(f64, f64)> =
            (0..9).map(|x| (f64::from(x), 3.0 * f64::from(x) + 1.0)).collect();
        points[4].1 = 1e6;

        assert_eq!(slope(&points), Some(3.0));
    }

    #[test]
    fn slope_needs_two_different_abscissas() {
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(slope(&[(5.0, 20.0), (5.0, 20.0), (10.0, 10.0)]), Some(-2.0));
    }
}
