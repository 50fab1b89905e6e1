// SPDX-License-Identifier: Apache-2.0
//! Repetitions in turns: what disturbs the machine for a while then disturbs every system alike.

use anyhow::Result;
use serde::Serialize;

use crate::{failure, system::System};

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Rounds that are thrown away.
    pub(crate) warmups: u32,
    /// Rounds that count.
    pub(crate) runs: u32,
}

/// What one system contributes to a measurement.
pub(crate) struct Contender<'a, T> {
    /// Which system.
    pub(crate) system: System,
    /// What the row is called.
    pub(crate) label: String,
    /// Takes one sample, or says why there is none.
    pub(crate) sample: Result<Sampler<'a, T>, String>,
}

/// Takes one sample.
pub(crate) type Sampler<'a, T> = Box<dyn FnMut() -> Result<T> + 'a>;

/// What became of a contender.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome<T> {
    /// The samples.
    Measured(Vec<T>),
    /// Not there, and why.
    Absent(String),
    /// It was there, and did not do what it should.
    Failed(String),
}

/// Lets the contenders take samples in turns, each round beginning with another one.  One that fails
/// drops out.
///
/// # Errors
/// If `is_interrupted` says so.
pub(crate) fn interleave<T>(
    contenders: Vec<Contender<'_, T>>,
    plan: Plan,
    is_interrupted: impl Fn() -> bool,
) -> Result<Vec<(System, String, Outcome<T>)>> {
    let mut racing: Vec<_> = contenders
        .into_iter()
        .map(|contender| {
            let (sampler, outcome) = match contender.sample {
                Ok(sampler) => (Some(sampler), Outcome::Measured(vec![])),
                Err(reason) => (None, Outcome::Absent(reason)),
            };
            (contender.system, contender.label, sampler, outcome)
        })
        .collect();
    let count = racing.len();
    for round in 0..plan.warmups + plan.runs {
        for turn in 0..count {
            let (_, label, sampler, outcome) = &mut racing[(turn + round as usize) % count];
            let Some(sample) = sampler else {
                continue;
            };
            let result = sample();
            if is_interrupted() {
                anyhow::bail!("interrupted");
            }
            match (result, &mut *outcome) {
                (Ok(sample), Outcome::Measured(samples)) if round >= plan.warmups => {
                    samples.push(sample);
                }
                (Ok(_), _) => {}
                (Err(error), _) => {
                    let reason = failure::one_line(&error);
                    eprintln!("bench: {label} failed: {reason}");
                    *outcome = Outcome::Failed(reason);
                    *sampler = None;
                }
            }
        }
    }
    Ok(racing.into_iter().map(|(system, label, _, outcome)| (system, label, outcome)).collect())
}

impl<T> Outcome<T> {
    /// Turns each sample into another.
    pub(crate) fn map<U>(&self, function: impl FnMut(&T) -> U) -> Outcome<U> {
        match self {
            Self::Measured(samples) => Outcome::Measured(samples.iter().map(function).collect()),
            Self::Absent(reason) => Outcome::Absent(reason.clone()),
            Self::Failed(reason) => Outcome::Failed(reason.clone()),
        }
    }
}

impl<T> Outcome<Vec<T>> {
    /// Joins samples that came several at a time.
    pub(crate) fn flatten(self) -> Outcome<T> {
        match self {
            Self::Measured(samples) => Outcome::Measured(samples.into_iter().flatten().collect()),
            Self::Absent(reason) => Outcome::Absent(reason),
            Self::Failed(reason) => Outcome::Failed(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn contender<'a>(
        system: System,
        sample: impl FnMut() -> Result<u32> + 'a,
    ) -> Contender<'a, u32> {
        Contender { system, label: system.to_string(), sample: Ok(Box::new(sample)) }
    }

    #[test]
    fn rounds_rotate_and_warmups_do_not_count() {
        let order = RefCell::new(String::new());
        let contenders = vec![
            contender(System::Runc, || {
                order.borrow_mut().push('a');
                Ok(1)
            }),
            contender(System::Trine, || {
                order.borrow_mut().push('b');
                Ok(2)
            }),
        ];

        let results = interleave(contenders, Plan { warmups: 1, runs: 2 }, || false)
            .expect("nothing interrupts");

        assert_eq!(*order.borrow(), "abbaab");
        assert_eq!(results[0].2, Outcome::Measured(vec![1, 1]));
        assert_eq!(results[1].2, Outcome::Measured(vec![2, 2]));
    }

    #[test]
    fn a_failure_drops_its_contender_only() {
        let calls = Cell::new(0);
        let contenders = vec![
            contender(System::Runc, || {
                calls.set(calls.get() + 1);
                anyhow::ensure!(calls.get() < 2, "broke");
                Ok(1)
            }),
            contender(System::Trine, || Ok(2)),
            Contender {
                system: System::Runsc,
                label: "runsc".to_owned(),
                sample: Err("not here".to_owned()),
            },
        ];

        let results = interleave(contenders, Plan { warmups: 0, runs: 4 }, || false)
            .expect("nothing interrupts");

        assert_eq!(calls.get(), 2);
        assert_eq!(results[0].2, Outcome::Failed("broke".to_owned()));
        assert_eq!(results[1].2, Outcome::Measured(vec![2; 4]));
        assert_eq!(results[2].2, Outcome::Absent("not here".to_owned()));
    }

    #[test]
    fn an_interrupt_ends_all() {
        let contenders = vec![contender(System::Runc, || Ok(1))];

        let result = interleave(contenders, Plan { warmups: 0, runs: 4 }, || true);

        assert!(result.is_err());
    }
}
